"""Algorithm 1: the labels on which two methods agree best, until every class has its quota."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

QUOTA, ABOVE = "quota", "min_iou"                   # reasons to take an image
FULL, BELOW, EMPTY, NO_CLASS = "full", "below", "empty", "no_class"  # and to leave one


class Selection(NamedTuple):
    """selected: bool [n].  rank: int64 [n], 1 = best agreement.  reason: n words, see `select`.
    taken: int64 [k], the algorithm's own count, which stops at the quota.
    counts: int64 [k], images of each class among the selected.  unmet: int64 [k], still missing."""

    selected: np.ndarray
    rank: np.ndarray
    reason: list[str]
    taken: np.ndarray
    counts: np.ndarray
    unmet: np.ndarray


def order(ids, iou_n) -> np.ndarray:
    """Positions by falling IoU, ties by rising id, int64 [n]; the order of the input is no matter.
    """
    return np.array(sorted(range(len(ids)), key=lambda i: (-iou_n[i], ids[i])), np.int64)


def select(ids, iou_n, classes_nk, quota_k=None, min_iou: float | None = None,
           empty_n=None) -> Selection:
    """The selected images and, for each image, why it was taken or left.

    ids: n names, none twice.  iou_n: float64, 0..1.  classes_nk: bool, foreground classes that each
    image contains.  quota_k: images wanted of each class; None takes every image that `min_iou`
    admits.  min_iou: only images with IoU > min_iou (the paper's "IoU > 90 %" is strict); None
    admits all.  empty_n: bool, pairs of two empty maps, which are never taken.

    An image is taken if one of its classes is still short; a class that is full may grow further
    through such images. A quota that cannot be met is no error: all there is of it is taken.
    Reasons: "quota" and "min_iou" (taken: fills a class; no quota and agrees well enough), "full"
    (no class of it was short), "below" (IoU too low), "empty" (both maps), "no_class" (no
    foreground class in it).
    """
    iou_n, classes_nk = np.asarray(iou_n, np.float64), np.asarray(classes_nk, bool)
    count, num_classes = classes_nk.shape
    assert len(ids) == len(iou_n) == count, (len(ids), iou_n.shape, classes_nk.shape)
    empty_n = np.zeros(count, bool) if empty_n is None else np.asarray(empty_n, bool)
    need_k = np.zeros(num_classes, np.int64) if quota_k is None else np.asarray(quota_k, np.int64)
    taken_k = np.zeros(num_classes, np.int64)
    reason = [""] * count
    rank_n = np.zeros(count, np.int64)
    for position, i in enumerate(order(ids, iou_n)):
        rank_n[i] = position + 1
        # The paper stops once all classes are full; from there on nothing is short, so going on
        # only fills in the reasons.
        short_k = classes_nk[i] & (taken_k < need_k)
        if empty_n[i]:
            reason[i] = EMPTY
        elif not classes_nk[i].any():
            reason[i] = NO_CLASS
        elif min_iou is not None and not iou_n[i] > min_iou:
            reason[i] = BELOW
        elif quota_k is None:
            reason[i] = ABOVE
        elif short_k.any():
            reason[i] = QUOTA
            taken_k += short_k
        else:
            reason[i] = FULL
    selected_n = np.array([r in (QUOTA, ABOVE) for r in reason], bool)
    counts_k = classes_nk[selected_n].sum(0, dtype=np.int64)
    if quota_k is None:
        taken_k = counts_k.copy()
    return Selection(selected_n, rank_n, reason, taken_k, counts_k,
                     np.maximum(need_k - taken_k, 0))
