"""A probe: a small head on features that a frozen encoder made once, trained in a minute or less.

It answers early what whole trainings answer: which labelled photos and which labels teach better.
Two methods with one config: `probe` learns from unlabelled photos too,
as UniMatch V2 does (a mean teacher labels, two views with complementary channel dropout learn, and
CutMix), `probe_supervised` from labelled photos alone. What differs from UniMatch V2:

* Photos are squashed to one square, seen once and mirrored (semi/probe_features.py): no scales, no
  crops, no colours. The two strong views differ by dropped channels and CutMix alone.
* CutMix mixes feature maps. Its boxes are drawn on the coarsest map and hold whole cells of all;
  rounded down to them they are smaller: at 8 x 8 cells .154 of the image on average instead of
  .206, and 3.8 % of them are empty.
* Labels, losses and boxes are on the head's grid; a cell has the class of its middle pixel.
* The labelled loss has the criterion "ce" or "ohem" over cells.

The weights it exports are those of a whole segmenter: `python -m wsssjax.predict` takes them and,
as config.data.val does, sees photos at their own size; `predict_folder` sees them as the head
learned them, from features.

Fields of its own: config.model.head_taps, the maps in use (0 is the finest, at the fewest pixels a
cell); config.probe: side, pixels; flip, whether mirror images are made; features, the folder where
features are kept, "" for memory alone.  config.data.flip_p: how often a photo is its mirror image.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wsssjax.core import files, parallel, progress, resize, threads, weights
from wsssjax.core.method import Method
from wsssjax.core.state import TrainState
from wsssjax.data import label_map, photos, transforms
from wsssjax.data.classes import read_class_names
from wsssjax.data.loader import Joined, Loader
from wsssjax.models import recognise
from wsssjax.semi import consistency, pixels, probe_features, student, unimatch_v2, views

SETTINGS = "predict.json"  # beside label maps: what they were made with
LABELLED, UNLABELLED = "tap", "weak_tap"  # begin the batch keys of feature maps


def build(config: Any) -> Method:
    """The method that learns from labelled and unlabelled photos; see `train_step`."""
    return _method(config, train_step, unlabelled=True)


def build_supervised(config: Any) -> Method:
    """The method that learns from labelled photos alone; see `supervised_step`."""
    return _method(config, supervised_step, unlabelled=False)


def _method(config, step, *, unlabelled):
    probe_features.check(config)
    found = student.method(config, step, unlabelled=unlabelled)
    return found._replace(loader=functools.partial(loader, config, unlabelled=unlabelled))


# ---- what it learns from -----------------------------------------------------------------------


def loader(config: Any, *, unlabelled: bool) -> Joined:
    """Endless batches of feature maps with labels, and of as many of unlabelled photos.

    All maps of the lists are in memory when it returns.
    """
    data = config.data
    views.check(config, data.unlabeled if unlabelled else "")
    kept = probe_features.Features(config)
    mirror = Mirror(p=data.flip_p if config.probe.flip else 0.0)
    streams = {"labelled": _stream(config, kept, data.labeled, (mirror,), labelled=True)}
    if unlabelled:
        boxes = Boxes(p=data.strong.cut_p, area=tuple(data.strong.cut_area),
                      ratio=tuple(data.strong.cut_ratio))
        streams["unlabelled"] = _stream(config, kept, data.unlabeled, (mirror, boxes),
                                        labelled=False)
    return Joined(**streams)


def _stream(config, kept, path, ops, *, labelled):
    source = Source(config, kept, views.read_lines(path, labelled=labelled))
    # The two streams of one seed must not draw alike, nor those of neighbouring seeds.
    seed = 2 * config.seed + labelled
    index, count = parallel.process()
    rows = config.device_batch * config.accumulate * parallel.device_count()
    return Loader(source, ops, batch=rows, seed=seed, process_index=index, process_count=count)


class Source(Sequence):
    """Examples of a list: `name`, the maps float16 [s,p,q,d] of the photo and, behind it, of its
    mirror image under `tap<i>` or, without labels, `weak_tap<i>`; and `label` int32 [p,q] or, where
    config.data.tags names them, `tags` float32 [k]."""

    def __init__(self, config: Any, kept: probe_features.Features, lines: Sequence[str]):
        """lines: '<photo> <label>', or '<photo>' each, paths that count from config.data.root."""
        words = [[pathlib.Path(config.data.root, word) for word in line.split()] for line in lines]
        found = kept.read([word[0] for word in words], "features")
        classes = len(read_class_names(config.classes))
        bare = all(len(word) == 1 for word in words)
        image_tags = views.unlabelled_tags(config) if bare else None

        def example(word, maps):
            prefix = LABELLED if len(word) > 1 else UNLABELLED
            out = {"name": word[0].stem} | {f"{prefix}{i}": x for i, x in maps.items()}
            if len(word) > 1:
                label_hw = label_map.read(word[1], classes, photos.photo_size(word[0]))
                out["label"] = shrunk(label_hw, maps[min(maps)].shape[1:3])
            elif image_tags is not None:
                out["tags"] = image_tags[word[0].stem]
            return out

        self.examples = list(threads.each(lambda both: example(*both),
                                          list(zip(words, found, strict=True))))

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict:
        return self.examples[index]


def shrunk(label_hw: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [h,w] → int32 at `size`: the label of the pixel in the middle of each cell.

    >>> shrunk(np.arange(8, dtype=np.uint8).reshape(1, 8), (1, 3)).tolist()
    [[1, 4, 6]]
    """
    rows, columns = ((2 * np.arange(m) + 1) * n // (2 * m)
                     for m, n in zip(size, label_hw.shape, strict=True))
    return label_hw[np.ix_(rows, columns)].astype(np.int32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mirror:
    """Example with the maps [p,q,d] of the photo or, with probability p, of its mirror image."""

    p: float

    def __call__(self, example: dict, rng: np.random.Generator) -> dict:
        mirror = rng.random() < self.p
        out = {key: x[1 if mirror else 0] if "tap" in key else x for key, x in example.items()}
        if mirror and "label" in out:
            out["label"] = out["label"][:, ::-1]
        return out


@dataclasses.dataclass(frozen=True, kw_only=True)
class Boxes:
    """Example with `cut1` and `cut2`, bool [p,q] on the finest of its maps: boxes of whole cells of
    the coarsest.  p, area, ratio: of `transforms.CutBoxes`."""

    p: float
    area: tuple[float, float]
    ratio: tuple[float, float]

    def __call__(self, example: dict, rng: np.random.Generator) -> dict:
        sizes = [x.shape[:2] for key, x in example.items() if "tap" in key]
        fine, coarse = sizes[0], sizes[-1]
        draw = transforms.CutBoxes(p=self.p, area=self.area, ratio=self.ratio)
        drawn = draw({"image": np.zeros((*coarse, 3), np.uint8)}, rng)
        rows, columns = (np.arange(m) * n // m for m, n in zip(fine, coarse, strict=True))
        return example | {key: drawn[key][np.ix_(rows, columns)] for key in ("cut1", "cut2")}


# ---- a step ------------------------------------------------------------------------------------


def train_step(
    state: TrainState,
    batch: dict,
    key: jax.Array,
    *,
    config: Any,
    model: Any,
    draw: Callable = unimatch_v2.draw_drop,
) -> tuple[TrainState, dict]:
    """(state, metrics) after one iteration on one device.

    batch: `tap<i>` and `label` of the labelled stream; `weak_tap<i>`, `cut1`, `cut2` and, with
    config.data.tags, `tags` of the other.
    draw: replaces the dropout draws, for parity tests.
    loss = (loss_x + unlabelled_weight · loss_u) / 2, divisors and means as in UniMatch V2.
    """
    def gradient(part, rows, key):
        taps_x, taps_u = maps(rows, LABELLED), maps(rows, UNLABELLED)
        found, sure = consistency.targets(
            config, _logits(model, state, state.ema, taps_u, rows["cut1"].shape[1:]),
            jnp.ones(rows["cut1"].shape, bool), rows.get("tags"))
        widths = [x.shape[-1] for x in taps_u.values()]
        drop = unimatch_v2.drop_masks(*draw(key, len(rows["cut1"]), widths))
        seen = {}
        for mask, (i, x) in zip(drop, taps_u.items(), strict=True):
            both = jnp.concatenate([mixed(x, rows[f"cut{v}"]) for v in (1, 2)])
            # Labelled photos ride along undropped.
            seen[i] = jnp.concatenate([taps_x[i], both * mask[:, None, None, :]])

        def loss_fn(part):
            logits = _logits(model, state, part, seen, rows["label"].shape[1:])
            return consistency.both_losses(config, logits, rows, found)

        (_, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(part)
        return grads, metrics | {"mask_ratio": sure}

    params, opt, metrics = student.descend(config, state, batch, key, gradient)
    return consistency.update(config, state, params, opt), metrics


def supervised_step(
    state: TrainState, batch: dict, key: jax.Array, *, config: Any, model: Any
) -> tuple[TrainState, dict]:
    """(state, metrics) after one iteration on one device; draws nothing.

    batch: `tap<i>`, `label`.  loss: `student.labelled_loss`, averaged as in `train_step`.
    """
    def gradient(part, rows, key):
        def loss_fn(part):
            logits = _logits(model, state, part, maps(rows, LABELLED), rows["label"].shape[1:])
            loss = student.labelled_loss(config, logits, rows["label"])
            return loss, {"loss": loss, "loss_x": loss}

        (_, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(part)
        return grads, metrics

    params, opt, metrics = student.descend(config, state, batch, key, gradient)
    return state.replace(step=state.step + 1, params=params, opt=opt), metrics


def maps(rows: dict, prefix: str) -> dict[int, jax.Array]:
    """{number: float32 map} of the batch keys that are `prefix` and a number, finest first."""
    return {i: rows[f"{prefix}{i}"].astype(jnp.float32) for i in range(4) if f"{prefix}{i}" in rows}


def mixed(x_bpqd: jax.Array, box_bhw: jax.Array) -> jax.Array:
    """A map after CutMix with boxes that are given on a finer grid, in whole cells of the map."""
    return consistency.cut_mix(x_bpqd, resize.resize_nearest(box_bhw, x_bpqd.shape[1:3], (-2, -1)))


def _logits(model, state, part, taps, size_hw):
    variables = {**state.extra, "params": {**state.params, **part}}
    return model.apply(variables, taps, size_hw, method="decode")


# ---- label maps of whole photos ----------------------------------------------------------------


def predict_folder(
    config: Any,
    weights_path: str | os.PathLike,
    images: str | os.PathLike,
    out: str | os.PathLike,
) -> list[str]:
    """Ids of all photos, sorted; `<out>/<id>.png` are there when it returns, at the photos' sizes.

    config: the one that trained the probe.  images: folder or list of photos.  Features come from
    config.probe.features, or are made. Files that are there already are kept, and refused if they
    were made with other settings.
    """
    paths, out = files.photo_paths(images), pathlib.Path(out)
    kept = probe_features.Features(config, mirror=False)
    forward = restored(config, weights_path)
    files.claim(out / SETTINGS, {
        **probe_features.made_with(config), "classes": config.classes,
        "head": weights.fingerprint(weights_path)})
    todo = [name for name in paths if not (out / f"{name}.png").exists()]
    size = config.predict.batch
    with progress.Progress(len(paths), "predict", done=len(paths) - len(todo)) as bar:
        for first in range(0, len(todo), size):
            names = todo[first : first + size]
            found = kept.read([paths[name] for name in names])
            found += found[-1:] * (size - len(found))  # one compiled program
            logits_bpqk = np.asarray(forward(jax.tree.map(lambda *xs: np.stack(xs), *found)))

            def write(item):
                name, logits_pqk = item
                logits_hwk = pixels.resize(logits_pqk, photos.photo_size(paths[name]), "half_pixel")
                label_map.write(out / f"{name}.png", logits_hwk.argmax(-1).astype(np.uint8))

            for _ in threads.each(write, list(zip(names, logits_bpqk, strict=False)), chunk=1):
                bar.advance()
    return list(paths)


def restored(config: Any, weights_path: str | os.PathLike) -> Callable:
    """{number: maps [b,s,p,q,d]} → logits float32 [b,p,q,k] on the head's grid, by the weights of a
    file; ValueError where its encoder is not that of config.model.encoder_weights."""
    model, encoder = probe_features.load(config)
    shapes = jax.eval_shape(functools.partial(student.first_variables, model), jax.random.key(0))
    flat = weights.load(weights_path)
    try:
        variables = weights.restore(shapes, flat)
    except ValueError as error:
        raise ValueError(f"{weights_path}: {error}"
                         f"{recognise.hint(flat, config.model.encoder)}") from None
    own = weights.flatten(variables)
    for name, x in weights.flatten(encoder).items():
        if not np.array_equal(x, own[name].astype(x.dtype)):
            raise ValueError(f"{weights_path}: trained on another encoder than "
                             f"config.model.encoder_weights={config.model.encoder_weights} "
                             f"({name} differs); name the one it was trained on")
    head = {"params": {"head": variables["params"]["head"]}}

    @jax.jit
    def forward(taps):
        taps = {i: x[:, 0].astype(jnp.float32) for i, x in taps.items()}
        return model.apply(head, taps, None, method="decode")

    return forward
