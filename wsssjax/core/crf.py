"""Fully connected CRFs by mean field on the permutohedral lattice, on the host or on any device.

Krähenbühl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials"
(NIPS 2011), as their public library computes it: a pixel's own contribution k(f_i, f_i) = 1 stays
in the sum, and Potts compatibilities reward agreement (the same Q as the textbook's penalty).

    energy  E(x) = Σ_i U_i(x_i) + Σ_{i<j} Σ_m μ_m(x_i, x_j) k_m(f_i, f_j)
    kernels k(f, g) = exp(-|f - g|² / 2), f = (x / sxy, y / sxy) or (x, y / sxy, r, g, b / srgb)
    Q ← softmax(-U), then T times: Q ← softmax(-U + Σ_m w_m K_m Q), all pixels at once

`infer` runs on the host (Numba, one core, no lock held: an image per thread), `infer_compiled` on
the default device, and `mean_field` is pure JAX for a batch of small images, inside a training
step for instance. All give the same Q to 1e-4.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wsssjax.core import lattice
from wsssjax.core.config import choose
from wsssjax.core.constants import IGNORE

CLIP = 1e-5  # scores below it count as this
EPSILON = 1e-20  # added to the norms, as the library does
FILLER = 1e30  # energy of labels that only fill an array up
NORMALIZATIONS = ("none", "before", "after", "symmetric")


class Kernel(NamedTuple):
    """One pairwise term. sxy: pixels, srgb: grey levels of 0..255, standard deviations; srgb None:
    the Gaussian kernel of positions alone.

    compat: a number w: Potts, agreement is rewarded by w.  k numbers v: energy + v_l F_l, so that a
    Potts-like one is negative.  k tuples of k numbers, M: energy + ½ (M + Mᵀ) F.
    normalization: the operator on Q, D = row sums of K: none K, before K D⁻¹, after D⁻¹ K,
    symmetric D^-½ K D^-½.
    """

    sxy: float
    srgb: float | None
    compat: float | tuple
    normalization: str = "symmetric"


class Preset(NamedTuple):
    """kernels: in the order in which they are added.  iterations: T.  gt_prob: None for scores;
    for hard labels the probability that a label is right."""

    kernels: tuple[Kernel, ...]
    iterations: int = 10
    gt_prob: float | None = None


_PSA = (Kernel(3, None, 3), Kernel(80, 13, 10))
_IRN = Preset((Kernel(3, None, 3), Kernel(50, 5, 10)), gt_prob=0.7)
PRESETS = {
    "psa": Preset(_PSA),  # AffinityNet, SSDD's seeds, BAO's soft variant
    "ssdd_loop": Preset(_PSA, iterations=3),  # at a quarter of the size, deviations unchanged
    "ssdd_val": Preset(_PSA),  # softmax of the summed softmaxes
    "irn": _IRN,  # hard labels
    "bao_label": _IRN,
    "deeplab": Preset((Kernel(1, None, 3), Kernel(67, 3, 4))),
    "bao_segmenter": Preset((Kernel(4, None, 3), Kernel(83, 5, 3))),
}


def preset(name: str) -> Preset:
    """The preset of that name; ValueError lists the names there are."""
    return choose(PRESETS, name, "--preset")


# ---- unary energies ----------------------------------------------------------------------------


def scores_to_unary(scores_hwk: np.ndarray, scale: float | None = None) -> np.ndarray:
    """-ln of scores, float32, same shape. Scores need not sum to 1; they are cut to 1e-5 .. 1.

    scale: in (0, 1], how much to trust them: p = scale s + (1 - scale) / k.

    >>> [f"{u:.3f}" for u in scores_to_unary(np.float32([0.5, 2.0, 0.0]))]
    ['0.693', '-0.000', '11.513']
    """
    p = np.asarray(scores_hwk, np.float32)
    if scale is not None:
        if not 0 < scale <= 1:
            raise ValueError(f"scale={scale} of a CRF's scores: want a number above 0, at most 1")
        p = np.float32(scale) * p + np.float32((1 - scale) / p.shape[-1])
    return -np.log(np.clip(p, np.float32(CLIP), np.float32(1)))


def labels_to_unary(label_hw: np.ndarray, num_labels: int, gt_prob: float = 0.7, *,
                    zero_unsure: bool = False) -> np.ndarray:
    """Energies float32 [h, w, k] of hard labels: -ln g of the label given, the rest shared out.

    label_hw: integers 0 .. k - 1; IGNORE is known to be no label: -ln(1/k) for all.
    zero_unsure: 0 is "unknown" too and v ≥ 1 means label v - 1 (the library's default; with it the
    labels are 0 .. k). The margin between right and wrong grows with k: 0.85 for 2, 3.84 for 21.

    >>> [f"{u:.3f}" for u in labels_to_unary(np.array([[1, 255]]), 2).reshape(-1)]
    ['1.204', '0.357', '0.693', '0.693']
    """
    if not (0 < gt_prob < 1 and num_labels > 0):
        raise ValueError(f"gt_prob={gt_prob}, {num_labels} labels: want 0 < gt_prob < 1 and 1 label"
                         " or more")
    label_hw = np.asarray(label_hw).astype(np.int64)
    unknown_hw = label_hw == IGNORE
    if zero_unsure:
        unknown_hw |= label_hw == 0
        label_hw = label_hw - 1
    known = label_hw[~unknown_hw]
    if known.size and not 0 <= known.min() <= known.max() < num_labels:
        raise ValueError(f"a label map holds {known.max()}; its CRF has {num_labels} labels")
    wrong = -np.log((1 - gt_prob) / max(num_labels - 1, 1))
    unary_hwk = np.full((*label_hw.shape, num_labels), wrong, np.float32)
    rows, columns = np.nonzero(~unknown_hw)
    unary_hwk[rows, columns, known] = -np.log(gt_prob)
    unary_hwk[unknown_hw] = np.log(num_labels)
    return unary_hwk


def features(image_hwc, kernel: Kernel):
    """Positions (and colours) over the standard deviations, float32 [h w, 2 or 5]; numpy or jax."""
    np_ = jnp if isinstance(image_hwc, jax.Array) else np
    h, w = image_hwc.shape[:2]
    y, x = np_.meshgrid(np_.arange(h, dtype=np_.float32), np_.arange(w, dtype=np_.float32),
                        indexing="ij")
    parts = [x / np_.float32(kernel.sxy), y / np_.float32(kernel.sxy)]
    if kernel.srgb is not None:
        parts += [image_hwc[..., c].astype(np_.float32) / np_.float32(kernel.srgb)
                  for c in range(3)]
    return np_.stack([p.reshape(-1) for p in parts], 1)


def factors(kind: str, norm_n):
    """(before, after) of a kernel: what a pixel is multiplied by ahead of and behind the filter.

    norm_n: row sums of K. Pixels that only fill an array up have 0, and reach nobody.
    """
    norm_n = norm_n.clip(EPSILON) + np.float32(EPSILON)
    one = norm_n * 0 + 1
    return {"none": (one, one), "before": (1 / norm_n, one), "after": (one, 1 / norm_n),
            "symmetric": (norm_n**-0.5,) * 2}[kind]


# ---- on the host -------------------------------------------------------------------------------


class TooLarge(ValueError):
    """A photo whose CRF does not fit into the memory allowed for it."""


def infer(unary_hwk: np.ndarray, image_hwc: np.ndarray, how: Preset, *,
          memory: int | None = None) -> np.ndarray:
    """Q, float32 [h, w, k], summing to 1 at each pixel, on one core of the host.

    unary_hwk: float32 energies.  image_hwc: uint8 RGB (or BGR: only differences count).
    T = 0 iterations give softmax(-U).  memory: bytes it may take (see `needs`), None: no limit;
    TooLarge where it would need more.

    >>> image = np.zeros((1, 2, 3), np.uint8)
    >>> unary = scores_to_unary(np.float32([[[0.9, 0.1], [0.4, 0.6]]]))
    >>> infer(unary, image, PRESETS["psa"]).argmax(-1).tolist()
    [[0, 0]]
    """
    return infer_many([unary_hwk], image_hwc, how, memory=memory)[0]


def infer_many(unaries: Sequence[np.ndarray], image_hwc: np.ndarray, how: Preset, *,
               memory: int | None = None) -> list[np.ndarray]:
    """`infer` of several unaries of one image, which share its lattices."""
    h, w = image_hwc.shape[:2]
    for unary_hwk in unaries:
        _check(unary_hwk.shape[:2], (h, w), how)
    if importlib.util.find_spec("numba") is None:  # a Python too new for it: slower, the same Q
        return [np.asarray(mean_field(u[None], image_hwc[None], how)[0]) for u in unaries]
    from wsssjax.core import lattice_host as host  # here, since loading Numba takes half a second

    labels = max(u.shape[-1] for u in unaries)
    _check_room(needs(h * w, labels, how, 0), memory, (h, w))
    lattices = [host.build(features(image_hwc, k)) for k in how.kernels]
    vertices = sum(lat.near.shape[1] for lat in lattices)
    _check_room(needs(h * w, labels, how, vertices), memory, (h, w))
    pairs = [factors(k.normalization, host.norms(lat)) for k, lat in zip(how.kernels, lattices,
                                                                           strict=True)]
    if all(np.ndim(k.compat) == 0 for k in how.kernels):
        after = [a * np.float32(k.compat) for k, (_, a) in zip(how.kernels, pairs, strict=True)]
        joint = host.join(lattices, [b for b, _ in pairs], after)
        return [host.mean_field(u.reshape(h * w, -1), joint, how.iterations).reshape(u.shape)
                for u in unaries]
    operators = [lambda x, lat=lat, p=p: p[1][:, None] * host.apply(lat, p[0][:, None] * x)
                 for lat, p in zip(lattices, pairs, strict=True)]
    return [np.asarray(_loop(u.reshape(h * w, -1), operators, how)).reshape(u.shape)
            for u in unaries]


def needs(pixels: int, labels: int, how: Preset, vertices: int) -> int:
    """Bytes that `infer` takes at its peak, unary and Q included. vertices: of all lattices; there
    are at most 9 a pixel, on photos a fifth (psa) to a half (irn)."""
    width = -(-labels // 8) * 8
    entries = sum(3 if kernel.srgb is None else 6 for kernel in how.kernels)
    building = pixels * (4 * labels + 32 + 6 * 16 + 8 * entries)
    running = 4 * (pixels * (2 * labels + width + 5 * entries) + vertices * (2 * width + 14))
    return max(building, running)


def _check_room(needed: int, memory: int | None, size) -> None:
    if memory is not None and needed > memory:
        raise TooLarge(f"the CRF of {size[0]} x {size[1]} pixels needs {needed / 1e9:.2f} GB, "
                       f"{memory / 1e9:.2f} are allowed")


def _check(size, image_size, how: Preset) -> None:
    if tuple(size) != tuple(image_size):
        raise ValueError(f"labels of {size[0]} x {size[1]} pixels on a photo of {image_size[0]} x "
                         f"{image_size[1]} (h x w)")
    for kernel in how.kernels:
        choose(dict.fromkeys(NORMALIZATIONS), kernel.normalization, "normalization of a CRF kernel")
        if not (kernel.sxy > 0 and (kernel.srgb is None or kernel.srgb > 0)):
            raise ValueError(f"a CRF kernel of sxy={kernel.sxy}, srgb={kernel.srgb}: want standard "
                             "deviations above 0")


def _loop(unary_nk, operators, how: Preset):
    """The mean field written out; operators: x [n, k] → K̃ x per kernel. numpy or jax."""
    def step(q_nk):
        t_nk = -unary_nk
        for kernel, operator in zip(how.kernels, operators, strict=True):
            t_nk = t_nk + message(operator(q_nk), kernel.compat)
        return jax.nn.softmax(t_nk, axis=-1)

    q_nk = jax.nn.softmax(-unary_nk, axis=-1)
    if isinstance(unary_nk, np.ndarray):
        for _ in range(how.iterations):
            q_nk = step(np.asarray(q_nk))
        return q_nk
    return jax.lax.fori_loop(0, how.iterations, lambda _, q: step(q), q_nk)


def message(filtered_nk, compat):
    """What a kernel adds to -energy. filtered_nk: K̃ Q.  compat: see `Kernel`."""
    if np.ndim(compat) == 0:
        return filtered_nk * np.float32(compat)
    compat = np.asarray(compat, np.float32)
    if compat.ndim == 1:
        return -filtered_nk * compat[None]
    return -filtered_nk @ (compat + compat.T) / 2


# ---- on any device -----------------------------------------------------------------------------


def mean_field(unary_bhwk: jax.Array, image_bhwc: jax.Array, how: Preset) -> jax.Array:
    """`infer` of a batch in pure JAX: float32 [b, h, w, k]; to be compiled, also inside a step.

    image_bhwc: 0..255, uint8 or float. Lattices are built on the device, with room for the most
    vertices that there can be, (d + 1) h w a kernel: small images only (`infer_compiled` asks how
    many there are). A batch on a CPU goes image by image.
    """
    b, h, w, k = unary_bhwk.shape
    _check((h, w), image_bhwc.shape[1:3], how)

    def one(pair):
        unary_hwk, image_hwc = pair
        lattices = [lattice.build(features(image_hwc, kernel)) for kernel in how.kernels]
        return _on_lattices(unary_hwk.reshape(h * w, k), lattices, how).reshape(h, w, k)

    unary_bhwk, image_bhwc = jnp.asarray(unary_bhwk, jnp.float32), jnp.asarray(image_bhwc)
    if b == 1:
        return one((unary_bhwk[0], image_bhwc[0]))[None]
    if jax.default_backend() == "cpu":
        return jax.lax.map(one, (unary_bhwk, image_bhwc))
    return jax.vmap(lambda u, i: one((u, i)))(unary_bhwk, image_bhwc)


def infer_compiled(unary_hwk: np.ndarray, image_hwc: np.ndarray, how: Preset) -> np.ndarray:
    """`infer` on the default device, for images of any size.

    Pixels, labels and vertices are filled up to a few sizes, so that few programs serve all
    photos. The number of vertices is known after a first program; the second has just the room.
    """
    h, w, k = unary_hwk.shape
    _check((h, w), image_hwc.shape[:2], how)
    n, points, labels = h * w, _size_up(h * w), -(-k // 4) * 4
    unary_nk = np.full((points, labels), FILLER, np.float32)
    unary_nk[:n, :k] = unary_hwk.reshape(n, k)
    parts = [np.pad(features(image_hwc, kernel), ((0, points - n), (0, 0)), mode="edge")
             for kernel in how.kernels]
    placed = _place(parts, n)
    rooms = tuple(_size_up(int(p.number[-1])) for p in placed)
    return np.asarray(_solve(unary_nk, placed, how, rooms))[:n, :k].reshape(h, w, k)


def _size_up(count: int) -> int:
    """The next of 4096, 6144, 8192, 12288, …: at most half of it is waste."""
    size = 4096
    while size < count:
        size = size * 3 // 2 if size & (size - 1) == 0 else size // 3 * 4
    return size


@jax.jit
def _place(parts, n):
    return [lattice.place(p, jnp.arange(p.shape[0]) < n) for p in parts]


@functools.partial(jax.jit, static_argnums=(2, 3))
def _solve(unary_nk, placed, how, rooms):
    lattices = [lattice.link(p, room) for p, room in zip(placed, rooms, strict=True)]
    return _on_lattices(unary_nk, lattices, how)


def _on_lattices(unary_nk, lattices, how: Preset):
    """The mean field of one image on lattices that are there."""
    operators = []
    for lat, kernel in zip(lattices, how.kernels, strict=True):
        norm_n = lattice.apply(lat, jnp.ones((unary_nk.shape[0], 1), jnp.float32))[:, 0]
        before_n, after_n = factors(kernel.normalization, norm_n)
        operators.append(lambda x, lat=lat, a=after_n, b=before_n:
                         a[:, None] * lattice.apply(lat, b[:, None] * x))
    return _loop(unary_nk, operators, how)
