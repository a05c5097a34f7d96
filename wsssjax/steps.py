"""The steps of the recipe that every `train` config with arms runs, and the order they stand in.

    prepare ┬ cam_a ─ labels_a ───────────────────────────────┐
            ├ saliency ─ cam_b ─ labels_b ┬ … ─ labels_b_plus ┴ select ─ control_m ─┐
            └ proposals ──────────────────┘                                         │
      ┌─────────────────────────────────────────────────────────────────────────────┘
      └ arm_s ─ test_s, arm_m ─ test_m, … ─ evaluate ─ report

Each function below is one kind of step: (config, folder to fill, {input: its folder}). How the
labels of B are refined, `config.refine` says: one step a link, the last is called labels_b_plus.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from wsssjax import predict, recipe, scoring, train
from wsssjax.cam import __main__ as cam_command
from wsssjax.cam import saliency as saliency_maps
from wsssjax.core import config as configs
from wsssjax.core import files, parallel
from wsssjax.data import prepare as prepare_data
from wsssjax.data.classes import read_class_names
from wsssjax.refine import __main__ as refine_command
from wsssjax.refine import propose as propose_masks
from wsssjax.report import __main__ as report_command
from wsssjax.select import __main__ as select_command
from wsssjax.select import control


class Arm(NamedTuple):
    """A training of the segmenter. labels: a label set, or the truth.  chosen: which images are
    labelled, by Algorithm 1 (`select`), its matched random control, or all.  method: the trainer.
    """

    labels: str
    chosen: str
    method: str


ARMS = {
    "S": Arm("labels_b_plus", "select", "unimatch_v2"),
    "M": Arm("labels_b_plus", "control_m", "unimatch_v2"),
    "ALL": Arm("labels_b_plus", "all", "supervised"),
    "T": Arm("truth", "select", "unimatch_v2"),
    "S-sup": Arm("labels_b_plus", "select", "supervised"),
}


def folder_name(arm: str) -> str:
    """`s_sup` for the arm `S-sup`."""
    return arm.lower().replace("-", "_")


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
        if "saliency" in config.data:
            made = inputs.get("saliency")
            config.data.saliency = str(made) if made else paths["saliency"]
    train.train(config, out)


def infer_cam(config, out, inputs):
    """The classifier's label maps of the training photos."""
    paths = where(inputs["prepare"])
    weights = next(path for name, path in inputs.items() if name.startswith("cam_"))
    with config.unlocked():
        config.classes = paths["classes"]
    cam_command.run(config, weights, paths["train_photos"], paths["tags"], out, save=("labels",))


def propose(config, out, inputs):
    """Class-agnostic masks of the training photos."""
    propose_masks.run(images=where(inputs["prepare"])["train_photos"], out=str(out),
                      **config.proposals)


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


class Link(NamedTuple):
    """One way to refine. run: (config, labels=, out=, inputs=).  inputs: beside the labels.
    field: of the recipe's config, where its settings stand.  title: for tables."""

    run: Callable
    inputs: tuple[str, ...]
    field: str
    title: str


LINKS = {"crf": Link(crf, (), "crf", "CRF"),
         "sam": Link(merge, ("proposals",), "merge", "proposals")}


def chain(names: Sequence[str]) -> list[tuple[str, str, Link]]:
    """(step that is refined, step that does it, link) for each name in `config.refine`."""
    if not names:
        raise ValueError(f"config.refine is empty; want one or more of {', '.join(LINKS)}")
    out, before = [], "labels_b"
    for place, name in enumerate(names):
        link = configs.choose(LINKS, name, "config.refine")
        if name in names[:place]:
            raise ValueError(f"config.refine={tuple(names)}: names {name!r} twice")
        own = "labels_b_plus" if place == len(names) - 1 else f"labels_b_{name}"
        out.append((before, own, link))
        before = own
    return out


def stable(config) -> tuple[str, ...]:
    """The steps whose labels say how stable those of B+ are, where the score asks for that."""
    if config.select.score != "quality":
        return ()
    return tuple(before for before, _, _ in chain(config.refine))


def select(config, out, inputs):
    """Algorithm 1: the labels to trust."""
    paths = where(inputs["prepare"])
    select_command.run(first=str(inputs["labels_a"]), second=str(inputs["labels_b_plus"]),
                       out=str(out), images=paths["train_photos"], classes=paths["classes"],
                       ids=paths["train"], refined=[str(inputs[s]) for s in stable(config)],
                       **config.select)


def draw_control(config, out, inputs):
    """The matched random draw."""
    control.run(selection=str(inputs["select"]), out=str(out), seed=config.seed)


def train_arm(config, arm: Arm, out, inputs):
    """One training of the segmenter: writes the lists of the arm, then trains."""
    paths = where(inputs["prepare"])
    labels = paths["truth"] if arm.labels == "truth" else str(inputs[arm.labels])
    photos = files.photo_paths(paths["train_photos"])
    chosen = set(photos)
    if arm.chosen != "all":
        lines = (inputs[arm.chosen] / "labeled.txt").read_text(encoding="utf-8").splitlines()
        chosen = {pathlib.Path(line.split()[0]).stem for line in lines if line}
    for name, wanted in (("labeled", True), ("unlabeled", False)):
        lines = [f"{photo} {labels}/{name_}.png\n" for name_, photo in photos.items()
                 if (name_ in chosen) == wanted]
        with files.atomic(out / f"{name}.txt", "w") as file:
            file.writelines(lines)
    with config.unlocked():
        config.method, config.classes, config.data.root = arm.method, paths["classes"], ""
        config.data.labeled = str(out / "labeled.txt")
        config.data.unlabeled = str(out / "unlabeled.txt")
        if "cam_b" in inputs:
            config.model.encoder_weights = str(inputs["cam_b"] / "weights.safetensors")
    train.train(config, out)


def test_arm(config, arm_name: str, out, inputs):
    """The label maps of the test photos, by the student of the last step."""
    paths = where(inputs["prepare"])
    weights = inputs[f"arm_{folder_name(arm_name)}"]
    with config.unlocked():
        config.classes = paths["classes"]
    predict.run(config, weights / "weights.safetensors", paths["test_photos"], out,
                save=("labels",))


def evaluate(config, out, inputs):
    """All scores of the run as `results.json`; only this step and arm T read the truth."""
    seen = "I+S"  # tags and saliency; superpixels and CRF know nothing
    sets = {"A": ("labels_a", config.cam_a.method), "B": ("labels_b", config.cam_b.method)}
    for _, step, link in chain(config.refine):
        title = f"{list(sets.values())[-1][1]} + {link.title}"
        sets["B+" if step == "labels_b_plus" else f"B {link.title}"] = (step, title)
    supervision = {name: "I" if name == "A" else seen for name in sets}
    arms = {name: ARMS[name] for name in config.arms}
    supervision |= {n: f"{seen}+F" if arm.labels == "truth" else seen for n, arm in arms.items()}
    results, gallery = scoring.score_run(config, inputs, where(inputs["prepare"]), sets,
                                         supervision, arms)
    files.write_json(out / "gallery.json", gallery)
    files.write_json(out / "results.json", results)


def report(config, out, inputs):
    """`results.json` and `report.html` in the run folder."""
    run_folder = out.parent
    files.write_json(run_folder / "config.json", configs.to_dict(config))
    with files.atomic(run_folder / "results.json") as file:
        file.write((inputs["evaluate"] / "results.json").read_bytes())
    report_command.run(run_folder)


def _plain(config, *names: str) -> dict:
    """The named fields of the recipe's config as JSON values: what a step depends on."""
    whole = configs.to_dict(config)
    return {name: whole[name] for name in names}


def _ids(workdir: pathlib.Path, split: str) -> list[str]:
    """The ids of a split, once `prepare` is done."""
    return files.read_ids(workdir / "prepare" / f"{split}.txt")


def build(config, workdir: pathlib.Path) -> list[recipe.Step]:
    """The recipe's steps in their order."""
    seed = ("seed",)

    def part(name):
        return config[name].copy_and_resolve_references()

    def step(name, function, inputs=(), fields=(), batch=0, **more):
        # Each run gets a copy of its own: a step fills in paths that nothing else may see.
        def call(out, folders):
            function(out=out, inputs=folders)

        ids = functools.partial(_ids, workdir, "test" if name.startswith("test_") else "train")
        return recipe.Step(name, call, inputs, _plain(config, *fields), ids, batch, **more)

    bind = functools.partial
    ours = config.saliency.source == "mbd"
    first, second = ("prepare",), ("prepare", "saliency") if ours else ("prepare",)
    out = [step("prepare", bind(prepare, config), (), ("data", "classes", *seed))]
    if ours:
        out.append(step("saliency", bind(saliency, config), first, ("saliency",)))
    for name, inputs in (("a", first), ("b", second)):
        cam = f"cam_{name}"
        batch = config[cam].device_batch
        out.append(step(cam, bind(train_cam, part(cam)), inputs, (cam, *seed), batch))
        out.append(step(f"labels_{name}", bind(infer_cam, part(cam)), ("prepare", cam), (cam,)))
    out += [
        step("proposals", bind(propose, config), first, ("proposals",)),
        *(step(own, bind(link.run, config, before), ("prepare", before, *link.inputs),
               (link.field,)) for before, own, link in chain(config.refine)),
        step("select", bind(select, config),
             ("prepare", "labels_a", "labels_b_plus", *stable(config)), ("select",)),
        step("control_m", bind(draw_control, config), ("select",), seed),
    ]
    for name in config.arms:
        arm = configs.choose(ARMS, name, "config.arms")
        chosen = () if arm.chosen == "all" else (arm.chosen,)
        labels = () if arm.labels == "truth" else (arm.labels,)
        encoder = ("cam_b",) if config.segmenter_encoder == "cam_b" else ()
        own = folder_name(name)
        out.append(step(f"arm_{own}", bind(train_arm, part("segmenter"), arm),
                        ("prepare", *labels, *chosen, *encoder), ("segmenter", *seed),
                        config.segmenter.device_batch))
        out.append(step(f"test_{own}", bind(test_arm, part("segmenter"), name),
                        ("prepare", f"arm_{own}"), ("segmenter",)))
    before = tuple(s.name for s in out)
    out.append(step("evaluate", bind(evaluate, config), before, ("title", "arms", "report", *seed),
                    derived=True))
    out.append(step("report", bind(report, config), ("evaluate",), derived=True,
                    outputs=("results.json", "report.html")))
    return out


def run_recipe(config, workdir: pathlib.Path, *, redo: tuple[str, ...] = ()) -> None:
    """Runs what is missing of the recipe and prints its table."""
    workdir.mkdir(parents=True, exist_ok=True)
    names = read_class_names(config.classes)
    steps = build(config, workdir)
    context = recipe.Context(workdir, names, config.seed, parallel.device_count())
    todo = recipe.run(steps, context, redo=redo, say=lambda t: print(t, flush=True))
    if not todo:
        print("nothing to do: every step is done and unchanged")
    from rich.console import Console

    from wsssjax.report import tables

    for table in tables.render(files.read_json(workdir / "results.json")):
        Console().print(table)
    print(f"report: {workdir / 'report.html'}")
