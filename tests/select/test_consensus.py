"""Algorithm 1 against ten literal lines of it, its invariants, and arm M."""

import numpy as np
import pytest

from wsssjax.select import consensus, control


def literal(ids, iou, classes, quota):
    """The paper's listing, line by line."""
    chosen, count = set(), [0] * len(quota)
    for i in sorted(range(len(ids)), key=lambda i: (-iou[i], ids[i])):
        for c in range(len(quota)):
            if classes[i][c] and count[c] < quota[c]:
                count[c] += 1
                chosen.add(i)
        if all(n >= q for n, q in zip(count, quota, strict=True)):
            break
    return chosen, count


def random_case(rng):
    count, num_classes = int(rng.integers(1, 30)), int(rng.integers(1, 6))
    ids = [f"{v:03d}" for v in rng.permutation(200)[:count]]
    iou = rng.integers(0, 8, count) / 7  # many ties
    classes = rng.random((count, num_classes)) < rng.uniform(0.1, 0.7)
    return ids, iou, classes, rng.integers(0, 5, num_classes)


def test_select_equals_the_listing_on_random_cases():
    rng = np.random.default_rng(0)
    for _ in range(3000):
        ids, iou, classes, quota = random_case(rng)
        got = consensus.select(ids, iou, classes, quota)
        chosen, count = literal(ids, iou, classes, quota)
        assert set(np.flatnonzero(got.selected)) == chosen
        assert got.taken.tolist() == count
        assert got.selected.sum() <= quota.sum()
        assert got.counts.tolist() == classes[sorted(chosen)].sum(0).tolist()
        assert got.unmet.tolist() == [max(q - n, 0) for q, n in zip(quota, count, strict=True)]


def test_select_does_not_see_the_order_of_its_input():
    rng = np.random.default_rng(1)
    for _ in range(200):
        ids, iou, classes, quota = random_case(rng)
        mixed = rng.permutation(len(ids))
        there = consensus.select(ids, iou, classes, quota)
        back = consensus.select([ids[i] for i in mixed], iou[mixed], classes[mixed], quota)
        np.testing.assert_array_equal(there.selected[mixed], back.selected)
        np.testing.assert_array_equal(there.rank[mixed], back.rank)
        assert [there.reason[i] for i in mixed] == back.reason


def test_ties_are_broken_by_id_and_one_image_may_fill_two_classes():
    classes = [[True, False], [True, True], [True, False]]
    got = consensus.select(["c", "b", "a"], [0.5, 0.5, 0.5], classes, [1, 1])
    assert got.selected.tolist() == [False, True, True]  # a for class 0, then b for class 1
    assert got.taken.tolist() == [1, 1] and got.counts.tolist() == [2, 1]


def test_without_quota_the_bound_is_strict_as_in_the_paper():
    classes = np.ones((3, 1), bool)
    got = consensus.select(["a", "b", "c"], [0.9, 0.95, 0.2], classes, min_iou=0.9)
    assert got.selected.tolist() == [False, True, False]
    assert got.reason == ["below", "min_iou", "below"]


def test_the_bound_also_holds_back_a_quota():
    got = consensus.select(["a", "b"], [0.9, 0.3], np.ones((2, 1), bool), [2], min_iou=0.5)
    assert got.selected.tolist() == [True, False] and got.unmet.tolist() == [1]


def test_images_with_nothing_in_them_are_never_taken():
    classes = np.array([[False], [True], [False]])
    got = consensus.select(["a", "b", "c"], [0.0, 0.5, 0.4], classes, empty_n=[True, False, False])
    assert got.reason == ["empty", "min_iou", "no_class"]


@pytest.mark.parametrize("seed", range(20))
def test_matched_random_draws_others_of_the_same_classes(seed):
    rng = np.random.default_rng(seed)
    classes = rng.random((80, 3)) < 0.4
    selected = rng.random(80) < rng.uniform(0.1, 0.8)
    draw = control.matched_random(classes, selected, seed)
    chosen, found = np.flatnonzero(selected), draw.partner >= 0
    assert len(set(draw.partner[found])) == found.sum() >= len(chosen) - 1
    assert not (draw.partner[found] == chosen[found]).any()  # another one, never itself
    apart = (classes[chosen[found]] != classes[draw.partner[found]]).sum(1)
    np.testing.assert_array_equal(draw.distance[found], apart)
    # Of each set of classes as many exact partners as there are; the last one may only fit itself.
    for key in {tuple(row) for row in classes}:
        same = (classes == key).all(1)
        exact = (same[chosen] & (draw.distance == 0)).sum()
        assert exact >= (same & selected).sum() - 1
        if same.sum() > (same & selected).sum():
            assert exact == (same & selected).sum()


def test_matched_random_also_draws_from_the_selected():
    """Half of the images are selected, so half of the draw is, on average."""
    classes, selected = np.ones((40, 1), bool), np.arange(40) < 20
    shares = [selected[control.matched_random(classes, selected, s).partner].mean()
              for s in range(200)]
    assert abs(np.mean(shares) - 0.5) < 0.03


def test_matched_random_follows_its_seed_and_is_uniform():
    classes, selected = np.ones((6, 1), bool), np.arange(6) == 0
    draws = [int(control.matched_random(classes, selected, s).partner[0]) for s in range(600)]
    assert draws[:50] == [int(control.matched_random(classes, selected, s).partner[0])
                          for s in range(50)]
    assert np.bincount(draws, minlength=6)[1:].min() > 80  # 120 expected
