"""How well saliency maps find what is not background."""

from __future__ import annotations

import os
import pathlib

import numpy as np

from wsssjax.core import threads
from wsssjax.core.constants import BACKGROUND, IGNORE
from wsssjax.data import label_map, photos

BETA2 = 0.3  # weight of recall in the F measure that the saliency literature uses


def folder_scores(saliency: str | os.PathLike, truth: str | os.PathLike, ids: list[str]) -> dict:
    """{"mae": mean absolute error, "max_f": best F measure over thresholds}, both 0..1.

    saliency: folder of 8-bit <id>.png or .jpg.  truth: folder of label maps; any class counts as
    salient, IGNORE pixels do not count. mae is the mean over images; the F measure (beta² = 0.3) is
    read off precision and recall of the pooled pixels.
    """
    by_id = {p.stem: p for p in sorted(pathlib.Path(saliency).iterdir())
             if p.suffix.lower() in (".png", ".jpg", ".jpeg")}

    def count(name):
        if name not in by_id:
            raise ValueError(f"{saliency}: holds no saliency map of {name!r}; make it")
        map_hw = photos.read_saliency(by_id[name])
        truth_hw = label_map.read(pathlib.Path(truth) / f"{name}.png", IGNORE, size=map_hw.shape)
        known = truth_hw != IGNORE
        value, salient = map_hw[known], truth_hw[known] != BACKGROUND
        error = np.abs(value / 255 - salient).mean() if value.size else 0.0
        return (error, np.bincount(value[salient], minlength=256),
                np.bincount(value[~salient], minlength=256))

    found = list(threads.each(count, ids))
    hit, false = (np.cumsum(sum(f[i] for f in found)[::-1])[::-1] for i in (1, 2))
    precision = hit / np.maximum(hit + false, 1)
    recall = hit / max(hit[0], 1)
    f = (1 + BETA2) * precision * recall / np.maximum(BETA2 * precision + recall, 1e-12)
    return {"mae": float(np.mean([f[0] for f in found])), "max_f": float(f.max())}
