"""What all classifiers that learn from tags share: start, update, input pipeline."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from wsssjax.cam.read_saliency import ReadSaliency, missing
from wsssjax.core import optim, parallel, state
from wsssjax.core.state import TrainState
from wsssjax.data import classes, loader, sources, transforms
from wsssjax.models import registry

_SHOWN = 5  # ids that a message names before it only counts


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
    per device (the loader sees to it) the step is the one on the mean over all rows. Where norms
    learn their statistics (the backbone's `norm` is "batch", and it is not frozen), each device
    takes those of its rows, and the running ones are averaged.
    """
    update = optimizer(config, model)
    learns = not model.freeze and getattr(model.backbone, "norm", "") == "batch"
    moving = ["batch_stats"] if learns else []

    def init(key) -> TrainState:
        variables = registry.load_encoder(first_variables(config, model, key), config.model)
        return state.create(variables, update, ema=False)

    def step(before: TrainState, batch, key):
        (drop_key,) = jax.random.split(parallel.device_key(key), 1)

        def total(params):
            output, moved = model.apply({"params": params, **before.extra}, batch["image"],
                                        train=True, rngs={"dropout": drop_key}, mutable=moving)
            parts = losses(output, batch)
            return sum(parts.values()), (parts, moved)

        (loss, (parts, moved)), grads = jax.value_and_grad(total, has_aux=True)(before.params)
        changes, opt = update.update(parallel.mean(grads), before.opt, before.params)
        after = before.replace(step=before.step + 1, opt=opt,
                               params=optax.apply_updates(before.params, changes),
                               extra={**before.extra, **parallel.mean(moved)})
        return after, {"loss": loss, **parts}

    return init, step


def batches(config, *, saliency: bool):
    """Endless host batches of `image`, `tags` and, if asked for, `saliency`.

    Order as published: long side, flip, jitter, normalise, crop. The crop comes after normalising,
    so that the canvas around small photos is of the mean colour. Saliency goes through the same
    resizing (bicubic, 8 bit), flip and window, and is 0 on the canvas.
    Photos without tags or saliency are a ValueError now, with their number, and not once a batch
    comes to them.
    """
    check_start(config)
    data = config.data
    keys = ("image", "tags") + (("saliency",) if saliency else ())
    # A folder of saliency maps takes the place of those in the packed set.
    beside = saliency and data.saliency != ""
    source = sources.Packed(data.packed, data.split, keys[:2] if beside else keys)
    _check_classes(source, config.classes)
    _check_complete(source, data.saliency if beside else "")
    steps = (
        *((ReadSaliency(folder=data.saliency),) if beside else ()),
        transforms.ResizeLongSide(low=data.long_side[0], high=data.long_side[1]),
        transforms.Flip(p=data.flip),
        *_jitter(data.jitter),
        transforms.Normalize(keys=("image",), mean=data.mean, std=data.std),
        transforms.PasteCrop(size=data.crop),
        transforms.Keep(keys=keys),
    )
    rows = config.device_batch * parallel.device_count()
    index, count = parallel.process()
    return loader.Loader(source, steps, batch=rows, seed=config.seed, workers=data.workers,
                         process_index=index, process_count=count)


def check_start(config) -> None:
    """Refuses to train a ResNet from random numbers where its norms do not learn statistics."""
    model = config.model
    still = model.encoder == "resnet38" or (
        model.encoder in ("resnet50", "resnet101") and model.resnet.norm != "batch")
    if still and not (model.encoder_weights or "init_weights" in config and config.init_weights):
        raise ValueError(f"config.model.encoder_weights='': {model.encoder!r} cannot start random, "
                         "its norms do not learn statistics; give weights from "
                         "tools/convert_weights.py")


def _jitter(strengths) -> tuple:
    """The published jitter; nothing at all where no strength is above 0 (IRN)."""
    brightness, contrast, saturation, hue = strengths
    if not any(strengths):
        return ()
    return (transforms.ColorJitter(keys=("image",), p=1.0, brightness=brightness,
                                   contrast=contrast, saturation=saturation, hue=hue),)


def _check_classes(source, wanted) -> None:
    """Refuses a pack whose tags stand for other classes than the scores."""
    names = classes.read_class_names(wanted)
    if names != source.class_names:
        pairs = enumerate(zip(source.class_names, names, strict=False))
        other = next((f"; class {i} is {a!r} there and {b!r} here" for i, (a, b) in pairs
                      if a != b), "")
        raise ValueError(f"{source.folder}: packed with {len(source.class_names) - 1} classes, "
                         f"config.classes={str(wanted)!r} names {len(names) - 1}{other}; name the "
                         "classes the set was packed with")


def _check_complete(source, saliency: str) -> None:
    """Refuses photos without tags, or without saliency in the pack or the folder `saliency`."""
    total, where = len(source.ids), f"{source.folder}: split {source.split!r}"
    if bare := source.lacking.get("tags", ()):
        raise ValueError(f"{where}: {_some(bare, total)} without a tag; each needs one to learn "
                         "from: tag them and pack again, or take them out of the list")
    if "saliency" in source.keys and (bare := source.lacking.get("saliency", ())):
        raise ValueError(f"{where}: {_some(bare, total)} without saliency; add the maps and pack "
                         "again, or name a folder of them in config.data.saliency")
    if saliency and (bare := missing(saliency, source.ids)):
        raise ValueError(f"{saliency}: no saliency map for {_some(bare, total)}; make them with "
                         "python -m wsssjax.cam.saliency")


def _some(names, total: int) -> str:
    """`7 of 10,582 photos (a, b, c, d, e, ...)`."""
    shown = ", ".join([*names[:_SHOWN], *(["..."] if len(names) > _SHOWN else [])])
    return f"{len(names):,} of {total:,} photos ({shown})"
