"""Training curves: `metrics.jsonl` always, TensorBoard where asked, and no non-finite loss."""

from __future__ import annotations

import json
import math
import os
import pathlib


def read_metrics(path: str | os.PathLike) -> list[dict]:
    """The lines of a `metrics.jsonl`; a last line that a kill cut short is left out."""
    path = pathlib.Path(path)
    rows = []
    if not path.is_file():
        return rows
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True), 1):
        if not line.endswith("\n"):
            break
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            raise ValueError(f"{path}, line {number}: not JSON; remove the line") from None
    return rows


def means(step: int, values: dict[str, list]) -> dict[str, float]:
    """The mean of each list of scalars, the last of which belong to `step`.

    ValueError that names the first step at which a loss or a gradient was not finite: parameters
    are spoilt from there on.
    """
    found = {name: [float(v) for v in listed] for name, listed in values.items()}
    bad = [(step - len(listed) + 1 + i, "loss" not in name, name, value)
           for name, listed in found.items() if "loss" in name or "grad" in name
           for i, value in enumerate(listed) if not math.isfinite(value)]
    if bad:
        first, _, name, value = min(bad, key=lambda row: row[:3])
        raise ValueError(f"step {first}: {name} is {value}; lower config.optim.lr in another "
                         "--workdir (the last good checkpoint is kept here)")
    return {name: sum(listed) / len(listed) for name, listed in found.items()}


class MetricsLog:
    """Appends one flat object a line. Opened at `step`, lines of later steps are dropped: the run
    that wrote them was killed, and this one will write them again."""

    def __init__(self, folder: str | os.PathLike, step: int, *, tensorboard: bool = False):
        self.path = pathlib.Path(folder) / "metrics.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = [row for row in read_metrics(self.path) if row["step"] <= step]
        temporary = self.path.with_name(".metrics.jsonl.wsssjax-tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        os.replace(temporary, self.path)
        self.file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115  (closed in close)
        self.board = None
        if tensorboard:
            from tensorboardX import SummaryWriter

            self.board = SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, step: int, values: dict) -> None:
        """Writes {name: number}."""
        row = {"step": int(step)} | {k: float(v) for k, v in sorted(values.items())}
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()
        if self.board:
            for name, value in row.items():
                if name != "step":
                    self.board.add_scalar(name, value, step)

    def close(self) -> None:
        self.file.close()
        if self.board:
            self.board.close()
