"""UniMatch V2: a mean teacher labels weak views, the student learns them from two strong views.

Yang, Zhao and Zhao, UniMatch V2: Pushing the Limit of Semi-Supervised Semantic Segmentation
(arXiv 2410.10777). What differs from the reference implementation:

* Labelled and strong images share one forward of the student; with a frozen encoder all four kinds
  of image share one forward of the encoder. Both are exact, as no layer looks across the batch.
* A batch without any labelled (or any unpadded) pixel gives loss 0 instead of NaN.
* With config.data.tags, the teacher chooses for each photo among the background and its tags
  (`consistency.tagged`); "" is the published method, which knows no tags.
* An encoder whose four feature maps differ in width gets one mask per map, drawn independently;
  which pairs stay whole is drawn once for all maps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wsssjax.core.method import Method
from wsssjax.core.state import TrainState
from wsssjax.semi import consistency, student


def build(config: Any) -> Method:
    """The method for the train loop; what a step does is told at `train_step`."""
    return student.method(config, train_step, unlabelled=True)


def draw_drop(key: jax.Array, rows: int, widths: Sequence[int]) -> tuple[tuple, jax.Array]:
    """(kept_bd per feature map, whole_b): the random part of complementary dropout.

    kept_bd: bool [rows, width], channels that view 1 keeps and view 2 loses; the same array for all
    maps when they are equally wide.  whole_b: bool [rows], true for int(rows / 2) pairs that are
    not dropped at all.
    """
    kept_key, order_key = jax.random.split(key)
    own = list(widths) if len(set(widths)) > 1 else list(widths)[:1]
    # One draw for all maps: each call of the generator costs a CPU a third of a second to compile.
    kept_bd = jax.random.bernoulli(kept_key, 0.5, (rows, sum(own)))
    kept = tuple(jnp.split(kept_bd, np.cumsum(own)[:-1], axis=1)) * (len(widths) // len(own))
    order_b = jnp.argsort(jax.random.uniform(order_key, (rows,)))
    return kept, order_b < rows // 2


def drop_masks(kept: Sequence[jax.Array], whole_b: jax.Array) -> tuple[jax.Array, ...]:
    """Factors [2b, d] per feature map: rows of view 1, then of view 2.

    In a dropped pair a channel is doubled in one view and zero in the other; a whole pair has ones.
    """
    def both(kept_bd):
        first_bd = jnp.where(whole_b[:, None], 1.0, 2.0 * kept_bd)
        return jnp.concatenate([first_bd, 2.0 - first_bd])

    return tuple(both(kept_bd) for kept_bd in kept)


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

    batch: `image` and `label` of the labelled stream, all other keys of the unlabelled one: weak,
    strong1, strong2, valid, cut1, cut2 and, where config.data.tags names a file, tags.
    draw: replaces the dropout draws, for parity tests.
    loss = (loss_x + unlabelled_weight · loss_u) / 2. loss_x is the mean over labelled pixels,
    loss_u the mean of the two views' `unlabelled_loss`. Divisors, CutMix partners and dropped
    pairs are of one group's rows; then groups' and devices' gradients are averaged, as published.
    """
    def gradient(part, rows, key):
        rows_x, rows_u = rows["image"].shape[0], rows["weak"].shape[0]
        mixed = {f"strong{v}": consistency.cut_mix(rows[f"strong{v}"], rows[f"cut{v}"])
                 for v in (1, 2)}
        forwards = consistency.Forwards(config, model, state, image=rows["image"],
                                        weak=rows["weak"], **mixed)
        found, sure = consistency.targets(config, forwards.teacher("weak"), rows["valid"],
                                          rows.get("tags"))
        # Labelled images ride along undropped: a factor of one changes nothing.
        drop = tuple(jnp.concatenate([jnp.ones((rows_x, m.shape[1]), m.dtype), m])
                     for m in drop_masks(*draw(key, rows_u, model.tap_widths)))

        def loss_fn(part):
            logits = forwards.student(part, "image", *mixed, drop=drop)
            return consistency.both_losses(config, logits, rows, found)

        (_, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(part)
        return grads, metrics | {"mask_ratio": sure}

    params, opt, metrics = student.descend(config, state, batch, key, gradient)
    return consistency.update(config, state, params, opt), metrics
