"""Label maps: 8-bit PNG files of class indices, 0 background, 255 ignore."""

from __future__ import annotations

import functools
import io
import os
import pathlib
import zlib

import numpy as np
from PIL import Image

from wsssjax.core import files
from wsssjax.core.constants import IGNORE
from wsssjax.data import photos

_KINDS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}
ADE20K_COUNT = 150  # classes
ADE20K_HINT = ("official ADE20K annotations count from 1 with 0 = other: shift them with "
               "python tools/prepare_data.py ade20k --root=ADEChallengeData2016 and name "
               "annotations_shifted/ in the list")
_WANT = "want an 8-bit palette or grey PNG of class indices"


def read(
    path: str | os.PathLike, num_classes: int, size: tuple[int, int] | None = None
) -> np.ndarray:
    """Class indices uint8 [h,w]: palette and grey images give their *indices*, never colours.

    num_classes: background included; 255 (ignore) is always allowed.
    size: (h, w) that the map must have, where known.
    """
    return decode(photos.read_bytes(path), path, num_classes, size)


def decode(
    data: bytes, name: str | os.PathLike, num_classes: int, size: tuple[int, int] | None = None
) -> np.ndarray:
    """The same as `read` from the bytes of a PNG; `name` is what to call it in an error."""
    depth, colour = _check_png(data, name)
    image = photos.open_image(data, name, ("PNG",))
    label_hw = np.array(image, dtype=np.uint8)
    if colour == 0 and depth in (2, 4):
        label_hw //= 255 // (2**depth - 1)  # PIL stretches shallow grey values to 0..255
    if size is not None and label_hw.shape != tuple(size):
        raise ValueError(
            f"{name}: label map of {_size(label_hw.shape)}; its image has {_size(size)} (h x w)"
        )
    check_values(label_hw, name, num_classes)
    return label_hw


def check_values(label_hw: np.ndarray, name: str | os.PathLike, num_classes: int) -> None:
    """ValueError that names the first value which is neither a class nor 255."""
    # One more than each value makes IGNORE 0: a third of the time that two comparisons take.
    if label_hw.dtype == np.uint8 and (label_hw + np.uint8(1)).max(initial=0) <= num_classes:
        return
    wrong_hw = (label_hw >= num_classes) & (label_hw != IGNORE)
    if wrong_hw.any():
        row, column = np.argwhere(wrong_hw)[0]
        hint = f"; {ADE20K_HINT}" if num_classes == ADE20K_COUNT else ""
        raise ValueError(
            f"{name}: value {label_hw[row, column]} at row {row}, column {column}; "
            f"want 0..{num_classes - 1} or {IGNORE} (is --classes right?){hint}"
        )


def write(path: str | os.PathLike, label_hw: np.ndarray) -> None:
    """Writes uint8 [h,w] as a PNG with the VOC palette; never half a file."""
    data = encode(label_hw)
    with files.atomic(path) as file:
        file.write(data)


def encode(label_hw: np.ndarray) -> bytes:
    """PNG bytes of uint8 [h,w] with the VOC palette; the same map gives the same bytes."""
    assert label_hw.dtype == np.uint8 and label_hw.ndim == 2, (label_hw.dtype, label_hw.shape)
    image = Image.fromarray(np.ascontiguousarray(label_hw))
    image.putpalette(palette().tobytes())
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def folder_ids(folder: str | os.PathLike) -> list[str]:
    """Sorted ids of the label maps `<id>.png` in a folder."""
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of label maps")
    ids = sorted(path.stem for path in folder.glob("*.png") if not path.name.startswith("."))
    if not ids:
        raise ValueError(f"{folder}: holds no label map; want <id>.png")
    return ids


@functools.cache
def palette() -> np.ndarray:
    """VOC colours uint8 [256,3]: bit j of each index triple goes to bit 7-j of r, g, b."""
    index_n = np.arange(256)
    colour_n3 = np.zeros((256, 3), np.uint8)
    for level in range(8):
        for channel in range(3):
            bit_n = (index_n >> (3 * level + channel)) & 1
            colour_n3[:, channel] |= (bit_n << (7 - level)).astype(np.uint8)
    colour_n3.flags.writeable = False
    return colour_n3


def _check_png(data: bytes, name: str | os.PathLike) -> tuple[int, int]:
    """Bit depth and colour type, once every chunk is whole: PIL itself skips the pixel checksum."""
    if not data.startswith(photos.SIGNATURES["PNG"]):
        raise ValueError(f"{name}: not a PNG file; {_WANT}")
    position, header = len(photos.SIGNATURES["PNG"]), None
    while True:
        length = int.from_bytes(data[position : position + 4], "big")
        end = position + 12 + length
        if end > len(data):
            raise ValueError(f"{name}: PNG cut off at byte {len(data)}; write it again")
        kind = data[position + 4 : position + 8]
        checksum = int.from_bytes(data[end - 4 : end], "big")
        if zlib.crc32(memoryview(data)[position + 4 : end - 4]) != checksum:
            raise ValueError(f"{name}: PNG damaged (checksum of {kind!r}); write it again")
        if header is None:
            if kind != b"IHDR" or length != 13:
                raise ValueError(f"{name}: PNG without a header; write it again")
            header = data[position + 8 : position + 21]
        position = end
        if kind == b"IEND":
            break
    depth, colour = header[8], header[9]
    if colour not in (0, 3) or depth > 8:
        raise ValueError(f"{name}: {depth}-bit {_KINDS.get(colour, 'unknown')} PNG; {_WANT}")
    return depth, colour


def _size(size: tuple[int, ...]) -> str:
    return " x ".join(str(side) for side in size)
