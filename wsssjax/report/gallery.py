"""The pairs of label maps that the page shows: photo, A, B, B+, truth, and how good each is."""

from __future__ import annotations

import pathlib
from typing import NamedTuple

import numpy as np

from wsssjax.core import files
from wsssjax.core.constants import BACKGROUND, IGNORE
from wsssjax.data import label_map, photos
from wsssjax.report import figures, images, tables
from wsssjax.report.read_run import Run

SIDE = 320  # pixels; longer side of a picture in the page
PER_GROUP = 12  # pictures weigh: more ids than these are left out, and the page says so
GROUPS = {
    "best": "Best agreement",
    "borderline": "Borderline",
    "worst": "Worst agreement",
}
SETS = {"A": "labels_a", "B": "labels_b", "A+": "labels_a_plus", "B+": "labels_b_plus"}


class Tile(NamedTuple):
    """One picture of a row: label map `uri` over the row's photo; "" where there is no file."""

    name: str
    uri: str
    score: str  # mean foreground IoU with the truth in %; "" where unknown
    alt: str


class Row(NamedTuple):
    """One image of the gallery. legend: (class name, colour) of every class in its label maps."""

    id: str
    photo: str
    size_hw: tuple[int, int]
    tiles: tuple[Tile, ...]
    legend: tuple[tuple[str, str], ...]
    note: str


class Group(NamedTuple):
    title: str
    rows: tuple[Row, ...]
    left_out: int


def build(run: Run) -> list[Group]:
    """The groups that the run's gallery names, each with its rows; broken pictures raise."""
    groups = []
    for key, title in GROUPS.items():
        ids = run.gallery.get(key) or ()
        rows = [_row(run, name) for name in ids[:PER_GROUP]]
        if rows:
            groups.append(Group(title, tuple(rows), max(0, len(ids) - PER_GROUP)))
    return groups


def _row(run: Run, name: str) -> Row:
    names = tuple(run.results.get("classes") or (str(i) for i in range(IGNORE)))
    photo_hw3, seen, tiles = _photo(run, name), set(), []
    truth_hw = _label(_root(run, "truth_root"), name, len(names))
    made = run.results.get("labels") or ("A", "B", "B+")
    maps = [(key, _label(run.folder / folder, name, len(names))) for key, folder in SETS.items()
            if key in made]
    if run.gallery.get("truth_root"):
        maps.append(("truth", truth_hw))
    shapes = [m.shape for m in (photo_hw3, *(m for _, m in maps)) if m is not None]
    size_hw = figures.fit(shapes[0][:2], SIDE) if shapes else (SIDE, SIDE)
    for key, label_hw in maps:
        if label_hw is None:
            tiles.append(Tile(key, "", "", f"{key}: no file"))
            continue
        present = [int(v) for v in np.unique(label_hw) if v != BACKGROUND]
        seen.update(present)
        scored = key != "truth" and truth_hw is not None
        score = images.quality(label_hw, truth_hw, len(names)) if scored else None
        words = ", ".join(_class(v, names) for v in present) or "background only"
        tiles.append(Tile(key, figures.label_uri(label_hw, size_hw),
                          "" if score is None else tables.percent(score),
                          f"{key} of {name}: {words}"))
    photo = "" if photo_hw3 is None else figures.photo_uri(photo_hw3, size_hw)
    legend = tuple((_class(v, names), figures.color(v)) for v in sorted(seen))
    return Row(name, photo, size_hw, tuple(tiles), legend, _note(run.pairs.get(name) or {}))


def _note(pair: dict) -> str:
    parts = []
    if pair.get("iou") is not None:
        parts.append(f"IoU of the pair {pair['iou']:.3f}")
    if pair.get("rank") is not None:
        parts.append(f"rank {pair['rank']:,}")
    if pair.get("selected") is not None:
        parts.append("selected" if pair["selected"] else "not selected")
    return ", ".join(parts)


def _class(value: int, names: tuple[str, ...]) -> str:
    return "ignored" if value == IGNORE else names[value]


def _root(run: Run, key: str) -> pathlib.Path | None:
    root = run.gallery.get(key)
    return run.folder / root if root else None  # an absolute root stays what it is


def _photo(run: Run, name: str) -> np.ndarray | None:
    root = _root(run, "image_root")
    for suffix in files.PHOTO_SUFFIXES if root else ():
        path = root / f"{name}{suffix}"
        if path.is_file():
            return photos.read_photo(path)
    return None


def _label(folder: pathlib.Path | None, name: str, num_classes: int) -> np.ndarray | None:
    path = folder / f"{name}.png" if folder else None
    return label_map.read(path, num_classes) if path and path.is_file() else None
