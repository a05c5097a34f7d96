"""A classifier whose scores are pooled class maps, so that the maps say where each class is."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from wsssjax.core.config import choose
from wsssjax.models import layers

POOLS = ("mean", "max")
STARTS = {  # of the head's kernel [d, k]: (d) → initializer
    "xavier": lambda _: nn.initializers.xavier_uniform(),  # AffinityNet, EPS
    "torch": layers.torch_uniform,  # PyTorch's own, uniform within 1 / sqrt(d): IRN
}


class MapHead(nn.Module):
    """Raw class maps [b, p, q, k], float32 or wider: a 1x1 convolution without bias."""

    num_outputs: int
    dtype: jnp.dtype = jnp.float32
    start: str = "xavier"  # a name in STARTS

    @nn.compact
    def __call__(self, features_bpqd):
        width = features_bpqd.shape[-1]
        kernel = self.param("kernel", STARTS[self.start](width), (width, self.num_outputs))
        maps = layers.pointwise(features_bpqd.astype(self.dtype), kernel.astype(self.dtype))
        return maps.astype(jnp.promote_types(maps.dtype, jnp.float32))


class Classifier(nn.Module):
    """(scores float32 [b, k], aux). aux: `maps` [b, p, q, k], raw, and all that the encoder gives.

    dropout: share of feature channels zeroed, whole maps at a time, in training only (then the
    maps are those of the dropped features too); needs the random stream "dropout".
    pool: scores are the "mean" or the "max" of the maps. Padding pixels count.
    freeze: no gradient reaches the encoder.
    start: how the head's kernel is drawn, "xavier" or "torch" (STARTS).
    """

    backbone: nn.Module
    num_outputs: int
    dropout: float = 0.0
    pool: str = "mean"
    freeze: bool = False
    dtype: jnp.dtype = jnp.float32
    start: str = "xavier"

    def setup(self):
        if self.pool not in POOLS:
            raise ValueError(f"pool {self.pool!r}: want {' or '.join(POOLS)}")
        choose(STARTS, self.start, "the start of a head")
        self.head = MapHead(self.num_outputs, self.dtype, self.start)
        self.drop = nn.Dropout(self.dropout, broadcast_dims=(1, 2))

    def __call__(self, image_bhwc, *, train: bool):
        _, aux = self.backbone(image_bhwc, train=train)
        if self.freeze:
            aux = jax.lax.stop_gradient(aux)
        maps_bpqk = self.head(self.drop(aux["features"], deterministic=not train))
        scores_bk = maps_bpqk.mean((1, 2)) if self.pool == "mean" else maps_bpqk.max((1, 2))
        return scores_bk, {**aux, "maps": maps_bpqk}
