"""The permutohedral lattice in XLA: built, splatted, blurred and sliced on any device.

The same steps as `core/lattice_host.py`, which names the sources. Vertices are found by a hash
table that all points fill at once: in each round every point not yet placed tries its slot, the
smallest number wins, equal keys share the slot and the others move on by one.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Lattice(NamedTuple):
    """offset: int32 [d+1, n], rows of the value array, 0 is the row of missing vertices.
    weight: float32 [d+1, n].  near: int32 [d+1, 2, v+1].  count: int32, vertices there really are.
    """

    offset: jax.Array
    weight: jax.Array
    near: jax.Array
    count: jax.Array


def scales(d: int) -> np.ndarray:
    """Factor of each of d features, float32: distances in the lattice are standard deviations."""
    i = np.arange(d, dtype=np.float64)
    return ((d + 1) * math.sqrt(2 / 3) / np.sqrt((i + 1) * (i + 2))).astype(np.float32)


def alpha(d: int) -> np.float32:
    """What a filtered value is multiplied by: 1 / (1 + 2^-d)."""
    return np.float32(1 / (1 + 2.0**-d))


def embed(features_nd: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(coordinates int32 [d+1, n, d], weights float32 [d+1, n]) of the vertices around each point.

    features_nd: float32, divided by the standard deviations.
    """
    n, d = features_nd.shape
    c_nd = features_nd * scales(d)[None]
    total, elevated = jnp.zeros(n, jnp.float32), [None] * (d + 1)
    for k in range(d, 0, -1):  # one after the other, so that it rounds as the library does
        elevated[k] = total - k * c_nd[:, k - 1]
        total = total + c_nd[:, k - 1]
    elevated[0] = total
    e_dn = jnp.stack(elevated)
    nearest_dn = jnp.round(e_dn * np.float32(1 / (d + 1))).astype(jnp.int32)
    base_dn, above_n = nearest_dn * (d + 1), nearest_dn.sum(0)
    rest_dn = e_dn - base_dn
    axis = np.arange(d + 1)[:, None]
    ranks = []
    for i in range(d + 1):  # how many come before: larger, or equal and earlier
        larger = rest_dn > rest_dn[i][None]
        ranks.append((larger | ((rest_dn == rest_dn[i][None]) & (axis < i))).sum(0))
    rank_dn = jnp.stack(ranks) + above_n[None]
    shift_dn = jnp.where(rank_dn < 0, d + 1, jnp.where(rank_dn > d, -(d + 1), 0))
    rank_dn, base_dn = rank_dn + shift_dn, base_dn + shift_dn
    t_dn = (e_dn - base_dn) * np.float32(1 / (d + 1))
    # Sorted by rank, weight q is the difference of two neighbouring t; the first closes the sum.
    by_rank = [jnp.where(rank_dn == r, t_dn, 0).sum(0) for r in range(d + 1)]
    weights = [1 + by_rank[d] - by_rank[0]]
    weights += [by_rank[d - q] - by_rank[d - q + 1] for q in range(1, d + 1)]
    steps = [jnp.where(rank_dn <= d - q, q, q - (d + 1))[:d] for q in range(d + 1)]
    vertices = jnp.stack([(base_dn[:d] + step).T for step in steps])
    return vertices, jnp.stack(weights)


class Points(NamedTuple):
    """Points among vertices that are numbered, but not linked yet; e counts (d+1) n entries.

    keys: int32 [e, d].  weight: float32 [d+1, n].  owner: int32 [e], first entry of the same key.
    number: int32 [e], vertices up to here.  table: slot → entry, e where empty.
    """

    keys: jax.Array
    weight: jax.Array
    owner: jax.Array
    number: jax.Array
    table: jax.Array


def place(features_nd: jax.Array, valid_n: jax.Array | None = None) -> Points:
    """Finds and numbers the vertices. valid_n: bool, False on points that only fill the array up
    (they should repeat a real point, and so make no vertex of their own)."""
    vertices, weight = embed(features_nd)
    if valid_n is not None:
        weight = jnp.where(valid_n[None], weight, 0)
    keys = vertices.reshape(-1, features_nd.shape[1])
    owner, table = _insert(keys, 1 << math.ceil(math.log2(2 * len(keys))))
    number = jnp.cumsum(owner == jnp.arange(len(keys)))
    return Points(keys, weight, owner, number, table)


def link(points: Points, room: int) -> Lattice:
    """The lattice with space for `room` vertices: at least points.number[-1], or some are lost."""
    entries, d = points.keys.shape
    index, row = jnp.arange(entries), jnp.arange(room + 1)
    count = points.number[-1]
    target = jnp.where(points.owner == index, points.number, room + 1)
    entry_v = jnp.zeros(room + 1, jnp.int32).at[target].set(index, mode="drop")
    key_vd, real_v = points.keys[entry_v], (row > 0) & (row <= count)
    near = []
    for j in range(d + 1):
        step = np.ones(d, np.int32)
        if j < d:
            step[j] = -d
        found = _find(key_vd + step[None], points, real_v)
        up_v = jnp.where(found < entries, points.number[found], 0).astype(jnp.int32)
        # Whoever has an upper neighbour is that one's lower neighbour.
        down_v = jnp.zeros(room + 1, jnp.int32).at[jnp.where(up_v > 0, up_v, room + 1)].set(
            row.astype(jnp.int32), mode="drop")
        near.append(jnp.stack([up_v, down_v]))
    offset = points.number[points.owner].reshape(d + 1, -1).astype(jnp.int32)
    return Lattice(offset, points.weight, jnp.stack(near), count)


def build(features_nd: jax.Array) -> Lattice:
    """The lattice of n points, with room for (d+1) n vertices, which is always enough."""
    n, d = features_nd.shape
    return link(place(features_nd), (d + 1) * n)


def _hash(keys, slots):
    mixed = jnp.zeros(keys.shape[0], jnp.uint32)
    for c in range(keys.shape[1]):
        mixed = (mixed ^ keys[:, c].astype(jnp.uint32)) * jnp.uint32(0x9E3779B1)
        mixed = mixed ^ (mixed >> 15)
    return (mixed & jnp.uint32(slots - 1)).astype(jnp.int32)


def _insert(keys, slots):
    """(owner_e, table): the first entry with the key of each entry; slot → entry, or `empty`."""
    count = len(keys)
    index = jnp.arange(count)

    def going(state):
        return state[2].any()

    def try_slots(state):
        slot, table, waiting, owner = state
        free = waiting & (table[slot] == count)
        table = table.at[jnp.where(free, slot, slots)].min(index, mode="drop")
        found = table[slot]
        mine = waiting & (keys[found] == keys).all(1)
        return (jnp.where(waiting & ~mine, (slot + 1) & (slots - 1), slot), table,
                waiting & ~mine, jnp.where(mine, found, owner))

    start = (_hash(keys, slots), jnp.full(slots, count, jnp.int32), jnp.ones(count, bool), index)
    _, table, _, owner = jax.lax.while_loop(going, try_slots, start)
    return owner, table


def _find(wanted, points, real):
    """The entry that holds each wanted key; len(keys) where there is none or `real` is false."""
    slots, none = points.table.shape[0], len(points.keys)

    def try_slots(state):
        slot, waiting, found = state
        entry = points.table[slot]
        here = (points.keys[jnp.minimum(entry, none - 1)] == wanted).all(1) & (entry < none)
        found = jnp.where(waiting & here, entry, found)
        waiting = waiting & ~here & (entry < none)
        return (slot + 1) & (slots - 1), waiting, found

    start = (_hash(wanted, slots), real, jnp.full(len(wanted), none, jnp.int32))
    return jax.lax.while_loop(lambda s: s[1].any(), try_slots, start)[2]


def apply(lattice: Lattice, x_nk: jax.Array) -> jax.Array:
    """K x, float32 [n, k]: every column filtered, not normalised."""
    values = jnp.zeros((lattice.near.shape[2], x_nk.shape[1]), jnp.float32)
    for offset_n, weight_n in zip(lattice.offset, lattice.weight, strict=True):
        values = values.at[offset_n].add(weight_n[:, None] * x_nk)
    for up_v, down_v in lattice.near:
        values = values + 0.5 * (values[up_v] + values[down_v])
    y_nk = jnp.zeros(x_nk.shape, jnp.float32)
    for offset_n, weight_n in zip(lattice.offset, lattice.weight, strict=True):
        y_nk = y_nk + weight_n[:, None] * values[offset_n]
    return y_nk * alpha(lattice.offset.shape[0] - 1)
