"""Saliency maps beside a data set; a module without jax, since loader processes import it."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterable

import numpy as np

from wsssjax.data import photos

SUFFIXES = (".png", ".jpg", ".jpeg")
MODES = ("L", "RGB", "1", "P", "LA", "RGBA")  # others hold more than 8 bits, or no brightness


def missing(folder: str, ids: Iterable[str]) -> list[str]:
    """Those of `ids` that have no map in the folder."""
    if not pathlib.Path(folder).is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of saliency maps; want <id>.png, from "
                                "python -m wsssjax.cam.saliency for instance")
    there = set(os.listdir(folder))
    return [name for name in ids if not any(name + suffix in there for suffix in SUFFIXES)]


def read_map(path: pathlib.Path) -> np.ndarray:
    """Saliency 0..255, uint8 [h,w], or [h,w,3] where the file is in colours.

    As published the file is opened as RGB whatever it holds and its channels are averaged once they
    are resized (data.transforms.Normalize does it); of a grey one, one channel says it all.
    """
    image = photos.open_image(photos.read_bytes(path), path, ("JPEG", "PNG"))
    if image.mode not in MODES:
        raise ValueError(f"{path}: saliency of mode {image.mode}; save it as an 8-bit grey image")
    if image.mode == "L":
        return np.asarray(image)
    image.info.pop("transparency", None)  # PIL would warn that it drops it
    map_hwc = np.asarray(image.convert("RGB"))
    grey = (map_hwc == map_hwc[..., :1]).all()
    return np.ascontiguousarray(map_hwc[..., 0]) if grey else map_hwc


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadSaliency:
    """Example with `saliency`, what `read_map` gives for `<folder>/<name>.png` or another suffix.

    A map that is not of the photo's size is a ValueError.
    """

    folder: str

    def __call__(self, example: dict, rng: np.random.Generator) -> dict:
        name = example["name"]
        # Not with_suffix: an id may hold a dot.
        paths = [pathlib.Path(self.folder, name + suffix) for suffix in SUFFIXES]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            raise ValueError(f"{paths[0]}: no saliency map for the photo {name!r}; make it "
                             "with python -m wsssjax.cam.saliency")
        saliency = read_map(path)
        (h, w), (photo_h, photo_w) = saliency.shape[:2], example["image"].shape[:2]
        if (h, w) != (photo_h, photo_w):
            raise ValueError(f"{path}, of the photo {name!r}: saliency has {h}x{w} pixels but the "
                             f"photo has {photo_h}x{photo_w}; make it from this photo")
        return {**example, "saliency": saliency}
