"""What AffinityNet learns from: class maps that a dense CRF made sure of, and its input pipeline.

For a low and a high power alpha the background scores (1 - highest map) ^ alpha; the CRF makes
probabilities of background and classes from that. What is foreground even at the low power, where
the background is large, is surely foreground, and what is background even at the high one is surely
that; all else is ignored.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import zipfile

import numpy as np

from wsssjax.core import cluster, crf, files, parallel, threads
from wsssjax.core.constants import BACKGROUND, IGNORE
from wsssjax.data import cam_file, loader, photos, transforms
from wsssjax.data.entries import Example, need, need_bytes
from wsssjax.refine.random_walk import STRIDE, block_means, with_background

HALVES = ("low", "high")  # folders of a set of confidences, each full of CAM files
SETTINGS = "confidences.json"  # beside them: what they were made with
EMPTY = 1e-5  # a pixel whose every probability is below lies outside the photo


# ---- class maps --------------------------------------------------------------------------------


def read_maps(path: pathlib.Path, size: tuple[int, int]):
    """(classes uint8 [m], maps float32 [m, h, w] at `size`) of a CAM file of foreground classes.

    size: (h, w) of the photo, which the file must state too.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such CAM file; make it with python -m wsssjax.cam "
                         "--save=cams, or leave its id out with --ids")
    classes, maps_mhw = cam_file.read_full(path, size)
    if BACKGROUND in classes:
        raise ValueError(f"{path}: holds a map of the background, class 0; want classes alone, as "
                         "python -m wsssjax.cam writes them")
    return classes, maps_mhw


def cam_ids(cams, paths: dict[str, pathlib.Path], ids) -> list[str]:
    """The ids to work on: `ids` (a list file or ids), or all CAM files of the folder, sorted.

    paths: photos by id; an id without photo or CAM file is a ValueError.
    """
    folder = pathlib.Path(cams)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of CAM files; make it with python -m "
                         "wsssjax.cam --save=cams")
    there = {p.stem for p in folder.glob("*.npz") if not p.name.startswith(".")}
    if ids is None:
        names = sorted(there)
    else:
        names = files.read_ids(ids) if isinstance(ids, str | pathlib.Path) else list(ids)
    if not names:
        raise ValueError(f"{folder}: holds no CAM file; want <id>.npz")
    for what, known, cure in ((folder, there, "make it with python -m wsssjax.cam --save=cams"),
                              ("--images", paths, "add the photo, or name others with --ids")):
        missing = [name for name in names if name not in known]
        if missing:
            raise ValueError(f"{what}: has no {missing[0]!r} ({len(missing)} of {len(names)} ids "
                             f"missing); {cure}")
    return names


def resolved(sources: dict) -> dict[str, str]:
    """The folders (or lists) that files are made from, as their note names them."""
    return {name: str(pathlib.Path(path).resolve()) for name, path in sources.items()}


# ---- confidences -------------------------------------------------------------------------------


def confidences(cam_mhw, photo_hw3, *, low_alpha: float = 4.0, high_alpha: float = 32.0,
                preset=None, memory: int | None = None):
    """Probabilities of background and classes at low and high alpha, float32 [2, 1 + m, h, w].

    cam_mhw: float [m, h, w], 0..1.  photo_hw3: uint8.  preset: of core.crf, default "psa".
    memory: bytes the CRF may take, None: no limit; crf.TooLarge where it would need more. The
    scores are not normalised before the CRF.

    >>> flat = np.zeros((6, 6, 3), np.uint8)
    >>> low, high = confidences(np.full((1, 6, 6), 0.4, np.float32), flat)
    >>> bool((low[0] > 0.5).all()), bool((high[0] < 0.5).all())  # unsure: let it be ignored
    (False, True)
    """
    scores = [with_background(cam_mhw, alpha) for alpha in (low_alpha, high_alpha)]
    if not len(cam_mhw):  # nothing but background
        return np.ones((2, *scores[0].shape), np.float32)
    unaries = [crf.scores_to_unary(np.ascontiguousarray(s.transpose(1, 2, 0))) for s in scores]
    found = crf.infer_many(unaries, photo_hw3, crf.PRESETS["psa"] if preset is None else preset,
                           memory=memory)
    return np.stack([np.asarray(q_hwk, np.float32).transpose(2, 0, 1) for q_hwk in found])


def write_confidences(*, cams, images, out, ids=None, low_alpha: float = 4.0,
                      high_alpha: float = 32.0, memory_gb: float = 4.0,
                      label: str = "confidences", executor: str = "threads") -> list[str]:
    """Ids of the photos whose `<out>/low/<id>.npz` and `<out>/high/<id>.npz` are now there.

    cams: folder of CAM files.  images: folder or list of photos.  ids: list file or ids; None: all
    of `cams`.  high_alpha: 32 as in the published code, 24 in the paper.  memory_gb: of the CRF of
    all photos in work, see `refine.crf.run`; one that alone needs more is an error.  executor: see
    `core.cluster.each`.  Both files are CAM files with the background first. Files that are whole
    and newer than their CAM file and photo are kept, and refused if they were made with something
    else.
    """
    if not (0 < low_alpha <= high_alpha and math.isfinite(high_alpha)):
        raise ValueError(f"--low_alpha={low_alpha}, --high_alpha={high_alpha}: want two "
                         "finite numbers, the low one above 0 and not above the high one")
    if not (memory_gb > 0 and math.isfinite(memory_gb)):
        raise ValueError(f"--memory_gb={memory_gb}: want a finite number above 0")
    paths = files.photo_paths(images)
    names = cam_ids(cams, paths, ids)
    cams, out = pathlib.Path(cams), pathlib.Path(out)
    files.claim(out / SETTINGS, {"low_alpha": float(low_alpha), "high_alpha": float(high_alpha),
                                 "crf": "psa", **resolved({"cams": cams, "images": images})})

    budget = threads.Budget(int(memory_gb * 1e9))

    def one(name):
        targets = [out / half / f"{name}.npz" for half in HALVES]
        made_from = cams / f"{name}.npz"
        if files.newer(targets, [made_from, paths[name]]) and all(map(_is_whole, targets)):
            return
        photo_hw3 = photos.read_photo(paths[name])
        size = photo_hw3.shape[:2]
        classes, cam_mhw = read_maps(made_from, size)
        pixels = size[0] * size[1]
        needed = crf.needs(pixels, len(classes) + 1, crf.PRESETS["psa"], vertices=pixels)
        try:
            with budget.taken(needed):
                found = confidences(cam_mhw, photo_hw3, low_alpha=low_alpha,
                                    high_alpha=high_alpha, memory=budget.total)
        except crf.TooLarge as error:
            raise ValueError(f"{paths[name]}: {error}; scale it down, with its CAM file"
                             ) from None
        for path, q_khw in zip(targets, found, strict=True):
            cam_file.write(path, [BACKGROUND, *classes], q_khw.clip(0, 1), size)

    for _ in cluster.each(one, names, executor, label):
        pass
    return names


def _is_whole(path: pathlib.Path) -> bool:
    """Whether a file is an archive that was not cut off."""
    return path.is_file() and zipfile.is_zipfile(path)


# ---- labels ------------------------------------------------------------------------------------


def pair_label(low_khw, high_khw) -> np.ndarray:
    """uint8 [h/8, w/8]: 0 surely background, c surely the c-th class present, 255 to be ignored.

    low_khw, high_khw: probabilities at the low and the high alpha, background first; zeros outside
    the photo; sides are multiples of 8. Only the order of the rules decides where they disagree: a
    pixel that is a class at the low alpha and background at the high one is background; one of two
    different classes keeps that of the low alpha.

    >>> low, high = np.zeros((2, 2, 8, 32), np.float32)
    >>> low[:, :, :8], high[:, :, :8] = [[[.2]], [[.8]]], [[[.1]], [[.9]]]      # a class in both
    >>> low[:, :, 8:16], high[:, :, 8:16] = [[[.9]], [[.1]]], [[[.8]], [[.2]]]  # background in both
    >>> low[:, :, 16:24], high[:, :, 16:24] = [[[.9]], [[.1]]], [[[.4]], [[.6]]]  # in low alone
    >>> pair_label(low, high)[0].tolist()
    [1, 0, 255, 255]
    """
    low, high = block_means(low_khw), block_means(high_khw)
    empty = np.maximum(low.max(0), high.max(0)) < EMPTY
    low_best, high_best = low.argmax(0), high.argmax(0)
    label = low_best.astype(np.uint8)
    label[low_best == 0] = IGNORE
    label[high_best == 0] = BACKGROUND
    label[empty] = IGNORE
    return label


class Source:
    """Examples for the loader: `name`, `image` uint8 [h,w,3], `low` and `high` float16 [k,h,w]."""

    def __init__(self, confidences_folder, images, ids=None):
        """confidences_folder: what `write_confidences` wrote.  images: folder or list of photos.
        ids: list file; None or "" for all."""
        self.folder, self.paths = pathlib.Path(confidences_folder), files.photo_paths(images)
        if not all((self.folder / half).is_dir() for half in HALVES):
            raise ValueError(f"config.data.confidences={str(confidences_folder)!r}: want a folder "
                             "that write_confidences filled, with low/ and high/ in it")
        self.ids = tuple(cam_ids(self.folder / HALVES[0], self.paths, ids or None))
        other = self.folder / HALVES[1]
        missing = [name for name in self.ids if not (other / f"{name}.npz").is_file()]
        if missing:
            raise ValueError(f"{other / missing[0]}.npz: no such file ({len(missing)} of "
                             f"{len(self.ids)} missing); write the confidences again")

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Example:
        name = self.ids[index]
        example = {"name": name, "image": photos.read_photo(self.paths[name])}
        for half in HALVES:
            path = self.folder / half / f"{name}.npz"
            found = cam_file.read(path)
            size, classes = found.cam.shape[1:], found.classes.tolist()
            if size != example["image"].shape[:2] or classes[:1] != [BACKGROUND]:
                raise ValueError(f"{path}: maps of {size} for classes {classes}; want "
                                 "background first and the size of "
                                 f"{self.paths[name]}; write the confidences again")
            example[half] = found.cam
        if example["low"].shape != example["high"].shape:
            raise ValueError(f"{self.folder}: low and high of {name!r} hold different classes; "
                             "write the confidences again")
        return example


@dataclasses.dataclass(frozen=True, kw_only=True)
class CropFlip:
    """Random size x size window of photo and confidences, mirrored with probability `flip`.

    A short side lands at a random offset on a canvas of zeros. It is taken before the photo is
    normalised, so that the network sees black there (-mean / std), as published.
    """

    size: int
    flip: float

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        need(example, "image", *HALVES)
        need_bytes("CropFlip", "image", example["image"])
        spans = [_span(side, self.size, rng) for side in example["image"].shape[:2]]
        mirror = rng.random() < self.flip
        out = dict(example)
        for key in ("image", *HALVES):
            first = 0 if key == "image" else 1  # axis of the rows
            axes = (slice(None),) * first
            shape = list(example[key].shape)
            shape[first : first + 2] = self.size, self.size
            canvas = np.zeros(shape, example[key].dtype)
            target = (*axes, *(t for _, t in spans))
            canvas[target] = example[key][(*axes, *(s for s, _ in spans))]
            out[key] = np.flip(canvas, first + 1) if mirror else canvas
        return out


def _span(side: int, size: int, rng: np.random.Generator) -> tuple[slice, slice]:
    """(part of the side that is taken, where it goes in the window)."""
    offset = int(rng.integers(0, abs(side - size), endpoint=True))
    if side >= size:
        return slice(offset, offset + size), slice(0, size)
    return slice(0, side), slice(offset, offset + side)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairLabel:
    """Example with `label`, an eighth of the window's side, in place of the confidences."""

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        need(example, *HALVES)
        rest = {key: value for key, value in example.items() if key not in HALVES}
        return {**rest, "label": pair_label(example["low"], example["high"])}


def batches(config) -> loader.Loader:
    """Endless host batches of `image` [b, crop, crop, 3] and `label` int32 [b, crop/8, crop/8].

    Order as published: jitter, crop, normalise, flip (mirroring commutes with normalising). No
    scaling.
    """
    data = config.data
    if data.crop % STRIDE or data.crop < 9 * STRIDE:
        raise ValueError(f"config.data.crop={data.crop}: want a multiple of {STRIDE} pixels, from "
                         f"{9 * STRIDE}: smaller crops hold no pair")
    brightness, contrast, saturation, hue = data.jitter
    steps = (
        transforms.ColorJitter(keys=("image",), p=1.0, brightness=brightness, contrast=contrast,
                               saturation=saturation, hue=hue),
        CropFlip(size=data.crop, flip=data.flip),
        PairLabel(),
        transforms.Normalize(keys=("image",), mean=data.mean, std=data.std),
        transforms.Keep(keys=("image", "label")),
    )
    rows = config.device_batch * parallel.device_count()
    index, count = parallel.process()
    return loader.Loader(Source(data.confidences, data.images, data.ids), steps, batch=rows,
                         seed=config.seed, workers=data.workers, process_index=index,
                         process_count=count)
