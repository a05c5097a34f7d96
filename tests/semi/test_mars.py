"""MARS's trainer: cases by hand, steps against torch, CRF and affinity in the loop, the command."""

import doctest
import functools
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from wsssjax import predict
from wsssjax.core import config as configs
from wsssjax.core import crf, files, logs, parallel, weights
from wsssjax.core import state as states
from wsssjax.core.resize import resize_half_pixel
from wsssjax.data import label_map
from wsssjax.models.layers import TorchConv
from wsssjax.models.norms import BatchNorm
from wsssjax.semi import mars, student

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = ROOT / "configs/semi_voc_mars.py"
CLASSES, SIDE = 5, 64


def load_config(**changes):
    config = configs.load(CONFIG)
    config.total_steps, config.optim.lr, config.mars.ema_ramp_steps = 60, 0.02, 30
    config.optim.groups = (("^backbone/", 1.0, 1.0), (".*", 3.0, 1.0))
    for name, value in changes.items():
        config.mars[name] = value
    return config


# ---- a step against torch ----------------------------------------------------------------------


class Backbone(nn.Module):
    """Two convolutions with batch norms; stride 2."""

    @nn.compact
    def __call__(self, x, *, train):
        for index, (width, stride) in enumerate(((6, 1), (8, 2))):
            x = TorchConv(width, 3, stride, bias=False, name=f"conv{index}")(x)
            x = nn.relu(BatchNorm(name=f"bn{index}")(x, train=train))
        return x


class Thin(nn.Module):
    """What the trainer needs of a segmenter."""

    moves_statistics = True

    @nn.compact
    def __call__(self, image_bhwc, *, train):
        x = Backbone(name="backbone")(image_bhwc, train=train)
        logits = TorchConv(CLASSES, name="head")(x)
        return resize_half_pixel(logits, image_bhwc.shape[1:3]), {}


def torch_thin(torch, variables):
    """The same in torch, with these weights; and our names of its tensors."""
    conv = functools.partial(torch.nn.Conv2d, kernel_size=3, padding=1, bias=False)
    net = torch.nn.Sequential(
        conv(3, 6), torch.nn.BatchNorm2d(6), torch.nn.ReLU(), conv(6, 8, stride=2),
        torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Conv2d(8, CLASSES, 1),
        torch.nn.Upsample((SIDE, SIDE), mode="bilinear"))
    names = {"0.weight": "params/backbone/conv0/kernel", "3.weight": "params/backbone/conv1/kernel",
             "6.weight": "params/head/kernel", "6.bias": "params/head/bias"}
    for place, name in ((1, "bn0"), (4, "bn1")):
        names |= {f"{place}.weight": f"params/backbone/{name}/scale",
                  f"{place}.bias": f"params/backbone/{name}/bias",
                  f"{place}.running_mean": f"batch_stats/backbone/{name}/mean",
                  f"{place}.running_var": f"batch_stats/backbone/{name}/var"}
    flat = weights.flatten(variables)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if name in names:
                x = np.array(flat[names[name]])
                tensor.copy_(torch.tensor(x.transpose(3, 2, 0, 1) if x.ndim == 4 else x))
    return net, names


@pytest.fixture
def torch():
    """On one thread, which is faster for tensors this small."""
    found = pytest.importorskip("torch")
    threads = found.get_num_threads()
    found.set_num_threads(1)
    yield found
    found.set_num_threads(threads)


@functools.cache
def first_variables():
    """Random, with classes that vary over the image from the start."""
    variables = jax.jit(functools.partial(Thin().init, train=False))(
        jax.random.key(3), jnp.zeros((1, SIDE, SIDE, 3)))
    for name in ("conv0", "conv1"):
        variables["params"]["backbone"][name]["kernel"] *= 3
    return variables


def start(config, devices=1):
    """The state at step 0, its teacher a copy."""
    variables = first_variables()
    state = states.create(variables, student.optimizer(config, variables["params"]), ema=True)
    own = jax.tree.map(jnp.copy, variables["batch_stats"])
    state = state.replace(extra={**state.extra, mars.STATISTICS: own})
    return parallel.replicate(state, devices=devices)


def make_batch(seed, rows=2):
    """Blocks of colour with a class each, some labels void, some taken, padding below."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, CLASSES, (rows, 4, 4))
    label = cells.repeat(SIDE // 4, 1).repeat(SIDE // 4, 2)
    colours = np.random.default_rng(9).normal(size=(CLASSES, 3))
    image = (colours[label] + rng.normal(0, 0.7, (rows, SIDE, SIDE, 3))).astype(np.float32)
    label = np.where(rng.random(label.shape) < 0.1, 255, label)
    taken = (rng.random((rows, 8, 8)) < 0.4).repeat(SIDE // 8, 1).repeat(SIDE // 8, 2)
    biased = taken & (label != 255) & (label > 0)
    valid = np.ones(label.shape, bool)
    valid[0, 50:] = False
    label[0, 50:], biased[0, 50:] = 255, False
    tags = (np.stack([(cells == k).any((1, 2)) for k in range(1, CLASSES)], 1)
            & (rng.random((rows, CLASSES - 1)) < 0.7)).astype(np.float32)
    return {"image": image, "label": np.where(biased, 255, label).astype(np.int32),
            "biased": biased, "valid": valid, "tags": tags}


def torch_affinity(torch, p_bkhw, image_bchw, dilations, steps):
    """PAMR, written once more with unfold."""
    size = p_bkhw.shape[2:]

    def windows(x):  # [b, c, 9 a dilation, h, w]
        found = []
        for d in dilations:
            wide = torch.nn.functional.pad(x, (d,) * 4, mode="replicate")
            cut = torch.nn.functional.unfold(wide, 3, dilation=d)
            found.append(cut.reshape(len(x), x.shape[1], 9, *size))
        return torch.cat(found, 2)

    near = [i for i in range(9 * len(dilations)) if i % 9 != 4]
    around = windows(image_bchw)
    apart = (around[:, :, near] - image_bchw[:, :, None]).abs() / (1e-8 + 0.1 * around.std(
        2, keepdim=True))
    weight = (-apart.mean(1, keepdim=True)).softmax(2)
    for _ in range(steps):
        p_bkhw = (windows(p_bkhw)[:, :, near] * weight).sum(2)
    return p_bkhw


class Plain:
    """The trainer in torch, from the paper's formulas."""

    def __init__(self, torch, config, variables):
        self.torch, self.config, self.steps = torch, config, 0
        self.net, self.names = torch_thin(torch, variables)
        self.teacher, _ = torch_thin(torch, variables)
        parts = ([p for n, p in self.net.named_parameters() if not n.startswith("6.")],
                 list(self.net[6].parameters()))
        self.rates = (config.optim.lr, 3 * config.optim.lr)
        self.optimizer = torch.optim.SGD(
            [{"params": p, "lr": lr} for p, lr in zip(parts, self.rates, strict=True)],
            momentum=0.9, weight_decay=config.optim.weight_decay)

    def step(self, batch):
        torch, how = self.torch, self.config.mars
        image = torch.tensor(batch["image"]).permute(0, 3, 1, 2)
        label, biased = torch.tensor(batch["label"]).long(), torch.tensor(batch["biased"])
        tags = torch.tensor(batch["tags"])
        self.teacher.eval()
        with torch.no_grad():
            p = refined = self.teacher(image).softmax(1)
            if how.refine == "affinity":
                refined = torch_affinity(torch, p, image, how.affinity_dilations,
                                         how.affinity_steps)
        weight = torch.ones(label.shape)
        target = label.clone()
        for b in range(len(label)):
            own = [0, *(k + 1 for k in range(CLASSES - 1) if tags[b, k])]
            allowed = own if how.restrict else list(range(CLASSES))
            seen = torch.tensor(allowed)[refined[b, allowed].argmax(0)]
            sure = p[b, own[1:]].max(0)[0] if own[1:] else torch.zeros(label.shape[1:])
            target[b][biased[b]], weight[b][biased[b]] = seen[biased[b]], sure[biased[b]]
        certainty = weight[biased].mean().item()
        if how.complement == "plain":
            weight[:] = 1
        if how.complement == "none":
            target, weight = label, torch.ones(label.shape)
        self.net.train()
        logp = self.net(image).log_softmax(1)
        known = target != 255
        nll = -logp.gather(1, torch.where(known, target, 0)[:, None])[:, 0]
        total = (weight * nll)[known].sum()
        loss = total / (weight[known].sum() if how.divisor == "weights" else known.sum())
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * (1 - self.steps / self.config.total_steps) ** 0.9
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.steps += 1
        decay = how.ema_decay
        if how.ema_ramp_steps:
            decay *= 1 - np.exp(-self.steps / how.ema_ramp_steps)
        with torch.no_grad():
            for name, x in self.teacher.state_dict().items():
                if x.dtype.is_floating_point:
                    x.mul_(decay).add_((1 - decay) * self.net.state_dict()[name])
        return {"loss": loss.item(), "given_back": (target[biased] > 0).float().mean().item(),
                "certainty": certainty}

    def flat(self, net):
        """Our names and layouts."""
        state = {self.names[n]: x.numpy() for n, x in net.state_dict().items() if n in self.names}
        return {n: x.transpose(2, 3, 1, 0) if x.ndim == 4 else x for n, x in state.items()}


def compiled(config, devices=1):
    return parallel.compile_step(functools.partial(mars.train_step, config=config, model=Thin()),
                                 devices=devices)


@pytest.mark.parametrize("steps, changes", [
    (50, {}), (2, {"complement": "plain", "ema_ramp_steps": 0, "ema_decay": 0.9}),
    (2, {"complement": "none"}), (2, {"divisor": "weights", "restrict": False}),
    (2, {"refine": "affinity", "affinity_dilations": (1, 3), "affinity_steps": 2})])
def test_steps_match_torch(torch, steps, changes):
    """Student, teacher and both their statistics. The teacher's argmax may flip at a near tie."""
    config = load_config(**changes)
    plain, state, step = Plain(torch, config, first_variables()), start(config), compiled(config)
    many = steps > 2
    made, seen = [make_batch(seed) for seed in range(3)], []
    for i in range(steps):
        want = plain.step(made[i % 3])
        state, got = step(state, made[i % 3], jax.random.key(0))
        for name in got.keys() & want.keys():
            np.testing.assert_allclose(got[name], want[name], rtol=1e-3 if many else 1e-5,
                                       err_msg=f"{name} of step {i}")
        seen.append({n: float(x) for n, x in got.items()})
    if changes.get("complement") != "none":
        assert any(0 < s["given_back"] < 1 for s in seen) and all(s["certainty"] > 0 for s in seen)
    if many:
        assert seen[-1]["loss"] < 0.7 * seen[0]["loss"]
    for ema, net in ((False, plain.net), (True, plain.teacher)):
        found, want = weights.flatten(state.variables(ema=ema)), plain.flat(net)
        assert found.keys() == want.keys()
        for name, x in found.items():
            np.testing.assert_allclose(x, want[name], rtol=1e-3 if many else 1e-5,
                                       atol=2e-4 if many else 1e-6, err_msg=f"{name}, {ema}")
    moved = [np.abs(np.asarray(a) - np.asarray(b)).max() for a, b in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(state.ema), strict=True)]
    assert min(moved) > 1e-5


def test_groups_are_as_good_as_devices():
    """Four photos on two devices, and as two groups of one: the same states."""
    results = []
    for devices, accumulate in ((2, 1), (1, 2)):
        config = load_config()
        config.accumulate, config.device_batch = accumulate, 2
        state, step = start(config, devices), compiled(config, devices)
        for seed in range(2):
            state, metrics = step(state, make_batch(seed, 4), jax.random.key(0))
        results.append((parallel.to_host(state), metrics))
    for a, b in zip(*(jax.tree.leaves(r) for r in results), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


# ---- by hand -----------------------------------------------------------------------------------


class Fixed:
    """A segmenter whose teacher says what it is told."""

    def __init__(self, p_bhwk):
        self.logits = jnp.log(jnp.asarray(p_bhwk))

    def apply(self, variables, image_bhwc, *, train):
        assert variables == {"teacher": True} and not train
        return self.logits, {}


STATE = types.SimpleNamespace(variables=lambda *, ema: {"teacher": ema})
TEACHER = np.float32([[[[.2, .5, .3], [.7, .2, .1], [.1, .8, .1], [.3, .3, .4], [.9, .1, .0]]]])
STUDENT = np.float32([[[[.5, .3, .2], [.4, .1, .5], [.2, .2, .6], [.1, .8, .1], [.6, .2, .2]]]])
ROWS = {"image": jnp.zeros((1, 1, 5, 3)), "label": jnp.array([[[255, 255, 255, 1, 255]]]),
        "biased": jnp.array([[[True, True, True, False, False]]]), "tags": jnp.array([[0., 1.]])}
LOSSES = {  # of pixels 1..5: taken, taken, taken, labelled 1, void; classes 0, 1 and (tagged) 2
    # Y_co = 2, 0, 0 (0.1 against 0.1: background), W = 0.3, 0.1, 0.1
    ("weighted", "pixels", True): (.3 * -np.log(.2) + .1 * -np.log(.4) + .1 * -np.log(.2)
                                   - np.log(.8)) / 4,
    ("weighted", "weights", True): (.3 * -np.log(.2) + .1 * -np.log(.4) + .1 * -np.log(.2)
                                    - np.log(.8)) / 1.5,
    ("plain", "pixels", True): (-np.log(.2) - np.log(.4) - np.log(.2) - np.log(.8)) / 4,
    ("none", "pixels", True): -np.log(.8),
    # Y_co = 1, 0, 1: a class that the photo is not tagged with
    ("weighted", "pixels", False): (.3 * -np.log(.3) + .1 * -np.log(.4) + .1 * -np.log(.2)
                                    - np.log(.8)) / 4,
}


@pytest.mark.parametrize("case", LOSSES)
def test_each_switch_changes_the_loss_as_computed_by_hand(case):
    complement, divisor, restrict = case
    config = load_config(complement=complement, divisor=divisor, restrict=restrict)
    label, weight, shares = mars.taught(config, Fixed(TEACHER), STATE, ROWS)
    loss = mars.weighted_loss(jnp.log(STUDENT), label, weight, divisor)
    np.testing.assert_allclose(loss, LOSSES[case], rtol=1e-6)
    assert len({round(float(x), 5) for x in LOSSES.values()}) == len(LOSSES)
    if complement == "weighted":
        assert label.tolist() == [[[2, 0, 0, 1, 255] if restrict else [1, 0, 1, 1, 255]]]
        np.testing.assert_allclose(weight, [[[.3, .1, .1, 1, 1]]], rtol=1e-6)
        np.testing.assert_allclose(shares["certainty"], 0.5 / 3, rtol=1e-6)
        np.testing.assert_allclose(shares["given_back"], (1 if restrict else 2) / 3, rtol=1e-6)
    np.testing.assert_allclose(shares["biased"], 0.6, rtol=1e-6)


def test_nothing_labelled_teaches_nothing():
    label = jnp.full((1, 2, 2), 255)
    for divisor in mars.CHOICES["divisor"]:
        loss, grad = jax.value_and_grad(mars.weighted_loss)(
            jnp.ones((1, 2, 2, 3)), label, jnp.ones((1, 2, 2)), divisor)
        assert loss == 0 and (grad == 0).all()


def test_the_teachers_decay():
    """0.9999 (1 - exp(-t / 2000)): next to nothing at first, 0.632 of it after 2,000 steps."""
    how = configs.load(CONFIG).mars
    got = [float(mars.ema_decay(how, jnp.int32(t - 1))) for t in (1, 2000, 10**6)]
    np.testing.assert_allclose(got, [0.9999 * (1 - np.exp(-t / 2000)) for t in (1, 2000, 10**6)],
                               rtol=1e-6)
    how.ema_ramp_steps = 0
    assert float(mars.ema_decay(how, jnp.int32(0))) == np.float32(0.9999)
    same = {"x": jnp.float32([1 / 3, 1e-7])}
    np.testing.assert_array_equal(mars.follow(same, same, jnp.float32(0.7))["x"], same["x"])


# ---- R -----------------------------------------------------------------------------------------


def soft(seed, b=2, side=16, k=4):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(b, 4, 4, k)).repeat(side // 4, 1).repeat(side // 4, 2)
    p = np.exp(logits + rng.normal(0, 0.5, (b, side, side, k)))
    return (p / p.sum(-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("stride, restrict", [(1, True), (2, True), (2, False)])
def test_the_crf_in_the_loop_is_the_one_on_the_host(stride, restrict):
    """Of background and tagged classes, or of all; where the photo ends, no opinion."""
    config = load_config(refine="crf", crf_stride=stride, restrict=restrict)
    data, side = config.data, 16
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (2, side, side, 3)).astype(np.float32)
    image = (photo / 255 - np.float32(data.mean)) / np.float32(data.std)
    tags = np.float32([[1, 0, 1], [0, 0, 1]])
    valid = np.ones((2, side, side), bool)
    valid[1, 11:] = False
    p = soft(1)
    got = np.asarray(jax.jit(functools.partial(mars.refined, config.mars, data=data))(
        jnp.asarray(p), {"image": image, "tags": tags, "valid": valid}))

    def small(x):
        return x.reshape(side // stride, stride, side // stride, stride, -1).mean((1, 3))

    kernels = (crf.Kernel(1 / stride, None, 3), crf.Kernel(67 / stride, 3, 4))
    for b in range(2):
        own = [0, *(np.flatnonzero(tags[b]) + 1)] if restrict else list(range(4))
        unary = -np.log(np.clip(small(p[b])[..., own], 1e-5, 1))
        unary[small(valid[b].astype(np.float32))[..., 0] < 1] = 0
        want = crf.infer(unary.astype(np.float32), small(photo[b]), crf.Preset(kernels, 10))
        want = np.asarray(resize_half_pixel(jnp.asarray(want), (side, side)))
        np.testing.assert_allclose(got[b][..., own], want, atol=1e-4)
        others = [k for k in range(4) if k not in own]
        assert (got[b][..., others] == 0).all()
        assert (want.argmax(-1) != p[b][..., own].argmax(-1)).mean() > 0.05


def test_affinity_against_torch(torch):
    """It is the same whatever brightness and contrast."""
    rng, p = np.random.default_rng(0), soft(2, side=12)
    image, dilations = rng.normal(size=(2, 12, 12, 3)).astype(np.float32), (1, 3)
    want = torch_affinity(torch, *(torch.tensor(x).permute(0, 3, 1, 2) for x in (p, image)),
                          dilations, 3)
    run = jax.jit(mars.local_affinity, static_argnums=(2, 3))
    got = run(p, image, dilations, 3)
    np.testing.assert_allclose(got, want.permute(0, 2, 3, 1), atol=2e-5)
    np.testing.assert_allclose(run(p, image * np.float32([3, 0.5, 2]) + 4, dilations, 3), got,
                               atol=1e-4)
    np.testing.assert_allclose(got.sum(-1), 1, atol=1e-5)


# ---- data --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six photos with base and debiased labels, lists, tags."""
    root, rng = tmp_path_factory.mktemp("mars"), np.random.default_rng(0)
    (root / "photos").mkdir()
    for i in range(6):
        label = np.kron(rng.integers(0, 3, (3, 4)), np.ones((13, 12))).astype(np.uint8)[: 39 - i]
        image = np.stack([label * 90, 200 - label * 60, label * 7], -1) + rng.integers(
            0, 50, (*label.shape, 3), dtype=np.uint8)
        Image.fromarray(image).save(root / f"photos/p{i}.png")
        label[-2:] = 255
        label_map.write(root / f"base/p{i}.png", label)
        taken = (label > 0) & (label < 3) & (rng.random(label.shape) < 0.3)
        label_map.write(root / f"debiased/p{i}.png", np.where(taken, 255, label).astype(np.uint8))
    for name, ids in (("labeled", range(4)), ("val", (4, 5))):
        (root / f"{name}.txt").write_text(
            "".join(f"photos/p{i}.png base/p{i}.png\n" for i in ids))
    (root / "tags.csv").write_text("id,tags\n" + "".join(
        f"p{i},aeroplane;bicycle\n" for i in range(6)))
    return root


SMALL = {"model.encoder": "small_cnn", "model.output_stride": "8", "model.head_width": "8",
         "model.head_dilations": "(1,2)", "data.crop": "32", "data.scale": "(30,48)",
         "data.workers": "0", "log_steps": "1", "save_steps": "2", "total_epochs": "3",
         "device_batch": "2", "optim.lr": "0.01", "mars.ema_ramp_steps": "4",
         "mars.refine": "crf", "predict.mode": "original", "predict.multiple": "32",
         "predict.crf": "", "predict.batch": "2"}


def fields(data, **changes):
    there = {"data.root": data, "data.labeled": data / "labeled.txt", "data.val": data / "val.txt",
             "data.debiased": data / "debiased", "data.tags": data / "tags.csv"}
    changes = {k.replace("__", "."): v for k, v in changes.items()}
    return {k: str(v) for k, v in (SMALL | there | changes).items()}


def test_labels_and_what_was_taken_move_together(data):
    """A crop of the whole photo: both labels come back, put in place and mirrored as it was."""
    config = configs.load(CONFIG, fields(data, data__crop=64, data__scale="(48,48)",
                                         data__jitter="(0.,0.,0.,0.)"))
    loader = mars.batches(config)
    batch = next(loader)
    loader.close()
    assert set(batch) == {"image", "label", "biased", "tags", "valid", "name"}
    assert batch["label"].dtype == np.int32 and batch["biased"].dtype == bool
    mirrored = 0
    for i, name in enumerate(batch["name"]):
        base = label_map.read(data / f"base/{name}.png", 21)
        debiased = label_map.read(data / f"debiased/{name}.png", 21)
        rows, columns = np.flatnonzero(batch["valid"][i].any(1)), np.flatnonzero(
            batch["valid"][i].any(0))
        part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        label, biased = batch["label"][i][part], batch["biased"][i][part]
        if not np.array_equal(label, debiased):
            label, biased, mirrored = label[:, ::-1], biased[:, ::-1], mirrored + 1
        np.testing.assert_array_equal(label, debiased)
        np.testing.assert_array_equal(biased, base != debiased)
        assert batch["label"][i][~batch["valid"][i]].tolist() == [255] * int(
            (~batch["valid"][i]).sum())
        assert batch["tags"][i].tolist() == [1, 1] + [0] * 18
    assert 0 < mirrored < len(batch["name"])


@pytest.mark.parametrize("base, debiased, message", [
    ([[0, 1]], [[255, 1]], "x.png: 255 at row 0, column 0, where the base label has 0"),
    ([[2, 1]], [[2, 3]], "x.png: 3 at row 0, column 1, where the base label has 1"),
    ([[2, 255]], [[2, 1]], "x.png: 1 at row 0, column 1, where the base label has 255"),
])
def test_labels_that_are_not_the_lists_own_debiased(base, debiased, message):
    with pytest.raises(ValueError, match=message):
        mars.joined(np.uint8(base), np.uint8(debiased), "x.png")
    assert mars.joined(np.uint8([[0, 3, 255]]), np.uint8([[0, 255, 255]]), "x").tolist() == [
        [0, mars.BIASED, 255]]


@pytest.mark.parametrize("changes, message", [
    ({"data__debiased": ""}, "config.data.debiased is empty; give --config.data.debiased=PATH"),
    ({"data__tags": ""}, "config.data.tags is empty"),
    ({"mars__complement": "all"}, "config.mars.complement 'all' is unknown"),
    ({"mars__refine": "pamr"}, "config.mars.refine 'pamr' is unknown; there are affinity, crf"),
    ({"mars__crf": "mars"}, "'mars' is unknown"),
    ({"mars__crf_stride": 5}, "config.mars.crf_stride=5: want a whole part of the crop"),
    ({"mars__ema_decay": 1.5}, "config.mars.ema_decay=1.5"),
    ({"mars__refine": "affinity", "mars__affinity_steps": 0}, "config.mars.affinity_steps=0"),
    ({"mars__refine": "affinity", "mars__affinity_dilations": "(2,0)"},
     r"affinity_dilations=\(2, 0\): want 1 or more"),
    ({"mars__refine": "affinity", "mars__affinity_dilations": "()"}, r"dilations=\(\): want 1"),
    ({"loss_scales": "(1.0,0.5)"}, r"config.loss_scales=\(1.0, 0.5\): MARS has its own loss"),
    ({"loss_size": "features"}, "config.loss_size='features': MARS has its own .* leave 'image'"),
    ({"device_batch": 1}, "config.device_batch is 1; decoder 'deeplabv3plus' normalises"),
    ({"criterion": "ohem"}, "config.criterion='ohem': MARS has its own loss"),
])
def test_configs_that_cannot_work(data, changes, message):
    with pytest.raises(ValueError, match=message):
        mars.build(configs.load(CONFIG, fields(data, **changes))).loader()


def test_a_config_without_its_fields_is_named():
    config = configs.load(ROOT / "configs/semi_voc_deeplab.py", {"method": "mars"})
    with pytest.raises(ValueError, match="config.mars, which .* begin with configs/semi_voc_mars"):
        mars.build(config)


def test_photos_without_their_files_are_named(data, tmp_path):
    for i in range(3):
        label_map.write(tmp_path / f"some/p{i}.png", np.zeros((39 - i, 48), np.uint8))
    with pytest.raises(ValueError, match=r"some: has nothing for 'p3' \(1 of 4 ids missing\)"):
        mars.batches(configs.load(CONFIG, fields(data, data__debiased=tmp_path / "some")))
    (tmp_path / "tags.csv").write_text("id,tags\np0,cat\n")
    with pytest.raises(ValueError, match=r"tags.csv: has nothing for 'p1' \(3 of 4 ids missing"):
        mars.batches(configs.load(CONFIG, fields(data, data__tags=tmp_path / "tags.csv")))


# ---- the command -------------------------------------------------------------------------------


def command(data, workdir, **changes):
    flags = [f"--config={CONFIG}", f"--workdir={workdir}",
             *(f"--config.{k}={v}" for k, v in fields(data, **changes).items())]
    env = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-m", "wsssjax.train", *flags], env=env, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_killed_and_resumed_gives_the_same_bits(data, tmp_path):
    """With a CRF in the loop and norms whose statistics move, the teacher's too."""
    whole = command(data, tmp_path / "whole")
    out, err = whole.communicate(timeout=400)
    assert whole.returncode == 0, err[-2000:]
    assert "6 steps of 2 photos" in out
    process, clock = command(data, tmp_path / "run"), time.monotonic()
    path = tmp_path / "run/metrics.jsonl"
    while process.poll() is None and time.monotonic() - clock < 300:
        if path.is_file() and len(path.read_text().splitlines()) > 3:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.005)
    process.communicate()
    assert not (tmp_path / "run/weights.safetensors").exists(), "killed too late to prove it"
    again = command(data, tmp_path / "run")
    out, err = again.communicate(timeout=400)
    assert again.returncode == 0, err[-2000:]
    for name in ("weights.safetensors", "weights_ema.safetensors", "metrics.jsonl", "scores.json"):
        assert (tmp_path / "run" / name).read_bytes() == (
            tmp_path / "whole" / name).read_bytes(), name
    own, ema = (weights.load(tmp_path / f"whole/weights{s}.safetensors") for s in ("", "_ema"))
    assert own.keys() == ema.keys() and not any("ema_" in name for name in own)
    still = [n for n in own if np.array_equal(own[n], ema[n])]
    assert not [n for n in still if n.startswith(("batch_stats/head/", "params/head/fuse"))]
    rows = logs.read_metrics(tmp_path / "whole/metrics.jsonl")
    assert all(0 < r["train/biased"] < 0.5 for r in rows if "train/loss" in r)
    scores = files.read_json(tmp_path / "whole/scores.json")
    assert scores["teacher"]["last"]["step"] == scores["student"]["last"]["step"] == 6
    settings = configs.load(CONFIG, fields(data))
    predict.run(settings, tmp_path / "whole/weights_ema.safetensors", data / "photos",
                tmp_path / "labels")
    assert label_map.folder_ids(tmp_path / "labels") == [f"p{i}" for i in range(6)]


def test_settings():
    c = configs.load(CONFIG)
    assert (c.optim.name, c.optim.lr, c.optim.momentum, c.optim.weight_decay, c.optim.poly_power,
            c.optim.lag_steps) == ("sgd", 1e-3, 0.9, 4e-5, 0.9, 0)
    assert [tuple(g) for g in c.optim.groups] == [("^backbone/", 1.0, 1.0), (".*", 10.0, 1.0)]
    assert (c.data.crop, c.data.resize, c.data.scale, c.data.canvas, c.data.canvas_label) == (
        512, "long_side", (320, 640), "mean_random", 255)
    assert (c.device_batch, c.total_epochs, c.data.jitter) == (16, 100, (0.3, 0.3, 0.3, 0.1))
    assert (c.model.encoder, c.model.decoder) == ("resnet101", "deeplabv3plus")
    assert (c.mars.ema_decay, c.mars.ema_ramp_steps, c.mars.refine) == (0.9999, 2000, "none")
    light = configs.load(f"{CONFIG}:efficientnet_lite0")
    assert (light.model.encoder, light.model.decoder) == ("efficientnet_lite0", "dpt")
    assert student.build_model(light).moves_statistics is False
    with pytest.raises(ValueError, match="config argument 'resnet50'"):
        configs.load(f"{CONFIG}:resnet50")


def test_examples():
    found = doctest.testmod(mars)
    assert found.attempted >= 4 and not found.failed
