"""Networks on photos of many sizes in one padded batch, as exact as each photo on its own.

A convolution sees zeros outside of a photo. In a batch whose photos are padded to one size, it sees
whatever the layers before made of the padding instead (a bias, for instance). `inside` therefore
sets each convolution's and pooling's input to zero beyond its photo's own rows and columns, so that
few compiled sizes serve all photos. Right for networks that pad every layer by half a kernel on
both sides, as PyTorch's do: then ceil(side / stride) features belong to a photo (`plain`; `caffe`
for a first pool that rounds up). An encoder of that kind says so by its attribute `own_side`, the
function that counts its features; all others see their padding (EfficientNet's "SAME" pads by the
parity of the side, attention looks everywhere).

Layers whose result depends on a photo's size beyond that ask here: `mean` and `resize`.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from wsssjax.core.resize import resize_half_pixel


class _Photos(NamedTuple):
    size_b2: jax.Array
    padded_hw: tuple[int, int]
    own: Callable


_photos: contextvars.ContextVar[_Photos | None] = contextvars.ContextVar("photos", default=None)


def plain(side_b, padded: int, n: int):
    """How many of n features along an axis belong to photos of side_b pixels padded to `padded`."""
    return -(-side_b // -(-padded // n))


def caffe(side_b, padded: int, n: int):
    """`plain` where a max pool from stride 2 to 4 rounds up: m features become m // 2 + 1."""
    def after(side, stride):
        if stride < 4:
            return -(-side // stride)
        return -(-(-(-side // 2) // 2 + 1) // (stride // 4))

    stride = next(2**i for i in range(7) if after(padded, 2**i) == n)
    return after(side_b, stride)


def mask(x_bhwc, size_b2, padded_hw: tuple[int, int], own: Callable = plain):
    """x with zeros beyond each photo's own pixels.

    size_b2: int32, rows and columns of each photo.  padded_hw: what they are padded to, of which
    the sides of x are the same part, rounded up.  own: `plain` or `caffe`.
    """
    keep = []
    for axis in (0, 1):
        n = x_bhwc.shape[1 + axis]
        keep.append(jnp.arange(n)[None] < own(size_b2[:, axis], padded_hw[axis], n)[:, None])
    inside_bhw = keep[0][:, :, None] & keep[1][:, None, :]
    return jnp.where(inside_bhw[..., None], x_bhwc, jnp.zeros((), x_bhwc.dtype))


@contextlib.contextmanager
def inside(size_b2, padded_hw: tuple[int, int], own: Callable = plain):
    """Within it, layers that look beyond a pixel see zeros outside of each photo."""
    photos = _Photos(size_b2, padded_hw, own)

    def intercept(call, args, kwargs, context):
        if context.method_name == "__call__" and getattr(context.module, "reaches", False):
            args = (mask(args[0], *photos), *args[1:])
        return call(*args, **kwargs)

    before = _photos.set(photos)
    try:
        with nn.intercept_methods(intercept):
            yield
    finally:
        _photos.reset(before)


def own_size(grid_hw: tuple[int, int]):
    """int32 [b, 2]: rows and columns of a feature grid that belong to each photo; None where
    photos are not padded."""
    photos = _photos.get()
    if photos is None:
        return None
    sides = zip(photos.padded_hw, grid_hw, strict=True)
    return jnp.stack([photos.own(photos.size_b2[:, axis], whole, n)
                      for axis, (whole, n) in enumerate(sides)], 1)


def mean(x_bhwc):
    """[b, 1, 1, c]: the mean over each photo's own features."""
    own_b2 = own_size(x_bhwc.shape[1:3])
    if own_b2 is None:
        return x_bhwc.mean((1, 2), keepdims=True)
    wide = jnp.promote_types(x_bhwc.dtype, jnp.float32)  # bfloat16 counts to 256
    total = mask(x_bhwc, *_photos.get()).sum((1, 2), keepdims=True, dtype=wide)
    return (total / own_b2.prod(1)[:, None, None, None]).astype(x_bhwc.dtype)


def resize(x_bhwc, size_hw: tuple[int, int]):
    """x at another feature grid of the same image, bilinear with half-pixel centres.

    Among padded photos each one's own part becomes its own part of the other grid: the ratio of the
    two differs from photo to photo, as sides are rounded.
    """
    from_b2, to_b2 = own_size(x_bhwc.shape[1:3]), own_size(size_hw)
    if from_b2 is None:
        return resize_half_pixel(x_bhwc, size_hw)
    for axis, letters in ((0, "bmn,bnwc->bmwc"), (1, "bmn,bhnc->bhmc")):
        n, m = x_bhwc.shape[1 + axis], size_hw[axis]
        own_b1, wanted_b1 = from_b2[:, axis, None], to_b2[:, axis, None]
        place_bm = (jnp.arange(m, dtype=jnp.float32)[None] + 0.5) * (own_b1 / wanted_b1) - 0.5
        place_bm = jnp.clip(place_bm, 0, own_b1 - 1)
        weight_bmn = nn.relu(1 - jnp.abs(place_bm[..., None]
                                         - jnp.arange(n, dtype=jnp.float32)[None, None]))
        x_bhwc = jnp.einsum(letters, weight_bmn.astype(x_bhwc.dtype), x_bhwc,
                            precision=jax.lax.Precision.HIGHEST)
    return x_bhwc
