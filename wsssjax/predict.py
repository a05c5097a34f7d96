"""Command: a trained segmenter and photos → label maps, or logits."""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from wsssjax.core import cli, config, crf, files, parallel, progress, threads, weights
from wsssjax.data import label_map, photos
from wsssjax.data import tags as tag_files
from wsssjax.data.classes import need_background, read_class_names
from wsssjax.models import recognise
from wsssjax.semi import multi_scale, predict, ssdd, student

SUFFIXES = {"labels": ".png", "logits": ".npy"}
NETWORKS = {"ssdd": ssdd}  # methods whose segmenter is not the one in student.py
SETTINGS = "predict.json"  # beside the results: what they were made with
NO_LOGIT = -1e4  # of a class that a photo is not tagged with; its softmax is 0
CRF_MEMORY = 4_000_000_000  # bytes, of all photos whose CRF runs at one time


def main(arguments: list[str]) -> None:
    """Nothing; writes what the flags ask for."""
    plain, overrides = cli.split_overrides(arguments)
    parser = cli.parser(
        "python -m wsssjax.predict", __doc__,
        "python -m wsssjax.predict --config=configs/semi_voc_unimatch_v2.py \\\n"
        "    --weights=runs/v2 --images=photos --out=labels")
    add = functools.partial(parser.add_argument, required=True)
    add("--config", help="the config that trained the segmenter, or that of a whole recipe; "
        "--config.a.b=v changes a field")
    add("--weights", help="exported weights (.safetensors), or the folder of the training: then "
        "its student's; weights_ema.safetensors in it is the teacher")
    add("--images", help="folder of photos (JPEG, PNG), or a list of paths")
    add("--out", help="folder for <id>.png and <id>.npy")
    parser.add_argument("--save", default="labels", help="labels (default), logits (float32 "
                        "[h,w,k] at the photo's size, of which the label is the largest; merged "
                        "softmax or the CRF's probabilities where config.predict asks for them) "
                        "or labels,logits")
    parser.add_argument("--tags", default="", metavar="CSV", help="`id,tags` of the photos: pixels "
                        "become background or a class that the photo is tagged with")
    flags = parser.parse_args(plain)
    run(segmenter_of(config.load(flags.config, overrides)), flags.weights, flags.images, flags.out,
        save=tuple(flags.save.split(",")), tags=flags.tags)


def segmenter_of(settings: Any) -> Any:
    """The config of a recipe's segmenter, with the recipe's classes; any other config as it is."""
    if "segmenter" not in settings:
        return settings
    own = settings.segmenter.copy_and_resolve_references()
    own.classes = settings.classes
    return own


def run(
    settings: Any,
    weights_path: str | os.PathLike,
    images: str | os.PathLike,
    out: str | os.PathLike,
    *,
    save: Sequence[str] = ("labels",),
    tags: str | os.PathLike = "",
) -> list[str]:
    """Ids of all photos, sorted; `<out>/<id>.png` and `<id>.npy` are there when it returns.

    settings: the config that trained the segmenter; its data set is not needed.  images: folder or
    list of photos.  save: of "labels" and "logits".  tags: CSV file; classes that a photo is not
    tagged with are then out of the question, before any CRF.  Files that are there already are
    kept, and refused if they were made with other settings.
    """
    for name in save:
        config.choose(SUFFIXES, name, "--save")
    paths = files.photo_paths(images)
    out = pathlib.Path(out)
    present = _present(tags, paths, settings.classes) if tags else None
    forward = restored(settings, weights_path)
    _claim(out, settings, weights_path, tags)
    todo = [n for n in paths if not all((out / f"{n}{SUFFIXES[s]}").exists() for s in save)]
    read = ((name, photos.read_photo(paths[name])) for name in todo)
    found = predict.photo_logits(read, forward, settings.predict, settings.data)
    if present:
        least = NO_LOGIT if multi_scale.gives_logits(settings.predict) else 0.0
        found = ((name, np.where(present[name], scores_hwk, np.float32(least)))
                 for name, scores_hwk in found)
    with progress.Progress(len(paths), "predict", done=len(paths) - len(todo)) as bar:
        for name, scores_hwk in _after_crf(found, paths, settings.predict):
            _write(out, name, scores_hwk, save)
            bar.advance()
    return list(paths)


def _present(tags: str | os.PathLike, paths: dict, classes: str) -> dict[str, np.ndarray]:
    """By id the classes that a photo may hold, bool [k]: the background and those of its tags."""
    names = need_background(read_class_names(classes), "predict --tags")
    table = tag_files.read_tags(tags, names, untagged=True)
    files.need_ids(paths, table, f"--tags={tags}", "add their lines, or leave --tags out")
    return {name: np.concatenate([[True], table[name] > 0]) for name in paths}


def _after_crf(found: Iterable, paths: dict, how: Any) -> Iterator[tuple[str, np.ndarray]]:
    """(id, scores) after the CRF of config.predict, if there is one; a photo on each core."""
    if not how.crf:
        yield from found
        return
    budget = threads.Budget(CRF_MEMORY)

    def one(item):
        name, scores_hwk = item
        image_hwc = photos.read_photo(paths[name])
        pixels, labels = image_hwc.shape[0] * image_hwc.shape[1], scores_hwk.shape[-1]
        infer = functools.partial(crf.infer, memory=budget.total)
        with budget.taken(crf.needs(pixels, labels, crf.preset(how.crf), vertices=pixels)):
            try:
                p_hwk = multi_scale.probabilities(scores_hwk, how)
                return name, multi_scale.smoothed(p_hwk, image_hwc, how, infer)
            except crf.TooLarge as error:
                raise ValueError(f"{paths[name]}: {error}; scale it down") from None

    yield from threads.each_of(one, found)


def restored(settings: Any, weights_path: str | os.PathLike) -> Callable:
    """images [b,h,w,3] → logits [b,h,w,k]: the network of `settings` with the weights of a file.

    With mode multi_scale: (images, sizes) → what `multi_scale.forward` gives.
    """
    missing = [name for name in ("classes", "model", "predict", "data") if name not in settings]
    if missing:
        raise ValueError(f"the config has no {missing[0]!r}, so it trains no segmenter; want one "
                         "such as configs/semi_voc_unimatch_v2.py")
    parallel.start()
    parallel.set_precision(settings.precision)
    multi_scale.check(settings)
    network = NETWORKS.get(settings.method, student)
    model = network.build_model(settings)
    template = jax.eval_shape(
        functools.partial(network.first_variables, model), jax.random.key(0))
    flat = weights.load(weights_path)
    _check_classes(template, flat, settings.classes, weights_path)
    try:
        variables = jax.device_put(weights.restore(template, flat))
    except ValueError as error:
        raise ValueError(f"{weights_path}: {error}"
                         f"{recognise.hint(flat, settings.model.encoder)}") from None
    forward = functools.partial(network.predict, model)
    if multi_scale.asked(settings):
        forward = multi_scale.forward(model, settings.predict.canvas)
    return functools.partial(jax.jit(forward), variables)


def _check_classes(template: Any, flat: dict, classes: str, weights_path) -> None:
    """ValueError where the weights alone are of another number of classes."""
    wanted = len(read_class_names(classes))
    for name, leaf in weights.flatten(template).items():
        found = flat.get(name, leaf)
        if leaf.shape[-1:] == (wanted,) and found.shape[:-1] == leaf.shape[:-1] and (
                found.shape != leaf.shape):
            raise ValueError(f"{weights_path}: weights for {found.shape[-1]} classes ({name}), but "
                             f"config.classes={classes} names {wanted}")


def _write(out, name, logits_hwk, save):
    """Writes the files of one photo."""
    if "logits" in save:
        with files.atomic(out / f"{name}.npy") as file:
            np.save(file, logits_hwk)
    if "labels" in save:
        label_map.write(out / f"{name}.png", logits_hwk.argmax(axis=-1).astype(np.uint8))


def _claim(out, settings, weights_path, tags):
    """Writes down what the folder's files are made with, or refuses a folder made otherwise."""
    plain = config.to_dict(settings)
    made_with = {name: plain[name] for name in ("classes", "model", "predict")}
    made_with["model"].pop("encoder_weights")
    made_with["mean"], made_with["std"] = plain["data"]["mean"], plain["data"]["std"]
    made_with["weights"] = weights.fingerprint(weights_path)
    made_with["tags"] = files.hash_file(tags) if tags else ""
    files.claim(out / SETTINGS, made_with)


if __name__ == "__main__":
    cli.run(main)
