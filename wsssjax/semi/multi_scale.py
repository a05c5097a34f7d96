"""Whole photos at several scales and mirrored, as the papers of segmenters test them; the CRF.

A photo is seen at its own size times each of config.predict.scales, with `flip` also in a mirror;
scores are made where the head makes them, and merged as `merge` says:

mean        softmax, brought to the scores' grid of scale 1, averaged, enlarged to the photo (MARS).
max         logits enlarged to the photo, softmax, the largest of each class (BAO). What comes out
            need not sum to 1.
max_logits  logits, brought to the grid of scale 1, the largest of each class, enlarged to the photo
            (DeepLab v2 as EPS uses it, whose network does so inside).
Enlarging is bilinear with half-pixel centres. How a photo is scaled, `resize` says: "bicubic" is
Pillow's of 8 bits, sides rounded; "half_pixel" and "corners" are bilinear of normalised pixels
without antialiasing, sides rounded down, as PyTorch has both.

canvas  exact   the network sees each size as it is; each compiles anew.
        bucket  photos are padded to multiples of `grid` pixels, and those to multiples of 32 at
                each scale; the network sees zeros outside of each photo (models/padded.py), so
                that few programs give the same scores. For VGG-16 and ResNets with DeepLab's
                heads, which pad as PyTorch does.
A `multiple` above 1 takes sides to its nearest multiples, for a ViT.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from wsssjax.core import crf
from wsssjax.core.config import choose
from wsssjax.data import canvas as canvases
from wsssjax.models import padded
from wsssjax.semi import pixels

RESIZES = ("bicubic", "half_pixel", "corners")
CANVASES = ("exact", "bucket")
STRIDE = 32  # pixels; padded sides are multiples of it at every scale, at least twice
BUCKETED = ("resnet", "vgg")  # what encoders begin with whose padding a bucket copies


class Merge(NamedTuple):
    """softmax: scores are probabilities.  at_photo: merged at the photo's size, not on the scores'
    grid of scale 1.  join: of two score maps.  mean: their sum is divided by their number."""

    softmax: bool
    at_photo: bool
    join: Callable
    mean: bool = False


MERGES = {"mean": Merge(True, False, np.add, mean=True), "max": Merge(True, True, np.maximum),
          "max_logits": Merge(False, False, np.maximum)}


def asked(config: Any) -> bool:
    """Whether photos are seen in this way."""
    return config.predict.mode == "multi_scale"


def check(config: Any) -> None:
    """Nothing; ValueError if a field of config.predict that is read here has no meaning."""
    how = config.predict
    if how.crf:
        choose(crf.PRESETS, how.crf, "config.predict.crf")
    if not 0 <= how.crf_least < 1:
        raise ValueError(f"config.predict.crf_least={how.crf_least}: want a probability below 1")
    if not asked(config):
        return
    merge = choose(MERGES, how.merge, "config.predict.merge")
    choose(dict.fromkeys(RESIZES), how.resize, "config.predict.resize")
    choose(dict.fromkeys(CANVASES), how.canvas, "config.predict.canvas")
    if not how.scales or min(how.scales) <= 0:
        raise ValueError(f"config.predict.scales={how.scales}: want factors above 0")
    if not merge.at_photo and 1 not in how.scales:
        raise ValueError(f"config.predict.scales={how.scales}: merge {how.merge!r} takes place on "
                         "the grid of scale 1; add 1.0")
    for name, least in (("batch", 1), ("multiple", 1), ("grid", STRIDE)):
        if how[name] < least:
            raise ValueError(f"config.predict.{name}={how[name]}: want {least} or more")
    if how.canvas != "bucket":
        return
    model = config.model
    decoder = model.decoder if "decoder" in model else config.method
    if not model.encoder.startswith(BUCKETED) or decoder in ("dpt", "ssdd") or how.multiple > 1:
        raise ValueError(f"config.predict.canvas=bucket: is for encoders {', '.join(BUCKETED)}… "
                         f"with a DeepLab head and multiple 1, not for {model.encoder!r} with "
                         f"{decoder!r} and {how.multiple}; take exact")
    if how.grid % STRIDE:
        raise ValueError(f"config.predict.grid={how.grid}: want a multiple of {STRIDE}")


def forward(model: Any, canvas: str) -> Callable:
    """(variables, image_bhwc, size_b2) → (logits [b,p,q,k], own_b2: the part of each photo).

    size_b2: int32, rows and columns of each photo in its padded image.  A network that has no
    scores of its own resolution gives those at the image's.
    """
    def run(variables, image_bhwc, size_b2):
        if canvas == "bucket":
            with padded.inside(size_b2, image_bhwc.shape[1:3], model.own_side):
                logits = model.apply(variables, image_bhwc, train=False, method="scores")
                return logits, padded.own_size(logits.shape[1:3])
        if hasattr(model, "scores"):
            logits = model.apply(variables, image_bhwc, train=False, method="scores")
        else:
            logits = model.apply(variables, image_bhwc, train=False)[0]
        whole = jnp.array([logits.shape[1:3]], jnp.int32)
        return logits, jnp.repeat(whole, len(image_bhwc), 0)

    return run


# ---- sizes -------------------------------------------------------------------------------------


def scaled(size_hw: tuple[int, int], scale: float, how: Any) -> tuple[int, int]:
    """(rows, columns) of a photo at a scale, at least 1 each.  how: config.predict."""
    if how.multiple > 1:
        return tuple(max(int(side * scale / how.multiple + 0.5), 1) * how.multiple
                     for side in size_hw)
    whole = round if how.resize == "bicubic" else int
    return tuple(max(whole(side * scale), 1) for side in size_hw)


def canvas(size_hw: tuple[int, int], how: Any) -> tuple[int, int]:
    """(rows, columns) that photos share which share batches."""
    return canvases.up(size_hw, how.grid) if how.canvas == "bucket" else tuple(size_hw)


def _padded_size(whole_hw, scale, how):
    if how.canvas != "bucket":
        return scaled(whole_hw, scale, how)
    return tuple(max(side, 2 * STRIDE)
                 for side in canvases.up([s * scale for s in whole_hw], STRIDE))


# ---- scores ------------------------------------------------------------------------------------


def photo_scores(photos: Iterable[tuple[Any, np.ndarray]], run: Callable, how: Any, data: Any
                 ) -> Iterator[tuple[Any, np.ndarray]]:
    """Yields (id, scores_hwk float32 at the photo's size), in the order in which batches fill up.

    photos: (id, uint8 [h,w,3]).  run: (image_bhwc, size_b2) → (logits, own_b2), see `forward`,
    always called with how.batch rows, or twice as many with `flip`, the mirror images last.
    how: config.predict.  data: config.data, for mean and std.
    """
    waiting = defaultdict(list)
    for name, image_hwc in photos:
        whole = canvas(image_hwc.shape[:2], how)
        waiting[whole].append((name, image_hwc))
        if len(waiting[whole]) == how.batch:
            yield from _batch(waiting.pop(whole), whole, run, how, data)
    for whole, rows in waiting.items():
        yield from _batch(rows, whole, run, how, data)


def _batch(rows, whole, run, how, data):
    """The scores of up to `how.batch` photos; copies of the last one fill the batch."""
    merge = MERGES[how.merge]
    images = [image for _, image in rows]
    fill = [images[-1]] * (how.batch - len(images))
    totals: list = [None] * len(rows)
    for scale in sorted(how.scales, key=lambda s: s != 1):  # scale 1 first: its grid is wanted
        sizes = [scaled(image.shape[:2], scale, how) for image in images + fill]
        room = _padded_size(whole, scale, how)
        inputs = [_network_input(image, size, room, how, data)
                  for image, size in zip(images + fill, sizes, strict=True)]
        if how.flip:
            inputs += [canvases.mirrored(x, size) for x, size in zip(inputs, sizes, strict=True)]
            sizes += sizes
        logits_bpqk, own_b2 = run(np.stack(inputs), np.int32(sizes))
        logits_bpqk, own_b2 = np.asarray(logits_bpqk, np.float32), np.asarray(own_b2)
        for place, image in enumerate(images):
            for row in (place, place + how.batch)[: 1 + how.flip]:
                p, q = own_b2[row]
                z_pqk = logits_bpqk[row, :p, :q]
                z_pqk = z_pqk if row == place else z_pqk[:, ::-1]
                totals[place] = _joined(totals[place], z_pqk, image.shape[:2], merge)
    count = len(how.scales) * (1 + how.flip) if merge.mean else 1
    for (name, image), total in zip(rows, totals, strict=True):
        total = total / np.float32(count) if merge.mean else total
        yield name, pixels.resize(total, image.shape[:2], "half_pixel")


def _joined(total, z_pqk, size_hw, merge):
    """The merged scores with one more view of the photo in them."""
    if merge.at_photo:
        z_pqk = pixels.resize(z_pqk, size_hw, "half_pixel")
    scores = pixels.softmax(z_pqk) if merge.softmax else z_pqk
    if total is None:
        return np.array(scores)
    return merge.join(total, pixels.resize(scores, total.shape[:2], "half_pixel"))


def _network_input(image_hwc, size, room, how, data):
    """float32 [h,w,3] of `room`: the photo at `size`, normalised, zeros below and on the right."""
    if how.resize == "bicubic":
        image_hwc = canvases.scaled(image_hwc, size)
    x_hwc = canvases.normalise(image_hwc, data.mean, data.std)
    if how.resize != "bicubic":
        x_hwc = pixels.resize(x_hwc, size, how.resize)
    return canvases.padded(x_hwc, room)


# ---- CRF ---------------------------------------------------------------------------------------


def gives_logits(how: Any) -> bool:
    """Whether scores as config.predict gives them are logits, not softmax or sums of it."""
    return how.mode == "original" or (how.mode == "multi_scale" and not MERGES[how.merge].softmax)


def probabilities(scores_hwk: np.ndarray, how: Any) -> np.ndarray:
    """What a CRF starts from, of the scores that config.predict gives.

    Softmax of logits; a window's sums of softmax divided by their own sum; what is softmax, or the
    largest of several, as it is.
    """
    if how.mode == "sliding_window":
        return scores_hwk / scores_hwk.sum(-1, keepdims=True)
    return pixels.softmax(scores_hwk) if gives_logits(how) else scores_hwk


def kept_classes(p_hwk: np.ndarray, least: float) -> np.ndarray:
    """Numbers of the classes that reach `least`, and more than 0, somewhere in the photo; the
    likeliest always. (0 has what the photo is not tagged with.)"""
    top_k = p_hwk.max((0, 1))
    least = max(least, np.finfo(np.float32).tiny)
    return np.flatnonzero(top_k >= min(least, top_k.max()))


def smoothed(p_hwk: np.ndarray, image_hwc: np.ndarray, how: Any, infer: Callable = crf.infer
             ) -> np.ndarray:
    """Q of the CRF how.crf, float32 [h,w,k]; classes below how.crf_least have 0 everywhere."""
    kept = kept_classes(p_hwk, how.crf_least)
    unary_hwm = crf.scores_to_unary(np.ascontiguousarray(p_hwk[..., kept]))
    q_hwk = np.zeros(p_hwk.shape, np.float32)
    q_hwk[..., kept] = infer(unary_hwm, image_hwc, crf.preset(how.crf))
    return q_hwk
