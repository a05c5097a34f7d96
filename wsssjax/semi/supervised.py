"""Supervised training: labelled photos alone, without a teacher.

With config.loss_scales = (1.0,) and loss_size = "image" it is the labelled stream of UniMatch V2.
Other values are those of the classic segmenters: DeepLab v2 sees each crop at several scales, and
each scale's scores and their maximum have a loss of their own.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wsssjax.core.config import choose
from wsssjax.core.method import Method
from wsssjax.core.resize import resize_half_pixel
from wsssjax.core.state import TrainState
from wsssjax.semi import student

LOSS_SIZES = ("image", "features")


def build(config: Any) -> Method:
    """The method for the train loop."""
    choose(dict.fromkeys(LOSS_SIZES), config.loss_size, "config.loss_size")
    scales = config.loss_scales
    if not scales or min(scales) <= 0 or scales[0] != 1:
        raise ValueError(f"config.loss_scales is {tuple(scales)}; want factors above 0, 1.0 first")
    return student.method(config, train_step, unlabelled=False)


def train_step(
    state: TrainState, batch: dict, key: jax.Array, *, config: Any, model: Any
) -> tuple[TrainState, dict]:
    """(state, metrics) after one iteration on one device; draws dropout alone.

    batch: image, label.  The loss is the sum over outputs of the mean cross-entropy over the
    labelled pixels of one group of rows (0 where there is none); then groups' and devices'
    gradients are averaged. Outputs: the logits of each of config.loss_scales and, of several,
    their maximum at the size of the first.  config.loss_size: "image": logits are enlarged to the
    labels; "features": labels are shrunk to the logits (`shrunk`).
    Batch norms that learn by their rows see those of a group at one scale; how their running
    statistics move is told at `student.averaged`.
    """
    def gradient(part, rows, key):
        def loss_fn(part):
            found, statistics = outputs(config, model, state, part, rows["image"], key)
            losses = [student.labelled_loss(config, *_meet(config, z, rows["label"]))
                      for z in found]
            loss = sum(losses)
            return loss, ({"loss": loss, "loss_x": loss}, statistics)

        (_, (metrics, statistics)), grads = jax.value_and_grad(loss_fn, has_aux=True)(part)
        return grads, metrics, statistics

    grads, metrics, statistics = student.averaged(config, state, batch, key, gradient)
    params, opt, norms = student.update(config, state, grads)
    extra = {**state.extra, **statistics}
    return (state.replace(step=state.step + 1, params=params, opt=opt, extra=extra),
            metrics | norms)


def outputs(config: Any, model: Any, state: TrainState, part: dict, image_bhwc: jax.Array,
            key: jax.Array) -> tuple[list[jax.Array], dict]:
    """(logits of each output, the collections that the forward passes have moved)."""
    moved, found = {}, []
    for index, scale in enumerate(config.loss_scales):
        size = tuple(max(int(side * scale), 1) for side in image_bhwc.shape[1:3])
        variables = {**state.extra, **moved, "params": {**state.params, **part}}
        logits, moved = student.forward_train(
            model, variables, resize_half_pixel(image_bhwc, size), jax.random.fold_in(key, index),
            method="scores" if config.loss_size == "features" else None)
        found.append(logits if config.loss_size == "features" else logits[0])
    if len(found) > 1:
        first = found[0].shape[1:3]
        found.append(functools.reduce(jnp.maximum, (resize_half_pixel(z, first) for z in found)))
    return found, moved


def _meet(config: Any, logits_bpqk: jax.Array, label_bhw: jax.Array):
    """(logits, labels) of one size."""
    if config.loss_size == "features":
        return logits_bpqk, shrunk(label_bhw, logits_bpqk.shape[1:3])
    return resize_half_pixel(logits_bpqk, label_bhw.shape[1:3]), label_bhw


def shrunk(label_bhw: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Labels at `size` as Pillow's nearest picks them: pixel floor((d + 1/2) n / m).

    Pillow adds n / m again and again, whose rounding decides where that is a whole number.

    >>> shrunk(jnp.arange(8).reshape(1, 1, 8), (1, 3)).tolist()
    [[[1, 4, 6]]]
    """
    for axis, m in enumerate(size, 1):
        n = label_bhw.shape[axis]
        if n != m:
            place = np.cumsum(np.concatenate([[n / m * 0.5], np.full(m - 1, n / m)]))
            label_bhw = jnp.take(label_bhw, place.astype(int), axis=axis)
    return label_bhw
