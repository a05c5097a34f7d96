"""Command: a trained segmenter and photos → label maps, or logits."""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from wsssjax.core import cli, config, files, parallel, progress, weights
from wsssjax.data import label_map, photos
from wsssjax.semi import predict, ssdd, student

SUFFIXES = {"labels": ".png", "logits": ".npy"}
NETWORKS = {"ssdd": ssdd}  # methods whose segmenter is not the one in student.py
SETTINGS = "predict.json"  # beside the results: what they were made with


def main(arguments: list[str]) -> None:
    """Nothing; writes what the flags ask for."""
    plain, overrides = cli.split_overrides(arguments)
    parser = cli.parser(
        "python -m wsssjax.predict", __doc__,
        "python -m wsssjax.predict --config=configs/semi_voc_unimatch_v2.py \\\n"
        "    --weights=runs/v2 --images=photos --out=labels")
    add = functools.partial(parser.add_argument, required=True)
    add("--config", help="the config that trained the segmenter; --config.a.b=v changes a field")
    add("--weights", help="exported weights (.safetensors), or the folder of the training: then "
        "its student's; weights_ema.safetensors in it is the teacher")
    add("--images", help="folder of photos (JPEG, PNG), or a list of paths")
    add("--out", help="folder for <id>.png and <id>.npy")
    parser.add_argument("--save", default="labels", help="labels (default), logits (float32 "
                        "[h,w,k] at the photo's size) or labels,logits")
    flags = parser.parse_args(plain)
    run(config.load(flags.config, overrides), flags.weights, flags.images, flags.out,
        save=tuple(flags.save.split(",")))


def run(
    settings: Any,
    weights_path: str | os.PathLike,
    images: str | os.PathLike,
    out: str | os.PathLike,
    *,
    save: Sequence[str] = ("labels",),
) -> list[str]:
    """Ids of all photos, sorted; `<out>/<id>.png` and `<id>.npy` are there when it returns.

    settings: the config that trained the segmenter; its data set is not needed.  images: folder or
    list of photos.  save: of "labels" and "logits".  Files that are there already are kept, and
    refused if they were made with other settings.
    """
    for name in save:
        config.choose(SUFFIXES, name, "--save")
    paths = files.photo_paths(images)
    out = pathlib.Path(out)
    forward = restored(settings, weights_path)
    _claim(out, settings, weights_path)
    todo = [n for n in paths if not all((out / f"{n}{SUFFIXES[s]}").exists() for s in save)]
    read = ((name, photos.read_photo(paths[name])) for name in todo)
    found = predict.photo_logits(read, forward, settings.predict, settings.data)
    with progress.Progress(len(paths), "predict", done=len(paths) - len(todo)) as bar:
        for name, logits_hwk in found:
            _write(out, name, logits_hwk, save)
            bar.advance()
    return list(paths)


def restored(settings: Any, weights_path: str | os.PathLike) -> Callable:
    """images [b,h,w,3] → logits [b,h,w,k]: the network of `settings` with the weights of a file."""
    missing = [name for name in ("classes", "model", "predict", "data") if name not in settings]
    if missing:
        raise ValueError(f"the config has no {missing[0]!r}, so it trains no segmenter; want one "
                         "such as configs/semi_voc_unimatch_v2.py")
    parallel.start()
    parallel.set_precision(settings.precision)
    network = NETWORKS.get(settings.method, student)
    model = network.build_model(settings)
    template = jax.eval_shape(
        functools.partial(network.first_variables, model), jax.random.key(0))
    variables = jax.device_put(weights.restore(template, weights.load(weights_path)))
    compiled = jax.jit(functools.partial(network.predict, model))
    return lambda image_bhwc: compiled(variables, image_bhwc)


def _write(out, name, logits_hwk, save):
    """Writes the files of one photo."""
    if "logits" in save:
        with files.atomic(out / f"{name}.npy") as file:
            np.save(file, logits_hwk)
    if "labels" in save:
        label_map.write(out / f"{name}.png", logits_hwk.argmax(axis=-1).astype(np.uint8))


def _claim(out, settings, weights_path):
    """Writes down what the folder's files are made with, or refuses a folder made otherwise."""
    plain = config.to_dict(settings)
    made_with = {name: plain[name] for name in ("classes", "model", "predict")}
    made_with["model"].pop("encoder_weights")
    made_with["mean"], made_with["std"] = plain["data"]["mean"], plain["data"]["std"]
    made_with["weights"] = weights.fingerprint(weights_path)
    files.claim(out / SETTINGS, made_with)


if __name__ == "__main__":
    cli.run(main)
