"""What trains, in one value."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class TrainState:
    """step: int32 scalar, steps done.  params, ema: parameter trees (ema None where a method has
    no teacher).  opt: the optimizer's state.  extra: other collections, e.g. {"batch_stats": ...}.
    It holds no keys: those follow from the seed and the step."""

    step: Any
    params: Any
    ema: Any
    opt: Any
    extra: Any

    def variables(self, *, ema: bool = False) -> dict:
        """What `module.apply` takes: {"params": ..., **extra}."""
        return {"params": self.ema if ema else self.params, **self.extra}


def create(variables, optimizer, *, ema: bool) -> TrainState:
    """A state at step 0. The teacher is a copy: a donated step must not see one buffer twice."""
    variables = dict(variables)
    params = variables.pop("params")
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=jax.tree.map(lambda x: jnp.array(x, copy=True), params) if ema else None,
        opt=optimizer.init(params),
        extra=variables,
    )
