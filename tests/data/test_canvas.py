"""Sizes that photos share: its examples are true, and a padded, mirrored photo keeps its pixels."""

import doctest

import numpy as np
import pytest

from wsssjax.data import canvas, transforms


def test_examples():
    found = doctest.testmod(canvas)
    assert found.attempted == 4 and not found.failed


@pytest.mark.parametrize("size", [(5, 7), (8, 8), (1, 3)])
def test_padding_and_mirroring_move_no_pixel_of_the_photo(size):
    photo = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    whole = canvas.padded(photo, canvas.up(size, 8))
    assert whole.shape == (8, 8, 3) and not whole[size[0]:].any() and not whole[:, size[1]:].any()
    np.testing.assert_array_equal(whole[: size[0], : size[1]], photo)
    turned = canvas.mirrored(whole, size)
    np.testing.assert_array_equal(turned, canvas.padded(photo[:, ::-1], (8, 8)))
    np.testing.assert_array_equal(canvas.mirrored(turned, size), whole)


def test_pixels_are_normalised_as_in_training():
    photo = np.random.default_rng(1).integers(0, 256, (6, 9, 3), np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    step = transforms.Normalize(keys=("image",), mean=mean, std=std)
    want = step({"name": "a", "image": photo}, np.random.default_rng(0))["image"]
    np.testing.assert_allclose(canvas.normalise(photo, mean, std), want, rtol=1e-6, atol=1e-6)


def test_plan_is_that_of_all_photos_in_any_order():
    rng = np.random.default_rng(0)
    sizes = {f"{i:02d}": tuple(rng.integers(20, 60, 2).tolist()) for i in rng.permutation(40)}

    def shared(size):
        return canvas.nearest(size, 16)

    batches = canvas.plan(sizes, shared, 3)
    assert sorted(name for names in batches for name in names) == sorted(sizes)
    assert all(len({shared(sizes[n]) for n in names}) == 1 <= len(names) <= 3 for names in batches)
    assert batches == canvas.plan(dict(sorted(sizes.items())), shared, 3)
