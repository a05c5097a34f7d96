"""Command: class-agnostic masks of photos, for `python -m wsssjax.refine --method=sam`.

felzenszwalb  regions of a graph segmentation; no network needed
sam           Meta's Segment Anything; needs pip install 'wsssjax[sam]' and a checkpoint
import        masks that others made: --from is a folder of <id>.json (SAM's records, SA-1B) or of
              folders <id>/*.png (255 inside), or one JSON file of COCO results in run lengths

Parameters stand in configs/propose_<backend>.py; --config.NAME=VALUE changes one of them.
"""

from __future__ import annotations

import argparse
import pathlib

from wsssjax.core import cli, config, files
from wsssjax.refine import propose

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    p = cli.parser("python tools/propose_masks.py", __doc__,
                   "python tools/propose_masks.py --backend=felzenszwalb --images=JPEGImages "
                   "--out=proposals\n"
                   "  python tools/propose_masks.py --config=configs/propose_sam.py:notebook "
                   "--checkpoint=sam_vit_h_4b8939.pth \\\n      --images=JPEGImages "
                   "--out=proposals --config.points_per_side=48")
    add = p.add_argument
    add("--backend", help=f"{', '.join(propose.BACKENDS)}; or give --config")
    add("--config", metavar="C", help="configs/propose_sam.py, with :notebook or :dense64, or "
        "configs/propose_felzenszwalb.py (default: that of the backend)")
    add("--config.NAME", dest="unused", metavar="V", help="another value for one of its fields")
    add("--images", required=True, metavar="I", help="folder of photos, or a list file")
    add("--out", required=True, metavar="P", help="folder for <id>.json.gz; what is there already "
        "and was made in the same way is kept")
    add("--checkpoint", metavar="F", help="sam: its weights, sam_vit_h_4b8939.pth for instance")
    add("--device", metavar="D", help="sam: auto (default), cpu or cuda")
    add("--from", dest="source", metavar="PATH", help="import: folder or file of masks")
    add("--shard", default="0/1", metavar="i/n", help="do only the i-th of n parts, i from 0")
    add("--executor", default="threads", help="threads: this machine (default); ray: the cluster "
        "at RAY_ADDRESS, else one of this machine's cores; not for sam")
    add("--json", metavar="PATH", help="write counts and parameters here")
    return p


def settings(args: argparse.Namespace, overrides: dict[str, str]) -> dict:
    """The fields of the config with flags and overrides applied, `backend` among them."""
    if not (args.backend or args.config):
        raise ValueError("--backend: missing; want one of " + ", ".join(propose.BACKENDS))
    if args.backend:
        config.choose(dict.fromkeys(propose.BACKENDS), args.backend, "--backend")
    if args.backend == "import":
        for name in [f"config.{key}" for key in overrides] + ["config"] * bool(args.config):
            raise ValueError(f"--{name}: --backend=import has no parameters; leave it out")
        fields = {"backend": "import"}
    else:
        fields = dict(config.load(args.config or CONFIGS / f"propose_{args.backend}.py", overrides))
        if args.backend not in (None, fields.get("backend")):
            raise ValueError(f"--config={args.config}: is for --backend={fields.get('backend')}, "
                             f"not {args.backend}")
    for flag, name, backend in (("checkpoint", "checkpoint", "sam"), ("device", "device", "sam"),
                                ("from", "source", "import")):
        value = getattr(args, name)
        if value is not None:
            if fields["backend"] != backend:
                raise ValueError(f"--{flag}: is for --backend={backend} only; leave it out")
            fields[name] = value
    return fields


def main(arguments: list[str]) -> None:
    """Runs the command."""
    plain, overrides = cli.split_overrides(arguments)
    args = parser().parse_args(plain)
    summary = propose.run(images=args.images, out=args.out, part=args.shard,
                          executor=args.executor, **settings(args, overrides))
    if args.json:
        files.write_json(args.json, summary)
    told = [f"{summary['masks']} masks of {summary['images']} photos, "
            f"{summary['already_there']} of them already there"]
    if summary["duplicates"]:
        told.append(f"identical masks dropped: {summary['duplicates']}")
    if summary["without_masks"]:
        told.append(f"photos without any: {summary['without_masks']}")
    print(f"{args.out}: {'; '.join(told)}")


if __name__ == "__main__":
    cli.run(main)
