"""Steps that many cells of a grid share: each runs once, whoever of several processes needs it.

A step's folder is `<out>/steps/<name>-<hash>`, its hash that of everything it depends on (see
`recipe.identify`), so that two cells that want the same thing name the same folder. A lock file
beside it, held by the operating system and gone with its process, keeps others waiting.
"""

from __future__ import annotations

import contextlib
import fcntl
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from wsssjax import recipe
from wsssjax.core import files

DIGITS = 10  # of a hash, in folder names


class Place(NamedTuple):
    """A step with its folder, its identity, and the folders of its inputs by name."""

    step: recipe.Step
    folder: pathlib.Path
    identity: dict
    inputs: dict[str, pathlib.Path]


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


def run(place: Place, context: recipe.Context, say) -> bool:
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
