"""Small folders of drawn photos, laid out as VOC, COCO or one's own photos are, and the command
that runs a recipe on them."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
from PIL import Image

from wsssjax.data import label_map, shapes
from wsssjax.data.classes import COCO_CLASSES, SHAPES_CLASSES, VOC_CLASSES

ROOT = pathlib.Path(__file__).parents[1]
AS_VOC = [VOC_CLASSES.index({"plant": "pottedplant"}.get(name, name)) for name in SHAPES_CLASSES]
AS_COCO = [COCO_CLASSES.index({"plant": "potted plant"}.get(name, name)) for name in SHAPES_CLASSES]


def train(*arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors of `python -m wsssjax.train` on one device, as a user has it."""
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    env.pop("XLA_FLAGS", None)
    done = subprocess.run([sys.executable, "-m", "wsssjax.train", *arguments], cwd=ROOT, env=env,
                          capture_output=True, text=True, timeout=900)
    return done.returncode, done.stdout, done.stderr


def drawn(count, size):
    """(id, photo u8 [h,w,3], label u8 [h,w] in SHAPES_CLASSES, its classes) of each photo."""
    for index, (_, image_hwc, label_hw, tags_k, _) in enumerate(shapes.generate(count, size, 5)):
        yield f"2007_{index:06d}", image_hwc, label_hw, np.flatnonzero(tags_k) + 1


def write_lines(path: pathlib.Path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def voc(root: pathlib.Path, train: int, val: int, size: int = 60) -> list[str]:
    """The ids; root: filled as VOC's devkit, with the masks of train_aug in a folder of their own.

    As there, masks lie in SegmentationClass for some photos and in SegmentationClassAug for all.
    """
    rows, ids = ["id,tags"], []
    for folder in ("SegmentationClass", "SegmentationClassAug"):
        (root / folder).mkdir(parents=True)
    (root / "JPEGImages").mkdir()
    for index, (name, image_hwc, label_hw, found) in enumerate(drawn(train + val, size)):
        Image.fromarray(image_hwc).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
        mask_hw = renamed(label_hw, AS_VOC)
        label_map.write(root / "SegmentationClassAug" / f"{name}.png", mask_hw)
        if index % 2 or index >= train:
            label_map.write(root / "SegmentationClass" / f"{name}.png", mask_hw)
        rows.append(f"{name},{';'.join(VOC_CLASSES[AS_VOC[k]] for k in found)}")
        ids.append(name)
    write_lines(root / "tags.csv", rows)
    lists = root / "ImageSets" / "Segmentation"
    write_lines(lists / "train_aug.txt", ids[:train])
    write_lines(lists / "val.txt", ids[train:])
    return ids


def renamed(label_hw: np.ndarray, numbers: list[int]) -> np.ndarray:
    """The map with class i as numbers[i], and 255 where it was."""
    return np.append(np.array(numbers, np.uint8), np.full(256 - len(numbers), 255, np.uint8))[
        label_hw]


def coco(root: pathlib.Path, train: int, val: int, size: int = 60) -> dict[str, list[str]]:
    """Names of the classes in each photo by id; root: filled as COCO 2014, and masks/ made."""
    known = {}
    parts = {split: {"images": [], "annotations": [],
                     "categories": [{"id": k, "name": COCO_CLASSES[k]} for k in AS_COCO[1:]]}
             for split in ("train", "val")}
    for index, (_, image_hwc, label_hw, found) in enumerate(drawn(train + val, size), 1):
        split = "train" if index <= train else "val"
        name = f"COCO_{split}2014_{index:012d}"
        (root / f"{split}2014").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image_hwc).save(root / f"{split}2014" / f"{name}.jpg", quality=95)
        label_map.write(root / "masks" / f"{name}.png", renamed(label_hw, AS_COCO))
        parts[split]["images"].append({"id": index, "file_name": f"{name}.jpg"})
        parts[split]["annotations"] += [
            {"id": 100 * index + int(k), "image_id": index, "category_id": AS_COCO[k],
             "iscrowd": 0} for k in found]
        known[name] = [COCO_CLASSES[AS_COCO[k]] for k in found]
    (root / "annotations").mkdir()
    for split, part in parts.items():
        (root / f"annotations/instances_{split}2014.json").write_text(json.dumps(part))
    return known


def own(root: pathlib.Path, train: int, size: int = 60) -> list[str]:
    """The ids; root: filled as a folder of photos and tags, without any mask or list."""
    rows, ids = ["id,tags"], []
    (root / "images").mkdir(parents=True)
    for name, image_hwc, _, found in drawn(train, size):
        Image.fromarray(image_hwc).save(root / "images" / f"{name}.jpg", quality=95)
        rows.append(f"{name},{';'.join(SHAPES_CLASSES[k] for k in found)}")
        ids.append(name)
    write_lines(root / "tags.csv", rows)
    write_lines(root / "classes.txt", SHAPES_CLASSES[1:])
    return ids
