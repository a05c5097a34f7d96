"""Class maps spread over what an encoder finds alike: by its tokens, or by its attention.

By tokens t_1 … t_n of one image (ours):

    u_i = t_i / |t_i|     c_ij = u_i · u_j     m = mean of all n² c_ij
    s_ij = max(c_ij - m, 0)^power
    A_ij = (s_ij + ε [i = j]) / (Σ_j s_ij + ε),  ε = 1e-6        rows sum to 1
    M ← A M, `steps` times

so each value becomes a mean over the tokens that are more alike than two tokens of this image are
by and large. ε keeps a map as it is where nothing is alike (all tokens the same, a single token).

By attention P (a mean of softmax matrices, patches only), class-aware, as CLIP-ES has it (Lin et
al., "CLIP is Also an Efficient Segmenter", CVPR 2023):

    D = P, three times: each column over its sum, then each row over its sum
    T = S S, S = (D + Dᵀ) / 2
    M_c ← T (B_c ∘ M_c),  B_c the boxes around the connected regions of M_c above 0.4 max M_c

Everything is pure JAX at feature resolution and one image at a time: n x n is the largest array.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from wsssjax.core.resize import resize_half_pixel

_SELF = 1e-6  # ε of the token affinities
_LEAST = 1e-7  # added to the maximum that divides a map


# ---- tokens ------------------------------------------------------------------------------------


def token_affinity(tokens_nd, power: float):
    """A float32 [n, n], rows summing to 1. tokens_nd: any float dtype."""
    tokens_nd = tokens_nd.astype(jnp.promote_types(tokens_nd.dtype, jnp.float32))
    length_n1 = jnp.linalg.norm(tokens_nd, axis=-1, keepdims=True)
    unit_nd = tokens_nd / jnp.maximum(length_n1, 1e-12)
    cosine_nn = unit_nd @ unit_nd.T
    alike_nn = jnp.maximum(cosine_nn - cosine_nn.mean(), 0.0) ** power
    whole_n1 = alike_nn.sum(-1, keepdims=True) + _SELF
    return (alike_nn + _SELF * jnp.eye(len(alike_nn), dtype=alike_nn.dtype)) / whole_n1


def spread(maps_bpqk, tokens_bpqd, *, power: float, steps: int):
    """Maps float32 [b, p, q, k] on the grid of the tokens, after `steps` of the walk.

    maps_bpqk: on any grid; they are enlarged bilinearly to that of the tokens first.
    steps: 0 leaves the maps, and their grid, alone.
    """
    if not steps:
        return maps_bpqk
    b, p, q, d = tokens_bpqd.shape
    maps_bpqk = resize_half_pixel(maps_bpqk, (p, q))

    def one(image):
        tokens_nd, maps_nk = image
        affinity_nn = token_affinity(tokens_nd, power)
        for _ in range(steps):
            maps_nk = affinity_nn @ maps_nk
        return maps_nk

    maps_bnk = jax.lax.map(one, (tokens_bpqd.reshape(b, p * q, d),
                                 maps_bpqk.reshape(b, p * q, -1)))
    return maps_bnk.reshape(b, p, q, -1)


# ---- attention ---------------------------------------------------------------------------------


def attention_affinity(attention_nn, rounds: int = 3, squarings: int = 1):
    """T float32 [n, n] of one image. attention_nn: ≥ 0, no row and no column of zeros."""
    d_nn = attention_nn
    for _ in range(rounds):
        d_nn = d_nn / d_nn.sum(0, keepdims=True)
        d_nn = d_nn / d_nn.sum(1, keepdims=True)
    t_nn = (d_nn + d_nn.T) / 2
    for _ in range(squarings):
        t_nn = t_nn @ t_nn
    return t_nn


def spread_in_boxes(maps_pqk, affinity_nn, threshold: float):
    """T (B_c ∘ M_c) for each of the maps of one image, [p, q, k]. maps_pqk: ≥ 0; a map of zeros
    has no box and stays zero.  threshold: share of a map's maximum.
    """
    p, q, _ = maps_pqk.shape
    inside_pqk = jax.vmap(lambda map_pq: box_mask(map_pq > threshold * map_pq.max()), -1, -1)(
        maps_pqk)
    return (affinity_nn @ (maps_pqk * inside_pqk).reshape(p * q, -1)).reshape(p, q, -1)


def box_mask(mask_pq):
    """bool [p, q]: the pixels inside the bounding boxes of the mask's regions, borders included."""
    p, q = mask_pq.shape
    region_n = regions(mask_pq).reshape(-1)
    row_n, column_n = (x.reshape(-1) for x in jnp.meshgrid(
        jnp.arange(p), jnp.arange(q), indexing="ij"))
    size = {"segment_ids": region_n, "num_segments": p * q + 1}
    # 1 for each region there is; number 0 is what lies outside of all.
    one_m = (jnp.zeros(p * q + 1, jnp.int32).at[region_n].set(1)).at[0].set(0)
    top_m, left_m = (jnp.where(one_m > 0, jax.ops.segment_min(x, **size), 0)
                     for x in (row_n, column_n))
    bottom_m, right_m = (jnp.where(one_m > 0, jax.ops.segment_max(x, **size) + 1, 0)
                         for x in (row_n, column_n))
    # Each box as the differences of its corners; running sums along both axes fill them in.
    corners = jnp.zeros((p + 1, q + 1), jnp.int32)
    corners = corners.at[top_m, left_m].add(one_m).at[bottom_m, right_m].add(one_m)
    corners = corners.at[bottom_m, left_m].add(-one_m).at[top_m, right_m].add(-one_m)
    return corners.cumsum(0).cumsum(1)[:p, :q] > 0


def regions(mask_pq):
    """int32 [p, q]: a number of its own, from 1, in each region of the mask (neighbours touch at
    sides or corners), 0 outside. The highest position in a region spreads until nothing changes.
    """
    start_pq = jnp.where(mask_pq, jnp.arange(1, mask_pq.size + 1).reshape(mask_pq.shape), 0)

    def grow(state):
        number_pq, _ = state
        near_pq = jax.lax.reduce_window(number_pq, 0, jax.lax.max, (3, 3), (1, 1), "SAME")
        grown_pq = jnp.where(mask_pq, near_pq, 0)
        return grown_pq, (grown_pq != number_pq).any()

    return jax.lax.while_loop(lambda state: state[1], grow, (start_pq, jnp.array(True)))[0]


def by_range(maps_pqk):
    """Each map from its minimum (0) to its maximum (just below 1); a map of one value is all 0."""
    maps_pqk = maps_pqk - maps_pqk.min((0, 1), keepdims=True)
    return maps_pqk / (maps_pqk.max((0, 1), keepdims=True) + _LEAST)
