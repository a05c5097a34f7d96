"""The files of a selection: one table, two lists for the segmenter, one summary."""

from __future__ import annotations

import io
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq

from wsssjax.core import files

TABLE, LABELED, UNLABELED = "selection.parquet", "labeled.txt", "unlabeled.txt"


def write_table(out, *, ids, iou_n, class_iou_nk, classes_nk, selection, class_names) -> None:
    """Writes `selection.parquet`, one row per image, by id.

    Columns: id; iou; class_iou, a struct with a field per foreground class, null where neither map
    has the class; classes, the names of the image's classes; rank, 1 = best; selected; reason.
    class_names: foreground only.
    """
    classes = [[n for n, has in zip(class_names, row, strict=True) if has] for row in classes_nk]
    # from_pandas turns NaN, "in neither map", into null.
    fields = [pa.array(column, pa.float64(), from_pandas=True) for column in class_iou_nk.T]
    table = pa.table({
        "id": pa.array(ids, pa.string()),
        "iou": pa.array(iou_n, pa.float64()),
        "class_iou": pa.StructArray.from_arrays(fields, names=list(class_names)),
        "classes": pa.array(classes, pa.list_(pa.string())),
        "rank": pa.array(selection.rank, pa.int64()),
        "selected": pa.array(selection.selected, pa.bool_()),
        "reason": pa.array(selection.reason, pa.string()),
    })
    with files.atomic(pathlib.Path(out) / TABLE) as file:
        pq.write_table(table, file)


def read_table(folder) -> dict[str, list]:
    """The columns of `selection.parquet` as lists; ValueError names a broken file."""
    path = pathlib.Path(folder) / TABLE
    try:
        table = pq.read_table(io.BytesIO(path.read_bytes()))
    except pa.ArrowException as error:
        raise ValueError(f"{path}: not a readable parquet file ({error}); "
                         "run wsssjax.select again") from None
    missing = {"id", "iou", "classes", "selected"} - set(table.column_names)
    if missing:
        raise ValueError(f"{path}: has no column {sorted(missing)[0]!r}; "
                         "run wsssjax.select again")
    return table.to_pydict()


def list_lines(ids, photos: dict[str, pathlib.Path] | None, labels) -> dict[str, str]:
    """`<image path> <label path>` by id, the line format of UniMatch V2.

    photos: paths by id; None writes `JPEGImages/<id>.jpg`.  labels: folder of the label maps.
    """
    lines = {}
    for name in ids:
        if photos is not None and name not in photos:
            missing = [i for i in ids if i not in photos]
            raise ValueError(f"--images: holds no photo of {name!r} and {len(missing) - 1} others; "
                             "name the folder of all photos")
        photo = photos[name] if photos is not None else pathlib.Path("JPEGImages") / f"{name}.jpg"
        pair = (str(photo), str(pathlib.Path(labels) / f"{name}.png"))
        for path in pair:
            if path.split() != [path]:
                raise ValueError(f"{path!r}: a path with a space cannot stand in a list line; "
                                 "rename it")
        lines[name] = " ".join(pair)
    return lines


def write_lists(out, lines: dict[str, str], selected: set[str]) -> None:
    """Writes `labeled.txt` (the selected) and `unlabeled.txt` (the rest), both by id."""
    for name, want in ((LABELED, True), (UNLABELED, False)):
        text = "".join(f"{lines[i]}\n" for i in sorted(lines) if (i in selected) == want)
        with files.atomic(pathlib.Path(out) / name, "w") as file:
            file.write(text)


def read_lines(folder) -> dict[str, str]:
    """The lines of both lists by id."""
    lines = {}
    for name in (LABELED, UNLABELED):
        for line in (pathlib.Path(folder) / name).read_text(encoding="utf-8").splitlines():
            lines[pathlib.PurePath(line.split()[-1]).stem] = line
    return lines


def mean_ious(iou_n, selected_n) -> dict[str, float | None]:
    """Mean agreement of all, of the selected and of the rest; None for a mean over nothing."""
    parts = {"all": iou_n, "selected": iou_n[selected_n], "rest": iou_n[~selected_n]}
    return {name: float(part.mean()) if part.size else None for name, part in parts.items()}
