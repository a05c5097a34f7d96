"""Saliency maps beside a data set; a module without jax, since loader processes import it."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np

from wsssjax.data import photos


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadSaliency:
    """Example with `saliency`: uint8 [h,w] from `<folder>/<name>.png` or `.jpg`."""

    folder: str

    def __call__(self, example: dict, rng: np.random.Generator) -> dict:
        base = pathlib.Path(self.folder) / example["name"]
        # Not with_suffix: an id may hold a dot.
        paths = [base.with_name(base.name + suffix) for suffix in (".png", ".jpg")]
        for path in paths:
            if path.is_file():
                return {**example, "saliency": photos.read_saliency(path)}
        raise ValueError(f"{paths[0]}: no saliency map for the photo {example['name']!r}; make it "
                         "with python -m wsssjax.cam.saliency")
