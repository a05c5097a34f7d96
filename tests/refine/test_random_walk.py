"""The stencil walk against the dense matrix in float64, a table of known values, and its facts."""

import doctest

import numpy as np
import pytest

from wsssjax.refine import random_walk

WHERE = ((3, 5), (3, 4), (3, 6), (6, 2), (5, 8), (8, 6), (0, 0))
TABLE = {  # (border, steps): values at WHERE and the sum, of the published transition matrices
    ("psa", 1): ((0.125476, 0.087204, 0.005726, 0.055201, 0.003907, 0, 0), 1.890651),
    ("psa", 4): ((0.057765, 0.057528, 0.008207, 0.061573, 0.007359, 0.003579, 0), 2.296345),
    ("psa", 256): ((0.024389, 0.024389, 0.024388, 0.024389, 0.024388, 0.024388, 0), 2.390065),
    ("inside", 1): ((0.091733, 0.057533, 0.004882, 0.006855, 0.000758, 0, 0), 0.916960),
    ("inside", 4): ((0.019381, 0.019210, 0.002905, 0.013592, 0.001607, 0.001599, 0.019007),
                    0.971344),
    ("inside", 256): ((0.009073, 0.009074, 0.009055, 0.009074, 0.009054, 0.009055, 0.009075),
                      0.978942),
}


def edges(h, w, border):
    """Pairs of flat indices, from a plain search over all pixels within the radius."""
    for y in range(h):
        for x in range(w):
            if border == "psa" and not (y < h - 4 and 4 <= x < w - 4):
                continue
            for dy in range(5):
                for dx in range(-4, 5):
                    if (dy == 0 and dx <= 0) or dy * dy + dx * dx >= 25:
                        continue
                    if y + dy < h and 0 <= x + dx < w:
                        yield y * w + x, (y + dy) * w + x + dx


def dense(features_hwd, beta, border):
    """T in float64: columns sum to 1."""
    h, w, d = features_hwd.shape
    f = features_hwd.reshape(-1, d).astype(np.float64)
    a = np.eye(h * w)
    for i, j in edges(h, w, border):
        a[i, j] = a[j, i] = np.exp(-np.abs(f[i] - f[j]).mean()) ** beta
    return a / a.sum(0)


def steps_of(grid):
    """Features of the known table: two ramps and a step."""
    r, c = np.mgrid[: grid[0], : grid[1]]
    return np.stack([0.2 * r, 0.1 * c, c >= 6], -1).astype(np.float32)


@pytest.mark.parametrize("border, steps", TABLE)
def test_known_values(border, steps):
    impulse = np.zeros((1, 9, 12), np.float32)
    impulse[0, 3, 5] = 1
    got = random_walk.walk(impulse, steps_of((9, 12)), steps=steps, border=border)[0]
    want, total = TABLE[border, steps]
    np.testing.assert_allclose([got[p] for p in WHERE], want, atol=2e-6)
    np.testing.assert_allclose(got.sum(), total, atol=4e-6)


@pytest.mark.parametrize("border, count", [("psa", 680), ("inside", 2364)])
def test_the_pairs_are_those_of_a_plain_search(border, count):
    """On a padded grid, as the walk sees it."""
    features = np.zeros((16, 16, 1), np.float32)
    found = random_walk._affinities(features, np.int32([9, 12]), 8.0, border == "psa")
    offsets = random_walk.OFFSETS
    got = [(y * 12 + x, (y + offsets[n][0]) * 12 + x + offsets[n][1])
           for n, y, x in np.argwhere(found)]
    assert len(got) == count and set(got) == set(edges(9, 12, border))


@pytest.mark.parametrize("border", random_walk.BORDERS)
@pytest.mark.parametrize("grid", [(24, 31), (5, 9), (3, 2), (1, 1), (16, 16)])
def test_equals_the_dense_matrix(border, grid):
    rng = np.random.default_rng(sum(grid))
    # Smooth features with an edge, of the spread that a trained network's have.
    y, x = np.mgrid[: grid[0], : grid[1]] / 10
    waves = rng.normal(size=(3, 24))
    features = np.sin(y[..., None] * waves[0] + x[..., None] * waves[1] + waves[2])
    features = (0.5 * features + (x > 0.8)[..., None] * 0.3).astype(np.float32)
    scores = rng.random((3, *grid)).astype(np.float32)
    got = random_walk.walk(scores, features, beta=8.0, steps=256, border=border)
    t = np.linalg.matrix_power(dense(features, 8.0, border), 256)
    want = (scores.reshape(3, -1) @ t).reshape(scores.shape)
    np.testing.assert_allclose(got, want, atol=3e-6)


def test_results_are_weighted_means():
    rng = np.random.default_rng(0)
    scores = rng.random((4, 20, 13)).astype(np.float32)
    scores[2], scores[3] = 0.0, 0.7  # an absent class, a constant channel
    features = rng.normal(size=(20, 13, 8)).astype(np.float32)
    got = random_walk.walk(scores, features)
    for one, out in zip(scores, got, strict=True):
        assert one.min() - 1e-6 <= out.min() and out.max() <= one.max() + 1e-6
    assert (got[2] == 0).all()
    assert (got[3] == np.float32(0.7)).all()  # to the bit, after 256 steps
    assert np.ptp(got[0]) < 0.8 * np.ptp(scores[0])


def test_ten_pixels_at_the_published_border_keep_their_scores():
    h, w = 12, 15
    rng = np.random.default_rng(1)
    scores = rng.random((1, h, w)).astype(np.float32)
    features = np.zeros((h, w, 4), np.float32)  # all alike: whoever has a partner mixes
    got = random_walk.walk(scores, features, steps=3, border="psa")[0]
    alone = {tuple(map(int, p)) for p in np.argwhere(got == scores[0])}
    assert alone == {(0, 0), (0, 1), (0, 2), (0, 3), (h - 2, 0), (h - 1, 0), (h - 1, 1),
                     (h - 2, w - 1), (h - 1, w - 2), (h - 1, w - 1)}
    sound = random_walk.walk(scores, features, steps=3)[0]
    assert (np.abs(sound - scores[0]) > 1e-4).mean() > 0.95


def test_the_padded_grid_leaves_no_trace():
    """A grid that fills its padded one exactly, and the same cut down, agree far from the cut."""
    rng = np.random.default_rng(2)
    features = rng.normal(size=(16, 24, 6)).astype(np.float32)
    scores = rng.random((2, 16, 24)).astype(np.float32)
    whole = random_walk.walk(scores, features, steps=2)
    part = random_walk.walk(scores[:, :, :21], features[:, :21], steps=2)
    np.testing.assert_allclose(part[:, :, :13], whole[:, :, :13], atol=1e-6)
    three = random_walk.walk(np.repeat(scores[:1], 3, 0), features, steps=2)
    np.testing.assert_array_equal(three, np.repeat(whole[:1], 3, 0))


def test_mirrored_in_mirrored_out():
    rng = np.random.default_rng(3)
    features = 0.1 * rng.normal(size=(11, 14, 6)).astype(np.float32)
    scores = rng.random((2, 11, 14)).astype(np.float32)
    for border in random_walk.BORDERS:  # published pairs of one row reach right only
        got = random_walk.walk(scores, features, steps=9, border=border)
        flipped = random_walk.walk(scores[:, :, ::-1], features[:, ::-1], steps=9, border=border)
        same = np.abs(flipped[:, :, ::-1] - got).max()
        assert same < 1e-6 if border == "inside" else same > 1e-4


def test_block_means_count_zeros_beyond_the_photo():
    rng = np.random.default_rng(4)
    maps = rng.random((3, 13, 22)).astype(np.float32)
    padded = np.zeros((3, 16, 24))
    padded[:, :13, :22] = maps
    want = padded.reshape(3, 2, 8, 3, 8).mean((2, 4))
    np.testing.assert_allclose(random_walk.block_means(maps), want, rtol=1e-5)


def test_enlarging_equals_torch_on_the_padded_frame():
    torch = pytest.importorskip("torch")
    maps = np.random.default_rng(5).random((2, 3, 5)).astype(np.float32)
    want = torch.nn.functional.interpolate(torch.tensor(maps)[None], scale_factor=8,
                                           mode="bilinear", align_corners=False)[0].numpy()
    np.testing.assert_allclose(random_walk.enlarge(maps, (20, 33)), want[:, :20, :33], atol=1e-6)


def test_the_background_scores_before_the_padding():
    """The last, half-empty column of blocks holds half of each score, background included."""
    cam = np.full((1, 8, 12), 0.5, np.float32)
    grid = random_walk.block_means(random_walk.with_background(cam, 2.0))
    np.testing.assert_allclose(grid[:, 0], [[0.25, 0.125], [0.5, 0.25]])


def test_an_unknown_border_is_named():
    with pytest.raises(ValueError, match="--border 'insid' is unknown; did you mean 'inside'"):
        random_walk.walk(np.zeros((1, 2, 2)), np.zeros((2, 2, 1)), border="insid")


def test_examples_in_docstrings():
    assert doctest.testmod(random_walk) == (0, 9)
