"""Photos and saliency maps from files that nobody vouches for."""

import io
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from wsssjax.data import photos


def _encode(array, format="PNG", **options):
    file = io.BytesIO()
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(file, format, **options)
    return file.getvalue()


NOISE = np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)


def test_pixels_equal_pil_and_cv2():
    cv2 = pytest.importorskip("cv2")
    png, jpeg = _encode(NOISE), _encode(NOISE, "JPEG", quality=95)
    np.testing.assert_array_equal(photos.decode_photo(png, "a"), NOISE)
    got = photos.decode_photo(jpeg, "a")
    np.testing.assert_array_equal(got, np.asarray(Image.open(io.BytesIO(jpeg))))
    other = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(got.astype(int) - other).mean() < 2  # two JPEG libraries differ by rounding


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1"])
def test_other_modes_become_rgb(mode):
    image = Image.fromarray(NOISE).convert(mode)
    got = photos.decode_photo(_encode(image), "a")
    np.testing.assert_array_equal(got, np.asarray(image.convert("RGB")))


def test_transparent_palettes_do_not_warn():
    image = Image.fromarray(NOISE).convert("P")
    data = _encode(image, transparency=bytes(range(200)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(
            photos.decode_photo(data, "a"), np.asarray(image.convert("RGB"))
        )


@pytest.mark.parametrize("colour", [0, 2, 4, 6], ids=["grey", "RGB", "grey+alpha", "RGBA"])
def test_sixteen_bits_are_scaled_as_a_viewer_does(raw_png, colour):
    values = np.array([[0, 127, 128, 129, 255], [256, 257, 32767, 32768, 65535]])
    want = np.floor(values / 257 + 0.5).astype(np.uint8)  # 65535 is 255, and nothing wraps round
    got = photos.decode_photo(raw_png(values, depth=16, colour=colour), "a")
    np.testing.assert_array_equal(got, np.repeat(want[..., None], 3, axis=2))


def test_colours_of_sixteen_bits_keep_their_places_and_stand_upright():
    cv2 = pytest.importorskip("cv2")
    deep = NOISE.astype(np.uint16) * 257
    png = cv2.imencode(".png", np.ascontiguousarray(deep[..., ::-1]))[1].tobytes()
    np.testing.assert_array_equal(photos.decode_photo(png, "a"), NOISE)
    exif = Image.Exif()
    exif[0x0112] = 6
    body = b"eXIf" + exif.tobytes()[6:]  # without the "Exif" of JPEG in front
    chunk = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    turned = photos.decode_photo(png[:33] + chunk + png[33:], "a")
    np.testing.assert_array_equal(turned, np.rot90(NOISE, -1))


@pytest.mark.parametrize("marker", [True, False], ids=["Adobe", "plain"])
def test_cmyk_photos_show_their_colours(marker):
    """Adobe stores its inks inverted; both kinds look as OpenCV shows them."""
    cv2 = pytest.importorskip("cv2")
    colours = np.array([(255, 0, 0), (0, 128, 255), (250, 240, 20), (30, 30, 30)], np.uint8)
    image = Image.fromarray(np.repeat(np.repeat(colours[None], 32, 0), 32, 1)).convert("CMYK")
    data = _encode(image, "JPEG", quality=95)
    at = data.index(b"\xff\xee")
    if not marker:
        data = data[:at] + data[at + 2 + int.from_bytes(data[at + 2:at + 4], "big"):]
    got = photos.decode_photo(data, "a")[16, 16::32].astype(int)
    assert np.abs(got - colours).max() <= 2
    seen = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[16, 16::32, ::-1]
    assert np.abs(got - seen).max() <= 2


def test_a_photo_of_one_pixel_or_one_colour():
    for size in ((1, 1), (1, 7), (9, 4)):
        image = np.full((*size, 3), (9, 200, 31), np.uint8)
        np.testing.assert_array_equal(photos.decode_photo(_encode(image), "a"), image)
        assert photos.decode_photo(_encode(image, "JPEG"), "a").shape == image.shape


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_stand_upright(tmp_path, orientation):
    """All eight EXIF orientations of a camera give the picture that was seen, and its size."""
    seen = NOISE
    stored = {
        1: seen, 2: seen[:, ::-1], 3: seen[::-1, ::-1], 4: seen[::-1],
        5: seen.swapaxes(0, 1), 6: np.rot90(seen, 1), 7: seen[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(seen, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.png"
    path.write_bytes(_encode(np.ascontiguousarray(stored), exif=exif))
    np.testing.assert_array_equal(photos.read_photo(path), seen)
    assert photos.photo_size(path) == seen.shape[:2]


def _cut(data):
    return data[: len(data) // 2]


HOSTILE = {
    "empty": (lambda png: b"", "empty"),
    "text": (lambda png: b"<html>404 Not Found</html>", "not a JPEG or PNG"),
    "GIF": (lambda png: _encode(NOISE, "GIF"), "not a JPEG or PNG"),
    "TIFF": (lambda png: _encode(NOISE, "TIFF"), "not a JPEG or PNG"),
    "JPEG cut off": (lambda png: _cut(_encode(NOISE, "JPEG")), "broken JPEG"),
    "JPEG pixels cut off": (lambda png: _encode(NOISE, "JPEG")[:-60], "broken JPEG"),
    "PNG cut off": (lambda png: _cut(_encode(NOISE)), "broken PNG"),
    "JPEG signature": (lambda png: b"\xff\xd8\xff", "broken JPEG"),
    "PNG signature": (lambda png: b"\x89PNG\r\n\x1a\n", "broken PNG"),
    "16 bit cut off": (lambda png: png(np.ones((40, 40)), depth=16, colour=0)[:-30], "broken PNG"),
    "16 bit damaged": (lambda png: png(np.ones((40, 40)), depth=16, damage=b"IDAT", colour=2),
                       "broken PNG"),
    "huge": (lambda png: png(np.zeros((4, 4)), size=(10**9, 10**9)), "scale it down"),
    "large": (lambda png: png(np.zeros((4, 4)), size=(9000, 9000)), "scale it down"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_photos_are_one_line_that_names_the_file(raw_png, tmp_path, case):
    make, told = HOSTILE[case]
    path = tmp_path / "2007_000001.jpg"
    path.write_bytes(make(raw_png))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=told) as caught:
            photos.read_photo(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_text_chunk_that_explodes_is_refused(tmp_path):
    """A few kB of compressed text that would unpack to 200 MB."""
    data = _encode(NOISE)
    body = b"zTXt" + b"key\0\0" + zlib.compress(bytes(200 << 20), 9)
    chunk = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    path = tmp_path / "a.png"
    path.write_bytes(data[:33] + chunk + data[33:])
    with pytest.raises(ValueError, match="broken PNG"):
        photos.read_photo(path)


def test_a_file_too_large_for_an_image_is_not_read(tmp_path):
    path = tmp_path / "a.jpg"
    with open(path, "wb") as file:
        file.truncate(photos.MAX_BYTES + 1)  # a hole: takes no room
    with pytest.raises(ValueError, match="limit"):
        photos.read_photo(path)


def test_saliency_is_grey_and_nothing_else(tmp_path):
    grey = NOISE[..., 0]
    np.testing.assert_array_equal(photos.decode_saliency(_encode(grey), "a"), grey)
    with pytest.raises(ValueError, match="a.png: saliency of mode RGB; save it as an 8-bit grey"):
        photos.decode_saliency(_encode(NOISE), "a.png")
    path = tmp_path / "a.jpg"
    path.write_bytes(_cut(_encode(grey, "JPEG")))
    with pytest.raises(ValueError, match="broken JPEG"):
        photos.read_saliency(path)
