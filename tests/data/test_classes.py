"""The class tables, and what reads them where class 0 is no background."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wsssjax.core import config as configs
from wsssjax.data import classes, label_map
from wsssjax.data.classes_ade20k import ADE20K_CLASSES
from wsssjax.evaluate.__main__ import run as evaluate
from wsssjax.semi import student

CONFIG = pathlib.Path(__file__).parents[2] / "configs/semi_voc_supervised.py"
# (official number, name) of ADE20K, spread over the list, both ends and each near-synonym included.
ADE20K = {1: "wall", 13: "person", 15: "door", 16: "table", 21: "car", 32: "seat", 54: "stairs",
          59: "screen door", 60: "stairway", 64: "blind", 65: "coffee table", 83: "light",
          88: "streetlight", 90: "television", 95: "land", 100: "buffet", 122: "step",
          131: "screen", 137: "traffic light", 142: "crt screen", 144: "monitor", 150: "flag"}


@pytest.mark.parametrize("name, count", [("voc", 21), ("coco", 81), ("cityscapes", 19),
                                         ("ade20k", 150)])
def test_tables_have_their_length_and_pass_the_rules_for_names(name, count):
    names = classes.read_class_names(name)
    assert len(names) == count
    assert classes.check_class_names(list(names), name) == names
    assert all(text == text.strip() and text for text in names)


def test_orders_are_the_official_ones():
    assert {number: ADE20K_CLASSES[number - 1] for number in ADE20K} == ADE20K
    names = classes.read_class_names("cityscapes")
    assert (names[0], names[10], names[11], names[18]) == ("road", "sky", "person", "bicycle")


def test_files_of_names_still_get_a_background(tmp_path):
    (tmp_path / "ade20k.txt").write_text("wall\nbuilding\n")
    assert classes.read_class_names(tmp_path / "ade20k.txt") == ("background", "wall", "building")


def test_a_task_on_tags_says_that_it_needs_a_background():
    classes.need_background(classes.read_class_names("voc"), "--classes=voc")
    with pytest.raises(ValueError, match="--classes=cityscapes: class 0 of these 19 classes is "
                                         "'road', not 'background'"):
        classes.need_background(classes.read_class_names("cityscapes"), "--classes=cityscapes")


@pytest.mark.parametrize("name", ["cityscapes", "ade20k"])
def test_evaluate_scores_class_0_like_the_others(tmp_path, name):
    names = classes.read_class_names(name)
    rng = np.random.default_rng(0)
    k = len(names)
    truth = rng.integers(0, k, (3, 40, 50), dtype=np.uint8)
    label = np.where(rng.random(truth.shape) < 0.5, truth, 0).astype(np.uint8)
    truth[:, :3] = 255
    for i in range(3):
        label_map.write(tmp_path / "truth" / f"{i}.png", truth[i])
        label_map.write(tmp_path / "label" / f"{i}.png", label[i])
    found = evaluate(labels=str(tmp_path / "label"), truth=str(tmp_path / "truth"), classes=name,
                     progress=False)
    known = truth != 255
    want = {name: (known & (truth == i) & (label == i)).sum()
            / (known & ((truth == i) | (label == i))).sum() for i, name in enumerate(names)}
    assert found["iou"] == pytest.approx(want) and found["absent"] == []
    assert found["miou"] == pytest.approx(np.mean(list(want.values())))


def test_a_segmenter_has_one_output_per_class():
    config = configs.load(CONFIG, {"model.encoder": "small_cnn", "model.output_stride": "8",
                                   "classes": "ade20k"})
    shapes = jax.eval_shape(
        lambda key, x: student.build_model(config).init_with_output(key, x, train=False)[0][0],
        jax.random.key(0), jnp.zeros((1, 64, 96, 3)))
    assert shapes.shape == (1, 64, 96, 150)
