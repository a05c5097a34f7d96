"""Feature maps of whole photos from a frozen encoder: made once, kept for every later training.

Each photo is squashed to config.probe.side x side pixels (Pillow, bilinear), so that all maps of a
set have one size; the maps in use (config.model.head_taps) are kept as half floats, those of the
mirror image behind them where config.probe.flip is set and a training reads them. A file is named
by id and by the content of the photo, `<id>-<hash>.npz`: another photo of that id has a file of its
own. A photo and its mirror image are one call of the network, so that bits do not depend on what is
made beside them; without the mirror image a feature may differ in its last bit.
1,213 photos at side 256, EfficientNet-Lite0, maps 2 and 3: 0.24 GB, in memory and on disk.
"""

from __future__ import annotations

import functools
import os
import pathlib
import threading
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from wsssjax.core import config as configs
from wsssjax.core import files, parallel, threads, weights
from wsssjax.data import canvas, photos
from wsssjax.models import registry
from wsssjax.semi import student

SETTINGS = "features.json"  # beside features that are kept: what they were made with
HEAD_FIELDS = ("decoder", "freeze_encoder", "encoder_weights")  # say nothing of the maps
Maps = dict[int, np.ndarray]  # by number: float16 [s, p, q, d], s = 1, or 2 with the mirror image


class Features:
    """The maps of photos, read where they are kept and made where they are not; each host makes
    its own, on one device."""

    def __init__(self, config: Any, *, mirror: bool = True):
        """Claims config.probe.features; ValueError where it holds what was made otherwise.

        mirror: False makes no mirror images, and does with files that lack them.
        """
        check(config)
        self.config, self.lock = config, threading.Lock()
        self.copies = 2 if mirror and config.probe.flip else 1
        self.folder = pathlib.Path(config.probe.features) if config.probe.features else None
        if self.folder:
            files.claim(self.folder / SETTINGS, made_with(config), "--config.probe.features")

    def read(self, paths: Sequence[str | os.PathLike], label: str = "") -> list[Maps]:
        """The maps of each photo, in order.  label: shown with progress; "" shows nothing."""
        return list(threads.each(self._one, [pathlib.Path(path) for path in paths], label,
                                 chunk=1))

    @functools.cached_property
    def forward(self) -> Callable:
        """float32 [b,h,w,3] → {number: map}; built only where something is to be made."""
        return encoder(self.config)

    def _one(self, path: pathlib.Path) -> Maps:
        if not self.folder:
            return self._make(path)
        kept = self.folder / f"{path.stem}-{_hash(path)}.npz"
        found = read(kept, self.config) if kept.exists() else {}
        if found and len(found[min(found)]) >= self.copies:
            return {i: x[: self.copies] for i, x in found.items()}
        found = self._make(path)
        with files.atomic(kept) as file:
            np.savez(file, **{f"tap{i}": x for i, x in found.items()})
        return found

    def _make(self, path: pathlib.Path) -> Maps:
        image_hwc = squashed(photos.read_photo(path), self.config)
        with self.lock:  # many threads ask, one network is built
            forward = self.forward
        found = forward(np.stack([image_hwc, image_hwc[:, ::-1]][: self.copies]))
        with np.errstate(over="ignore"):
            found = {i: np.asarray(x).astype(np.float16) for i, x in found.items()}
        if not all(np.isfinite(x).all() for x in found.values()):
            raise ValueError(f"{path}: features that half floats cannot hold; take other maps "
                             "(config.model.head_taps) or other weights")
        return found


def check(config: Any) -> None:
    """ValueError for fields that features cannot be made with."""
    model, side = config.model, config.probe.side
    registry.need(config, ["probe.side", "probe.flip", "probe.features", "model.head_taps"],
                  f"config.method={config.method!r}", "semi_voc_probe.py")
    if not model.encoder_weights:
        raise ValueError("config.model.encoder_weights is empty; give the weights of "
                         f"{model.encoder}, since a frozen random encoder teaches nothing")
    if not model.freeze_encoder:
        raise ValueError(f"config.model.freeze_encoder is false; method {config.method!r} learns "
                         "from features that are made once, so it must be true")
    if model.decoder != "probe":
        raise ValueError(f"config.model.decoder is {model.decoder!r}; method {config.method!r} "
                         "trains a head on kept features, so it must be 'probe'")
    strides = registry.build_encoder(model).tap_strides
    if side < 1 or (len(set(strides)) == 1 and side % strides[0]):
        raise ValueError(f"config.probe.side is {side}; want a multiple of {strides[0]}, the "
                         f"patch of encoder {model.encoder!r}")
    used = [strides[i] for i in model.head_taps if i < len(strides)]  # the head refuses others
    if not _nested(side, used):
        below = side // max(used) * max(used)
        near = [str(s) for s in (below, below + max(used)) if s]
        raise ValueError(f"config.probe.side is {side}: its maps have {_sizes(side, used)} cells a "
                         "side, and a CutMix box of whole cells of one cuts through those of "
                         f"another; want {' or '.join(near)}")


def _sizes(side: int, strides: Sequence[int]) -> list[int]:
    """Cells a side of each map of a square image."""
    return [-(-side // stride) for stride in strides]


def _nested(side: int, strides: Sequence[int]) -> bool:
    """Whether the cells of the finest map lie whole in those of every coarser one."""
    sizes = _sizes(side, strides)
    return not any(max(sizes) % size for size in sizes)


def made_with(config: Any) -> dict:
    """What features depend on beside the photos."""
    plain = configs.to_dict(config)
    model = {name: value for name, value in plain["model"].items()
             if name not in HEAD_FIELDS and not name.startswith("head_")}
    return {"model": model, "taps": plain["model"]["head_taps"],
            "weights": weights.fingerprint(config.model.encoder_weights),
            "precision": plain["precision"], "side": plain["probe"]["side"],
            "flip": plain["probe"]["flip"],
            "colours": [plain["data"]["mean"], plain["data"]["std"]]}


def squashed(photo_hwc: np.ndarray, config: Any) -> np.ndarray:
    """float32 [side,side,3], normalised, of a photo uint8 [h,w,3]."""
    size = (config.probe.side,) * 2
    image = Image.fromarray(photo_hwc).resize(size, Image.Resampling.BILINEAR)
    return canvas.normalise(np.asarray(image), config.data.mean, config.data.std)


def encoder(config: Any) -> Callable:
    """float32 [b,h,w,3] → {number: float32 map [b,p,q,d]} of config.model's frozen encoder."""
    model, variables = load(config)
    taps = tuple(config.model.head_taps)

    def forward(variables, image_bhwc):
        maps = model.apply(variables, image_bhwc, method="encode")
        return {i: maps[i].astype(jnp.float32) for i in taps}

    return functools.partial(jax.jit(forward), variables)


def load(config: Any) -> tuple[Any, dict]:
    """(segmenter, variables of its encoder alone) with the weights of the config."""
    parallel.set_precision(config.precision)
    model = student.build_model(config)
    shapes = jax.eval_shape(functools.partial(student.first_variables, model), jax.random.key(0))
    variables = registry.store_frozen(registry.load_encoder(shapes, config.model), config.model)
    return model, {kind: {"backbone": tree["backbone"]} for kind, tree in variables.items()
                   if "backbone" in tree}


def read(path: pathlib.Path, config: Any) -> Maps:
    """The maps in a kept file, checked."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = {i: archive[f"tap{i}"] for i in config.model.head_taps}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split())[:120]
        raise ValueError(f"{path}: no features ({reason}); remove it, it is made again") from None
    for i, x in found.items():
        if x.dtype != np.float16 or x.ndim != 4 or len(x) not in (1, 1 + config.probe.flip):
            raise ValueError(f"{path}: tap{i} is {x.dtype}{list(x.shape)}; remove it, it is made "
                             "again")
    return found


def _hash(path: pathlib.Path) -> str:
    try:
        return files.hash_file(path)
    except (FileNotFoundError, IsADirectoryError):
        raise FileNotFoundError(f"{path}: no such photo") from None
