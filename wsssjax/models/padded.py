"""Networks on photos of many sizes in one padded batch, as exact as each photo on its own.

A convolution sees zeros outside of a photo. In a batch whose photos are padded to one size, it sees
whatever the layers before made of the padding instead (a bias, for instance). `inside` therefore
sets each convolution's and pooling's input to zero beyond its photo's own rows and columns, so that
few compiled sizes serve all photos. Right for networks that pad every layer by half a kernel on
both sides, as PyTorch's do: then ceil(side / stride) features belong to a photo. (EfficientNet's
"SAME" pads by the parity of the side.)
"""

from __future__ import annotations

import contextlib

import flax.linen as nn
import jax.numpy as jnp


def mask(x_bhwc, size_b2, padded_hw: tuple[int, int]):
    """x with zeros beyond each photo's own pixels.

    size_b2: int32, rows and columns of each photo.  padded_hw: what they are padded to, of which
    the sides of x are the same part, rounded up.
    """
    keep = []
    for axis in (0, 1):
        n = x_bhwc.shape[1 + axis]
        stride = -(-padded_hw[axis] // n)
        own_b = -(-size_b2[:, axis] // stride)
        keep.append(jnp.arange(n)[None] < own_b[:, None])
    inside_bhw = keep[0][:, :, None] & keep[1][:, None, :]
    return jnp.where(inside_bhw[..., None], x_bhwc, jnp.zeros((), x_bhwc.dtype))


@contextlib.contextmanager
def inside(size_b2, padded_hw: tuple[int, int]):
    """Within it, layers that look beyond a pixel see zeros outside of each photo."""
    def intercept(call, args, kwargs, context):
        if context.method_name == "__call__" and getattr(context.module, "reaches", False):
            args = (mask(args[0], size_b2, padded_hw), *args[1:])
        return call(*args, **kwargs)

    with nn.intercept_methods(intercept):
        yield
