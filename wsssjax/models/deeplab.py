"""The heads of the DeepLab family: an encoder's maps become class scores.

largefov        DeepLab v1 on VGG-16: a 3x3 convolution of dilation 12 and two of 1x1, as the
                network's linear layers were.
aspp            DeepLab v2: several such branches of different dilations, summed; on ResNets a
                branch is a single convolution to the classes.
resnet38_head   two 3x3 convolutions of dilation 12, as BAO and MCTformer train ResNet-38.
deeplabv3plus   pyramid pooling with a branch for the whole image, then a fine map of the encoder
                joins, as RS+EPM and MARS use it: no depthwise convolutions, a 3x3 classifier.

A head is called with four maps, finest first, and the size of the scores; None leaves them at their
own resolution, where DeepLab v2 has its loss. Enlarging is bilinear with half-pixel centres. All
layers follow `padded`, so photos of many sizes can share a batch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from wsssjax.core import weights
from wsssjax.core.resize import resize_half_pixel
from wsssjax.models import layers, padded, resnet, torch_names
from wsssjax.models.norms import BatchNorm

_GAUSSIAN = layers.normal(0.01)  # Caffe's start of new layers; their biases start at 0


class Aspp(nn.Module):
    """Scores float32: the sum of one branch a dilation, each from the last map.

    width: channels of the two layers before the classes in each branch, with ReLU and dropout 0.5
    behind both (VGG-16: 1024); 0: a branch is one 3x3 convolution to the classes (ResNets).
    dropout: false leaves it out in training too.
    Layers are fc6, fc7, fc8 of the only branch, fc6_1, … of several, or c0, c1, ….
    """

    num_classes: int
    dilations: tuple[int, ...]
    width: int = 1024
    dropout: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, taps: Sequence[jax.Array], size_hw, *, train: bool = False):
        total = 0.0
        for index, dilation in enumerate(self.dilations):
            if self.width:
                suffix = f"_{index + 1}" if len(self.dilations) > 1 else ""
                x = self._conv(taps[-1], self.width, f"fc6{suffix}", 3, dilation)
                x = self._conv(self._rest(x, train), self.width, f"fc7{suffix}")
                x = self._conv(self._rest(x, train), self.num_classes, f"fc8{suffix}")
            else:
                x = self._conv(taps[-1], self.num_classes, f"c{index}", 3, dilation)
            total = total + _wide(x)
        return _enlarged(total, size_hw)

    def _conv(self, x, width, name, size=1, dilation=1):
        return layers.TorchConv(width, size, dtype=self.dtype, dilation=dilation,
                                kernel_init=_GAUSSIAN, bias_init=nn.initializers.zeros,
                                name=name)(x)

    def _rest(self, x, train):
        return nn.Dropout(0.5, deterministic=not (train and self.dropout))(nn.relu(x))


class ResNet38Head(nn.Module):
    """Scores float32 from the last map: two dilated 3x3 convolutions with a ReLU between."""

    num_classes: int
    width: int = 512
    dilation: int = 12
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, taps: Sequence[jax.Array], size_hw, *, train: bool = False):
        del train  # nothing in it differs
        def conv(x, width, name):
            return layers.TorchConv(width, 3, dtype=self.dtype, dilation=self.dilation,
                                    kernel_init=_xavier, name=name)(x)

        x = conv(nn.relu(conv(taps[-1], self.width, "fc8")), self.num_classes, "fc9")
        return _enlarged(_wide(x), size_hw)


class DeepLabV3Plus(nn.Module):
    """Scores float32 from the last map and the finest.

    dilations: of the three 3x3 branches: (12, 24, 36) at stride 8, (6, 12, 18) at 16.
    norm: "batch", "stored" or "frozen" (norms.BatchNorm).
    dropout: false leaves it out in training too.
    Where the published description is silent: Kaiming normal starts by the inputs; the deep map
    comes before the fine one where they are joined.
    """

    num_classes: int
    dilations: tuple[int, ...] = (12, 24, 36)
    width: int = 256
    low_width: int = 48
    norm: str = "batch"
    dropout: bool = True
    dtype: jnp.dtype = jnp.float32

    @property
    def least_rows(self) -> int:
        """Photos a device needs in training: the branch for the whole image has one number a
        channel, which a norm over one photo would take away."""
        return 2 if self.norm == "batch" else 1

    @nn.compact
    def __call__(self, taps: Sequence[jax.Array], size_hw, *, train: bool = False):
        def conv(x, name, width, size=1, dilation=1):
            start = layers.normal((2 / (x.shape[-1] * size**2)) ** 0.5)
            return layers.TorchConv(width, size, bias=False, dtype=self.dtype, dilation=dilation,
                                    kernel_init=start, name=name)(x)

        def block(x, name, *shape):
            x = conv(x, name, *shape)
            return nn.relu(BatchNorm(self.norm, name=f"{name}_bn")(x, train=train))

        def drop(x, rate):
            return nn.Dropout(rate, deterministic=not (train and self.dropout))(x)

        deep, width = taps[-1], self.width
        maps = [block(deep, "aspp0", width)]
        maps += [block(deep, f"aspp{index}", width, 3, dilation)
                 for index, dilation in enumerate(self.dilations, 1)]
        whole = block(padded.mean(deep), "pool", width)
        maps.append(jnp.broadcast_to(whole, maps[0].shape))
        x = drop(block(jnp.concatenate(maps, -1), "project", width), 0.5)
        low = block(taps[0], "low", self.low_width)
        x = jnp.concatenate([padded.resize(x, low.shape[1:3]), low], -1)
        x = drop(block(x, "fuse1", width, 3), 0.5)
        x = drop(block(x, "fuse2", width, 3), 0.1)
        logits = conv(x, "classifier", self.num_classes, 3)
        return _enlarged(_wide(logits), size_hw)


def _wide(x):
    """At least float32."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _enlarged(logits_bpqk, size_hw):
    return logits_bpqk if size_hw is None else resize_half_pixel(logits_bpqk, size_hw)


def _xavier(key, shape, dtype=jnp.float32):
    fan = (shape[-2] + shape[-1]) * shape[0] * shape[1]
    return layers.uniform((6 / fan) ** 0.5)(key, shape, dtype)


def only_dilation(dilations: Sequence[int], decoder: str) -> int:
    """The only dilation of a head that has one."""
    if len(dilations) != 1:
        raise ValueError(f"config.model.head_dilations={tuple(dilations)}: decoder {decoder!r} has "
                         "one")
    return dilations[0]


# ---- weights -----------------------------------------------------------------------------------

_LAYERS = {"reduce": "1", "conv3x3": "2", "increase": "3"}
_HEADS = ("aspp", "fc")  # of the published models


def _bare(full: str) -> str:
    return re.sub(r"^((module|base)\.)+", "", full)


def passed_over(tensors) -> list[str]:
    """Names that `encoder_from_torch` reads nothing from: those of a head."""
    return [name for name in tensors if _bare(name).split(".")[0] in _HEADS]


def _plain_name(full: str) -> str:
    """torchvision's name for a layer of kazuto1011's ResNet."""
    name = _bare(full)
    name = re.sub(r"^layer1\.conv1\.(conv|bn)\.", r"\g<1>1.", name)
    place = re.fullmatch(r"layer([2-5])\.block(\d+)\.(\w+)\.(conv|bn)\.(\w+)", name)
    if not place:
        return name
    stage, block, layer, kind, leaf = place.groups()
    if layer == "shortcut":
        layer = "downsample." + {"conv": "0", "bn": "1"}[kind]
    else:
        layer = kind + _LAYERS.get(layer, layer)
    return f"layer{int(stage) - 1}.{int(block) - 1}.{layer}.{leaf}"


def encoder_from_torch(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Flat names of a ResNet with layout "caffe" and frozen norms, from kazuto1011's DeepLab.

    tensors: numpy by names such as `base.layer3.block1.conv3x3.conv.weight`, with or without
    "base." and "module."; the head (`aspp.` of v2, `fc.` of v1) is passed over.
    """
    plain = {_plain_name(name): value for name, value in tensors.items()}
    flat = resnet.from_torch({name: value for name, value in plain.items()
                              if name.split(".")[0] not in _HEADS})
    return {re.sub(r"^params(?=.*/(scale|bias)$)", "batch_stats", name): value
            for name, value in flat.items()}


def from_torch(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Flat names of a whole DeepLab v2 on ResNet-101 from kazuto1011's state dict: those of
    `encoder_from_torch`, and `base.aspp.c0.weight` as `params/head/c0/kernel`."""
    flat = weights.under("backbone", encoder_from_torch(tensors))
    for full, value in tensors.items():
        name = _bare(full)
        place = re.fullmatch(r"aspp\.(c\d)\.(weight|bias)", name)
        if name.split(".")[0] not in _HEADS:
            continue
        value = np.asarray(value, np.float32)
        if not place or value.ndim != {"weight": 4, "bias": 1}[place[2]]:
            raise ValueError(f"{full} {list(value.shape)}: no tensor of a DeepLab v2")
        leaf = torch_names.leaf(place[2], value.ndim)
        flat[f"params/head/{place[1]}/{leaf}"] = torch_names.moved(value)
    return flat
