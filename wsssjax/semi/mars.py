"""MARS's segmenter: it learns debiased labels, and a teacher complements what was taken from them.

Jo, Yu and Kim, ICCV 2023 (arXiv 2304.09913), whose debiased labels `refine/mars.py` makes: -1
where a pixel is biased. At each step, on the same crop,

    Y_te   classes of the teacher, an average of the students so far, refined by R
    Y_co   Y_te where the label is -1, else the label
    W      where the label is -1 the teacher's highest probability of the photo's tagged classes,
           else 1: the certain mask
    loss   mean of - W log P(Y_co) of the student's probabilities P

Where the teacher sees background, W is small: taken pixels are ignored rather than taught as
background, and those that the teacher gives back to an object are learned. Labels come as two: the
base labels of the list, and a folder of the debiased ones, which have 255 where pixels were taken.
What the paper leaves open is a field of `config.mars`, told in configs/semi_voc_mars.py.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wsssjax.core import crf as dense_crf
from wsssjax.core import files, parallel
from wsssjax.core.config import choose
from wsssjax.core.constants import BACKGROUND, IGNORE
from wsssjax.core.losses import pixel_xent
from wsssjax.core.method import Method
from wsssjax.core.resize import resize_half_pixel
from wsssjax.core.state import TEACHER, TrainState
from wsssjax.data import label_map, lists, transforms
from wsssjax.data import tags as tag_files
from wsssjax.data.classes import need_background, read_class_names
from wsssjax.data.entries import Example, need, refuse
from wsssjax.data.loader import Loader
from wsssjax.data.sources import Listed
from wsssjax.models import registry
from wsssjax.semi import student, views

CHOICES = {"complement": ("weighted", "plain", "none"), "refine": ("none", "crf", "affinity"),
           "divisor": ("pixels", "weights")}
OWN_LOSS = {"criterion": "ce", "loss_scales": (1.0,), "loss_size": "image"}  # as they must be
STATISTICS = f"{TEACHER}batch_stats"  # the teacher's, where they move
BIASED = 254  # stands for -1 while 8-bit label maps are cut and scaled


def build(config: Any) -> Method:
    """The method for the train loop; what a step does is told at `train_step`."""
    check(config)
    made = student.method(config, train_step, unlabelled=False)
    config = views.with_total_steps(config, unlabelled=False)
    model = student.build_model(config)
    validate = functools.partial(made.validate, teacher=True) if made.validate else None
    return made._replace(init=functools.partial(init, config, model),
                         loader=functools.partial(batches, config), validate=validate)


def check(config: Any) -> None:
    """ValueError for a field of config.mars of no meaning."""
    registry.need(config, ["mars", "data.debiased", "data.tags"], "config.method='mars'",
                  "semi_voc_mars.py")
    how = config.mars
    for name, only in OWN_LOSS.items():
        if config[name] != only:
            raise ValueError(f"config.{name}={config[name]!r}: MARS has its own loss; leave "
                             f"{only!r}")
    for name, choices in CHOICES.items():
        choose(dict.fromkeys(choices), how[name], f"config.mars.{name}")
    if not 0 <= how.ema_decay <= 1 or how.ema_ramp_steps < 0:
        raise ValueError(f"config.mars.ema_decay={how.ema_decay}, ema_ramp_steps="
                         f"{how.ema_ramp_steps}: want a number in 0..1 and 0 steps or more")
    if how.refine == "crf":
        dense_crf.preset(how.crf)
        if how.crf_stride < 1 or config.data.crop % how.crf_stride:
            raise ValueError(f"config.mars.crf_stride={how.crf_stride}: want a whole part of the "
                             f"crop, config.data.crop={config.data.crop}")
    dilations = how.affinity_dilations
    if how.refine == "affinity" and (how.affinity_steps < 1 or not dilations
                                     or min(dilations) < 1):
        raise ValueError(f"config.mars.affinity_steps={how.affinity_steps}, affinity_dilations="
                         f"{dilations}: want 1 or more, and at least one dilation")


def init(config: Any, model: Any, key: jax.Array) -> TrainState:
    """The state at step 0: the teacher is the student, its running statistics too."""
    state = student.init(config, model, key, teacher=True)
    if not model.moves_statistics:
        return state
    own = jax.tree.map(lambda x: jnp.array(x, copy=True), state.extra["batch_stats"])
    return state.replace(extra={**state.extra, STATISTICS: own})


# ---- one step ----------------------------------------------------------------------------------


def train_step(state: TrainState, batch: dict, key: jax.Array, *, config: Any,
               model: Any) -> tuple[TrainState, dict]:
    """(state, metrics) after one iteration on one device; draws dropout alone.

    batch: image, label, biased, tags, valid.  The loss is a mean over the pixels of one group of
    rows that have a label once complemented; then groups' and devices' gradients are averaged, and
    the running statistics of batch norms. The teacher sees the same crops, without dropout and with
    statistics of its own, which follow the student's as its parameters do.
    metrics beside the loss: biased, the share of pixels that were taken; given_back, the share of
    those that the teacher calls foreground; certainty, the mean W of those.
    """
    def gradient(part, rows, key):
        label_bhw, weight_bhw, shares = taught(config, model, state, rows)

        def loss_fn(part):
            variables = {**state.variables(), "params": {**state.params, **part}}
            (logits, _), moved = student.forward_train(model, variables, rows["image"], key)
            loss = weighted_loss(logits, label_bhw, weight_bhw, config.mars.divisor)
            return loss, ({"loss": loss, **shares}, moved)

        (_, (metrics, moved)), grads = jax.value_and_grad(loss_fn, has_aux=True)(part)
        return grads, metrics, moved

    grads, metrics, moved = student.averaged(config, state, batch, key, gradient)
    params, opt, norms = student.update(config, state, grads)
    decay = ema_decay(config.mars, state.step)
    ema = follow(state.ema, student.trainable(config, params), decay)
    extra = {**state.extra, **moved}
    if STATISTICS in extra:
        extra[STATISTICS] = follow(extra[STATISTICS], moved["batch_stats"], decay)
    return state.replace(step=state.step + 1, params=params, opt=opt, ema=ema,
                         extra=extra), metrics | norms


def taught(config: Any, model: Any, state: TrainState, rows: dict):
    """(Y_co int32 [b,h,w], W float32 [b,h,w], shares by name) of a group of rows. No gradient."""
    how, biased_bhw = config.mars, rows["biased"]
    shares = {"biased": biased_bhw.mean(dtype=jnp.float32)}
    if how.complement == "none":  # taken pixels teach nothing
        return rows["label"], jnp.ones(biased_bhw.shape, jnp.float32), shares
    logits, _ = model.apply(state.variables(ema=True), rows["image"], train=False)
    teacher_bhwk = jax.lax.stop_gradient(jax.nn.softmax(logits))
    refined_bhwk = refined(how, teacher_bhwk, rows, config.data)
    label_bhw, weight_bhw = complemented(rows["label"], biased_bhw, teacher_bhwk, refined_bhwk,
                                         rows["tags"], restrict=how.restrict)
    count = jnp.maximum(biased_bhw.sum(dtype=jnp.float32), 1)
    shares["given_back"] = (biased_bhw & (label_bhw != BACKGROUND)).sum() / count
    shares["certainty"] = jnp.where(biased_bhw, weight_bhw, 0).sum() / count
    if how.complement == "plain":
        weight_bhw = jnp.ones_like(weight_bhw)
    return label_bhw, weight_bhw, shares


def complemented(label_bhw, biased_bhw, teacher_bhwk, refined_bhwk, tags_bk, *,
                 restrict: bool = True):
    """(Y_co int32 [b,h,w], W float32 [b,h,w]).

    label_bhw: int32, IGNORE where nothing is known.  biased_bhw: bool, where Y_co is the class of
    the highest `refined_bhwk` (any scores) among background and tagged classes; with restrict false
    among all.  teacher_bhwk: probabilities of background and k - 1 classes.  tags_bk: of those.

    >>> teacher = jnp.array([[[[.2, .5, .3], [.7, .2, .1], [.2, .7, .1], [.9, .0, .1]]]])
    >>> label, biased = jnp.array([[[255, 255, 255, 2]]]), jnp.array([[[True, True, False, False]]])
    >>> found = complemented(label, biased, teacher, teacher, jnp.array([[0., 1.]]))
    >>> found[0].tolist(), (10 * found[1]).round().tolist()
    ([[[2, 0, 255, 2]]], [[[3.0, 1.0, 10.0, 10.0]]])
    """
    tagged_b11k = (tags_bk > 0)[:, None, None, :]
    own_b11k = jnp.concatenate([jnp.ones_like(tagged_b11k[..., :1]), tagged_b11k], -1)
    if restrict:
        refined_bhwk = jnp.where(own_b11k, refined_bhwk, -jnp.inf)
    found_bhw = refined_bhwk.argmax(-1).astype(jnp.int32)
    sure_bhw = jnp.where(tagged_b11k, teacher_bhwk[..., 1:], 0.0).max(-1)
    return (jnp.where(biased_bhw, found_bhw, label_bhw),
            jnp.where(biased_bhw, sure_bhw, jnp.ones_like(sure_bhw)))


def weighted_loss(logits_bhwk, label_bhw, weight_bhw, divisor: str = "pixels"):
    """float32 scalar: - W log P(label), summed over the pixels with a label and divided by their
    number, or by the sum of their W ("weights"); 0 where there is none."""
    known_bhw = label_bhw != IGNORE
    nll_bhw = pixel_xent(logits_bhwk, jnp.where(known_bhw, label_bhw, 0))
    share_bhw = jnp.where(known_bhw, weight_bhw, 0.0)
    count = share_bhw.sum() if divisor == "weights" else known_bhw.sum(dtype=jnp.float32)
    return jnp.where(known_bhw, share_bhw * nll_bhw, 0.0).sum() / jnp.where(count > 0, count, 1.0)


def ema_decay(how: Any, step: jax.Array) -> jax.Array:
    """The teacher's decay at the end of step 0, 1, …: ema_decay (1 - exp(-t / ema_ramp_steps)),
    t = step + 1; without a ramp where that is 0 steps long."""
    if not how.ema_ramp_steps:
        return jnp.float32(how.ema_decay)
    return how.ema_decay * -jnp.expm1(-(step + 1.0) / how.ema_ramp_steps)


def follow(ema: Any, new: Any, decay: jax.Array) -> Any:
    """decay · ema + (1 - decay) · new, leaf by leaf; what is equal stays so to the bit."""
    return jax.tree.map(lambda t, s: (t + (1.0 - decay) * (s - t)).astype(t.dtype), ema, new)


# ---- R -----------------------------------------------------------------------------------------


def refined(how: Any, teacher_bhwk: jax.Array, rows: dict, data: Any) -> jax.Array:
    """R of the teacher's probabilities, float32 scores of the same shape.

    how: config.mars.  rows: image, tags, valid.  data: config.data, for mean and std.
    none: as they are.  crf: a dense CRF of background and the tagged classes (of all, with restrict
    false), on maps and photo shrunk by crf_stride, its spatial deviations too.  affinity: see
    `local_affinity`.
    """
    if how.refine == "none":
        return teacher_bhwk
    if how.refine == "affinity":
        return local_affinity(teacher_bhwk, rows["image"], tuple(how.affinity_dilations),
                              how.affinity_steps)
    stride, size = how.crf_stride, teacher_bhwk.shape[1:3]
    std, mean = (jnp.float32(x).reshape(1, 1, 1, -1) for x in (data.std, data.mean))
    photo_bghc = shrink((rows["image"] * std + mean) * 255, stride)
    valid_bgh1 = shrink(rows["valid"][..., None].astype(jnp.float32), stride) == 1
    unary_bghk = -jnp.log(jnp.clip(shrink(teacher_bhwk, stride), dense_crf.CLIP, 1.0))
    unary_bghk = jnp.where(valid_bgh1, unary_bghk, 0.0)  # beyond the photo: no opinion
    if how.restrict:
        tags_bk = rows["tags"] > 0
        own_bk = jnp.concatenate([jnp.ones_like(tags_bk[:, :1]), tags_bk], -1)
        unary_bghk = jnp.where(own_bk[:, None, None], unary_bghk, dense_crf.FILLER)
    found_bghk = dense_crf.mean_field(unary_bghk, photo_bghc, loop_preset(how))
    return resize_half_pixel(found_bghk, size)


def loop_preset(how: Any) -> dense_crf.Preset:
    """The CRF of config.mars, for maps shrunk by crf_stride."""
    preset = dense_crf.preset(how.crf)
    kernels = tuple(k._replace(sxy=k.sxy / how.crf_stride) for k in preset.kernels)
    return preset._replace(kernels=kernels)


def shrink(x_bhwc: jax.Array, stride: int) -> jax.Array:
    """Means over stride x stride pixels."""
    b, h, w, c = x_bhwc.shape
    return x_bhwc.reshape(b, h // stride, stride, w // stride, stride, c).mean((2, 4))


def local_affinity(p_bhwk: jax.Array, image_bhwc: jax.Array, dilations: Sequence[int],
                   steps: int) -> jax.Array:
    """p after `steps` times: each pixel the weighted mean of its neighbours, 8 a dilation.

    PAMR of Araslanov and Roth (CVPR 2020). The weight is a softmax over the neighbours of the mean
    over colours of - |difference| / (1e-8 + 0.1 s), s being the deviation of the colour over the
    pixel and its neighbours, the pixel counted once a dilation. Borders are repeated.
    """
    centre_bhwc, near = image_bhwc, jnp.stack(_neighbours(image_bhwc, dilations))
    all_ = jnp.concatenate([near, jnp.broadcast_to(centre_bhwc, (len(dilations),
                                                                 *centre_bhwc.shape))])
    deviation_bhwc = all_.std(0, ddof=1)
    apart = jnp.abs(near - centre_bhwc[None]) / (1e-8 + 0.1 * deviation_bhwc)[None]
    weight = jax.nn.softmax(-apart.mean(-1, keepdims=True), 0)  # [n, b, h, w, 1]

    def once(_, p_bhwk):
        moved = _neighbours(p_bhwk, dilations)
        return sum(w * m for w, m in zip(weight, moved, strict=True))

    return jax.lax.fori_loop(0, steps, once, p_bhwk)


def _neighbours(x_bhwc, dilations):
    """x moved to each of eight sides, by each dilation."""
    h, w = x_bhwc.shape[1:3]
    out = []
    for d in dilations:
        wide = jnp.pad(x_bhwc, ((0, 0), (d, d), (d, d), (0, 0)), mode="edge")
        out += [wide[:, d + i : d + i + h, d + j : d + j + w]
                for i in (-d, 0, d) for j in (-d, 0, d) if i or j]
    return out


# ---- data --------------------------------------------------------------------------------------


class Source:
    """Examples of a list: `name`, `image`, `tags`, and `label`, BIASED where pixels were taken."""

    def __init__(self, lines: Sequence[str], root: str, debiased: str | os.PathLike,
                 image_tags: dict[str, np.ndarray], num_classes: int):
        self.listed = Listed(lines, root, num_classes=num_classes, tags=image_tags)
        self.folder, self.num_classes = pathlib.Path(debiased), num_classes

    def __len__(self) -> int:
        return len(self.listed)

    def __getitem__(self, index: int) -> Example:
        example = self.listed[index]
        path, base_hw = self.folder / f"{example['name']}.png", example["label"]
        debiased_hw = label_map.read(path, self.num_classes, base_hw.shape)
        return {**example, "label": joined(base_hw, debiased_hw, path)}


def joined(base_hw: np.ndarray, debiased_hw: np.ndarray, path) -> np.ndarray:
    """uint8 [h,w]: the base label, BIASED where the debiased one has IGNORE instead of a class.

    ValueError where they differ otherwise: then the second was not made from the first.
    """
    taken_hw = base_hw != debiased_hw
    wrong_hw = taken_hw & ((debiased_hw != IGNORE) | (base_hw == BACKGROUND))
    if wrong_hw.any():
        row, column = np.argwhere(wrong_hw)[0]
        raise ValueError(
            f"{path}: {debiased_hw[row, column]} at row {row}, column {column}, where the base "
            f"label has {base_hw[row, column]}; want the list's labels debiased by refine "
            "--method=mars")
    return np.where(taken_hw, np.uint8(BIASED), base_hw)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitBiased:
    """Example with `biased`, bool [h,w], and IGNORE in `label` there."""

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        need(example, "label")
        refuse(example, "biased")
        biased_hw = example["label"] == BIASED
        label_hw = np.where(biased_hw, IGNORE, example["label"]).astype(np.int32)
        return {**example, "label": label_hw, "biased": biased_hw}


def batches(config: Any) -> Loader:
    """Endless batches of `image`, `label`, `biased`, `tags`, `valid`."""
    data = config.data
    names = need_background(read_class_names(config.classes), "config.classes")
    if len(names) > BIASED:
        raise ValueError(f"config.classes={config.classes}: {len(names)} classes; at most {BIASED}")
    lines = views.read_lines(data.labeled, labelled=True)
    lists.check_lists(lines, [], data.root, len(names), config.classes, labeled_path=data.labeled,
                      unlabeled_path="")
    for name in ("debiased", "tags"):
        if not data[name]:
            raise ValueError(f"config.data.{name} is empty; give --config.data.{name}=PATH")
    image_tags = tag_files.read_tags(data.tags, names)
    source = Source(lines, data.root, data.debiased, image_tags, len(names))
    ids = source.listed.ids
    for name, there in (("debiased", set(label_map.folder_ids(data.debiased))),
                        ("tags", image_tags)):
        files.need_ids(ids, there, f"config.data.{name}={data[name]}",
                       f"add it, or leave the photo out of {data.labeled}")
    steps = (*views.labelled_transforms(data)[:-1], SplitBiased(),
             transforms.Keep(keys=("image", "label", "biased", "tags", "valid")))
    index, count = parallel.process()
    rows = config.device_batch * config.accumulate * parallel.device_count()
    return Loader(source, steps, batch=rows, seed=config.seed, workers=data.workers,
                  process_index=index, process_count=count)
