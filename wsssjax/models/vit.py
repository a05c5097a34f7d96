"""The vision transformer of DINOv2, sizes S, B, L and g, with and without register tokens.

Oquab et al., DINOv2 (arXiv 2304.07193); Darcet et al. for the register tokens (arXiv 2309.16588).
Parameter names mirror the reference's tree (`blocks.3.attn.qkv.weight` is row 3 of
`blocks/attn/qkv/kernel`). It differs from the reference in this:

* The blocks' parameters are stacked along a first axis, and the blocks run as one loop, so that
  24 of them compile as fast as one; `vit_names.py` moves weights between the two layouts.
* The patch embedding is a matrix product of flattened patches: the same sums.
* There is no dropout and no stochastic depth, so training and evaluation are one function.

Residual stream, norms and softmax are float32; matrix products run in `dtype`.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from wsssjax.core import parallel
from wsssjax.core.config import choose
from wsssjax.core.resize import resize_bicubic
from wsssjax.models.layers import gelu, normal

PATCH = 14  # pixels
GRID = 37  # side of the stored position table: pretraining ended on 518 pixels
EPSILON = 1e-6  # of every norm
HEAD_WIDTH = 64  # channels of an attention head, at every size
REGISTERS = 4


class Size(NamedTuple):
    """width, number of blocks, and the blocks (0-based) whose outputs the segmenter reads."""

    width: int
    depth: int
    taps: tuple[int, int, int, int]
    swiglu: bool = False


SIZES = {
    "s": Size(384, 12, (2, 5, 8, 11)),
    "b": Size(768, 12, (2, 5, 8, 11)),
    "l": Size(1024, 24, (4, 11, 17, 23)),
    "g": Size(1536, 40, (9, 19, 29, 39), swiglu=True),
}
# How the position table is fitted to another grid: (offset added to the grid, antialias).
POSITIONS = {"offset": (0.1, False), "size": (0.0, False), "antialias": (0.0, True)}
ATTENTIONS = ("auto", "loop", "xla", "cudnn")


class Linear(nn.Module):
    """A matrix product with bias, in `dtype`."""

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", normal(0.02), (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        y = x.astype(self.dtype) @ kernel.astype(self.dtype)
        return y + bias.astype(self.dtype).reshape((1,) * (y.ndim - 1) + (-1,))


class LayerNorm(nn.Module):
    """Zero mean, unit variance over the channels, then scale and shift; float32 or wider."""

    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, x_bnd):
        shape = (x_bnd.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        x = x_bnd.astype(jnp.promote_types(x_bnd.dtype, jnp.float32))
        x = x - x.mean(-1, keepdims=True)
        # Two passes: E[x²] − E[x]² loses digits where a few channels are huge, as here.
        x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.epsilon)
        return x * scale.reshape(1, 1, -1) + bias.reshape(1, 1, -1)


class Attention(nn.Module):
    """Self-attention over all tokens; the heads own 64 channels each, in order.

    kind: "xla" is plain softmax attention, "cudnn" the flash kernel of NVIDIA GPUs (bfloat16
    only), "loop" one image and head after the other, recomputed in the backward pass. "auto" takes
    the flash kernel where it exists, the loop on a CPU: there it is three to five times as fast as
    "xla" (4 images of 1370 tokens, 6 heads: forward 87 against 409 ms, with gradients 388 against
    1225) and never holds more than one matrix of n x n.
    """

    dtype: jnp.dtype
    kind: str = "auto"

    @nn.compact
    def __call__(self, x_bnd):
        b, n, d = x_bnd.shape
        qkv = Linear(3 * d, self.dtype, name="qkv")(x_bnd)
        q, k, v = jnp.split(qkv.reshape(b, n, 3 * d // HEAD_WIDTH, HEAD_WIDTH), 3, axis=2)
        kernel = self._kernel()
        if kernel == "loop":
            out = _loop_attention(q, k, v)
        else:
            out = jax.nn.dot_product_attention(q, k, v, implementation=kernel)
        return Linear(d, self.dtype, name="proj")(out.reshape(b, n, d))

    def _kernel(self) -> str:
        if self.kind not in ATTENTIONS:
            raise ValueError(f"config.model.vit.attention {self.kind!r}: want one of "
                             f"{', '.join(ATTENTIONS)}")
        if self.kind != "auto":
            return self.kind
        if parallel.on_cpu():
            return "loop"
        flash = self.dtype == jnp.bfloat16 and parallel.flash_attention()
        return "cudnn" if flash else "xla"


def _loop_attention(q_bnhd, k_bnhd, v_bnhd):
    """Softmax attention [b, n, h, d], one image and head at a time."""
    b, n, h, d = q_bnhd.shape

    @jax.checkpoint
    def one(qkv):
        q, k, v = qkv
        scores = ((q * d**-0.5) @ k.T).astype(jnp.promote_types(q.dtype, jnp.float32))
        return jax.nn.softmax(scores).astype(q.dtype) @ v

    heads = [x.transpose(0, 2, 1, 3).reshape(b * h, n, d) for x in (q_bnhd, k_bnhd, v_bnhd)]
    return jax.lax.map(one, heads).reshape(b, h, n, d).transpose(0, 2, 1, 3)


class Mlp(nn.Module):
    """d → 4 d → d with the exact GELU, or the gated SwiGLU form of the giant."""

    dtype: jnp.dtype
    swiglu: bool = False

    @nn.compact
    def __call__(self, x_bnd):
        d = x_bnd.shape[-1]
        if not self.swiglu:
            x = Linear(4 * d, self.dtype, name="fc1")(x_bnd)
            return Linear(d, self.dtype, name="fc2")(gelu(x))
        hidden = -(-(4 * d * 2 // 3) // 8) * 8  # two thirds of 4 d, up to a multiple of 8
        gate, value = jnp.split(Linear(2 * hidden, self.dtype, name="w12")(x_bnd), 2, axis=-1)
        return Linear(d, self.dtype, name="w3")(nn.silu(gate) * value)


class LayerScale(nn.Module):
    """A learned factor per channel."""

    @nn.compact
    def __call__(self, x_bnd):
        gamma = self.param("gamma", nn.initializers.ones, (x_bnd.shape[-1],))
        return x_bnd.astype(jnp.promote_types(x_bnd.dtype, jnp.float32)) * gamma.reshape(1, 1, -1)


class Block(nn.Module):
    """x + γ₁ Attention(norm₁(x)), then x + γ₂ MLP(norm₂(x))."""

    dtype: jnp.dtype
    swiglu: bool
    attention: str

    @nn.compact
    def __call__(self, x_bnd):
        x = Attention(self.dtype, self.attention, name="attn")(LayerNorm(name="norm1")(x_bnd))
        x_bnd = x_bnd + LayerScale(name="ls1")(x)
        x = Mlp(self.dtype, self.swiglu, name="mlp")(LayerNorm(name="norm2")(x_bnd))
        return x_bnd + LayerScale(name="ls2")(x)


class ViT(nn.Module):
    """(last tap, aux): `tap0` … `tap3` [b, p, q, d] in `dtype`, `features` (the last of them).

    Taps are block outputs after the shared final norm, without class and register tokens.
    positions: a name in POSITIONS, or "auto": what the public models were made with, "offset" and,
    with registers, "antialias"; "size" is what Hugging Face's Dinov2 does.
    scan: run the blocks as one compiled loop, or as `depth` copies.  remat: recompute each block's
    activations in the backward pass instead of storing them.
    ValueError for images whose sides are no multiples of 14 pixels.
    """

    size: Size
    registers: int = 0
    dtype: jnp.dtype = jnp.float32
    positions: str = "auto"
    scan: bool = True
    remat: bool = False
    attention: str = "auto"

    @property
    def tap_widths(self) -> tuple[int, ...]:
        return (self.size.width,) * 4

    @property
    def tap_strides(self) -> tuple[int, ...]:
        return (PATCH,) * 4

    @nn.compact
    def __call__(self, image_bhwc, *, train: bool):
        b, h, w, _ = image_bhwc.shape
        if h % PATCH or w % PATCH or not h * w:
            raise ValueError(f"image of {h} x {w} pixels; want multiples of {PATCH}")
        grid = (h // PATCH, w // PATCH)
        x_bnd = self._run(self._tokens(image_bhwc, grid))
        norm = LayerNorm(name="norm")
        taps = [norm(x[:, 1 + self.registers:]).astype(self.dtype) for x in x_bnd]
        aux = {f"tap{i}": x.reshape(b, *grid, -1) for i, x in enumerate(taps)}
        return aux["tap3"], aux | {"features": aux["tap3"]}

    def _tokens(self, image_bhwc, grid):
        """Class token, registers and embedded patches: [b, 1 + r + p q, d], float32."""
        d, b = self.size.width, image_bhwc.shape[0]
        small = normal(0.02)
        self.param("mask_token", nn.initializers.zeros, (1, d))  # pretraining's; never used
        cls = self.param("cls_token", small, (1, 1, d))
        table = self.param("pos_embed", small, (1, 1 + GRID**2, d))
        patches = PatchEmbed(d, self.dtype, name="patch_embed")(image_bhwc)
        place = _fit(table[:, 1:].reshape(1, GRID, GRID, d), grid, self._positions())
        parts = [jnp.broadcast_to(cls + table[:, :1], (b, 1, d)), patches + place]
        if self.registers:
            tokens = self.param("register_tokens", small, (1, self.registers, d))
            parts.insert(1, jnp.broadcast_to(tokens, (b, self.registers, d)))
        return jnp.concatenate(parts, axis=1)

    def _positions(self) -> tuple[float, bool]:
        name = self.positions
        if name == "auto":
            name = "antialias" if self.registers else "offset"
        return choose(POSITIONS, name, "config.model.vit.positions")

    def _run(self, x_bnd):
        """The outputs of the four tapped blocks, [4, b, n, d]."""
        kind = nn.remat(Block, prevent_cse=not self.scan) if self.remat else Block
        block = kind(self.dtype, self.size.swiglu, self.attention, name="blocks")

        def body(block, carry, slot):
            x_bnd, taps = carry
            x_bnd = block(x_bnd)
            # Each block writes into the place of the next tap; the tap itself writes last. To stack
            # all outputs instead costs the memory of `depth` of them where nothing is learnt.
            return (x_bnd, jax.lax.dynamic_update_index_in_dim(taps, x_bnd, slot, 0)), None

        depth = self.size.depth
        slots = jnp.array([sum(tap < i for tap in self.size.taps) for i in range(depth)])
        loop = nn.scan(body, variable_axes={"params": 0}, split_rngs={"params": True},
                       length=depth, unroll=1 if self.scan else depth)
        (_, taps), _ = loop(block, (x_bnd, jnp.zeros((4, *x_bnd.shape), x_bnd.dtype)), slots)
        return taps


class PatchEmbed(nn.Module):
    """Patches of 14 x 14 pixels, row by row, as tokens [b, p q, d], float32 or wider."""

    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, image_bhwc):
        b, h, w, c = image_bhwc.shape
        x = image_bhwc.reshape(b, h // PATCH, PATCH, w // PATCH, PATCH, c)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, PATCH * PATCH * c)
        x = Linear(self.width, self.dtype, name="proj")(x)
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _fit(table, grid: tuple[int, int], positions: tuple[float, bool]):
    """The position table [1, 37, 37, d] for a grid of patches, as tokens [1, p q, d]."""
    if grid != (GRID, GRID):
        offset, antialias = positions
        table = resize_bicubic(table, grid, offset, antialias=antialias)
    return table.reshape(1, -1, table.shape[-1])
