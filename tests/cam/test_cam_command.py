"""The command on a handful of photos: files, resuming to the bit, and bad input in one line."""

import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from wsssjax.cam import __main__ as command
from wsssjax.core import weights
from wsssjax.data import cam_file, label_map

SIZES = {"a": (40, 60), "b": (33, 30), "c": (44, 52), "d": (40, 60), "e": (48, 64)}
TAGS = {"a": "fox", "b": "owl;elk", "c": "elk", "d": "fox;owl;elk", "e": "owl"}


@pytest.fixture
def job(tmp_path, make_config, random_head):
    """Arguments of `run` for five photos: config, weights, images, tags."""
    rng = np.random.default_rng(0)
    images = tmp_path / "images"
    images.mkdir()
    for name, (h, w) in SIZES.items():
        noise = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
        noise.resize((w, h), Image.Resampling.BICUBIC).save(images / f"{name}.png")
    tags = tmp_path / "tags.csv"
    tags.write_text("id,tags\n" + "".join(f"{n},{t}\n" for n, t in TAGS.items()))
    config = make_config("eps")
    method = command.METHODS["eps"](config)
    variables = random_head(method.init(jax.random.key(0)).variables())
    weights.save(tmp_path / "weights.safetensors", jax.device_get(variables))
    return [config, tmp_path / "weights.safetensors", images, tags]


@pytest.fixture(autouse=True)
def no_global_cache(monkeypatch):
    monkeypatch.setattr(command.parallel, "start", lambda: None)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(pathlib.Path(folder).iterdir())}


def test_files_and_their_agreement(job, tmp_path):
    assert command.run(*job, tmp_path / "out") == list(SIZES)
    names = ["fox", "owl", "elk"]
    for name, size in SIZES.items():
        label_hw = label_map.read(tmp_path / "out" / f"{name}.png", 4, size)
        found = cam_file.read(tmp_path / "out" / f"{name}.npz")
        tagged = [names.index(t) + 1 for t in TAGS[name].split(";")]
        assert found.classes.tolist() == tagged and found.cam.shape == (len(tagged), *size)
        assert set(np.unique(label_hw)) <= {0, *tagged}
        peak = found.cam.astype(np.float32).max(0)
        # Half floats hold the maps, so only clear cases can be read back from them.
        assert (label_hw[peak > 0.202] > 0).all() and (label_hw[peak < 0.198] == 0).all()


def test_resumed_run_gives_the_same_bits(job, tmp_path):
    command.run(*job, tmp_path / "whole")
    command.run(*job, tmp_path / "cut")
    for name in ("a.png", "d.npz", "e.png", "e.npz"):
        (tmp_path / "cut" / name).unlink()
    (tmp_path / "cut" / ".b.png.1.wsssjax-tmp").write_bytes(b"half a fi")
    untouched = (tmp_path / "cut" / "c.png").stat().st_mtime_ns
    command.run(*job, tmp_path / "cut")
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert (tmp_path / "cut" / "c.png").stat().st_mtime_ns == untouched


def test_finished_run_does_not_run_the_network(job, tmp_path, monkeypatch):
    command.run(*job, tmp_path / "out", save=("labels",))

    def fail(*args):
        raise AssertionError("ran again")

    monkeypatch.setattr(command.infer, "class_maps", fail)
    command.run(*job, tmp_path / "out", save=("labels",))
    assert not list((tmp_path / "out").glob("*.npz"))


def test_other_settings_refuse_the_folder(job, tmp_path):
    command.run(*job, tmp_path / "out", save=("labels",))
    job[0].infer.threshold = 0.3
    with pytest.raises(ValueError, match="made with another infer"):
        command.run(*job, tmp_path / "out", save=("labels",))


def test_photo_size_agrees_with_the_reader_whatever_the_camera_held(tmp_path):
    image = Image.new("RGB", (30, 20))
    for orientation in (1, 3, 6, 8):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"{orientation}.jpg"
        image.save(path, exif=exif)
        assert command.photos.photo_size(path) == command.photos.read_photo(path).shape[:2]


@pytest.mark.parametrize("damage, complaint", [
    (lambda images, tags: (images / "c.png").write_bytes(b""), r"c\.png"),
    (lambda images, tags: (images / "c.png").write_bytes(
        (images / "c.png").read_bytes()[:200]), r"c\.png"),
    (lambda images, tags: (images / "z.png").write_bytes(
        (images / "c.png").read_bytes()), "no tags for the photo"),
    (lambda images, tags: tags.write_text("id,tags\na,yak\n"), "unknown class 'yak'"),
])
def test_bad_input_is_named(job, tmp_path, damage, complaint):
    damage(job[2], job[3])
    with pytest.raises(ValueError, match=complaint) as error:
        command.run(*job, tmp_path / "out")
    assert "\n" not in str(error.value)


def test_weights_of_another_method_are_refused(job, tmp_path, make_config):
    job[0] = make_config("cam")
    with pytest.raises(ValueError, match=r"weights\.safetensors, as cam: .*head/kernel"):
        command.run(*job, tmp_path / "out")


def test_unknown_kind_of_result_is_named(job, tmp_path):
    with pytest.raises(ValueError, match="--save 'label' is unknown; did you mean 'labels'"):
        command.run(*job, tmp_path / "out", save=("label",))


@pytest.mark.parametrize("module", ["wsssjax.cam", "wsssjax.cam.saliency"])
def test_command_line_exit_codes(module, tmp_path):
    def call(*flags):
        return subprocess.run([sys.executable, "-m", module, *flags], text=True,
                              capture_output=True, cwd=pathlib.Path(__file__).parents[2])

    good = {"wsssjax.cam": ("--config=configs/cam_voc_cam.py", "--weights=none", "--tags=none")}
    shown = call("--help")
    assert shown.returncode == 0 and f"python -m {module}" in shown.stdout
    assert call("--imagse=x").returncode == 2
    missing = call(*good.get(module, ()), f"--images={tmp_path}/none", f"--out={tmp_path}/out")
    assert missing.returncode == 1
    assert missing.stderr.count("\n") == 1 and f"{tmp_path}/none" in missing.stderr


def test_saliency_command_resumes_and_names_broken_photos(job, tmp_path):
    from wsssjax.cam import saliency

    out = tmp_path / "saliency"
    assert saliency.saliency_folder(job[2], out) == list(SIZES)
    whole = contents(out)
    (out / "b.png").unlink()
    assert saliency.saliency_folder(job[2], out) == ["b"]
    assert contents(out) == whole
    with Image.open(out / "a.png") as image:
        assert image.mode == "L" and image.size == SIZES["a"][::-1]
    (out / "c.png").unlink()
    (job[2] / "c.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    with pytest.raises(ValueError, match=r"c\.png"):
        saliency.saliency_folder(job[2], out)
