"""Transforms of DeepLab's recipes, beside those of `transforms`."""

import dataclasses

import numpy as np
from PIL import Image

from wsssjax.core.constants import IGNORE
from wsssjax.data.entries import IMAGE_KEYS, Example, image_size, present
from wsssjax.data.transforms import resize, window


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChooseScale:
    """Example whose sides are int(side * f) for one of `factors`, each as likely as the others.

    Images and saliency: Pillow bilinear; label and valid: nearest.
    """

    factors: tuple[float, ...]

    def __post_init__(self):
        if not self.factors or min(self.factors) <= 0:
            raise ValueError(f"ChooseScale: {self.factors}, want factors above 0")

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        factor = self.factors[rng.integers(len(self.factors))]
        h, w = (max(1, int(side * factor)) for side in image_size(example))
        return resize(example, h, w, Image.Resampling.BILINEAR)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CornerCrop:
    """Random size x size window of a normalised example; a short side is padded right or below.

    The padding is 0, which is the mean colour, and `label_fill` in the label; `valid` is written,
    false on it.
    """

    size: int
    label_fill: int = IGNORE

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        for key in present(example, IMAGE_KEYS):
            if example[key].dtype == np.uint8:
                raise ValueError(f"CornerCrop: {key!r} is uint8, so its padding would be black; put"
                                 " Normalize (with this key) before CornerCrop")
        room = [max(side - self.size, 0) for side in image_size(example)]
        corner = tuple(int(rng.integers(0, space, endpoint=True)) for space in room)
        return window(example, self.size, corner, (0, 0), self.label_fill)
