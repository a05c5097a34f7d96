"""Photos and saliency maps as arrays, from files and from bytes that nobody vouches for."""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Iterator

import cv2
import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

MAX_PIXELS = 80_000_000  # about 240 MB as RGB; a file of a few kB can claim a million times that
MAX_BYTES = 256 << 20
PHOTO_MODES = ("L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "1")
SIGNATURES = {"JPEG": b"\xff\xd8\xff", "PNG": b"\x89PNG\r\n\x1a\n"}
_READERS = {"JPEG": JpegImageFile, "PNG": PngImageFile}
_PNG_DEPTH = 24  # the byte that holds the bits per channel
_UPRIGHT = 0x0112  # EXIF tag: how the camera was held
_TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
          4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
          6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
          8: Image.Transpose.ROTATE_90}
_QUARTER_TURNS = (5, 6, 7, 8)  # its values that exchange height and width


def read_bytes(path: str | os.PathLike) -> bytes:
    """The content of an ordinary file; ValueError where it is empty or too large for an image."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the last: a zero byte in it
        raise FileNotFoundError(f"{path}: no such file") from None
    if not stat.S_ISREG(found.st_mode):  # a pipe or a device would block for ever
        raise FileNotFoundError(f"{path}: not an ordinary file")
    size = found.st_size
    if size == 0:
        raise ValueError(f"{path}: empty (0 bytes); copy the file again")
    if size > MAX_BYTES:
        raise ValueError(f"{path}: {size} bytes, limit {MAX_BYTES}; save it smaller")
    with open(path, "rb", buffering=0) as file:
        return file.read()


def open_image(data: bytes, name: str | os.PathLike, formats: tuple[str, ...]) -> Image.Image:
    """A PIL image whose pixels are decoded; ValueError names the file for anything else."""
    image = _open(data, name, formats)
    with _named(name, image.format):
        image.load()
    return image


def _open(data: bytes, name: str | os.PathLike, formats: tuple[str, ...]) -> Image.Image:
    """A PIL image of a size worth decoding, its pixels not decoded yet.

    PIL's own `open` would print a warning about large images, so its readers are called directly.
    """
    kinds = " or ".join(formats)
    found = [kind for kind in formats if data.startswith(SIGNATURES[kind])]
    if not found:
        raise ValueError(f"{name}: not a {kinds} file; save it as {kinds}")
    with _named(name, found[0]):
        image = _READERS[found[0]](io.BytesIO(data))
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"{name}: {width} x {height} is over {MAX_PIXELS} pixels; scale it down")
    return image


@contextlib.contextmanager
def _named(name: str | os.PathLike, kind: str) -> Iterator[None]:
    """Turns the dozen exception types by which PIL tells of a broken file into one."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise ValueError(f"{name}: broken {kind} file ({reason}); save it again") from None


def decode_photo(data: bytes, name: str | os.PathLike) -> np.ndarray:
    """RGB pixels uint8 [h,w,3] of an encoded JPEG or PNG, as a viewer shows it: upright as its EXIF
    orientation says, grey and CMYK as RGB, 16 bits per channel scaled to 8, transparency dropped.

    name: what to call the photo in an error.
    """
    image = open_image(data, name, ("JPEG", "PNG"))
    with _named(name, image.format):
        turn = _TURNS.get(image.getexif().get(_UPRIGHT, 1))
    if image.format == "PNG" and data[_PNG_DEPTH] == 16:
        image = Image.fromarray(_sixteen_bits(data, name))
    elif image.mode not in PHOTO_MODES:
        raise ValueError(f"{name}: photo of mode {image.mode}; save it with 8 bits per channel")
    if turn is not None:
        image = image.transpose(turn)
    image.info.pop("transparency", None)  # PIL would warn that it drops it
    return np.asarray(image.convert("RGB"))


def _sixteen_bits(data: bytes, name: str | os.PathLike) -> np.ndarray:
    """uint8 [h,w,3] of a PNG of 16 bits per channel, 0..65535 rounded to 0..255.

    PIL would clip such grey photos at 255, and cuts off the low byte of such colour photos.
    """
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        raise ValueError(f"{name}: broken PNG file (16 bits); save it again")
    pixels = ((pixels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=2)
    return np.ascontiguousarray(pixels[..., 2::-1])  # blue, green, red and perhaps alpha


def read_photo(path: str | os.PathLike) -> np.ndarray:
    """RGB pixels uint8 [h,w,3] of a JPEG or PNG file."""
    return decode_photo(read_bytes(path), path)


def photo_size(path: str | os.PathLike) -> tuple[int, int]:
    """(h, w) of a photo as `read_photo` gives it, from its header alone."""
    image = _open(read_bytes(path), path, ("JPEG", "PNG"))
    width, height = image.size
    with _named(path, image.format):
        turned = image.getexif().get(_UPRIGHT, 1) in _QUARTER_TURNS
    return (width, height) if turned else (height, width)


def decode_saliency(data: bytes, name: str | os.PathLike) -> np.ndarray:
    """Saliency uint8 [h,w], 0..255, of an encoded 8-bit grey JPEG or PNG."""
    image = open_image(data, name, ("JPEG", "PNG"))
    if image.mode != "L":
        raise ValueError(f"{name}: saliency of mode {image.mode}; save it as an 8-bit grey image")
    return np.asarray(image)


def read_saliency(path: str | os.PathLike) -> np.ndarray:
    """Saliency uint8 [h,w], 0..255, of an 8-bit grey JPEG or PNG file."""
    return decode_saliency(read_bytes(path), path)


def encode_png(image_hwc: np.ndarray) -> bytes:
    """PNG bytes of uint8 [h,w] or [h,w,3]; the same array gives the same bytes."""
    file = io.BytesIO()
    Image.fromarray(image_hwc).save(file, "PNG")
    return file.getvalue()
