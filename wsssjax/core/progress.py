"""One progress line with rate and time left: live on a terminal, every 30 s in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
LOG_EVERY_S = 30.0


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class Progress:
    """Counts finished items and tells rate and time left on stderr; a context manager."""

    def __init__(self, total: int, label: str, *, done: int = 0, unit: str = "images"):
        self.total, self.label, self.unit = total, label, unit
        self.done = self.first = done
        self.start = self.told = time.monotonic()
        self.live = None
        if sys.stderr.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.progress import Progress as Rich

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            self.live = Rich(*columns, TextColumn("{task.fields[note]}"), transient=True)
            self.task = self.live.add_task(label, total=total, completed=done, note="")

    def __enter__(self):
        if self.live:
            from rich.console import Console

            self.live.live.console = Console(stderr=True)
            self.live.start()
        return self

    def __exit__(self, *error):
        if self.live:
            self.live.stop()
        elif error[0] is None and self.told != self.start:
            self._log()

    def note(self) -> str:
        """`12.3 images/s, 0:42 left`, or `8.1 s each, 9:30 left`, of this process's own work."""
        elapsed = max(time.monotonic() - self.start, 1e-9)
        rate = (self.done - self.first) / elapsed
        left = _clock((self.total - self.done) / rate) if rate > 0 else "?"
        pace = f"{rate:.1f} {self.unit}/s" if rate >= 1 or not rate else f"{1 / rate:.1f} s each"
        return f"{pace}, {left} left"

    def _log(self):
        self.told = time.monotonic()
        text = f"{self.label}: {self.done}/{self.total}, {self.note()}"
        print(text, file=sys.stderr, flush=True)

    def advance(self, count: int = 1, extra: str = "") -> None:
        """Adds finished items; `extra` (a loss, for instance) is shown on a terminal."""
        self.done += count
        if self.live:
            note = f"{self.note()}  {extra}".rstrip()
            self.live.update(self.task, completed=self.done, note=note)
        elif time.monotonic() - self.told >= LOG_EVERY_S:
            self._log()


def track(items: Iterable[T], total: int, label: str, unit: str = "images") -> Iterator[T]:
    """Yields the items unchanged and shows how far they are."""
    with Progress(total, label, unit=unit) as progress:
        for item in items:
            yield item
            progress.advance()
