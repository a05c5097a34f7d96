"""Label maps merged with class-agnostic masks (SAM's, or any others): SEPL, arXiv 2305.05803."""

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


def overlaps(label_hw: np.ndarray, masks_mhw: np.ndarray) -> Overlaps:
    """All overlaps of masks and classes from one matrix product.

    label_hw: uint8, IGNORE counts as no class.  masks_mhw: bool.
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


def passes(shared: np.ndarray, mask_area: np.ndarray, class_area, flood: bool) -> np.ndarray:
    """Whether masks belong to a class: more than half of the mask is the class or, with `flood`,
    the mask holds at least 85 % of the class. In integers: exactly half fails, exactly 85 % passes.
    """
    mostly = 2 * shared > mask_area
    return mostly | (20 * shared >= 17 * class_area) if flood else mostly


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
    """
    how = check(rule, coverage)
    keep = how.keep if keep_uncovered is None else keep_uncovered
    assert masks_mhw.shape[1:] == label_hw.shape, (masks_mhw.shape, label_hw.shape)
    if area_cap is not None:
        small_m = np.count_nonzero(masks_mhw, axis=(1, 2)) <= area_cap * label_hw.size
        masks_mhw = masks_mhw[small_m]
    classes, shared_mk, mask_m, class_k = overlaps(label_hw, masks_mhw)
    free_m = np.ones(len(masks_mhw), bool)
    covered_hw = masks_mhw.any(0) if coverage == "all" else None
    merged_hw = np.full(label_hw.shape, BACKGROUND, np.uint8)
    for k, class_id in enumerate(classes):
        chosen_m = free_m & passes(shared_mk[:, k], mask_m, class_k[k], how.flood)
        if how.argmax:  # the first maximum: ties go to the smaller class
            chosen_m &= (shared_mk.argmax(1) == k) & (shared_mk[:, k] > 0)
        paint_hw = masks_mhw[chosen_m].any(0)
        if keep:
            free_hw = masks_mhw[free_m].any(0) if covered_hw is None else covered_hw
            paint_hw |= (label_hw == class_id) & ~free_hw
        free_m &= ~chosen_m
        merged_hw[paint_hw] = class_id
    return merged_hw
