"""Numba, where it is installed: plain Python loops compiled for one core."""

from __future__ import annotations

import functools
from collections.abc import Callable

try:
    import numba
except ImportError:  # a Python too new for numba: its users fall back to something slower
    numba = None


def jit(function: Callable, **options) -> Callable:
    """`function` compiled, without Python's lock, so that threads can share out the files.

    The machine code is kept on disk, unless there is no folder for it. options: of numba.njit.
    """
    try:
        return numba.njit(nogil=True, cache=True, **options)(function)
    except RuntimeError:  # no folder where the compiled code could be kept
        return numba.njit(nogil=True, **options)(function)


once = functools.cache(jit)  # for functions that are compiled only when they are first called
