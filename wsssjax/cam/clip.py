"""Class maps from CLIP, without any training: CLIP-ES.

Lin et al., "CLIP is Also an Efficient Segmenter: A Text-Driven Approach for Weakly Supervised
Semantic Segmentation", CVPR 2023. A photo is compared with the words for its tagged classes and for
25 backgrounds; what moves the probability of a class is its map, and the attention of the same
network carries it over the object:

    a_1 … a_n   the patches behind the first norm of the last block (class token left out)
    P_c         softmax over [tagged classes, backgrounds] of scale · cosine(photo, text), entry c
    w_c         mean over the n patches of ∂P_c / ∂a_i
    M_c         ReLU(w_c · a_i) at patch i, from its minimum to its maximum
    M_c         T (B_c ∘ M_c) from minimum to maximum (`affinity_refine.spread_in_boxes`); T is
                made of the mean over heads and over the last 8 blocks of the patches' attention

The paper leaves open, and the public code decides: the photo's vector is the MEAN of the patches
behind the final norm, not the class token (infer.gradcam_pool); gradients come at the class token's
place too, but neither w_c nor M_c looks at it; the position table is resized bilinearly; text
vectors are fixed. Differences to that code: a box that touches the right or lower border is whole
(there its last column or row is cut off); maps are compared with the box threshold as floats, not
in 8 bits; the labels' CRF sees the photo itself (there the mean is taken off and wraps around).

`predict` is one program: photos and classes one after the other, classes without a tag skipped, and
the regions of a map numbered by a loop on the device. Its maps reach 0 and 1 by themselves, so
infer.normalise = "none" is what the public code does: "max" would divide each by its own maximum
once more after enlarging it, by a few hundredths where the peak is one patch wide.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import optax

from wsssjax.cam import affinity_refine, text_features
from wsssjax.cam import infer as inference
from wsssjax.core import state
from wsssjax.core.config import choose
from wsssjax.core.method import Method
from wsssjax.data import classes
from wsssjax.models import clip, registry


def build(config) -> Method:
    """CLIP-ES as a method without a step.

    config.model: an image tower of CLIP as `encoder`, `text` (file of tools/clip_text.py).
    config.infer also: attention_blocks, attention_rounds, attention_squarings, box_threshold,
    gradcam_pool. `predict` gives maps [b, p, q, k], 0 for classes without a tag.
    """
    registry.need(config, ("model.text", "infer.gradcam_pool"), "config.method='clip'",
                  "cam_voc_clip.py")
    names = classes.need_background(classes.read_class_names(config.classes), "config.classes")[1:]
    tower = registry.build_encoder(config.model)
    if not isinstance(tower, clip.ImageTower):
        raise ValueError(f"config.model.encoder={config.model.encoder!r}: has no words to compare "
                         "photos with; want clip_vit_b16")
    _check(config, tower.size)
    inference.check_method(config, tower)
    tower = tower.clone(attentions=config.infer.attention_blocks)
    # Read when it is wanted: a training is refused without it.
    text = functools.cache(lambda: text_features.read(config.model.text, names, tower.size.embed))

    def init(key):
        text()
        image_bhwc = jnp.zeros((1, tower.size.patch, tower.size.patch, 3))
        variables = jax.jit(lambda key: tower.init(key, image_bhwc, train=False))(key)
        variables = {"params": {"backbone": variables["params"]}}
        return state.create(registry.load_encoder(variables, config.model), optax.identity(),
                            ema=False)

    def predict(variables, image_bhwc, tags_bk):
        params = {"params": variables["params"]["backbone"]}
        return class_maps(tower, params, image_bhwc, tags_bk, text(), config.infer)

    def refuse(*_):
        raise ValueError("config.method='clip': learns nothing, so there is nothing to train; run "
                         "python -m wsssjax.cam --config=… --weights=… --images=… --tags=… --out=…")

    return Method(init, refuse, predict, refuse, 0)


def class_maps(tower, params, image_bhwc, tags_bk, text: text_features.TextFeatures, infer):
    """Maps float32 [b, p, q, k] in 0..1; see the top of this file.

    tower: with attention.  tags_bk: 0 or 1.  infer: config.infer.
    """
    _, aux = tower.apply(params, image_bhwc, train=False)
    grid = aux["features"].shape[1:3]

    def one(row):
        input_nd, attention_nn, tags_k = row
        maps_pqk = gradient_maps(tower, params, input_nd, tags_k, text, infer.gradcam_pool)
        maps_pqk = affinity_refine.by_range(maps_pqk.reshape(*grid, -1))
        affinity_nn = affinity_refine.attention_affinity(
            attention_nn[1:, 1:], infer.attention_rounds, infer.attention_squarings)
        return affinity_refine.by_range(affinity_refine.spread_in_boxes(
            maps_pqk, affinity_nn, infer.box_threshold))

    return jax.lax.map(one, (aux["last_input"], aux["attention"], tags_bk))


def gradient_maps(tower, params, input_nd, tags_k, text: text_features.TextFeatures, pool: str):
    """ReLU(w_c · a_i) float32 [n, k] of one photo's n patches; 0 for classes without a tag.

    input_nd: what the last block takes, class token first.  pool: see clip.ImageTower.behind_norm.
    """
    input_1nd, count = input_nd[None], tags_k.shape[0]
    normed_1nd = tower.apply(params, input_1nd, method="norm")
    text_te = jnp.asarray(text.features_te)
    said_t = jnp.concatenate([tags_k > 0, jnp.ones(len(text.backgrounds), bool)])

    def chances(normed_1nd):
        photo_1e = tower.apply(params, input_1nd, normed_1nd, pool, method="behind_norm")
        photo_e = photo_1e[0] / jnp.linalg.norm(photo_1e)
        logits_t = jnp.where(said_t, text.scale * (text_te @ photo_e), -jnp.inf)
        return jax.nn.softmax(logits_t)[:count]

    chances_k, pull = jax.vjp(chances, normed_1nd)

    def one_class(row):
        tagged, pick_k = row

        def found():
            (gradient_1nd,) = pull(pick_k)
            return jax.nn.relu(normed_1nd[0, 1:] @ gradient_1nd[0, 1:].mean(0))

        return jax.lax.cond(tagged, found, lambda: jnp.zeros_like(normed_1nd[0, 1:, 0]))

    # One class at a time: a photo has one or two of them, and memory for one gradient suffices.
    return jax.lax.map(one_class, (tags_k > 0, jnp.eye(count, dtype=chances_k.dtype))).T


def _check(config, size: clip.Size) -> None:
    """ValueError for a field without a meaning."""
    infer = config.infer
    choose(dict.fromkeys(clip.POOLS), infer.gradcam_pool, "config.infer.gradcam_pool")
    if not 1 <= infer.attention_blocks <= size.depth:
        raise ValueError(f"config.infer.attention_blocks={infer.attention_blocks}: want a number "
                         f"in 1..{size.depth}, as many as the encoder has")
    if min(infer.attention_rounds, infer.attention_squarings) < 0:
        raise ValueError(f"config.infer.attention_rounds={infer.attention_rounds}, "
                         f"attention_squarings={infer.attention_squarings}: want 0 or more")
    if not 0 <= infer.box_threshold < 1:
        raise ValueError(f"config.infer.box_threshold={infer.box_threshold}: want a share of the "
                         "maximum, 0 or more and below 1")
