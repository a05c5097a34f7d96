"""Every resampling against the library it imitates, at odd sizes, up and down."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from wsssjax.core import resize

SIZES = [((5, 7), (11, 4)), ((1, 6), (9, 6)), ((12, 9), (24, 18)), ((8, 3), (1, 1)),
         ((32, 31), (75, 50))]


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def noise(*shape):
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def interpolate(torch, x_bhwc, size, **options):
    x = torch.tensor(x_bhwc).permute(0, 3, 1, 2)
    return torch.nn.functional.interpolate(x, size, **options).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("source, size", SIZES)
@pytest.mark.parametrize("corners", [True, False])
def test_bilinear_matches_torch(torch, source, size, corners):
    x = noise(2, *source, 3)
    want = interpolate(torch, x, size, mode="bilinear", align_corners=corners)
    ours = resize.resize_corners if corners else resize.resize_half_pixel
    np.testing.assert_allclose(jax.jit(ours, static_argnums=1)(x, size), want, atol=1e-5)
    plain = np.moveaxis(x, -1, 1)  # [2, 3, h, w]: maps without channels
    np.testing.assert_allclose(ours(jnp.asarray(plain), size, axes=(-2, -1)),
                               np.moveaxis(want, -1, 1), atol=1e-5)


@pytest.mark.parametrize("corners", [True, False])
def test_bilinear_gradient_matches_torch(torch, corners):
    x, pull = noise(2, 5, 9, 3), noise(2, 13, 4, 3)
    leaf = torch.tensor(x).permute(0, 3, 1, 2).requires_grad_()
    y = torch.nn.functional.interpolate(leaf, (13, 4), mode="bilinear", align_corners=corners)
    (y * torch.tensor(pull).permute(0, 3, 1, 2)).sum().backward()
    ours = resize.resize_corners if corners else resize.resize_half_pixel
    got = jax.grad(lambda x: (ours(x, (13, 4)) * pull).sum())(jnp.asarray(x))
    np.testing.assert_allclose(got, leaf.grad.permute(0, 2, 3, 1), atol=1e-5)


def test_bilinear_forms_agree():
    for rule in ("corners", "half_pixel"):
        for n, m in ((7, 12), (12, 7), (1, 4), (4, 1)):
            lower, upper, weight = resize.bilinear_taps(n, m, rule)
            x = noise(n)
            want = x[lower] * (1 - weight) + x[upper] * weight
            np.testing.assert_allclose(resize.bilinear_matrix(n, m, rule) @ x, want, atol=1e-6)


def test_bilinear_keeps_dtype_and_refuses_integers():
    x = jnp.asarray(noise(1, 4, 4, 2), jnp.bfloat16)
    assert resize.resize_corners(x, (8, 8)).dtype == jnp.bfloat16
    grad = jax.grad(lambda x: resize.resize_corners(x, (8, 8)).astype(jnp.float32).sum())(x)
    assert grad.dtype == jnp.bfloat16
    np.testing.assert_allclose(grad.astype(np.float32).sum(), 128, rtol=1e-2)  # 64 pixels x 2
    with pytest.raises(AssertionError, match="uint8"):
        resize.resize_corners(jnp.zeros((1, 4, 4, 2), jnp.uint8), (8, 8))


@pytest.mark.parametrize("source, size", SIZES)
def test_bicubic_matches_torch(torch, source, size):
    x = noise(2, *source, 3)
    want = interpolate(torch, x, size, mode="bicubic", align_corners=False)
    np.testing.assert_allclose(resize.resize_bicubic(jnp.asarray(x), size), want, atol=1e-5)


@pytest.mark.parametrize("size", [(24, 27), (36, 57), (37, 49), (78, 37)])
def test_bicubic_offset_matches_torch_scale_factors(torch, size):
    x = noise(1, 37, 37, 4)
    factors = tuple((p + 0.1) / 37 for p in size)
    want = interpolate(torch, x, None, scale_factor=factors, mode="bicubic", align_corners=False)
    got = resize.resize_bicubic(jnp.asarray(x), size, offset=0.1)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, atol=2e-5)


@pytest.mark.parametrize("p, first, second, last, last_without_offset", [
    (24, 0.205518, 1.754970, 35.665460, 35.791910),
    (27, 0.138515, 1.536088, 35.752487, 35.859528),
    (36, 0.009350, 1.054049, 35.913400, 35.989574),
    (57, -0.089627, 0.380270, 36.065895, 36.089462),
])
def test_bicubic_ramp(p, first, second, last, last_without_offset):
    ramp = np.arange(37)
    got = resize.bicubic_matrix(37, p, 0.1) @ ramp
    np.testing.assert_allclose(got[[0, 1, -1]], (first, second, last), atol=1e-5)
    np.testing.assert_allclose((resize.bicubic_matrix(37, p) @ ramp)[-1], last_without_offset,
                               atol=1e-5)


@pytest.mark.parametrize("p, row, want", [
    (36, 0, {0: 0.990535, 1: 0.009580, 2: -0.000115}),
    (36, 10, {9: -0.106996, 10: 0.868241, 11: 0.276695, 12: -0.037940}),
    (36, 35, {34: -0.008772, 35: 0.104143, 36: 0.904629}),
    (57, 0, {0: 1.089627, 1: -0.089627}),
    (57, 10, {5: -0.110440, 6: 0.827332, 7: 0.331312, 8: -0.048205}),
    (57, 56, {35: -0.065887, 36: 1.065887}),
])
def test_bicubic_weights(p, row, want):
    dense = np.zeros(37)
    dense[list(want)] = list(want.values())
    np.testing.assert_allclose(resize.bicubic_matrix(37, p, 0.1)[row], dense, atol=2e-6)


@pytest.mark.parametrize("source, size", SIZES)
def test_nearest_matches_torch(torch, source, size):
    x = noise(2, *source, 3)
    want = interpolate(torch, x, size, mode="nearest")
    np.testing.assert_array_equal(resize.resize_nearest(jnp.asarray(x), size), want)


def test_nearest_picks_the_first_pixel_of_eight():
    rows = jnp.arange(448)[None, :, None] * jnp.ones((1, 1, 448), int)
    got = resize.resize_nearest(rows, (56, 56), axes=(1, 2))
    np.testing.assert_array_equal(got[0, :, 0], np.arange(0, 448, 8))


@pytest.mark.parametrize("source, size", [
    ((37, 53), (20, 31)), ((53, 37), (9, 30)), ((17, 23), (40, 61)), ((31, 44), (60, 13)),
    ((45, 20), (11, 33)), ((16, 1), (5, 7)), ((21, 30), (21, 12)), ((30, 21), (7, 21)),
])
@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_pillow_bit_for_bit(source, size, method):
    rng = np.random.default_rng(sum(source))
    grey = rng.integers(0, 256, (*source, 3), dtype=np.uint8)
    stark = (rng.random((*source, 3)) > 0.5).astype(np.uint8) * 255  # drives bicubic out of 0..255
    filters = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}
    flipped = size[::-1]  # Pillow says width first
    want = [np.asarray(Image.fromarray(x).resize(flipped, filters[method])) for x in (grey, stark)]
    both = np.stack([grey, stark])
    got = jax.jit(resize.resize_pillow, static_argnums=(1, 2))(both, size, method)
    np.testing.assert_array_equal(got, np.stack(want))


@pytest.mark.parametrize("rows_first", [False, True])
def test_pillow_order_of_passes(rows_first):
    image = np.random.default_rng(0).integers(0, 2, (40, 30, 3), dtype=np.uint8) * 255
    want = Image.fromarray(image)
    for width, height in ((30, 11), (25, 11)) if rows_first else ((25, 40), (25, 11)):
        want = want.resize((width, height), Image.BICUBIC)
    got = resize.resize_pillow(image, (11, 25), "bicubic", rows_first=rows_first)
    np.testing.assert_array_equal(got, np.asarray(want))
    other = resize.resize_pillow(image, (11, 25), "bicubic", rows_first=not rows_first)
    assert (np.asarray(other) != np.asarray(want)).any()


def test_pillow_unknown_method():
    with pytest.raises(ValueError, match="'lanczos': want one of bilinear, bicubic"):
        resize.resize_pillow(jnp.zeros((2, 2, 3), jnp.uint8), (4, 4), "lanczos")
