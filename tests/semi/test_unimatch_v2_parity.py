"""Three steps of UniMatch V2 with DINOv2-small against the reference numbers of the real code."""

import functools
import importlib.util
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wsssjax.core import config as configs
from wsssjax.core import parallel, weights
from wsssjax.core import state as states
from wsssjax.models import dpt, registry, vit
from wsssjax.models.segmenter import Segmenter
from wsssjax.semi import student, unimatch_v2

ROOT = pathlib.Path(__file__).parents[2]
SIDE, ROWS, STEPS = 70, 4, 3
SCALARS = ("loss", "loss_x", "loss_u", "mask_ratio", "grad_backbone", "grad_head")
# What their README allows: relative in the scalars of steps 0, 1, 2; absolute in parameters.
BOUNDS = {"float32": ((1e-4, 1e-3, 4e-3), 5e-5), "float64": ((1e-6, 1e-6, 1e-6), 1e-7)}


def load_config(freeze):
    config = configs.load(ROOT / "configs/semi_voc_unimatch_v2.py:small")
    config.model.freeze_encoder = freeze
    config.device_batch, config.data.crop, config.total_steps = ROWS, SIDE, 10
    config.conf_threshold = 0.2
    return config


def named_weights(folder, dtype):
    """(model, variables) of DINOv2-small + DPT whose every tensor is drawn from its own name."""
    spec = importlib.util.spec_from_file_location("named_weights", folder / "named_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = Segmenter(vit.ViT(vit.SIZES["s"], dtype=dtype),
                      dpt.DPTHead(21, 64, dpt.channels(64), (14,) * 4, dtype))
    template = jax.eval_shape(functools.partial(student.first_variables, model),
                              jax.random.key(0))
    zeros = {n: np.zeros(x.shape, np.float32) for n, x in weights.flatten(template).items()}
    tensors = {name: module.named_weight(name, x.shape)
               for name, x in registry.segmenter_to_torch(zeros).items()}
    assert len(tensors) == 237
    flat = registry.segmenter_from_torch(tensors)
    wide = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), template)
    return model, weights.restore(wide, flat)


def batches(dtype):
    """The three batches, as the fixtures' README tells to draw them."""
    rng = np.random.Generator(np.random.Philox(99))
    for k in range(STEPS):
        batch = {}
        for name in ("image", "weak", "strong1", "strong2"):
            x = rng.standard_normal((ROWS, 3, SIDE, SIDE), dtype=np.float32)
            batch[name] = x.transpose(0, 2, 3, 1).astype(dtype)
        label = rng.integers(0, 21, (ROWS, SIDE, SIDE)).astype(np.int32)
        label[:, :8] = 255
        valid = np.ones((ROWS, SIDE, SIDE), bool)
        valid[1, :, 60:] = False
        valid[3, 50:] = False
        batch |= {"label": label, "valid": valid}
        for v in range(2):
            box = np.zeros((ROWS, SIDE, SIDE), bool)
            for b in range(ROWS):
                if (b + v + k) % 2 == 0:
                    box[b, 10 + 5 * b : 40, 5 : 30 + 4 * b] = True
            batch[f"cut{v + 1}"] = box
        yield batch


def run(folder, precision, freeze):
    """The largest error over its bound, in scalars and in parameters; all must stay below 1."""
    dtype = np.dtype(precision)
    suffix = "_f64" if precision == "float64" else ""
    want = np.load(folder / f"unimatch_v2_steps{suffix}.npz")
    name = "frozen" if freeze else "trainable"
    config = load_config(freeze)
    model, variables = named_weights(folder, dtype)
    model = model.clone(freeze=freeze)
    state = states.create(
        jax.tree.map(jnp.asarray, variables), student.optimizer(config, variables["params"]),
        ema=True, learned=functools.partial(student.trainable, config))
    state = parallel.replicate(state, devices=1)
    relative, absolute = BOUNDS[precision]
    kept_sbd = jnp.stack([want[f"drop_{k}"] > 0 for k in range(STEPS)])
    whole_sb = jnp.stack([np.isin(np.arange(ROWS), want[f"perm_{k}"][: ROWS // 2])
                          for k in range(STEPS)])

    def one_step(state, batch, key):
        drawn = (kept_sbd[state.step],) * 4, whole_sb[state.step]
        return unimatch_v2.train_step(state, batch, key, config=config, model=model,
                                      draw=lambda *_: drawn)

    step = parallel.compile_step(one_step, devices=1)
    worst = {}
    for k, batch in enumerate(batches(dtype)):
        state, metrics = step(state, batch, jax.random.key(0))
        for scalar, value in zip(SCALARS, want[f"{name}_scalars_{k}"], strict=True):
            error = abs(float(metrics[scalar]) - value) / max(abs(value), 1e-12)
            if not (freeze and scalar == "grad_backbone"):
                worst[f"{scalar} of step {k}"] = error / relative[k]
    for who, ema in (("student", False), ("ema", True)):
        flat = {n: np.asarray(x) for n, x in weights.flatten(state.variables(ema=ema)).items()}
        tensors = to_torch(flat)
        keys = [k for k in want.files if k.startswith(f"{name}_{who}_")]
        assert len(keys) == 7
        for key in keys:
            x = tensors[key.removeprefix(f"{name}_{who}_")].reshape(-1)
            got = x[:: max(1, x.size // 64)][:64]
            worst[key] = np.abs(got - want[key]).max() / absolute
    return worst


def to_torch(flat):
    """PyTorch's names and layouts, with float64 kept: conversion itself writes float32 files."""
    high = {n: x.astype(np.float32) for n, x in flat.items()}
    low = {n: (x - high[n]).astype(np.float32) for n, x in flat.items()}
    high, low = registry.segmenter_to_torch(high), registry.segmenter_to_torch(low)
    return {n: high[n].astype(np.float64) + low[n] for n in high}


@pytest.mark.parametrize("freeze", [False, True], ids=["trainable", "frozen"])
def test_float32_steps(shared, freeze):
    worst = run(shared / "fixtures", "float32", freeze)
    assert max(worst.values()) < 1, sorted(worst.items(), key=lambda x: -x[1])[:5]


@pytest.mark.parametrize("freeze", ["trainable", "frozen"])
def test_float64_steps(shared, freeze):
    """In a process of its own: 64 bits are a switch of the whole of jax."""
    env = os.environ | {"JAX_ENABLE_X64": "1", "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    out = subprocess.run(
        [sys.executable, __file__, str(shared / "fixtures"), freeze], env=env,
        capture_output=True, text=True, timeout=900)
    assert out.returncode == 0 and "of the bound" in out.stdout, out.stdout + out.stderr[-3000:]


if __name__ == "__main__":
    found = run(pathlib.Path(sys.argv[1]), "float64", sys.argv[2] == "frozen")
    for item in sorted(found.items(), key=lambda x: -x[1]):
        print("{}: {:.3g} of the bound".format(*item))
    sys.exit(int(max(found.values()) >= 1))
