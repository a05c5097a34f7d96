"""Photos beside their label maps as one PNG, for a README or a talk."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wsssjax.report.figures import outlined, overlay, resized


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
            tile = resized(row[0], size_hw, Image.Resampling.LANCZOS)
            if j:
                label = resized(picture, size_hw, Image.Resampling.NEAREST)
                tile = Image.fromarray(overlay(np.asarray(tile), outlined(np.asarray(label))))
            canvas.paste(tile, (x + (cell_w - tile.width) // 2, top + (cell_h - tile.height) // 2))
    file = io.BytesIO()
    canvas.save(file, "PNG", optimize=True)
    return file.getvalue()
