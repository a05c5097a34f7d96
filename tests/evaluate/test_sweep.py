"""The sweep over background scores: equal to scoring label maps one by one, rules, bad files."""

import json
import types

import numpy as np
import pytest

from wsssjax.cam import infer
from wsssjax.core import metrics
from wsssjax.data import cam_file, label_map
from wsssjax.evaluate import miou, sweep
from wsssjax.evaluate.__main__ import main, run

NAMES = ("background", "cat", "dog", "train")
SIZES = {"a": (9, 12), "b": (7, 5), "c": (8, 8), "d": (6, 10)}


def write_photo(folder, name, rng, classes, size=None):
    """A CAM file at half the photo's size with many equal values, and a truth with open pixels."""
    size = size or SIZES[name]
    small = [-(-side // 2) for side in size]
    maps = rng.choice([0, 0.25, 0.5, 0.5, 0.75, 1], (len(classes), *small))
    cam_file.write(folder / "cams" / f"{name}.npz", classes, maps, size)
    label_map.write(folder / "truth" / f"{name}.png",
                    rng.choice([0, 1, 2, 3, 255], size).astype(np.uint8))


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "cams").mkdir()
    for name, classes in (("a", [1]), ("b", [1, 3]), ("c", []), ("d", [1, 2, 3])):
        write_photo(tmp_path, name, rng, classes)
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    return tmp_path


def options(folder, **changes):
    return {"cams": str(folder / "cams"), "truth": str(folder / "truth"),
            "classes": str(folder / "names.txt"), "metrics_wanted": ("sweep",), **changes}


def labels_at(folder, name, threshold):
    """The label map that the classifier's own command writes at that threshold."""
    classes, maps = cam_file.read_full(folder / "cams" / f"{name}.npz", SIZES[name])
    settings = types.SimpleNamespace(background="threshold", threshold=threshold)
    return infer.label_map(infer.Maps(classes, maps), settings)


def test_every_threshold_equals_scoring_its_label_maps(folder):
    text = "0:1:0.0625"  # grid points that the maps' values fall on: ties are background
    counts = sweep.folder_counts(folder / "cams", folder / "truth", list(SIZES),
                                 sweep.parse_thresholds(text), 4)
    got = run(**options(folder, thresholds=text))["sweep"]
    assert got["thresholds"][4] == 0.25 and len(got["thresholds"]) == 17
    for i, threshold in enumerate(got["thresholds"]):
        want = np.zeros((4, 5), np.int64)
        for name in SIZES:
            truth_hw = label_map.read(folder / "truth" / f"{name}.png", 4)
            want += metrics.confusion(labels_at(folder, name, threshold), truth_hw, 4)
        np.testing.assert_array_equal(sweep.confusions(counts)[i], want)
        scores = metrics.scores(want, NAMES)
        for key in ("miou", "fp", "fn"):
            assert got[key][i] == scores[key]
        for key in ("precision", "recall"):
            assert got[key][i] == np.mean(list(scores[key].values()))
        assert got["miou"][i] + got["fp"][i] + got["fn"][i] == pytest.approx(1, abs=1e-12)
    best = int(np.argmax(got["miou"]))
    assert got["best"]["threshold"] == got["thresholds"][best]
    assert got["best"]["miou"] == got["miou"][best] and set(got["best"]["iou"]) <= set(NAMES)
    assert len(set(got["miou"])) > 3  # the curve moves


def test_by_hand():
    """Four pixels: cat 0.6 is cat, cat 0.6 is background, dog 0.3 is dog, an open one."""
    truth = np.array([[1, 0, 2, 255]], np.uint8)
    maps = np.float32([[[0.6, 0.6, 0.1, 1]], [[0.2, 0.2, 0.3, 0]]])
    thresholds = sweep.parse_thresholds("0:0.6:0.3")
    counts = sweep.count_values(np.uint8([1, 2]), maps, truth, thresholds, 3)
    total = np.zeros((3, 3, 4), np.int64)
    total[:, [1, 2]] = counts
    got = sweep.scores(total, thresholds, NAMES[:3])
    # 0: cat 1 of 2, dog 1 of 1, background 0 of 1.  0.3: dog 0.3 is not above it, so background
    # is 0 of 2 and dog 0 of 1.  0.6: all is background, 1 of 3.
    assert got["miou"] == pytest.approx([(0 + 1 / 2 + 1) / 3, (0 + 1 / 2 + 0) / 3, 1 / 9])
    assert got["fp"] == pytest.approx([(0 + 1 / 2 + 0) / 3, (1 / 2 + 1 / 2 + 0) / 3, 2 / 9])
    assert got["fn"] == pytest.approx([1 / 3, (1 / 2 + 0 + 1) / 3, 2 / 3])
    assert got["precision"] == pytest.approx([(1 / 2 + 1) / 2, (0 + 1 / 2) / 2, 1 / 3])
    assert got["recall"] == pytest.approx([(0 + 1 + 1) / 3, (0 + 1 + 0) / 3, 1 / 3])
    assert got["best"]["threshold"] == 0 and got["best"]["accuracy"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("curve, full, decrease, non_increase", [
    ([1, 3, 2, 5], 4, 3, 3),
    ([1, 2, 2, 3], 4, 4, 3),
    ([2, 2, 1, 3], 4, 3, 2),
    ([1, 2, 3], 3, 3, 3),
    ([3], 1, 1, 1),
])
def test_when_scripts_stop(curve, full, decrease, non_increase):
    tried = {name: rule(np.array(curve)) for name, rule in sweep.STOPS.items()}
    assert tried == {"full": full, "first_decrease": decrease, "first_non_increase": non_increase}


def test_the_best_is_one_that_the_rule_tries(folder):
    counts = np.zeros((2, 2, 5), np.int64)
    # Pixels by value: (true class, painted, thresholds below), so that mIoU falls and rises.
    counts[1, 1, 4], counts[1, 1, 1], counts[0, 1, 2] = 10, 6, 9
    thresholds = sweep.parse_thresholds("0.2:0.8:0.2")
    full = sweep.scores(counts, thresholds, NAMES[:2])
    early = sweep.scores(counts, thresholds, NAMES[:2], stop="first_decrease")
    assert full["miou"] == early["miou"] and full["miou"][1] < full["miou"][0] < full["miou"][2]
    assert (full["best"]["threshold"], full["tried"]) == (0.6, 4)
    assert (early["best"]["threshold"], early["tried"], early["stop"]) == (0.2, 2, "first_decrease")
    assert full["miou"][2] == full["miou"][3]  # of equal ones the first


@pytest.mark.parametrize("text, count, last", [
    ("0:1:0.01", 101, 1.0), ("0.1:0.7:0.2", 4, 0.7), ("0.3:0.3:1", 1, 0.3),
    ("0:0.59:0.01", 60, 0.59), ("0:1:0.3", 4, 0.9)])
def test_thresholds(text, count, last):
    got = sweep.parse_thresholds(text)
    assert len(got) == count and got[-1] == last


@pytest.mark.parametrize("text", ["", "0:1", "0:1:0", "0:1:-1", "-0.1:1:0.1", "0:1.1:0.1", "1:0:.1",
                                  "a:b:c", "0:1:nan", "nan:1:0.1", "0:1:0.1:0", "0:1:inf"])
def test_thresholds_that_are_none(text):
    with pytest.raises(ValueError, match=r"--thresholds=.*: want FIRST:LAST:STEP within 0..1"):
        sweep.parse_thresholds(text)


def test_too_many_thresholds():
    with pytest.raises(ValueError, match="more than 10001 thresholds; take a larger step"):
        sweep.parse_thresholds("0:1:1e-9")


def _scored_background(folder):
    cam_file.write(folder / "cams" / "b.npz", [0, 1], np.zeros((2, 3, 3)), SIZES["b"])


def _class_beyond(folder):
    cam_file.write(folder / "cams" / "b.npz", [1, 7], np.zeros((2, 3, 3)), SIZES["b"])


def _other_size(folder):
    cam_file.write(folder / "cams" / "b.npz", [1], np.zeros((1, 3, 3)), (9, 9))


def _cut_off(folder):
    path = folder / "cams" / "b.npz"
    path.write_bytes(path.read_bytes()[:-30])


BROKEN = {
    _scored_background: r"b.npz: scores the background itself \(class 0\), so no threshold decides",
    _class_beyond: r"b.npz: a map of class 7; want 1..3 \(is --classes right\?\)",
    _other_size: "b.npz: made for a photo of 9 x 9; the photo has 7 x 5",
    _cut_off: "b.npz: no CAM file",
    lambda f: (f / "truth" / "c.png").unlink(): r"truth: holds no label map of 'c' \(1 of 4 ids",
    lambda f: [p.unlink() for p in (f / "cams").iterdir()]: "cams: holds no CAM file; want",
}


@pytest.mark.parametrize("spoil", BROKEN, ids=["background", "class", "size", "cut", "truth",
                                               "empty"])
def test_files_that_do_not_fit_are_named(folder, spoil):
    spoil(folder)
    with pytest.raises(ValueError, match=BROKEN[spoil]) as caught:
        run(**options(folder))
    assert "\n" not in str(caught.value)


BOTH = {"labels": "truth", "metrics_wanted": ("miou", "sweep")}


@pytest.mark.parametrize("changes, message", [
    ({"ids": ["a", "x"]}, r"cams: holds no CAM file of 'x' \(1 of 2 ids missing\)"),
    ({"cams": None}, "--metrics=sweep: needs --cams=DIR"),
    ({"cams": "none"}, "none: no such folder of CAM files"),
    ({"metrics_wanted": ("miou", "sweep")}, "--metrics=miou: needs --labels=DIR"),
    ({"stop": "first_decreased", **BOTH}, "--stop 'first_decreased' is unknown; did you mean 'f"),
    ({"thresholds": "0:2:1", **BOTH}, "--thresholds=0:2:1: want FIRST:LAST:STEP within 0..1"),
    ({"classes": "cityscapes", **BOTH}, "--metrics=sweep: class 0 of these 19 classes is 'road'"),
    ({**BOTH, "metrics_wanted": ("miou",)}, "--cams: is for sweep; add it to --metrics=miou, or"),
    ({**BOTH, "metrics_wanted": ("miou",), "cams": None, "stop": "full"}, "--stop: is for sweep;"),
    ({"context": "c"}, "--context: is for confusion; add it to --metrics=sweep, or leave"),
])
def test_bad_options_are_named_before_anything_is_read(folder, changes, message, monkeypatch):
    monkeypatch.setattr(sweep, "folder_counts", None)
    monkeypatch.setattr(miou, "folder_confusions", None)
    monkeypatch.chdir(folder)
    with pytest.raises((ValueError, OSError), match=message):
        run(**options(folder, **changes))


def test_the_command(folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    flags = [f"--cams={folder}/cams", f"--truth={folder}/truth", f"--classes={folder}/names.txt"]
    main([*flags, "--thresholds=0:1:0.25", f"--json={folder}/sweep.json"])
    printed = capsys.readouterr().out
    found = json.loads((folder / "sweep.json").read_text())
    assert found["images"] == 4 and found["sweep"]["thresholds"] == [0, 0.25, 0.5, 0.75, 1]
    best = found["sweep"]["best"]
    assert f"mIoU {100 * best['miou']:.2f} % at the threshold {best['threshold']:g}" in printed
    for value in found["sweep"]["recall"]:
        assert f"{100 * value:.2f}" in printed
    # Label maps of the best threshold beside the sweep: the same score, in one call.
    for name in SIZES:
        label_map.write(folder / "labels" / f"{name}.png",
                        labels_at(folder, name, best["threshold"]))
    both = run(**options(folder, labels=str(folder / "labels"), thresholds="0:1:0.25",
                         metrics_wanted=("miou", "sweep")))
    assert both["miou"] == both["sweep"]["best"]["miou"]
