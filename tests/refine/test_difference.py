"""Static SSDD by command: two steps, the label maps of a trained network, and bad input."""

import doctest
import os
import pathlib
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from wsssjax import train
from wsssjax.core import config as configs
from wsssjax.core import difference as rules
from wsssjax.core import logs, weights
from wsssjax.data import cam_file, label_map, label_pairs
from wsssjax.models import difference_net
from wsssjax.refine import difference

CONFIG = pathlib.Path(__file__).parents[2] / "configs/refine_voc_ssdd_static.py"
SMALL = {"model.encoder": "small_cnn", "model.output_stride": "8", "model.head_width": "8",
         "model.head_dilation": "3", "model.difference_width": "8", "data.side": "(32,40)",
         "data.crop": "32", "data.workers": "0", "log_steps": "1", "save_steps": "1",
         "total_epochs": "1", "predict.side": "64", "predict.batch": "3"}
SIZES = {"a": (60, 40), "b": (1, 1), "c": (33, 70), "d": (48, 48), "e": (50, 31)}


def make(root):
    """Five photos of odd sizes with two label sets; b is a single pixel, d has no foreground."""
    rng = np.random.default_rng(0)
    for name, (h, w) in SIZES.items():
        label = np.kron(rng.integers(0, 3, (4, 4)), np.ones((20, 20)))[:h, :w].astype(np.uint8)
        label[:] = 0 if name == "d" else label
        os.makedirs(root / "photos", exist_ok=True)
        image = np.stack([label * 80 + 20, 255 - label * 60, label * 7], -1)
        Image.fromarray(image).save(root / f"photos/{name}.png")
        advice = np.roll(label, 5, 1)
        if name == "a":
            label[:9, :9], advice[5:12, 5:12] = 255, 255
        label_map.write(root / f"knowledge/{name}.png", label)
        label_map.write(root / f"advice/{name}.png", advice)
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make(tmp_path_factory.mktemp("data"))


def by_command(data, workdir):
    """Two steps, as the README of a user would have it, with the encoder's first layer frozen."""
    fields = SMALL | {f"data.{n}": data / n for n in ("knowledge", "advice")}
    fields["data.images"] = data / "photos"
    fields["optim.groups"] = "((r'^backbone/stem/', 0.0, 0.0), (r'.*', 1.0, 1.0))"
    train.main([f"--config={CONFIG}", f"--workdir={workdir}", "--config.device_batch=1",
                *(f"--config.{n}={v}" for n, v in fields.items())])


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "static"
    by_command(data, workdir)
    return workdir


def settings(**changes):
    return configs.load(CONFIG, SMALL | {n.replace("__", "."): v for n, v in changes.items()})


def refine(data, trained, out, config=None, **options):
    given = dict(labels=str(data / "knowledge"), advice=str(data / "advice"),
                 images=str(data / "photos"), out=str(out), weights=trained, label="")
    return difference.run(config=config or settings(), **(given | options))


def read(folder, name):
    return label_map.read(pathlib.Path(folder) / f"{name}.png", 21, SIZES[name])


def test_two_steps_by_the_command(data, trained, tmp_path):
    """All learns but what is frozen; stopped after the first step and resumed: the same bits."""
    rows = logs.read_metrics(trained / "metrics.jsonl")
    assert [r["step"] for r in rows] == [1, 2], "5 photos, 1 on each of 2 devices"
    assert all(row["train/loss_seg"] > 0.1 and row["train/loss_diff"] > 0.1 for row in rows)
    first = first_weights(difference.build_model(settings()))
    last = weights.load(trained)
    assert last.keys() == first.keys()
    for name, x in last.items():
        still = name.startswith(("batch_stats/", "params/backbone/stem/"))
        assert np.array_equal(x, first[name]) == still, name
    shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints/2")
    (tmp_path / "run/weights.safetensors").unlink()
    by_command(data, tmp_path / "run")
    assert (tmp_path / "run/weights.safetensors").read_bytes() == (
        trained / "weights.safetensors").read_bytes()
    assert logs.read_metrics(tmp_path / "run/metrics.jsonl") == rows


def first_weights(model):
    """The weights that training with seed 0 starts from."""
    key, _ = jax.random.split(jax.random.key(0))
    return weights.flatten(difference_net.init(model, settings().model, key))


@pytest.mark.parametrize("square", ["true", "false"])
@pytest.mark.parametrize("bias", [0.1, 0.4])
def test_label_maps_are_the_rule_at_full_size(data, trained, tmp_path, square, bias):
    """Against the rule applied by hand to what the network says about each photo alone."""
    config = settings(data__square=square)
    result = refine(data, trained, tmp_path, config, bias=bias, background_bias=0.0)
    assert result["images"] == 5 and 0 <= result["changed"] < 1
    forward = difference.restored(config, trained)
    sets = {n: label_pairs.LabelSet(data / n, 21, n) for n in ("knowledge", "advice")}
    source = label_pairs.Source(data / "photos", sets, 21)
    mixed = 0
    for index, name in enumerate(source.ids):
        item = difference.prepare(config, source, index)
        knowledge, advice = read(data / "knowledge", name), read(data / "advice", name)
        np.testing.assert_array_equal(item.full_2hw, [knowledge, advice])
        sigma = forward([item])[0][:, : item.part[0], : item.part[1]]
        assert sigma.shape == (2, *item.part) and (0 < sigma).all() and (sigma < 1).all()
        sigma = label_pairs.resize(sigma, SIZES[name])
        flags = rules.class_flags(knowledge[None], advice[None], item.tags_k[None])
        want = rules.integrate(knowledge[None], advice[None], sigma[:1], sigma[1:], flags, bias)[0]
        got = read(tmp_path, name)
        np.testing.assert_array_equal(got, want)
        assert ((got == knowledge) | (got == advice)).all()
        if name == "a":
            one = (knowledge == 255) ^ (advice == 255)
            assert one.any() and (got[one] != 255).all() and (got == 255).any()
        mixed += bool(0 < (got != knowledge).sum() < (advice != knowledge).sum())
    assert mixed or bias == 0.4


def test_a_great_bias_gives_either_set_back(data, trained, tmp_path):
    for bias, name in ((5.0, "advice"), (-5.0, "knowledge")):
        refine(data, trained, tmp_path / name, bias=bias, background_bias=0.0,
               config=settings(ssdd__flag_absent="false"), ids=["c", "d"])
        for photo in ("c", "d"):
            np.testing.assert_array_equal(read(tmp_path / name, photo), read(data / name, photo))
        assert not (tmp_path / name / "e.png").exists()


def test_score_files_in_the_place_of_label_maps(data, trained, tmp_path):
    """One-hot scores are label maps; so the outcome is the same to the byte."""
    for name, size in SIZES.items():
        label = read(data / "advice", name)
        label[label == 255] = 0
        label_map.write(tmp_path / f"hard/{name}.png", label)
        classes = np.unique(np.append(label, 0))
        cam_file.write(tmp_path / f"soft/{name}.npz", classes,
                       (label == classes[:, None, None]).astype(float), size)
    for kind in ("hard", "soft"):
        refine(data, trained, tmp_path / f"{kind}_out", advice=str(tmp_path / kind))
    for name in SIZES:
        assert ((tmp_path / f"hard_out/{name}.png").read_bytes()
                == (tmp_path / f"soft_out/{name}.png").read_bytes())


def test_goes_on_where_it_was_stopped(data, trained, tmp_path):
    refine(data, trained, tmp_path)
    want = {name: (tmp_path / f"{name}.png").read_bytes() for name in SIZES}
    for name in ("a", "d"):
        (tmp_path / f"{name}.png").unlink()
    kept = (tmp_path / "c.png").stat().st_mtime_ns
    refine(data, trained, tmp_path)
    assert {name: (tmp_path / f"{name}.png").read_bytes() for name in SIZES} == want
    assert (tmp_path / "c.png").stat().st_mtime_ns == kept
    with pytest.raises(ValueError, match="its files were made with another bias"):
        refine(data, trained, tmp_path, bias=0.3)


def test_sigma_can_be_stored(data, trained, tmp_path):
    """What the rule was fed, on the grid, in half precision; made anew where it is not there."""
    refine(data, trained, tmp_path / "out")
    refine(data, trained, tmp_path / "out", maps=tmp_path / "maps")
    config = settings()
    sets = {n: label_pairs.LabelSet(data / n, 21, n) for n in ("knowledge", "advice")}
    source = label_pairs.Source(data / "photos", sets, 21)
    forward = difference.restored(config, trained)
    for index, name in enumerate(source.ids):
        content = cam_file.read(tmp_path / f"maps/{name}.npz")
        want = forward([difference.prepare(config, source, index)])[0]
        assert content.classes.tolist() == [0, 1] and content.cam.shape == (2, 16, 16)
        np.testing.assert_allclose(content.cam, want, atol=5e-4)


def test_a_part_first_then_the_rest_and_what_changed_again(tmp_path, trained):
    """Ids may differ between runs, and folders may be made anew: each photo is done when due."""
    data, out = make(tmp_path / "data"), tmp_path / "out"
    refine(data, trained, tmp_path / "whole", maps=tmp_path / "maps")
    refine(data, trained, out, ids=["c", "a"])
    assert sorted(p.name for p in out.glob("*.png")) == ["a.png", "c.png"]
    refine(data, trained, out)
    for name in SIZES:
        assert (out / f"{name}.png").read_bytes() == (tmp_path / f"whole/{name}.png").read_bytes()
    changed = {"a": "photos/a.png", "c": "knowledge/c.png", "e": "advice/e.png"}
    later = max(p.stat().st_mtime_ns for p in out.iterdir()) + 10**9
    for path in changed.values():
        os.utime(data / path, ns=(later, later))
    other = np.full(SIZES["e"], 1, np.uint8)
    label_map.write(data / "advice/e.png", other)
    os.utime(data / "advice/e.png", ns=(later, later))
    before = {name: (out / f"{name}.png").stat() for name in SIZES}
    refine(data, trained, out)
    again = {n for n, x in before.items() if x.st_ino != (out / f"{n}.png").stat().st_ino
             or x.st_mtime_ns != (out / f"{n}.png").stat().st_mtime_ns}
    assert again == set(changed)
    got, knowledge = read(out, "e"), read(data / "knowledge", "e")
    assert ((got == other) | (got == knowledge)).all()
    shutil.copytree(data / "advice", tmp_path / "copy")
    with pytest.raises(ValueError, match="its files were made with another advice"):
        refine(data, trained, out, advice=str(tmp_path / "copy"))


def test_stored_sigma_of_another_network_is_refused(data, trained, tmp_path):
    refine(data, trained, tmp_path / "one", maps=tmp_path / "maps", ids=["b"])
    flat = weights.load(trained)
    weights.save(tmp_path / "other.safetensors", flat | {
        "params/dd0/pred_abc/kernel": flat["params/dd0/pred_abc/kernel"] + 1})
    with pytest.raises(ValueError, match="maps: its files were made with another weights"):
        refine(data, tmp_path / "other.safetensors", tmp_path / "two", maps=tmp_path / "maps")


@pytest.mark.parametrize("flag, folder, message", [
    ("maps", "knowledge", "--maps=.*: is --labels itself"),
    ("maps", "advice", "--maps=.*: is --advice itself"),
    ("maps", "photos", "--maps=.*: is --images itself"),
    ("maps", "out", "--maps=.*: is --out itself"),
    ("out", "photos", "--out=.*: is --images itself"),
    ("out", "knowledge", "--out=.*: is --labels itself"),
])
def test_nothing_that_is_read_is_written_over(trained, tmp_path, flag, folder, message):
    data = make(tmp_path)
    before = {p: p.stat().st_mtime_ns for p in data.rglob("*")}
    with pytest.raises(ValueError, match=message) as error:
        refine(data, trained, **({"out": data / "out"} | {flag: data / folder}))
    assert "\n" not in str(error.value)
    assert {p: p.stat().st_mtime_ns for p in data.rglob("*")} == before


def test_weights_that_do_not_fit_are_named(trained, tmp_path):
    weights.save(tmp_path / "part.safetensors", {
        n: x for n, x in weights.load(trained).items() if "/dd0/" not in n})
    with pytest.raises(ValueError, match="part.safetensors, as ssdd_static with encoder "
                                         "'small_cnn': .*missing"):
        difference.restored(settings(), tmp_path / "part.safetensors")
    np.savez(tmp_path / "w.npz", **{"module.fc.weight": np.zeros((1, 1, 1, 1))})
    with pytest.raises(ValueError, match="w.npz, as ssdd_static.*: module.fc.weight .*: no tensor"):
        difference.restored(settings(), tmp_path / "w.npz")


def test_tags_of_a_file_decide_what_can_be_flagged(data, trained, tmp_path):
    (tmp_path / "tags.csv").write_text(
        "id,tags\n" + "".join(f"{name},person\n" for name in SIZES))
    (tmp_path / "none").mkdir()
    for name, size in SIZES.items():
        label_map.write(tmp_path / f"none/{name}.png", np.zeros(size, np.uint8))
    refine(data, trained, tmp_path / "seen", advice=str(tmp_path / "none"), bias=0.4)
    refine(data, trained, tmp_path / "told", advice=str(tmp_path / "none"), bias=5.0,
           tags=tmp_path / "tags.csv")
    for name in SIZES:  # the advice lost all: kept where flagged, lost where the tags know better
        knowledge = read(data / "knowledge", name)
        np.testing.assert_array_equal(read(tmp_path / "seen", name),
                                      np.where(knowledge == 255, 0, knowledge))
        assert (read(tmp_path / "told", name) == 0).all()


def shrink(data):
    label_map.write(data / "advice/c.png", np.zeros((30, 70), np.uint8))


def drop(data):
    (data / "advice/c.png").unlink()


def drop_photo(data):
    (data / "photos/c.png").unlink()


def no_background(data):
    for path in (data / "advice").glob("*.png"):
        path.unlink()
    for name, size in SIZES.items():
        cam_file.write(data / f"advice/{name}.npz", [3], np.zeros((1, *size)), size)


def foreign(data):
    label_map.write(data / "advice/c.png", np.full(SIZES["c"], 77, np.uint8))


def empty(data):
    for path in (data / "advice").glob("*.png"):
        path.unlink()


@pytest.mark.parametrize("spoil, message", [
    (shrink, r"advice/c.png: label map of 30 x 70; its image has 33 x 70"),
    (drop, r"--advice=.*: has no labels of 'c' \(1 of 5 ids missing\)"),
    (drop_photo, r"--images=.*: no photo of 'c' \(1 of 5 ids missing\)"),
    (no_background, r"a.npz: no scores of the background \(class 0\)"),
    (foreign, r"c.png: value 77 at row 0, column 0; want 0..20 or 255"),
    (empty, r"--advice=.*: holds neither label maps <id>.png nor scores <id>.npz"),
])
def test_bad_folders(trained, tmp_path, spoil, message):
    data = make(tmp_path)
    spoil(data)
    with pytest.raises(ValueError, match=message) as error:
        refine(data, trained, tmp_path / "out")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("options, message", [
    (dict(classes="coco"), "--classes=coco has 81 classes, config.classes=voc has 21"),
    (dict(config="configs/semi_voc_supervised.py:small"), "want one of 'ssdd_static'"),
    (dict(ids=["a", "z"]), "--labels=.* has no labels of 'z'"),
    (dict(bias=float("nan")), "--bias=nan: want a finite number"),
    (dict(background_bias=float("inf")), "--background_bias=inf: want a finite number"),
])
def test_bad_options(data, trained, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        refine(data, trained, tmp_path, **options)
    with pytest.raises(ValueError, match="is --advice itself"):
        refine(data, trained, data / "advice")


@pytest.mark.parametrize("field, value, message", [
    ("data.crop", "30", "a crop of 30 from sides of 32 to 40; want a multiple of 8"),
    ("data.side", "(16,40)", "sides from 16, a crop of 32; want sides as long"),
    ("data.advice", "", "config.data.advice is empty; give --config.data.advice=FOLDER"),
    ("device_batch", "0", "config.device_batch is 0; want 1 or more"),
    ("total_epochs", "0", "config.total_epochs is 0; want 1 or more"),
    ("classes", "cityscapes", "class 0 of these 19 classes is 'road'"),
])
def test_configs_that_cannot_work(data, field, value, message):
    fields = SMALL | {f"data.{n}": str(data / n) for n in ("knowledge", "advice")}
    config = configs.load(CONFIG, fields | {"data.images": str(data / "photos"), field: value})
    with pytest.raises(ValueError, match=message):
        difference.build(config).loader()


def test_published_settings():
    c = configs.load(CONFIG)
    assert (c.optim.lr, c.optim.momentum, c.optim.weight_decay) == (1e-3, 0, 2e-4)
    assert [tuple(g) for g in c.optim.groups] == [
        ("^backbone/conv1a/", 0, 0), ("^backbone/", 1, 1), (".*", 10, 1)]
    assert (c.optim.cosine_epochs, c.total_epochs) == (int(1.2 * 16), 10 + 1)
    assert (c.data.side, c.data.crop, c.data.jitter) == ((448, 512), 448, (0.3, 0.3, 0.3, 0.1))
    assert (c.model.head_width, c.model.head_dilation, c.model.difference_width) == (512, 12, 256)
    assert c.device_batch == 2 and c.predict.side == 448
    with pytest.raises(ValueError, match="config argument 'vgg'"):
        configs.load(f"{CONFIG}:vgg")


def test_examples():
    found = doctest.testmod(difference)
    assert found.attempted >= 4 and not found.failed
