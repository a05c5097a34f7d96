"""Conformer-S: a residual network and a transformer that exchange features block by block.

Peng et al., "Conformer: Local Features Coupling Global Representations for Visual Recognition",
ICCV 2021, with the two changes of TransCAM (Li et al., 2022): the last fusion keeps its stride, so
that features lie at stride 16, and the attention of all twelve blocks comes out. Names mirror the
PyTorch tree (`conv_trans_5.cnn_block.bn1.weight` is `conv_trans_5/cnn_block/bn1/scale`).

As published, and not as one would expect it: the class token enters every block doubled (the
convolutions' features come with a copy of it and the whole is added), the stem's batch norm has
another epsilon than all others, and the map grows by repeating its pixels. There is no position
table, so any square whose side is a multiple of 16 will do.

The residual stream of the tokens, norms and softmax are float32; convolutions and matrix products
run in `dtype`.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from wsssjax.core.config import choose
from wsssjax.models import layers
from wsssjax.models.layers import KaimingConv as Conv
from wsssjax.models.norms import MODES, BatchNorm
from wsssjax.models.vit import LayerNorm, Linear

BASE = 64  # channels of the stem and of an attention head; all other widths are multiples of it
HEADS = 6  # of attention
DEPTH = 12
PATCH = 16  # pixels of the image per token
EPSILON = 1e-6  # of batch norms and layer norms inside the blocks
STEM_EPSILON = 1e-5  # of the stem's batch norm and of the last layer norm


class _Fused(NamedTuple):
    """One of the blocks `conv_trans_2` … `conv_trans_12`. width: of the map, in BASE channels.
    stride: of its convolutions.  factor: how many pixels of the map a token's side has."""

    number: int
    width: int
    stride: int
    factor: int


def _block_list() -> tuple[_Fused, ...]:
    blocks = []
    for first, width, factor in ((1, 4, 4), (5, 8, 2), (9, 16, 1)):
        for i in range(max(first, 2), first + 4):
            blocks.append(_Fused(i, width, 2 if i == first else 1, factor))
    return tuple(blocks)


BLOCKS = _block_list()
_TAPPED = {4: "tap0", 8: "tap1", 11: "tap2"}


# ---- layers ------------------------------------------------------------------------------------


class PatchConv(nn.Module):
    """Blocks of 4 x 4 pixels of the stem as tokens [b, p q, d], row by row."""

    features: int
    side: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_bhwc):
        b, h, w, c = x_bhwc.shape
        k = self.side
        init = layers.normal((2 / (self.features * k**2)) ** 0.5)
        kernel = self.param("kernel", init, (k, k, c, self.features)).astype(self.dtype)
        bias = self.param("bias", layers.torch_uniform(c * k**2), (self.features,))
        x = x_bhwc.astype(self.dtype).reshape(b, h // k, k, w // k, k, c)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, k * k * c)
        return x @ kernel.reshape(k * k * c, -1) + bias.astype(self.dtype).reshape(1, 1, -1)


# ---- the branch of convolutions ----------------------------------------------------------------


class ConvBlock(nn.Module):
    """(x after a residual bottleneck, its inner map after the 3x3 convolution).

    width: of the result; the bottleneck has a quarter of it.  added: to what the 3x3 reads.
    """

    width: int
    stride: int = 1
    project: bool = False  # the shortcut is a convolution
    norm: str = "batch"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x_bpqd, added=None, *, train: bool):
        def conv_norm(x, number, width, size=1, stride=1):
            x = Conv(width, size, stride, dtype=self.dtype, name=f"conv{number}")(x)
            return BatchNorm(self.norm, EPSILON, name=f"bn{number}")(x, train=train)

        x = nn.relu(conv_norm(x_bpqd, 1, self.width // 4))
        x = x if added is None else x + added
        inner = nn.relu(conv_norm(x, 2, self.width // 4, 3, self.stride))
        x, shortcut = conv_norm(inner, 3, self.width), x_bpqd
        if self.project:
            shortcut = Conv(self.width, 1, self.stride, dtype=self.dtype,
                            name="residual_conv")(shortcut)
            shortcut = BatchNorm(self.norm, EPSILON, name="residual_bn")(shortcut, train=train)
        return nn.relu(x + shortcut), inner


class Squeeze(nn.Module):
    """A map as tokens [b, 1 + n, d]: averaged over blocks of `factor` pixels, normed, GELU; before
    them the class token of `tokens_bnd`."""

    factor: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_bpqd, tokens_bnd):
        width, k = tokens_bnd.shape[-1], self.factor
        x = Conv(width, bias=True, dtype=self.dtype, name="conv_project")(x_bpqd)
        b, p, q, _ = x.shape
        x = x.astype(tokens_bnd.dtype).reshape(b, p // k, k, q // k, k, width).mean((2, 4))
        x = layers.gelu(LayerNorm(name="ln")(x.reshape(b, -1, width)))
        return jnp.concatenate([tokens_bnd[:, :1], x], axis=1)


class Expand(nn.Module):
    """The patch tokens as a map [b, p, q, width], each pixel repeated `factor` times a side."""

    width: int
    factor: int
    norm: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, tokens_bnd, *, train: bool):
        b, n, d = tokens_bnd.shape
        side, k = round((n - 1) ** 0.5), self.factor
        x = tokens_bnd[:, 1:].reshape(b, side, side, d)
        x = Conv(self.width, bias=True, dtype=self.dtype, name="conv_project")(x)
        x = nn.relu(BatchNorm(self.norm, EPSILON, name="bn")(x, train=train))
        x = jnp.broadcast_to(x[:, :, None, :, None], (b, side, k, side, k, self.width))
        return x.reshape(b, side * k, side * k, self.width)


# ---- the branch of tokens ----------------------------------------------------------------------


class Attention(nn.Module):
    """([b, n, d], the softmax attention averaged over the heads [b, n, n], float32)."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_bnd):
        b, n, d = x_bnd.shape
        qkv = Linear(3 * d, self.dtype, name="qkv")(x_bnd).reshape(b, n, 3, HEADS, d // HEADS)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        scores = jnp.einsum("bnhd,bmhd->bhnm", q * (d // HEADS) ** -0.5, k)
        weights = jax.nn.softmax(scores.astype(jnp.promote_types(scores.dtype, jnp.float32)))
        x = jnp.einsum("bhnm,bmhd->bnhd", weights.astype(self.dtype), v)
        return Linear(d, self.dtype, name="proj")(x.reshape(b, n, d)), weights.mean(1)


class Mlp(nn.Module):
    """d → 4 d → d with the exact GELU."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_bnd):
        d = x_bnd.shape[-1]
        x = layers.gelu(Linear(4 * d, self.dtype, name="fc1")(x_bnd))
        return Linear(d, self.dtype, name="fc2")(x)


class Block(nn.Module):
    """(tokens after a pre-normed transformer block, its attention as of `Attention`).

    drop_path: probability that a row of the batch skips a branch, in training; what is kept grows
    by 1 / (1 - drop_path).
    """

    drop_path: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_bnd, *, train: bool):
        def drop(x):
            return nn.Dropout(self.drop_path, broadcast_dims=(1, 2))(x, deterministic=not train)

        x, attention_bnn = Attention(self.dtype, name="attn")(LayerNorm(name="norm1")(x_bnd))
        x_bnd = x_bnd + drop(x.astype(x_bnd.dtype))
        x = Mlp(self.dtype, name="mlp")(LayerNorm(name="norm2")(x_bnd))
        return x_bnd + drop(x.astype(x_bnd.dtype)), attention_bnn


class FusedBlock(nn.Module):
    """(map, tokens, attention) after one block of both branches."""

    block: _Fused
    base: int
    drop_path: float
    norm: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_bpqd, tokens_bnd, *, train: bool):
        width, stride, factor = self.block.width * self.base, self.block.stride, self.block.factor
        x, inner = ConvBlock(width, stride, stride > 1, self.norm, self.dtype,
                             name="cnn_block")(x_bpqd, train=train)
        # The copy of the class token in `squeezed` doubles it.
        squeezed = Squeeze(factor, self.dtype, name="squeeze_block")(inner, tokens_bnd)
        tokens, attention = Block(self.drop_path, self.dtype, name="trans_block")(
            squeezed + tokens_bnd, train=train)
        added = Expand(width // 4, factor, self.norm, self.dtype,
                       name="expand_block")(tokens, train=train)
        x, _ = ConvBlock(width, 1, self.block.number == DEPTH, self.norm, self.dtype,
                         name="fusion_block")(x, added, train=train)
        return x, tokens, attention


class Conformer(nn.Module):
    """(pooled float32 [b, d], aux). aux: `features` [b, p, q, 1024] at stride 16, `class_token`
    [b, 384] after the last norm, `attention` float32 [b, n, n] with n = p q: row i says what patch
    i looks at, averaged over heads and summed over the 12 blocks, without the class token (so each
    row sums to less than 12); tap0..tap3, the maps at strides 4, 8, 16 and 16.

    Images are float [b, h, h, 3], normalised by ImageNet's mean and deviation; ValueError unless h
    is a multiple of 16.
    width: factor on all channel counts; below 1 for tests.
    drop_path: probability that the last block's branches are skipped; it rises linearly from 0 over
    the blocks and needs the random stream "dropout" in training.
    norm: of the batch norms, see `norms.BatchNorm`.
    blocks: those behind the first; fewer for tests.
    """

    width: float = 1.0
    drop_path: float = 0.1
    norm: str = "batch"
    blocks: tuple[_Fused, ...] = BLOCKS
    dtype: jnp.dtype = jnp.float32

    tap_strides = (4, 8, 16, 16)

    @property
    def tap_widths(self) -> tuple[int, int, int, int]:
        return tuple(n * self._base for n in (4, 8, 16, 16))

    @property
    def feature_width(self) -> int:
        return 16 * self._base

    @property
    def _base(self) -> int:
        return max(1, round(BASE * self.width))

    @nn.compact
    def __call__(self, image_bhwc, *, train: bool):
        b, h, w, _ = image_bhwc.shape
        if h != w or h % PATCH or not h:
            raise ValueError(f"image of {h} x {w} pixels; a Conformer wants squares whose side is "
                             f"a multiple of {PATCH}")
        choose(dict.fromkeys(MODES), self.norm, "config.model.conformer.norm")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"config.model.conformer.drop_path is {self.drop_path}; want 0 or "
                             "more, below 1")
        base, rates = self._base, np.linspace(0.0, self.drop_path, DEPTH).tolist()
        x = Conv(base, 7, 2, dtype=self.dtype, name="conv1")(image_bhwc)
        x = nn.relu(BatchNorm(self.norm, STEM_EPSILON, name="bn1")(x, train=train))
        stem = layers.MaxPool(name="maxpool")(x)
        x, _ = ConvBlock(4 * base, 1, True, self.norm, self.dtype, name="conv_1")(
            stem, train=train)
        tokens = PatchConv(HEADS * base, 4, self.dtype, name="trans_patch_conv")(stem)
        tokens = tokens.astype(jnp.promote_types(tokens.dtype, jnp.float32))
        first = self.param("cls_token", layers.normal(0.02), (1, 1, HEADS * base))
        first = jnp.broadcast_to(first.astype(tokens.dtype), (b, 1, HEADS * base))
        tokens, attention = Block(rates[0], self.dtype, name="trans_1")(
            jnp.concatenate([first, tokens], axis=1), train=train)
        aux, total = {}, attention
        for block in self.blocks:
            x, tokens, attention = FusedBlock(
                block, base, rates[block.number - 1], self.norm, self.dtype,
                name=f"conv_trans_{block.number}")(x, tokens, train=train)
            total = total + attention
            if block.number in _TAPPED:
                aux[_TAPPED[block.number]] = x
        token = LayerNorm(STEM_EPSILON, name="trans_norm")(tokens[:, :1])
        pooled = x.astype(jnp.promote_types(x.dtype, jnp.float32)).mean((1, 2))
        return pooled, {**aux, "tap3": x, "features": x, "class_token": token[:, 0],
                        "attention": total[:, 1:, 1:]}
