"""A classifier whose scores are pooled class maps, so that the maps say where each class is."""

from __future__ import annotations

import re
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from wsssjax.core import weights
from wsssjax.core.config import choose
from wsssjax.models import layers

STARTS = {  # of the head's kernel [d, k]: (d) → initializer
    "xavier": lambda _: nn.initializers.xavier_uniform(),  # AffinityNet, EPS
    "torch": layers.torch_uniform,  # PyTorch's own, uniform within 1 / sqrt(d): IRN
}


def mean_pool(maps_bpqk):
    """Scores [b, k]: the mean of each map."""
    return maps_bpqk.mean((1, 2))


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
    pool: maps [b, p, q, k] → scores; padding pixels count.
    freeze: no gradient reaches the encoder, which runs in training as it does afterwards.
    start: how the head's kernel is drawn, "xavier" or "torch" (STARTS).
    taps: names of the encoder's maps that the head reads, side by side; all of one grid.
    """

    backbone: nn.Module
    num_outputs: int
    dropout: float = 0.0
    pool: Callable = mean_pool
    freeze: bool = False
    dtype: jnp.dtype = jnp.float32
    start: str = "xavier"
    taps: tuple[str, ...] = ("features",)

    def setup(self):
        choose(STARTS, self.start, "the start of a head")
        self.head = MapHead(self.num_outputs, self.dtype, self.start)
        self.drop = nn.Dropout(self.dropout, broadcast_dims=(1, 2))

    def __call__(self, image_bhwc, *, train: bool):
        _, aux = self.backbone(image_bhwc, train=train and not self.freeze)
        if self.freeze:
            aux = jax.lax.stop_gradient(aux)
        found = [choose(aux, tap, "config.model.taps") for tap in self.taps]
        if len({x.shape[:3] for x in found}) != 1:
            grids = ", ".join(f"{n} {x.shape[1]} x {x.shape[2]}" for n, x in
                              zip(self.taps, found, strict=True))
            raise ValueError(f"config.model.taps: want one grid, found {grids}")
        features = self.drop(jnp.concatenate(found, -1), deterministic=not train)
        maps_bpqk = self.head(features)
        return self.pool(maps_bpqk), {**aux, "maps": maps_bpqk}


def from_torch(tensors: dict[str, np.ndarray], trunk: Callable, head: str) -> dict:
    """Our flat names of a published classifier: `params/backbone/…` and `params/head/kernel`.

    tensors: a PyTorch state dict in numpy.  trunk: an encoder's `from_torch`, which passes over
    the head.  head: regular expression of its 1x1 convolution's names, [k, d, 1, 1] each; several
    must be one layer by other names.
    """
    flat = weights.under("backbone", trunk(tensors))
    name = f"{head.split('|')[0]}.weight"
    found = [x for n, x in tensors.items() if re.fullmatch(rf"(module\.)*({head})\.weight", n)]
    if not found:
        raise ValueError(f"no {name}, the class maps; this is an encoder alone")
    kernel = np.asarray(found[0], np.float32)
    if kernel.ndim != 4 or kernel.shape[2:] != (1, 1):
        raise ValueError(f"{name} {list(kernel.shape)}: want class maps [classes, channels, 1, 1]")
    if any(not np.array_equal(kernel, x) for x in found[1:]):
        raise ValueError(f"{name}: differs from the same layer under its other name")
    return flat | {"params/head/kernel": np.ascontiguousarray(kernel[:, :, 0, 0].T)}
