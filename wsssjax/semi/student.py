"""The segmenter that all methods of this folder train: its start, and a step of its optimizer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from wsssjax.core import optim, parallel, state
from wsssjax.core.losses import masked_xent
from wsssjax.core.state import TrainState
from wsssjax.data.classes import read_class_names
from wsssjax.models import registry

CRITERIA = ("ce",)
FROZEN = ("^backbone/", 0.0, 0.0)  # an optimizer group: no learning rate, no decay


def build_model(config: Any) -> Any:
    """The segmenter of config.model with one output per class of config.classes."""
    return registry.build_segmenter(config.model, len(read_class_names(config.classes)))


def predict(model: Any, variables: dict, image_bhwc: jax.Array) -> jax.Array:
    """Logits [b,h,w,k]."""
    return model.apply(variables, image_bhwc, train=False)[0]


def optimizer(config: Any, params: Any) -> optax.GradientTransformation:
    """The optimizer of config.optim; `model.freeze_encoder` overrules the encoder's own group."""
    if config.model.freeze_encoder:
        groups = (FROZEN, *config.optim.groups)
        config = config.copy_and_resolve_references()
        config.optim.groups = groups
    return optim.build(config.optim, params, config.total_steps)


def trainable(config: Any, params: Any) -> dict:
    """The part of `params` that learns: all of it, or the head alone.

    A frozen encoder so stays out of gradients, of the optimizer and of the devices' exchange.
    """
    return {"head": params["head"]} if config.model.freeze_encoder else dict(params)


def first_variables(config: Any, model: Any, key: jax.Array) -> dict:
    """Random variables of `model`, drawn for a training crop."""
    image_bhwc = jnp.zeros((1, config.data.crop, config.data.crop, 3), jnp.float32)
    return model.init(key, image_bhwc, train=False)


def init(config: Any, model: Any, key: jax.Array, *, teacher: bool) -> TrainState:
    """The state at step 0, pretrained encoder in it; the teacher is a copy of the student."""
    # Compiled, this draws the numbers and skips the forward pass that tells their shapes.
    variables = jax.jit(functools.partial(first_variables, config, model))(key)
    variables = registry.load_encoder(variables, config.model)
    return state.create(variables, optimizer(config, variables["params"]), ema=teacher)


def descend(config: Any, before: TrainState, loss_fn: Callable) -> tuple[dict, Any, dict]:
    """(params, opt, metrics) after one step down the gradient of `loss_fn`, averaged over devices.

    loss_fn: trainable part of the params → (loss, {name: scalar}) of this device's rows alone.
    """
    part = trainable(config, before.params)
    (_, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(part)
    grads = parallel.mean(grads)  # after differentiating: a gradient through a sum would be wrong
    # The optimizer knows the whole tree; what it says about the frozen part is never computed.
    whole = jax.tree.map(jnp.zeros_like, dict(before.params)) | grads
    updates, opt = optimizer(config, before.params).update(whole, before.opt, dict(before.params))
    learned = optax.apply_updates(part, {name: updates[name] for name in part})
    metrics = metrics | {
        f"grad_{name}": _norm(grads.get(name, {})) for name in ("backbone", "head")
    }
    return dict(before.params) | learned, opt, metrics


def check_criterion(config: Any) -> None:
    """ValueError unless config.criterion names a loss that exists."""
    if config.criterion not in CRITERIA:
        raise ValueError(f"config.criterion is {config.criterion!r}; want {' or '.join(CRITERIA)}")


def labelled_loss(logits_bhwk: jax.Array, label_bhw: jax.Array) -> jax.Array:
    """Mean cross-entropy over labelled pixels, those that are not IGNORE."""
    return mean_or_zero(*masked_xent(logits_bhwk, label_bhw, jnp.ones(label_bhw.shape, bool)))


def mean_or_zero(total: jax.Array, count: jax.Array) -> jax.Array:
    """total / count; 0 where nothing was counted, so that an empty batch teaches nothing."""
    return total / jnp.maximum(count, 1)


def _norm(tree):
    return jnp.sqrt(sum((jnp.square(x).sum() for x in jax.tree.leaves(tree)), jnp.zeros(())))
