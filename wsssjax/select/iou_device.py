"""Pair counts on an accelerator; a module of its own, since a CPU's need no JAX."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from wsssjax.core.constants import IGNORE

PAD = 256  # maps are padded to multiples of this many pixels, so that few shapes are compiled


@functools.partial(jax.jit, static_argnames="num_classes")
def pair_counts(first_bhw, second_bhw, num_classes: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Counts of a batch of pairs, int32 [b, k] and exact: `iou.PairCounts` as a tuple.

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
    return tuple(c.T for c in counts_kb)


def count_padded(first, second, num_classes: int) -> tuple[np.ndarray, ...]:
    """The same for maps of any sizes, int64.

    first, second: sequences of uint8 [h, w], equal sizes within a pair.
    """
    size = [-(-max(m.shape[axis] for m in first) // PAD) * PAD for axis in (0, 1)]
    # A full power of two of images: a short last batch compiles nothing new.
    shape = (1 << (len(first) - 1).bit_length(), *size)
    stacks = []
    for maps in (first, second):
        stack_bhw = np.full(shape, IGNORE, np.uint8)
        for row_hw, map_hw in zip(stack_bhw, maps, strict=False):
            row_hw[:map_hw.shape[0], :map_hw.shape[1]] = map_hw
        stacks.append(stack_bhw)
    counts = pair_counts(*stacks, num_classes)
    return tuple(np.asarray(c[:len(first)], np.int64) for c in counts)
