"""The published settings, field by field, and the two commands of the paper's config."""

import os
import pathlib
import shlex
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from wsssjax.core import config as configs
from wsssjax.core import files
from wsssjax.data import label_map
from wsssjax.data.classes import read_class_names
from wsssjax.models import vit
from wsssjax.semi import student

ROOT = pathlib.Path(__file__).parents[1]
# classes, crop, epochs, device batch, criterion, mode, window
VOC = (21, 518, 60, 4, "ce", "original", 518)
PUBLISHED = {
    "semi_voc_unimatch_v2": ("unimatch_v2", *VOC),
    "semi_voc_fixmatch": ("fixmatch", *VOC),
    "semi_voc_unimatch": ("unimatch", *VOC),
    "semi_voc_supervised": ("supervised", 21, 518, 60, 8, *VOC[4:]),
    "semi_voc_selected": ("unimatch_v2", 21, 518, 80, *VOC[3:]),
    "semi_cityscapes_unimatch_v2": ("unimatch_v2", 19, 798, 180, 2, "ohem", "sliding_window", 798),
    "semi_ade20k_unimatch_v2": ("unimatch_v2", 150, 518, 60, 2, *VOC[4:]),
    "semi_coco_unimatch_v2": ("unimatch_v2", 81, 518, 20, 4, *VOC[4:]),
}


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("size", ["small", "base", "large", "giant"])
def test_published_settings(name, size):
    c = configs.load(ROOT / f"configs/{name}.py:{size}")
    found = (c.method, len(read_class_names(c.classes)), c.data.crop, c.total_epochs,
             c.device_batch, c.criterion, c.predict.mode, c.predict.window)
    assert found == PUBLISHED[name]
    assert (c.optim.name, c.optim.lr, c.optim.weight_decay, c.optim.poly_power,
            c.optim.lag_steps) == ("adamw", 5e-6, 0.01, 0.9, 1)
    assert [tuple(g) for g in c.optim.groups] == [("^backbone/", 1.0, 1.0), (".*", 40.0, 1.0)]
    assert (c.optim.b1, c.optim.b2, c.optim.eps) == (0.9, 0.999, 1e-8)
    assert (c.conf_threshold, c.ema_limit, c.unlabelled_weight) == (0.95, 0.996, 1.0)
    assert (c.ohem_threshold, c.ohem_min_kept) == (0.7, 200_000)
    assert c.dtype == "float32" and c.precision == "highest" and c.predict.multiple == 14
    assert c.model.freeze_encoder == (name == "semi_voc_selected")
    width = {"small": 64, "base": 128, "large": 256, "giant": 384}[size]
    assert (c.model.encoder, c.model.head_width) == (f"dinov2_{size[0]}", width)
    with pytest.raises(ValueError, match="config argument 'huge'"):
        configs.load(ROOT / f"configs/{name}.py:huge")


def test_taps_of_the_four_sizes():
    assert {name: size.taps for name, size in vit.SIZES.items()} == {
        "s": (2, 5, 8, 11), "b": (2, 5, 8, 11), "l": (4, 11, 17, 23), "g": (9, 19, 29, 39)}


@pytest.mark.parametrize("field, value, message", [
    ("data.crop", "500", "config.data.crop is 500; encoder 'dinov2_s' wants a multiple of 14"),
    ("predict.multiple", "32", "config.predict.multiple is 32; encoder"),
    ("eval_epochs", "0", "config.eval_epochs is 0; want 1 or more"),
    ("total_steps", "-5", "config.total_steps is -5; want 0 or more"),
    ("precision", "high", "config.precision 'high' is unknown; did you mean 'highest'"),
])
def test_values_that_cannot_work(field, value, message):
    config = configs.load(ROOT / "configs/semi_voc_unimatch_v2.py:small", {field: value})
    with pytest.raises(ValueError) as error:
        student.method(config, None, unlabelled=True)
    assert message in str(error.value)


@pytest.fixture
def devkit(tmp_path):
    """A VOC folder of six photos, two methods' labels of four of them, and splits/val.txt."""
    rng = np.random.default_rng(0)
    voc = tmp_path / "VOCdevkit/VOC2012"
    (voc / "JPEGImages").mkdir(parents=True)
    for i in range(6):
        label = np.kron(rng.integers(0, 3, (2, 3)), np.ones((30, 30))).astype(np.uint8)
        Image.fromarray(np.stack([label * 80] * 3, -1)).save(voc / f"JPEGImages/p{i}.jpg")
        label_map.write(voc / f"SegmentationClass/p{i}.png", label)
        if i < 4:
            label_map.write(tmp_path / f"bao/p{i}.png", label)
            label_map.write(tmp_path / f"mars_sam/p{i}.png", np.roll(label, i * 9, 1))
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits/val.txt").write_text("".join(
        f"JPEGImages/p{i}.jpg SegmentationClass/p{i}.png\n" for i in (4, 5)))
    (tmp_path / "quota.json").write_text('{"aeroplane": 2, "bicycle": 2}')
    os.symlink(ROOT / "configs", tmp_path / "configs")
    return tmp_path


def test_the_papers_commands_run_as_its_config_spells_them(devkit):
    """Only the size, the quota and the length differ, for which six photos are too few."""
    text = (ROOT / "configs/semi_voc_selected.py").read_text().split('"""')[1]
    lines = text.replace("\\\\\n", " ").replace("\\\n", " ").splitlines()
    commands = [line.strip() for line in lines if line.strip().startswith("python -m")]
    assert len(commands) == 2
    changes = {"voc/1464": "quota.json", "selected.py:base": "selected.py:small",
               "--config.model.encoder_weights=dinov2_b": "--config.total_steps=1 "
               "--config.data.crop=42 --config.data.workers=0 --config.device_batch=2"}
    env = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT), "PWD": str(devkit)}
    for command in commands:
        for old, new in changes.items():
            command = command.replace(old, new)
        words = shlex.split(command.replace("$PWD", str(devkit)))
        done = subprocess.run([sys.executable, *words[1:]], cwd=devkit, env=env, timeout=300,
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
    scores = files.read_json(devkit / "runs/paper/scores.json")
    assert {"student", "teacher"} <= scores.keys() and scores["teacher"]["last"]["step"] == 1
