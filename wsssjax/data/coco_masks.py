"""COCO's true masks as label maps, made of COCO-Stuff's maps.

COCO-Stuff (Caesar, Uijlings, Ferrari, CVPR 2018) gives one 8-bit PNG a photo of COCO 2017's train
and val, `stuffthingmaps_trainval2017.zip`; its documentation: things have the category ids 1..91 of
COCO, stuff 92..182, and maps hold the id less one, 0..181, with 255 for unlabelled or void pixels.
Eleven of the things (street sign, hat, shoe, eye glasses, plate, mirror, window, desk, door,
blender, hair brush) have no pixel anywhere. So, with the 80 classes counted from 1 in the order of
their ids:

    0..89, an id of COCO_IDS less one    its class, 1..80
    91..181, stuff                       0, background
    255                                  255, ignored
    else                                 an error: not COCO-Stuff's maps

Masks drawn from COCO's instances alone call the unlabelled pixels background; here they do not
count. Photos of 2014 are those of 2017 in other parts: COCO_val2014_000000000042.jpg has its map as
000000000042.png, be it in train2017/ or in val2017/.
"""

from __future__ import annotations

import os
import pathlib
import re

import numpy as np

from wsssjax.core import files, threads
from wsssjax.core.constants import BACKGROUND, IGNORE
from wsssjax.data import label_map, sources
from wsssjax.data.classes import COCO_IDS

SOURCE, TARGET = "stuffthingmaps", "masks"  # folders of the data set
STUFF = range(91, 182)  # values of stuff in the maps
PARTS = ("train2014", "val2014", "train2017", "val2017")
PHOTO_FOLDERS = (*PARTS, *(f"images/{part}" for part in PARTS), "images")
_NUMBER = re.compile(r"(?:COCO_\w+_)?([0-9]{1,15})")  # how COCO names its photos
_WRONG = 254  # in the table below


def _table() -> np.ndarray:
    """uint8 [256]: class of each value of COCO-Stuff's maps."""
    class_of = np.full(256, _WRONG, np.uint8)
    class_of[np.array(COCO_IDS) - 1] = np.arange(1, len(COCO_IDS) + 1)
    class_of[STUFF.start:STUFF.stop] = BACKGROUND
    class_of[IGNORE] = IGNORE
    return class_of


_CLASS_OF = _table()


def convert(stuff_hw: np.ndarray, name: str | os.PathLike) -> np.ndarray:
    """Label map uint8 [h,w], 0..80 and 255, of a map of COCO-Stuff; `name` for messages."""
    label_hw = _CLASS_OF[stuff_hw]
    wrong_hw = label_hw == _WRONG
    if wrong_hw.any():
        row, column = np.argwhere(wrong_hw)[0]
        raise ValueError(f"{name}: value {stuff_hw[row, column]} at row {row}, column {column} is "
                         "no class of COCO-Stuff's stuffthingmaps; copy the file again (is it a "
                         "label map of 0..80 already?)")
    return label_hw


def convert_tree(root: str | os.PathLike, *, redo: bool = False) -> dict[str, dict[str, int]]:
    """{folder of photos: {"images", "already_there", "without_map"}}; `<root>/masks/<id>.png` of
    every photo whose map lies in `<root>/stuffthingmaps/` or a folder in it.

    Masks that are there are kept, unless `redo`.
    """
    root = pathlib.Path(root)
    maps = {path.stem: path for path in sorted((root / SOURCE).rglob("*.png"))
            if not path.name.startswith(".")}
    if not maps:
        raise FileNotFoundError(f"{root / SOURCE}: no map <number>.png in it; unpack COCO-Stuff's "
                                "stuffthingmaps_trainval2017.zip there")
    found = [folder for folder in PHOTO_FOLDERS if (root / folder).is_dir()]
    if not found:
        raise FileNotFoundError(f"{root}: no folder of photos; want {', '.join(PARTS)} or images")
    target = root / TARGET
    target.mkdir(exist_ok=True)
    files.sweep(target)
    there = set() if redo else {path.name for path in target.iterdir()}
    result = {folder: _convert_folder(root / folder, maps, target, there) for folder in found}
    result = {folder: counts for folder, counts in result.items() if counts["images"]}
    if all(counts["without_map"] == counts["images"] for counts in result.values()):
        raise ValueError(f"{root / SOURCE}: none of its {len(maps)} maps belongs to a photo of "
                         f"{', '.join(found)}; maps are named after the photos' numbers")
    return result


def _convert_folder(photos: pathlib.Path, maps, target: pathlib.Path, there) -> dict[str, int]:
    names = sorted(path.stem for path in photos.iterdir()
                   if path.suffix.lower() in files.PHOTO_SUFFIXES)
    pairs = [(name, maps[key]) for name in names if (key := _key(name, maps)) is not None]
    todo = [pair for pair in pairs if f"{pair[0]}.png" not in there]

    def one(pair):
        name, path = pair
        stuff_hw = label_map.read(path, sources.ANY_LABEL)  # `convert` knows which are right
        label_map.write(target / f"{name}.png", convert(stuff_hw, path))

    for _ in threads.each(one, todo, f"masks of {photos.name}"):
        pass
    return {"images": len(names), "already_there": len(pairs) - len(todo),
            "without_map": len(names) - len(pairs)}


def _key(name: str, maps) -> str | None:
    """Name of the photo's map: its own, or its number in twelve digits, as COCO 2017 writes it."""
    match = _NUMBER.fullmatch(name)
    for key in (name, match and match[1], match and match[1].zfill(12)):
        if key in maps:
            return key
    return None
