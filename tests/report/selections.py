"""Selections made by hand: the files that `python -m wsssjax.select` leaves, without running it."""

import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from wsssjax.core import files

QUOTA = {"cat": 2, "dog": 1, "owl": 0}
# id, score, classes, reason, filled; by rank, with every reason that there is.
EVERY_REASON = [
    ("b", 0.95, ["cat"], "quota", ["cat"]),
    ("a", 0.91, ["cat", "dog"], "quota", ["cat", "dog"]),
    ("h", 0.90, [], "no_class", []),
    ("c", 0.80, ["cat", "dog"], "full", []),
    ("d", 0.70, ["owl"], "full", []),
    ("e", 0.30, ["dog"], "below", []),
    ("f", 0.00, [], "empty", []),
]
IN_WORDS = {
    "b": "filled cat, which had 0 of 2",
    "a": "filled cat, which had 1 of 2 and dog, which had 0 of 1",
    "h": "holds no foreground class",
    "c": "all its classes were full: cat 2 of 2, dog 1 of 1",
    "d": "all its classes were full: owl not wanted",
    "e": "IoU not above 0.5",
    "f": "no foreground where both labels speak",
}


def table(rows, names, *, old: bool = False) -> pa.Table:
    """The table of `rows` (see EVERY_REASON), by id. old: as it was without score and filled."""
    ranked = sorted(((rank, *row) for rank, row in enumerate(rows, 1)), key=lambda row: row[1])
    rank, ids, score, classes, reason, filled = map(list, zip(*ranked, strict=True))
    ious = [pa.array([s if n in c else None for s, c in zip(score, classes, strict=True)],
                     pa.float64()) for n in names]
    columns = {
        "id": pa.array(ids, pa.string()), "iou": pa.array(score, pa.float64()),
        "score": pa.array(score, pa.float64()),
        "class_iou": pa.StructArray.from_arrays(ious, names=list(names)),
        "classes": pa.array(classes, pa.list_(pa.string())), "rank": pa.array(rank, pa.int64()),
        "selected": pa.array([r in ("quota", "min_iou") for r in reason], pa.bool_()),
        "reason": pa.array(reason, pa.string()).dictionary_encode(),
        "filled": pa.array(filled, pa.list_(pa.string())),
    }
    if old:
        columns = {n: c for n, c in columns.items() if n not in ("score", "filled")}
        columns["reason"] = columns["reason"].cast(pa.string())
    return pa.table(columns)


def write(folder, rows=EVERY_REASON, quota=QUOTA, *, min_iou=0.5, old=False, names=None,
          row_group=3, **summary) -> pathlib.Path:
    """The folder, with selection.parquet and summary.json."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = list(quota) if names is None else names
    pyarrow.parquet.write_table(table(rows, names, old=old), folder / "selection.parquet",
                                row_group_size=row_group)
    taken = {n: sum(n in row[4] for row in rows) for n in names}
    chosen = [row for row in rows if row[3] in ("quota", "min_iou")]
    files.write_json(folder / "summary.json", {
        "images": len(rows), "selected": len(chosen), "quota": quota, "taken": taken,
        "counts": {n: sum(n in row[2] for row in chosen) for n in names},
        "unmet": {n: quota[n] - taken[n] for n in names if quota and quota[n] > taken[n]},
        "min_iou": min_iou, "iou": "foreground", "pool": "second", **summary})
    return folder


def many(count, names, quota, seed=0):
    """`count` rows of noise that Algorithm 1 selected, by rank."""
    rng = np.random.default_rng(seed)
    score_n = np.sort(rng.beta(4, 2, count))[::-1]
    taken = dict.fromkeys(names, 0)
    rows = []
    for i, score in enumerate(score_n):
        classes = [n for n, has in zip(names, rng.random(len(names)) < 0.08, strict=True) if has]
        filled = [n for n in classes if taken[n] < quota[n]]
        for name in filled:
            taken[name] += 1
        reason = "quota" if filled else "full" if classes else "no_class"
        rows.append((f"2008_{int(rng.integers(10**9)):09d}_{i}", float(score), classes, reason,
                     filled))
    return rows
