"""Felzenszwalb proposals: a partition per scale, merging by hand, the same twice."""

import numpy as np

from wsssjax.refine import felzenszwalb, propose, rle


def scene(rng, size=(60, 80)):
    """A noisy picture of three flat regions."""
    image = np.full((*size, 3), 60.0)
    image[10:40, 10:35] = (200, 40, 40)
    image[20:55, 50:75] = (40, 200, 220)
    return np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)


def masks_of(image, **changes):
    by = felzenszwalb.describe(**(propose.FELZENSZWALB | changes))
    records = felzenszwalb.propose(image, by)
    return records, np.stack([rle.decode(rle.parse(r["counts"]), image.shape[:2])
                              for r in records])


def test_objects_of_a_simple_scene_are_among_the_proposals():
    _, masks = masks_of(scene(np.random.default_rng(0)), scales=(300.0,), min_part=0.01)
    for box in (np.s_[10:40, 10:35], np.s_[20:55, 50:75]):
        want = np.zeros(masks.shape[1:], bool)
        want[box] = True
        best = max((m & want).sum() / (m | want).sum() for m in masks)
        assert best > 0.85


def test_each_scale_covers_every_pixel_once():
    image = scene(np.random.default_rng(1))
    _, masks = masks_of(image, scales=(50.0,), max_part=1.0)
    assert (masks.sum(0) == 1).all()


def test_no_mask_twice_none_too_large_and_the_same_again():
    image = scene(np.random.default_rng(2))
    records, masks = masks_of(image, scales=(30.0, 30.0, 100.0), merges=20, max_part=0.5)
    assert len({r["counts"] for r in records}) == len(records)
    assert max(r["area"] for r in records) <= 0.5 * 60 * 80
    assert [r["area"] for r in records] == masks.sum((1, 2)).tolist()
    assert records == masks_of(image, scales=(30.0, 30.0, 100.0), merges=20, max_part=0.5)[0]


def test_merging_joins_the_most_similar_neighbours_first():
    region = np.array([[0, 0, 1, 1, 2, 2, 3, 3]])
    colours = np.array([10, 12, 200, 90], np.uint8)  # 3 is nearer to 1, but touches only 2
    image = np.repeat(colours[region][..., None], 3, axis=2)
    joined = felzenszwalb.merge_similar(image, region, merges=9)
    assert [np.flatnonzero(j).tolist() for j in joined] == [[0, 1], [2, 3], [0, 1, 2, 3]]
    assert len(felzenszwalb.merge_similar(image, region, merges=1)) == 1
    np.testing.assert_array_equal(felzenszwalb.neighbours(region, 4),
                                  np.eye(4, k=1, dtype=bool) | np.eye(4, k=-1, dtype=bool))


def test_a_photo_of_one_colour_and_one_pixel():
    for size in ((1, 1), (5, 7)):
        records, masks = masks_of(np.zeros((*size, 3), np.uint8), max_part=1.0, merges=5)
        assert len(records) == 1 and masks.all()
