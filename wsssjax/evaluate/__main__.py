"""Command `python -m wsssjax.evaluate`: how good label maps are, or CAM files over thresholds."""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Sequence

from wsssjax.core import cli, files, metrics, threads
from wsssjax.core.config import choose
from wsssjax.data import label_map
from wsssjax.data.classes import need_background, read_class_names
from wsssjax.evaluate import boundary, confusion_ratio, label_stats, miou, sweep

METRICS = ("miou", "boundary", "confusion", "stats", "sweep")
ABSENT = ("skip", "zero")
FLAGS = {"sweep": ("cams", "thresholds", "stop"), "confusion": ("context", "context_classes")}
STOP = "full"


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


def _sweep(cams, truth, ids, class_names, label, thresholds, stop, absent) -> dict:
    values_t = sweep.parse_thresholds(thresholds)
    counts = sweep.folder_counts(cams, truth, ids, values_t, len(class_names), label)
    return sweep.scores(counts, values_t, class_names, stop=stop, absent=absent)


def _check(names: Sequence[str], labels, absent: str, flags: dict) -> None:
    """ValueError for what has no meaning. flags: those of one metric, None where not given."""
    for name in names:
        if name not in METRICS:
            raise ValueError(f"--metrics: {name!r} is unknown; there are {', '.join(METRICS)}")
    if not names:
        raise ValueError(f"--metrics: names none; there are {', '.join(METRICS)}")
    if absent not in ABSENT:
        raise ValueError(f"--absent={absent}: want {' or '.join(ABSENT)}")
    of_labels = [name for name in names if name != "sweep"]
    if of_labels and not labels:
        raise ValueError(f"--metrics={of_labels[0]}: needs --labels=DIR")
    if "sweep" in names and not flags["cams"]:
        raise ValueError("--metrics=sweep: needs --cams=DIR")
    if "confusion" in names and not (flags["context"] and flags["context_classes"]):
        raise ValueError("--metrics=confusion: needs --context=DIR and --context_classes=FILE")
    for metric, own in FLAGS.items():
        given = [name for name in own if flags[name] is not None]
        if given and metric not in names:
            raise ValueError(f"--{given[0]}: is for {metric}; add it to "
                             f"--metrics={','.join(names)}, or leave the flag out")
    if flags["thresholds"] is not None:
        sweep.parse_thresholds(flags["thresholds"])
    if flags["stop"] is not None:
        choose(sweep.STOPS, flags["stop"], "--stop")


def run(*, truth: str, labels: str | None = None, cams: str | None = None,
        ids: str | Sequence[str] | None = None, metrics_wanted: Sequence[str] = ("miou",),
        classes: str = "voc", absent: str = "skip", context: str | None = None,
        context_classes: str | None = None, thresholds: str | None = None,
        stop: str | None = None, progress: bool = True) -> dict:
    """Scores of a folder of label maps or CAM files, fractions 0..1, as one dict without paths.

    labels, truth, context: folders of label maps.  cams: folder of CAM files, for "sweep".
    ids: list file or ids; None: all of `labels`, else of `cams`.
    metrics_wanted: of "miou" (adds "miou", "iou", "absent", "accuracy", "precision", "recall"),
    "boundary", "confusion", "stats" and "sweep" (each adds its own key).  absent: "skip" leaves
    classes out that are in neither map and names them; "zero" counts them as 0.
    thresholds, stop: see `sweep.parse_thresholds` and `sweep.STOPS`; of "sweep", as cams is, and
    refused without it.
    """
    _check(metrics_wanted, labels, absent, {
        "cams": cams, "thresholds": thresholds, "stop": stop, "context": context,
        "context_classes": context_classes})
    class_names = read_class_names(classes)
    context_names = read_class_names(context_classes) if context_classes else ()
    if "sweep" in metrics_wanted:
        need_background(class_names, "--metrics=sweep")
    wanted = files.read_ids(ids) if isinstance(ids, str) else ids
    names = miou.scored_ids(labels, truth, wanted) if labels else wanted
    if "sweep" in metrics_wanted:
        names = sweep.scored_ids(cams, truth, names)
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
                                         "context" if progress else "", context, context_names)
    if "sweep" in metrics_wanted:
        result["sweep"] = _sweep(cams, truth, names, class_names, "sweep" if progress else "",
                                 thresholds or sweep.THRESHOLDS, stop or STOP, absent)
    return result


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    p = cli.parser("python -m wsssjax.evaluate", __doc__,
                   "python -m wsssjax.evaluate --labels=out/labels --truth=SegmentationClass "
                   "--ids=val.txt\n"
                   "  python -m wsssjax.evaluate --cams=out/cams --truth=SegmentationClass "
                   "--json=out/cams/sweep.json")
    add = p.add_argument
    add("--labels", metavar="D", help="folder of label maps to score")
    add("--cams", metavar="D", help="folder of CAM files, for sweep")
    add("--truth", required=True, metavar="G", help="folder of true label maps")
    add("--ids", metavar="LIST", help="text file, one id a line (default: all of --labels, or of "
        "--cams)")
    add("--metrics", help=f"of {','.join(METRICS)} (default miou; sweep with --cams alone)")
    add("--thresholds", metavar="A:B:STEP", help="sweep: scores of the "
        f"background, a pixel is a class above it (default {sweep.THRESHOLDS})")
    add("--stop", help="sweep: which thresholds the best one is chosen from, "
        f"{', '.join(sweep.STOPS)} (default {STOP})")
    add("--context", metavar="DIR", help="folder of context label maps, for confusion")
    add("--context_classes", metavar="FILE", help="names of the context classes, 0 first")
    add("--classes", default="voc", help="voc, coco, cityscapes, ade20k, or a "
        "file of class names, background first")
    add("--absent", default="skip", help="classes in neither map: skip (default) or zero")
    add("--json", metavar="PATH", help="write the scores here; the report shows a sweep.json that "
        "lies in a run's folder or in that of a step")
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
        table.caption = f"pixel accuracy {percent(result['accuracy'])} %"
        if result["absent"]:
            table.caption += "; in neither labels nor truth: " + ", ".join(result["absent"])
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
    if "sweep" in result:
        yield _sweep_table(result["sweep"], percent)
    if "stats" in result:
        stats = result["stats"]
        yield (f"labels: {percent(stats['single_class'])} % with one class, "
               f"{percent(stats['empty'])} % with none, mean quality {percent(stats['quality'])} %")


def _sweep_table(found: dict, percent):
    """A row for every tenth or so of the thresholds, and for the best one."""
    from rich.table import Table

    best, thresholds = found["best"], found["thresholds"]
    table = Table(title=f"mIoU {percent(best['miou'])} % at the threshold {best['threshold']:g}, "
                  f"the best of {found['tried']} ({found['stop']})")
    for column in ("threshold", "mIoU", "FP", "FN", "precision", "recall"):
        table.add_column(column, justify="right")
    step = max(1, (len(thresholds) - 1) // 10)
    for i, threshold in enumerate(thresholds):
        chosen = threshold == best["threshold"]
        if i % step == 0 or chosen:
            table.add_row(f"{threshold:g}", *(percent(found[name][i]) for name in sweep.CURVES),
                          style="bold" if chosen else None)
    highest = max(found["miou"])
    if highest > best["miou"]:
        table.caption = (f"not tried by this rule: {percent(highest)} % at "
                         f"{thresholds[found['miou'].index(highest)]:g}")
    return table


def main(arguments: list[str]) -> None:
    """Runs the command."""
    args = vars(parser().parse_args(arguments))
    to_json, wanted = args.pop("json"), args.pop("metrics")
    if wanted is None:
        wanted = "sweep" if args["cams"] and not args["labels"] else "miou"
    wanted = [name for name in wanted.split(",") if name]
    result = run(metrics_wanted=wanted, **args)
    if to_json:
        files.write_json(to_json, result)
    from rich.console import Console

    console = Console()
    for part in report(result):
        console.print(part)


if __name__ == "__main__":
    cli.run(main)
