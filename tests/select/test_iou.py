"""Pair counts: every path equals counting by hand; IoUs equal their definitions on sets."""

import numpy as np
import pytest

from wsssjax.core.constants import IGNORE
from wsssjax.select import iou, iou_device


def random_pair(rng, size, num_classes, ignored=0.1):
    """Two maps of runs and blocks that agree in part."""
    first = rng.integers(0, num_classes, size).astype(np.uint8)
    first = np.repeat(first, 3, axis=1)[:, :size[1]]
    second = np.where(rng.random(size) < 0.6, first, rng.integers(0, num_classes, size))
    maps = [first, second.astype(np.uint8)]
    for label_hw in maps:
        label_hw[rng.random(size) < ignored] = IGNORE
    return tuple(maps)


def by_hand(first_hw, second_hw, num_classes):
    """The three counts from their definition, one class at a time."""
    known = (first_hw != IGNORE) & (second_hw != IGNORE)
    rows = [[((first_hw == c) & (second_hw == c) & known).sum() for c in range(num_classes)],
            [((first_hw == c) & known).sum() for c in range(num_classes)],
            [((second_hw == c) & known).sum() for c in range(num_classes)]]
    return np.array(rows)


@pytest.mark.parametrize("num_classes", [2, 21, 254])
@pytest.mark.parametrize("ignored", [0.0, 0.2, 1.0])
def test_all_paths_count_as_by_hand(num_classes, ignored):
    rng = np.random.default_rng(num_classes)
    sizes = [(1, 1), (7, 13), (40, 31), (16, 16), (3, 50)]
    pairs = [random_pair(rng, size, num_classes, ignored) for size in sizes]
    want = np.stack([by_hand(*pair, num_classes) for pair in pairs], axis=1)
    for host in (True, False):
        np.testing.assert_array_equal(iou.count_pairs(pairs, num_classes, host=host), want)


@pytest.mark.parametrize("pool", ["first", "second"])
def test_areas_of_the_pool_are_of_the_whole_map(pool):
    rng = np.random.default_rng(4)
    pairs = [random_pair(rng, size, 6, ignored) for size in [(7, 9), (20, 11)]
             for ignored in (0.0, 0.3, 1.0)]
    want = [[(pair[pool == "second"] == c).sum() for c in range(6)] for pair in pairs]
    for host in (True, False):
        counts, areas = iou.count_whole(pairs, 6, pool, host=host)
        np.testing.assert_array_equal(areas, want)
        np.testing.assert_array_equal(counts, iou.count_pairs(pairs, 6, host=host))


def test_kernel_without_numba_equals_the_compiled_one():
    rng = np.random.default_rng(0)
    for _ in range(50):
        first, second = (m.reshape(-1) for m in random_pair(rng, (9, 17), 6))
        counts = np.zeros((2, 5, 256), np.int64)
        iou._count_bins(first, second, counts[0])
        iou._host_kernel()(first, second, counts[1])
        np.testing.assert_array_equal(*counts)


def test_pair_counts_is_exact_where_float32_is_not():
    size = (1, 4097, 4096)  # 16,781,312 pixels; float32 stops counting at 16,777,216
    first, second = np.ones(size, np.uint8), np.ones(size, np.uint8)
    second[0, 0, 0] = 0
    for count in (iou_device.pair_counts, iou.pair_counts_host):
        counts = count(first, second, 2)
        assert [int(c[0, 1]) for c in counts] == [16781311, 16781312, 16781311]


@pytest.mark.parametrize("kind", ["foreground", "mean", "mean_bg"])
def test_iou_equals_its_definition_on_sets(kind):
    rng = np.random.default_rng(1)
    for _ in range(100):
        first, second = random_pair(rng, (5, 6), int(rng.integers(2, 5)))
        got, empty = iou.image_iou(iou.count_pairs([(first, second)], 5), kind)
        keep = (first != IGNORE) & (second != IGNORE)
        sets = [{(i, int(m.flat[i])) for i in np.flatnonzero(keep)} for m in (first, second)]
        low = 0 if kind == "mean_bg" else 1
        sets = [{p for p in s if p[1] >= low} for s in sets]
        classes = sorted({c for _, c in sets[0] | sets[1]})
        assert empty[0] == (not any(c for _, c in sets[0] | sets[1]))
        if empty[0]:
            assert got[0] == 0
        elif kind == "foreground":
            assert got[0] == len(sets[0] & sets[1]) / len(sets[0] | sets[1])
        else:
            each = [[{p for p in s if p[1] == c} for s in sets] for c in classes]
            want = np.mean([len(a & b) / len(a | b) for a, b in each])
            assert got[0] == pytest.approx(want, abs=1e-15)


def test_a_pixel_with_two_foreground_classes_counts_twice_in_the_union():
    pair = (np.array([[1, 1, 2]], np.uint8), np.array([[1, 2, 2]], np.uint8))
    assert iou.image_iou(iou.count_pairs([pair], 3))[0][0] == 2 / 4


def test_iou_is_symmetric_and_one_on_itself():
    rng = np.random.default_rng(2)
    first, second = random_pair(rng, (20, 20), 4, ignored=0.0)
    for kind in iou.SCORES:
        there, back, same = (iou.image_iou(iou.count_pairs([p], 4), kind)[0][0] for p in
                             [(first, second), (second, first), (first, first)])
        assert there == back < same == 1


def test_unknown_iou_names_the_ones_there_are():
    with pytest.raises(ValueError, match="forground.*did you mean 'foreground'"):
        iou.image_iou(iou.count_pairs([(np.zeros((2, 2), np.uint8),) * 2], 3), "forground")
