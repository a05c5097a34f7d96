"""Charts are read back: from SVG coordinates to the numbers that went in."""

import re

import numpy as np
import pytest

from wsssjax.report import charts

TEXT = re.compile(r'<text x="([\d.-]+)" y="([\d.-]+)" text-anchor="(end|middle)">([^<]*)</text>')


def axes(svg):
    """Functions from SVG x and y to data values, fitted to the tick labels of the drawing."""
    texts = [(float(x), float(y), anchor, word) for x, y, anchor, word in TEXT.findall(svg)]
    ys = [(y - 4, float(word)) for _, y, anchor, word in texts if anchor == "end"]
    foot = max(y for y, _ in ys)
    xs = [(x, float(word)) for x, y, anchor, word in texts
          if anchor == "middle" and abs(y - foot - 16) < 1]
    for pairs in (xs, ys):  # equal steps on the paper are equal steps in the data
        paper, data = np.diff(np.array(pairs).T)
        assert np.ptp(paper) < 0.21 and np.ptp(data) < 1e-9 and abs(data).min() > 0
    return (np.poly1d(np.polyfit(*np.array(xs).T, 1)), np.poly1d(np.polyfit(*np.array(ys).T, 1)))


@pytest.mark.parametrize("scale", [1.0, 0.01, 350.0])
def test_lines_can_be_read_off_the_axes(scale):
    rng = np.random.default_rng(1)
    series = {name: [(float(x), float(scale * y)) for x, y in zip(
        range(0, 400, 10), rng.uniform(0.1, 1, 40), strict=True)] for name in "ab"}
    svg = charts.lines(series, label="l", x="step", y="loss")
    to_x, to_y = axes(svg)
    drawn = re.findall(r'class="line c(\d)" points="([^"]+)"', svg)
    assert [index for index, _ in drawn] == ["0", "1"]
    for (_, text), curve in zip(drawn, series.values(), strict=True):
        got = np.array([[float(v) for v in pair.split(",")] for pair in text.split()])
        np.testing.assert_allclose(to_x(got[:, 0]), [x for x, _ in curve], atol=0.5)
        np.testing.assert_allclose(to_y(got[:, 1]), [y for _, y in curve], atol=0.005 * scale)


def test_histogram_bars_are_as_high_as_their_counts():
    layers = {"selected": [0, 3, 40, 7], "rest": [12, 9, 0, 1]}
    svg = charts.histogram([0, 0.25, 0.5, 0.75, 1], layers, label="h", x="IoU", y="n")
    to_x, to_y = axes(svg)
    bars = [tuple(map(float, bar)) for bar in re.findall(
        r'class="bar c\d" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', svg)]
    want = [(j, sum(layers["selected"][j:j + 1]) * (name == "rest"), value)
            for name, counts in layers.items() for j, value in enumerate(counts) if value]
    assert len(bars) == len(want) == 6
    for (x, y, width, height), (j, base, value) in zip(bars, want, strict=True):
        assert to_x(x + width / 2) == pytest.approx(0.25 * j + 0.125, abs=0.003)
        assert to_y(y + height) == pytest.approx(base, abs=0.1)
        assert to_y(y) == pytest.approx(base + value, abs=0.1)


@pytest.mark.parametrize("low, high", [
    (0, 1), (0, 0), (0, 0.07), (-3, 8), (0, 12345), (2.5, 2.5), (0, 1e-9), (0, 1e29), (5, -1)])
def test_ticks_enclose_the_data_in_few_equal_steps(low, high):
    got = charts.ticks(low, high)
    assert got[0] <= low + 1e-9 * abs(low) and got[-1] >= high * (1 - 1e-9)
    steps = np.diff(got)
    assert (steps > 0).all() and np.ptp(steps) <= 1e-6 * steps[0] and 2 <= len(got) <= 8


def test_long_curves_keep_their_mean_and_ends():
    rng = np.random.default_rng(2)
    curve = [(float(i), float(v)) for i, v in enumerate(rng.normal(size=160 * 7))]
    thin = charts.thin(curve)
    assert len(thin) == charts.MAX_POINTS
    np.testing.assert_allclose(np.mean(thin, 0), np.mean(curve, 0), atol=1e-9)
    np.testing.assert_allclose(thin[0], np.mean(curve[:7], 0))
    assert charts.thin(curve[:160]) == curve[:160]
    odd = charts.thin(curve[:1003])  # runs of six and seven points
    assert len(odd) == charts.MAX_POINTS and odd == sorted(odd)


def test_constant_empty_and_single_values_are_drawn():
    assert "circle" in charts.lines({"a": [(0.0, 0.0)]}, label="l", x="x", y="y")
    flat = charts.lines({"a": [(0.0, 2.0), (5.0, 2.0)]}, label="l", x="x", y="y")
    to_x, to_y = axes(flat)
    y = float(re.search(r'points="[\d.]+,([\d.]+)', flat)[1])
    assert to_y(y) == pytest.approx(2, abs=0.02)
    assert "nan" not in charts.histogram([0, 1], {"a": [0]}, label="h", x="x", y="y")
    assert "nan" not in charts.quota_bar(0, 0, 0, 0)


def test_quota_bar_keeps_proportions():
    svg = charts.quota_bar(quota=20, taken=10, held=30, most=40)
    held, taken = (float(w) for w in re.findall(r'width="([\d.]+)" height="8"', svg))
    tick = float(re.search(r'd="M([\d.]+) 0', svg)[1]) - 1
    assert (held / taken, tick / taken) == pytest.approx((3, 2), rel=0.01)


def test_names_in_charts_are_escaped():
    bad = '</svg><script x="'
    for svg in (charts.lines({bad: [(0.0, 1.0)]}, label=bad, x=bad, y=bad),
                charts.histogram([0, 1], {bad: [1]}, label=bad, x=bad, y=bad)):
        assert "<script" not in svg and svg.count("</svg>") == 1 and 'x=""' not in svg
