"""Label maps: indices come out right, and nothing but a whole label map is let in."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from wsssjax.data import label_map


def test_reads_what_it_wrote_and_pil_sees_voc_colours(tmp_path):
    label = np.random.default_rng(0).integers(0, 21, (13, 17), dtype=np.uint8)
    label[0, :3] = 255, 0, 20
    label_map.write(tmp_path / "a.png", label)
    np.testing.assert_array_equal(label_map.read(tmp_path / "a.png", 21), label)
    image = Image.open(tmp_path / "a.png")
    assert image.mode == "P"
    colours = np.asarray(image.convert("RGB"))
    assert tuple(colours[0, 0]) == (224, 224, 192)  # VOC's void
    assert tuple(colours[0, 1]) == (0, 0, 0)
    assert tuple(colours[0, 2]) == (0, 64, 128)  # tvmonitor


def test_same_map_gives_the_same_bytes_and_leaves_no_other_file(tmp_path):
    label = np.arange(21, dtype=np.uint8).reshape(3, 7)
    label_map.write(tmp_path / "a.png", label)
    assert (tmp_path / "a.png").read_bytes() == label_map.encode(label.copy(order="F"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("colour", [0, 3])
@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_indices_of_every_legal_kind(raw_png, tmp_path, depth, colour):
    """Palette and grey, 1 to 8 bit, against bits packed by hand; widths that fill no whole byte."""
    top = min(2**depth, 21)
    label = np.random.default_rng(depth).integers(0, top, (5, 13))
    path = tmp_path / "a.png"
    path.write_bytes(raw_png(label, depth, colour))
    got = label_map.read(path, 21, size=(5, 13))
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, label)


def test_interlaced_and_transparent_palettes_are_indices_too(tmp_path):
    label = np.random.default_rng(1).integers(0, 21, (11, 9), dtype=np.uint8)
    image = Image.fromarray(label)
    image.putpalette(label_map.palette().tobytes())
    image.save(tmp_path / "a.png", transparency=0)
    np.testing.assert_array_equal(label_map.read(tmp_path / "a.png", 21), label)


def _jpeg():
    file = io.BytesIO()
    Image.fromarray(np.zeros((6, 5), np.uint8)).save(file, "JPEG")
    return file.getvalue()


def _short_pixels(raw_png):
    """A PNG whose chunks are whole, but whose pixel stream ends early."""
    whole = raw_png(np.zeros((64, 64), int))
    start = whole.index(b"IDAT")
    length = int.from_bytes(whole[start - 4 : start], "big")
    short = zlib.compress(b"\0" * 100)
    chunk = b"IDAT" + short
    return (whole[: start - 4] + len(short).to_bytes(4, "big") + chunk
            + zlib.crc32(chunk).to_bytes(4, "big") + whole[start + 8 + length :])


HOSTILE = {
    "empty": (lambda png: b"", "empty"),
    "text": (lambda png: b"not an image at all", "not a PNG"),
    "a JPEG renamed": (lambda png: _jpeg(), "not a PNG"),
    "signature only": (lambda png: png(np.zeros((6, 5)))[:8], "cut off"),
    "header only": (lambda png: png(np.zeros((6, 5)))[:33], "cut off"),
    "cut in the pixels": (lambda png: png(np.zeros((60, 50)))[:-20], "cut off"),
    "cut at the end mark": (lambda png: png(np.zeros((6, 5)))[:-4], "cut off"),
    "pixels end early": (_short_pixels, "broken PNG"),
    "damaged header": (lambda png: png(np.zeros((6, 5)), damage=b"IHDR"), "damaged"),
    "damaged pixels": (lambda png: png(np.zeros((6, 5)), damage=b"IDAT"), "damaged"),
    "RGB": (lambda png: png(np.zeros((6, 5)), colour=2), "RGB"),
    "RGBA": (lambda png: png(np.zeros((6, 5)), colour=6), "RGBA"),
    "grey with alpha": (lambda png: png(np.zeros((6, 5)), colour=4), "alpha"),
    "16 bit": (lambda png: png(np.zeros((6, 5)), depth=16, colour=0), "16-bit"),
    "huge": (lambda png: png(np.zeros((6, 5)), size=(200_000, 200_000)), "pixels; scale"),
    "no pixels": (lambda png: png(np.zeros((6, 5)), size=(0, 6)), "broken PNG"),
    "value 21": (lambda png: png([[0, 0], [0, 21]]), "value 21 at row 1, column 1"),
    "value 254": (lambda png: png([[254]]), "value 254 at row 0, column 0"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_one_line_that_names_the_file(raw_png, tmp_path, case):
    make, told = HOSTILE[case]
    path = tmp_path / "2007_000001.png"
    path.write_bytes(make(raw_png))
    with pytest.raises(ValueError, match=told) as caught:
        label_map.read(path, 21)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_every_cut_and_every_flipped_byte_is_noticed(raw_png, tmp_path):
    """No prefix and no one-byte change of a label map passes for another label map."""
    whole = raw_png(np.random.default_rng(0).integers(0, 21, (4, 6)), colour=0)
    path = tmp_path / "a.png"
    for end in range(len(whole)):
        with pytest.raises(ValueError):
            label_map.decode(whole[:end], path, 21)
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 4
        with pytest.raises(ValueError):
            label_map.decode(bytes(changed), path, 21)


def test_wrong_size_names_both(raw_png, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(raw_png(np.zeros((6, 5))))
    with pytest.raises(ValueError, match=r"a\.png.* 6 x 5.* 5 x 6 \(h x w\)"):
        label_map.read(path, 21, size=(5, 6))


def test_missing_file_pipe_and_folder(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.png")
    for name in ("none.png", "pipe.png", "."):
        with pytest.raises(OSError, match="file"):
            label_map.read(tmp_path / name, 21)


def test_folder_ids(tmp_path, raw_png):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        label_map.folder_ids(tmp_path / "none")
    with pytest.raises(ValueError, match="no label map"):
        label_map.folder_ids(tmp_path)
    for name in ("b.png", "a.png", ".c.png", "d.jpg"):
        (tmp_path / name).write_bytes(raw_png([[0]]))
    assert label_map.folder_ids(tmp_path) == ["a", "b"]


def test_real_label_maps_equal_pil(shared):
    """Palette (VOC truth) and grey (published pseudo-labels) files, against PIL's indices."""
    for folder in ("truth_train", "transcam"):
        for path in sorted((shared / "data/voc" / folder).glob("*.png"))[:40]:
            np.testing.assert_array_equal(label_map.read(path, 21), np.array(Image.open(path)))
