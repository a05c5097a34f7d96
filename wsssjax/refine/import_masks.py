"""Masks that others made, as our files: PNG folders, SAM's JSON, COCO results."""

from __future__ import annotations

import hashlib
import os
import pathlib
import re
from typing import NamedTuple

from wsssjax.core import files
from wsssjax.refine import coco, proposals

MAX_RESULTS_BYTES = 4 << 30  # one file for a whole data set; all of it is held in memory
NUMBERED = re.compile(r"(?:COCO_\w+_)?([0-9]{1,15})")  # how COCO names its photos


class Source(NamedTuple):
    """path: a folder of `<id>.json` and folders `<id>/`, or one JSON file.  found: of the latter,
    annotations by image name; None for a folder."""

    path: pathlib.Path
    found: dict[str, list[dict]] | None


def open_source(path: str | os.PathLike | None) -> Source:
    """Looks at what is to be imported; ValueError or FileNotFoundError where it is nothing."""
    if not path:
        raise ValueError("--backend=import: needs --from=PATH, a folder of <id>.json or <id>/*.png "
                         "or one JSON file of COCO results")
    path = pathlib.Path(path)
    if path.is_dir():
        return Source(path, None)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such folder or file of masks")
    value = coco.read_json(path, MAX_RESULTS_BYTES, proposals.AGAIN)
    return Source(path, coco.by_image(value, path))


def match(source: Source, names: list[str]) -> dict[str, str | None]:
    """By photo id the source's name for it; None: the one file for all images has none of it.

    COCO results number their images: 139 is the photo 000000000139 or COCO_val2014_000000000139.
    ValueError where a folder lacks a photo, or the file has nothing for any of them.
    """
    if source.found is None:
        proposals.check_all(source.path, names)
        return {name: name for name in names}
    numbers = {int(name): name for name in source.found if name.isdecimal()}
    matched: dict[str, str | None] = {}
    owner: dict[str, str] = {}
    for name in names:
        number = NUMBERED.fullmatch(name)
        theirs = name if name in source.found else numbers.get(int(number[1])) if number else None
        if theirs in owner:
            raise ValueError(f"{source.path}: the masks of image {theirs} fit the photos "
                             f"{owner[theirs]!r} and {name!r}; leave one out of --images")
        if theirs is not None:
            owner[theirs] = name
        matched[name] = theirs
    if names and not owner:
        raise ValueError(f"{source.path}: has masks of {next(iter(source.found), 'no image')!r} "
                         f"and others, none of the photos ({names[0]!r}, …); are --images right?")
    return matched


def describe(source: Source, name: str | None) -> dict:
    """The `by` of one image: changes when its masks change."""
    if source.found is not None:
        made = files.hash_value(source.found.get(name, []))
        return {"backend": "import", "source": made}
    path = proposals.find(source.path, name)
    parts = sorted(path.iterdir()) if path.is_dir() else [path]
    made = hashlib.sha256()
    for part in parts:
        if part.is_file():
            made.update(f"{part.name} {files.hash_file(part)}\n".encode())
    return {"backend": "import", "source": made.hexdigest()[:16]}


def read(source: Source, name: str | None, size: tuple[int, int]) -> list[dict]:
    """The records of one image of a known size (h, w), see `proposals.record`."""
    if source.found is not None:
        where = f"{source.path}, image {name}"
        value = coco.convert(source.found.get(name, []), where)
    else:
        where = proposals.find(source.path, name)
        if where.is_dir():
            masks = proposals.read_path(where, size, "the photo")
            return [proposals.record(counts_r, size) for counts_r in masks.counts]
        value = proposals.read_value(where)
    masks = proposals.parse(value, where, size, "the photo")
    return [proposals.record(counts_r, size, **{k: entry[k] for k in coco.EXTRAS
                                                if k in entry and coco.finite(entry[k])})
            for counts_r, entry in zip(masks.counts, value["masks"], strict=True)]
