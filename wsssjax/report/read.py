"""What a run folder holds, read and checked before anything is drawn."""

from __future__ import annotations

import dataclasses
import pathlib

import pyarrow
import pyarrow.parquet

from wsssjax.core import files, logs

_NUMBER, _TEXT, _COUNTS, _SCORES = "a number", "text", "counts by class", "scores by class"
_SCORED = {"method": _TEXT, "supervision": _TEXT, "miou": _NUMBER, "iou": _SCORES}
# What results.json may hold; every part may be missing, none may be of another type.
_RESULTS = {
    "title": _TEXT,
    "classes": "a list of names",
    "labels": {"*": _SCORED},
    "context": {"*": {"*": {"ratio": _NUMBER, "iou": _NUMBER}}},
    "saliency": {"*": _NUMBER},
    "histogram": {"edges": "a list of numbers", "counts": {"*": "a list of numbers"}},
    "selection": {
        "count": _NUMBER, "quota": _COUNTS, "taken": _COUNTS, "counts": _COUNTS,
        "selected_miou": _NUMBER, "rest_miou": _NUMBER, "random_miou": _NUMBER,
        "single_class_share": _NUMBER,
    },
    "arms": {"*": _SCORED | {"labelled": _NUMBER, "mask_ratio": "a list of [step, value]"}},
}
_GALLERY = {"image_root": _TEXT, "truth_root": _TEXT, "best": "a list of names",
            "worst": "a list of names", "borderline": "a list of names"}
_EVALUATED = {"*": {"miou": _NUMBER, "iou": _SCORES, "step": _NUMBER, "epoch": _NUMBER}}
_VALIDATION = {"student": _EVALUATED, "teacher": _EVALUATED}
_MANIFEST = {"inputs": {}, "device_batch": _NUMBER, "wall_s": _NUMBER, "id_count": _NUMBER}
_CURVES = ("thresholds", "miou", "fp", "fn", "precision", "recall")
# What `python -m wsssjax.evaluate --metrics=sweep --json=sweep.json` writes.
_SWEEP = {"images": _NUMBER, "sweep": {**dict.fromkeys(_CURVES, "a list of numbers"),
                                       "best": {"threshold": _NUMBER, "miou": _NUMBER},
                                       "stop": _TEXT}}
_LARGEST = 1e30  # what a chart can still draw
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
    results = _read_object(folder / "results.json", _RESULTS) or {}
    own = _read_step(folder, "training")
    inner = [_read_step(path, path.name) for path in sorted(folder.iterdir()) if path.is_dir()]
    steps = [step for step in inner if step.config or step.manifest or step.metrics]
    if own.metrics or (own.manifest and not steps):
        steps.append(own)
    sweeps = _read_sweeps(folder)
    if not (results or steps or own.config or sweeps):
        raise ValueError(f"{folder}: holds no results.json, metrics.jsonl or step folder; "
                         "--run wants the --workdir of a run")
    gallery = _read_object(folder / "evaluate" / "gallery.json", _GALLERY) or {}
    for name in (n for group in ("best", "worst", "borderline") for n in gallery.get(group, ())):
        if not name or "/" in name or "\\" in name or "\0" in name:
            raise ValueError(f"{folder / 'evaluate' / 'gallery.json'}: {name!r} is no image id; "
                             "want a file name without folder and suffix")
    scores = _read_object(folder / "scores.json", _VALIDATION) or {}
    return Run(folder, results, own.config, tuple(_in_order(steps)), gallery, scores,
               _read_pairs(folder / "select" / "selection.parquet"), sweeps)


def _read_step(folder: pathlib.Path, name: str) -> Step:
    return Step(name, _read_object(folder / "config.json", {}),
                _read_object(folder / "manifest.json", _MANIFEST),
                _read_metrics(folder / "metrics.jsonl"))


def _read_sweeps(folder: pathlib.Path) -> dict[str, dict]:
    """The sweep.json of the folder itself, as "run", and of each folder in it, by its name."""
    found = {}
    for name, path in [("run", folder), *((p.name, p) for p in sorted(folder.iterdir()))]:
        path = path / "sweep.json"
        value = _read_object(path, _SWEEP)
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


def _read_object(path: pathlib.Path, shape: dict) -> dict | None:
    if not path.exists():
        return None
    value = files.read_json(path)
    _check(value, shape, str(path), "")
    return {name: entry for name, entry in value.items() if entry is not None}


def _check(value, shape, path: str, where: str) -> None:
    """Raises for the first entry of `value` whose type is not the one that `shape` names."""
    if value is None and where and ("." not in where or not isinstance(shape, dict)):
        return  # null: not known
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            raise ValueError(f"{path}: {where or 'the file'} is {_short(value)}; want an object")
        for name, entry in value.items():
            inner = shape.get(name, shape.get("*"))
            if inner is not None:
                _check(entry, inner, path, f"{where}.{name}" if where else name)
    elif not _IS[shape](value):
        raise ValueError(f"{path}: {where} is {_short(value)}; want {shape}")


def is_number(value) -> bool:
    """Whether a JSON value is a number that can be drawn."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < _LARGEST  # false for NaN; JSON may hold integers that no float can


def is_numbers(value) -> bool:
    return isinstance(value, list) and all(map(is_number, value))


_IS = {
    _NUMBER: is_number,
    _TEXT: lambda value: isinstance(value, str),
    _COUNTS: lambda value: isinstance(value, dict) and all(map(is_number, value.values())),
    _SCORES: lambda value: isinstance(value, dict) and all(
        v is None or is_number(v) for v in value.values()),
    "a list of names": lambda value: isinstance(value, list) and all(
        isinstance(v, str) for v in value),
    "a list of numbers": is_numbers,
    "a list of [step, value]": lambda value: isinstance(value, list) and all(
        is_numbers(pair) and len(pair) == 2 for pair in value),
}


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _read_metrics(path: pathlib.Path) -> tuple[dict, ...]:
    try:
        rows = logs.read_metrics(path)
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a text file; want one JSON object a line") from None
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: {_short(row)} is no object; remove the line")
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
