"""The segmenter that all methods of this folder train: its start, and a step of its optimizer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from wsssjax.core import optim, parallel, state
from wsssjax.core.losses import masked_xent, ohem_xent
from wsssjax.core.method import Method
from wsssjax.core.state import TrainState
from wsssjax.data.classes import read_class_names
from wsssjax.models import registry
from wsssjax.semi import multi_scale, validate, views

CRITERIA = ("ce", "ohem")
# What no forward pass reads: torch's optimizer passes over parameters without a gradient.
STILL = r"backbone/mask_token$|refinenet4/resConfUnit1/"
INIT_SIDE = 56  # pixels; parameters do not depend on it


def method(config: Any, train_step: Callable, *, unlabelled: bool) -> Method:
    """A method of this folder for the train loop.

    train_step: (state, batch, key, config=, model=) → (state, metrics).  unlabelled: whether it
    learns from unlabelled photos too, with a teacher.
    """
    check_batch(config, least=2 if unlabelled else 1)
    multi_scale.check(config)
    model = build_model(config)
    parallel.set_precision(config.precision)
    _check_sides(config, model)
    _check_norms(config, model, unlabelled)
    config = views.with_total_steps(config, unlabelled=unlabelled)
    forward = functools.partial(predict, model)
    found, every = None, 0
    if config.data.val:
        found = functools.partial(validate.run, validate.prepare(config, model, forward),
                                  teacher=unlabelled)
        every = views.epoch_steps(config, unlabelled=unlabelled) * config.eval_epochs
    return Method(
        init=functools.partial(init, config, model, teacher=unlabelled),
        step=functools.partial(train_step, config=config, model=model),
        predict=forward,
        loader=functools.partial(views.semi_loader if unlabelled else views.supervised_loader,
                                 config),
        total_steps=config.total_steps, validate=found, eval_steps=every)


def build_model(config: Any) -> Any:
    """The segmenter of config.model with one output per class of config.classes."""
    return registry.build_segmenter(config.model, len(read_class_names(config.classes)))


def predict(model: Any, variables: dict, image_bhwc: jax.Array) -> jax.Array:
    """Logits [b,h,w,k]."""
    return model.apply(variables, image_bhwc, train=False)[0]


def optimizer(config: Any, params: Any) -> optax.GradientTransformation:
    """The optimizer of config.optim for the part of `params` that learns."""
    how, steps = config.optim, config.total_steps

    def schedule(lr):
        return optim.poly(lr, steps, how.poly_power, how.lag_steps, how.hold_steps)

    return optim.build(how, trainable(config, params), steps, whole=params, still=STILL,
                       schedule=schedule)


def trainable(config: Any, params: Any) -> dict:
    """The part of `params` that learns: all of it, or the head alone.

    A frozen encoder so stays out of gradients, teacher, optimizer and the devices' exchange.
    """
    return {"head": params["head"]} if config.model.freeze_encoder else dict(params)


def first_variables(model: Any, key: jax.Array) -> dict:
    """Random variables of `model`."""
    image_bhwc = jnp.zeros((1, INIT_SIDE, INIT_SIDE, 3), jnp.float32)
    return model.init(key, image_bhwc, train=False)


def init(config: Any, model: Any, key: jax.Array, *, teacher: bool) -> TrainState:
    """The state at step 0, pretrained encoder in it; the teacher is a copy of the student."""
    # Compiled, this draws the numbers and skips the forward pass that tells their shapes.
    variables = jax.jit(functools.partial(first_variables, model))(key)
    variables = registry.load_encoder(variables, config.model)
    variables = registry.store_frozen(variables, config.model)
    return state.create(variables, optimizer(config, variables["params"]), ema=teacher,
                        learned=functools.partial(trainable, config))


def forward_train(model: Any, variables: dict, image_bhwc: jax.Array, drop_key: jax.Array,
                  **options) -> tuple[Any, dict]:
    """(what `model` gives in training, the collections that it moved, without gradient)."""
    options |= {"train": True, "rngs": {"dropout": drop_key}}
    if not model.moves_statistics:
        return model.apply(variables, image_bhwc, **options), {}
    found, moved = model.apply(variables, image_bhwc, mutable=["batch_stats"], **options)
    return found, jax.lax.stop_gradient(moved)


def descend(
    config: Any, before: TrainState, batch: dict, key: jax.Array, gradient: Callable
) -> tuple[dict, Any, dict]:
    """(params, opt, metrics) after one step down the gradient, averaged over groups and devices.

    gradient: (trainable part of the params, rows of one group, key of its own) → (gradient,
    {name: scalar}) of these rows alone.
    """
    def without_statistics(part, rows, key):
        return (*gradient(part, rows, key), {})

    grads, metrics, _ = averaged(config, before, batch, key, without_statistics)
    params, opt, norms = update(config, before, grads)
    return params, opt, metrics | norms


def averaged(
    config: Any, before: TrainState, batch: dict, key: jax.Array, gradient: Callable
) -> tuple[Any, dict, Any]:
    """(gradient, metrics, statistics) of all rows: means over groups and devices.

    gradient: as for `descend`, but (gradient, {name: scalar}, running statistics after these
    rows).  A group has config.device_batch rows of each stream; a device goes through
    config.accumulate of them, which gives what that many devices would give. So each group
    normalises by its own rows and moves the statistics from where they were before the step, and
    those are averaged; PyTorch's accumulation moves them once a group, one after the other.
    """
    part = trainable(config, before.params)
    groups = config.accumulate

    def one(index, rows):
        return gradient(part, rows, parallel.device_key(key, index, groups))

    found = one(0, batch) if groups == 1 else _over_groups(one, batch, groups)
    grads, metrics, statistics = found
    # After differentiating: a gradient through a sum would be wrong.
    return parallel.mean(grads), metrics, parallel.mean(statistics)


def update(config: Any, before: TrainState, grads: Any) -> tuple[dict, Any, dict]:
    """(params, opt, lengths of the gradient by name) after one step of the optimizer."""
    part = trainable(config, before.params)
    updates, opt = optimizer(config, before.params).update(grads, before.opt, part)
    norms = {f"grad_{name}": _norm(grads.get(name, {})) for name in ("backbone", "head")}
    return dict(before.params) | optax.apply_updates(part, updates), opt, norms


def _over_groups(one: Callable, batch: dict, groups: int):
    """The mean of `one(index, rows)` over the groups that a device's rows are cut into."""
    cut = jax.tree.map(lambda x: x.reshape(groups, -1, *x.shape[1:]), batch)
    if parallel.on_cpu():
        # In a loop XLA computes the gradient of a convolution's kernel up to 150 times slower
        # there (148 x 148 pixels, 64 channels: 5 s instead of 32 ms).
        found = [one(i, jax.tree.map(lambda x, i=i: x[i], cut)) for i in range(groups)]
        return jax.tree.map(lambda *xs: sum(xs) / groups, *found)
    shapes = jax.eval_shape(one, 0, jax.tree.map(lambda x: x[0], cut))
    zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def add(total, item):
        return jax.tree.map(jnp.add, total, one(*item)), None

    total, _ = jax.lax.scan(add, zero, (jnp.arange(groups), cut))
    return jax.tree.map(lambda x: x / groups, total)


def check_batch(config: Any, *, least: int) -> None:
    """ValueError unless config.criterion, device_batch and accumulate can work."""
    if config.criterion not in CRITERIA:
        raise ValueError(f"config.criterion is {config.criterion!r}; want {' or '.join(CRITERIA)}")
    if config.device_batch < least:
        why = ", since CutMix takes its partners from the same device's batch" if least > 1 else ""
        raise ValueError(f"config.device_batch is {config.device_batch}; want at least "
                         f"{least}{why}")
    for name, least in (("accumulate", 1), ("eval_epochs", 1), ("total_steps", 0)):
        if config[name] < least:
            raise ValueError(f"config.{name} is {config[name]}; want {least} or more")
    if config.optim.hold_steps < 1:
        raise ValueError(f"config.optim.hold_steps is {config.optim.hold_steps}; want 1 or more")


def _check_sides(config: Any, model: Any) -> None:
    """ValueError for a crop or a window that the encoder's patches do not fill."""
    strides = model.backbone.tap_strides
    sides = {"data.crop": config.data.crop, "predict.multiple": config.predict.multiple}
    if config.predict.mode == "sliding_window":
        sides["predict.window"] = config.predict.window
    for name, side in sides.items():
        if len(set(strides)) == 1 and side % strides[0]:  # a pyramid of maps takes any side
            raise ValueError(f"config.{name} is {side}; encoder {config.model.encoder!r} wants a "
                             f"multiple of {strides[0]}")


def _check_norms(config: Any, model: Any, unlabelled: bool) -> None:
    """ValueError for batch norms that training would not move, or that see a single number."""
    if unlabelled and model.moves_statistics:
        raise ValueError(f"config.method {config.method!r} does not move the running statistics of "
                         "batch norms; take stored for config.model.resnet.norm and head_norm")
    least = getattr(model.head, "least_rows", 1)
    if config.device_batch < least:
        raise ValueError(f"config.device_batch is {config.device_batch}; decoder "
                         f"{config.model.decoder!r} normalises one number a photo over at least "
                         f"{least} of them, unless config.model.head_norm is stored")


def labelled_loss(config: Any, logits_bhwk: jax.Array, label_bhw: jax.Array) -> jax.Array:
    """Mean cross-entropy over labelled pixels (those that are not IGNORE), or over the hard ones.

    config.criterion: "ce" takes all of them, "ohem" what `core.losses.ohem_xent` keeps.
    """
    if config.criterion == "ohem":
        return mean_or_zero(*ohem_xent(logits_bhwk, label_bhw, config.ohem_threshold,
                                       config.ohem_min_kept))
    return mean_or_zero(*masked_xent(logits_bhwk, label_bhw, jnp.ones(label_bhw.shape, bool)))


def mean_or_zero(total: jax.Array, count: jax.Array) -> jax.Array:
    """total / count; 0 where nothing was counted, so that an empty batch teaches nothing."""
    return total / jnp.maximum(count, 1)


def _norm(tree):
    return jnp.sqrt(sum((jnp.square(x).sum() for x in jax.tree.leaves(tree)), jnp.zeros(())))
