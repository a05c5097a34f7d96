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
    """Ops from photo and label to `image`, `label`: random scale, crop and flip, no colour change.

    data: config.data.  Where the crop reaches beyond the photo it is black and labelled IGNORE.
    """
    return (
        *_geometry(data),
        transforms.Normalize(keys=("image",), mean=data.mean, std=data.std),
        transforms.Keep(keys=("image", "label")),
    )


def unlabelled_transforms(data: Any) -> tuple:
    """Ops from a photo to `weak`, `strong1`, `strong2` of one crop, `valid`, `cut1`, `cut2`.

    data: config.data.  The strong views differ from the weak one in colour and sharpness only, each
    by draws of its own.
    """
    strong = data.strong
    return (
        *_geometry(data),
        transforms.Views(),
        *_colour(strong),
        transforms.CutBoxes(p=strong.cut_p, area=strong.cut_area, ratio=strong.cut_ratio),
        transforms.Normalize(keys=("weak", *STRONG), mean=data.mean, std=data.std),
        transforms.Keep(keys=("weak", *STRONG, "valid", "cut1", "cut2")),
    )


def semi_loader(config: Any) -> Joined:
    """Endless batches of as many labelled as unlabelled photos, each list in an order of its own."""
    data = config.data
    return Joined(
        labelled=supervised_loader(config),
        unlabelled=_loader(config, data.unlabeled, unlabelled_transforms(data), stream=1),
    )


def supervised_loader(config: Any) -> Loader:
    """Endless batches of labelled photos."""
    data = config.data
    return _loader(config, data.labeled, labelled_transforms(data), stream=0)


def read_list(path: str, labelled: bool) -> list[str]:
    """The lines of a list: `<photo> <label>` each, or the photos alone where labels are not wanted.

    An unlabelled line may name a label too, as the lists of UniMatch do; it is never opened.
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a text file; want '<photo> <label>' a line") from None
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if len(words) > 2 or (labelled and len(words) < 2):
            raise ValueError(f"{path}, line {number}: {line.strip()!r}; want "
                             + ("'<photo> <label>'" if labelled else "'<photo>' or '<photo> <label>'"))
        lines.append(" ".join(words) if labelled else words[0])
    if not lines:
        raise ValueError(f"{path}: names no photo; want one a line")
    return lines


def _geometry(data):
    low, high = data.scale
    return (
        transforms.RandomScale(low=low, high=high),
        transforms.PadCrop(size=data.crop),
        transforms.Flip(p=data.flip_p),
    )


def _colour(strong):
    """Ops that change the strong views' colours; each view has its own draws in each op."""
    return (
        transforms.ColorJitter(
            keys=STRONG, p=strong.jitter_p, brightness=strong.brightness,
            contrast=strong.contrast, saturation=strong.saturation, hue=strong.hue),
        transforms.Grayscale(keys=STRONG, p=strong.gray_p),
        transforms.GaussianBlur(keys=STRONG, p=strong.blur_p, sigma=strong.blur_sigma),
    )


def _loader(config, path, ops, stream):
    lines = read_list(path, labelled=stream == 0)
    return Loader(
        Listed(lines, config.data.root),
        ops,
        batch=config.device_batch * parallel.device_count(),
        seed=2 * config.seed + stream,  # two streams of one seed must not draw alike
        workers=config.data.workers,
    )
