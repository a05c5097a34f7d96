"""Small pictures of the best, worst, borderline and some other images, within a budget of bytes."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from wsssjax.core import files, threads
from wsssjax.data import label_map, photos
from wsssjax.report import figures
from wsssjax.report.read_selection import GROUPS, LISTS, Selection

SIDES = (160, 112, 80)  # pixels of the longer side: the largest whose pictures fit is taken
_PROBE = 32  # pictures whose size tells that of all
_QUALITY = 75  # of JPEG
Lookup = Callable[[str], pathlib.Path | None]  # from an image id to a file that is there


class Sources(NamedTuple):
    """Where the files of an image lie."""

    photo: Lookup
    pool: Lookup  # the label that can be selected
    first: Lookup  # the label that it was compared with
    truth: Lookup


class Pictures(NamedTuple):
    """uris: by row, of the photo, the pool's label and the other label; "" where there is no file.
    side: pixels of the longer side.  over_budget, without_file: rows left without a picture."""

    uris: dict[int, tuple[str, str, str]]
    side: int
    over_budget: int
    without_file: int


def sources(selection: Selection, *, images=None, first=None, pool=None, truth=None) -> Sources:
    """Where to look: in the folders given, else for photo and pool label in the selection's lists.

    images: folder or list of photos.  first, pool, truth: folders of `<id>.png`.
    """
    listed = _listed(selection)
    found = files.photo_paths(images) if images else None
    return Sources(
        (lambda name: found.get(name)) if found is not None else
        (lambda name: _there(listed.get(name, ("", ""))[0], selection.folder)),
        in_folder(pool) if pool else
        (lambda name: _there(listed.get(name, ("", ""))[1], selection.folder)),
        in_folder(first), in_folder(truth))


def in_folder(folder) -> Lookup:
    """Finds `<id>.png` in the folder; nothing where the folder is None."""
    def find(name: str) -> pathlib.Path | None:
        if folder is None or not name or set(name) & set("/\\\0"):
            return None
        path = pathlib.Path(folder) / f"{name}.png"
        return path if path.is_file() else None

    return find


def encode(selection: Selection, where: Sources, budget: int, most: int | None = None) -> Pictures:
    """Pictures of the rows that belong to a group, together at most `budget` bytes of text.

    most: rows; the groups then shrink alike.  Where even the smallest pictures are too many, the
    last of each group go without.
    """
    order = _in_turn(selection)[:most]

    def draw(row, side):
        return _draw(selection.rows.ids[row], where, side, len(selection.class_names) + 1)

    side = SIDES[-1]
    for side in SIDES:
        sizes = [_bytes(uris) for uris in threads.each(lambda r: draw(r, side), order[:_PROBE],  # noqa: B023
                                                       chunk=4)]
        if sum(sizes) / max(len(sizes), 1) * len(order) <= budget:
            break
    uris, total, missing = {}, 0, 0
    drawn = threads.each(lambda row: draw(row, side), order)
    for done, (row, found) in enumerate(zip(order, drawn, strict=True)):
        if not any(found):
            missing += 1
        elif total + _bytes(found) > budget:
            return Pictures(uris, side, len(order) - done, missing)
        else:
            uris[row] = found
            total += _bytes(found)
    return Pictures(uris, side, 0, missing)


def _listed(selection: Selection) -> dict[str, tuple[str, str]]:
    """Photo and label path of the listed rows, by id, as labeled.txt and unlabeled.txt have them.
    """
    wanted, found = set(selection.rows.ids), {}
    for name in LISTS:
        path = selection.folder / name
        if not path.is_file():
            continue
        try:
            with open(path, encoding="utf-8") as lines:
                for line in lines:
                    words = line.split()
                    stem = pathlib.PurePath(words[-1]).stem if len(words) == 2 else ""
                    if stem in wanted:
                        found[stem] = (words[0], words[1])
        except UnicodeDecodeError:
            raise ValueError(f"{path}: not a text file; run select again") from None
    return found


def _there(text: str, folder: pathlib.Path) -> pathlib.Path | None:
    """The file of a list line, which counts from here, or else from the folder of the list."""
    paths = (pathlib.Path(text), folder / text) if text else ()
    return next((path for path in paths if path.is_file()), None)


def _in_turn(selection: Selection) -> list[int]:
    """Rows with a picture, one of each group after the other, each group from its best on; worst
    from the worst on."""
    group_m = selection.group_n[selection.rows.position]
    members = [np.flatnonzero(group_m & (1 << bit)).tolist() for bit in range(len(GROUPS))]
    members[GROUPS.index("worst")].reverse()
    border = selection.border or 0
    rank_m = selection.rank_n[selection.rows.position]
    members[GROUPS.index("borderline")].sort(key=lambda row: abs(int(rank_m[row]) - border))
    turns = itertools.chain.from_iterable(itertools.zip_longest(*members))
    return list(dict.fromkeys(row for row in turns if row is not None))


def _draw(name: str, where: Sources, side: int, num_classes: int) -> tuple[str, str, str]:
    paths = [look(name) for look in (where.photo, where.pool, where.first)]
    labels = [label_map.read(path, num_classes) if path else None for path in paths[1:]]
    photo_hw3 = photos.read_photo(paths[0]) if paths[0] else None
    shapes = [m.shape[:2] for m in (photo_hw3, *labels) if m is not None]
    if not shapes:
        return "", "", ""
    size_hw = figures.fit(shapes[0], side)
    photo = "" if photo_hw3 is None else figures.photo_uri(_reduced(photo_hw3, size_hw), size_hw,
                                                           _QUALITY)
    return photo, *("" if m is None else figures.label_uri(m, size_hw) for m in labels)


def _reduced(photo_hw3: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """The photo by a whole factor smaller, so that the fine resize after it has little to do."""
    factor = min(photo_hw3.shape[0] // (2 * size_hw[0]), photo_hw3.shape[1] // (2 * size_hw[1]))
    return np.asarray(Image.fromarray(photo_hw3).reduce(factor)) if factor > 1 else photo_hw3


def _bytes(uris: tuple[str, str, str]) -> int:
    return sum(map(len, uris)) + 24  # quotes, commas and the row's number
