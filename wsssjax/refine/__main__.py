"""Command `python -m wsssjax.refine`: label maps → better label maps."""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Sequence

from wsssjax.core import cli, files, threads
from wsssjax.data import label_map
from wsssjax.data.classes import need_background, read_class_names
from wsssjax.refine import proposals, sam_merge

WORDS = {"true": True, "false": False, "rule": None}


def sam(*, labels: str, proposal_folder: str | None, out: str, ids: list[str], num_classes: int,
        merge: str = "max_iou_imp2", coverage: str = "sequential",
        keep_uncovered: bool | None = None, area_cap: float | None = None,
        label: str = "merge with masks") -> None:
    """Writes every label map merged with its masks; see `sam_merge.merge` for the options."""
    if not proposal_folder:
        raise ValueError("--method=sam: needs --proposals=P; tools/propose_masks.py makes them")
    if area_cap is not None and not 0 < area_cap <= 1:
        raise ValueError(f"--area_cap={area_cap}: want a fraction of the image, above 0, at most 1")
    sam_merge.check(merge, coverage)
    proposals.check_all(proposal_folder, ids)

    def one(name):
        label_hw = label_map.read(pathlib.Path(labels) / f"{name}.png", num_classes)
        masks_mhw = proposals.read(proposal_folder, name, label_hw.shape)
        merged_hw = sam_merge.merge(label_hw, masks_mhw, merge, coverage=coverage,
                                    keep_uncovered=keep_uncovered, area_cap=area_cap)
        label_map.write(pathlib.Path(out) / f"{name}.png", merged_hw)

    for _ in threads.each(one, ids, label, chunk=1):
        pass


METHODS = {"sam": sam}


def run(*, method: str, labels: str, out: str, ids: str | Sequence[str] | None = None,
        classes: str = "voc", **options) -> dict:
    """Refines a folder of label maps into another and returns {"images", "method"}.

    ids: list file or ids; None: all of `labels`.  options: of the method, such as
    `proposal_folder` and `merge` of "sam".
    """
    if method not in METHODS:
        raise ValueError(f"--method={method}: not there; there is {', '.join(METHODS)}")
    if pathlib.Path(out).resolve() == pathlib.Path(labels).resolve():
        raise ValueError(f"--out={out}: holds the labels themselves; name another folder")
    wanted = files.read_ids(ids) if isinstance(ids, str) else ids
    there = label_map.folder_ids(labels)
    names = there if wanted is None else list(wanted)
    missing = sorted(set(names) - set(there))
    if missing:
        raise ValueError(f"{labels}: holds no label map of {missing[0]!r} ({len(missing)} of "
                         f"{len(names)} ids missing)")
    METHODS[method](labels=labels, out=out, ids=names,
                    num_classes=len(need_background(read_class_names(classes), "refine")),
                    **options)
    return {"images": len(names), "method": method}


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    p = cli.parser("python -m wsssjax.refine", __doc__,
                   "python -m wsssjax.refine --method=sam --labels=mars --proposals=proposals "
                   "--out=mars_sam")
    add = p.add_argument
    add("--method", required=True, help=f"one of: {', '.join(METHODS)}")
    add("--labels", required=True, metavar="D", help="folder of label maps")
    add("--images", metavar="I", help="folder or list of photos; sam needs none")
    add("--proposals", metavar="P", help="folder of <id>.json.gz, or of folders <id>/ of PNG masks")
    add("--merge", default="max_iou_imp2", help=f"sam: {', '.join(sam_merge.RULES)} "
        "(default max_iou_imp2)")
    add("--coverage", default="sequential", help="sam: masks that wipe labels which they do not "
        "take: sequential (default, the unclaimed ones) or all")
    add("--keep_uncovered", default="rule", choices=tuple(WORDS),
        help="sam: labels outside all masks stay (default: as the merge rule says)")
    add("--area_cap", type=float, metavar="X", help="sam: leave out masks over this part of the "
        "image (default: none)")
    add("--ids", metavar="LIST", help="text file, one id a line (default: all of --labels)")
    add("--classes", default="voc", help="voc, coco, or a file of class names, background first")
    add("--json", metavar="PATH", help="write the result here")
    add("--out", required=True, metavar="O", help="folder for the refined label maps")
    return p


def main(arguments: list[str]) -> None:
    """Runs the command."""
    args = parser().parse_args(arguments)
    result = run(method=args.method, labels=args.labels, out=args.out, ids=args.ids,
                 classes=args.classes, proposal_folder=args.proposals, merge=args.merge,
                 coverage=args.coverage, keep_uncovered=WORDS[args.keep_uncovered],
                 area_cap=args.area_cap)
    if args.json:
        files.write_json(args.json, result)
    print(f"{args.out}: {result['images']} label maps")


if __name__ == "__main__":
    cli.run(main)
