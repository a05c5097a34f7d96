"""mIoU of class maps over a range of background scores: the curve that papers pick a threshold on.

A pixel of a CAM file gets the class of its highest map where that is above the threshold, else it
is background; a tie is background, and of equal maps the smaller class counts. So the highest map
and its value decide the label at every threshold, and one histogram over (true class, class of the
highest map, value) holds the confusion matrices of them all: each photo is read once, and the
numbers are those of scoring its label map at each threshold anew.

Scores are those of `core.metrics.scores` (FP and FN over the union, averaged as the IoU is, so that
mIoU + FP + FN = 1, as in BAO's logs). Precision (hits over what is painted) and recall (hits over
what is true) are means over the classes that have any painted or any true pixel.
"""

from __future__ import annotations

import os
import pathlib

import numpy as np

from wsssjax.core import metrics, threads
from wsssjax.core.config import choose
from wsssjax.core.constants import BACKGROUND, IGNORE
from wsssjax.data import cam_file, label_map

THRESHOLDS = "0:1:0.01"
MAX_THRESHOLDS = 10_001
CURVES = ("miou", "fp", "fn", "precision", "recall")


def parse_thresholds(text: str) -> np.ndarray:
    """float64 [t], rising: "FIRST:LAST:STEP", both ends included."""
    try:
        low, high, step = (float(word) for word in text.split(":"))
        fits = 0 <= low <= high <= 1 and 0 < step <= 1
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"--thresholds={text}: want FIRST:LAST:STEP within 0..1, such as "
                         f"{THRESHOLDS}")
    # A little is added because (0.7 - 0.1) / 0.2 is 2.9999999999999996.
    count = int((high - low) / step + 1e-6) + 1 if (high - low) / step < MAX_THRESHOLDS else None
    if count is None:
        raise ValueError(f"--thresholds={text}: more than {MAX_THRESHOLDS} thresholds; take a "
                         "larger step")
    return np.round(low + step * np.arange(count), 10)


# ---- when a paper's script stops -----------------------------------------------------------------


def _full(miou_t):
    return len(miou_t)


def _first_decrease(miou_t):
    return _ended(miou_t[1:] < miou_t[:-1])


def _first_non_increase(miou_t):
    return _ended(miou_t[1:] <= miou_t[:-1])


def _ended(stops):
    """How many thresholds are tried when `stops` says which one but the first ends it."""
    return int(np.argmax(stops)) + 2 if stops.any() else len(stops) + 1


# Rule → number of thresholds that are tried. Scripts of the SEAM and TransCAM line try all; some
# stop at the first decrease; BAO's stops where mIoU does not rise, which takes a local maximum.
STOPS = {"full": _full, "first_decrease": _first_decrease,
         "first_non_increase": _first_non_increase}


# ---- counting ------------------------------------------------------------------------------------


def count_values(classes_m: np.ndarray, maps_mhw: np.ndarray, truth_hw: np.ndarray,
                 thresholds_t: np.ndarray, num_classes: int) -> np.ndarray:
    """Pixels of one photo, int64 [k,m,t+1]: true class, highest map, thresholds below its value.

    classes_m: uint8, from 1, rising.  maps_mhw: float32 at the photo's size, m >= 1.
    truth_hw: uint8; IGNORE pixels do not count.
    """
    assert len(classes_m) == len(maps_mhw) > 0 and maps_mhw.shape[1:] == truth_hw.shape
    known_hw = truth_hw != IGNORE
    winner_n = maps_mhw.argmax(0)[known_hw]
    # In float32, as maps are compared with a threshold everywhere else.
    below_n = np.searchsorted(np.float32(thresholds_t), maps_mhw.max(0)[known_hw], side="left")
    shape = (num_classes, len(classes_m), len(thresholds_t) + 1)
    flat_n = np.ravel_multi_index((truth_hw[known_hw], winner_n, below_n), shape)
    return np.bincount(flat_n, minlength=np.prod(shape)).reshape(shape)


def folder_counts(cams: str | os.PathLike, truth: str | os.PathLike, ids: list[str],
                  thresholds_t: np.ndarray, num_classes: int, label: str = "") -> np.ndarray:
    """The same summed over photos, int64 [k,k,t+1]; what no map covers counts as class 0.

    cams: folder of CAM files.  truth: folder of label maps.  label: of the progress line; "" shows
    none.
    """
    def count(name):
        path = pathlib.Path(cams) / f"{name}.npz"
        truth_hw = label_map.read(pathlib.Path(truth) / f"{name}.png", num_classes)
        classes_m, maps_mhw = cam_file.read_full(path, truth_hw.shape)
        if BACKGROUND in classes_m:
            raise ValueError(f"{path}: scores the background itself (class 0), so no threshold "
                             "decides; score its label maps with --labels")
        if len(classes_m) and classes_m[-1] >= num_classes:
            raise ValueError(f"{path}: a map of class {classes_m[-1]}; want 1..{num_classes - 1} "
                             "(is --classes right?)")
        if not len(classes_m):  # no map is above any threshold
            classes_m, maps_mhw = np.uint8([BACKGROUND]), np.full((1, *truth_hw.shape), -1.0)
        counts = count_values(classes_m, maps_mhw, truth_hw, thresholds_t, num_classes)
        return classes_m, counts

    total = np.zeros((num_classes, num_classes, len(thresholds_t) + 1), np.int64)
    for classes_m, counts in threads.each(count, ids, label):
        total[:, classes_m] += counts
    return total


def confusions(counts_kkt: np.ndarray) -> np.ndarray:
    """The confusion matrix at each threshold, int64 [t,k,k+1], as `core.metrics.confusion` counts.

    counts_kkt: see `folder_counts`.
    """
    k, _, bins = counts_kkt.shape
    # Above threshold i are the values that more than i thresholds are below.
    above_kkt = np.cumsum(counts_kkt[..., ::-1], axis=2)[..., ::-1][..., 1:]
    out = np.zeros((bins - 1, k, k + 1), np.int64)
    out[:, :, :k] = np.moveaxis(above_kkt, 2, 0)
    out[:, :, BACKGROUND] = counts_kkt.sum((1, 2)) - out[:, :, BACKGROUND + 1:].sum(2)
    return out


# ---- scores --------------------------------------------------------------------------------------


def scores(counts_kkt: np.ndarray, thresholds_t: np.ndarray, class_names, *, stop: str = "full",
           absent: str = "skip") -> dict:
    """Curves and the best threshold of a set.

    {"thresholds", "miou", "fp", "fn", "precision", "recall": one value a threshold, whatever `stop`
    says; "best": {"threshold", and all of `core.metrics.scores` there}, the first of the highest
    mIoU among those that the rule `stop` tries; "stop"; "tried": how many that are}.
    counts_kkt: see `folder_counts`.  absent: see `core.metrics.scores`.
    """
    rule = choose(STOPS, stop, "--stop")
    found = [metrics.scores(counts, class_names, absent) for counts in confusions(counts_kkt)]
    rows = [{**{name: one[name] for name in ("miou", "fp", "fn")},
             **{name: float(np.mean(list(one[name].values()))) if one[name] else 0.0
                for name in ("precision", "recall")}} for one in found]
    miou_t = np.array([row["miou"] for row in rows])
    tried = rule(miou_t)
    best = int(np.argmax(miou_t[:tried]))
    return {
        "thresholds": [float(t) for t in thresholds_t],
        **{name: [row[name] for row in rows] for name in CURVES},
        "best": {"threshold": float(thresholds_t[best]), **found[best]},
        "stop": stop,
        "tried": tried,
    }


def scored_ids(cams: str | os.PathLike, truth: str | os.PathLike,
               ids: list[str] | None = None) -> list[str]:
    """The ids to score: those given, else all CAM files of `cams`; each must have a truth."""
    if not pathlib.Path(cams).is_dir():
        raise FileNotFoundError(f"{cams}: no such folder of CAM files")
    there = sorted(p.stem for p in pathlib.Path(cams).glob("*.npz") if not p.name.startswith("."))
    if not there:
        raise ValueError(f"{cams}: holds no CAM file; want <id>.npz, which python -m wsssjax.cam "
                         "--save=cams writes")
    names = there if ids is None else ids
    for folder, what, have in ((cams, "CAM file", set(there)),
                               (truth, "label map", set(label_map.folder_ids(truth)))):
        missing = [name for name in names if name not in have]
        if missing:
            raise ValueError(f"{folder}: holds no {what} of {missing[0]!r} ({len(missing)} of "
                             f"{len(names)} ids missing); make them, or pass --ids=LIST")
    return names
