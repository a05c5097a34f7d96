"""Confusion ratio and label statistics by hand, the command, its errors, and real numbers."""

import json
import subprocess
import sys

import numpy as np
import pytest

from wsssjax.core import metrics
from wsssjax.data import label_map
from wsssjax.evaluate import confusion_ratio, label_stats
from wsssjax.evaluate.__main__ import main, run

NAMES = ("background", "cat", "dog", "train")


def random_maps(rng, size=(6, 7)):
    truth = rng.choice([0, 1, 2, 3, 255], size).astype(np.uint8)
    label = np.where(rng.random(size) < 0.6, truth, rng.choice([0, 1, 2, 3, 255], size))
    return label.astype(np.uint8), truth, rng.choice([0, 1, 2, 255], size).astype(np.uint8)


def test_confusion_counts_equal_the_definition():
    rng = np.random.default_rng(0)
    for _ in range(100):
        label, truth, context = random_maps(rng, tuple(rng.integers(1, 6, 2)))
        got = confusion_ratio.count_pairs(label, truth, context, 4, 3)
        known = truth != 255
        for j in range(3):
            for k in range(4):
                false = (context == j) & (label == k) & (truth != k) & known
                true, either = (label == k) & (truth == k), ((label == k) | (truth == k)) & known
                want = [false.sum(), true.sum(), either.sum(), 1]
                if not ((context == j).any() and (truth == k).any()):
                    want = [0] * 4
                assert got[:, j, k].tolist() == want


def test_confusion_ratio_of_a_train_on_its_rails():
    truth, context = np.zeros((4, 10), np.uint8), np.zeros((4, 10), np.uint8)
    truth[1, :5], context[2, :], context[0, 0] = 3, 2, 1
    label = truth.copy()
    label[2, :4] = 3  # four pixels of rails are called train, five of train are right
    rows = confusion_ratio.scores(confusion_ratio.count_pairs(label, truth, context, 4, 3),
                                  ("none", "sky", "rails"), NAMES)
    assert rows == [
        {"context": "rails", "class": "train", "ratio": 0.8, "iou": 5 / 9, "images": 1},
        {"context": "sky", "class": "train", "ratio": 0.0, "iou": 5 / 9, "images": 1}]
    missed = confusion_ratio.scores(confusion_ratio.count_pairs(truth * 0, truth, context, 4, 3),
                                    ("none", "sky", "rails"), NAMES)
    assert [r["ratio"] for r in missed] == [None, None] and missed[0]["iou"] == 0


def test_label_statistics_by_hand():
    truth = np.array([[1, 1, 0, 0]], np.uint8)
    labels = [[[1, 1, 0, 0]], [[1, 2, 0, 0]], [[0, 0, 0, 0]], [[255, 255, 3, 0]]]
    counts = np.stack([metrics.confusion(np.array(v, np.uint8), truth, 4) for v in labels])
    got = label_stats.stats(counts, NAMES)
    assert (got["single_class"], got["empty"]) == (0.5, 0.25)
    assert got["images_per_class"] == {"cat": 2, "dog": 1, "train": 1}
    qualities = [1.0, (0.5 + 0) / 2, 0.0, 0.0]
    assert got["quality"] == np.mean(qualities)
    assert sum(got["histogram"]["counts"]) == 4
    assert got["histogram"]["counts"][-1] == 1  # the perfect one falls into 0.99 … 1
    assert got["histogram"]["counts"][0] == 2 and got["histogram"]["counts"][5] == 1


@pytest.fixture
def folders(tmp_path):
    rng = np.random.default_rng(1)
    for name in "abcd":
        maps = random_maps(rng)
        for folder, map_hw in zip(("labels", "truth", "context"), maps, strict=True):
            label_map.write(tmp_path / folder / f"{name}.png", map_hw)
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    (tmp_path / "scenery.txt").write_text("background\nsky\nrails\n")
    return tmp_path


def options(folders, **changes):
    return {"labels": str(folders / "labels"), "truth": str(folders / "truth"),
            "classes": str(folders / "names.txt"), **changes}


def test_miou_is_that_of_one_confusion_matrix(folders):
    total = sum(metrics.confusion(label_map.read(folders / "labels" / f"{i}.png", 4),
                                  label_map.read(folders / "truth" / f"{i}.png", 4), 4)
                for i in "abcd")
    want = {n: total[k, k] / (total[k].sum() + total[:, k].sum() - total[k, k])
            for k, n in enumerate(NAMES)}
    got = run(**options(folders))
    assert got["iou"] == pytest.approx(want, abs=1e-15) and got["images"] == 4
    assert got["miou"] == pytest.approx(np.mean(list(want.values())), abs=1e-15)


def test_precision_recall_and_accuracy_by_hand(tmp_path):
    label_map.write(tmp_path / "truth/a.png", np.array([[0, 0, 0, 1, 1, 1, 1, 2, 255]], np.uint8))
    label_map.write(tmp_path / "labels/a.png", np.array([[0, 1, 2, 1, 1, 0, 255, 2, 2]], np.uint8))
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    got = run(**options(tmp_path))
    assert got["precision"] == pytest.approx({"background": 1 / 2, "cat": 2 / 3, "dog": 1 / 2})
    assert got["recall"] == pytest.approx({"background": 1 / 3, "cat": 2 / 4, "dog": 1})
    assert got["iou"] == pytest.approx({"background": 1 / 4, "cat": 2 / 5, "dog": 1 / 2})
    assert got["accuracy"] == 4 / 8 and got["absent"] == ["train"]
    assert got["fp"] == pytest.approx((1 / 4 + 1 / 5 + 1 / 2) / 3)
    assert got["fn"] == pytest.approx((2 / 4 + 2 / 5 + 0) / 3)


def test_truth_against_itself_scores_one(folders):
    got = run(**options(folders, labels=str(folders / "truth"), metrics_wanted=("miou", "stats")))
    assert got["miou"] == got["accuracy"] == got["stats"]["quality"] == 1.0


def test_absent_classes_are_named_or_counted_as_zero(folders):
    names = folders / "more.txt"
    names.write_text("\n".join([*NAMES, "zebra"]))
    skip = run(**options(folders, classes=str(names)))
    zero = run(**options(folders, classes=str(names), absent="zero"))
    assert skip["absent"] == zero["absent"] == ["zebra"]
    assert zero["miou"] == pytest.approx(skip["miou"] * 4 / 5) and "zebra" not in skip["iou"]


@pytest.mark.parametrize("changes, message", [
    ({"metrics_wanted": ("miuo",)}, "--metrics: 'miuo' is unknown; there are miou, boundary"),
    ({"metrics_wanted": ()}, "--metrics: names none"),
    ({"metrics_wanted": ("confusion",)}, "needs --context=DIR and --context_classes=FILE"),
    ({"absent": "ignore"}, "--absent=ignore: want skip or zero"),
    ({"ids": ["a", "x", "y"]}, r"labels: holds no label map of 'x' \(2 of 3 ids missing\)"),
])
def test_bad_options_are_named(folders, changes, message):
    with pytest.raises(ValueError, match=message):
        run(**options(folders, **changes))


def test_missing_truth_and_other_sizes_are_named(folders):
    (folders / "truth" / "c.png").unlink()
    with pytest.raises(ValueError, match=r"truth: holds no label map of 'c' \(1 of 4 ids"):
        run(**options(folders))
    for size in ((6, 8), (5, 7)):
        label_map.write(folders / "labels" / "a.png", np.zeros(size, np.uint8))
        with pytest.raises(ValueError, match=rf"labels/a.png.*{size[0]} x {size[1]}.*6 x 7"):
            run(**options(folders, ids=["a"]))
    label_map.write(folders / "context" / "b.png", np.zeros((6, 8), np.uint8))
    with pytest.raises(ValueError, match="context/b.png"):
        run(**options(folders, ids=["b"], metrics_wanted=("confusion",),
                      context=str(folders / "context"),
                      context_classes=str(folders / "scenery.txt")))


def test_command_prints_all_tables_and_writes_json(folders, capsys):
    main([f"--labels={folders}/labels", f"--truth={folders}/truth",
          f"--classes={folders}/names.txt", "--metrics=miou,boundary,confusion,stats",
          f"--context={folders}/context", f"--context_classes={folders}/scenery.txt",
          f"--json={folders}/scores.json"])
    printed, scores = capsys.readouterr().out, json.loads((folders / "scores.json").read_text())
    assert f"mIoU {100 * scores['miou']:.2f} % over 4 images" in printed
    assert {"boundary", "confusion", "stats"} <= set(scores) and str(folders) not in str(scores)
    assert "rails" in printed and "with one class" in printed


def test_missing_folder_is_one_line_and_exit_1(tmp_path):
    done = subprocess.run([sys.executable, "-m", "wsssjax.evaluate", f"--labels={tmp_path}/no",
                           f"--truth={tmp_path}"], capture_output=True, text=True)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert f"{tmp_path}/no" in done.stderr


def test_real_label_sets_score_as_measured(shared):
    voc = shared / "data" / "voc"
    weak = run(labels=str(voc / "efflite_cam_sal"), truth=str(voc / "truth_train"), progress=False)
    good = run(labels=str(voc / "transcam"), truth=str(voc / "truth_train"), progress=False)
    assert (weak["images"], good["images"]) == (464, 1464)
    assert weak["miou"] == pytest.approx(0.4881, abs=5e-5)
    assert good["miou"] == pytest.approx(0.7014, abs=5e-5)
