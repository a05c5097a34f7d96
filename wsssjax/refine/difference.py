"""Static SSDD: a network learns where two label sets differ, and which one then to trust.

The rule, the losses and their literature are in `core/difference.py`, the networks in
`models/difference_net.py`. Training: a segmentation head learns the knowledge, only so that its
hidden map tells something; the difference network learns, from that map and from either label map,
where the other differs. Afterwards `run` writes, for every photo, the label map made of both.

What differs from the published code is told in configs/refine_voc_ssdd_static.py.
"""

from __future__ import annotations

import functools
import math
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from wsssjax.core import config as configs
from wsssjax.core import difference, files, optim, parallel, progress, threads, weights
from wsssjax.core import state as states
from wsssjax.core.constants import IGNORE
from wsssjax.core.losses import masked_xent
from wsssjax.core.method import Method
from wsssjax.core.state import TrainState
from wsssjax.data import cam_file, label_map, label_pairs, tags
from wsssjax.data.classes import need_background, read_class_names
from wsssjax.models import difference_net

AHEAD = 32  # photos read together; more would only fill the memory
SETTINGS = "difference.json"  # beside the label maps: what they were made with


# ---- training ----------------------------------------------------------------------------------


def build(config: Any) -> Method:
    """The method for the train loop; what a step does is told at `train_step`."""
    parallel.set_precision(config.precision)
    model = build_model(config)
    examples = label_pairs.source(config, ("knowledge", "advice"))
    epoch, total_steps = label_pairs.lengths(config, examples)

    def optimizer(params):
        still = "^backbone/" if config.model.freeze_encoder else ""
        return optim.build_cosine(config.optim, params, epoch, still=still)

    def init(key):
        variables = difference_net.init(model, config.model, key)
        return states.create(variables, optimizer(variables["params"]), ema=False)

    def step(before, batch, key):
        return train_step(before, batch, key, config=config, model=model,
                          optimizer=optimizer(before.params))

    return Method(
        init, step, functools.partial(difference_net.predict, model),
        functools.partial(label_pairs.batches, config, examples, photo=False), total_steps)


def build_model(config: Any) -> difference_net.DifferenceSegmenter:
    """The network of config.model with one output per class of config.classes."""
    names = need_background(read_class_names(config.classes), "config.classes")
    return difference_net.build(config.model, len(names), branches=1)


def train_step(before: TrainState, batch: dict, key: jax.Array, *, config: Any, model: Any,
               optimizer: Any) -> tuple[TrainState, dict]:
    """(state, metrics) after one iteration on one device.

    batch: image, knowledge, advice, tags.  loss = loss_seg + loss_diff, of which neither reaches
    the other's parameters. loss_seg: cross-entropy of the head against the knowledge, a mean over
    pixels. loss_diff: mean over both maps of the balanced loss, a mean over images of which no
    class is flagged. Both are means over all devices' pixels and images.
    """
    drop_key = parallel.device_key(key)
    knowledge, advice = batch["knowledge"], batch["advice"]
    flags_bk = difference.class_flags(knowledge, advice, batch["tags"],
                                      flag_absent=config.ssdd.flag_absent)

    def loss(params):
        variables = {**before.extra, "params": params}
        found = model.apply(variables, batch["image"], train=True, method="segment",
                            rngs={"dropout": drop_key})
        logits = model.apply(variables, found, 0, jnp.stack([knowledge, advice]),
                             method="differences")
        total, count = masked_xent(found.logits[0], knowledge, knowledge != IGNORE)
        loss_seg = difference.divided(total, parallel.mean(count))
        total, kept = difference.detection_loss(logits, knowledge != advice,
                                                difference.known(knowledge, advice), flags_bk)
        loss_diff = difference.divided(total, parallel.mean(kept))
        whole = loss_seg + loss_diff
        return whole, {"loss": whole, "loss_seg": loss_seg, "loss_diff": loss_diff,
                       "kept": kept / len(knowledge)}

    return optim.descend(before, loss, optimizer)


# ---- label maps --------------------------------------------------------------------------------


def refine(knowledge_hw: np.ndarray, advice_hw: np.ndarray, sigma_k_gh: np.ndarray,
           sigma_a_gh: np.ndarray, tags_k: np.ndarray, *, bias: float = 0.1,
           background_bias: float = 0.1, flag_absent: bool = True) -> np.ndarray:
    """The label map made of two, uint8 [h,w], at their own size.

    knowledge_hw, advice_hw: uint8, IGNORE allowed: the other one is taken there.
    sigma_k_gh, sigma_a_gh: float32 on any coarser grid over the photo, the predicted probability
    that the other map differs; enlarged bilinearly, while the rule itself (`core/difference.py`)
    acts on the labels as they are, so that their edges stay sharp. (The published code decides on
    the grid and never comes back.)  tags_k: 1 where the photo holds the foreground class.

    >>> knowledge, advice = np.uint8([[1, 1, 0, 0]]), np.uint8([[1, 1, 1, 1]])
    >>> foreseen, sudden = np.float32([[0.9]]), np.float32([[0.2]])
    >>> refine(knowledge, advice, foreseen, sudden, np.float32([1])).tolist()
    [[1, 1, 1, 1]]
    >>> refine(knowledge, advice, sudden, foreseen, np.float32([1])).tolist()
    [[1, 1, 0, 0]]
    """
    knowledge_1hw, advice_1hw = knowledge_hw[None], advice_hw[None]
    flags_1k = difference.class_flags(knowledge_1hw, advice_1hw, tags_k[None],
                                      flag_absent=flag_absent)
    sigmas = label_pairs.resize(np.stack([sigma_k_gh, sigma_a_gh]), knowledge_hw.shape)
    return difference.integrate(knowledge_1hw, advice_1hw, sigmas[:1], sigmas[1:], flags_1k, bias,
                                background_bias)[0].astype(np.uint8)


class Item(NamedTuple):
    """One photo, ready: its network input [s,s,3], both label maps on the grid int32 [2,g,g] and
    at full size uint8 [2,h,w], its tags, and the part of the grid that the photo covers."""

    name: str
    image_hwc: np.ndarray
    grid_2gg: np.ndarray
    full_2hw: np.ndarray
    tags_k: np.ndarray
    part: tuple[int, int]


class Work(NamedTuple):
    """What each photo of a run needs."""

    config: Any
    examples: label_pairs.Source
    forward: Callable  # see `restored`
    out: pathlib.Path
    maps: pathlib.Path | None = None
    bias: float = 0.1
    background_bias: float = 0.1


def run(*, config: Any, weights: str | os.PathLike, labels: str, advice: str, images: str, out: str,
        ids: str | Sequence[str] | None = None, classes: str = "voc",
        tags: str | os.PathLike | None = None, bias: float = 0.1, background_bias: float = 0.1,
        maps: str | os.PathLike | None = None, label: str = "refine by differences") -> dict:
    """Writes `<out>/<id>.png` made of two label sets and returns {"images", "changed"}.

    config: what trained the network, or its file's name.  weights: exported weights, or the folder
    of the training.  labels, advice: knowledge and advice, folders of label maps or of scores.
    images: folder or list of photos.  ids: list file or ids; None: all of `labels`.  tags: CSV
    file; None takes the classes in the knowledge.  bias, background_bias: see
    `core.difference.preference`; published 0.1 each.  maps: folder that gets sigma of knowledge and
    advice as `<id>.npz` (`cam_file`, as classes 0 and 1), unmirrored, on the network's grid; None
    for none.  Files there already that are newer than photo and labels are kept, and refused if
    they were made otherwise.
    changed: share of the pixels that differ from `labels`, of the photos done now.
    """
    config = configs.load(config) if isinstance(config, str) else config
    _check_config(config, classes)
    for name, value in (("bias", bias), ("background_bias", background_bias)):
        if not math.isfinite(value):
            raise ValueError(f"--{name}={value}: want a finite number, such as 0.1")
    examples = _examples(config, labels, advice, images, tags, ids)
    read = {"--images": {path.parent for path in examples.paths.values()},
            "--labels": {labels}, "--advice": {advice}}
    targets = {"--out": pathlib.Path(out)} | ({"--maps": pathlib.Path(maps)} if maps else {})
    _check_targets(targets, read)
    work = Work(config, examples, restored(config, weights), *targets.values(), bias=bias,
                background_bias=background_bias)
    made_with = _made_with(work, weights, tags) | {
        name: str(pathlib.Path(folder).resolve())
        for name, folder in (("labels", labels), ("advice", advice), ("images", images))}
    for folder in targets.values():
        files.claim(folder / SETTINGS, made_with)
    todo = [i for i, name in enumerate(examples.ids) if not _is_done(work, name)]
    changed = pixels = 0
    with progress.Progress(len(examples), label, done=len(examples) - len(todo)) as bar:
        for some, size in _refine_all(work, todo):
            changed, pixels = changed + int(some), pixels + size
            bar.advance()
    return {"images": len(examples), "changed": changed / max(pixels, 1)}


def _is_done(work, name):
    """Whether the files of a photo are there, and newer than all that they are made from."""
    made = [work.out / f"{name}.png", *([work.maps / f"{name}.npz"] if work.maps else [])]
    sources = [p for one in work.examples.sets.values() for p in one.made_from(name)]
    return files.newer(made, [*sources, work.examples.paths[name]])


def _refine_all(work, todo):
    """Writes the files of the photos `todo`; yields (changed pixels, pixels) of each."""
    batch = work.config.predict.batch
    for first in range(0, len(todo), AHEAD):
        part = todo[first : first + AHEAD]
        items = list(threads.each(lambda i: prepare(work.config, work.examples, i), part, chunk=1))
        for start in range(0, len(items), batch):
            rows = items[start : start + batch]
            pairs = list(zip(rows, work.forward(rows), strict=True))
            yield from threads.each(functools.partial(_refine_one, work), pairs, chunk=1)


def _refine_one(work, pair):
    """Writes the files of one photo; (changed pixels, pixels)."""
    item, sigma_2gg = pair
    rows, columns = item.part
    sigma_2gg = sigma_2gg[:, :rows, :columns]
    if work.maps:
        cam_file.write(work.maps / f"{item.name}.npz", [0, 1], sigma_2gg,
                       np.maximum(item.full_2hw.shape[1:], sigma_2gg.shape[1:]))
    made_hw = refine(*item.full_2hw, *sigma_2gg, item.tags_k, bias=work.bias,
                     background_bias=work.background_bias, flag_absent=work.config.ssdd.flag_absent)
    label_map.write(work.out / f"{item.name}.png", made_hw)
    return (made_hw != item.full_2hw[0]).sum(), made_hw.size


def prepare(config: Any, examples: label_pairs.Source, index: int) -> Item:
    """One photo squashed to config.predict.side, as published; where data.square is false it keeps
    its proportions and the rest of the square is filled with the mean colour, and ignored."""
    example = examples[index]
    image_hwc, side = example["image"], config.predict.side
    size_hw = image_hwc.shape[:2]
    inner = (side, side) if config.data.square else tuple(
        max(1, round(s * side / max(size_hw) / 8)) * 8 for s in size_hw)
    small = Image.fromarray(image_hwc).resize(inner[::-1], Image.Resampling.BILINEAR)
    pixels_hwc = np.asarray(small, np.float32) / np.float32(255)
    canvas_hwc = np.zeros((side, side, 3), np.float32)
    canvas_hwc[: inner[0], : inner[1]] = (
        (pixels_hwc - np.float32(config.data.mean)) / np.float32(config.data.std))
    part = difference_net.grid_size(inner)
    grid_2gg = np.full((2, *difference_net.grid_size((side, side))), IGNORE, np.int32)
    full = []
    for row, key in enumerate(("knowledge", "advice")):
        grid_2gg[row, : part[0], : part[1]] = label_pairs.grid_label(example[key], inner)
        full.append(label_pairs.full_label(example[key], size_hw))
    return Item(example["name"], canvas_hwc, grid_2gg, np.stack(full), example["tags"], part)


def restored(config: Any, weights_path: str | os.PathLike) -> Callable:
    """items → sigma float32 [b,2,g,g]: the network of `config` with the weights of a file.

    The file holds our names, or those of the published state dict (.safetensors or .npz). Called
    with up to config.predict.batch items; copies of the last one fill the batch.
    """
    parallel.set_precision(config.precision)
    model = build_model(config)
    template = jax.eval_shape(functools.partial(difference_net.first_variables, model),
                              jax.random.key(0))
    flat = weights.load(weights_path)
    try:
        if not any(name.startswith("params/") for name in flat):
            flat = difference_net.from_torch(flat)
        variables = jax.device_put(weights.restore(template, flat))
    except ValueError as error:
        raise ValueError(f"{weights_path}, as ssdd_static with encoder {config.model.encoder!r}: "
                         f"{error}") from None

    @jax.jit
    def compiled(variables, image_bhwc, grid_b2gg):
        found = model.apply(variables, image_bhwc, train=False, method="segment")
        logits_2bgg = model.apply(variables, found, 0, jnp.moveaxis(grid_b2gg, 1, 0),
                                  method="differences")
        return jax.nn.sigmoid(jnp.moveaxis(logits_2bgg, 0, 1))

    def forward(items):
        rows = [*items, *items[-1:] * (config.predict.batch - len(items))]
        found = compiled(variables, np.stack([x.image_hwc for x in rows]),
                         np.stack([x.grid_2gg for x in rows]))
        return np.asarray(found)[: len(items)]

    return forward


def _check_config(config, classes):
    if config.method != "ssdd_static":
        raise ValueError(f"config.method is {config.method!r}; want one of 'ssdd_static', such as "
                         "configs/refine_voc_ssdd_static.py")
    if config.predict.side < 8 or config.predict.side % 8:
        raise ValueError(f"config.predict.side is {config.predict.side}; want a multiple of 8")
    if config.predict.batch < 1:
        raise ValueError(f"config.predict.batch is {config.predict.batch}; want 1 or more")
    have, want = (len(read_class_names(name)) for name in (config.classes, classes))
    if have != want:
        raise ValueError(f"--classes={classes} has {want} classes, config.classes="
                         f"{config.classes} has {have}; name the same classes")


def _examples(config, labels, advice, images, tags_path, ids):
    names = need_background(read_class_names(config.classes), "--classes")
    sets = {"knowledge": label_pairs.LabelSet(labels, len(names), "--labels"),
            "advice": label_pairs.LabelSet(advice, len(names), "--advice")}
    return label_pairs.Source(
        images, sets, len(names), ids=files.read_ids(ids) if isinstance(ids, str) else ids,
        image_tags=tags.read_tags(tags_path, names) if tags_path else None, what="--images")


def _check_targets(targets, read):
    """ValueError where files would be written among those that are read, or two kinds together."""
    taken = {pathlib.Path(folder).resolve(): what for what, some in read.items() for folder in some}
    for what, folder in targets.items():
        if folder.resolve() in taken:
            raise ValueError(f"{what}={folder}: is {taken[folder.resolve()]} itself; name another "
                             "folder")
        taken[folder.resolve()] = what


def _made_with(work, weights_path, tags_path):
    """What the results depend on beside the files of each photo."""
    plain = configs.to_dict(work.config)
    plain["model"].pop("encoder_weights")  # the trained weights hold the encoder, too
    return {
        "model": plain["model"], "ssdd": plain["ssdd"], "side": plain["predict"]["side"],
        "square": plain["data"]["square"], "colours": [plain["data"]["mean"], plain["data"]["std"]],
        "classes": list(read_class_names(work.config.classes)), "bias": work.bias,
        "background_bias": work.background_bias, "weights": weights.fingerprint(weights_path),
        "tags": files.hash_file(tags_path) if tags_path else ""}
