"""The recipes on real photos: each of their trainings loads, and wants weights."""

import pathlib
import shlex

import numpy as np
import pytest
from PIL import Image

from wsssjax import train
from wsssjax.core import cli, config
from wsssjax.data import classes, label_map, prepare, records
from wsssjax.select import quota
from wsssjax.steps import labels, order

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


@pytest.mark.parametrize("score, refined", [("paper", ()),
                                            ("quality", ("labels_b", "labels_b_crf"))])
def test_quality_also_reads_the_labels_before_each_refinement(tmp_path, score, refined):
    settings = load("voc", **{"select.score": score, "select.quota_spec": '{"cat": 2}'})
    step = next(s for s in order.build(settings) if s.name == "select")
    assert step.inputs == ("prepare", "labels_a", "labels_b_plus", *refined)
    assert step.config["select"]["score"] == score
    names = ("x", "y", "z")
    for folder, rows in {"labels_a": (4, 4, 4), "labels_b_plus": (4, 4, 4), "labels_b": (1, 4, 3),
                         "labels_b_crf": (2, 4, 3)}.items():  # x changes most, y never
        for name, count in zip(names, rows, strict=True):
            label_hw = np.zeros((4, 5), np.uint8)
            label_hw[:count] = 8
            label_map.write(tmp_path / folder / f"{name}.png", label_hw)
    prepared = tmp_path / "prepare"
    prepared.mkdir()
    (prepared / "train.txt").write_text("\n".join(names) + "\n")
    (prepared / "train_photos.txt").write_text("".join(f"{tmp_path}/{n}.jpg\n" for n in names))
    for name in names:
        (tmp_path / f"{name}.jpg").touch()
    (tmp_path / "out").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(labels, "where", lambda _: {
            "train": str(prepared / "train.txt"), "classes": "voc",
            "train_photos": str(prepared / "train_photos.txt")})
        step.run(tmp_path / "out", {name: tmp_path / name for name in step.inputs})
    lines = (tmp_path / "out/labeled.txt").read_text().splitlines()
    assert [line.split("/")[-1] for line in lines] == (
        ["y.png", "z.png"] if refined else ["x.png", "y.png"])


PAPER = [("voc", ""), ("voc", "tiny"), ("coco", ""), ("coco", "tiny"), ("folder", ""),
         ("folder", "lite"), ("folder", "tiny")]


@pytest.mark.parametrize("name, argument", PAPER)
def test_the_papers_recipe_builds_its_steps_everywhere(tmp_path, name, argument):
    """Finished weights are made up; nothing is trained, nor read but class names."""
    (tmp_path / "classes.txt").write_text("cat\nsofa\n")
    spec = f"{ROOT}/configs/paper_{name}.py" + (f":{argument}" if argument else "")
    given = {}
    if name == "folder":
        given = {"classes": str(tmp_path / "classes.txt"), "select.quota_spec": '{"cat": 2}'}
    if (name, argument) == ("voc", ""):
        for weights in ("a.safetensors", "b.safetensors"):
            (tmp_path / weights).write_bytes(b"weights")
        given = {"given.cam_a": str(tmp_path / "a.safetensors"),
                 "given.cam_b": str(tmp_path / "b.safetensors")}
    settings = config.load(spec, given)
    names = [step.name for step in order.build(settings)]
    trained = [] if given.get("given.cam_a") else ["cam_a", "cam_b"]
    assert [n for n in names if n.startswith("cam_")] == trained
    assert {"labels_a", "labels_b", "labels_b_plus", "select", "arm_s", "test_s"} <= set(names)
    known = classes.read_class_names(settings.classes)
    if name != "folder":
        wanted = quota.read_quota(settings.select.quota_spec, known)
        assert len(wanted) == len(known) - 1 and (wanted > 0).all()
    small = argument == "lite"
    assert [settings[n].method for n in ("cam_a", "cam_b", "segmenter")] == [
        "cam" if small else "bao", "eps", "unimatch_v2"]
    assert settings.segmenter.model.freeze_encoder
    epochs = 60 if small else 20 if name == "coco" else 80
    assert (settings.segmenter.model.encoder, settings.segmenter.total_epochs) == (
        {"": "dinov2_b", "tiny": "dinov2_s", "lite": "efficientnet_lite0"}[argument], epochs)
    assert settings.proposals.backend == ("felzenszwalb" if argument else "sam")


@pytest.mark.parametrize("name", ["voc", "coco", "folder"])
def test_commands_of_the_papers_recipe_are_spelled_right(name):
    text = (ROOT / f"configs/paper_{name}.py").read_text().split('"""')[1].replace("\\\\\n", " ")
    commands = [shlex.split(line) for line in text.splitlines()
                if line.strip().startswith("python -m wsssjax.train")]
    assert len(commands) == 2
    for words in commands:
        plain, overrides = cli.split_overrides(words[3:])
        spec = next(word.removeprefix("--config=") for word in plain if word[:9] == "--config=")
        config.load(f"{ROOT}/{spec}", overrides)
    flags = {word.rstrip(":,.;").partition("=")[0] for word in text.split()
             if word.startswith("--config.")}
    settings = config.load(f"{ROOT}/configs/paper_{name}.py")
    for flag in flags:  # those that the prose names
        node = settings
        for part in flag.removeprefix("--config.").split("."):
            assert part in node, flag
            node = node[part]


def test_a_recipe_without_a_quota_is_told_before_any_step():
    with pytest.raises(ValueError, match="config.select.quota_spec is empty: want trusted images"):
        order.build(config.load(f"{ROOT}/configs/paper_folder.py:tiny"))


def test_classifiers_have_coco_settings_on_coco():
    settings = config.load(f"{ROOT}/configs/paper_coco.py")
    published = config.load(f"{ROOT}/configs/cam_coco_eps.py")
    for field in ("total_steps", "device_batch", "eps", "optim", "data.crop", "data.long_side"):
        mine, theirs = settings.cam_b, published
        for part in field.split("."):
            mine, theirs = mine[part], theirs[part]
        assert mine == theirs, field
