"""AffinityNet from CAM files to label maps: the real training command on tiny photos, the walk."""

import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from wsssjax.core import config as configs
from wsssjax.core import weights
from wsssjax.data import cam_file, label_map
from wsssjax.refine import affinity, affinity_data, random_walk

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = ROOT / "configs/refine_voc_affinity.py"
SMALL = {  # an encoder that compiles in seconds, with taps at strides 8, 16 and 8
    "model.encoder": "small_cnn", "data.crop": "72", "data.workers": "0", "device_batch": "1",
    "total_steps": "2", "log_steps": "1", "save_steps": "1",
    "infer.multiple": "8",
    "optim.groups": "(('^head/', 10., 1.), ('.*', 1., 1.))",
}
SIZES = {"a": (40, 61), "b": (72, 64), "c": (33, 60), "d": (40, 61), "e": (1, 1), "f": (64, 64)}


def draw(folder):
    """Six photos of a bright object each, and CAM files that see a part of it; `f` has none."""
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for name, (h, w) in SIZES.items():
        photo = rng.integers(0, 60, (h, w, 3))
        photo[h // 4 : h, w // 4 : w // 2 + 1] += [180, 120, 40]
        Image.fromarray(photo.astype(np.uint8)).save(folder / "photos" / f"{name}.png")
        cam = np.zeros((2, h, w))
        cam[0, h // 3 : h // 2 + 1, w // 4 : w // 2 + 1] = 0.95
        cam[1, :, -w // 5 :] = 0.6
        classes = [] if name == "f" else [5, 12]
        cam_file.write(folder / "cams" / f"{name}.npz", classes, cam[: len(classes)], (h, w))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with photos, CAM files, confidences, and two steps of the real command."""
    folder = tmp_path_factory.mktemp("affinity")
    draw(folder)
    affinity_data.write_confidences(cams=folder / "cams", images=folder / "photos",
                                    out=folder / "conf")
    changes = SMALL | {"data.images": str(folder / "photos"),
                       "data.confidences": str(folder / "conf")}
    command = [sys.executable, "-m", "wsssjax.train", f"--config={CONFIG}:efficientnet_lite0",
               f"--workdir={folder / 'run'}", *(f"--config.{k}={v}" for k, v in changes.items())]
    out = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT,
                         env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert out.returncode == 0, out.stdout + out.stderr[-3000:]
    return folder


@pytest.fixture
def config():
    return configs.load(f"{CONFIG}:efficientnet_lite0", SMALL)


def run(folder, config, out, **options):
    return affinity.run(**{
        "cams": folder / "cams", "images": folder / "photos", "config": config,
        "weights": folder / "run", "out": out} | options)


def test_the_command_leaves_weights_and_a_log(trained):
    lines = (trained / "run/metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2 and "train/loss_neg" in lines[-1]
    names = weights.load(trained / "run").keys()
    assert {"params/head/f8_3/kernel", "params/head/f9/kernel"} <= names


@pytest.mark.parametrize("border, ids", [(None, None), ("psa", ["a"])])
def test_label_maps_are_the_argmax_of_the_walk(trained, config, tmp_path, border, ids):
    """The same from the parts; the walk itself has a test of its own."""
    made = run(trained, config, tmp_path, save=("labels", "scores"), border=border, ids=ids)
    assert made == sorted(ids or SIZES)
    features = affinity.trained(config, trained / "run")
    for name in made:
        h, w = SIZES[name]
        got = label_map.read(tmp_path / f"{name}.png", 21, (h, w))
        scores = cam_file.read(tmp_path / f"{name}.npz")
        if name == "f":
            assert (got == 0).all() and scores.classes.tolist() == [0] and (scores.cam == 1).all()
            continue
        cam = cam_file.read(trained / "cams" / f"{name}.npz").cam.astype(np.float32)
        maps = np.concatenate([(1 - cam.max(0, keepdims=True)) ** config.infer.alpha, cam])
        padded = np.zeros((3, -(-h // 8) * 8, -(-w // 8) * 8), np.float32)
        padded[:, :h, :w] = maps
        grid = padded.reshape(3, padded.shape[1] // 8, 8, -1, 8).mean((2, 4))
        photo = np.asarray(Image.open(trained / "photos" / f"{name}.png"))
        walked = random_walk.walk(grid, features(photo), border=border or "inside")
        want = random_walk.enlarge(walked, (h, w))
        assert scores.classes.tolist() == [0, 5, 12] and scores.size.tolist() == [h, w]
        np.testing.assert_allclose(scores.cam, want, atol=1e-3)
        clear = np.sort(want, 0)[-1] - np.sort(want, 0)[-2] > 1e-5
        np.testing.assert_array_equal(got[clear], np.uint8([0, 5, 12])[want.argmax(0)][clear])


def test_features_see_the_photo_padded_with_zeros_after_normalising(trained, config):
    photo = np.asarray(Image.open(trained / "photos/a.png"))
    got = affinity.trained(config, trained / "run")(photo)
    image = np.zeros((1, 40, 64, 3), np.float32)
    image[0, :, :61] = (photo / 255 - 127 / 255) / (128 / 255)
    method = affinity.build(config)
    template = jax.eval_shape(method.init, jax.random.key(0)).variables()
    variables = weights.restore(template, weights.load(trained / "run"))
    want = np.asarray(jax.jit(method.predict)(variables, image))[0]
    assert got.shape == (5, 8, 448) and want.std() > 0
    np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())
    with config.unlocked():
        config.infer.multiple = 64
    assert affinity.trained(config, trained / "run")(photo).shape == (5, 8, 448)


def test_what_is_there_is_kept_and_other_settings_are_refused(trained, config, tmp_path):
    run(trained, config, tmp_path, ids=["a"])
    first = tmp_path / "a.png"
    first.write_bytes(b"mine")
    run(trained, config, tmp_path, ids=["a", "b"])
    assert first.read_bytes() == b"mine" and (tmp_path / "b.png").exists()
    with pytest.raises(ValueError, match="made with another infer"):
        run(trained, config, tmp_path, border="psa")


@pytest.mark.parametrize("changed", ["cams/a.npz", "photos/a.png"])
def test_results_older_than_what_they_are_made_from_are_made_again(trained, config, tmp_path,
                                                                   changed):
    inputs = tmp_path / "in"
    for name in ("cams/a.npz", "photos/a.png"):
        (inputs / name).parent.mkdir(parents=True)
        shutil.copy(trained / name, inputs / name)
    options = {"cams": inputs / "cams", "images": inputs / "photos"}
    run(trained, config, tmp_path / "out", **options)
    result = tmp_path / "out/a.png"
    whole = result.read_bytes()
    result.write_bytes(b"mine")
    run(trained, config, tmp_path / "out", **options)
    assert result.read_bytes() == b"mine"
    later = result.stat().st_mtime_ns + 10**9
    os.utime(inputs / changed, ns=(later, later))
    run(trained, config, tmp_path / "out", **options)
    assert result.read_bytes() == whole


def test_a_config_of_another_method_is_named(trained, tmp_path):
    for path, method in (("refine_voc_ssdd_static", "'ssdd_static'"), ("quickstart", "None")):
        config = configs.load(f"{ROOT}/configs/{path}.py")
        complaint = f"config.method is {method}; want 'affinity'"
        with pytest.raises(ValueError, match=complaint) as caught:
            run(trained, config, tmp_path)
        assert "\n" not in str(caught.value)


def test_a_try_with_wrong_weights_leaves_the_folder_free(trained, config, tmp_path):
    cam_file.write(tmp_path / "wrong.npz", [1], np.ones((1, 2, 2)), (2, 2))
    with pytest.raises(ValueError, match="wrong.npz"):
        run(trained, config, tmp_path / "out", weights=tmp_path / "wrong.npz")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options, complaint", [
    ({"save": ("label",)}, "--save 'label' is unknown; did you mean 'labels'"),
    ({"border": "psb"}, "config.infer.border 'psb' is unknown; did you mean 'psa'"),
    ({"ids": ["a", "z"]}, "has no 'z'"),
    ({"classes": "shapes"}, r"a map of class 12; want 1..7 \(is --classes right\?\)"),
])
def test_bad_arguments_are_named(trained, config, tmp_path, options, complaint):
    with pytest.raises(ValueError, match=complaint) as caught:
        run(trained, config, tmp_path, **options)
    assert "\n" not in str(caught.value)


def test_weights_of_another_network_are_named(trained, config, tmp_path):
    with config.unlocked():
        config.model.encoder = "resnet38"
    with pytest.raises(ValueError, match="as affinity with encoder 'resnet38': weights do not fit"):
        run(trained, config, tmp_path)


def test_a_cam_file_of_another_photo_is_named(trained, config, tmp_path):
    cam_file.write(tmp_path / "cams/a.npz", [3], np.ones((1, 9, 9)), (9, 9))
    with pytest.raises(ValueError, match="a.npz: made for a photo of 9 x 9"):
        run(trained, config, tmp_path / "out", cams=tmp_path / "cams")


@pytest.mark.parametrize("name, value, complaint", [
    ("infer.multiple", "12", "config.infer.multiple=12: want a multiple of 8"),
    ("infer.beta", "0", "config.infer.beta=0.0: want a finite number above 0"),
    ("infer.alpha", "inf", "config.infer.alpha=inf: want a finite number above 0"),
    ("infer.border", "open", "config.infer.border 'open' is unknown"),
])
def test_fields_without_a_meaning_are_named(name, value, complaint):
    with pytest.raises(ValueError, match=complaint):
        affinity.build(configs.load(f"{CONFIG}:efficientnet_lite0", SMALL | {name: value}))


def test_an_unknown_config_argument_is_named():
    with pytest.raises(ValueError, match="want 'resnet38' or 'efficientnet_lite0'"):
        configs.load(f"{CONFIG}:vgg16")
