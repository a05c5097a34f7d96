"""Control arm M, "matched random": would other labels of the same classes have done as well?"""

from __future__ import annotations

import pathlib
from typing import NamedTuple

import numpy as np

from wsssjax.core import files
from wsssjax.select import store


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
    that it turned down would be worse than random. Where no image with exactly that set is left,
    the partner is drawn from those left whose sets differ in the fewest classes; exact partners
    are dealt out first, so that no such draw takes one away.
    """
    classes_nk, selected_n = np.asarray(classes_nk, bool), np.asarray(selected_n, bool)
    rng = np.random.default_rng(seed)
    # A random order, then always the first that fits, is a draw without replacement.
    left = [int(i) for i in rng.permutation(len(selected_n))]
    chosen = np.flatnonzero(selected_n)
    partner_s = np.full(len(chosen), -1, np.int64)
    distance_s = np.full(len(chosen), -1, np.int64)
    for exact in (True, False):
        for s in rng.permutation(np.flatnonzero(partner_s < 0)):
            apart = (classes_nk[left] != classes_nk[chosen[s]]).sum(1)
            apart = np.where(np.array(left) == chosen[s], classes_nk.shape[1] + 1, apart)
            nearest = int(apart.argmin())
            if apart[nearest] > (0 if exact else classes_nk.shape[1]):
                continue
            distance_s[s] = apart[nearest]
            partner_s[s] = left.pop(nearest)
    return Draw(partner_s, distance_s)


def run(*, selection: str, out: str, seed: int) -> dict:
    """Writes the matched random draw of a selection as `labeled.txt`, `unlabeled.txt` and
    `summary.json`, and returns the summary.

    selection: folder that `wsssjax.select` wrote.  out: folder for the same files of arm M.
    """
    table = store.read_table(selection)
    lines = store.read_lines(selection)
    names = sorted({name for image in table["classes"] for name in image})
    classes_nk = np.array([[n in image for n in names] for image in table["classes"]], bool)
    # reshape: without any class there is still one row per image.
    draw = matched_random(classes_nk.reshape(len(table["id"]), len(names)), table["selected"], seed)
    drawn = {table["id"][i] for i in draw.partner if i >= 0}
    store.write_lists(out, lines, drawn)
    iou_n = np.array(table["iou"], np.float64)
    keep_n = np.array([i in drawn for i in table["id"]], bool)
    summary = {
        "images": len(table["id"]),
        "selected": len(drawn),
        "seed": seed,
        "same_classes": int((draw.distance == 0).sum()),
        "nearest_classes": int((draw.distance > 0).sum()),
        "no_partner": int((draw.distance < 0).sum()),
        "counts": {n: int(c) for n, c in zip(names, classes_nk[keep_n].sum(0), strict=True)},
        "mean_iou": store.mean_ious(iou_n, keep_n),
    }
    files.write_json(pathlib.Path(out) / "summary.json", summary)
    return summary
