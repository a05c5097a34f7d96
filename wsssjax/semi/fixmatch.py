"""FixMatch: a mean teacher labels weak views, the student learns them from one strong view.

Sohn et al. (arXiv 2001.07685), as the baseline of UniMatch V2 (its section 4.2 and `fixmatch.py`):
the step of UniMatch V2 with the first strong view only and without feature dropout.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from wsssjax.core.method import Method
from wsssjax.core.state import TrainState
from wsssjax.semi import consistency, student


def build(config: Any) -> Method:
    """The method for the train loop."""
    return student.method(config, train_step, unlabelled=True)


def train_step(
    state: TrainState, batch: dict, key: jax.Array, *, config: Any, model: Any
) -> tuple[TrainState, dict]:
    """(state, metrics) after one iteration on one device; draws nothing.

    batch: `image` and `label` of the labelled stream; weak, strong1, valid and cut1 of the other.
    loss = (loss_x + unlabelled_weight · loss_u) / 2; divisors, CutMix partners as in UniMatch V2.
    """
    def gradient(part, rows, key):
        strong = consistency.cut_mix(rows["strong1"], rows["cut1"])
        forwards = consistency.Forwards(config, model, state, image=rows["image"],
                                        weak=rows["weak"], strong=strong)
        found, sure = consistency.targets(config, forwards.teacher("weak"), rows["valid"],
                                          rows.get("tags"))

        def loss_fn(part):
            logits = forwards.student(part, "image", "strong")
            logits_x, logits_s = jnp.split(logits, [rows["image"].shape[0]])
            loss_x = student.labelled_loss(config, logits_x, rows["label"])
            loss_u = consistency.mixed_loss(logits_s, found, rows["cut1"])
            return consistency.halves(config, loss_x, loss_u)

        (_, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(part)
        return grads, metrics | {"mask_ratio": sure}

    params, opt, metrics = student.descend(config, state, batch, key, gradient)
    return consistency.update(config, state, params, opt), metrics
