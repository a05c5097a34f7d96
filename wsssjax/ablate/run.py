"""A grid from end to end: every cell's steps, its row, and the table of all rows."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from wsssjax import recipe
from wsssjax.ablate import grid, store
from wsssjax.core import cluster, files, parallel
from wsssjax.data.classes import read_class_names
from wsssjax.steps import arms, order, scores

# Of the ids of VOC's train_aug and val, sorted: what makes a run one on full VOC.
FULL_VOC = {"train_hash": "855dff350b7f447b", "test_hash": "6f8edc37993764f6"}


class Cell(NamedTuple):
    """values: {axis: value}.  config: the recipe's at this cell.  places: where its steps lie, the
    last two of them its row and the scores of its label sets."""

    values: dict[str, str]
    config: Any
    places: dict[str, store.Place]

    def row(self) -> store.Place:
        return self.places["row"]


def open_cell(spec: str, overrides: dict[str, str], values: dict[str, str],
              context: recipe.Context) -> Cell:
    """A cell with the folders of its steps; nothing is run."""
    config = grid.config_of(spec, overrides, values)
    arm = values["arm"]
    steps = order.build_labels(config) + order.build_selection(config)
    made = tuple(step.name for step in steps if step.name.startswith("labels_"))
    told = scores.told(config, [arm] if arm != grid.NO_ARM else ["S"])
    steps.append(order.step(config, "label_scores", functools.partial(scores.label_scores, config),
                            ("prepare", *made), {"sets": told}, derived=True))
    inputs = ["prepare", "select", *(n for n in made if n in _sets(config))]
    if arm != grid.NO_ARM:
        steps += order.build_arm(config, arm)
        own = arms.folder_name(arm)
        drawn = arms.ARMS[arm].chosen
        inputs += [f"arm_{own}", f"test_{own}", *([drawn] if drawn in arms.DRAWS else [])]
    depends = {"arm": arm, "labelled": config.labelled.to_dict(), "listed": config.listed,
               "supervision": scores.supervision(config, "S" if arm == grid.NO_ARM else arm)}
    steps.append(order.step(config, "row", functools.partial(scores.row, config, arm), inputs,
                            depends, derived=True))
    wanted = _needed(steps, ("row", "label_scores"))
    return Cell(values, config, store.places([s for s in steps if s.name in wanted], context))


def _sets(config) -> tuple[str, ...]:
    return tuple(order.sets.STEPS[name] for name in order.sets.pair(config))


def _needed(steps: Sequence[recipe.Step], last: Sequence[str]) -> set[str]:
    """The named steps and all that they need."""
    found = set(last)
    for step in reversed(steps):
        if step.name in found:
            found |= set(step.inputs)
    return found


def run(spec: str, overrides: dict[str, str], values: Sequence[dict[str, str]], out: str, *,
        shard: str = "0/1", work: bool = True, say=print) -> dict:
    """Runs this shard's cells and returns the table of all rows that are there by then.

    spec: the recipe's config file.  overrides: {"a.b": "text"} for all cells.  values: the cells,
    {axis: value} each.  shard: "i/n", the part of the cells that this process runs; several
    processes may share `out`.  work: False runs nothing.  Cells that are done are not run again.
    The table is what wsssjax/ablate/tables.py reads.
    """
    if parallel.process()[1] > 1:
        raise ValueError("an ablation runs on each host alone: unset JAX_COORDINATOR_ADDRESS, and "
                         "give every host its --shard=i/n of the cells")
    config = grid.config_of(spec, overrides, values[0])
    context = recipe.Context(pathlib.Path(out).absolute(), read_class_names(config.classes),
                             config.seed, parallel.device_count())
    context.workdir.mkdir(parents=True, exist_ok=True)
    every = [open_cell(spec, overrides, one, context) for one in values]
    index, count = cluster.shard(shard)
    mine = every[index::count] if work else []
    for number, cell in enumerate(mine, 1):
        for place in cell.places.values():
            head = f"[{number}/{len(mine)}]"
            store.run(place, context, lambda text, head=head: say(f"{head} {text}"))
    return table(every, config)


def table(every: Sequence[Cell], config) -> dict:
    """Rows of the cells that are done, None in the place of the others' scores."""
    made: dict[str, Any] = {"sets": {}, "histogram": {"edges": [], "counts": {}}}
    rows, full = [], []
    for cell in every:
        place = cell.places["label_scores"]
        if store.is_done(place):
            found = files.read_json(place.folder / "scores.json")
            made["sets"] |= found["sets"]
            made["histogram"]["edges"] = found["histogram"]["edges"]
            made["histogram"]["counts"] |= found["histogram"]["counts"]
            full.append(all(found[name] == value for name, value in FULL_VOC.items()))
        row = scores.EMPTY_ROW | {"cell": grid.describe(cell.config, cell.values)}
        if store.is_done(cell.row()):
            row |= files.read_json(cell.row().folder / "row.json")
        rows.append(row)
    return {"title": config.title, "data": config.data.kind, "full_voc": bool(full) and all(full),
            "classes": list(read_class_names(config.classes)), **made, "rows": rows}
