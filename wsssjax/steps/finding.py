"""What the check of a recipe found of one input, and the lines that tell it."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from wsssjax.core import cli, threads

SHOWN = 20  # problems of one input that are written out; all are counted
SAMPLE = 202  # files of a folder or list that are opened: the first, the last, 200 between


class Finding(NamedTuple):
    """what: the input.  where: its file or folder.  found: counts and sizes.  problems: what a run
    would fail on or learn wrongly, with its cure.  warnings: what may be as it should."""

    what: str
    where: str = ""
    found: str = ""
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """For the terminal: one line, or one a problem, and one a warning."""
        shown = [self._placed(text) for text in self.problems[:SHOWN]]
        if len(self.problems) > SHOWN:
            shown.append(f"{len(self.problems) - SHOWN:,} more such problems")
        out = [f"PROBLEM  {self.what}: {text}" for text in shown]
        if not self.problems:
            out = ["ok       " + ": ".join(t for t in (self.what, self.where, self.found) if t)]
        return out + [f"warning  {self.what}: {self._placed(text)}" for text in self.warnings]

    def _placed(self, text: str) -> str:
        return text if not self.where or self.where in text else f"{self.where}: {text}"


def look(what: str, where: str | os.PathLike, act: Callable[[], str], cure: str = "",
         warnings: Iterable[str] = ()) -> Finding:
    """The finding of `act`, which gives what it found, or raises the problem.

    cure: added where a file is not there.
    """
    try:
        return Finding(what, str(where), act(), warnings=tuple(warnings))
    except (ValueError, OSError) as error:
        missing = isinstance(error, FileNotFoundError)
        return Finding(what, str(where), problems=(cli.one_line(error) + cure * missing,),
                       warnings=tuple(warnings))


def problems_of(act: Callable, items: Sequence) -> list[str]:
    """The problems that `act(item)` raises, of all items, on all cores."""
    def one(item):
        try:
            act(item)
        except (ValueError, OSError) as error:
            return cli.one_line(error)
        return ""

    return [problem for problem in threads.each(one, items) if problem]


def spread(items: Sequence, count: int = SAMPLE) -> list:
    """At most `count` of the items, evenly spread, the first and the last among them.

    >>> spread(range(10), 4)
    [0, 3, 6, 9]
    """
    places = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[i] for i in places]


def size(path: str | os.PathLike) -> str:
    """`346.4 MB`, of a file."""
    count = pathlib.Path(path).stat().st_size
    unit, name = next((u, n) for u, n in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "bytes"))
                      if count >= u or u == 1)
    return f"{count / unit:.1f} {name}" if unit > 1 else f"{count} bytes"
