"""Confidences and labels of AffinityNet: the rules one by one, crops, files, bad input."""

import doctest
import os

import numpy as np
import pytest
from PIL import Image

from wsssjax.core import config as configs
from wsssjax.core import crf
from wsssjax.data import cam_file
from wsssjax.refine import affinity_data
from wsssjax.refine.affinity_data import CropFlip, PairLabel


def label_by_the_rules(low, high):
    """The published order of overwriting, pixel by pixel, in float64."""
    def pooled(x):
        k, h, w = x.shape
        return x.astype(np.float64).reshape(k, h // 8, 8, w // 8, 8).mean((2, 4))

    low, high = pooled(low), pooled(high)
    out = np.zeros(low.shape[1:], np.uint8)
    for place in np.ndindex(*out.shape):
        one, two = low[(slice(None), *place)], high[(slice(None), *place)]
        value = one.argmax()
        if one.argmax() == 0:
            value = 255
        if two.argmax() == 0:
            value = 0
        if max(one.max(), two.max()) < 1e-5:
            value = 255
        out[place] = value
    return out


def test_labels_follow_the_rules_in_their_order():
    rng = np.random.default_rng(0)
    low = rng.random((3, 8, 10)).repeat(8, 1).repeat(8, 2).astype(np.float16)
    high = rng.random((3, 8, 10)).repeat(8, 1).repeat(8, 2).astype(np.float16)
    low[:, :16], high[:, :16] = 0, 0  # outside the photo
    got = affinity_data.pair_label(low, high)
    assert set(np.unique(got)) == {0, 1, 2, 255} and (got[:2] == 255).all()
    np.testing.assert_array_equal(got, label_by_the_rules(low, high))


@pytest.mark.parametrize("low, high, want", [
    ((0.1, 0.9, 0.0), (0.2, 0.8, 0.0), 1),  # sure of the class
    ((0.9, 0.1, 0.0), (0.8, 0.1, 0.1), 0),  # sure of the background
    ((0.9, 0.1, 0.0), (0.1, 0.2, 0.7), 255),  # background at low alpha only: unsure
    ((0.1, 0.9, 0.0), (0.7, 0.2, 0.1), 0),  # a class at low, background at high: background
    ((0.1, 0.9, 0.0), (0.1, 0.2, 0.7), 1),  # two classes: that of low alpha
    ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 255),  # outside
    ((0.0, 0.0, 9e-6), (0.0, 0.0, 9e-6), 255),
])
def test_each_rule(low, high, want):
    def block(p):
        return np.float32(p)[:, None, None] * np.ones((1, 8, 8), np.float32)

    assert affinity_data.pair_label(block(low), block(high)).tolist() == [[want]]


@pytest.mark.parametrize("size", [(40, 60), (100, 30), (72, 72)])
def test_photo_and_confidences_move_together(size):
    """Each value says where it came from; what lies outside is zero in all of them."""
    h, w = size
    y, x = np.mgrid[1 : h + 1, 1 : w + 1].astype(np.uint8)
    place = np.stack([y, x, y])
    example = {"name": "a", "image": np.ascontiguousarray(place.transpose(1, 2, 0)),
               "low": place.astype(np.float16), "high": place[:2].astype(np.float16)}
    frozen = {k: v.copy() for k, v in example.items() if k != "name"}
    seen = set()
    for seed in range(20):
        out = CropFlip(size=72, flip=0.5)(example, np.random.default_rng(seed))
        image = out["image"]
        assert image.shape == (72, 72, 3) and out["low"].shape == (3, 72, 72)
        np.testing.assert_array_equal(image.transpose(2, 0, 1), out["low"])
        np.testing.assert_array_equal(image[..., :2].transpose(2, 0, 1), out["high"])
        inside = image[..., 0] > 0
        assert inside.sum() == min(h, 72) * min(w, 72)
        columns = image[..., 1].max(0).astype(int)
        step = np.diff(columns[columns > 0])
        assert (step == 1).all() or (step == -1).all()  # straight or mirrored, nothing else
        rows = image[..., 0].max(1)
        seen.add((bool(step[0] > 0), int(columns.argmax()), int(rows.argmax()), int(rows.max())))
    assert len(seen) > (5 if size != (72, 72) else 1)
    assert all((example[k] == v).all() for k, v in frozen.items())


def test_a_black_margin_becomes_ignored_labels():
    ones = np.ones((2, 40, 72), np.float16) * np.float16([0.9, 0.1])[:, None, None]
    example = {"name": "a", "image": np.full((40, 72, 3), 255, np.uint8), "low": ones,
               "high": ones}
    out = CropFlip(size=72, flip=0.0)(example, np.random.default_rng(0))
    label = PairLabel()(out, None)["label"]
    empty = (out["image"].reshape(9, 8, 9, 8, 3).max((1, 3, 4)) == 0)
    assert empty.any() and (label[empty] == 255).all() and (label[~empty] == 0).all()


# ---- files -------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """Three photos, and CAM files at photo size, at a quarter of it, and without a class."""
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for name, classes, side in (("a", [2, 15], 1), ("b", [3], 4), ("c", [], 1)):
        photo = rng.integers(0, 256, (24, 32, 3), np.uint8)
        Image.fromarray(photo).save(tmp_path / "photos" / f"{name}.png")
        maps = rng.random((len(classes), 24 // side, 32 // side))
        cam_file.write(tmp_path / "cams" / f"{name}.npz", classes, maps, (24, 32))
    return tmp_path


def write(folder, **options):
    return affinity_data.write_confidences(**{
        "cams": folder / "cams", "images": folder / "photos", "out": folder / "out"} | options)


def test_files_hold_the_crf_at_both_powers(folder):
    assert write(folder) == ["a", "b", "c"]
    photo = np.asarray(Image.open(folder / "photos/a.png"))
    maps = cam_file.read(folder / "cams/a.npz").cam.astype(np.float32)
    for half, alpha in (("low", 4), ("high", 32)):
        found = cam_file.read(folder / "out" / half / "a.npz")
        assert found.classes.tolist() == [0, 2, 15] and found.size.tolist() == [24, 32]
        scores = np.stack([(1 - maps.max(0)) ** alpha, *maps], -1)
        unary = -np.log(scores.clip(1e-5, 1)).astype(np.float32)  # of scores that sum to anything
        want = crf.infer(unary, photo, crf.PRESETS["psa"]).transpose(2, 0, 1)
        np.testing.assert_allclose(found.cam, want, atol=1e-3)
    small = cam_file.read(folder / "out/low/b.npz")
    assert small.cam.shape == (2, 24, 32)
    empty = cam_file.read(folder / "out/high/c.npz")
    assert empty.classes.tolist() == [0] and (empty.cam == 1).all()


def test_whole_files_stay_and_broken_ones_are_made_again(folder, monkeypatch):
    write(folder)
    kept, broken = folder / "out/low/a.npz", folder / "out/high/b.npz"
    before, bytes_before = kept.stat().st_mtime_ns, broken.read_bytes()
    broken.write_bytes(bytes_before[: len(bytes_before) // 2])
    asked = []
    infer_many = crf.infer_many
    monkeypatch.setattr(crf, "infer_many", lambda *a, **k: asked.append(1) or infer_many(*a, **k))
    write(folder)
    assert kept.stat().st_mtime_ns == before and len(asked) == 1
    assert broken.read_bytes() == bytes_before


def make_older(path):
    """As if the file had been written an hour earlier."""
    now = path.stat().st_mtime_ns
    os.utime(path, ns=(now - 3600 * 10**9,) * 2)


@pytest.mark.parametrize("changed", ["cams/b.npz", "photos/b.png"])
def test_files_older_than_what_they_are_made_from_are_made_again(folder, changed):
    write(folder)
    made = {name: folder / f"out/{name}.npz" for name in ("low/a", "high/a", "low/b", "high/b")}
    before = {name: path.read_bytes() for name, path in made.items()}
    for path in (*made.values(), *folder.glob("cams/*"), *folder.glob("photos/*")):
        make_older(path)
    if changed.startswith("cams"):
        cam_file.write(folder / changed, [3], np.full((1, 24, 32), 0.5), (24, 32))
    else:
        Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(folder / changed)
    write(folder)
    after = {name: path.read_bytes() for name, path in made.items()}
    assert [name for name in made if after[name] != before[name]] == ["low/b", "high/b"]


def test_files_made_with_something_else_are_not_mixed(folder):
    write(folder, ids=["a"])
    with pytest.raises(ValueError, match="made with another high_alpha"):
        write(folder, high_alpha=24)
    (folder / "cams").rename(folder / "others")
    with pytest.raises(ValueError, match="made with another cams"):
        write(folder, cams=folder / "others")
    (folder / "list.txt").write_text("photos/a.png\nphotos/b.png\nphotos/c.png\n")
    (folder / "others").rename(folder / "cams")
    with pytest.raises(ValueError, match="made with another images"):
        write(folder, images=folder / "list.txt")


def break_file(folder, kind):
    cams = folder / "cams"
    if kind == "size":
        cam_file.write(cams / "a.npz", [1], np.ones((1, 20, 20)), (30, 32))
    elif kind == "background":
        cam_file.write(cams / "a.npz", [0, 1], np.ones((2, 24, 32)), (24, 32))
    elif kind == "cut":
        (cams / "a.npz").write_bytes((cams / "a.npz").read_bytes()[:99])
    elif kind == "nan":
        np.savez(cams / "a.npz", classes=np.uint8([1]), size=np.int32([24, 32]),
                 cam=np.full((1, 24, 32), np.nan, np.float16))
    elif kind == "photo":
        (folder / "photos/a.png").write_bytes(b"\x89PNG\r\n\x1a\n")


@pytest.mark.parametrize("kind, complaint", [
    ("size", r"a.npz: made for a photo of 30 x 32; the photo has 24 x 32"),
    ("background", "a.npz: holds a map of the background"),
    ("cut", "a.npz: no CAM file"), ("nan", "a.npz: 'cam' has values outside 0..1"),
    ("photo", "a.png: broken PNG"),
])
def test_bad_input_is_one_line_that_names_it(folder, kind, complaint):
    break_file(folder, kind)
    with pytest.raises(ValueError, match=complaint) as caught:
        write(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options, complaint", [
    ({"ids": ["a", "z"]}, r"cams: has no 'z' \(1 of 2 ids missing\)"),
    ({"low_alpha": 40}, "--low_alpha=40, --high_alpha=32.0: want two finite numbers"),
    ({"low_alpha": 0}, "--low_alpha=0,"),
    ({"low_alpha": float("nan")}, "--low_alpha=nan,"),
    ({"high_alpha": float("nan")}, "--high_alpha=nan:"),
    ({"high_alpha": float("inf")}, "--high_alpha=inf:"),
    ({"low_alpha": float("inf"), "high_alpha": float("inf")}, "--low_alpha=inf,"),
    ({"memory_gb": 0}, "--memory_gb=0: want a finite number above 0"),
    ({"memory_gb": 1e-4}, "a.png: the CRF of 24 x 32 pixels needs 0.00 GB, .*; scale it down"),
])
def test_bad_arguments_are_named(folder, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        write(folder, **options)


def test_confidences_that_lack_a_half_are_named_before_training(folder):
    write(folder)
    (folder / "out/high/b.npz").unlink()
    with pytest.raises(ValueError, match=r"high/b.npz: no such file \(1 of 3 missing\); write"):
        affinity_data.Source(folder / "out", folder / "photos")


def test_confidences_without_a_class_are_named(folder):
    write(folder)
    cam_file.write(folder / "out/low/b.npz", [], np.zeros((0, 24, 32)), (24, 32))
    with pytest.raises(ValueError, match=r"low/b.npz: maps of \(24, 32\) for classes \[\]; want"):
        affinity_data.Source(folder / "out", folder / "photos")[1]


def test_missing_photos_and_folders_are_named(folder):
    (folder / "photos/b.png").unlink()
    with pytest.raises(ValueError, match=r"--images: has no 'b' \(1 of 3 ids missing\)"):
        write(folder)
    with pytest.raises(ValueError, match="no such folder of CAM files"):
        affinity_data.write_confidences(cams=folder / "none", images=folder / "photos",
                                        out=folder / "out")
    with pytest.raises(ValueError, match="low/ and high/"):
        affinity_data.Source(folder / "cams", folder / "photos")


def test_a_photo_of_one_pixel(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.zeros((1, 1, 3), np.uint8)).save(tmp_path / "photos/a.png")
    cam_file.write(tmp_path / "cams/a.npz", [7], np.ones((1, 1, 1)), (1, 1))
    write(tmp_path)
    assert cam_file.read(tmp_path / "out/low/a.npz").cam[1, 0, 0] > 0.99


# ---- loader ------------------------------------------------------------------------------------


def loader_config(folder, **changes):
    changes = {"data.images": str(folder / "photos"), "data.confidences": str(folder / "out"),
               "data.crop": "72", "data.workers": "0", "device_batch": "1"} | changes
    path = __file__.split("tests")[0] + "configs/refine_voc_affinity.py"
    return configs.load(f"{path}:resnet38", changes)


def test_batches_hold_normalised_photos_and_small_labels(folder):
    write(folder)
    (folder / "ids.txt").write_text("a\nb\n")
    loader = affinity_data.batches(loader_config(folder, **{"data.ids": str(folder / "ids.txt")}))
    batch = next(loader)
    loader.close()
    assert sorted(batch["name"]) == ["a", "b"]  # two devices, a row each
    assert batch["image"].shape == (2, 72, 72, 3) and batch["image"].dtype == np.float32
    assert batch["label"].shape == (2, 9, 9) and batch["label"].dtype == np.int32
    # Around the 24 x 32 photos lies black, normalised after the crop: -mean / std, and no label.
    black = -np.float32([0.485, 0.456, 0.406]) / np.float32([0.229, 0.224, 0.225])
    outside = np.abs(batch["image"] - black).max(-1) < 1e-6
    assert (outside.sum((1, 2)) >= 72 * 72 - 24 * 32).all()
    whole = outside.reshape(2, 9, 8, 9, 8).all((2, 4))
    assert (batch["label"][whole] == 255).all() and (batch["label"][~whole] != 255).any()


@pytest.mark.parametrize("crop", ["71", "64", "100"])
def test_a_crop_without_pairs_is_refused(folder, crop):
    write(folder)
    with pytest.raises(ValueError, match=f"config.data.crop={crop}: want a multiple of 8 pixels"):
        affinity_data.batches(loader_config(folder, **{"data.crop": crop}))


def test_confidences_that_do_not_fit_the_photo_are_named(folder):
    write(folder)
    Image.fromarray(np.zeros((10, 10, 3), np.uint8)).save(folder / "photos/b.png")
    with pytest.raises(ValueError, match="low/b.npz: maps of .* write the confidences again"):
        affinity_data.Source(folder / "out", folder / "photos")[1]


def test_examples_in_docstrings():
    assert doctest.testmod(affinity_data).failed == 0
