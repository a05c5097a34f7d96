"""Dense CRF on files: label maps and CAM files in, label maps and marginals out."""

import doctest
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from wsssjax.core import crf
from wsssjax.data import cam_file, label_map, photos
from wsssjax.refine import crf as refine_crf
from wsssjax.refine.__main__ import main, run

SIZE = (24, 31)


@pytest.fixture
def folders(tmp_path):
    """Photos of a coloured square on grey; labels that miss part of it; class maps of it."""
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number, name in enumerate("abc"):
        photo = rng.integers(90, 110, (*SIZE, 3)).astype(np.uint8)
        top, left = 4 + number, 6 + 2 * number
        photo[top:top + 12, left:left + 12] += np.uint8([100, 0, 40])
        Image.fromarray(photo).save(tmp_path / "photos" / f"{name}.png")
        label = np.zeros(SIZE, np.uint8)
        label[top:top + 12, left:left + 8] = 3
        label[0, 0] = 255
        label_map.write(tmp_path / "labels" / f"{name}.png", label)
        cam = np.zeros((2, *SIZE))
        cam[0, top:top + 12, left:left + 8] = 0.9
        cam[1, -3:, :3] = 0.3
        cam_file.write(tmp_path / "cams" / f"{name}.npz", [3, 7], cam, SIZE)
    return tmp_path


def options(folders, source="labels", **changes):
    return {"method": "crf", source: str(folders / source), "images": str(folders / "photos"),
            "out": str(folders / "out"), **changes}


def test_label_maps_take_preset_irn_with_all_classes(folders):
    assert run(**options(folders)) == {"images": 3, "method": "crf"}
    for name in "abc":
        label = label_map.read(folders / "labels" / f"{name}.png", 21)
        photo = photos.read_photo(folders / "photos" / f"{name}.png")
        want = crf.infer(crf.labels_to_unary(label, 21, 0.7), photo, crf.PRESETS["irn"]).argmax(-1)
        got = label_map.read(folders / "out" / f"{name}.png", 21)
        np.testing.assert_array_equal(got, want)
        assert (got == 3).sum() > 1.3 * (label == 3).sum()  # it grew over the square's colour
        assert 255 not in got


def test_cam_files_take_preset_psa_and_their_own_classes(folders):
    run(**options(folders, "cams", save=("labels", "scores"), alpha=4.0))
    for name in "abc":
        content = cam_file.read(folders / "cams" / f"{name}.npz")
        cam = content.cam.astype(np.float32)
        scores = np.concatenate([(1 - cam.max(0, keepdims=True)) ** 4, cam]).transpose(1, 2, 0)
        photo = photos.read_photo(folders / "photos" / f"{name}.png")
        want = crf.infer(crf.scores_to_unary(scores), photo, crf.PRESETS["psa"])
        got = cam_file.read(folders / "out" / f"{name}.npz")
        assert got.classes.tolist() == [0, 3, 7]
        np.testing.assert_allclose(got.cam, want.transpose(2, 0, 1), atol=1e-3)
        labels = label_map.read(folders / "out" / f"{name}.png", 21)
        np.testing.assert_array_equal(labels, np.uint8([0, 3, 7])[want.argmax(-1)])


def test_unsure_pixels_stay_open_where_asked(folders):
    options_ = options(folders, "cams", save=("labels", "scores"), iterations=1, alpha=1.0)
    run(**options_ | {"out": str(folders / "sure")})
    run(**options_ | {"min_confidence": 0.95})
    for name in "abc":
        found = cam_file.read(folders / "out" / f"{name}.npz")
        got = label_map.read(folders / "out" / f"{name}.png", 21)
        sure = label_map.read(folders / "sure" / f"{name}.png", 21)
        largest = found.cam.max(0)
        clear = np.abs(largest - 0.95) > 1e-3  # marginals are stored as half floats
        np.testing.assert_array_equal(got == 255, np.where(clear, largest < 0.95, got == 255))
        np.testing.assert_array_equal(got[got != 255], sure[got != 255])
        assert 0 < (got == 255).mean() < 1
    with pytest.raises(ValueError, match="--min_confidence=1.0: want a probability"):
        run(**options_ | {"out": str(folders / "other"), "min_confidence": 1.0})


def test_scored_background_is_taken_as_it_is(folders):
    run(**options(folders, "cams", save=("scores",)))
    run(method="crf", cams=str(folders / "out"), images=str(folders / "photos"),
        out=str(folders / "again"), iterations=0)
    for name in "abc":
        found = cam_file.read(folders / "out" / f"{name}.npz")
        got = label_map.read(folders / "again" / f"{name}.png", 21)
        np.testing.assert_array_equal(got, found.classes[found.cam.argmax(0)])


def test_small_class_maps_are_enlarged(folders):
    cam_file.write(folders / "cams" / "a.npz", [3], np.full((1, 6, 8), 0.9), SIZE)
    run(**options(folders, "cams", ids=["a"]))
    assert (label_map.read(folders / "out" / "a.png", 21) == 3).all()


def test_jax_device_gives_the_same_labels(folders):
    run(**options(folders))
    run(**options(folders, out=str(folders / "jax"), device="jax", ids=["b"]))
    np.testing.assert_array_equal(label_map.read(folders / "jax" / "b.png", 21),
                                  label_map.read(folders / "out" / "b.png", 21))


def test_present_classes_alone_make_a_weaker_unary(folders):
    label = label_map.read(folders / "labels" / "a.png", 21)
    photo = photos.read_photo(folders / "photos" / "a.png")
    few = refine_crf.refine_labels(label, photo, crf.PRESETS["irn"], 21, scope="present")
    assert few.classes.tolist() == [0, 3] and few.q_hwm.shape == (*SIZE, 2)
    run(**options(folders, ids=["a"], scope="present"))
    np.testing.assert_array_equal(label_map.read(folders / "out" / "a.png", 21),
                                  few.classes[few.q_hwm.argmax(-1)])


def test_baos_preset_has_91_labels_and_any_other_number_can_be_asked_for(folders):
    """The margin between right and wrong is -ln(0.3/90) + ln 0.7 = 5.35, with 21 labels 3.84; the
    same 91 classes under preset irn give the same labels."""
    label = label_map.read(folders / "labels" / "a.png", 21)
    photo = photos.read_photo(folders / "photos" / "a.png")
    run(**options(folders, preset="bao_label", save=("labels", "scores")))
    whole = crf.infer(crf.labels_to_unary(label, 91, 0.7), photo, crf.PRESETS["bao_label"])
    found = cam_file.read(folders / "out" / "a.npz")
    assert found.classes.tolist() == list(range(21))
    np.testing.assert_allclose(found.cam, whole[..., :21].transpose(2, 0, 1), atol=1e-3)
    np.testing.assert_array_equal(label_map.read(folders / "out" / "a.png", 21), whole.argmax(-1))
    few = {**options(folders), "out": str(folders / "few"), "preset": "bao_label"}
    run(**few, label_count=21, save=("scores",))
    run(**options(folders, save=("scores",)) | {"out": str(folders / "irn")})
    for name in "abc":
        a, b = (cam_file.read(folders / part / f"{name}.npz").cam for part in ("few", "irn"))
        np.testing.assert_array_equal(a, b)
    unary = crf.labels_to_unary(np.array([[1]]), 91, 0.7)[0, 0]
    assert unary[:2] == pytest.approx([5.704, 0.357], abs=1e-3)
    with pytest.raises(ValueError, match="made with another label_count"):
        run(**few, save=("scores",))


def test_no_foreground_no_class_one_pixel(folders):
    label_map.write(folders / "labels" / "a.png", np.zeros(SIZE, np.uint8))
    Image.new("RGB", (1, 1), (9, 9, 9)).save(folders / "photos" / "b.png")
    label_map.write(folders / "labels" / "b.png", np.uint8([[5]]))
    label_map.write(folders / "labels" / "c.png", np.full(SIZE, 255, np.uint8))
    run(**options(folders))
    assert not label_map.read(folders / "out" / "a.png", 21).any()
    assert label_map.read(folders / "out" / "b.png", 21).tolist() == [[5]]
    assert len(np.unique(label_map.read(folders / "out" / "c.png", 21))) == 1
    cam_file.write(folders / "cams" / "a.npz", [], np.zeros((0, *SIZE)), SIZE)
    run(**options(folders, "cams", ids=["a"], out=str(folders / "none")))
    assert not label_map.read(folders / "none" / "a.png", 21).any()


def test_photos_are_taken_as_a_viewer_shows_them(folders):
    """Grey, and lying on its side with an EXIF note: the label map is that of the upright photo."""
    upright = photos.read_photo(folders / "photos" / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(upright)).save(folders / "photos" / "a.png", exif=exif)
    Image.fromarray(upright[..., 0]).save(folders / "photos" / "b.png")
    label_map.write(folders / "labels" / "b.png", label_map.read(folders / "labels" / "a.png", 21))
    run(**options(folders, ids=["a", "b"]))
    label = label_map.read(folders / "labels" / "a.png", 21)
    for name, photo in (("a", upright), ("b", np.repeat(upright[..., :1], 3, -1))):
        want = crf.infer(crf.labels_to_unary(label, 21), photo, crf.PRESETS["irn"]).argmax(-1)
        np.testing.assert_array_equal(label_map.read(folders / "out" / f"{name}.png", 21), want)


def test_what_is_done_is_kept_and_never_mixed(folders):
    run(**options(folders, ids=["a"]))
    before = (folders / "out" / "a.png").stat().st_mtime_ns
    run(**options(folders))
    assert (folders / "out" / "a.png").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="made with another iterations"):
        run(**options(folders, iterations=3))
    shutil.copytree(folders / "photos", folders / "others")
    with pytest.raises(ValueError, match="made with another images"):
        run(**options(folders, images=str(folders / "others")))
    with pytest.raises(ValueError, match="is --images itself"):
        run(**options(folders, out=str(folders / "photos")))
    label_map.write(folders / "labels" / "a.png", np.zeros(SIZE, np.uint8))  # a new input
    run(**options(folders))
    assert not label_map.read(folders / "out" / "a.png", 21).any()


def make_bad(folders, what):
    """Spoils one input and returns (options, message)."""
    if what == "photo of another size":
        Image.new("RGB", (30, 24)).save(folders / "photos" / "b.png")
        return options(folders), r"labels/b.png: label map of 24 x 31; its image has 24 x 30"
    if what == "class maps of another size":
        cam_file.write(folders / "cams" / "b.npz", [3], np.zeros((1, 9, 9)), (9, 9))
        return options(folders, "cams"), r"b.npz: made for a photo of 9 x 9; the photo has 24 x 31"
    if what == "NaN":
        np.savez(folders / "cams" / "b.npz", classes=np.uint8([3]), size=np.int32(SIZE),
                 cam=np.full((1, *SIZE), np.nan, np.float16))
        return options(folders, "cams"), "b.npz: 'cam' has values outside 0..1"
    if what == "class that is none":
        cam_file.write(folders / "cams" / "b.npz", [21], np.zeros((1, *SIZE)), SIZE)
        return options(folders, "cams"), "b.npz: holds class 21; want 0..20"
    if what == "photo missing":
        (folders / "photos" / "b.png").unlink()
        return options(folders), r"photos: has nothing for 'b' \(1 of 3 ids missing\)"
    if what == "truncated photo":
        data = (folders / "photos" / "b.png").read_bytes()
        (folders / "photos" / "b.png").write_bytes(data[: len(data) // 2])
        return options(folders), "b.png: broken PNG"
    if what == "memory":
        return options(folders, memory_gb=1e-5), "a.png: the CRF of 24 x 31 pixels needs"
    changes = {"preset": {"preset": "ssa"}, "iterations": {"iterations": -1},
               "gt_prob": {"gt_prob": 0.0}, "alpha": {"alpha": float("nan")},
               "scope": {"scope": "tagged"}, "save": {"save": ("cams",)},
               "label_count": {"label_count": 20}, "too many": {"label_count": 256},
               "memory_gb": {"memory_gb": float("inf")}, "device": {"device": "gpu"}}[what]
    source = "cams" if what == "alpha" else "labels"
    return options(folders, source, **changes), f"--{next(iter(changes))}"


@pytest.mark.parametrize("what", [
    "photo of another size", "class maps of another size", "NaN", "class that is none",
    "photo missing", "truncated photo", "memory", "preset", "iterations", "gt_prob", "alpha",
    "scope", "label_count", "too many", "save", "memory_gb", "device"])
def test_bad_input_is_named_in_one_line(folders, what):
    arguments, message = make_bad(folders, what)
    with pytest.raises(ValueError, match=message) as error:
        run(**arguments)
    assert "\n" not in str(error.value)


def test_labels_or_cams_but_not_both(folders):
    with pytest.raises(ValueError, match="needs one of --labels, --cams"):
        run(**options(folders, cams=str(folders / "cams")))
    with pytest.raises(ValueError, match="--gt_prob=0.6: is for label maps"):
        run(**options(folders, "cams", gt_prob=0.6))
    with pytest.raises(ValueError, match="--scope=present: is for label maps"):
        run(**options(folders, "cams", scope="present"))
    with pytest.raises(ValueError, match="--label_count=21: is for label maps"):
        run(**options(folders, "cams", label_count=21))
    with pytest.raises(ValueError, match="--label_count=21: is for --scope=all"):
        run(**options(folders, label_count=21, scope="present"))
    with pytest.raises(ValueError, match="--alpha=3.0: is for CAM files"):
        run(**options(folders, alpha=3.0))
    with pytest.raises(ValueError, match="--memory_gb=1.0: .* with --device=host"):
        run(**options(folders, memory_gb=1.0, device="jax"))
    with pytest.raises(ValueError, match="holds no CAM file"):
        run(method="crf", cams=str(folders / "labels"), images=str(folders / "photos"), out="o")


def test_photos_wait_for_memory_instead_of_failing(folders, monkeypatch):
    """Sixteen cores, and memory for little more than one photo."""
    monkeypatch.setattr(refine_crf.threads, "usable_cores", lambda: 16)
    running, most, real = [0], [0], crf.infer

    def infer(unary_hwk, image_hwc, how, *, memory):
        running[0] += 1
        most[0] = max(most[0], running[0])
        q_hwk = real(unary_hwk, image_hwc, how, memory=memory)
        time.sleep(0.05)
        running[0] -= 1
        return q_hwk

    monkeypatch.setattr(refine_crf.crf, "infer", infer)
    one = crf.needs(SIZE[0] * SIZE[1], 21, crf.PRESETS["irn"], SIZE[0] * SIZE[1])
    run(**options(folders, memory_gb=1.5 * one / 1e9))
    assert most == [1] and label_map.folder_ids(folders / "out") == ["a", "b", "c"]
    run(**options(folders, out=str(folders / "much"), memory_gb=1.0))
    assert most[0] > 1


def test_command(folders, capsys):
    main(["--method=crf", f"--labels={folders}/labels", f"--images={folders}/photos",
          f"--out={folders}/out", "--preset=deeplab", "--iterations=2", "--save=labels,scores"])
    assert "3 photos" in capsys.readouterr().out
    assert cam_file.read(folders / "out" / "a.npz").cam.shape == (21, *SIZE)
    done = subprocess.run(
        [sys.executable, "-m", "wsssjax.refine", "--method=crf", f"--labels={folders}/labels",
         f"--images={folders}/none", f"--out={folders}/o2"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "no such folder" in done.stderr


def test_examples():
    assert doctest.testmod(refine_crf).failed == 0
