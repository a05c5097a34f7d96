"""How far two label maps agree: exact pixel counts per class, and the IoUs read off them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wsssjax.core.compiled import numba, once
from wsssjax.core.config import choose
from wsssjax.core.constants import BACKGROUND, IGNORE

EIGHT = np.uint64(0x0101010101010101)  # times a byte: eight copies of it
PAD = 256  # accelerators see maps padded to multiples of this many pixels, so few shapes compile


class PairCounts(NamedTuple):
    """Pixels per image and class, [b, k]: where both maps say the class, where the first says it,
    where the second says it. Pixels that either map leaves open (IGNORE) count nowhere."""

    both: np.ndarray
    first: np.ndarray
    second: np.ndarray


@functools.partial(jax.jit, static_argnames="num_classes")
def pair_counts(first_bhw, second_bhw, num_classes: int) -> PairCounts:
    """Counts of a batch of pairs on an accelerator, int32 and exact.

    first_bhw, second_bhw: uint8, 0..num_classes-1 or IGNORE; other values count nowhere.
    num_classes: background included, at most 254.
    One fused compare-and-sum per class: it reads bytes at memory speed, needs no array of pixels
    times classes, and unlike scattered additions it has no order in which results could differ.
    """
    known_bhw = (first_bhw != IGNORE) & (second_bhw != IGNORE)

    def count(class_id):
        first = (first_bhw == class_id) & known_bhw
        second = (second_bhw == class_id) & known_bhw
        maps = (first & second, first, second)
        return tuple(m.sum(axis=(1, 2), dtype=jnp.int32) for m in maps)

    counts_kb = jax.lax.map(count, jnp.arange(num_classes, dtype=jnp.uint8))
    return PairCounts(*(c.T for c in counts_kb))


def _count_runs(first_n, second_n, counts_3k):
    """Adds one pair's counts to counts_3k int64 [3, 256]."""
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
        if a != IGNORE and b != IGNORE:
            counts_3k[1, a] += i - start
            counts_3k[2, b] += i - start
            if a == b:
                counts_3k[0, a] += i - start
        start = i


def _count_bins(first_n, second_n, counts_3k):
    """The same as `_count_runs` without a compiler."""
    known = (first_n != IGNORE) & (second_n != IGNORE)
    first, second = first_n[known], second_n[known]
    for row, values in enumerate((first[first == second], first, second)):
        counts_3k[row] += np.bincount(values, minlength=256)


def _host_kernel():
    return _count_bins if numba is None else once(_count_runs)


def _flat(map_hw) -> np.ndarray:
    """The pixels in a row, at an address where eight of them can be read at once."""
    flat = np.ascontiguousarray(map_hw).reshape(-1)
    return flat if flat.ctypes.data % 8 == 0 else flat.copy()


def pair_counts_host(first_bhw, second_bhw, num_classes: int) -> PairCounts:
    """The same counts as `pair_counts` on the host, as int64 numpy arrays."""
    counts_b3k = np.zeros((len(first_bhw), 3, 256), np.int64)
    for first_hw, second_hw, counts_3k in zip(first_bhw, second_bhw, counts_b3k, strict=True):
        assert first_hw.shape == second_hw.shape, (first_hw.shape, second_hw.shape)
        _host_kernel()(_flat(first_hw), _flat(second_hw), counts_3k)
    return PairCounts(*(counts_b3k[:, row, :num_classes] for row in range(3)))


def on_host() -> bool:
    """Whether counting runs on the host: with no accelerator, compiled loops beat XLA 200 times."""
    return jax.default_backend() == "cpu"


def count_pairs(pairs: Sequence[tuple[np.ndarray, np.ndarray]], num_classes: int,
                host: bool | None = None) -> PairCounts:
    """Counts of pairs of maps of any sizes, int64, by whatever is fastest here.

    pairs: uint8 [h, w] twice, equal sizes within a pair.  host: None asks `on_host`.
    """
    first, second = zip(*pairs, strict=True)
    if on_host() if host is None else host:
        return pair_counts_host(first, second, num_classes)
    size = [-(-max(m.shape[axis] for m in first) // PAD) * PAD for axis in (0, 1)]
    # A full power of two of images: a short last batch compiles nothing new.
    shape = (1 << (len(pairs) - 1).bit_length(), *size)
    stacks = []
    for maps in (first, second):
        stack_bhw = np.full(shape, IGNORE, np.uint8)
        for row_hw, map_hw in zip(stack_bhw, maps, strict=False):
            row_hw[:map_hw.shape[0], :map_hw.shape[1]] = map_hw
        stacks.append(stack_bhw)
    counts = pair_counts(*stacks, num_classes)
    return PairCounts(*(np.asarray(c[:len(pairs)], np.int64) for c in counts))


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


SCORES = {
    "foreground": _foreground,
    "mean": functools.partial(_mean, first_class=BACKGROUND + 1),
    "mean_bg": functools.partial(_mean, first_class=BACKGROUND),
}


def image_iou(counts: PairCounts, kind: str = "foreground") -> tuple[np.ndarray, np.ndarray]:
    """IoU of every pair, float64 [b], and whether both maps are empty, bool [b] (their IoU is 0).

    kind: "foreground": a map is the set of its (pixel, class) pairs with class ≥ 1, so a pixel with
    two different foreground classes counts twice in the union; "mean": per-class IoU averaged over
    the foreground classes present in either; "mean_bg": the same with background.
    Quotients of exact integers in float64: float32 would order near ties differently.
    """
    score = choose(SCORES, kind, "--iou")
    empty_b = (counts.first + counts.second)[:, BACKGROUND + 1:].sum(1) == 0
    return np.where(empty_b, 0.0, score(counts)), empty_b
