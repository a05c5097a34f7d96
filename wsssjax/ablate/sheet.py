"""A table whose cells are still numbers: its columns, its notes, and it as text and as CSV."""

from __future__ import annotations

import csv
import io
import statistics
import textwrap
from typing import NamedTuple

from wsssjax.ablate import cells
from wsssjax.ablate.cells import Stat
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


SUPERVISION = Column("supervision", "supervision")
MIOU = Column("miou", "mIoU %", SHARE, stat=True)
LABEL_MIOU = Column("label_miou", "label mIoU %", SHARE, stat=True)
SPREAD = "± is the sample standard deviation over seeds; (2 of 3): seeds that have run."


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
    texts = [[_printable(cell) for cell in row] for row in (table.columns, *table.rows)]
    sizes = [max(map(len, column)) for column in zip(*texts, strict=True)]
    heads = list(range(table.heads))
    lines = [_printable(table.title)]
    for block in _blocks(sizes, table.heads, width):
        at = heads + block
        rule = "  ".join("-" * sizes[i] for i in at)
        lines += ["", *("  ".join(row[i].ljust(sizes[i]) if i in heads else row[i].rjust(sizes[i])
                                  for i in at).rstrip() for row in texts)]
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


# ---- what tables share ----------------------------------------------------------------------


def title(text: str, rows: list[dict], field: str = "miou") -> str:
    """The text, and how many of the rows have a value where not all do."""
    done = sum(row[field] is not None for row in rows)
    return text if done == len(rows) else f"{text} ({done} of {len(rows)} cells done)"


def lines(*parts: str) -> str:
    """A note of those parts that say something, a line each."""
    return "\n".join(filter(None, parts))


def all_have(found: list, but: tuple[str, ...] = ()) -> str:
    """A sentence on what all cells of a table have in common."""
    text = cells.fixed(found, but)
    return f"All rows: {text}." if text else ""


def axis_columns(axes: list[str]) -> tuple[Column, ...]:
    heads = [cells.HEADS.get(name, name) for name in axes]
    return tuple(Column(head.replace(" ", "_"), head) for head in heads)


def supervision(*by_seed: dict) -> str | None:
    """The supervision of the rows, different ones apart: `I+S`, `I+S / F`."""
    letters = dict.fromkeys(row["supervision"] for rows in by_seed for row in rows.values()
                            if row["supervision"])
    return " / ".join(letters) or None


def arm_name(arm: str) -> str:
    """The arm in few words, where it stands for labels without selection."""
    return {"L": "L, a given list of images",
            "U": "U, a random draw of equal size"}[arm]


def arms_told(arms: list[str]) -> str:
    """What each of the arms trains on, as a sentence."""
    told = [f"{arm}: {text}" for arm, text in tables.ARMS.items() if arm in arms]
    return f"Arms: {'; '.join(told)}." if told else ""


def class_names(table: dict, rows: list[dict]) -> list[str]:
    """The classes but the background, and what else the rows count."""
    names = table["classes"][1:]
    return names + sorted({name for row in rows for name in row["counts"] or ()} - set(names))


def counts(by_seed: dict, names: list[str]) -> list[float | None]:
    """Images of each class, a mean where seeds differ; None where nothing is known."""
    known = [row["counts"] for row in by_seed.values() if row["counts"] is not None]
    return [whole(statistics.fmean(c.get(name, 0) for c in known)) if known else None
            for name in names]


def whole(value: float) -> float:
    """The number as an integer where it is one."""
    return int(value) if value == int(value) else value


def count_columns(names: list[str]) -> tuple[Column, ...]:
    return tuple(Column(name, name, COUNT) for name in names)
