"""What must be true of a training's two lists, found out before hours of work depend on it."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from wsssjax.core import threads
from wsssjax.core.constants import IGNORE
from wsssjax.data import label_map

SURE = 20  # label maps; so many of ADE20K without one open pixel are no coincidence


def check_lists(
    labelled_lines: Sequence[str],
    unlabelled_lines: Sequence[str],
    root: str | os.PathLike,
    num_classes: int,
    classes_name: str | os.PathLike,
    *,
    labeled_path: str | os.PathLike,
    unlabeled_path: str | os.PathLike,
    sample: int = 2_000,
) -> None:
    """Nothing; a line, file or value that the training would fail on or learn wrongly is an error.

    labelled_lines, unlabelled_lines: `<photo> <label>` and `<photo>`, the filled lines of the list
    files `labeled_path` and `unlabeled_path` in their order; either may be empty.
    root: folder that relative paths count from.  classes_name: config.classes.
    sample: at most so many label maps are opened, evenly spread over the list.
    """
    labelled = [[os.path.join(root, word) for word in line.split()] for line in labelled_lines]
    unlabelled = [[os.path.join(root, line.split()[0])] for line in unlabelled_lines]
    _check_apart(labelled, unlabelled, labeled_path, unlabeled_path)
    _check_there(labelled, unlabelled, root, labeled_path, unlabeled_path)
    labels = [paths[1] for paths in labelled if len(paths) > 1]
    count = min(sample, len(labels))
    chosen = [labels[int(i)] for i in np.linspace(0, len(labels) - 1, count).round()]
    _check_values(chosen, num_classes, classes_name, labeled_path)


def _check_apart(labelled, unlabelled, labeled_path, unlabeled_path) -> None:
    """A photo in both lists is an error: it would count as known and as unknown."""
    line_of = {os.path.abspath(paths[0]): index for index, paths in enumerate(labelled)}
    both = [(index, line_of[photo]) for index, paths in enumerate(unlabelled)
            if (photo := os.path.abspath(paths[0])) in line_of]
    if both:
        index, other = both[0]
        raise ValueError(
            f"{_place(unlabeled_path, index)}: {unlabelled[index][0]} is also in "
            f"{_place(labeled_path, other)}{_more(len(both), 'photos in both lists')}; take each "
            "out of one of them"
        )


def _check_there(labelled, unlabelled, root, labeled_path, unlabeled_path) -> None:
    """A file that does not exist is an error."""
    named = [(path, kind, labeled_path, index) for index, paths in enumerate(labelled)
             for path, kind in zip(paths, ("photo", "label map"), strict=False)]
    named += [(paths[0], "photo", unlabeled_path, index) for index, paths in enumerate(unlabelled)]
    absent = _missing({path for path, *_ in named})
    if absent:
        path, kind, list_path, index = next(row for row in named if row[0] in absent)
        more = _more(len(absent), "files missing")
        raise FileNotFoundError(
            f"{_place(list_path, index)}: no such {kind}, {path}{more}; "
            f"mend the list, or config.data.root={str(root)!r}"
        )


def _check_values(paths, num_classes, classes_name, labeled_path) -> None:
    """A value that is no class is an error, as are ADE20K's annotations as they are published."""
    def look(path):
        label_hw = label_map.read(path, num_classes)
        return bool((label_hw == IGNORE).any()), bool((label_hw == 0).any())

    found = list(threads.each(look, paths))
    # Shifted annotations of ADE20K have open pixels nearly always, official ones never.
    if str(classes_name) == "ade20k" and len(found) >= SURE:
        opened, zero = (any(column) for column in zip(*found, strict=True))
        if zero and not opened:
            raise ValueError(
                f"{labeled_path}: none of {len(found)} label maps, {paths[0]} for one, holds "
                f"{IGNORE} (ignore), but some hold 0; {label_map.ADE20K_HINT}"
            )


def _missing(paths: set[str]) -> set[str]:
    """Those of `paths` that are no file.

    Folders are listed once each, which is quick where a question per file is not (network disks).
    """
    absent = set(paths)
    folders = {os.path.dirname(path) for path in paths}
    for folder in folders:
        try:
            with os.scandir(folder or ".") as entries:
                names = [entry.name for entry in entries if entry.is_file()]
        except OSError:
            continue
        absent.difference_update(os.path.join(folder, name) for name in names)
    # Asked one by one: what no folder could tell of, or spells otherwise (macOS: a.JPG for a.jpg).
    return {path for path in absent if not os.path.isfile(path)}


def _place(path, index: int) -> str:
    """`<list>, line <number>` of its filled line `index`; blank lines count as an editor does."""
    lines = pathlib.Path(path).read_text(encoding="utf-8-sig").splitlines()
    filled = [number for number, line in enumerate(lines, 1) if line.strip()]
    return f"{path}, line {filled[index]}"


def _more(count: int, what: str) -> str:
    return f" (and {count - 1} more {what})" if count > 1 else ""
