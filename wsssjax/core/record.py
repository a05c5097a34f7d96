"""What a training writes down as it goes; the first host alone writes, all of them check."""

from __future__ import annotations

import os
import pathlib
from typing import Any

from wsssjax.core import logs, parallel, scores
from wsssjax.core.state import TrainState


class Record:
    """`metrics.jsonl`, and with `scored` also `scores.json` and the best weights, in `folder`.

    Opened at `step`, what was written of later steps is dropped.
    """

    def __init__(self, folder: str | os.PathLike, step: int, *, tensorboard: bool, scored: bool):
        self.folder = pathlib.Path(folder)
        self.writes = parallel.process()[0] == 0
        self.log = self.best = None
        if self.writes:
            self.log = logs.MetricsLog(folder, step, tensorboard=tensorboard)
            self.best = scores.Best(folder, step) if scored else None
        self.values: dict[str, list] = {}

    def add(self, metrics: dict[str, Any]) -> None:
        """Keeps the scalars of one step until the next `write`."""
        for name, value in metrics.items():
            self.values.setdefault(f"train/{name}", []).append(value)

    def write(self, step: int) -> None:
        """Logs the means since the last call; ValueError, on every host, for a loss not finite."""
        means = logs.means(step, self.values)
        self.values = {}
        if self.writes:
            self.log.write(step, means)

    def check(self, step: int) -> None:
        """ValueError, as in `write`, before anything is made of the state of this step."""
        logs.means(step, self.values)

    def score(self, step: int, epoch: float, found: dict[str, dict], state: TrainState) -> None:
        """Logs and keeps an evaluation; found: {"student": scores, "teacher": scores}."""
        if self.writes:
            self.log.write(step, scores.flat(found))
            self.best.add(step, epoch, found, state)

    def finish(self, state: TrainState) -> None:
        """Closes the log, exports the weights, prints the best and the last score."""
        if self.writes:
            self.log.close()
            scores.export(self.folder, state)
            if self.best:
                print(self.best.table(), flush=True)
