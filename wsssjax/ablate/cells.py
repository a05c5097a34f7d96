"""Cells of a grid with their rows: groups, seeds, arms compared, and which of them a table shows.

A row is the entry of one cell in the ablation's table, as run.py makes it; its `cell` is
{axis: value}.
"""

from __future__ import annotations

import json
import re
import statistics
from typing import NamedTuple

from wsssjax.ablate import published
from wsssjax.ablate.grid import FIELDS, NO_ARM
from wsssjax.report.tables import ARMS

DIFFERENCES = tuple(("S", arm) for arm in ("M", "U", "Q", "ALL"))
RATIOS = (("S", "T"), ("S", "Tall"))
HEADS = {"images": "image limit", "pixels": "pixel limit"}  # axes with another name in tables
TRAINING_AXES = ("method", "tags")  # they change nothing about what is selected
SELECTING = ("S", "S-sup", NO_ARM)  # arms whose labelled images Algorithm 1 chose


class Stat(NamedTuple):
    """What the seeds of one arm gave."""

    values: tuple[tuple[int | None, float], ...]  # (seed, value), by seed
    planned: int  # seeds of the grid; those without a value have not run

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float | None:
        return statistics.fmean(v for _, v in self.values) if self.values else None

    @property
    def sd(self) -> float | None:
        """Sample standard deviation (divisor n − 1); None of fewer than two values."""
        return statistics.stdev(v for _, v in self.values) if self.n > 1 else None


class Group(NamedTuple):
    """The rows whose cells differ in arm and seed alone."""

    cell: dict  # without arm and seed
    arms: dict[str, dict[int | None, dict]]  # row by arm, in the order of ARMS, and seed


class Selection(NamedTuple):
    """What Algorithm 1 chose in cells that differ in arm, seed and training alone."""

    cell: dict  # without arm, seed and the training's axes
    rows: dict[int | None, dict]  # by seed


class Comparison(NamedTuple):
    """Two arms of a group, over the seeds that both have."""

    first: str
    second: str
    stat: Stat
    missing: dict[str, tuple]  # seeds left out, by the arm that lacks them


def key(value) -> str:
    """The JSON value as a text that is equal for equal values."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


# ---- rows, together -------------------------------------------------------------------------


def groups(rows: list[dict]) -> list[Group]:
    """The rows by all of their cell but arm and seed, in the order in which they come."""
    cells, found = {}, {}
    for row in rows:
        cell = dict(row["cell"])
        arm, seed = cell.pop("arm"), cell.pop("seed", None)
        name = key(cell)
        cells[name] = cell
        seeds = found.setdefault(name, {}).setdefault(arm, {})
        assert seeds.setdefault(seed, row) == row, f"two results of the cell {key(row['cell'])}"
    return [Group(cells[name], {arm: dict(sorted(arms[arm].items(), key=_seed_order))
                                for arm in (*ARMS, *arms) if arm in arms})
            for name, arms in found.items()]


def selections(rows: list[dict]) -> list[Selection]:
    """The selections among the rows, in their order; rows without a result give way to others."""
    cells, found = {}, {}
    for row in rows:
        if row["cell"]["arm"] not in SELECTING:
            continue
        cell = {name: value for name, value in row["cell"].items()
                if name not in ("arm", "seed", *TRAINING_AXES)}
        name, seed = key(cell), row["cell"].get("seed")
        cells[name] = cell
        seeds = found.setdefault(name, {})
        if seed not in seeds or seeds[seed]["labelled"] is None:
            seeds[seed] = row
    return [Selection(cells[name], seeds) for name, seeds in found.items()]


def trained(found: list[Group]) -> list[tuple[Group, str]]:
    """The arms that train a segmenter, group by group."""
    return [(group, arm) for group in found for arm in group.arms if arm != NO_ARM]


def rows_of(arms: list[tuple[Group, str]]) -> list[dict]:
    """The rows of these arms."""
    return [row for group, arm in arms for row in group.arms[arm].values()]


def done(rows: list[dict]) -> tuple[int, int]:
    """(cells with a result, cells). The result of a cell is its mIoU; of a selection that nothing
    is trained on, the number of its images."""
    has = [row["labelled" if row["cell"]["arm"] == NO_ARM else "miou"] is not None for row in rows]
    return sum(has), len(has)


# ---- seeds ----------------------------------------------------------------------------------


def over_seeds(rows_by_seed: dict[int | None, dict], field: str) -> Stat:
    """The values of a field of the rows, a seed each."""
    return Stat(tuple((seed, row[field]) for seed, row in rows_by_seed.items()
                      if row[field] is not None), len(rows_by_seed))


def difference(group: Group, first: str, second: str, field: str = "miou") -> Comparison:
    """first − second, seed by seed."""
    return _compare(group, first, second, field, lambda a, b: a - b)


def ratio(group: Group, first: str, second: str, field: str = "miou") -> Comparison:
    """first / second, seed by seed; a seed in which second is 0 has none. The mean is that of the
    ratios, not the ratio of the means."""
    return _compare(group, first, second, field, lambda a, b: a / b if b else None)


def told(missing: dict[str, tuple]) -> str:
    """`M: seeds 1, 2`, arm by arm; empty where no seed was left out."""
    return "; ".join(f"{arm}: seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
                     for arm, seeds in missing.items() if seeds)


def _compare(group, first, second, field, of) -> Comparison:
    rows = {arm: group.arms.get(arm, {}) for arm in (first, second)}
    seeds = [seed for seed, _ in sorted({**rows[first], **rows[second]}.items(), key=_seed_order)]
    had = {arm: dict(over_seeds(found, field).values) for arm, found in rows.items()}
    missing = {arm: tuple(s for s in seeds if s not in had[arm]) for arm in rows}
    values = {s: of(had[first][s], had[second][s]) for s in seeds
              if s in had[first] and s in had[second]}
    missing[f"{second} is 0"] = tuple(s for s, value in values.items() if value is None)
    return Comparison(first, second, Stat(tuple((s, v) for s, v in values.items()
                                                if v is not None), len(seeds)), missing)


def _seed_order(item):
    seed, _ = item
    return (seed is not None, seed or 0)


# ---- which of them a table shows ------------------------------------------------------------


def pair_of(cell: dict) -> tuple[str, str]:
    """The compared label sets; the second is the pool."""
    return tuple(cell["pair"])


def named(pair) -> str:
    """`(A,B+)`."""
    return f"({','.join(pair)})"


def has_quota(cell: dict) -> bool:
    """Whether images were counted by class; else all that agree well enough were taken."""
    return cell["quota"] not in ("", "none")


def counted(found: list[Group]) -> list[Group]:
    """The groups that train arm S on a selection by quota."""
    return [group for group in found if has_quota(group.cell) and "S" in group.arms]


def as_published(cell: dict) -> bool:
    """Whether the cell compares, ranks, keeps and trains as the paper does, with all that was
    selected; a cell with an axis of its own does not."""
    usual = {"score": "paper", "iou": "foreground", "keep": "whole", "method": published.METHOD,
             "tags": None}
    return (all(cell.get(name) in (None, "", value) for name, value in usual.items())
            and not any(cell.get(limit) for limit in HEADS)
            and not set(cell) - set(FIELDS))


def is_main(cell: dict) -> bool:
    """Whether the cell compares the paper's pair in the paper's way, by a quota alone."""
    return (pair_of(cell) == published.MAIN_PAIR and not cell.get("min_iou")
            and as_published(cell))


def of_main_pair(found: list) -> list:
    """The groups or selections of the pair (A,B+), or of the first there is."""
    pairs = [pair_of(entry.cell) for entry in found]
    main = published.MAIN_PAIR if published.MAIN_PAIR in pairs else next(iter(pairs), None)
    return [entry for entry, pair in zip(found, pairs, strict=True) if pair == main]


def largest(found: list[Group]) -> list[Group]:
    """The groups with the quota that labels most images in arm S; the last one of equals."""
    sizes = {}
    for group in found:
        size = over_seeds(group.arms.get("S", {}), "labelled").mean or 0
        name = key(group.cell["quota"])
        sizes[name] = max(size, sizes.get(name, 0))
    order = [key(quota) for quota in quotas(found)]
    most = max(order, key=lambda name: (sizes[name], order.index(name)), default=None)
    return [group for group in found if key(group.cell["quota"]) == most]


def quotas(found: list) -> list:
    """The quotas, smaller numbers in their names first."""
    names = {key(entry.cell["quota"]): entry.cell["quota"] for entry in found}
    return sorted(names.values(), key=lambda quota: [
        (part.isdigit(), int(part) if part.isdecimal() else 0, part)
        for part in re.split(r"(\d+)", shown(quota))])


def panels(found: list, axis: str) -> list[list]:
    """The groups or selections that differ in one axis alone, together."""
    together = {}
    for entry in found:
        rest = {name: value for name, value in entry.cell.items() if name != axis}
        together.setdefault(key(rest), []).append(entry)
    return list(together.values())


# ---- axes, in words -------------------------------------------------------------------------


def varying(found: list, but: tuple[str, ...] = ()) -> list[str]:
    """The axes in which the cells of groups, selections or label sets differ, `but` aside."""
    return [name for name in _axes(found) if name not in but
            and len({key(entry.cell.get(name)) for entry in found}) > 1]


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
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else key(value)


def _axes(found: list) -> list[str]:
    return list(dict.fromkeys(name for entry in found for name in entry.cell))
