"""What the segmenter's trainings see: transforms and loaders of the labelled and unlabelled photos."""

from __future__ import annotations

import pathlib
from typing import Any

from wsssjax.core import parallel
from wsssjax.data import transforms
from wsssjax.data.loader import Joined, Loader
from wsssjax.data.sources import Listed

STRONG = ("strong1", "strong2")


def labelled_transforms(data: Any) -> tuple:
    """Photo and label → `image`, `label`: random scale, crop and flip, no colour change.

    data: config.data. Pixels that the crop adds are black and their label is IGNORE.
    """
    return (
        *_geometry(data),
        transforms.Normalize(keys=("image",), mean=data.mean, std=data.std),
        transforms.Keep(keys=("image", "label")),
    )


def unlabelled_transforms(data: Any) -> tuple:
    """Photo → `weak`, `strong1`, `strong2` of one crop, `valid` (not padding), `cut1`, `cut2`.

    The strong views differ from the weak one in colour and blur only, each by its own draws.
    """
    strong = data.strong
    colour = tuple(op for key in STRONG for op in _colour(strong, (key,)))
    return (
        *_geometry(data),
        transforms.Views(),
        *colour,
        transforms.CutBoxes(p=strong.cut_p, area=strong.cut_area, ratio=strong.cut_ratio),
        transforms.Normalize(keys=("weak", *STRONG), mean=data.mean, std=data.std),
        transforms.Keep(keys=("weak", *STRONG, "valid", "cut1", "cut2")),
    )
