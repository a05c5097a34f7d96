"""Command `python -m wsssjax.select`: which pseudo-labels to trust."""

from __future__ import annotations

import argparse
import pathlib

import numpy as np

from wsssjax.core import cli, files, threads
from wsssjax.core.constants import BACKGROUND
from wsssjax.data import label_map
from wsssjax.data.classes import need_background, read_class_names
from wsssjax.data.tags import read_tags
from wsssjax.select import consensus, iou, quota, store

BATCH = 16  # pairs that an accelerator counts at a time


def pool_ids(first: str, second: str, pool: str, ids: str | None) -> list[str]:
    """The ids to choose from, sorted: those of the list, else those of the pool's labels."""
    folders = {"first": first, "second": second}
    names = sorted(files.read_ids(ids) if ids else label_map.folder_ids(folders[pool]))
    if not names:
        raise ValueError(f"{folders[pool]}: holds no label map; want <id>.png files")
    for folder in folders.values():
        there = set(label_map.folder_ids(folder))
        missing = [name for name in names if name not in there]
        if missing:
            raise ValueError(f"{folder}: holds no label map of {missing[0]!r} ({len(missing)} of "
                             f"{len(names)} ids missing); make them, or pass --ids=LIST")
    return names


def compare(first: str, second: str, ids: list[str], num_classes: int, pool: str = "second",
            label: str = "compare", num_threads: int | None = None):
    """Counts of all pairs and the pool's class areas: (PairCounts of int64 [n, k], int64 [n, k]).
    """
    def read(name):
        first_hw = label_map.read(pathlib.Path(first) / f"{name}.png", num_classes)
        second_hw = label_map.read(pathlib.Path(second) / f"{name}.png", num_classes,
                                   size=first_hw.shape)
        return first_hw, second_hw

    def count(names):
        pairs = [read(name) for name in names]
        counts = iou.count_pairs(pairs, num_classes)
        areas_bk = np.array(counts.second if pool == "second" else counts.first)
        for row_k, pair in zip(areas_bk, pairs, strict=True):
            label_hw = pair[pool == "second"]
            if row_k.sum() != label_hw.size:  # some pixel is open in either map
                row_k[:] = iou.class_areas(label_hw, num_classes)
        return counts, areas_bk

    batch = 1 if iou.on_host() else BATCH
    batches = [ids[i:i + batch] for i in range(0, len(ids), batch)]
    parts = list(threads.each(count, batches, label, threads=num_threads))
    counts = iou.PairCounts(*(np.concatenate(c) for c in zip(*(p[0] for p in parts), strict=True)))
    return counts, np.concatenate([p[1] for p in parts])


def _tag_classes(tags: str, ids: list[str], class_names) -> np.ndarray:
    table = read_tags(tags, class_names)
    missing = [name for name in ids if name not in table]
    if missing:
        raise ValueError(f"{tags}: no tags of {missing[0]!r} ({len(missing)} of {len(ids)} ids "
                         "missing); add them, or use --classes_from=pool")
    return np.array([table[name] > 0 for name in ids], bool)


def _summary(selection, iou_n, quota_k, names, options) -> dict:
    def table(values_k):
        return {name: int(v) for name, v in zip(names, values_k, strict=True)}

    reasons = sorted(set(selection.reason))
    return {
        **options,
        "images": len(iou_n),
        "selected": int(selection.selected.sum()),
        "quota": None if quota_k is None else table(quota_k),
        "taken": table(selection.taken),
        "counts": table(selection.counts),
        "unmet": {n: v for n, v in table(selection.unmet).items() if v},
        "mean_iou": store.mean_ious(iou_n, selection.selected),
        "reasons": {r: selection.reason.count(r) for r in reasons},
    }


def _check(options: dict) -> None:
    for name, words in (("pool", ("first", "second")), ("classes_from", ("pool", "tags"))):
        if options[name] not in words:
            raise ValueError(f"--{name}={options[name]}: want {' or '.join(words)}")
    if options["min_iou"] is not None and not 0 <= options["min_iou"] < 1:
        raise ValueError(f"--min_iou={options['min_iou']}: want a fraction, 0 or more and below 1")
    if options["min_area"] < 1:
        raise ValueError(f"--min_area={options['min_area']}: want 1 pixel or more")
    if options["iou"] not in iou.SCORES:
        raise ValueError(f"--iou={options['iou']}: want one of {', '.join(iou.SCORES)}")


def run(*, first: str, second: str, out: str, quota_spec: str, pool: str = "second",
        ids: str | None = None, kind: str = "foreground", min_iou: float | None = None,
        images: str | None = None, classes: str = "voc", classes_from: str = "pool",
        min_area: int = 1, tags: str | None = None, num_threads: int | None = None) -> dict:
    """Compares two label sets, selects, writes the selection's files, and returns its summary.

    quota_spec: see `quota.read_quota`.  kind: see `iou.image_iou`.  ids: list file.  min_area:
    pixels below which a class does not count as present in the pool's label.
    """
    options = {"pool": pool, "iou": kind, "min_iou": min_iou, "classes_from": classes_from,
               "min_area": min_area}
    _check(options)
    if classes_from == "tags" and not tags:
        raise ValueError("--classes_from=tags: needs --tags=CSV")
    class_names = need_background(read_class_names(classes), "select")
    quota_k = quota.read_quota(quota_spec, class_names)
    names = pool_ids(first, second, pool, ids)
    lines = store.list_lines(names, files.photo_paths(images) if images else None,
                             second if pool == "second" else first)
    counts, areas_nk = compare(first, second, names, len(class_names), pool,
                               num_threads=num_threads)
    if classes_from == "tags":
        classes_nk = _tag_classes(tags, names, class_names)
    else:
        classes_nk = areas_nk[:, BACKGROUND + 1:] >= min_area
    iou_n, empty_n = iou.image_iou(counts, kind)
    selection = consensus.select(names, iou_n, classes_nk, quota_k, min_iou, empty_n)
    foreground = class_names[BACKGROUND + 1:]
    store.write_table(out, ids=names, iou_n=iou_n, selection=selection, class_names=foreground,
                      class_iou_nk=iou.class_ious(counts)[:, BACKGROUND + 1:],
                      classes_nk=classes_nk)
    taken = {name for name, yes in zip(names, selection.selected, strict=True) if yes}
    store.write_lists(out, lines, taken)
    summary = _summary(selection, iou_n, quota_k, foreground, options)
    files.write_json(pathlib.Path(out) / "summary.json", summary)  # last: it marks a whole result
    return summary


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    p = cli.parser("python -m wsssjax.select", __doc__,
                   "python -m wsssjax.select --first=bao --second=mars_sam --quota=voc/183 "
                   "--out=selection")
    add = p.add_argument
    add("--first", required=True, metavar="A", help="folder of label maps of one method")
    add("--second", required=True, metavar="B", help="folder of label maps of another method")
    add("--pool", default="second", help="whose labels are taken: second (default) or first")
    add("--quota", required=True, metavar="Q", help=quota.WANT[5:])
    add("--ids", metavar="LIST", help="text file, one id a line (default: all of the pool)")
    add("--iou", default="foreground", help="foreground (default), mean or mean_bg")
    add("--min_iou", type=float, metavar="X", help="take only labels whose IoU is above X")
    add("--images", metavar="I", help="folder or list of photos, for the paths in the lists "
        "(default: JPEGImages/<id>.jpg)")
    add("--classes", default="voc", help="voc, coco, or a file of class names, background first")
    add("--classes_from", default="pool", help="an image's classes: of its pool label (default), "
        "or its tags")
    add("--min_area", type=int, default=1, metavar="PIXELS",
        help="smaller classes of a pool label do not count as present (default 1)")
    add("--tags", metavar="CSV", help="id,tags; for --classes_from=tags")
    add("--json", metavar="PATH", help="write the summary here too")
    add("--out", required=True, metavar="O", help="folder for selection.parquet, labeled.txt, "
        "unlabeled.txt and summary.json")
    return p


def report(summary: dict):
    """The summary as a table for the terminal."""
    from rich.table import Table

    table = Table(title=f"{summary['selected']:,} of {summary['images']:,} labels selected")
    for column in ("class", "quota", "taken", "in selection"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for name, count in summary["counts"].items():
        want = "–" if summary["quota"] is None else str(summary["quota"][name])
        table.add_row(name, want, str(summary["taken"][name]), str(count))
    means = {k: "–" if v is None else f"{v:.3f}" for k, v in summary["mean_iou"].items()}
    table.caption = (f"mean IoU of the two sets: {means['selected']} selected, "
                     f"{means['rest']} rest")
    if summary["unmet"]:
        table.caption += "; too few images of " + ", ".join(
            f"{name} ({missing} short)" for name, missing in summary["unmet"].items())
    return table


def main(arguments: list[str]) -> None:
    """Runs the command."""
    args = vars(parser().parse_args(arguments))
    to_json = args.pop("json")
    summary = run(quota_spec=args.pop("quota"), kind=args.pop("iou"), **args)
    if to_json:
        files.write_json(to_json, summary)
    from rich.console import Console

    Console().print(report(summary))


if __name__ == "__main__":
    cli.run(main)
