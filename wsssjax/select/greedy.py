"""Algorithm 1: the labels that score best, until every class has its quota."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from wsssjax.core.compiled import numba, once

# Why an image was taken or left; a reason's code is its place here.
REASONS = ("quota", "min_iou", "full", "below", "empty", "no_class")
QUOTA, ABOVE, FULL, BELOW, EMPTY, NO_CLASS = range(len(REASONS))
WORD = 64  # classes in one word of a bit mask
CHUNK = 1 << 16  # images that the loop without a compiler looks at together


class Selection(NamedTuple):
    """selected: bool [n].  rank: int64 [n], 1 = best.  reason: uint8 [n], codes of REASONS.
    filled: uint64 [n, w], bit mask of the classes that were short and got this image.
    taken: int64 [k], the algorithm's own count, which stops at the quota.
    counts: int64 [k], images of each class among the selected.  unmet: int64 [k], still missing."""

    selected: np.ndarray
    rank: np.ndarray
    reason: np.ndarray
    filled: np.ndarray
    taken: np.ndarray
    counts: np.ndarray
    unmet: np.ndarray


def pack(classes_nk) -> np.ndarray:
    """Bit masks uint64 [n, w] of bool [n, k]: class c is bit c % 64 of word c // 64."""
    classes_nk = np.asarray(classes_nk, bool)
    count, num_classes = classes_nk.shape
    words_nw = np.zeros((count, -(-num_classes // WORD)), np.uint64)
    for c in range(num_classes):
        words_nw[:, c // WORD] |= classes_nk[:, c].astype(np.uint64) << np.uint64(c % WORD)
    return words_nw


def has(words_nw, c: int) -> np.ndarray:
    """Which images hold class `c`, bool [n]."""
    return words_nw[:, c // WORD] >> np.uint64(c % WORD) & np.uint64(1) != 0


def unpack(words_nw, num_classes: int) -> np.ndarray:
    """bool [n, k] of what `pack` made."""
    columns = [has(words_nw, c) for c in range(num_classes)]
    return np.stack(columns, axis=1) if columns else np.zeros((len(words_nw), 0), bool)


def order(score_n) -> np.ndarray:
    """Positions by falling score, ties in the order of the rows, int64 [n]."""
    return np.argsort(-np.asarray(score_n, np.float64), kind="stable")


def select(score_n, words_nw, quota_k=None, *, num_classes: int | None = None, below_n=None,
           empty_n=None) -> Selection:
    """The selected images and, for each image, why it was taken or left.

    score_n: float64, more is better, none NaN; rows stand in the order of their ids, which breaks
    ties.  words_nw: foreground classes that each image contains, see `pack`.  quota_k: images
    wanted of each class; None takes every image that is not held back, and then num_classes says
    how many classes there are.  below_n: bool, images held back (their IoU is too low).  empty_n:
    bool, pairs of two empty maps, which are never taken.

    An image is taken if one of its classes is still short; a class that is full may grow further
    through such images. A quota that cannot be met is no error: all there is of it is taken.
    Reasons: "quota" and "min_iou" (taken: fills a class; no quota and not held back), "full"
    (no class of it was short), "below" (held back), "empty" (both maps), "no_class" (no foreground
    class in it).
    """
    score_n, words_nw = np.asarray(score_n, np.float64), np.asarray(words_nw, np.uint64)
    assert len(score_n) == len(words_nw), (score_n.shape, words_nw.shape)
    assert not np.isnan(score_n).any(), "a score is NaN"
    num_classes = len(quota_k) if num_classes is None else num_classes
    need_k = np.zeros(num_classes, np.int64) if quota_k is None else np.asarray(quota_k, np.int64)
    reason_n = np.full(len(score_n), ABOVE if quota_k is None else FULL, np.uint8)
    if below_n is not None:
        reason_n[below_n] = BELOW
    reason_n[~words_nw.any(1)] = NO_CLASS
    if empty_n is not None:
        reason_n[empty_n] = EMPTY
    order_n = order(score_n)
    filled_nw, taken_k = np.zeros_like(words_nw), np.zeros(num_classes, np.int64)
    if quota_k is not None:
        fill = _fill_chunks if numba is None else once(_fill)
        fill(order_n, words_nw, need_k, reason_n, filled_nw, taken_k)
    rank_n = np.empty(len(score_n), np.int64)
    rank_n[order_n] = np.arange(1, len(score_n) + 1)
    selected_n = (reason_n == QUOTA) | (reason_n == ABOVE)
    counts_k = np.array([np.count_nonzero(has(words_nw, c) & selected_n)
                         for c in range(num_classes)], np.int64)
    if quota_k is None:
        taken_k = counts_k.copy()
    return Selection(selected_n, rank_n, reason_n, filled_nw, taken_k, counts_k,
                     np.maximum(need_k - taken_k, 0))


def _fill(order_n, words_nw, need_k, reason_n, filled_nw, taken_k):
    """Turns FULL into QUOTA where an image fills a class; fills filled_nw and taken_k."""
    short_w = np.zeros(words_nw.shape[1], np.uint64)
    one = np.uint64(1)
    left = 0  # classes still short
    for c in range(need_k.size):
        if need_k[c] > 0:
            short_w[c // WORD] |= one << np.uint64(c % WORD)
            left += 1
    for i in order_n:
        if left == 0:  # where the paper stops; all that is left is FULL
            break
        if reason_n[i] != FULL:
            continue
        for w in range(short_w.size):
            hit = words_nw[i, w] & short_w[w]
            if hit == 0:
                continue
            reason_n[i] = QUOTA
            filled_nw[i, w] = hit
            for c in range(w * WORD, min((w + 1) * WORD, need_k.size)):
                bit = one << np.uint64(c % WORD)
                if hit & bit:
                    taken_k[c] += 1
                    if taken_k[c] == need_k[c]:
                        short_w[w] &= ~bit
                        left -= 1


def _fill_chunks(order_n, words_nw, need_k, reason_n, filled_nw, taken_k):
    """The same as `_fill` without a compiler: jumps over images that can no longer fill a class."""
    short_w = pack((need_k > 0)[None])[0]
    for start in range(0, len(order_n), CHUNK):
        if not short_w.any():
            break
        part = order_n[start:start + CHUNK]
        part = part[(reason_n[part] == FULL) & (words_nw[part] & short_w).any(1)]
        for i in part:
            hit_w = words_nw[i] & short_w
            if hit_w.any():
                reason_n[i], filled_nw[i] = QUOTA, hit_w
                taken_k += unpack(hit_w[None], len(need_k))[0]
                short_w = pack((taken_k < need_k)[None])[0]
