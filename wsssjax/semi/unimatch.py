"""UniMatch (V1): two strong views of the image, and a third stream perturbed in its features.

Yang et al., Revisiting Weak-to-Strong Consistency in Semi-Supervised Semantic Segmentation
(arXiv 2208.09910). Where this frame differs from the reference, whose network has batch norm:

* config.teacher says whose labels are learned: "self", the student's own of the same step, as
  published, or "ema", the mean teacher's, as the later "V1 on DINOv2" rows of UniMatch V2 report.
  Networks here have no batch statistics, so training and evaluation mode are one.
* CutMix takes its partner from the mirrored row of the batch. The reference passes over the
  unlabelled list a second time, which by accident yields the same photo (UniMatch#51); its author
  found no difference to a shuffled batch (UniMatch#34).
* A feature-perturbed copy of the labelled images, which the reference computes and discards, is
  left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from wsssjax.core.method import Method
from wsssjax.core.state import TrainState
from wsssjax.semi import consistency, student

TEACHERS = ("self", "ema")


def build(config: Any) -> Method:
    """The method for the train loop."""
    if config.teacher not in TEACHERS:
        raise ValueError(f"config.teacher is {config.teacher!r}; want {' or '.join(TEACHERS)}")
    return student.method(config, train_step, unlabelled=True)


def draw_drop(key: jax.Array, rows: int, widths: Sequence[int]) -> tuple[jax.Array, ...]:
    """Factors [rows, d] per feature map: a channel is 0 or doubled, each with probability 1/2."""
    keys = jax.random.split(key, len(widths))
    return tuple(2.0 * jax.random.bernoulli(k, 0.5, (rows, d))
                 for k, d in zip(keys, widths, strict=True))


def train_step(
    state: TrainState,
    batch: dict,
    key: jax.Array,
    *,
    config: Any,
    model: Any,
    draw: Callable = draw_drop,
) -> tuple[TrainState, dict]:
    """(state, metrics) after one iteration on one device.

    batch: as UniMatch V2's.  draw: replaces the dropout draws, for parity tests.
    loss = (loss_x + loss_s1 / 4 + loss_s2 / 4 + loss_fp / 2) / 2. loss_fp is that of the weak image
    with half of its feature channels dropped, against the un-mixed labels; divisors are of one
    group's rows; then groups' and devices' gradients are averaged.
    """
    def gradient(part, rows, key):
        count = rows["image"].shape[0]
        mixed = {f"strong{v}": consistency.cut_mix(rows[f"strong{v}"], rows[f"cut{v}"])
                 for v in (1, 2)}
        forwards = consistency.Forwards(config, model, state, image=rows["image"],
                                        weak=rows["weak"], **mixed)
        own = config.teacher == "self"
        logits_w = forwards.student(part, "weak") if own else forwards.teacher("weak")
        found, sure = consistency.targets(config, logits_w, rows["valid"], rows.get("tags"))
        names = ("image", *mixed, "weak")
        drop = tuple(jnp.concatenate([jnp.ones((3 * count, m.shape[1]), m.dtype), m])
                     for m in draw(key, count, model.tap_widths))

        def loss_fn(part):
            logits_x, *logits_s, logits_fp = jnp.split(
                forwards.student(part, *names, drop=drop), len(names))
            loss_x = student.labelled_loss(config, logits_x, rows["label"])
            losses = [consistency.mixed_loss(z, found, rows[f"cut{v}"])
                      for v, z in enumerate(logits_s, 1)]
            loss_fp = consistency.unlabelled_loss(logits_fp, *found)
            loss_u = (losses[0] + losses[1]) / 4 + loss_fp / 2
            loss, metrics = consistency.halves(config, loss_x, loss_u)
            return loss, metrics | {"loss_fp": loss_fp}

        (_, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(part)
        return grads, metrics | {"mask_ratio": sure}

    params, opt, metrics = student.descend(config, state, batch, key, gradient)
    return consistency.update(config, state, params, opt), metrics
