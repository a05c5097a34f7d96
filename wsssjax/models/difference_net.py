"""The networks of SSDD: a dilated segmentation head, and the one that predicts differences.

The head is two 3x3 convolutions of dilation 12 on the encoder's last map. The difference network
sees the head's hidden map, a low map of the encoder and one of two label maps, and predicts where
the other one differs. Both work on a grid of a quarter of the image's sides.

Names mirror the published state dict (`dd0.conv1abc.conv2.weight` is `dd0/conv1abc/conv2/kernel`).
Every batch norm is frozen, in the new layers too, where it is a division by the root of 1.001: an
accident of the published code, kept. Its numbers lie in `batch_stats`, out of weight decay's reach.

Any encoder with `features` and `tap0` in `aux` carries them. As published that is ResNet-38, with
tap0 its 128 channels at stride 2, mean-pooled to the grid, and `features` at stride 8. What is ours
alone: EfficientNet-Lite0's tap0 lies at the grid already, and a head at its stride 16 has dilation
6, which spans as many pixels; maps are resized to the grid from whatever stride they have.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from wsssjax.core import weights
from wsssjax.core.constants import IGNORE
from wsssjax.core.resize import resize_half_pixel
from wsssjax.models import layers, registry, resnet38, torch_names

GRID = 4  # pixels of the image per cell
INIT_SIDE = 64  # pixels; parameters do not depend on it
BRANCHES = ("seg_main", "seg_sub")
_EPSILON = 1e-3


class Segments(NamedTuple):
    """logits: float32 [b,g,h,k] of each branch.  hidden: [b,g,h,d] of each branch, after ReLU.
    low: the encoder's low map [b,g,h,c].  All at the grid."""

    logits: tuple[jax.Array, ...]
    hidden: tuple[jax.Array, ...]
    low: jax.Array


# ---- pieces ------------------------------------------------------------------------------------


def reflect_conv(x_bhwc, kernel_kkcd, dilation: int = 1, form: str = "auto"):
    """A 3x3 convolution of the map continued by its mirror image: [b, h, w, d].

    form: "shift" adds nine matrix products, whose gradients a CPU computes as fast as themselves,
    "conv" is XLA's convolution; "auto" takes the first on a CPU and the second elsewhere. A map
    narrower than the dilation is mirrored again and again (torch refuses it).
    """
    if form == "auto":
        form = "shift" if jax.default_backend() == "cpu" else "conv"
    _, h, w, _ = x_bhwc.shape
    margin = (dilation, dilation)
    padded = jnp.pad(x_bhwc, ((0, 0), margin, margin, (0, 0)), mode="reflect")
    if form == "conv":
        return lax.conv_general_dilated(padded, kernel_kkcd, (1, 1), "VALID",
                                        rhs_dilation=(dilation,) * 2,
                                        dimension_numbers=layers.DIMENSIONS)
    assert form == "shift", form
    total = 0
    for i in range(3):
        for j in range(3):
            top, left = i * dilation, j * dilation
            window = padded[:, top : top + h, left : left + w]
            total = total + layers.pointwise(window, kernel_kkcd[i, j])
    return total


@jax.custom_vjp
def look_up(rows_kd, index_bhw):
    """rows_kd at every index, [b, h, w, d]: what a 1x1 convolution of the one-hot map gives.

    The gradient is a product with the one-hot map, for a scatter is slow everywhere.
    """
    return rows_kd[index_bhw]


def _look_up_backward(saved, grad_bhwd):
    rows, index_bhw = saved
    hot_nk = jax.nn.one_hot(index_bhw.reshape(-1), rows, dtype=grad_bhwd.dtype)
    grad_nd = grad_bhwd.reshape(-1, grad_bhwd.shape[-1])
    sums_kd = jnp.matmul(hot_nk.T, grad_nd, preferred_element_type=jnp.float32)
    return sums_kd.astype(grad_bhwd.dtype), None


look_up.defvjp(lambda rows_kd, index_bhw: (look_up(rows_kd, index_bhw), (len(rows_kd), index_bhw)),
               _look_up_backward)


class Weights(nn.Module):
    """(kernel [k,k,c,d], bias [d] or None) of a convolution, Kaiming normal and zero."""

    width: int
    size: int = 1
    bias: bool = False

    @nn.compact
    def __call__(self, inputs: int):
        init = layers.normal((2 / (inputs * self.size**2)) ** 0.5)
        kernel = self.param("kernel", init, (self.size, self.size, inputs, self.width))
        if not self.bias:
            return kernel, None
        return kernel, self.param("bias", nn.initializers.zeros, (self.width,))


class Norm(nn.Module):
    """A batch norm on stored statistics, over the last axis; nothing in it learns."""

    @nn.compact
    def __call__(self, x):
        return layers.stored_norm(self, x, _EPSILON)


class ConvNorm(nn.Module):
    """The layer group `conv1`, `bn1`; `weights` and `rest` are its two halves."""

    width: int
    size: int = 1
    bias: bool = False

    def setup(self):
        self.conv1 = Weights(self.width, self.size, self.bias)
        self.bn1 = Norm()

    def weights(self, inputs: int):
        return self.conv1(inputs)

    def rest(self, x):
        return nn.relu(self.bn1(x))


class SegHead(nn.Module):
    """Class scores from an encoder's last map; `finish` goes on from the first convolution."""

    num_classes: int
    width: int
    dilation: int

    def setup(self):
        self.seg1 = ConvNorm(self.width, 3, bias=True)
        self.seg2 = Weights(self.num_classes, 3, bias=True)

    def first(self, inputs: int):
        """(kernel, bias) of the first convolution, which reads `inputs` channels."""
        return self.seg1.weights(inputs)

    def finish(self, x_bpqd):
        """(logits float32 [b,p,q,k], hidden [b,p,q,d]) from what the first convolution gives."""
        hidden_bpqd = self.seg1.rest(x_bpqd)
        kernel, bias = (x.astype(x_bpqd.dtype) for x in self.seg2(self.width))
        logits_bpqk = reflect_conv(hidden_bpqd, kernel, self.dilation) + layers.on_channels(bias)
        return logits_bpqk.astype(jnp.float32), hidden_bpqd


class DifferenceHead(nn.Module):
    """What a photo tells about differences, [b,g,h,256]: once for both label maps."""

    width: int

    def setup(self):
        self.conv1ab = ConvNorm(self.width, 3)

    def __call__(self, hidden_bghd, low_bghc):
        both = jnp.concatenate([hidden_bghd, low_bghc.astype(hidden_bghd.dtype)], -1)
        kernel = self.conv1ab.weights(both.shape[-1])[0].astype(both.dtype)
        return self.conv1ab.rest(reflect_conv(both, kernel))


class Bottleneck(nn.Module):
    """A residual bottleneck of 1x1, 3x3 and 1x1 convolutions on a map next to a label map.

    The convolutions that read the label map's embedding are linear in it, so they act on the few
    rows of its table, and the half that reads the other map is shared by all label maps.
    """

    width: int

    def setup(self):
        self.conv1 = Weights(self.width)
        self.conv2 = Weights(self.width, 3)
        self.conv3 = Weights(self.width)
        self.downsample = Weights(self.width)
        self.bn1, self.bn2, self.bn3, self.bnd = Norm(), Norm(), Norm(), Norm()

    def __call__(self, x_bghd, table_kd, index_mbgh):
        """[m * b, g, h, d] for m label maps, as indices into the rows of table_kd."""
        def kernel(weights, inputs=self.width):
            return weights(inputs)[0].astype(x_bghd.dtype)

        def fused(weights):
            own, of_label = jnp.split(kernel(weights, 2 * self.width)[0, 0], 2)
            shared = layers.pointwise(x_bghd, own)
            rows = look_up(table_kd @ of_label, index_mbgh)
            return (shared[None] + rows).reshape(-1, *shared.shape[1:])

        y = nn.relu(self.bn1(fused(self.conv1)))
        y = nn.relu(self.bn2(reflect_conv(y, kernel(self.conv2))))
        y = self.bn3(layers.pointwise(y, kernel(self.conv3)[0, 0]))
        return nn.relu(y + self.bnd(fused(self.downsample)))


class Difference(nn.Module):
    """Logits float32 [m,b,g,h]: how likely the other label map differs, for m label maps.

    x_bghd: what `DifferenceHead` gives.  label_mbgh: int, IGNORE allowed, which is embedded as no
    class at all.
    """

    num_classes: int
    width: int

    def setup(self):
        self.conv1c = ConvNorm(self.width)
        self.conv1abc = Bottleneck(self.width)
        self.pred_abc = Weights(1)

    def __call__(self, x_bghd, label_mbgh):
        table_kd = self.conv1c.weights(self.num_classes)[0][0, 0].astype(x_bghd.dtype)
        table_kd = self.conv1c.rest(jnp.pad(table_kd, ((0, 1), (0, 0))))
        index_mbgh = jnp.where(label_mbgh == IGNORE, self.num_classes, label_mbgh)
        y = self.conv1abc(x_bghd, table_kd, index_mbgh)
        logits = layers.pointwise(y, self.pred_abc(self.width)[0][0, 0].astype(y.dtype))
        return logits.astype(jnp.float32).reshape(label_mbgh.shape)


# ---- the whole network -------------------------------------------------------------------------


class DifferenceSegmenter(nn.Module):
    """(logits float32 [b,h,w,k] of the main branch at the size of the image, aux of the encoder).

    branches: 1, or 2: a second head and difference network on the same encoder.
    freeze: no gradient reaches the encoder, which runs in training as it does afterwards.
    width, dilation: of the heads.
    """

    backbone: nn.Module
    num_classes: int
    branches: int
    width: int = 512
    dilation: int = 12
    difference_width: int = 256
    freeze: bool = False
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        for index, name in enumerate(BRANCHES[: self.branches]):
            setattr(self, name, SegHead(self.num_classes, self.width, self.dilation))
            setattr(self, f"dd_head{index}", DifferenceHead(self.difference_width))
            setattr(self, f"dd{index}", Difference(self.num_classes, self.difference_width))

    def __call__(self, image_bhwc, *, train: bool):
        if self.is_initializing():
            found = self.segment(image_bhwc, train=train)
            label_mbgh = jnp.zeros((2, *found.low.shape[:3]), jnp.int32)
            for branch in range(self.branches):
                self.differences(found, branch, label_mbgh)
        _, aux = self.backbone(image_bhwc, train=train)
        ((logits_bpqk, _),) = self._heads(aux["features"], BRANCHES[:1])
        return resize_half_pixel(logits_bpqk, image_bhwc.shape[1:3]), aux

    def segment(self, image_bhwc, *, train: bool) -> Segments:
        """What all branches give, at the grid."""
        grid = grid_size(image_bhwc.shape[1:3])
        _, aux = self.backbone(image_bhwc, train=train and not self.freeze)
        if self.freeze:
            aux = lax.stop_gradient(aux)
        found = self._heads(aux["features"], BRANCHES[: self.branches])
        logits, hidden = (tuple(_to_grid(x, grid) for x in maps)
                          for maps in zip(*found, strict=True))
        return Segments(logits, hidden, _to_grid(aux["tap0"], grid))

    def differences(self, found: Segments, branch: int, label_mbgh):
        """Logits [m,b,g,h] of the branch's difference network for m label maps, from detached maps.

        As nothing flows back, one loss trains encoder and difference networks side by side.
        """
        hidden, low = lax.stop_gradient((found.hidden[branch], found.low))
        head = getattr(self, f"dd_head{branch}")(hidden, low)
        return getattr(self, f"dd{branch}")(head, lax.stop_gradient(label_mbgh))

    def _heads(self, features_bpqd, names):
        """(logits, hidden) of each head; their first convolutions are one."""
        heads = [getattr(self, name) for name in names]
        x = features_bpqd.astype(self.dtype)
        kernels, biases = zip(*(head.first(x.shape[-1]) for head in heads), strict=True)
        x = reflect_conv(x, jnp.concatenate(kernels, -1).astype(self.dtype), self.dilation)
        x = x + layers.on_channels(jnp.concatenate(biases), self.dtype)
        return [head.finish(part) for head, part in zip(heads, jnp.split(x, len(heads), -1),
                                                        strict=True)]


def grid_size(size_hw: Sequence[int]) -> tuple[int, int]:
    """(rows, columns) of the grid of an image."""
    rows, columns = (-(-side // GRID) for side in size_hw)
    return rows, columns


def _to_grid(x_bhwc, size):
    """The map at the grid: mean-pooled from twice its size, else bilinear."""
    if x_bhwc.shape[1:3] == (2 * size[0], 2 * size[1]):
        return nn.avg_pool(x_bhwc, (2, 2), (2, 2))
    return resize_half_pixel(x_bhwc, size)


# ---- building ----------------------------------------------------------------------------------


def build(config: Any, num_classes: int, *, branches: int) -> DifferenceSegmenter:
    """The network of config.model: the encoder's fields, head_width, head_dilation and
    difference_width."""
    backbone = registry.build_encoder(config)
    if isinstance(backbone, resnet38.ResNet38):
        backbone = backbone.clone(freeze_below="b2")  # conv1a alone, as published
    return DifferenceSegmenter(
        backbone, num_classes, branches, width=config.head_width, dilation=config.head_dilation,
        difference_width=config.difference_width, freeze=config.freeze_encoder,
        dtype=registry.DTYPES[config.dtype])


def first_variables(model: DifferenceSegmenter, key: jax.Array) -> dict:
    """Random variables of `model`."""
    image_bhwc = jnp.zeros((1, INIT_SIDE, INIT_SIDE, 3), jnp.float32)
    return model.init(key, image_bhwc, train=False)


def init(model: DifferenceSegmenter, config: Any, key: jax.Array) -> dict:
    """Random variables with the pretrained encoder of config.model in them."""
    # Compiled, this draws the numbers and skips the forward pass that tells their shapes.
    variables = jax.jit(functools.partial(first_variables, model))(key)
    return registry.load_encoder(variables, config)


def predict(model: DifferenceSegmenter, variables: dict, image_bhwc: jax.Array) -> jax.Array:
    """Logits [b,h,w,k] of the main branch."""
    return model.apply(variables, image_bhwc, train=False)[0]


# ---- weights -----------------------------------------------------------------------------------

_LAYERS = re.compile(
    r"seg_(main|sub)\.(seg1\.(conv1|bn1)|seg2)|dd_head\d\.conv1ab\.(conv1|bn1)|"
    r"dd\d\.(conv1c\.(conv1|bn1)|conv1abc\.(conv[123]|bn[123d]|downsample)|pred_abc)")
_LEAVES = {True: ("scale", "bias", "mean", "var"), False: ("kernel", "bias")}  # of norms, of others


def from_torch(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights under our flat names (`params/dd0/pred_abc/kernel`) from PyTorch state dicts.

    tensors: numpy, of the published segmentation and difference files together (or of one of
    them), with or without "module." in front; the result is float32. A name of unknown form is a
    ValueError; whether names are missing is seen when the result is restored.
    """
    flat, encoder = {}, {}
    for full, value in tensors.items():
        name = full.removeprefix("module.")
        if name.startswith("encoder."):
            encoder[name] = value
            continue
        layer, _, kind = name.rpartition(".")
        if kind == "num_batches_tracked":
            continue
        value = np.asarray(value, np.float32)
        norm = layer.rpartition(".")[2].startswith("bn")
        leaf = torch_names.leaf(kind, value.ndim)
        if not _LAYERS.fullmatch(layer) or leaf not in _LEAVES[norm]:
            raise ValueError(f"{full} {list(value.shape)}: no tensor of SSDD's networks")
        top = "batch_stats" if norm else "params"
        flat["/".join([top, *layer.split("."), leaf])] = torch_names.moved(value)
    return flat | weights.under("backbone", resnet38.from_torch(encoder))
