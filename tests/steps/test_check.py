"""The check of a recipe's inputs: nothing to tell of good ones, a line for each that is not."""

import functools
import gzip
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from wsssjax import train
from wsssjax.core import cli, config, weights
from wsssjax.data import label_map
from wsssjax.data.classes import VOC_CLASSES
from wsssjax.models import registry
from wsssjax.refine import proposals
from wsssjax.steps import check, check_data, check_weights
from wsssjax.steps.finding import Finding, spread

ROOT = pathlib.Path(__file__).parents[2]
IDS = [f"2007_{i:06d}" for i in range(9)]
TRAIN, TEST = IDS[:6], IDS[6:]
SIZE = (40, 48)
QUOTA = json.dumps({"cat": 2, "dog": 1})


def write_tree(root):
    """Nine photos with masks, tags and saliency, laid out as VOC is."""
    rng = np.random.default_rng(0)
    for folder in ("JPEGImages", "SegmentationClassAug", "saliency"):
        (root / folder).mkdir(parents=True)
    for i, name in enumerate(IDS):
        photo_hwc = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(photo_hwc).save(root / f"JPEGImages/{name}.jpg")
        Image.fromarray(photo_hwc[..., 0]).save(root / f"saliency/{name}.png")
        label_hw = np.full(SIZE, (8, 12)[i % 2], np.uint8)
        label_map.write(root / f"SegmentationClassAug/{name}.png", label_hw)
        label_map.write(root / f"labels/{name}.png", label_hw)
        proposals.write(root / f"masks/{name}.json.gz", SIZE, [], {"backend": "test"})
    tags = [f"{name},{('cat', 'dog')[i % 2]}" for i, name in enumerate(IDS)]
    (root / "tags.csv").write_text("\n".join(["id,tags", *tags, ""]))
    (root / "train_aug.txt").write_text("\n".join(TRAIN) + "\n")
    (root / "val.txt").write_text("\n".join(TEST) + "\n")


def zeros(shapes):
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


def write_encoder(path, model):
    """An encoder's weights as a file; their values are no matter."""
    first = functools.partial(registry.build_encoder(model).init, train=False)
    shapes = jax.eval_shape(first, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    weights.save(path, {k: {"backbone": v} for k, v in zeros(shapes).items()})


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A folder with a tree and with all weights that `recipe` reads."""
    folder = tmp_path_factory.mktemp("good")
    write_tree(folder / "voc")
    settings = recipe(folder)
    write_encoder(folder / "encoder.safetensors", settings.segmenter.model)
    for side in ("a", "b"):
        own = settings[f"cam_{side}"].copy_and_resolve_references()
        own.classes = "voc"
        state = jax.eval_shape(train.METHODS[own.method](own).init, jax.random.key(0))
        weights.save(folder / f"cam_{side}" / weights.FILE, zeros(state.variables()))
    return folder


@pytest.fixture
def folder(good, tmp_path):
    """A copy to plant something wrong in."""
    shutil.copytree(good, tmp_path / "copy")
    return tmp_path / "copy"


def recipe(folder, **overrides):
    """The whole chain on the tree: finished classifiers, MARS, masks, one arm; nothing is amiss."""
    c = config.load(f"{ROOT}/configs/quickstart.py:tiny")
    with c.unlocked():
        c.classes, c.segmenter_encoder, c.arms = "voc", "weights", ("S",)
        c.data.kind, c.data.root = "voc", str(folder / "voc")
        c.data.train, c.data.test = "train_aug", "val"
        c.given.cam_a, c.given.cam_b = str(folder / "cam_a"), str(folder / "cam_b")
        c.given.proposals = str(folder / "voc/masks")
        c.finish_b, c.refine = ("mars",), ("sam",)
        c.select.quota_spec = QUOTA
        c.mars = type(c)({
            "debias": config.load(f"{ROOT}/configs/refine_voc_mars.py:efficientnet_lite0"),
            "segmenter": config.load(f"{ROOT}/configs/semi_voc_mars.py:efficientnet_lite0")})
        for own in (c.mars.debias, c.mars.segmenter, c.segmenter):
            with own.unlocked():
                own.model.encoder, own.model.output_stride = "small_cnn", 8
                own.model.encoder_weights = str(folder / "encoder.safetensors")
        with c.mars.segmenter.unlocked():
            c.mars.segmenter.model.head_width = 16
    for name, text in overrides.items():
        config.override(c, name.replace("__", "."), text)
    return c


def told(settings, capsys):
    """(lines that are not ok, message of the error)."""
    message = ""
    try:
        check.run(settings)
    except ValueError as error:
        message = str(error)
    lines = capsys.readouterr().out.splitlines()
    assert all(line.split()[0] in ("ok", "PROBLEM", "warning") for line in lines)
    assert len([n for n in lines if n[:7] == "PROBLEM"]) == int((message or "0").split()[0])
    return [line for line in lines if not line.startswith("ok")], message


def test_good_inputs_are_told_with_their_numbers(good, capsys):
    check.run(recipe(good, arms="S,T,Tall,ALL"))
    out = capsys.readouterr().out
    assert "PROBLEM" not in out
    for text in ("train photos: list train_aug: 6; 6 of them decoded with their masks",
                 "warning  train photos: list train_aug: 6 photos; VOC's train_aug has 10,582",
                 "test photos: list val: 3;", "tags: list train_aug: 1.00 classes a photo",
                 "true masks: 6 of 6 training photos, 3 of 3 test photos",
                 "quota 3 in all, of 2 classes", "proposals: " + str(good / "voc/masks"),
                 "9 files; 6 of them opened", "fits eps on small_cnn",
                 "encoder of MARS's segmenter: ", "encoder of the segmenter: ",
                 "training of arm S: unimatch_v2, 4 steps, 16 + 16 photos each (2 devices x 8)",
                 "training of arm ALL: supervised, 4 steps, 16 photos each (2 devices x 8)"):
        assert text in out, text


def test_all_problems_are_told_at_once(folder, capsys):
    root = folder / "voc"
    (root / "JPEGImages" / f"{TRAIN[0]}.jpg").unlink()
    (root / "JPEGImages" / f"{TEST[0]}.jpg").write_bytes(b"\xff\xd8\xff broken")
    shutil.rmtree(folder / "cam_a")
    (folder / "encoder.safetensors").write_bytes(b"no weights")
    lines, message = told(recipe(folder, refine="sam,cfr", finish_a="crff", select__score="best",
                                 select__min_iou="2", arms="S,X", saliency__source="mdb",
                                 submission__ids=str(root / "val.txt"), merge__merge="max"),
                          capsys)
    for what, text in (("recipe", "config.refine 'cfr' is unknown"),
                       ("recipe", "config.finish_a 'crff' is unknown; did you mean 'crf'?"),
                       ("recipe", "config.arms 'X' is unknown"),
                       ("recipe", "config.saliency.source 'mdb' is unknown; did you mean 'mbd'?"),
                       ("data set", f"id '{TRAIN[0]}' of train_aug has no photo; want JPEGImages/"),
                       ("test photos", f"{TEST[0]}.jpg: broken JPEG file"),
                       ("selection", "config.select.score 'best' is unknown"),
                       ("selection", "config.select.min_iou=2.0: want a fraction below 1"),
                       ("submission", "config.submission.photos is empty")):
        assert any(n.startswith(f"PROBLEM  {what}: ") and text in n for n in lines), (what, lines)
    assert message.endswith("problems in the inputs, told above; nothing was run")


def test_weights_that_do_not_fit_are_told_one_by_one(folder, capsys):
    shutil.rmtree(folder / "cam_a")
    (folder / "encoder.safetensors").write_bytes(b"no weights")
    flat = weights.load(folder / "cam_b")
    name = next(n for n in flat if n.endswith("head/kernel"))
    weights.save(folder / "cam_b" / weights.FILE, {**flat, name: flat[name][..., :8]})
    lines, message = told(recipe(folder), capsys)
    lines = [line for line in lines if line.startswith("PROBLEM")]
    assert message.startswith("5 problems") and len(lines) == 5
    assert lines[0].startswith(f"PROBLEM  weights of cam_a: {folder}/cam_a: no such weights; ")
    assert lines[0].endswith(check_weights.SOURCES)
    assert f"{name} gives 8 maps, the 20 classes of 'voc' want 21" in lines[1]
    for line, what in zip(lines[2:], ("features of MARS", "MARS's segmenter", "the segmenter"),
                          strict=True):
        assert what in line and "damaged, or no safetensors file" in line


def test_weights_of_another_network_are_named(good, tmp_path):
    model = recipe(good).segmenter.model
    with model.unlocked():
        model.encoder, model.output_stride = "efficientnet_lite0", 16
    write_encoder(tmp_path / "w.safetensors", model)
    with model.unlocked():
        model.encoder, model.output_stride = "small_cnn", 8
        model.encoder_weights = str(tmp_path / "w.safetensors")
    (problem,) = check_weights.encoder("encoder", model).problems
    assert "as encoder 'small_cnn'" in problem
    assert problem.endswith("these look like weights of an EfficientNet")


def test_a_finished_folder_takes_the_place_of_what_makes_it(folder, capsys):
    shutil.rmtree(folder / "cam_b")
    shutil.rmtree(folder / "voc/masks")
    own = {"given__proposals": "", "proposals__backend": "felzenszwalb"}
    settings = recipe(folder, **own)
    with settings.unlocked():
        settings.proposals = config.load(f"{ROOT}/configs/propose_sam.py")
        settings.proposals.checkpoint = str(folder / "sam_vit_b_01ec64.pth")
        settings.mars.segmenter.model.encoder_weights = "nowhere"
    lines, message = told(settings, capsys)
    text = "\n".join(lines)
    assert "sam_vit_b_01ec64.pth: no such file; want sam_vit_h_4b8939.pth" in text
    assert "PROBLEM  weights of cam_b" in text and "nowhere: no such weights" in text
    with settings.unlocked():
        settings.given.b_plus = str(folder / "voc/labels")
    lines, message = told(settings, capsys)
    assert not message and not any(line.startswith("PROBLEM") for line in lines)
    with settings.unlocked():
        settings.given.a, settings.given.cam_a = settings.given.b_plus, "not read"
    assert not told(settings, capsys)[1]


def test_a_checkpoint_is_held_against_the_hash_in_its_name(tmp_path):
    settings = config.load(f"{ROOT}/configs/propose_sam.py")
    settings.checkpoint = str(tmp_path / "sam_vit_b_01ec64.pth")
    pathlib.Path(settings.checkpoint).write_bytes(b"cut off")
    first, packages = check_weights.sam(settings)
    assert "7 bytes, whose MD5 begins with" in first.problems[0]
    assert first.problems[0].endswith("not with 01ec64 as its name says; fetch it again")
    there = all(importlib.util.find_spec(n) for n in ("torch", "torchvision", "segment_anything"))
    assert there or packages.problems[0].startswith("segment_anything") or "torch" in str(packages)
    settings.checkpoint = str(tmp_path / "own.pth")
    pathlib.Path(settings.checkpoint).write_bytes(b"x" * 2048)
    first, _ = check_weights.sam(settings)
    assert first.found == "2.0 kB" and "no MD5 to compare" in first.warnings[0]


@pytest.mark.parametrize("plant, what, text", [
    (lambda r: (r / "val.txt").unlink(), "data set", "no list of split val"),
    (lambda r: (r / "train_aug.txt").write_text("a b c\n"), "data set", "train_aug.txt, line 1"),
    (lambda r: (r / "tags.csv").write_text(f"id,tags\n{TRAIN[0]},cow\n"), "data set",
     f"no tags for id '{TRAIN[1]}' of train_aug"),
    (lambda r: (r / "tags.csv").write_text("id,tags\nx,kow\n"), "data set",
     "unknown class 'kow'; did you mean cow"),
    (lambda r: label_map.write(r / f"SegmentationClassAug/{TRAIN[2]}.png",
                               np.zeros((7, 9), np.uint8)), "train photos",
     "label map of 7 x 9; its image has 40 x 48"),
    (lambda r: label_map.write(r / f"SegmentationClassAug/{TEST[2]}.png",
                               np.full(SIZE, 99, np.uint8)), "test photos", "value 99 at row 0"),
    (lambda r: (r / f"SegmentationClassAug/{TRAIN[3]}.png").unlink(), "true masks",
     f"1 photo ({TRAIN[3]}) of training without; T learns from them"),
    (lambda r: (r / f"saliency/{TRAIN[1]}.png").unlink(), "saliency",
     f"1 photo ({TRAIN[1]}) without a map; cam_b learns from them"),
])
def test_a_problem_of_the_data_set_has_its_line(folder, plant, what, text):
    plant(folder / "voc")
    wanted = check_data.Wanted(True, ("T",), "cam_b")
    _, found = check_data.data_set(recipe(folder), wanted)
    problems = [(one.what, problem) for one in found for problem in one.problems]
    assert problems and all(name == what for name, _ in problems)
    assert any(text in problem for _, problem in problems), problems


def test_both_lists_and_all_their_photos_are_told(folder):
    shutil.rmtree(folder / "voc/JPEGImages")
    (folder / "voc/tags.csv").unlink()
    _, found = check_data.data_set(recipe(folder), check_data.Wanted(True, (), ""))
    assert len(found[0].problems) == len(IDS)
    assert len(Finding("x", problems=tuple("ab" * 20)).lines()) == 21
    for name in ("train_aug", "val"):
        (folder / f"voc/{name}.txt").unlink()
    data, found = check_data.data_set(recipe(folder), check_data.Wanted(True, (), ""))
    assert data.train is None and len(found[0].problems) == 2
    missing = recipe(folder, data__root=str(folder / "gone"))
    (problem,) = check_data.data_set(missing, check_data.Wanted(True, (), ""))[1][0].problems
    assert problem == f"{folder}/gone: no such folder; --config.data.root names another"


def test_photos_in_both_lists_and_other_class_names_are_warnings(folder, tmp_path):
    (folder / "voc/val.txt").write_text("\n".join(IDS[4:]))
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    settings = recipe(folder, classes=str(tmp_path / "names.txt"))
    _, found = check_data.data_set(settings, check_data.Wanted(True, (), ""))
    assert not any(one.problems for one in found)
    names, both = found[0].warnings
    assert "names 2 classes, the data set has 20" in names
    assert both.startswith(f"2 photos ({IDS[4]}, {IDS[5]}) in both lists")


@pytest.mark.parametrize("plant, text", [
    (lambda f: (f / f"{TRAIN[1]}.png").unlink(), "has nothing for '2007_000001' (1 of 6 ids"),
    (lambda f: label_map.write(f / f"{TRAIN[5]}.png", np.zeros((9, 9), np.uint8)), "of 9 x 9"),
    (lambda f: label_map.write(f / f"{TRAIN[0]}.png", np.full(SIZE, 21, np.uint8)), "value 21"),
    (lambda f: (f / f"{TRAIN[3]}.png").write_bytes(b"\x89PNG"), "not a PNG file"),
    (shutil.rmtree, "no such folder of label maps"),
])
def test_a_problem_of_finished_labels_has_its_line(folder, plant, text):
    data, _ = check_data.data_set(recipe(folder), check_data.Wanted(True, (), ""))
    labels = folder / "voc/labels"
    assert not check_data.given_labels("labels A", str(labels), data).problems
    plant(labels)
    (problem,) = check_data.given_labels("labels A", str(labels), data).problems
    assert text in problem


@pytest.mark.parametrize("plant, text", [
    (lambda f: (f / f"{TRAIN[1]}.json.gz").unlink(), "has nothing for '2007_000001' (1 of 6 ids"),
    (lambda f: proposals.write(f / f"{TRAIN[0]}.json.gz", (9, 8), [], {}),
     "masks of 9 x 8 pixels; its photo has 40 x 48"),
    (lambda f: (f / f"{TRAIN[2]}.json.gz").write_bytes(gzip.compress(b"{")), "2007_000002.json.gz"),
    (shutil.rmtree, "no such folder, or no *.json.gz in it"),
])
def test_a_problem_of_finished_masks_has_its_line(folder, plant, text):
    data, _ = check_data.data_set(recipe(folder), check_data.Wanted(True, (), ""))
    masks = folder / "voc/masks"
    assert not check_data.given_proposals(str(masks), data).problems
    plant(masks)
    (problem,) = check_data.given_proposals(str(masks), data).problems
    assert text in problem


def test_the_list_of_arm_l_and_the_archive_are_looked_at(folder):
    settings = recipe(folder, arms="S,L")
    data, _ = check_data.data_set(settings, check_data.Wanted(True, (), ""))
    assert "config.listed is empty" in check_data.listed(settings, data)[0].problems[0]
    (folder / "ids.txt").write_text(f"{TRAIN[0]}\n{TEST[0]}\n")
    settings.listed = settings.submission.ids = str(folder / "ids.txt")
    settings.submission.photos = str(folder / "voc/JPEGImages")
    (problem,) = check_data.listed(settings, data)[0].problems
    assert "has nothing for '2007_000006' (1 of 2" in problem
    (found,) = check_data.archive(settings, data)
    assert not found.problems and found.warnings[0].endswith("VOC's test has 1,456")
    (folder / f"voc/JPEGImages/{TEST[0]}.jpg").unlink()
    settings.submission.challenge = "comp7"
    (found,) = check_data.archive(settings, data._replace(classes=VOC_CLASSES[:4]))
    assert [p.split()[0] for p in found.problems] == [
        "config.submission.challenge", "VOC's", f"{folder}/voc/JPEGImages:"]


def test_quotas_of_other_classes_and_of_too_few_photos(good, tmp_path, capsys):
    data, _ = check_data.data_set(recipe(good), check_data.Wanted(True, (), ""))
    found = check._selection(recipe(good, select__quota_spec="voc/92"), data)
    assert not found.problems and "cat 3 of 9, " not in found.warnings[0]
    assert "wants more photos than are tagged: aeroplane 0 of 5" in found.warnings[0]
    for spec, text in (("voc/93", "'voc/93' is unknown; did you mean 'voc/92'"),
                       ("none", "takes all; give a quota"), ('{"kat": 1}', "'kat' is unknown")):
        found = check._selection(recipe(good, select__quota_spec=spec), data)
        assert found.problems[0].startswith(f"config.select.quota_spec={spec}: ")
        assert text in found.problems[0], found
    empty = recipe(good, select__quota_spec="")
    (problem,) = check._settings(empty, tmp_path).problems + check._selection(empty, data).problems
    assert problem.startswith("config.select.quota_spec is empty: want trusted images per class")
    found = check._selection(recipe(good, select__quota_spec="voc/92"),
                             data._replace(classes=("background", "cat", "dog")))
    assert "the class 'aeroplane' is unknown" in found.problems[0]


def test_what_a_training_would_refuse_is_told(good, tmp_path):
    data = check_data.Data(VOC_CLASSES, "voc", None, None, 100)
    for name in ("labeled", "unlabeled"):
        (tmp_path / f"{name}.txt").write_text("".join(f"{i}.jpg {i}.png\n" for i in range(100)))
    own = recipe(good).segmenter
    with own.unlocked():
        own.total_steps, own.total_epochs, own.device_batch, own.accumulate = 0, 3, 2, 2
    found = check_weights.training("arm S", own, data, tmp_path, semi=True, most=True)
    assert found.found == ("unimatch_v2, 36 steps at most, 8 + 8 photos each "
                           "(2 devices x 2 groups x 2)")
    with own.unlocked():
        own.save_steps = 3
    assert "want a multiple of config.log_steps" in check_weights.training(
        "arm S", own, data, tmp_path).problems[0]
    own = recipe(good).cam_a
    with own.unlocked():
        own.method, own.model.encoder = "cem", "resnet38"
    assert "'cem' is unknown; did you mean 'cam'" in check_weights.training(
        "cam_a", own, data, tmp_path).problems[0]
    (found,) = check_weights.start("cam_a", own, data)
    assert "'resnet38' cannot start random" in found.problems[0]


def test_a_sample_has_both_ends():
    assert spread(range(1000))[:2] == [0, 5] and spread(range(1000))[-1] == 999
    assert len(spread(range(1000))) == 202 and spread([7]) == [7] and spread([]) == []


def test_exit_codes(monkeypatch, capsys):
    command = ["-m", "wsssjax.train", "--config=configs/quickstart.py:tiny", "--config.check=true"]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["train", *command[2:]])
    with pytest.raises(SystemExit) as ended:
        cli.run(train.main)
    assert ended.value.code == 0 and "PROBLEM" not in capsys.readouterr().out
    done = subprocess.run([sys.executable, *command, "--config.pair=A,C", "--config.arms=X"],
                          cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True,
                          text=True, timeout=300)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert done.stderr == "error: 2 problems in the inputs, told above; nothing was run\n"
    assert done.stdout.count("PROBLEM") == 2
