"""Difference detection (SSDD) on arrays: of two label maps of a photo, which to trust at a pixel.

Shimoda and Yanai, Self-Supervised Difference Detection, ICCV 2019 (arXiv 1911.01370). A step of
processing turned the label map K, the knowledge, into A, the advice, partly wrongly. A network that
sees the photo and one of the two predicts where the other differs. What it foresees from the
knowledge is regular, so the advice is followed there; what only the advice gives away is not.

Label maps are integers 0..k-1 or IGNORE. `sigma` is the predicted probability that the other map
differs. All functions take numpy or jax arrays and give the same kind back, so that a step and the
writer of label maps decide by one rule; they can be jitted.

Where the slides and the published code disagree, this is the code: 1 means different, the loss is
balanced, a flag means that the advice lost more than half of a class.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from wsssjax.core.constants import BACKGROUND, IGNORE

CLIP = 1e-5  # probabilities below it count as this in an energy
ABSENT = 1e4  # energy of a class that the photo does not hold: its probability is 0 exactly


def _numpy_of(x):
    return np if isinstance(x, np.ndarray) else jnp


# ---- label maps --------------------------------------------------------------------------------


def known(knowledge_bhw, advice_bhw):
    """bool [b,h,w]: neither map says IGNORE."""
    return (knowledge_bhw != IGNORE) & (advice_bhw != IGNORE)


def class_counts(label_bhw, num_classes: int):
    """int32 [b,k]: pixels of each class; IGNORE is none.

    >>> class_counts(np.array([[[1, 1, 0], [2, 0, 255]]]), 3).tolist()
    [[2, 2, 1]]
    """
    xp = _numpy_of(label_bhw)
    return xp.stack([(label_bhw == k).sum((1, 2)) for k in range(num_classes)], -1).astype(np.int32)


def class_flags(knowledge_bhw, advice_bhw, tags_bk, *, flag_absent: bool = True):
    """bool [b, 1 + k]: the advice lost more than half of the pixels of a tagged class.

    tags_bk: 1 where the photo holds the foreground class.  The background is never flagged.
    flag_absent: whether a tagged class without a pixel in either map, which a crop may have cut
    away, counts as lost, as published.

    >>> knowledge = np.array([[[1, 1, 1], [0, 0, 0]]])
    >>> advice = np.array([[[1, 0, 0], [0, 0, 0]]])
    >>> class_flags(knowledge, advice, np.array([[1, 0]])).tolist()
    [[False, True, False]]
    """
    xp = _numpy_of(knowledge_bhw)
    num_classes = tags_bk.shape[-1] + 1
    before_bk = class_counts(knowledge_bhw, num_classes)
    after_bk = class_counts(advice_bhw, num_classes)
    # In integers: exactly half is not flagged.
    lost_bk = 2 * after_bk < xp.maximum(before_bk, 1)
    if not flag_absent:
        lost_bk = lost_bk & (before_bk > 0)
    tagged_bk = xp.concatenate([xp.zeros_like(tags_bk[:, :1]), tags_bk], 1) > 0
    return lost_bk & tagged_bk


def integrate(knowledge_bhw, advice_bhw, sigma_k_bhw, sigma_a_bhw, flags_bk, bias: float,
              background_bias: float = 0.0):
    """The label map made of both: the advice where `preference` is 0 or more, else the knowledge.

    A map that says IGNORE at a pixel leaves it to the other one.

    >>> knowledge, advice = np.array([[[1, 1, 0], [2, 0, 0]]]), np.array([[[1, 0, 0], [2, 2, 0]]])
    >>> sigma_k = np.array([[[.9, .2, .1], [.1, .3, .1]]])
    >>> sigma_a = np.array([[[.1, .7, .1], [.1, .6, .1]]])
    >>> flags = class_flags(knowledge, advice, np.array([[1, 1]]))
    >>> integrate(knowledge, advice, sigma_k, sigma_a, flags, 0.4).tolist()
    [[[1, 1, 0], [2, 2, 0]]]
    >>> integrate(knowledge, advice, sigma_k, sigma_a, flags, 0.1, 0.1).tolist()
    [[[1, 1, 0], [2, 0, 0]]]
    """
    xp = _numpy_of(knowledge_bhw)
    weight_bhw = preference(knowledge_bhw, advice_bhw, sigma_k_bhw, sigma_a_bhw, flags_bk, bias,
                            background_bias)
    chosen_bhw = xp.where(weight_bhw >= 0, advice_bhw, knowledge_bhw)
    chosen_bhw = xp.where(knowledge_bhw == IGNORE, advice_bhw, chosen_bhw)
    return xp.where(advice_bhw == IGNORE, knowledge_bhw, chosen_bhw)


def preference(knowledge_bhw, advice_bhw, sigma_k_bhw, sigma_a_bhw, flags_bk, bias: float,
               background_bias: float = 0.0):
    """float32 [b,h,w], the w of the paper: how much the advice is to be preferred.

    bias: in favour of the advice.  background_bias: in favour of it where it says background, and
    against it where the knowledge does.  A flagged class outweighs both: its pixels are taken from
    whichever map has them.
    """
    def shift(label_bhw):
        xp = _numpy_of(label_bhw)
        number_bn = xp.where(label_bhw == IGNORE, BACKGROUND, label_bhw).reshape(len(label_bhw), -1)
        flag_bhw = xp.take_along_axis(flags_bk, number_bn, 1).reshape(label_bhw.shape)
        ground_bhw = (label_bhw == BACKGROUND).astype(np.float32)
        return flag_bhw.astype(np.float32) + np.float32(background_bias) * ground_bhw

    return (sigma_k_bhw - sigma_a_bhw + np.float32(bias) + shift(advice_bhw)
            - shift(knowledge_bhw))


# ---- losses ------------------------------------------------------------------------------------


def difference_loss(logits_bhw, differ_bhw, keep_bhw):
    """Cross-entropy of the predicted difference as (sums, counts), both float32 [b, 2].

    logits_bhw: any float dtype, sigma before the sigmoid.  differ_bhw: bool, what is to be
    predicted.  keep_bhw: bool.  Columns: pixels where the maps agree, pixels where they differ.
    """
    wide_bhw = logits_bhw.astype(jnp.promote_types(logits_bhw.dtype, jnp.float32))
    nll_bhw = jax.nn.softplus(jnp.where(differ_bhw, -wide_bhw, wide_bhw))
    kinds = (keep_bhw & ~differ_bhw, keep_bhw & differ_bhw)
    sums = [jnp.where(kind, nll_bhw, 0.0).sum((1, 2)) for kind in kinds]
    counts = [kind.sum((1, 2), dtype=jnp.float32) for kind in kinds]
    return jnp.stack(sums, -1), jnp.stack(counts, -1)


def balanced(sums, counts):
    """Half the mean over agreeing pixels plus half that over differing ones: [..., 2] to [...].

    The mean over no pixel is 0 (the reference divides by 0 where two maps agree everywhere).

    >>> balanced(jnp.array([6.0, 0.0]), jnp.array([3.0, 0.0])).item()
    1.0
    """
    return 0.5 * divided(sums, counts).sum(-1)


def divided(total, count):
    """total / count, 0 where the count is 0; its gradient is finite everywhere."""
    return jnp.where(count > 0, total / jnp.where(count > 0, count, 1), 0.0)


def unflagged(loss_b, flags_bk):
    """(sum, count) over the images of which no class is flagged: the others teach nothing."""
    keep_b = ~flags_bk.any(-1)
    return jnp.where(keep_b, loss_b, 0.0).sum(), keep_b.sum(dtype=jnp.float32)


def detection_loss(logits_mbhw, differ_bhw, keep_bhw, flags_bk):
    """The balanced loss of m label maps' predictions as (sum, count), over unflagged images.

    The sum is a mean over the m, so that sum / count is the mean over maps and images.
    """
    sums, counts = zip(*(unflagged(balanced(*difference_loss(logits_bhw, differ_bhw, keep_bhw)),
                                   flags_bk) for logits_bhw in logits_mbhw), strict=True)
    return sum(sums) / len(sums), counts[0]


# ---- a branch's own label map ------------------------------------------------------------------


def with_background(tags_bk):
    """float [b, 1 + k]: 1 for the background and the classes that the photo holds."""
    return jnp.concatenate([jnp.ones_like(tags_bk[:, :1]), tags_bk], 1)


def present_labels(logits_bhwk, tags_bk):
    """int32 [b,h,w]: the likeliest class of those that the photo holds, or background.

    logits_bhwk: background first.  tags_bk: float, 1 where the photo holds the foreground class.
    Published as the largest softmax + 0.0001 of the present classes, which is the same.
    """
    present_b11k = with_background(tags_bk)[:, None, None] > 0
    return jnp.where(present_b11k, logits_bhwk, -jnp.inf).argmax(-1).astype(jnp.int32)


def present_energy(logits_bhwk, tags_bk):
    """float32 [b,h,w,k]: -log of the softmax over the classes that the photo holds, cut at CLIP.

    Other classes get an energy that a CRF can never overcome: leaving them out is the same.
    """
    present_b11k = with_background(tags_bk)[:, None, None] > 0
    masked_bhwk = jnp.where(present_b11k, logits_bhwk.astype(jnp.float32), -jnp.inf)
    energy_bhwk = jnp.minimum(-jax.nn.log_softmax(masked_bhwk), -np.log(np.float32(CLIP)))
    return jnp.where(present_b11k, energy_bhwk, ABSENT)
