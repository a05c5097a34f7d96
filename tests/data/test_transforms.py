"""Geometry moves every entry alike, nothing is mutated, boxes follow their law."""

import dataclasses
import inspect
import math

import numpy as np
import pytest

from wsssjax.core.constants import IMAGENET_MEAN, IMAGENET_STD
from wsssjax.data import transforms as T

STRONG = ("strong1", "strong2")
JITTER = dict(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.25)
GEOMETRY = [
    T.RandomScale(),
    T.ResizeLongSide(low=20, high=90),
    T.PadCrop(size=48),
    T.Flip(p=0.5),
]
EVERY = [
    *GEOMETRY,
    T.Views(),
    T.ColorJitter(keys=("image",), p=1.0, **JITTER),
    T.Grayscale(keys=("image",), p=1.0),
    T.GaussianBlur(keys=("image",), p=1.0, sigma=(0.1, 2.0)),
    T.CutBoxes(p=1.0),
    T.Normalize(),
    T.Keep(keys=("image", "label")),
]


def coordinates(h, w):
    """Example whose every pixel says where it came from: row in red and label, column in green."""
    rows, columns = np.mgrid[:h, :w].astype(np.uint8)
    return {
        "name": "grid",
        "image": np.stack([rows, columns, np.full_like(rows, 77)], -1),
        "label": rows,
        "saliency": columns,
        "valid": np.ones((h, w), bool),
        "tags": np.ones(3, np.float32),
    }


def noise(h=37, w=53, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


def freeze(example):
    for value in example.values():
        if isinstance(value, np.ndarray):
            value.setflags(write=False)
    return example


# ------------------------------------------------------------------------------- all of them


def test_all_are_frozen_and_keyword_only():
    kinds = [c for _, c in inspect.getmembers(T, inspect.isclass) if c.__module__ == T.__name__]
    assert len(kinds) == 12
    for kind in kinds:
        assert kind.__dataclass_params__.frozen
        assert all(field.kw_only for field in dataclasses.fields(kind))


@pytest.mark.parametrize("transform", EVERY, ids=lambda t: type(t).__name__)
def test_input_stays_and_same_generator_gives_same_output(transform):
    example = freeze(coordinates(40, 60))
    keys = list(example)
    before = {key: np.copy(value) for key, value in example.items()}
    first = transform(example, np.random.default_rng(3))
    second = transform(example, np.random.default_rng(3))
    assert list(example) == keys and first is not example
    for key, value in before.items():
        np.testing.assert_array_equal(example[key], value)
    assert first.keys() == second.keys()
    for key in first:
        np.testing.assert_array_equal(first[key], second[key])


@pytest.mark.parametrize("transform", EVERY, ids=lambda t: type(t).__name__)
def test_missing_image_lists_what_is_there(transform):
    with pytest.raises(ValueError, match="'a1' has no image.*; it has name, tags"):
        transform({"name": "a1", "tags": np.ones(2)}, np.random.default_rng(0))


@pytest.mark.parametrize("transform", [*GEOMETRY, T.CutBoxes()], ids=lambda t: type(t).__name__)
def test_entries_of_other_size_are_named(transform):
    example = coordinates(40, 60) | {"label": np.zeros((40, 59), np.uint8)}
    with pytest.raises(ValueError, match="label has 40x59 pixels but image has 40x60"):
        transform(example, np.random.default_rng(0))


def test_wrong_order_is_refused():
    rng = np.random.default_rng(0)
    normal = T.Normalize()(coordinates(40, 60), rng)
    gray = T.Grayscale(keys=("image",), p=1)
    for transform in (T.RandomScale(), T.PadCrop(size=30), T.Normalize(), gray):
        with pytest.raises(ValueError, match="float32, want uint8"):
            transform(normal, rng)
    with pytest.raises(ValueError, match="put Normalize .* before PasteCrop"):
        T.PasteCrop(size=30)(coordinates(40, 60), rng)
    views = T.Views()(coordinates(40, 60), rng)
    with pytest.raises(ValueError, match="already has weak, strong1, strong2"):
        T.Views()(views, rng)


@pytest.mark.parametrize(
    "build, words",
    [
        (lambda: T.Flip(p=1.5), "p=1.5, want a probability"),
        (lambda: T.RandomScale(low=2.0, high=1.0), "2.0 to 1.0, want 0 < low <= high"),
        (lambda: T.GaussianBlur(keys=STRONG, p=0.5, sigma=(0.0, 2.0)), "sigma: 0.0 to 2.0"),
        (lambda: T.ColorJitter(keys=STRONG, p=1, **JITTER | {"hue": 0.6}), "hue=0.6, want .* 0.5"),
        (lambda: T.ColorJitter(keys=STRONG, p=1, **JITTER | {"contrast": -1}), "contrast=-1"),
    ],
)
def test_values_out_of_range_are_named(build, words):
    with pytest.raises(ValueError, match=words):
        build()


# ---------------------------------------------------------------------------------- geometry


@pytest.mark.parametrize("h, w", [(40, 60), (90, 31), (50, 50)])
def test_random_scale_rule(h, w):
    longs = set()
    for seed in range(300):
        out = T.RandomScale(low=0.5, high=1.0)(coordinates(h, w), np.random.default_rng(seed))
        new_h, new_w = out["image"].shape[:2]
        long = max(new_h, new_w)
        longs.add(long)
        assert min(new_h, new_w) == int(min(h, w) * long / max(h, w) + 0.5)
        assert (new_h >= new_w) == (h >= w)
        assert out["label"].shape == out["saliency"].shape == out["valid"].shape == (new_h, new_w)
    assert longs == set(range(max(h, w) // 2, max(h, w) + 1))  # both ends are reached


def test_resize_long_side_rule():
    longs = set()
    for seed in range(200):
        out = T.ResizeLongSide(low=10, high=30)(coordinates(33, 50), np.random.default_rng(seed))
        new_h, new_w = out["image"].shape[:2]
        longs.add(new_w)
        assert new_h == round(33 * new_w / 50)
    assert longs == set(range(10, 31))
    half = T.ResizeLongSide(low=10, high=10)(coordinates(25, 100), np.random.default_rng(0))
    assert half["image"].shape == (2, 10, 3)  # 2.5 rounds to the even side


def test_thin_images_keep_one_pixel():
    rng = np.random.default_rng(0)
    for transform in (T.RandomScale(low=0.1, high=0.1), T.ResizeLongSide(low=5, high=5)):
        assert transform(coordinates(1, 90), rng)["image"].shape[0] == 1


def kernel_matrix(n, m, kernel, support):
    """[m,n] weights of an antialiased resize: `kernel` stretched by the shrink factor."""
    scale = max(n / m, 1.0)
    centre = (np.arange(m)[:, None] + 0.5) * n / m
    distance = np.abs(np.arange(n)[None] + 0.5 - centre) / scale
    weights = np.where(distance < support, kernel(distance), 0.0)
    return weights / weights.sum(1, keepdims=True)


def triangle(t):
    return 1 - t


def cubic(t, a=-0.5):
    near, far = ((a + 2) * t - (a + 3)) * t * t + 1, ((t - 5) * t + 8) * t * a - 4 * a
    return np.where(t < 1, near, far)


@pytest.mark.parametrize(
    "transform, kernel, support",
    [
        (T.RandomScale(low=0.4, high=0.4), triangle, 1),
        (T.RandomScale(low=1.7, high=1.7), triangle, 1),
        (T.ResizeLongSide(low=21, high=21), cubic, 2),
        (T.ResizeLongSide(low=80, high=80), cubic, 2),
    ],
)
def test_resampling_matches_written_out_filters(transform, kernel, support):
    example = {"image": noise(), "saliency": noise()[..., 0], "label": noise()[..., 1]}
    out = transform(example, np.random.default_rng(0))
    (n_h, n_w), (m_h, m_w) = (37, 53), out["label"].shape
    across_pw = kernel_matrix(n_w, m_w, kernel, support)
    down_qh = kernel_matrix(n_h, m_h, kernel, support)
    for key in ("image", "saliency"):
        wide = np.einsum("pw,hw...->hp...", across_pw, example[key])
        wide = np.clip(np.floor(wide + 0.5), 0, 255)  # 8 bit between the two passes
        want = np.clip(np.einsum("qh,hp...->qp...", down_qh, wide), 0, 255)
        error = np.abs(out[key] - want)
        # Half a level from the last rounding; a tie of the first pass may fall the other way.
        assert (error < 0.51).mean() > 0.98 and error.max() < 1.6
    rows = np.floor((np.arange(m_h) + 0.5) * n_h / m_h).astype(int)
    columns = np.floor((np.arange(m_w) + 0.5) * n_w / m_w).astype(int)
    np.testing.assert_array_equal(out["label"], example["label"][rows][:, columns])


@pytest.mark.parametrize("size", [24, 48, 80])  # inside, between and outside of 40 x 60
@pytest.mark.parametrize("crop", ["pad", "paste"])
def test_flip_and_crop_move_everything_together(size, crop):
    seen_top, seen_left, seen_flip = set(), set(), set()
    for seed in range(400):
        rng = np.random.default_rng(seed)
        example = coordinates(40, 60)
        if crop == "pad":
            out = T.Flip(p=0.5)(T.PadCrop(size=size)(example, rng), rng)
            image, empty = out["image"], 0
        else:
            example = T.Normalize(mean=(0, 0, 0), std=(1 / 255,) * 3)(example, rng)
            out = T.PasteCrop(size=size)(T.Flip(p=0.5)(example, rng), rng)
            image, empty = np.rint(out["image"]).astype(int), 0
        valid = out["valid"]
        assert image.shape == (size, size, 3) and valid.dtype == bool
        assert valid.sum() == min(size, 40) * min(size, 60)
        np.testing.assert_array_equal(image[..., 2], np.where(valid, 77, empty))
        np.testing.assert_array_equal(out["label"], np.where(valid, image[..., 0], 255))
        saliency = np.rint(out["saliency"] * (255 if crop == "paste" else 1))
        np.testing.assert_array_equal(saliency, image[..., 1])
        rows, columns = (np.flatnonzero(valid.any(axis)) for axis in (1, 0))
        window = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        mirrored = window[0, 0, 1] > window[0, -1, 1]
        window = window[:, ::-1] if mirrored else window
        np.testing.assert_array_equal(np.diff(window[..., 0].astype(int), axis=0), 1)
        np.testing.assert_array_equal(np.diff(window[..., 1].astype(int), axis=1), 1)
        seen_flip.add(bool(mirrored))
        seen_top.add((window[0, 0, 0], rows[0]))
        if not mirrored:
            seen_left.add((window[0, 0, 1], columns[0]))
    down, right = abs(40 - size) + 1, abs(60 - size) + 1
    if crop == "pad":  # a short side is padded at its end only
        down, right = 1 if size > 40 else down, 1 if size > 60 else right
    assert len(seen_top) == down and len(seen_left) == right  # every offset, both ends included
    assert seen_flip == {True, False}


def test_crop_offsets_are_uniform():
    tops = [
        T.PadCrop(size=38)(coordinates(40, 38), np.random.default_rng(seed))["label"][0, 0]
        for seed in range(3000)
    ]
    counts = np.bincount(tops, minlength=3)
    assert ((counts - 1000) ** 2 / 1000).sum() < 13.8  # chi-square, 2 degrees, 0.1 %


def test_unlabelled_padding_is_marked_by_valid_alone():
    example = {"image": noise(20, 30)}
    out = T.PadCrop(size=32)(example, np.random.default_rng(0))
    assert set(out) == {"image", "valid"}
    assert out["valid"][:20, :30].all() and out["valid"].sum() == 600
    normal = T.Normalize()(out, np.random.default_rng(0))["image"]
    black = -np.array(IMAGENET_MEAN) / np.array(IMAGENET_STD)
    np.testing.assert_allclose(normal[~out["valid"]], np.tile(black, (424, 1)), rtol=1e-6)


def test_label_fill():
    out = T.PadCrop(size=32, label_fill=7)(coordinates(20, 30), np.random.default_rng(0))
    assert set(np.unique(out["label"][~out["valid"]])) == {7}


# --------------------------------------------------------------------------------- cut boxes


def boxes(size, count, **options):
    """[count,4] top, left, height, width of drawn boxes; each map must hold one full rectangle."""
    rng = np.random.default_rng(0)
    found = []
    example = {"image": np.zeros((size, size, 3), np.uint8)}
    for _ in range(count // 2):
        out = T.CutBoxes(**options)(example, rng)
        for key in ("cut1", "cut2"):
            rows, columns = np.flatnonzero(out[key].any(1)), np.flatnonzero(out[key].any(0))
            if len(rows) == 0:
                continue
            box = (rows[0], columns[0], len(rows), len(columns))
            assert out[key].sum() == box[2] * box[3]
            assert rows[-1] - rows[0] + 1 == box[2] and columns[-1] - columns[0] + 1 == box[3]
            found.append(box)
    return np.array(found, float)


def test_cut_boxes_follow_the_rejection_law():
    top, left, h, w = boxes(518, 6000, p=1.0).T
    assert len(h) == 6000
    area = h * w / 518**2
    np.testing.assert_allclose(area.mean(), 0.209, atol=0.006)
    np.testing.assert_allclose(area.std(), 0.109, atol=0.004)
    assert 0.018 < area.min() < 0.03 and 0.37 < area.max() <= 0.4
    np.testing.assert_allclose([w.mean(), h.mean()], [201, 275], rtol=0.02)
    np.testing.assert_allclose(np.median(h / w), 1.52, rtol=0.03)
    np.testing.assert_allclose((top / (518 - h)).mean(), 0.5, atol=0.02)
    np.testing.assert_allclose((left / (518 - w)).mean(), 0.5, atol=0.02)


def test_cut_boxes_scale_with_the_image():
    _, _, h, w = boxes(96, 6000, p=1.0).T
    means = np.array([w.mean(), h.mean()]) + 0.5  # sides are cut to whole pixels, half on average
    np.testing.assert_allclose(means / 96, [0.388, 0.531], rtol=0.02)


def test_cut_box_probability():
    share = len(boxes(24, 4000)) / 4000
    assert abs(share - 0.5) < 4 * math.sqrt(0.25 / 4000)


def test_impossible_boxes_say_so():
    with pytest.raises(ValueError, match="no box .* fits an image of 24x24"):
        boxes(24, 2, p=1.0, area=(0.9, 0.9), ratio=(3.0, 3.0))


# -------------------------------------------------------------------------------- to network


def test_normalize_and_keep():
    rng = np.random.default_rng(0)
    out = T.Normalize(keys=("image",))(coordinates(20, 30), rng)
    want = (coordinates(20, 30)["image"] / 255.0 - IMAGENET_MEAN) / IMAGENET_STD
    np.testing.assert_allclose(out["image"], want, atol=1e-6)
    np.testing.assert_allclose(out["saliency"], coordinates(20, 30)["saliency"] / 255.0, atol=1e-7)
    dtypes = {key: out[key].dtype for key in ("image", "label", "saliency")}
    assert dtypes == {"image": np.float32, "label": np.int32, "saliency": np.float32}
    assert set(T.Keep(keys=("image", "tags"))(out, rng)) == {"name", "image", "tags"}
    with pytest.raises(ValueError, match="has no weak; it has name, image"):
        T.Keep(keys=("weak",))(out, rng)


def test_normalize_matches_torch():
    torch = pytest.importorskip("torch")
    pixels = torch.from_numpy(noise()).permute(2, 0, 1).float().div(255)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    want = pixels.sub(mean).div(std).permute(1, 2, 0).numpy()
    got = T.Normalize()({"image": noise()}, np.random.default_rng(0))["image"]
    np.testing.assert_array_equal(got, want)
