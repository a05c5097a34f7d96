"""Labels of which classes or pixels are kept: by hand, against brute force, and by command."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from wsssjax.data import label_map
from wsssjax.select import greedy, relabel
from wsssjax.select.run import run

O = 255  # left open


def brute(iou_nk, quota_k, min_iou):
    """{(image, class)} taken: every class goes through all images by falling IoU."""
    taken = set()
    for c in range(iou_nk.shape[1]):
        left = None if quota_k is None else quota_k[c]
        for i in sorted(range(len(iou_nk)), key=lambda i: (-np.nan_to_num(iou_nk[i, c], nan=-1),
                                                           i)):
            value = iou_nk[i, c]
            if np.isnan(value) or (min_iou is not None and not value > min_iou) or left == 0:
                continue
            taken.add((i, c))
            left = None if left is None else left - 1
    return taken


def test_every_class_takes_its_best_labels():
    rng = np.random.default_rng(0)
    for case in range(500):
        n, k = rng.integers(1, 20), rng.integers(1, 6)
        iou_nk = np.round(rng.random((n, k)), 1)  # with ties
        iou_nk[rng.random((n, k)) < 0.5] = np.nan
        quota_k = None if case % 4 == 0 else rng.integers(0, 6, k)
        min_iou = (None, 0.0, 0.4)[case % 3]
        found = relabel.by_class(iou_nk, quota_k, min_iou)
        kept_nk = greedy.unpack(found.filled, k)
        want = brute(iou_nk, quota_k, min_iou)
        assert {(int(i), int(c)) for i, c in zip(*np.nonzero(kept_nk), strict=True)} == want
        assert found.selected.tolist() == [any((i, c) in want for c in range(k)) for i in range(n)]
        assert found.taken.tolist() == found.counts.tolist() == kept_nk.sum(0).tolist()
        assert sorted(found.rank) == list(range(1, n + 1))
        if quota_k is not None:
            assert found.selected.sum() <= quota_k.sum()
            assert (found.unmet == quota_k - found.taken).all()
        taken = found.reason == (greedy.ABOVE if quota_k is None else greedy.QUOTA)
        assert (taken == found.selected).all()
        assert ((found.reason == greedy.NO_CLASS) == np.isnan(iou_nk).all(1)).all()


def test_what_is_kept_by_hand():
    pool_hw = np.array([[0, 1, 2, O], [1, 1, 0, 2]], np.uint8)
    first_hw = np.array([[0, 1, 0, 1], [O, 2, 2, 2]], np.uint8)
    np.testing.assert_array_equal(relabel.kept_classes(pool_hw, first_hw, [True, False]),
                                  [[0, 1, O, O], [1, O, O, O]])
    np.testing.assert_array_equal(relabel.kept_classes(pool_hw, first_hw, [True, True]), pool_hw)
    np.testing.assert_array_equal(relabel.kept_pixels(pool_hw, [first_hw]),
                                  [[0, 1, O, O], [1, O, O, 2]])
    np.testing.assert_array_equal(relabel.kept_pixels(pool_hw, [first_hw, np.full((2, 4), 1)]),
                                  [[O, 1, O, O], [1, O, O, O]])


@pytest.fixture
def folders(tmp_path):
    """a: cat agrees, dog does not; b: dog agrees; c: cat agrees less; d: empty."""
    maps = {"first": {"a": [1, 1, 0, 0], "b": [0, 2, 2, 2], "c": [1, 0, 0, 0], "d": [0] * 4},
            "second": {"a": [1, 1, 2, 2], "b": [0, 2, 2, 2], "c": [1, 1, 0, 0], "d": [0] * 4},
            "third": {"a": [1, 0, 2, 2], "b": [0, 2, 2, O], "c": [1, 1, 0, 0], "d": [0] * 4}}
    for folder, of in maps.items():
        for name, row in of.items():
            label_map.write(tmp_path / folder / f"{name}.png", np.array([row], np.uint8))
    (tmp_path / "names.txt").write_text("background\ncat\ndog\n")
    return tmp_path


def options(root, **changes):
    return {"first": str(root / "first"), "second": str(root / "second"), "out": str(root / "out"),
            "classes": str(root / "names.txt"), "quota_spec": '{"cat": 1, "dog": 1}', **changes}


def row(path):
    return np.array(Image.open(path))[0].tolist()


def test_classes_by_command(folders):
    summary = run(**options(folders, keep="classes"))
    assert summary["selected"] == 2 and summary["counts"] == {"cat": 1, "dog": 1}
    assert label_map.folder_ids(folders / "out/labels") == ["a", "b"]
    assert row(folders / "out/labels/a.png") == [1, 1, O, O]  # the picture of two classes serves
    assert row(folders / "out/labels/b.png") == [0, 2, 2, 2]
    table = pq.read_table(folders / "out/selection.parquet").to_pydict()
    assert table["filled"] == [["cat"], ["dog"], [], []]
    assert table["classes"][0] == ["cat", "dog"] and table["score"] == [1.0, 1.0, 0.5, 0.0]
    assert table["reason"] == ["quota", "quota", "full", "empty"]
    lines = (folders / "out/labeled.txt").read_text().split()
    assert lines[1] == str(folders / "out/labels/a.png")
    assert str(folders / "second/c.png") in (folders / "out/unlabeled.txt").read_text()


def test_pixels_by_command(folders):
    both = run(**options(folders, keep="pixels", quota_spec="none", methods=[folders / "third"]))
    assert both["selected"] == 3
    assert row(folders / "out/labels/a.png") == [1, O, O, O]
    assert row(folders / "out/labels/b.png") == [0, 2, 2, 2]
    assert row(folders / "out/labels/c.png") == [1, O, 0, 0]
    run(**options(folders, keep="pixels", quota_spec='{"dog": 1}'))
    assert label_map.folder_ids(folders / "out/labels") == ["b"]


def test_counts_are_of_the_labels_as_written_and_lost_classes_are_told(folders):
    summary = run(**options(folders, keep="pixels", quota_spec='{"cat": 3, "dog": 2}'))
    assert summary["counts"] == {"cat": 2, "dog": 1}  # a's dog, which the first set denies, is gone
    assert summary["taken"] == {"cat": 2, "dog": 2} and summary["warnings"] == [
        "--keep=pixels: 1 of 3 images lost a class that they filled: nothing of it was kept"]
    assert run(**options(folders, keep="pixels", quota_spec='{"cat": 1}'))["warnings"] == []
    label_map.write(folders / "first/a.png", np.array([[1, 1, 1, 1]], np.uint8))
    told = run(**options(folders, keep="classes", quota_spec='{"dog": 2}'))
    assert told["counts"]["dog"] == 1 and told["warnings"] == [
        "--keep=classes: 1 of 2 images lost a class that they filled: nothing of it was kept"]


@pytest.mark.parametrize("change, message", [
    ({"keep": "class"}, "--keep=class: want one of whole, classes, pixels"),
    ({"keep": "pixels", "out_labels": "copy"}, "--out_labels=copy: --keep=pixels writes labels of"),
    ({"keep": "classes", "score": "classes"}, "--keep=classes: goes by the IoU of each class"),
    ({"keep": "classes", "classes_from": "tags", "tags": "t.csv"}, "--keep=classes: goes by"),
])
def test_what_cannot_be_kept(folders, change, message):
    with pytest.raises(ValueError, match=message):
        run(**options(folders, **change))
    assert not (folders / "out").exists()
