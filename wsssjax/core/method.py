"""What the train loop knows of a method."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Method(NamedTuple):
    """init: (key) → TrainState, pretrained weights already in it.
    step: (state, batch, key) → (state, {name: float32 scalar}), written for one device.
    predict: (variables, image_bhwc) → logits; of a classifier (variables, image_bhwc, tags_bk) →
    class maps, since some look at the tags.
    loader: () → endless iterator over host batches with `get_state` and `set_state`.
    total_steps: how many steps a whole training has.
    validate: (state) → {"student": scores, "teacher": scores}, `core.metrics.scores` of each, or
    None where nothing is to be evaluated; eval_steps: steps between two of them."""

    init: Callable
    step: Callable
    predict: Callable
    loader: Callable
    total_steps: int
    validate: Callable | None = None
    eval_steps: int = 0
