"""What PyTorch calls a layer's tensors, and how their axes lie there."""

from __future__ import annotations

import numpy as np

STATISTICS = {"running_mean": "mean", "running_var": "var"}
_LEAVES = {("weight", 1): "scale", ("weight", 2): "kernel", ("weight", 4): "kernel",
           ("bias", 1): "bias"} | {(old, 1): new for old, new in STATISTICS.items()}
_MOVED = {4: (2, 3, 1, 0), 2: (1, 0)}  # from output to input


def leaf(kind: str, ndim: int) -> str | None:
    """Our name of a layer's tensor by PyTorch's; None where there is no such tensor.

    >>> leaf("weight", 4), leaf("weight", 1), leaf("running_var", 1), leaf("bias", 2)
    ('kernel', 'scale', 'var', None)
    """
    return _LEAVES.get((kind, ndim))


def moved(value: np.ndarray) -> np.ndarray:
    """A tensor with its axes in our order: kernels read from input to output."""
    order = _MOVED.get(value.ndim)
    return np.ascontiguousarray(value.transpose(order) if order else value)
