"""Where the work over many files runs: threads of this process, or the machines of a Ray cluster.

Every machine must see the same files under the same paths, and have wsssjax installed.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from wsssjax.core import config, progress, threads

A = TypeVar("A")
B = TypeVar("B")
EXECUTORS = ("threads", "ray")
RETRIES = 4  # of a task whose worker or machine died; its results are needed, whoever makes them
KNOCK_S = 10  # seconds that a cluster may take to answer
AHEAD = 2  # tasks a core that are handed out before their turn


def check(executor: str) -> None:
    """ValueError unless it is one of EXECUTORS, and installed."""
    config.choose(dict.fromkeys(EXECUTORS), executor, "--executor")
    if executor == "ray":
        _ray()


def shard(text: str) -> tuple[int, int]:
    """(i, n) of "i/n", with i = 0 … n - 1.

    >>> shard("0/4")
    (0, 4)
    """
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ValueError(f"--shard={text}: want i/n with i from 0 to n - 1, such as 0/4")
    return int(index), int(count)


def each(function: Callable[[A], B], items: Sequence[A], executor: str = "threads",
         label: str = "", *, workers: int | None = None, chunk: int = 1) -> Iterator[B]:
    """`function(item)` for each item, in their order; stops at the first error.

    executor: "threads", or "ray": the cluster at RAY_ADDRESS, else one of this machine's cores.
    label: shown with rate and time left; "" shows nothing.  workers: threads, None means one a
    core.  chunk: items a thread or task takes at a time.
    On a cluster, function and items must be picklable. Few items are out at a time, and what a
    worker had in hand when it died is done again by another.
    """
    if executor == "threads":
        return threads.each(function, items, label, threads=workers, chunk=chunk)
    found = _each_on_ray(function, items, chunk)
    return progress.track(found, len(items), label) if label else found


def _ray():
    """The package; ValueError says how to install it."""
    # It would send statistics to its makers, and warn of what is not ours to change.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise ValueError("--executor=ray: ray is not installed; pip install 'wsssjax[ray]', or "
                         "use --executor=threads") from None
    return ray


@contextlib.contextmanager
def _connected(ray) -> Iterator[None]:
    """A connection to the cluster, unless there is one already."""
    if ray.is_initialized():
        yield
        return
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = os.environ.get("RAY_ADDRESS")
    try:
        if address:
            _knock(address)
            ray.init(address=address, **quiet)
        else:
            ray.init(address="local", num_cpus=threads.usable_cores(), include_dashboard=False,
                     **quiet)
    except (OSError, RuntimeError) as error:
        if not address:
            raise OSError(f"--executor=ray: Ray did not start on this machine ({error}); use "
                          "--executor=threads") from None
        raise OSError(f"RAY_ADDRESS={address}: no Ray cluster answers there ({error}); start one, "
                      "or unset it") from None
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """OSError where nobody listens at HOST:PORT; Ray itself would wait for minutes."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()


def _each_on_ray(function, items: Iterable, chunk: int) -> Iterator:
    """The results of `each`, a few tasks ahead of who takes them."""
    ray = _ray()
    with _connected(ray):
        # One core a task, so that a task is handed to another worker when its own is gone.
        task = ray.remote(num_cpus=1, max_retries=RETRIES)(_run_part)
        shared, folder = ray.put(function), os.getcwd()
        limit = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
        out: deque = deque()
        items = iter(items)
        try:
            while part := list(itertools.islice(items, chunk)):
                out.append(task.remote(shared, part, folder))
                if len(out) >= limit:
                    yield from _result(ray, out.popleft())
            while out:
                yield from _result(ray, out.popleft())
        finally:
            for left in out:  # after an error nobody wants them
                ray.cancel(left, force=False)


def _run_part(function, part, folder):
    """What a worker does; the paths that it gets count from the folder of the command."""
    with contextlib.suppress(FileNotFoundError):
        os.chdir(folder)
    return [function(item) for item in part]


def _result(ray, reference) -> list:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise OSError(f"Ray: a worker died {RETRIES + 1} times at one task ({type(error).__name__};"
                      " out of memory?); the same command goes on from here") from None
