"""Command `python -m wsssjax.select`: which pseudo-labels to trust."""

from __future__ import annotations

import argparse
import sys
import time

from wsssjax.core import cli, files
from wsssjax.select import blocks, quota, scores
from wsssjax.select.run import load_libraries, run


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
    add("--iou", help="foreground (default), mean, mean_bg, or worst (of its classes; default of "
        "--score=quality)")
    add("--score", default="paper", help="what ranks the labels: paper (the IoU, default), "
        "consensus, quality, or classes (few first)")
    add("--with", action="append", default=[], dest="methods", metavar="DIR", help="label maps of "
        "one more method, for --score=consensus or quality, or --keep=pixels; repeat it")
    add("--refined", action="append", default=[], metavar="DIR", help="the pool's label maps "
        "before or after merging or a CRF, for --score=quality; repeat it")
    add("--min_iou", type=float, metavar="X", help="take only labels whose IoU is above X; "
        "with --keep=classes only classes whose IoU is")
    add("--images", metavar="I", help="folder or list of photos, for the paths in the lists "
        "(default: JPEGImages/<id>.jpg)")
    add("--classes", default="voc", help="voc, coco, or a file of class names, background first")
    add("--classes_from", default="pool", help="an image's classes: of its pool label (default), "
        "or its tags")
    add("--min_area", type=int, default=1, metavar="PIXELS",
        help="smaller classes of a pool label do not count as present (default 1)")
    add("--tags", metavar="CSV", help="id,tags; for --classes_from=tags")
    add("--keep", default="whole", help="of a selected label: whole (default), classes (every "
        "class takes its best labels, the rest is left open) or pixels (with which no set "
        "disagrees; what another leaves open stays)")
    add("--out_labels", metavar="HOW", help="copy or link the selected labels into OUT/labels")
    add("--json", metavar="PATH", help="write the summary here too")
    add = p.add_argument_group("many images").add_argument
    add("--shard", metavar="i/n", help="only score the i-th of n parts (i from 0) into OUT/scores")
    add("--merge_shards", metavar="OUT1,OUT2,…", help="take the scores of all parts "
        "from these folders and select; nothing is scored")
    add("--executor", default="threads", help="threads of this machine (default), or ray: the "
        "cluster at RAY_ADDRESS, else one on this machine")
    add("--block", type=int, default=blocks.BLOCK, metavar="N",
        help=f"images a score file, what a cluster shares out (default {blocks.BLOCK})")
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
    if args["merge_shards"] is not None:
        args["merge_shards"] = [f for f in args["merge_shards"].split(",") if f]
    others = scores.Others(tuple(args["methods"]), tuple(args["refined"]))
    scores.check_used(args["score"], args["keep"], others, args["iou"])
    load_libraries()
    start = time.perf_counter()  # the first file is opened from here on
    summary = run(quota_spec=args.pop("quota"), kind=args.pop("iou"), **args)
    if args["shard"]:
        if to_json:
            files.write_json(to_json, summary)
        print(f"shard {summary['shard']}: {summary['blocks']} of {summary['of']} blocks are scored "
              f"in {args['out']}; when all parts are, select with --merge_shards=OUT1,OUT2,…")
        return
    took = time.perf_counter() - start
    for warning in summary["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    if to_json:
        files.write_json(to_json, summary)
    from rich.console import Console

    Console().print(report(summary))
    print(f"{args['out']}: {summary['images']:,} pairs in {took:.2f} s")


if __name__ == "__main__":
    cli.run(main)
