"""EfficientNet-Lite0: mobile inverted bottlenecks with ReLU6, no squeeze-and-excitation.

Parameters mirror the PyTorch tree (`_blocks.3._depthwise_conv.weight` is
`blocks_3/depthwise_conv/kernel`), batch statistics lie in the collection `batch_stats` and are
always the stored ones: train mode and evaluation mode are the same function. Every batch norm is
folded into its convolution as the network runs, so training its scale costs no pass over the image.
Padding is TensorFlow's "SAME" at every image size, as the weights were trained with.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import lax

from wsssjax.models import layers, torch_names

INPUT_MEAN = (127 / 255,) * 3  # of RGB in 0..1: the weights want (x - 127) / 128
INPUT_STD = (128 / 255,) * 3
TAP_WIDTHS = (24, 40, 112, 320)
FEATURE_WIDTH = 1280
_EPSILON = 1e-3


class _Block(NamedTuple):
    expand: int  # factor by which the inner layer is wider than the input
    width: int
    size: int  # side of the depthwise kernel
    stride: int


def _block_list() -> list[_Block]:
    stages = [(1, 1, 16, 3, 1), (2, 6, 24, 3, 2), (2, 6, 40, 5, 2), (3, 6, 80, 3, 2),
              (3, 6, 112, 5, 1), (4, 6, 192, 5, 2), (1, 6, 320, 3, 1)]
    return [_Block(expand, width, size, stride if i == 0 else 1)
            for repeats, expand, width, size, stride in stages for i in range(repeats)]


BLOCKS = tuple(_block_list())
_TAPPED = (2, 4, 10, 15)  # last block of strides 4, 8, 16, 32


class StoredNorm(nn.Module):
    """(scale_d, shift_d) of a batch norm on stored statistics, for folding into a convolution."""

    width: int

    @nn.compact
    def __call__(self):
        scale = self.param("scale", nn.initializers.ones, (self.width,))
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        mean = self.variable("batch_stats", "mean", jnp.zeros, (self.width,)).value
        var = self.variable("batch_stats", "var", jnp.ones, (self.width,)).value
        scale = scale * lax.rsqrt(var + _EPSILON)
        return scale, bias - mean * scale


class FoldedConv(nn.Module):
    """A bias-free convolution with the scale and shift of the norm behind it folded in."""

    width: int
    size: int = 1
    stride: int = 1
    depthwise: str = ""  # "" for a dense kernel, else the `form` of layers.depthwise
    dilation: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x_bhwc, scale_d, shift_d):
        inputs = 1 if self.depthwise else x_bhwc.shape[-1]
        kernel = self.param("kernel", layers.he_uniform(inputs * self.size**2),
                            (self.size, self.size, inputs, self.width))
        kernel = (kernel * layers.on_channels(scale_d)).astype(self.dtype)
        x = x_bhwc.astype(self.dtype)
        if self.depthwise:
            y = layers.depthwise(x, kernel[:, :, 0], self.stride, self.dilation, self.depthwise)
        elif self.size == 1:
            y = layers.pointwise(x, kernel[0, 0])
        else:
            y = lax.conv_general_dilated(x, kernel, (self.stride,) * 2, "SAME",
                                         dimension_numbers=layers.DIMENSIONS)
        return y + layers.on_channels(shift_d, self.dtype)


class Bottleneck(nn.Module):
    """One block: widen 1x1, filter each channel, narrow 1x1, and add the input where it fits."""

    block: _Block
    dilation: int
    depthwise: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_bhwc):
        expand, width, size, stride = self.block
        inner = x_bhwc.shape[-1] * expand
        x = x_bhwc
        if expand != 1:
            norm = StoredNorm(inner, name="bn0")()
            x = nn.relu6(FoldedConv(inner, dtype=self.dtype, name="expand_conv")(x, *norm))
        norm = StoredNorm(inner, name="bn1")()
        x = nn.relu6(FoldedConv(inner, size, stride, self.depthwise, self.dilation, self.dtype,
                                name="depthwise_conv")(x, *norm))
        norm = StoredNorm(width, name="bn2")()
        x = FoldedConv(width, dtype=self.dtype, name="project_conv")(x, *norm)
        return x + x_bhwc if stride == 1 and x.shape == x_bhwc.shape else x


class EfficientNetLite0(nn.Module):
    """(logits [b, k], aux). aux: tap0..tap3 at strides 4, 8, 16, 32 and `features` [b, p, q, 1280].

    Images are float [b, h, w, 3], normalised by INPUT_MEAN and INPUT_STD. Without classes the
    first result is the mean feature [b, 1280].
    output_stride: 16 leaves out the last stride, so that tap3 and `features` lie at stride 16.
    dilate: spread the kernels behind that place, so that each unit sees what it was trained on.
    depthwise: "auto", "shift" or "grouped" (`layers.depthwise`).
    """

    num_classes: int = 0
    output_stride: int = 32
    dilate: bool = True
    depthwise: str = "auto"
    dtype: jnp.dtype = jnp.float32

    tap_widths = TAP_WIDTHS
    feature_width = FEATURE_WIDTH

    @property
    def tap_strides(self) -> tuple[int, int, int, int]:
        return (4, 8, 16, self.output_stride)

    @nn.compact
    def __call__(self, image_bhwc, *, train: bool):
        del train  # stored statistics, no dropout: one function for both
        if self.output_stride not in (16, 32):
            raise ValueError(f"output_stride {self.output_stride}: want 16 or 32")
        stem = StoredNorm(32, name="bn0")()
        x = nn.relu6(FoldedConv(32, 3, 2, dtype=self.dtype, name="conv_stem")(image_bhwc, *stem))
        aux, stride, dilation = {}, 2, 1
        for index, block in enumerate(BLOCKS):
            this_dilation = dilation
            if stride * block.stride > self.output_stride:
                if self.dilate:  # the block itself still reads undilated input
                    dilation *= block.stride
                block = block._replace(stride=1)
            stride *= block.stride
            x = Bottleneck(block, this_dilation, self.depthwise, self.dtype,
                           name=f"blocks_{index}")(x)
            if index in _TAPPED:
                aux[f"tap{_TAPPED.index(index)}"] = x
        norm = StoredNorm(FEATURE_WIDTH, name="bn1")()
        x = nn.relu6(FoldedConv(FEATURE_WIDTH, dtype=self.dtype, name="conv_head")(x, *norm))
        aux["features"] = x
        logits = x.astype(jnp.float32).mean((1, 2))
        if self.num_classes:
            logits = nn.Dense(self.num_classes, name="fc")(logits)
        return logits, aux


def from_torch(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights under our flat names (`params/conv_stem/kernel`) from a PyTorch state dict.

    tensors: numpy, any float dtype; the result is float32. A name of unknown form is a ValueError;
    whether names are missing is seen when the result is restored into the network.
    """
    flat = {}
    for name, value in tensors.items():
        *path, kind = name.split(".")
        if kind == "num_batches_tracked":
            continue
        if len(path) == 3 and path[0] == "_blocks":
            path = [f"blocks_{path[1]}", path[2]]
        path = [part.removeprefix("_") for part in path]
        value = np.asarray(value, np.float32)
        leaf = torch_names.leaf(kind, value.ndim)
        if not leaf:
            raise ValueError(f"{name} {list(value.shape)}: no tensor of an EfficientNet-Lite")
        top = "batch_stats" if kind in torch_names.STATISTICS else "params"
        flat["/".join([top, *path, leaf])] = torch_names.moved(value)
    return flat


def build(config) -> EfficientNetLite0:
    """The network of `config.model`, without its classes."""
    return EfficientNetLite0(output_stride=config.output_stride, dtype=config.dtype)
