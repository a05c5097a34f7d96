"""The paper's recipe on COCO, whole, on a small tree of COCO 2014's shape."""

import json

import numpy as np
import photo_trees
import pytest
from PIL import Image

from wsssjax.data.classes import COCO_CLASSES


def run(root, workdir, *flags):
    return photo_trees.train("--config=configs/paper_coco.py:tiny", f"--config.data.root={root}",
                             f"--workdir={workdir}", *flags)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(tree, classes of each photo, folder of the finished run)."""
    root = tmp_path_factory.mktemp("coco") / "coco"
    known = photo_trees.coco(root, train=12, val=5)
    code, out, err = run(root, root.parent / "run", "--config.segmenter_tags=true")
    assert code == 0, err[-3000:]
    return root, known, root.parent / "run"


def test_labels_are_of_the_tags_that_the_instances_file_names(whole):
    root, known, workdir = whole
    train = sorted(name for name in known if "_train2014_" in name)
    found = set()
    for step in ("labels_a", "labels_b", "labels_b_plus"):
        assert sorted(path.stem for path in (workdir / step).glob("*.png")) == train
        for name in train:
            values = set(np.unique(np.asarray(Image.open(workdir / step / f"{name}.png"))).tolist())
            assert values <= {0, *map(COCO_CLASSES.index, known[name])}, (step, name)
            found |= values
    assert len(found) > 3 and max(found) > 20  # COCO's numbers, beyond VOC's


def test_all_81_classes_are_scored_on_val(whole):
    root, known, workdir = whole
    results = json.loads((workdir / "results.json").read_text())
    assert results["classes"] == list(COCO_CLASSES)
    assert results["images"] == {"train": 12, "test": 5}
    val = sorted(name for name in known if "_val2014_" in name)
    for arm in ("s", "m"):
        assert sorted(path.stem for path in (workdir / f"test_{arm}").glob("*.png")) == val
        assert 0 <= results["arms"][arm.upper()]["miou"] <= 1
    assert 0 < results["arms"]["S"]["labelled"] < 12
    made = json.loads((workdir / "arm_s/config.json").read_text())["config"]["segmenter"]
    assert made["method"] == "unimatch_v2"


def test_the_same_command_again_has_nothing_to_do(whole):
    root, _, workdir = whole
    code, out, err = run(root, workdir, "--config.segmenter_tags=true")
    assert code == 0 and "nothing to do" in out, err[-3000:]
