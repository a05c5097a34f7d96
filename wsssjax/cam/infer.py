"""Class maps and label maps of photos: several scales and their mirror images, summed.

As AffinityNet and EPS publish it (ResNet38): every scaled photo comes from the original by Pillow
bicubic; the method's activation (ReLU, softmax) acts at feature resolution; maps are enlarged to
the photo bilinearly (half-pixel centres), kept for tagged classes only, summed over scales and
mirror images, and divided by their maximum + 1e-5 per class.

Two ways to choose sizes, `config.infer.canvas`:
exact  every size is round(side * scale), as published. Each new photo size compiles anew.
grid   photos are first taken to the nearest multiples of `config.infer.grid` pixels, which bends
       their aspect slightly; photos of one size share programs and batches. For runs of minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import jax.numpy as jnp
import numpy as np
from PIL import Image

from wsssjax.core.config import choose
from wsssjax.core.constants import BACKGROUND

_EPSILON = 1e-5  # added to the maximum that divides a map


class Maps(NamedTuple):
    """classes: uint8 [m], tagged classes from 1.  cam: float32 [m,h,w] in 0..1, at photo size."""

    classes: np.ndarray
    cam: np.ndarray


def check(infer) -> None:
    """Nothing; ValueError if a field of `config.infer` has no meaning."""
    choose({"exact": 0, "grid": 0}, infer.canvas, "config.infer.canvas")
    for name in ("batch", "grid"):
        if infer[name] < 1:
            raise ValueError(f"config.infer.{name}={infer[name]}: want 1 or more")
    if not infer.scales or min(infer.scales) <= 0:
        raise ValueError(f"config.infer.scales={infer.scales}: want factors above 0")
    if not 0 <= infer.threshold <= 1:
        raise ValueError(f"config.infer.threshold={infer.threshold}: want a number in 0..1")


def canvas(size: tuple[int, int], infer) -> tuple[int, int]:
    """(h, w) that counts as scale 1 for a photo of `size`."""
    if infer.canvas == "exact":
        return size
    return tuple(max(infer.grid, round(side / infer.grid) * infer.grid) for side in size)


def plan(sizes: dict[str, tuple[int, int]], infer) -> list[list[str]]:
    """Batches of ids whose canvas is the same: sorted by canvas, then id, at most `infer.batch`.

    sizes: (h, w) by id. The plan follows from all photos, not from those left to do, so that a
    resumed run forms the same batches and gives the same bits.
    """
    groups: dict[tuple[int, int], list[str]] = {}
    for name in sorted(sizes):
        groups.setdefault(canvas(sizes[name], infer), []).append(name)
    return [names[i : i + infer.batch] for _, names in sorted(groups.items())
            for i in range(0, len(names), infer.batch)]


def mirrored(predict: Callable, flip: bool) -> Callable:
    """(variables, image_bhwc) → maps_bpqk, with `flip` plus the unflipped maps of the mirror image.

    Adding before the bilinear enlargement equals adding after it: that step is linear and treats
    left and right alike. (The activation is in `predict`, hence before both.)
    """
    def summed(variables, image_bhwc):
        maps_bpqk = predict(variables, image_bhwc)
        if flip:
            maps_bpqk += jnp.flip(predict(variables, jnp.flip(image_bhwc, 2)), 2)
        return maps_bpqk

    return summed


def class_maps(forward: Callable, photos: Sequence[np.ndarray], tags: Sequence[np.ndarray],
               infer, data) -> list[Maps]:
    """One `Maps` per photo of a batch of one canvas.

    forward: image_bhwc float32, normalised → maps_bpqk, already summed over mirror images.
    photos: uint8 [h,w,3].  tags: float32 [k].  data: config.data, for mean and std.  A short batch
    is filled up by repeating its last photo, so that there is one program per size.
    """
    size = canvas(photos[0].shape[:2], infer)
    chosen = [np.flatnonzero(tags_k > 0) for tags_k in tags]
    sums = [np.zeros((len(k), *photo.shape[:2]), np.float32)
            for k, photo in zip(chosen, photos, strict=True)]
    for scale in infer.scales:
        scaled = tuple(max(1, round(side * scale)) for side in size)
        rows = [_network_input(photo, scaled, data) for photo in photos]
        rows += rows[-1:] * (infer.batch - len(rows))
        maps_bpqk = np.asarray(forward(np.stack(rows)), np.float32)
        for row, (sum_mhw, k) in enumerate(zip(sums, chosen, strict=True)):
            for one_hw, index in zip(sum_mhw, k, strict=True):
                one_hw += enlarge(maps_bpqk[row, ..., index], one_hw.shape)
    return [Maps(np.uint8(k + 1), _normalise(s)) for s, k in zip(sums, chosen, strict=True)]


def enlarge(map_pq: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The map at (h, w), float32: bilinear, half-pixel centres, borders repeated, no antialias."""
    h, w = size
    return cv2.resize(np.ascontiguousarray(map_pq, np.float32), (w, h),
                      interpolation=cv2.INTER_LINEAR)


def label_map(maps: Maps, threshold: float) -> np.ndarray:
    """uint8 [h,w]: per pixel the class of the highest map if that is above `threshold`, else 0.

    Ties go to the background, then to the lower class number.
    """
    flat_hw = np.full((1, *maps.cam.shape[1:]), threshold, np.float32)
    numbers = np.concatenate([np.uint8([BACKGROUND]), maps.classes])
    return numbers[np.concatenate([flat_hw, maps.cam]).argmax(0)]


def _network_input(photo_hw3, size, data):
    """float32 [h,w,3], normalised: the original photo taken to `size` by Pillow bicubic."""
    h, w = size
    resized = Image.fromarray(photo_hw3).resize((w, h), Image.Resampling.BICUBIC)
    image_hw3 = np.asarray(resized, np.float32) / np.float32(255)
    return (image_hw3 - np.float32(data.mean)) / np.float32(data.std)


def _normalise(sum_mhw):
    """Each map divided by its own maximum + 1e-5."""
    if not len(sum_mhw):
        return sum_mhw
    return sum_mhw / (sum_mhw.max((1, 2), keepdims=True) + np.float32(_EPSILON))
