"""Tiny data sets on disk, and PNG files written byte by byte without PIL."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image


def encode_png(rows_hw, depth=8, colour=3, size=None, damage=None):
    """PNG bytes: colour 0 grey, 2 RGB, 3 palette, 4 grey+alpha, 6 RGBA; values as they are."""
    rows_hw = np.asarray(rows_hw, np.uint16)
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    height, width = rows_hw.shape
    bits = ((rows_hw[..., None] >> np.arange(depth - 1, -1, -1)) & 1).astype(np.uint8)
    bits = np.repeat(bits[:, :, None, :], channels, axis=2).reshape(height, -1)
    packed = np.packbits(bits, axis=1)
    raw = b"".join(b"\0" + row.tobytes() for row in packed)
    stated_width, stated_height = size or (width, height)
    header = struct.pack(">IIBBBBB", stated_width, stated_height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header)]
    if colour == 3:
        chunks.append((b"PLTE", bytes(range(256)) * 3))
    chunks += [(b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    out = b"\x89PNG\r\n\x1a\n"
    for kind, data in chunks:
        checksum = zlib.crc32(kind + data) ^ (1 if damage == kind else 0)
        out += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)
    return out


@pytest.fixture
def raw_png():
    return encode_png


@pytest.fixture
def voc_tree(tmp_path):
    """A VOC-like folder of 7 photos (5 train, 2 test): textured, JPEG, of different sizes."""
    root = tmp_path / "voc"
    rng = np.random.default_rng(0)
    ids = [f"2007_{index:06d}" for index in range(7)]
    for folder in ("JPEGImages", "SegmentationClassAug", "saliency"):
        (root / folder).mkdir(parents=True)
    rows = ["id,tags"]
    for index, name in enumerate(ids):
        h, w = 30 + 2 * index, 40 - index
        noise = rng.integers(0, 256, (h, w, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / "JPEGImages" / f"{name}.jpg")
        label = np.zeros((h, w), np.uint8)
        label[5:15, 5:20] = index + 1
        label[4, 5:20] = 255
        (root / "SegmentationClassAug" / f"{name}.png").write_bytes(encode_png(label))
        Image.fromarray(noise[..., 0]).save(root / "saliency" / f"{name}.png")
        rows.append(f"{name}," + "".join("1" if k == index else "0" for k in range(20)))
    (root / "tags.csv").write_text("\n".join(rows) + "\n")
    (root / "train.txt").write_text("\n".join(ids[:5]) + "\n")
    (root / "test.txt").write_text("\n".join(ids[5:]) + "\n")
    return root
