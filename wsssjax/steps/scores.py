"""The steps that look at true masks: scores of a run, its report, one row of an ablation.

Each function is one kind of step: (config, folder to fill, {input: its folder}). Nothing here is
read by a step that learns.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np

from wsssjax import scoring
from wsssjax.core import config as configs
from wsssjax.core import files, metrics, threads
from wsssjax.data import label_map
from wsssjax.data.classes import read_class_names
from wsssjax.evaluate import label_stats, miou
from wsssjax.report import __main__ as report_command
from wsssjax.steps import sets
from wsssjax.steps.arms import ARMS, chosen_ids, folder_name, label_folder
from wsssjax.steps.labels import where

# What a row of an ablation holds; a value is None where there is no truth, or nothing was trained.
EMPTY_ROW = dict.fromkeys(("supervision", "labelled", "counts", "single_class_share", "label_miou",
                           "pixels", "miou", "iou", "absent", "steps", "wall_s"))


def supervision(config, arm: str) -> str:
    """Letters of what an arm has seen: of both sets of the pair, since their IoU chose its images.

    Arms that do not choose by the IoU have seen the pool alone.
    """
    how = ARMS[arm]
    pair = sets.pair(config)
    used = () if how.labels == "truth" and how.chosen == "all" else (
        pair if how.chosen in ("select", "control_m") else pair[1:])
    return sets.seen(config, *used, encoder=True, full=how.labels == "truth")


def told(config, arms: Sequence[str]) -> dict:
    """What tables say of sets and arms beside their numbers: steps, titles, supervision."""
    return {"sets": {name: list(made) for name, made in sets.folders(config).items()},
            "supervision": {name: supervision(config, name) for name in arms}}


def evaluate(config, out, inputs):
    """All scores of the run as `results.json`; only this step and true-mask arms read the truth."""
    made = sets.folders(config)
    seen = {name: one.seen for name, one in made.items()}
    seen |= {name: supervision(config, name) for name in config.arms}
    results, gallery = scoring.score_run(
        config, inputs, where(inputs["prepare"]), {n: (m.step, m.title) for n, m in made.items()},
        seen, {n: ARMS[n] for n in config.arms}, sets.pair(config))
    files.write_json(out / "gallery.json", gallery)
    files.write_json(out / "results.json", results)


def report(config, out, inputs):
    """`results.json` and `report.html` in the run folder."""
    run_folder = out.parent
    files.write_json(run_folder / "config.json", configs.to_dict(config))
    with files.atomic(run_folder / "results.json") as file:
        file.write((inputs["evaluate"] / "results.json").read_bytes())
    report_command.run(run_folder)


def label_scores(config, out, inputs):
    """`scores.json`: the label sets of the pair against the truth, for the tables of a grid."""
    paths = where(inputs["prepare"])
    names = read_class_names(paths["classes"])
    train = files.read_ids(paths["train"])
    known = scoring.with_truth(paths["truth"], train)
    found, counts = {}, {}
    for name, (step, title, seen) in sets.folders(config).items():
        entry = {"method": title, "supervision": seen}
        if known:
            confusions = miou.folder_confusions(inputs[step], paths["truth"], known, len(names))
            scores = metrics.scores(confusions.sum(0), names)
            entry |= {key: scores[key] for key in ("miou", "fp", "fn", "iou", "absent")}
            counts[name] = label_stats.stats(confusions, names)["histogram"]["counts"]
        found[name] = entry
    files.write_json(out / "scores.json", {
        "sets": found, "histogram": {"edges": list(label_stats.EDGES), "counts": counts},
        "classes": list(names), "train_hash": files.hash_ids(sorted(train)),
        "test_hash": files.hash_ids(sorted(files.read_ids(paths["test"])))})


def row(config, name: str, out, inputs):
    """`row.json`: what an arm was trained on and what it reaches; name: `none` trains nothing."""
    arm = ARMS["S" if name == "none" else name]
    paths = where(inputs["prepare"])
    classes = read_class_names(paths["classes"])
    ids = chosen_ids(config, arm, inputs)
    known = scoring.with_truth(paths["truth"], ids)
    found = EMPTY_ROW | {"labelled": len(ids),
                         "supervision": supervision(config, "S" if name == "none" else name)}
    present_nk = _present(config, label_folder(config, arm, inputs), ids, len(classes))
    found |= {"counts": dict(zip(classes[1:], map(int, present_nk.sum(0)), strict=True)),
              "single_class_share": float((present_nk.sum(1) == 1).mean()) if ids else None}
    if known and len(known) == len(ids):
        counts = miou.folder_confusions(label_folder(config, arm, inputs), paths["truth"], ids,
                                        len(classes))
        counts[..., len(classes)] = 0  # pixels that the labels leave open teach nothing
        found |= {"label_miou": metrics.scores(counts.sum(0), classes)["miou"],
                  "pixels": int(counts.sum())}
    if name != "none":
        found |= _tested(name, paths, classes, inputs)
    files.write_json(out / "row.json", found)


def _present(config, folder: str, ids: list[str], num_classes: int) -> np.ndarray:
    """Which foreground classes each label holds, bool [n, k - 1], as the selection counts them."""
    def one(name):
        label_hw = label_map.read(pathlib.Path(folder) / f"{name}.png", num_classes)
        counts = np.bincount(label_hw.ravel(), minlength=num_classes)
        return counts[1:num_classes] >= config.select.min_area

    return np.array(list(threads.each(one, ids)), bool).reshape(len(ids), num_classes - 1)


def _tested(name: str, paths: dict, classes, inputs) -> dict:
    """Test mIoU of an arm, how many steps it took and how long."""
    trained = inputs[f"arm_{folder_name(name)}"]
    found = {"steps": files.read_json(trained / "hardware.json")["total_steps"],
             "wall_s": files.read_json(trained / "manifest.json")["wall_s"]}
    known = scoring.with_truth(paths["truth"], files.read_ids(paths["test"]))
    if known:
        counts = miou.folder_confusions(inputs[f"test_{folder_name(name)}"], paths["truth"], known,
                                        len(classes)).sum(0)
        scores = metrics.scores(np.asarray(counts), classes)
        found |= {key: scores[key] for key in ("miou", "iou", "absent")}
    return found
