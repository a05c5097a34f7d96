"""Random draws beside a selection: would other labels have done as well?

matched  as many labels with the same classes (arm M): what is left is the score's doing.
quota    Algorithm 1 on a random order, the same quota (arm Q): classes balanced, labels unranked.
uniform  as many labels, any of them (arm U).
"""

from __future__ import annotations

import pathlib
from typing import NamedTuple

import numpy as np

from wsssjax.core import files
from wsssjax.core.config import choose
from wsssjax.select import greedy, store


class Draw(NamedTuple):
    """partner: int64 [s], the image drawn for each selected one (position), or -1 where none is
    left.  distance: int64 [s], classes by which the two differ; 0 = same set; -1 without partner.
    """

    partner: np.ndarray
    distance: np.ndarray


def matched_random(classes_nk, selected_n, seed: int) -> Draw:
    """For each selected image a random other one whose label holds the same set of classes.

    classes_nk: bool, classes of each image's label, images in a fixed order (by id).
    selected_n: bool.  Partners come from all images, selected or not, each at most once and none
    its own: what differs between the two arms is Algorithm 1 alone, and a draw from the images
    that it turned down would be worse than random. An image whose set no other one has gets one of
    those left whose sets differ in the fewest classes.
    """
    classes_nk, selected_n = np.asarray(classes_nk, bool), np.asarray(selected_n, bool)
    rng = np.random.default_rng(seed)
    chosen = np.flatnonzero(selected_n)
    partner_s = np.full(len(chosen), -1, np.int64)
    distance_s = np.full(len(chosen), -1, np.int64)
    _, group_n = np.unique(classes_nk, axis=0, return_inverse=True)
    group_n = group_n.reshape(-1)
    for group in np.unique(group_n[chosen]):
        members, mine_s = np.flatnonzero(group_n == group), group_n[chosen] == group
        if len(members) > 1:
            drawn = rng.permutation(members)[: mine_s.sum()]
            while (drawn == chosen[mine_s]).any():  # on average not three times
                drawn = rng.permutation(members)[: mine_s.sum()]
            partner_s[mine_s], distance_s[mine_s] = drawn, 0
    # A random order, then always the first that fits, is a draw without replacement.
    left = [int(i) for i in rng.permutation(len(selected_n)) if i not in partner_s]
    for s in rng.permutation(np.flatnonzero(partner_s < 0)):
        apart = (classes_nk[left] != classes_nk[chosen[s]]).sum(1)
        apart = np.where(np.array(left) == chosen[s], classes_nk.shape[1] + 1, apart)
        if not len(left) or apart.min() > classes_nk.shape[1]:
            continue
        nearest = int(apart.argmin())
        distance_s[s] = apart[nearest]
        partner_s[s] = left.pop(nearest)
    return Draw(partner_s, distance_s)


def _matched(table: dict, classes_nk, seed: int, summary: dict) -> tuple[np.ndarray, dict]:
    found = matched_random(classes_nk, table["selected"], seed)
    drawn_n = np.zeros(len(classes_nk), bool)
    drawn_n[found.partner[found.partner >= 0]] = True
    return drawn_n, {"same_classes": int((found.distance == 0).sum()),
                     "nearest_classes": int((found.distance > 0).sum()),
                     "no_partner": int((found.distance < 0).sum())}


def _quota(table: dict, classes_nk, seed: int, summary: dict) -> tuple[np.ndarray, dict]:
    quota = summary["quota"]
    if quota is None:
        raise ValueError("a selection without a quota has no draw that fills it; want --quota")
    names = class_names(table)
    score_n = np.random.default_rng(seed).permutation(len(classes_nk)).astype(np.float64)
    found = greedy.select(score_n, greedy.pack(classes_nk), [quota[name] for name in names])
    return found.selected, {}


def _uniform(table: dict, classes_nk, seed: int, summary: dict) -> tuple[np.ndarray, dict]:
    count = int(np.count_nonzero(table["selected"]))
    drawn_n = np.zeros(len(classes_nk), bool)
    drawn_n[np.random.default_rng(seed).permutation(len(classes_nk))[:count]] = True
    return drawn_n, {}


DRAWS = {"matched": _matched, "quota": _quota, "uniform": _uniform}


def class_names(table: dict) -> list[str]:
    """Names of the classes that any image's label holds, sorted."""
    return sorted({name for image in table["classes"] for name in image})


def run(*, selection: str, out: str, seed: int, kind: str = "matched") -> dict:
    """Writes a random draw beside a selection as `labeled.txt`, `unlabeled.txt` and
    `summary.json`, and returns the summary.

    selection: folder that `wsssjax.select` wrote.  out: folder for the same files of the draw.
    kind: of DRAWS.
    """
    drawer = choose(DRAWS, kind, "kind of draw")
    table = store.read_table(selection)
    lines = store.read_lines(selection)
    names = class_names(table)
    classes_nk = np.array([[n in image for n in names] for image in table["classes"]], bool)
    # reshape: without any class there is still one row per image.
    classes_nk = classes_nk.reshape(len(table["id"]), len(names))
    keep_n, told = drawer(table, classes_nk, seed,
                          files.read_json(pathlib.Path(selection) / store.SUMMARY))
    drawn = {name for name, keep in zip(table["id"], keep_n, strict=True) if keep}
    store.write_lists(out, lines, drawn)
    iou_n = np.array(table["iou"], np.float64)
    summary = {
        "images": len(table["id"]),
        "selected": len(drawn),
        "seed": seed,
        **told,
        "counts": {n: int(c) for n, c in zip(names, classes_nk[keep_n].sum(0), strict=True)},
        "mean_iou": store.mean_ious(iou_n, keep_n),
    }
    files.write_json(pathlib.Path(out) / "summary.json", summary)
    return summary
