"""What FixMatch, UniMatch and UniMatch V2 share: CutMix, pseudo-labels, their loss, the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from wsssjax.core.losses import masked_xent
from wsssjax.core.state import TrainState
from wsssjax.semi import student


def cut_mix(x: jax.Array, box_bhw: jax.Array) -> jax.Array:
    """x [b,h,w,...], each box filled from the mirrored row of the batch (i from b - 1 - i)."""
    return jnp.where(box_bhw.reshape(box_bhw.shape + (1,) * (x.ndim - 3)), x[::-1], x)


def pseudo_labels(logits_bhwk: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(label_bhw int32, conf_bhw float32): the teacher's class and its softmax probability."""
    logits_bhwk = logits_bhwk.astype(jnp.promote_types(logits_bhwk.dtype, jnp.float32))
    top_bhw1 = logits_bhwk.max(axis=-1, keepdims=True)
    conf_bhw = 1.0 / jnp.exp(logits_bhwk - top_bhw1).sum(axis=-1)
    return jnp.argmax(logits_bhwk, axis=-1).astype(jnp.int32), conf_bhw


def targets(config: Any, logits_w: jax.Array, valid_bhw: jax.Array,
            tags_bk: jax.Array | None = None) -> tuple[tuple, jax.Array]:
    """((label, sure, valid), share of valid pixels that are sure) from the weak images' logits.

    sure: bool, where the probability reaches config.conf_threshold, inclusive. No gradient.
    tags_bk: 1 for each foreground class that the photo holds; then the teacher chooses among these
    and the background, and its probabilities are over them alone. None: among all, as published.
    """
    if tags_bk is not None:
        logits_w = tagged(logits_w, tags_bk)
    label_bhw, conf_bhw = pseudo_labels(jax.lax.stop_gradient(logits_w))
    sure_bhw = conf_bhw >= config.conf_threshold
    share = student.mean_or_zero((sure_bhw & valid_bhw).sum(), valid_bhw.sum())
    return (label_bhw, sure_bhw, valid_bhw), share


def tagged(logits_bhwk: jax.Array, tags_bk: jax.Array) -> jax.Array:
    """The logits, minus infinity for classes that the photo does not hold. Class 0 is background,
    which every photo may hold; tags_bk is of the others."""
    held_bk = jnp.pad(tags_bk > 0, ((0, 0), (1, 0)), constant_values=True)
    return jnp.where(held_bk[:, None, None, :], logits_bhwk, -jnp.inf)


def unlabelled_loss(
    logits_bhwk: jax.Array, label_bhw: jax.Array, sure_bhw: jax.Array, valid_bhw: jax.Array
) -> jax.Array:
    """Cross-entropy summed over sure pixels, divided by all valid ones, sure or not."""
    total, _ = masked_xent(logits_bhwk, label_bhw, sure_bhw & valid_bhw)
    return student.mean_or_zero(total, valid_bhw.sum())


def mixed_loss(logits_bhwk: jax.Array, found: Sequence[jax.Array], box_bhw: jax.Array) -> jax.Array:
    """The unlabelled loss of a view with CutMix, whose targets are mixed as its pixels were.

    found: label, sure and valid of the un-mixed images.
    """
    return unlabelled_loss(logits_bhwk, *(cut_mix(t, box_bhw) for t in found))


def both_losses(config: Any, logits: jax.Array, rows: dict, found: Sequence) -> tuple:
    """`halves` of the labelled loss and of the mean of the two views' unlabelled losses.

    logits: of the labelled rows, of view 1 and of view 2, one behind the other.  rows: label, cut1
    and cut2.  found: what `targets` gives.
    """
    rows_x, rows_u = len(rows["label"]), len(rows["cut1"])
    logits_x, *logits_s = jnp.split(logits, [rows_x, rows_x + rows_u])
    loss_x = student.labelled_loss(config, logits_x, rows["label"])
    losses = [mixed_loss(z, found, rows[f"cut{v}"]) for v, z in enumerate(logits_s, 1)]
    return halves(config, loss_x, (losses[0] + losses[1]) / 2)


def halves(config: Any, loss_x: jax.Array, loss_u: jax.Array) -> tuple[jax.Array, dict]:
    """(loss_x + config.unlabelled_weight · loss_u) / 2, and the three by name."""
    loss = (loss_x + config.unlabelled_weight * loss_u) / 2
    return loss, {"loss": loss, "loss_x": loss_x, "loss_u": loss_u}


def follow(ema: Any, params: Any, step: jax.Array, limit: float) -> Any:
    """The teacher after iteration `step` (0-based): decay min(1 - 1/(step + 1), limit).

    The first iteration makes it a copy of the student; until the limit is reached it is the mean of
    all students so far. Kept in the dtype of the parameters, float32: bfloat16 would stall.
    """
    decay = jnp.minimum(1.0 - 1.0 / (step + 1.0), limit)
    return jax.tree.map(lambda t, s: (decay * t + (1.0 - decay) * s).astype(t.dtype), ema, params)


def update(config: Any, before: TrainState, params: dict, opt: Any) -> TrainState:
    """The state after a step that led to `params`, its teacher one step further."""
    ema = follow(before.ema, student.trainable(config, params), before.step, config.ema_limit)
    return before.replace(step=before.step + 1, params=params, ema=ema, opt=opt)


class Forwards:
    """The forward passes of one group of rows: a frozen encoder's runs once, over all images.

    model: a segmenter, or what has its `encode` and `decode`.  images: float32 [b,h,w,3] each, as
    `encode` shall see them.
    """

    def __init__(self, config: Any, model: Any, state: TrainState, **images: jax.Array):
        self.model, self.state, self.images = model, state, images
        self.size_hw = next(iter(images.values())).shape[1:3]
        self.taps = None
        if config.model.freeze_encoder:
            self.taps = self._encode(state.params, jnp.concatenate(list(images.values())))

    def student(self, part: dict, *names: str, drop: Any = None) -> jax.Array:
        """The student's logits of the named images, in their order; part: what of it learns.

        drop: factors of the taps' channels, a tuple of [rows, d], or None.
        """
        return self._logits({**self.state.params, **part}, names, drop)

    def teacher(self, *names: str) -> jax.Array:
        """The teacher's logits of the named images."""
        return self._logits({**self.state.params, **self.state.ema}, names, None)

    def _logits(self, params, names, drop):
        if self.taps is None:
            taps = self._encode(params, jnp.concatenate([self.images[n] for n in names]))
        else:
            taps = [jnp.concatenate([self._rows(tap, n) for n in names]) for tap in self.taps]
        variables = {**self.state.extra, "params": params}
        return self.model.apply(variables, taps, self.size_hw, drop, method="decode")

    def _encode(self, params, image_bhwc):
        variables = {**self.state.extra, "params": params}
        return self.model.apply(variables, image_bhwc, method="encode")

    def _rows(self, tap, name):
        first = 0
        for other, images in self.images.items():
            if other == name:
                return tap[first : first + len(images)]
            first += len(images)
        raise AssertionError(name)
