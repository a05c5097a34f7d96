"""A grid from end to end: every cell's steps, its row, and the table of all rows.

Steps that cells share run once, whoever of several processes needs them. A step's folder is
`<out>/steps/<name>-<hash>`, its hash that of everything it depends on (see `recipe.identify`), so
that two cells that want the same thing name the same folder. A lock file beside it, held by the
operating system and gone with its process, keeps others waiting.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax

from wsssjax import recipe
from wsssjax.ablate import grid
from wsssjax.core import cluster, files, parallel
from wsssjax.data.classes import read_class_names
from wsssjax.steps import arms, order, scores, sets

DIGITS = 10  # of a hash, in folder names
# Of sorted ids: what makes a run one on full VOC 2012.
VOC = {"129f1fe991729b18": "train", "855dff350b7f447b": "train_aug"}
VOC_VAL = "6f8edc37993764f6"


class Place(NamedTuple):
    """A step with its folder, its identity, and the folders of its inputs by name."""

    step: recipe.Step
    folder: pathlib.Path
    identity: dict
    inputs: dict[str, pathlib.Path]


class Cell(NamedTuple):
    """values: {axis: value}.  config: the recipe's at this cell.  places: where its steps lie, the
    last two of them the scores of its label sets and its row."""

    values: dict[str, str]
    config: Any
    places: dict[str, Place]


def run(spec: str, overrides: dict[str, str], values: Sequence[dict[str, str]], out: str, *,
        shard: str = "0/1", work: bool = True, say=print) -> dict:
    """Runs this shard's cells and returns the table of all rows that are there by then.

    spec: the recipe's config file.  overrides: {"a.b": "text"} for all cells.  values: the cells,
    {axis: value} each.  shard: "i/n", the part of the cells that this process runs; several
    processes may share `out`.  work: False runs nothing.  Cells that are done are not run again.
    The table is what `page.build` reads.
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
        head = f"[{number}/{len(mine)}]"
        made = [make(place, context, lambda text, head=head: say(f"{head} {text}"))
                for place in cell.places.values()]
        if any(made):
            jax.clear_caches()  # each training's programs would stay: 60 MB a cell
    return table(every, config)


# ---- the steps of a cell --------------------------------------------------------------------


def open_cell(spec: str, overrides: dict[str, str], values: dict[str, str],
              context: recipe.Context) -> Cell:
    """A cell with the folders of its steps; nothing is run."""
    config = grid.config_of(spec, overrides, values)
    arm = values["arm"]
    steps = order.build_labels(config) + order.build_selection(config)
    own = {made.step for made in sets.folders(config).values()}
    made = [step.name for step in steps if step.name in own]
    steps.append(order.step(config, "label_scores", functools.partial(scores.label_scores, config),
                            ("prepare", *made), {"sets": scores.told(config, ())["sets"]},
                            derived=True))
    pair = [sets.STEPS[name] for name in sets.pair(config)]
    inputs = ["prepare", "select", *(name for name in made if name in pair)]
    if arm != grid.NO_ARM:
        steps += order.build_arm(config, arm)
        folder = arms.folder_name(arm)
        drawn = arms.ARMS[arm].chosen
        inputs += [f"arm_{folder}", f"test_{folder}", *([drawn] if drawn in arms.DRAWS else [])]
    depends = {"arm": arm, "labelled": config.labelled.to_dict(), "listed": config.listed,
               "supervision": scores.supervision(config, "S" if arm == grid.NO_ARM else arm)}
    steps.append(order.step(config, "row", functools.partial(scores.row, config, arm), inputs,
                            depends, derived=True))
    wanted = _needed(steps, ("row", "label_scores"))
    return Cell(values, config, places([s for s in steps if s.name in wanted], context))


def _needed(steps: Sequence[recipe.Step], last: Sequence[str]) -> set[str]:
    """The named steps and all that they need."""
    found = set(last)
    for step in reversed(steps):
        if step.name in found:
            found |= set(step.inputs)
    return found


def places(steps: Sequence[recipe.Step], context: recipe.Context) -> dict[str, Place]:
    """Where each step of one cell lies, by its name; inputs stand before what needs them."""
    found: dict[str, Place] = {}
    done: dict[str, str] = {}
    for step in steps:
        identity = recipe.identify(step, context, done)
        done[step.name] = files.hash_value(identity)
        folder = context.workdir / "steps" / f"{step.name}-{done[step.name][:DIGITS]}"
        inputs = {name: found[name].folder for name in step.inputs}
        found[step.name] = Place(step, folder, identity, inputs)
    return found


def is_done(place: Place) -> bool:
    """Whether the step's folder is finished."""
    return (place.folder / "manifest.json").is_file()


def make(place: Place, context: recipe.Context, say) -> bool:
    """Makes the step unless it is there; whether it had to be.

    say: takes one line of text for the person who waits.
    """
    if is_done(place):
        return False
    with _locked(place.folder, say):
        if recipe.is_done(place.folder, place.step, place.identity):
            return False
        say(place.folder.name)
        recipe.run_step(place.step, place.folder, place.inputs, context, place.identity)
    return True


@contextlib.contextmanager
def _locked(folder: pathlib.Path, say) -> Iterator[None]:
    """Alone with a folder; the lock goes with the process, however it ends."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / f".{folder.name}.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{folder.name}: another process makes it; waiting")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


# ---- the table ------------------------------------------------------------------------------


def table(every: Sequence[Cell], config) -> dict:
    """Rows of the cells that are done, None in the place of the others' scores; see
    `page.build`."""
    rows, scored = [], []
    for cell in every:
        described = grid.describe(cell.config, cell.values)
        row = scores.EMPTY_ROW | {"cell": described}
        if is_done(cell.places["row"]):
            row |= files.read_json(cell.places["row"].folder / "row.json")
        rows.append(row)
        if is_done(cell.places["label_scores"]):
            found = files.read_json(cell.places["label_scores"].folder / "scores.json")
            scored.append((cell, described, found))
    voc = {VOC.get(found["train_hash"], "") if found["test_hash"] == VOC_VAL else ""
           for _, _, found in scored}
    return {"title": config.title, "data": config.data.kind,
            "voc": voc.pop() if len(voc) == 1 else "",
            "classes": list(read_class_names(config.classes)),
            "edges": scored[0][2]["histogram"]["edges"] if scored else [],
            "sets": label_sets(scored), "rows": rows}


def label_sets(scored: Sequence[tuple[Cell, dict, dict]]) -> list[dict]:
    """Every label set of the cells, each once, with the axes in which those of a name differ.

    scored: (cell, the cell as tables read it, its `scores.json`).
    """
    entries, told = {}, {}
    for cell, described, found in scored:
        for name, made in sets.folders(cell.config).items():
            entry = found["sets"][name] | {"histogram": found["histogram"]["counts"].get(name)}
            name = _name(cell.config, name)
            key = (name, cell.places[made.step].folder, entry["method"], entry["supervision"])
            entries[key] = {"name": name, "miou": None} | entry
            told.setdefault(key, []).append(described)
    # Of a set, the values that all of its cells have; of those, the ones that others have not.
    alike = {key: {axis: value for axis, value in first.items()
                   if all(other.get(axis) == value for other in others)}
             for key, (first, *others) in told.items()}
    return [entry | {"cell": {axis: value for axis, value in alike[key].items() if any(
        axis in alike[other] and alike[other][axis] != value
        for other in entries if other[0] == key[0])}} for key, entry in entries.items()]


def _name(config, name: str) -> str:
    """The set's name in tables: A behind a CRF is one of its own."""
    behind = tuple(config.finish_a) == ("crf",) and not config.given.a
    return "A + CRF" if name == "A" and behind else name
