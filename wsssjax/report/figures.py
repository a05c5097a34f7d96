"""Pictures of photos under label maps, as data URIs for the page and as one PNG for a README."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont

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


def photo_uri(photo_hw3: np.ndarray, size_hw: tuple[int, int]) -> str:
    """The photo, shrunk, as a JPEG data URI."""
    return _uri(_resized(photo_hw3, size_hw, Image.Resampling.LANCZOS), "JPEG", quality=80)


def label_uri(label_hw: np.ndarray, size_hw: tuple[int, int]) -> str:
    """The label map as a PNG data URI whose background is clear, to be laid over its photo."""
    label_hw = outlined(np.asarray(_resized(label_hw, size_hw, Image.Resampling.NEAREST)))
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


def strip(rows: list[list[np.ndarray]], heads: list[str], *, cell_hw: tuple[int, int] = (150, 200),
          gap: int = 6, beside: int = 1) -> bytes:
    """One wide PNG: a row an image, the photo first, then its label maps over the photo.

    rows: each a photo uint8 [h, w, 3] and len(heads) - 1 label maps uint8 [h, w].
    heads: the word above each column.  beside: blocks of columns set beside each other.
    """
    for number, row in enumerate(rows, 1):
        if len(row) != len(heads):
            raise ValueError(f"row {number} has {len(row)} pictures; want one for each of {heads}")
    if not rows or beside < 1:
        raise ValueError(f"{len(rows)} rows in {beside} blocks; want one of each at least")
    cell_h, cell_w = cell_hw
    head_h = max(16, cell_h // 7)
    deep = -(-len(rows) // beside)
    block_w = len(heads) * (cell_w + gap) + 2 * gap
    canvas = Image.new("RGB", (beside * block_w - 3 * gap, head_h + deep * (cell_h + gap) - gap),
                       "white")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=round(head_h * 0.72))
    for i, row in enumerate(rows):
        left, top = i // deep * block_w, head_h + i % deep * (cell_h + gap)
        for j, picture in enumerate(row):
            x = left + j * (cell_w + gap)
            if i % deep == 0:
                draw.text((x + cell_w // 2, head_h // 2), heads[j], "black", font, anchor="mm")
            scale = min(cell_h / row[0].shape[0], cell_w / row[0].shape[1])
            size_hw = tuple(max(1, round(n * scale)) for n in row[0].shape[:2])
            tile = _resized(row[0], size_hw, Image.Resampling.LANCZOS)
            if j:
                label = _resized(picture, size_hw, Image.Resampling.NEAREST)
                tile = Image.fromarray(overlay(np.asarray(tile), outlined(np.asarray(label))))
            canvas.paste(tile, (x + (cell_w - tile.width) // 2, top + (cell_h - tile.height) // 2))
    file = io.BytesIO()
    canvas.save(file, "PNG", optimize=True)
    return file.getvalue()


def _resized(pixels: np.ndarray, size_hw: tuple[int, int], how) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    height, width = size_hw
    return image if image.size == (width, height) else image.resize((width, height), how)


def _uri(image: Image.Image, kind: str, **options) -> str:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
