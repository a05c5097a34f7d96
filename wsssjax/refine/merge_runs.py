"""Merging on run lengths: the result of `sam_merge.merge` bit for bit, and no mask is unpacked.

Runs count along the columns, as in the proposal files, so pixel (y, x) has the place x * h + y. The
overlap of a run with a class is a difference of two prefix sums; painting a mask is filling its
runs. Without numba the masks are unpacked and `sam_merge` does the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from wsssjax.core.compiled import numba, once
from wsssjax.core.constants import BACKGROUND, IGNORE
from wsssjax.refine import rle, sam_merge


class Merged(NamedTuple):
    """label_hw: uint8, as `sam_merge.merge` gives it.  found, claims: how it came about."""

    label_hw: np.ndarray
    found: sam_merge.Overlaps
    claims: sam_merge.Claims


def merge(label_hw: np.ndarray, counts: Sequence[np.ndarray], rule: str = "max_iou_imp2", *,
          coverage: str = "sequential", keep_uncovered: bool | None = None,
          area_cap: float | None = None) -> Merged:
    """The merged label map with the overlaps and claims that led to it.

    label_hw: uint8 [h, w].  counts: run lengths int64 [r] of each mask, which fill the label map
    exactly (`rle.check`).  The options are those of `sam_merge.merge`.

    >>> label_hw = np.array([[1, 1, 0, 0], [0, 0, 0, 2]], np.uint8)
    >>> merged = merge(label_hw, [np.array([0, 1, 1, 1, 1, 1, 3])])  # three pixels of the top row
    >>> merged.label_hw.tolist(), merged.claims.class_m.tolist()
    ([[1, 1, 1, 0], [0, 0, 0, 2]], [1])
    """
    how = sam_merge.check(rule, coverage)
    keep = how.keep if keep_uncovered is None else keep_uncovered
    if numba is None:
        masks_mhw = np.zeros((len(counts), *label_hw.shape), bool)
        for mask_hw, counts_r in zip(masks_mhw, counts, strict=True):
            mask_hw[:] = rle.decode(counts_r, label_hw.shape)
        found = sam_merge.overlaps(label_hw, masks_mhw)
    else:
        label_n = np.ascontiguousarray(label_hw.T).reshape(-1)
        runs = join(counts)
        found = overlaps(label_n, *runs)
    claims = sam_merge.claim(found, how,
                             sam_merge.under_cap(found.mask_m, area_cap, label_hw.size))
    if numba is None:
        merged_hw = sam_merge.paint(label_hw, masks_mhw, found.classes, claims, coverage=coverage,
                                    keep=keep)
    else:
        merged_n = np.full(label_n.size, BACKGROUND, np.uint8)
        once(_paint)(label_n, *runs, found.classes, claims.class_m, claims.there_m, keep,
                          coverage == "sequential", merged_n)
        merged_hw = np.ascontiguousarray(merged_n.reshape(label_hw.T.shape).T)
    return Merged(merged_hw, found, claims)


def join(counts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Runs of set pixels of all masks: int64 [r, 2] of first place and the place after the last,
    and int64 [m + 1], where in it each mask begins.

    >>> runs_r2, begin_m = join([np.array([1, 2, 3]), np.array([0, 6])])
    >>> runs_r2.tolist(), begin_m.tolist()
    ([[1, 3], [0, 6]], [0, 1, 2])
    """
    begin_m = np.zeros(len(counts) + 1, np.int64)
    np.cumsum([len(counts_r) // 2 for counts_r in counts], out=begin_m[1:])
    runs_r2 = np.empty((int(begin_m[-1]), 2), np.int64)
    for i, counts_r in enumerate(counts):
        ends_r = np.cumsum(counts_r)
        half = len(counts_r) // 2
        runs_r2[begin_m[i]:begin_m[i + 1], 0] = ends_r[0:2 * half:2]
        runs_r2[begin_m[i]:begin_m[i + 1], 1] = ends_r[1::2]
    return runs_r2, begin_m


def overlaps(label_n: np.ndarray, runs_r2: np.ndarray, begin_m: np.ndarray) -> sam_merge.Overlaps:
    """What `sam_merge.overlaps` gives, from the label map column by column and the runs of `join`.

    label_n: uint8 [h * w].
    """
    area_k = np.bincount(label_n, minlength=256)
    area_k[[BACKGROUND, IGNORE]] = 0
    classes = np.flatnonzero(area_k).astype(np.uint8)
    count = len(begin_m) - 1
    shared_mk, mask_m = np.zeros((count, classes.size), np.int64), np.zeros(count, np.int64)
    once(_share)(label_n, runs_r2, begin_m, classes, shared_mk, mask_m)
    return sam_merge.Overlaps(classes, shared_mk, mask_m, area_k[classes].astype(np.int64))


# ------------------------------------------------------- kernels, plain Python before compiling


def _share(label_n, runs_r2, begin_m, classes, shared_mk, mask_m):
    before_n = np.zeros(len(label_n) + 1, np.int32)  # pixels of the class before each place
    for k in range(len(classes)):
        total = np.int32(0)
        for i in range(len(label_n)):
            total += np.int32(label_n[i] == classes[k])
            before_n[i + 1] = total
        for m in range(len(mask_m)):
            for r in range(begin_m[m], begin_m[m + 1]):
                shared_mk[m, k] += before_n[runs_r2[r, 1]] - before_n[runs_r2[r, 0]]
    for m in range(len(mask_m)):
        for r in range(begin_m[m], begin_m[m + 1]):
            mask_m[m] += runs_r2[r, 1] - runs_r2[r, 0]


def _paint(label_n, runs_r2, begin_m, classes, class_m, there_m, keep, sequential, merged_n):
    cover_n = np.zeros(len(label_n) + 1, np.int32)  # masks over each pixel: steps, then their sum
    for m in range(len(class_m)):
        if there_m[m]:
            for r in range(begin_m[m], begin_m[m + 1]):
                cover_n[runs_r2[r, 0]] += 1
                cover_n[runs_r2[r, 1]] -= 1
    for i in range(1, len(label_n)):
        cover_n[i] += cover_n[i - 1]
    for class_id in classes:
        if keep:
            for i in range(len(label_n)):
                if label_n[i] == class_id and cover_n[i] == 0:
                    merged_n[i] = class_id
        for m in range(len(class_m)):
            if class_m[m] == class_id:
                for r in range(begin_m[m], begin_m[m + 1]):
                    merged_n[runs_r2[r, 0]:runs_r2[r, 1]] = class_id
                    if sequential:  # for the classes to come this mask covers nothing
                        cover_n[runs_r2[r, 0]:runs_r2[r, 1]] -= 1
