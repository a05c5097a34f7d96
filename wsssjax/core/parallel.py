"""The devices: the only file that says `pmap` or `shard_map` or counts devices.

A step is written for ONE device and talks to the others through `mean`, `sum` and `device_key`;
`compile_step` runs it on all of them with an un-stacked state. `pmap` is the default; `shard_map`
runs the same function over the devices of all hosts.
"""

from __future__ import annotations

import os
from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from wsssjax.core.config import choose

AXIS = "devices"


def start() -> None:
    """Compilation cache on; joins the other hosts where the cluster's environment asks for it.

    JAX_COORDINATOR_ADDRESS asks; JAX_NUM_PROCESSES and JAX_PROCESS_ID tell what no cluster manager
    that jax knows (Slurm, Open MPI, Kubernetes, TPU pods) can tell.
    """
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "wsssjax", "xla")
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    if os.environ.get("JAX_COORDINATOR_ADDRESS") and not jax.distributed.is_initialized():
        known = {"num_processes": "JAX_NUM_PROCESSES", "process_id": "JAX_PROCESS_ID"}
        jax.distributed.initialize(
            **{name: int(os.environ[key]) for name, key in known.items() if key in os.environ})


def device_count() -> int:
    """Devices of this host."""
    return jax.local_device_count()


def process() -> tuple[int, int]:
    """(index of this host, number of hosts)."""
    return jax.process_index(), jax.process_count()


def on_cpu() -> bool:
    """True where the default device is a CPU."""
    return jax.default_backend() == "cpu"


def flash_attention() -> bool:
    """True where cuDNN's flash kernel runs: NVIDIA GPUs from Ampere (compute capability 8.0) on."""
    if jax.default_backend() != "gpu":
        return False
    try:
        return float(jax.local_devices()[0].compute_capability) >= 8.0
    except (AttributeError, ValueError):  # a GPU of another maker
        return False


def mean(tree):
    """Mean over the devices; inside a step only."""
    return jax.lax.pmean(tree, AXIS)


def sum(tree):  # noqa: A001  (the name says what it is: parallel.sum)
    """Sum over the devices; inside a step only."""
    return jax.lax.psum(tree, AXIS)


def device_key(key, group=0, groups: int = 1):
    """A key of this device's own; inside a step only.

    A device that goes through `groups` groups of rows one after the other passes which one it is
    at: it so draws what as many devices would draw.
    """
    return jax.random.fold_in(key, jax.lax.axis_index(AXIS) * groups + group)


def _mesh(devices: int | None, every_host: bool) -> Mesh:
    found = jax.devices() if every_host else jax.local_devices()
    return Mesh(np.array(found[:devices]), (AXIS,))


def replicate(tree, *, backend: str = "pmap", devices: int | None = None):
    """The tree un-stacked on every device; always a copy, so that a donated step may eat it.

    backend: of the step that it is for; shard_map's devices are those of all hosts.
    """
    sharding = NamedSharding(_mesh(devices, every_host=backend == "shard_map"), P())
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.array(x)), tree)


def to_host(tree):
    """The tree as numpy arrays that own their memory."""
    return jax.tree.map(lambda x: np.array(x), jax.device_get(tree))


def compile_forward(forward):
    """(variables, host arrays) → outputs, their rows spread over this host's devices.

    forward: (variables, image_bhwc, …) → [b, ...].  variables: from `replicate`.  A batch that the
    devices do not divide runs whole on each.
    """
    compiled = jax.jit(forward)
    mesh = _mesh(None, every_host=False)

    def call(variables, *arrays):
        rows = P() if len(arrays[0]) % len(mesh.devices) else P(AXIS)
        return compiled(variables, *jax.device_put(arrays, NamedSharding(mesh, rows)))

    return call


def sum_hosts(counts: np.ndarray) -> np.ndarray:
    """int64 counts summed over all hosts, exactly; outside a step."""
    if jax.process_count() == 1:
        return counts
    from jax.experimental import multihost_utils

    # Hosts exchange 32 bits a number.
    halves = np.stack([counts & 0xFFFFF, counts >> 20]).astype(np.int32)
    low, high = np.asarray(multihost_utils.process_allgather(halves), np.int64).sum(0)
    return low + (high << 20)


def first_says(number: int) -> int:
    """The number that the first host has, on every host; all of them must ask."""
    mine = 0 if jax.process_index() else number
    return int(sum_hosts(np.array([mine], np.int64))[0])


def check_equal(number: int, what: str) -> None:
    """ValueError unless every host has the same number."""
    total = int(sum_hosts(np.array([number], np.int64))[0])
    if total != number * jax.process_count():
        raise ValueError(f"the hosts disagree on the {what} (here {number}); give them all one "
                         "shared --workdir")


def set_precision(name: str) -> None:
    """Precision of float32 products on accelerators: "highest", or "default" (TF32; bf16 on TPUs).

    A CPU has full precision anyway, and is left alone.
    """
    name = choose({"highest": "highest", "default": None}, name, "config.precision")
    if not on_cpu():
        jax.config.update("jax_default_matmul_precision", name)


def _check_rows(batch, count: int) -> None:
    for name, array in batch.items():
        if array.shape[0] % count:
            raise ValueError(f"batch[{name!r}] has {array.shape[0]} rows on this host; its {count} "
                             f"devices need a multiple of {count}")


def compile_step(step, *, backend: str = "pmap", devices: int | None = None):
    """(state, host batch, root key) → (state, metrics), over all devices (or the first few).

    step: (state, batch, key) → (state, {name: scalar}) for one device; its key is already folded
    with state.step, and `device_key` makes it the device's own.  batch: dict of arrays, rows of
    this host first.  The state is donated: use the one that comes back.
    """
    one_device = _with_key(step)
    runner = choose({"pmap": _pmap, "shard_map": _shard_map}, backend, "config.parallel")
    run = runner(one_device, devices)

    def call(state, batch, key):
        out = run(state, batch, key)
        # Several fake CPU devices that run ahead of each other can deadlock on few cores.
        return jax.block_until_ready(out) if on_cpu() else out

    return call


def _with_key(step):
    def one_device(state, batch, key):
        new_state, metrics = step(state, batch, jax.random.fold_in(key, state.step))
        return new_state, mean(metrics)

    return one_device


def _pmap(one_device, devices):
    if jax.process_count() > 1:
        raise ValueError("config.parallel 'pmap' trains on one host; on several take "
                         "--config.parallel=shard_map")
    local = jax.local_devices()[:devices]
    mapped = jax.pmap(one_device, axis_name=AXIS, devices=local, in_axes=(None, 0, None),
                      out_axes=(None, None), donate_argnums=0)

    def run(state, batch, key):
        _check_rows(batch, len(local))
        rows = jax.tree.map(lambda x: x.reshape(len(local), -1, *x.shape[1:]), batch)
        return mapped(state, rows, key)

    return run


def _shard_map(one_device, devices):
    mesh = _mesh(devices, every_host=True)
    # check_vma=True would make gradients come out device-count times too big in a pmap-style step.
    mapped = jax.shard_map(one_device, mesh=mesh, in_specs=(P(), P(AXIS), P()),
                           out_specs=(P(), P()), check_vma=False)
    compiled = jax.jit(mapped, donate_argnums=0)
    place = partial(jax.make_array_from_process_local_data, NamedSharding(mesh, P(AXIS)))

    def run(state, batch, key):
        _check_rows(batch, len(mesh.local_devices))
        return compiled(state, jax.tree.map(place, batch), key)

    return run
