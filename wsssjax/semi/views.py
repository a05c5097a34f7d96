"""What the segmenter learns from: transforms and loaders of labelled and unlabelled photos."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from wsssjax.core import files, parallel
from wsssjax.core.config import choose
from wsssjax.core.constants import IGNORE
from wsssjax.data import lists, tags, transforms, transforms_deeplab
from wsssjax.data.classes import need_background, read_class_names
from wsssjax.data.loader import Joined, Loader
from wsssjax.data.sources import Listed, list_lines

STRONG = ("strong1", "strong2")


def labelled_transforms(data: Any) -> tuple:
    """Ops from photo and label to `image`, `label`: random scale, crop, flip and colour change.

    data: config.data.  Where the crop reaches beyond the photo it is what data.canvas says, and
    labelled data.canvas_label.
    """
    normalise = transforms.Normalize(keys=("image",), mean=data.mean, std=data.std)
    keep = transforms.Keep(keys=("image", "label"))
    size, fill = data.crop, data.canvas_label
    if data.canvas == "black":
        return (*_geometry(data), *_jitter(data), normalise, keep)
    if data.canvas == "mean_random" and fill != IGNORE:
        raise ValueError(f"config.data.canvas_label is {fill}; canvas 'mean_random' has {IGNORE}")
    crop = choose({"mean": lambda: transforms_deeplab.CornerCrop(size=size, label_fill=fill),
                   "mean_random": lambda: transforms.PasteCrop(size=size)},
                  data.canvas, "config.data.canvas")()
    return (_resize(data), transforms.Flip(p=data.flip_p), *_jitter(data), normalise, crop, keep)


def unlabelled_transforms(data: Any) -> tuple:
    """Ops from a photo to `weak`, `strong1`, `strong2` of one crop, `valid`, `cut1`, `cut2`, and
    `tags` where data.tags names a file of them.

    data: config.data.  The strong views differ from the weak one in colour and sharpness only, each
    by draws of its own.
    """
    if data.canvas != "black":
        raise ValueError(f"config.data.canvas is {data.canvas!r}; unlabelled photos want 'black'")
    strong = data.strong
    return (
        *_geometry(data),
        transforms.Views(),
        *_colour(strong),
        transforms.CutBoxes(p=strong.cut_p, area=strong.cut_area, ratio=strong.cut_ratio),
        transforms.Normalize(keys=("weak", *STRONG), mean=data.mean, std=data.std),
        transforms.Keep(keys=("weak", *STRONG, "valid", "cut1", "cut2",
                              *(("tags",) if data.tags else ()))),
    )


def semi_loader(config: Any) -> Joined:
    """Endless batches of as many labelled as unlabelled photos, each list in its own order."""
    data = config.data
    check(config, data.unlabeled)
    return Joined(
        labelled=_labelled(config),
        unlabelled=_loader(config, data.unlabeled, unlabelled_transforms(data), labelled=False),
    )


def supervised_loader(config: Any) -> Joined:
    """Endless batches of labelled photos."""
    check(config, "")
    return Joined(labelled=_labelled(config))


def check(config: Any, unlabeled: str) -> None:
    """ValueError for lists that a training would stumble over hours later, or learn wrongly."""
    labeled = config.data.labeled
    if config.data.tags and not unlabeled:
        raise ValueError(f"config.data.tags={config.data.tags}: method {config.method!r} reads no "
                         "tags, which are those of unlabelled photos; leave it out")
    lists.check_lists(
        read_lines(labeled, labelled=True),
        read_lines(unlabeled, labelled=False) if unlabeled else [], config.data.root,
        len(read_class_names(config.classes)), config.classes, labeled_path=labeled,
        unlabeled_path=unlabeled)


def unlabelled_tags(config: Any) -> dict[str, np.ndarray] | None:
    """Tags float32 [k] of every photo of the unlabelled list by id, where config.data.tags names a
    file of them; else None. A row without a tag stands for a photo of background alone."""
    data = config.data
    if not data.tags:
        return None
    names = need_background(read_class_names(config.classes), "config.data.tags")
    found = tags.read_tags(data.tags, names, untagged=True)
    ids = [pathlib.Path(line).stem for line in read_lines(data.unlabeled, labelled=False)]
    files.need_ids(ids, found, f"config.data.tags={data.tags}",
                   f"add their rows, or leave the photos out of {data.unlabeled}")
    return found


def epoch_steps(config: Any, *, unlabelled: bool) -> int:
    """Steps of one pass as the reference counts them: ⌊⌈n / g⌉ / device_batch⌋, at least 1.

    n: unlabelled photos; without them labelled ones, or data.epoch_photos where that is more.
    g: groups of rows a step, over all devices of all hosts (published: 4).
    """
    if unlabelled:
        photos = len(read_lines(config.data.unlabeled, labelled=False))
    else:
        photos = max(len(read_lines(config.data.labeled, labelled=True)), config.data.epoch_photos)
    groups = parallel.device_count() * parallel.process()[1] * config.accumulate
    return max(-(-photos // groups) // config.device_batch, 1)


def with_total_steps(config: Any, *, unlabelled: bool) -> Any:
    """`config`, its total_steps filled in from total_epochs where it is 0."""
    if config.total_steps:
        return config
    if config.total_epochs < 1:
        raise ValueError("config.total_epochs and config.total_steps are both 0; give one of them")
    config = config.copy_and_resolve_references()
    config.total_steps = config.total_epochs * epoch_steps(config, unlabelled=unlabelled)
    return config


def read_lines(path: str, *, labelled: bool) -> list[str]:
    """The lines of a list: `<photo> <label>` each, or the photos alone where labels are not wanted.

    An unlabelled line may name a label too, as the lists of UniMatch do; it is never opened.
    """
    lines = [line.split() for line in list_lines(path)]
    bare = [words[0] for words in lines if len(words) < 2]
    if labelled and bare:
        raise ValueError(f"{path}: {bare[0]} has no label; want '<photo> <label>' a line")
    return [" ".join(words) if labelled else words[0] for words in lines]


def _geometry(data):
    return (
        _resize(data),
        transforms.PadCrop(size=data.crop, label_fill=data.canvas_label),
        transforms.Flip(p=data.flip_p),
    )


def _resize(data):
    """The op that data.resize names, by data.scale."""
    if data.resize == "choice":
        return transforms_deeplab.ChooseScale(factors=tuple(data.scale))
    op = choose({"factor": transforms.RandomScale, "long_side": transforms.ResizeLongSide},
                data.resize, "config.data.resize")
    if len(data.scale) != 2:
        raise ValueError(f"config.data.scale is {tuple(data.scale)}; resize {data.resize!r} wants "
                         "a range, two numbers")
    return op(low=data.scale[0], high=data.scale[1])


def _jitter(data):
    """The colour change of a labelled photo, or nothing."""
    if not any(data.jitter):
        return ()
    brightness, contrast, saturation, hue = data.jitter
    return (transforms.ColorJitter(keys=("image",), p=1.0, brightness=brightness,
                                   contrast=contrast, saturation=saturation, hue=hue),)


def _colour(strong):
    """Ops that change the strong views' colours; each view has its own draws in each op."""
    return (
        transforms.ColorJitter(
            keys=STRONG, p=strong.jitter_p, brightness=strong.brightness,
            contrast=strong.contrast, saturation=strong.saturation, hue=strong.hue),
        transforms.Grayscale(keys=STRONG, p=strong.gray_p),
        transforms.GaussianBlur(keys=STRONG, p=strong.blur_p, sigma=strong.blur_sigma),
    )


def _labelled(config):
    return _loader(config, config.data.labeled, labelled_transforms(config.data), labelled=True)


def _loader(config, path, ops, *, labelled):
    source = Listed(
        read_lines(path, labelled=labelled), config.data.root,
        num_classes=len(read_class_names(config.classes)),
        tags=None if labelled else unlabelled_tags(config))
    # The two streams of one seed must not draw alike, nor those of neighbouring seeds.
    seed = 2 * config.seed + labelled
    index, count = parallel.process()
    rows = config.device_batch * config.accumulate * parallel.device_count()
    return Loader(source, ops, batch=rows, seed=seed, workers=config.data.workers,
                  process_index=index, process_count=count)
