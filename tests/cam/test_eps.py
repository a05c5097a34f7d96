"""EPS losses against a loop over images, classes and pixels, and what follows from the formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wsssjax.cam import eps

OPTIONS = {"selection": "adaptive", "overlap_min": 0.4, "mix": 0.5, "banned": (1,)}


def slow_loss(logits, saliency, tags, *, selection, overlap_min, mix, banned):
    """The loss written as the paper's sums, in float64, without any array arithmetic on maps."""
    total, count = 0.0, 0
    b, p, q, k = logits.shape
    for n in range(b):
        thin = np.array([[saliency[n, i * saliency.shape[1] // p, j * saliency.shape[2] // q]
                          for j in range(q)] for i in range(p)])
        raw = np.exp(logits[n].astype(np.float64))
        maps = raw / raw.sum(-1, keepdims=True)
        foreground, background = np.zeros((p, q)), maps[..., k - 1].copy()
        for c in range(k - 1):
            on = maps[..., c] > 0.5
            share = (on & (thin > 0.5)).sum() / (on.sum() + 1e-4 * p * q)
            taken = {"adaptive": share > overlap_min, "naive": True,
                     "predefined": c not in banned}[selection]
            if tags[n, c] and taken:
                foreground += maps[..., c]
            elif tags[n, c]:
                background += maps[..., c]
        estimate = mix * foreground + (1 - mix) * (1 - background)
        total += ((estimate - thin) ** 2).sum()
        count += p * q
    return total, count


def random_case(seed, spread=4.0):
    rng = np.random.default_rng(seed)
    logits = (spread * rng.standard_normal((3, 7, 9, 5))).astype(np.float32)
    saliency = rng.random((3, 56, 71)).astype(np.float32)
    tags = (rng.random((3, 4)) < 0.6).astype(np.float32)
    tags[2] = 0  # an image without any tag
    return logits, saliency, tags


@pytest.mark.parametrize("selection", ["adaptive", "naive", "predefined"])
@pytest.mark.parametrize("mix", [0.5, 0.9])
def test_loss_equals_slow_one(selection, mix):
    for seed in range(4):
        case = random_case(seed)
        options = {**OPTIONS, "selection": selection, "mix": mix}
        total, count = jax.jit(lambda *a, o=options: eps.saliency_loss(*a, **o))(*case)
        want, want_count = slow_loss(*case, **options)
        assert count == want_count
        np.testing.assert_allclose(total, want, rtol=2e-6)


def test_overlap_counts_epsilon_per_pixel_and_excludes_one_half():
    maps = np.zeros((1, 4, 4, 3), np.float32)
    maps[0, :2, :, 0] = 0.9  # 8 pixels, 4 of them salient
    maps[0, :, :, 1] = 0.5  # exactly one half: no pixel
    saliency = np.zeros((1, 4, 4), np.float32)
    saliency[0, 0] = 0.51
    saliency[0, 3] = 0.5  # not salient
    share = eps.overlap(jnp.array(maps), jnp.array(saliency))
    np.testing.assert_allclose(share, [[4 / (8 + 16e-4), 0, 0]], rtol=1e-6)


def test_uniform_maps_put_every_tagged_class_on_the_background_side():
    """Early in training no map is above 0.5: adaptive selection equals choosing none of them."""
    _, saliency, tags = random_case(0)
    logits = np.zeros((3, 7, 9, 5), np.float32)
    got = eps.saliency_loss(logits, saliency, tags, **OPTIONS)[0]
    banned = {**OPTIONS, "selection": "predefined", "banned": (0, 1, 2, 3)}
    assert got == eps.saliency_loss(logits, saliency, tags, **banned)[0]


def test_without_a_chosen_class_the_estimate_stays_at_or_below_one_half():
    logits, saliency, tags = random_case(1, spread=6.0)
    maps = jax.nn.softmax(logits)
    thin = saliency[:, ::8, ::8][:, :7, :9]
    estimate = eps.estimated_saliency(maps, thin, tags, **{**OPTIONS, "overlap_min": 1.0})
    assert estimate.max() <= 0.5 and estimate.max() > 0.4


def test_one_minus_background_is_foreground_plus_absent_classes():
    logits, _, tags = random_case(2)
    maps = jax.nn.softmax(logits)
    thin = jnp.zeros((3, 7, 9))
    naive = {**OPTIONS, "selection": "naive"}
    foreground = eps.estimated_saliency(maps, thin, tags, **{**naive, "mix": 1.0})
    rest = eps.estimated_saliency(maps, thin, tags, **{**naive, "mix": 0.0})
    absent = jnp.einsum("bpqk,bk->bpq", maps[..., :-1], 1 - tags)
    np.testing.assert_allclose(rest, foreground + absent, atol=1e-6)


def test_absent_classes_receive_gradient_through_the_softmax():
    logits, saliency, tags = random_case(3)
    tags = np.tile(np.float32([1, 0, 1, 0]), (3, 1))
    grads = jax.grad(lambda x: eps.saliency_loss(x, saliency, tags, **OPTIONS)[0])(logits)
    assert (np.abs(grads).max((0, 1, 2)) > 1e-3).all()


def test_selection_is_one_decision_per_class_and_image_without_gradient():
    """A class whose map is salient in one image and not in another is split between the sides."""
    logits = np.full((2, 4, 4, 3), -6.0, np.float32)
    logits[:, :2, :, 0] = 6.0  # class 0 covers the upper half of both images
    logits[:, 2:, :, 2] = 6.0  # the background the lower half
    saliency = np.zeros((2, 4, 4), np.float32)
    saliency[0, :2] = 1.0  # image 0: the map is salient; image 1: it is not
    tags = np.tile(np.float32([1, 0]), (2, 1))
    estimate = eps.estimated_saliency(jax.nn.softmax(logits), saliency, tags, **OPTIONS)
    np.testing.assert_allclose(estimate, saliency, atol=1e-4)


def test_zero_padding_is_supervised_as_background():
    logits, saliency, tags = random_case(4)
    saliency[:, 28:] = 0.0
    options = {**OPTIONS, "selection": "naive"}
    grads = jax.grad(lambda x: eps.saliency_loss(x, saliency, tags, **options)[0])(logits)
    # Descent raises the background's logit wherever the crop is padding.
    assert (np.asarray(grads)[:, 4:, :, -1] < 0).all()


def test_none_compares_saliency_with_what_the_background_leaves():
    logits, _, tags = random_case(5)
    maps = jax.nn.softmax(logits)
    options = {**OPTIONS, "selection": "none"}
    estimate = eps.estimated_saliency(maps, jnp.zeros((3, 7, 9)), tags, **options)
    np.testing.assert_allclose(estimate, maps[..., :-1].sum(-1), atol=1e-6)


def test_saliency_is_thinned_to_every_eighth_pixel():
    """Changing pixels that legacy nearest skips changes nothing; centres are skipped."""
    logits, saliency, tags = random_case(6)
    saliency = saliency[:, :56, :56]
    logits = np.ascontiguousarray(np.concatenate([logits, logits], 2)[:, :, :7])
    loud = 1.0 - saliency
    loud[:, ::8, ::8] = saliency[:, ::8, ::8]
    options = {**OPTIONS, "selection": "naive"}
    assert (eps.saliency_loss(logits, saliency, tags, **options)[0]
            == eps.saliency_loss(logits, loud, tags, **options)[0])
