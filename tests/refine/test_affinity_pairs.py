"""Pairs, their distances and losses against loops over pixels written out in numpy."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wsssjax.refine import affinity, affinity_pairs
from wsssjax.refine.affinity_pairs import OFFSETS


def loop(h, w):
    """(offset index, source, destination) of each pair, by the definition."""
    for n, (dy, dx) in enumerate(OFFSETS):
        for y in range(h - 4):
            for x in range(4, w - 4):
                yield n, (y, x), (y + dy, x + dx)


def test_the_offsets_are_the_half_plane_below_five():
    want = [(0, dx) for dx in (1, 2, 3, 4)]
    want += [(dy, dx) for dy in (1, 2, 3, 4) for dx in range(-4, 5) if dy**2 + dx**2 < 25]
    assert list(OFFSETS) == want and len(want) == 34
    assert [sum(dy == row for dy, _ in OFFSETS) for row in range(5)] == [4, 9, 9, 7, 5]
    assert not {(-dy, -dx) for dy, dx in OFFSETS} & set(OFFSETS)


def test_a_crop_of_448_pixels_has_84864_pairs():
    shape = jax.eval_shape(affinity_pairs.distances, jnp.zeros((1, 56, 56, 448))).shape
    assert shape == (1, 34, 52, 48) and np.prod(shape) == 84_864


@pytest.mark.parametrize("grid", [(9, 11), (5, 9)])
def test_distances_and_their_gradient_equal_a_loop(grid):
    rng = np.random.default_rng(0)
    f = rng.integers(-3, 4, (2, *grid, 5)).astype(np.float32)  # with ties, whose gradient is 0
    got, pull = jax.vjp(affinity_pairs.distances, jnp.asarray(f))
    slope = rng.normal(size=got.shape).astype(np.float32)
    want, grad = np.zeros(got.shape), np.zeros(f.shape)
    for n, (y, x), (v, u) in loop(*grid):
        d = f[:, y, x] - f[:, v, u]
        want[:, n, y, x - 4] = np.abs(d).mean(-1)
        change = slope[:, n, y, x - 4, None] * np.sign(d) / 5
        grad[:, y, x] += change
        grad[:, v, u] -= change
    np.testing.assert_allclose(got, want, rtol=1e-6)
    np.testing.assert_allclose(pull(jnp.asarray(slope))[0], grad, atol=1e-5)


def random_labels(rng, shape):
    return rng.choice([0, 0, 1, 4, 255], shape).astype(np.int32)


def test_kinds_equal_a_loop():
    label = random_labels(np.random.default_rng(1), (3, 8, 13))
    got = affinity_pairs.kinds(jnp.asarray(label))
    assert all(kind.sum() for kind in got)
    for b in range(3):
        for n, source, end in loop(8, 13):
            one, two = label[b][source], label[b][end]
            place = (b, n, source[0], source[1] - 4)
            valid = one < 255 and two < 255
            assert bool(got.background[place]) == (one == two == 0)
            assert bool(got.foreground[place]) == (valid and one == two != 0)
            assert bool(got.negative[place]) == (valid and one != two)


@pytest.mark.parametrize("values", [(0, 0, 1, 4, 255), (0,), (3,), (255,), (0, 255), (1, 2)])
def test_loss_equals_a_loop(values):
    """Kinds without a pair add nothing; no kind at all gives 0, and no NaN in the gradient."""
    rng = np.random.default_rng(2)
    f = (0.3 * rng.normal(size=(2, 7, 12, 6))).astype(np.float32)
    label = rng.choice(values, (2, 7, 12)).astype(np.int32)
    sums, counts = np.zeros(3), np.zeros(3)
    for _, (y, x), (v, u) in loop(7, 12):
        for b in range(2):
            one, two = label[b, y, x], label[b, v, u]
            if 255 in (one, two):
                continue
            kind = 2 if one != two else int(one != 0)
            a = np.exp(-np.abs(np.float64(f[b, y, x]) - f[b, v, u]).mean())
            sums[kind] -= np.log(1 + 1e-5 - a) if kind == 2 else np.log(a + 1e-5)
            counts[kind] += 1
    parts_want = sums / (counts + 1e-5)
    (loss, parts), grad = jax.value_and_grad(affinity.affinity_loss, has_aux=True)(
        jnp.asarray(f), jnp.asarray(label))
    np.testing.assert_allclose([parts[n] for n in ("loss_bg", "loss_fg", "loss_neg")], parts_want,
                               rtol=2e-5, atol=1e-7)
    np.testing.assert_allclose(loss, parts_want @ [0.25, 0.25, 0.5], rtol=2e-5, atol=1e-7)
    assert np.isfinite(grad).all() and bool(np.abs(grad).max() > 0) == bool(counts.any())


def test_features_that_are_all_equal_give_no_nan():
    label = jnp.asarray(random_labels(np.random.default_rng(3), (1, 9, 9)))
    loss, grad = jax.value_and_grad(lambda f: affinity.affinity_loss(f, label)[0])(
        jnp.zeros((1, 9, 9, 4)))
    assert np.isfinite(loss) and (np.asarray(grad) == 0).all()


@pytest.mark.parametrize("module, count", [(affinity_pairs, 5), (affinity, 4)])
def test_examples_in_docstrings(module, count):
    assert doctest.testmod(module) == (0, count)
