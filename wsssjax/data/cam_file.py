"""CAM files `<id>.npz`: class maps of one photo, without pickles.

`classes` uint8 [m], class numbers from 1 · `cam` float16 [m,h,w], 0..1 · `size` int32 [2], height
and width of the photo. The maps may be smaller than the photo, never larger. What scores
the background too (BAO's classifier, a random walk, a dense CRF) puts it first, as class 0; other
classifiers do not.
"""

from __future__ import annotations

import math
import os
import pathlib
import zipfile
import zlib
from typing import NamedTuple

import cv2
import numpy as np

from wsssjax.core import files

_ENTRIES = {"classes": ("uint8", 1), "cam": ("float16", 3), "size": ("int32", 1)}
_MAX_VALUES = 2**28  # in one array: 20 maps of 12 megapixels


class CamFile(NamedTuple):
    """classes: uint8 [m], rising, 0 only where the background is scored.  cam: float16 [m,h,w],
    0..1.  size: int32 [2], (H, W)."""

    classes: np.ndarray
    cam: np.ndarray
    size: np.ndarray


def write(path: str | os.PathLike, classes_m, cam_mhw, size: tuple[int, int]) -> None:
    """Nothing; the file is there whole or not at all, and the same values give the same bytes.

    classes_m: class numbers, rising.  cam_mhw: float [m,h,w], 0..1.  size: (H, W).
    """
    content = CamFile(np.asarray(classes_m, np.uint8), np.asarray(cam_mhw, np.float16),
                      np.asarray(size, np.int32))
    problem = _problem(content)
    assert problem is None, problem
    with files.atomic(path) as file:
        np.savez_compressed(file, **content._asdict())


def read(path: str | os.PathLike) -> CamFile:
    """The content of a CAM file, checked; ValueError says what is wrong with the file."""
    path = pathlib.Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            content = CamFile(**{name: _entry(archive, name) for name in _ENTRIES})
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, NotImplementedError,
            RuntimeError) as error:
        raise ValueError(f"{path}: no CAM file ({error}); write it again with "
                         "python -m wsssjax.cam") from None
    problem = _problem(content)
    if problem:
        raise ValueError(f"{path}: {problem}; write it again with python -m wsssjax.cam")
    return content


def read_full(path: str | os.PathLike, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(classes uint8 [m], maps float32 [m, h, w]) at the photo's size: smaller maps are enlarged
    bilinearly (half-pixel centres). size: (h, w) of the photo; ValueError where the file says else.
    """
    content = read(path)
    if tuple(content.size) != tuple(size):
        raise ValueError(f"{path}: made for a photo of {content.size[0]} x {content.size[1]}; the "
                         f"photo has {size[0]} x {size[1]} (h x w); make both from the same photo")
    if not len(content.cam):
        return content.classes, np.zeros((0, *size), np.float32)
    maps = [cv2.resize(m.astype(np.float32), (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
            for m in content.cam]
    return content.classes, np.stack(maps)


def _entry(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """One array; its header is judged before memory is taken for what it promises."""
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name!r} is packed in a way that numpy never writes")
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"{name!r} has npy version {version}, want (1, 0)")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        want, rank = _ENTRIES[name]
        if dtype != np.dtype(want) or len(shape) != rank or fortran:
            raise ValueError(f"{name!r} is {dtype} of shape {shape}, want {want} of rank {rank}")
        count = math.prod(shape)
        if min(shape) < 0 or count > _MAX_VALUES:
            raise ValueError(f"{name!r} promises {count} values, the limit is {_MAX_VALUES}")
        data = file.read(count * dtype.itemsize + 1)
        if len(data) != count * dtype.itemsize:
            raise ValueError(f"{name!r} has the wrong length for its shape {shape}")
        return np.frombuffer(data, dtype).reshape(shape)


def _problem(content: CamFile) -> str | None:
    """What contradicts the format, or None."""
    classes, cam, size = content
    if size.shape != (2,) or (size < 1).any():
        return f"'size' is {size.tolist()}, want a positive height and width"
    if len(classes) != len(cam):
        return f"{len(classes)} classes but {len(cam)} maps"
    if (np.diff(classes.astype(int)) <= 0).any() or (classes == 255).any():
        return f"'classes' is {classes.tolist()}, want rising numbers 0..254"
    if (cam.shape[1:] > size).any() or 0 in cam.shape[1:]:
        return f"maps of {cam.shape[1]}x{cam.shape[2]} for a photo of {size[0]}x{size[1]}"
    # Not `cam < 0`: NaN fails every comparison.
    if not ((cam >= 0) & (cam <= 1)).all():
        return "'cam' has values outside 0..1"
    return None
