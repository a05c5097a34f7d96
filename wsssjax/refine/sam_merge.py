"""Label maps merged with class-agnostic masks (SAM's, or any others): SEPL, arXiv 2305.05803.

Three steps, all on arrays: how many pixels each mask shares with each class (`overlaps`), which
class takes which mask (`claim`, on that table alone), and the new label map (`paint`). Here masks
are dense arrays; `merge_runs.py` does the first and the last step on run lengths.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from wsssjax.core.config import choose
from wsssjax.core.constants import BACKGROUND, IGNORE

COVERAGE = ("sequential", "all")


class Rule(NamedTuple):
    """flood: also take masks that hold 85 % of the class.  keep: labels outside all free masks
    stay.  argmax: a mask is up for one class only, the one that fills most of it."""

    flood: bool
    keep: bool
    argmax: bool = False


RULES = {
    "max_iou": Rule(flood=False, keep=False),
    "max_iou_imp": Rule(flood=False, keep=True),
    "max_iou_imp2": Rule(flood=True, keep=True),
    "argmax": Rule(flood=True, keep=True, argmax=True),
}


def check_cap(area_cap: float | None) -> None:
    """ValueError unless it is a fraction of the image or None."""
    if area_cap is not None and not 0 < area_cap <= 1:
        raise ValueError(f"--area_cap={area_cap}: want a fraction of the image, above 0, at most 1")


def check(rule: str, coverage: str) -> Rule:
    """The rule of that name; ValueError for a name that is none, of rule or coverage."""
    choose(dict.fromkeys(COVERAGE), coverage, "--coverage")
    return choose(RULES, rule, "--merge")


class Overlaps(NamedTuple):
    """classes: present foreground classes, rising [k].  shared_mk: int64, pixels of mask m with
    class k.  mask_m, class_k: int64 areas."""

    classes: np.ndarray
    shared_mk: np.ndarray
    mask_m: np.ndarray
    class_k: np.ndarray


class Claims(NamedTuple):
    """class_m: uint8, the class that takes mask m, BACKGROUND where none does.  mostly_m, holds_m:
    bool, which of the two tests the mask passed for that class.  there_m: bool, false for masks
    over the area cap."""

    class_m: np.ndarray
    mostly_m: np.ndarray
    holds_m: np.ndarray
    there_m: np.ndarray


def overlaps(label_hw: np.ndarray, masks_mhw: np.ndarray) -> Overlaps:
    """All overlaps of masks and classes from one matrix product.

    label_hw: uint8, IGNORE counts as no class.  masks_mhw: bool.

    >>> label_hw = np.array([[1, 1, 0], [2, 255, 0]], np.uint8)
    >>> found = overlaps(label_hw, np.ones((1, 2, 3), bool))
    >>> found.classes.tolist(), found.shared_mk.tolist(), found.mask_m.tolist()
    ([1, 2], [[2, 1]], [6])
    """
    wanted_hw = (label_hw != BACKGROUND) & (label_hw != IGNORE)
    label_n = label_hw[wanted_hw]
    classes, class_k = np.unique(label_n, return_counts=True)
    onehot_nk = label_n[:, None] == classes
    # Only labelled pixels can overlap a class. float32 counts exactly up to 2^24 of them.
    dtype = np.float32 if label_n.size < 2**24 else np.float64
    masks_mn = masks_mhw[:, wanted_hw].astype(dtype)
    shared_mk = (masks_mn @ onehot_nk.astype(dtype)).astype(np.int64)
    mask_m = np.count_nonzero(masks_mhw, axis=(1, 2)).astype(np.int64)
    return Overlaps(classes, shared_mk, mask_m, class_k.astype(np.int64))


def mostly(shared: np.ndarray, mask_area: np.ndarray) -> np.ndarray:
    """Whether more than half of a mask is the class; exactly half is not.

    >>> mostly(np.array([20, 21]), np.array([40, 40])).tolist()
    [False, True]
    """
    return 2 * shared > mask_area


def holds(shared: np.ndarray, class_area: int) -> np.ndarray:
    """Whether a mask holds at least 85 % of the class, in integers: exactly 85 % does.

    >>> holds(np.array([16, 17]), 20).tolist()
    [False, True]
    """
    return 20 * shared >= 17 * class_area


def claim(found: Overlaps, how: Rule, there_m: np.ndarray | None = None) -> Claims:
    """Which class takes which mask: the first, in rising order, whose test the mask passes.

    there_m: bool, masks that take part; None: all.

    >>> found = Overlaps(np.array([1, 3]), np.array([[1, 7], [0, 2]]), np.array([9, 4]),
    ...                  np.array([1, 7]))
    >>> claim(found, RULES["max_iou_imp2"]).class_m.tolist()  # class 1 is a single pixel
    [1, 0]
    >>> claim(found, RULES["argmax"]).class_m.tolist()
    [3, 0]
    """
    count = len(found.mask_m)
    there_m = np.ones(count, bool) if there_m is None else there_m
    claims = Claims(np.full(count, BACKGROUND, np.uint8), np.zeros(count, bool),
                    np.zeros(count, bool), there_m)
    free_m = there_m.copy()
    for k, class_id in enumerate(found.classes):
        shared_m = found.shared_mk[:, k]
        mostly_m = mostly(shared_m, found.mask_m)
        holds_m = holds(shared_m, found.class_k[k]) & how.flood
        chosen_m = free_m & (mostly_m | holds_m)
        if how.argmax:  # the first maximum: ties go to the smaller class
            chosen_m &= (found.shared_mk.argmax(1) == k) & (shared_m > 0)
        claims.class_m[chosen_m] = class_id
        claims.mostly_m[chosen_m] = mostly_m[chosen_m]
        claims.holds_m[chosen_m] = holds_m[chosen_m]
        free_m &= ~chosen_m
    return claims


def under_cap(mask_m: np.ndarray, area_cap: float | None, pixels: int) -> np.ndarray | None:
    """bool [m], masks of at most that fraction of the image; None without a cap.

    >>> under_cap(np.array([5, 6]), 0.5, 10).tolist()
    [True, False]
    """
    check_cap(area_cap)
    return None if area_cap is None else mask_m <= area_cap * pixels


def paint(label_hw: np.ndarray, masks_mhw: np.ndarray, classes: np.ndarray, claims: Claims, *,
          coverage: str, keep: bool) -> np.ndarray:
    """The merged label map uint8 [h, w] once every mask has its class, see `merge`.

    classes: those present in `label_hw`, rising.
    """
    free_m = claims.there_m.copy()
    covered_hw = masks_mhw[free_m].any(0) if coverage == "all" else None
    merged_hw = np.full(label_hw.shape, BACKGROUND, np.uint8)
    for class_id in classes:
        chosen_m = claims.class_m == class_id
        paint_hw = masks_mhw[chosen_m].any(0)
        if keep:
            free_hw = masks_mhw[free_m].any(0) if covered_hw is None else covered_hw
            paint_hw |= (label_hw == class_id) & ~free_hw
        free_m &= ~chosen_m
        merged_hw[paint_hw] = class_id
    return merged_hw


def merge(label_hw: np.ndarray, masks_mhw: np.ndarray, rule: str = "max_iou_imp2", *,
          coverage: str = "sequential", keep_uncovered: bool | None = None,
          area_cap: float | None = None) -> np.ndarray:
    """The merged label map, uint8 [h, w], classes only: IGNORE becomes a class or background.

    label_hw: uint8 [h, w].  masks_mhw: bool, may overlap, nest, be empty or none at all.
    coverage: under which masks a label is wiped unless it is painted again: "sequential": those
    that no smaller class has claimed; "all": every mask.  keep_uncovered: whether labels outside
    that coverage stay; None: as the rule says.  area_cap: masks over this fraction of the image
    are treated as not there; None: no cap, as published (a mask of the whole image then floods it
    with any class of which it holds 85 %).

    Classes are dealt with in rising order. A mask goes to the first class whose test it passes and
    the larger class is painted over the smaller one; background never gets a mask.

    >>> label_hw = np.array([[1, 1, 0, 0], [0, 0, 0, 2]], np.uint8)
    >>> mask_hw = np.array([[1, 1, 1, 0], [0, 0, 0, 0]], bool)
    >>> merge(label_hw, mask_hw[None]).tolist()
    [[1, 1, 1, 0], [0, 0, 0, 2]]
    """
    how = check(rule, coverage)
    assert masks_mhw.shape[1:] == label_hw.shape, (masks_mhw.shape, label_hw.shape)
    found = overlaps(label_hw, masks_mhw)
    claims = claim(found, how, under_cap(found.mask_m, area_cap, label_hw.size))
    return paint(label_hw, masks_mhw, found.classes, claims, coverage=coverage,
                 keep=how.keep if keep_uncovered is None else keep_uncovered)
