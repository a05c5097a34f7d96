"""Vectors of the published rule, corners that divide by zero, and numpy against jax."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wsssjax.core import difference

K = np.array([[[1, 1, 0], [2, 0, 0]]])
A = np.array([[[1, 0, 0], [2, 2, 0]]])
SIGMA_K = np.array([[[0.9, 0.2, 0.1], [0.1, 0.3, 0.1]]], np.float32)
SIGMA_A = np.array([[[0.1, 0.7, 0.1], [0.1, 0.6, 0.1]]], np.float32)
TAGS = np.array([[1.0, 1.0, 0.0, 0.0]], np.float32)


def logit(p):
    return np.log(p / (1 - p))


@pytest.fixture(params=[np.asarray, jnp.asarray], ids=["numpy", "jax"])
def give(request):
    """Makes the arrays of one kind or the other, and checks that a result is of that kind."""
    def arrays(*values):
        return [request.param(x) for x in values]

    return arrays


@pytest.mark.parametrize("bias, ground, want", [
    (0.4, 0.0, [[1, 1, 0], [2, 2, 0]]),
    (0.1, 0.1, [[1, 1, 0], [2, 0, 0]]),
    (0.55, 0.0, [[1, 0, 0], [2, 2, 0]]),
])
def test_integration_vectors(give, bias, ground, want):
    k, a, sk, sa, tags = give(K, A, SIGMA_K, SIGMA_A, TAGS)
    flags = difference.class_flags(k, a, tags)
    assert not np.asarray(flags).any(), "exactly half of class 1 is kept, and class 2 grew"
    got = difference.integrate(k, a, sk, sa, flags, bias, ground)
    assert type(got) is type(k)
    assert np.asarray(got)[0].tolist() == want
    weight = difference.preference(k, a, sk, sa, flags, 0.4)
    np.testing.assert_allclose(weight[0, 0, 1], -0.1, rtol=1e-5)
    np.testing.assert_allclose(weight[0, 1, 1], 0.1, rtol=1e-5)


def test_a_flagged_class_is_kept_whatever_the_network_says(give):
    k, a, tags = give(np.array([[[1, 1, 1], [0, 0, 0]]]), np.array([[[1, 0, 0], [0, 0, 0]]]),
                      np.array([[1.0, 0, 0, 0]]))
    sk, sa = give(SIGMA_K, SIGMA_A)
    flags = difference.class_flags(k, a, tags)
    assert np.asarray(flags).tolist() == [[False, True, False, False, False]]
    kept = difference.integrate(k, a, sk, sa, flags, 0.4)
    assert np.asarray(kept).tolist() == np.asarray(k).tolist()
    none = difference.integrate(k, a, sk, sa, flags & False, 0.4)
    assert np.asarray(none)[0, 0].tolist() == [1, 1, 0]


def test_a_flagged_class_is_taken_from_the_advice_too(give):
    """Class 1 moved: flagged, it is taken from either map, against any probability."""
    k, a, tags = give(np.array([[[1, 1, 1], [0, 0, 0]]]), np.array([[[0, 0, 0], [1, 0, 0]]]),
                      np.array([[1.0]]))
    ones, zeros = give(np.ones((1, 2, 3), np.float32), np.zeros((1, 2, 3), np.float32))
    flags = difference.class_flags(k, a, tags)
    got = difference.integrate(k, a, zeros, ones, flags, 0.4)
    assert np.asarray(got)[0].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_absent_classes(give):
    tags = TAGS.copy()
    tags[0, 3] = 1
    k, a, tags = give(K, A, tags)
    assert np.flatnonzero(difference.class_flags(k, a, tags)[0]).tolist() == [4]
    assert not np.asarray(difference.class_flags(k, a, tags, flag_absent=False)).any()
    # A class that appears is no loss; one that vanishes is, with either setting.
    grown = difference.class_flags(k * 0, a, tags, flag_absent=False)
    assert not np.asarray(grown).any()
    gone = difference.class_flags(k, a * 0, tags, flag_absent=False)
    assert np.flatnonzero(gone[0]).tolist() == [1, 2]


def test_untagged_classes_and_background_are_never_flagged(give):
    k, a, tags = give(np.array([[[0, 0, 0, 3, 3]]]), np.array([[[1, 1, 1, 1, 1]]]), TAGS * 0)
    assert not np.asarray(difference.class_flags(k, a, tags)).any()


def test_ties_go_to_the_advice(give):
    k, a, s, tags = give(K, A, SIGMA_K, TAGS)
    flags = difference.class_flags(k, a, tags)
    got = difference.integrate(k, a, s, s, flags, 0.0)
    assert np.asarray(got).tolist() == A.tolist()


def test_ignored_pixels_are_left_to_the_other_map(give):
    k, a, sk, sa, tags = give(np.array([[[255, 1, 255]]]), np.array([[[2, 255, 255]]]),
                              np.array([[[0.0, 1.0, 0.5]]]), np.array([[[1.0, 0.0, 0.5]]]), TAGS)
    flags = difference.class_flags(k, a, tags)
    for bias in (-1.0, 1.0):
        got = difference.integrate(k, a, sk, sa, flags, bias)
        assert np.asarray(got).tolist() == [[[2, 1, 255]]]
    assert np.asarray(difference.known(k, a)).tolist() == [[[False, False, False]]]


def test_loss_vectors():
    differ = jnp.asarray(K != A)
    keep = jnp.ones(K.shape, bool)
    for sigma, want, means in ((SIGMA_K, 1.0307, (0.6547, 1.4067)), (SIGMA_A, 0.2696, None)):
        sums, counts = difference.difference_loss(jnp.asarray(logit(sigma)), differ, keep)
        assert counts.tolist() == [[4, 2]]
        np.testing.assert_allclose(difference.balanced(sums, counts), [want], atol=5e-5)
        if means:
            np.testing.assert_allclose((sums / counts)[0], means, atol=5e-5)
            np.testing.assert_allclose(sums.sum() / counts.sum(), 0.9053, atol=5e-5)


@pytest.mark.parametrize("same", [True, False], ids=["agree everywhere", "differ everywhere"])
def test_loss_is_finite_where_one_kind_of_pixel_is_missing(same):
    logits = jnp.asarray(logit(SIGMA_K))
    differ = jnp.full(K.shape, not same)

    def loss(z):
        return difference.balanced(*difference.difference_loss(
            z, differ, jnp.ones(K.shape, bool))).sum()

    value, grad = jax.value_and_grad(loss)(logits)
    p = SIGMA_K if not same else 1 - SIGMA_K
    np.testing.assert_allclose(value, 0.5 * -np.log(p).mean(), rtol=1e-5)
    assert np.isfinite(grad).all() and (np.asarray(grad) != 0).all()
    empty, grad = jax.value_and_grad(lambda z: difference.balanced(*difference.difference_loss(
        z, differ, jnp.zeros(K.shape, bool))).sum())(logits)
    assert empty == 0 and (np.asarray(grad) == 0).all()


def test_loss_of_extreme_logits_is_finite():
    logits = jnp.asarray([[[1e4, -1e4]]])
    sums, _ = difference.difference_loss(logits, jnp.asarray([[[False, True]]]),
                                         jnp.ones((1, 1, 2), bool))
    assert sums.tolist() == [[1e4, 1e4]]


def test_flagged_images_are_skipped():
    flags = jnp.asarray([[False, True], [False, False], [False, False]])
    assert [float(x) for x in difference.unflagged(jnp.asarray([5.0, 1.0, 2.0]), flags)] == [3, 2]
    total, count = difference.unflagged(jnp.asarray([jnp.nan]), flags[:1])
    assert float(difference.divided(total, count)) == 0


def test_labels_and_energies_keep_to_the_tags():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 30, (2, 4, 5, 5)).astype(np.float32)
    logits[0, 0, 0] = [-500, 0, -600, 900, 0]
    tags = np.array([[0, 1, 0, 0], [0, 0, 0, 0]], np.float32)
    got = np.asarray(difference.present_labels(jnp.asarray(logits), jnp.asarray(tags)))
    p = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    y = np.concatenate([np.ones((2, 1)), tags], 1)[:, None, None]
    np.testing.assert_array_equal(got, (p * y + 1e-4 * y).argmax(-1))
    assert set(np.unique(got[0])) == {0, 2} and set(np.unique(got[1])) == {0}

    energy = np.asarray(difference.present_energy(jnp.asarray(logits), jnp.asarray(tags)))
    few = logits[0][..., [0, 2]].astype(np.float64)
    want = -(few - np.logaddexp.reduce(few, -1, keepdims=True))
    want = np.minimum(want, -np.log(1e-5))
    np.testing.assert_allclose(energy[0][..., [0, 2]], want, rtol=1e-5, atol=1e-5)
    assert (np.exp(-energy[0][..., [1, 3, 4]]) == 0).all()


def test_examples():
    assert doctest.testmod(difference).attempted > 8
    assert not doctest.testmod(difference).failed
