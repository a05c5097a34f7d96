"""AffinityNet's random walk, exactly, without its matrix: a stencil applied t times.

The published code builds the n x n transition matrix T of the n pixels of the feature map and
squares it eight times. Only M T^256 is wanted, for the few rows M that have a class, and T has at
most 69 entries a column; so each step is 69 shifted multiply-adds. 500 x 375 pixels with four
channels take 0.1 s on two cores, most of it for the affinities and 0.02 s for the 256 steps,
against 4.3 s of squaring the matrix; the results are equal to 3e-6.
"""

from __future__ import annotations

import functools

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from wsssjax.core.config import choose
from wsssjax.refine import affinity_pairs as pairs
from wsssjax.refine.affinity_pairs import OFFSETS, REACH

BORDERS = ("inside", "psa")
STRIDE = 8  # pixels of the photo per pixel of the feature map
_SIDE = 8  # grids are padded to multiples of this: a few dozen programs for all photo sizes


def walk(scores_khw, features_hwd, *, beta: float = 8.0, steps: int = 256,
         border: str = "inside") -> np.ndarray:
    """Scores after `steps` steps between pixels of alike features, float32 [k, h, w].

    scores_khw: float [k, h, w].  features_hwd: float [h, w, d].  A step moves along exp(-distance)
    (`affinity_pairs.distances`) to the power of beta, divided by the sum over what arrives at a
    pixel: each result is a weighted mean of scores, so a constant channel stays as it is.
    border: "inside" takes all pairs within the map; "psa" those of the published code, which leaves
    out pairs whose source lies in the last 4 rows or the outer 4 columns. Pixels there have few
    neighbours, ten of them none, so that their scores stay as they were.

    >>> features = np.zeros((2, 3, 1), np.float32)
    >>> features[:, 2] = 9  # another object
    >>> scores = np.float32([[[1, 0, 5], [0, 0, 5]]])
    >>> walk(scores, features, steps=9).round(3)[0].tolist()
    [[0.25, 0.25, 5.0], [0.25, 0.25, 5.0]]
    """
    choose(dict.fromkeys(BORDERS), border, "--border")
    scores_khw, features_hwd = np.asarray(scores_khw), np.asarray(features_hwd)
    k, h, w = scores_khw.shape
    assert features_hwd.shape[:2] == (h, w), (features_hwd.shape, scores_khw.shape)
    rows, columns = (-(-side // _SIDE) * _SIDE for side in (h, w))
    more = ((0, rows - h), (0, columns - w))
    channels = 1 << (k - 1).bit_length()
    scores = np.pad(scores_khw.astype(np.float32), ((0, channels - k), *more))
    features = np.pad(features_hwd.astype(np.float32), (*more, (0, 0)))
    out = _walk(scores, features, np.int32([h, w]), np.float32(beta), steps, border == "psa")
    return np.asarray(out)[:k, :h, :w]


@functools.partial(jax.jit, static_argnums=(4, 5))
def _walk(scores_khw, features_hwd, size_2, beta, steps: int, psa: bool):
    """`walk` on a padded grid; size_2: int32, the rows and columns that count."""
    k, h, w = scores_khw.shape
    # One row after the other with a gap behind each: a shift by rows and columns is one by pixels.
    pitch = w + REACH
    shifts = [dy * pitch + dx for dy, dx in OFFSETS]
    margin = max(shifts)

    def flat(x_nhw):
        return jnp.pad(x_nhw, ((0, 0), (0, 0), (0, REACH))).reshape(-1, h * pitch)

    def shifted(padded_ln, shift):
        return lax.slice_in_dim(padded_ln, margin + shift, margin + shift + h * pitch, axis=-1)

    ahead = flat(_affinities(features_hwd, size_2, beta, psa))
    padded = jnp.pad(ahead, ((0, 0), (margin, margin)))
    behind = jnp.stack([shifted(padded[n], -s) for n, s in enumerate(shifts)])
    total = 1.0 + ahead.sum(0) + behind.sum(0)
    ahead, behind = ahead / total[None], behind / total[None]

    def step(_, v_kn):
        # As v plus weighted differences: weights that sum to 1 but for rounding would let a
        # constant channel drift by 4e-5 in 256 steps.
        padded = jnp.pad(v_kn, ((0, 0), (margin, margin)))
        change = 0.0
        for n, s in enumerate(shifts):
            change += (shifted(padded, s) - v_kn) * ahead[n][None]
            change += (shifted(padded, -s) - v_kn) * behind[n][None]
        return v_kn + change

    v_kn = lax.fori_loop(0, steps, step, flat(scores_khw))
    return v_kn.reshape(k, h, pitch)[:, :, :w]


def _affinities(features_hwd, size_2, beta, psa: bool):
    """Affinity to the power of beta of each pixel to its partners, [34, h, w]; 0 for no pair."""
    h, w, _ = features_hwd.shape
    padded = jnp.pad(features_hwd, ((0, REACH), (REACH, REACH), (0, 0)))
    distance_nhw = pairs.distances(padded[None])[0]
    y, x = jnp.arange(h)[None, :, None], jnp.arange(w)[None, None]
    dy, dx = (jnp.array(d).reshape(-1, 1, 1) for d in zip(*OFFSETS, strict=True))
    inside = (y + dy < size_2[0]) & (x < size_2[1]) & (x + dx >= 0) & (x + dx < size_2[1])
    if psa:
        inside &= (y < size_2[0] - REACH) & (x >= REACH) & (x < size_2[1] - REACH)
    return jnp.where(inside, jnp.exp(-beta * distance_nhw), 0.0)


def with_background(cam_mhw, alpha: float) -> np.ndarray:
    """float32 [1 + m, h, w]: the background's score (1 - highest map) ^ alpha, then the maps.

    cam_mhw: float [m, h, w], 0..1, m may be 0. A low alpha makes the background large, so that what
    is still foreground is surely so; a high one makes it small.

    >>> with_background(np.float32([[[0.5, 1.0]]]), 2.0).tolist()
    [[[0.25, 0.0]], [[0.5, 1.0]]]
    """
    cam_mhw = np.asarray(cam_mhw, np.float32)
    highest_hw = cam_mhw.max(0, initial=0.0)
    return np.concatenate([(1 - highest_hw)[None] ** np.float32(alpha), cam_mhw])


def block_means(x_khw) -> np.ndarray:
    """float32 [k, ceil(h/8), ceil(w/8)]: means over 8 x 8 pixels, zeros beyond the borders."""
    k, h, w = x_khw.shape
    more = (-h % STRIDE, -w % STRIDE)
    x = np.pad(x_khw, ((0, 0), (0, more[0]), (0, more[1]))) if any(more) else x_khw
    rows, columns = x.shape[1] // STRIDE, x.shape[2] // STRIDE
    # Rows first, as whole vectors: ten times as fast as a mean over both axes at once.
    x = x.reshape(k, rows, STRIDE, x.shape[2]).sum(2, dtype=np.float32)
    return x.reshape(k, rows, columns, STRIDE).sum(-1) / np.float32(STRIDE * STRIDE)


def enlarge(scores_kpq, size: tuple[int, int]) -> np.ndarray:
    """float32 [k, h, w]: the scores eight times as large (bilinear, half-pixel), cut to `size`.

    Enlarged to the padded frame first: straight to h x w would move the maps by parts of a pixel.
    """
    _, p, q = scores_kpq.shape
    frame = (q * STRIDE, p * STRIDE)  # cv2 wants the width first
    maps = [cv2.resize(np.ascontiguousarray(x, np.float32), frame, interpolation=cv2.INTER_LINEAR)
            for x in scores_kpq]
    return np.stack(maps)[:, : size[0], : size[1]]


def refine(cam_mhw, features_pqd, *, alpha: float = 16.0, beta: float = 8.0, steps: int = 256,
           border: str = "inside") -> np.ndarray:
    """Scores of background and classes after the walk, float32 [1 + m, h, w] at photo size.

    cam_mhw: float [m, h, w], 0..1, at photo size.  features_pqd: of the photo padded with zeros to
    multiples of 8.  The label of a pixel is the argmax, which prefers the background, then the
    lower class.

    >>> cam = np.zeros((1, 9, 10), np.float32)
    >>> cam[0, :8, :8] = 0.9
    >>> scores = refine(cam, np.zeros((2, 2, 4), np.float32))  # alike features: all mix
    >>> scores.shape, bool(np.ptp(scores[1]) < 1e-3)
    ((2, 9, 10), True)
    """
    grid_kpq = block_means(with_background(cam_mhw, alpha))
    walked_kpq = walk(grid_kpq, features_pqd, beta=beta, steps=steps, border=border)
    return enlarge(walked_kpq, cam_mhw.shape[1:])
