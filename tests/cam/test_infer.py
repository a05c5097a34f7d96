"""Multi-scale inference against the published order of steps, done one by one in torch."""

import types

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from wsssjax.cam import infer

SETTINGS = {"scales": (0.5, 1.0, 1.5, 2.0), "flip": True, "canvas": "exact", "grid": 16, "batch": 1,
            "side": 64, "multiple": 1, "align": 1, "normalise": "max", "background": "threshold",
            "threshold": 0.2}
DATA = types.SimpleNamespace(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


class Settings(types.SimpleNamespace):
    """Stands in for config.infer: fields by dot and by name."""

    def __getitem__(self, name):
        return getattr(self, name)


def settings(**changes):
    return Settings(**(SETTINGS | changes))


def network(seed=0, classes=5):
    """A one-layer network of stride 8 with ReLU; its weights as torch wants them, too."""
    kernel = np.random.default_rng(seed).standard_normal((9, 9, 3, classes)).astype(np.float32)

    def predict(variables, image_bhwc, tags_bk):
        maps_bpqk = jax.lax.conv_general_dilated(
            image_bhwc, variables, (8, 8), [(4, 4)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jax.nn.relu(maps_bpqk)

    return predict, kernel


def forward(predict, kernel, **changes):
    return infer.compiled(predict, kernel, settings(**changes))


def photo(seed, h, w):
    """Smooth noise, so that scaling means something."""
    noise = np.random.default_rng(seed).integers(0, 256, (h // 6 + 2, w // 6 + 2, 3), np.uint8)
    return np.asarray(Image.fromarray(noise).resize((w, h), Image.Resampling.BICUBIC))


def published(torch, image, tags, kernel, scales):
    """cam [k,h,w]: scale, forward, ReLU, enlarge, times tags, unflip, sum, divide."""
    h, w = image.shape[:2]
    weight = torch.tensor(kernel.transpose(3, 2, 0, 1))
    total = torch.zeros(len(tags), h, w)
    for scale in scales:
        size = (round(w * scale), round(h * scale))
        scaled = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
        x = (scaled / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
        x = torch.tensor(x.astype(np.float32).transpose(2, 0, 1)[None])
        for mirror in (False, True):
            z = torch.nn.functional.conv2d(x.flip(3) if mirror else x, weight, stride=8, padding=4)
            up = torch.nn.functional.interpolate(z.relu(), (h, w), mode="bilinear",
                                                 align_corners=False)[0]
            up = up * torch.tensor(tags)[:, None, None]
            total += up.flip(2) if mirror else up
    return (total / (total.amax((1, 2), keepdim=True) + 1e-5)).numpy()


@pytest.mark.parametrize("size", [(41, 66), (75, 50)])
def test_maps_equal_the_published_steps(size):
    torch = pytest.importorskip("torch")
    predict, kernel = network()
    tags = np.float32([0, 1, 0, 1, 1])
    image = photo(1, *size)
    (got,) = infer.class_maps(forward(predict, kernel), [image], [tags], settings(), DATA)
    want = published(torch, image, tags, kernel, SETTINGS["scales"])
    np.testing.assert_array_equal(got.classes, [2, 4, 5])
    assert got.cam.dtype == np.float32 and got.cam.shape == (3, *size)
    np.testing.assert_allclose(got.cam, want[tags > 0], atol=2e-5)


def test_enlarging_equals_half_pixel_bilinear():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    for p, q, h, w in [(3, 5, 17, 40), (24, 32, 188, 250), (1, 4, 9, 4), (7, 7, 56, 55)]:
        map_pq = rng.standard_normal((p, q)).astype(np.float32)
        want = torch.nn.functional.interpolate(torch.tensor(map_pq)[None, None], (h, w),
                                               mode="bilinear", align_corners=False)
        np.testing.assert_allclose(infer.enlarge(map_pq, (h, w)), want[0, 0].numpy(), atol=2e-5)


def test_mirrored_photo_gives_mirrored_maps():
    predict, kernel = network()
    image, tags = photo(2, 40, 56), np.float32([1, 0, 0, 1, 0])
    run = forward(predict, kernel)
    for canvas in ("exact", "grid"):
        options = settings(canvas=canvas)
        (one,) = infer.class_maps(run, [image], [tags], options, DATA)
        mirror = np.ascontiguousarray(image[:, ::-1])
        (two,) = infer.class_maps(run, [mirror], [tags], options, DATA)
        np.testing.assert_allclose(two.cam[..., ::-1], one.cam, atol=1e-5)


def test_one_scale_without_mirror_is_the_bare_network():
    predict, kernel = network()
    image = photo(3, 48, 64)
    options = settings(scales=(1.0,), flip=False)
    (got,) = infer.class_maps(forward(predict, kernel), [image],
                              [np.ones(5, np.float32)], options, DATA)
    x = (image / np.float32(255) - np.float32([0.485, 0.456, 0.406])) / np.float32(
        [0.229, 0.224, 0.225])
    maps = np.asarray(predict(kernel, jnp.asarray(x[None]), None))[0]
    want = cv2.resize(maps, (64, 48), interpolation=cv2.INTER_LINEAR).transpose(2, 0, 1)
    want = want / (want.max((1, 2), keepdims=True) + 1e-5)
    np.testing.assert_allclose(got.cam, want, atol=1e-5)


def test_grid_has_one_program_per_size_and_rows_do_not_mix():
    """Photos of one canvas in one batch give what each gives alone, at their own sizes."""
    predict, kernel = network()
    sizes = [(41, 66), (45, 60), (50, 70)]
    assert {infer.canvas(s, settings(canvas="grid")) for s in sizes} == {(48, 64)}
    images = [photo(i, *s) for i, s in enumerate(sizes)]
    tags = list(np.float32([[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]]))
    options = settings(canvas="grid", batch=4)
    run = infer.compiled(predict, kernel, options)
    together = infer.class_maps(run, images, tags, options, DATA)
    assert [m.cam.shape for m in together] == [(1, 41, 66), (2, 45, 60), (0, 50, 70)]
    for image, tags_k, want in zip(images, tags, together, strict=True):
        (alone,) = infer.class_maps(run, [image], [tags_k], options, DATA)
        np.testing.assert_allclose(alone.cam, want.cam, atol=1e-6)
    assert run.func._cache_size() == len(options.scales)


def test_grid_differs_from_exact_only_by_the_bent_aspect():
    """A photo whose sides are multiples of the grid gives the same maps either way."""
    predict, kernel = network()
    image, tags = photo(4, 48, 64), np.float32([1, 1, 0, 0, 1])
    run = forward(predict, kernel)
    (exact,) = infer.class_maps(run, [image], [tags], settings(), DATA)
    (grid,) = infer.class_maps(run, [image], [tags], settings(canvas="grid"), DATA)
    np.testing.assert_array_equal(exact.cam, grid.cam)


def test_buckets_equal_exact_sizes_with_one_program_a_scale():
    predict, kernel = network()
    sizes = [(41, 66), (64, 96), (50, 70)]
    images = [photo(i, *s) for i, s in enumerate(sizes)]
    tags = list(np.float32([[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [1, 1, 1, 1, 1]]))
    options = settings(canvas="bucket", grid=96, batch=4)
    run = infer.compiled(predict, kernel, options)
    found = infer.class_maps(run, images, tags, options, DATA)
    assert run.func._cache_size() == len(options.scales)
    for image, tags_k, got in zip(images, tags, found, strict=True):
        (want,) = infer.class_maps(forward(predict, kernel), [image], [tags_k], settings(), DATA)
        np.testing.assert_allclose(got.cam, want.cam, atol=1e-5)


def test_aligned_maps_are_enlarged_to_whole_cells_and_cut():
    """IRN: to multiples of its stride, then the top left part, so that a cell stays a cell."""
    torch = pytest.importorskip("torch")
    predict, kernel = network()
    image, tags = photo(5, 41, 66), np.float32([0, 1, 0, 0, 0])
    options = settings(scales=(1.0,), flip=False, align=8)
    (got,) = infer.class_maps(forward(predict, kernel), [image], [tags], options, DATA)
    x = (image / np.float32(255) - np.float32(DATA.mean)) / np.float32(DATA.std)
    maps = np.asarray(predict(kernel, x[None], None))[0, ..., 1]
    large = torch.nn.functional.interpolate(torch.tensor(maps[None, None]), (48, 72),
                                            mode="bilinear", align_corners=False)
    want = large[0, 0, :41, :66].numpy()
    np.testing.assert_allclose(got.cam[0], want / (want.max() + 1e-5), atol=1e-5)


def test_from_minimum_to_maximum_as_published():
    sums = np.float32([[[-3.0, 0.0, 1.0, 5.0]], [[2.0, 2.0, 3.0, 4.0]], [[-1.0, -2.0, -1.0, -1.0]]])
    got = infer.NORMALISE["minmax"](sums, 1)
    for values, found in zip(sums, got, strict=True):
        v = np.maximum(values.astype(np.float64), 0)
        low, high = v.min(), v.max()
        v[v < low + 1e-5] = 0
        np.testing.assert_allclose(found, (v - low - 1e-5) / (high - low + 1e-5), rtol=1e-5)
    assert got[0, 0, 3] == pytest.approx(1, abs=1e-5) and got[1, 0, 0] < -0.9


def test_a_learnt_background_takes_part_in_the_maximum():
    maps = infer.Maps(np.uint8([0, 4, 17]),
                      np.float32([[[0.5, 0.3, 0.1]], [[0.5, 0.4, 0.0]], [[0.1, 0.2, 0.3]]]))
    np.testing.assert_array_equal(infer.label_map(maps, settings(background="map")), [[0, 4, 17]])

    def predict(variables, image_bhwc, tags_bk):
        ramp = image_bhwc[..., :1]
        return np.float32([1, 0, 2, 3]).reshape(1, 1, 1, 4) * ramp

    image = photo(6, 16, 24)
    options = settings(background="map", flip=False, scales=(1.0,), normalise="minmax",
                       canvas="square", side=32)
    run = infer.compiled(predict, np.zeros(1), options)
    (got,) = infer.class_maps(run, [image], [np.float32([0, 1, 0])], options, DATA)
    np.testing.assert_array_equal(got.classes, [0, 2])
    assert got.cam.shape == (2, 16, 24)
    np.testing.assert_allclose(got.cam[0], got.cam[1], atol=1e-4)  # one is twice the other


def test_not_normalised_maps_are_a_mean_over_scales_and_mirror_images():
    def predict(variables, image_bhwc, tags_bk):
        return jnp.full((len(image_bhwc), 2, 3, 1), 0.3)

    options = settings(normalise="none")
    (got,) = infer.class_maps(infer.compiled(predict, np.zeros(1), options), [photo(1, 16, 24)],
                              [np.ones(1, np.float32)], options, DATA)
    np.testing.assert_allclose(got.cam, 0.3, rtol=1e-6)


@pytest.mark.parametrize("canvas, want", [("square", (32, 32)), ("exact", (48, 72))])
def test_inputs_are_taken_up_to_the_multiple(canvas, want):
    options = settings(canvas=canvas, side=30, multiple=8)
    assert infer.input_sizes((41, 66), 1.0, options) == (want, want)


def test_plan_holds_every_id_once_in_batches_of_one_size():
    rng = np.random.default_rng(0)
    sizes = {f"{i:03d}": tuple(rng.integers(20, 90, 2).tolist()) for i in rng.permutation(100)}
    options = settings(canvas="grid", batch=4)
    batches = infer.plan(sizes, options)
    assert sorted(n for b in batches for n in b) == sorted(sizes)
    assert max(map(len, batches)) == 4
    assert all(len({infer.canvas(sizes[n], options) for n in b}) == 1 for b in batches)
    assert batches == infer.plan(dict(sorted(sizes.items())), options)
    assert infer.plan({"b": (9, 9), "a": (9, 9), "c": (3, 9)}, settings()) == [["c"], ["a"], ["b"]]


def test_labels_are_the_highest_map_above_the_threshold():
    maps = infer.Maps(np.uint8([4, 17]), np.float32([[[0.2, 0.21, 0.5, 0.9, 0.0]],
                                                     [[0.1, 0.20, 0.5, 0.95, 0.0]]]))
    # A tie with the threshold is background; a tie of classes goes to the first.
    np.testing.assert_array_equal(infer.label_map(maps, settings()), [[0, 4, 4, 17, 0]])
    none = settings(threshold=0.0)
    np.testing.assert_array_equal(infer.label_map(maps, none), [[4, 4, 4, 17, 0]])
    nothing = infer.Maps(np.zeros(0, np.uint8), np.zeros((0, 2, 3), np.float32))
    np.testing.assert_array_equal(infer.label_map(nothing, settings()), np.zeros((2, 3)))


@pytest.mark.parametrize("change, complaint", [
    ({"canvas": "gird"}, "did you mean 'grid'"),
    ({"batch": 0}, "batch=0: want 1 or more"),
    ({"scales": ()}, "want factors above 0"),
    ({"scales": (1.0, -1.0)}, "want factors above 0"),
    ({"scales": ("a",)}, "scales=\\('a',\\): want factors above 0"),
    ({"scales": (np.inf,)}, "want factors above 0"),
    ({"threshold": 1.5}, "threshold=1.5"),
    ({"canvas": "bucket", "grid": 48}, "buckets are multiples of 32"),
    ({"normalise": "min"}, "did you mean 'minmax'"),
    ({"background": "maps"}, "did you mean 'map'"),
    ({"align": 0}, "align=0: want 1 or more"),
])
def test_settings_without_meaning_are_named(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        infer.check(settings(**change))
