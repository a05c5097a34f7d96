"""VGG-16 as DeepLab uses it: stride 8, the last three convolutions dilated.

Simonyan and Zisserman, "Very Deep Convolutional Networks", 2015, changed as Chen et al. (DeepLab,
2015) and AffinityNet change it: all pools are 3x3 with padding 1, of which the last two have stride
1, and the convolutions behind the fourth look two pixels far. The weights are those of the plain
network, so names mirror torchvision's (`features.24.weight` is `features_24/kernel`). Its three
linear layers are no part of the encoder; `models/deeplab.py` has the layers in their place.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import lax

from wsssjax.core.config import choose
from wsssjax.models import layers, padded, torch_names

STAGES = (  # name, width, number of convolutions, stride of the pool behind them, dilation
    ("conv1", 64, 2, 2, 1), ("conv2", 128, 2, 2, 1), ("conv3", 256, 3, 2, 1),
    ("conv4", 512, 3, 1, 1), ("conv5", 512, 3, 1, 2),
)
TAPS = ("conv2", "conv3", "conv4")  # stages whose result tap0..tap2 are, before their pools


class VGG16(nn.Module):
    """(pooled float32 [b, d], aux). aux, all after ReLU: tap0..tap2 at strides 2, 4 and 8, what the
    second, third and fourth stage give before their pools, and `features`, tap3 again, [b, p, q,
    512] at stride 8.

    Images are float [b, h, w, 3], normalised as the weights were trained with; maps are
    ceil(side / stride) long.
    pool5: the last pool, too, of stride 1, before `features` (DeepLab; AffinityNet leaves it out).
    freeze_below: no gradient reaches the layers before this stage ("conv3" in AffinityNet), "" to
    train them all. Give them an lr factor of 0 as well, since weight decay needs no gradient.
    width: factor on all channel counts; below 1 for tests.
    """

    pool5: bool = True
    freeze_below: str = ""
    width: float = 1.0
    dtype: jnp.dtype = jnp.float32

    tap_strides = (2, 4, 8, 8)

    @property
    def tap_widths(self) -> tuple[int, int, int, int]:
        return tuple(self._scaled(d) for d in (128, 256, 512, 512))

    @property
    def feature_width(self) -> int:
        return self._scaled(512)

    @property
    def own_side(self) -> Callable:
        return padded.plain

    def _scaled(self, channels: int) -> int:
        return max(2, round(channels * self.width))

    @nn.compact
    def __call__(self, image_bhwc, *, train: bool):
        del train  # neither norm nor dropout: one function for both
        names = ("", *(name for name, *_ in STAGES))
        choose(dict.fromkeys(names), self.freeze_below, "vgg freeze_below")
        x, aux, place = image_bhwc, {}, 0  # place: torchvision counts ReLUs and pools, too
        for name, width, repeats, stride, dilation in STAGES:
            if name == self.freeze_below:
                x = lax.stop_gradient(x)
            for _ in range(repeats):
                conv = layers.TorchConv(
                    self._scaled(width), 3, dtype=self.dtype, dilation=dilation,
                    kernel_init=layers.kaiming_normal,
                    bias_init=nn.initializers.zeros, name=f"features_{place}")
                x, place = nn.relu(conv(x)), place + 2
            if name in TAPS:
                aux[f"tap{TAPS.index(name)}"] = x
            if name != STAGES[-1][0] or self.pool5:
                x = layers.MaxPool(stride, name=f"features_{place}")(x)
            place += 1
        aux["tap3"] = aux["features"] = x
        return x.astype(jnp.promote_types(x.dtype, jnp.float32)).mean((1, 2)), aux


# ---- weights -----------------------------------------------------------------------------------


def from_torch(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights under our flat names (`params/features_0/kernel`) from torchvision's state dict.

    tensors: numpy, any float dtype, with or without "module." in front; the result is float32. The
    linear layers (`classifier.`) are passed over; a name of unknown form is a ValueError. Whether
    names are missing is seen when the result is restored.
    """
    flat = {}
    for full, value in tensors.items():
        name = full.removeprefix("module.")
        if name.startswith("classifier."):
            continue
        value = np.asarray(value, np.float32)
        known = re.fullmatch(r"features\.(\d+)\.(weight|bias)", name)
        if not known or value.ndim != {"weight": 4, "bias": 1}[known[2]]:
            raise ValueError(f"{full} {list(value.shape)}: no tensor of a VGG-16 without batch "
                             "norm")
        leaf = torch_names.leaf(known[2], value.ndim)
        flat[f"params/features_{known[1]}/{leaf}"] = torch_names.moved(value)
    return flat
