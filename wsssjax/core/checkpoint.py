"""Training state on disk (Orbax), with the position of the data loader beside it."""

from __future__ import annotations

import errno
import os
import pathlib
import shutil

import flax.serialization
import jax
import numpy as np

from wsssjax.core import parallel, weights
from wsssjax.core.state import TrainState

KEEP = 2
SPARE_BYTES = 1_000_000  # for names and folders


def _manager(folder):
    import orbax.checkpoint as ocp  # a second to import; a skipped step never pays it

    options = ocp.CheckpointManagerOptions(
        max_to_keep=KEEP, enable_async_checkpointing=False, cleanup_tmp_directories=True)
    return ocp, ocp.CheckpointManager(os.path.abspath(folder), options=options)


def _tree(state: TrainState) -> dict:
    """Nested dicts of host arrays: a checkpoint must not remember how many devices made it."""
    tree = flax.serialization.to_state_dict(parallel.to_host(state))
    return jax.tree.map(np.asarray, tree)


def save(folder: str | os.PathLike, state: TrainState, position) -> None:
    """Writes state and loader position under `folder/<step>`; the two newest are kept.

    position: any JSON value. A kill while writing leaves the checkpoint before as the newest.
    OSError when the disk is full.
    """
    tree = _tree(state)
    _check_space(folder, tree)
    ocp, manager = _manager(folder)
    step = int(state.step)
    try:
        manager.save(step, args=ocp.args.Composite(
            state=ocp.args.StandardSave(tree),
            loader=ocp.args.JsonSave({"position": position})), force=True)
        manager.wait_until_finished()
    except (ValueError, RuntimeError) as error:  # tensorstore reports a full disk as ValueError
        reason = str(error).splitlines()[0][:200]
        raise OSError(f"{folder}: cannot write the checkpoint of step {step}: {reason}") from error
    finally:
        manager.close()


def _check_space(folder, tree) -> None:
    """OSError where the disk is too full; Orbax would answer with a traceback from each thread."""
    path = pathlib.Path(os.path.abspath(folder))
    path.mkdir(parents=True, exist_ok=True)
    need = sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) * 1.1 + SPARE_BYTES
    free = shutil.disk_usage(path).free
    if free < need:
        raise OSError(errno.ENOSPC, f"a checkpoint needs {need / 1e6:.1f} MB, the disk has "
                      f"{free / 1e6:.1f}", str(folder))


def steps(folder: str | os.PathLike) -> list[int]:
    """The steps of which there is a checkpoint, in their order."""
    folder = pathlib.Path(folder)
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdigit())


def restore(folder: str | os.PathLike, state: TrainState):
    """(state, position) of the newest checkpoint under `folder`, or None where there is none.

    state: what `init` gives; its tree, shapes and dtypes are what the checkpoint must hold.
    """
    folder = pathlib.Path(folder)
    if not steps(folder):
        return None
    ocp, manager = _manager(folder)
    try:
        step = manager.latest_step()
        if step is None:
            return None
        want = _tree(state)
        loaded = manager.restore(step, args=ocp.args.Composite(
            state=ocp.args.StandardRestore(want), loader=ocp.args.JsonRestore()))
    except Exception as error:  # noqa: BLE001  (Orbax raises many kinds for a damaged folder)
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{folder / str(step)}: cannot read this checkpoint ({reason}); "
                         "delete that folder to go on from the one before") from error
    finally:
        manager.close()
    tree = jax.tree.map(np.asarray, loaded.state)
    # Orbax hands over what lies on disk, whatever size it has.
    report = weights.compare(want, weights.flatten(tree))
    if any(report):
        raise ValueError(f"{folder / str(step)}: the checkpoint of another network; "
                         f"{report.text()}; use another --workdir")
    return flax.serialization.from_state_dict(state, tree), loaded.loader["position"]
