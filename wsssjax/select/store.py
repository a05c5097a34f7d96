"""The files of a selection: one table, two lists for the segmenter, one summary.

The writers take the score files again, one at a time: no list of all rows is ever in memory.
"""

from __future__ import annotations

import io
import os
import pathlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wsssjax.core import files
from wsssjax.core.constants import BACKGROUND
from wsssjax.select import blocks, greedy, iou, labels

TABLE, LABELED, UNLABELED = "selection.parquet", "labeled.txt", "unlabeled.txt"
SUMMARY = "summary.json"
GROUP = 1 << 16  # rows of a row group
REPEATED = ["reason", "classes.list.element", "filled.list.element"]  # columns of few values


def clear(out) -> None:
    """Removes an earlier selection: what a kill leaves must not mix two."""
    for name in (SUMMARY, LABELED, UNLABELED, TABLE):
        (pathlib.Path(out) / name).unlink(missing_ok=True)
    labels.remove(pathlib.Path(out) / labels.FOLDER)


def schema(class_names) -> pa.Schema:
    """Columns of `selection.parquet`; class_names: foreground only.

    class_iou: a struct with a field per foreground class, null where neither map has the class.
    classes: those of the image.  filled: those that were short and got it.  rank: 1 = best.
    """
    fields = [pa.field(name, pa.float64()) for name in class_names]
    return pa.schema([
        ("id", pa.string()), ("iou", pa.float64()), ("score", pa.float64()),
        ("class_iou", pa.struct(fields)), ("classes", pa.list_(pa.string())),
        ("rank", pa.int64()), ("selected", pa.bool_()),
        ("reason", pa.dictionary(pa.int8(), pa.string())), ("filled", pa.list_(pa.string())),
    ])


def _name_lists(words_nw, class_names) -> pa.ListArray:
    """The names of the classes in bit masks, a list a row."""
    has_nk = greedy.unpack(words_nw, len(class_names))
    offsets = pa.array(np.concatenate([[0], has_nk.sum(1).cumsum()]), pa.int32())
    names = pa.array(class_names, pa.string()).take(pa.array(np.nonzero(has_nk)[1]))
    return pa.ListArray.from_arrays(offsets, names)


def tables(scored: blocks.Blocks, found: blocks.Columns, score_n, selection: greedy.Selection,
           class_names) -> Iterator[pa.Table]:
    """The rows of `selection.parquet`, a table a block."""
    start, reasons = 0, pa.array(greedy.REASONS, pa.string())
    for block in scored:
        rows = slice(start, start + len(block.ids))
        start = rows.stop
        iou_nk = iou.class_ious(block.counts)[:, BACKGROUND + 1:]
        fields = [pa.array(np.ascontiguousarray(c), pa.float64(), mask=np.isnan(c))
                  for c in iou_nk.T]
        reason = pa.DictionaryArray.from_arrays(
            pa.array(selection.reason[rows].astype(np.int8)), reasons)
        columns = (block.ids, found.iou[rows], score_n[rows],
                   pa.StructArray.from_arrays(fields, names=list(class_names)),
                   _name_lists(found.words[rows], class_names), selection.rank[rows],
                   pa.array(selection.selected[rows]), reason,
                   _name_lists(selection.filled[rows], class_names))
        yield pa.table([pa.array(c) if isinstance(c, np.ndarray) else c for c in columns],
                       schema=schema(class_names))


def write_table(out, parts: Iterator[pa.Table], class_names) -> None:
    """Writes `selection.parquet`, one row per image, by id; see `schema`."""
    waiting: list[pa.Table] = []
    with files.atomic(pathlib.Path(out) / TABLE) as file, \
            pq.ParquetWriter(file, schema(class_names), use_dictionary=REPEATED) as writer:
        for part in parts:
            waiting.append(part)
            if sum(map(len, waiting)) >= GROUP:
                rows = pa.concat_tables(waiting)
                writer.write_table(rows.slice(0, GROUP).combine_chunks())
                waiting = [rows.slice(GROUP)]
        rows = pa.concat_tables(waiting) if waiting else schema(class_names).empty_table()
        if len(rows):
            writer.write_table(rows.combine_chunks())


def read_table(folder) -> dict[str, list]:
    """The columns of `selection.parquet` as lists; ValueError names a broken file."""
    return read_arrow(folder).to_pydict()


def read_arrow(folder) -> pa.Table:
    """`selection.parquet` as an Arrow table; ValueError names a broken file."""
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
    return table


class Lines:
    """`<image path> <label path>` of every id, the line format of UniMatch V2.

    names: sorted ids.  images: folder or list of photos; None writes `JPEGImages/<id>.jpg`.
    labels: folder of the label maps.  gathered: folder of the selected ones, if it is another.
    """

    def __init__(self, names: pa.StringArray, images: str | None, labels, gathered=None):
        self.names, self.labels, self.gathered = names, str(labels), gathered
        self.paths = self.at = None
        if images is not None:
            photos, self.paths = _photos(images)
            self.at = pc.index_in(names, value_set=photos)
            missing = names.filter(self.at.is_null())
            if len(missing):
                raise ValueError(f"--images: holds no photo of {missing[0].as_py()!r} and "
                                 f"{len(missing) - 1} others; name the folder of all photos")
        for start in range(0, len(names), GROUP):  # before hours of work, not after them
            columns = self._columns(start, start + GROUP, None)
            if gathered is not None:
                columns += (_path(gathered, names.slice(start, GROUP), ".png"),)
            for column in columns:
                bad = column.filter(pc.match_substring_regex(column, r"\s"))
                if len(bad):
                    raise ValueError(f"{bad[0].as_py()!r}: a path with a space cannot stand in a "
                                     "list line; rename it")

    def _columns(self, start, stop, selected):
        names = self.names.slice(start, stop - start)
        photo = (self.paths.take(self.at.slice(start, stop - start)) if self.paths is not None
                 else _path("JPEGImages", names, ".jpg"))
        label = _path(self.labels, names, ".png")
        if self.gathered is not None and selected is not None:
            label = pc.if_else(selected, _path(self.gathered, names, ".png"), label)
        return photo, label

    def write(self, out, selected_n) -> None:
        """Writes `labeled.txt` (the selected) and `unlabeled.txt` (the rest), both by id."""
        out = pathlib.Path(out)
        with files.atomic(out / LABELED) as yes, files.atomic(out / UNLABELED) as no:
            for start in range(0, len(self.names), GROUP):
                selected = pa.array(selected_n[start:start + GROUP])
                lines = pc.binary_join_element_wise(
                    *self._columns(start, start + GROUP, selected), " ")
                for file, mask in ((yes, selected), (no, pc.invert(selected))):
                    file.write("".join(f"{t}\n" for t in lines.filter(mask).to_pylist()).encode())


def _path(folder, names: pa.StringArray, suffix: str):
    start = os.path.join(str(pathlib.Path(folder)), "") if str(folder) != "." else ""
    return pc.binary_join_element_wise(pa.scalar(start), names, pa.scalar(suffix), "")


def _photos(images: str) -> tuple[pa.StringArray, pa.StringArray]:
    """(ids, paths) of photos, see `core.files.photo_paths`."""
    found = files.photo_paths(images)
    return (pa.array(list(found), pa.string()),
            pa.array([str(path) for path in found.values()], pa.string()))


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
