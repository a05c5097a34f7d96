"""Arms: trainings of the segmenter that differ in which images are labelled, by what, and how.

Every arm has the same config, number of steps, batch and seed, and its last student is tested.
Where the config counts passes over the unlabelled photos, they are those of arm S.
Each function below is one kind of step: (config, folder to fill, {input: its folder}).
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from wsssjax import predict, train
from wsssjax.core import files
from wsssjax.core.constants import IGNORE
from wsssjax.data import label_map, records
from wsssjax.evaluate import submission
from wsssjax.select import control, store
from wsssjax.semi import probe, probe_features, views
from wsssjax.steps import sets
from wsssjax.steps.labels import where


class Arm(NamedTuple):
    """labels: pool or truth.  chosen: the step that chose the labelled images, all or listed.
    learns: semi, from the other images too, or supervised.  What each is called in tables stands in
    report/tables.py.
    """

    labels: str
    chosen: str
    learns: str


ARMS = {
    "S": Arm("pool", "select", "semi"),
    "M": Arm("pool", "control_m", "semi"),
    "Q": Arm("pool", "control_q", "semi"),
    "U": Arm("pool", "control_u", "semi"),
    "L": Arm("pool", "listed", "semi"),
    "ALL": Arm("pool", "all", "supervised"),
    "T": Arm("truth", "select", "semi"),
    "Tall": Arm("truth", "all", "supervised"),
    "S-sup": Arm("pool", "select", "supervised"),
}
DRAWS = {"control_m": "matched", "control_q": "quota", "control_u": "uniform"}
SUPERVISED = {"probe": "probe_supervised"}  # its twin for labelled images alone; else `supervised`


def folder_name(arm: str) -> str:
    """`s_sup` for the arm `S-sup`."""
    return arm.lower().replace("-", "_")


def check_truth(config, prepared: pathlib.Path) -> None:
    """ValueError where an arm learns from true masks that are not there."""
    wants = [name for name in config.arms if ARMS[name].labels == "truth"]
    paths = where(prepared)
    there = set(label_map.folder_ids(paths["truth"])) if wants and paths["truth"] else set()
    lacking = [name for name in files.read_ids(paths["train"]) if name not in there]
    if wants and lacking:
        raise ValueError(f"{config.data.root}: no true mask of training photo {lacking[0]!r} "
                         f"({len(lacking)} lack one), which arm {wants[0]} learns from; add masks, "
                         "or leave the arm out of config.arms")


def draw(config, kind: str, out, inputs):
    """A random draw beside the selection; kind: see `control.DRAWS`."""
    control.run(selection=str(inputs["select"]), out=str(out), seed=config.segmenter.seed,
                kind=kind)


def settings(config, arm: Arm, inputs: dict):
    """The segmenter's config with the arm's trainer, the classes and the encoder in it."""
    own = config.segmenter.copy_and_resolve_references()
    with own.unlocked():
        own.classes = where(inputs["prepare"])["classes"]
        if arm.learns == "supervised":
            own.method = SUPERVISED.get(own.method, "supervised")
            own.data.tags = ""  # those of unlabelled photos
        elif config.segmenter_tags:
            own.data.tags = where(inputs["prepare"])["tags"]
        if config.segmenter_encoder == "cam_b":
            made = inputs.get("cam_b")
            own.model.encoder_weights = (str(made / "weights.safetensors") if made
                                         else config.given.cam_b)
        if is_probe(own) and not own.probe.features:
            # All arms share them; they belong to the photos, and so lie with these.
            kind = files.hash_value(probe_features.made_with(own))
            own.probe.features = str(inputs["prepare"] / f"features-{kind[:8]}")
    return own


def is_probe(own) -> bool:
    """Whether a training's config is a probe's, which sees features and no photos."""
    return own.method in (*SUPERVISED, *SUPERVISED.values())


def label_folder(config, arm: Arm, inputs: dict) -> str:
    """Where the labels of the arm's labelled images lie."""
    if arm.labels == "truth":
        return where(inputs["prepare"])["truth"]
    if arm.chosen == "select" and config.select.keep != "whole":
        return str(inputs["select"] / "labels")
    return str(inputs[sets.STEPS[sets.pair(config)[1]]])


def chosen_ids(config, arm: Arm, inputs: dict) -> list[str]:
    """The ids of the arm's labelled images, in their order; thinned as config.labelled says."""
    ids = files.read_ids(where(inputs["prepare"])["train"])
    if arm.chosen == "listed":
        wanted = set(listed_ids(config, ids))
    elif arm.chosen != "all":
        lines = (inputs[arm.chosen] / store.LABELED).read_text(encoding="utf-8").splitlines()
        wanted = {pathlib.Path(line.split()[-1]).stem for line in lines if line}
    else:
        wanted = set(ids)
    found = [name for name in ids if name in wanted]
    return thinned(found, config.labelled, config.segmenter.seed,
                   label_folder(config, arm, inputs))


def listed_ids(config, train_ids: Sequence[str]) -> list[str]:
    """The ids of arm L's list: one a line, or '<photo> <label>' as UniMatch's splits have them."""
    found = [name for name, _, _ in records.read_list(pathlib.Path(config.listed))]
    files.need_ids(found, set(train_ids), config.listed, "want ids of the training images")
    return found


def thinned(ids: list[str], limits, seed: int, labels: str) -> list[str]:
    """At most limits.images of the ids, or as many as reach limits.pixels, drawn at random.

    limits: 0 is no limit.  pixels: those with a label, of the maps in `labels`; the image that
    reaches the number is the last.  With it sets of different size can be compared at equal size.
    """
    if not limits.images and not limits.pixels:
        return ids
    kept, pixels = set(), 0
    for i in np.random.default_rng(seed).permutation(len(ids)):
        full = limits.images and len(kept) >= limits.images
        if full or (limits.pixels and pixels >= limits.pixels):
            break
        kept.add(ids[i])
        pixels += labelled_pixels(labels, ids[i]) if limits.pixels else 0
    return [name for name in ids if name in kept]


def labelled_pixels(labels: str, name: str) -> int:
    """Pixels of a label map that are not open."""
    return int((label_map.read(pathlib.Path(labels) / f"{name}.png", IGNORE) != IGNORE).sum())


def train_arm(config, arm: Arm, out, inputs):
    """One training of the segmenter: writes the lists of the arm, then trains."""
    check_truth(config, inputs["prepare"])
    paths = where(inputs["prepare"])
    labels = label_folder(config, arm, inputs)
    chosen = set(chosen_ids(config, arm, inputs))
    photos = files.photo_paths(paths["train_photos"])
    if arm.learns == "semi" and len(chosen) == len(photos):
        raise ValueError(f"config.select.quota_spec={config.select.quota_spec}: all {len(photos)} "
                         "training photos are labelled, and this arm learns from others, too; "
                         "lower the quota, or take arm ALL")
    for name, wanted in (("labeled", True), ("unlabeled", False)):
        lines = [f"{photo} {labels}/{name_}.png\n" for name_, photo in photos.items()
                 if (name_ in chosen) == wanted]
        with files.atomic(out / f"{name}.txt", "w") as file:
            file.writelines(lines)
    own = settings(config, arm, inputs)
    with own.unlocked():
        own.data.root = ""
        own.data.labeled, own.data.unlabeled = str(out / "labeled.txt"), str(out / "unlabeled.txt")
        own.total_steps = own.total_steps or _steps(config, own, inputs, out / "rest_of_s.txt")
    train.train(own, out)


def _steps(config, own, inputs: dict, path: pathlib.Path) -> int:
    """Steps of every arm where the config counts passes: those of arm S over its unlabelled photos.

    path: where the list of these is written.
    """
    photos = files.photo_paths(where(inputs["prepare"])["train_photos"])
    chosen = set(chosen_ids(config, ARMS["S"], inputs))
    with files.atomic(path, "w") as file:
        file.writelines(f"{photo}\n" for name, photo in photos.items() if name not in chosen)
    like = own.copy_and_resolve_references()
    with like.unlocked():
        like.data.unlabeled = str(path)
    return views.with_total_steps(like, unlabelled=True).total_steps


def test_arm(config, name: str, out, inputs):
    """The label maps of the test photos, by the student of the last step."""
    paths = where(inputs["prepare"])
    _label(config, name, inputs, paths["test_photos"], out)


def _label(config, name: str, inputs: dict, photos, out) -> None:
    """Label maps of photos by an arm's last student."""
    weights = inputs[f"arm_{folder_name(name)}"] / "weights.safetensors"
    own = settings(config, ARMS[name], inputs)
    if is_probe(own):
        probe.predict_folder(own, weights, photos, out)
    else:
        predict.run(own, weights, photos, out, save=("labels",))


def submit(config, name: str, out, inputs):
    """The archive that the VOC test server takes: labels of config.submission's photos."""
    how = config.submission
    ids, there = files.read_ids(how.ids), files.photo_paths(how.photos)
    files.need_ids(ids, there, how.photos, "want the photos of VOC's test set")
    photos = out / "photos.txt"
    with files.atomic(photos, "w") as file:
        file.writelines(f"{there[name_].absolute()}\n" for name_ in ids)
    _label(config, name, inputs, photos, out / "labels")
    submission.pack(str(out / "labels"), ids, str(out / "results.tgz"), how.challenge, "test",
                    images=str(photos))
