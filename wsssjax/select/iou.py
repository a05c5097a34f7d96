"""How far two label maps agree: exact pixel counts per class, and the IoUs read off them."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from wsssjax.core.compiled import numba, once
from wsssjax.core.config import choose
from wsssjax.core.constants import BACKGROUND, IGNORE

VALUES = 256  # of a uint8
EIGHT = np.uint64(0x0101010101010101)  # times a byte: eight copies of it


class PairCounts(NamedTuple):
    """Pixels per image and class, [b, k]: where both maps say the class, where the first says it,
    where the second says it. Pixels that either map leaves open (IGNORE) count nowhere."""

    both: np.ndarray
    first: np.ndarray
    second: np.ndarray


def _count_runs(first_n, second_n, counts_5k):
    """Adds one pair's counts to counts_5k int64 [5, 256]: those of PairCounts, then the areas in
    the whole first and the whole second map."""
    # Label maps are long runs of one value: one addition a run, and inside a run eight pixels are
    # compared at a time.
    count = first_n.size
    first_w = first_n[:count // 8 * 8].view(np.uint64)
    second_w = second_n[:count // 8 * 8].view(np.uint64)
    start = i = 0
    while start < count:
        a, b = first_n[start], second_n[start]
        eight_a, eight_b = np.uint64(a) * EIGHT, np.uint64(b) * EIGHT
        i = start + 1
        while i < count:
            if (i % 8 == 0 and i + 8 <= count and first_w[i // 8] == eight_a
                    and second_w[i // 8] == eight_b):
                i += 8
            elif first_n[i] == a and second_n[i] == b:
                i += 1
            else:
                break
        counts_5k[3, a] += i - start
        counts_5k[4, b] += i - start
        if a != IGNORE and b != IGNORE:
            counts_5k[1, a] += i - start
            counts_5k[2, b] += i - start
            if a == b:
                counts_5k[0, a] += i - start
        start = i


def _count_bins(first_n, second_n, counts_5k):
    """The same as `_count_runs` without a compiler."""
    known = (first_n != IGNORE) & (second_n != IGNORE)
    first, second = first_n[known], second_n[known]
    for row, values in enumerate((first[first == second], first, second, first_n, second_n)):
        counts_5k[row] += np.bincount(values, minlength=VALUES)


def _host_kernel():
    return _count_bins if numba is None else once(_count_runs)


def _flat(map_hw) -> np.ndarray:
    """The pixels in a row, at an address where eight of them can be read at once."""
    flat = np.ascontiguousarray(map_hw).reshape(-1)
    return flat if flat.ctypes.data % 8 == 0 else flat.copy()


def _host_counts(first_bhw, second_bhw, num_classes: int) -> np.ndarray:
    """int64 [5, b, k], see `_count_runs`."""
    counts_b5k = np.zeros((len(first_bhw), 5, VALUES), np.int64)
    for first_hw, second_hw, counts_5k in zip(first_bhw, second_bhw, counts_b5k, strict=True):
        assert first_hw.shape == second_hw.shape, (first_hw.shape, second_hw.shape)
        _host_kernel()(_flat(first_hw), _flat(second_hw), counts_5k)
    return counts_b5k.transpose(1, 0, 2)[..., :num_classes]


def pair_counts_host(first_bhw, second_bhw, num_classes: int) -> PairCounts:
    """The same counts as `iou_device.pair_counts` on the host, as int64 numpy arrays."""
    return PairCounts(*_host_counts(first_bhw, second_bhw, num_classes)[:3])


def on_host() -> bool:
    """Whether counting runs on the host: with no accelerator, compiled loops beat XLA 200 times."""
    # Where no plugin for one is installed, JAX need not be loaded to know that it finds none.
    if "jax" not in sys.modules and not (importlib.metadata.entry_points(group="jax_plugins")
                                         or importlib.util.find_spec("libtpu")):
        return True
    import jax

    return jax.default_backend() == "cpu"


def count_pairs(pairs: Sequence[tuple[np.ndarray, np.ndarray]], num_classes: int,
                host: bool | None = None) -> PairCounts:
    """Counts of pairs of maps of any sizes, int64, by whatever is fastest here.

    pairs: uint8 [h, w] twice, equal sizes within a pair.  host: None asks `on_host`.
    """
    return count_whole(pairs, num_classes, "second", host)[0]


def count_whole(pairs: Sequence[tuple[np.ndarray, np.ndarray]], num_classes: int, pool: str,
                host: bool | None = None) -> tuple[PairCounts, np.ndarray]:
    """(what `count_pairs` gives, class areas int64 [b, k] in the whole maps of the pool).

    The areas also count pixels that the other map leaves open.  pool: "first" or "second".
    """
    first, second = zip(*pairs, strict=True)
    if on_host() if host is None else host:
        counts_5bk = _host_counts(first, second, num_classes)
        return PairCounts(*counts_5bk[:3]), counts_5bk[3 if pool == "first" else 4]
    from wsssjax.select import iou_device

    counts = PairCounts(*iou_device.count_padded(first, second, num_classes))
    areas_bk = np.array(counts.second if pool == "second" else counts.first)
    for row_k, label_hw in zip(areas_bk, second if pool == "second" else first, strict=True):
        if row_k.sum() != label_hw.size:  # some pixel is open in either map
            row_k[:] = class_areas(label_hw, num_classes)
    return counts, areas_bk


def class_areas(label_hw, num_classes: int) -> np.ndarray:
    """Pixels of each class in one map, int64 [k]."""
    return pair_counts_host([label_hw], [label_hw], num_classes).both[0]


def class_ious(counts: PairCounts) -> np.ndarray:
    """IoU of every class, float64 [b, k]; NaN where a class is in neither map."""
    union_bk = counts.first + counts.second - counts.both
    return np.where(union_bk > 0, counts.both / np.maximum(union_bk, 1), np.nan)


def _foreground(counts: PairCounts) -> np.ndarray:
    both_b, first_b, second_b = (np.asarray(c)[:, BACKGROUND + 1:].sum(1) for c in counts)
    return both_b / np.maximum(first_b + second_b - both_b, 1)


def _mean(counts: PairCounts, first_class: int) -> np.ndarray:
    iou_bk = class_ious(counts)[:, first_class:]
    present_b = np.isfinite(iou_bk).sum(1)
    return np.nansum(iou_bk, axis=1) / np.maximum(present_b, 1)


def _worst(counts: PairCounts) -> np.ndarray:
    return np.fmin.reduce(class_ious(counts)[:, BACKGROUND + 1:], axis=1, initial=1.0)


SCORES = {
    "foreground": _foreground,
    "mean": functools.partial(_mean, first_class=BACKGROUND + 1),
    "mean_bg": functools.partial(_mean, first_class=BACKGROUND),
    "worst": _worst,
}


def image_iou(counts: PairCounts, kind: str = "foreground") -> tuple[np.ndarray, np.ndarray]:
    """IoU of every pair, float64 [b], and whether both maps are empty, bool [b] (their IoU is 0).

    kind: "foreground": a map is the set of its (pixel, class) pairs with class ≥ 1, so a pixel with
    two different foreground classes counts twice in the union; "mean": per-class IoU averaged over
    the foreground classes present in either; "mean_bg": the same with background; "worst": the
    lowest per-class IoU of those classes, 0 where one map alone has a class.
    Quotients of exact integers in float64: float32 would order near ties differently.
    """
    score = choose(SCORES, kind, "--iou")
    empty_b = (counts.first + counts.second)[:, BACKGROUND + 1:].sum(1) == 0
    return np.where(empty_b, 0.0, score(counts)), empty_b
