"""The steps that make label maps, from the data set to the choice of those to trust.

Each function is one kind of step: (config, folder to fill, {input: its folder}).
"""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Callable
from typing import NamedTuple

from wsssjax import predict, train
from wsssjax.cam import __main__ as cam_command
from wsssjax.cam import saliency as saliency_maps
from wsssjax.core import files, threads
from wsssjax.data import label_map
from wsssjax.data import prepare as prepare_data
from wsssjax.data.classes import read_class_names
from wsssjax.refine import __main__ as refine_command
from wsssjax.refine import propose as propose_masks
from wsssjax.select import __main__ as select_command

# Which weights of a training make the label maps, where it is not the student of the last step.
EXPORTS = {"bao": "weights_ema.safetensors"}


def where(prepared: pathlib.Path) -> dict[str, str]:
    """Paths that the step `prepare` left: photos, truth, saliency, context, tags, classes, …"""
    paths = files.read_json(prepared / "paths.json")
    return {name: path and str(prepared / path) for name, path in paths.items()}


def prepare(config, out, inputs):
    """Makes or checks the data set, packs it, and leaves the paths of its parts."""
    prepare_data.for_recipe(config.data, out)


def saliency(config, out, inputs):
    """A saliency map per training photo, by a detector that knows nothing of the data set."""
    saliency_maps.saliency_folder(where(inputs["prepare"])["train_photos"], out)


def train_cam(config, out, inputs):
    """A classifier that localises."""
    paths = where(inputs["prepare"])
    with config.unlocked():
        config.classes = paths["classes"]
        config.data.packed, config.data.split = paths["packed"], "train"
        if config.method == "eps":
            made = inputs.get("saliency")
            config.data.saliency = str(made) if made else paths["saliency"]
    train.train(config, out)


def infer_cam(config, weights: str, out, inputs):
    """The classifier's label maps of the training photos.

    weights: file or folder of finished weights; "" takes those of the step that trained it.
    """
    paths = where(inputs["prepare"])
    if not weights:
        trained = next(path for name, path in inputs.items() if name.startswith("cam_"))
        weights = trained / EXPORTS.get(config.method, "weights.safetensors")
    with config.unlocked():
        config.classes = paths["classes"]
    cam_command.run(config, weights, paths["train_photos"], paths["tags"], out, save=("labels",))


def given(labels: str, out, inputs):
    """A copy of finished label maps of the training photos, each of them read."""
    paths = where(inputs["prepare"])
    ids = files.read_ids(paths["train"])
    files.need_ids(ids, label_map.folder_ids(labels), labels, "make them, or name another folder")
    num_classes = len(read_class_names(paths["classes"]))

    def copy(name):
        source = pathlib.Path(labels) / f"{name}.png"
        label_map.read(source, num_classes)
        with files.atomic(out / source.name) as file:
            file.write(source.read_bytes())

    for _ in threads.each(copy, ids, "copying labels"):
        pass


def propose(config, out, inputs):
    """Class-agnostic masks of the training photos."""
    propose_masks.run(images=where(inputs["prepare"])["train_photos"], out=str(out),
                      **config.proposals)


def given_proposals(folder: str, out, inputs):
    """A copy of finished proposals of the training photos."""
    ids = files.read_ids(where(inputs["prepare"])["train"])
    folder = pathlib.Path(folder)
    files.need_ids(ids, {p.name.removesuffix(".json.gz") for p in folder.glob("*.json.gz")},
                   folder, "make them with tools/propose_masks.py")
    for name in ids:
        with files.atomic(out / f"{name}.json.gz") as file, \
                open(folder / f"{name}.json.gz", "rb") as source:
            shutil.copyfileobj(source, file)


def crf(config, labels: str, out, inputs):
    """Label maps after a dense CRF."""
    paths = where(inputs["prepare"])
    refine_command.run(method="crf", labels=str(inputs[labels]), images=paths["train_photos"],
                       classes=paths["classes"], out=str(out), **config.crf)


def merge(config, labels: str, out, inputs):
    """Label maps with the proposals merged in."""
    classes = where(inputs["prepare"])["classes"]
    refine_command.run(method="sam", labels=str(inputs[labels]), classes=classes,
                       proposals=str(inputs["proposals"]), out=str(out), **config.merge)


def debias(config, labels: str, out, inputs):
    """MARS's label maps: 255 where they paint what no object looks like."""
    paths = where(inputs["prepare"])
    own = config.mars.debias.copy_and_resolve_references()
    with own.unlocked():
        own.classes = paths["classes"]
    refine_command.run(method="mars", labels=str(inputs[labels]), images=paths["train_photos"],
                       tags=paths["tags"], classes=paths["classes"], config=own, out=str(out))


def train_mars(config, labels: str, debiased: str, out, inputs):
    """MARS's segmenter, whose teacher gives back what debiasing took too much."""
    paths = where(inputs["prepare"])
    pairs = out / "labels.txt"
    with files.atomic(pairs, "w") as file:
        file.writelines(f"{photo} {inputs[labels] / name}.png\n" for name, photo
                        in files.photo_paths(paths["train_photos"]).items())
    own = _mars_segmenter(config, paths)
    with own.unlocked():
        own.data.root, own.data.labeled = "", str(pairs)
        own.data.debiased, own.data.tags = str(inputs[debiased]), paths["tags"]
    train.train(own, out)


def mars_labels(config, trained: str, out, inputs):
    """The label maps of MARS's teacher, of the tagged classes alone."""
    paths = where(inputs["prepare"])
    predict.run(_mars_segmenter(config, paths), inputs[trained] / "weights_ema.safetensors",
                paths["train_photos"], out, tags=paths["tags"])


def _mars_segmenter(config, paths: dict):
    own = config.mars.segmenter.copy_and_resolve_references()
    with own.unlocked():
        own.classes = paths["classes"]
    return own


class Link(NamedTuple):
    """One way to refine label maps. run: (config, labels=, out=, inputs=); None where it takes
    several steps, as order.py has them.  inputs: steps beside `prepare` and the labels.  field: of
    the recipe's config, where its settings stand.  title: for tables."""

    run: Callable | None
    inputs: tuple[str, ...]
    field: str
    title: str


LINKS = {"crf": Link(crf, (), "crf", "CRF"),
         "mars": Link(None, (), "mars", "MARS"),
         "sam": Link(merge, ("proposals",), "merge", "proposals")}


def select(config, pair: tuple[str, str], refined: tuple[str, ...], out, inputs):
    """Algorithm 1: the labels to trust. pair: steps of the first set and of the pool."""
    paths = where(inputs["prepare"])
    options = dict(config.select)
    options["min_iou"] = options["min_iou"] or None
    first, pool = (str(inputs[step]) for step in pair)
    select_command.run(first=first, second=pool, out=str(out), images=paths["train_photos"],
                       classes=paths["classes"], ids=paths["train"],
                       refined=[str(inputs[step]) for step in refined], **options)
