"""What all classifiers that learn from tags share: start, update, input pipeline."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from wsssjax.cam.read_saliency import ReadSaliency
from wsssjax.core import optim, parallel, state
from wsssjax.core.state import TrainState
from wsssjax.data import classes, loader, sources, transforms
from wsssjax.models import registry


def foreground_count(config) -> int:
    """How many classes beside the background `config.classes` names."""
    names = classes.read_class_names(config.classes)
    return len(classes.need_background(names, "config.classes")) - 1


def optimizer(config, model) -> optax.GradientTransformation:
    """The optimizer of `config.optim` for the parameters that `model` is going to have."""
    shapes = jax.eval_shape(lambda: first_variables(config, model, jax.random.key(0)))
    return optim.build(config.optim, shapes["params"], config.total_steps)


def first_variables(config, model, key) -> dict:
    """Random variables of `model`, drawn for a training crop."""
    params_key, drop_key = jax.random.split(key)
    image_bhwc = jax.ShapeDtypeStruct((1, config.data.crop, config.data.crop, 3), jnp.float32)
    # One program, without the forward pass: op by op takes 25 instead of 4 s for an EfficientNet.
    init = jax.jit(lambda keys: model.lazy_init(keys, image_bhwc, train=False))
    return init({"params": params_key, "dropout": drop_key})


def trainer(config, model, losses: Callable) -> tuple[Callable, Callable]:
    """The method's `init` and `step`.

    losses: ((scores_bk, aux), batch) → {name: scalar}, each already a mean over the rows of this
    device; their sum is minimised. Gradients are averaged over devices, so that with equal rows
    per device (the loader sees to it) the step is the one on the mean over all rows.
    """
    update = optimizer(config, model)

    def init(key) -> TrainState:
        variables = registry.load_encoder(first_variables(config, model, key), config.model)
        return state.create(variables, update, ema=False)

    def step(before: TrainState, batch, key):
        (drop_key,) = jax.random.split(parallel.device_key(key), 1)

        def total(params):
            output = model.apply({"params": params, **before.extra}, batch["image"], train=True,
                                 rngs={"dropout": drop_key})
            parts = losses(output, batch)
            return sum(parts.values()), parts

        (loss, parts), grads = jax.value_and_grad(total, has_aux=True)(before.params)
        changes, opt = update.update(parallel.mean(grads), before.opt, before.params)
        after = before.replace(step=before.step + 1, opt=opt,
                               params=optax.apply_updates(before.params, changes))
        return after, {"loss": loss, **parts}

    return init, step


def batches(config, *, saliency: bool):
    """Endless host batches of `image`, `tags` and, if asked for, `saliency`.

    Order as published: long side, flip, jitter, normalise, crop. The crop comes after normalising,
    so that the canvas around small photos is of the mean colour.
    """
    data = config.data
    keys = ("image", "tags") + (("saliency",) if saliency else ())
    # A folder of saliency maps takes the place of those in the packed set.
    beside = saliency and data.saliency != ""
    source = sources.Packed(data.packed, data.split, keys[:2] if beside else keys)
    brightness, contrast, saturation, hue = data.jitter
    steps = (
        *((ReadSaliency(folder=data.saliency),) if beside else ()),
        transforms.ResizeLongSide(low=data.long_side[0], high=data.long_side[1]),
        transforms.Flip(p=data.flip),
        transforms.ColorJitter(keys=("image",), p=1.0, brightness=brightness, contrast=contrast,
                               saturation=saturation, hue=hue),
        transforms.Normalize(keys=("image",), mean=data.mean, std=data.std),
        transforms.PasteCrop(size=data.crop),
        transforms.Keep(keys=keys),
    )
    rows = config.device_batch * parallel.device_count()
    index, count = parallel.process()
    return loader.Loader(source, steps, batch=rows, seed=config.seed, workers=data.workers,
                         process_index=index, process_count=count)
