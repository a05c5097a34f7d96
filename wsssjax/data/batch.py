"""The keys of a batch: one table, and no other spellings anywhere."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from wsssjax.core.constants import IGNORE

__all__ = ["BATCH_KEYS", "HOST_ONLY", "IGNORE", "Key", "device_arrays"]


class Key(NamedTuple):
    """What stands under one name of a batch."""

    dtype: str
    dims: str  # b image in batch, h w pixels, p q cells, c colour, d other channels, k classes
    meaning: str


BATCH_KEYS = {
    "image": Key("float32", "bhwc", "normalised photo"),
    "label": Key("int32", "bhw", f"class of each pixel, {IGNORE} = ignore"),
    "tags": Key("float32", "bk", "1 where the image holds the foreground class"),
    "weak": Key("float32", "bhwc", "normalised photo, geometry changed only"),
    "strong1": Key("float32", "bhwc", "the same window, colours changed"),
    "strong2": Key("float32", "bhwc", "the same window, colours changed again"),
    "valid": Key("bool", "bhw", "False on padding"),
    "biased": Key("bool", "bhw", "True where a class was taken from the label (MARS)"),
    "cut1": Key("bool", "bhw", "CutMix box of strong1"),
    "cut2": Key("bool", "bhw", "CutMix box of strong2"),
    "saliency": Key("float32", "bhw", "0..1, higher where something stands out"),
    "knowledge": Key("int32", "bhw", "first of two label maps, on a grid (1/4 of the sides)"),
    "advice": Key("int32", "bhw", "second one, on that grid"),
    "seed": Key("int32", "bhw", "label map to start from, on that grid"),
    "differences": Key("float32", "bmhw", "stored sigma of knowledge and advice, on some grid"),
    "photo": Key("uint8", "bhwc", "photo on that grid, colours as they are"),
    **{f"tap{i}": Key("float16", "bpqd", "feature map of `label`'s photo; 0 is the finest")
       for i in range(4)},
    **{f"weak_tap{i}": Key("float16", "bpqd", "feature map of an unlabelled photo")
       for i in range(4)},
    "row": Key("bool", "b", "False on rows that only fill the batch up"),
    "name": Key("str", "b", "image id"),
}
HOST_ONLY = ("name",)


def device_arrays(batch: dict) -> dict[str, np.ndarray]:
    """The entries of a host batch that go to the devices; ValueError where one breaks the table."""
    arrays = {}
    for key, value in batch.items():
        if key not in BATCH_KEYS:
            raise ValueError(f"batch key {key!r} is not one of {', '.join(BATCH_KEYS)}")
        if key in HOST_ONLY:
            continue
        want = BATCH_KEYS[key]
        if value.dtype != want.dtype or value.ndim != len(want.dims):
            raise ValueError(
                f"batch[{key!r}] is {value.dtype}{list(value.shape)}; want {want.dtype} "
                f"[{','.join(want.dims)}]"
            )
        arrays[key] = value
    return arrays
