"""Which cells of the grid a table is made of, and by which axes its rows are told apart."""

from __future__ import annotations

import re
from typing import NamedTuple

from wsssjax.ablate import paired, published
from wsssjax.ablate.order import named
from wsssjax.ablate.paired import Group

TRAINING_AXES = ("method",)  # they change nothing about what is selected
_SELECTING = ("S", "S-sup", paired.NONE)  # arms whose labelled images Algorithm 1 chose


HEADS = {"images": "image limit", "pixels": "pixel limit"}  # axes with another name in tables


class Selection(NamedTuple):
    """What Algorithm 1 chose in cells that differ in arm, seed and training alone."""

    cell: dict  # without arm, seed and the training's axes
    rows: dict[int | None, dict]  # by seed


def selections(rows: list[dict]) -> list[Selection]:
    """The selections among the rows, in their order; rows without a result give way to others."""
    cells, found = {}, {}
    for row in rows:
        if row["cell"]["arm"] not in _SELECTING:
            continue
        cell = {name: value for name, value in row["cell"].items()
                if name not in ("arm", "seed", *TRAINING_AXES)}
        name, seed = paired.key(cell), row["cell"].get("seed")
        cells[name] = cell
        seeds = found.setdefault(name, {})
        if seed not in seeds or seeds[seed]["labelled"] is None:
            seeds[seed] = row
    return [Selection(cells[name], seeds) for name, seeds in found.items()]


def pair_of(cell: dict) -> tuple[str, str] | None:
    """The compared label sets."""
    return tuple(cell["pair"]) if cell.get("pair") else None


def pool_of(cell: dict) -> str | None:
    """The label set whose labels are taken."""
    pair = pair_of(cell)
    return pair and pair[0 if cell.get("pool") == "first" else 1]


def has_quota(cell: dict) -> bool:
    """Whether images were counted by class; else all that agree well enough were taken."""
    return cell.get("quota") not in (None, "", "none")


def of_main_pair(found: list) -> list:
    """The groups or selections of the pair (A,B+), or of the first there is."""
    pairs = [pair_of(entry.cell) for entry in found]
    main = published.MAIN_PAIR if published.MAIN_PAIR in pairs else next(iter(pairs), None)
    return [entry for entry, pair in zip(found, pairs, strict=True) if pair == main]


def largest(found: list[Group]) -> list[Group]:
    """The groups with the quota that labels most images in arm S; the last one of equals."""
    sizes = {}
    for group in found:
        size = paired.over_seeds(group.arms.get("S", {}), "labelled").mean or 0
        name = paired.key(group.cell.get("quota"))
        sizes[name] = max(size, sizes.get(name, 0))
    order = [paired.key(quota) for quota in quotas(found)]
    most = max(order, key=lambda name: (sizes[name], order.index(name)), default=None)
    return [group for group in found if paired.key(group.cell.get("quota")) == most]


def quotas(found: list) -> list:
    """The quotas, smaller numbers in their names first."""
    names = {paired.key(entry.cell.get("quota")): entry.cell.get("quota") for entry in found}
    return sorted(names.values(), key=lambda quota: [
        (part.isdigit(), int(part) if part.isdecimal() else 0, part)
        for part in re.split(r"(\d+)", shown(quota))])


def panels(found: list, axis: str) -> list[list]:
    """The groups or selections that differ in one axis alone, together."""
    together = {}
    for entry in found:
        rest = {name: value for name, value in entry.cell.items() if name != axis}
        together.setdefault(paired.key(rest), []).append(entry)
    return list(together.values())


def varying(found: list, but: tuple[str, ...] = ()) -> list[str]:
    """The axes in which the cells differ, those in `but` aside."""
    return [name for name in _axes(found) if name not in but
            and len({paired.key(entry.cell.get(name)) for entry in found}) > 1]


def fixed(found: list, but: tuple[str, ...] = ()) -> str:
    """`quota voc/183, method unimatch_v2`: what all cells have in common."""
    different = varying(found)
    alike = {name: found[0].cell.get(name) for name in _axes(found)
             if name not in (*different, *but)}
    return ", ".join(f"{HEADS.get(name, name)} {shown(value, name)}"
                     for name, value in alike.items()
                     if value not in (None, "") and (value or name not in HEADS))


def values(cell: dict, axes: list[str]) -> tuple[str, ...]:
    """The cell's values of the axes, as words."""
    return tuple(shown(cell.get(name), name) for name in axes)


def shown(value, axis: str = "") -> str:
    """A value of an axis as a word."""
    if value is None or (axis in HEADS and not value):
        return "none"
    if axis == "pair":
        return named(value)
    if isinstance(value, str):
        return value or "default"
    return f"{value:g}" if isinstance(value, float) else paired.key(value)


def _axes(found: list) -> list[str]:
    return list(dict.fromkeys(name for entry in found for name in entry.cell))
