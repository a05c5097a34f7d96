"""The grids that the paper's tables and the protocol want."""

from __future__ import annotations

from collections.abc import Sequence

from wsssjax.ablate.grid import NO_ARM, Axis, cells
from wsssjax.core.config import choose

SEEDS = Axis("seed", ("0", "1", "2"))
QUOTAS = Axis("quota", ("voc/92", "voc/183", "voc/366", "voc/732", "voc/1464"))
PAIRS = Axis("pair", ("A:B+", "B:B+", "A+:B+", "A:B"))
ALONE = Axis("arm", (NO_ARM,))

# Grids of each table, whose cells are put together; what a grid does not name is the config's.
GRIDS = {
    "protocol": [[Axis("arm", ("S", "M", "Q", "U", "ALL", "T", "Tall", "S-sup")), SEEDS]],
    "3": [[QUOTAS, ALONE]],
    "4": [[Axis("pair", ("A:B+", "A+:B+")), ALONE]],
    "5": [[Axis("arm", ("S",)), SEEDS]],
    "6": [[PAIRS, Axis("quota", ("none",)), Axis("min_iou", ("0.9",)), ALONE]],
    "7": [[PAIRS, Axis("arm", ("S",)), SEEDS],
          [Axis("pair", ("A:B+",)), Axis("arm", ("U",)), SEEDS]],
    "8": [[QUOTAS, Axis("arm", ("S", "U")), SEEDS]],
    "figure1": [[ALONE]],
}
SHEETS = {"protocol": ("protocol", "paired", "ratios"), "figure1": ("figure1",),
          **{number: (f"table{number}",) for number in "345678"}}


def grids(table: str, axes: Sequence[Axis]) -> list[list[Axis]]:
    """The grids of a table ("" for none) with the axes that a person asked for in them."""
    wanted = {axis.name: axis for axis in axes}
    if not table:
        return [list(axes)]
    found = choose(GRIDS, table, "--table")
    return [[*(wanted.get(axis.name, axis) for axis in grid),
             *(axis for axis in axes if axis.name not in {a.name for a in grid})]
            for grid in found]


def all_cells(table: str, axes: Sequence[Axis]) -> list[dict[str, str]]:
    """The cells of all grids of a table, each once."""
    found = [cell for grid in grids(table, axes) for cell in cells(grid)]
    return [cell for place, cell in enumerate(found) if cell not in found[:place]]
