"""BAO: an activation map of the background is learnt, so that no threshold is left to choose.

Background-aware activation map optimisation, JVCIR 2025. A second head reads the features weighted
by the image's own tags and learns, pixel by pixel, the labels that a teacher's TransCAM maps give:
foreground where the highest map is above one half. Label maps are the argmax over that head's
background map and the foreground maps of the classification head; its own foreground maps serve in
training alone. The network needs the tags at inference, too.

What the published code does by accident is kept and can be switched off in config.bao: the
teacher's momentum starts anew in every pass, the teacher runs in training mode on batch statistics
of its own, and the first pass's weight of the foreground, 0.5, stands above and below a fraction.
On an encoder without attention its matrix is the identity.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from wsssjax.cam import infer, learner, transcam
from wsssjax.cam.cam import tag_loss
from wsssjax.core import optim, parallel, weights
from wsssjax.core import state as states
from wsssjax.core.difference import divided
from wsssjax.core.method import Method
from wsssjax.models import attention_classifier, registry

_EPSILON = 1e-5  # added to the maximum that divides a teacher's map


def build(config) -> Method:
    """BAO as a method.

    loss = tag loss of both heads' scores (cam.tag_loss, a mean over the rows of the device)
    + config.bao.pixel_weight × the pixel loss, whose two means are over the pixels of all devices.
    Batch norms see the rows of their device; running statistics are averaged over the devices.
    `predict` gives the background's map and the K foreground maps, raw; with infer.background =
    "threshold" (the published comparison) the K maps alone.
    """
    registry.need(config, ("bao", "init_weights", *transcam.LENGTHS), "config.method='bao'",
                  "cam_voc_bao.py")
    _check(config)
    config, epoch_steps = transcam.with_lengths(config)
    model = attention_classifier.build(config.model, learner.foreground_count(config),
                                       background=True)
    infer.check_method(config, model.backbone, background=True)
    update = learner.optimizer(config, model)

    def init(key):
        student, teacher = first_pair(config, model, key)
        first = states.create(student, update, ema=False)
        own = {states.TEACHER + name: x for name, x in teacher.items() if name != "params"}
        return first.replace(ema=teacher["params"], extra=first.extra | own)

    def step(before, batch, key):
        return train_step(before, batch, key, config=config, model=model, optimizer=update,
                          epoch_steps=epoch_steps)

    def predict(variables, image_bhwc, tags_bk):
        _, aux = model.apply(variables, image_bhwc, tags_bk, train=False)
        if config.infer.background == "threshold":
            return aux["cams"][..., 1:]
        return jnp.concatenate([aux["am"][..., :1], aux["cams"][..., 1:]], axis=-1)

    return Method(init, step, predict, lambda: learner.batches(config, saliency=False),
                  config.total_steps)


def first_pair(config, model, key) -> tuple[dict, dict]:
    """(student's, teacher's) variables at step 0: the same, in buffers of their own, but for BAO's
    own two layers where no weights have them: those are drawn for each, and a teacher's never read.
    """
    student, drawn = (start(config, model, k) for k in jax.random.split(key))
    teacher = jax.tree.map(jnp.copy, student)
    teacher["params"]["head"] |= {name: drawn["params"]["head"][name]
                                  for name in attention_classifier.BACKGROUND_LAYERS}
    return student, teacher


def start(config, model, key) -> dict:
    """Variables at step 0: a TransCAM export, or an encoder's weights, or drawn.

    Of config.init_weights BAO's own two layers may be missing; anything else that is missing, left
    over or of another shape is a ValueError.
    """
    variables = learner.first_variables(config, model, key)
    if not config.init_weights:
        return registry.load_encoder(variables, config.model)
    own = "|".join(attention_classifier.BACKGROUND_LAYERS)
    flat = weights.load(config.init_weights)
    try:
        found = weights.restore(variables, flat, allow_missing=(f"^params/head/({own})/",))
    except ValueError as error:
        raise ValueError(f"{config.init_weights}, as the start of bao: {error}") from None
    return jax.tree.map(jnp.asarray, found)


# ---- the pixel loss ----------------------------------------------------------------------------


def pixel_labels(cams_bpqk, tags_bk):
    """int32 [b,p,q]: 0, or the tagged class (from 1) of the highest map where it exceeds 0.5.

    cams_bpqk: raw maps of the K classes.  Each is cut at 0, divided by its maximum + 1e-5; the
    background's score is 1 - the highest of them, and wins ties.
    """
    cams_bpqk = jax.nn.relu(cams_bpqk) * tags_bk[:, None, None]
    cams_bpqk = cams_bpqk / (cams_bpqk.max((1, 2), keepdims=True) + _EPSILON)
    background_bpq1 = 1.0 - cams_bpqk.max(-1, keepdims=True)
    return jnp.concatenate([background_bpq1, cams_bpqk], -1).argmax(-1).astype(jnp.int32)


def pixel_loss(am_bpqk, label_bpq, smoothing: float):
    """((sum over background pixels, sum over foreground pixels), (their counts)) of the
    cross-entropy with smoothed labels.

    am_bpqk: raw activation maps, background first; all K + 1 channels compete, tagged or not.
    A label has 1 - smoothing of the target, the K others share the rest equally.
    """
    k = am_bpqk.shape[-1]
    logp_bpqk = jax.nn.log_softmax(am_bpqk)
    hit_bpqk = label_bpq[..., None] == jnp.arange(k).reshape(1, 1, 1, k)
    target_bpqk = jnp.where(hit_bpqk, 1.0 - smoothing, smoothing / (k - 1))
    loss_bpq = -(target_bpqk * logp_bpqk).sum(-1)
    masks = (label_bpq == 0, label_bpq != 0)
    sums = tuple(jnp.where(mask, loss_bpq, 0.0).sum() for mask in masks)
    return sums, tuple(mask.sum().astype(loss_bpq.dtype) for mask in masks)


def _halves(sums, counts, foreground_weight):
    """(L_bg + w L_fg) / 2, means over the pixels of all devices; a half without pixels is 0."""
    background, foreground = (divided(total, parallel.mean(count))
                              for total, count in zip(sums, counts, strict=True))
    return (background + foreground_weight * foreground) / 2


# ---- the teacher -------------------------------------------------------------------------------


def ema_rate(options, step, epoch_steps: int, total_steps: int):
    """1 - momentum after `step` (from 0): half a cosine from 1 - ema_start to 1 - ema_end.

    options: config.bao. With ema_restart it lasts one pass and begins anew in each, as published;
    else it lasts from the end of the passes that copy to the end of the training.
    """
    place, length = step % epoch_steps, epoch_steps
    if not options.ema_restart:
        first = options.copy_epochs * epoch_steps
        place, length = jnp.maximum(step - first, 0), max(total_steps - first, 1)
    fall = 0.5 * (1.0 + jnp.cos(jnp.pi * place / length))
    return (1.0 - options.ema_end) + (options.ema_end - options.ema_start) * fall


def follow(options, after, teacher_extra, epoch_steps: int, total_steps: int):
    """`after` with its teacher one step on. after: the state after the student's step, with the old
    teacher.  teacher_extra: the teacher's collections as its own forward pass left them.

    In the first config.bao.copy_epochs passes it becomes the student, running statistics and all;
    later its parameters follow, and its statistics are those it made itself.
    """
    step = after.step - 1  # the one just taken
    copy = step // epoch_steps < options.copy_epochs
    rate = ema_rate(options, step, epoch_steps, total_steps)
    # t + (1 - m)(s - t): as m t + (1 - m) s, a momentum near 1 would lose its digits in float32.
    ema = jax.tree.map(lambda t, s: jnp.where(copy, s, (t + rate * (s - t)).astype(t.dtype)),
                       after.ema, after.params)
    own = {states.TEACHER + name: jax.tree.map(lambda t, s: jnp.where(copy, s, t), x,
                                               after.extra[name])
           for name, x in teacher_extra.items()}
    return after.replace(ema=ema, extra=after.extra | own)


# ---- one step ----------------------------------------------------------------------------------


def train_step(before, batch, key, *, config, model, optimizer, epoch_steps: int):
    """(state, metrics) after one step on one device.

    batch: image, tags.  The teacher labels the same crops that the student sees, at the resolution
    of the maps, before it follows.
    """
    options = config.bao
    drop_key, teacher_key = jax.random.split(parallel.device_key(key))
    teacher = before.variables(ema=True)
    if options.teacher_train:
        _, aux, teacher_extra = _forward(model, teacher, batch, teacher_key)
    else:
        _, aux = model.apply(teacher, batch["image"], batch["tags"], train=False)
        teacher_extra = {name: x for name, x in teacher.items() if name != "params"}
    label_bpq = pixel_labels(aux["cams"][..., 1:], batch["tags"])
    first_pass = before.step < epoch_steps
    foreground_weight = jnp.where(first_pass, options.first_foreground_weight, 1.0)

    def loss(params):
        variables = before.variables() | {"params": params}
        scores_bk, aux, extra = _forward(model, variables, batch, drop_key)
        loss_cls = tag_loss(scores_bk[:, 1:], batch["tags"])
        loss_pix = _halves(*pixel_loss(aux["am"], label_bpq, options.smoothing), foreground_weight)
        whole = loss_cls + options.pixel_weight * loss_pix
        return whole, ({"loss": whole, "loss_cls": loss_cls, "loss_pix": loss_pix,
                        "foreground": (label_bpq != 0).mean()}, extra)

    after, (metrics, extra) = optim.descend(before, loss, optimizer)
    after = after.replace(extra=before.extra | parallel.mean(extra))
    return follow(options, after, parallel.mean(teacher_extra), epoch_steps,
                  config.total_steps), metrics


def _forward(model, variables, batch, drop_key):
    """(scores, aux, the collections as the pass left them), in training mode."""
    (scores_bk, aux), moved = model.apply(
        variables, batch["image"], batch["tags"], train=True, mutable=["batch_stats"],
        rngs={"dropout": drop_key})
    return scores_bk, aux, moved


def _check(config) -> None:
    """ValueError for fields that have no meaning."""
    options = config.bao
    for name in ("pixel_weight", "first_foreground_weight", "copy_epochs"):
        if options[name] < 0:
            raise ValueError(f"config.bao.{name} is {options[name]}; want 0 or more")
    if not 0 <= options.smoothing < 1:
        raise ValueError(f"config.bao.smoothing is {options.smoothing}; want 0 or more, below 1")
    if not 0 <= options.ema_start <= options.ema_end <= 1:
        raise ValueError(f"config.bao.ema_start is {options.ema_start}, ema_end "
                         f"{options.ema_end}; want momenta that rise within 0..1")
    if config.init_weights and config.model.encoder_weights:
        raise ValueError("config.init_weights and config.model.encoder_weights are both given; the "
                         "first holds an encoder, too")
