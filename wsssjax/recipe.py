"""A recipe: named steps with inputs. Runs what is missing, skips what is done and unchanged.

Every step owns the folder `<workdir>/<step>/`: its artifact, `config.json` (written first) and
`manifest.json` (written last, so a step without one is unfinished and goes on where it stopped).
Of several hosts with one workdir the first decides what is to be done and does it; the others join
in where something is trained, and wait for its manifest where not.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import pathlib
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from wsssjax.core import files, parallel
from wsssjax.core.config import differences, near

PACKAGES = ("wsssjax", "jax", "jaxlib", "flax", "optax", "numpy")
FAILED = "failed.json"  # in a step's folder: why the first of several hosts could not make it
POLL_S = 1.0  # between two looks for what another host makes


class Step(NamedTuple):
    """name: also its folder.  run: (folder, {input name: its folder}) → None.  inputs: names of
    earlier steps.  config: JSON values that its result depends on.  ids: list of image ids it
    works on, a file in the folder of the input `prepare`; "" for none.  batch: rows per device, 0
    where nothing is trained.  outputs: files it leaves outside its folder, relative to the workdir.
    derived: it takes seconds and only restates its inputs, so it is made again by itself when they
    or its settings change."""

    name: str
    run: Callable
    inputs: tuple[str, ...] = ()
    config: dict = {}
    ids: str = ""
    batch: int = 0
    outputs: tuple[str, ...] = ()
    derived: bool = False


class Context(NamedTuple):
    """What is the same for all steps of a run. devices: of all hosts."""

    workdir: pathlib.Path
    classes: tuple[str, ...]
    seed: int
    devices: int


def versions() -> dict[str, str]:
    """Versions that a result may depend on."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return found | {"python": platform.python_version(), "machine": platform.machine()}


def identify(step: Step, context: Context, done: dict[str, str]) -> dict:
    """What makes the step's result what it is, its hash aside; done: hash of each input's."""
    identity = {
        "config_hash": files.hash_value(step.config),
        "inputs": {name: done[name] for name in step.inputs},
        "classes": list(context.classes),
    }
    if step.batch:  # training alone draws, and depends on how rows are spread
        identity |= {"devices": context.devices, "device_batch": step.batch, "seed": context.seed}
    return identity


def is_done(folder: pathlib.Path, step: Step, identity: dict) -> bool:
    """True when the step is done; ValueError when what lies there was made with other settings."""
    begun = folder / "config.json"
    if not begun.is_file():
        return False
    old = files.read_json(begun)
    changed = differences(old["config"], step.config)
    changed += differences(old["identity"], identity)
    changed = [c for c in changed if not c.startswith("config_hash")]
    if changed and step.derived:
        shutil.rmtree(folder)
        return False
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise ValueError(
            f"{folder}: made with other settings ({changed[0][:160]}{more}); make it again with "
            f"--redo={step.name}, or use another --workdir")
    outputs = [folder.parent / name for name in step.outputs]
    return (folder / "manifest.json").is_file() and all(p.is_file() for p in outputs)


def _downstream(steps: list[Step], first: set[str]) -> set[str]:
    """The named steps and all that follow from them."""
    found = set(first)
    for step in steps:
        if found & set(step.inputs):
            found.add(step.name)
    return found


def run(steps: list[Step], context: Context, *, redo: tuple[str, ...] = (), say=print) -> list[str]:
    """Runs the steps in their order; returns the names of those that had something to do.

    redo: steps to make again, with everything that follows from them; `all` for the lot.
    say: takes one line of text for the person who waits; the first host alone calls it.
    """
    first = parallel.process()[0] == 0
    names = [step.name for step in steps]
    for name in redo:
        if name not in (*names, "all"):
            raise ValueError(f"--redo={name}: no such step{near(name, names)}")
    again = set(names) if "all" in redo else _downstream(steps, set(redo))
    done: dict[str, str] = {}
    worked = []
    for number, step in enumerate(steps, 1):
        folder = context.workdir / step.name
        identity = identify(step, context, done)
        if first and step.name in again and folder.exists():
            shutil.rmtree(folder)
        done[step.name] = files.hash_value(identity)
        if not _asked(folder, step, identity):
            continue
        parallel.check_equal(folder.is_dir(), f"folder {folder}")
        inputs = {name: context.workdir / name for name in step.inputs}
        if first:
            say(f"[{number}/{len(steps)}] {step.name}")
            with _told(folder):
                run_step(step, folder, inputs, context, identity)
        elif step.batch:
            step.run(folder, inputs)
        else:
            _wait_for(folder)
        worked.append(step.name)
    return worked


def _asked(folder: pathlib.Path, step: Step, identity: dict) -> bool:
    """Whether there is something to do, as the first host sees it; ValueError as in `is_done`."""
    error, answer = None, 0
    if parallel.process()[0] == 0:
        try:
            answer = int(not is_done(folder, step, identity))
        except (ValueError, OSError) as found:
            error, answer = found, 2
        if answer == 1:
            folder.mkdir(parents=True, exist_ok=True)
            for name in ("manifest.json", FAILED):
                (folder / name).unlink(missing_ok=True)  # others wait for new ones
    answer = parallel.first_says(answer)
    if error:
        raise error
    if answer == 2:
        raise ValueError(f"{folder}: the first host refuses what lies here")
    return bool(answer)


@contextlib.contextmanager
def _told(folder: pathlib.Path) -> Iterator[None]:
    """Leaves word of an error for the hosts that wait: jax would hold all of them for minutes."""
    try:
        yield
    except Exception as error:
        if parallel.process()[1] > 1:
            files.write_json(folder / FAILED, str(error))
        raise


def _wait_for(folder: pathlib.Path) -> None:
    """Returns when the first host has finished the step, however long that takes.

    ValueError where it failed; should it die, jax ends this process.
    """
    while not (folder / "manifest.json").is_file():
        if (folder / FAILED).is_file():
            raise ValueError(f"{folder}: the first host failed here: "
                             f"{files.read_json(folder / FAILED)}")
        time.sleep(POLL_S)


def run_step(step: Step, folder: pathlib.Path, inputs: dict[str, pathlib.Path], context: Context,
             identity: dict) -> None:
    """Fills `folder`; inputs: folder of each of the step's inputs.  identity: see `identify`."""
    folder.mkdir(parents=True, exist_ok=True)
    files.sweep(folder)
    files.write_json(folder / "config.json", {"config": step.config, "identity": identity})
    start = time.monotonic()
    step.run(folder, inputs)
    ids = files.read_ids(inputs.get("prepare", folder) / step.ids) if step.ids else []
    manifest = {"devices": context.devices, "device_batch": step.batch,
                "step": step.name, "id_count": len(ids), "id_hash": files.hash_ids(ids),
                "versions": versions(), "wall_s": round(time.monotonic() - start, 2)}
    files.write_json(folder / "manifest.json", identity | manifest)
