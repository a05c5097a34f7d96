"""The dense CRF against pydensecrf2, against the exact kernel, and against numbers worked out."""

import doctest
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from wsssjax.core import crf

SHARED = pathlib.Path(os.environ.get(
    "WSSSJAX_SHARED", pathlib.Path(__file__).parents[3] / "shared"))
PATHS = {
    "host": crf.infer,
    "compiled": crf.infer_compiled,
    "mean_field": lambda u, i, how: np.asarray(jax.jit(crf.mean_field, static_argnums=2)(
        u[None], i[None], how)[0]),
}
NORMALIZATION_NAMES = {"none": "NO_NORMALIZATION", "before": "NORMALIZE_BEFORE",
                       "after": "NORMALIZE_AFTER", "symmetric": "NORMALIZE_SYMMETRIC"}


def library(unary_hwk, image_hwc, how):
    """The same Q by pydensecrf2."""
    densecrf = pytest.importorskip("pydensecrf.densecrf")
    h, w, k = unary_hwk.shape
    model = densecrf.DenseCRF2D(w, h, k)
    model.setUnaryEnergy(np.ascontiguousarray(unary_hwk.reshape(-1, k).T.astype(np.float32)))
    for kernel in how.kernels:
        compat = np.asarray(kernel.compat, np.float32)
        options = {"sxy": kernel.sxy, "compat": compat if compat.ndim else float(compat),
                   "normalization": getattr(densecrf, NORMALIZATION_NAMES[kernel.normalization])}
        if kernel.srgb is None:
            model.addPairwiseGaussian(**options)
        else:
            model.addPairwiseBilateral(srgb=kernel.srgb, rgbim=np.array(image_hwc),
                                       **options)
    return np.array(model.inference(how.iterations)).reshape(k, h, w).transpose(1, 2, 0)


def scene(seed=0, size=(37, 53), k=5):
    """A noisy image with a few flat regions, and scores that follow it loosely."""
    rng = np.random.default_rng(seed)
    h, w = size
    region_hw = (np.add.outer(np.arange(h) * 3 // h, np.arange(w) * 3 // w)) % k
    image_hwc = rng.integers(0, 256, (k, 3))[region_hw] + rng.integers(-20, 21, (h, w, 3))
    scores_hwk = rng.random((h, w, k)) + 0.7 * np.eye(k)[region_hw]
    scores_hwk = (scores_hwk / scores_hwk.sum(-1, keepdims=True)).astype(np.float32)
    return image_hwc.clip(0, 255).astype(np.uint8), crf.scores_to_unary(scores_hwk)


# ---- against the library -----------------------------------------------------------------------


@pytest.mark.parametrize("path, name", [
    ("host", "psa"), ("host", "irn"), ("host", "deeplab"), ("host", "ssdd_loop"),
    ("compiled", "psa"), ("compiled", "irn"), ("mean_field", "ssdd_loop")])
def test_presets_match_the_library(path, name):
    image_hwc, unary_hwk = scene()
    how = crf.PRESETS[name]
    want = library(unary_hwk, image_hwc, how)
    got = PATHS[path](unary_hwk, image_hwc, how)
    assert np.ptp(want) > 0.5
    # A point on the border of two simplices may fall on either side: a few pixels, not all.
    off = np.abs(got - want)
    assert (off > 1e-4).mean() < 1e-3, off.max()
    np.testing.assert_allclose(got.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize("path, kind", [
    *(("host", kind) for kind in crf.NORMALIZATIONS), ("compiled", "before")])
def test_normalizations_match_the_library(path, kind):
    image_hwc, unary_hwk = scene(1)
    weight = 0.002 if kind == "none" else 4.0  # row sums of K are 60 and more
    how = crf.Preset((crf.Kernel(3, None, weight, kind), crf.Kernel(9, 20, 2 * weight, kind)), 4)
    want = library(unary_hwk, image_hwc, how)
    off = np.abs(PATHS[path](unary_hwk, image_hwc, how) - want)
    assert (off > 1e-4).mean() < 1e-3, off.max()
    other = how._replace(kernels=tuple(k._replace(normalization="symmetric" if kind != "symmetric"
                                                  else "after") for k in how.kernels))
    assert np.abs(library(unary_hwk, image_hwc, other) - want).max() > 1e-3  # the kinds differ


@pytest.mark.parametrize("path", ["host", "compiled"])
@pytest.mark.parametrize("shape", ["vector", "matrix"])
def test_other_compatibilities_match_the_library(shape, path):
    image_hwc, unary_hwk = scene(2, k=4)
    rng = np.random.default_rng(3)
    if shape == "vector":  # the sign is not turned: a Potts-like one is negative
        compat = tuple((-5 * rng.random(4)).tolist())
    else:  # need not be symmetric: half the sum with the transpose counts
        compat = tuple(map(tuple, (rng.random((4, 4)) * 4 - 3 * np.eye(4)).tolist()))
    how = crf.Preset((crf.Kernel(3, None, 2.0), crf.Kernel(20, 15, compat)), 3)
    want = library(unary_hwk, image_hwc, how)
    off = np.abs(PATHS[path](unary_hwk, image_hwc, how) - want)
    assert (off > 1e-4).mean() < 1e-3, off.max()


def test_a_vector_of_minus_w_is_potts():
    image_hwc, unary_hwk = scene(4)
    potts = crf.Preset((crf.Kernel(4, 12, 6.0),), 5)
    vector = crf.Preset((crf.Kernel(4, 12, (-6.0,) * 5),), 5)
    np.testing.assert_allclose(crf.infer(unary_hwk, image_hwc, potts),
                               crf.infer(unary_hwk, image_hwc, vector), atol=1e-5)


def real_photos(count):
    folders = [SHARED / "data" / name for name in ("voc_mini", "voc_small")]
    if not all(f.is_dir() for f in folders):
        pytest.skip(f"no photos in {SHARED}")
    return [p for f in folders for p in sorted((f / "JPEGImages").iterdir())[:count // 2]]


@pytest.mark.parametrize("name", ["psa", "irn"])
def test_twenty_real_photos_match_the_library(name):
    paths, how = real_photos(20), crf.PRESETS[name]
    assert len(paths) == 20
    close, equal = [], []
    for path in paths:
        image_hwc = np.asarray(Image.open(path).convert("RGB"))
        truth = path.parents[1] / "SegmentationClassAug" / f"{path.stem}.png"
        label_hw = np.asarray(Image.open(truth))
        label_hw = np.roll(label_hw, (6, 9), (0, 1))  # labels as wrong as a classifier's
        unary_hwk = crf.labels_to_unary(label_hw, 21)
        if name == "psa":
            soft = np.exp(-unary_hwk)
            soft[..., 0] += 0.3
            unary_hwk = crf.scores_to_unary(soft / soft.sum(-1, keepdims=True))
        got, want = crf.infer(unary_hwk, image_hwc, how), library(unary_hwk, image_hwc, how)
        close.append((np.abs(got - want) <= 1e-3).mean())
        equal.append((got.argmax(-1) == want.argmax(-1)).mean())
        assert (want.argmax(-1) != unary_hwk.argmin(-1)).mean() > 1e-3  # something was refined
    assert min(close) >= 0.999 and min(equal) >= 0.995, (min(close), min(equal))


@pytest.mark.parametrize("zero_unsure", [False, True])
def test_unaries_match_the_library(zero_unsure):
    utils = pytest.importorskip("pydensecrf.utils")
    rng = np.random.default_rng(5)
    label_hw = rng.integers(0, 5, (6, 7))
    want = utils.unary_from_labels(label_hw, 5, 0.7, zero_unsure=zero_unsure)
    got = crf.labels_to_unary(label_hw, 5, 0.7, zero_unsure=zero_unsure)
    np.testing.assert_allclose(got.reshape(-1, 5).T, want, rtol=1e-6)
    scores = (rng.random((6, 7, 5)) * 1.3).astype(np.float32)
    scores[0, 0] = 0
    for scale in (None, 0.8):
        want = utils.unary_from_softmax(scores.transpose(2, 0, 1), scale=scale)
        got = crf.scores_to_unary(scores, scale)
        np.testing.assert_allclose(got.reshape(-1, 5).T, want, rtol=1e-5, atol=1e-6)


# ---- without the library -----------------------------------------------------------------------


def test_two_pixels_by_hand_with_the_exact_kernel():
    """k = exp(-1/18); symmetric; Potts 3: three iterations worked out on paper."""
    k = np.exp(-1 / 18)
    row = 1 + k
    assert (1 / row, k / row) == pytest.approx((0.51389, 0.48611), abs=1e-5)
    operator = [lambda q: np.float32([[1, k], [k, 1]]) / np.float32(row) @ q]
    unary_nk = -np.log(np.float32([[0.6, 0.4], [0.3, 0.7]]))
    for steps, want in ((1, (0.53257, 0.23644)), (2, (0.43467, 0.17294)), (3, (0.32084, 0.11443))):
        how = crf.Preset((crf.Kernel(3, None, 3.0),), steps)
        np.testing.assert_allclose(crf._loop(unary_nk, operator, how)[:, 0], want, atol=1e-5)


@pytest.mark.parametrize("path", PATHS)
def test_small_grid_with_both_kernels(path):
    image_hwc = np.zeros((4, 5, 3), np.uint8)
    image_hwc[:, 2:] = 200
    label_hw = np.zeros((4, 5), int)
    label_hw[1:3, 1:4] = 1
    unary_hwk = crf.labels_to_unary(label_hw, 2, 0.7)
    how = crf.PRESETS["psa"]
    one = PATHS[path](unary_hwk, image_hwc, how._replace(iterations=1))[..., 1]
    np.testing.assert_allclose(one, [
        [0.03662, 0.03637, 0.06765, 0.06826, 0.07077],
        [0.03632, 0.16849, 0.27931, 0.28119, 0.06987],
        [0.03604, 0.16726, 0.27815, 0.28170, 0.07006],
        [0.03577, 0.03599, 0.06757, 0.06875, 0.07133]], atol=1e-5)
    assert PATHS[path](unary_hwk, image_hwc, how._replace(iterations=2))[..., 1].max() < 2e-4


@pytest.mark.parametrize("path, size", [
    ("host", (1, 1)), ("host", (1, 9)), ("host", (7, 1)), ("compiled", (1, 1))])
def test_thin_images_and_no_iterations(path, size):
    rng = np.random.default_rng(6)
    image_hwc = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
    unary_hwk = rng.random((*size, 3)).astype(np.float32)
    none = PATHS[path](unary_hwk, image_hwc, crf.PRESETS["psa"]._replace(iterations=0))
    np.testing.assert_allclose(none, jax.nn.softmax(-unary_hwk, -1), atol=1e-6)
    ten = PATHS[path](unary_hwk, image_hwc, crf.PRESETS["psa"])
    np.testing.assert_allclose(ten, library(unary_hwk, image_hwc, crf.PRESETS["psa"]), atol=1e-4)


def test_one_colour_and_equal_scores_stay_uniform():
    image_hwc = np.full((20, 30, 3), 77, np.uint8)
    q = crf.infer(np.zeros((20, 30, 4), np.float32), image_hwc, crf.PRESETS["irn"])
    np.testing.assert_allclose(q, 0.25, atol=1e-6)
    only = crf.infer(np.zeros((20, 30, 1), np.float32), image_hwc, crf.PRESETS["irn"])
    np.testing.assert_allclose(only, 1, atol=1e-6)  # a single label


def test_labels_in_another_order_give_q_in_that_order():
    image_hwc, unary_hwk = scene(7)
    order = np.array([3, 0, 4, 1, 2])
    q = crf.infer(unary_hwk, image_hwc, crf.PRESETS["psa"])
    np.testing.assert_allclose(crf.infer(unary_hwk[..., order], image_hwc, crf.PRESETS["psa"]),
                               q[..., order], atol=1e-5)


def test_several_unaries_share_the_lattices_of_their_image():
    image_hwc, unary_hwk = scene(8)
    pair = [unary_hwk, unary_hwk[..., :2].copy()]
    for got, unary in zip(crf.infer_many(pair, image_hwc, crf.PRESETS["psa"]), pair, strict=True):
        np.testing.assert_array_equal(got, crf.infer(unary, image_hwc, crf.PRESETS["psa"]))


def test_a_batch_is_its_images():
    pairs = [scene(s, size=(12, 17)) for s in range(3)]
    images, unaries = (np.stack(x) for x in zip(*pairs, strict=True))
    how = crf.PRESETS["ssdd_loop"]
    found = jax.jit(crf.mean_field, static_argnums=2)(unaries, images, how)
    for row, (image_hwc, unary_hwk) in zip(found, pairs, strict=True):
        np.testing.assert_allclose(row, crf.infer(unary_hwk, image_hwc, how), atol=1e-5)


def test_unknown_labels_take_their_neighbours_opinion():
    image_hwc = np.full((9, 9, 3), 90, np.uint8)
    label_hw = np.full((9, 9), 2, np.uint8)
    label_hw[3:6, 3:6] = 255
    unary_hwk = crf.labels_to_unary(label_hw, 5)
    np.testing.assert_allclose(unary_hwk[4, 4], np.log(5), rtol=1e-6)
    assert (crf.infer(unary_hwk, image_hwc, crf.PRESETS["irn"]).argmax(-1) == 2).all()


def test_margin_of_hard_labels_grows_with_their_number():
    for k, want in ((2, 0.847), (3, 1.540), (21, 3.843), (91, 5.347)):
        energy = crf.labels_to_unary(np.zeros((1, 1), int), k)[0, 0]
        assert energy[1] - energy[0] == pytest.approx(want, abs=1e-3)


def test_presets_are_the_published_ones():
    table = {"psa": (3, 3, 80, 13, 10, 10), "ssdd_loop": (3, 3, 80, 13, 10, 3),
             "ssdd_val": (3, 3, 80, 13, 10, 10), "irn": (3, 3, 50, 5, 10, 10),
             "bao_label": (3, 3, 50, 5, 10, 10), "deeplab": (1, 3, 67, 3, 4, 10),
             "bao_segmenter": (4, 3, 83, 5, 3, 10)}
    assert crf.PRESETS.keys() == table.keys()
    for name, how in crf.PRESETS.items():
        gauss, bilateral = how.kernels
        assert gauss.srgb is None
        assert (gauss.sxy, gauss.compat, bilateral.sxy, bilateral.srgb, bilateral.compat,
                how.iterations) == table[name]
        assert {k.normalization for k in how.kernels} == {"symmetric"}
        assert how.gt_prob == (0.7 if name in ("irn", "bao_label") else None)


@pytest.mark.parametrize("call, message", [
    (lambda: crf.preset("ssa"), "--preset 'ssa' is unknown"),
    (lambda: crf.labels_to_unary(np.full((2, 2), 5), 5), "holds 5; its CRF has 5 labels"),
    (lambda: crf.labels_to_unary(np.zeros((2, 2), int), 5, 1.0), "gt_prob=1.0"),
    (lambda: crf.scores_to_unary(np.ones((1, 1, 2)), 1.5), "scale=1.5"),
    (lambda: crf.infer(np.zeros((2, 3, 2), np.float32), np.zeros((3, 2, 3), np.uint8),
                       crf.PRESETS["psa"]), r"labels of 2 x 3 .* photo of 3 x 2 \(h x w\)"),
    (lambda: crf.infer(np.zeros((2, 2, 2), np.float32), np.zeros((2, 2, 3), np.uint8),
                       crf.Preset((crf.Kernel(0, None, 3),))), "sxy=0"),
    (lambda: crf.infer(np.zeros((2, 2, 2), np.float32), np.full((2, 2, 3), 255, np.uint8),
                       crf.Preset((crf.Kernel(3, 0.01, 3),))), "too narrow .* widen sxy or srgb"),
    (lambda: crf.infer(np.zeros((90, 90, 2), np.float32), np.zeros((90, 90, 3), np.uint8),
                       crf.PRESETS["psa"], memory=100_000), "90 x 90 pixels needs 0.00 GB"),
])
def test_senseless_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_examples():
    assert doctest.testmod(crf).failed == 0
    assert jnp.zeros(1).dtype == jnp.float32  # the examples ran in the usual precision
