"""Dynamic SSDD by command: two steps with the real CRF, scores, label maps, and bad input."""

import doctest
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from wsssjax import predict, train
from wsssjax.core import config as configs
from wsssjax.core import files, logs, weights
from wsssjax.data import cam_file, label_map
from wsssjax.models import difference_net
from wsssjax.semi import ssdd

CONFIG = pathlib.Path(__file__).parents[2] / "configs/semi_voc_ssdd.py"
SMALL = {"model.encoder": "small_cnn", "model.output_stride": "8", "model.head_width": "8",
         "model.head_dilation": "3", "model.difference_width": "8", "data.side": "(32,40)",
         "data.crop": "32", "data.workers": "0", "log_steps": "1", "save_steps": "1",
         "total_epochs": "1", "predict.batch": "2", "device_batch": "1"}
SIZES = {"a": (60, 40), "b": (33, 70), "c": (48, 48), "d": (40, 60)}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four photos with seeds, tags of theirs, and two of them as a list to score."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    (root / "photos").mkdir()
    for name, (h, w) in SIZES.items():
        label = np.kron(rng.integers(0, 3, (4, 4)), np.ones((20, 20)))[:h, :w].astype(np.uint8)
        image = np.stack([label * 80 + 20, 255 - label * 60, label * 7], -1)
        Image.fromarray(image).save(root / f"photos/{name}.png")
        label_map.write(root / f"seed/{name}.png", label)
    (root / "tags.csv").write_text("id,tags\n" + "".join(
        f"{n},aeroplane;bicycle\n" for n in SIZES))
    (root / "val.txt").write_text("photos/a.png seed/a.png\nphotos/b.png seed/b.png\n")
    return root


def fields(data, **changes):
    there = {"data.images": data / "photos", "data.seed": data / "seed",
             "data.tags": data / "tags.csv", "data.root": data, "data.val": data / "val.txt",
             "optim.groups": "((r'^backbone/stem/', 0.0, 0.0), (r'.*', 1.0, 1.0))"}
    return {n: str(v) for n, v in (SMALL | there | changes).items()}


def by_command(data, workdir):
    train.main([f"--config={CONFIG}", f"--workdir={workdir}",
                *(f"--config.{n}={v}" for n, v in fields(data).items())])


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "dynamic"
    by_command(data, workdir)
    return workdir


def test_two_steps_by_the_command(data, trained, tmp_path):
    """All learns but what is frozen; stopped after the first step and resumed: the same bits."""
    rows = [r for r in logs.read_metrics(trained / "metrics.jsonl") if "train/loss" in r]
    assert [r["step"] for r in rows] == [1, 2], "4 photos, 1 on each of 2 devices"
    for row in rows:
        assert row["train/loss_seg"] > 0.1 and row["train/loss_diff"] > 0.1
        assert 0 < row["train/crf_changes"] < 1
    scores = files.read_json(trained / "scores.json")
    assert scores["student"]["last"]["step"] == 2 and "teacher" not in scores
    settings = configs.load(CONFIG, fields(data))
    key, _ = jax.random.split(jax.random.key(settings.seed))
    first = weights.flatten(difference_net.init(ssdd.build_model(settings), settings.model, key))
    last = weights.load(trained)
    assert last.keys() == first.keys()
    for name, x in last.items():
        still = name.startswith(("batch_stats/", "params/backbone/stem/"))
        assert np.array_equal(x, first[name]) == still, name
    shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints/2")
    (tmp_path / "run/weights.safetensors").unlink()
    by_command(data, tmp_path / "run")
    for name in ("weights.safetensors", "metrics.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (trained / name).read_bytes(), name


def test_photos_are_segmented_by_the_main_head_alone(data, trained, tmp_path):
    """The same labels with other weights in the rest; their logits at each photo's own size."""
    settings = configs.load(CONFIG, fields(data))
    predict.run(settings, trained, data / "photos", tmp_path / "labels", save=("labels", "logits"))
    flat = weights.load(trained)
    rest = [n for n in flat if n.split("/")[1].startswith(("seg_sub", "dd"))]
    assert len(rest) > 30
    weights.save(tmp_path / "other.safetensors", flat | {n: flat[n] + 1 for n in rest})
    predict.run(settings, tmp_path / "other.safetensors", data / "photos", tmp_path / "again")
    for name, size in SIZES.items():
        logits = np.load(tmp_path / f"labels/{name}.npy")
        assert logits.shape == (*size, 21)
        label = label_map.read(tmp_path / f"labels/{name}.png", 21, size)
        np.testing.assert_array_equal(label, logits.argmax(-1))
        np.testing.assert_array_equal(label_map.read(tmp_path / f"again/{name}.png", 21), label)
    image = np.asarray(Image.open(data / "photos/c.png"), np.float32) / 255
    image = ((image - np.float32(settings.data.mean)) / np.float32(settings.data.std))[None]
    model = ssdd.build_model(settings)
    template = jax.eval_shape(lambda: difference_net.first_variables(model, jax.random.key(0)))
    variables = weights.restore(template, flat)
    want = model.apply(variables, jnp.asarray(image), train=False)[0][0]
    np.testing.assert_allclose(np.load(tmp_path / "labels/c.npy"), want, atol=1e-5)


@pytest.mark.parametrize("kind", ["psa_crf", "released"])
def test_other_seeds(data, tmp_path, kind):
    """The advice alone; or knowledge and advice mixed by stored maps, here of a clear decision."""
    label_map.write(tmp_path / "advice/a.png", np.full(SIZES["a"], 2, np.uint8))
    label_map.write(tmp_path / "knowledge/a.png", np.full(SIZES["a"], 1, np.uint8))
    left = np.zeros((2, 8, 8), np.float16)
    left[0, :, :4], left[1, :, 4:] = 1, 1
    cam_file.write(tmp_path / "maps/a.npz", [0, 1], left, SIZES["a"])
    config = configs.load(CONFIG, fields(data, **{
        "data.knowledge": tmp_path / "knowledge", "data.advice": tmp_path / "advice",
        "data.seed": "", "ssdd.static_seed": kind, "data.differences": tmp_path / "maps",
        "ssdd.flag_absent": "false", "data.val": ""}))
    method = ssdd.build(config)
    loader = method.loader()
    batch = next(loader)
    loader.close()
    seed = np.asarray(ssdd.seed_labels(config.ssdd, {
        **batch, "tags": batch["tags"] * (kind != "released")}))
    if kind == "psa_crf":
        assert set(batch) == {"image", "photo", "tags", "valid", "advice", "name"}
        assert (seed == 2).all()
    else:
        half = seed[0].mean(0)
        assert sorted([*half[:1], *half[-1:]]) == [1, 2] and ((seed == 1) | (seed == 2)).all()
        assert (half[0] == 2) == (batch["differences"][0, 0, 0, 0] == 1)
        with pytest.raises(ValueError, match="config.data.differences=: no such folder"):
            config.data.differences = ""
            ssdd.build(config)


@pytest.mark.parametrize("field, value, message", [
    ("ssdd.static_seed", "dirty", "config.ssdd.static_seed 'dirty' is unknown"),
    ("ssdd.last_target", "d3", "config.ssdd.last_target 'd3' is unknown; "),
    ("ssdd.crf", "none", "'none' is unknown"),
    ("ssdd.crf_shrink", "0", "config.ssdd.crf_shrink is 0.0; want a number above 0"),
    ("data.seed", "", "config.data.seed is empty; give --config.data.seed=FOLDER"),
    ("eval_epochs", "0", "config.eval_epochs is 0; want 1 or more"),
    ("model.encoder", "resnet83", "'resnet83' is unknown; did you mean 'resnet38'"),
])
def test_configs_that_cannot_work(data, field, value, message):
    config = configs.load(CONFIG, fields(data, **{field: value}))
    with pytest.raises(ValueError, match=message):
        ssdd.build(config)


def test_published_settings():
    c = configs.load(CONFIG)
    assert (c.optim.lr, c.optim.momentum, c.optim.weight_decay) == (1e-3, 0, 2e-4)
    assert (c.optim.cosine_epochs, c.total_epochs) == (int(1.2 * 41), 30 + 1)
    assert (c.data.side, c.data.crop, c.device_batch) == ((512, 768), 448, 2)
    assert (c.ssdd.bias, c.ssdd.crf, c.ssdd.last_target) == (0.4, "ssdd_loop", "d1")
    kernels = ssdd.in_loop_crf(c.ssdd).keywords["how"].kernels
    assert [(k.sxy, k.srgb, k.compat) for k in kernels] == [(3, None, 3), (80, 13, 10)]


def test_examples():
    found = doctest.testmod(ssdd)
    assert found.attempted >= 5 and not found.failed
