"""Photos and scores on the host: they have many sizes, and on a device each would be compiled."""

from __future__ import annotations

import numpy as np

from wsssjax.core.resize import bilinear_taps


def resize(x_hwc: np.ndarray, size_hw: tuple[int, int], rule: str) -> np.ndarray:
    """float32 [h,w,c] → float32 at `size_hw`, bilinear; rule: "corners" or "half_pixel", as
    core.resize has them."""
    for axis, length in enumerate(size_hw):
        if x_hwc.shape[axis] == length:
            continue
        lower, upper, weight = bilinear_taps(x_hwc.shape[axis], length, rule)
        low = x_hwc.take(lower, axis)
        high = x_hwc.take(upper, axis)
        high -= low
        high *= weight.astype(np.float32).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        x_hwc = low + high
    return x_hwc


def softmax(logits_hwk: np.ndarray) -> np.ndarray:
    """float32 softmax over the last axis."""
    scores_hwk = logits_hwk - logits_hwk.max(-1, keepdims=True)
    np.exp(scores_hwk, out=scores_hwk)
    scores_hwk /= scores_hwk.sum(-1, keepdims=True)
    return scores_hwk
