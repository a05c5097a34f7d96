"""Files of text features: one unit vector for each class and each background word, by CLIP.

A safetensors file, so that nothing in it is ever run: `features` float32 [k + m, e], classes first,
then backgrounds; `scale` float32 [], what cosines are multiplied by before the softmax. Its
metadata, as JSON: `classes` (names, without the background), `words` (what was said for each),
`backgrounds`, `prompts`. `tools/clip_text.py` writes them.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from wsssjax.core import files

_LISTS = ("classes", "words", "backgrounds", "prompts")
_SHOWN = 3  # class names that a message lists


class TextFeatures(NamedTuple):
    """features_te: float32 [k + m, e], rows of length 1.  scale: of the logits."""

    features_te: np.ndarray
    scale: float
    classes: tuple[str, ...]
    words: tuple[str, ...]
    backgrounds: tuple[str, ...]
    prompts: tuple[str, ...]


def write(path: str | os.PathLike, text: TextFeatures) -> None:
    """Writes the file, whole or not at all."""
    data = safetensors.numpy.save(
        {"features": np.ascontiguousarray(text.features_te, np.float32),
         "scale": np.array(text.scale, np.float32)},
        {name: json.dumps(getattr(text, name)) for name in _LISTS})
    with files.atomic(path) as file:
        file.write(data)


def read(path: str | os.PathLike, classes: Sequence[str], embed: int) -> TextFeatures:
    """The file's content, if it is for these classes and for vectors of this length.

    classes: names without the background.  ValueError that says what does not fit.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"config.model.text='{path if path.name else ''}': no such file; "
                         "tools/clip_text.py writes it")
    text = _parsed(path)
    if text.classes != tuple(classes):
        raise ValueError(f"{path}: is for {_told(text.classes)}; config.classes has "
                         f"{_told(classes)}; make it again with tools/clip_text.py --classes=…")
    if text.features_te.shape[1] != embed:
        raise ValueError(f"{path}: vectors of {text.features_te.shape[1]} numbers; the image tower "
                         f"gives {embed}; make both from one CLIP")
    return text


def _parsed(path) -> TextFeatures:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            features_te, scale = file.get_tensor("features"), file.get_tensor("scale")
            lists = {name: json.loads(file.metadata()[name]) for name in _LISTS}
        if not all(isinstance(x, list) and all(isinstance(word, str) for word in x)
                   for x in lists.values()):
            raise ValueError("its lists are no lists of words")
        text = TextFeatures(features_te, float(scale), *(tuple(lists[n]) for n in _LISTS))
        rows = len(text.classes) + len(text.backgrounds)
        if features_te.dtype != np.float32 or features_te.ndim != 2 or len(features_te) != rows:
            raise ValueError(f"features {features_te.dtype} {list(features_te.shape)} for {rows} "
                             "words")
        lengths = np.linalg.norm(features_te, axis=1)
        if not (np.abs(lengths - 1) < 1e-3).all() or not 0 < text.scale < float("inf"):
            raise ValueError("vectors that are not of length 1, or a scale that is not above 0")
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: damaged, or no text features ({error}); write it again with "
                         "tools/clip_text.py") from None
    return text


def _told(names: Sequence[str]) -> str:
    """`20 classes (aeroplane, bicycle, bird, …)`."""
    more = ", …" if len(names) > _SHOWN else ""
    return f"{len(names)} classes ({', '.join(names[:_SHOWN])}{more})"
