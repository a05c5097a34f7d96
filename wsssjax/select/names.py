"""Which images there are: ids as sorted text columns, so that ten million of them stay small."""

from __future__ import annotations

import itertools
import os
import pathlib
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from wsssjax.core import files

SUFFIX = ".png"
SHOWN = 10  # ids that a message names
CHUNK = 1 << 16


def column(names: Iterable[str]) -> pa.StringArray:
    """Text as one sorted column, without a Python object for each name at the same time."""
    names, parts = iter(names), []
    while part := list(itertools.islice(names, CHUNK)):
        try:
            parts.append(pa.array(part, pa.string()))
        except UnicodeEncodeError as error:
            raise ValueError(f"{error.object!r}: a file name that is no UTF-8; rename it") from None
    found = pa.concat_arrays(parts) if parts else pa.array([], pa.string())
    return found.take(pc.array_sort_indices(found))  # bytes of UTF-8 sort as Python sorts text


def in_folder(folder: str | os.PathLike) -> pa.StringArray:
    """Sorted ids of the label maps `<id>.png` in a folder; never none."""
    if not pathlib.Path(folder).is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of label maps")
    with os.scandir(folder) as entries:
        found = column(e.name[:-len(SUFFIX)] for e in entries
                       if e.name.endswith(SUFFIX) and not e.name.startswith("."))
    if not len(found):
        raise ValueError(f"{folder}: holds no label map; want <id>.png")
    return found


def shown(names: pa.StringArray) -> str:
    """The first names of a longer list, for a message."""
    text = ", ".join(names.slice(0, SHOWN).to_pylist())
    return f"{text}, …" if len(names) > SHOWN else text


def without(names: pa.StringArray, others: pa.StringArray) -> pa.StringArray:
    """The names that are not among the others."""
    if names.equals(others):
        return names.slice(0, 0)
    return names.filter(pc.invert(pc.is_in(names, value_set=others)))


def choosable(first: str, second: str, pool: str = "second",
             ids: str | None = None) -> tuple[pa.StringArray, list[str]]:
    """(the ids to choose from, sorted; warnings).

    They are those of the list file `ids`, else those of the pool's labels. ValueError where one of
    the two sets lacks some of them; what only the other set has is left out, with a warning.
    """
    folders = {"first": first, "second": second}
    there = {name: in_folder(folder) for name, folder in folders.items()}
    names = column(files.read_ids(ids)) if ids else there[pool]
    warnings = []
    for name, found in there.items():
        missing = without(names, found)
        if len(missing):
            raise ValueError(f"{folders[name]}: holds no label map of {len(missing)} of "
                             f"{len(names)} ids: {shown(missing)}; make them, or pass --ids=LIST")
        extra = without(found, names)
        if len(extra) and not ids:
            warnings.append(f"--{name} holds {len(extra)} label maps that --{pool} lacks, left "
                            f"out: {shown(extra)}")
    return names, warnings


def pool_ids(first: str, second: str, pool: str = "second", ids: str | None = None) -> list[str]:
    """The ids of `choosable` as a list."""
    return choosable(first, second, pool, ids)[0].to_pylist()
