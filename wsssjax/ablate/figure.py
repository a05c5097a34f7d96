"""Figure 1 of an ablation: how many labels of each set have which IoU with the truth."""

from __future__ import annotations

import html

from wsssjax.ablate.check import checked
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
    table = checked(table)
    histogram = table["histogram"]
    if not histogram:
        return None
    edges, counts = histogram["edges"], histogram["counts"]
    rows = tuple((low, high, *(values[i] for values in counts.values())) for i, (low, high) in
                 enumerate(zip(edges, edges[1:], strict=False)))
    columns = (Column("from", "IoU from", "ratio"), Column("to", "to", "ratio"),
               *(Column(name, _named(table, name), COUNT) for name in counts))
    return Sheet(KEY, TITLE, columns, rows, "IoU of each label with the true mask, of the training "
                 "images. In brackets: method and supervision.", _bars(table, histogram))


def _bars(table: dict, histogram: dict) -> str:
    """The histogram as bars of characters, a block for each label set."""
    edges, counts = histogram["edges"], histogram["counts"]
    most = max((max(values) for values in counts.values()), default=0)
    blocks = []
    for name, values in counts.items():
        rows = tuple((f"{low:.3g} to {high:.3g}", value, "#" * _length(value, most))
                     for low, high, value in zip(edges, edges[1:], values, strict=False))
        block = Sheet(KEY, f"{TITLE}: {_named(table, name)}",
                      (Column("iou", "IoU"), Column("labels", "labels", COUNT)),
                      tuple(row[:2] for row in rows))
        lines = to_text(block).splitlines()
        first = len(lines) - len(rows)
        blocks.append("\n".join(lines[:first] + [f"{line}  {bar}".rstrip() for line, (_, _, bar)
                                                 in zip(lines[first:], rows, strict=True)]))
    return "\n\n".join(blocks) + "\n"


def drawn(table: dict) -> list[tuple[str, str]]:
    """(label set with its method and supervision, SVG for a page with the report's style)."""
    table = checked(table)
    histogram = table["histogram"]
    if not histogram:
        return []
    top = max(max(values) for values in histogram["counts"].values())
    return [(_named(table, name), charts.histogram(
        histogram["edges"], {name: values}, x="IoU with the truth", y="labels", top=top or 1,
        first_color=i, label=f"Histogram of the IoU of label set {name} with the truth"))
        for i, (name, values) in enumerate(histogram["counts"].items())]


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


def _named(table: dict, name: str) -> str:
    entry = table["sets"].get(name) or {}
    told = ", ".join(filter(None, (entry.get("method"), entry.get("supervision"))))
    return f"{name} ({told})" if told else name


def _length(value: float, most: float) -> int:
    """Characters of a bar: none for 0, at least one for anything else."""
    return max(round(BAR * value / most), 1) if value else 0
