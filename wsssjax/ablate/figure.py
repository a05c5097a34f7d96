"""Figure 1 of an ablation: how many labels of each set have which IoU with the truth."""

from __future__ import annotations

import html

from wsssjax.ablate.cells import shown
from wsssjax.ablate.sheet import COUNT, Column, Sheet, to_text
from wsssjax.report import charts

KEY = "figure1"
TITLE = "Figure 1. Labels by IoU with the truth"
BAR = 40  # characters of the longest bar
_GAP, _HEAD = 16, 20  # pixels between and above the charts of a file
# The charts are drawn in classes of the page's style sheet; a file of its own brings these along.
_STYLE = ("text{font:11px system-ui,sans-serif;fill:#5c5c5c}.name{font-weight:600;fill:#1b1b1b}"
          ".grid{stroke:#d4d4d4;stroke-width:.6}.axis{stroke:#5c5c5c;fill:none}"
          ".c0{fill:#0b5fa5}.c1{fill:#c2410c}.c2{fill:#15803d}.c3{fill:#a21caf}.c4{fill:#6b5b00}"
          ".c5{fill:#8fb8dc}")


def sheet(table: dict) -> Sheet | None:
    """The counts, a row for each range of IoU, a column for each label set; None without any. As
    text it is bars of characters."""
    sets = _counted(table)
    if not sets:
        return None
    rows = tuple((low, high, *(s["histogram"][i] for s in sets))
                 for i, (low, high) in enumerate(_ranges(table)))
    columns = (Column("from", "IoU from", "ratio"), Column("to", "to", "ratio"),
               *(Column(" ".join((s["name"], *_axes(s))), _named(s), COUNT) for s in sets))
    return Sheet(KEY, TITLE, columns, rows, "IoU of each label with the true mask, of the training "
                 "images. In brackets: method and supervision.", _bars(table, sets))


def _bars(table: dict, sets: list[dict]) -> str:
    """The histogram as bars of characters, a block for each label set."""
    most = max(max(s["histogram"]) for s in sets)
    blocks = []
    for s in sets:
        rows = tuple((f"{low:.3g} to {high:.3g}", value, "#" * _length(value, most))
                     for (low, high), value in zip(_ranges(table), s["histogram"], strict=True))
        block = Sheet(KEY, f"{TITLE}: {_named(s)}",
                      (Column("iou", "IoU"), Column("labels", "labels", COUNT)),
                      tuple(row[:2] for row in rows))
        lines = to_text(block).splitlines()
        first = len(lines) - len(rows)
        blocks.append("\n".join(lines[:first] + [f"{line}  {bar}".rstrip() for line, (_, _, bar)
                                                 in zip(lines[first:], rows, strict=True)]))
    return "\n\n".join(blocks) + "\n"


def drawn(table: dict) -> list[tuple[str, str]]:
    """(label set with its method and supervision, SVG for a page with the report's style)."""
    sets = _counted(table)
    top = max((max(s["histogram"]) for s in sets), default=0)
    return [(_named(s), charts.histogram(
        table["edges"], {s["name"]: s["histogram"]}, x="IoU with the truth", y="labels",
        top=top or 1, first_color=i,
        label=f"Histogram of the IoU of label set {s['name']} with the truth"))
        for i, s in enumerate(sets)]


def svg(table: dict) -> str:
    """An SVG file of all charts side by side, two in a row; empty without any."""
    found = drawn(table)
    if not found:
        return ""
    across = min(len(found), 2)
    down = -(-len(found) // across)
    parts = []
    for i, (name, chart) in enumerate(found):
        left = _GAP + (i % across) * (charts.WIDTH + _GAP)
        upper = _GAP + (i // across) * (charts.HEIGHT + _HEAD + _GAP)
        parts.append(f'<g transform="translate({left} {upper})"><text class="name" x="0" y="12">'
                     f'{html.escape(name)}</text><g transform="translate(0 {_HEAD})">'
                     f"{chart}</g></g>")
    width = _GAP + across * (charts.WIDTH + _GAP)
    height = _GAP + down * (charts.HEIGHT + _HEAD + _GAP)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}"><title>{TITLE}</title><style>{_STYLE}</style>'
            f'<rect width="{width}" height="{height}" fill="#fff"/>{"".join(parts)}</svg>\n')


def _counted(table: dict) -> list[dict]:
    """The label sets that were compared with the truth."""
    return [s for s in table["sets"] if s["histogram"]]


def _ranges(table: dict) -> list[tuple[float, float]]:
    return list(zip(table["edges"], table["edges"][1:], strict=False))


def _named(s: dict) -> str:
    told = ", ".join(filter(None, (*_axes(s), s["method"], s["supervision"])))
    return f"{s['name']} ({told})" if told else s["name"]


def _axes(s: dict) -> list[str]:
    """`finish_a crf`: what tells the set from others of its name."""
    return [f"{name} {shown(value, name)}" for name, value in s["cell"].items()]


def _length(value: float, most: float) -> int:
    """Characters of a bar: none for 0, at least one for anything else."""
    return max(round(BAR * value / most), 1) if value else 0
