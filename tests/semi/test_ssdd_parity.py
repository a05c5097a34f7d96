"""Steps of dynamic SSDD against torch's plain form, and N devices against one."""

import functools
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wsssjax.core import config as configs
from wsssjax.core import crf as dense_crf
from wsssjax.core import difference, optim, parallel, weights
from wsssjax.core import state as states
from wsssjax.models import difference_net, resnet38, small_cnn
from wsssjax.semi import ssdd

torch = pytest.importorskip("torch")
PLAIN = pathlib.Path(__file__).parents[1] / "ssdd_torch.py"
spec = importlib.util.spec_from_file_location("ssdd_torch", PLAIN)
plain = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plain)
CONFIG = pathlib.Path(__file__).parents[2] / "configs/semi_voc_ssdd.py"
CLASSES, EPOCH = 6, 4


def load_config(**changes):
    config = configs.load(CONFIG)
    config.optim.lr, config.optim.cosine_epochs = 0.002, 15
    for name, value in changes.items():
        config.ssdd[name] = value
    return config


def moved(energy_bghk, photo_bghc):
    """In the CRF's place: the likeliest classes, moved right; all background where the corner is
    dark, class 1 where it is green."""
    label_bgh = jnp.roll(energy_bghk.argmin(-1), 3, 2)
    label_bgh = jnp.where(photo_bghc[:, :1, :1, 0] < 100, 0, label_bgh)
    label_bgh = jnp.where(photo_bghc[..., 1] == 255, 1, label_bgh)
    return jax.nn.one_hot(label_bgh, energy_bghk.shape[-1])


def plain_moved(logits, tags, photo):
    label = plain.own_labels(logits, tags).roll(3, 2)
    label[torch.tensor(photo[:, 0, 0, 0] < 100)] = 0
    return label


def setting(config, seed=0):
    """(our model, our state, our optimizer, torch's model), alike."""
    other = plain.randomise(plain.SSDD(CLASSES, 2, 1 / 32, 12, 12, 8), seed)
    model = difference_net.DifferenceSegmenter(
        resnet38.ResNet38(width=1 / 32, dropout=False, freeze_below="b2"), CLASSES, 2, width=12,
        dilation=12, difference_width=8)
    template = jax.eval_shape(lambda: difference_net.first_variables(model, jax.random.key(0)))
    variables = weights.restore(template, difference_net.from_torch(plain.numpy_state(other)))
    tx = optim.build_cosine(config.optim, variables["params"], EPOCH)
    return model, states.create(jax.tree.map(jnp.asarray, variables), tx, ema=False), tx, other


def make_batch(seed, rows=2, side=112):
    rng = np.random.default_rng(seed)
    label = np.kron(rng.integers(0, CLASSES, (rows, 4, 4)),
                    np.ones((1, side // 16, side // 16))).astype(np.int32)
    tags = np.stack([[(x == c).any() for c in range(1, CLASSES)] for x in label])
    label[:, :2] = 255
    photo = rng.integers(0, 255, (*label.shape, 3)).astype(np.uint8)
    photo[:, 0, 0, 0] = [(200, 0)[(seed + row) % 2] for row in range(rows)]
    return {"image": rng.normal(size=(rows, side, side, 3)).astype(np.float32),
            "photo": photo, "seed": label, "valid": np.ones(label.shape, bool),
            "tags": tags.astype(np.float32)}


def step_of(config, model, tx, devices=1, crf=moved):
    return parallel.compile_step(functools.partial(
        ssdd.train_step, config=config, model=model, crf=crf, optimizer=tx), devices=devices)


def plain_step(config, other, batch, step):
    losses = plain.dynamic_losses(
        other, plain.to_torch(batch["image"]), torch.tensor(batch["seed"]).long(),
        torch.tensor(batch["tags"]), functools.partial(plain_moved, photo=batch["photo"]),
        config.ssdd.last_target, config.ssdd.flag_absent)
    factor = 0.5 * (1 + np.cos(np.pi * step / EPOCH / config.optim.cosine_epochs))
    plain.descend(other, losses, config.optim.lr, config.optim.weight_decay, factor)
    return {n: float(x.detach()) for n, x in losses.items()}


@functools.cache
def compiled(last):
    config = load_config(last_target=last, flag_absent=last == "d2")
    model, _, tx, _ = setting(config)
    return config, step_of(config, model, tx)


@pytest.mark.parametrize("last, steps, rtol, atol", [
    ("d2", 1, 1e-5, 1e-6), ("d1", 1, 1e-5, 1e-6), ("d1", 50, 1e-3, 1e-4)])
def test_steps_match_torch(last, steps, rtol, atol):
    """Fifty steps: a pixel whose two probabilities are equal to rounding may go either way."""
    config, step = compiled(last)
    _, state, _, other = setting(config)
    start = {n: x.copy() for n, x in
             difference_net.from_torch(plain.numpy_state(other)).items()}
    state = parallel.replicate(state, devices=1)
    made, kept, changes = [make_batch(seed, 2 if steps == 1 else 1) for seed in range(3)], 0, []
    for i in range(steps):
        want = plain_step(config, other, made[i % 3], i)
        state, metrics = step(state, made[i % 3], jax.random.key(0))
        kept += float(metrics["kept"])
        changes.append([float(metrics[f"{n}_changes"]) for n in ("crf", "seed")])
        for name, value in want.items():
            assert value > 0.1
            np.testing.assert_allclose(metrics[name], value, rtol=rtol, err_msg=f"{name} of {i}")
    want = difference_net.from_torch(plain.numpy_state(other))
    got, worst = weights.flatten({"params": state.params, **state.extra}), 0.0
    assert got.keys() == want.keys()
    for name, x in got.items():
        changed = np.abs(want[name] - start[name]).max() > 0
        assert changed == (name.startswith("params/") and "/conv1a/" not in name), name
        worst = max(worst, float(np.abs(np.asarray(x) - want[name]).max()))
    print(f"{steps} steps: largest error {worst:.2g}, {kept / steps:.2f} of the images kept, share "
          f"of pixels that CRF and seed change {np.mean(changes, 0)}")
    assert worst < atol and (np.mean(changes, 0) > 0.02).all()
    assert (0 < kept < steps) or last == "d2"


def test_both_last_targets_are_told_apart():
    batch, found = make_batch(0), {}
    for last in ("d1", "d2"):
        config, step = compiled(last)
        _, state, _, _ = setting(config)
        _, metrics = step(parallel.replicate(state, devices=1), batch, jax.random.key(0))
        found[last] = metrics
    assert float(found["d1"]["loss_diff"]) != float(found["d2"]["loss_diff"])
    assert float(found["d1"]["loss_seg"]) == float(found["d2"]["loss_seg"])


# ---- with an encoder that compiles in a moment -------------------------------------------------


@functools.cache
def small(devices):
    """(step, function that makes the state at step 0)."""
    config = load_config(flag_absent=False)
    config.optim.groups = ((".*", 1.0, 1.0),)
    model = difference_net.DifferenceSegmenter(
        small_cnn.SmallCNN(widths=(4, 4, 6, 8)), CLASSES, 2, width=12, dilation=3,
        difference_width=8)
    variables = jax.jit(lambda: difference_net.first_variables(model, jax.random.key(1)))()
    tx = optim.build_cosine(config.optim, variables["params"], EPOCH)
    return step_of(config, model, tx, devices), lambda: parallel.replicate(
        states.create(variables, tx, ema=False), devices=devices)


def test_two_devices_are_one():
    """Unequal counts of ignored, padded and skipped pixels on the two: exact all the same."""
    parts = [make_batch(seed, side=64) for seed in (0, 1)]
    parts[1]["valid"][1, 9:], parts[1]["seed"][1, 9:] = False, 255
    parts[0]["seed"][0, 2:12] = 255
    parts[0]["tags"][1] = 0
    batch = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
    found = []
    for devices in (1, 2):
        step, first = small(devices)
        state, metrics = step(first(), batch, jax.random.key(0))
        found.append(({n: float(v) for n, v in metrics.items()}, weights.flatten(state.params)))
    (one, params_1), (two, params_2) = found
    assert one["kept"] == 0.75 and one["loss_diff"] > 0
    for name in one:
        np.testing.assert_allclose(one[name], two[name], rtol=1e-5, err_msg=name)
    for name, x in params_1.items():
        np.testing.assert_allclose(x, params_2[name], atol=1e-6, err_msg=name)


def test_padding_teaches_nothing():
    """Whatever the CRF makes of what lies beyond the photo, the losses are those of the photo."""
    batch, found = make_batch(0, side=64), []
    step, first = small(1)
    for column, same in ((9, False), (9, True), (13, False)):
        batch["valid"][:], batch["seed"][:] = True, make_batch(0, side=64)["seed"]
        batch["valid"][:, :, column:], batch["seed"][:, :, column:] = False, 255
        batch["photo"][:, :, column:, 1] = 255 * same
        _, metrics = step(first(), batch, jax.random.key(0))
        found.append({n: float(v) for n, v in metrics.items() if n.startswith("loss")})
    assert found[0] == found[1] != found[2] and found[0]["loss_diff"] > 0


def test_the_crf_inside_the_step_is_the_host_one():
    """Its labels are those of the lattice on the photo's classes, and not the head's own."""
    config, rng = load_config(), np.random.default_rng(0)
    logits = rng.normal(0, 2, (2, 16, 16, CLASSES)).astype(np.float32)
    batch = make_batch(3, side=64)
    crf = ssdd.in_loop_crf(config.ssdd)
    energy = difference.present_energy(jnp.asarray(logits), jnp.asarray(batch["tags"]))
    got = np.asarray(jax.jit(crf)(energy, batch["photo"])).argmax(-1)
    own = np.asarray(difference.present_labels(jnp.asarray(logits), jnp.asarray(batch["tags"])))
    for row in range(2):
        there = np.append(0, np.flatnonzero(batch["tags"][row]) + 1)
        scores = np.exp(logits[row][..., there])
        scores /= scores.sum(-1, keepdims=True)
        alone = dense_crf.infer(dense_crf.scores_to_unary(scores), batch["photo"][row],
                                dense_crf.PRESETS["ssdd_loop"])
        assert (got[row] == there[alone.argmax(-1)]).mean() > 0.99
        assert (got[row] != own[row]).mean() > 0.05
    wide = ssdd.in_loop_crf(load_config(crf_shrink=4.0).ssdd).keywords["how"]
    assert [k.sxy for k in wide.kernels] == [0.75, 20] and wide.iterations == 3
    with pytest.raises(ValueError, match="config.ssdd.crf_shrink is 0"):
        ssdd.in_loop_crf(load_config(crf_shrink=0.0).ssdd)
