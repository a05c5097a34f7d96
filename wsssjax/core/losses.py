"""Losses as (sum, count); whoever calls them divides, and says by what."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from wsssjax.core.constants import IGNORE


def masked_xent(logits_bhwk, labels_bhw, keep_bhw):
    """Pixel cross-entropy as (sum, count), two float32 scalars; the caller picks the divisor.

    logits_bhwk: any float dtype, raw scores.  labels_bhw: int32, IGNORE allowed.  keep_bhw: bool.
    """
    keep_bhw = keep_bhw & (labels_bhw != IGNORE)
    # Gathering class 255 gives NaN, and NaN * 0 is NaN.
    safe_bhw = jnp.where(keep_bhw, labels_bhw, 0)
    logp_bhwk = jax.nn.log_softmax(logits_bhwk.astype(jnp.promote_types(logits_bhwk.dtype,
                                                                        jnp.float32)))
    nll_bhw = -jnp.take_along_axis(logp_bhwk, safe_bhw[..., None], axis=-1)[..., 0]
    return jnp.where(keep_bhw, nll_bhw, 0.0).sum(), keep_bhw.sum(dtype=jnp.float32)


def sigmoid_xent(logits_bk, targets_bk):
    """Binary cross-entropy with logits as (sum, count) over all entries, two float32 scalars.

    logits_bk: any float dtype.  targets_bk: float, 0..1.
    """
    logits_bk = logits_bk.astype(jnp.float32)
    targets_bk = targets_bk.astype(jnp.float32)
    # log(1 + exp(-|x|)) never overflows, whatever the sign of the logit.
    softplus_bk = jnp.log1p(jnp.exp(-jnp.abs(logits_bk)))
    loss_bk = jnp.maximum(logits_bk, 0.0) - logits_bk * targets_bk + softplus_bk
    return loss_bk.sum(), jnp.float32(loss_bk.size)
