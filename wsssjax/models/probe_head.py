"""A small head that reads what a frozen encoder's feature maps say of each place.

Each map in use is taken to one width by a 1x1 convolution, enlarged to the grid of the finest of
them, and summed; ReLU, and a 1x1 convolution gives the scores. Nothing in it looks beyond one cell
but the bilinear enlarging. Not published; it is meant to compare sets of labels in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from wsssjax.core.resize import resize_half_pixel
from wsssjax.models.layers import TorchConv


class ProbeHead(nn.Module):
    """Class scores float32 [b, h, w, k] at the size that is asked for; None: on the head's grid,
    that of the finest map in use.

    width: channels of the sum.  taps: numbers of the maps in use, finest first.
    """

    num_classes: int
    width: int
    taps: tuple[int, ...]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, taps: Sequence[jax.Array] | Mapping[int, jax.Array],
                 size_hw: tuple[int, int] | None, *, train: bool = False):
        """taps: the encoder's maps [b, h_i, w_i, d_i], or by number those in use alone."""
        del train  # nothing in it differs
        grid = taps[self.taps[0]].shape[1:3]
        total_bpqd = sum(
            resize_half_pixel(TorchConv(self.width, dtype=self.dtype, name=f"project_{i}")(taps[i]),
                              grid) for i in self.taps)
        scores = TorchConv(self.num_classes, dtype=self.dtype, name="score")
        logits = scores(nn.relu(total_bpqd)).astype(jnp.float32)
        return logits if size_hw is None else resize_half_pixel(logits, size_hw)
