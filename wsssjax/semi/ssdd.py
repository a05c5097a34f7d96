"""Dynamic SSDD: a segmenter that, as it learns, decides which of its labels to learn from.

Shimoda and Yanai, ICCV 2019 (arXiv 1911.01370); the rule, the losses and what they rest on are in
`core/difference.py`, the networks in `models/difference_net.py`. Two heads, main and sub, share an
encoder, and each has a difference network of its own. At each step, on a grid of a quarter of the
crop's sides:

1. The main head's labels (of the photo's classes alone) are the knowledge, the same after a dense
   CRF the advice; the first difference network makes one map of both, D1.
2. The seed, made before training (`refine/difference.py`), is the knowledge, D1 the advice; the
   second difference network makes D2 of them.
3. The main head learns D2, the sub head the seed and D2 in equal parts. The first difference
   network learns where main labels and CRF differ. The second learns where the sub head's labels
   differ from what it is shown: seed against D1 would be learned by heart, as the seed never moves.

The CRF runs on the device, inside the compiled step. To segment photos, only encoder and main head
are used. What differs from the published code is told in configs/semi_voc_ssdd.py.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from wsssjax.core import crf as dense_crf
from wsssjax.core import difference, optim, parallel
from wsssjax.core import state as states
from wsssjax.core.config import choose
from wsssjax.core.constants import IGNORE
from wsssjax.core.losses import masked_xent
from wsssjax.core.method import Method
from wsssjax.core.state import TrainState
from wsssjax.data import label_pairs, lists
from wsssjax.data.classes import need_background, read_class_names
from wsssjax.data.sources import Listed
from wsssjax.models import difference_net
from wsssjax.semi import multi_scale, validate, views

LAST_TARGETS = {"d1": 0, "d2": 1}
SEEDS = {"clean": ("seed",), "psa_crf": ("advice",), "released": ("knowledge", "advice")}
first_variables, predict = difference_net.first_variables, difference_net.predict


def build(config: Any) -> Method:
    """The method for the train loop; what a step does is told at `train_step`."""
    choose(LAST_TARGETS, config.ssdd.last_target, "config.ssdd.last_target")
    parallel.set_precision(config.precision)
    keys = choose(SEEDS, config.ssdd.static_seed, "config.ssdd.static_seed")
    stored = config.data.differences if config.ssdd.static_seed == "released" else ""
    if config.ssdd.static_seed == "released" and not os.path.isdir(stored):
        raise ValueError(f"config.data.differences={stored}: no such folder; refining by "
                         "differences stores it")
    model, crf = build_model(config), in_loop_crf(config.ssdd)
    examples = label_pairs.source(config, keys)
    epoch, total_steps = label_pairs.lengths(config, examples)
    forward = functools.partial(predict, model)

    def optimizer(params):
        still = "^backbone/" if config.model.freeze_encoder else ""
        return optim.build_cosine(config.optim, params, epoch, still=still)

    def init(key):
        variables = difference_net.init(model, config.model, key)
        return states.create(variables, optimizer(variables["params"]), ema=False)

    def step(before, batch, key):
        return train_step(before, batch, key, config=config, model=model, crf=crf,
                          optimizer=optimizer(before.params))

    found = None
    if config.data.val:
        found = functools.partial(validate.run, _validation(config, model, forward),
                                  teacher=False)
    return Method(
        init, step, forward,
        functools.partial(label_pairs.batches, config, examples, photo=True, stored=stored),
        total_steps,
        validate=found, eval_steps=epoch * config.eval_epochs if found else 0)


def build_model(config: Any) -> difference_net.DifferenceSegmenter:
    """The network of config.model with one output per class of config.classes."""
    names = need_background(read_class_names(config.classes), "config.classes")
    return difference_net.build(config.model, len(names), branches=2)


def in_loop_crf(config: Any) -> Callable:
    """(energies [b,g,h,k], photos uint8 [b,g,h,3]) → probabilities: the CRF of config.ssdd.

    config: `crf`, a preset, and `crf_shrink`, which divides its spatial deviations. Published is
    1, though the photo has a quarter of its size there.
    """
    how = dense_crf.preset(config.crf)
    if not config.crf_shrink > 0:
        raise ValueError(f"config.ssdd.crf_shrink is {config.crf_shrink}; want a number above 0")
    kernels = tuple(k._replace(sxy=k.sxy / config.crf_shrink) for k in how.kernels)
    return functools.partial(dense_crf.mean_field, how=how._replace(kernels=kernels))


# ---- one step ----------------------------------------------------------------------------------


class Decision(NamedTuple):
    """d1, d2: int32 [b,g,h], the label maps made in the two steps.  logits: the difference
    networks' [2,b,g,h] each, for knowledge and advice of either step.  flags: bool [b,k], of the
    first."""

    d1: jax.Array
    d2: jax.Array
    logits: tuple[jax.Array, jax.Array]
    flags: jax.Array


def two_steps(raw_bgh, crf_bgh, seed_bgh, differences: Callable, tags_bk, *, bias: float = 0.4,
              flag_absent: bool = True) -> Decision:
    """The label maps that a batch is taught, from the main head's, the same after a CRF, the seed.

    differences: (branch, label_mbgh) → logits [m,b,g,h].  tags_bk: 1 where the photo holds the
    foreground class.

    >>> unsure = lambda branch, label_mbgh: jnp.zeros(label_mbgh.shape)
    >>> raw, crf, seed = (jnp.array([[x]]) for x in ([1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 255]))
    >>> two_steps(raw, crf, seed, unsure, jnp.array([[1]])).d2.tolist()
    [[[1, 1, 1, 0]]]
    >>> def wary(branch, label_mbgh):  # foresees nothing from the seed, but all from D1
    ...     return 9.0 * branch * jnp.array([-1, 1]).reshape(2, 1, 1, 1) * jnp.ones((2, 1, 1, 4))
    >>> two_steps(raw, crf, seed, wary, jnp.array([[1]])).d2.tolist()
    [[[1, 0, 0, 0]]]
    """
    def step(branch, knowledge, advice):
        logits = differences(branch, jnp.stack([knowledge, advice]))
        flags_bk = difference.class_flags(knowledge, advice, tags_bk, flag_absent=flag_absent)
        return logits, flags_bk, difference.integrate(
            knowledge, advice, *jax.nn.sigmoid(logits), flags_bk, bias)

    logits_0, flags_bk, d1 = step(0, raw_bgh, crf_bgh)
    logits_1, _, d2 = step(1, seed_bgh, d1)
    return Decision(d1, d2, (logits_0, logits_1), flags_bk)


def train_step(before: TrainState, batch: dict, key: jax.Array, *, config: Any, model: Any,
               crf: Callable, optimizer: Any) -> tuple[TrainState, dict]:
    """(state, metrics) after one iteration on one device.

    batch: image, photo, tags, valid and what `seed_labels` reads.  crf: (energies, photos) →
    scores; no gradient is taken.
    loss = loss_seg + loss_diff, of which neither reaches the other's parameters. loss_seg: main
    against D2, plus half of sub against the seed, plus half of sub against D2; means over pixels.
    loss_diff: mean of four balanced losses, those of the first step as means over images of which
    no class is flagged, those of the second over all pixels of the batch at once. All means are
    over all devices' pixels and images.
    """
    drop_key = parallel.device_key(key)
    tags_bk, seed_bgh = batch["tags"], seed_labels(config.ssdd, batch)

    def own_labels(logits_bghk):
        label_bgh = difference.present_labels(jax.lax.stop_gradient(logits_bghk), tags_bk)
        return jnp.where(batch["valid"], label_bgh, IGNORE)

    def loss(params):
        variables = {**before.extra, "params": params}
        found = model.apply(variables, batch["image"], train=True, method="segment",
                            rngs={"dropout": drop_key})
        main, sub = found.logits
        raw, own = own_labels(main), own_labels(sub)
        energies = difference.present_energy(jax.lax.stop_gradient(main), tags_bk)
        smooth = crf(energies, batch["photo"]).argmax(-1).astype(jnp.int32)
        smooth = jnp.where(batch["valid"], smooth, IGNORE)
        made = two_steps(
            raw, smooth, seed_bgh,
            lambda branch, labels: model.apply(variables, found, branch, labels,
                                               method="differences"),
            tags_bk, bias=config.ssdd.bias, flag_absent=config.ssdd.flag_absent)
        loss_seg = (_xent(main, made.d2) + 0.5 * _xent(sub, seed_bgh) + 0.5 * _xent(sub, made.d2))
        total, kept = difference.detection_loss(
            made.logits[0], raw != smooth, difference.known(raw, smooth), made.flags)
        last = made.d1 if config.ssdd.last_target == "d1" else made.d2
        loss_diff = (2 * difference.divided(total, parallel.mean(kept))
                     + _balanced(made.logits[1][0], seed_bgh, own)
                     + _balanced(made.logits[1][1], last, own)) / 4
        whole = loss_seg + loss_diff
        return whole, {
            "loss": whole, "loss_seg": loss_seg, "loss_diff": loss_diff,
            "kept": kept / len(raw), "crf_changes": (raw != smooth).mean(),
            "seed_changes": (made.d2 != seed_bgh).mean()}

    return optim.descend(before, loss, optimizer)


def seed_labels(config: Any, batch: dict) -> jax.Array:
    """int32 [b,g,h]: the label maps to start from, as config.ssdd.static_seed says.

    clean: those of the seed.  psa_crf: the advice alone.  released: knowledge and advice made one
    here, by stored differences that belong elsewhere (`label_pairs.AsReleased`).
    """
    if config.static_seed != "released":
        return batch[SEEDS[config.static_seed][0]]
    knowledge, advice = batch["knowledge"], batch["advice"]
    flags_bk = difference.class_flags(knowledge, advice, batch["tags"],
                                      flag_absent=config.flag_absent)
    sigma_k, sigma_a = jnp.moveaxis(batch["differences"], 1, 0)
    return difference.integrate(knowledge, advice, sigma_k, sigma_a, flags_bk, config.seed_bias,
                                config.seed_background_bias)


def _xent(logits_bghk, label_bgh):
    """Cross-entropy, a mean over all devices' labelled pixels."""
    total, count = masked_xent(logits_bghk, label_bgh, label_bgh != IGNORE)
    return difference.divided(total, parallel.mean(count))


def _balanced(logits_bgh, shown_bgh, own_bgh):
    """The balanced loss against where two maps differ, its means over the whole batch."""
    sums_b2, counts_b2 = difference.difference_loss(logits_bgh, shown_bgh != own_bgh,
                                                    difference.known(shown_bgh, own_bgh))
    return difference.balanced(sums_b2.sum(0), parallel.mean(counts_b2.sum(0)))


def _validation(config, model, forward):
    """What `validate.run` needs."""
    if config.eval_epochs < 1:
        raise ValueError(f"config.eval_epochs is {config.eval_epochs}; want 1 or more")
    names, data = read_class_names(config.classes), config.data
    lines = views.read_lines(data.val, labelled=True)
    lists.check_lists(lines, [], data.root, len(names), config.classes, labeled_path=data.val,
                      unlabeled_path="")
    multi_scale.check(config)
    forward, settings = validate.seen(config, model, forward)
    return validate.Validation(parallel.compile_forward(forward),
                               Listed(lines, data.root, num_classes=len(names)), names,
                               settings, data)
