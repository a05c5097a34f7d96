"""What all classifiers that learn from tags share: start, update, input pipeline."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image

from wsssjax.core import optim, parallel, state
from wsssjax.core.state import TrainState
from wsssjax.data import classes, loader, sources, transforms


def foreground_count(config) -> int:
    """How many classes beside the background `config.classes` names."""
    return len(classes.read_class_names(config.classes)) - 1


def optimizer(config, model) -> optax.GradientTransformation:
    """The optimizer of `config.optim` for the parameters that `model` is going to have."""
    shapes = jax.eval_shape(lambda: first_variables(config, model, jax.random.key(0)))
    return optim.build(config.optim, shapes["params"], config.total_steps)


def first_variables(config, model, key) -> dict:
    """Random variables of `model`, drawn for a training crop."""
    params_key, drop_key = jax.random.split(key)
    image_bhwc = jnp.zeros((1, config.data.crop, config.data.crop, 3), jnp.float32)
    return model.init({"params": params_key, "dropout": drop_key}, image_bhwc, train=False)


def starter(config, model, load: Callable) -> Callable:
    """The method's `init`: key → TrainState with the encoder's pretrained weights in it.

    load: (variables, config.model) → variables; puts the weights the config names in their place.
    """
    update = optimizer(config, model)

    def init(key) -> TrainState:
        variables = load(first_variables(config, model, key), config.model)
        return state.create(variables, update, ema=False)

    return init


def stepper(config, model, losses: Callable) -> Callable:
    """The method's `step`: one gradient step on the sum of the losses.

    losses: ((scores_bk, aux), batch) → {name: scalar}, each already a mean over the rows of this
    device. Gradients are averaged over devices, so that with equal rows per device (the loader
    sees to it) the step is the one on the mean over all rows.
    """
    update = optimizer(config, model)

    def step(before: TrainState, batch, key):
        (drop_key,) = jax.random.split(key, 1)

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

    return step


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
    jitter = transforms.ColorJitter(
        keys=("image",), p=1.0 if any(data.jitter) else 0.0, brightness=data.jitter[0],
        contrast=data.jitter[1], saturation=data.jitter[2], hue=data.jitter[3])
    steps = (
        *((ReadSaliency(folder=data.saliency),) if beside else ()),
        transforms.ResizeLongSide(low=data.long_side[0], high=data.long_side[1]),
        transforms.Flip(p=data.flip),
        jitter,
        transforms.Normalize(keys=("image",)),
        transforms.PasteCrop(size=data.crop),
        transforms.Keep(keys=keys),
    )
    rows = config.device_batch * parallel.device_count()
    return loader.Loader(source, steps, batch=rows, seed=config.seed, workers=data.workers)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadSaliency:
    """Example with `saliency`: uint8 [h,w] from `<folder>/<name>.png` or `.jpg`."""

    folder: str

    def __call__(self, example: dict, rng: np.random.Generator) -> dict:
        base = pathlib.Path(self.folder) / example["name"]
        # Not with_suffix: an id may hold a dot.
        paths = [base.with_name(base.name + suffix) for suffix in (".png", ".jpg")]
        found = [path for path in paths if path.is_file()]
        if not found:
            raise ValueError(f"{paths[0]}: no saliency map for the photo {example['name']!r}; make "
                             "it with python -m wsssjax.cam.saliency")
        return {**example, "saliency": read_saliency(found[0], example["image"].shape[:2])}


def read_saliency(path: pathlib.Path, size: tuple[int, int]) -> np.ndarray:
    """uint8 [h,w], 0..255; ValueError if the file is broken or not of the photo's size.

    Coloured files are averaged over their channels.
    """
    try:
        with Image.open(path) as image:
            # Judged by the header: what it promises is not worth memory yet.
            if (image.height, image.width) != size:
                raise ValueError(f"has {image.height}x{image.width} pixels, its photo "
                                 f"{size[0]}x{size[1]}")
            if image.mode not in ("L", "RGB", "P"):
                raise ValueError(f"has mode {image.mode}, want 8-bit grey")
            pixels = np.asarray(image if image.mode == "L" else image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: bad saliency map ({error}); make it again with "
                         "python -m wsssjax.cam.saliency") from None
    return pixels if pixels.ndim == 2 else np.rint(pixels.mean(-1)).astype(np.uint8)
