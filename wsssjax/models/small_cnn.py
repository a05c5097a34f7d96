"""A small residual network, made to learn classes and places on a CPU from a few hundred photos.

Dense 3x3 convolutions (what XLA runs fast on a CPU) and no norm between them: each kernel is kept
at zero mean and unit length instead, times a learnt gain (weight standardisation; Qiao and others
2019, Brock and others 2021). So nothing is kept beside the parameters, no row of a batch sees
another, a step costs a quarter less than with group norm, and the mean of a feature map still says
how much of it is there, which group norm takes away just before the scores are pooled: 400 steps on
450 drawn scenes left the loss at 0.39 with group norm, at 0.29 without (0.49: class frequencies).
`features` lie at stride 8: at 96 pixels the class maps are 12 x 12. Behind stride 8 kernels are
spread instead of the image being shrunk.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from wsssjax.models import layers

WIDTHS = (24, 48, 96, 128)  # of stem, and of the stages at stride 4, 8 and last
_RELU_GAIN = 2.0**0.5  # what a ReLU takes off the size of its input


class StandardConv(nn.Module):
    """A 3x3 (or 1x1) convolution whose kernels have zero mean and unit length, times a gain."""

    width: int
    size: int = 3
    stride: int = 1
    dilation: int = 1
    gain: float = 1.0  # initial
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x_bhwc):
        inputs = x_bhwc.shape[-1]
        kernel = self.param("kernel", layers.he_uniform(inputs * self.size**2),
                            (self.size, self.size, inputs, self.width))
        gain = self.param("gain", nn.initializers.constant(self.gain), (self.width,))
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        kernel = kernel - kernel.mean((0, 1, 2), keepdims=True)
        length = lax.rsqrt(jnp.square(kernel).sum((0, 1, 2), keepdims=True) + 1e-8)
        kernel = (kernel * length * layers.on_channels(gain * _RELU_GAIN)).astype(self.dtype)
        if self.size == 1:
            x = layers.pointwise(x_bhwc[:, :: self.stride, :: self.stride], kernel[0, 0])
        else:
            x = lax.conv_general_dilated(
                x_bhwc, kernel, (self.stride,) * 2, ((self.dilation,) * 2,) * 2,
                rhs_dilation=(self.dilation,) * 2, dimension_numbers=layers.DIMENSIONS)
        return x + layers.on_channels(bias, self.dtype)


class Residual(nn.Module):
    """relu(shortcut + two 3x3 convolutions); the second starts small, near the identity."""

    width: int
    stride: int = 1
    dilation: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x_bhwc):
        x = StandardConv(self.width, 3, self.stride, self.dilation, dtype=self.dtype,
                         name="conv1")(x_bhwc)
        x = StandardConv(self.width, 3, 1, self.dilation, 0.2, self.dtype, name="conv2")(nn.relu(x))
        if x.shape != x_bhwc.shape:
            x_bhwc = StandardConv(self.width, 1, self.stride, dtype=self.dtype,
                                  name="shortcut")(x_bhwc)
        return nn.relu(x + x_bhwc)


def _mean_of_blocks(x_bhwc, side: int):
    """x averaged over side x side blocks; those that hang over the border count what is inside."""
    return nn.avg_pool(x_bhwc, (side, side), (side, side), "SAME", count_include_pad=False)


class SmallCNN(nn.Module):
    """(logits [b, k], aux). aux: tap0..tap3 at strides 4, 8, 16, 32, `features` [b, p, q, d].

    Images are float [b, h, w, 3], normalised. The second tap joins the middle and the last map at
    stride 8, so that a head on frozen features gets the deepest ones at full resolution; the third
    and fourth are the last map averaged over 2 x 2 and 4 x 4 blocks. Without classes the first
    result is the mean feature.
    output_stride: of `features`, 8 or 16. 16 makes a step a third cheaper and the maps half as
    fine; the second tap is then the middle map alone.
    """

    num_classes: int = 0
    output_stride: int = 8
    widths: tuple[int, int, int, int] = WIDTHS
    dtype: jnp.dtype = jnp.float32

    tap_strides = (4, 8, 16, 32)

    @property
    def tap_widths(self) -> tuple[int, int, int, int]:
        _, fine, middle, last = self.widths
        return (fine, middle + last if self.output_stride == 8 else middle, last, last)

    @property
    def feature_width(self) -> int:
        return self.widths[3]

    @nn.compact
    def __call__(self, image_bhwc, *, train: bool):
        del train  # no dropout, no batch statistics: one function for both
        if self.output_stride not in (8, 16):
            raise ValueError(f"output_stride {self.output_stride}: want 8 or 16")
        stem, fine, middle, last = self.widths
        x = StandardConv(stem, 3, 2, dtype=self.dtype, name="stem")(image_bhwc.astype(self.dtype))
        tap0 = Residual(fine, 2, dtype=self.dtype, name="block1")(nn.relu(x))
        x = Residual(middle, 2, dtype=self.dtype, name="block2")(tap0)
        mid = Residual(middle, dtype=self.dtype, name="block3")(x)
        stride = self.output_stride // 8
        x = Residual(last, stride, 2 // stride, dtype=self.dtype, name="block4")(mid)
        x = Residual(last, 1, 2 // stride, dtype=self.dtype, name="block5")(x)
        at16 = _mean_of_blocks(x, 2) if stride == 1 else x
        aux = {
            "tap0": tap0,
            "tap1": jnp.concatenate([mid, x], -1) if stride == 1 else mid,
            "tap2": at16,
            "tap3": _mean_of_blocks(at16, 2),
            "features": x,
        }
        logits = x.astype(jnp.float32).mean((1, 2))
        if self.num_classes:
            logits = nn.Dense(self.num_classes, name="fc")(logits)
        return logits, aux
