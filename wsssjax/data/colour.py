"""Pillow's colour changes and blur of an RGB array, bit for bit and several times as fast.

Blends come from tables that Pillow itself fills. Hue and blur follow its C code (Convert.c,
BoxBlur.c), single and double precision alike; the tests compare every colour. Without numba all is
Pillow's. Images are uint8 [h,w,3]; results are new arrays.
"""

from __future__ import annotations

import functools
import math

import cv2
import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from wsssjax.core.compiled import numba, once

PASSES = 3  # of Pillow's box that make up its Gaussian


def brightness(image_hwc: np.ndarray, factor: float) -> np.ndarray:
    """Blend with black."""
    return cv2.LUT(image_hwc, _blend_table(factor)[0])


def contrast(image_hwc: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the mean luma, rounded."""
    if numba is None:
        return np.array(ImageEnhance.Contrast(Image.fromarray(image_hwc)).enhance(factor))
    pixels_nc = _flat(image_hwc)
    mean = int(once(_luma_sum)(pixels_nc) / len(pixels_nc) + 0.5)
    return cv2.LUT(image_hwc, _blend_table(factor)[mean])


def saturation(image_hwc: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the luma of each pixel."""
    if numba is None:
        return np.array(ImageEnhance.Color(Image.fromarray(image_hwc)).enhance(factor))
    out_hwc = np.empty(image_hwc.shape, np.uint8)
    once(_saturate)(_flat(image_hwc), _blend_table(factor), out_hwc.reshape(-1, 3))
    return out_hwc


def shift_hue(image_hwc: np.ndarray, shift: float) -> np.ndarray:
    """Adds int(255 * shift), modulo 256, to the hue channel of the 8-bit HSV form."""
    image_hwc = np.asarray(image_hwc)
    step = int(255 * shift)  # towards zero
    if numba is None:
        hue, *others = Image.fromarray(image_hwc).convert("HSV").split()
        hue = hue.point([(level + step) % 256 for level in range(256)])
        return np.array(Image.merge("HSV", (hue, *others)).convert("RGB"))
    out_hwc = np.empty(image_hwc.shape, np.uint8)
    once(_turn)(_flat(image_hwc), *_hsv_tables(), step, out_hwc.reshape(-1, 3))
    return out_hwc


def blur(image_hwc: np.ndarray, sigma: float) -> np.ndarray:
    """Pillow's Gaussian blur of radius `sigma` (pixels): three passes of an extended box."""
    if numba is None:
        image = Image.fromarray(image_hwc).filter(ImageFilter.GaussianBlur(radius=sigma))
        return np.array(image)
    radius = _box_radius(sigma)
    whole = int(radius)
    inner = int(np.float32(1 << 24) / (radius * np.float32(2) + np.float32(1)))
    outer = ((1 << 24) - (2 * whole + 1) * inner) // 2
    for _ in range(2):  # across, then down
        rows_hd = cv2.transpose(image_hwc).reshape(image_hwc.shape[1], -1)
        out_hd = np.empty_like(rows_hd)
        once(_blur_down)(rows_hd, whole, np.uint32(inner), np.uint32(outer), out_hd)
        image_hwc = out_hd.reshape(len(out_hd), -1, 3)
    return image_hwc


def _flat(image_hwc: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image_hwc).reshape(-1, 3)


def _blend_table(factor: float) -> np.ndarray:
    """uint8 [256,256]: the blend of base (row) with value (column)."""
    ramp = np.arange(256, dtype=np.uint8)
    base, value = (np.repeat(a, 256, axis) for a, axis in ((ramp[:, None], 1), (ramp[None], 0)))
    return np.array(Image.blend(Image.fromarray(base), Image.fromarray(value), factor))


@functools.cache
def _hsv_tables() -> tuple[np.ndarray, np.ndarray]:
    """Pillow's hue uint8 [6, 256, 256] by (order, max - min, middle - min), saturation by (max -
    min, max). order: which of r, g, b is greatest, times 2, plus 1 where the next one is least.
    """
    spread, level = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
    middle = np.minimum(level, spread)
    hue = np.zeros((6, 256, 256), np.uint8)
    for order in range(6):
        top, least = order // 2, (order // 2 + (1 if order % 2 else 2)) % 3
        pixel_hwc = np.zeros((256, 256, 3), np.uint8)
        pixel_hwc[..., top], pixel_hwc[..., 3 - top - least] = spread, middle
        hue[order] = np.array(Image.fromarray(pixel_hwc).convert("HSV"))[..., 0]
    pixel_hwc = np.stack([level, np.maximum(level - spread, 0), level], -1).astype(np.uint8)
    return hue, np.array(Image.fromarray(pixel_hwc).convert("HSV"))[..., 1]


def _box_radius(sigma: float) -> np.float32:
    """Half the length of the extended box, in Pillow's order of single precision steps."""
    single = np.float32
    variance = single(sigma) * single(sigma) / single(PASSES)
    length = single(math.sqrt(12.0 * float(variance) + 1.0))
    whole = single(math.floor((float(length) - 1.0) / 2.0))
    one = single(1)
    part = (single(2) * whole + one) * (whole * (whole + one) - single(3) * variance)
    part /= single(6) * (variance - (whole + one) * (whole + one))
    return whole + part


# ------------------------------------------------------- kernels, plain Python before compiling


def _luma_sum(pixels_nc):
    total = 0
    for r, g, b in pixels_nc:
        total += (np.int64(r) * 19595 + np.int64(g) * 38470 + np.int64(b) * 7471 + 0x8000) >> 16
    return total


def _saturate(pixels_nc, table, out_nc):
    for i in range(len(pixels_nc)):
        r, g, b = pixels_nc[i, 0], pixels_nc[i, 1], pixels_nc[i, 2]
        luma = (np.int64(r) * 19595 + np.int64(g) * 38470 + np.int64(b) * 7471 + 0x8000) >> 16
        row = table[luma]
        out_nc[i, 0], out_nc[i, 1], out_nc[i, 2] = row[r], row[g], row[b]


def _turn(pixels_nc, hue_table, saturation_table, step, out_nc):
    sector = np.empty(256, np.int64)
    part = np.empty(256, np.float32)
    for h in range(256):
        place = np.float64(np.float32(h)) * 6.0 / 255.0
        sector[h] = math.floor(place)
        part[h] = np.float32(place - np.float64(sector[h]))
    for i in range(len(pixels_nc)):
        r, g, b = np.int64(pixels_nc[i, 0]), np.int64(pixels_nc[i, 1]), np.int64(pixels_nc[i, 2])
        most, least = max(r, g, b), min(r, g, b)
        spread = most - least
        sat = np.float32(saturation_table[spread, most])
        if sat == 0:
            out_nc[i, 0] = out_nc[i, 1] = out_nc[i, 2] = most
            continue
        order = (0 if b == least else 1) if r == most else (
            (2 if r == least else 3) if g == most else (4 if g == least else 5))
        middle = r + g + b - most - least - least
        h = (hue_table[order, spread, middle] + step) & 255
        f = part[h]
        fs = np.float32(np.float64(sat) / 255.0)
        v = np.float64(most)
        p = np.uint8(math.floor(v * (1.0 - np.float64(fs)) + 0.5))
        q = np.uint8(math.floor(v * (1.0 - np.float64(np.float32(fs * f))) + 0.5))
        t = np.uint8(math.floor(v * (1.0 - np.float64(fs) * (1.0 - np.float64(f))) + 0.5))
        v8 = np.uint8(most)
        at = sector[h] % 6
        out_nc[i, 0] = (v8, q, p, p, t, v8)[at]
        out_nc[i, 1] = (t, v8, v8, q, p, p)[at]
        out_nc[i, 2] = (p, p, t, v8, v8, q)[at]


def _blur_down(rows_hd, radius, inner, outer, out_hd):
    """Three passes of the box down the rows, rounded after each; `rows_hd` is written over."""
    h, d = rows_hd.shape
    source, target = rows_hd, out_hd
    total = np.empty(d, np.uint32)
    for _ in range(PASSES):
        for y in range(h):
            here, out = source[y], target[y]
            for i in range(d):
                total[i] = here[i]
            for k in range(1, radius + 1):
                one, two = source[max(y - k, 0)], source[min(y + k, h - 1)]
                for i in range(d):
                    total[i] += np.uint32(one[i]) + np.uint32(two[i])
            one, two = source[max(y - radius - 1, 0)], source[min(y + radius + 1, h - 1)]
            for i in range(d):
                far = np.uint32(one[i]) + np.uint32(two[i])
                # As unsigned 32 bits all along: the compiler then does eight pixels at a time.
                total[i] = np.uint32(total[i] * inner + far * outer + np.uint32(1 << 23))
            for i in range(d):
                out[i] = total[i] >> np.uint32(24)
        source, target = target, source
