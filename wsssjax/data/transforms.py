"""Transforms of one example on the host: frozen dataclasses, called as `transform(example, rng)`.

An example is a dict (keys: `name`, `image`, `label`, `tags`, `saliency`, ...; README, "your own
photos"). Each transform returns a new dict and never writes into the arrays it was given, and every
number it draws comes from `rng`, so the same generator state gives the same result.

Geometry moves all pixel-aligned entries together. The usual orders are

* labelled image of a segmenter: RandomScale, PadCrop, Flip, Normalize
* unlabelled image of a segmenter: RandomScale, PadCrop, Flip, Views, ColorJitter, Grayscale,
  GaussianBlur, CutBoxes, Normalize, Keep
* image of a classifier (CAM, EPS): ResizeLongSide, Flip, ColorJitter, Normalize, PasteCrop

Pixels are 8 bit until Normalize, and all resampling, colour and blur is Pillow's, whose rounding
the published recipes rely on. Pillow antialiases when it shrinks.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from wsssjax.core.constants import IGNORE, IMAGENET_MEAN, IMAGENET_STD
from wsssjax.data import colour
from wsssjax.data.colour import shift_hue as _shift_hue
from wsssjax.data.entries import (
    IMAGE_KEYS,
    MASK_KEYS,
    PIXEL_KEYS,
    Example,
    image_size,
    need,
    need_bytes,
    present,
    refuse,
)

# ------------------------------------------------------------------------------- geometry


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomScale:
    """Example whose longer side is a uniform integer between low and high times its own length.

    The shorter side is int(short * new_long / long + 0.5). Images and saliency: Pillow bilinear;
    label and valid: nearest.
    """

    low: float = 0.5
    high: float = 2.0

    def __post_init__(self):
        _check_interval("RandomScale", self.low, self.high)

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        h, w = image_size(example)
        long = max(h, w)
        new_long = int(rng.integers(int(long * self.low), int(long * self.high), endpoint=True))
        new_h, new_w = (max(1, int(side * new_long / long + 0.5)) for side in (h, w))
        return resize(example, new_h, new_w, Image.Resampling.BILINEAR)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResizeLongSide:
    """Example whose longer side is a uniform integer low..high (pixels), both included.

    The shorter side is rounded half to even. Images and saliency: Pillow bicubic; label and
    valid: nearest.
    """

    low: int
    high: int

    def __post_init__(self):
        _check_interval("ResizeLongSide", self.low, self.high)

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        h, w = image_size(example)
        new_long = int(rng.integers(self.low, self.high, endpoint=True))
        new_h, new_w = (max(1, round(side * new_long / max(h, w))) for side in (h, w))
        return resize(example, new_h, new_w, Image.Resampling.BICUBIC)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PadCrop:
    """Random size x size window of an 8-bit example, padded on the right and bottom if too small.

    Padding is black and `label_fill` in the label. Writes `valid`, false exactly on padding. Black
    is filled in before normalisation, so networks see it as -mean/std and not as 0.
    """

    size: int
    label_fill: int = IGNORE

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        h, w = image_size(example)
        top = int(rng.integers(0, max(h - self.size, 0), endpoint=True))
        left = int(rng.integers(0, max(w - self.size, 0), endpoint=True))
        for key in present(example, IMAGE_KEYS):
            need_bytes("PadCrop", key, example[key])
        return window(example, self.size, (top, left), (0, 0), self.label_fill)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PasteCrop:
    """Random size x size window of a normalised example; a short side is pasted at random.

    Where the image is smaller than the window it lands at a uniform offset on a canvas of zeros,
    which is the mean colour. Saliency is filled with 0, label with 255, and `valid` is written,
    false on the canvas.
    """

    size: int

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        for key in present(example, IMAGE_KEYS):
            if example[key].dtype == np.uint8:
                raise ValueError(
                    f"PasteCrop: {key!r} is uint8, so its zero canvas would be black; put Normalize"
                    " (with this key) before PasteCrop"
                )
        room = [side - self.size for side in image_size(example)]
        offset = [int(rng.integers(0, abs(space), endpoint=True)) for space in room]
        source = tuple(o if space > 0 else 0 for o, space in zip(offset, room, strict=True))
        target = tuple(0 if space > 0 else o for o, space in zip(offset, room, strict=True))
        return window(example, self.size, source, target, IGNORE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flip:
    """Example mirrored left to right with probability p."""

    p: float

    def __post_init__(self):
        _check_probability("Flip", self.p)

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        image_size(example)
        if rng.random() >= self.p:
            return dict(example)
        keys = present(example, PIXEL_KEYS)
        return {**example, **{key: np.ascontiguousarray(example[key][:, ::-1]) for key in keys}}


# --------------------------------------------------------------------- views, colour, boxes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Views:
    """Example with `weak`, `strong1` and `strong2`, equal to `image` and sharing its memory."""

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        need(example, "image")
        refuse(example, "weak", "strong1", "strong2")
        image_hwc = example["image"]
        return {**example, "weak": image_hwc, "strong1": image_hwc, "strong2": image_hwc}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColorJitter:
    """Example whose images `keys` are jittered, each by its own draws, each with probability p.

    brightness, contrast, saturation: the factor is uniform in 1 - x .. 1 + x (not below 0).
    hue: the shift is uniform in -x .. x turns of the colour circle, at most 0.5.
    All four are applied, in an order drawn per call; a strength of 0 leaves its step out.
    """

    keys: tuple[str, ...]
    p: float
    brightness: float
    contrast: float
    saturation: float
    hue: float

    def __post_init__(self):
        _check_probability("ColorJitter", self.p)
        for name in ("brightness", "contrast", "saturation", "hue"):
            limit = 0.5 if name == "hue" else math.inf
            if not 0 <= getattr(self, name) <= limit:
                raise ValueError(
                    f"ColorJitter: {name}={getattr(self, name)}, want a number from 0 to {limit}"
                )

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        return _map_images(self, example, rng, self._jitter)

    def _jitter(self, image_hwc: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        steps = [
            (change, rng.uniform(max(0.0, 1.0 - strength), 1.0 + strength))
            for change, strength in (
                (colour.brightness, self.brightness),
                (colour.contrast, self.contrast),
                (colour.saturation, self.saturation),
            )
            if strength > 0
        ]
        if self.hue > 0:
            steps.append((_shift_hue, rng.uniform(-self.hue, self.hue)))
        for index in rng.permutation(len(steps)):
            change, factor = steps[index]
            image_hwc = change(image_hwc, factor)
        return image_hwc


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grayscale:
    """Example whose images `keys` are replaced by three equal luma channels with probability p."""

    keys: tuple[str, ...]
    p: float

    def __post_init__(self):
        _check_probability("Grayscale", self.p)

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        def grey(image_hwc, rng):
            return np.array(Image.fromarray(image_hwc).convert("L").convert("RGB"))

        return _map_images(self, example, rng, grey)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GaussianBlur:
    """Example whose images `keys` are blurred with probability p.

    sigma: (low, high) of the uniform draw in pixels. It is Pillow's radius, that is, three passes
    of an extended box that approximate the Gaussian.
    """

    keys: tuple[str, ...]
    p: float
    sigma: tuple[float, float]

    def __post_init__(self):
        _check_probability("GaussianBlur", self.p)
        _check_interval("GaussianBlur: sigma", *self.sigma)

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        def blur(image_hwc, rng):
            return colour.blur(image_hwc, rng.uniform(*self.sigma))

        return _map_images(self, example, rng, blur)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CutBoxes:
    """Example with `cut1` and `cut2`: bool [h,w], each true in one random box with probability p.

    area: range of the box's share of the image, drawn once.  ratio: range of height / width,
    uniform (so boxes are tall on average), drawn again together with the corner until the box
    lies inside the image.
    """

    p: float = 0.5
    area: tuple[float, float] = (0.02, 0.4)
    ratio: tuple[float, float] = (0.3, 1 / 0.3)

    def __post_init__(self):
        _check_probability("CutBoxes", self.p)
        _check_interval("CutBoxes: area", *self.area)
        _check_interval("CutBoxes: ratio", *self.ratio)

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        h, w = image_size(example)
        refuse(example, "cut1", "cut2")
        return {**example, "cut1": self._box(h, w, rng), "cut2": self._box(h, w, rng)}

    def _box(self, h: int, w: int, rng: np.random.Generator) -> np.ndarray:
        cut_hw = np.zeros((h, w), bool)
        if rng.random() >= self.p:
            return cut_hw
        pixels = rng.uniform(*self.area) * h * w
        for _ in range(10_000):  # about 4 on average with the default ranges
            ratio = rng.uniform(*self.ratio)
            box_h, box_w = int(math.sqrt(pixels * ratio)), int(math.sqrt(pixels / ratio))
            left, top = int(rng.integers(w)), int(rng.integers(h))
            if left + box_w <= w and top + box_h <= h:
                cut_hw[top : top + box_h, left : left + box_w] = True
                return cut_hw
        raise ValueError(
            f"CutBoxes: no box with area {self.area} and height/width {self.ratio} fits an image "
            f"of {h}x{w}; lower the area or widen the ratio"
        )


# -------------------------------------------------------------------------- to the network


@dataclasses.dataclass(frozen=True, kw_only=True)
class Normalize:
    """Example whose images `keys` are float32 (pixel / 255 - mean) / std.

    mean, std: per RGB channel, of pixels in 0..1. Where present, `label` becomes int32 and
    `saliency` float32 in 0..1, the mean of its channels where it has some.
    """

    keys: tuple[str, ...] = ("image",)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        need(example, *self.keys)
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        out = dict(example)
        for key in self.keys:
            need_bytes("Normalize", key, example[key])
            h, w, _ = example[key].shape
            # Rows of w * 3 numbers: numpy is five times as fast on them as on pixels of 3.
            rows_hd = example[key].reshape(h, w * 3).astype(np.float32)
            rows_hd /= np.float32(255)
            rows_hd -= np.tile(mean, w)
            rows_hd /= np.tile(std, w)
            out[key] = rows_hd.reshape(h, w, 3)
        if "label" in example:
            out["label"] = example["label"].astype(np.int32)
        if "saliency" in example:
            need_bytes("Normalize", "saliency", example["saliency"])
            saliency = example["saliency"].astype(np.float32) / np.float32(255)
            out["saliency"] = saliency.mean(-1) if saliency.ndim == 3 else saliency
        return out


@dataclasses.dataclass(frozen=True, kw_only=True)
class Keep:
    """Example with the entries `keys` only, and `name` where there is one."""

    keys: tuple[str, ...]

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        need(example, *self.keys)
        return {key: v for key, v in example.items() if key in self.keys or key == "name"}


# --------------------------------------------------------------------------------- helpers


def resize(example: Example, h: int, w: int, smooth: Image.Resampling) -> Example:
    """Example of h x w: label and valid nearest, all else by `smooth`."""
    out = dict(example)
    for key in present(example, PIXEL_KEYS):
        array = example[key]
        if key in MASK_KEYS:
            boolean = array.dtype == bool
            source = array.view(np.uint8) if boolean else array
            need_bytes("resizing", key, source)
            resized = np.array(Image.fromarray(source).resize((w, h), Image.Resampling.NEAREST))
            out[key] = resized.view(bool) if boolean else resized
        else:
            need_bytes("resizing", key, array)
            out[key] = np.array(Image.fromarray(array).resize((w, h), smooth))
    return out


def window(example: Example, size: int, source, target, label_fill: int) -> Example:
    """Example cut to size x size: its pixel `source` (row, column) lands on pixel `target`."""
    h, w = image_size(example)
    rows = slice(source[0], min(source[0] + size, h))
    columns = slice(source[1], min(source[1] + size, w))
    out = {"valid": np.ones((h, w), bool), **example}
    for key in present(out, PIXEL_KEYS):
        piece = out[key][rows, columns]
        fill = label_fill if key == "label" else 0
        canvas = np.full((size, size, *piece.shape[2:]), fill, piece.dtype)
        end_row, end_column = target[0] + piece.shape[0], target[1] + piece.shape[1]
        canvas[target[0] : end_row, target[1] : end_column] = piece
        out[key] = canvas
    return out


def _map_images(transform, example: Example, rng: np.random.Generator, change: Callable) -> Example:
    """Example whose images `transform.keys` went through `change` with probability transform.p."""
    need(example, *transform.keys)
    out = dict(example)
    for key in transform.keys:
        need_bytes(type(transform).__name__, key, example[key])
        if rng.random() < transform.p:
            out[key] = change(example[key], rng)
    return out


def _check_probability(who: str, p: float) -> None:
    if not 0 <= p <= 1:
        raise ValueError(f"{who}: p={p}, want a probability from 0 to 1")


def _check_interval(who: str, low: float, high: float) -> None:
    if not 0 < low <= high:
        raise ValueError(f"{who}: {low} to {high}, want 0 < low <= high")
