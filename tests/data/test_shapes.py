"""The generated data set: same bits everywhere, truth that agrees with itself, known rates."""

import collections
import hashlib
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

from wsssjax.core.constants import IGNORE
from wsssjax.data import shapes
from wsssjax.data.shapes_objects import CLUTTER, OBJECTS
from wsssjax.data.shapes_paint import FULL, Canvas, Dice, noise, paste
from wsssjax.data.shapes_scenes import NONE, RAILS, WATER

CLASSES = shapes.SHAPES_CLASSES
COUNT = 400
FIRST_CLASSES = [
    "person", "bird", "boat+bird", "train", "person+cat", "cat", "car", "person+bird",
    "person+car", "person",
]  # fmt: skip
FIRST_SIZES = [
    (96, 116), (96, 125), (96, 98), (125, 96), (96, 124), (96, 108), (96, 109), (97, 96),
    (120, 96), (114, 96),
]  # fmt: skip


@pytest.fixture(scope="module")
def data():
    return list(shapes.generate(COUNT))


def digest(examples):
    total = hashlib.sha256()
    for name, *arrays in examples:
        total.update(name.encode())
        for array in arrays:
            total.update(str((array.dtype, array.shape)).encode())
            total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def shows(context_hw, kind):
    return (context_hw == kind).mean() > 0.01


# ------------------------------------------------------------------------------ determinism


def test_other_processes_and_simpler_processors_give_the_same_bits():
    """One child runs as it is, one with every optional vector instruction of numpy switched off."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_shapes as t;"
        "print(t.digest(t.shapes.generate(6, 96, 3)))"
    )
    command = [sys.executable, "-c", program, os.path.dirname(__file__)]
    extra = " ".join(np._core._multiarray_umath.__cpu_dispatch__)
    root = os.path.dirname(os.path.dirname(os.path.dirname(shapes.__file__)))
    plain = os.environ | {"PYTHONPATH": root}
    for environment in (plain, plain | {"NPY_DISABLE_CPU_FEATURES": extra}):
        child = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert child.returncode == 0, child.stderr
        assert child.stdout.strip() == digest(shapes.generate(6, 96, 3))


def test_first_images_do_not_depend_on_count_and_seeds_differ(data):
    assert digest(shapes.generate(5)) == digest(data[:5])
    assert digest(shapes.generate(5, seed=1)) != digest(data[:5])
    assert len({digest([("", *example[1:])]) for example in data}) == COUNT


def test_parameters_are_frozen(data):
    """Results on this set are compared over time: a change of its constants must be noticed."""
    classes = ["+".join(CLASSES[i + 1] for i in np.flatnonzero(e[3])) for e in data[:10]]
    assert classes == FIRST_CLASSES
    assert [example[1].shape[:2] for example in data[:10]] == FIRST_SIZES


# ------------------------------------------------------------------------------------- truth


@pytest.mark.parametrize("size", [40, 96])
def test_label_tags_and_context_agree(size):
    for index, example in enumerate(shapes.generate(40, size, 7)):
        name, image_hwc, label_hw, tags_k, context_hw = example
        h, w = label_hw.shape
        assert name == f"shapes_{index:05d}"
        assert min(h, w) == size and max(h, w) <= 1.34 * size
        assert image_hwc.shape == (h, w, 3) and context_hw.shape == (h, w)
        assert image_hwc.dtype == label_hw.dtype == context_hw.dtype == np.uint8
        assert tags_k.dtype == np.float32 and tags_k.shape == (len(CLASSES) - 1,)
        found = set(np.unique(label_hw)) - {0, IGNORE}
        assert found == set(np.flatnonzero(tags_k) + 1) and found
        for label in found:
            assert (label_hw == label).sum() >= shapes.MIN_SHARE * h * w
        assert context_hw.max() < len(shapes.CONTEXT_CLASSES)
        inside = (label_hw > 0) & (label_hw != IGNORE)
        assert (context_hw[inside] == NONE).all()


def test_void_is_a_thin_outline(data):
    void = np.mean([(e[2] == IGNORE).mean() for e in data])
    assert 0.005 < void < 0.05
    thick, total = 0, 0
    for _, _, label_hw, _, _ in data:
        void_hw = (label_hw == IGNORE).astype(np.uint8)
        thick += cv2.erode(void_hw, np.ones((3, 3), np.uint8)).sum()
        total += void_hw.sum()
    assert thick / total < 0.03


def test_objects_differ_from_what_surrounds_them_in_some_images_only_a_little(data):
    """Mean colour inside against a ring around: clear for most, faint for some."""
    steps = []
    for _, image_hwc, label_hw, _, _ in data:
        inside = ((label_hw > 0) & (label_hw != IGNORE)).astype(np.uint8)
        ring = cv2.dilate(inside, np.ones((9, 9), np.uint8)) * (label_hw == 0)
        if ring.any():
            inner, outer = image_hwc[inside > 0].mean(0), image_hwc[ring > 0].mean(0)
            steps.append(np.linalg.norm(inner - outer))
    assert np.median(steps) > 30 and np.percentile(steps, 10) < 24


# ------------------------------------------------------------------------------------- rates


def test_class_frequencies(data):
    tags = np.stack([example[3] for example in data])
    share = dict(zip(CLASSES[1:], tags.mean(0), strict=True))
    assert len(share) >= 6
    assert share["person"] == max(share.values()) > 0.35
    assert min(share.values()) > 0.1
    assert 1.3 < tags.sum(1).mean() < 1.7
    assert set(tags.sum(1)) == {1, 2, 3}


def test_trains_and_rails_occur_together(data):
    train = np.array([example[3][CLASSES.index("train") - 1] > 0 for example in data])
    rails = np.array([shows(example[4], RAILS) for example in data])
    assert rails[train].mean() > 0.85
    assert 0.8 < train[rails].mean() < 1.0  # so tags alone hardly tell rails from trains
    assert (rails & ~train).sum() >= 3
    boat = np.array([example[3][CLASSES.index("boat") - 1] > 0 for example in data])
    water = np.array([shows(example[4], WATER) for example in data])
    assert water[boat].mean() > 0.85 and 0.6 < boat[water].mean() < train[rails].mean()


def test_sizes_vary_and_objects_hide_one_another(data):
    assert len({example[1].shape for example in data}) > 30
    for label in range(1, len(CLASSES)):
        areas = [(e[2] == label).sum() for e in data if e[3][label - 1]]
        assert np.percentile(areas, 90) > 1.5 * np.percentile(areas, 10)
    assert sum(example[2][:, [0, -1]].any() for example in data) > 0.15 * COUNT  # cut by the frame


def test_split():
    train, test = shapes.split(600)
    assert len(train) == 450 and len(test) == 150
    assert train + test == [f"shapes_{i:05d}" for i in range(600)]


@pytest.mark.parametrize("count, size", [(-1, 96), (3, 8)])
def test_impossible_requests_are_refused(count, size):
    with pytest.raises(ValueError, match=f"count={count}, size={size}; want"):
        list(shapes.generate(count, size))


# ------------------------------------------------------------------------------ drawing tools


@pytest.mark.parametrize("name", [*OBJECTS, *CLUTTER])
def test_every_drawing_fills_its_box(name):
    """Feet on the lower edge, most of height and width used, nothing but the outline mixed."""
    kind = (OBJECTS | CLUTTER)[name]
    for seed in range(8):
        canvas = Canvas(60, int(60 * kind.aspect), unit=60)
        kind.draw(canvas, Dice(seed))
        _, cover_hw = canvas.shrink()
        rows, columns = np.flatnonzero(cover_hw.any(1)), np.flatnonzero(cover_hw.any(0))
        assert rows[-1] >= 51 and rows[0] <= 22
        assert columns[-1] - columns[0] > 0.4 * cover_hw.shape[1]
        assert (cover_hw == FULL).mean() > 0.1
        assert (np.isin(cover_hw, range(1, FULL))).mean() < 0.2


def test_coverage_counts_sub_pixels():
    canvas = Canvas(2, 4)
    canvas.box(0, 0, 1, 2 / 3, (90, 60, 30))  # edges are drawn too: 4 x 3 sub-pixels
    sums_hwc, cover_hw = canvas.shrink()
    np.testing.assert_array_equal(cover_hw, [[9, 3, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(sums_hwc, cover_hw[..., None] * np.array([90, 60, 30]))
    canvas.box(0, 0, 4, 2, (200, 0, 0), inside=1)  # repaints what is there and adds nothing
    np.testing.assert_array_equal(canvas.shrink()[1], cover_hw)
    np.testing.assert_array_equal(canvas.shrink()[0][0, 0], [1800, 0, 0])
    canvas.mirror()
    np.testing.assert_array_equal(canvas.shrink()[1], cover_hw[:, ::-1])


@pytest.mark.parametrize("top, left", [(1, 2), (-2, -1), (4, 5), (-9, 0), (0, 40), (9, -9)])
def test_paste_blends_and_is_cut_by_the_frame(top, left):
    rng = np.random.default_rng(0)
    image_hwc = rng.uniform(0, 255, (6, 7, 3)).astype(np.float32)
    cover_hw = rng.integers(0, FULL + 1, (4, 5)).astype(np.uint8)
    layer_hwc = rng.uniform(0, 255, (4, 5, 3)).astype(np.float32) * cover_hw[..., None]
    want = image_hwc.copy()
    for i in range(4):
        for j in range(5):
            if 0 <= top + i < 6 and 0 <= left + j < 7:
                share = cover_hw[i, j] / FULL
                want[top + i, left + j] *= 1 - share
                want[top + i, left + j] += layer_hwc[i, j] / FULL
    rows, columns, cover = paste(image_hwc, layer_hwc, cover_hw, top, left)
    np.testing.assert_allclose(image_hwc, want, rtol=1e-5, atol=1e-4)
    assert cover.shape == image_hwc[rows, columns].shape[:2]


def test_dice_follow_their_weights():
    dice = Dice(0)
    count = collections.Counter(dice.pick({"a": 1, "b": 3}) for _ in range(4000))
    assert abs(count["b"] / 4000 - 0.75) < 0.03
    assert {dice.whole(2, 5) for _ in range(200)} == {2, 3, 4, 5}
    assert all(0 <= c <= 255 for _ in range(200) for c in dice.color((2, 250, 128), spread=40))


@pytest.mark.parametrize("h, w, cell", [(60, 80, 2), (60, 80, 20), (90, 41, 8)])
def test_noise_has_bumps_of_the_asked_size(h, w, cell):
    bumps_hw = noise(Dice(1), h, w, cell)
    assert bumps_hw.shape == (h, w) and np.abs(bumps_hw).max() <= 1.0
    step = np.abs(np.diff(bumps_hw, axis=1)).mean()
    assert step < 1.2 / cell and bumps_hw.std() > 0.1
