"""MARS: takes from label maps what only comes along with the objects, as rails come with trains.

Jo, Yu and Kim, "MARS: Model-agnostic Biased Object Removal without Additional Supervision for
Weakly-Supervised Semantic Segmentation", ICCV 2023 (arXiv 2304.09913), of which no code is public.
Features F of an unsupervised network tell objects from biased objects: the label of a train is cut
into two clusters, and those clusters that are far from all backgrounds of the data set are trains.

    debiased centroids  per photo and class, K-means of F where the label map says so; per class the
                        clusters farthest from the mean background are averaged to one vector
    debiased labels     a foreground pixel that resembles none of the photo's classes is biased

Biased pixels are written as 255, ignore; whoever trains (`semi/mars.py`) tells them from void by
the label maps that went in. What the paper leaves open is a field of `config.mars`, and is told
with its choices in configs/refine_voc_mars.py.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from wsssjax.core import config as configs
from wsssjax.core import crf
from wsssjax.core.constants import BACKGROUND, IGNORE
from wsssjax.core.resize import bilinear_matrix
from wsssjax.refine.kmeans import INITS, kmeans

CHOICES = {"resolution": ("grid", "pixels"), "presence": ("labels", "tags"),
           "binarise": ("crf", "threshold"), "init": tuple(INITS)}
_TINY = 1e-12  # of a vector's length, that nothing is divided by 0


def check(how: Any) -> None:
    """ValueError for a field of `config.mars` of no meaning."""
    for name, choices in CHOICES.items():
        configs.choose(dict.fromkeys(choices), how[name], f"config.mars.{name}")
    for name, least in (("k_fg", 1), ("k_bg", 1), ("restarts", 1), ("iterations", 1),
                        ("min_cells", 1), ("crf_iterations", 0)):
        if how[name] < least:
            raise ValueError(f"config.mars.{name}={how[name]}: want {least} or more")
    if not 0 < how.alpha <= 1:
        raise ValueError(f"config.mars.alpha={how.alpha}: want a share above 0, at most 1")
    if not 0 <= how.threshold < 1:
        raise ValueError(f"config.mars.threshold={how.threshold}: want a number in 0..1")
    if not 0 < how.gamma < math.inf:
        raise ValueError(f"config.mars.gamma={how.gamma}: want a finite number above 0")
    for name, count in (("crf_gaussian", 2), ("crf_bilateral", 3)):
        if len(how[name]) != count or min(how[name][:-1]) <= 0:
            raise ValueError(f"config.mars.{name}={how[name]}: want {count} numbers, deviations "
                             "above 0 and then a weight")


# ---- debiased centroids ------------------------------------------------------------------------


def unit(x_nd: np.ndarray) -> np.ndarray:
    """The rows at length 1."""
    return x_nd / np.maximum(np.linalg.norm(x_nd, axis=-1, keepdims=True), _TINY)


def majority(label_hw: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """uint8 [p,q]: the most frequent label in each cell; IGNORE votes too, ties go to the smaller.

    >>> label = np.uint8([[0, 0, 7, 7, 255, 255], [0, 7, 7, 0, 255, 3]])
    >>> majority(label, (1, 3)).tolist(), majority(label, (1, 2)).tolist()
    ([[0, 7, 255]], [[0, 255]])
    """
    (h, w), (p, q) = label_hw.shape, grid
    cell_h, cell_w = np.arange(h) * p // h, np.arange(w) * q // w
    cells_hw = cell_h[:, None] * q + cell_w[None]
    classes, place_hw = np.unique(label_hw, return_inverse=True)
    place_hw = place_hw.reshape(h, w)
    votes = np.bincount((cells_hw * len(classes) + place_hw).reshape(-1),
                        minlength=p * q * len(classes)).reshape(p, q, len(classes))
    # A grid finer than the photo has cells without a pixel.
    return np.where(votes.any(-1), classes[votes.argmax(-1)], IGNORE).astype(np.uint8)


def enlarge(features_pqd: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """float32 [h,w,d]: bilinear, half-pixel centres."""
    (p, q, d), (h, w) = features_pqd.shape, size
    rows_hqd = bilinear_matrix(p, h, "half_pixel").astype(np.float32) @ features_pqd.reshape(p, -1)
    return bilinear_matrix(q, w, "half_pixel").astype(np.float32)[None] @ rows_hqd.reshape(h, q, d)


def clusters(features_pqd: np.ndarray, label_hw: np.ndarray, how: Any,
             seed: tuple[int, ...], wanted: Iterable[int] | None = None) -> dict[int, np.ndarray]:
    """The centroids float32 [k,d] of each class in a photo's label map, background included.

    features_pqd: any float.  how: config.mars.  seed: makes, with the class, the random numbers of
    K-means.  wanted: classes to look at; None: all there are.  A class with fewer than
    how.min_cells cells (or than clusters) is left out.
    """
    features_pqd = np.asarray(features_pqd, np.float32)
    if how.resolution == "pixels":
        features_pqd = enlarge(features_pqd, label_hw.shape)
    else:
        label_hw = majority(label_hw, features_pqd.shape[:2])
    found = {}
    for k in np.unique(label_hw).tolist():
        count = how.k_fg if k != BACKGROUND else how.k_bg
        x_nd = features_pqd[label_hw == k]
        if k == IGNORE or len(x_nd) < max(how.min_cells, count):
            continue
        if wanted is not None and k not in wanted:
            continue
        x_nd = unit(x_nd) if how.normalise else x_nd
        found[k] = kmeans(x_nd, count, np.random.default_rng([*seed, k]), init=how.init,
                          restarts=how.restarts, iterations=how.iterations)
    return found


class Debiased(NamedTuple):
    """classes: int32 [m], rising.  vectors: float32 [m,d], the debiased centroids.  images: int32
    [m], N_c.  centroids, selected: int32 [m], how many there were and went in.  background:
    float32 [d], mean of the background's unit centroids."""

    classes: np.ndarray
    vectors: np.ndarray
    images: np.ndarray
    centroids: np.ndarray
    selected: np.ndarray
    background: np.ndarray


def debias(stored: Callable[[], Iterable[dict[int, np.ndarray]]], how: Any,
           images: dict[int, int] | None = None) -> Debiased:
    """One vector a class: the plain average of its centroids that are farthest from background.

    stored: gives the `clusters` of all photos in turn, each time it is called the same (three
    times, so that they need not be in memory).  how: config.mars.  images: N_c by class; None: how
    many photos have centroids of it.
    The distance of a centroid v is the mean over all background centroids u of (1 - cos(v, u)) / 2.
    The cosine is linear in u / |u|, so it is 1/2 - v·m / 2|v| with their mean m: one vector stands
    for the matrix of all pairs. The ceil(alpha N_c k_fg) farthest ones are taken, at equal distance
    the first ones.
    """
    total_d, count = 0.0, 0
    for found in stored():
        if BACKGROUND in found:
            total_d = total_d + unit(found[BACKGROUND].astype(np.float64)).sum(0)
            count += len(found[BACKGROUND])
    if not count:
        raise ValueError("the label maps hold no region of background, from which to tell objects; "
                         "are they label maps with 0 as background?")
    mean_d, seen, ranks = total_d / count, Counter(), defaultdict(list)
    for photo, found in enumerate(stored()):
        for k, v_nd in found.items():
            if k != BACKGROUND:
                seen[k] += 1
                far_n = 0.5 - 0.5 * unit(v_nd.astype(np.float64)) @ mean_d
                ranks[k] += [(-far, photo, j) for j, far in enumerate(far_n.tolist())]
    if not ranks:
        raise ValueError("the label maps hold no foreground region; nothing to debias")
    counts = images or seen
    chosen = {k: {(photo, j) for _, photo, j in sorted(ranks[k])[: _top(how, counts[k])]}
              for k in sorted(ranks)}
    sums = {k: np.zeros_like(mean_d) for k in chosen}
    for photo, found in enumerate(stored()):
        for k in chosen.keys() & found.keys():
            sums[k] += sum(v for j, v in enumerate(found[k].astype(np.float64))
                           if (photo, j) in chosen[k])
    taken = [len(chosen[k]) for k in chosen]
    vectors = np.stack([sums[k] / n for k, n in zip(chosen, taken, strict=True)])
    return Debiased(np.int32(list(chosen)), vectors.astype(np.float32),
                    np.int32([counts[k] for k in chosen]),
                    np.int32([len(ranks[k]) for k in chosen]), np.int32(taken),
                    mean_d.astype(np.float32))


def _top(how, images):
    """How many centroids of a class go in, at least one; 0.3 * 10 shall not be 4 by rounding."""
    return max(1, math.ceil(how.alpha * images * how.k_fg - 1e-9))


# ---- debiased labels ---------------------------------------------------------------------------


def resemblance(features_pqd: np.ndarray, vectors_md: np.ndarray) -> np.ndarray:
    """float32 [p,q], 0..1: ReLU of the highest cosine with one of the vectors, whatever its class.

    >>> f, v = np.float32([[[3, 4], [-1, 0]]]), np.float32([[0, 2], [5, 0]])
    >>> (10 * resemblance(f, v)).round().tolist()
    [[8.0, 0.0]]
    """
    p, q, d = features_pqd.shape
    cosines = unit(features_pqd.reshape(-1, d).astype(np.float32)) @ unit(vectors_md).T
    return cosines.max(1).clip(0, 1).reshape(p, q)


def is_object(resemblance_hw: np.ndarray, image_hw3: np.ndarray, how: Any,
              memory: int | None = None) -> np.ndarray:
    """bool [h,w]: which pixels are of an object, by a CRF of two labels or by a threshold.

    image_hw3: uint8.  how: config.mars.  The CRF starts from the scores (1 - M)^gamma of a biased
    pixel and M of an object's.  memory: bytes it may take, see `crf.infer`.
    """
    if how.binarise == "threshold":
        return resemblance_hw > how.threshold
    scores_hw2 = np.stack([(1 - resemblance_hw) ** np.float32(how.gamma), resemblance_hw], -1)
    q_hw2 = crf.infer(crf.scores_to_unary(scores_hw2), image_hw3, preset(how), memory=memory)
    return q_hw2[..., 1] > q_hw2[..., 0]


def preset(how: Any) -> crf.Preset:
    """The CRF of config.mars."""
    (sxy, weight), (wide, srgb, strong) = how.crf_gaussian, how.crf_bilateral
    return crf.Preset((crf.Kernel(sxy, None, weight), crf.Kernel(wide, srgb, strong)),
                      how.crf_iterations)


def debiased_label(label_hw: np.ndarray, object_hw: np.ndarray, known: Iterable[int]) -> np.ndarray:
    """uint8 [h,w]: the label map, IGNORE where a pixel of a class in `known` is of no object.

    Background never changes, nor a class without a centroid, nor a pixel that resembles any class
    of the photo.

    >>> label, objects = np.uint8([[0, 3, 3, 7, 255]]), np.array([[False, True, False, False, 0]])
    >>> debiased_label(label, objects == 1, known=[3]).tolist()
    [[0, 3, 255, 7, 255]]
    """
    biased_hw = np.isin(label_hw, [k for k in known if k != BACKGROUND]) & ~object_hw
    return np.where(biased_hw, np.uint8(IGNORE), label_hw)
