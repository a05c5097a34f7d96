"""Scores of every pixel of whole photos of any size, in the two ways UniMatch V2 evaluates.

original: a photo is resized to the nearest multiple of the encoder's step on each side,
corner-aligned and without antialiasing; the logits are resized back to the photo's own size the
same way. Photos whose network inputs have one size share a batch, whatever their own sizes are, so
that a set of photos needs one compilation for each input size and no more.

sliding_window: the photo at its own size under overlapping windows; what comes out is the sum of
the windows' softmax (so pixels under several windows add up to more than 1, for each class alike).

A third way, multi_scale, is that of the papers before (semi/multi_scale.py).
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from wsssjax.core.config import choose
from wsssjax.data.canvas import normalise
from wsssjax.semi import multi_scale, pixels

resize_corners = functools.partial(pixels.resize, rule="corners")


def input_size(size_hw: tuple[int, int], multiple: int) -> tuple[int, int]:
    """(rows, columns) of the network's input: nearest multiples, halves up, at least one."""
    rows, columns = (max(int(side / multiple + 0.5), 1) * multiple for side in size_hw)
    return rows, columns


def photo_logits(
    photos: Iterable[tuple[str, np.ndarray]], forward: Callable, settings: Any, data: Any
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (id, logits_hwk float32 at the photo's size), in the order in which batches fill up.

    photos: (id, uint8 [h,w,3]).  forward: float32 [b,h,w,3] → logits [b,h,w,k], always called with
    settings.batch rows; for multi_scale see `multi_scale.photo_scores`.  settings: config.predict.
    data: config.data, for mean and std.
    ValueError for a photo that is smaller than a patch or a window.
    """
    mode = choose({"original": _original, "sliding_window": _sliding, "multi_scale": None},
                  settings.mode, "config.predict.mode")

    def checked():
        for name, image_hwc in photos:
            check_size(name, image_hwc.shape[:2], settings)
            yield name, image_hwc

    if settings.mode == "multi_scale":
        yield from multi_scale.photo_scores(checked(), forward, settings, data)
        return
    normalised = ((name, normalise(x, data.mean, data.std)) for name, x in checked())
    yield from mode(normalised, forward, settings)


def check_size(name: Any, size_hw: tuple[int, int], settings: Any) -> None:
    """ValueError for a photo that is smaller than what the network sees at once.

    settings: config.predict.
    """
    least, what = settings.multiple, "cell of the network"
    if settings.mode == "sliding_window":
        least, what = settings.window, "sliding window"
    h, w = size_hw
    if min(h, w) < least:
        raise ValueError(f"photo {name!r}: {h} x {w} pixels is smaller than one {what}, {least} "
                         "pixels; enlarge it or leave it out")


def _original(photos, forward, settings):
    waiting = defaultdict(list)
    for name, pixels_hwc in photos:
        size_hw = pixels_hwc.shape[:2]
        grid_hw = input_size(size_hw, settings.multiple)
        waiting[grid_hw].append((name, size_hw, resize_corners(pixels_hwc, grid_hw)))
        if len(waiting[grid_hw]) == settings.batch:
            yield from _run(waiting.pop(grid_hw), forward, settings.batch)
    for rows in waiting.values():
        yield from _run(rows, forward, settings.batch)


def _run(rows, forward, batch):
    """The logits of up to `batch` inputs of one size; copies of the last one fill the batch."""
    inputs = [pixels_hwc for _, _, pixels_hwc in rows]
    inputs += inputs[-1:] * (batch - len(inputs))
    logits_bhwk = np.asarray(forward(np.stack(inputs)), np.float32)
    for (name, size_hw, _), logits_hwk in zip(rows, logits_bhwk, strict=False):
        yield name, resize_corners(logits_hwk, size_hw)


def window_starts(side: int, window: int) -> list[int]:
    """Where windows begin along a side: every int(2/3 window), the last one moved in to fit."""
    stride, last = int(window * 2 / 3), side - window
    return [*range(0, last, stride), last]


def _sliding(photos, forward, settings):
    window = settings.window
    for name, pixels_hwc in photos:
        h, w = pixels_hwc.shape[:2]
        corners = [(top, left) for top in window_starts(h, window)
                   for left in window_starts(w, window)]
        total_hwk = None
        for first in range(0, len(corners), settings.batch):
            part = corners[first : first + settings.batch]
            inputs = [pixels_hwc[y : y + window, x : x + window] for y, x in part]
            inputs += inputs[-1:] * (settings.batch - len(inputs))
            scores_bhwk = np.asarray(jax.nn.softmax(forward(np.stack(inputs))), np.float32)
            if total_hwk is None:
                total_hwk = np.zeros((h, w, scores_bhwk.shape[-1]), np.float32)
            for (y, x), scores_hwk in zip(part, scores_bhwk, strict=False):
                total_hwk[y : y + window, x : x + window] += scores_hwk
        yield name, total_hwk
