"""The recipe on one's own photos, of which nothing but tags is known: no masks, no lists."""

import json
import re

import numpy as np
import photo_trees
import pytest
from PIL import Image


def run(root, workdir, *flags):
    return photo_trees.train("--config=configs/paper_folder.py:tiny", f"--workdir={workdir}",
                             f"--config.data.root={root}",
                             f"--config.classes={root / 'classes.txt'}", *flags)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("own") / "photos"
    photo_trees.own(root, 12)
    return root


def test_without_any_mask_there_are_labels_a_segmenter_and_a_report(photos, tmp_path):
    code, out, err = run(photos, tmp_path, "--config.data.test=train",
                         '--config.select.quota_spec={"cat": 1, "boat": 2}')
    assert code == 0, err[-3000:]
    names = sorted(path.stem for path in (photos / "images").iterdir())
    for step in ("labels_a", "labels_b_plus", "test_s"):
        assert sorted(path.stem for path in (tmp_path / step).glob("*.png")) == names
    for name in names:
        with Image.open(photos / f"images/{name}.jpg") as photo:
            assert np.asarray(Image.open(tmp_path / f"test_s/{name}.png")).shape == photo.size[::-1]
    assert (tmp_path / "arm_s/weights.safetensors").is_file()

    results = json.loads((tmp_path / "results.json").read_text())
    assert results["images"] == {"train": 12, "test": 12}
    assert set(results["labels"]["B+"]) == {"method", "supervision"}
    assert "miou" not in results["arms"]["S"] and "histogram" not in results
    assert not [key for key in results["selection"] if key.endswith("_miou")]
    assert results["classes"] == list(photo_trees.SHAPES_CLASSES)

    page = (tmp_path / "report.html").read_text()
    shown = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)
    for text in (out, shown):
        flat = " ".join(text.split())
        assert "Not scored: that takes true masks of test images." in flat
        assert "true masks of all training images" in flat
        assert "mIoU %" not in flat and "nan" not in flat.lower().split()
    assert f"report: {tmp_path / 'report.html'}" in out
    assert not re.search(r">truth<", shown)  # no empty column of the gallery


def test_a_missing_test_list_is_told_with_the_cure(photos, tmp_path):
    code, _, err = run(photos, tmp_path, '--config.select.quota_spec={"cat": 1}')
    assert code == 1 and len(err.strip().splitlines()) == 1
    assert "no list of split test" in err and "--config.data.test=train" in err
