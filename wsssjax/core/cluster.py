"""Where the work over many files runs: threads of this process, or a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from wsssjax.core import config

A = TypeVar("A")
B = TypeVar("B")
EXECUTORS = ("threads", "ray")


def check(executor: str) -> None:
    """ValueError unless it is one of EXECUTORS."""
    config.choose(dict.fromkeys(EXECUTORS), executor, "--executor")


def shard(text: str) -> tuple[int, int]:
    """(i, n) of "i/n", with i = 0 … n - 1.

    >>> shard("0/4")
    (0, 4)
    """
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ValueError(f"--shard={text}: want i/n with i from 0 to n - 1, such as 0/4")
    return int(index), int(count)


def each(function: Callable[[A], B], items: Sequence[A], executor: str = "threads") -> Iterator[B]:
    """`function(item)` for each item, in their order."""
    return map(function, items)
