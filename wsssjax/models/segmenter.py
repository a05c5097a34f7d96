"""An encoder with four feature maps and a head that turns them into a score for every pixel."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax


class Segmenter(nn.Module):
    """(logits float32 [b, h, w, k] at the size of the image, aux of the encoder).

    freeze: no gradient reaches the encoder, which runs in training as it does afterwards.
    bgr: the encoder's weights want blue first (those that come from Caffe); images are RGB.
    drop: factors for the channels of the four maps, a tuple of [b, d_i], or None.
    `encode` and `decode` are its two halves: with a frozen encoder, several heads can read the
    maps of one forward pass. `scores` leaves the logits at the head's own resolution. In training
    networks with dropout need the random stream "dropout".
    """

    backbone: nn.Module
    head: nn.Module
    freeze: bool = False
    bgr: bool = False

    @property
    def tap_widths(self) -> tuple[int, ...]:
        return self.backbone.tap_widths

    @property
    def moves_statistics(self) -> bool:
        """Whether training moves the running statistics of batch norms (norms.BatchNorm)."""
        parts = [self.head] if self.freeze else [self.backbone, self.head]
        return any(getattr(part, "norm", "") == "batch" for part in parts)

    @property
    def own_side(self) -> Callable:
        """How many features belong to a photo in a padded batch: see `padded`."""
        return self.backbone.own_side

    def __call__(self, image_bhwc, *, train: bool, drop: Sequence[jax.Array] | None = None):
        taps, aux = self._taps(image_bhwc, train)
        return self.decode(taps, image_bhwc.shape[1:3], drop, train=train), aux

    def scores(self, image_bhwc, *, train: bool = False):
        """Logits [b, p, q, k] where the head makes them, before they are enlarged."""
        return self.decode(self._taps(image_bhwc, train)[0], None, train=train)

    def encode(self, image_bhwc, *, train: bool = False) -> tuple[jax.Array, ...]:
        """The four feature maps [b, h_i, w_i, d_i], finest first."""
        return self._taps(image_bhwc, train)[0]

    def decode(self, taps: Sequence[jax.Array], size_hw: tuple[int, int] | None,
               drop: Sequence[jax.Array] | None = None, *, train: bool = False):
        """Logits at `size_hw` from the four feature maps; None: at the head's own resolution."""
        if drop is not None:
            taps = tuple(tap * mask[:, None, None, :].astype(tap.dtype)
                         for tap, mask in zip(taps, drop, strict=True))
        return self.head(taps, size_hw, train=train)

    def _taps(self, image_bhwc, train):
        if self.bgr:
            image_bhwc = image_bhwc[..., ::-1]
        _, aux = self.backbone(image_bhwc, train=train and not self.freeze)
        if self.freeze:
            aux = jax.lax.stop_gradient(aux)
        return tuple(aux[f"tap{i}"] for i in range(4)), aux
