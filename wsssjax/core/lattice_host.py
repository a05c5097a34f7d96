"""The permutohedral lattice and the mean field of a dense CRF on the host, compiled by Numba.

Adams et al., "Fast High-Dimensional Filtering Using the Permutohedral Lattice" (Eurographics 2010),
in the form of Krähenbühl and Koltun's CRF. `core/lattice.py` does the same in XLA. All functions
let go of Python's lock and use one core: give each thread an image of its own.

Memory: `crf.needs`; 500 x 375 pixels and 21 labels take about 100 MB, lattices included.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from wsssjax.core.compiled import jit
from wsssjax.core.lattice import alpha, scales

LANES = 8  # numbers of a row that are dealt with at once; rows are padded to a multiple of it
_EMPTY = 1e30  # energy of the labels that only pad a row
_FIRST_TABLE = 1 << 16  # slots

_jit = functools.partial(jit, boundscheck=False, error_model="numpy")
_jit_sums = functools.partial(_jit, fastmath={"contract", "nsz", "reassoc", "nnan"})  # as vectors
_U, _F, _I = np.uint64, np.float32, np.int32  # unsigned: Numba tests signed indices for wrapping


class Lattice(NamedTuple):
    """Where n points of d features lie in the lattice of their v vertices.

    offset: int32 [n, d+1], vertices from 1.  weight: float32 [n, d+1], barycentric.
    near: int32 [d+1, v+1, 2], the two neighbours along each axis; 0 where no point made one.
    """

    offset: np.ndarray
    weight: np.ndarray
    near: np.ndarray


def key_limit(d: int) -> int:
    """What the coordinates of a vertex must stay below so that d of them fit one 62-bit key."""
    return (1 << (62 // d - 1)) - (d + 1)


def build(features_nd: np.ndarray) -> Lattice:
    """The lattice of points. features_nd: float32, divided by the standard deviations."""
    n, d = features_nd.shape
    far_d = np.abs(features_nd * scales(d)).max(0, initial=0)
    reach = max(far_d[j:].sum() + (j * far_d[j - 1] if j else 0) for j in range(d + 1))
    if not reach < key_limit(d):  # nor for NaN
        raise ValueError(f"a CRF kernel is too narrow for this photo (its lattice reaches "
                         f"{reach:.0f} cells, the limit is {key_limit(d)}); widen sxy or srgb")
    keys, weight = np.empty((n, d + 1), np.int64), np.empty((n, d + 1), np.float32)
    _embed(np.ascontiguousarray(features_nd), scales(d), keys, weight)
    offset = np.empty((n, d + 1), np.int32)
    vertices, table = _number(keys, offset)
    return Lattice(offset, weight, _neighbours(vertices, table, d))


@_jit
def _embed(features_nd, scale_d, keys, weight):
    """Key and barycentric weight of the d + 1 vertices around each point, in the library's order
    of operations: a point on the border of two simplices falls on the same side."""
    n, d = features_nd.shape
    bits = 62 // d
    half = 1 << (bits - 1)
    inverse = _F(1.0) / _F(d + 1)
    elevated, bary = np.empty(d + 1, np.float32), np.empty(d + 2, np.float32)
    base, rank = np.empty(d + 1, np.int32), np.empty(d + 1, np.int32)
    for i in range(n):
        total = _F(0)
        for k in range(d, 0, -1):
            c = features_nd[i, k - 1] * scale_d[k - 1]
            elevated[k] = total - _F(k) * c
            total += c
        elevated[0] = total
        above = 0
        for k in range(d + 1):
            nearest = _I(np.rint(elevated[k] * inverse))  # half to even
            base[k] = nearest * (d + 1)
            above += nearest
            rank[k] = 0
        for a in range(d):
            for b in range(a + 1, d + 1):
                if elevated[a] - base[a] < elevated[b] - base[b]:
                    rank[a] += 1
                else:
                    rank[b] += 1
        for k in range(d + 1):
            rank[k] += above
            if rank[k] < 0:
                rank[k] += d + 1
                base[k] += d + 1
            elif rank[k] > d:
                rank[k] -= d + 1
                base[k] -= d + 1
        bary[:] = 0
        for k in range(d + 1):
            t = (elevated[k] - base[k]) * inverse
            bary[d - rank[k]] += t
            bary[d - rank[k] + 1] -= t
        bary[0] += _F(1) + bary[d + 1]
        for q in range(d + 1):
            key = np.int64(0)
            for k in range(d):
                step = q if rank[k] <= d - q else q - (d + 1)
                key = (key << bits) | (base[k] + step + half)
            keys[i, q] = key
            weight[i, q] = bary[q]


@_jit
def _slot(key, mask):
    return ((_U(key) * _U(0x9E3779B97F4A7C15)) >> _U(24)) & mask


@_jit
def _insert(table, vertices, number):
    """Puts the last of `number` vertices into the hash table."""
    mask = _U(table.shape[0] - 1)
    slot = _slot(vertices[number - 1], mask)
    while table[slot]:
        slot = (slot + _U(1)) & mask
    table[slot] = number


@_jit
def _find(table, vertices, key):
    """The number of a vertex from 1; 0 where there is none."""
    mask = _U(table.shape[0] - 1)
    slot = _slot(key, mask)
    while True:
        found = table[slot]
        if found == 0 or vertices[found - 1] == key:
            return found
        slot = (slot + _U(1)) & mask


@_jit
def _number(keys, offset):
    """(vertices, hash table): numbers the keys from 1 in the order in which they appear."""
    table, count = np.zeros(_FIRST_TABLE, np.int32), 0
    vertices = np.empty(_FIRST_TABLE // 2, np.int64)
    for i in range(keys.shape[0]):
        for q in range(keys.shape[1]):
            key = keys[i, q]
            if i > 0 and keys[i - 1, q] == key:
                offset[i, q] = offset[i - 1, q]
                continue
            found = _find(table, vertices, key)
            if found == 0:
                if count == vertices.shape[0]:
                    grown = np.empty(2 * count, np.int64)
                    grown[:count] = vertices
                    vertices, table = grown, np.zeros(4 * count, np.int32)
                    for v in range(1, count + 1):
                        _insert(table, vertices, v)
                vertices[count] = key
                count += 1
                _insert(table, vertices, count)
                found = count
            offset[i, q] = found
    return vertices[:count].copy(), table


@_jit
def _neighbours(vertices, table, d):
    count, bits = vertices.shape[0], 62 // d
    near = np.zeros((d + 1, count + 1, 2), np.int32)
    ones = np.int64(0)
    for _ in range(d):
        ones = (ones << bits) | 1
    for j in range(d + 1):
        step = ones
        if j < d:
            step -= np.int64(d + 1) << (bits * (d - 1 - j))
        for v in range(count):
            found = _find(table, vertices, vertices[v] + step)
            if found:  # each is the other's neighbour
                near[j, v + 1, 0] = found
                near[j, found, 1] = v + 1
    return near


# ---- rows of a multiple of LANES numbers -------------------------------------------------------


@intrinsic
def _add_row(_, y, y_row, factor, x, x_row, blocks):
    """y[y_row] += factor * x[x_row], both of 8 * blocks numbers, as vectors of 8.

    Written in LLVM's own terms: Numba's loops over so few numbers come out one number at a time,
    which makes the whole mean field twice as slow.
    """
    def generate(context, builder, signature, arguments):
        vector = ir.VectorType(ir.FloatType(), LANES)
        undefined, zero = ir.Constant(vector, ir.Undefined), ir.Constant(ir.IntType(32), 0)
        lane0 = builder.insert_element(undefined, arguments[2], zero)
        spread = builder.shuffle_vector(
            lane0, undefined, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))
        count, rows = arguments[5], []
        for place in (0, 3):
            array = context.make_array(signature.args[place])(context, builder, arguments[place])
            start = builder.mul(arguments[place + 1], count)
            data = builder.bitcast(array.data, vector.as_pointer())
            rows.append(builder.gep(data, [start]))
        with cgutils.for_range(builder, count) as loop:
            to, source = (builder.gep(row, [loop.index]) for row in rows)
            old, new = builder.load(to), builder.load(source)
            old.align = new.align = 4
            product = builder.fmul(spread, new, flags=("contract",))
            builder.store(builder.fadd(product, old, flags=("contract",)), to).align = 4
        return context.get_dummy_value()

    return types.void(y, types.int64, types.float32, x, types.int64, types.int64), generate


@_jit
def _blur(values, spare, near, first, last):
    """spare[v] = values[v] + half its neighbours along one axis, for v in first .. last - 1."""
    width = values.shape[1]
    for v in range(first, last):
        up, down, here = _U(near[v - first + 1, 0]), _U(near[v - first + 1, 1]), _U(v)
        up = up + _U(first - 1) if up else up
        down = down + _U(first - 1) if down else down
        for k in range(width):
            spare[here, _U(k)] = values[here, _U(k)] + _F(0.5) * (
                values[up, _U(k)] + values[down, _U(k)])


@_jit
def _blur_all(values, spare, near, first):
    """Blurs one lattice, whose vertices are the rows from `first` on, along all axes in order."""
    last = first + near.shape[1] - 1
    for j in range(near.shape[0]):
        if j % 2 == 0:
            _blur(values, spare, near[j], first, last)
        else:
            _blur(spare, values, near[j], first, last)
    if near.shape[0] % 2:
        values[first:last] = spare[first:last]


@_jit
def _splat(values, x, offset, weight):
    blocks = x.shape[1] // LANES
    for i in range(offset.shape[0]):
        for q in range(offset.shape[1]):
            _add_row(values, offset[_U(i), _U(q)], weight[_U(i), _U(q)], x, i, blocks)


@_jit
def _slice(y, values, offset, weight):
    blocks = y.shape[1] // LANES
    for i in range(offset.shape[0]):
        for q in range(offset.shape[1]):
            _add_row(y, i, weight[_U(i), _U(q)], values, offset[_U(i), _U(q)], blocks)


def apply(lattice: Lattice, x_nk: np.ndarray) -> np.ndarray:
    """K x, float32 [n, k]: every column filtered, not normalised."""
    n, k = x_nk.shape
    d = lattice.offset.shape[1] - 1
    width = -(-k // LANES) * LANES
    x, y = np.zeros((n, width), np.float32), np.zeros((n, width), np.float32)
    x[:, :k] = x_nk
    values = np.zeros((lattice.near.shape[1], width), np.float32)
    _splat(values, x, lattice.offset, lattice.weight)
    _blur_all(values, np.zeros_like(values), lattice.near, 1)
    _slice(y, values, lattice.offset, lattice.weight * alpha(d))
    return y[:, :k]


def norms(lattice: Lattice) -> np.ndarray:
    """Row sums of K, float32 [n]."""
    return apply(lattice, np.ones((len(lattice.offset), 1), np.float32))[:, 0]


# ---- mean field --------------------------------------------------------------------------------


@_jit_sums
def _softmax(row):
    """exp(row - max) in place, not divided; returns the sum. exp is good to 1e-7 (Cephes)."""
    width = row.shape[1]
    top = row[0, 0]
    for k in range(width):
        top = max(top, row[_U(0), _U(k)])
    total = _F(0)
    for k in range(width):
        x = max(row[_U(0), _U(k)] - top, _F(-87))
        power = np.floor(x * _F(1.44269504) + _F(0.5))
        r = x - power * _F(0.693359375) + power * _F(2.12194440e-4)
        p = _F(1.9875691500e-4)
        p = p * r + _F(1.3981999507e-3)
        p = p * r + _F(8.3334519073e-3)
        p = p * r + _F(4.1665795894e-2)
        p = p * r + _F(1.6666665459e-1)
        p = p * r + _F(5.0000001201e-1)
        scale = _I((_I(power) + _I(127)) << _I(23)).view(np.float32)  # 2^power
        y = (p * r * r + r + _F(1)) * scale
        row[_U(0), _U(k)] = y
        total += y
    return total


@_jit
def _iterate(energy, values, spare, near, firsts, offset, splat, take, iterations):
    """Overwrites `energy` [n, width] with Q after `iterations` rounds.

    Slicing, softmax and the next round's splatting go pixel by pixel, so that Q itself is only
    written at the end.
    """
    n, width = energy.shape
    blocks, per_pixel = width // LANES, offset.shape[1]
    row = np.empty((1, width), np.float32)
    filled, other = values, spare
    for step in range(iterations + 1):
        other[:] = 0
        for i in range(n):
            for k in range(width):
                row[_U(0), _U(k)] = -energy[_U(i), _U(k)]
            if step:
                for q in range(per_pixel):
                    _add_row(row, 0, take[_U(i), _U(q)], filled, offset[_U(i), _U(q)], blocks)
            inverse = _F(1) / _softmax(row)
            if step == iterations:
                for k in range(width):
                    energy[_U(i), _U(k)] = row[_U(0), _U(k)] * inverse
                continue
            for q in range(per_pixel):
                _add_row(other, offset[_U(i), _U(q)], splat[_U(i), _U(q)] * inverse, row, 0, blocks)
        if step < iterations:
            for kernel in range(len(near)):
                _blur_all(other, filled, near[kernel], firsts[kernel])
            filled, other = other, filled


class Joint(NamedTuple):
    """The lattices of several kernels as one, their norms and weights folded in.

    offset: int32 [n, q], q = Σ (d+1).  splat, take: float32 [n, q], weights on the way in and out.
    near, firsts: per kernel, `firsts` the row of its first vertex.  rows: of the value arrays."""

    offset: np.ndarray
    splat: np.ndarray
    take: np.ndarray
    near: tuple[np.ndarray, ...]
    firsts: tuple[int, ...]
    rows: int


def join(lattices, before, after) -> Joint:
    """before, after: float32 [n] per kernel: factors of a pixel ahead of and behind its filter."""
    *firsts, rows = np.cumsum([1, *(lat.near.shape[1] - 1 for lat in lattices)]).tolist()
    offset = np.concatenate([lat.offset + np.int32(f - 1)
                             for lat, f in zip(lattices, firsts, strict=True)], 1)
    splat = np.concatenate([lat.weight * b[:, None]
                            for lat, b in zip(lattices, before, strict=True)], 1)
    take = np.concatenate([lat.weight * (a * alpha(lat.offset.shape[1] - 1))[:, None]
                           for lat, a in zip(lattices, after, strict=True)], 1)
    return Joint(offset, splat, take, tuple(lat.near for lat in lattices), tuple(firsts), rows)


def mean_field(unary_nk: np.ndarray, joint: Joint, iterations: int) -> np.ndarray:
    """Q, float32 [n, k], rows summing to 1, for kernels whose compatibility is a number."""
    n, k = unary_nk.shape
    width = -(-k // LANES) * LANES
    energy = np.full((n, width), _EMPTY, np.float32)
    energy[:, :k] = unary_nk
    values = np.zeros((joint.rows, width), np.float32)
    _iterate(energy, values, np.zeros_like(values), joint.near, joint.firsts, joint.offset,
             joint.splat, joint.take, iterations)
    return energy[:, :k]
