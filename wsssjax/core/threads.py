"""Work over many files by a few threads, in order, with progress, stopping at the first error."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from wsssjax.core import progress

A = TypeVar("A")
B = TypeVar("B")
CHUNK = 16  # items a thread does at a time: handing over each small file alone costs more than it


def usable_cores() -> int:
    """The number of cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def each(function: Callable[[A], B], items: Sequence[A], label: str = "", *,
         threads: int | None = None, chunk: int = CHUNK) -> Iterator[B]:
    """`function(item)` for each item, in their order.

    label: shown with rate and time left; "" shows nothing.  threads: None means one a core.
    Decoders and array code let go of Python's lock, so threads are enough and nothing is copied.
    """
    def do(part):
        return [function(item) for item in part]

    parts = [items[i:i + chunk] for i in range(0, len(items), chunk)]
    pool = ThreadPoolExecutor(threads or usable_cores())
    try:
        results = (result for part in pool.map(do, parts) for result in part)
        yield from progress.track(results, len(items), label) if label else results
    finally:
        # After an error nobody wants the thousands of items still queued.
        pool.shutdown(wait=True, cancel_futures=True)


def each_of(function: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """`function(item)` for each item of a stream, in its order, one thread a core.

    The stream goes on meanwhile; results wait for it, so that few items are in memory at a time.
    """
    waiting: deque = deque()
    pool = ThreadPoolExecutor(usable_cores())
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > usable_cores():  # all at work and one to go on with
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class Budget:
    """Bytes that several threads share: `taken(bytes)` waits until they are free."""

    def __init__(self, total: int):
        self.total = self._free = total
        self._changed = threading.Condition()

    def __reduce__(self):  # the threads of another process have a budget of their own
        return Budget, (self.total,)

    @contextlib.contextmanager
    def taken(self, count: int):
        count = min(count, self.total)  # what is larger than all runs alone
        with self._changed:
            self._changed.wait_for(lambda: self._free >= count)
            self._free -= count
        try:
            yield
        finally:
            with self._changed:
                self._free += count
                self._changed.notify_all()
