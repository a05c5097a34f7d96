"""The archive that VOC 2012's test server takes, from label maps of its photos."""

from __future__ import annotations

import gzip
import io
import pathlib
import tarfile
from collections.abc import Iterator

import numpy as np

from wsssjax.core import files
from wsssjax.core.constants import IGNORE
from wsssjax.core.progress import track
from wsssjax.data import label_map, photos
from wsssjax.data.classes import VOC_CLASSES

CHALLENGES = {"comp5": "trained on VOC's photos alone", "comp6": "trained on more"}
SETS = {"test": 1456, "val": 1449, "train": 1464, "trainval": 2913}  # photos of the official lists
FOLDER = "results/VOC2012/Segmentation"


def pack(labels: str, ids: list[str], out: str, challenge: str, part: str,
         images: str | None = None) -> None:
    """Nothing; writes `out` (.tgz) with one palette PNG an id, and reads it again.

    The same label maps give the same bytes. Where something is wrong `out` is left as it was.
    """
    sizes = dict.fromkeys(ids)
    if images:
        paths = files.photo_paths(images)
        _all_there(images, ids, paths, "photo")
        sizes = {name: photos.photo_size(paths[name]) for name in ids}
    _all_there(labels, ids, label_map.folder_ids(labels), "label map")
    with files.atomic(out) as file:
        with (gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed,
              tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive):
            for name in track(ids, len(ids), "packing"):
                data = label_map.encode(_read(labels, name, sizes[name]))
                # Its other fields, owner and time among them, are zero.
                entry = tarfile.TarInfo(f"{FOLDER}/{challenge}_{part}_cls/{name}.png")
                entry.size, entry.mode = len(data), 0o644
                archive.addfile(entry, io.BytesIO(data))
        file.flush()
        _verify(file.name, labels, ids, sizes, f"{FOLDER}/{challenge}_{part}_cls")


def _read(labels: str, name: str, size: tuple[int, int] | None) -> np.ndarray:
    """A label map that holds nothing but classes."""
    path = pathlib.Path(labels) / f"{name}.png"
    label_hw = label_map.read(path, len(VOC_CLASSES), size)
    open_hw = label_hw == IGNORE
    if open_hw.any():
        row, column = np.argwhere(open_hw)[0]
        raise ValueError(f"{path}: value {IGNORE} (ignore) at row {row}, column {column}; the "
                         "server wants a class at each pixel, as python -m wsssjax.predict writes")
    return label_hw


def _verify(path: str, labels: str, ids: list[str], sizes: dict, folder: str) -> None:
    """Each entry of the archive is the label map it was made from, and there are no others."""
    want = iter(ids)
    for entry, data in _entries(path):
        name = next(want, None)
        if entry != f"{folder}/{name}.png":
            raise ValueError(f"{path}: holds {entry} in place of {name}; write it again")
        found_hw = label_map.decode(data, entry, len(VOC_CLASSES), sizes[name])
        if data[24:26] != b"\x08\x03":  # PNG header: bit depth, colour type
            raise ValueError(f"{path}: {entry} is no 8-bit palette PNG; write it again")
        if not np.array_equal(found_hw, _read(labels, name, sizes[name])):
            raise ValueError(f"{path}: {entry} differs from the label map; write it again")
    name = next(want, None)
    if name is not None:
        raise ValueError(f"{path}: ends before {name}; write it again")


def _entries(path: str) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                yield member.name, archive.extractfile(member).read()
    except (tarfile.TarError, EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: unreadable ({error}); write it again") from None


def _all_there(place: str, ids: list[str], there, what: str) -> None:
    missing = sorted(set(ids) - set(there))
    if missing:
        raise ValueError(f"{place}: holds no {what} of {missing[0]!r} ({len(missing)} of "
                         f"{len(ids)} ids missing)")
