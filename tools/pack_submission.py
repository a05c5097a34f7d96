"""Command: label maps of VOC 2012's test photos → the archive that its test server takes."""

from __future__ import annotations

import pathlib

from wsssjax.core import cli, config, files
from wsssjax.evaluate.submission import CHALLENGES, SETS, pack


def main(arguments: list[str]) -> None:
    """Runs the command."""
    parser = cli.parser(
        "python tools/pack_submission.py", __doc__,
        "python tools/pack_submission.py --labels=out/test --ids=test.txt --out=results.tgz")
    add = parser.add_argument
    add("--labels", required=True, metavar="D", help="folder of <id>.png, values 0..20")
    add("--ids", required=True, metavar="LIST", help="text file, one id a line, such as VOC's "
        "ImageSets/Segmentation/test.txt; label maps of other ids are passed over")
    add("--out", required=True, metavar="F", help="archive to write, results.tgz for instance")
    add("--images", metavar="I", help="folder of the photos, or a list file: sizes are checked")
    add("--challenge", default="comp6", help="comp6 (default) or comp5: "
        + ", ".join(f"{name} = {what}" for name, what in CHALLENGES.items()))
    add("--set", default="test", help=f"of {', '.join(SETS)} (default test)")
    add("--partial", action="store_true", help="a list of another length than VOC's own is "
        "packed with a warning; the server scores whole sets only")
    flags = parser.parse_args(arguments)
    config.choose(CHALLENGES, flags.challenge, "--challenge")
    wanted = config.choose(SETS, flags.set, "--set")
    ids = files.read_ids(flags.ids)
    if len(ids) != wanted:
        text = f"{flags.ids}: {len(ids)} ids; VOC 2012 {flags.set} has {wanted:,}"
        if not flags.partial:
            raise ValueError(f"{text}; pass its own list, or add --partial")
        print(f"warning: {text}")
    pack(flags.labels, ids, flags.out, flags.challenge, flags.set, flags.images)
    there = {path.name for path in pathlib.Path(flags.labels).iterdir()}
    extra = len(there - {f"{name}.png" for name in ids})
    print(f"{flags.out}: {len(ids)} label maps, each read again; {extra} other files of "
          f"{flags.labels} passed over")


if __name__ == "__main__":
    cli.run(main)
