"""The rows of an ablation, checked entry by entry before a table is made of them."""

from __future__ import annotations

from wsssjax.report.checks import is_number, short

_TEXT, _FRACTION, _COUNT, _COUNTS = ("text", "a fraction 0..1", "a number from 0 on",
                                     "an object {class: number from 0 on}")
_ROW = {"supervision": _TEXT, "labelled": _COUNT, "counts": _COUNTS,
        "single_class_share": _FRACTION, "label_miou": _FRACTION, "miou": _FRACTION,
        "steps": _COUNT}
_SET = {"method": _TEXT, "supervision": _TEXT, "miou": _FRACTION}


def checked(table: dict) -> dict:
    """The same table with every entry that the tables read: what was left out is empty or None.

    table: `title`, `data`, `classes` (background first), `full_voc`, `sets`, `histogram` and
    `rows`, one a cell of the grid; scores are fractions, null what is not known yet. Entries that
    no table reads may be anything. ValueError names the entry that is something else.
    """
    if not isinstance(table, dict):
        raise ValueError(f"the ablation's table is {short(table)}; want an object with rows")
    found = {key: table.get(key) for key in ("title", "data")}
    for key, value in found.items():
        _entry(value, _TEXT, key)
    full = table.get("full_voc")
    if full not in (None, True, False):
        raise ValueError(f"full_voc is {short(full)}; want true or false")
    return {
        **found,
        "full_voc": full is True,
        "classes": _classes(table.get("classes")),
        "sets": {name: _entries(entry, _SET, f"sets.{name}")
                 for name, entry in _kind(table.get("sets"), dict, "sets").items()},
        "histogram": _histogram(_kind(table.get("histogram"), dict, "histogram")),
        "rows": [_row(row, f"rows[{i}]")
                 for i, row in enumerate(_kind(table.get("rows"), list, "rows"))],
    }


def _row(row, where: str) -> dict:
    found = _entries(row, _ROW, where)
    cell = _kind(row.get("cell"), dict, f"{where}.cell")
    if not isinstance(cell.get("arm"), str):
        raise ValueError(f"{where}.cell.arm is {short(cell.get('arm'))}; want the name of an arm")
    seed, pair = cell.get("seed"), cell.get("pair")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise ValueError(f"{where}.cell.seed is {short(seed)}; want a whole number")
    if pair is not None and not (isinstance(pair, list | tuple) and len(pair) == 2
                                 and all(isinstance(name, str) for name in pair)):
        raise ValueError(f"{where}.cell.pair is {short(pair)}; want the names of two label sets")
    if pair is not None:
        cell = {**cell, "pair": list(pair)}
    return {**found, "cell": cell}


def _histogram(histogram: dict) -> dict:
    """Edges and counts by label set; empty without any."""
    edges = _kind(histogram.get("edges"), list, "histogram.edges")
    counts = _kind(histogram.get("counts"), dict, "histogram.counts")
    rising = all(map(is_number, edges)) and all(a < b for a, b in zip(edges, edges[1:],
                                                                      strict=False))
    if counts and (len(edges) < 2 or not rising):
        raise ValueError(f"histogram.edges is {short(edges)}; want two or more rising numbers")
    for name, values in counts.items():
        if not (isinstance(values, list) and len(values) == len(edges) - 1
                and all(is_number(v) and v >= 0 for v in values)):
            raise ValueError(f"histogram.counts.{name} is {short(values)}; want "
                             f"{len(edges) - 1} numbers from 0 on, one between two edges")
    return {"edges": edges, "counts": counts} if counts else {}


def _classes(names) -> list[str]:
    names = _kind(names, list, "classes")
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"classes is {short(names)}; want names, background first")
    return names


def _entries(entry, shape: dict, where: str) -> dict:
    """The entries that `shape` names, checked; None where there is none."""
    entry = _kind(entry, dict, where)
    for key, want in shape.items():
        _entry(entry.get(key), want, f"{where}.{key}")
    return {key: entry.get(key) for key in shape}


def _kind(value, kind: type, where: str):
    """The value, an empty one for null; ValueError where it is of another kind."""
    if value is None:
        return kind()
    if not isinstance(value, kind):
        want = {dict: "an object", list: "a list"}[kind]
        raise ValueError(f"{where} is {short(value)}; want {want}")
    return value


def _entry(value, want: str, where: str) -> None:
    if value is not None and not _IS[want](value):
        raise ValueError(f"{where} is {short(value)}; want {want}, or null where it is not known")


_IS = {
    _TEXT: lambda value: isinstance(value, str),
    _FRACTION: lambda value: is_number(value) and 0 <= value <= 1,
    _COUNT: lambda value: is_number(value) and value >= 0,
    _COUNTS: lambda value: isinstance(value, dict) and all(
        is_number(v) and v >= 0 for v in value.values()),
}
