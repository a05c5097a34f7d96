"""`python -m wsssjax.report --run=D`: writes D/report.html, of a run or of a selection."""

from __future__ import annotations

import os
import pathlib

from wsssjax.core import cli, files
from wsssjax.report import read_run, read_selection, run_page, selection_page, thumbnails


def run(run_folder: str | os.PathLike, *, images=None, first=None, truth=None) -> pathlib.Path:
    """The path of the `report.html` written into `run_folder` from what lies there.

    run_folder: the --workdir of a recipe or training, or the --out of `wsssjax.select`.
    images, first, truth: of a selection, see the command's flags; a run knows its own.
    """
    folder = pathlib.Path(run_folder)
    extra = {"--images": images, "--first": first, "--truth": truth}
    if (folder / read_selection.TABLE).exists() and not (folder / "results.json").exists():
        for flag, given in extra.items():
            if given and not pathlib.Path(given).exists():
                raise FileNotFoundError(f"{flag}={given}: no such folder")
        selection = read_selection.read_selection(folder)
        where = thumbnails.sources(selection, images=images, first=first, truth=truth)
        text = selection_page.make(selection, where, truth=bool(truth))
    else:
        for flag, given in extra.items():
            if given:
                raise ValueError(f"{flag}: only of use with a folder that wsssjax.select wrote; "
                                 f"{folder} holds no {read_selection.TABLE}")
        text = run_page.make(read_run.read_run(folder))
    path = folder / "report.html"
    with files.atomic(path) as file:
        file.write(text.encode("utf-8", "replace"))  # JSON may hold half characters
    return path


def main(arguments: list[str]) -> None:
    """The command."""
    parser = cli.parser("python -m wsssjax.report",
                        "One self-contained HTML page of a run, or of a selection.",
                        "python -m wsssjax.report --run=runs/quickstart\n"
                        "  python -m wsssjax.report --run=selection --images=JPEGImages \\\n"
                        "    --first=bao")
    add = parser.add_argument
    add("--run", required=True, metavar="D", help="the --workdir of a run, or the --out of "
        "python -m wsssjax.select")
    add("--images", metavar="I", help="of a selection: folder or list of photos (default: the "
        "paths in labeled.txt and unlabeled.txt)")
    add("--first", metavar="A", help="of a selection: folder of the labels that the pool was "
        "compared with, to be shown beside them")
    add("--truth", metavar="T", help="of a selection: folder of true masks, for the true quality "
        "of each label and the reliability curve; they change nothing else")
    flags = parser.parse_args(arguments)
    print(run(flags.run, images=flags.images, first=flags.first, truth=flags.truth))


if __name__ == "__main__":
    cli.run(main)
