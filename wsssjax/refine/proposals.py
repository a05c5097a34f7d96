"""Class-agnostic masks of an image as files: `<id>.json.gz` or a folder `<id>/` of PNG masks."""

from __future__ import annotations

import gzip
import json
import os
import pathlib
import zlib

import numpy as np

from wsssjax.core import files
from wsssjax.data import label_map
from wsssjax.refine import rle

SUFFIX = ".json.gz"
INSIDE = 255               # a pixel of a PNG mask belongs to it with exactly this value
MAX_JSON_BYTES = 256 << 20  # unpacked; a small file can unpack to a thousand times its size
MAX_MASK_BYTES = 8 << 30    # all masks of one image, a byte a pixel


def record(counts_r: np.ndarray, size: tuple[int, int], **scores: float) -> dict:
    """One mask's entry {"counts", "area", "bbox": [x, y, w, h], **scores} from its run lengths.

    bbox counts pixels, as COCO does: a one-pixel mask has w = h = 1; an empty mask has all 0.
    """
    area, box = rle.area_and_box(counts_r, size)
    return {"counts": rle.compress(counts_r), "area": area, "bbox": box, **scores}


def write(path: str | os.PathLike, size: tuple[int, int], records: list[dict], by: dict) -> None:
    """Writes `<id>.json.gz`; the same masks give the same bytes.

    records: see `record`.  by: what made the masks, with every parameter.
    """
    value = {"size": list(size), "masks": records, "by": by}
    data = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    with files.atomic(path) as file:
        # Without a name and a time inside, a second run writes the same file.
        with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as packed:
            packed.write(data)


def read_file(path: str | os.PathLike) -> dict:
    """The content of `<id>.json.gz` with size and masks of the right types; ValueError names it."""
    try:
        with gzip.open(path) as file:
            data = file.read(MAX_JSON_BYTES + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: not a whole gzip file ({error}); propose its masks again"
                         ) from None
    if len(data) > MAX_JSON_BYTES:
        raise ValueError(f"{path}: unpacks to over {MAX_JSON_BYTES >> 20} MB; want fewer masks")
    try:
        value = json.loads(data)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error}); propose its masks again") from None
    size = value.get("size") if isinstance(value, dict) else None
    if not (isinstance(size, list) and len(size) == 2
            and all(type(s) is int and s > 0 for s in size)):
        raise ValueError(f"{path}: has the size {size!r}; want [height, width]")
    masks = value.get("masks")
    if not isinstance(masks, list) or not all(isinstance(m, dict) for m in masks):
        raise ValueError(f"{path}: has no list 'masks' of objects; propose its masks again")
    return value


def find(folder: str | os.PathLike, name: str) -> pathlib.Path | None:
    """The file or the folder that holds the masks of an id, the file first; None for neither."""
    file = pathlib.Path(folder) / f"{name}{SUFFIX}"
    if file.is_file():
        return file
    return file.with_name(name) if file.with_name(name).is_dir() else None


def check_all(folder: str | os.PathLike, ids: list[str]) -> None:
    """ValueError unless every id has its masks (an empty folder is none at all, and legal)."""
    if not pathlib.Path(folder).is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of proposals")
    missing = [name for name in ids if find(folder, name) is None]
    if missing:
        raise ValueError(f"{folder}: holds no proposals of {missing[0]!r} ({len(missing)} of "
                         f"{len(ids)} ids missing); run tools/propose_masks.py")


def read(folder: str | os.PathLike, name: str, size: tuple[int, int]) -> np.ndarray:
    """All masks of an image, bool [m, h, w]; m may be 0, masks may overlap, nest and be empty.

    size: (h, w) of the label map; masks of another size are an error, never resized.
    """
    path = find(folder, name)
    if path is None:
        check_all(folder, [name])
    if path.is_dir():
        return _read_folder(path, size)
    value = read_file(path)
    if tuple(value["size"]) != tuple(size):
        raise ValueError(f"{path}: masks of {value['size'][0]} x {value['size'][1]} pixels; the "
                         f"label map has {size[0]} x {size[1]} (h x w)")
    masks_mhw = _room(path, len(value["masks"]), size)
    for index, entry in enumerate(value["masks"]):
        try:
            masks_mhw[index] = rle.decode(rle.parse(entry.get("counts")), size)
        except ValueError as error:
            raise ValueError(f"{path}: mask {index} {error}; propose its masks again") from None
    return masks_mhw


def _read_folder(path: pathlib.Path, size) -> np.ndarray:
    names = sorted(p for p in path.iterdir() if p.name.endswith("png"))
    masks_mhw = _room(path, len(names), size)
    for mask_hw, file in zip(masks_mhw, names, strict=True):
        mask_hw[:] = label_map.read(file, INSIDE, size=tuple(size)) == INSIDE
    return masks_mhw


def _room(path, count: int, size) -> np.ndarray:
    if count * size[0] * size[1] > MAX_MASK_BYTES:
        raise ValueError(f"{path}: {count} masks of {size[0]} x {size[1]} pixels need over "
                         f"{MAX_MASK_BYTES >> 30} GB; want fewer masks")
    return np.empty((count, *size), bool)
