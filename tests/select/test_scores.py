"""Scores that rank the labels: worked by hand, against brute force, and by command."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from wsssjax.data import label_map
from wsssjax.select import iou, scores
from wsssjax.select.__main__ import main
from wsssjax.select.run import run

COUNT, CLASSES = 30, 4
FOLDERS = ("first", "second", "third", "merged", "crf")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Thirty images whose five label sets differ by noise of their own."""
    root, rng = tmp_path_factory.mktemp("sets"), np.random.default_rng(0)
    for n in range(COUNT):
        size = (10 + n % 3, 12)
        base = np.kron(rng.integers(0, CLASSES, (3, 3)), np.ones((5, 5)))[:size[0], :size[1]]
        for folder in FOLDERS:
            label_hw = np.where(rng.random(size) < rng.random() * 0.7, 0, base).astype(np.uint8)
            label_hw[rng.random(size) < 0.03] = 255
            label_map.write(root / folder / f"{n:02d}.png", label_hw)
    (root / "names.txt").write_text("background\ncat\ndog\ncow\n")
    return root


def options(root, out, **changes):
    return {"first": str(root / "first"), "second": str(root / "second"), "out": str(root / out),
            "quota_spec": "none", "classes": str(root / "names.txt"), **changes}


def scored(root, out="out", **changes):
    """float64 [n] as the table has it."""
    run(**options(root, out, **changes))
    return pq.read_table(root / out / "selection.parquet")["score"].to_numpy()


def by_hand(root, a, b, reduce):
    """The per-class IoUs of two folders' maps, reduced to one number an image."""
    out = []
    for n in range(COUNT):
        x, y = (np.array(Image.open(root / f / f"{n:02d}.png")) for f in (a, b))
        known = (x != 255) & (y != 255)
        x, y = x[known], y[known]
        found = [((x == c) & (y == c)).sum() / ((x == c) | (y == c)).sum()
                 for c in range(1, CLASSES) if ((x == c) | (y == c)).any()]
        out.append(reduce(found) if found else 0.0)
    return np.array(out)


def log_odds_by_hand(x_n):
    """Every number's place among all, half of a tie counting as below."""
    share = [((x_n < x).sum() + (x_n == x).sum() / 2) / len(x_n) for x in x_n]
    return np.log(np.array(share) / (1 - np.array(share)))


def test_worst_is_the_lowest_class_and_a_class_of_one_map_alone_counts_zero():
    def of(first, second):
        pair = [np.array([x], np.uint8) for x in (first, second)]
        counts = iou.pair_counts_host(pair[:1], pair[1:], 4)
        return float(iou.image_iou(counts, "worst")[0][0])

    assert of([1, 1, 2, 2], [1, 1, 2, 0]) == 0.5
    assert of([1, 1, 0, 0], [1, 1, 3, 0]) == 0.0
    assert of([1, 1, 0, 0], [1, 1, 0, 0]) == 1.0
    assert of([1, 1, 2, 2], [1, 1, 255, 255]) == 1.0  # nobody knows about class 2
    assert of([0, 0, 0, 0], [0, 0, 0, 0]) == 0.0  # both empty


def test_scores_are_those_worked_out_by_hand(folders):
    further = {"methods": [str(folders / "third")],
               "refined": [str(folders / "merged"), str(folders / "crf")]}
    np.testing.assert_allclose(scored(folders, kind="mean"),
                               by_hand(folders, "first", "second", np.mean), atol=1e-12)
    np.testing.assert_allclose(scored(folders, kind="worst"),
                               by_hand(folders, "first", "second", min), atol=1e-12)
    np.testing.assert_allclose(
        scored(folders, score="consensus", kind="mean", methods=further["methods"]),
        (by_hand(folders, "first", "second", np.mean)
         + by_hand(folders, "third", "second", np.mean)) / 2, atol=1e-12)
    for kind, reduce in ((None, min), ("mean", np.mean)):
        first, third, merged, crf = (log_odds_by_hand(by_hand(folders, f, "second", reduce))
                                     for f in ("first", "third", "merged", "crf"))
        want = (first + third) / 2 + (merged + crf) / 2
        np.testing.assert_allclose(scored(folders, score="quality", kind=kind, **further), want,
                                   atol=1e-12)
    few = scored(folders, score="classes")
    label = [np.unique(np.array(Image.open(folders / f"second/{n:02d}.png"))) for n in range(COUNT)]
    assert few.tolist() == [-len(set(x.tolist()) - {0, 255}) for x in label]


def test_the_pool_decides_whose_label_is_compared(folders):
    got = scored(folders, score="consensus", pool="first", kind="mean",
                 methods=[str(folders / "third")])
    np.testing.assert_allclose(got, (by_hand(folders, "first", "second", np.mean)
                                     + by_hand(folders, "third", "first", np.mean)) / 2,
                               atol=1e-12)


def test_quality_does_not_ask_how_the_ious_are_scaled():
    x_n = np.random.default_rng(1).random(50)
    np.testing.assert_allclose(scores.log_odds(x_n), scores.log_odds(x_n**3), atol=1e-12)
    np.testing.assert_allclose(scores.log_odds(np.repeat(x_n, 2))[::2], scores.log_odds(x_n),
                               atol=1e-12)
    assert scores.log_odds(np.zeros(5)).tolist() == [0.0] * 5
    assert scores.log_odds(np.array([0.0, 1.0])).sum() == 0


def test_a_changed_label_of_a_further_set_is_noticed(folders):
    further = {"score": "consensus", "methods": [str(folders / "third")]}
    before = scored(folders, "noticed", **further)
    path = folders / "third/05.png"
    old = path.read_bytes()
    size = np.array(Image.open(path)).shape
    label_map.write(path, np.full(size, 3, np.uint8))
    after = scored(folders, "noticed", **further)
    path.write_bytes(old)
    assert np.flatnonzero(before != after).tolist() == [5]


@pytest.mark.parametrize("change, message", [
    ({"score": "qualty"}, "--score 'qualty' is unknown.*quality"),
    ({"score": "quality"}, "--score=quality: wants --refined=DIR"),
    ({"score": "consensus"}, "--score=consensus: wants --with=DIR"),
    ({"methods": ["first"]}, "--with=.*first: is --first, too"),
    ({"refined": ["merged", "merged"]}, "--refined=.*merged: is --refined, too"),
    ({"methods": ["few"]}, "--with=.*few: holds no label map of 29 of 30 ids: 00, 01, "),
    ({"refined": ["nowhere"]}, "nowhere: no such folder"),
    ({"refined": ["small"]}, "small/00.png: label map of 3 x 4; its image has 10 x 12"),
])
def test_sets_that_cannot_be_compared(folders, change, message):
    for name, count in (("few", 1), ("small", COUNT)):
        for n in range(COUNT - count, COUNT):
            label_map.write(folders / name / f"{n:02d}.png", np.zeros((3, 4), np.uint8))
    change = {k: v if k == "score" else [str(folders / x) for x in v] for k, v in change.items()}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(**options(folders, "never", **change))
    assert not (folders / "never/selection.parquet").exists()


def test_a_first_map_that_says_nothing_vetoes_the_paper_alone(folders, tmp_path):
    for folder in FOLDERS:
        for n in range(3):
            label_hw = np.zeros((4, 4), np.uint8)
            label_hw[:n + 1] = 0 if folder == "first" or (folder == "second" and n == 2) else 1
            if folder == "second" and n < 2:
                label_hw[:] = 1
            if folder == "first" and n == 1:  # open, and so is nothing compared
                label_hw[:] = 255
            label_map.write(tmp_path / folder / f"{n}.png", label_hw)
    shutil.copy(folders / "names.txt", tmp_path)
    further = {"methods": [str(tmp_path / "third")], "refined": [str(tmp_path / "merged")]}

    def reasons(**changes):
        run(**options(tmp_path, "out", quota_spec='{"cat": 9}', **further) | changes)
        return pq.read_table(tmp_path / "out/selection.parquet")["reason"].to_pylist()

    assert reasons()[1:] == ["empty", "empty"]
    (tmp_path / "tags.csv").write_text("id,tags\n0,cat\n1,cat\n2,cat\n")
    for change in ({}, {"classes_from": "tags", "tags": str(tmp_path / "tags.csv")}):
        for score in ("consensus", "quality"):
            assert reasons(score=score, **change) == ["quota", "quota", "no_class"]


@pytest.mark.parametrize("flags, message", [
    (["--with=third"], "--with: changes nothing with --score=paper"),
    (["--with=third", "--score=classes"], "--with: changes nothing with --score=classes"),
    (["--refined=crf"], "--refined: changes nothing with --score=paper"),
    (["--refined=crf", "--keep=pixels"], "--refined: changes nothing with --score=paper"),
    (["--keep=classes", "--with=third"], "--keep=classes: goes by .* leave out --with"),
    (["--keep=classes", "--iou=mean"], "--keep=classes: goes by .* leave out --with"),
])
def test_flags_that_would_change_nothing(folders, flags, message):
    given = [f"--{k}={v}" for k, v in options(folders, "never").items() if k != "quota_spec"]
    with pytest.raises(ValueError, match=message):
        main([*given, "--quota=none", *flags])
    assert not (folders / "never").exists()


def test_by_command(folders, capsys):
    flags = [f"--{k}={v}" for k, v in options(folders, "command").items() if k != "quota_spec"]
    main([*flags, "--quota=none", "--score=quality", f"--with={folders / 'third'}",
          f"--refined={folders / 'merged'}", f"--refined={folders / 'crf'}"])
    assert "30 of 30" in capsys.readouterr().out
    want = scored(folders, score="quality", methods=[str(folders / "third")],
                  refined=[str(folders / "merged"), str(folders / "crf")])
    summary = json.loads((folders / "command/summary.json").read_text())
    assert (summary["with"], summary["refined"]) == (1, 2)
    table = pq.read_table(folders / "command/selection.parquet")
    np.testing.assert_array_equal(table["score"].to_numpy(), want)
    rank = table["rank"].to_numpy()
    assert (np.diff(want[np.argsort(rank)]) <= 0).all()
