"""The network of AffinityNet: three feature maps of an encoder, narrowed and joined at stride 8.

Names mirror the published PyTorch tree (`f8_3.weight` is `head/f8_3/kernel`).
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from wsssjax.core import weights
from wsssjax.core.resize import resize_half_pixel
from wsssjax.models import layers, registry, resnet38

WIDTHS = (64, 128, 256)  # of what becomes of the three maps; together those of the features
HEAD = ("f8_3", "f8_4", "f8_5", "f9")
_OTHER_TAPS = ("tap1", "tap2", "features")
TAPS = {"resnet38": ("b5", "b6", "features")}  # as published; of other encoders _OTHER_TAPS
_XAVIER_GAIN = 4.0


class Narrow(nn.Module):
    """ELU of a 1x1 convolution without bias."""

    width: int
    xavier: bool = False  # Xavier uniform with gain 4 instead of Kaiming normal
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x_bhwc):
        inputs = x_bhwc.shape[-1]
        init = layers.normal((2 / inputs) ** 0.5)
        if self.xavier:
            init = layers.uniform(_XAVIER_GAIN * (6 / (inputs + self.width)) ** 0.5)
        kernel = self.param("kernel", init, (inputs, self.width)).astype(self.dtype)
        return nn.elu(layers.pointwise(x_bhwc.astype(self.dtype), kernel))


class Head(nn.Module):
    """Features [b, p, q, sum of widths] from three maps, the first of them at stride 8.

    Maps at stride 16 are enlarged after their convolution: ours, since ResNet-38 has none of them.
    """

    widths: tuple[int, int, int] = WIDTHS
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, maps):
        size, parts = maps[0].shape[1:3], []
        for x, width, name in zip(maps, self.widths, HEAD, strict=False):
            x = Narrow(width, dtype=self.dtype, name=name)(x)
            parts.append(_to_size(x, size))
        x = jnp.concatenate(parts, -1)
        return Narrow(x.shape[-1], xavier=True, dtype=self.dtype, name=HEAD[3])(x)


def _to_size(x_bhwd, size):
    """x itself, or twice as large and cut: a map at stride 16 of an odd number of rows at stride 8
    reaches half a pixel beyond them."""
    h, w = x_bhwd.shape[1:3]
    if (h, w) == tuple(size):
        return x_bhwd
    if (-(-size[0] // 2), -(-size[1] // 2)) != (h, w):
        raise ValueError(f"feature maps of {size[0]} x {size[1]} and {h} x {w}: want strides 8 and "
                         "16; set config.model.output_stride=16")
    return resize_half_pixel(x_bhwd, (2 * h, 2 * w))[:, : size[0], : size[1]]


class AffinityNet(nn.Module):
    """(features float32 [b, p, q, 448], {}) at stride 8. Images are float [b, h, w, 3], normalised.

    taps: names of the maps in the encoder's `aux` that the head reads.
    """

    backbone: nn.Module
    taps: tuple[str, str, str]
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.head = Head(dtype=self.dtype)

    def __call__(self, image_bhwc, *, train: bool):
        _, aux = self.backbone(image_bhwc, train=train)
        x = self.head([aux[tap] for tap in self.taps])
        return x.astype(jnp.promote_types(x.dtype, jnp.float32)), {}


def build(config: Any) -> AffinityNet:
    """The network on the encoder of config.model."""
    taps = TAPS.get(config.encoder, _OTHER_TAPS)
    return AffinityNet(registry.build_encoder(config), taps, registry.DTYPES[config.dtype])


def from_torch(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our flat names from the state dict of a published AffinityNet on ResNet-38.

    tensors: numpy, any float dtype; the result is float32.
    """
    head, rest = {}, {}
    for full, value in tensors.items():
        layer = full.removeprefix("module.").removesuffix(".weight")
        if layer in HEAD and np.ndim(value) == 4:
            kernel_cd = np.asarray(value, np.float32)[:, :, 0, 0].T
            head[f"params/head/{layer}/kernel"] = np.ascontiguousarray(kernel_cd)
        else:
            rest[full] = value
    return weights.under("backbone", resnet38.from_torch(rest)) | head
