"""A table whose cells are still numbers: shown as text and on a page, or written as CSV."""

from __future__ import annotations

import csv
import io
import textwrap
from typing import NamedTuple

from wsssjax.ablate.paired import Stat
from wsssjax.report import tables

WORD, COUNT, SHARE, POINTS, RATIO = "word", "count", "share", "points", "ratio"
TEXT_WIDTH = 110  # characters; a wider table goes on below, its first columns repeated


class Column(NamedTuple):
    """key: its name in the CSV.  head: its name in the table.  kind: one of the words above.
    stat: whether cells may be a `Stat`, which takes three columns of the CSV."""

    key: str
    head: str
    kind: str = WORD
    stat: bool = False


class Sheet(NamedTuple):
    """Cells are texts, numbers (shares as fractions), `Stat`, or None where nothing is known."""

    key: str
    title: str
    columns: tuple[Column, ...]  # the words first
    rows: tuple[tuple, ...]
    note: str = ""  # a line each
    drawing: str = ""  # what a terminal shows instead of the cells


def to_table(sheet: Sheet) -> tables.Table:
    """The sheet in text cells: shares in %, differences in points, mean ± sd, a dash for None."""
    rows = tuple(tuple(shown(cell, column) for cell, column in
                       zip(row, sheet.columns, strict=True)) for row in sheet.rows)
    heads = sum(column.kind == WORD for column in sheet.columns)
    return tables.Table(sheet.key, sheet.title, tuple(column.head for column in sheet.columns),
                        rows, sheet.note, heads)


def to_csv(sheet: Sheet) -> str:
    """The sheet as CSV, one line of names: shares, differences and ratios as fractions,
    empty where nothing is known. A mean over seeds has the columns _mean, _sd and _n."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([name for column in sheet.columns for name in (
        [f"{column.key}_{part}" for part in ("mean", "sd", "n")] if column.stat
        else [column.key])])
    for row in sheet.rows:
        writer.writerow([value for cell, column in zip(row, sheet.columns, strict=True)
                         for value in _values(cell, column)])
    return file.getvalue()


def to_text(sheet: Sheet, width: int = TEXT_WIDTH) -> str:
    """The sheet for a terminal or a text file, its lines at most `width` characters long unless a
    single column asks for more; its drawing where it has one."""
    if sheet.drawing:
        return sheet.drawing
    table = to_table(sheet)
    cells = [[_printable(cell) for cell in row] for row in (table.columns, *table.rows)]
    sizes = [max(map(len, column)) for column in zip(*cells, strict=True)]
    heads = list(range(table.heads))
    lines = [_printable(table.title)]
    for block in _blocks(sizes, table.heads, width):
        at = heads + block
        rule = "  ".join("-" * sizes[i] for i in at)
        lines += ["", *("  ".join(row[i].ljust(sizes[i]) if i in heads else row[i].rjust(sizes[i])
                                  for i in at).rstrip() for row in cells)]
        lines.insert(len(lines) - len(table.rows), rule)
    if table.note:
        lines.append("")
    for line in table.note.splitlines():
        lines += textwrap.wrap(_printable(line), width)
    return "\n".join(lines) + "\n"


def _blocks(sizes: list[int], heads: int, width: int) -> list[list[int]]:
    """The columns after the first `heads`, in runs that fit into the width beside those."""
    start = sum(size + 2 for size in sizes[:heads]) - 2
    runs, used = [[]], start
    for i in range(heads, len(sizes)):
        if runs[-1] and used + 2 + sizes[i] > width:
            runs.append([])
            used = start
        runs[-1].append(i)
        used += 2 + sizes[i]
    return runs


def shown(cell, column: Column) -> str:
    """The cell as text: `40.3 ± 0.8 (2 of 3)`."""
    if cell is None or (isinstance(cell, Stat) and not cell.n):
        return "–"
    if column.kind == WORD:
        return cell or "–"
    if not isinstance(cell, Stat):
        return _number(cell, column.kind)
    text = _number(cell.mean, column.kind)
    if cell.sd:  # equal in all seeds: no spread to tell of
        text += f" ± {_spread(cell.sd, column.kind)}"
    return text if cell.n == cell.planned else f"{text} ({cell.n} of {cell.planned})"


def _number(value: float, kind: str) -> str:
    if kind == SHARE:
        return tables.percent(value)
    if kind == POINTS:
        return tables.points(value, 0.0)
    if kind == RATIO:
        return f"{value:.3f}"
    return tables.count(value) if value == int(value) else f"{value:,.1f}"


def _spread(sd: float, kind: str) -> str:
    if kind == COUNT:
        return f"{sd:,.1f}"
    return f"{sd:.3f}" if kind == RATIO else tables.percent(sd)


def _values(cell, column: Column) -> list:
    """The cell's entries in a CSV line."""
    parts = (cell.mean, cell.sd, cell.n) if isinstance(cell, Stat) else (cell, None, None)
    return [_plain(part, column.kind) for part in (parts if column.stat else parts[:1])]


def _plain(value, kind: str):
    if value is None:
        return ""
    if isinstance(value, float):
        # Twelve digits: the last ones of a binary difference are noise.
        return int(value) if kind == COUNT and value == int(value) else round(value, 12)
    return value


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
