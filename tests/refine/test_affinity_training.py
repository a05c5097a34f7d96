"""AffinityNet's training against PyTorch: features, one step at full width, fifty at a sixteenth.

Fifty steps at full width take two minutes on two cores, so the long run is thin. It is in float64:
the slope of |x| jumps at 0, as a ReLU's does, so in float32 rounding alone parts two runs of the
same code after a few steps. Crops have 80 pixels; those of 64 hold no pair.
"""

import ctypes
import os
import pathlib
import runpy
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wsssjax.core import config as configs
from wsssjax.core import optim, parallel, weights
from wsssjax.core import state as states
from wsssjax.models import affinity_net, registry, resnet38
from wsssjax.refine import affinity

ROOT = pathlib.Path(__file__).parents[2]
SIDE = 80
THIN = 1 / 16


def torch_network(width=1.0):
    """The PyTorch network of test_resnet38."""
    return runpy.run_path(str(ROOT / "tests/models/test_resnet38.py"))["torch_network"](width)


@pytest.fixture(scope="module")
def reference():
    return torch_network


def encoder_of(width):
    return registry.Encoder(
        lambda _, dtype: resnet38.ResNet38(width=width, dropout=False, dtype=dtype),
        resnet38.from_torch)


def small_config(encoder="resnet38", **changes):
    """The shipped config at 80 pixels."""
    small = {"data.crop": str(SIDE), "device_batch": "2", "total_steps": "50"} | changes
    return configs.load(f"{ROOT / 'configs/refine_voc_affinity.py'}:{encoder}", small)


@pytest.fixture
def make_config(monkeypatch):
    """(encoder, width, {field: value}) → the config, with a ResNet-38 without dropout."""
    def make(encoder="resnet38", width=THIN, **changes):
        monkeypatch.setitem(registry.ENCODERS, "resnet38", encoder_of(width))
        return small_config(encoder, **changes)

    return make


def make_batch(seed, rows=2):
    """Noise around two flat objects, with labels that know most of them."""
    rng = np.random.default_rng(seed)
    side = SIDE // 8
    label = np.zeros((rows, side, side), np.int32)
    for row in range(rows):
        top, left = rng.integers(1, 4, 2)
        label[row, top : top + 5, left : left + 4] = 1
        label[row, 6:, 5:] = 2
    image = rng.standard_normal((rows, SIDE, SIDE, 3))
    image += 2 * np.eye(3)[label].repeat(8, 1).repeat(8, 2)
    label[rng.random(label.shape) < 0.15] = 255
    return {"image": image.astype(np.float32), "label": label}


def torch_step(model, batch):
    """(loss parts [3], total) as tensors, pairs taken one offset at a time."""
    import torch

    image = torch.tensor(batch["image"].transpose(0, 3, 1, 2), dtype=model.conv1a.weight.dtype)
    f = model(image)["affinity"]
    label = torch.tensor(batch["label"])
    h, w = label.shape[1:]
    offsets = [(dy, dx) for dy in range(5) for dx in range(-4, 5)
               if dy * dy + dx * dx < 25 and (dy > 0 or dx > 0)]
    sums, counts = [0.0] * 3, [0] * 3
    for dy, dx in offsets:
        rows, columns = slice(0, h - 4), slice(4, w - 4)
        there = slice(dy, dy + h - 4), slice(4 + dx, w - 4 + dx)
        a = torch.exp(-(f[:, :, rows, columns] - f[:, :, there[0], there[1]]).abs().mean(1))
        one, two = label[:, rows, columns], label[:, there[0], there[1]]
        valid = (one < 255) & (two < 255)
        kinds = ((one == 0) & (two == 0), valid & (one == two) & (one > 0), valid & (one != two))
        terms = (-torch.log(a + 1e-5), -torch.log(a + 1e-5), -torch.log(1.0 + 1e-5 - a))
        for i in range(3):
            sums[i] = sums[i] + (kinds[i] * terms[i]).sum()
            counts[i] = counts[i] + int(kinds[i].sum())
    parts = torch.stack([s / (n + 1e-5) for s, n in zip(sums, counts, strict=True)])
    return parts, (parts * parts.new_tensor([0.25, 0.25, 0.5])).sum()


def torch_optimizer(model):
    """SGD with the published groups: frozen start, old weights, new weights at ten times the rate.

    Momentum is the weight decay, as the published optimizer passes it.
    """
    import torch

    old, new = [], []
    for name, p in model.named_parameters():
        if name.split(".")[0] in ("conv1a", "b2", "b2_1", "b2_2"):
            p.requires_grad_(False)
        elif p.requires_grad:
            (new if name.startswith("f") else old).append(p)
    groups = [{"params": old, "lr": 0.01, "base": 0.01}, {"params": new, "lr": 0.1, "base": 0.1}]
    return torch.optim.SGD(groups, lr=0.01, momentum=5e-4, weight_decay=5e-4)


def our_state(model, config, method):
    """A state at step 0 with the weights of the PyTorch network."""
    dtype = registry.DTYPES[config.model.dtype]
    flat = affinity_net.from_torch({n: x.detach().numpy() for n, x in model.state_dict().items()})
    template = jax.eval_shape(method.init, jax.random.key(0))
    template = jax.tree.map(lambda x: jax.ShapeDtypeStruct(
        x.shape, dtype if x.dtype == jnp.float32 else x.dtype), template)
    variables = weights.restore(template.variables(), flat)  # on the host: `replicate` copies it
    return template.replace(
        step=np.zeros((), np.int32), params=variables["params"],
        opt=jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), template.opt),
        extra={"batch_stats": variables["batch_stats"]})


def give_back():
    """Hands freed memory back: glibc would keep a gigabyte of it while others work."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def run_ours(model, config, batches):
    """(loss curve [steps, 4], variables at the end by name, on the host)."""
    method, curve = affinity.build(config), []
    state = parallel.replicate(our_state(model, config, method), devices=1)
    del model  # 0.4 GB at full width
    give_back()
    step = parallel.compile_step(method.step, devices=1)
    for batch in batches:
        state, found = step(state, batch, jax.random.key(0))
        curve.append([float(found[n]) for n in ("loss_bg", "loss_fg", "loss_neg", "loss")])
    return np.array(curve), parallel.to_host(weights.flatten(state.variables()))


def run_theirs(model, config, batches):
    """Loss curve [steps, 4]. Learns at our rates, which are float32 and checked against the
    formula."""
    optimizer, curve = torch_optimizer(model), []
    for t, batch in enumerate(batches):
        for group in optimizer.param_groups:
            rate = jax.jit(optim.poly(group["base"], config.total_steps, 0.9))(jnp.int32(t))
            group["lr"] = float(rate)
            want = group["base"] * (1 - t / config.total_steps) ** 0.9
            assert group["lr"] == pytest.approx(want, rel=1e-6)
        optimizer.zero_grad()
        parts, total = torch_step(model, batch)
        total.backward()
        optimizer.step()
        curve.append([*parts.tolist(), total.item()])
    optimizer.zero_grad()
    return np.array(curve)


def run_both(make, config, batches):
    """(loss curve of ours, of theirs, (error, its name) of the move that is furthest from theirs).

    make: () → the PyTorch network, the same each time, so that one network at a time is held.
    """
    ours, got = run_ours(make(), config, batches)
    give_back()
    model = make()
    theirs = run_theirs(model, config, batches)
    return ours, theirs, worst_move(make(), model, got)


def worst_move(before, after, got):
    """(error, its name): of each tensor's move against PyTorch's, length over length; the rest of
    what must hold is checked: frozen tensors stay to the bit, all others move."""
    found, left, end = [], dict(got), after.state_dict()
    for full, tensor in before.state_dict().items():
        start = affinity_net.from_torch({full: tensor.detach().numpy()})  # none for counters
        for name, x in affinity_net.from_torch({full: end[full].detach().numpy()}).items():
            move, ours = x - start[name], np.float32(left.pop(name)) - start[name]
            if "batch_stats" in name or "/conv1a/" in name or "/b2" in name:
                assert not move.any() and not ours.any(), name
            else:
                found.append((np.linalg.norm(ours - move) / np.linalg.norm(move), name))
    assert not left
    return max(found)


def test_one_step_at_full_width_equals_torch(reference, make_config):
    ours, theirs, (error, name) = run_both(reference, make_config(width=1.0),
                                           [make_batch(0, rows=1)])
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    assert error < 1e-2, (error, name)  # float32: 2e-3 where a ReLU or an |x| flips


def fifty_steps_in_float64():
    """(relative error of the losses, of the weights' moves) after fifty steps of both."""
    import torch

    registry.DTYPES["float32"] = jnp.float64
    registry.ENCODERS["resnet38"] = encoder_of(THIN)
    torch.set_num_threads(1)
    ours, theirs, (error, _) = run_both(lambda: torch_network(THIN).double(), small_config(),
                                        [make_batch(t) for t in range(50)])
    assert theirs[-5:, 3].mean() < 0.7 * theirs[:5, 3].mean()  # it learns
    return np.abs(ours / theirs - 1).max(), error


def test_fifty_steps_equal_torch():
    """In a process of its own: 64 bits are a switch of the whole of jax."""
    pytest.importorskip("torch")
    env = os.environ | {"JAX_ENABLE_X64": "1", "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    out = subprocess.run([sys.executable, __file__], env=env, capture_output=True, text=True,
                         timeout=600)
    assert out.returncode == 0, out.stdout + out.stderr[-3000:]
    losses, moves = map(float, out.stdout.split())
    assert losses < 1e-12 and moves < 1e-6, out.stdout


def test_features_equal_torch_at_an_odd_size(reference, make_config):
    model = reference(THIN)
    config = make_config()
    method = affinity.build(config)
    image = np.random.default_rng(0).standard_normal((1, 45, 83, 3)).astype(np.float32)
    import torch

    with torch.no_grad():
        want = model(torch.tensor(image.transpose(0, 3, 1, 2)))["affinity"].permute(0, 2, 3, 1)
    got = jax.jit(method.predict)(our_state(model, config, method).variables(), image)
    assert got.shape == (1, 6, 11, 448) and want.std() > 0.1
    np.testing.assert_allclose(got, want, atol=1e-5 * float(want.abs().max()))


def test_two_devices_equal_one(make_config):
    """With pairs of one kind on one device only: counts are those of the whole batch."""
    method = affinity.build(make_config())
    start = parallel.to_host(method.init(jax.random.key(0)))
    batch = make_batch(7)
    batch["label"][0, :, :] = 0  # nothing but background on the first device
    found = {}
    for devices in (1, 2):
        step = parallel.compile_step(method.step, devices=devices)
        state, metrics = step(parallel.replicate(start, devices=devices), batch, jax.random.key(0))
        found[devices] = parallel.to_host(state).params, {k: float(v) for k, v in metrics.items()}
    assert found[1][1] == pytest.approx(found[2][1], rel=1e-5)
    for a, b, x in zip(*map(jax.tree.leaves, (found[1][0], found[2][0], start.params)),
                       strict=True):
        np.testing.assert_allclose(b - x, a - x, rtol=0.01, atol=1e-6 + 1e-3 * np.abs(a - x).max())


def resnet38_factor(name):
    """As published: nothing below b3 learns, the new layers do ten times as fast."""
    if "/conv1a/" in name or name.startswith("backbone/b2"):
        return 0
    return 10 if name.startswith("head/") else 1


def light_factor(name):
    """The new layers learn, the convolutions of the last five blocks a tenth as fast."""
    if name.startswith("head/"):
        return 1
    late = [f"backbone/blocks_{i}/" for i in range(11, 16)] + ["backbone/conv_head/"]
    return 0.1 if name.startswith(tuple(late)) and "/bn" not in name else 0


@pytest.mark.parametrize("encoder, decay, factor", [
    ("resnet38", 0.01 * 5e-4, resnet38_factor), ("efficientnet_lite0", 1e-3 * 1e-4, light_factor)])
def test_rates_of_the_groups(make_config, encoder, decay, factor):
    """Without a gradient only weight decay acts, at the rate of each group."""
    config = make_config(encoder)
    model = affinity_net.build(config.model)
    params = jax.tree.map(lambda x: np.ones(x.shape, np.float32), jax.eval_shape(
        lambda: affinity.first_variables(model, SIDE, jax.random.key(0)))["params"])
    update = optim.build(config.optim, params, config.total_steps)
    changes, _ = update.update(jax.tree.map(np.zeros_like, params), update.init(params), params)
    for name, change in weights.flatten(changes).items():
        np.testing.assert_allclose(change, -decay * factor(name), rtol=1e-5, err_msg=name)


def test_the_new_layers_start_as_published(make_config):
    """Kaiming normal for the three, Xavier uniform with gain 4 for the last."""
    head = affinity.build(make_config(width=0.25)).init(jax.random.key(0)).params["head"]
    for name in ("f8_3", "f8_4", "f8_5"):
        kernel = np.asarray(head[name]["kernel"])
        assert kernel.std() == pytest.approx((2 / kernel.shape[0]) ** 0.5, rel=0.05)
        assert np.abs(kernel).max() > 3 * kernel.std()
    last = np.asarray(head["f9"]["kernel"])
    bound = 4 * (6 / 896) ** 0.5
    assert last.shape == (448, 448) and 0.99 * bound < np.abs(last).max() <= bound
    assert last.std() == pytest.approx(bound / 3**0.5, rel=0.02)


@pytest.mark.parametrize("size", [(72, 104), (45, 83)])
def test_maps_at_stride_16_line_up_with_those_at_8(make_config, size):
    """Coarse maps are doubled and cut: a mark in the photo stays where it is."""
    x = np.zeros((1, 5, 6, 1), np.float32)
    x[0, 2, 3] = 1
    up = np.asarray(affinity_net._to_size(jnp.asarray(x), (9, 12)))[0, ..., 0]
    assert up.shape == (9, 12)
    np.testing.assert_allclose(up[4:6, 6:8], 0.5625)  # the four cells of the mark
    method = affinity.build(make_config("efficientnet_lite0"))
    shape = jax.eval_shape(method.predict, jax.eval_shape(
        method.init, jax.random.key(0)).variables(), jnp.zeros((1, *size, 3))).shape
    assert shape == (1, -(-size[0] // 8), -(-size[1] // 8), 448)


def test_a_coarser_encoder_is_refused(make_config):
    config = make_config("efficientnet_lite0", **{"model.output_stride": "32"})
    with pytest.raises(ValueError, match="set config.model.output_stride=16"):
        affinity.build(config)


def test_published_weights_under_a_prefix(reference):
    tensors = {n: x.numpy() for n, x in reference(THIN).state_dict().items()}
    flat = affinity_net.from_torch({f"module.{n}": x for n, x in tensors.items()})
    assert flat.keys() == affinity_net.from_torch(tensors).keys()
    np.testing.assert_array_equal(flat["params/head/f9/kernel"], tensors["f9.weight"][:, :, 0, 0].T)
    with pytest.raises(ValueError, match="f8_6.weight .*: no tensor of a ResNet-38"):
        affinity_net.from_torch({"f8_6.weight": np.zeros((2, 2, 1, 1))})


def test_the_optimizer_holds_nothing_of_frozen_layers(make_config):
    state = affinity.build(make_config()).init(jax.random.key(0))
    assert isinstance(state, states.TrainState) and state.ema is None
    held = weights.flatten(state.opt)
    assert not [name for name in held if "conv1a" in name or "/b2/" in name]


if __name__ == "__main__":
    print(*fifty_steps_in_float64())
