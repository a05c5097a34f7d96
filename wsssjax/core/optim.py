"""Optimizers whose learning rate, decay and freezing follow from parameter names."""

from __future__ import annotations

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from wsssjax.core import parallel
from wsssjax.core.config import choose
from wsssjax.core.state import TrainState

STILL = "still"


def path_name(path) -> str:
    """A tree path as `backbone/block0/kernel`."""
    return "/".join(str(getattr(p, "key", getattr(p, "name", p))) for p in path)


def poly(lr: float, total_steps: int, power: float, lag_steps: int = 0, hold_steps: int = 1):
    """lr·(1 − t/T)^power of the step t. `lag_steps=1`: step t runs on the rate of t − 1.

    The reference of UniMatch V2 sets the rate after each step, so its steps 0 and 1 share one.
    hold_steps: the rate changes at every so many steps alone (DeepLab v2 in PyTorch: 10).
    """
    def schedule(step):
        step = jnp.maximum(step - lag_steps, 0) // hold_steps * hold_steps
        # Counted down in whole steps: 1 − t/T in float32 loses the last, tiny rates.
        left = jnp.clip(total_steps - step, 0, total_steps)
        return lr * (left / total_steps) ** power

    return schedule


def cosine(lr: float, period_steps: float):
    """lr·½(1 + cos(π t / R)) of the step t: down to 0 after R = period_steps, where it stays."""
    def schedule(step):
        return lr * 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.minimum(step / period_steps, 1.0)))

    return schedule


def _groups(config, params, whole, still):
    """Per parameter the index of the first group whose pattern matches; a pattern that matches
    nothing is an error, since it is most likely misspelt."""
    def pick(path, _):
        name = path_name(path)
        if still and re.search(still, name):
            return STILL
        for index, (pattern, _, _) in enumerate(config.groups):
            if re.search(pattern, name):
                return str(index)
        raise ValueError(f"config.optim.groups: no pattern matches the parameter {name!r}; "
                         "end the list with ('.*', 1.0, 1.0)")

    labels = jax.tree_util.tree_map_with_path(pick, params)
    names = [path_name(p) for p, _ in jax.tree_util.tree_leaves_with_path(whole)]
    for pattern, _, _ in config.groups:
        if not any(re.search(pattern, n) for n in names):
            raise ValueError(f"config.optim.groups: the pattern {pattern!r} matches no parameter; "
                             f"there are, for instance, {', '.join(names[:3])}")
    return labels


def _one(config, lr_factor: float, decay_factor: float, total_steps: int, schedule):
    """The update of one group."""
    if not lr_factor:
        return optax.set_to_zero()  # frozen: no decay either
    if schedule is None:
        rate = poly(config.lr * lr_factor, total_steps, config.poly_power, config.lag_steps)
    else:
        rate = schedule(config.lr * lr_factor)
    decay = config.weight_decay * decay_factor
    if config.name == "adamw":
        return optax.adamw(rate, b1=config.b1, b2=config.b2, eps=config.eps, weight_decay=decay)
    # torch's SGD adds the decay to the gradient before the momentum sees it.
    parts = [optax.add_decayed_weights(decay)] if decay else []
    momentum = config.momentum or None
    return optax.chain(*parts, optax.sgd(rate, momentum=momentum))


def build(config, params, total_steps: int, *, whole=None, still: str = "",
          schedule: Callable | None = None) -> optax.GradientTransformation:
    """SGD or AdamW with groups by name.

    config: name ("sgd" | "adamw"), lr, momentum (sgd), b1, b2, eps (adamw), weight_decay,
    poly_power, lag_steps, groups: tuples (regular expression over `backbone/…` names, lr factor,
    decay factor), the first match counts; an lr factor of 0 freezes.
    whole: all parameters, where `params` is only the part that learns: a pattern must match one.
    still: regular expression of parameters that no forward pass reads; they are never moved.
    schedule: learning rate → (step → rate), in the place of `poly`; poly_power and lag_steps are
    then not read.
    """
    choose({"sgd": 0, "adamw": 0}, config.name, "config.optim.name")
    labels = _groups(config, params, params if whole is None else whole, still)
    table = {str(i): _one(config, lr, decay, total_steps, schedule)
             for i, (_, lr, decay) in enumerate(config.groups)} | {STILL: optax.set_to_zero()}
    return optax.multi_transform(table, labels)


def build_cosine(config, params, epoch_steps: int, *, still: str = ""):
    """`build` whose rates fall as half a cosine, to 0 after config.cosine_epochs passes.

    config: as for `build`, with cosine_epochs in the place of poly_power and lag_steps.
    epoch_steps: steps of one pass.
    """
    return build(config, params, 0, still=still,
                 schedule=lambda lr: cosine(lr, config.cosine_epochs * epoch_steps))


def descend(before: TrainState, loss: Callable,
            optimizer: optax.GradientTransformation) -> tuple[TrainState, dict]:
    """(state, metrics) one step down the gradient of `loss`, averaged over the devices.

    loss: params → (scalar, metrics) of this device.  Inside a step only.
    """
    (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(before.params)
    grads = parallel.mean(grads)  # after differentiating: a gradient through a sum would be wrong
    updates, opt = optimizer.update(grads, before.opt, before.params)
    return before.replace(step=before.step + 1, opt=opt,
                          params=optax.apply_updates(before.params, updates)), metrics
