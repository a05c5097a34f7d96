"""The DPT head: four feature maps, finest last added, become one map of class scores.

Names mirror the reference's tree (`head.scratch.refinenet1.resConfUnit2.conv1.weight` is
`head/scratch/refinenet1/resConfUnit2/conv1/kernel`). As in UniMatch V2 there is neither norm nor
dropout, every resize is corner-aligned, and initialisation is PyTorch's default. Two differences,
neither of which changes the function: a block's 1x1 `out_conv` runs before the resize instead of
after it (they commute, and it is four times cheaper), and the resize layers of the original, made
for maps of one resolution, are left out where a map already lies at its level's stride.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from wsssjax.core.resize import resize_corners
from wsssjax.models.layers import TorchConv, TorchUpsample

CHANNELS = {  # width of the head: widths of the four projections; other widths follow 64
    64: (48, 96, 192, 384),
    128: (96, 192, 384, 768),
    256: (256, 512, 1024, 1024),
    384: (1536, 1536, 1536, 1536),
}


def channels(width: int) -> tuple[int, ...]:
    """The reference's projection widths for a head of this width, or the same ratios for others."""
    if width < 4 or width % 4:
        raise ValueError(f"head_width {width}: want a multiple of 4, such as 24 or 64")
    return CHANNELS.get(width, tuple(width * n // 4 for n in (3, 6, 12, 24)))


class ResidualConvUnit(nn.Module):
    """x + conv(relu(conv(relu(x)))), widths unchanged."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_bhwc):
        width = x_bhwc.shape[-1]
        x = TorchConv(width, 3, dtype=self.dtype, name="conv1")(nn.relu(x_bhwc))
        x = TorchConv(width, 3, dtype=self.dtype, name="conv2")(nn.relu(x))
        return x_bhwc + x


class Fusion(nn.Module):
    """The coarser map plus the skip of this level, resampled to `size`."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_bhwc, skip_bhwc, size: tuple[int, int]):
        unit = ResidualConvUnit(self.dtype, name="resConfUnit1")
        if skip_bhwc is not None:
            x_bhwc = x_bhwc + unit(skip_bhwc)
        elif self.is_initializing():
            unit(x_bhwc)  # the coarsest level owns this unit too, as in the reference, unused
        x = ResidualConvUnit(self.dtype, name="resConfUnit2")(x_bhwc)
        x = TorchConv(x.shape[-1], dtype=self.dtype, name="out_conv")(x)
        return resize_corners(x, size)


class Scratch(nn.Module):
    """Fuses four maps from coarse to fine; scores at twice the resolution of the finest."""

    num_classes: int
    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array]):
        levels = [TorchConv(self.width, 3, bias=False, dtype=self.dtype, name=f"layer{i + 1}_rn")(x)
                  for i, x in enumerate(maps)]
        x, skip = levels[3], None
        for i in (3, 2, 1, 0):
            h, w = levels[i].shape[1:3]
            size = levels[i - 1].shape[1:3] if i else (2 * h, 2 * w)
            x = Fusion(self.dtype, name=f"refinenet{i + 1}")(x, skip, size)
            skip = levels[i - 1]
        x = nn.relu(TorchConv(self.width, 3, dtype=self.dtype, name="output_conv_0")(x))
        return TorchConv(self.num_classes, dtype=self.dtype, name="output_conv_2")(x)


class DPTHead(nn.Module):
    """Class scores float32 [b, h, w, k] from four feature maps, at the size that is asked for;
    None: at twice the size of the first map.

    tap_strides: pixels of the image per pixel of each map. Relative to the third map, the levels
    are wanted at strides 1/4, 1/2, 1 and 2; maps that are coarser get a transposed convolution, a
    fourth map that is finer a convolution of stride 2. (14, 14, 14, 14) is the original, and
    nothing needs resizing at (4, 8, 16, 32).
    """

    num_classes: int
    width: int
    tap_channels: tuple[int, int, int, int]
    tap_strides: tuple[int, int, int, int]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, taps: Sequence[jax.Array], size_hw: tuple[int, int] | None, *,
                 train: bool = False):
        del train  # nothing in it differs
        maps = []
        for i, tap in enumerate(taps):
            x = TorchConv(self.tap_channels[i], dtype=self.dtype, name=f"projects_{i}")(tap)
            maps.append(self._to_level(x, i))
        scratch = Scratch(self.num_classes, self.width, self.dtype, name="scratch")
        logits = scratch(maps).astype(jnp.float32)
        return logits if size_hw is None else resize_corners(logits, size_hw)

    def _to_level(self, x_bhwc, i: int):
        wanted = self.tap_strides[2] * (1 / 4, 1 / 2, 1, 2)[i]
        ratio = self.tap_strides[i] / wanted
        width, name = x_bhwc.shape[-1], f"resize_layers_{i}"
        if ratio == 1:
            return x_bhwc
        if ratio == 0.5:
            return TorchConv(width, 3, stride=2, dtype=self.dtype, name=name)(x_bhwc)
        if ratio in (2, 4):
            return TorchUpsample(width, int(ratio), dtype=self.dtype, name=name)(x_bhwc)
        raise ValueError(f"tap_strides {self.tap_strides}: map {i} is {ratio:g} times as coarse as "
                         "its level; want 1/2, 1, 2 or 4")


def from_torch(tensors: dict[str, np.ndarray], prefix: str = "") -> dict[str, np.ndarray]:
    """Weights under our flat names from a PyTorch state dict of the head.

    tensors: names such as `scratch.layer1_rn.weight`, values numpy.  prefix: what our names start
    with, such as "params/head/". The result is float32.
    """
    flat = {}
    for name, value in tensors.items():
        *path, kind = name.split(".")
        joined = "/".join(path)
        for group in ("projects", "resize_layers", "output_conv"):
            joined = joined.replace(f"{group}/", f"{group}_")
        value = np.asarray(value, np.float32)
        if kind == "weight" and value.ndim == 4:
            # [out, in, k, k], but [in, out, k, k] where the layer enlarges (always even kernels)
            enlarges = value.shape[-1] in (2, 4)
            kind, value = "kernel", value.transpose((0, 2, 3, 1) if enlarges else (2, 3, 1, 0))
        elif kind != "bias" or value.ndim != 1:
            raise ValueError(f"{name} {list(value.shape)}: no tensor of a DPT head")
        flat[f"{prefix}{joined}/{kind}"] = np.ascontiguousarray(value)
    return flat


def to_torch(flat: dict[str, np.ndarray], prefix: str = "") -> dict[str, np.ndarray]:
    """The PyTorch state dict of the head from our flat names; the inverse of `from_torch`."""
    tensors = {}
    for name, value in flat.items():
        *path, kind = name.removeprefix(prefix).split("/")
        joined = ".".join(path)
        for group in ("projects", "resize_layers", "output_conv"):
            joined = joined.replace(f"{group}_", f"{group}.")
        value = np.asarray(value, np.float32)
        if kind == "kernel":
            enlarges = path[-1] in ("resize_layers_0", "resize_layers_1")
            kind, value = "weight", value.transpose((0, 3, 1, 2) if enlarges else (3, 2, 0, 1))
        tensors[f"{joined}.{kind}"] = np.ascontiguousarray(value)
    return tensors
