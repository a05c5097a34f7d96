"""`python -m wsssjax.report --run=D`: writes D/report.html."""

from __future__ import annotations

import os
import pathlib

from wsssjax.core import cli, files
from wsssjax.report import page, read


def run(run_folder: str | os.PathLike) -> pathlib.Path:
    """The path of the `report.html` written into `run_folder` from what lies there."""
    path = pathlib.Path(run_folder) / "report.html"
    text = page.make(read.read_run(run_folder))
    with files.atomic(path) as file:
        file.write(text.encode("utf-8", "replace"))  # JSON may hold half characters
    return path


def main(arguments: list[str]) -> None:
    """The command."""
    parser = cli.parser("python -m wsssjax.report", "One self-contained HTML page of a run.",
                        "python -m wsssjax.report --run=runs/quickstart")
    parser.add_argument("--run", required=True, metavar="D", help="the --workdir of a run")
    print(run(parser.parse_args(arguments).run))


if __name__ == "__main__":
    cli.run(main)
