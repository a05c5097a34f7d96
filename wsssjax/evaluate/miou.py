"""mIoU of a folder of label maps against the truth, from one confusion matrix over the set.

Beside it stand, per class, precision = hits / painted pixels and recall = hits / true pixels, and
the accuracy over all pixels, as EPS's script prints them; only pixels with a known truth count.
EPS's script also drops pixels whose *label* is no class; here a pixel labelled 255 is a miss.
"""

from __future__ import annotations

import os
import pathlib

import numpy as np

from wsssjax.core import metrics, threads
from wsssjax.data import label_map


def scored_ids(labels: str | os.PathLike, truth: str | os.PathLike,
               ids: list[str] | None = None) -> list[str]:
    """The ids to score: those given, else all label maps of `labels`; each must have a truth."""
    names = label_map.folder_ids(labels) if ids is None else ids
    for folder in (labels, truth):
        there = set(label_map.folder_ids(folder))
        missing = [name for name in names if name not in there]
        if missing:
            raise ValueError(f"{folder}: holds no label map of {missing[0]!r} ({len(missing)} of "
                             f"{len(names)} ids missing); make them, or pass --ids=LIST")
    return names


def read_pair(labels: str | os.PathLike, truth: str | os.PathLike, name: str, num_classes: int):
    """(label, truth) of one id, both uint8 [h, w]; an error where their sizes differ."""
    truth_hw = label_map.read(pathlib.Path(truth) / f"{name}.png", num_classes)
    label_hw = label_map.read(pathlib.Path(labels) / f"{name}.png", num_classes,
                              size=truth_hw.shape)
    return label_hw, truth_hw


def folder_confusions(labels: str | os.PathLike, truth: str | os.PathLike, ids: list[str],
                      num_classes: int, label: str = "") -> np.ndarray:
    """One confusion matrix per image, int64 [n, k, k + 1], as `core.metrics.confusion` counts.

    label: what the progress line says; "" shows none.
    """
    def count(name):
        return metrics.confusion(*read_pair(labels, truth, name, num_classes), num_classes)

    return np.stack(list(threads.each(count, ids, label)))
