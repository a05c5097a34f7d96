import numpy as np
import pytest

from wsssjax.core import metrics

NAMES = ("background", "cat", "dog", "train")


def brute_force_iou(prediction, truth, k):
    keep = truth != 255
    hit = (prediction[keep] == k) & (truth[keep] == k)
    union = (prediction[keep] == k) | (truth[keep] == k)
    return hit.sum() / union.sum() if union.sum() else None


def test_scores_match_a_brute_force_over_a_set():
    rng = np.random.default_rng(0)
    truth = rng.choice([0, 1, 2, 255], size=(6, 9, 11))
    prediction = rng.choice([0, 1, 2, 255], size=truth.shape, p=[0.3, 0.3, 0.3, 0.1])
    total = sum(metrics.confusion(p, t, 4) for p, t in zip(prediction, truth, strict=True))
    got = metrics.scores(total, NAMES)
    want = [brute_force_iou(prediction, truth, k) for k in range(3)]
    np.testing.assert_allclose([got["iou"][n] for n in NAMES[:3]], want, rtol=1e-15)
    np.testing.assert_allclose(got["miou"], np.mean(want), rtol=1e-15)
    assert got["absent"] == ["train"]
    assert got["miou"] + got["fp"] + got["fn"] == pytest.approx(1)
    keep = truth != 255
    wrong = [((prediction == k) & (truth != k) & keep).sum() for k in range(3)]
    union = [(((prediction == k) | (truth == k)) & keep).sum() for k in range(3)]
    assert got["fp"] == pytest.approx(np.mean(np.divide(wrong, union)))
    zero = metrics.scores(total, NAMES, absent="zero")
    np.testing.assert_allclose(zero["miou"], np.sum(want) / 4, rtol=1e-15)


def test_a_perfect_map_scores_one_and_leaving_pixels_out_scores_less():
    truth = np.arange(12).reshape(3, 4) % 3
    assert metrics.scores(metrics.confusion(truth, truth, 4), NAMES)["miou"] == 1.0
    left_out = np.where(truth == 2, 255, truth)
    assert metrics.scores(metrics.confusion(left_out, truth, 4), NAMES)["miou"] < 0.7


def test_counts_are_exact_beyond_float32():
    big = np.zeros((4, 5), np.int64)
    big[0, 0] = 16_777_217
    assert metrics.scores(big, NAMES)["iou"]["background"] == 1.0
    big[0, 1] = 1
    assert metrics.scores(big, NAMES)["iou"]["background"] < 1.0


@pytest.mark.parametrize(("prediction", "truth", "says"), [
    (np.zeros((2, 2)), np.zeros((2, 3)), "want the same size"),
    (np.full((2, 2), 4), np.zeros((2, 2)), "prediction holds the class 5|prediction holds the"),
    (np.zeros((2, 2)), np.full((2, 2), 9), "truth holds the class 9"),
])
def test_confusion_refuses_wrong_input(prediction, truth, says):
    with pytest.raises(ValueError, match=says):
        metrics.confusion(prediction, truth, 3)
