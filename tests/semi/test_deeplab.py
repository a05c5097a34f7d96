"""The classic recipes of configs/semi_voc_deeplab.py: steps against PyTorch, and by command."""

import doctest
import functools
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from wsssjax import predict, train
from wsssjax.core import config as configs
from wsssjax.core import files, logs, optim, parallel, weights
from wsssjax.core import state as states
from wsssjax.data import label_map, transforms_deeplab
from wsssjax.models import deeplab, norms, registry, resnet, resnet38, vgg
from wsssjax.models.segmenter import Segmenter
from wsssjax.semi import student, supervised, views

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = ROOT / "configs/semi_voc_deeplab.py"
CLASSES, THIN, SHORT, STEPS = 5, 1 / 16, 14, 50
ARGUMENTS = ("eps_v1_vgg16", "eps_v2_vgg16", "eps_v1_resnet101", "eps_v2_resnet101",
             "irn_resnet50", "bao_resnet38", "psa_resnet38", "mars_resnet101")


@functools.cache
def load(name):
    pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    path = ROOT / f"tests/{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def thin_encoders():
    """{encoder: a narrow one}, ResNets with one block a stage."""
    short = registry.Encoder(lambda c, dtype: resnet.ResNet(
        SHORT, c.output_stride, width=THIN, dtype=dtype, **c.resnet), resnet.from_torch)
    return {
        "vgg16": registry.Encoder(lambda _, dtype: vgg.VGG16(width=THIN, dtype=dtype),
                                  vgg.from_torch),
        "resnet38": registry.Encoder(lambda _, dtype: resnet38.ResNet38(
            width=THIN, dropout=False, dtype=dtype), resnet38.from_torch),
        "resnet50": short, "resnet101": short}


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """The encoders' names stand for narrow ones."""
    monkeypatch.setitem(resnet.BLOCKS, SHORT, (1, 1, 1, 1))
    for name, encoder in thin_encoders().items():
        monkeypatch.setitem(registry.ENCODERS, name, encoder)


def thin_config(argument, **changes):
    """A recipe at a size that PyTorch steps through in a blink."""
    config = configs.load(f"{CONFIG}:{argument}")
    config.total_steps, config.model.head_width = 60, 12
    config.device_batch, config.accumulate = 3 if argument.startswith("mars") else 2, 1
    config.model.head_dropout = False
    config.model.head_dilations = (2, 3, 5)[: len(config.model.head_dilations)]
    if config.model.encoder == "resnet101" and config.model.decoder == "aspp":
        config.model.head_width = 0
    for name, value in changes.items():
        config[name] = value
    return config


def torch_network(argument):
    """(the segmenter in PyTorch, its encoder's converter)."""
    plain, ssdd = load("deeplab_torch"), load("ssdd_torch")
    if argument.endswith("vgg16"):
        encoder, convert = plain.VGG16(THIN), vgg.from_torch
        head = (plain.LargeFov(encoder.width, CLASSES, 12, 2) if "_v1_" in argument
                else plain.VggAspp(encoder.width, CLASSES, 12, (2, 3, 5)))
    elif argument == "eps_v2_resnet101":
        encoder, convert = plain.CaffeResNet((1,) * 4, THIN), deeplab.encoder_from_torch
        head = plain.Aspp(encoder.width, CLASSES, (2, 3, 5))
    elif argument == "bao_resnet38":
        encoder, convert = ssdd.ResNet38(THIN), resnet38.from_torch
        head = plain.TwoConvolutions(encoder.feature_width, CLASSES, 12, 2)
    else:
        encoder, convert = plain.ResNet((1,) * 4, THIN), resnet.from_torch
        head = plain.V3Plus(encoder.low_width, encoder.width, CLASSES, 12, 48, (2, 3, 5))
    return plain.randomise(plain.Segmenter(encoder, head)).double(), convert


def flat_of(plain, other, convert):
    return (weights.under("backbone", convert(plain.numpy_state(other.encoder)))
            | weights.under("head", plain.head_flat(other.head)))


def torch_groups(argument, other, config):
    """[(parameters, rate factor, decay)] as the recipes tell them."""
    import torch
    decay = {"eps": 5e-4, "bao": 0.0, "mar": 4e-5}[argument[:3]]
    groups = []
    for name, x in other.named_parameters():
        encoder, bias = name.startswith("encoder."), name.endswith(".bias")
        if argument.startswith("eps"):
            norm = isinstance(other.get_submodule(name.rpartition(".")[0]), torch.nn.BatchNorm2d)
            factor = {(True, False): 1, (True, True): 2, (False, False): 10,
                      (False, True): 20}[encoder, bias]
            groups.append(([x], 0 if norm else factor, 0.0 if bias else decay))
        else:
            frozen = name.startswith("encoder.conv1a.")
            groups.append(([x], 0 if frozen else 1 if encoder else 10, decay))
    return groups


def make_batch(seed, rows, side=64):
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, CLASSES, (rows, 4, 4))
    label = np.kron(cells, np.ones((1, side // 4, side // 4))).astype(np.int32)
    image = np.eye(CLASSES, 3)[label] + 0.3 * rng.normal(size=(*label.shape, 3))
    label[:, :5] = 255
    return {"image": image.astype(np.float32), "label": label}


def our_start(model, config, flat):
    """The state from which both start, in float64."""
    template = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float64),
        jax.eval_shape(functools.partial(student.first_variables, model), jax.random.key(0)))
    variables = weights.restore(template, registry.place_norms(flat, template))
    variables = jax.tree.map(jnp.asarray, variables)
    state = states.create(variables, student.optimizer(config, variables["params"]), ema=False)
    return parallel.replicate(state, devices=1), template


def torch_step(argument, plain, other, optimizer, config, batch, rate):
    """The loss of one step in PyTorch.  rate: factor of a group → its rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate[group["factor"]]
    image, caffe = batch["image"], argument.startswith("eps")
    optimizer.zero_grad()
    loss = plain.loss(other, plain.nchw(image[..., ::-1] if caffe else image), batch["label"],
                      (1.0, 0.75, 0.5) if "_v2_" in argument else (1.0,), caffe)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def rates(argument, config):
    """{factor: our float32 rate} a step, each checked against the published formula."""
    held = 10 if argument.startswith("eps") else 1
    found = [{} for _ in range(STEPS)]
    for factor in (0, 1, 2, 10, 20):
        first = config.optim.lr * factor
        ours = jax.jit(optim.poly(first, config.total_steps, config.optim.poly_power,
                                  hold_steps=config.optim.hold_steps))
        for step, by_factor in enumerate(found):
            by_factor[factor] = float(ours(jnp.int32(step)))
            left = 1 - step // held * held / config.total_steps
            np.testing.assert_allclose(by_factor[factor], first * left**0.9, rtol=1e-6)
    return found


def steps_of(argument):
    """(largest relative error of a loss, largest error of a tensor over its own move)."""
    import torch

    plain, config = load("deeplab_torch"), thin_config(argument)
    model = registry.build_segmenter(config.model, CLASSES)
    step = parallel.compile_step(functools.partial(
        supervised.train_step, config=config, model=model), devices=1)
    other, convert = torch_network(argument)
    start = {n: np.array(x) for n, x in flat_of(plain, other, convert).items()}
    state, template = our_start(model, config, start)
    other.train(argument.startswith("mars"))
    optimizer = torch.optim.SGD(
        [{"params": p, "lr": 0.0, "factor": f, "weight_decay": d}
         for p, f, d in torch_groups(argument, other, config)],
        lr=0.0, momentum=1e-5 if argument.startswith("bao") else 0.9)
    ours, theirs = [], []
    for t, rate in enumerate(rates(argument, config)):
        batch = make_batch(t % 7, config.device_batch)
        batch["image"] = batch["image"].astype(np.float64)
        theirs.append(torch_step(argument, plain, other, optimizer, config, batch, rate))
        state, metrics = step(state, batch, jax.random.key(0))
        ours.append(float(metrics["loss"]))
    assert np.isfinite(theirs).all() and np.mean(theirs[-7:]) < np.mean(theirs[:7]), theirs
    before, after = (registry.place_norms(x, template)
                     for x in (start, flat_of(plain, other, convert)))
    found = weights.flatten({"params": state.params, **state.extra})
    # The converters give float32.
    before, after, found = ({n: np.float32(v) for n, v in x.items()}
                            for x in (before, after, found))
    assert found.keys() == after.keys()
    return float(np.abs(np.array(ours) / theirs - 1).max()), max(
        _error(argument, name, before[name], after[name], x)
        for name, x in found.items())


def _error(argument, name, before, after, found):
    """Of one tensor; what is to stay has stayed to the bit on both sides."""
    way = float(np.linalg.norm(after - before))
    still = name.startswith("batch_stats/") and not argument.startswith("mars")
    assert (way == 0) == (still or "/conv1a/" in name), name
    error = float(np.linalg.norm(found - after))
    assert way or error == 0, name
    return error / way if way else 0.0


STEPPED = ("eps_v1_vgg16", "eps_v2_resnet101", "bao_resnet38", "mars_resnet101")


def fifty_steps_in_float64():
    """{recipe: [error of the losses, error of the moves]}."""
    import torch

    registry.DTYPES["float32"] = jnp.float64
    resnet.BLOCKS[SHORT] = (1, 1, 1, 1)
    registry.ENCODERS |= thin_encoders()
    torch.set_num_threads(1)
    return {argument: steps_of(argument) for argument in STEPPED}


def test_fifty_steps_equal_torch():
    """Rates by group, held or not, momentum, decay; sums over scales; norms that learn or not.

    In float64, hence in a process of its own (64 bits are a switch of the whole of jax): at the
    published rates thin networks with random weights double a rounding every two or three steps.
    """
    load("deeplab_torch")
    env = os.environ | {"JAX_ENABLE_X64": "1", "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    out = subprocess.run([sys.executable, __file__], env=env, capture_output=True, text=True,
                         timeout=600)
    assert out.returncode == 0, out.stdout + out.stderr[-3000:]
    for name, (losses, moves) in json.loads(out.stdout.splitlines()[-1]).items():
        assert losses < 1e-9 and moves < 1e-6, (name, losses, moves)


# ---- what the steps are made of ----------------------------------------------------------------


def test_labels_shrink_as_pillow_shrinks_them():
    rng = np.random.default_rng(0)
    for n, m in ((321, 41), (321, 31), (321, 21), (64, 9), (320, 40), (40, 40), (7, 1), (100, 37),
                 (36, 28)):
        label_hw = rng.integers(0, 255, (n, n + 3)).astype(np.uint8)
        size = m, m + 2
        want = np.asarray(Image.fromarray(label_hw).resize(size[::-1], Image.Resampling.NEAREST))
        got = supervised.shrunk(jnp.asarray(label_hw, jnp.int32)[None], size)[0]
        np.testing.assert_array_equal(got, want)
    assert doctest.testmod(supervised) == (0, 1)


def test_held_rates_change_at_every_tenth_step():
    config = configs.load(f"{CONFIG}:eps_v2_resnet101")
    how = config.optim
    rate = optim.poly(how.lr, 20_000, how.poly_power, how.lag_steps, how.hold_steps)
    for step in (0, 9, 10, 11, 19, 19_999):
        want = 2.5e-4 * (1 - step // 10 * 10 / 20_000) ** 0.9
        np.testing.assert_allclose(rate(jnp.int32(step)), want, rtol=1e-5)
    config.optim.hold_steps = 0
    with pytest.raises(ValueError, match="config.optim.hold_steps is 0; want 1 or more"):
        supervised.build(config)


class NormAlone(nn.Module):
    """An encoder that compiles in a moment."""

    norm = "batch"
    tap_strides = (4, 4, 4, 4)

    @nn.compact
    def __call__(self, image_bhwc, *, train):
        x = norms.BatchNorm(self.norm, name="bn")(image_bhwc[:, ::4, ::4], train=train)
        return x.mean((1, 2)), {f"tap{i}": nn.relu(x) for i in range(4)}


def test_groups_are_devices_also_for_running_statistics():
    """Two groups on one device, or two devices: the same step; the statistics are their mean."""
    config, model = thin_config("mars_resnet101"), Segmenter(
        NormAlone(), deeplab.Aspp(CLASSES, (2,), 0))
    variables = jax.jit(functools.partial(student.first_variables, model))(jax.random.key(0))
    variables = jax.tree.map(np.array, variables)
    batch, found = make_batch(0, 4, 32), {}
    for devices, groups in ((2, 1), (1, 2)):
        config.device_batch, config.accumulate = 2, groups
        state = states.create(variables, student.optimizer(config, variables["params"]), ema=False)
        step = parallel.compile_step(functools.partial(
            supervised.train_step, config=config, model=model), devices=devices)
        after, metrics = step(parallel.replicate(state, devices=devices), batch, jax.random.key(0))
        found[groups] = weights.flatten({"params": after.params, **after.extra,
                                         "loss": metrics["loss"]})
    for name, x in found[1].items():
        np.testing.assert_allclose(x, found[2][name], atol=2e-6, err_msg=name)
    start, moved = weights.flatten(variables), []
    run = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
    for rows in (slice(0, 2), slice(2, 4)):
        moved.append(weights.flatten(run(variables, batch["image"][rows])[1]))
    for name, x in moved[0].items():
        np.testing.assert_allclose(found[1][name], (x + moved[1][name]) / 2, atol=1e-6)
        assert np.abs(x - start[name]).max() > 0


def test_methods_that_would_not_move_statistics_refuse_norms_that_learn():
    config = thin_config("mars_resnet101", method="fixmatch")
    with pytest.raises(ValueError, match="method 'fixmatch' does not move the running statistics"):
        student.method(config, None, unlabelled=True)
    config = thin_config("mars_resnet101", device_batch=1)
    with pytest.raises(ValueError, match="device_batch is 1; decoder 'deeplabv3plus' normalises"):
        supervised.build(config)


@pytest.mark.parametrize("field, value, message", [
    ("loss_size", "crop", "config.loss_size 'crop' is unknown"),
    ("loss_scales", (0.5, 1.0), r"config.loss_scales is \(0.5, 1.0\); want factors above 0, 1"),
    ("loss_scales", (), r"config.loss_scales is \(\); want"),
])
def test_losses_that_cannot_be(field, value, message):
    with pytest.raises(ValueError, match=message):
        supervised.build(thin_config("eps_v2_vgg16", **{field: value}))


# ---- recipes -----------------------------------------------------------------------------------

# encoder, decoder, crop, photos a step, steps or passes, rate, decay, momentum, scales of the loss
PUBLISHED = {
    "eps_v1_vgg16": ("vgg16", "largefov", 321, 10, 20_000, 2.5e-4, 5e-4, 0.9, 1),
    "eps_v2_vgg16": ("vgg16", "aspp", 321, 10, 20_000, 2.5e-4, 5e-4, 0.9, 3),
    "eps_v1_resnet101": ("resnet101", "largefov", 321, 10, 20_000, 2.5e-4, 5e-4, 0.9, 1),
    "eps_v2_resnet101": ("resnet101", "aspp", 321, 10, 20_000, 2.5e-4, 5e-4, 0.9, 3),
    "irn_resnet50": ("resnet50", "aspp", 321, 10, 20_000, 2.5e-4, 5e-4, 0.9, 3),
    "bao_resnet38": ("resnet38", "resnet38_head", 321, 4, 30, 7e-4, 0.0, 1e-5, 1),
    "psa_resnet38": ("resnet38", "resnet38_head", 321, 4, 30, 7e-4, 0.0, 1e-5, 1),
    "mars_resnet101": ("resnet101", "deeplabv3plus", 512, 16, 100, 1e-3, 4e-5, 0.9, 1),
}


TESTED = {  # scales, mirror images, merge, CRF
    "eps_v1": ((1.0,), False, "max_logits", "deeplab"),
    "eps_v2": ((1.0, 0.75, 0.5), False, "max_logits", "deeplab"),
    "irn_re": ((1.0, 0.75, 0.5), False, "max_logits", "deeplab"),
    "bao_re": ((0.5, 0.75, 1.0, 1.25, 1.5), False, "max", "bao_segmenter"),
    "psa_re": ((0.5, 0.75, 1.0, 1.25, 1.5), False, "max", "bao_segmenter"),
    "mars_r": ((1.0, 0.5, 1.5, 2.0), True, "mean", "deeplab"),
}


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_published_settings(argument):
    c = configs.load(f"{CONFIG}:{argument}")
    found = (c.model.encoder, c.model.decoder, c.data.crop, c.device_batch * c.accumulate,
             c.total_steps or c.total_epochs, c.optim.lr, c.optim.weight_decay, c.optim.momentum,
             len(c.loss_scales))
    assert found == PUBLISHED[argument] and c.method == "supervised"
    assert (c.predict.scales, c.predict.flip, c.predict.merge,
            c.predict.crf) == TESTED[argument[:6]]
    pixel = (np.array([255, 0, 128]) / 255 - np.array(c.data.mean)) / np.array(c.data.std)
    if argument.startswith("eps"):
        np.testing.assert_allclose(pixel, [255 - 122.675, -116.669, 128 - 104.008], atol=1e-9)
    assert c.model.bgr == argument.startswith("eps")
    text = CONFIG.read_text().split('"""')[1]
    assert f"    {argument} " in text, "each has its published scores in the table"
    with pytest.raises(ValueError, match="config argument 'eps_v3': want nothing or eps_v1_vgg16"):
        configs.load(f"{CONFIG}:eps_v3")
    coco = ROOT / "configs/semi_coco_deeplab.py"
    assert configs.load(coco).total_steps == 155_000 and configs.load(coco).classes == "coco"
    with pytest.raises(ValueError, match="config argument 'bao_resnet38': want nothing or eps_v2"):
        configs.load(f"{coco}:bao_resnet38")


def seen(argument, size=(100, 40), seeds=20, **changes):
    """Transformed examples of a grey photo whose label is 3 everywhere."""
    c = configs.load(f"{CONFIG}:{argument}")
    for name, value in changes.items():
        c.data[name] = value
    example = {"name": "a", "image": np.full((*size, 3), 128, np.uint8),
               "label": np.full(size, 3, np.uint8)}
    out = []
    for seed in range(seeds):
        one, rng = example, np.random.default_rng(seed)
        for op in views.labelled_transforms(c.data):
            one = op(one, rng)
        out.append(one)
    return c, out


def test_crops_of_eps_lie_in_the_corner_on_the_mean_colour_and_ignore_the_rest():
    c, found = seen("eps_v2_resnet101", seeds=40, crop=90)
    grey = (128 / 255 - np.array(c.data.mean)) / np.array(c.data.std)
    sizes = set()
    for one in found:
        inside = one["label"] == 3
        assert one["image"].dtype == np.float32 and one["label"].dtype == np.int32
        h, w = inside.any(1).sum(), inside.any(0).sum()
        assert inside[:h, :w].all() and inside.sum() == h * w and (one["label"][~inside]
                                                                    == 255).all()
        np.testing.assert_allclose(one["image"][inside], grey[None].repeat(h * w, 0), atol=1e-3)
        assert not one["image"][~inside].any()
        sizes.add((h, w))
    assert sizes == {(50, 20), (75, 30), (90, 40), (90, 50), (90, 60)}


def test_padding_of_bao_is_background_and_its_scales_are_a_range():
    _, found = seen("bao_resnet38", crop=150)
    sizes = {tuple(x.sum() for x in ((one["label"] == 3).any(1), (one["label"] == 3).any(0)))
             for one in found}
    assert len(sizes) > 12 and all(70 <= h <= 130 for h, _ in sizes)
    assert {v for one in found for v in np.unique(one["label"])} == {0, 3}


def test_photos_of_mars_land_anywhere_and_change_their_colours():
    _, found = seen("mars_resnet101", size=(50, 100), crop=400, scale=(200, 300))
    tops = {int((one["label"] == 3).any(1).argmax()) for one in found}
    assert len(tops) > 8
    colours = [one["image"][one["label"] == 3].mean() for one in found]
    assert np.std(colours) > 0.05
    assert all(not one["image"][one["label"] == 255].any() for one in found)


def test_a_corner_crop_wants_normalised_pixels():
    crop = transforms_deeplab.CornerCrop(size=8)
    with pytest.raises(ValueError, match="CornerCrop: 'image' is uint8, so its padding would be"):
        crop({"image": np.zeros((4, 4, 3), np.uint8)}, np.random.default_rng(0))


@pytest.mark.parametrize("changes, message", [
    ({"resize": "side"}, "config.data.resize 'side' is unknown"),
    ({"resize": "factor"}, "config.data.scale is .*; resize 'factor' wants a range, two numbers"),
    ({"canvas": "white"}, "config.data.canvas 'white' is unknown"),
    ({"canvas": "mean_random", "canvas_label": 0}, "canvas_label is 0; canvas 'mean_random' has"),
    ({"scale": (0.0, 1.0)}, "ChooseScale: .*want factors above 0"),
])
def test_views_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        seen("eps_v2_resnet101", **changes)
    c = configs.load(f"{CONFIG}:eps_v2_resnet101")
    with pytest.raises(ValueError, match="config.data.canvas is 'mean'; unlabelled photos want"):
        views.unlabelled_transforms(c.data)


# ---- by command --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Six photos of odd sizes whose colours tell the class, four to learn and two to score."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    (root / "photos").mkdir()
    for i in range(6):
        label = np.kron(rng.integers(0, 4, (3, 4)), np.ones((24, 24))).astype(np.uint8)
        label = label[: 70 - i, : 91 - 3 * i]
        image = np.stack([label * 60, 255 - label * 60, label * 7], -1)
        Image.fromarray(image).save(root / f"photos/{i}.png")
        label_map.write(root / f"labels/{i}.png", label)
    (root / "classes.txt").write_text("cat\ndog\ncow\n")
    for name, ids in (("labeled", range(4)), ("val", range(4, 6))):
        (root / f"{name}.txt").write_text(
            "".join(f"photos/{i}.png labels/{i}.png\n" for i in ids))
    return root


def flags(photos, **changes):
    fields = {"data.root": photos, "data.labeled": photos / "labeled.txt",
              "data.val": photos / "val.txt", "classes": photos / "classes.txt",
              "data.crop": 48, "data.workers": 0, "device_batch": 2, "accumulate": 1,
              "total_steps": 2, "log_steps": 1, "save_steps": 2, "model.head_width": 8,
              "predict.batch": 2, "predict.scales": "(1.0,0.5)", "predict.flip": "true", **changes}
    return [f"--config.{name}={value}" for name, value in fields.items()]


@pytest.mark.parametrize("argument", ["eps_v1_vgg16", "eps_v2_resnet101", "bao_resnet38",
                                      "mars_resnet101"])
def test_two_steps_and_label_maps_by_command(photos, tmp_path, argument):
    """Each decoder as its recipe has it: trained, scored, and tested with scales, flip and CRF."""
    own = {"eps_v2_resnet101": {"model.head_width": 0},
           "mars_resnet101": {"data.scale": "(60,90)"}}.get(argument, {})
    train.main([f"--config={CONFIG}:{argument}", f"--workdir={tmp_path / 'run'}",
                *flags(photos, **own)])
    rows = logs.read_metrics(tmp_path / "run/metrics.jsonl")
    assert [r["step"] for r in rows if "train/loss" in r] == [1, 2]
    assert files.read_json(tmp_path / "run/scores.json")["student"]["last"]["step"] == 2
    settings = [f"--config={CONFIG}:{argument}", f"--weights={tmp_path / 'run'}",
                f"--images={photos / 'photos'}", *flags(photos, **own)]
    predict.main([*settings, f"--out={tmp_path / 'labels'}", "--save=labels,logits"])
    for i in range(6):
        scores = np.load(tmp_path / f"labels/{i}.npy")
        assert scores.shape == (70 - i, 91 - 3 * i, 4)
        np.testing.assert_allclose(scores.sum(-1), 1, atol=1e-4)  # the CRF's
        label = label_map.read(tmp_path / f"labels/{i}.png", 4, scores.shape[:2])
        np.testing.assert_array_equal(label, scores.argmax(-1))
    statistics = {n: x for n, x in weights.load(tmp_path / "run").items() if n.endswith("/var")}
    assert any((x != 1).any() for x in statistics.values()) == (argument == "mars_resnet101")
    if argument == "eps_v1_vgg16":
        _hostile(photos, tmp_path, settings)


def _hostile(photos, tmp_path, settings):
    """Another number of classes, and weights of another encoder."""
    (tmp_path / "more.txt").write_text("cat\ndog\ncow\nowl\n")
    with pytest.raises(ValueError, match=r"run: weights for 4 classes \(params/head/fc8/bias\), "
                                         r"but config.classes=.*more.txt names 5"):
        predict.main([*settings, f"--config.classes={tmp_path / 'more.txt'}",
                      f"--out={tmp_path / 'other'}"])
    with pytest.raises(ValueError, match="missing .* names: .*backbone/b2/"):
        predict.main([f"--config={CONFIG}:bao_resnet38", *settings[1:],
                      f"--out={tmp_path / 'other'}"])
    with pytest.raises(ValueError, match="as encoder 'resnet38': .*missing .*left over .*features"):
        train.main([f"--config={CONFIG}:bao_resnet38", f"--workdir={tmp_path / 'again'}",
                    *flags(photos, **{"model.encoder_weights": tmp_path / "run"})])
    assert not (tmp_path / "other").exists()


if __name__ == "__main__":
    print(json.dumps(fifty_steps_in_float64()))
