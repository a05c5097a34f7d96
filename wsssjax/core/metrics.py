"""Confusion matrices and what is read off them."""

from __future__ import annotations

import numpy as np

from wsssjax.core.config import choose
from wsssjax.core.constants import IGNORE


def confusion(prediction_hw, truth_hw, num_classes: int) -> np.ndarray:
    """int64 [K, K+1] pixel counts, rows truth, columns prediction; one matrix sums over a set.

    Pixels whose truth is IGNORE do not count. The last column holds pixels predicted IGNORE: they
    are misses of their true class and hits of none, so leaving pixels out never raises a score.
    """
    prediction_hw, truth_hw = np.asarray(prediction_hw), np.asarray(truth_hw)
    if prediction_hw.shape != truth_hw.shape:
        raise ValueError(f"prediction is {prediction_hw.shape}, truth {truth_hw.shape} pixels; "
                         "want the same size")
    keep = truth_hw != IGNORE
    truth = truth_hw[keep].astype(np.int64)
    prediction = prediction_hw[keep].astype(np.int64)
    prediction[prediction == IGNORE] = num_classes
    for name, values, limit in (("truth", truth, num_classes), 
                                ("prediction", prediction, num_classes + 1)):
        if values.size and values.max() >= limit:
            raise ValueError(f"{name} holds the class {values.max()}; want 0..{num_classes - 1}")
    flat = np.bincount(truth * (num_classes + 1) + prediction,
                       minlength=num_classes * (num_classes + 1))
    return flat.reshape(num_classes, num_classes + 1)


def ranks(x_n) -> np.ndarray:
    """Rank of each number, 1 for the lowest, ties sharing their mean rank; float64 [n]."""
    _, place, counts = np.unique(x_n, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def scores(confusion_kk: np.ndarray, class_names, absent: str = "skip") -> dict:
    """{"miou", "fp", "fn", "iou": {name: 0..1}, "absent", "accuracy", "precision", "recall"}.

    fp, fn: false activation and partial activation: wrongly painted and missed pixels of a class
    over the union, averaged as the IoU is, so that miou + fp + fn = 1 (as BAO and MARS report
    them; SEAM's paper divides by the hits). Absent classes are left out, whatever `absent` says.
    A class in neither truth nor prediction is left out of the mean and named (`absent="skip"`) or
    counted as 0, which is UniMatch's reading (`absent="zero"`).
    """
    choose({"skip": 0, "zero": 0}, absent, "absent")
    k = len(class_names)
    counts = np.asarray(confusion_kk, np.int64)
    assert counts.shape == (k, k + 1), (counts.shape, k)
    hit, true, said = np.diag(counts), counts.sum(1), counts.sum(0)[:k]
    union = true + said - hit
    missing = [name for name, u in zip(class_names, union, strict=True) if not u]
    iou = {n: float(h / u) for n, h, u in zip(class_names, hit, union, strict=True) if u}
    if absent == "zero":
        iou |= dict.fromkeys(missing, 0.0)
    seen = union > 0

    def rate(wrong):
        return float(np.mean(wrong[seen] / union[seen])) if seen.any() else 0.0

    return {
        "miou": float(np.mean([iou[n] for n in class_names if n in iou])) if iou else 0.0,
        "fp": rate(said - hit),
        "fn": rate(true - hit),
        "iou": iou,
        "absent": missing,
        "accuracy": float(hit.sum() / max(true.sum(), 1)),
        "precision": {n: float(h / s) for n, h, s in zip(class_names, hit, said, strict=True) if s},
        "recall": {n: float(h / t) for n, h, t in zip(class_names, hit, true, strict=True) if t},
    }
