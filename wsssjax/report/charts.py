"""Small SVG charts as text: drawn in CSS colours, so they follow the page into dark mode.

All have one width in CSS pixels and are shown at that size: labels stay readable on a phone.
"""

from __future__ import annotations

import html
import math

WIDTH, HEIGHT = 320, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 10, 36
_INNER_W, _INNER_H = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
COLORS = 6  # CSS classes c0 .. c5; each comes with a dash pattern of its own
MAX_POINTS = 160  # a longer curve is drawn through the means of that many runs of points


def ticks(low: float, high: float, want: int = 4) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`, about `want` steps apart."""
    span = high - low if high > low else abs(high) or 1.0
    raw = span / want
    unit = 10.0 ** math.floor(math.log10(raw))
    step = unit * next(m for m in (1, 2, 2.5, 5, 10) if m * unit >= raw * (1 - 1e-9))
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def thin(curve: list[tuple[float, float]], limit: int = MAX_POINTS) -> list[tuple[float, float]]:
    """The curve itself, or the means of `limit` equal runs of its points."""
    if len(curve) <= limit:
        return curve
    bounds = [round(i * len(curve) / limit) for i in range(limit + 1)]
    runs = [curve[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]
    return [(sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)) for run in runs]


def lines(series: dict[str, list[tuple[float, float]]], *, label: str, x: str, y: str,
          top: float | None = None) -> str:
    """SVG of one line a name over a common axis. label: what a screen reader says.

    top: the y axis ends there and begins at 0; None: as far as the values ask.
    """
    drawn = {name: thin(curve) for name, curve in series.items()}
    points = [point for curve in drawn.values() for point in curve]
    x_ticks = ticks(0, max(px for px, _ in points))
    high = max(py for _, py in points) if top is None else top
    y_ticks = ticks(0.0 if top else min(0.0, min(py for _, py in points)), high)
    to_x, to_y = _scales(x_ticks, y_ticks)
    parts = [_axes(x_ticks, y_ticks, x, y)]
    for i, curve in enumerate(drawn.values()):
        path = " ".join(f"{to_x(px):.1f},{to_y(py):.1f}" for px, py in curve)
        if len(curve) == 1:
            parts.append(f'<circle class="dot c{i % COLORS}" cx="{path.split(",")[0]}" '
                         f'cy="{path.split(",")[1]}" r="3"/>')
        else:
            parts.append(f'<polyline class="line c{i % COLORS}" points="{path}"/>')
    return _svg(parts, label)


def histogram(edges: list[float], layers: dict[str, list[float]], *, label: str, x: str, y: str,
              top: float | None = None, first_color: int = 0) -> str:
    """SVG of bars between `edges`, the layers stacked; hovering a bar shows its count."""
    heights = [sum(column) for column in zip(*layers.values(), strict=True)]
    y_ticks = ticks(0, max([*heights, 1]) if top is None else top)
    x_ticks = ticks(edges[0], edges[-1])
    to_x, to_y = _scales(x_ticks, y_ticks)
    parts = [_axes(x_ticks, y_ticks, x, y)]
    base = [0.0] * len(heights)
    for i, (name, counts) in enumerate(layers.items()):
        for j, value in enumerate(counts):
            if not value:
                continue
            left, right = to_x(edges[j]), to_x(edges[j + 1])
            upper, lower = to_y(base[j] + value), to_y(base[j])
            base[j] += value
            note = html.escape(f"{name}, {edges[j]:.3g} to {edges[j + 1]:.3g}: {value:g}")
            parts.append(
                f'<rect class="bar c{(first_color + i) % COLORS}" x="{left + .5:.1f}" '
                f'y="{upper:.1f}" width="{max(right - left - 1, .5):.1f}" '
                f'height="{lower - upper:.1f}"><title>{note}</title></rect>')
    return _svg(parts, label)


def quota_bar(quota: float, taken: float, held: float, most: float) -> str:
    """SVG of one table row: `taken` dark, what is `held` beyond it light, a tick at `quota`.

    most: the number that a full row stands for.
    """
    def x(value):
        return f"{1 + 118 * min(value / most, 1.0) if most else 1:.1f}"

    return ('<svg class="row" width="120" height="14" viewBox="0 0 120 14" aria-hidden="true">'
            f'<rect class="bar c5" x="1" y="3" width="{float(x(held)) - 1:.1f}" height="8"/>'
            f'<rect class="bar c0" x="1" y="3" width="{float(x(taken)) - 1:.1f}" height="8"/>'
            f'<path class="tick" d="M{x(quota)} 0V14"/></svg>')


def swatch(index: int, kind: str = "line") -> str:
    """SVG of a legend's sample for the series at `index`."""
    shape = (f'<path class="line c{index % COLORS}" d="M0 6H24"/>' if kind == "line" else
             f'<rect class="bar c{index % COLORS}" x="6" y="1" width="12" height="10"/>')
    return f'<svg class="key" width="24" height="12" aria-hidden="true">{shape}</svg>'


def _scales(x_ticks, y_ticks):
    def to_x(value):
        return _LEFT + _INNER_W * (value - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])

    def to_y(value):
        share = (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return _TOP + _INNER_H * (1 - min(max(share, 0.0), 1.0))

    return to_x, to_y


def _axes(x_ticks, y_ticks, x: str, y: str) -> str:
    to_x, to_y = _scales(x_ticks, y_ticks)
    foot = _TOP + _INNER_H
    parts = []
    for value in y_ticks:
        at = to_y(value)
        parts.append(f'<path class="grid" d="M{_LEFT} {at:.1f}H{WIDTH - _RIGHT}"/>'
                     f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">'
                     f'{_tick(value)}</text>')
    for value in x_ticks:
        at = to_x(value)
        parts.append(f'<path class="axis" d="M{at:.1f} {foot}v4"/>'
                     f'<text x="{at:.1f}" y="{foot + 16}" text-anchor="middle">'
                     f'{_tick(value)}</text>')
    parts.append(f'<path class="axis" d="M{_LEFT} {foot}H{WIDTH - _RIGHT}"/>')
    middle = _LEFT + _INNER_W / 2
    parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 3}" text-anchor="middle">{html.escape(x)}'
                 f'</text><text transform="translate(11 {_TOP + _INNER_H / 2:.0f}) rotate(-90)" '
                 f'text-anchor="middle">{html.escape(y)}</text>')
    return "".join(parts)


def _tick(value: float) -> str:
    if value and (abs(value) >= 1e6 or abs(value) < 1e-3):
        return f"{value:.0e}"
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:g}"


def _svg(parts: list[str], label: str) -> str:
    text = html.escape(label)
    return (f'<svg class="chart" width="{WIDTH}" height="{HEIGHT}" '
            f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text}">'
            f'<title>{text}</title>{"".join(parts)}</svg>')
