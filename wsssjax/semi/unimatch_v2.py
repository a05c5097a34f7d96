"""UniMatch V2: a mean teacher labels weak views, the student learns them from two strong views.

Yang, Zhao and Zhao, UniMatch V2: Pushing the Limit of Semi-Supervised Semantic Segmentation
(arXiv 2410.10777). What differs from the reference implementation:

* Labelled and strong images share one forward of the student; with a frozen encoder all four kinds
  of image share one forward of the encoder. Both are exact, as no layer looks across the batch.
* A batch without any labelled (or any unpadded) pixel gives loss 0 instead of NaN.
* An encoder whose four feature maps differ in width gets one mask per map, drawn independently;
  which pairs stay whole is drawn once for all maps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wsssjax.core.losses import masked_xent
from wsssjax.core.method import Method
from wsssjax.core.state import TrainState
from wsssjax.semi import student, views


def build(config: Any) -> Method:
    """The method for the train loop; what a step does is told at `train_step`."""
    student.check_criterion(config)
    if config.device_batch < 2:
        raise ValueError(f"config.device_batch is {config.device_batch}; want at least 2, since "
                         "CutMix takes its partners from the same device's batch")
    model = student.build_model(config)
    return Method(
        init=functools.partial(student.init, config, model, teacher=True),
        step=functools.partial(train_step, config=config, model=model),
        predict=functools.partial(student.predict, model),
        loader=functools.partial(views.semi_loader, config),
    )


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


def cut_mix(x: jax.Array, box_bhw: jax.Array) -> jax.Array:
    """x [b,h,w,...], each box filled from the mirrored row of the batch (i from b - 1 - i)."""
    return jnp.where(box_bhw.reshape(box_bhw.shape + (1,) * (x.ndim - 3)), x[::-1], x)


def pseudo_labels(logits_bhwk: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(label_bhw int32, conf_bhw float32): the teacher's class and its softmax probability."""
    logits_bhwk = logits_bhwk.astype(jnp.promote_types(logits_bhwk.dtype, jnp.float32))
    top_bhw1 = logits_bhwk.max(axis=-1, keepdims=True)
    conf_bhw = 1.0 / jnp.exp(logits_bhwk - top_bhw1).sum(axis=-1)
    return jnp.argmax(logits_bhwk, axis=-1).astype(jnp.int32), conf_bhw


def unlabelled_loss(
    logits_bhwk: jax.Array, label_bhw: jax.Array, sure_bhw: jax.Array, valid_bhw: jax.Array
) -> jax.Array:
    """Cross-entropy summed over sure pixels, divided by all valid ones, sure or not."""
    total, _ = masked_xent(logits_bhwk, label_bhw, sure_bhw & valid_bhw)
    return student.mean_or_zero(total, valid_bhw.sum())


def follow(ema: Any, params: Any, step: jax.Array, limit: float) -> Any:
    """The teacher after iteration `step` (0-based): decay min(1 - 1/(step + 1), limit), float32.

    The first iteration makes it a copy of the student; until the limit is reached it is the mean of
    all students so far.
    """
    decay = jnp.minimum(1.0 - 1.0 / (step.astype(jnp.float32) + 1.0), limit)
    return jax.tree.map(lambda t, s: decay * t + (1.0 - decay) * s, ema, params)


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

    batch: `image` and `label` of the labelled stream, all other keys of the unlabelled one.
    draw: replaces the dropout draws, for parity tests.
    loss = (loss_x + unlabelled_weight · loss_u) / 2. loss_x is the mean over labelled pixels,
    loss_u the mean of the two views' `unlabelled_loss`. Divisors, CutMix partners and dropped
    pairs are of this device's rows; then the devices' gradients are averaged, as published.
    """
    rows_x, rows = batch["image"].shape[0], batch["weak"].shape[0]
    mixed = [cut_mix(batch[f"strong{v}"], batch[f"cut{v}"]) for v in (1, 2)]
    # Labelled images ride along undropped: a factor of one changes nothing.
    drop = tuple(
        jnp.concatenate([jnp.ones((rows_x, m.shape[1]), m.dtype), m])
        for m in drop_masks(*draw(key, rows, model.tap_widths))
    )
    images_bhwc = jnp.concatenate([batch["image"], *mixed])
    logits_w, learn = _forwards(config, model, state, images_bhwc, batch["weak"], drop)

    label_bhw, conf_bhw = pseudo_labels(jax.lax.stop_gradient(logits_w))
    sure_bhw, valid_bhw = conf_bhw >= config.conf_threshold, batch["valid"]

    def loss_fn(part):
        logits_x, *logits = jnp.split(learn(part), [rows_x, rows_x + rows])
        loss_x = student.labelled_loss(logits_x, batch["label"])
        losses = []
        for z_bhwk, cut in zip(logits, (batch["cut1"], batch["cut2"]), strict=True):
            targets = (cut_mix(t, cut) for t in (label_bhw, sure_bhw, valid_bhw))
            losses.append(unlabelled_loss(z_bhwk, *targets))
        loss_u = (losses[0] + losses[1]) / 2
        loss = (loss_x + config.unlabelled_weight * loss_u) / 2
        return loss, {"loss": loss, "loss_x": loss_x, "loss_u": loss_u}

    params, opt, metrics = student.descend(config, state, loss_fn)
    metrics["mask_ratio"] = student.mean_or_zero((sure_bhw & valid_bhw).sum(), valid_bhw.sum())
    # A frozen encoder is the same in teacher and student; averaging would only add rounding.
    learned = student.trainable(config, params)
    followed = follow({n: state.ema[n] for n in learned}, learned, state.step, config.ema_limit)
    ema = {**state.ema, **followed}
    return state.replace(step=state.step + 1, params=params, ema=ema, opt=opt), metrics


def _forwards(config, model, state, images_bhwc, weak_bhwc, drop):
    """(logits_w, learn): the teacher's logits of the weak images, and how the student gets its own.

    learn: trainable part of the params → the student's logits of `images_bhwc`.
    """
    size_hw = weak_bhwc.shape[1:3]

    def encode(params, image_bhwc):
        return model.apply({**state.extra, "params": params}, image_bhwc, method="encode")

    def decode(params, taps, drop=None):
        return model.apply({**state.extra, "params": params}, taps, size_hw, drop, method="decode")

    if not config.model.freeze_encoder:
        logits_w = decode(state.ema, encode(state.ema, weak_bhwc))
        return logits_w, lambda part: decode(part, encode(part, images_bhwc), drop)
    # Teacher and student share the encoder: one forward without gradient, all images at once.
    taps = encode(state.params, jnp.concatenate([images_bhwc, weak_bhwc]))
    rows = images_bhwc.shape[0]
    taps_s, taps_w = [t[:rows] for t in taps], [t[rows:] for t in taps]
    return decode(state.ema, taps_w), lambda part: decode({**state.params, **part}, taps_s, drop)
