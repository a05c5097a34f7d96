"""The traps of running one step on several devices: each has a test here."""

import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from wsssjax.core import parallel, state
from wsssjax.core.losses import masked_xent

K = 3


def make_state(ema=True):
    params = {"w": jnp.linspace(-1.0, 1.0, 4 * K).reshape(4, K)}
    return state.create({"params": params}, optax.adamw(1e-2), ema=ema)


def masked_step(train_state, batch, key):
    """A step with a masked loss divided by the pixels of ALL devices (the global reading)."""
    def loss_fn(params):
        total, count = masked_xent(batch["x"] @ params["w"], batch["label"], batch["valid"])
        # devices × local sum / global count: its mean over devices is the global mean.
        return parallel.sum(1.0) * total / parallel.sum(count)

    loss, grads = jax.value_and_grad(loss_fn)(train_state.params)
    grads = parallel.mean(grads)
    updates, opt = optax.adamw(1e-2).update(grads, train_state.opt, train_state.params)
    params = optax.apply_updates(train_state.params, updates)
    ema = jax.tree.map(lambda t, s: 0.9 * t + 0.1 * s, train_state.ema, params)
    new = train_state.replace(step=train_state.step + 1, params=params, ema=ema, opt=opt)
    return new, {"loss": parallel.mean(loss), "key": jax.random.uniform(key)}


def make_batch(rows=4):
    rng = np.random.default_rng(0)
    valid = rng.random((rows, 5, 6)) < np.linspace(0.05, 0.95, rows)[:, None, None]
    return {"x": rng.normal(size=(rows, 5, 6, 4)).astype(np.float32),
            "label": rng.integers(0, K, (rows, 5, 6)).astype(np.int32), "valid": valid}


def run(backend, devices, steps=3):
    step = parallel.compile_step(masked_step, backend=backend, devices=devices)
    s = parallel.replicate(make_state(), devices=devices)
    for _ in range(steps):
        s, metrics = step(s, make_batch(), jax.random.key(0))
    return parallel.to_host(s), float(metrics["loss"])


@pytest.mark.parametrize("backend", ["pmap", "shard_map"])
def test_two_devices_equal_one_with_unequal_masks(backend):
    want, want_loss = run(backend, 1)
    got, got_loss = run(backend, 2)
    np.testing.assert_allclose(got_loss, want_loss, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_pmap_and_shard_map_take_the_same_mean_of_gradients():
    a, _ = run("pmap", 2)
    b, _ = run("shard_map", 2)
    np.testing.assert_allclose(a.params["w"], b.params["w"], rtol=1e-6)


def test_four_devices_equal_one():
    """In a process of its own, since the number of devices is fixed at start."""
    code = textwrap.dedent("""
        import sys; sys.path.insert(0, sys.argv[1])
        import numpy as np, test_parallel as t
        for backend in ("pmap", "shard_map"):
            (a, la), (b, lb) = t.run(backend, 1), t.run(backend, 4)
            np.testing.assert_allclose(a.params["w"], b.params["w"], rtol=1e-5, atol=1e-7)
            np.testing.assert_allclose(la, lb, rtol=1e-6)
        print("equal")
    """)
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    out = subprocess.run([sys.executable, "-c", code, os.path.dirname(__file__)], env=env,
                         capture_output=True, text=True, timeout=300)
    assert out.stdout.strip() == "equal", out.stderr[-2000:]


def test_state_stays_unstacked_and_is_donated():
    step = parallel.compile_step(masked_step, devices=2)
    first = parallel.replicate(make_state(), devices=2)
    second, _ = step(first, make_batch(), jax.random.key(0))
    assert second.params["w"].shape == (4, K)
    assert first.params["w"].is_deleted()
    assert not second.params["w"].is_deleted()


def test_ema_is_a_copy_with_a_buffer_of_its_own():
    s = make_state()
    assert s.ema["w"] is not s.params["w"]
    assert s.ema["w"].unsafe_buffer_pointer() != s.params["w"].unsafe_buffer_pointer()
    placed = parallel.replicate(s, devices=1)
    assert placed.ema["w"].unsafe_buffer_pointer() != placed.params["w"].unsafe_buffer_pointer()


def test_replicate_leaves_the_callers_arrays_alive():
    s = make_state()
    step = parallel.compile_step(masked_step, devices=1)
    step(parallel.replicate(s, devices=1), make_batch(), jax.random.key(0))
    assert np.isfinite(np.asarray(s.params["w"])).all()


def test_each_device_and_each_step_draws_its_own_numbers():
    def draw(s, batch, key):
        mine = jax.random.uniform(parallel.device_key(key))
        other = parallel.sum(mine) - mine
        return s.replace(step=s.step + 1), {"gap": jnp.abs(mine - other), "sum": mine + other}

    step = parallel.compile_step(draw, devices=2)
    s = parallel.replicate(make_state(), devices=2)
    seen = []
    for _ in range(2):
        s, metrics = step(s, make_batch(), jax.random.key(0))
        assert metrics["gap"] > 1e-3
        seen.append(float(metrics["sum"]))
    assert seen[0] != seen[1]


def test_uneven_rows_are_refused_with_the_numbers():
    step = parallel.compile_step(masked_step, devices=2)
    s = parallel.replicate(make_state(), devices=2)
    with pytest.raises(ValueError, match="has 3 rows on this host; its 2 devices need a multiple"):
        step(s, make_batch(3), jax.random.key(0))


def test_unknown_backend_names_the_known():
    with pytest.raises(ValueError, match="config.parallel 'pmpa' is unknown; did you mean 'pmap'"):
        parallel.compile_step(masked_step, backend="pmpa")
