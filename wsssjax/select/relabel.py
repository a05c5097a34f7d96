"""What of a trusted label is kept: all of it, the classes that agree, or the pixels that agree.

The authors name two limits of their selection: pictures of several classes are passed over, and a
good label is lost when its partner is bad. Both come from judging whole labels. Ours, instead:

classes  every class takes the labels in which the two sets agree best about *it* (`by_class`); of
         such a label the classes that were taken stay, all that either set gives to another
         foreground class is left open (255).
pixels   images are chosen as ever; of a label the pixels stay that all sets name alike.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np

from wsssjax.core import threads
from wsssjax.core.constants import BACKGROUND, IGNORE
from wsssjax.data import label_map
from wsssjax.select import blocks, greedy, iou

KEEP = ("whole", "classes", "pixels")


def class_ious(scored: blocks.Blocks, min_area: int = 1) -> np.ndarray:
    """IoU of every foreground class of the pool's label, float64 [n, k]; NaN where it has none.

    min_area: pixels below which a class does not count as present. Eight bytes an image and class
    stay in memory: 1.6 GB for ten million images of twenty classes.
    """
    return np.concatenate([
        np.where(block.pool >= min_area, iou.class_ious(block.counts), np.nan)[:, BACKGROUND + 1:]
        for block in scored])


def by_class(iou_nk: np.ndarray, quota_k=None, min_iou: float | None = None,
             empty_n=None) -> greedy.Selection:
    """Every class takes the labels that agree best about it, until its quota is full.

    iou_nk: float64, NaN where the pool's label lacks the class; rows in the order of their ids,
    which breaks ties.  quota_k: labels wanted of each class; None takes all above min_iou.
    min_iou: a class is taken only where its IoU is above.  empty_n: see `greedy.select`.
    `filled` are the classes that were taken, `counts` the same as `taken`; ranks go by the best
    class of each label.
    """
    admitted_nk = iou_nk > (-1.0 if min_iou is None else min_iou)  # NaN is not
    best_n = np.fmax.reduce(iou_nk, axis=1, initial=-1.0)
    kept_nk = np.zeros(iou_nk.shape, bool)
    for c in range(iou_nk.shape[1]):
        rows = np.flatnonzero(admitted_nk[:, c])
        rows = rows[greedy.order(iou_nk[rows, c])]
        kept_nk[rows if quota_k is None else rows[:quota_k[c]], c] = True
    selected_n = kept_nk.any(1)
    reason_n = np.full(len(iou_nk), greedy.FULL, np.uint8)
    reason_n[~admitted_nk.any(1)] = greedy.BELOW
    reason_n[np.isnan(iou_nk).all(1)] = greedy.NO_CLASS
    if empty_n is not None:
        reason_n[empty_n] = greedy.EMPTY
    reason_n[selected_n] = greedy.ABOVE if quota_k is None else greedy.QUOTA
    rank_n = np.empty(len(iou_nk), np.int64)
    rank_n[greedy.order(best_n)] = np.arange(1, len(iou_nk) + 1)
    taken_k = kept_nk.sum(0, dtype=np.int64)
    unmet_k = np.zeros_like(taken_k) if quota_k is None else np.maximum(quota_k - taken_k, 0)
    return greedy.Selection(selected_n, rank_n, reason_n, greedy.pack(kept_nk), taken_k,
                            taken_k.copy(), unmet_k)


def kept_classes(pool_hw: np.ndarray, other_hw: np.ndarray, kept_k: np.ndarray) -> np.ndarray:
    """The pool's label, IGNORE where either map has a foreground class that is not kept.

    kept_k: bool, foreground classes only.
    """
    lost = np.zeros(IGNORE + 1, bool)
    lost[BACKGROUND + 1 : len(kept_k) + 1] = ~np.asarray(kept_k, bool)
    return np.where(lost[pool_hw] | lost[other_hw], IGNORE, pool_hw).astype(np.uint8)


def kept_pixels(pool_hw: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """The pool's label, IGNORE where another map differs; what a map leaves open it agrees to."""
    differs = [(other_hw != pool_hw) & (other_hw != IGNORE) for other_hw in others]
    return np.where(np.any(differs, axis=0), IGNORE, pool_hw).astype(np.uint8)


def write(out, pool, others: Sequence, ids: Sequence[str], num_classes: int,
          kept_nk: np.ndarray | None = None, min_area: int = 1) -> np.ndarray:
    """Fills the folder `out` with what is kept of these labels; bool [n, k], the foreground classes
    that are in a label but no longer in what is kept.

    pool, others: folders, of which `classes` asks the first other alone.  kept_nk: bool [n, k],
    classes to keep; None keeps pixels.  min_area: pixels below which a class does not count.
    """
    gone_nk = np.zeros((len(ids), num_classes - 1), bool)

    def put(i):
        def read(folder, size=None):
            return label_map.read(pathlib.Path(folder) / f"{ids[i]}.png", num_classes, size=size)

        pool_hw = read(pool)
        if kept_nk is not None:
            kept_hw = kept_classes(pool_hw, read(others[0], pool_hw.shape), kept_nk[i])
        else:
            kept_hw = kept_pixels(pool_hw, [read(o, pool_hw.shape) for o in others])
        label_map.write(pathlib.Path(out) / f"{ids[i]}.png", kept_hw)
        before_k, after_k = (iou.class_areas(label_hw, num_classes)[BACKGROUND + 1:] >= min_area
                             for label_hw in (pool_hw, kept_hw))
        gone_nk[i] = before_k & ~after_k

    for _ in threads.each(put, range(len(ids))):
        pass
    return gone_nk


def recount(selection: greedy.Selection, words_nw, gone_nk, keep: str
            ) -> tuple[greedy.Selection, list[str]]:
    """(the selection whose counts are of the labels as written, warnings).

    words_nw: classes of all images, see `greedy.pack`.  gone_nk: of the selected, see `write`.
    """
    chosen, k = selection.selected, gone_nk.shape[1]
    filled_nk = greedy.unpack(selection.filled[chosen], k)
    held_nk = filled_nk if keep == "classes" else greedy.unpack(words_nw[chosen], k)
    lost = int((filled_nk & gone_nk).any(1).sum())
    told = [f"--keep={keep}: {lost} of {len(gone_nk)} images lost a class that they filled: "
            "nothing of it was kept"] if lost else []
    return selection._replace(counts=(held_nk & ~gone_nk).sum(0, dtype=np.int64)), told
