"""Photos and label maps as small data URIs, and label maps over their photos as arrays."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from wsssjax.core.constants import BACKGROUND, IGNORE
from wsssjax.data import label_map

OPACITY = 0.65  # of a class colour over the photo


def color(index: int) -> str:
    """The class's colour as `#rrggbb`."""
    return "#{:02x}{:02x}{:02x}".format(*label_map.palette()[index])


def fit(size_hw: tuple[int, int], side: int) -> tuple[int, int]:
    """The size with its longer side brought down to `side`; a smaller one stays."""
    scale = min(1.0, side / max(size_hw))
    return tuple(max(1, round(n * scale)) for n in size_hw)


def photo_uri(photo_hw3: np.ndarray, size_hw: tuple[int, int], quality: int = 80) -> str:
    """The photo, shrunk, as a JPEG data URI."""
    return _uri(resized(photo_hw3, size_hw, Image.Resampling.LANCZOS), "JPEG",
                quality=quality)


def label_uri(label_hw: np.ndarray, size_hw: tuple[int, int]) -> str:
    """The label map as a PNG data URI whose background is clear, to be laid over its photo."""
    label_hw = outlined(np.asarray(resized(label_hw, size_hw, Image.Resampling.NEAREST)))
    # Only the colours in use, so that a map of few classes takes two or four bits a pixel.
    values, dense_hw = np.unique(label_hw, return_inverse=True)
    image = Image.fromarray(dense_hw.reshape(label_hw.shape).astype(np.uint8), "P")
    image.putpalette(label_map.palette()[values].tobytes())
    alpha = np.where(values == BACKGROUND, 0, round(255 * OPACITY)).astype(np.uint8)
    return _uri(image, "PNG", optimize=True, transparency=alpha.tobytes())


def overlay(photo_hw3: np.ndarray, label_hw: np.ndarray, opacity: float = OPACITY) -> np.ndarray:
    """uint8 [h, w, 3], the photo with every pixel that is no background in its class's colour."""
    if photo_hw3.shape[:2] != label_hw.shape:
        raise ValueError(f"label map is {label_hw.shape} pixels, its photo {photo_hw3.shape[:2]}; "
                         "want the same size")
    mixed_hw3 = (1 - opacity) * photo_hw3 + opacity * label_map.palette()[label_hw]
    return np.where((label_hw == BACKGROUND)[..., None], photo_hw3, np.rint(mixed_hw3)).astype(
        np.uint8)


def outlined(label_hw: np.ndarray) -> np.ndarray:
    """The map with a border of IGNORE around its regions, as VOC masks have: some of the palette's
    colours are too dark to be told from a dark photo without it."""
    edge_hw = np.zeros(label_hw.shape, bool)
    edge_hw[:, 1:] |= label_hw[:, 1:] != label_hw[:, :-1]
    edge_hw[1:] |= label_hw[1:] != label_hw[:-1]
    return np.where(edge_hw, np.uint8(IGNORE), label_hw)


def resized(pixels: np.ndarray, size_hw: tuple[int, int], how) -> Image.Image:
    """The pixels at another size. how: one of PIL's `Image.Resampling`."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    height, width = size_hw
    return image if image.size == (width, height) else image.resize((width, height), how)


def _uri(image: Image.Image, kind: str, **options) -> str:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
