"""Class-agnostic masks of an image as files.

Written as `<id>.json.gz`; read too: SAM's own records as `<id>.json`, folders `<id>/` of PNG masks.
"""

from __future__ import annotations

import gzip
import json
import os
import pathlib
from typing import NamedTuple

import numpy as np

from wsssjax.core import files
from wsssjax.data import label_map
from wsssjax.refine import coco, rle

SUFFIX = ".json.gz"
FOREIGN_SUFFIX = ".json"
INSIDE = 255               # a pixel of a PNG mask belongs to it with exactly this value
MAX_JSON_BYTES = 256 << 20  # unpacked; a small file can unpack to a thousand times its size
MAX_MASK_BYTES = 8 << 30    # all masks of one image, a byte a pixel
AGAIN = "make its masks again"


class Masks(NamedTuple):
    """path: the file or folder that they are from.  counts: run lengths int64 [r] of each mask.
    names: of its PNG, or its place in the file.  scores: as the maker gave them, None without."""

    path: pathlib.Path
    counts: list[np.ndarray]
    names: list[str]
    scores: list[float | None]


def record(counts_r: np.ndarray, size: tuple[int, int], **scores: float) -> dict:
    """One mask's entry {"counts", "area", "bbox": [x, y, w, h], **scores} from its run lengths.

    bbox counts pixels, as COCO does: a one-pixel mask has w = h = 1; an empty mask has all 0.
    """
    area, box = rle.area_and_box(counts_r, size)
    return {"counts": rle.compress(counts_r), "area": area, "bbox": box, **scores}


def distinct(records: list[dict]) -> list[dict]:
    """The records whose mask no earlier one has, in their order.

    >>> [r["score"] for r in distinct([{"counts": "04", "score": 2}, {"counts": "04", "score": 1}])]
    [2]
    """
    first: dict[str, dict] = {}
    for entry in records:
        first.setdefault(entry["counts"], entry)
    return list(first.values())


def write(path: str | os.PathLike, size: tuple[int, int], records: list[dict], by: dict) -> dict:
    """Writes `<id>.json.gz` without identical masks and returns its content; the same masks give
    the same bytes.

    records: see `record`.  by: what made the masks, with every parameter.
    """
    masks = distinct(records)
    value = {"size": list(size), "masks": masks, "by": by,
             "duplicates": len(records) - len(masks)}
    data = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    with files.atomic(path) as file:
        # Without a name and a time inside, a second run writes the same file.
        with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as packed:
            packed.write(data)
    return value


def read_file(path: str | os.PathLike) -> dict:
    """The content of `<id>.json.gz` with size and masks of the right types; ValueError names it."""
    return _check(coco.read_json(path, MAX_JSON_BYTES, AGAIN), path)


def read_foreign(path: str | os.PathLike) -> dict:
    """The content of `<id>.json`, SAM's records or ours unpacked, as that of `<id>.json.gz`.

    size is None in an empty list of SAM's.
    """
    value = coco.read_json(path, MAX_JSON_BYTES, AGAIN)
    if isinstance(value, dict) and "masks" in value:
        return _check(value, path)
    return coco.convert(coco.annotations(value, path), path)


def _check(value, path) -> dict:
    size = value.get("size") if isinstance(value, dict) else None
    if not coco.is_size(size):
        raise ValueError(f"{path}: has the size {size!r}; want [height, width]")
    masks = value.get("masks")
    if not isinstance(masks, list) or not all(isinstance(m, dict) for m in masks):
        raise ValueError(f"{path}: has no list 'masks' of objects; {AGAIN}")
    return value


def made_by(folder: str | os.PathLike) -> str:
    """The backend that made the proposals of a folder, by its first file; `import` for masks of
    other programs and where a file does not tell."""
    for path in sorted(pathlib.Path(folder).glob(f"*{SUFFIX}")):
        made = read_file(path).get("by")
        return made.get("backend", "import") if isinstance(made, dict) else "import"
    return "import"


def find(folder: str | os.PathLike, name: str) -> pathlib.Path | None:
    """The file or the folder that holds the masks of an id, our file first; None for neither."""
    for suffix in (SUFFIX, FOREIGN_SUFFIX):
        file = pathlib.Path(folder) / f"{name}{suffix}"
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


def read_runs(folder: str | os.PathLike, name: str, size: tuple[int, int]) -> Masks:
    """All masks of an image, packed; there may be none, they may overlap, nest and be empty.

    size: (h, w) of the label map; masks of another size are an error, never resized.
    """
    path = find(folder, name)
    if path is None:
        check_all(folder, [name])
    return read_path(path, size)


def read_path(path: pathlib.Path, size: tuple[int, int], whose: str = "the label map") -> Masks:
    """The masks of one file or folder.  whose: what has that size, for the error."""
    if path.is_dir():
        return _read_folder(path, size)
    return parse(read_value(path), path, size, whose)


def read_value(path: pathlib.Path) -> dict:
    """The content of `<id>.json.gz` or `<id>.json`; ValueError names it."""
    return (read_file if path.name.endswith(SUFFIX) else read_foreign)(path)


def parse(value: dict, path: str | os.PathLike, size: tuple[int, int], whose: str) -> Masks:
    """The masks in {"size", "masks"} with their run lengths checked; ValueError names the file."""
    if value["size"] is not None and tuple(value["size"]) != tuple(size):
        raise ValueError(f"{path}: masks of {value['size'][0]} x {value['size'][1]} pixels; "
                         f"{whose} has {size[0]} x {size[1]} (h x w)")
    counts = []
    for index, entry in enumerate(value["masks"]):
        try:
            counts.append(rle.check(rle.parse(entry.get("counts")), size))
        except ValueError as error:
            raise ValueError(f"{path}: mask {index} {error}; {AGAIN}") from None
    return Masks(path, counts, [str(i) for i in range(len(counts))],
                 [entry.get("score") for entry in value["masks"]])


def read(folder: str | os.PathLike, name: str, size: tuple[int, int]) -> np.ndarray:
    """The same as `read_runs`, unpacked: bool [m, h, w]."""
    masks = read_runs(folder, name, size)
    if len(masks.counts) * size[0] * size[1] > MAX_MASK_BYTES:
        raise ValueError(f"{masks.path}: {len(masks.counts)} masks of {size[0]} x {size[1]} pixels "
                         f"need over {MAX_MASK_BYTES >> 30} GB; want fewer masks")
    masks_mhw = np.empty((len(masks.counts), *size), bool)
    for mask_hw, counts_r in zip(masks_mhw, masks.counts, strict=True):
        mask_hw[:] = rle.decode(counts_r, size)
    return masks_mhw


def _read_folder(path: pathlib.Path, size) -> Masks:
    names = sorted(p for p in path.iterdir() if p.name.endswith("png"))
    counts = [rle.encode(label_map.read(file, INSIDE, size=tuple(size)) == INSIDE)
              for file in names]
    return Masks(path, counts, [file.name for file in names], [None] * len(names))
