"""Supervised training: the labelled stream of UniMatch V2 alone, without a teacher."""

from __future__ import annotations

import functools
from typing import Any

import jax

from wsssjax.core.method import Method
from wsssjax.core.state import TrainState
from wsssjax.semi import student, views


def build(config: Any) -> Method:
    """The method for the train loop."""
    student.check_criterion(config)
    model = student.build_model(config)
    return Method(
        init=functools.partial(student.init, config, model, teacher=False),
        step=functools.partial(train_step, config=config, model=model),
        predict=functools.partial(student.predict, model),
        loader=functools.partial(views.supervised_loader, config),
    )


def train_step(
    state: TrainState, batch: dict, key: jax.Array, *, config: Any, model: Any
) -> tuple[TrainState, dict]:
    """(state, metrics) after one iteration on one device; draws nothing.

    batch: image, label.  The loss is the mean cross-entropy over this device's labelled pixels (0
    where there is none); then the devices' gradients are averaged.
    """
    def loss_fn(part):
        variables = {**state.extra, "params": {**state.params, **part}}
        logits_bhwk, _ = model.apply(variables, batch["image"], train=True)
        loss = student.labelled_loss(logits_bhwk, batch["label"])
        return loss, {"loss": loss, "loss_x": loss}

    params, opt, metrics = student.descend(config, state, loss_fn)
    return state.replace(step=state.step + 1, params=params, opt=opt), metrics
