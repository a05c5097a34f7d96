"""Colour changes and blur give Pillow's own pixels, every one of them."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from wsssjax.data import colour, photos

ENHANCERS = {"brightness": ImageEnhance.Brightness, "contrast": ImageEnhance.Contrast,
             "saturation": ImageEnhance.Color}


def noise(h=61, w=47, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


def pillow_hue(image_hwc, shift):
    hue, *others = Image.fromarray(image_hwc).convert("HSV").split()
    hue = hue.point([(level + int(255 * shift)) % 256 for level in range(256)])
    return np.array(Image.merge("HSV", (hue, *others)).convert("RGB"))


def pillow_blur(image_hwc, sigma):
    return np.array(Image.fromarray(image_hwc).filter(ImageFilter.GaussianBlur(sigma)))


@pytest.mark.parametrize("name", ENHANCERS)
def test_blends(name):
    for seed, factor in enumerate([0.0, 1.0, 2.0, *np.random.default_rng(0).uniform(0, 2, 30)]):
        image = noise(seed=seed) // (1 + seed % 5)
        want = np.array(ENHANCERS[name](Image.fromarray(image)).enhance(factor))
        np.testing.assert_array_equal(getattr(colour, name)(image, factor), want, str(factor))


@pytest.mark.parametrize("shift", [0.0, 0.137, -0.25])
def test_hue_of_every_colour(shift):
    for red in np.arange(0, 256, 32):
        level = np.arange(256, dtype=np.uint8)
        r, g, b = np.meshgrid(level[red:red + 32], level, level, indexing="ij")
        image = np.stack([r, g, b], -1).reshape(-1, 256, 3)
        np.testing.assert_array_equal(colour.shift_hue(image, shift), pillow_hue(image, shift))


def test_hue_by_every_shift():
    for step in range(-127, 128):
        image = noise(seed=step + 127)
        shift = (step + 0.5 * np.sign(step)) / 255
        np.testing.assert_array_equal(colour.shift_hue(image, shift), pillow_hue(image, shift))


@pytest.mark.parametrize("size", [(61, 47), (1, 1), (2, 3), (5, 1), (1, 9), (4, 40)])
def test_blur_of_every_strength_up_to_the_edges(size):
    sigmas = [0.1, 0.5, 0.81, 0.82, 1.0, 1.41, 1.42, 2.0, 3.3, 7.7, 20.0]
    for sigma in sigmas + [float(s) for s in np.random.default_rng(0).uniform(0.1, 2, 25)]:
        image = noise(*size)
        np.testing.assert_array_equal(colour.blur(image, sigma), pillow_blur(image, sigma), sigma)


def test_inputs_in_any_order_of_memory_are_left_alone():
    backwards = noise()[:, ::-1]
    locked = noise()
    locked.flags.writeable = False
    for function, factor in ((colour.brightness, 0.7), (colour.contrast, 1.3),
                             (colour.saturation, 0.4), (colour.shift_hue, 0.2),
                             (colour.blur, 1.1)):
        for image in (backwards, locked, noise().transpose(1, 0, 2)):
            before = image.copy()
            want = function(np.ascontiguousarray(image).copy(), factor)
            got = function(image, factor)
            np.testing.assert_array_equal(got, want)
            np.testing.assert_array_equal(image, before)
            got[:] = 0  # writable, and no view of its input
            np.testing.assert_array_equal(image, before)


def test_without_a_compiler_the_pixels_are_the_same(monkeypatch):
    def results():
        return [colour.contrast(noise(), 1.3), colour.saturation(noise(), 0.3),
                colour.shift_hue(noise(), 0.2), colour.blur(noise(), 1.3)]

    want = results()
    monkeypatch.setattr(colour, "numba", None)
    for got, one in zip(results(), want, strict=True):
        np.testing.assert_array_equal(got, one)


def test_real_photos(shared):
    for path in sorted((shared / "data/voc_mini/JPEGImages").iterdir())[:6]:
        image = photos.read_photo(path)
        for name, enhancer in ENHANCERS.items():
            want = np.array(enhancer(Image.fromarray(image)).enhance(1.37))
            np.testing.assert_array_equal(getattr(colour, name)(image, 1.37), want)
        np.testing.assert_array_equal(colour.shift_hue(image, 0.11), pillow_hue(image, 0.11))
        np.testing.assert_array_equal(colour.blur(image, 1.7), pillow_blur(image, 1.7))
