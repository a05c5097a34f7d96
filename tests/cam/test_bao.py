"""BAO and TransCAM as methods: losses by hand, the teacher, devices, starts, misuse, commands."""

import json
import pathlib
import re
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from wsssjax import train
from wsssjax.cam import __main__ as command
from wsssjax.cam import bao, learner, transcam
from wsssjax.core import config as configs
from wsssjax.core import parallel, weights
from wsssjax.data import cam_file, label_map, prepare, records
from wsssjax.models import registry
from wsssjax.models.norms import BatchNorm
from wsssjax.refine.__main__ import main as refine

ROOT = pathlib.Path(__file__).parents[2]
BUILD = {"transcam": transcam.build, "bao": bao.build}
EPOCH = 3


class Toy(nn.Module):
    """Features at stride 8, attention, a class token, batch norm, dropout: in the small all that a
    Conformer has."""

    norm: str
    drop: float
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, image_bhwc, *, train: bool):
        x = nn.Dense(8, name="stem")(nn.avg_pool(image_bhwc, (8, 8), (8, 8)))
        x = nn.relu(BatchNorm(self.norm, name="bn")(x, train=train))
        b, p, q, d = x.shape
        key = nn.Dense(4, name="key")(x.reshape(b, p * q, d))
        attention = jax.nn.softmax(key @ key.transpose(0, 2, 1))
        x = nn.Dropout(self.drop, broadcast_dims=(1, 2))(x, deterministic=not train)
        return None, {"features": x, "attention": attention, "class_token": x.mean((1, 2))}


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(registry.ENCODERS, "toy", registry.Encoder(
        lambda config, dtype: Toy(config.conformer.norm, config.conformer.drop_path, dtype), None))


def quickly_drawn(config, model, key):
    """In the place of learner.first_variables, whose program takes seconds to compile."""
    asked = isinstance(key, jax.core.Tracer)  # for shapes alone
    rng = np.random.default_rng(0 if asked else np.asarray(jax.random.key_data(key)))

    def draw(path, leaf):
        name = path[-1].key
        if name in ("scale", "var"):
            return jnp.ones(leaf.shape)
        return jnp.asarray(0.1 * rng.standard_normal(leaf.shape), leaf.dtype)

    image = jax.ShapeDtypeStruct((1, config.data.crop, config.data.crop, 3), jnp.float32)
    shapes = jax.eval_shape(lambda: model.lazy_init(jax.random.key(0), image, train=False))
    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture
def make_config(tmp_path, toy, monkeypatch):
    """(method, {"a.b": value}) → the shipped config for 3 classes at 32 px on the toy."""
    (tmp_path / "classes.txt").write_text("background\nfox\nowl\nelk\n")
    monkeypatch.setattr(learner, "first_variables", quickly_drawn)

    def make(method, changes=()):
        small = {
            "classes": tmp_path / "classes.txt", "device_batch": 4, "total_steps": 9,
            "epoch_steps": EPOCH, "data.crop": 32, "data.long_side": "(24,40)", "data.workers": 0,
            "model.encoder": "toy", "infer.side": 32, "optim.lr": 1e-2}
        config = configs.load(ROOT / f"configs/cam_voc_{method}.py")
        for name, value in (small | dict(changes)).items():
            configs.override(config, name, str(value))
        return config

    return make


def make_batch(seed=0, rows=4):
    rng = np.random.default_rng(seed)
    tags = (rng.random((rows, 3)) < 0.5).astype(np.float32)
    tags[np.arange(rows), rng.integers(0, 3, rows)] = 1
    return {"image": rng.standard_normal((rows, 32, 32, 3)).astype(np.float32), "tags": tags}


def run(method, batches, devices=1, first=None):
    """States after 0, 1, … steps on the host, and the metrics of each step."""
    state = first or method.init(jax.random.key(0))
    states, found = [parallel.to_host(state)], []
    step = parallel.compile_step(method.step, devices=devices)
    state = parallel.replicate(state, devices=devices)
    for batch in batches:
        state, metrics = step(state, batch, jax.random.key(1))
        states.append(parallel.to_host(state))
        found.append({name: float(x) for name, x in metrics.items()})
    return states, found


def equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b),
                                                    strict=True))


# ---- losses ------------------------------------------------------------------------------------


def test_pixel_labels_by_hand():
    """The highest of the tagged maps where it is above half of its peak; ties are background."""
    cams = np.float32([[[9.0, 1.0, 90.0], [4.0, 2.0, 90.0], [-3.0, 0.9, 90.0], [8.0, 1.9, 90.0]]])
    tags = np.float32([[1, 1, 0]])
    #        peaks 9 and 2:   1, .5 → 1    .44, 1 → 2    0, .45 → 0     .89, .95 → 2
    assert bao.pixel_labels(cams[None], tags).tolist() == [[[1, 2, 0, 2]]]
    assert bao.pixel_labels(-cams[None], tags).tolist() == [[[0, 0, 1, 0]]]
    assert not bao.pixel_labels(cams[None], 0 * tags).any()
    tie = np.float32([2.0, 2.0]).reshape(1, 1, 1, 2)  # both just below 1; the first wins
    assert bao.pixel_labels(tie, np.ones((1, 2), np.float32)).tolist() == [[[1]]]


def test_pixel_loss_by_hand():
    """0.6 on the label and 0.02 on each of the others of 21; means of either half."""
    rng = np.random.default_rng(0)
    am = rng.standard_normal((2, 3, 4, 21)).astype(np.float32)
    label = rng.integers(0, 3, (2, 3, 4))
    sums, counts = bao.pixel_loss(jnp.asarray(am), jnp.asarray(label), 0.4)
    logp = np.float64(am) - np.log(np.exp(np.float64(am)).sum(-1, keepdims=True))
    target = np.full(am.shape, 0.02)
    np.put_along_axis(target, label[..., None], 0.6, -1)
    want = -(target * logp).sum(-1)
    for got, count, mask in zip(sums, counts, (label == 0, label != 0), strict=True):
        assert count == mask.sum() and float(got) == pytest.approx(want[mask].sum(), rel=1e-5)


def test_a_half_without_pixels_and_a_teacher_in_evaluation_mode(make_config):
    """No tag: all is background, and the loss that of half of the other half. The teacher keeps its
    running statistics."""
    config = make_config("bao", {"bao.pixel_weight": 2.0, "bao.teacher_train": False,
                                 "bao.copy_epochs": 0})
    batch = make_batch() | {"tags": np.zeros((4, 3), np.float32)}
    states, (found,) = run(bao.build(config), [batch])
    assert found["foreground"] == 0
    assert found["loss"] == pytest.approx(found["loss_cls"] + 2 * found["loss_pix"], rel=1e-6)
    even = np.log(4)  # an activation map that is still near zero
    assert 0.4 * even < found["loss_pix"] < 0.6 * even
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((states[1].params, states[1].ema)))
    assert equal(*(s.variables(ema=True)["batch_stats"] for s in states))
    assert not equal(*(s.variables()["batch_stats"] for s in states))


def test_the_foreground_weight_acts_in_the_first_pass_alone(make_config):
    """Nothing moves: neither student nor teacher."""
    config = make_config("bao", {"model.conformer.drop_path": 0.0, "optim.lr": 0.0,
                                 "bao.first_foreground_weight": 0.0, "bao.copy_epochs": 0,
                                 "bao.ema_start": 1.0})
    method = bao.build(config)
    first = method.init(jax.random.key(1))  # whose maps have both kinds of pixels
    _, found = run(method, [make_batch()] * (EPOCH + 2), first=first)
    loss = [step["loss_pix"] for step in found]
    assert 0.1 < found[0]["foreground"] < 0.9
    assert loss[:EPOCH] == pytest.approx([loss[0]] * EPOCH, rel=1e-5)
    assert loss[EPOCH:] == pytest.approx([2 * loss[0]] * 2, rel=0.2)


# ---- the teacher -------------------------------------------------------------------------------


def test_momentum_rises_and_begins_anew():
    options = types.SimpleNamespace(ema_start=0.9995, ema_end=1.0, ema_restart=True, copy_epochs=1)
    rate = [float(bao.ema_rate(options, jnp.int32(s), 1322, 13220)) for s in (
        1322, 1322 + 661, 1322 + 1321, 2644)]
    # Within float32's rounding of a cosine near -1.
    assert rate == pytest.approx([5e-4, 2.5e-4, 5e-4 * (1 - np.cos(np.pi / 1322)) / 2, 5e-4],
                                 abs=5e-11)
    options.ema_restart = False
    rate = [float(bao.ema_rate(options, jnp.int32(s), 10, 50)) for s in (10, 30, 50)]
    assert rate == pytest.approx([5e-4, 2.5e-4, 0], abs=1e-9)


def test_teacher_copies_then_follows_with_statistics_of_its_own(make_config):
    """Nine steps in three passes; new layers of the two begin apart."""
    config = make_config("bao", {"bao.ema_start": 0.5})
    states, _ = run(bao.build(config), [make_batch(i) for i in range(9)])
    first = states[0]
    assert not equal(first.ema["head"]["classifier_x"], first.params["head"]["classifier_x"])
    for i in range(1, EPOCH + 1):
        assert equal(states[i].ema, states[i].params)
        assert equal(states[i].variables(ema=True), states[i].variables())
    for i in range(EPOCH, 9):
        before, after = states[i], states[i + 1]
        part = 0.5 * (1 + np.cos(np.pi * (i % EPOCH) / EPOCH)) / 2
        for t, s, got in zip(*map(jax.tree.leaves, (before.ema, after.params, after.ema)),
                             strict=True):
            np.testing.assert_allclose(got, t + part * (s - t), atol=1e-6)
        teacher, student = after.variables(ema=True), after.variables()
        assert teacher["params"] is not student["params"] and "ema_batch_stats" not in teacher
        assert not equal(teacher["batch_stats"], before.variables(ema=True)["batch_stats"])
        # At the first step that follows, the two are still one.
        assert equal(teacher["batch_stats"], student["batch_stats"]) == (i == EPOCH)
    assert jax.tree.structure(states[9].variables()) == jax.tree.structure(
        states[9].variables(ema=True))


# ---- devices -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name, norm", [("bao", "stored"), ("bao", "batch"),
                                        ("transcam", "batch")])
def test_two_devices_equal_one_where_batch_norm_allows(make_config, name, norm):
    """Stored statistics: any rows. Statistics of the batch: the same rows on both devices.

    By SGD: AdamW makes steps of the rounding in a bias whose norm takes it out again.
    """
    method = BUILD[name](make_config(name, {
        "model.conformer.drop_path": 0.0, "model.conformer.norm": norm, "optim.name": "sgd",
        "optim.lr": 0.3}))
    one = two = make_batch()
    if norm == "batch":
        two = {k: np.concatenate([x, x]) for k, x in one.items()}
    found = [run(method, [batch] * (EPOCH + 1), devices) for batch, devices in ((one, 1), (two, 2))]
    for a, b in zip(found[0][1], found[1][1], strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    first, *last = (jax.tree.leaves((s.params, s.ema, s.extra)) for s in (
        found[0][0][0], found[0][0][-1], found[1][0][-1]))
    for a, b in zip(*last, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert max(np.abs(a - x).max() for a, x in zip(last[0], first, strict=True)) > 0.05


def test_an_encoder_without_batch_norm_keeps_its_state_in_shape(make_config):
    """No collection beside the parameters, no attention, no class token."""
    method = bao.build(make_config("bao", {"model.encoder": "small_cnn"}))
    first = jax.eval_shape(method.init, jax.random.key(0))
    assert first.extra == {} and first.ema is not None

    def step(state, batch):
        return method.step(state, batch, jax.random.key(0))

    rows = jax.tree.map(lambda x: x[None], make_batch())
    after, _ = jax.eval_shape(jax.vmap(step, (None, 0), (None, 0), axis_name=parallel.AXIS),
                              first, rows)
    assert jax.tree.structure(after) == jax.tree.structure(first)


# ---- maps --------------------------------------------------------------------------------------


def test_maps_are_one_of_the_background_and_those_of_the_classes(make_config):
    """am_0 and cams_1..K, raw; with a threshold the K alone; TransCAM has no other."""
    method = bao.build(make_config("bao"))
    variables, batch = method.init(jax.random.key(0)).variables(), make_batch()
    variables = jax.tree.map(lambda x: x + 0.1 * np.sin(np.arange(x.size)).reshape(x.shape),
                             variables)
    _, aux = Toy("batch", 0.1).apply(
        {k: v["backbone"] for k, v in variables.items()}, batch["image"], train=False)
    head = jax.tree.map(np.asarray, variables["params"]["head"])

    def spread(x, layer):
        maps = jax.lax.conv_general_dilated(x, layer["kernel"], (1, 1), "SAME",
                                            dimension_numbers=("NHWC", "HWIO", "NHWC"))
        maps = (maps + layer["bias"][None, None, None]).reshape(4, 16, 4)
        return np.einsum("bij,bjk->bik", aux["attention"], maps).reshape(4, 4, 4, 4)

    factor = batch["tags"] @ head["label_enc"]["kernel"] + head["label_enc"]["bias"]
    am = spread(aux["features"] * factor[:, None, None], head["classifier_x"])
    cams = spread(aux["features"], head["conv_cls_head"])
    got = method.predict(variables, batch["image"], batch["tags"])
    np.testing.assert_allclose(got, np.concatenate([am[..., :1], cams[..., 1:]], -1), atol=1e-4)
    few = bao.build(make_config("bao", {"infer.background": "threshold"}))
    np.testing.assert_allclose(few.predict(variables, batch["image"], batch["tags"]),
                               cams[..., 1:], atol=1e-4)
    assert got.min() < -0.01
    for name in ("label_enc", "classifier_x"):
        variables["params"]["head"].pop(name)
    plain = transcam.build(make_config("transcam"))
    np.testing.assert_allclose(plain.predict(variables, batch["image"], batch["tags"]),
                               cams[..., 1:], atol=1e-4)


# ---- starts and misuse -------------------------------------------------------------------------


def test_starts_from_the_whole_of_transcam(make_config, tmp_path):
    """Nothing but BAO's own two layers may be missing, and those are drawn twice."""
    made = transcam.build(make_config("transcam")).init(jax.random.key(5)).variables()
    path = tmp_path / "transcam.safetensors"
    weights.save(path, made)
    state = bao.build(make_config("bao", {"init_weights": path})).init(jax.random.key(0))
    for variables in (state.variables(), state.variables(ema=True)):
        flat, want = weights.flatten(variables), weights.flatten(made)
        for name, x in want.items():
            np.testing.assert_array_equal(flat[name], x, err_msg=name)
        assert {n.split("/")[2] for n in flat.keys() - want.keys()} == {"label_enc", "classifier_x"}
    apart = [state.variables(ema=ema)["params"]["head"]["label_enc"] for ema in (False, True)]
    assert not equal(*apart)
    whole = tmp_path / "bao.safetensors"
    weights.save(whole, state.variables())
    again = bao.build(make_config("bao", {"init_weights": whole})).init(jax.random.key(3))
    assert equal(again.variables(), state.variables()) and equal(again.ema, again.params)


def test_without_the_heads_of_transcam_the_teacher_has_those_of_the_student(make_config):
    """Step 0 is labelled by the student's own classifier, not by one drawn apart from it."""
    state = bao.build(make_config("bao")).init(jax.random.key(0))
    student, teacher = (weights.flatten(state.variables(ema=ema)) for ema in (False, True))
    apart = {n for n, x in student.items() if not np.array_equal(x, teacher[n])}
    assert apart and all(re.match("params/head/(label_enc|classifier_x)/", n) for n in apart)
    assert not {id(x) for x in student.values()} & {id(x) for x in teacher.values()}


@pytest.mark.parametrize("change, complaint", [
    (lambda flat: flat.pop("params/head/trans_cls_head/bias"), "missing 1 name: params/head/trans"),
    (lambda flat: flat.pop("batch_stats/backbone/bn/mean"), "missing 1 name: batch_stats/back"),
    (lambda flat: flat.update({"params/head/classifier_y/bias": np.zeros(4)}), "left over 1 name"),
    (lambda flat: flat.update({"params/head/conv_cls_head/bias": np.zeros(3, np.float32)}),
     r"conv_cls_head/bias \(want \[4\], found \[3\]\)"),
    (lambda flat: flat.update({"params/head/label_enc/bias": np.zeros(3, np.float32)}),
     r"label_enc/bias \(want \[8\], found \[3\]\)")])
def test_a_start_that_does_not_fit_is_refused(make_config, tmp_path, change, complaint):
    flat = weights.flatten(transcam.build(make_config("transcam")).init(
        jax.random.key(5)).variables())
    change(flat)
    weights.save(tmp_path / "t.safetensors", flat)
    method = bao.build(make_config("bao", {"init_weights": tmp_path / "t.safetensors"}))
    with pytest.raises(ValueError, match=rf"t.safetensors, as the start of bao: .*{complaint}"
                       ) as error:
        method.init(jax.random.key(0))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method, changes, complaint", [
    ("bao", {"bao.smoothing": 1.0}, "config.bao.smoothing is 1.0; want 0 or more, below 1"),
    ("bao", {"bao.ema_start": 1.5}, "config.bao.ema_start is 1.5"),
    ("bao", {"init_weights": "a", "model.encoder_weights": "b"}, "are both given"),
    ("bao", {"model.encoder": "conformer_small", "infer.canvas": "bucket"}, "canvas='bucket'"),
    ("bao", {"model.encoder": "conformer_small", "data.crop": 40}, "image of 40 x 40 pixels"),
    ("bao", {"model.encoder": "conformer_small", "model.conformer.norm": "bathc"},
     "config.model.conformer.norm 'bathc' is unknown; did you mean 'batch'"),
    ("bao", {"model.encoder": "conformer_small", "model.conformer.drop_path": 1.0},
     "config.model.conformer.drop_path is 1.0; want 0 or more, below 1"),
    ("bao", {"epoch_steps": -1}, "config.epoch_steps is -1; want 0 or more"),
    ("transcam", {"infer.background": "map"}, "this method learns no map of the background"),
    ("bao", {"bao.copy_epochs": -1}, "config.bao.copy_epochs is -1; want 0 or more"),
    ("bao", {"bao.pixel_weight": -1.0}, "config.bao.pixel_weight is -1.0; want 0 or more"),
    ("transcam", {"total_steps": 0, "total_epochs": 0, "data.packed": "x"}, "are both 0"),
    ("transcam", {"data.packed": "nowhere", "epoch_steps": 0}, "nowhere: no packed data set"),
])
def test_misuse_is_named_in_one_line(make_config, method, changes, complaint):
    with pytest.raises((ValueError, OSError), match=complaint) as error:
        BUILD[method](make_config(method, changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["transcam", "bao"])
def test_shipped_configs(name):
    for arg in ("", "conformer_small", "efficientnet_lite0"):
        config = configs.load(f"{ROOT}/configs/cam_voc_{name}.py:{arg}")
        assert config.method == name and config.infer.scales == (0.5, 1.0, 1.5)
    with pytest.raises(ValueError, match="argument 'resnet50': want nothing or one of"):
        configs.load(f"{ROOT}/configs/cam_voc_{name}.py:resnet50")


# ---- commands ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Six photos of coloured squares, tagged and packed."""
    root = tmp_path_factory.mktemp("set")
    (root / "images").mkdir()
    names, rng = ("fox", "owl", "elk"), np.random.default_rng(0)
    lines = []
    for i in range(6):
        photo = rng.integers(0, 60, (30 + i, 44 - i, 3)).astype(np.uint8)
        photo[5:25, 8 : 8 + 3 * i + 5, i % 3] += 150
        Image.fromarray(photo).save(root / "images" / f"p{i}.png")
        lines.append(f"p{i},{names[i % 3]}" + (";owl" if i == 3 else ""))
    (root / "classes.txt").write_text("background\n" + "\n".join(names) + "\n")
    (root / "tags.csv").write_text("id,tags\n" + "\n".join(lines) + "\n")
    (root / "train.txt").write_text("\n".join(f"p{i}" for i in range(6)) + "\n")
    return root, prepare.pack(records.collect("folder", root), "folder", root / "packed")


def flags(photos, method, workdir, **changes):
    root, packed = photos
    fields = {"classes": root / "classes.txt", "data.packed": packed, "device_batch": 1,
              "total_epochs": 4, "data.crop": 32, "data.long_side": "(24,40)", "data.workers": 0,
              "model.encoder": "toy", "infer.side": 32, "infer.scales": "(1.0,1.5)",
              "log_steps": 1, "save_steps": 2, "optim.lr": 1e-2} | {
                  k.replace("__", "."): v for k, v in changes.items()}
    out = () if workdir is None else (f"--workdir={workdir}",)
    return [f"--config={ROOT}/configs/cam_voc_{method}.py", *out,
            *(f"--config.{k}={v}" for k, v in fields.items())]


def outcome(folder):
    return {name: (folder / name).read_bytes() for name in (
        "weights.safetensors", "weights_ema.safetensors", "metrics.jsonl")}


class Killed(Exception):
    pass


@pytest.fixture
def counted(toy, monkeypatch):
    """A list whose entry is how many more steps may run. No cache on disk; what was compiled or
    drawn for one run serves the next, equal one."""
    for module in (train, command):
        monkeypatch.setattr(module.parallel, "start", lambda: None)
    real, draw, made, drawn, left = parallel.compile_step, learner.first_variables, {}, {}, [1000]

    def compile_step(step, **options):
        call = made.setdefault(step.__module__, real(step, **options))

        def run(*arguments):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return call(*arguments)

        return run

    def first_variables(config, model, key):
        name = (model.background, str(jax.random.key_data(key)))
        found = drawn.get(name) or draw(config, model, key)
        if not isinstance(jax.tree.leaves(found)[0], jax.core.Tracer):
            drawn[name] = found
        return found

    monkeypatch.setattr(parallel, "compile_step", compile_step)
    monkeypatch.setattr(learner, "first_variables", first_variables)
    return left


def test_from_tags_to_labels_by_commands_killed_and_resumed(counted, photos, tmp_path):
    """TransCAM, then BAO from its weights; BAO again, stopped in its third pass, gives the same
    bits; label maps of teacher and student, and the CRF."""
    root, _ = photos
    train.main(flags(photos, "transcam", tmp_path / "transcam"))
    rows = [json.loads(x) for x in (tmp_path / "transcam/metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == list(range(1, 13))  # 4 passes of 6 photos, 2 a step
    assert not (tmp_path / "transcam/weights_ema.safetensors").exists()
    start = tmp_path / "transcam/weights.safetensors"
    train.main(flags(photos, "bao", tmp_path / "whole", init_weights=start))
    rows = [json.loads(x) for x in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    assert {"train/loss_cls", "train/loss_pix", "train/foreground"} <= rows[0].keys()

    again = flags(photos, "bao", tmp_path / "cut", init_weights=start)
    counted[0] = 7
    with pytest.raises(Killed):
        train.main(again)
    counted[0] = 1000
    assert sorted(int(p.name) for p in (tmp_path / "cut/checkpoints").iterdir()) == [4, 6]
    train.main(again)
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")

    common = [f"--images={root / 'images'}", f"--tags={root / 'tags.csv'}"]
    for who in ("weights", "weights_ema"):
        command.main([*flags(photos, "bao", None), *common, f"--out={tmp_path / who}",
                      f"--weights={tmp_path / 'whole' / who}.safetensors"])
    command.main([*flags(photos, "transcam", None), *common, f"--out={tmp_path / 'seed'}",
                  f"--weights={start}"])
    for i in range(6):
        size, there = (30 + i, 44 - i), [1 + i % 3] if i != 3 else [1, 2]
        for who, learnt in (("weights", [0]), ("weights_ema", [0]), ("seed", [])):
            found = cam_file.read(tmp_path / who / f"p{i}.npz")
            assert found.classes.tolist() == learnt + there and found.cam.shape[1:] == size
            label = label_map.read(tmp_path / who / f"p{i}.png", 4, size)
            assert set(np.unique(label)) <= {0, *there}
    refine(["--method=crf", "--preset=bao_label", f"--labels={tmp_path / 'weights_ema'}",
            f"--images={root / 'images'}", f"--classes={root / 'classes.txt'}",
            f"--out={tmp_path / 'labels'}"])
    assert label_map.folder_ids(tmp_path / "labels") == [f"p{i}" for i in range(6)]
    with pytest.raises(ValueError, match="weights.safetensors, as bao: .*missing 4 names"):
        command.main([*flags(photos, "bao", None), *common, f"--out={tmp_path / 'no'}",
                      f"--weights={start}"])
