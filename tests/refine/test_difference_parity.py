"""Steps of static SSDD against torch's plain form: losses, flags, every updated parameter."""

import functools
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wsssjax.core import config as configs
from wsssjax.core import optim, parallel, weights
from wsssjax.core import state as states
from wsssjax.models import difference_net, resnet38, small_cnn
from wsssjax.refine import difference

torch = pytest.importorskip("torch")
PLAIN = pathlib.Path(__file__).parents[1] / "ssdd_torch.py"
spec = importlib.util.spec_from_file_location("ssdd_torch", PLAIN)
plain = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plain)
CONFIG = pathlib.Path(__file__).parents[2] / "configs/refine_voc_ssdd_static.py"
CLASSES, EPOCH = 6, 4


def load_config(**changes):
    config = configs.load(CONFIG)
    config.optim.lr, config.optim.cosine_epochs = 0.01, 15
    for name, value in changes.items():
        config[name] = value
    return config


def setting(config, width=1 / 32, seed=0):
    """(our model, our state, our optimizer, torch's model), alike."""
    sizes = (512, 12, 256) if width == 1 else (12, 12, 8)
    other = plain.randomise(plain.SSDD(CLASSES, 1, width, *sizes), seed)
    model = difference_net.DifferenceSegmenter(
        resnet38.ResNet38(width=width, dropout=False, freeze_below="b2"), CLASSES, 1,
        width=sizes[0], dilation=12, difference_width=sizes[2])
    template = jax.eval_shape(lambda: difference_net.first_variables(model, jax.random.key(0)))
    variables = weights.restore(template, difference_net.from_torch(plain.numpy_state(other)))
    tx = optim.build_cosine(config.optim, variables["params"], EPOCH)
    return model, states.create(jax.tree.map(jnp.asarray, variables), tx, ema=False), tx, other


def make_batch(seed, rows=2, side=112):
    """Two label maps that differ by a shift, with ignored and, in one row, vanished pixels."""
    rng = np.random.default_rng(seed)
    knowledge = np.kron(rng.integers(0, CLASSES, (rows, 4, 4)),
                        np.ones((1, side // 16, side // 16))).astype(np.int32)
    advice = np.roll(knowledge, 2, axis=2)
    tags = np.stack([[(k == c).any() for c in range(1, CLASSES)] for k in knowledge])
    if seed % 2:
        advice[0] = 0  # all classes are lost: flagged, skipped
    knowledge[:, :2], advice[-1, 5:8, 5:8] = 255, 255
    return {"image": rng.normal(size=(rows, side, side, 3)).astype(np.float32),
            "knowledge": knowledge, "advice": advice, "tags": tags.astype(np.float32),
            "valid": np.ones(knowledge.shape, bool)}


@functools.cache
def small(devices, flag_absent):
    """(our step, function that makes our state at step 0), an encoder that compiles quickly."""
    config = load_config()
    config.optim.weight_decay, config.ssdd.flag_absent = 0.0, flag_absent
    config.optim.groups = (("^backbone/stem/", 0.0, 0.0), ("^backbone/", 1.0, 1.0),
                           (".*", 10.0, 1.0))
    model = difference_net.DifferenceSegmenter(
        small_cnn.SmallCNN(widths=(4, 4, 6, 8)), CLASSES, 1, width=12, dilation=3,
        difference_width=8)
    variables = jax.jit(lambda: difference_net.first_variables(model, jax.random.key(1)))()
    tx = optim.build_cosine(config.optim, variables["params"], EPOCH)
    return step_of(config, model, tx, devices), lambda: parallel.replicate(
        states.create(variables, tx, ema=False), devices=devices)


def step_of(config, model, tx, devices=1):
    return parallel.compile_step(functools.partial(
        difference.train_step, config=config, model=model, optimizer=tx), devices=devices)


def plain_step(config, other, batch, step):
    losses = plain.static_losses(
        other, plain.to_torch(batch["image"]), *(torch.tensor(batch[k]).long()
                                                 for k in ("knowledge", "advice")),
        torch.tensor(batch["tags"]))
    factor = 0.5 * (1 + np.cos(np.pi * step / EPOCH / config.optim.cosine_epochs))
    plain.descend(other, losses, config.optim.lr, config.optim.weight_decay, factor)
    return {n: float(x.detach()) for n, x in losses.items()}


def compare(state, other, start, atol):
    """The largest error among all parameters; every part but conv1a has moved."""
    want = difference_net.from_torch(plain.numpy_state(other))
    got = weights.flatten({"params": state.params, **state.extra})
    assert got.keys() == want.keys()
    worst = 0.0
    for name, x in got.items():
        moved = np.abs(want[name] - start[name]).max()
        assert (moved > 0) == (name.startswith("params/") and "/conv1a/" not in name), name
        worst = max(worst, float(np.abs(np.asarray(x) - want[name]).max()))
    assert worst < atol, worst
    return worst


@pytest.fixture(scope="module")
def compiled():
    """(config, step): one compilation for all that it is compared in."""
    config = load_config()
    model, _, tx, _ = setting(config)
    return config, step_of(config, model, tx)


@pytest.mark.parametrize("steps, seeds, rtol, atol", [
    (1, (0,), 1e-5, 1e-6), (1, (1,), 1e-5, 1e-6), (50, range(4), 2e-3, 5e-4)],
    ids=["one", "one with a flagged image", "fifty"])
def test_steps_match_torch(compiled, steps, seeds, rtol, atol):
    """A ReLU that flips in one of two implementations is what fifty steps make of rounding."""
    config, step = compiled
    _, state, _, other = setting(config)
    start = difference_net.from_torch(plain.numpy_state(other))
    start = {n: x.copy() for n, x in start.items()}
    state = parallel.replicate(state, devices=1)
    made = [make_batch(seed, 2 if steps == 1 else 1) for seed in seeds]
    for i in range(steps):
        batch = made[i % len(made)]
        want = plain_step(config, other, batch, i)
        state, metrics = step(state, batch, jax.random.key(0))
        rows, flagged = len(batch["tags"]), seeds[i % len(made)] % 2
        assert float(metrics["kept"]) == (rows - flagged) / rows
        assert want["loss_seg"] > 0.1 and (want["loss_diff"] > 0.1 or rows == flagged)
        for name, value in want.items():
            np.testing.assert_allclose(metrics[name], value, rtol=rtol, err_msg=f"{name} of {i}")
    print(f"{steps} steps: largest error {compare(state, other, start, atol):.2g}")


def test_a_step_at_full_width_matches_torch():
    """ResNet-38 and heads as published, 126 million parameters, on one small crop."""
    config, batch = load_config(), make_batch(0, 1)
    config.optim.lr = 1e-3
    model, state, tx, other = setting(config, width=1)
    start = difference_net.from_torch(plain.numpy_state(other))
    start = {n: x.copy() for n, x in start.items()}
    want = plain_step(config, other, batch, 0)
    state, metrics = step_of(config, model, tx)(
        parallel.replicate(state, devices=1), batch, jax.random.key(0))
    for name, value in want.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
    print(f"full width: largest error {compare(state, other, start, 1e-5):.2g}")


def test_published_names_restore_to_what_torch_predicts(tmp_path, monkeypatch):
    """A state dict by its own names, given where trained weights may be."""
    config = load_config()
    config.predict.batch = 2
    model, _, _, other = setting(config)
    monkeypatch.setattr(difference, "build_model", lambda _: model)
    np.savez(tmp_path / "published.npz", **plain.numpy_state(other))
    batch = make_batch(0)
    both = np.stack([batch["knowledge"], batch["advice"]], 1)
    items = [difference.Item("x", image, grid, grid, None, (28, 28))
             for image, grid in zip(batch["image"], both, strict=True)]
    got = difference.restored(config, tmp_path / "published.npz")(items)
    with torch.no_grad():
        _, (hidden,), low = other.eval().segment(plain.to_torch(batch["image"]))
        want = np.stack([torch.sigmoid(other.difference(
            0, hidden, low, torch.tensor(both[:, i]).long())).numpy() for i in range(2)], 1)
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert want.std() > 0.01


def test_two_devices_are_one():
    """Unequal counts of ignored pixels and of skipped images on the two: exact all the same."""
    parts = [make_batch(seed, side=64) for seed in (0, 1)]
    batch = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
    batch["knowledge"][3, 4:12] = 255
    found = []
    for devices in (1, 2):
        step, first = small(devices, True)
        state, metrics = step(first(), batch, jax.random.key(0))
        found.append(({n: float(v) for n, v in metrics.items()}, weights.flatten(state.params)))
    (one, params_1), (two, params_2) = found
    assert one["kept"] == two["kept"] == 0.75
    for name in one:
        np.testing.assert_allclose(one[name], two[name], rtol=1e-5, err_msg=name)
    for name, x in params_1.items():
        np.testing.assert_allclose(x, params_2[name], atol=1e-6, err_msg=name)


def test_a_batch_of_which_all_is_flagged_still_teaches_the_head():
    step, first = small(1, True)
    state, batch = first(), make_batch(0, side=64)
    batch["advice"][:] = 0
    before = {n: np.array(x) for n, x in weights.flatten(state.params).items()}
    state, metrics = step(state, batch, jax.random.key(0))
    assert float(metrics["loss_diff"]) == 0 and float(metrics["kept"]) == 0
    for name, x in weights.flatten(state.params).items():
        still = name.startswith(("dd", "backbone/stem/"))
        assert np.array_equal(before[name], x) == still, name


def test_absent_classes_need_not_take_a_crop_out():
    batch = make_batch(0, side=64)
    batch["tags"][:] = 1
    batch["knowledge"][batch["knowledge"] == 3] = 0
    batch["advice"][batch["advice"] == 3] = 0
    for flag_absent, kept in ((True, 0.0), (False, 1.0)):
        step, first = small(1, flag_absent)
        _, metrics = step(first(), batch, jax.random.key(0))
        assert float(metrics["kept"]) == kept
        assert (float(metrics["loss_diff"]) > 0) == (kept > 0)
