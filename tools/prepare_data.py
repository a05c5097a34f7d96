"""Command: checks a data set and packs it as array_record files, or makes its label maps."""

from __future__ import annotations

import argparse
import pathlib

from wsssjax.core import cli, files
from wsssjax.core.progress import track
from wsssjax.data import ade20k, classes, coco_masks, prepare, records

ABOUT = """Checks a data set (every photo, mask and saliency map is opened) and packs it.

voc     JPEGImages/, SegmentationClass/ and/or SegmentationClassAug/, lists in ImageSets/
        Segmentation/ or beside them (train.txt, train_aug.txt, val.txt, test.txt), tags.csv or
        Annotations/, saliency/
folder  your own photos: images/ (or right in the folder), tags.csv with the header `id,tags`
        (class names separated by `;`, or one 0/1 per class), classes.txt with one name a line,
        background first or left out; masks/, saliency/ and lists as above if you have them
coco    the same with COCO's classes, or the tree as published, of 2014 or 2017: train2014/,
        val2014/, annotations/instances_train2014.json, annotations/instances_val2014.json; images
        without any annotation are left out (82,081 and 40,137 are left of 2014)
coco_masks
        nothing is packed: the things in COCO-Stuff's ROOT/stuffthingmaps/ (of stuffthingmaps_
        trainval2017.zip) become label maps ROOT/masks/<id>.png of the photos in ROOT/train2014/,
        val2014/, train2017/, val2017/ or images/ (stuff -> 0 background, unlabelled -> 255); what
        is there already is kept
ade20k  nothing is packed: ROOT/annotations/{training,validation}/*.png of ADEChallengeData2016 are
        written to ROOT/annotations_shifted/ as label maps (0 = other -> 255, class k -> k - 1);
        what is there already is kept

What the other commands want of a packed set is written beside the pack: tags.csv (for --tags) and
for each list, as train, train.txt (for --ids) and train_photos.txt (for --images).
"""
KINDS = (*records.PHOTO_FOLDERS, "coco_masks", "ade20k")
PACK_FLAGS = ("out", "split", "classes", "tags", "tags_from_masks", "with_truth")


def main(arguments: list[str]) -> None:
    """Runs the command."""
    parser = cli.parser(
        "prepare_data.py", ABOUT,
        "python tools/prepare_data.py voc --root=VOCdevkit/VOC2012 --split=train_aug,val",
    )
    parser.add_argument("kind", metavar="|".join(KINDS))
    parser.add_argument("--root", required=True, help="folder of the data set")
    parser.add_argument("--out", default="", help="folder for the pack (default: ROOT/packed)")
    parser.add_argument("--split", default="", help="lists to take, by comma (default: all known)")
    parser.add_argument("--classes", default="", help="voc, coco or a file of class names")
    parser.add_argument("--tags", default="", help="CSV file of tags, or COCO's instances JSON "
                        "(default: ROOT/tags.csv)")
    parser.add_argument("--tags_from_masks", default="",
                        help="lists whose tags are taken from the true masks, by comma")
    parser.add_argument("--with_truth", action="store_true",
                        help="store the true masks too; not for a pack that trains")
    parser.add_argument("--redo", action="store_true",
                        help="replace a pack of other files, or the label maps that are there")
    parser.add_argument("--json", default="", help="file for the result")
    flags = parser.parse_args(arguments)
    if flags.kind not in KINDS:
        raise ValueError(f"data set kind {flags.kind!r}: want one of {', '.join(KINDS)}")
    {"ade20k": _shift, "coco_masks": _coco_masks}.get(flags.kind, _pack)(flags)


def _unpacked(flags: argparse.Namespace, make) -> dict:
    """What `make` counts; flags of packing are refused."""
    for name in PACK_FLAGS:
        if getattr(flags, name):
            raise ValueError(f"--{name}: nothing is packed of {flags.kind}; leave it out")
    result = make(flags.root, redo=flags.redo)
    if flags.json:
        files.write_json(flags.json, result)
    return result


def _coco_masks(flags: argparse.Namespace) -> None:
    for folder, counts in _unpacked(flags, coco_masks.convert_tree).items():
        made = counts["images"] - counts["without_map"]
        print(f"{folder}: {made} masks of {counts['images']} photos, {counts['already_there']} of "
              f"them already there, {counts['without_map']} photos without a map")
    print(f"written to {pathlib.Path(flags.root, coco_masks.TARGET)}")


def _shift(flags: argparse.Namespace) -> None:
    result = _unpacked(flags, ade20k.shift_tree)
    for split, counts in result.items():
        print(f"{split}: {counts['images']} annotations shifted, "
              f"{counts['already_there']} of them already there")
    print(f"written to {pathlib.Path(flags.root, ade20k.SHIFTED)}; lists of a training must name "
          f"{ade20k.SHIFTED}/ in place of {ade20k.OFFICIAL}/")


def _pack(flags: argparse.Namespace) -> None:
    if flags.classes:
        classes.need_background(classes.read_class_names(flags.classes),
                                f"--classes={flags.classes}")
    out = pathlib.Path(flags.out or pathlib.Path(flags.root) / "packed")
    _check_out(out, flags)
    problems: list[str] = []
    data = records.collect(
        flags.kind, flags.root, splits=_names(flags.split), classes=flags.classes,
        tag_file=flags.tags, tags_from_masks=_names(flags.tags_from_masks), tell=problems.append,
    )
    prepare.check(data, problems.append, track=track)
    result = {
        "classes": list(data.class_names), "splits": prepare.summary(data), "pack": "",
        "problem_count": len(problems), "problems": problems[: prepare.PROBLEM_LIMIT],
    }
    if not problems:
        folder = prepare.pack(data, flags.kind, out, with_truth=flags.with_truth, redo=flags.redo)
        result["pack"] = str(folder)
        prepare.write_lists(data, out)
    if flags.json:
        files.write_json(flags.json, result)
    prepare.raise_problems(problems, out, listed=flags.json)
    for split, counts in result["splits"].items():
        print(f"{split}: {counts['images']} images, {counts['tags']} with tags, "
              f"{counts['label']} with a mask, {counts['saliency']} with saliency")
    print(f"packed into {result['pack']}")


def _check_out(out: pathlib.Path, flags: argparse.Namespace) -> None:
    """ValueError where the lists and tags that are written would replace those that are read."""
    read = [pathlib.Path(flags.root, folder) for folder in records.LIST_FOLDERS]
    read += [pathlib.Path(flags.tags).parent] if flags.tags else []
    if out.resolve() in (folder.resolve() for folder in read):
        raise ValueError(f"--out={out}: its lists or tags are read, and tags.csv and the lists of "
                         "the pack would replace them; name another folder")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


if __name__ == "__main__":
    cli.run(main)
