"""What a training has scored so far: every evaluation, and which was the best and the last.

`scores.json` holds, for the student and (where there is one) the EMA teacher, the best and the last
evaluation with step, epoch, mIoU and IoU of each class, and the mIoU of all. Published numbers of
UniMatch V2 are the teacher's best, which is a choice made on the validation list; the last is not.
"""

from __future__ import annotations

import os
import pathlib

from wsssjax.core import files, parallel, weights
from wsssjax.core.state import TrainState

FILE = "scores.json"
SUFFIX = {"student": "", "teacher": "_ema"}


def flat(found: dict[str, dict]) -> dict[str, float]:
    """{"val/miou": student, "val/miou_ema": teacher} for the log."""
    return {f"val/miou{SUFFIX[who]}": scores["miou"] for who, scores in found.items()}


def export(workdir: str | os.PathLike, state: TrainState, which: str = "",
           who: str | None = None) -> None:
    """Writes `weights<_ema><which>.safetensors` of student and teacher, or of one of them."""
    host = parallel.to_host(state)
    for name, suffix in SUFFIX.items():
        if who in (None, name) and (name == "student" or host.ema is not None):
            weights.save(pathlib.Path(workdir) / f"weights{suffix}{which}.safetensors",
                         host.variables(ema=name == "teacher"))


class Best:
    """Keeps `scores.json` and the weights of the best evaluations. Opened at `step`, evaluations of
    later steps are dropped: the run that made them was killed, and this one will make them again.
    """

    def __init__(self, folder: str | os.PathLike, step: int):
        self.folder = pathlib.Path(folder)
        path = self.folder / FILE
        found = files.read_json(path)["evaluations"] if path.is_file() else []
        self.rows = [row for row in found if row["step"] <= step]

    def add(self, step: int, epoch: float, found: dict[str, dict], state: TrainState) -> None:
        """Notes one evaluation; a tie with the best takes its place, as in the reference."""
        row = {"step": step, "epoch": round(epoch, 3)}
        self.rows.append(row | {who: {"miou": s["miou"], "iou": s["iou"]}
                                for who, s in found.items()})
        for who in found:
            if self.best(who) is self.rows[-1]:
                export(self.folder, state, "_best", who)
        files.write_json(self.folder / FILE, {
            **{who: {"best": self._one(self.best(who), who), "last": self._one(self.rows[-1], who)}
               for who in found},
            "evaluations": self.rows})

    def best(self, who: str) -> dict:
        """The evaluation with the highest mIoU, the latest of several."""
        return max(self.rows, key=lambda row: (row[who]["miou"], row["step"]))

    def table(self) -> str:
        """Best and last mIoU in %, student and teacher, a line each."""
        lines = ["mIoU on the validation list, % (chosen on it: best; not chosen: last)"]
        for who in SUFFIX:
            if not self.rows or who not in self.rows[-1]:
                continue
            best, last = self.best(who), self.rows[-1]
            lines.append(f"  {who + (' (EMA)' if who == 'teacher' else ''):14s} best "
                         f"{100 * best[who]['miou']:5.2f} (epoch {best['epoch']:g})   last "
                         f"{100 * last[who]['miou']:5.2f} (epoch {last['epoch']:g})")
        return "\n".join(lines)

    @staticmethod
    def _one(row: dict, who: str) -> dict:
        return {"step": row["step"], "epoch": row["epoch"], **row[who]}
