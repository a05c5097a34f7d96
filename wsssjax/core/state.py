"""What trains, in one value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

TEACHER = "ema_"  # begins the names of collections in `extra` that are the teacher's own


@flax.struct.dataclass
class TrainState:
    """step: int32 scalar, steps done.  params: the parameter tree.  ema: the teacher's values of
    the part that learns (a frozen encoder is the student's), None where a method has no teacher.
    opt: the optimizer's state, of that part too.  extra: other collections, e.g.
    {"batch_stats": ...}; "ema_batch_stats" is the teacher's, where it has another than the student.
    It holds no keys: those follow from the seed and the step."""

    step: Any
    params: Any
    ema: Any
    opt: Any
    extra: Any

    def variables(self, *, ema: bool = False) -> dict:
        """What `module.apply` takes of student or teacher: {"params": ..., **extra}."""
        found = {name: x for name, x in self.extra.items() if not name.startswith(TEACHER)}
        if not ema:
            return {"params": self.params, **found}
        own = {name.removeprefix(TEACHER): x for name, x in self.extra.items()
               if name.startswith(TEACHER)}
        return {"params": {**self.params, **self.ema}, **found, **own}

    def size(self) -> dict[str, int]:
        """Bytes of parameters, teacher, optimizer and the rest."""
        parts = {"parameters": self.params, "ema": self.ema, "optimizer": self.opt,
                 "other": self.extra}
        return {name: sum(x.nbytes for x in jax.tree.leaves(tree)) for name, tree in parts.items()}


def create(variables, optimizer, *, ema: bool, learned: Callable = lambda x: x) -> TrainState:
    """A state at step 0. The teacher is a copy: a donated step must not see one buffer twice.

    learned: params → the part of them that the optimizer and the teacher hold.
    """
    variables = dict(variables)
    params = variables.pop("params")
    part = learned(params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=jax.tree.map(lambda x: jnp.array(x, copy=True), part) if ema else None,
        opt=optimizer.init(part),
        extra=variables,
    )
