"""Scores of a whole recipe: label sets, selection, arms; what `results.json` holds.

Everything here reads true masks, and nothing here is read by a step that learns.
"""

from __future__ import annotations

import pathlib

import numpy as np

from wsssjax.core import files, logs, metrics
from wsssjax.data.classes import read_class_names
from wsssjax.evaluate import __main__ as evaluate_command
from wsssjax.evaluate import label_stats, miou, saliency_error
from wsssjax.select import store

SCENERY = ("train/rails", "boat/water")  # pairs that co-occur by design in the generated photos


def chosen_ids(folder: pathlib.Path) -> list[str]:
    """The ids of a `labeled.txt`."""
    lines = (folder / "labeled.txt").read_text(encoding="utf-8").splitlines()
    return [pathlib.Path(line.split()[0]).stem for line in lines if line.strip()]


def score_run(config, folders: dict[str, pathlib.Path], paths: dict[str, str],
              sets: dict[str, tuple[str, str]], supervision: dict,
              arms: dict) -> tuple[dict, dict]:
    """(results, gallery): all scores as fractions 0..1, and the ids that the report shows.

    folders: of the recipe's steps by name.  paths: see `steps.where`.  sets: label sets A, B, …, B+
    as name → (step, method).  supervision: what each label set and each arm has seen, `I` tags,
    `S` saliency, `F` masks.  arms: name → steps.Arm.
    """
    class_names = read_class_names(paths["classes"])
    train = files.read_ids(paths["train"])
    confusions = {name: miou.folder_confusions(folders[folder], paths["truth"], train,
                                               len(class_names))
                  for name, (folder, _) in sets.items()}
    results = {
        "title": config.title,
        "data": config.data.kind,
        "classes": list(class_names),
        "seed": config.seed,
        "images": {"train": len(train), "test": len(files.read_ids(paths["test"]))},
        "labels": _labels(sets, confusions, class_names, supervision),
        "histogram": _histogram(confusions, class_names),
        "selection": selection_scores(folders["select"], folders["control_m"], train,
                                      confusions["B+"], class_names),
        "arms": {name: _arm(config, name, arm, folders, paths, supervision)
                 for name, arm in arms.items()},
    }
    if paths["context"]:
        results["context"] = _context(sets, folders, paths, train)
    saliency = folders.get("saliency") or paths["saliency"]
    if saliency:
        results["saliency"] = saliency_error.folder_scores(saliency, paths["truth"], train)
    return results, _gallery(config, folders, paths)


def _labels(sets, confusions, class_names, supervision):
    out = {}
    for name, counts in confusions.items():
        found = metrics.scores(counts.sum(0), class_names)
        out[name] = {"method": sets[name][1], "supervision": supervision[name],
                     **{key: found[key] for key in ("miou", "fp", "fn", "iou", "absent")}}
    return out


def _histogram(confusions, class_names):
    stats = {name: label_stats.stats(c, class_names)["histogram"] for name, c in confusions.items()}
    return {"edges": stats["A"]["edges"],
            "counts": {name: found["counts"] for name, found in stats.items()}}


def selection_scores(select: pathlib.Path, control: pathlib.Path, ids: list[str],
                     pool_nkk: np.ndarray, class_names) -> dict:
    """How good the chosen labels of the pool are beside the rest and beside the random draw.

    select, control: folders that the selection and its matched random draw wrote.  pool_nkk: the
    pool's confusion matrices with the truth, in the order of `ids`.
    """
    summary = files.read_json(select / "summary.json")
    position = {name: i for i, name in enumerate(ids)}
    selected = [position[name] for name in chosen_ids(select)]
    drawn = [position[name] for name in chosen_ids(control)]
    rest = sorted(set(range(len(ids))) - set(selected))

    def score(rows):
        return metrics.scores(pool_nkk[rows].sum(0), class_names)["miou"] if rows else None

    return {
        "count": summary["selected"], "quota": summary["quota"], "taken": summary["taken"],
        "counts": summary["counts"], "unmet": summary["unmet"],
        "selected_miou": score(selected), "rest_miou": score(rest), "random_miou": score(drawn),
        "all_miou": score(list(range(len(ids)))),
        "random_count": len(drawn),
        "single_class_share": label_stats.stats(pool_nkk[selected], class_names)["single_class"],
        "mean_iou": summary["mean_iou"],
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
    ids = files.read_ids(paths["test"])
    counts = miou.folder_confusions(folders[f"test_{own}"], paths["truth"], ids, len(class_names))
    found = metrics.scores(counts.sum(0), class_names)
    rows = logs.read_metrics(folders[f"arm_{own}"] / "metrics.jsonl")
    ratio = [[row["step"], row["train/mask_ratio"]] for row in rows if "train/mask_ratio" in row]
    return {"method": arm.method, "supervision": supervision[name],
            "labelled": len(chosen_ids(folders[f"arm_{own}"])), "miou": found["miou"],
            "iou": found["iou"], "absent": found["absent"], "mask_ratio": ratio}


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
