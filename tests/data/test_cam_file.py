"""CAM files: what goes in comes out; whatever else comes in is refused in one line."""

import io
import zipfile

import numpy as np
import pytest

from wsssjax.data import cam_file


def arrays(**changes):
    good = {
        "classes": np.uint8([3, 15]),
        "cam": np.linspace(0, 1, 24).reshape(2, 3, 4).astype(np.float16),
        "size": np.int32([3, 4]),
    }
    return {name: a for name, a in (good | changes).items() if a is not None}


def test_round_trip_and_same_bytes(tmp_path):
    rng = np.random.default_rng(0)
    cam = rng.random((2, 5, 7), np.float32)
    cam_file.write(tmp_path / "a.npz", [1, 20], cam, (5, 7))
    cam_file.write(tmp_path / "b.npz", [1, 20], cam, (5, 7))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    content = cam_file.read(tmp_path / "a.npz")
    assert [a.dtype for a in content] == [np.uint8, np.float16, np.int32]
    np.testing.assert_array_equal(content.classes, [1, 20])
    np.testing.assert_array_equal(content.size, [5, 7])
    np.testing.assert_allclose(content.cam, cam, atol=2**-11)


def test_photo_without_tags(tmp_path):
    cam_file.write(tmp_path / "a.npz", [], np.zeros((0, 5, 7)), (5, 7))
    assert cam_file.read(tmp_path / "a.npz").cam.shape == (0, 5, 7)


def test_the_background_may_be_scored_too(tmp_path):
    cam_file.write(tmp_path / "a.npz", [0, 2], np.full((2, 3, 4), 0.5), (3, 4))
    assert cam_file.read(tmp_path / "a.npz").classes.tolist() == [0, 2]


def test_numpy_reads_it_without_pickles(tmp_path):
    cam_file.write(tmp_path / "a.npz", [2], np.ones((1, 2, 2)), (4, 4))
    with np.load(tmp_path / "a.npz", allow_pickle=False) as content:
        assert sorted(content) == ["cam", "classes", "size"]


@pytest.mark.parametrize("changes, complaint", [
    ({"cam": None}, "cam.npy"),
    ({"classes": np.array([{}, {}])}, "is object"),
    ({"classes": np.uint8([15, 3])}, "rising"),
    ({"classes": np.uint8([3, 3])}, "rising"),
    ({"classes": np.uint8([3, 255])}, "rising"),
    ({"classes": np.uint8([3])}, "1 classes but 2 maps"),
    ({"cam": arrays()["cam"].astype(np.float32)}, "is float32"),
    ({"cam": arrays()["cam"][0]}, "want float16 of rank 3"),
    ({"cam": np.asfortranarray(arrays()["cam"])}, "want float16"),
    ({"cam": np.full((2, 3, 4), np.nan, np.float16)}, "outside 0..1"),
    ({"cam": np.full((2, 3, 4), 1.01, np.float16)}, "outside 0..1"),
    ({"cam": np.full((2, 3, 4), -0.1, np.float16)}, "outside 0..1"),
    ({"size": np.int32([2, 4])}, "photo of 2x4"),
    ({"size": np.int32([3, 4, 1])}, "positive height and width"),
    ({"size": np.int32([-3, 4])}, "positive height and width"),
])
def test_wrong_content_is_named(tmp_path, changes, complaint):
    path = tmp_path / "x.npz"
    np.savez(path, **arrays(**changes))
    with pytest.raises(ValueError, match=complaint) as error:
        cam_file.read(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def damage(data: bytes):
    yield b""
    yield b"\x89PNG\r\n\x1a\n" + bytes(100)
    yield data[: len(data) // 2]
    yield data[:-1]
    spot = data.index(b"cam.npy") + 300  # inside the maps: the checksum must notice
    yield data[:spot] + bytes([data[spot] ^ 255]) + data[spot + 1 :]


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, **arrays(cam=np.zeros((2, 30, 40), np.float16), size=np.int32([30, 40])))
    for broken in damage(path.read_bytes()):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="no CAM file"):
            cam_file.read(path)


@pytest.mark.parametrize("shape", [(2, 60000, 60000), (1, 100, 100), (-2, 3, 4)])
def test_header_that_promises_more_than_there_is(tmp_path, shape):
    """A few bytes must not make us ask for gigabytes."""
    path, body = tmp_path / "x.npz", io.BytesIO()
    np.lib.format.write_array_header_1_0(
        body, {"descr": "<f2", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays(cam=None).items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array, version=(1, 0))
        archive.writestr("cam.npy", body.getvalue() + bytes(48))
    with pytest.raises(ValueError, match="no CAM file"):
        cam_file.read(path)


def test_other_compressions_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, **arrays())
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    with pytest.raises(ValueError, match="never writes"):
        cam_file.read(path)


def test_missing_file_is_an_oserror(tmp_path):
    with pytest.raises(FileNotFoundError):
        cam_file.read(tmp_path / "none.npz")
