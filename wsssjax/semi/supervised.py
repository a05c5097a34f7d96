"""Supervised training: the labelled stream of UniMatch V2 alone, without a teacher."""

from __future__ import annotations

from typing import Any

import jax

from wsssjax.core.method import Method
from wsssjax.core.state import TrainState
from wsssjax.semi import student


def build(config: Any) -> Method:
    """The method for the train loop."""
    return student.method(config, train_step, unlabelled=False)


def train_step(
    state: TrainState, batch: dict, key: jax.Array, *, config: Any, model: Any
) -> tuple[TrainState, dict]:
    """(state, metrics) after one iteration on one device; draws nothing.

    batch: image, label.  The loss is the mean cross-entropy over the labelled pixels of one group
    of rows (0 where there is none); then groups' and devices' gradients are averaged.
    """
    def gradient(part, rows, key):
        def loss_fn(part):
            variables = {**state.extra, "params": {**state.params, **part}}
            logits_bhwk, _ = model.apply(variables, rows["image"], train=True)
            loss = student.labelled_loss(config, logits_bhwk, rows["label"])
            return loss, {"loss": loss, "loss_x": loss}

        (_, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(part)
        return grads, metrics

    params, opt, metrics = student.descend(config, state, batch, key, gradient)
    return state.replace(step=state.step + 1, params=params, opt=opt), metrics
