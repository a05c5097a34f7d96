"""Class maps and label maps of photos: several scales and their mirror images, summed.

Every scaled photo comes from the original by Pillow bicubic; the method's activation acts at
feature resolution; maps are enlarged bilinearly (half-pixel centres), kept for tagged classes only,
summed over scales and mirror images, and brought to 0..1 class by class. What publications differ
in are fields of `config.infer`:

scales      factors on a photo's sides.  flip: the mirror image of each, too.
canvas      exact   every side is round(side * scale), as AffinityNet, IRN and EPS publish it. Each
                    new photo size compiles anew.
            bucket  the same numbers from few programs: scaled photos are padded to multiples of
                    `grid` pixels and the network sees zeros outside of each (models/padded.py).
                    For encoders with PyTorch's padding (ResNets, VGG).
            grid    photos are first taken to the nearest multiples of `grid` pixels, which bends
                    their aspect slightly. For runs of minutes, and for EfficientNet.
            square  squares of `side` pixels times scale, whatever the photo's aspect (TransCAM).
multiple    the network's input sides are taken up to the next multiples of it (a ViT's patch).
align       maps are enlarged to the photo's sides taken up to multiples of `align`, and cut (IRN:
            16, so that a map of stride 16 is not squeezed); 1 enlarges to the photo itself.
normalise   max     divided by its maximum + 1e-5.
            minmax  negative sums cut off, then from minimum to maximum (TransCAM, BAO).
            none    as the method gives them: the mean over scales and mirror images.
background  threshold  a pixel is background where no map is above `threshold`.
            map        the method's map 0 is the background's and takes part like the others (BAO);
                       `threshold` is not read.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import jax
import numpy as np

from wsssjax.core.config import choose
from wsssjax.core.constants import BACKGROUND
from wsssjax.data import canvas as canvases
from wsssjax.models import padded

CANVASES = ("exact", "bucket", "grid", "square")
STRIDE = 32  # pixels; buckets are multiples of it at every scale
_EPSILON = 1e-5  # added to the maximum that divides a map


class Maps(NamedTuple):
    """classes: uint8 [m], tagged classes from 1, before them 0 where the background has a map.
    cam: float32 [m,h,w] at photo size, up to 1 (with normalise=minmax also below 0)."""

    classes: np.ndarray
    cam: np.ndarray


def check(infer) -> None:
    """Nothing; ValueError if a field of `config.infer` has no meaning."""
    choose(dict.fromkeys(CANVASES), infer.canvas, "config.infer.canvas")
    choose(NORMALISE, infer.normalise, "config.infer.normalise")
    choose(dict.fromkeys(("threshold", "map")), infer.background, "config.infer.background")
    for name in ("batch", "grid", "side", "multiple", "align"):
        if infer[name] < 1:
            raise ValueError(f"config.infer.{name}={infer[name]}: want 1 or more")
    if infer.canvas == "bucket" and infer.grid % STRIDE:
        raise ValueError(f"config.infer.grid={infer.grid}: buckets are multiples of {STRIDE}")
    if not infer.scales or not all(isinstance(scale, int | float) and 0 < scale < np.inf
                                   for scale in infer.scales):
        raise ValueError(f"config.infer.scales={infer.scales}: want factors above 0")
    if not 0 <= infer.threshold <= 1:
        raise ValueError(f"config.infer.threshold={infer.threshold}: want a number in 0..1")


def check_method(config, encoder, *, background: bool = False, local: bool = True) -> None:
    """Nothing; ValueError if `config.infer` asks for what a method on this encoder does not have.

    encoder: the module of config.model.  background: the method has a map for it.  local: a map's
    value depends on what its pixel sees through the encoder alone, and not on the whole map.
    """
    if config.infer.background == "map" and not background:
        raise ValueError("config.infer.background='map': this method learns no map of the "
                         "background; want 'threshold'")
    if config.infer.canvas == "bucket" and not (local and hasattr(encoder, "own_side")):
        what = f"encoder {config.model.encoder!r}" if local else f"method {config.method!r}"
        raise ValueError(f"config.infer.canvas='bucket': {what} would see the padding; want "
                         "'exact', 'grid' or 'square'")


# ---- sizes -------------------------------------------------------------------------------------


def canvas(size: tuple[int, int], infer) -> tuple[int, int]:
    """(h, w) that counts as scale 1 for a photo of `size`; photos that share it share batches."""
    if infer.canvas == "square":
        return infer.side, infer.side
    if infer.canvas == "bucket":
        return canvases.up(size, infer.grid)
    if infer.canvas == "grid":
        return canvases.nearest(size, infer.grid)
    return size


def input_sizes(size: tuple[int, int], scale: float, infer) -> tuple[tuple[int, int], ...]:
    """((h, w) that a photo of `size` is scaled to, (h, w) that it is padded to)."""
    whole = canvas(size, infer)
    if infer.canvas == "bucket":
        return _scaled(size, scale), canvases.up([side * scale for side in whole], STRIDE)
    scaled = canvases.up(_scaled(whole, scale), infer.multiple)
    return scaled, scaled


def plan(sizes: dict[str, tuple[int, int]], infer) -> list[list[str]]:
    """Batches of ids whose canvas is the same, at most `infer.batch` each, see `data.canvas.plan`.

    sizes: (h, w) by id.
    """
    return canvases.plan(sizes, functools.partial(canvas, infer=infer), infer.batch)


def _scaled(size, scale):
    return tuple(max(1, round(side * scale)) for side in size)


# ---- maps --------------------------------------------------------------------------------------


def compiled(predict: Callable, variables, infer, own_side: Callable = padded.plain) -> Callable:
    """(images, tags, sizes) → (maps, rows and columns of them that belong to each photo, None where
    all do), what `class_maps` calls: a method's `predict`, compiled.

    predict: (variables, image_bhwc, tags_bk) → maps_bpqk at feature resolution, activated.
    own_side: the encoder's, see `padded`; read with canvas = bucket.
    """
    def run(variables, image_bhwc, tags_bk, size_b2):
        if infer.canvas != "bucket":
            return predict(variables, image_bhwc, tags_bk), None
        with padded.inside(size_b2, image_bhwc.shape[1:3], own_side):
            maps_bpqk = predict(variables, image_bhwc, tags_bk)
            return maps_bpqk, padded.own_size(maps_bpqk.shape[1:3])

    return functools.partial(jax.jit(run), variables)


def class_maps(forward: Callable, photos: Sequence[np.ndarray], tags: Sequence[np.ndarray],
               infer, data) -> list[Maps]:
    """One `Maps` per photo of a batch of one canvas.

    forward: see `compiled`. It is given twice the rows with `flip`, the mirror images last.
    photos: uint8 [h,w,3].  tags: float32 [k].  data: config.data, for mean and std.  A short batch
    is filled up by repeating its last photo, so that there is one program per size.
    """
    learnt = infer.background == "map"
    chosen = [_channels(tags_k, learnt) for tags_k in tags]
    fill = [len(photos) - 1] * (infer.batch - len(photos))
    tags_bk = np.stack([tags[row] for row in (*range(len(photos)), *fill)])
    if infer.flip:
        tags_bk = np.concatenate([tags_bk, tags_bk])
    sums = [np.zeros((len(k), *photo.shape[:2]), np.float32)
            for k, photo in zip(chosen, photos, strict=True)]
    for scale in infer.scales:
        sizes = [input_sizes(photo.shape[:2], scale, infer) for photo in photos]
        rows = [_network_input(photo, *size, data)
                for photo, size in zip(photos, sizes, strict=True)]
        own = [size for size, _ in sizes]
        rows, own = rows + [rows[-1]] * len(fill), own + [own[-1]] * len(fill)
        if infer.flip:
            rows += [canvases.mirrored(row, size) for row, size in zip(rows, own, strict=True)]
            own += own
        maps_bpqk, own_b2 = jax.device_get(forward(np.stack(rows), tags_bk, np.int32(own)))
        for row, (sum_mhw, k) in enumerate(zip(sums, chosen, strict=True)):
            p, q = maps_bpqk.shape[1:3] if own_b2 is None else own_b2[row]
            found_pqm = maps_bpqk[row, :p, :q][..., k].astype(np.float32)
            if infer.flip:
                mirror_pqm = maps_bpqk[row + infer.batch, :p, :q][..., k].astype(np.float32)
                # Added before the bilinear enlargement, which is linear and the same to both sides.
                found_pqm = found_pqm + mirror_pqm[:, ::-1]
            _add(sum_mhw, found_pqm, infer.align)
    passes = len(infer.scales) * (1 + infer.flip)
    return [Maps(np.uint8(k if learnt else k + 1), NORMALISE[infer.normalise](s, passes))
            for s, k in zip(sums, chosen, strict=True)]


def enlarge(map_pq: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The map at (h, w), float32: bilinear, half-pixel centres, borders repeated, no antialias."""
    h, w = size
    return cv2.resize(np.ascontiguousarray(map_pq, np.float32), (w, h),
                      interpolation=cv2.INTER_LINEAR)


def label_map(maps: Maps, infer) -> np.ndarray:
    """uint8 [h,w]: per pixel the class of the highest map, as `infer.background` says.

    Ties go to the background, then to the lower class number.
    """
    numbers, cam_mhw = maps
    if infer.background == "threshold":
        flat_1hw = np.full((1, *cam_mhw.shape[1:]), infer.threshold, np.float32)
        numbers = np.concatenate([np.uint8([BACKGROUND]), numbers])
        cam_mhw = np.concatenate([flat_1hw, cam_mhw])
    return numbers[cam_mhw.argmax(0)]


def _channels(tags_k, learnt):
    """Which maps of the method a photo with these tags keeps."""
    present = np.flatnonzero(tags_k > 0)
    return np.concatenate([[0], present + 1]) if learnt else present


def _network_input(photo_hw3, size, whole, data):
    """float32 [h,w,3] of `whole`: the photo taken to `size` by Pillow bicubic, normalised, padded
    with zeros below and on the right."""
    image_hw3 = canvases.normalise(canvases.scaled(photo_hw3, size), data.mean, data.std)
    return canvases.padded(image_hw3, whole)


def _add(sum_mhw, maps_pqm, align):
    """Adds enlarged maps to the sum."""
    h, w = sum_mhw.shape[1:]
    for one_hw, map_pq in zip(sum_mhw, np.moveaxis(maps_pqm, -1, 0), strict=True):
        one_hw += enlarge(map_pq, canvases.up((h, w), align))[:h, :w]


def _by_max(sum_mhw, _):
    """Each map divided by its own maximum + 1e-5."""
    if not len(sum_mhw):
        return sum_mhw
    return sum_mhw / (sum_mhw.max((1, 2), keepdims=True) + np.float32(_EPSILON))


def _by_range(sum_mhw, _):
    """Each map, without its negative part, from its minimum (0) to its maximum (1).

    As published: what is less than 1e-5 above the minimum becomes 0 BEFORE the minimum is taken
    off, so the lowest pixels end below 0, and a map of one value at -1 or less.
    """
    if not len(sum_mhw):
        return sum_mhw
    sum_mhw = np.maximum(sum_mhw, np.float32(0))
    low, high = sum_mhw.min((1, 2), keepdims=True), sum_mhw.max((1, 2), keepdims=True)
    sum_mhw = np.where(sum_mhw < low + np.float32(_EPSILON), np.float32(0), sum_mhw)
    return (sum_mhw - low - np.float32(_EPSILON)) / (high - low + np.float32(_EPSILON))


# (sums, how many maps are in each) → maps
NORMALISE = {"max": _by_max, "minmax": _by_range,
             "none": lambda sum_mhw, passes: sum_mhw / np.float32(passes)}
