"""AffinityNet: features whose distances say whether two pixels belong together, for a random walk.

Ahn and Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision for Weakly
Supervised Semantic Segmentation", CVPR 2018, as its published PyTorch code computes it:

    confidences  class maps → CRF at a low and a high background power   affinity_data
    labels       → sure background, sure classes, all else ignored       affinity_data
    training     pairs within radius 5, three-part loss                  here, affinity_pairs
    walk         class maps spread along affinities, argmax              random_walk, `run` here

The published figures stop before the dense CRF that the paper puts behind the walk; `save` scores
and hand them to it.
"""

from __future__ import annotations

import functools
import math
import pathlib
import threading
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from wsssjax.core import config as configs
from wsssjax.core import files, optim, parallel, state, threads
from wsssjax.core import weights as weight_files
from wsssjax.core.constants import BACKGROUND
from wsssjax.core.method import Method
from wsssjax.core.state import TrainState
from wsssjax.data import cam_file, label_map, photos
from wsssjax.data.classes import need_background, read_class_names
from wsssjax.models import affinity_net, registry
from wsssjax.refine import affinity_data, random_walk
from wsssjax.refine import affinity_pairs as pairs
from wsssjax.refine.random_walk import STRIDE

SHARES = {"loss_bg": 0.25, "loss_fg": 0.25, "loss_neg": 0.5}  # of the kinds of pairs, in order
SUFFIXES = {"labels": ".png", "scores": ".npz"}
SETTINGS = "affinity.json"  # beside the results: what they were made with
_EPSILON = 1e-5


# ---- loss --------------------------------------------------------------------------------------


def pair_losses(features_bhwd, kinds: pairs.Kinds) -> tuple[jax.Array, jax.Array]:
    """(sums, counts), float32 [3] each, of the losses of background, foreground, negative pairs.

    With a = exp(-distance): -ln(a + 1e-5) for pairs that belong together, -ln(1 + 1e-5 - a) for
    those that do not.
    """
    distance_bnhw = pairs.distances(features_bhwd)
    affinity_bnhw = jnp.exp(-distance_bnhw)
    together = -jnp.log(affinity_bnhw + _EPSILON)
    apart = -jnp.log(1.0 + _EPSILON - affinity_bnhw)
    losses = (together, together, apart)
    sums = [jnp.where(kind, x, 0.0).sum() for kind, x in zip(kinds, losses, strict=True)]
    return jnp.stack(sums), pair_counts(kinds)


def pair_counts(kinds: pairs.Kinds) -> jax.Array:
    """How many pairs there are of each kind, float32 [3]."""
    return jnp.stack([kind.sum(dtype=jnp.float32) for kind in kinds])


def affinity_loss(features_bhwd, label_bhw):
    """(loss, {its three parts}), float32 scalars, over all pairs of the batch.

    features_bhwd: float.  label_bhw: int32, of the same grid, 0 background, 255 ignored.  Each part
    is a mean over its pairs, 0 where there are none.

    >>> features = jnp.zeros((1, 5, 9, 4)).at[:, :, 5:].set(jnp.log(2.0))  # right half apart
    >>> label = jnp.full((1, 5, 9), 255).at[0, 0, 4:7].set(jnp.array([0, 0, 8]))
    >>> loss, parts = affinity_loss(features, label)  # one source: (0, 4)
    >>> {name: round(float(part), 3) for name, part in parts.items()}, round(float(loss), 3)
    ({'loss_bg': 0.693, 'loss_fg': 0.0, 'loss_neg': 0.693}, 0.52)
    """
    sums, counts = pair_losses(features_bhwd, pairs.kinds(label_bhw))
    return _joined(sums, counts)


def _joined(sums, counts):
    """(loss, its parts)."""
    means = sums / (counts.astype(sums.dtype) + _EPSILON)
    parts = dict(zip(SHARES, means, strict=True))
    return sum(share * parts[name] for name, share in SHARES.items()), parts


# ---- training ----------------------------------------------------------------------------------


def build(config: Any) -> Method:
    """AffinityNet as a method. `predict` gives the features float32 [b, p, q, 448] at stride 8."""
    _check(config)
    model = affinity_net.build(config.model)
    start = functools.partial(first_variables, model, config.data.crop)
    shapes = jax.eval_shape(start, jax.random.key(0))
    update = optim.build(config.optim, shapes["params"], config.total_steps)

    def init(key) -> TrainState:
        return state.create(registry.load_encoder(start(key), config.model), update, ema=False)

    return Method(init, functools.partial(train_step, model=model, update=update),
                  functools.partial(predict, model),
                  functools.partial(affinity_data.batches, config), config.total_steps)


def first_variables(model: Any, side: int, key: jax.Array) -> dict:
    """Random variables of the network."""
    params_key, drop_key = jax.random.split(key)
    image_bhwc = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    init = jax.jit(lambda keys: model.lazy_init(keys, image_bhwc, train=False))
    return init({"params": params_key, "dropout": drop_key})


def predict(model: Any, variables: dict, image_bhwc: jax.Array) -> jax.Array:
    """Features [b, p, q, 448]."""
    return model.apply(variables, image_bhwc, train=False)[0]


def train_step(before: TrainState, batch: dict, key: jax.Array, *, model: Any,
               update: optax.GradientTransformation) -> tuple[TrainState, dict]:
    """(state, metrics) after one step on one device.

    batch: image, label at stride 8.  A part of the loss is the sum over its pairs on all devices by
    their number on all devices: each device divides its own sum by the mean number a device, and
    gradients are averaged. So the step is the one on the whole batch, however the pairs lie (as in
    the published code, which gathers the outputs of its GPUs).
    """
    (drop_key,) = jax.random.split(parallel.device_key(key), 1)
    kinds = pairs.kinds(batch["label"])
    counts = parallel.mean(pair_counts(kinds))

    def loss_fn(params):
        features_bpqd, _ = model.apply({**before.extra, "params": params}, batch["image"],
                                       train=True, rngs={"dropout": drop_key})
        sums, _ = pair_losses(features_bpqd, kinds)
        return _joined(sums, counts)

    (loss, parts), grads = jax.value_and_grad(loss_fn, has_aux=True)(before.params)
    changes, opt = update.update(parallel.mean(grads), before.opt, before.params)
    params = optax.apply_updates(before.params, changes)
    return before.replace(step=before.step + 1, opt=opt, params=params), {"loss": loss, **parts}


def _check(config) -> None:
    """ValueError for a field of no meaning."""
    infer = config.infer
    configs.choose(dict.fromkeys(random_walk.BORDERS), infer.border, "config.infer.border")
    if infer.multiple < STRIDE or infer.multiple % STRIDE:
        raise ValueError(f"config.infer.multiple={infer.multiple}: want a multiple of {STRIDE}")
    for name in ("alpha", "beta", "steps"):
        if not (infer[name] > 0 and math.isfinite(infer[name])):
            raise ValueError(f"config.infer.{name}={infer[name]}: want a finite number above 0")


# ---- label maps --------------------------------------------------------------------------------


class Work(NamedTuple):
    """What each photo of a run needs."""

    cams: pathlib.Path
    paths: dict[str, pathlib.Path]
    out: pathlib.Path
    features: Any  # normalised image_hw3 → features_pqd
    config: Any
    classes: int
    save: tuple[str, ...]


def run(*, cams, images, config, weights, out, ids=None, classes: str = "voc",
        save: tuple[str, ...] = ("labels",), border: str | None = None,
        label: str = "affinity") -> list[str]:
    """Ids of the photos whose `<out>/<id>.png` (and `.npz`) are now there.

    cams: folder of CAM files.  images: folder or list of photos.  config: the one that trained the
    network.  weights: what training exported, or the published state dict as .safetensors or .npz.
    ids: list file or ids; None: all of `cams`.  save: of "labels" and "scores" (CAM files with the
    background first, for a CRF to follow).  border: "inside" or "psa"; None: config.infer.border.
    Files that are newer than their CAM file and photo are kept, and refused if they were made with
    something else.
    """
    method = config.method if "method" in config else None
    if method != "affinity":
        raise ValueError(f"config.method is {method!r}; want 'affinity', as in "
                         "configs/refine_voc_affinity.py")
    for name in save:
        configs.choose(SUFFIXES, name, "--save")
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.infer.border = border or config.infer.border
        config.model.encoder_weights = ""  # the trained weights hold the encoder, too
    _check(config)
    paths = files.photo_paths(images)
    names = affinity_data.cam_ids(cams, paths, ids)
    class_names = need_background(read_class_names(classes), "refine")
    features = trained(config, weights)  # before the folder is claimed for them
    _claim(pathlib.Path(out), config, weights, class_names, {"cams": cams, "images": images})
    work = Work(pathlib.Path(cams), paths, pathlib.Path(out), features, config, len(class_names),
                tuple(save))
    for _ in threads.each(functools.partial(_refine_one, work), names, label, chunk=1):
        pass
    return names


def _refine_one(work: Work, name: str) -> None:
    """Writes the files of one photo, unless they are there and newer than what they are of."""
    targets = {kind: work.out / f"{name}{SUFFIXES[kind]}" for kind in work.save}
    path = work.cams / f"{name}.npz"
    if files.newer(targets.values(), [path, work.paths[name]]):
        return
    photo_hw3 = photos.read_photo(work.paths[name])
    size = photo_hw3.shape[:2]
    present, cam_mhw = affinity_data.read_maps(path, size)
    if len(present) and present[-1] >= work.classes:
        raise ValueError(f"{path}: a map of class {present[-1]}; want 1..{work.classes - 1} (is "
                         "--classes right?)")
    if len(present):
        infer = work.config.infer
        scores_khw = random_walk.refine(cam_mhw, work.features(photo_hw3), alpha=infer.alpha,
                                        beta=infer.beta, steps=infer.steps, border=infer.border)
    else:
        scores_khw = np.ones((1, *size), np.float32)  # nothing to spread
    numbers = np.concatenate([np.uint8([BACKGROUND]), present])
    if "scores" in targets:
        cam_file.write(targets["scores"], numbers, scores_khw.clip(0, 1), size)
    if "labels" in targets:
        label_map.write(targets["labels"], numbers[scores_khw.argmax(0)])


def trained(config: Any, weights) -> Any:
    """photo uint8 [h, w, 3] → features float32 [ceil(h/8), ceil(w/8), 448] of the trained network.

    The photo is padded with zeros after it is normalised. Each padded size is compiled once, by
    whichever thread asks first.
    """
    model = affinity_net.build(config.model)
    template = jax.eval_shape(functools.partial(first_variables, model, config.data.crop),
                              jax.random.key(0))
    flat = weight_files.load(weights)
    try:
        if not any(name.startswith("params/") for name in flat):
            flat = affinity_net.from_torch(flat)
        variables = jax.tree.map(jnp.asarray, weight_files.restore(template, flat))
    except ValueError as error:
        raise ValueError(f"{weights}, as affinity with encoder {config.model.encoder!r}: "
                         f"{error}") from None
    forward, lock, programs = jax.jit(functools.partial(predict, model)), threading.Lock(), {}
    mean, std = np.float32(config.data.mean), np.float32(config.data.std)

    def features(photo_hw3):
        h, w, _ = photo_hw3.shape
        image = (photo_hw3 / np.float32(255) - mean) / std
        more = (-h % config.infer.multiple, -w % config.infer.multiple)
        image = np.pad(image, ((0, more[0]), (0, more[1]), (0, 0)))[None]
        with lock:
            if image.shape not in programs:
                programs[image.shape] = forward.lower(variables, image).compile()
        found_pqd = np.asarray(programs[image.shape](variables, image))[0]
        return found_pqd[: -(-h // STRIDE), : -(-w // STRIDE)]

    return features


def _claim(out, config, weights, class_names, sources: dict) -> None:
    """Writes down what the folder's files are made with, or refuses a folder made otherwise."""
    plain = configs.to_dict(config)
    files.claim(out / SETTINGS, {
        "model": plain["model"], "infer": plain["infer"], "classes": list(class_names),
        "colours": [plain["data"]["mean"], plain["data"]["std"]],
        "weights": weight_files.fingerprint(weights), **affinity_data.resolved(sources)})
