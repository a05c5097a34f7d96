"""ResNet-38: the wide, pre-activated residual network of AffinityNet, EPS and SSDD.

Wu, Shen and van den Hengel, "Wider or Deeper", 2016, in the form of AffinityNet's published code:
stride 8, three dilated stages, every batch norm frozen. Names mirror the PyTorch tree
(`b3_1.conv_branch2a.weight` is `b3_1/conv_branch2a/kernel`). A batch norm never learns here, so its
scale and bias lie beside its statistics in the collection `batch_stats`, where no optimizer and no
weight decay reaches them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import lax

from wsssjax.models import layers, padded, torch_names

FEATURE_WIDTH = 4096
HEADS = ("fc8", "f8_3", "f8_4", "f8_5", "f9")  # of the published models; no part of the encoder
_EPSILON = 1e-5
_DROPOUT = {"b6": 0.3, "b7": 0.5}


class _Block(NamedTuple):
    name: str
    kind: str  # "basic" or "bottleneck"
    mid: int
    width: int
    stride: int = 1
    dilation: int = 1
    first: int = 1  # dilation of the first convolution of a basic block


def _block_list() -> tuple[_Block, ...]:
    blocks = []
    for stage, repeats, mid, width in (("b2", 3, 128, 128), ("b3", 3, 256, 256),
                                       ("b4", 6, 512, 512)):
        blocks.append(_Block(stage, "basic", mid, width, stride=2))
        blocks += [_Block(f"{stage}_{i}", "basic", mid, width) for i in range(1, repeats)]
    blocks += [_Block("b5", "basic", 512, 1024, dilation=2)]
    blocks += [_Block(f"b5_{i}", "basic", 512, 1024, dilation=2, first=2) for i in (1, 2)]
    return (*blocks, _Block("b6", "bottleneck", 512, 2048, dilation=4),
            _Block("b7", "bottleneck", 1024, 4096, dilation=4))


BLOCKS = _block_list()
ENTRIES = ("b3", "b4", "b5", "b6")  # blocks whose normed, rectified input `aux` holds


class FrozenNorm(nn.Module):
    """A batch norm on stored statistics, then ReLU; nothing in it learns."""

    @nn.compact
    def __call__(self, x_bhwd):
        return nn.relu(layers.stored_norm(self, x_bhwd, _EPSILON))


Conv = functools.partial(layers.TorchConv, bias=False, kernel_init=layers.kaiming_uniform)


class Block(nn.Module):
    """(x after the block, its normed and rectified input). The shortcut convolution, where there
    is one, reads the rectified input, not x.

    dropout: share of channels dropped, whole maps, before a bottleneck's second and third
    convolution.
    """

    block: _Block
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x_bhwc, *, train: bool):
        _, kind, mid, width, stride, dilation, first = self.block
        y = FrozenNorm(name="bn_branch2a")(x_bhwc)
        shortcut = x_bhwc
        if kind == "bottleneck" or stride != 1 or x_bhwc.shape[-1] != width:
            shortcut = Conv(width, 1, stride, dtype=self.dtype, name="conv_branch1")(y)

        def drop(x):
            return nn.Dropout(self.dropout, broadcast_dims=(1, 2))(x, deterministic=not train)

        if kind == "basic":
            x = Conv(mid, 3, stride, dilation=first, dtype=self.dtype, name="conv_branch2a")(y)
            x = FrozenNorm(name="bn_branch2b1")(x)
            x = Conv(width, 3, dilation=dilation, dtype=self.dtype, name="conv_branch2b1")(x)
        else:
            x = Conv(mid, 1, stride, dtype=self.dtype, name="conv_branch2a")(y)
            x = drop(FrozenNorm(name="bn_branch2b1")(x))
            x = Conv(width // 2, 3, dilation=dilation, dtype=self.dtype, name="conv_branch2b1")(x)
            x = drop(FrozenNorm(name="bn_branch2b2")(x))
            x = Conv(width, 1, dtype=self.dtype, name="conv_branch2b2")(x)
        return shortcut + x, y


class ResNet38(nn.Module):
    """(pooled float32 [b, d], aux). aux, all after batch norm and ReLU: what enters the blocks
    `b3` (stride 2), `b4` (4), `b5` (8: AffinityNet's conv4) and `b6` (8: its conv5), and `features`
    (8: its conv6) [b, p, q, 4096]; tap0..tap3 are b3, b4, b5 and features again.

    Images are float [b, h, w, 3], normalised by ImageNet's mean and deviation; maps are
    ceil(side / stride) long. In training, channels of b6 and b7 are dropped (random stream
    "dropout").
    width: factor on all channel counts; below 1 for tests.
    freeze_below: no gradient reaches the layers before this block ("b3" as published: conv1a, b2,
    b2_1 and b2_2 then need no stored activations), "" to train them all. Give them an lr factor of
    0 as well, since weight decay needs no gradient.
    dropout: false leaves it out in training too.
    """

    width: float = 1.0
    freeze_below: str = "b3"
    dropout: bool = True
    dtype: jnp.dtype = jnp.float32

    tap_strides = (2, 4, 8, 8)

    @property
    def tap_widths(self) -> tuple[int, int, int, int]:
        return tuple(self._scaled(d) for d in (128, 256, 512, FEATURE_WIDTH))

    @property
    def feature_width(self) -> int:
        return self._scaled(FEATURE_WIDTH)

    @property
    def own_side(self) -> Callable:
        return padded.plain

    def _scaled(self, channels: int) -> int:
        return max(2, round(channels * self.width))

    @nn.compact
    def __call__(self, image_bhwc, *, train: bool):
        names = [block.name for block in BLOCKS]
        if self.freeze_below and self.freeze_below not in names:
            raise ValueError(f"freeze_below {self.freeze_below!r}: want '' or one of "
                             f"{', '.join(names)}")
        x = Conv(self._scaled(64), 3, dtype=self.dtype, name="conv1a")(image_bhwc)
        aux = {}
        for block in BLOCKS:
            if block.name == self.freeze_below:
                x = lax.stop_gradient(x)
            scaled = block._replace(mid=self._scaled(block.mid), width=self._scaled(block.width))
            rate = _DROPOUT.get(block.name, 0.0) if self.dropout else 0.0
            x, entry = Block(scaled, rate, self.dtype, name=block.name)(x, train=train)
            if block.name in ENTRIES:
                aux[block.name] = entry
        aux["features"] = FrozenNorm(name="bn7")(x)
        for tap, name in enumerate(("b3", "b4", "b5", "features")):
            aux[f"tap{tap}"] = aux[name]
        x = aux["features"]
        return x.astype(jnp.promote_types(x.dtype, jnp.float32)).mean((1, 2)), aux


# ---- weights -----------------------------------------------------------------------------------

_LAYER = re.compile(r"conv1a|bn7|b\d(_\d)?\.(conv|bn)_branch\d\w*")


def from_torch(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights under our flat names (`params/b3/conv_branch2a/kernel`) from a PyTorch state dict.

    tensors: numpy, any float dtype; the result is float32. The prefixes "module." and "encoder.",
    in any number, are taken off; batch counters and the heads (HEADS) are passed over; a name of
    unknown form is a ValueError. Whether names are missing is seen when the result is restored.
    """
    flat = {}
    for full, value in tensors.items():
        name = re.sub(r"^((module|encoder)\.)+", "", full)
        layer, _, kind = name.rpartition(".")
        if kind == "num_batches_tracked" or layer in HEADS:
            continue
        value = np.asarray(value, np.float32)
        known = _LAYER.fullmatch(layer)
        leaf = torch_names.leaf(kind, value.ndim)
        if not known or not leaf or ("conv" in layer) != (leaf == "kernel"):
            raise ValueError(f"{full} {list(value.shape)}: no tensor of a ResNet-38")
        top = "params" if leaf == "kernel" else "batch_stats"
        flat["/".join([top, *layer.split("."), leaf])] = torch_names.moved(value)
    return flat


def from_mxnet(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """PyTorch's names for the arrays of the ImageNet weights, which come as an MXNet file.

    arrays: numpy by MXNet's names, with or without "arg:" and "aux:". The ImageNet classifier is
    passed over. Feed the result to `from_torch`.

    >>> sorted(from_mxnet({"arg:res3b1_branch2a_weight": 1, "aux:bn3a_branch2b1_moving_var": 2}))
    ['b3.bn_branch2b1.running_var', 'b3_1.conv_branch2a.weight']
    """
    kinds = {"weight": "weight", "gamma": "weight", "beta": "bias", "mean": "running_mean",
             "var": "running_var"}
    tensors = {}
    for full, value in arrays.items():
        stem, _, kind = full.removeprefix("arg:").removeprefix("aux:").rpartition("_")
        stem = stem.removesuffix("_moving")
        if stem.startswith("linear1000"):
            continue
        place = re.fullmatch(r"(res|bn)(\d)(a|b(\d))_(branch\w+)", stem)
        if kind not in kinds or not (place or stem == "conv1a" or stem.startswith("bn")):
            raise ValueError(f"{full}: no array of a ResNet-38 in MXNet's names")
        if place:
            layer = {"res": "conv", "bn": "bn"}[place[1]]
            block = f"b{place[2]}" + (f"_{place[4]}" if place[4] else "")
            stem = f"{block}.{layer}_{place[5]}"
        elif stem != "conv1a":
            stem = "bn7"  # the one norm outside the blocks
        tensors[f"{stem}.{kinds[kind]}"] = value
    return tensors
