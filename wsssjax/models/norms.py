"""Batch norm in the three ways that published segmentation code uses it."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from wsssjax.models import layers

MODES = ("batch", "stored", "frozen")
MOMENTUM = 0.1  # of the new statistics in the running ones, as PyTorch counts it


class BatchNorm(nn.Module):
    """x [b,h,w,d] normalised per channel, in the dtype of x; statistics in float32.

    mode: "batch"   in training by the mean and variance of this device's rows, which also move the
                    running statistics (collection `batch_stats`, by the unbiased variance, as in
                    PyTorch); otherwise by the running ones. A trainer makes `batch_stats` mutable
                    and averages it over devices.
          "stored"  by the running statistics always, which never move; scale and bias learn.
          "frozen"  the same, and nothing learns: scale and bias lie in `batch_stats`, too, where no
                    optimizer and no weight decay reaches them.
    """

    mode: str = "batch"
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x, *, train: bool):
        assert self.mode in MODES, self.mode
        if self.mode == "frozen":
            return layers.stored_norm(self, x, self.epsilon)
        width = (x.shape[-1],)
        scale_d = self.param("scale", nn.initializers.ones, width)
        bias_d = self.param("bias", nn.initializers.zeros, width)
        mean = self.variable("batch_stats", "mean", jnp.zeros, width)
        var = self.variable("batch_stats", "var", jnp.ones, width)
        if self.mode == "batch" and train:
            mean_d, var_d = self._of_batch(x, mean, var)
        else:
            mean_d, var_d = mean.value, var.value
        factor_d = scale_d * lax.rsqrt(var_d + self.epsilon)
        shift_d = bias_d - mean_d * factor_d
        return (x * layers.on_channels(factor_d, x.dtype)
                + layers.on_channels(shift_d, x.dtype))

    def _of_batch(self, x, mean, var):
        """Mean and variance of the rows; the running ones take their share of them."""
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        axes, count = (0, 1, 2), x.size // x.shape[-1]
        mean_d = wide.mean(axes)
        var_d = jnp.square(wide - layers.on_channels(mean_d)).mean(axes)
        if not self.is_initializing() and self.is_mutable_collection("batch_stats"):
            unbiased_d = var_d * (count / max(count - 1, 1))
            mean.value += MOMENTUM * (lax.stop_gradient(mean_d) - mean.value)
            var.value += MOMENTUM * (lax.stop_gradient(unbiased_d) - var.value)
        return mean_d, var_d
