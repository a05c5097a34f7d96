"""What a run folder holds, read and checked before anything is drawn."""

from __future__ import annotations

import dataclasses
import pathlib

import pyarrow
import pyarrow.parquet

from wsssjax.core import logs
from wsssjax.report.checks import (
    COUNTS,
    NAMES,
    NUMBER,
    NUMBERS,
    POINTS,
    SCORES,
    TEXT,
    read_object,
    short,
)

_SCORED = {"method": TEXT, "supervision": TEXT, "miou": NUMBER, "iou": SCORES}
# What results.json may hold; every part may be missing, none may be of another type.
_RESULTS = {
    "title": TEXT,
    "classes": NAMES,
    "pair": NAMES,
    "labels": {"*": _SCORED},
    "context": {"*": {"*": {"ratio": NUMBER, "iou": NUMBER}}},
    "saliency": {"*": NUMBER},
    "histogram": {"edges": NUMBERS, "counts": {"*": NUMBERS}},
    "selection": {
        "count": NUMBER, "quota": COUNTS, "taken": COUNTS, "counts": COUNTS,
        "selected_miou": NUMBER, "rest_miou": NUMBER, "random_miou": NUMBER,
        "single_class_share": NUMBER, "mean_iou": {"*": NUMBER},
    },
    "arms": {"*": _SCORED | {"labelled": NUMBER, "mask_ratio": POINTS}},
}
_GALLERY = {"image_root": TEXT, "truth_root": TEXT, "best": NAMES, "worst": NAMES,
            "borderline": NAMES}
_EVALUATED = {"*": {"miou": NUMBER, "iou": SCORES, "step": NUMBER, "epoch": NUMBER}}
_VALIDATION = {"student": _EVALUATED, "teacher": _EVALUATED}
_MANIFEST = {"inputs": {}, "device_batch": NUMBER, "wall_s": NUMBER, "id_count": NUMBER}
_CURVES = ("thresholds", "miou", "fp", "fn", "precision", "recall")
# What `python -m wsssjax.evaluate --metrics=sweep --json=sweep.json` writes.
_SWEEP = {"images": NUMBER, "sweep": {**dict.fromkeys(_CURVES, NUMBERS),
                                   "best": {"threshold": NUMBER, "miou": NUMBER},
                                   "stop": TEXT}}
_PAIR_COLUMNS = {
    "id": pyarrow.types.is_string, "iou": pyarrow.types.is_floating,
    "rank": pyarrow.types.is_integer, "selected": pyarrow.types.is_boolean,
}


@dataclasses.dataclass(frozen=True)
class Step:
    """One step's folder: what it was told, what it did, what it logged; each may be missing."""

    name: str
    config: dict | None
    manifest: dict | None
    metrics: tuple[dict, ...]


@dataclasses.dataclass(frozen=True)
class Run:
    """A run folder in memory, except for its pictures."""

    folder: pathlib.Path
    results: dict
    config: dict | None
    steps: tuple[Step, ...]
    gallery: dict
    scores: dict  # of a single training: student and teacher, best and last
    pairs: dict[str, dict]  # by image id: iou of its two labels, rank, selected
    sweeps: dict[str, dict]  # by step: curves over the background threshold


def read_run(folder) -> Run:
    """The run under `folder`; ValueError names the first file that is broken.

    A recipe's folder holds results.json and one folder a step; a single training holds
    metrics.jsonl and config.json itself and is read as one step.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; --run wants the --workdir of a run")
    results = read_object(folder / "results.json", _RESULTS) or {}
    own = _read_step(folder, "training")
    inner = [_read_step(path, path.name) for path in sorted(folder.iterdir()) if path.is_dir()]
    steps = [step for step in inner if step.config or step.manifest or step.metrics]
    if own.metrics or (own.manifest and not steps):
        steps.append(own)
    sweeps = _read_sweeps(folder)
    if not (results or steps or own.config or sweeps):
        raise ValueError(f"{folder}: holds no results.json, metrics.jsonl or step folder; "
                         "--run wants the --workdir of a run")
    gallery = read_object(folder / "evaluate" / "gallery.json", _GALLERY) or {}
    for name in (n for group in ("best", "worst", "borderline") for n in gallery.get(group, ())):
        if not name or "/" in name or "\\" in name or "\0" in name:
            raise ValueError(f"{folder / 'evaluate' / 'gallery.json'}: {name!r} is no image id; "
                             "want a file name without folder and suffix")
    scores = read_object(folder / "scores.json", _VALIDATION) or {}
    return Run(folder, results, own.config, tuple(_in_order(steps)), gallery, scores,
               _read_pairs(folder / "select" / "selection.parquet"), sweeps)


def _read_step(folder: pathlib.Path, name: str) -> Step:
    return Step(name, read_object(folder / "config.json", {}),
                read_object(folder / "manifest.json", _MANIFEST),
                _read_metrics(folder / "metrics.jsonl"))


def _read_sweeps(folder: pathlib.Path) -> dict[str, dict]:
    """The sweep.json of the folder itself, as "run", and of each folder in it, by its name."""
    found = {}
    for name, path in [("run", folder), *((p.name, p) for p in sorted(folder.iterdir()))]:
        path = path / "sweep.json"
        value = read_object(path, _SWEEP)
        if value is None:
            continue
        sweep = value.get("sweep") or {}
        lengths = {len(sweep.get(key) or ()) for key in _CURVES}
        best = sweep.get("best") or {}
        if len(lengths) != 1 or 0 in lengths or None in map(best.get, ("threshold", "miou")):
            raise ValueError(f"{path}: no curves of equal length with a best threshold; write it "
                             "with python -m wsssjax.evaluate --metrics=sweep --json=sweep.json")
        found[name] = {**sweep, "images": value.get("images")}
    return found


def _read_metrics(path: pathlib.Path) -> tuple[dict, ...]:
    try:
        rows = logs.read_metrics(path)
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a text file; want one JSON object a line") from None
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: {short(row)} is no object; remove the line")
    return tuple(rows)


def _read_pairs(path: pathlib.Path) -> dict[str, dict]:
    if not path.exists():
        return {}
    try:
        # Opened here: given a path, pyarrow would take a folder of that name for a data set.
        with open(path, "rb") as file:
            parquet = pyarrow.parquet.ParquetFile(file)
            schema = parquet.schema_arrow
            for name, fits in _PAIR_COLUMNS.items():
                if name not in schema.names or not fits(schema.field(name).type):
                    raise ValueError(f"{path}: no fit column {name!r}; run select again")
            rows = parquet.read(columns=list(_PAIR_COLUMNS)).to_pylist()
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path}: no readable parquet file ({error}); select again") from None
    return {row["id"]: row for row in rows}


def _in_order(steps: list[Step]) -> list[Step]:
    """Steps sorted so that none stands before a step that its manifest lists among its inputs."""
    depth = {step.name: 0 for step in steps}
    for _ in steps:  # the longest chain of inputs is settled after that many rounds
        for step in steps:
            inputs = (step.manifest or {}).get("inputs") or ()
            before = [depth[n] for n in inputs if n in depth]
            depth[step.name] = min(1 + max(before, default=0), len(steps))
    return sorted(steps, key=lambda step: (depth[step.name], step.name))
