"""Mean and spread over seeds, and arms compared seed by seed."""

from __future__ import annotations

import json
import statistics
from typing import NamedTuple

ARMS = {  # in the order of the tables
    "S": "selected labels + unlabelled rest",
    "S-sup": "selected labels only",
    "M": "random draw with the classes per image of S + unlabelled rest",
    "Q": "random draw that fills the same quota + unlabelled rest",
    "U": "uniform random draw of equal size + unlabelled rest",
    "L": "labels of a given list of images + unlabelled rest",
    "ALL": "every pseudo-label",
    "T": "true masks on the images of S + unlabelled rest",
    "Tall": "true masks on every image",
}
NONE = "none"  # the arm of a selection that nothing is trained on
DIFFERENCES = tuple(("S", arm) for arm in ("M", "U", "Q", "ALL"))
RATIOS = (("S", "T"), ("S", "Tall"))


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


class Comparison(NamedTuple):
    """Two arms of a group, over the seeds that both have."""

    first: str
    second: str
    stat: Stat
    missing: dict[str, tuple]  # seeds left out, by the arm that lacks them


def key(value) -> str:
    """The JSON value as a text that is equal for equal values."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def groups(rows: list[dict]) -> list[Group]:
    """The rows by all of their cell but arm and seed, in the order in which they come.

    rows: as `check.checked` returns them. ValueError where a cell stands twice with other results.
    """
    cells, found = {}, {}
    for row in rows:
        cell = dict(row["cell"])
        arm, seed = cell.pop("arm"), cell.pop("seed", None)
        name = key(cell)
        cells[name] = cell
        seeds = found.setdefault(name, {}).setdefault(arm, {})
        if seeds.setdefault(seed, row) != row:
            raise ValueError(f"rows: the cell {key(row['cell'])} stands twice with different "
                             "results; keep one of them")
    return [Group(cells[name], {arm: dict(sorted(arms[arm].items(), key=_seed_order))
                                for arm in (*ARMS, *arms) if arm in arms})
            for name, arms in found.items()]


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
