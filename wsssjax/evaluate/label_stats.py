"""What a set of label maps is like: classes per image, images per class, quality per image."""

from __future__ import annotations

import numpy as np

from wsssjax.core.constants import BACKGROUND

# Bin edges of the histogram; the last bin is narrow since many labels agree to 99 % and more.
EDGES = tuple(round(0.05 * i, 2) for i in range(20)) + (0.99, 1.0)


def image_quality(confusion_kk: np.ndarray) -> float:
    """Mean IoU with the truth over the foreground classes in either map; 0 where there is none.

    confusion_kk: int64 [k, k + 1] of one image, see `core.metrics.confusion`.
    """
    hit = np.diag(confusion_kk)
    union = confusion_kk.sum(1) + confusion_kk.sum(0)[:len(hit)] - hit
    present = union[BACKGROUND + 1:] > 0
    if not present.any():
        return 0.0
    return float((hit[BACKGROUND + 1:][present] / union[BACKGROUND + 1:][present]).mean())


def stats(confusions_nkk: np.ndarray, class_names) -> dict:
    """Statistics of a set from its per-image confusion matrices, int64 [n, k, k + 1].

    {"single_class": share of labels with exactly one foreground class, "empty": share with none,
    "images_per_class": {name: labels that contain it}, "quality": mean per-image quality,
    "histogram": {"edges": m + 1 values, "counts": labels per bin of quality}}.
    Pixels where the truth is open are not looked at.
    """
    present_nk = confusions_nkk.sum(1)[:, BACKGROUND + 1:len(class_names)] > 0
    number_n = present_nk.sum(1)
    quality_n = np.array([image_quality(c) for c in confusions_nkk])
    counts, _ = np.histogram(quality_n, EDGES)
    per_class = present_nk.sum(0)
    names = class_names[BACKGROUND + 1:]
    return {
        "single_class": float((number_n == 1).mean()),
        "empty": float((number_n == 0).mean()),
        "images_per_class": {n: int(c) for n, c in zip(names, per_class, strict=True)},
        "quality": float(quality_n.mean()),
        "histogram": {"edges": list(EDGES), "counts": [int(c) for c in counts]},
    }
