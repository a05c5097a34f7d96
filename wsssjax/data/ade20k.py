"""ADE20K's annotations as label maps: the challenge counts classes from 1, with 0 = other."""

from __future__ import annotations

import os
import pathlib

import numpy as np

from wsssjax.core import files, threads
from wsssjax.core.constants import IGNORE
from wsssjax.data import label_map, sources

SPLITS = ("training", "validation")
OFFICIAL, SHIFTED = "annotations", "annotations_shifted"  # folders of ADEChallengeData2016


def shift_tree(root: str | os.PathLike, *, redo: bool = False) -> dict[str, dict[str, int]]:
    """{split: {"images", "already_there"}} of all `<root>/annotations_shifted/<split>/*.png`.

    They are made from `<root>/annotations/<split>/*.png`; those that are there are kept, unless
    `redo`. A split without a folder is left out.
    """
    root = pathlib.Path(root)
    found = [split for split in SPLITS if (root / OFFICIAL / split).is_dir()]
    if not found:
        raise FileNotFoundError(f"{root / OFFICIAL}: no folder {' or '.join(SPLITS)}; --root must "
                                "be the folder ADEChallengeData2016")
    return {split: _shift_folder(root / OFFICIAL / split, root / SHIFTED / split, redo)
            for split in found}


def shift(official_hw: np.ndarray, name: str | os.PathLike) -> np.ndarray:
    """Label map uint8 [h,w] of an official annotation: 0 → 255 (ignore), k → k - 1."""
    wrong_hw = official_hw > label_map.ADE20K_COUNT
    if wrong_hw.any():
        row, column = np.argwhere(wrong_hw)[0]
        raise ValueError(
            f"{name}: value {official_hw[row, column]} at row {row}, column {column}; official "
            f"ADE20K annotations hold 0..{label_map.ADE20K_COUNT} (is it shifted already?)"
        )
    return np.where(official_hw == 0, IGNORE, official_hw - 1).astype(np.uint8)


def _shift_folder(source: pathlib.Path, target: pathlib.Path, redo: bool) -> dict[str, int]:
    names = [f"{name}.png" for name in label_map.folder_ids(source)]
    target.mkdir(parents=True, exist_ok=True)
    files.sweep(target)
    there = set() if redo else {path.name for path in target.iterdir()}
    todo = [name for name in names if name not in there]

    def one(name):
        path = source / name
        official_hw = label_map.read(path, sources.ANY_LABEL)  # `shift` knows which are right
        label_map.write(target / name, shift(official_hw, path))

    for _ in threads.each(one, todo, f"shifting {source.name}"):
        pass
    return {"images": len(names), "already_there": len(names) - len(todo)}
