"""The judge of scores: correlations equal scipy's, the ridge takes the best penalty."""

import importlib.util
import json
import pathlib
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from wsssjax.data import label_map

TOOL = pathlib.Path(__file__).parents[2] / "tools" / "judge_scores.py"
spec = importlib.util.spec_from_file_location("judge_scores", TOOL)
judge_scores = importlib.util.module_from_spec(spec)
spec.loader.exec_module(judge_scores)
COUNT = 24


@pytest.fixture
def sets(tmp_path):
    """True masks, and label sets of ever more noise."""
    rng = np.random.default_rng(0)
    (tmp_path / "names.txt").write_text("background\ncat\ndog\n")
    for i in range(COUNT):
        truth_hw = np.zeros((12, 16), np.uint8)
        truth_hw[2:9, 3:12] = 1 + i % 2
        if i % 3 == 0:
            truth_hw[9:, :6] = 2 - i % 2
        for name, noise in (("first", 0.4), ("second", 0.3), ("third", 0.4), ("merged", 0.2)):
            wrong_hw = rng.random(truth_hw.shape) < noise * rng.random()
            label_map.write(tmp_path / name / f"{i:02d}.png",
                            np.where(wrong_hw, rng.choice([0, 0, 255]), truth_hw).astype(np.uint8))
        truth_hw[rng.random(truth_hw.shape) < 0.05] = 255
        label_map.write(tmp_path / "truth" / f"{i:02d}.png", truth_hw)
    return tmp_path


def judge(sets, *more):
    flags = [f"--{name}={sets / name}" for name in ("first", "second", "truth")]
    judge_scores.main([*flags, f"--with={sets / 'third'}", f"--refined={sets / 'merged'}",
                       f"--classes={sets / 'names.txt'}", "--draws=5", f"--out={sets / 'judged'}",
                       *more])
    return json.loads((sets / "judged/judged.json").read_text())


def quality(sets, name):
    """By hand: what is open is background."""
    label, truth = (np.array(Image.open(sets / f / f"{name}.png")) % 255
                    for f in ("second", "truth"))
    return np.mean([((label == c) & (truth == c)).sum() / ((label == c) | (truth == c)).sum()
                    for c in (1, 2) if ((label == c) | (truth == c)).any()])


def test_correlations_equal_scipys(sets):
    stats = pytest.importorskip("scipy.stats")
    found = judge(sets)
    table = pq.read_table(sets / "judged/scores/selection.parquet").to_pydict()
    assert found["images"] == COUNT and len(found["scores"]) == 10
    true = np.array([quality(sets, name) for name in table["id"]])
    assert found["mean_quality"] == pytest.approx(true.mean(), abs=1e-12)
    score, row = np.array(table["score"]), found["scores"]["quality, all sets"]
    several = np.array([len(c) > 1 for c in table["classes"]])
    for part, keep in (("all", several | True), ("multi_class", several), ("one_class", ~several)):
        want = stats.spearmanr(score[keep], true[keep]).statistic
        assert row[part][0] == pytest.approx(want, abs=1e-12)
    assert row["top_50"] == pytest.approx(true[np.argsort(-score)[:COUNT // 2]].mean(), abs=1e-12)


def test_ridge_takes_the_penalty_that_leaving_one_image_out_finds():
    rng = np.random.default_rng(1)
    x_nd = rng.normal(size=(40, 3))
    y_n = x_nd @ [1.0, -0.5, 0.0] + rng.normal(size=40)
    got = judge_scores.ridge(x_nd, y_n, seed=2)
    fold_n = np.random.default_rng(2).permutation(40) % judge_scores.FOLDS

    def fit(z, y, penalty):  # with a constant that is not penalised
        z1 = np.column_stack([np.ones(len(z)), z])
        return np.linalg.solve(z1.T @ z1 + penalty * np.diag([0, 1, 1, 1]), z1.T @ y)

    for fold in range(judge_scores.FOLDS):
        inside = fold_n != fold
        z = (x_nd - x_nd[inside].mean(0)) / x_nd[inside].std(0)
        zi, yi = z[inside], y_n[inside]
        errors = []
        for penalty in judge_scores.PENALTIES:
            left = [yi[j] - np.r_[1, zi[j]] @ fit(np.delete(zi, j, 0), np.delete(yi, j), penalty)
                    for j in range(len(yi))]
            errors.append(np.square(left).mean())
        weights = fit(zi, yi, judge_scores.PENALTIES[int(np.argmin(errors))])
        np.testing.assert_allclose(got[~inside], np.column_stack(
            [np.ones((~inside).sum()), z[~inside]]) @ weights, atol=1e-6)


def test_missing_truth_is_named_before_anything_is_scored(sets):
    (sets / "truth/05.png").unlink()
    with pytest.raises(ValueError, match="--truth=.*truth: holds no true mask of 1 of 24 ids: 05"):
        judge(sets)
    assert not (sets / "judged").exists()


def test_score_files_that_an_earlier_run_left_count_for_nothing(sets):
    want = judge(sets)
    scores = sets / "judged/scores/scores"
    shutil.copy(scores / "000000.parquet", scores / "000001.parquet")
    assert judge(sets) == want
