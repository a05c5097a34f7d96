"""The two towers of CLIP's vision transformers: photos, and words, to vectors that can be compared.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021).
Parameter names mirror OpenAI's tree (`visual.transformer.resblocks.3.attn.in_proj_weight` is row 3
of `blocks/attn/in_proj/kernel`); `clip_names.py` reads weights. It differs from theirs in this:

* Blocks but the last are stacked along a first axis and run as one loop; the last one stands apart,
  so that its input can be differentiated through alone (`behind_norm`).
* The patch embedding is a matrix product of flattened patches: the same sums.
* Heads run one after the other: one matrix of n x n an image is all that attention ever holds.
* Photos of any grid of patches: the position table is resized bilinearly, as CLIP-ES does, or
  bicubically, as Hugging Face does.

Residual stream, norms and softmax are float32; matrix products run in `dtype`.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from wsssjax.core.config import choose
from wsssjax.core.resize import resize_bicubic, resize_half_pixel
from wsssjax.models.layers import normal
from wsssjax.models.vit import Linear

EPSILON = 1e-5  # of every norm
HEAD_WIDTH = 64  # channels of an attention head
POSITIONS = {"bilinear": resize_half_pixel, "bicubic": resize_bicubic}
POOLS = ("class", "patches")


class Size(NamedTuple):
    """Of an image tower. patch: pixels.  grid: side of the position table.  embed: of the result.
    depth: blocks, 4 or more."""

    width: int
    depth: int
    patch: int
    grid: int
    embed: int


class TextSize(NamedTuple):
    """Of a text tower. context: tokens a text has at most, with its marks of start and end."""

    width: int
    depth: int
    vocabulary: int
    context: int
    embed: int


SIZES = {"b16": Size(768, 12, 16, 14, 512)}


def quick_gelu(x):
    """x σ(1.702 x), in the dtype of x."""
    return x * jax.nn.sigmoid(1.702 * x)


def _norm(name=None):
    return nn.LayerNorm(epsilon=EPSILON, use_fast_variance=False, name=name)


class Attention(nn.Module):
    """(out [b, n, d], weights). weights: float32 [b, n, n], the mean of the heads' softmax
    matrices, or None unless they are to be kept.  causal: a token sees none behind it."""

    dtype: jnp.dtype
    causal: bool

    @nn.compact
    def __call__(self, x_bnd, keep: bool):
        b, n, d = x_bnd.shape
        qkv = Linear(3 * d, self.dtype, name="in_proj")(x_bnd)
        heads = qkv.reshape(b, n, 3, d // HEAD_WIDTH, HEAD_WIDTH).transpose(2, 0, 3, 1, 4)
        out_bnd, weights = jax.lax.map(lambda x: _one_image(*x, self.causal, keep), tuple(heads))
        return Linear(d, self.dtype, name="out_proj")(out_bnd), weights


def _one_image(q_hnd, k_hnd, v_hnd, causal: bool, keep: bool):
    """(out [n, h d], mean weights [n, n] or None), one head at a time."""
    h, n, d = q_hnd.shape
    wide = jnp.promote_types(q_hnd.dtype, jnp.float32)

    @jax.checkpoint
    def head(total, qkv):
        q, k, v = qkv
        scores_nn = ((q * d**-0.5) @ k.T).astype(wide)
        if causal:
            scores_nn = jnp.where(jnp.tri(n, dtype=bool), scores_nn, -jnp.inf)
        weights_nn = jax.nn.softmax(scores_nn)
        out_nd = weights_nn.astype(q.dtype) @ v
        return (total + weights_nn / h if keep else total), out_nd

    total, out_hnd = jax.lax.scan(head, jnp.zeros((n, n), wide) if keep else None,
                                  (q_hnd, k_hnd, v_hnd))
    return out_hnd.transpose(1, 0, 2).reshape(n, h * d), total


class Mlp(nn.Module):
    """d → 4 d → d."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_bnd):
        d = x_bnd.shape[-1]
        x = Linear(4 * d, self.dtype, name="c_fc")(x_bnd)
        return Linear(d, self.dtype, name="c_proj")(quick_gelu(x))


class Block(nn.Module):
    """(x + Attention(ln_1(x)), then + MLP(ln_2(·)); the attention's weights)."""

    dtype: jnp.dtype
    causal: bool = False

    def setup(self):
        self.ln_1, self.ln_2 = _norm(), _norm()
        self.attn, self.mlp = Attention(self.dtype, self.causal), Mlp(self.dtype)

    def __call__(self, x_bnd, keep: bool = False):
        return self.behind(x_bnd, self.ln_1(x_bnd), keep)

    def norm(self, x_bnd):
        """What `behind` takes as its second argument."""
        return self.ln_1(x_bnd)

    def behind(self, x_bnd, normed_bnd, keep: bool = False):
        """The block from behind its first norm on; x_bnd goes past the attention."""
        out_bnd, weights = self.attn(normed_bnd, keep)
        x_bnd = x_bnd + out_bnd.astype(x_bnd.dtype)
        return x_bnd + self.mlp(self.ln_2(x_bnd)).astype(x_bnd.dtype), weights


class ImageTower(nn.Module):
    """(embedding of the class token float32 [b, e], aux): not normalised.

    aux: `tap0` … `tap3` [b, p, q, d] in `dtype`, the patches after a quarter of the blocks each,
    behind the final norm; `features`, the last of them; `last_input` float32 [b, 1 + p q, d], what
    the last block takes, class token first; with `attentions` also `attention` float32
    [b, 1 + p q, 1 + p q], the mean over the heads of that many last blocks.
    positions: a name in POSITIONS.  ValueError for images whose sides are no multiples of the
    patch.
    """

    size: Size
    dtype: jnp.dtype = jnp.float32
    positions: str = "bilinear"
    attentions: int = 0

    @property
    def tap_widths(self) -> tuple[int, ...]:
        return (self.size.width,) * 4

    @property
    def tap_strides(self) -> tuple[int, ...]:
        return (self.size.patch,) * 4

    def setup(self):
        width, _, patch, grid, embed = self.size
        small = normal(width**-0.5)
        self.conv1 = self.param("conv1", small, (patch * patch * 3, width))
        self.class_embedding = self.param("class_embedding", small, (width,))
        self.positional_embedding = self.param("positional_embedding", small, (1 + grid**2, width))
        self.proj = self.param("proj", small, (width, embed))
        self.ln_pre, self.ln_post = _norm(), _norm()
        self.blocks, self.last = Block(self.dtype), Block(self.dtype)

    def __call__(self, image_bhwc, *, train: bool):
        del train  # no dropout: one function for both
        b, h, w, _ = image_bhwc.shape
        patch, keep = self.size.patch, self.attentions > 0
        if h % patch or w % patch or not h * w:
            raise ValueError(f"image of {h} x {w} pixels; want multiples of {patch}")
        grid = (h // patch, w // patch)
        inputs_bnd, taps, total = self._front(self.ln_pre(self._tokens(image_bhwc, grid)))
        x_bnd, weights = self.last(inputs_bnd, keep)
        taps = [self.ln_post(x[:, 1:]).astype(self.dtype) for x in (*taps, x_bnd)]
        aux = {f"tap{i}": x.reshape(b, *grid, -1) for i, x in enumerate(taps)}
        aux |= {"features": aux["tap3"], "last_input": inputs_bnd}
        if keep:
            aux["attention"] = (total + weights) / self.attentions
        return self.embed(x_bnd, "class"), aux

    def norm(self, x_bnd):
        """The last block's first norm of its input."""
        return self.last.norm(x_bnd)

    def behind_norm(self, x_bnd, normed_bnd, pool: str):
        """Embedding float32 [b, e] of what the last block makes of its input and of its norm.

        pool: the "class" token's, or that of the mean of the "patches" behind the final norm.
        """
        return self.embed(self.last.behind(x_bnd, normed_bnd)[0], pool)

    def embed(self, x_bnd, pool: str):
        """Embedding float32 [b, e] of the last block's output."""
        assert pool in POOLS, pool
        x_bnd = self.ln_post(x_bnd)
        x_bd = x_bnd[:, 0] if pool == "class" else x_bnd[:, 1:].mean(1)
        return (x_bd.astype(self.dtype) @ self.proj.astype(self.dtype)).astype(x_bnd.dtype)

    def _tokens(self, image_bhwc, grid):
        """Class token and embedded patches with their places: [b, 1 + p q, d], float32."""
        (b, *_, c), (p, q), patch = image_bhwc.shape, grid, self.size.patch
        x = image_bhwc.reshape(b, p, patch, q, patch, c).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(b, p * q, -1).astype(self.dtype) @ self.conv1.astype(self.dtype)
        first_11d = jnp.reshape(self.class_embedding, (1, 1, -1))
        x = jnp.concatenate([jnp.broadcast_to(first_11d, (b, 1, x.shape[-1])), x], 1)
        return x + self._places(grid)[None]

    def _places(self, grid):
        """The position table for a grid of patches, [1 + p q, d]."""
        table, side = self.positional_embedding, self.size.grid
        resize = choose(POSITIONS, self.positions, "config.model.clip.positions")
        if grid == (side, side):
            return table
        d = table.shape[-1]
        patches = resize(table[1:].reshape(1, side, side, d), grid).reshape(-1, d)
        return jnp.concatenate([table[:1], patches])

    def _front(self, x_bnd):
        """(input of the last block, three taps [3, b, n, d], sum of attentions or None)."""
        (b, n, _), depth, keep = x_bnd.shape, self.size.depth, self.attentions > 0

        def body(block, carry, row):
            x_bnd, taps, total = carry
            slot, counts = row
            x_bnd, weights = block(x_bnd, keep)
            # Each block writes into the place of the next tap, where the tap itself writes last.
            taps = jax.lax.dynamic_update_index_in_dim(taps, x_bnd, slot, 0)
            return (x_bnd, taps, total + weights * counts if keep else total), None

        ends = [depth * (i + 1) // 4 - 1 for i in range(3)]
        slots = [sum(end < i for end in ends) for i in range(depth - 1)]
        counts = [float(i >= depth - self.attentions) for i in range(depth - 1)]
        loop = nn.scan(body, variable_axes={"params": 0}, split_rngs={"params": True},
                       length=depth - 1)
        start = (x_bnd, jnp.zeros((4, *x_bnd.shape), x_bnd.dtype),
                 jnp.zeros((b, n, n), x_bnd.dtype) if keep else None)
        rows = (jnp.array(slots), jnp.array(counts, x_bnd.dtype))
        x_bnd, taps, total = loop(self.blocks, start, rows)[0]
        return x_bnd, taps[:3], total


class TextTower(nn.Module):
    """Embeddings float32 [b, e] of texts, not normalised.

    tokens_bn: int32, start mark first, at most `context` of them; what stands behind the end mark
    is never looked at.  ends_b: int32, place of the end mark, whose token the text is read from.
    """

    size: TextSize
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens_bn, ends_b):
        width, depth, vocabulary, context, embed = self.size
        table = self.param("token_embedding", normal(0.02), (vocabulary, width))
        places = self.param("positional_embedding", normal(0.01), (context, width))
        x_bnd = table[tokens_bn] + places[None, : tokens_bn.shape[1]]
        loop = nn.scan(lambda block, x, _: (block(x)[0], None), variable_axes={"params": 0},
                       split_rngs={"params": True}, length=depth)
        x_bnd, _ = loop(Block(self.dtype, causal=True, name="blocks"), x_bnd, None)
        x_bnd = _norm("ln_final")(x_bnd)
        proj = self.param("text_projection", normal(width**-0.5), (width, embed))
        x_bd = jnp.take_along_axis(x_bnd, ends_b[:, None, None], 1)[:, 0]
        return (x_bd.astype(self.dtype) @ proj.astype(self.dtype)).astype(x_bnd.dtype)
