"""ResNet-50 and ResNet-101: the residual networks of IRN, MARS and the DeepLab segmenters.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, as torchvision builds it: the
stride of a block on its 3x3 convolution. Names mirror torchvision's (`layer3.0.conv2.weight` is
`layer3_0/conv2/kernel`). Publications differ in what they do about the last strides and in what of
the norms learns; both are fields.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import lax

from wsssjax.core.config import choose
from wsssjax.models import padded, torch_names
from wsssjax.models.layers import KaimingConv as Conv
from wsssjax.models.layers import MaxPool
from wsssjax.models.norms import MODES, BatchNorm

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}  # by depth
STAGES = ("layer1", "layer2", "layer3", "layer4")
STRIDES = {8: (1, 2, 1, 1), 16: (1, 2, 2, 1), 32: (1, 2, 2, 2)}  # of the stages, by output stride
DILATIONS = ("none", "all", "rest", "late")
LAYOUTS = ("torchvision", "caffe")
HEADS = ("fc", "classifier")  # of networks that classify; no part of the encoder
_EXPANSION = 4
_EPSILON = 1e-5


def _of(table: dict, value: int, field: str):
    if value not in table:
        raise ValueError(f"resnet {field} {value}: want one of {', '.join(map(str, table))}")
    return table[value]


class Bottleneck(nn.Module):
    """x after 1x1, 3x3 and 1x1 convolutions beside a shortcut.

    width: channels of the 3x3 convolution, a quarter of the block's.  project: the shortcut is a
    convolution, too.  early: the stride lies on the first convolution, not on the 3x3.
    """

    width: int
    stride: int
    dilation: int
    project: bool
    norm: str
    early: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x_bhwc, *, train: bool):
        def normed(name, x):
            return BatchNorm(self.norm, _EPSILON, name=name)(x, train=train)

        first, second = (self.stride, 1) if self.early else (1, self.stride)
        width, wide = self.width, self.width * _EXPANSION
        x = Conv(width, 1, first, dtype=self.dtype, name="conv1")(x_bhwc)
        x = nn.relu(normed("bn1", x))
        x = Conv(width, 3, second, dilation=self.dilation, dtype=self.dtype, name="conv2")(x)
        x = nn.relu(normed("bn2", x))
        x = normed("bn3", Conv(wide, 1, dtype=self.dtype, name="conv3")(x))
        if self.project:
            short = Conv(wide, 1, self.stride, dtype=self.dtype, name="downsample_0")(x_bhwc)
            x_bhwc = normed("downsample_1", short)
        return nn.relu(x + x_bhwc)


class ResNet(nn.Module):
    """(pooled float32 [b, d], aux). aux: tap0..tap3, what the four stages give after their last
    ReLU, and `features`, tap3 again, [b, p, q, 2048].

    Images are float [b, h, w, 3], normalised by ImageNet's mean and deviation; maps are
    ceil(side / stride) long.
    depth: 50 or 101.
    output_stride: pixels per feature, 32 (none removed), 16 (layer4 at stride 1) or 8 (layer3 too).
    dilation: what the 3x3 convolutions do where a stride was removed
        none  nothing (IRN)
        all   all blocks of the stage look 2 (and behind a second removed stride 4) pixels far
        rest  all but the first block of a stage, which looks 1 pixel far (RS+EPM, MARS)
        late  the first block of a stage looks as far as the stage before (torchvision's DeepLab)
    norm: "batch", "stored" or "frozen" (norms.BatchNorm).
    freeze_below: no gradient reaches the layers before this stage ("layer3" in IRN: their
    activations need not be kept), "" to train them all. Give them an lr factor of 0 as well, since
    weight decay needs no gradient.
    layout: "torchvision", or "caffe": the stride of a block on its first convolution and a max pool
    that rounds up (DeepLab v2). Even sides then give one feature more.
    width: factor on all channel counts; below 1 for tests.
    """

    depth: int = 50
    output_stride: int = 32
    dilation: str = "none"
    norm: str = "batch"
    freeze_below: str = ""
    layout: str = "torchvision"
    width: float = 1.0
    dtype: jnp.dtype = jnp.float32

    @property
    def tap_strides(self) -> tuple[int, int, int, int]:
        strides = _of(STRIDES, self.output_stride, "output_stride")
        return tuple(int(n) for n in 4 * np.cumprod(strides))

    @property
    def tap_widths(self) -> tuple[int, int, int, int]:
        return tuple(_EXPANSION * self._scaled(64 << stage) for stage in range(len(STAGES)))

    @property
    def feature_width(self) -> int:
        return self.tap_widths[-1]

    @property
    def own_side(self) -> Callable:
        return padded.caffe if self.layout == "caffe" else padded.plain

    def _scaled(self, channels: int) -> int:
        return max(2, round(channels * self.width))

    def _block_dilations(self, strides) -> list[tuple[int, int]]:
        """Per stage the dilation of its first block and that of the others."""
        found, before = [], 1
        for stride, plain in zip(strides, STRIDES[32], strict=True):
            now = 1 if self.dilation == "none" else before * plain // stride
            first = {"rest": 1, "late": before}.get(self.dilation, now)
            found.append((first, now))
            before = now
        return found

    @nn.compact
    def __call__(self, image_bhwc, *, train: bool):
        blocks = _of(BLOCKS, self.depth, "depth")
        strides = _of(STRIDES, self.output_stride, "output_stride")
        for field, names in (("dilation", DILATIONS), ("norm", MODES), ("layout", LAYOUTS),
                             ("freeze_below", ("", *STAGES))):
            choose(dict.fromkeys(names), getattr(self, field), f"resnet {field}")
        caffe = self.layout == "caffe"
        x = Conv(self._scaled(64), 7, 2, dtype=self.dtype, name="conv1")(image_bhwc)
        x = nn.relu(BatchNorm(self.norm, _EPSILON, name="bn1")(x, train=train))
        x = MaxPool(ceil=caffe, name="maxpool")(x)
        aux = {}
        for index, (stage, dilations) in enumerate(
                zip(STAGES, self._block_dilations(strides), strict=True)):
            if stage == self.freeze_below:
                x = lax.stop_gradient(x)
            for block in range(blocks[index]):
                x = Bottleneck(
                    self._scaled(64 << index), strides[index] if block == 0 else 1,
                    dilations[block > 0], block == 0, self.norm, caffe, self.dtype,
                    name=f"{stage}_{block}")(x, train=train)
            aux[f"tap{index}"] = x
        aux["features"] = x
        return x.astype(jnp.promote_types(x.dtype, jnp.float32)).mean((1, 2)), aux


# ---- weights -----------------------------------------------------------------------------------

_LAYER = re.compile(r"(conv|bn)1|layer[1-4]\.\d+\.((conv|bn)[1-3]|downsample\.[01])")
# IRN's network holds each layer under several names: its backbone, then as stages of two kinds.
_STEM = {"0": "conv1", "1": "bn1"}


def _plain_name(full: str) -> str:
    """A name as torchvision has it."""
    name = re.sub(r"^((module|encoder|backbone|resnet(50|101))\.(?!\d))+", "", full)
    name = re.sub(r"^backbone\.(\d)\.", lambda m: f"stage{int(m[1]) + 1}.", name)
    name = re.sub(r"^newly_added\.0\.", "classifier.", name)
    if stem := re.fullmatch(r"stage1\.([01])\.(\w+)", name):
        return f"{_STEM[stem[1]]}.{stem[2]}"
    name = re.sub(r"^stage1\.4\.", "layer1.", name)
    return re.sub(r"^stage([234])\.0\.", r"layer\1.", name)


def passed_over(tensors) -> list[str]:
    """Names that `from_torch` reads nothing from: heads, and the further names of a layer."""
    seen, found = set(), []
    for full in tensors:
        name = _plain_name(full)
        if name in seen or name.rpartition(".")[0] in HEADS:
            found.append(full)
        seen.add(name)
    return found


def from_torch(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights under our flat names (`params/layer3_0/conv2/kernel`) from a PyTorch state dict.

    tensors: numpy, any float dtype, in torchvision's names or those of IRN's network, which holds
    each layer several times; the result is float32. The prefixes "module.", "encoder.", "backbone."
    and "resnet50.", in any number, are taken off; batch counters and the heads (HEADS) are passed
    over; a name of unknown form, or two values of one layer, are a ValueError. Whether names are
    missing is seen when the result is restored. Scale and bias of norms come as parameters;
    `registry.place_norms` takes them to where a network with frozen norms has them.
    """
    flat = {}
    for full, value in tensors.items():
        name = _plain_name(full)
        layer, _, kind = name.rpartition(".")
        if kind == "num_batches_tracked" or layer in HEADS:
            continue
        value = np.asarray(value, np.float32)
        known = _LAYER.fullmatch(layer)
        is_conv = "conv" in layer or layer.endswith("downsample.0")
        leaf = torch_names.leaf(kind, value.ndim)
        if not known or not leaf or is_conv != (leaf == "kernel"):
            raise ValueError(f"{full} {list(value.shape)}: no tensor of a ResNet-50 or -101")
        top = "batch_stats" if kind in torch_names.STATISTICS else "params"
        path = re.sub(r"(layer\d|downsample)\.", r"\1_", layer).replace(".", "/")
        path, value = f"{top}/{path}/{leaf}", torch_names.moved(value)
        if path in flat and not np.array_equal(flat[path], value):
            raise ValueError(f"{full}: differs from the same layer under its other name")
        flat[path] = value
    return flat
