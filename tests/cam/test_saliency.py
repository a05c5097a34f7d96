"""Barrier distance against the exact one; saliency against what people marked in photos."""

import itertools
import time

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from wsssjax.cam import saliency


def exact_barrier(values_hw):
    """The exact minimum barrier distance: over all value ranges, who reaches the border inside."""
    h, w = values_hw.shape
    border = np.zeros((h, w), bool)
    border[[0, -1]] = border[:, [0, -1]] = True
    best = np.full((h, w), np.inf)
    levels = np.unique(values_hw)
    for low, high in itertools.combinations_with_replacement(levels, 2):
        inside = (values_hw >= low) & (values_hw <= high)
        parts, _ = ndimage.label(inside)
        reached = np.isin(parts, np.unique(parts[border & inside])) & (parts > 0)
        best[reached] = np.minimum(best[reached], high - low)
    return best


def test_distance_is_never_below_exact_and_close_to_it():
    rng = np.random.default_rng(0)
    errors = []
    for h, w in [(9, 12), (14, 7), (16, 16)] * 3:
        blurred = ndimage.gaussian_filter(rng.standard_normal((h, w)), 1.5)
        values = np.rint(12 * blurred / blurred.std()).astype(np.float32)
        got, want = saliency.barrier_distance(values), exact_barrier(values)
        assert (got >= want).all()
        errors.append((got - want).mean() / want.mean())
    assert np.mean(errors) < 0.1
    # Enough sweeps settle; what is left is the error of keeping one path per pixel.
    settled = saliency.barrier_distance(values, scans=60)
    np.testing.assert_array_equal(settled, saliency.barrier_distance(values, scans=61))
    assert (settled <= got).all() and (settled - want).mean() < 0.15 * want.mean()


def test_distance_is_exact_where_one_barrier_surrounds_a_plateau():
    values = np.zeros((11, 13), np.float32)
    values[3:8, 4:9] = 7.0  # wall and plateau
    values[5, 6] = -2.0  # a pit inside must still cross the wall: barrier 7 - (-2)
    got = saliency.barrier_distance(values)
    np.testing.assert_array_equal(got, exact_barrier(values))
    assert got[5, 6] == 9.0 and got[4, 5] == 7.0 and got[0, 0] == 0.0


def test_spiral_needs_more_than_one_sweep():
    """A corridor that turns back on itself: one raster sweep cannot walk it, several can."""
    values = np.full((9, 9), 9.0, np.float32)
    corridor = [(0, 1), *((i, 1) for i in range(8)), *((7, j) for j in range(1, 8)),
                *((i, 7) for i in range(7, 1, -1)), *((2, j) for j in range(7, 3, -1)), (3, 4)]
    for spot in corridor:
        values[spot] = 0.0
    assert exact_barrier(values)[3, 4] == 0.0
    assert saliency.barrier_distance(values, scans=1)[3, 4] == 9.0
    assert saliency.barrier_distance(values, scans=4)[3, 4] == 0.0


def test_object_apart_from_the_border_is_salient():
    image = np.full((90, 120, 3), (60, 120, 60), np.uint8)
    image[30:60, 45:80] = (200, 40, 30)
    found = saliency.saliency(image)
    assert found.shape == (90, 120) and found.dtype == np.uint8
    assert found[32:58, 47:78].min() > 200 and found[:20].max() < 20
    np.testing.assert_array_equal(saliency.saliency(image[:, ::-1])[:, ::-1], found)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (2, 3), (700, 5)])
def test_odd_and_flat_photos_give_a_map_of_their_size(size):
    found = saliency.saliency(np.full((*size, 3), 77, np.uint8))
    assert found.shape == size and found.max() - found.min() <= 255


def test_real_photos_against_truth(shared):
    """Far better than the centre prior it includes, on photos nobody tuned it on."""
    root = shared / "data" / "voc_small"
    ids = (root / "train.txt").read_text().split()[::40]
    hits = np.zeros((2, 256)), np.zeros((2, 256))
    marked = 0
    for name in ids:
        image = np.asarray(Image.open(root / "JPEGImages" / f"{name}.jpg").convert("RGB"))
        truth = np.asarray(Image.open(root / "SegmentationClassAug" / f"{name}.png"))
        h, w = truth.shape
        centre = saliency._centre(np.full((h, w), 255.0)).astype(np.uint8)
        for row, found in enumerate((saliency.saliency(image), centre)):
            for total, chosen in zip(hits, ((truth > 0) & (truth < 255), truth < 255), strict=True):
                total[row] += np.bincount(found[chosen], minlength=256)[::-1].cumsum()
        marked += ((truth > 0) & (truth < 255)).sum()
    precision, recall = hits[0] / np.maximum(hits[1], 1), hits[0] / marked
    best = (1.3 * precision * recall / np.maximum(0.3 * precision + recall, 1e-9)).max(1)
    assert best[0] > 0.5 and best[0] > best[1] + 0.05, best


def test_fast_enough():
    image = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    saliency.saliency(image)  # compiles
    start = time.process_time()
    for _ in range(5):
        saliency.saliency(image)
    assert (time.process_time() - start) / 5 < 0.2  # seconds; 0.007 on an idle core
