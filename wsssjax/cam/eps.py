"""EPS: class maps that must also add up to a saliency map.

Lee et al., "Railroad is not a Train: Saliency as Pseudo-pixel Supervision for Weakly Supervised
Semantic Segmentation", CVPR 2021. The classifier has one more channel, the background, LAST; maps
are the softmax over all channels. Maps of present classes that overlap salient pixels make up the
foreground, all other present ones are pushed to the background's side.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from wsssjax.cam import infer, learner
from wsssjax.cam.cam import tag_loss
from wsssjax.core.config import choose
from wsssjax.core.method import Method
from wsssjax.core.resize import resize_nearest
from wsssjax.data import classes
from wsssjax.models import registry

SELECTIONS = ("adaptive", "naive", "predefined", "none")
_EPSILON = 1e-4  # added per pixel, so that the divisor is |B| + 1e-4 h w


def overlap(maps_bpqk, saliency_bpq):
    """Share of each binarised map that is salient: float32 [b,k]; 0 for a map with no pixel.

    maps_bpqk: class probabilities.  saliency_bpq: 0..1.  Both are cut at 0.5, 0.5 itself is out.
    The paper's formula has no epsilon; the published code adds 1e-4 at every pixel.
    """
    on_bpqk = (maps_bpqk > 0.5).astype(jnp.float32)
    salient_bpq1 = (saliency_bpq > 0.5).astype(jnp.float32)[..., None]
    return (on_bpqk * salient_bpq1).sum((1, 2)) / (on_bpqk + _EPSILON).sum((1, 2))


def estimated_saliency(maps_bpqk, saliency_bpq, tags_bk, *, selection, overlap_min, mix, banned):
    """Saliency that the maps stand for: float32 [b,p,q], 0..1.

    maps_bpqk: softmax over k = K + 1 channels, background last.  tags_bk: [b,K].
    selection: which present classes count as foreground. "adaptive": those whose overlap is above
    `overlap_min`, one decision per class and crop, without a gradient; "naive": all; "predefined":
    all but `banned`; "none": no map of a class is looked at, the foreground is what the background
    leaves over. The paper does not say what its row without selection computes; "none" is our
    reading.
    mix: weight of the foreground's sum; 1 - mix goes to what the background side leaves over.
    banned: class indices counted from 0 without background.
    """
    assert selection in SELECTIONS, selection
    class_maps_bpqk, background_bpq = maps_bpqk[..., :-1], maps_bpqk[..., -1]
    if selection == "none":
        return 1.0 - background_bpq
    if selection == "adaptive":
        chosen_bk = overlap(jax.lax.stop_gradient(class_maps_bpqk), saliency_bpq) > overlap_min
    else:
        chosen_k = jnp.ones(tags_bk.shape[-1], bool)
        if selection == "predefined":
            chosen_k = chosen_k.at[jnp.array(banned, jnp.int32)].set(False)
        chosen_bk = jnp.broadcast_to(chosen_k, tags_bk.shape)
    front_bk = tags_bk * chosen_bk
    foreground_bpq = jnp.einsum("bpqk,bk->bpq", class_maps_bpqk, front_bk)
    background_bpq += jnp.einsum("bpqk,bk->bpq", class_maps_bpqk, tags_bk - front_bk)
    return mix * foreground_bpq + (1.0 - mix) * (1.0 - background_bpq)


def saliency_loss(logits_bpqk, saliency_bhw, tags_bk, **options):
    """Squared error between estimated and given saliency as (sum, count) over rows and pixels.

    logits_bpqk: raw class logits, background last.  saliency_bhw: float32 0..1 at crop size, 0 on
    padding, which is therefore supervised as background; thinned to [p,q] by legacy nearest (every
    8th pixel from 0 at stride 8).  options: see `estimated_saliency`.
    """
    b, p, q, _ = logits_bpqk.shape
    wide = jnp.promote_types(logits_bpqk.dtype, jnp.float32)
    saliency_bpq = resize_nearest(saliency_bhw, (p, q), axes=(1, 2)).astype(wide)
    maps_bpqk = jax.nn.softmax(logits_bpqk.astype(wide))
    estimate_bpq = estimated_saliency(maps_bpqk, saliency_bpq, tags_bk, **options)
    return jnp.square(estimate_bpq - saliency_bpq).sum(), jnp.float32(b * p * q)


def build(config) -> Method:
    """EPS as a method; config.eps: selection, overlap_min, mix, background_classes.

    Loss = tag loss on the first K scores (the background's is unused) + saliency loss, both means
    over the rows of the device, both with weight 1. `predict` gives the softmax maps at feature
    resolution without the background's channel, which pseudo-labels do not use: [b,p,q,K].
    """
    registry.need(config, ("eps", "model.dropout"), "config.method='eps'", "cam_voc_eps.py")
    choose(dict.fromkeys(SELECTIONS), config.eps.selection, "config.eps.selection")
    for name in ("overlap_min", "mix"):
        if not 0 <= config.eps[name] <= 1:
            raise ValueError(f"config.eps.{name}={config.eps[name]}: want a share in 0..1")
    foreground = classes.read_class_names(config.classes)[1:]
    positions = {name: index for index, name in enumerate(foreground)}
    # Unread otherwise, so that the default, VOC's, does not stand in the way of other classes.
    names = config.eps.background_classes if config.eps.selection == "predefined" else ()
    banned = tuple(choose(positions, name, "config.eps.background_classes")
                   for name in names)
    options = {"selection": config.eps.selection, "overlap_min": config.eps.overlap_min,
               "mix": config.eps.mix, "banned": banned}
    model = registry.build_classifier(config.model, len(foreground) + 1)
    infer.check_method(config, model.backbone)

    def losses(output, batch):
        scores_bk, aux = output
        total, count = saliency_loss(aux["maps"], batch["saliency"], batch["tags"], **options)
        return {"loss_cls": tag_loss(scores_bk[:, :-1], batch["tags"]),
                "loss_sal": total / count}

    def predict(variables, image_bhwc, tags_bk):
        _, aux = model.apply(variables, image_bhwc, train=False)
        return jax.nn.softmax(aux["maps"])[..., :-1]

    init, step = learner.trainer(config, model, losses)
    return Method(init, step, predict, lambda: learner.batches(config, saliency=True),
                  config.total_steps)
