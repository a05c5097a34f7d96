"""An encoder with four feature maps and a head that turns them into a score for every pixel."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax


class Segmenter(nn.Module):
    """(logits float32 [b, h, w, k] at the size of the image, aux of the encoder).

    freeze: no gradient reaches the encoder.
    drop: factors for the channels of the four maps, a tuple of [b, d_i], or None.
    `encode` and `decode` are its two halves: with a frozen encoder, several heads can read the
    maps of one forward pass.
    """

    backbone: nn.Module
    head: nn.Module
    freeze: bool = False

    @property
    def tap_widths(self) -> tuple[int, ...]:
        return self.backbone.tap_widths

    def __call__(self, image_bhwc, *, train: bool, drop: Sequence[jax.Array] | None = None):
        taps, aux = self._taps(image_bhwc, train)
        return self.decode(taps, image_bhwc.shape[1:3], drop), aux

    def encode(self, image_bhwc, *, train: bool = False) -> tuple[jax.Array, ...]:
        """The four feature maps [b, h_i, w_i, d_i], finest first."""
        return self._taps(image_bhwc, train)[0]

    def decode(self, taps: Sequence[jax.Array], size_hw: tuple[int, int],
               drop: Sequence[jax.Array] | None = None):
        """Logits at `size_hw` from the four feature maps."""
        if drop is not None:
            taps = tuple(tap * mask[:, None, None, :].astype(tap.dtype)
                         for tap, mask in zip(taps, drop, strict=True))
        return self.head(taps, size_hw)

    def _taps(self, image_bhwc, train):
        _, aux = self.backbone(image_bhwc, train=train)
        if self.freeze:
            aux = jax.lax.stop_gradient(aux)
        return tuple(aux[f"tap{i}"] for i in range(4)), aux
