"""Command: class-agnostic masks of photos, for `python -m wsssjax.refine --method=sam`."""

from __future__ import annotations

import argparse

from wsssjax.core import cli, files
from wsssjax.refine import propose


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    p = cli.parser("python tools/propose_masks.py", __doc__,
                   "python tools/propose_masks.py --backend=felzenszwalb --images=JPEGImages "
                   "--out=proposals")
    add = p.add_argument
    add("--backend", required=True, help="felzenszwalb (no network needed) or sam")
    add("--images", required=True, metavar="I", help="folder of photos, or a list file")
    add("--out", required=True, metavar="P", help="folder for <id>.json.gz; what is there already "
        "and was made in the same way is kept")
    add("--checkpoint", metavar="F", help="SAM's weights, sam_vit_h_4b8939.pth for instance")
    add("--shard", default="0/1", metavar="i/n", help="do only the i-th of n parts, i from 0")
    add("--json", metavar="PATH", help="write counts and parameters here")
    return p


def main(arguments: list[str]) -> None:
    """Runs the command."""
    args = parser().parse_args(arguments)
    summary = propose.run(images=args.images, out=args.out, backend=args.backend,
                          checkpoint=args.checkpoint, part=args.shard)
    if args.json:
        files.write_json(args.json, summary)
    print(f"{args.out}: masks of {summary['images']} photos, "
          f"{summary['already_there']} of them already there")


if __name__ == "__main__":
    cli.run(main)
