"""How many images of each class are wanted: presets, JSON, or counted from a labelled list."""

from __future__ import annotations

import json
import pathlib

import numpy as np

from wsssjax.core import files, threads
from wsssjax.core.config import choose, near
from wsssjax.core.constants import BACKGROUND
from wsssjax.data import label_map
from wsssjax.data.classes import VOC_CLASSES
from wsssjax.select.iou import class_areas

# Images that contain each class (aeroplane … tvmonitor) in the usual splits of VOC 2012 train.
PRESETS = {
    "voc/92": (5, 4, 2, 6, 7, 5, 9, 5, 10, 4, 7, 15, 4, 10, 32, 8, 5, 5, 2, 2),
    "voc/183": (7, 15, 14, 6, 14, 15, 13, 23, 17, 6, 7, 17, 11, 11, 52, 10, 8, 10, 8, 9),
    "voc/366": (17, 13, 26, 19, 23, 21, 28, 39, 34, 15, 26, 26, 16, 23, 117, 19, 12, 18, 22, 26),
    "voc/732": (46, 32, 64, 40, 39, 42, 68, 63, 72, 31, 39, 66, 35, 29, 235, 34, 30, 50, 38, 43),
    "voc/1464": (88, 65, 105, 78, 87, 78, 128, 131, 148, 64, 82, 121, 68, 81, 442, 82, 63, 93,
                 83, 83),
}
WANT = "want none, voc/92 … voc/1464, a JSON file {class: count}, or LIST:LABEL_FOLDER"


def read_quota(spec: str, class_names: tuple[str, ...]) -> np.ndarray | None:
    """Wanted images per foreground class, int64 [k]; None for "none".

    spec: "none"; a preset such as "voc/92"; a JSON file or JSON text {class: count}, where a class
    that is left out counts 0; or "LIST:FOLDER", a list of ids (or of the lines of a labeled.txt)
    and the folder of their label maps, whose class counts become the quota.
    class_names: background first.
    """
    spec = str(spec)
    if spec == "none":
        return None
    if spec in PRESETS:
        return _by_name(dict(zip(VOC_CLASSES[1:], PRESETS[spec], strict=True)), class_names,
                        f"--quota={spec}")
    if spec.startswith("{"):
        try:
            return _by_name(json.loads(spec), class_names, "--quota")
        except json.JSONDecodeError as error:
            raise ValueError(f"--quota={spec}: not valid JSON ({error})") from None
    if spec.endswith(".json"):
        return _by_name(files.read_json(spec), class_names, spec)
    ids, colon, folder = spec.rpartition(":")
    if colon:
        return count_classes(folder, read_list(ids), class_names)
    if spec.startswith("voc/"):
        choose(PRESETS, spec, "--quota")
    raise ValueError(f"--quota={spec}: {WANT}")


def _by_name(table, class_names, source: str) -> np.ndarray:
    if not isinstance(table, dict):
        raise ValueError(f"{source}: want a JSON object {{class: count}}, "
                         f"found {type(table).__name__}")
    foreground = list(class_names[BACKGROUND + 1:])
    need_k = np.zeros(len(foreground), np.int64)
    for name, count in table.items():
        if name not in foreground:
            raise ValueError(f"{source}: the class {name!r} is unknown{near(name, foreground)}")
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count < 2**31:
            raise ValueError(f"{source}: {name} has the count {count!r}; "
                             "want a whole number, 0 or more")
        need_k[foreground.index(name)] = count
    return need_k


def read_list(path: str) -> list[str]:
    """The ids of a list of ids, or of lines `<image path> <label path>`."""
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a text file; want one image id a line") from None
    if "/" not in text and " " not in text.strip():
        return files.read_ids(path)
    ids = [pathlib.Path(line.split()[-1]).stem for line in text.splitlines() if line.strip()]
    if len(set(ids)) < len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise ValueError(f"{path}: the id {twice!r} stands twice; keep one of them")
    return ids


def count_classes(folder: str, ids: list[str], class_names: tuple[str, ...]) -> np.ndarray:
    """Images of `ids` that contain each foreground class in `folder`, int64 [k]."""
    def present(name):
        label_hw = label_map.read(pathlib.Path(folder) / f"{name}.png", len(class_names))
        return class_areas(label_hw, len(class_names))[BACKGROUND + 1:] > 0

    return np.sum(list(threads.each(present, ids)), axis=0, dtype=np.int64)
