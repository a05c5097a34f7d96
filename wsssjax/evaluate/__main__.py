"""Command `python -m wsssjax.evaluate`: how good label maps are."""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Sequence

from wsssjax.core import cli, files, metrics, threads
from wsssjax.data import label_map
from wsssjax.data.classes import read_class_names
from wsssjax.evaluate import boundary, confusion_ratio, label_stats, miou

METRICS = ("miou", "boundary", "confusion", "stats")
ABSENT = ("skip", "zero")


def _boundary(labels, truth, ids, class_names, label) -> dict:
    def count(name):
        return boundary.count_edges(*miou.read_pair(labels, truth, name, len(class_names)))

    return boundary.scores(list(threads.each(count, ids, label)))


def _confusion(labels, truth, ids, class_names, label, context, context_names) -> list[dict]:
    def count(name):
        label_hw, truth_hw = miou.read_pair(labels, truth, name, len(class_names))
        context_hw = label_map.read(pathlib.Path(context) / f"{name}.png", len(context_names),
                                    size=truth_hw.shape)
        return confusion_ratio.count_pairs(label_hw, truth_hw, context_hw, len(class_names),
                                           len(context_names))

    counts = sum(threads.each(count, ids, label))
    return confusion_ratio.scores(counts, context_names, class_names)


def _check(names: Sequence[str], absent: str, context, context_classes) -> None:
    for name in names:
        if name not in METRICS:
            raise ValueError(f"--metrics: {name!r} is unknown; there are {', '.join(METRICS)}")
    if not names:
        raise ValueError(f"--metrics: names none; there are {', '.join(METRICS)}")
    if absent not in ABSENT:
        raise ValueError(f"--absent={absent}: want {' or '.join(ABSENT)}")
    if "confusion" in names and not (context and context_classes):
        raise ValueError("--metrics=confusion: needs --context=DIR and --context_classes=FILE")


def run(*, labels: str, truth: str, ids: str | Sequence[str] | None = None,
        metrics_wanted: Sequence[str] = ("miou",), classes: str = "voc", absent: str = "skip",
        context: str | None = None, context_classes: str | None = None,
        progress: bool = True) -> dict:
    """Scores of a folder of label maps, fractions 0..1, as one dict without paths.

    labels, truth, context: folders of label maps.  ids: list file or ids; None: all of `labels`.
    metrics_wanted: of "miou" (adds "miou", "iou", "absent", "accuracy", "precision", "recall"),
    "boundary", "confusion" and "stats" (each adds its own key).  absent: "skip" leaves classes out
    that are in neither map and names them; "zero" counts them as 0.
    """
    _check(metrics_wanted, absent, context, context_classes)
    class_names = read_class_names(classes)
    wanted = files.read_ids(ids) if isinstance(ids, str) else ids
    names = miou.scored_ids(labels, truth, wanted)
    result = {"images": len(names)}
    if {"miou", "stats"} & set(metrics_wanted):
        label = "confusion matrix" if progress else ""
        counts = miou.folder_confusions(labels, truth, names, len(class_names), label)
        if "miou" in metrics_wanted:
            result |= metrics.scores(counts.sum(0), class_names, absent)
        if "stats" in metrics_wanted:
            result["stats"] = label_stats.stats(counts, class_names)
    if "boundary" in metrics_wanted:
        result["boundary"] = _boundary(labels, truth, names, class_names,
                                       "boundaries" if progress else "")
    if "confusion" in metrics_wanted:
        result["confusion"] = _confusion(labels, truth, names, class_names,
                                         "context" if progress else "", context,
                                         read_class_names(context_classes))
    return result


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    p = cli.parser("python -m wsssjax.evaluate", __doc__,
                   "python -m wsssjax.evaluate --labels=out/labels --truth=SegmentationClass "
                   "--ids=val.txt")
    add = p.add_argument
    add("--labels", required=True, metavar="D", help="folder of label maps to score")
    add("--truth", required=True, metavar="G", help="folder of true label maps")
    add("--ids", metavar="LIST", help="text file, one id a line (default: all of --labels)")
    add("--metrics", default="miou", help=f"of {','.join(METRICS)} (default miou)")
    add("--context", metavar="DIR", help="folder of context label maps, for confusion")
    add("--context_classes", metavar="FILE", help="names of the context classes, 0 first")
    add("--classes", default="voc", help="voc, coco, cityscapes, ade20k, or a "
        "file of class names, background first")
    add("--absent", default="skip", help="classes in neither map: skip (default) or zero")
    add("--json", metavar="PATH", help="write the scores here")
    return p


def report(result: dict):
    """The scores as tables for the terminal, one after the other."""
    from rich.table import Table

    def percent(value):
        return "–" if value is None else f"{100 * value:.2f}"

    if "miou" in result:
        table = Table(title=f"mIoU {percent(result['miou'])} % over {result['images']:,} images "
                      f"(FP {percent(result['fp'])}, FN {percent(result['fn'])})")
        for column in ("class", "IoU", "precision", "recall"):
            table.add_column(column, justify="left" if column == "class" else "right")
        for name, value in result["iou"].items():
            table.add_row(name, percent(value), percent(result["precision"].get(name)),
                          percent(result["recall"].get(name)))
        if result["absent"]:
            table.caption = "in neither labels nor truth: " + ", ".join(result["absent"])
        yield table
    if "boundary" in result:
        table = Table("tolerance (of the diagonal)", "recall", "precision", "F1",
                      title="boundary, a class-agnostic proxy")
        for tolerance, row in result["boundary"].items():
            table.add_row(tolerance, *(percent(row[k]) for k in ("recall", "precision", "f1")))
        yield table
    if "confusion" in result:
        table = Table("class", "context", "FP/TP", "IoU", "images", title="confusion with scenery")
        for row in result["confusion"]:
            ratio = "–" if row["ratio"] is None else f"{row['ratio']:.3f}"
            table.add_row(row["class"], row["context"], ratio, percent(row["iou"]),
                          str(row["images"]))
        yield table
    if "stats" in result:
        stats = result["stats"]
        yield (f"labels: {percent(stats['single_class'])} % with one class, "
               f"{percent(stats['empty'])} % with none, mean quality {percent(stats['quality'])} %")


def main(arguments: list[str]) -> None:
    """Runs the command."""
    args = vars(parser().parse_args(arguments))
    to_json = args.pop("json")
    wanted = [name for name in args.pop("metrics").split(",") if name]
    result = run(metrics_wanted=wanted, **args)
    if to_json:
        files.write_json(to_json, result)
    from rich.console import Console

    console = Console()
    for part in report(result):
        console.print(part)


if __name__ == "__main__":
    cli.run(main)
