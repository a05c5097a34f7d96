"""Save, restore, continue equals never stopping; damaged and half-written checkpoints."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from wsssjax.core import checkpoint, parallel, state


def make_state(step=0, ema=True):
    variables = {"params": {"backbone": {"w": jnp.arange(6.0).reshape(2, 3)}},
                 "batch_stats": {"mean": jnp.ones(3)}}
    s = state.create(variables, optax.adamw(0.1), ema=ema)
    return s.replace(step=jnp.int32(step))


@pytest.mark.parametrize("ema", [True, False])
def test_restore_gives_back_every_bit(tmp_path, ema):
    saved = make_state(7, ema).replace(params={"backbone": {"w": jnp.full((2, 3), 0.1)}})
    checkpoint.save(tmp_path, parallel.replicate(saved, devices=2), {"position": 12, "epochs": [1]})
    got, position = checkpoint.restore(tmp_path, make_state(ema=ema))
    assert position == {"position": 12, "epochs": [1]}
    assert jax.tree.structure(got) == jax.tree.structure(saved)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(saved), strict=True):
        assert isinstance(a, np.ndarray) and a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_the_newest_of_two_is_restored_and_older_ones_go(tmp_path):
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, make_state(step), step)
    got, position = checkpoint.restore(tmp_path, make_state())
    assert (int(got.step), position) == (3, 3)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.isdigit()) == ["2", "3"]


def test_no_checkpoint_is_none(tmp_path):
    assert checkpoint.restore(tmp_path / "absent", make_state()) is None
    assert checkpoint.restore(tmp_path, make_state()) is None


def test_a_damaged_checkpoint_is_named(tmp_path):
    checkpoint.save(tmp_path, make_state(5), 0)
    for path in (tmp_path / "5" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(ValueError, match="5: cannot read this checkpoint") as error:
        checkpoint.restore(tmp_path, make_state())
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    checkpoint.save(tmp_path, make_state(5), 0)
    other = state.create({"params": {"backbone": {"w": jnp.zeros((4, 3))}}}, optax.adamw(0.1),
                         ema=True)
    with pytest.raises(ValueError, match="cannot read this checkpoint"):
        checkpoint.restore(tmp_path, other)


WRITER = """
import sys, jax.numpy as jnp, optax
from wsssjax.core import checkpoint, state
s = state.create({"params": {"w": jnp.arange(2_000_000.0)}}, optax.adamw(0.1), ema=True)
print("ready", flush=True)
for step in range(1, 1000):
    checkpoint.save(sys.argv[1], s.replace(step=jnp.int32(step)), step)
    print(step, flush=True)
"""


def test_a_kill_while_writing_leaves_the_last_whole_checkpoint(tmp_path):
    rng = np.random.default_rng(0)
    for round_ in range(3):
        folder = tmp_path / str(round_)
        child = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)],
                                 stdout=subprocess.PIPE, text=True)
        for line in child.stdout:
            if line.strip() == "2":
                break
        time.sleep(float(rng.uniform(0, 0.3)))
        os.kill(child.pid, signal.SIGKILL)
        told = [int(x) for x in child.stdout.read().split()] or [2]
        child.wait()
        like = state.create({"params": {"w": jnp.zeros(2_000_000)}}, optax.adamw(0.1), ema=True)
        got, position = checkpoint.restore(pathlib.Path(folder), like)
        assert int(got.step) == position >= told[-1]
        np.testing.assert_array_equal(got.params["w"][-3:], [1_999_997.0, 1_999_998.0, 1_999_999.0])
