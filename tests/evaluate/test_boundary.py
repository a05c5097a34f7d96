"""Boundary scores against distances by brute force, and what a perfect map must score."""

import numpy as np
import pytest

from wsssjax.evaluate import boundary


def edges_by_hand(label):
    """Edge pixels one by one: a four-neighbour inside the picture has a smaller label."""
    height, width = label.shape
    found = set()
    for y in range(height):
        for x in range(width):
            around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            if any(0 <= a < height and 0 <= b < width and label[a, b] < label[y, x]
                   for a, b in around):
                found.add((y, x))
    return found


def near(points, others, limit):
    return sum(any(np.hypot(a - c, b - d) <= limit for c, d in others) for a, b in points)


def blobs(rng, size):
    """A map of a few overlapping boxes."""
    label = np.zeros(size, np.uint8)
    for _ in range(int(rng.integers(0, 4))):
        top, left = rng.integers(0, size[0]), rng.integers(0, size[1])
        label[top:top + rng.integers(1, 20), left:left + rng.integers(1, 20)] = rng.integers(1, 4)
    return label


def test_counts_equal_brute_force():
    rng = np.random.default_rng(0)
    for _ in range(40):
        size = tuple(int(v) for v in rng.integers(20, 70, 2))
        label, truth = blobs(rng, size), blobs(rng, size)
        got = boundary.count_edges(label, truth)
        said, true = edges_by_hand(label), edges_by_hand(truth)
        assert (got.said, got.true) == (len(said), len(true))
        for t, tolerance in enumerate(boundary.TOLERANCES):
            limit = tolerance * np.hypot(*size)
            assert got.found[t] == near(true, said, limit)
            assert got.right[t] == near(said, true, limit)


def scene():
    label = np.zeros((100, 120), np.uint8)
    label[20:60, 30:70] = 1
    label[40:80, 60:100] = 2
    return label


def f1(label, truth):
    return [s["f1"] for s in boundary.scores([boundary.count_edges(label, truth)]).values()]


def test_a_perfect_map_scores_one_and_an_empty_one_zero():
    assert f1(scene(), scene()) == [1.0, 1.0]
    assert f1(np.zeros_like(scene()), scene()) == [0.0, 0.0] == f1(scene(), scene() * 0)


def test_edges_are_one_pixel_thick_and_on_the_objects_side():
    label = np.zeros((9, 9), np.uint8)
    label[2:7, 2:5], label[2:7, 5:8] = 1, 2
    got = boundary.edges(label)
    assert not got[label == 0].any()
    assert got[4].tolist() == [False, False, True, False, False, True, False, True, False]


def test_edges_are_where_the_laplacian_of_a_mask_is_not_zero():
    rng = np.random.default_rng(1)
    for _ in range(20):
        label = blobs(rng, (23, 31))
        edge = np.zeros(label.shape, bool)
        for value in np.unique(label[label > 0]):
            # The larger class's side: smaller classes and the background are outside of the mask.
            mask = np.pad((label >= value).astype(int), 1, mode="edge")
            laplacian = (mask[:-2, 1:-1] + mask[2:, 1:-1] + mask[1:-1, :-2] + mask[1:-1, 2:]
                         - 4 * mask[1:-1, 1:-1])
            edge |= (laplacian != 0) & (label >= value)
        np.testing.assert_array_equal(boundary.edges(label), edge)


def test_pooled_scores_by_hand():
    """A bar of three edge pixels, found, missed, and beside it one that is too long."""
    bar, missed, long = (np.zeros((30, 40), np.uint8) for _ in range(3))  # d: 0.375 and 1 pixel
    bar[10, 10:13] = 1
    long[10, 10:15] = 1
    counts = [boundary.count_edges(*pair) for pair in ((bar, bar), (missed, bar), (long, bar))]
    got = boundary.scores(counts)
    # True: 3 + 3 + 3, found 3 + 0 + 3. Labelled: 3 + 0 + 5, right 3 + 0 + 3 within 0.375 pixels,
    # 3 + 0 + 4 within one.
    for tolerance, right in (("0.0075", 6), ("0.02", 7)):
        recall, precision = 6 / 9, right / 8
        assert got[tolerance] == pytest.approx(
            {"recall": recall, "precision": precision,
             "f1": 2 * recall * precision / (recall + precision)})
    # Not the mean of the images' own scores, in which the missed one would weigh a third.
    assert got["0.02"]["precision"] != pytest.approx((1 + 0 + 4 / 5) / 3)


def test_a_shift_is_found_within_the_tolerance_and_not_beyond():
    truth = (scene() > 0).astype(np.uint8)  # tolerances of this size: 1.2 and 3.1 pixels
    assert f1(np.roll(truth, 1, axis=1), truth) == [1.0, 1.0]
    narrow, wide = f1(np.roll(truth, 3, axis=1), truth)
    assert narrow < 0.8 and wide == 1.0


def test_the_open_band_along_objects_is_no_loss():
    truth = scene()
    band = np.zeros(truth.shape, bool)
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            band |= np.roll(truth, (dy, dx), (0, 1)) != truth
    assert f1(scene(), np.where(band, 255, truth).astype(np.uint8))[1] == 1.0


def test_edges_deep_in_open_regions_are_not_scored():
    truth = scene()
    truth[:, :25] = 255  # a region nobody annotated, away from the objects
    label = scene()
    label[40:60, 5:15] = 3
    assert f1(label, truth) == [1.0, 1.0]


def test_a_truth_that_is_open_everywhere_has_no_edges():
    got = boundary.count_edges(scene(), np.full((100, 120), 255, np.uint8))
    assert (got.true, got.said) == (0, 0)


@pytest.mark.parametrize("value", [0, 255])
def test_open_pixels_of_a_label_claim_no_object(value):
    label = scene()
    label[label == 2] = value
    got = boundary.count_edges(label, scene())
    assert got.said == boundary.edges(np.where(scene() == 2, 0, scene())).sum()
