"""Whole photos of many sizes: against torch, one by one, and where the answer is known."""

import numpy as np
import pytest

from wsssjax.semi import predict

COLOURS = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)


class Settings:
    """config.predict and config.data in one."""

    mode, multiple, window, batch = "original", 14, 28, 3
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def noise(sizes, seed=0):
    rng = np.random.default_rng(seed)
    return [(f"p{i}", rng.integers(0, 256, (*s, 3), dtype=np.uint8)) for i, s in enumerate(sizes)]


def nearest_colour(image_bhwc):
    """Logits of a perfect segmenter of photos painted in COLOURS."""
    colours = (COLOURS / 255 - Settings.mean) / Settings.std
    return -((image_bhwc[..., None, :] - colours) ** 2).sum(-1).astype(np.float32)


@pytest.mark.parametrize("size, multiple, want", [
    ((375, 500), 14, (378, 504)), ((333, 500), 14, (336, 504)), ((366, 500), 14, (364, 504)),
    ((281, 500), 14, (280, 504)), ((512, 683), 14, (518, 686)), ((250, 188), 32, (256, 192)),
    ((3, 1000), 32, (32, 992)), ((7, 21), 14, (14, 28)),
])
def test_input_size(size, multiple, want):
    assert predict.input_size(size, multiple) == want


def test_logits_match_torch_photo_by_photo():
    """Random network (a fixed 1 x 1 convolution with a tanh) on photos of nine sizes."""
    torch = pytest.importorskip("torch")
    resize = torch.nn.functional.interpolate
    weight = np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32)
    sizes = [(33, 47), (33, 47), (35, 50), (28, 42), (20, 90), (14, 15), (90, 20), (34, 48),
             (37, 40)]
    items = noise(sizes)
    got = dict(predict.photo_logits(items, lambda x: np.tanh(x @ weight), Settings, Settings))
    assert set(got) == {name for name, _ in items}
    for name, image in items:
        x = (torch.tensor(image) / 255 - torch.tensor(Settings.mean)) / torch.tensor(Settings.std)
        x = x.permute(2, 0, 1)[None]
        h, w = image.shape[:2]
        grid = [max(int(s / 14 + 0.5), 1) * 14 for s in (h, w)]
        x = resize(x, grid, mode="bilinear", align_corners=True)
        z = torch.tanh(x.permute(0, 2, 3, 1) @ torch.tensor(weight)).permute(0, 3, 1, 2)
        want = resize(z, (h, w), mode="bilinear", align_corners=True)[0].permute(1, 2, 0)
        assert got[name].dtype == np.float32
        np.testing.assert_allclose(got[name], want.numpy(), atol=2e-5, err_msg=name)


def test_the_network_only_ever_sees_full_batches_of_few_sizes():
    seen = []

    def forward(image_bhwc):
        seen.append(image_bhwc.shape)
        return image_bhwc

    sizes = [(42 + i % 5, 56 - i % 3) for i in range(20)] + [(100, 28)]
    got = list(predict.photo_logits(noise(sizes), forward, Settings, Settings))
    assert [dict(got)[f"p{i}"].shape[:2] for i in range(21)] == sizes
    assert set(seen) == {(3, 42, 56, 3), (3, 98, 28, 3)}
    assert len(seen) == 8  # 20 photos in sevens of three, and one alone


def test_a_perfect_network_gives_the_painted_mask_back():
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 4, (4, 6)).repeat(14, 0).repeat(14, 1)
    ((_, logits),) = predict.photo_logits(
        [("a", COLOURS[mask])], nearest_colour, Settings, Settings)
    np.testing.assert_array_equal(logits.argmax(-1), mask)  # nothing to resize: exact
    small = mask[:-5, :-3]  # resized there and back: exact but for a pixel beside an edge
    ((_, logits),) = predict.photo_logits(
        [("a", COLOURS[small])], nearest_colour, Settings, Settings)
    inner = np.ones(small.shape, bool)
    for axis in (0, 1):
        edge = np.diff(small, axis=axis) != 0
        for shift in (-1, 0, 1, 2):
            moved = np.roll(np.pad(edge, [(0, int(axis == a)) for a in (0, 1)]), shift, axis)
            inner &= ~moved
    assert inner.mean() > 0.5
    np.testing.assert_array_equal(logits.argmax(-1)[inner], small[inner])


def test_mirrored_photos_give_mirrored_logits():
    ((_, image),) = noise([(61, 45)])
    pair = [("a", image), ("b", np.ascontiguousarray(image[:, ::-1]))]
    got = dict(predict.photo_logits(pair, lambda x: np.tanh(x), Settings, Settings))
    np.testing.assert_allclose(got["a"][:, ::-1], got["b"], atol=1e-5)


class Windows(Settings):
    mode, window, batch = "sliding_window", 28, 4


@pytest.mark.parametrize("side, window, want", [
    (1024, 798, [0, 226]), (2048, 798, [0, 532, 1064, 1250]), (798, 798, [0]), (799, 798, [0, 1]),
    (40, 28, [0, 12]), (64, 28, [0, 18, 36])])
def test_window_starts(side, window, want):
    assert predict.window_starts(side, window) == want


def test_sliding_windows_add_up_the_softmax_of_each():
    """Brute force, photo by photo and window by window, with a network that looks around."""
    weight = np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32)

    def forward(image_bhwc):  # scores depend on the whole window, so each window differs
        assert image_bhwc.shape == (4, 28, 28, 3)
        return image_bhwc @ weight + image_bhwc.mean((1, 2))[:, None, None] @ weight

    items = noise([(28, 28), (40, 64), (33, 30)])
    got = dict(predict.photo_logits(items, forward, Windows, Windows))
    for name, image in items:
        x = predict.normalise(image, Windows.mean, Windows.std)
        h, w = image.shape[:2]
        want = np.zeros((h, w, 5))
        for top in predict.window_starts(h, 28):
            for left in predict.window_starts(w, 28):
                part = x[top : top + 28, left : left + 28]
                z = np.exp((part @ weight + part.mean((0, 1)) @ weight).astype(np.float64))
                want[top : top + 28, left : left + 28] += z / z.sum(-1, keepdims=True)
        np.testing.assert_allclose(got[name], want, atol=1e-5)


@pytest.mark.parametrize("settings, size, message", [
    (Settings, (13, 200), "photo 'p0': 13 x 200 pixels is smaller than one cell of the"),
    (Windows, (28, 27), "photo 'p0': 28 x 27 pixels is smaller than one sliding window, 28"),
])
def test_too_small_photos_are_named(settings, size, message):
    with pytest.raises(ValueError) as error:
        list(predict.photo_logits(noise([size]), lambda x: x, settings, settings))
    assert message in str(error.value)


def test_unknown_mode():
    class wrong(Settings):
        mode = "center_crop"

    with pytest.raises(ValueError, match="config.predict.mode 'center_crop' is unknown"):
        list(predict.photo_logits(noise([(20, 20)]), lambda x: x, wrong, wrong))
