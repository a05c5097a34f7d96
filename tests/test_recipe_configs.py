"""The recipes on real photos: each of their trainings loads, and wants weights."""

import pathlib
import shlex

import numpy as np
import pytest
from PIL import Image

from wsssjax import train
from wsssjax.core import cli, config
from wsssjax.data import classes, prepare, records

ROOT = pathlib.Path(__file__).parents[1]
TRAININGS = ("cam", "eps", "transcam", "bao", "mars")


def load(name, argument="", **overrides):
    spec = f"{ROOT}/configs/paper_{name}_lite.py"
    return config.load(f"{spec}:{argument}" if argument else spec, overrides)


@pytest.mark.parametrize("argument", TRAININGS)
@pytest.mark.parametrize("name", ["voc", "coco"])
def test_a_training_alone_has_the_settings_of_the_data_set(name, argument):
    recipe, alone = load(name), load(name, argument)
    assert alone.method == argument and alone.classes == name
    like = recipe.segmenter if argument == "mars" else recipe.cam_b
    for field in ("total_steps", "log_steps", "save_steps"):
        assert alone[field] == like[field]
    assert alone.data.workers == like.data.workers
    if argument == "eps":
        assert alone.eps == recipe.cam_b.eps
        assert set(alone.eps.background_classes) < set(classes.CLASS_SETS[name])


@pytest.mark.parametrize("name", ["voc", "coco"])
def test_commands_are_spelled_right(name):
    """Flags of the configs that the docstrings name are fields of theirs."""
    path = ROOT / f"configs/paper_{name}_lite.py"
    text = path.read_text().split('"""')[1].replace("\\\\\n", " ")
    commands = [shlex.split(line) for line in text.splitlines()
                if line.strip().startswith("python -m wsssjax.train")]
    assert len(commands) == (3 if name == "voc" else 1)
    for words in commands:
        plain, overrides = cli.split_overrides(words[3:])
        spec = next(word.removeprefix("--config=") for word in plain if word[:9] == "--config=")
        config.load(f"{ROOT}/{spec}", overrides)


@pytest.mark.parametrize("name", ["voc", "coco"])
def test_arguments_without_sense_are_named(name):
    with pytest.raises(ValueError, match="config argument 'quick': want nothing for the recipe"):
        load(name, "quick")


def test_no_training_starts_random_without_a_word(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "images/a.png")
    (tmp_path / "tags.csv").write_text("id,tags\na,cat\n")
    prepare.pack(records.collect("folder", tmp_path, classes="voc"), "folder", tmp_path / "packed")
    settings = load("voc", "cam", **{"data.packed": str(tmp_path / "packed"), "device_batch": "1"})
    with pytest.raises(FileNotFoundError, match="^efficientnet_lite0: no such weights; want a "):
        train.train(settings, tmp_path / "run")
