"""Photos of many sizes as network inputs of few: what every stage that runs a network needs.

A canvas is a size that several photos share, by which they share batches and compiled programs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image


def up(size_hw: Sequence[float], multiple: int) -> tuple[int, int]:
    """(h, w), each side taken up to the next multiple.

    >>> up((375, 500), 32), up((64.0, 64.5), 32)
    ((384, 512), (64, 96))
    """
    rows, columns = (int(-(-side // multiple)) * multiple for side in size_hw)
    return rows, columns


def nearest(size_hw: tuple[int, int], multiple: int) -> tuple[int, int]:
    """(h, w), each side taken to the nearest multiple, at least one.

    >>> nearest((375, 500), 64), nearest((9, 100), 64)
    ((384, 512), (64, 128))
    """
    rows, columns = (max(multiple, round(side / multiple) * multiple) for side in size_hw)
    return rows, columns


def plan(sizes: dict[str, tuple[int, int]], canvas: Callable, batch: int) -> list[list[str]]:
    """Batches of ids whose canvas is the same: sorted by canvas, then id, at most `batch` each.

    sizes: (h, w) by id.  canvas: (h, w) → canvas. The plan follows from all photos, not from those
    left to do, so that a resumed run forms the same batches and gives the same bits.

    >>> plan({"b": (9, 9), "a": (9, 9), "c": (3, 9)}, lambda size: size, 1)
    [['c'], ['a'], ['b']]
    """
    groups: dict[tuple[int, int], list[str]] = {}
    for name in sorted(sizes):
        groups.setdefault(canvas(sizes[name]), []).append(name)
    return [names[i : i + batch] for _, names in sorted(groups.items())
            for i in range(0, len(names), batch)]


def normalise(image_hwc: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """uint8 [h,w,3] → float32 (pixel / 255 - mean) / std, as in training."""
    pixels_hwc = image_hwc.astype(np.float32) / np.float32(255)
    return (pixels_hwc - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)


def scaled(image_hwc: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """The photo uint8 [h,w,3] at another size by Pillow's bicubic."""
    h, w = size_hw
    return np.asarray(Image.fromarray(image_hwc).resize((w, h), Image.Resampling.BICUBIC))


def padded(image_hwc: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """The image with zeros below it and on its right, up to a size."""
    (h, w), (rows, columns) = image_hwc.shape[:2], size_hw
    if (h, w) == (rows, columns):
        return image_hwc
    return np.pad(image_hwc, ((0, rows - h), (0, columns - w), (0, 0)))


def mirrored(image_hwc: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """The mirror image of a padded photo whose own size is given; the padding stays on the right.

    >>> mirrored(np.array([[[1], [2], [0]]]), (1, 2)).tolist()
    [[[2], [1], [0]]]
    """
    out_hwc = np.zeros_like(image_hwc)
    out_hwc[:, : size_hw[1]] = image_hwc[:, : size_hw[1]][:, ::-1]
    return out_hwc
