"""Algorithm 1 against ten literal lines of it, its invariants, and arm M."""

import numpy as np
import pytest

from wsssjax.select import control, greedy


def literal(ids, score, classes, quota):
    """The paper's listing, line by line; beside its two results, what each image filled."""
    chosen, count, filled = set(), [0] * len(quota), {}
    for i in sorted(range(len(ids)), key=lambda i: (-score[i], ids[i])):
        for c in range(len(quota)):
            if classes[i][c] and count[c] < quota[c]:
                count[c] += 1
                chosen.add(i)
                filled.setdefault(i, set()).add(c)
        if all(n >= q for n, q in zip(count, quota, strict=True)):
            break
    return chosen, count, filled


def unclipped(ids, score, classes, quota):
    """The listing with counts that grow beyond the quota, as Table 3 of the paper has them."""
    chosen, count = set(), [0] * len(quota)
    for i in sorted(range(len(ids)), key=lambda i: (-score[i], ids[i])):
        if any(classes[i][c] and count[c] < quota[c] for c in range(len(quota))):
            chosen.add(i)
            count = [n + bool(has) for n, has in zip(count, classes[i], strict=True)]
    return chosen, count


def random_case(rng, most_classes=6):
    count, num_classes = int(rng.integers(1, 30)), int(rng.integers(1, most_classes))
    ids = [f"{v:03d}" for v in np.sort(rng.permutation(200)[:count])]
    score = rng.integers(0, 8, count) / 7  # many ties
    classes = rng.random((count, num_classes)) < rng.uniform(0.02, 0.7)
    return ids, score, classes, rng.integers(0, 5, num_classes)


def choose(score, classes, quota=None, **more):
    """The selection, by both of its loops."""
    found = []
    for compiler in (greedy.numba, None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(greedy, "numba", compiler)
            patch.setattr(greedy, "CHUNK", 7)
            found.append(greedy.select(np.array(score), greedy.pack(classes), quota,
                                       num_classes=np.shape(classes)[1], **more))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
    return found[0]


def reasons(found):
    return [greedy.REASONS[code] for code in found.reason]


@pytest.mark.parametrize("most_classes, cases", [(6, 3000), (140, 300)])
def test_select_equals_the_listing_on_random_cases(most_classes, cases):
    rng = np.random.default_rng(most_classes)
    for _ in range(cases):
        ids, score, classes, quota = random_case(rng, most_classes)
        got = choose(score, classes, quota)
        chosen, count, filled = literal(ids, score, classes, quota)
        assert set(np.flatnonzero(got.selected)) == chosen
        assert got.taken.tolist() == count
        assert got.selected.sum() <= quota.sum()
        assert got.counts.tolist() == classes[sorted(chosen)].sum(0).tolist()
        assert got.unmet.tolist() == [max(q - n, 0) for q, n in zip(quota, count, strict=True)]
        slots = greedy.unpack(got.filled, len(quota))
        assert [set(np.flatnonzero(row)) for row in slots] == [
            filled.get(i, set()) for i in range(len(ids))]
        for i, reason in enumerate(reasons(got)):
            want = "quota" if i in chosen else "full" if classes[i].any() else "no_class"
            assert reason == want
        best = sorted(range(len(ids)), key=lambda i: (-score[i], ids[i]))
        assert got.rank[best].tolist() == list(range(1, len(ids) + 1))


def test_clipped_and_actual_counts_select_the_same():
    rng = np.random.default_rng(2)
    for _ in range(2000):
        ids, score, classes, quota = random_case(rng)
        got = choose(score, classes, quota)
        chosen, count = unclipped(ids, score, classes, quota)
        assert set(np.flatnonzero(got.selected)) == chosen and got.counts.tolist() == count


def test_bounds_and_empty_pairs_on_random_cases():
    """Held back and empty images are as if they were not there, but for their reason."""
    rng = np.random.default_rng(3)
    for _ in range(2000):
        ids, score, classes, quota = random_case(rng)
        below, empty = rng.random((2, len(ids))) < rng.uniform(0, 0.5)
        for wanted in (quota, None):
            got = choose(score, classes, wanted, below_n=below, empty_n=empty)
            kept = classes & ~(below | empty)[:, None]
            if wanted is None:
                chosen = set(np.flatnonzero(kept.any(1)))
                assert got.taken.tolist() == got.counts.tolist() and not got.filled.any()
            else:
                chosen, count, _ = literal(ids, score, kept, wanted)
                assert got.taken.tolist() == count
            assert set(np.flatnonzero(got.selected)) == chosen
            assert got.counts.tolist() == classes[sorted(chosen)].sum(0).tolist()
            for i, reason in enumerate(reasons(got)):
                left = ("empty" if empty[i] else "no_class" if not classes[i].any()
                        else "below" if below[i] else "full")
                taken = "min_iou" if wanted is None else "quota"
                assert reason == (taken if i in chosen else left)


def test_bit_masks_come_back():
    rng = np.random.default_rng(0)
    for num_classes in (1, 20, 63, 64, 65, 128, 253):
        classes = rng.random((17, num_classes)) < 0.3
        words = greedy.pack(classes)
        assert words.shape == (17, -(-num_classes // 64))
        np.testing.assert_array_equal(greedy.unpack(words, num_classes), classes)


def test_ties_are_broken_by_id_and_one_image_may_fill_two_classes():
    classes = [[True, False], [True, True], [True, False]]
    got = choose([0.5, 0.5, 0.5], classes, [1, 1])
    assert got.selected.tolist() == [True, True, False]  # row 0 for class 0, then 1 for class 1
    assert got.taken.tolist() == [1, 1] and got.counts.tolist() == [2, 1]
    assert greedy.unpack(got.filled, 2).tolist() == [[1, 0], [0, 1], [0, 0]]
    both = choose([0.5, 0.9, 0.5], classes, [1, 1])
    assert both.selected.tolist() == [False, True, False]
    assert greedy.unpack(both.filled, 2).tolist() == [[0, 0], [1, 1], [0, 0]]


def test_nothing_to_choose_from_and_nothing_wanted():
    for quota in ([0, 0], [3, 1], None):
        got = choose(np.zeros(0), np.zeros((0, 2), bool), quota)
        assert got.selected.shape == (0,) and got.counts.tolist() == [0, 0]
    got = choose([0.1, 0.2], np.ones((2, 2), bool), [0, 0])
    assert reasons(got) == ["full", "full"] and got.unmet.tolist() == [0, 0]


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
    for key in {tuple(row) for row in classes}:  # exact, unless an image is the only one of its set
        same = (classes == key).all(1)
        exact = (same[chosen] & (draw.distance == 0)).sum()
        assert exact == ((same & selected).sum() if same.sum() > 1 else 0)


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
