"""The merging rules: every worked example, a literal slow version, and the edges between."""

import numpy as np
import pytest

from wsssjax.refine import merge_runs, rle, sam_merge


def grid(text):
    """A label map from rows of characters; '.' is 0 and '#' is 255."""
    values = {".": 0, "#": 255}
    return np.array([[values.get(c, c) for c in row] for row in text.split()], np.uint8)


def boxes(size, *parts):
    """One mask per part: rows from..to and columns from..to, inclusive."""
    masks = np.zeros((len(parts), *size), bool)
    for mask, (top, bottom, left, right) in zip(masks, parts, strict=True):
        mask[top:bottom + 1, left:right + 1] = True
    return masks


def on_runs(label, masks, *arguments, **options):
    return merge_runs.merge(label, [rle.encode(m) for m in masks], *arguments, **options).label_hw


@pytest.fixture
def both():
    """The merged label map from unpacked masks, which that from run lengths equals."""
    def merge(*arguments, **options):
        merged = sam_merge.merge(*arguments, **options)
        np.testing.assert_array_equal(on_runs(*arguments, **options), merged)
        return merged
    return merge


SIX = (6, 6)
EXAMPLE_1 = grid("11.... 111... .1..2. ...22. 3..22. 3....#")
MASKS_1 = np.concatenate([boxes(SIX, (0, 1, 0, 2), (2, 2, 1, 2), (2, 5, 2, 5), (3, 4, 3, 4)),
                          np.zeros((1, *SIX), bool)])


@pytest.mark.parametrize("rule, want", [
    ("max_iou_imp2", "111... 111... ..2222 ..2222 3.2222 3.2222"),
    ("max_iou_imp", "111... 111... ...... ...22. 3..22. 3....."),
    ("max_iou", "111... 111... ...... ...22. ...22. ......"),
])
def test_example_1(both, rule, want):
    np.testing.assert_array_equal(both(EXAMPLE_1, MASKS_1, rule), grid(want))


EXAMPLE_2 = grid("1112.. 1112.. ...2.. ...... ...... ......")
MASKS_2 = boxes(SIX, (0, 1, 0, 3), (2, 2, 3, 4))
REST = " ...... ...... ...... ......"


@pytest.mark.parametrize("rule, coverage, want", [
    ("max_iou_imp2", "sequential", "1112.. 1112.."),
    ("max_iou_imp", "sequential", "1112.. 1112.."),
    ("max_iou_imp2", "all", "1111.. 1111.."),
    ("max_iou", "sequential", "1111.. 1111.."),
])
def test_example_2_coverage_shrinks(both, rule, coverage, want):
    got = both(EXAMPLE_2, MASKS_2, rule, coverage=coverage)
    np.testing.assert_array_equal(got, grid(want + REST))


EXAMPLE_3 = grid("...... .333.. .313.. .33... ...... ......")
FULL_BLOCK = "...... .333.. .333.. .333.. ...... ......"


@pytest.mark.parametrize("rule, want", [
    ("max_iou_imp2", "...... .333.. .313.. .331.. ...... ......"),
    ("max_iou_imp", FULL_BLOCK), ("max_iou", FULL_BLOCK), ("argmax", FULL_BLOCK),
])
def test_example_3_a_small_class_steals_a_mask(both, rule, want):
    got = both(EXAMPLE_3, boxes(SIX, (1, 3, 1, 3)), rule)
    np.testing.assert_array_equal(got, grid(want))


@pytest.mark.parametrize("rule", sam_merge.RULES)
def test_example_4_without_masks(both, rule):
    got = both(EXAMPLE_1, np.zeros((0, *SIX), bool), rule)
    want = np.where((EXAMPLE_1 == 255) | (rule == "max_iou"), 0, EXAMPLE_1)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("shared, want", [(17, True), (16, False)])
def test_example_5_exactly_85_percent_passes(both, shared, want):
    label = np.zeros((5, 16), np.uint8)
    label.reshape(-1)[:20] = 1
    mask = np.zeros((1, 5, 16), bool)
    mask.reshape(-1)[20 - shared:60 - shared] = True  # 40 pixels, less than half of them class 1
    got = both(label, mask)
    assert (got == 1).sum() == (60 - shared if want else 20 - shared)
    assert (both(label, mask, "max_iou_imp") == 1).sum() == 20 - shared


@pytest.mark.parametrize("shared, want", [(20, False), (21, True)])
def test_exactly_half_fails(both, shared, want):
    label = np.zeros((10, 20), np.uint8)
    label.reshape(-1)[:100] = 1
    mask = np.zeros((1, 10, 20), bool)
    mask.reshape(-1)[100 - shared:140 - shared] = True
    assert (both(label, mask) == 1).sum() == (140 - shared if want else 100 - shared)


def literal(label, masks, rule, coverage, keep):
    """Rules 1 to 6 of the specification with loops and sets of pixels."""
    pixels = [frozenset(zip(*np.nonzero(m), strict=True)) for m in masks]
    areas = {c: frozenset(zip(*np.nonzero(label == c), strict=True)) for c in range(1, 255)}
    best = [max(areas, key=lambda c: (len(s & areas[c]), -c)) for s in pixels]
    merged, taken = np.zeros(label.shape, np.uint8), set()
    for c, area in areas.items():
        if not area:
            continue
        free = [i for i in range(len(pixels)) if i not in taken]
        cover = set().union(*(pixels[i] for i in (free if coverage == "sequential"
                                                   else range(len(pixels)))))
        paint = set(area - cover) if keep else set()
        for i in free:
            inside = len(pixels[i] & area)
            good = inside / len(pixels[i]) > 0.5 if pixels[i] else False
            if rule in ("max_iou_imp2", "argmax"):
                good = good or inside / len(area) >= 0.85
            if rule == "argmax":
                good = good and inside > 0 and best[i] == c
            if good:
                taken.add(i)
                paint |= pixels[i]
        for pixel in paint:
            merged[pixel] = c
    return merged


def random_case(rng):
    size = tuple(int(v) for v in rng.integers(2, 14, 2))
    label = np.repeat(rng.choice([0, 0, 1, 2, 3, 7, 255], size), 2, axis=0)[:size[0]]
    masks = rng.random((int(rng.integers(0, 12)), *size)) < rng.uniform(0.05, 0.9)
    for mask in masks[::2]:  # half of them boxes, as real masks are connected
        top, left = rng.integers(0, size[0]), rng.integers(0, size[1])
        mask[:] = False
        mask[top:top + rng.integers(0, 8), left:left + rng.integers(1, 8)] = True
    return label.astype(np.uint8), masks


@pytest.mark.parametrize("rule", sam_merge.RULES)
def test_merge_equals_the_literal_rules_on_random_cases(both, rule):
    rng = np.random.default_rng(0)
    for _ in range(200):
        label, masks = random_case(rng)
        for coverage in sam_merge.COVERAGE:
            for keep in (None, True, False):
                got = both(label, masks, rule, coverage=coverage, keep_uncovered=keep)
                kept = sam_merge.RULES[rule].keep if keep is None else keep
                np.testing.assert_array_equal(got, literal(label, masks, rule, coverage, kept))


@pytest.mark.parametrize("compiled", [True, False])
def test_runs_and_unpacked_masks_agree_in_everything(compiled, monkeypatch):
    """Labels, overlaps and claims, with and without numba, caps and all options included."""
    if not compiled:
        monkeypatch.setattr(merge_runs, "numba", None)
    rng = np.random.default_rng(3)
    for _ in range(150):
        label, masks = random_case(rng)
        rule = str(rng.choice(list(sam_merge.RULES)))
        options = {"coverage": str(rng.choice(sam_merge.COVERAGE)),
                   "keep_uncovered": [None, True, False][rng.integers(3)],
                   "area_cap": [None, float(rng.uniform(0.01, 1))][rng.integers(2)]}
        merged = merge_runs.merge(label, [rle.encode(m) for m in masks], rule, **options)
        np.testing.assert_array_equal(merged.label_hw,
                                      sam_merge.merge(label, masks, rule, **options))
        assert merged.label_hw.dtype == np.uint8
        found = sam_merge.overlaps(label, masks)
        for got, want in zip(merged.found, found, strict=True):
            np.testing.assert_array_equal(got, want)
        there = sam_merge.under_cap(found.mask_m, options["area_cap"], label.size)
        claims = sam_merge.claim(found, sam_merge.RULES[rule], there)
        for got, want in zip(merged.claims, claims, strict=True):
            np.testing.assert_array_equal(got, want)


def test_a_capped_mask_is_as_good_as_absent():
    rng = np.random.default_rng(4)
    for _ in range(100):
        label, masks = random_case(rng)
        cap = float(rng.uniform(0.05, 0.9))
        small = masks[masks.sum((1, 2)) <= cap * label.size]
        for rule in sam_merge.RULES:
            for coverage in sam_merge.COVERAGE:
                np.testing.assert_array_equal(
                    sam_merge.merge(label, masks, rule, coverage=coverage, area_cap=cap),
                    sam_merge.merge(label, small, rule, coverage=coverage))


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1)])
def test_images_of_a_few_pixels_and_labels_of_one_value(both, size):
    for value in (0, 1, 255):
        label = np.full(size, value, np.uint8)
        for masks in (np.zeros((0, *size), bool), np.zeros((1, *size), bool),
                      np.ones((2, *size), bool)):
            np.testing.assert_array_equal(both(label, masks),
                                          np.where(label == 255, 0, label))


def test_order_and_copies_of_masks_do_not_matter():
    rng = np.random.default_rng(1)
    for _ in range(50):
        label, masks = random_case(rng)
        mixed = np.concatenate([masks, masks])[rng.permutation(2 * len(masks))]
        for rule in sam_merge.RULES:
            np.testing.assert_array_equal(sam_merge.merge(label, masks, rule),
                                          sam_merge.merge(label, mixed, rule))


def test_a_label_that_the_masks_trace_exactly_stays(both):
    label = grid("11.... 11.... ....22 ....22 ....22 ......")
    masks = np.stack([label == 1, label == 2, label == 0])
    for rule in sam_merge.RULES:
        np.testing.assert_array_equal(both(label, masks, rule), label)


def test_area_cap_stops_the_flood(both):
    whole = np.ones((1, *SIX), bool)
    label = grid("11.... 11.... ...... ...... ...... ......")
    assert (both(label, whole) == 1).all()
    np.testing.assert_array_equal(both(label, whole, area_cap=0.9), label)
    assert (both(label, whole, area_cap=1.0) == 1).all()


def test_overlaps_are_exact_above_float32():
    label = np.ones((4097, 4097), np.uint8)  # 16,785,409 > 2^24 pixels
    label[0, 0] = 2
    found = sam_merge.overlaps(label, np.ones((1, 4097, 4097), bool))
    assert found.shared_mk.tolist() == [[4097**2 - 1, 1]] and found.mask_m[0] == 4097**2


@pytest.mark.parametrize("options, message", [
    ({"rule": "max_iou_imp3"}, "'max_iou_imp3' is unknown; did you mean .*'max_iou_imp2'"),
    ({"coverage": "some"}, "--coverage 'some' is unknown; there are all, sequential"),
])
def test_unknown_words_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        sam_merge.merge(EXAMPLE_1, MASKS_1, **options)
