"""Scores of a whole recipe: label sets, selection, arms; what `results.json` holds.

Everything here reads true masks, and nothing here is read by a step that learns.
"""

from __future__ import annotations

import pathlib

import numpy as np

from wsssjax.core import files, logs, metrics
from wsssjax.data import label_map
from wsssjax.data.classes import read_class_names
from wsssjax.evaluate import __main__ as evaluate_command
from wsssjax.evaluate import label_stats, miou, saliency_error
from wsssjax.select import store

SCENERY = ("train/rails", "boat/water")  # pairs that co-occur by design in the generated photos


def chosen_ids(folder: pathlib.Path) -> list[str]:
    """The ids of a `labeled.txt`."""
    lines = (folder / "labeled.txt").read_text(encoding="utf-8").splitlines()
    return [pathlib.Path(line.split()[0]).stem for line in lines if line.strip()]


def with_truth(truth: str, ids: list[str]) -> list[str]:
    """The ids that have a true mask; truth: a folder, "" where there are no masks at all."""
    there = set(label_map.folder_ids(truth)) if truth else set()
    return [name for name in ids if name in there]


def score_run(config, folders: dict[str, pathlib.Path], paths: dict[str, str],
              sets: dict[str, tuple[str, str]], supervision: dict, arms: dict,
              pair: tuple[str, str]) -> tuple[dict, dict]:
    """(results, gallery): all scores as fractions 0..1, and the ids that the report shows.

    folders: of the recipe's steps by name.  paths: see `steps.labels.where`.  sets: label sets A,
    B, …, B+ as name → (step, method).  supervision: what each label set and each arm has seen, `I`
    tags, `S` saliency, `F` masks.  arms: name → steps.arms.Arm.  pair: the sets that were compared,
    the pool last.  What has no true masks is not scored.
    """
    class_names = read_class_names(paths["classes"])
    train = files.read_ids(paths["train"])
    known = with_truth(paths["truth"], train)
    if len(known) < len(train):  # scores over some of the images would not tell about all
        known = []
    confusions = {name: miou.folder_confusions(folders[folder], paths["truth"], train,
                                               len(class_names)) if known else None
                  for name, (folder, _) in sets.items()}
    results = {
        "title": config.title,
        "data": config.data.kind,
        "classes": list(class_names),
        "seed": config.seed,
        "images": {"train": len(train), "test": len(files.read_ids(paths["test"]))},
        "pair": list(pair),
        "labels": _labels(sets, confusions, class_names, supervision),
        "selection": selection_scores(folders["select"], folders["control_m"], train,
                                      confusions[pair[1]], class_names),
        "arms": {name: _arm(config, name, arm, folders, paths, supervision)
                 for name, arm in arms.items()},
    }
    if known:
        results["histogram"] = _histogram(confusions, class_names)
    if paths["context"] and known:
        results["context"] = _context(sets, folders, paths, train)
    saliency = folders.get("saliency") or paths["saliency"]
    if saliency and known:
        results["saliency"] = saliency_error.folder_scores(saliency, paths["truth"], train)
    return results, _gallery(config, folders, paths)


def _labels(sets, confusions, class_names, supervision):
    out = {}
    for name, counts in confusions.items():
        out[name] = {"method": sets[name][1], "supervision": supervision[name]}
        if counts is not None:
            found = metrics.scores(counts.sum(0), class_names)
            out[name] |= {key: found[key] for key in ("miou", "fp", "fn", "iou", "absent")}
    return out


def _histogram(confusions, class_names):
    stats = {name: label_stats.stats(c, class_names)["histogram"] for name, c in confusions.items()}
    return {"edges": list(label_stats.EDGES),
            "counts": {name: found["counts"] for name, found in stats.items()}}


def selection_scores(select: pathlib.Path, control: pathlib.Path, ids: list[str],
                     pool_nkk: np.ndarray | None, class_names) -> dict:
    """How good the chosen labels of the pool are beside the rest and beside the random draw.

    select, control: folders that the selection and its matched random draw wrote.  pool_nkk: the
    pool's confusion matrices with the truth, in the order of `ids`; None: without a truth, what the
    selection itself tells.
    """
    summary = files.read_json(select / "summary.json")
    told = {
        "count": summary["selected"], "quota": summary["quota"], "taken": summary["taken"],
        "counts": summary["counts"], "unmet": summary["unmet"],
        "random_count": len(chosen_ids(control)), "mean_iou": summary["mean_iou"],
    }
    if pool_nkk is None:
        return told
    position = {name: i for i, name in enumerate(ids)}
    selected = [position[name] for name in chosen_ids(select)]
    drawn = [position[name] for name in chosen_ids(control)]
    rest = sorted(set(range(len(ids))) - set(selected))

    def score(rows):
        return metrics.scores(pool_nkk[rows].sum(0), class_names)["miou"] if rows else None

    return told | {
        "selected_miou": score(selected), "rest_miou": score(rest), "random_miou": score(drawn),
        "all_miou": score(list(range(len(ids)))),
        "single_class_share": label_stats.stats(pool_nkk[selected], class_names)["single_class"],
        "quality_correlation": _spearman(select, position, pool_nkk),
    }


def _spearman(select, position, pool_nkk) -> float | None:
    """Rank correlation of the score with the true quality of the pool's labels."""
    table = store.read_table(select)
    quality = np.array([label_stats.image_quality(pool_nkk[position[i]]) for i in table["id"]])
    ranks = [metrics.ranks(values) for values in (np.array(table["iou"], np.float64), quality)]
    if min(r.std() for r in ranks) == 0:
        return None
    return float(np.corrcoef(*ranks)[0, 1])


def _arm(config, name, arm, folders, paths, supervision):
    own = name.lower().replace("-", "_")
    class_names = read_class_names(paths["classes"])
    rows = logs.read_metrics(folders[f"arm_{own}"] / "metrics.jsonl")
    ratio = [[row["step"], row["train/mask_ratio"]] for row in rows if "train/mask_ratio" in row]
    out = {"method": config.segmenter.method if arm.learns == "semi" else arm.learns,
           "supervision": supervision[name],
           "labelled": len(chosen_ids(folders[f"arm_{own}"])), "mask_ratio": ratio}
    ids = with_truth(paths["truth"], files.read_ids(paths["test"]))
    if ids:
        counts = miou.folder_confusions(folders[f"test_{own}"], paths["truth"], ids,
                                        len(class_names))
        found = metrics.scores(counts.sum(0), class_names)
        out |= {key: found[key] for key in ("miou", "iou", "absent")} | {"scored": len(ids)}
    return out


def _context(sets, folders, paths, train):
    """Per label set and pair of SCENERY the scenery mislabelled as the class, over its hits."""
    out = {}
    for name, (folder, _) in sets.items():
        found = evaluate_command.run(
            labels=str(folders[folder]), truth=paths["truth"], ids=train, progress=False,
            metrics_wanted=("confusion",), classes=paths["classes"], context=paths["context"],
            context_classes=paths["context_classes"])
        pairs = {f"{row['class']}/{row['context']}": row for row in found["confusion"]}
        out[name] = {pair: {"ratio": pairs[pair]["ratio"], "iou": pairs[pair]["iou"]}
                     for pair in SCENERY if pair in pairs}
    return out


def _gallery(config, folders, paths):
    """Best, worst and borderline pairs by the IoU of A and B+; empty pairs show nothing."""
    table = store.read_table(folders["select"])
    count = config.report.gallery
    order = sorted(range(len(table["id"])), key=lambda i: (-table["iou"][i], table["id"][i]))
    order = [i for i in order if table["classes"][i]] or order
    chosen = [n for n, i in enumerate(order) if table["selected"][i]]
    edge = max(0, min((chosen[-1] if chosen else len(order) // 2) - count // 2,
                      len(order) - count))
    rows = {"best": order[:count], "worst": order[-count:][::-1],
            "borderline": order[edge:edge + count]}
    photo = next(iter(files.photo_paths(paths["train_photos"]).values()))
    return {"image_root": str(photo.parent), "truth_root": paths["truth"],
            **{name: [table["id"][i] for i in found] for name, found in rows.items()}}
