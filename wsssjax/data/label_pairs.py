"""Photos with several label maps each, cut to training crops together, as SSDD learns from.

A label set is a folder of score files `<id>.npz` (`cam_file`, the background first) or of label
maps `<id>.png`; where a photo has both, its scores count. Either way its labels are a score per
class: the file's, or one-hot maps.
Scores, not classes, are resized; the class is decided last, on a grid of a quarter of the crop's
sides. Every map goes with its photo by id, and through the same scale, window and flip: the
published code stored maps by their place in a list, flipped half of them, and then used them
without the photo's own scale, window and flip. `AsReleased` alone does so too.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import zlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from wsssjax.core import files, parallel
from wsssjax.core.constants import BACKGROUND, IGNORE
from wsssjax.data import cam_file, label_map, photos, tags, transforms
from wsssjax.data.classes import need_background, read_class_names
from wsssjax.data.loader import Loader

GRID = 4  # pixels of the crop per cell
SUFFIXES = (".png", ".npz")  # of label maps and of scores


class Scores(NamedTuple):
    """classes: uint8 [m], rising; IGNORE may be the last.  maps: float32 [m,h,w]."""

    classes: np.ndarray
    maps: np.ndarray


class LabelSet:
    """The labels of one method: of a photo `<id>.npz`, else `<id>.png`.

    A CAM file without the background holds no labels, so a PNG beside it is taken in its place.
    """

    def __init__(self, folder: str | os.PathLike, num_classes: int, what: str):
        """what: the flag or field that named the folder, for messages."""
        self.folder, self.num_classes, self.what = pathlib.Path(folder), num_classes, what
        if not self.folder.is_dir():
            raise FileNotFoundError(f"{what}={folder}: no such folder; want one of label maps "
                                    "<id>.png or of scores <id>.npz")
        self.maps, scored = ({p.stem: p for p in self.folder.glob(f"*{suffix}")
                                       if not p.name.startswith(".")} for suffix in SUFFIXES)
        self.paths = dict(sorted((self.maps | scored).items()))
        if not self.paths:
            raise ValueError(f"{what}={folder}: holds neither label maps <id>.png nor scores "
                             "<id>.npz")

    def need(self, ids: Sequence[str]) -> None:
        """ValueError unless there are labels of all these photos."""
        if missing := [name for name in ids if name not in self.paths]:
            raise ValueError(f"{self.what}={self.folder}: has no labels of {missing[0]!r} "
                             f"({len(missing)} of {len(ids)} ids missing); make them, or leave the "
                             "photos out with a list of ids")

    def made_from(self, name: str) -> list[pathlib.Path]:
        """The files that a photo's labels depend on."""
        return list(dict.fromkeys([self.paths[name], self.maps.get(name, self.paths[name])]))

    def scores(self, name: str, size_hw: tuple[int, int]) -> Scores:
        """Scores of a photo of that size; those of a label map are one-hot."""
        path = self.paths[name]
        content = cam_file.read(path) if path.suffix == ".npz" else None
        if content and (name not in self.maps or BACKGROUND in content.classes):
            return self._checked(path, content, size_hw)
        label_hw = label_map.read(self.maps[name], self.num_classes, size_hw)
        classes = np.unique(label_hw)
        return Scores(classes, (label_hw == classes[:, None, None]).astype(np.float32))

    def _checked(self, path, content, size_hw):
        if tuple(content.size) != tuple(size_hw):
            raise ValueError(f"{path}: scores of a photo of {content.size[0]} x {content.size[1]}; "
                             f"its image has {size_hw[0]} x {size_hw[1]} (h x w)")
        if BACKGROUND not in content.classes:
            raise ValueError(f"{path}: no scores of the background (class 0); want those of a "
                             "method that has some, or label maps")
        if content.classes[-1] >= self.num_classes:
            raise ValueError(f"{path}: scores of class {content.classes[-1]}; want 0.."
                             f"{self.num_classes - 1} (is --classes right?)")
        return Scores(content.classes, content.cam.astype(np.float32))


def resize(maps_mhw: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """float32 [m,h,w] at `size_hw`: bilinear, half-pixel centres, no antialias."""
    if maps_mhw.shape[1:] == tuple(size_hw):
        return maps_mhw
    h, w = size_hw
    return np.stack([cv2.resize(x, (w, h), interpolation=cv2.INTER_LINEAR) for x in maps_mhw])


def decide(scores: Scores) -> np.ndarray:
    """uint8 [h,w]: the class of the highest score; ties go to the smaller class."""
    return scores.classes[scores.maps.argmax(0)]


def full_label(scores: Scores, size_hw: tuple[int, int]) -> np.ndarray:
    """uint8 [h,w]: the class of the highest score at the photo's size."""
    return decide(Scores(scores.classes, resize(scores.maps, size_hw)))


def to_grid(x_mhw: np.ndarray) -> np.ndarray:
    """float32 [m,h,w] at a quarter of its sides, multiples of 4: bilinear without antialias.

    That is the mean of the four pixels in the middle of each cell.
    """
    rows = (x_mhw[:, 1::GRID] + x_mhw[:, 2::GRID]) / 2
    return (rows[:, :, 1::GRID] + rows[:, :, 2::GRID]) / 2


def grid_label(scores: Scores, size_hw: tuple[int, int]) -> np.ndarray:
    """int32 [h/4,w/4]: the labels of the photo squashed to `size_hw`, on the grid."""
    return decide(Scores(scores.classes, to_grid(resize(scores.maps, size_hw)))).astype(np.int32)


# ---- one example -------------------------------------------------------------------------------


class Source:
    """Examples of photos with their labels of several sets, in the order of `ids`.

    An example: `name`, `image` uint8 [h,w,3], `tags` float32 [k] and, for each set, `Scores`.
    """

    def __init__(self, images: str | os.PathLike, sets: dict[str, LabelSet],
                 num_classes: int, *, ids: Sequence[str] | None = None,
                 image_tags: dict[str, np.ndarray] | None = None, what: str = "config.data.images"):
        """sets: by batch key.  ids: None takes those of the first set.  image_tags: by id; None
        takes the classes in the labels of the first set.  what: as for LabelSet."""
        self.sets, self.num_classes, self.image_tags = dict(sets), num_classes, image_tags
        first = next(iter(self.sets.values()))
        self.ids = list(first.paths if ids is None else ids)
        for one in self.sets.values():
            one.need(self.ids)
        self.paths = files.photo_paths(images)
        if missing := [name for name in self.ids if name not in self.paths]:
            raise ValueError(f"{what}={images}: no photo of {missing[0]!r} ({len(missing)} of "
                             f"{len(self.ids)} ids missing); add them, or leave them out with a "
                             "list of ids")
        if image_tags is not None and (missing := [n for n in self.ids if n not in image_tags]):
            raise ValueError(f"no tags of {missing[0]!r} ({len(missing)} of {len(self.ids)} ids "
                             "missing); add them to the tags file, or name none")

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict:
        name = self.ids[index]
        example = {"name": name, "image": photos.read_photo(self.paths[name])}
        size_hw = example["image"].shape[:2]
        for key, one in self.sets.items():
            example[key] = one.scores(name, size_hw)
        return example | {"tags": self.tags(name, next(example[key] for key in self.sets))}

    def tags(self, name: str, scores: Scores) -> np.ndarray:
        """float32 [k]: those of the tags file, else the classes that a pixel of `scores` has."""
        if self.image_tags is not None:
            return self.image_tags[name]
        return tags.mask_tags(decide(scores), self.num_classes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridCrop:
    """Example with a random crop of the photo, and its labels `keys` there, on the grid.

    low, high: both sides become one uniform integer, both included, as published; with `square`
    false the longer side does, and the photo keeps its proportions.  crop: pixels, a multiple of 8.
    mean: colour of RGB in 0..1 that fills what the crop has beyond the photo; labels are IGNORE
    there.  photo: also give the crop on the grid, `photo` uint8 [h,w,3], before colours change.
    Photos are resized by Pillow's bilinear filter. Writes `valid`, bool, false beyond the photo.
    """

    low: int
    high: int
    crop: int
    flip_p: float
    square: bool
    keys: tuple[str, ...]
    mean: tuple[float, float, float]
    photo: bool = False

    def __post_init__(self):
        if self.crop < 8 or self.crop % 8 or not 0 < self.low <= self.high:
            raise ValueError(f"GridCrop: a crop of {self.crop} from sides of {self.low} to "
                             f"{self.high}; want a multiple of 8, and 0 < low <= high")
        if self.square and self.low < self.crop:
            raise ValueError(f"GridCrop: sides from {self.low}, a crop of {self.crop}; want sides "
                             "as long as the crop or longer")

    def __call__(self, example: dict, rng: np.random.Generator) -> dict:
        h, w = example["image"].shape[:2]
        long = int(rng.integers(self.low, self.high, endpoint=True))
        size = (long, long) if self.square else tuple(
            max(1, int(side * long / max(h, w) + 0.5)) for side in (h, w))
        top, left = (int(rng.integers(0, max(side - self.crop, 0), endpoint=True)) for side in size)
        part = np.s_[top : top + self.crop, left : left + self.crop]
        step = -1 if rng.random() < self.flip_p else 1
        small = Image.fromarray(example["image"]).resize(size[::-1], Image.Resampling.BILINEAR)
        image = self._canvas(np.asarray(small)[part], np.round(np.float32(self.mean) * 255))
        inside = self._canvas(np.ones(size, bool)[part], False)
        out = {**example, "image": np.ascontiguousarray(image[:, ::step])}
        out["valid"] = to_grid(inside[None].astype(np.float32))[0, :, ::step] == 1
        for key in self.keys:
            maps = resize(example[key].maps, size)[:, part[0], part[1]]
            grid = to_grid(np.stack([self._canvas(x, 0) for x in maps]))[:, :, ::step]
            label = decide(Scores(example[key].classes, grid)).astype(np.int32)
            out[key] = np.where(out["valid"], label, IGNORE).astype(np.int32)
        if self.photo:
            small = to_grid(np.moveaxis(out["image"].astype(np.float32), -1, 0))
            out["photo"] = np.ascontiguousarray(np.moveaxis(small + 0.5, 0, -1)).astype(np.uint8)
        return out

    def _canvas(self, x, fill):
        """x, padded at the bottom and on the right to the crop."""
        out = np.full((self.crop, self.crop, *x.shape[2:]), fill).astype(x.dtype)
        out[: x.shape[0], : x.shape[1]] = x
        return out


@dataclasses.dataclass(frozen=True, kw_only=True)
class AsReleased:
    """Example with `differences` float32 [2,g,g]: stored maps as the published code uses them.

    Half of the photos' maps are mirrored, the same ones in every pass, the two are exchanged, and
    neither the photo's scale nor its window nor its flip is theirs.
    folder: of `<id>.npz`, what refining stored.  grid: cells a side.
    """

    folder: str
    grid: int

    def __call__(self, example: dict, rng: np.random.Generator) -> dict:
        path = pathlib.Path(self.folder) / f"{example['name']}.npz"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such stored maps; write them with refine "
                                    "--method=difference")
        content = cam_file.read(path)
        if content.classes.tolist() != [0, 1]:
            raise ValueError(f"{path}: {len(content.classes)} maps; want two, of knowledge and "
                             "advice, as refine --method=difference stores them")
        mirrored = zlib.crc32(example["name"].encode()) % 2
        maps_2gg = resize(content.cam.astype(np.float32), (self.grid, self.grid))[::-1]
        return {**example, "differences": np.ascontiguousarray(
            maps_2gg[:, :, :: -1 if mirrored else 1])}


# ---- batches -----------------------------------------------------------------------------------


def source(config, keys: Iterable[str]) -> Source:
    """The photos of config.data with the label sets that its fields `keys` name."""
    data = config.data
    names = need_background(read_class_names(config.classes), "config.classes")
    for key in ("images", *keys):
        if not data[key]:
            raise ValueError(f"config.data.{key} is empty; give --config.data.{key}=FOLDER")
    return Source(
        data.images,
        {key: LabelSet(data[key], len(names), f"config.data.{key}") for key in keys}, len(names),
        ids=files.read_ids(data.ids) if data.ids else None,
        image_tags=tags.read_tags(data.tags, names) if data.tags else None)


def batches(config, examples: Source, *, photo: bool, stored: str = "") -> Loader:
    """Endless batches of `image`, `tags`, `valid` and the labels of each set; `photo` if asked.

    stored: folder of stored maps for `differences`, see AsReleased; "" for none.
    """
    data, keys = config.data, tuple(examples.sets)
    more = (*(("photo",) if photo else ()), *(("differences",) if stored else ()))
    brightness, contrast, saturation, hue = data.jitter
    steps = (
        GridCrop(low=data.side[0], high=data.side[1], crop=data.crop, flip_p=data.flip_p,
                 square=data.square, keys=keys, mean=data.mean, photo=photo),
        transforms.ColorJitter(keys=("image",), p=1.0, brightness=brightness, contrast=contrast,
                               saturation=saturation, hue=hue),
        transforms.Normalize(keys=("image",), mean=data.mean, std=data.std),
        *((AsReleased(folder=stored, grid=data.crop // GRID),) if stored else ()),
        transforms.Keep(keys=("image", "tags", "valid", *keys, *more)),
    )
    index, count = parallel.process()
    return Loader(examples, steps, batch=config.device_batch * parallel.device_count(),
                  seed=config.seed, workers=data.workers, process_index=index, process_count=count)


def lengths(config, examples: Source) -> tuple[int, int]:
    """Steps of (one pass over the photos, the whole training).

    An incomplete last batch makes no step of a pass.  The training has config.total_steps or,
    where that is 0, config.total_epochs passes.
    """
    for name in ("device_batch", *(() if config.total_steps else ("total_epochs",))):
        if config[name] < 1:
            raise ValueError(f"config.{name} is {config[name]}; want 1 or more")
    rows = config.device_batch * parallel.device_count() * parallel.process()[1]
    epoch = max(len(examples) // rows, 1)
    return epoch, config.total_steps or config.total_epochs * epoch
