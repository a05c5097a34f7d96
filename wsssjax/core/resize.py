"""Every resampling that the methods need, each equal to the library the reference used.

Arrays are channels-last, [..., h, w, c]; `size` is (rows, columns). Maps without channels pass
`axes=(-2, -1)`. All functions can be jitted and differentiated in reverse (the uint8 ones and
nearest, which hand on no useful gradient, aside). Sampling rules, d being the output index:

    resize_corners      src = d (n - 1) / (m - 1)         torch, align_corners=True
    resize_half_pixel   src = (d + 1/2) n / m - 1/2       torch, align_corners=False
    resize_bicubic      the same with four taps, a = -3/4; with an offset n / (m + offset) for n / m
                        antialiased: a = -1/2 and a kernel that widens where it shrinks
    resize_nearest      src = floor(d n / m)              torch's "nearest"
    resize_pillow       Pillow on 8-bit images, antialiased when it shrinks
Where nothing else is said, none but the last antialiases.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import PIL

_PILLOW_MAJOR = int(PIL.__version__.split(".")[0])
_PILLOW_BITS = 22  # fixed-point fraction bits of Pillow's 8-bit resampling
_PILLOW_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}


def resize_corners(x, size: tuple[int, int], axes: tuple[int, int] = (-3, -2)):
    """x resampled to `size` bilinearly, the corner pixels staying corner pixels."""
    return _bilinear(x, size, axes, "corners")


def resize_half_pixel(x, size: tuple[int, int], axes: tuple[int, int] = (-3, -2)):
    """x resampled to `size` bilinearly, pixels being unit squares; borders are repeated."""
    return _bilinear(x, size, axes, "half_pixel")


def resize_bicubic(x, size: tuple[int, int], offset: float = 0.0, *, antialias: bool = False):
    """x: [..., h, w, c] resampled to `size` with torch's bicubic kernel, in float32.

    offset: what is added to the output size before it becomes a scale factor. DINOv2 and UniMatch
    V2 resize their position table with 0.1, which moves the sampling grid; an axis that keeps its
    length is resampled too then. 0 is torch's behaviour for a plain output size.
    antialias: torch's other bicubic, with another kernel even where it enlarges; without offset.
    """
    assert not (offset and antialias), "torch has no such resize"
    rows, columns = (antialiased_matrix(n, m) if antialias else bicubic_matrix(n, m, offset)
                     for n, m in zip(x.shape[-3:-1], size, strict=True))
    y = _along(jnp.asarray(rows), x.astype(jnp.float32), x.ndim - 3)
    return _along(jnp.asarray(columns), y, x.ndim - 2).astype(x.dtype)


def resize_nearest(x, size: tuple[int, int], axes: tuple[int, int] = (-3, -2)):
    """x resampled to `size` by picking the pixel floor(d n / m): 448 to 56 picks 0, 8, 16, ..."""
    for axis, length in zip(axes, size, strict=True):
        source = np.arange(length) * x.shape[axis] // length
        if not np.array_equal(source, np.arange(x.shape[axis])):
            x = jnp.take(x, source, axis=axis)
    return x


def resize_pillow(image_hwc, size: tuple[int, int], method: str = "bilinear", *,
                  rows_first: bool | None = None):
    """uint8 [..., h, w, c] bit-equal to Pillow's resize: one pass an axis, each rounded to 8 bits.

    method: "bilinear" or "bicubic". The kernel widens with the step where the image shrinks.
    rows_first: None does what the installed Pillow does. Before Pillow 13 columns always came
    first; since then rows do where the height loses more than twice the pixels of the width.
    """
    if method not in _PILLOW_SUPPORT:
        raise ValueError(f"method {method!r}: want one of {', '.join(_PILLOW_SUPPORT)}")
    assert image_hwc.dtype == jnp.uint8, image_hwc.dtype
    x = jnp.asarray(image_hwc)
    if rows_first is None:
        lost_rows, lost_columns = x.shape[-3] - size[0], x.shape[-2] - size[1]
        rows_first = _PILLOW_MAJOR >= 13 and lost_rows > max(0, 2 * lost_columns)
    passes = [(x.ndim - 2, size[1]), (x.ndim - 3, size[0])]
    for axis, length in reversed(passes) if rows_first else passes:
        if length != x.shape[axis]:  # Pillow skips a pass that changes nothing
            x = _pillow_pass(x, length, axis, method)
    return x


# ---- bilinear: gathers forward and backward ----------------------------------------------------
# On a CPU a gather is four times faster than a matrix product, and the scatter that is its
# transpose far slower than either. So the gradient gathers too: each input sample knows the few
# outputs it went into. [2, 148, 148, 64] to 296 x 296 on two cores, backward: 1.4 ms against 39 ms
# by matrices; [8, 32, 32, 21] to 256 x 256 forward: 9 ms against 33.


@functools.lru_cache(maxsize=512)
def bilinear_taps(n: int, m: int, rule: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(lower, upper, weight of the upper) for n samples turned into m: int32, int32, float64 [m].

    rule: "corners" or "half_pixel".
    """
    d = np.arange(m, dtype=np.float64)
    if rule == "corners":
        source = d * ((n - 1) / (m - 1)) if m > 1 else d
    else:
        source = np.maximum((d + 0.5) * (n / m) - 0.5, 0.0)
    lower = np.minimum(np.floor(source).astype(np.int32), n - 1)
    upper = np.minimum(lower + 1, n - 1)
    return lower, upper, np.clip(source - lower, 0.0, 1.0)


@functools.lru_cache(maxsize=512)
def bilinear_matrix(n: int, m: int, rule: str) -> np.ndarray:
    """The same as a float64 matrix [m, n], rows summing to 1."""
    lower, upper, weight = bilinear_taps(n, m, rule)
    matrix = np.zeros((m, n))
    np.add.at(matrix, (np.arange(m), lower), 1 - weight)
    np.add.at(matrix, (np.arange(m), upper), weight)
    return matrix


def _bilinear(x, size, axes, rule):
    assert jnp.issubdtype(x.dtype, jnp.floating), f"bilinear resize of {x.dtype}; cast it first"
    axes = tuple(a % x.ndim for a in axes)
    lengths = tuple(x.shape[a] for a in axes)
    if lengths == tuple(size):
        return x
    return _bilinear_core(x, tuple(map(int, size)), axes, lengths, rule)


@functools.lru_cache(maxsize=512)
def _transposed_taps(n: int, m: int, rule: str) -> tuple[np.ndarray, np.ndarray]:
    """For each of n input samples the outputs it went into and their weights: both [n, taps]."""
    matrix_nm = bilinear_matrix(n, m, rule).T
    first = (matrix_nm != 0).argmax(1)
    last = m - 1 - (matrix_nm[:, ::-1] != 0).argmax(1)
    used = (matrix_nm != 0).any(1)
    taps = int((last - first + 1)[used].max())
    index = first[:, None] + np.arange(taps)
    inside = index < m
    index = np.minimum(index, m - 1)
    return index, np.take_along_axis(matrix_nm, index, 1) * inside


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _bilinear_core(x, size, axes, lengths, rule):
    for axis, n, m in zip(axes, lengths, size, strict=True):
        if n != m:
            lower, upper, weight = bilinear_taps(n, m, rule)
            weight = jnp.asarray(weight, x.dtype).reshape(_column(x.ndim, axis))
            low = jnp.take(x, lower, axis=axis)
            x = low + (jnp.take(x, upper, axis=axis) - low) * weight
    return x


def _bilinear_forward(x, size, axes, lengths, rule):
    return _bilinear_core(x, size, axes, lengths, rule), None


def _bilinear_backward(size, axes, lengths, rule, _, grad):
    for axis, n, m in zip(axes, lengths, size, strict=True):
        if n != m:
            index, weight = _transposed_taps(n, m, rule)
            total = 0
            for i, w in zip(index.T, weight.T, strict=True):
                w = jnp.asarray(w, grad.dtype).reshape(_column(grad.ndim, axis))
                total = total + jnp.take(grad, i, axis=axis) * w
            grad = total
    return (grad,)


_bilinear_core.defvjp(_bilinear_forward, _bilinear_backward)


def _along(matrix_mn, x, axis: int):
    """matrix_mn applied along one axis of x, at full precision on every backend."""
    y = jnp.tensordot(matrix_mn, x, axes=(1, axis), precision=jax.lax.Precision.HIGHEST)
    return jnp.moveaxis(y, 0, axis)


def _column(ndim: int, axis: int) -> tuple[int, ...]:
    return tuple(-1 if a == axis else 1 for a in range(ndim))


# ---- bicubic -----------------------------------------------------------------------------------


@functools.lru_cache(maxsize=128)
def bicubic_matrix(n: int, m: int, offset: float = 0.0) -> np.ndarray:
    """torch's bicubic (a = -3/4, no antialias) from n samples to m as a float32 matrix [m, n].

    Weights of taps that fall outside are added to the border sample; they are not renormalised.
    """
    source = (np.arange(m) + 0.5) * (n / (m + offset)) - 0.5
    base = np.floor(source).astype(int)
    matrix = np.zeros((m, n))
    for tap in (-1, 0, 1, 2):
        weight = _cubic(np.abs(source - base - tap), -0.75)
        np.add.at(matrix, (np.arange(m), np.clip(base + tap, 0, n - 1)), weight)
    return matrix.astype(np.float32)


@functools.lru_cache(maxsize=128)
def antialiased_matrix(n: int, m: int) -> np.ndarray:
    """torch's antialiased bicubic (a = -1/2) from n samples to m as a float32 matrix [m, n].

    The kernel is as wide as the step where it shrinks; weights inside are renormalised.
    """
    widen = max(n / m, 1.0)
    matrix = np.zeros((m, n))
    for d in range(m):
        centre, support = (d + 0.5) * n / m, 2.0 * widen
        low, high = max(int(centre - support + 0.5), 0), min(int(centre + support + 0.5), n)
        weight = _cubic(np.abs((np.arange(low, high) - centre + 0.5) / widen), -0.5)
        matrix[d, low:high] = weight / weight.sum()
    return matrix.astype(np.float32)


def _cubic(t, a: float):
    """Keys' cubic kernel at distances t >= 0."""
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))


# ---- Pillow, 8 bits ----------------------------------------------------------------------------


@functools.lru_cache(maxsize=128)
def _pillow_taps(n: int, m: int, method: str) -> tuple[np.ndarray, np.ndarray]:
    """(source index, fixed-point weight), both int32 [m, taps]; unused taps weigh 0."""
    step = n / m
    widen = max(step, 1.0)
    support = _PILLOW_SUPPORT[method] * widen
    taps = math.ceil(support) * 2 + 1
    index, weights = np.zeros((m, taps), np.int32), np.zeros((m, taps), np.int32)
    for d in range(m):
        centre = (d + 0.5) * step
        low = max(int(centre - support + 0.5), 0)
        high = min(int(centre + support + 0.5), n)
        t = np.abs((np.arange(low, high) - centre + 0.5) / widen)
        if method == "bilinear":
            weight = np.maximum(1.0 - t, 0.0)
        else:
            weight = _cubic(t, -0.5)
        weight = np.add.accumulate(weight)[-1] ** -1 * weight
        fixed = weight * (1 << _PILLOW_BITS)
        index[d, : high - low] = np.arange(low, high)
        weights[d, : high - low] = np.trunc(fixed + np.copysign(0.5, fixed))
    return index, weights


def _pillow_pass(x, length: int, axis: int, method: str):
    index, weights = _pillow_taps(x.shape[axis], length, method)
    taken = jnp.take(x, index, axis=axis).astype(jnp.int32)  # [..., length, taps, ...]
    shape = [1] * taken.ndim
    shape[axis], shape[axis + 1] = weights.shape
    total = (taken * jnp.asarray(weights).reshape(shape)).sum(axis + 1)
    total = (total + (1 << (_PILLOW_BITS - 1))) >> _PILLOW_BITS
    return jnp.clip(total, 0, 255).astype(jnp.uint8)
