"""Measured facts about real label sets that the whole path from PNG to selection must hit."""

import numpy as np
import pytest
import scipy.stats

from wsssjax.core import files, metrics
from wsssjax.data import label_map
from wsssjax.data.classes import VOC_CLASSES
from wsssjax.evaluate import miou
from wsssjax.select import iou, select, stream


@pytest.fixture(scope="module")
def agreement(shared):
    """Counts of EfficientNet CAM + saliency against TransCAM, and TransCAM's true quality."""
    voc = shared / "data" / "voc"
    ids = label_map.folder_ids(voc / "efflite_cam_sal")
    job = stream.Job(voc / "efflite_cam_sal", voc / "transcam", len(VOC_CLASSES))
    block = stream.score_ids(job, ids)
    quality = []
    for name in ids:
        guess = label_map.read(voc / "transcam" / f"{name}.png", 21)
        truth = label_map.read(voc / "truth_train" / f"{name}.png", 21)
        pair = [(guess, np.where(truth == 255, 0, truth))]  # here void is background
        quality.append(iou.image_iou(iou.count_pairs(pair, 21), "mean")[0][0])
    return block.counts, block.pool[:, 1:] > 0, np.array(quality)


@pytest.mark.parametrize("kind, rho, best", [("foreground", 0.583, 0.86), ("mean", 0.640, 0.87)])
def test_agreement_predicts_quality_as_measured(agreement, kind, rho, best):
    counts, _, quality = agreement
    iou_n, _ = iou.image_iou(counts, kind)
    assert len(iou_n) == 464
    assert scipy.stats.spearmanr(iou_n, quality)[0] == pytest.approx(rho, abs=6e-4)
    assert quality[np.argsort(-iou_n, kind="stable")[:150]].mean() == pytest.approx(best, abs=5e-3)
    assert quality.mean() == pytest.approx(0.72, abs=5e-3)


def test_fewer_classes_alone_and_the_score_within_groups(agreement):
    counts, classes_nk, quality = agreement
    number = classes_nk.sum(1)
    assert scipy.stats.spearmanr(-number, quality)[0] == pytest.approx(0.47, abs=6e-3)
    for kind, one, many in (("foreground", 0.44, 0.21), ("mean", 0.46, 0.47)):
        iou_n, _ = iou.image_iou(counts, kind)
        # The measured "multi-class" group held the four labels without any class as well.
        for group, want in ((number == 1, one), (number != 1, many)):
            rho = scipy.stats.spearmanr(iou_n[group], quality[group])[0]
            assert rho == pytest.approx(want, abs=6e-3), (kind, want)


@pytest.mark.parametrize("labels, percent", [("transcam", 70.14), ("efflite_cam_sal", 48.81)])
def test_the_label_sets_are_as_good_as_measured(shared, labels, percent):
    voc = shared / "data" / "voc"
    ids = label_map.folder_ids(voc / labels)
    counts = miou.folder_confusions(voc / labels, voc / "truth_train", ids, len(VOC_CLASSES))
    found = metrics.scores(counts.sum(0), VOC_CLASSES)["miou"]
    assert 100 * found == pytest.approx(percent, abs=5e-3)


@pytest.mark.parametrize("name", ["92", "183"])
def test_the_whole_way_takes_the_quota_of_a_split(shared, tmp_path, name):
    """The true masks as both sets: every label agrees, and ties are broken by id."""
    voc = shared / "data" / "voc"
    found = select(voc / "truth_train", voc / "truth_train", f"voc/{name}",
                   ids=str(voc / "train.txt"))
    assert found.summary["taken"] == found.summary["quota"] and not found.summary["unmet"]
    assert found.summary["selected"] <= sum(found.summary["quota"].values())
    assert set(found.table["iou"].to_pylist()) == {1.0}


def test_lists_of_voc_are_what_the_table_says(shared):
    voc = shared / "data" / "voc"
    names = ("train_aug.txt", "val.txt")
    assert [len(files.read_ids(voc / name)) for name in names] == [10582, 1449]
