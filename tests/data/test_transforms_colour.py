"""Colour transforms equal written-out 8-bit formulas and are drawn as stated."""

import colorsys
import math

import numpy as np
import pytest
from PIL import Image, ImageFilter

from wsssjax.data import transforms as T

STRONG = ("strong1", "strong2")
JITTER = dict(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.25)


def noise(h=37, w=53, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


def luma(image):
    r, g, b = (image[..., c].astype(np.int64) for c in range(3))
    return (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16


def blend(base, image, factor):
    base, image = base.astype(np.float32), image.astype(np.float32)
    return np.clip(base + np.float32(factor) * (image - base), 0, 255).astype(np.uint8)


def written_out(image, kind, factor):
    if kind == "brightness":
        return blend(np.zeros_like(image), image, factor)
    if kind == "contrast":
        return blend(np.full_like(image, int(luma(image).mean() + 0.5)), image, factor)
    return blend(np.repeat(luma(image)[..., None], 3, -1), image, factor)


@pytest.mark.parametrize("kind", ["brightness", "contrast", "saturation"])
def test_one_jitter_matches_blend_formula(kind):
    factors = []
    for seed in range(60):
        image = noise(seed=seed)
        strength = dict.fromkeys(JITTER, 0.0) | {kind: 0.5}
        jitter = T.ColorJitter(keys=("image",), p=1.0, **strength)
        got = jitter({"image": image}, np.random.default_rng(seed))["image"]
        rng = np.random.default_rng(seed)
        rng.random()  # the draw that decides whether to jitter
        factors.append(rng.uniform(0.5, 1.5))
        np.testing.assert_array_equal(got, written_out(image, kind, factors[-1]))
    assert min(factors) < 0.6 and max(factors) > 1.4


@pytest.mark.parametrize("shift", [-0.25, -0.1, 0.0, 0.003, 0.2])
def test_hue_shift_matches_colorsys(shift):
    image = noise(20, 25)
    got = np.array(T._shift_hue(Image.fromarray(image), shift)).reshape(-1, 3)
    want = []
    for r, g, b in image.reshape(-1, 3) / 255:
        h, s, v = colorsys.rgb_to_hsv(r, g, b)
        h8 = (int(h * 255) + int(255 * shift)) % 256
        want.append(colorsys.hsv_to_rgb(h8 / 255, int(s * 255) / 255, v))
    close = np.abs(got - np.array(want) * 255).max(-1) <= 1.0
    assert close.mean() > 0.99  # the rest: float32 against float64 at a rounding edge
    grey = np.repeat(noise()[..., :1], 3, -1)
    np.testing.assert_array_equal(np.array(T._shift_hue(Image.fromarray(grey), shift)), grey)


def test_jitter_applies_all_four_in_random_order():
    """Replays the documented draws; every one of the 24 orders must come up."""
    jitter = T.ColorJitter(keys=("image",), p=1.0, **JITTER)
    orders = set()
    for seed in range(300):
        image = noise(9, 11, seed)
        got = jitter({"image": image}, np.random.default_rng(seed))["image"]
        rng = np.random.default_rng(seed)
        rng.random()
        factors = [rng.uniform(0.5, 1.5) for _ in range(3)]
        shift = rng.uniform(-0.25, 0.25)
        order = tuple(rng.permutation(4))
        orders.add(order)
        for step in order:
            if step == 3:
                image = np.array(T._shift_hue(Image.fromarray(image), shift))
            else:
                image = written_out(image, list(JITTER)[step], factors[step])
        np.testing.assert_array_equal(got, image)
    assert len(orders) == 24


def test_grayscale_is_luma():
    out = T.Grayscale(keys=("image",), p=1.0)({"image": noise()}, np.random.default_rng(0))["image"]
    np.testing.assert_array_equal(out, np.repeat(luma(noise())[..., None], 3, -1))


def test_blur_is_pillows_with_radius_sigma():
    blur = T.GaussianBlur(keys=("image",), p=1.0, sigma=(1.5, 1.5))
    point = np.zeros((31, 31, 3), np.uint8)
    point[15, 15] = 255
    out = blur({"image": point}, np.random.default_rng(0))["image"]
    want = np.array(Image.fromarray(point).filter(ImageFilter.GaussianBlur(1.5)))
    np.testing.assert_array_equal(out, want)
    offset = np.arange(31) - 15
    variance = (out[..., 0].sum(0) * offset**2).sum() / out[..., 0].sum()
    assert abs(math.sqrt(variance) - 1.5) < 0.15  # so the radius is a standard deviation


def test_views_are_changed_independently_and_weak_never():
    rng = np.random.default_rng(0)
    example = T.Views()({"image": noise()}, rng)
    steps = [
        (T.ColorJitter(keys=STRONG, p=0.8, **JITTER), 0.8),
        (T.Grayscale(keys=STRONG, p=0.2), 0.2),
        (T.GaussianBlur(keys=STRONG, p=0.5, sigma=(0.5, 2.0)), 0.5),
        (T.Flip(p=0.3), 0.3),
    ]
    for transform, p in steps:
        changed = []
        for _ in range(1000):
            out = transform(example, rng)
            changed.append([not np.array_equal(out[key], noise()) for key in STRONG])
            if not isinstance(transform, T.Flip):
                np.testing.assert_array_equal(out["weak"], noise())
        changed = np.array(changed)
        np.testing.assert_allclose(changed.mean(0), p, atol=4 * math.sqrt(p * (1 - p) / 1000))
        together = (changed[:, 0] & changed[:, 1]).mean()
        want = p if isinstance(transform, T.Flip) else p * p
        assert abs(together - want) < 4 * math.sqrt(want * (1 - want) / 1000)
