"""Command `python -m wsssjax.refine`: label maps → better label maps."""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Sequence

from wsssjax.core import cli, cluster, config, files
from wsssjax.data import label_map
from wsssjax.data.classes import need_background, read_class_names
from wsssjax.refine import affinity, affinity_data, crf, difference, mars_folder, sam_merge
from wsssjax.refine.merge_folder import merge_folder

WORDS = {"true": True, "false": False, "rule": None}

# What each method takes beside --ids, --classes and --out; what it cannot do without stands first.
NEEDS = {
    "crf": (("images",), ("labels", "cams")),
    "confidences": (("cams", "images"), ()),
    "affinity": (("cams", "images", "config", "weights"), ()),
    "sam": (("labels", "proposals"), ()),
    "difference": (("labels", "advice", "images", "config", "weights"), ()),
    "mars": (("labels", "images", "tags", "config"), ()),
}
OPTIONS = {
    "crf": ("preset", "iterations", "gt_prob", "alpha", "scope", "label_count", "save", "device",
            "memory_gb", "min_confidence", "executor"),
    "confidences": ("low_alpha", "high_alpha", "memory_gb", "executor"),
    "affinity": ("save", "border"),
    "sam": ("merge", "coverage", "keep_uncovered", "area_cap", "explain", "report", "images",
            "executor"),
    "difference": ("tags", "bias", "background_bias", "maps"),
    "mars": ("weights", "report", "memory_gb"),
}


def _crf(names, class_names, options):
    crf.run(ids=names, num_classes=len(class_names), **options)


def _confidences(names, class_names, options):
    affinity_data.write_confidences(ids=names, **options)


def _affinity(names, class_names, options):
    affinity.run(ids=names, **options)


def _sam(names, class_names, options):
    options.pop("images", None)  # so that one script can sweep methods; masks come from files
    return merge_folder(ids=names, num_classes=len(class_names), class_names=class_names,
                        proposal_folder=options.pop("proposals"), **options)


def _difference(names, class_names, options):
    return difference.run(ids=names, **options)


def _mars(names, class_names, options):
    return mars_folder.run(ids=names, **options)


METHODS = {"crf": _crf, "confidences": _confidences, "affinity": _affinity, "sam": _sam,
           "difference": _difference, "mars": _mars}
FOLDERS = ("labels", "cams", "advice", "images", "proposals")  # what results must not land in
WITH_CLASSES = ("affinity", "difference", "mars")  # these read the class names themselves


def run(*, method: str, out: str, ids: str | Sequence[str] | None = None, classes: str = "voc",
        **options) -> dict:
    """Refines a folder of label maps (or CAM files) into another; {"images", "method", …}.

    ids: list file or ids; None: all that the folder of labels or of CAM files holds.
    options: `labels` or `cams` and whatever NEEDS and OPTIONS list of the method.
    """
    config.choose(METHODS, method, "--method")
    options = {name: value for name, value in options.items() if value is not None}
    _check_flags(method, options)
    cluster.check(options.get("executor", "threads"))
    source = options.get("labels", options.get("cams"))
    files.outside(out, "--out", **{name: options.get(name) for name in FOLDERS})
    names = _ids(source, ids, ".png" if "labels" in options else ".npz", method)
    class_names = need_background(read_class_names(classes), "refine")
    if method in WITH_CLASSES:
        options["classes"] = classes
    found = METHODS[method](names, class_names, {"out": out, **options})
    return {"images": len(names), "method": method, **(found or {})}


def _check_flags(method: str, options: dict) -> None:
    """ValueError for a flag that the method lacks, or does not know."""
    needs, one_of = NEEDS[method]
    for name in needs:
        if name not in options:
            cure = "; tools/propose_masks.py makes them" if name == "proposals" else ""
            raise ValueError(f"--method={method}: needs --{name}{cure}")
    if one_of and sum(name in options for name in one_of) != 1:
        raise ValueError(f"--method={method}: needs one of {', '.join(f'--{n}' for n in one_of)}")
    for name in options:
        if name not in (*needs, *one_of, *OPTIONS[method]):
            takes = ", ".join(f"--{n}" for n in (*needs, *one_of, *OPTIONS[method]))
            raise ValueError(f"--method={method}: does not take --{name}; it takes {takes}")


def _ids(folder: str, ids: str | Sequence[str] | None, suffix: str, method: str) -> list[str]:
    """The ids to refine, each with its file in `folder`."""
    wanted = files.read_ids(ids) if isinstance(ids, str) else ids
    what = "label map" if suffix == ".png" else "CAM file"
    scores = sorted(p.stem for p in pathlib.Path(folder).glob("*.npz"))
    if suffix == ".npz":
        there = scores
    elif method == "difference" and scores:  # takes both
        there = sorted({*scores, *(p.stem for p in pathlib.Path(folder).glob("*.png"))})
    else:
        there = label_map.folder_ids(folder)
    if not there:
        raise ValueError(f"{folder}: holds no {what}; want <id>{suffix}")
    names = there if wanted is None else list(wanted)
    missing = sorted(set(names) - set(there))
    if missing:
        raise ValueError(f"{folder}: holds no {what} of {missing[0]!r} ({len(missing)} of "
                         f"{len(names)} ids missing)")
    return names


def parser() -> argparse.ArgumentParser:
    """The command's flags; those that are not given are left out of the result."""
    p = cli.parser("python -m wsssjax.refine", __doc__,
                   "python -m wsssjax.refine --method=crf --labels=mars --images=JPEGImages "
                   "--out=mars_crf")
    p.argument_default = argparse.SUPPRESS
    add = p.add_argument
    add("--method", required=True, help=f"one of: {', '.join(METHODS)}")
    add("--labels", metavar="D", help="folder of label maps; difference: the knowledge, as "
        "scores (.npz) where there are some")
    add("--cams", metavar="D", help="folder of CAM files (crf, confidences, affinity)")
    add("--images", metavar="I", help="folder or list of photos; sam needs none")
    add("--ids", metavar="LIST", help="text file, one id a line (default: all of the input)")
    add("--classes", default="voc", help="voc, coco, or a file of class names, background first")
    add("--json", metavar="PATH", help="write the result here")
    add("--executor", help="crf, confidences, sam: threads of this machine (default), or ray: the "
        "cluster at RAY_ADDRESS, else one of this machine's cores")
    add("--out", required=True, metavar="O", help="folder for the results")
    add("--save", help="crf, affinity: labels (default), scores (CAM files with the background "
        "first), or labels,scores")
    add("--memory_gb", type=float, help="crf, confidences, mars: of all photos in work; one that "
        "needs more is an error (default 4)")
    add("--config", help="affinity, difference: the config that trained the network; mars: "
        "configs/refine_voc_mars.py; --config.a.b=v changes a field")
    add("--weights", metavar="W", help="affinity, difference: its exported weights, or their "
        "folder; mars: the encoder's")
    _crf_flags(p.add_argument_group("--method=crf").add_argument)
    _sam_flags(p.add_argument_group("--method=sam").add_argument)
    add = p.add_argument_group("--method=confidences, affinity").add_argument
    add("--low_alpha", type=float, help="confidences: power of the background in what is surely "
        "foreground (default 4)")
    add("--high_alpha", type=float, help="confidences: in what is surely background (default 32)")
    add("--border", help="affinity: inside (default) or psa, which cuts the borders off")
    add = p.add_argument_group("--method=difference").add_argument
    add("--advice", metavar="D", help="folder of the other label maps, or of scores")
    add("--tags", metavar="T", help="CSV of tags (default: the classes of --labels; mars needs it)")
    add("--bias", type=float, help="in favour of the advice (default 0.1)")
    add("--background_bias", type=float, help="against background (default 0.1)")
    add("--maps", metavar="FOLDER", help="also store both predicted difference maps here, for "
        "ssdd.static_seed=released")
    return p


def _crf_flags(add) -> None:
    add("--preset", help="kernels and unary: irn (default with --labels; as published with "
        "--scope=present), psa (default with --cams), bao_label, deeplab, ssdd_loop, ssdd_val")
    add("--iterations", type=int, help="of the mean field (default: the preset's, 10)")
    add("--gt_prob", type=float, help="with --labels: probability that a label is right (0.7)")
    add("--alpha", type=float, help="with --cams: power of the background (16)")
    add("--scope", help="with --labels: all classes in the CRF (default), or those present")
    add("--label_count", type=int, metavar="N", help="with --labels and --scope=all: labels in the "
        "CRF (default: the classes; preset bao_label: 91, as published)")
    add("--min_confidence", type=float, metavar="P", help="leave pixels open (255) whose largest "
        "marginal is below P (default 0; CLIP-ES: 0.95)")
    add("--device", help="host (default; Numba, a photo a core) or jax, the default device")


def _sam_flags(add) -> None:
    add("--proposals", metavar="P", help="folder of <id>.json.gz, or of folders <id>/ of PNG masks")
    add("--merge", help=f"{', '.join(sam_merge.RULES)} (default max_iou_imp2)")
    add("--coverage", help="masks that wipe labels which they do not take: sequential (default, "
        "the unclaimed ones) or all")
    add("--keep_uncovered", choices=tuple(WORDS), help="labels outside all masks stay (default: "
        "as the merge rule says)")
    add("--area_cap", type=float, metavar="X", help="leave out masks over this part of the image "
        "(default: none)")
    add("--explain", action="store_true", help="write <out>/explain/<id>.json: which mask claimed "
        "what, and why")
    add("--report", metavar="PATH", help="write what changed, image by image, as .jsonl or .csv "
        "(mars, too: .csv)")


def main(arguments: list[str]) -> None:
    """Runs the command."""
    plain, overrides = cli.split_overrides(arguments)
    options = vars(parser().parse_args(plain))
    out, json_path = options["out"], options.pop("json", None)
    if "save" in options:
        options["save"] = tuple(options["save"].split(","))
    if "keep_uncovered" in options:
        options["keep_uncovered"] = WORDS[options["keep_uncovered"]]
    if "config" in options:
        options["config"] = config.load(options["config"], overrides)
    elif overrides:
        raise ValueError(f"--config.{next(iter(overrides))}: needs --config")
    result = run(**options)
    if json_path:
        files.write_json(json_path, result)
    for line in result.get("notes", ()):
        print(line)
    print(f"{out}: done, {result['images']} photos")


if __name__ == "__main__":
    cli.run(main)
