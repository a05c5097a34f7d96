"""Class maps from frozen patch tokens, made for DINOv2: one linear layer learns, nothing else.

A design of our own; nothing is published for it. What it is made of:

* DINOv2's patch tokens (Oquab et al., arXiv 2304.07193) tell objects and parts apart without ever
  having seen a label. The encoder stays as it is, so a training of its head is short and needs
  little memory: none for activations, none for the encoder in the optimizer's state.
* A 1 x 1 convolution on the tokens (the last block's, behind the final norm, or several taps side
  by side) gives a map a class; pooled maps are the scores; the tag loss of `cam.py` teaches them.
* At inference ReLU(maps) take a few steps of a random walk over the tokens of the same image
  (`affinity_refine.spread` has the formula), at each scale for itself, before any enlargement.
  What the classifier marks is so carried to the rest of the object, and stops where tokens change.

Pooling, of the n values x_i of a map (config.dino.pool):

    mean   Σ x_i / n
    lse    ln(Σ exp(r x_i) / n) / r, between the mean (r → 0) and the maximum (r → ∞)
    top    mean of the ⌈share n⌉ largest

Any encoder of the registry carries it; a convolutional one may be walked on another layer than the
one that is classified, a finer one too. configs/cam_voc_dino.py tells what was measured.
"""

from __future__ import annotations

import math

import jax

from wsssjax.cam import affinity_refine, infer, learner
from wsssjax.cam.cam import tag_loss
from wsssjax.core.config import choose
from wsssjax.core.method import Method
from wsssjax.models import registry
from wsssjax.models.classifier import mean_pool


def lse_pool(maps_bpqk, config):
    """Scores [b, k]: a smooth maximum of sharpness config.pool_sharpness."""
    n = maps_bpqk.shape[1] * maps_bpqk.shape[2]
    r = config.pool_sharpness
    return (jax.nn.logsumexp(r * maps_bpqk, axis=(1, 2)) - math.log(n)) / r


def top_pool(maps_bpqk, config):
    """Scores [b, k]: the mean of the config.pool_share of a map's values that are largest."""
    b, p, q, k = maps_bpqk.shape
    values_bkn = maps_bpqk.reshape(b, p * q, k).swapaxes(1, 2)
    return jax.lax.top_k(values_bkn, math.ceil(config.pool_share * p * q))[0].mean(-1)


POOLS = {"mean": lambda maps_bpqk, _: mean_pool(maps_bpqk), "lse": lse_pool, "top": top_pool}


def build(config) -> Method:
    """The method; it reads config.model.taps, config.dino (pool, pool_sharpness, pool_share), and
    of config.infer also affinity_layer, affinity_power, affinity_steps.

    `predict` gives the walked ReLU(maps) [b, p, q, k], on the grid of affinity_layer.
    """
    registry.need(config, ("dino", "model.taps", "infer.affinity_layer"), "config.method='dino'",
                  "cam_voc_dino.py")
    pool = choose(POOLS, config.dino.pool, "config.dino.pool")
    _check(config)
    model = registry.build_classifier(
        config.model, learner.foreground_count(config), taps=tuple(config.model.taps),
        pool=lambda maps_bpqk: pool(maps_bpqk, config.dino))
    infer.check_method(config, model.backbone, local=False)

    def losses(output, batch):
        scores_bk, _ = output
        return {"loss_cls": tag_loss(scores_bk, batch["tags"])}

    def predict(variables, image_bhwc, tags_bk):
        del tags_bk
        _, aux = model.apply(variables, image_bhwc, train=False)
        tokens_bpqd = choose(aux, config.infer.affinity_layer, "config.infer.affinity_layer")
        return affinity_refine.spread(jax.nn.relu(aux["maps"]), tokens_bpqd,
                                      power=config.infer.affinity_power,
                                      steps=config.infer.affinity_steps)

    init, step = learner.trainer(config, model, losses)
    return Method(init, step, predict, lambda: learner.batches(config, saliency=False),
                  config.total_steps)


def _check(config) -> None:
    """ValueError for a field without a meaning."""
    if not config.model.taps:
        raise ValueError("config.model.taps=(): want one name or more, such as features")
    if config.dino.pool_sharpness <= 0:
        raise ValueError(f"config.dino.pool_sharpness={config.dino.pool_sharpness}: want a number "
                         "above 0")
    if not 0 < config.dino.pool_share <= 1:
        raise ValueError(f"config.dino.pool_share={config.dino.pool_share}: want a share above 0, "
                         "at most 1")
    if config.infer.affinity_power <= 0 or config.infer.affinity_steps < 0:
        raise ValueError(f"config.infer.affinity_power={config.infer.affinity_power}, "
                         f"affinity_steps={config.infer.affinity_steps}: want a power above 0, "
                         "0 steps or more")
