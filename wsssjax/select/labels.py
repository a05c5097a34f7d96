"""The folder of trusted label maps beside the lists: ours to clear only where it has our mark."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterable

import pyarrow as pa

from wsssjax.core import files, threads

FOLDER = "labels"
MARK = ".wsssjax-selection"  # a file in it: a selection made this folder
GATHER = ("copy", "link")  # how whole labels get there


def check(folder: pathlib.Path, flag: str | None, inputs: Iterable[tuple[str, object]]) -> None:
    """ValueError where a selection would clear what is not its own.

    flag: what asks for the folder; None where nothing does, and an old one is only removed.
    inputs: (flag, folder or None) of all that is read.
    """
    ours = (folder / MARK).is_file()
    if not (flag or ours):
        return
    for name, place in inputs:
        if place and pathlib.Path(place).resolve() == folder.resolve():
            raise ValueError(f"{flag or '--out'}: clears {folder}, which is {name} itself; give "
                             "another --out")
    if not ours and (folder.is_file() or folder.is_dir() and any(folder.iterdir())):
        raise ValueError(f"{flag}: wants {folder}, which holds what no selection put there; move "
                         "it, or give another --out")


def remove(folder: pathlib.Path) -> None:
    """Removes the label maps of an earlier selection."""
    if (folder / MARK).is_file():
        for path in folder.glob("*.png"):
            path.unlink()
        (folder / MARK).unlink()
        with contextlib.suppress(OSError):  # a person put more there
            folder.rmdir()


def begin(folder: pathlib.Path) -> None:
    """Makes the empty folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).touch()


def gather(source, folder: pathlib.Path, names: pa.StringArray, how: str) -> None:
    """Fills the empty folder with the label maps of these ids.

    how: "copy", or "link" for symbolic links to the files as they are.
    """
    source = pathlib.Path(source).resolve()

    def put(name):
        if how == "link":
            (folder / f"{name}.png").symlink_to(source / f"{name}.png")
            return
        data = (source / f"{name}.png").read_bytes()
        with files.atomic(folder / f"{name}.png") as file:
            file.write(data)

    for _ in threads.each(put, names.to_pylist()):
        pass
