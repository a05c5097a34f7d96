"""JSON files that others wrote, checked entry by entry before anything is drawn from them."""

from __future__ import annotations

import pathlib

from wsssjax.core import files

NUMBER, TEXT, COUNTS, SCORES = "a number", "text", "counts by class", "scores by class"
NAMES, NUMBERS, POINTS = "a list of names", "a list of numbers", "a list of [step, value]"
LARGEST = 1e30  # what a chart can still draw


def read_object(path: pathlib.Path, shape: dict) -> dict | None:
    """The object in a JSON file without its nulls; None where there is no file.

    shape: what each entry must be, one of the words above or a dict of them, where the name "*"
    stands for all other names; entries that it does not name may be anything. ValueError names
    the file and the entry that is something else.
    """
    if not path.exists():
        return None
    value = files.read_json(path)
    _check(value, shape, str(path), "")
    return {name: entry for name, entry in value.items() if entry is not None}


def _check(value, shape, path: str, where: str) -> None:
    """Raises for the first entry of `value` whose type is not the one that `shape` names."""
    if value is None and where and ("." not in where or not isinstance(shape, dict)):
        return  # null: not known
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            raise ValueError(f"{path}: {where or 'the file'} is {short(value)}; want an object")
        for name, entry in value.items():
            inner = shape.get(name, shape.get("*"))
            if inner is not None:
                _check(entry, inner, path, f"{where}.{name}" if where else name)
    elif not _IS[shape](value):
        raise ValueError(f"{path}: {where} is {short(value)}; want {shape}")


def is_number(value) -> bool:
    """Whether a JSON value is a number that can be drawn."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < LARGEST  # false for NaN; JSON may hold integers that no float can


def _is_numbers(value) -> bool:
    return isinstance(value, list) and all(map(is_number, value))


_IS = {
    NUMBER: is_number,
    TEXT: lambda value: isinstance(value, str),
    COUNTS: lambda value: isinstance(value, dict) and all(map(is_number, value.values())),
    SCORES: lambda value: isinstance(value, dict) and all(
        v is None or is_number(v) for v in value.values()),
    NAMES: lambda value: isinstance(value, list) and all(isinstance(v, str) for v in value),
    NUMBERS: _is_numbers,
    POINTS: lambda value: isinstance(value, list) and all(
        _is_numbers(pair) and len(pair) == 2 for pair in value),
}


def short(value) -> str:
    """The value as Python writes it, cut to what fits into an error's line."""
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
