"""Curves over the background threshold: what the page shows of each sweep.json, and broken ones."""

import html

import numpy as np
import pytest

from wsssjax.core import files
from wsssjax.evaluate import sweep
from wsssjax.report import __main__ as command
from wsssjax.report import read_run

NAMES = ("background", "cat", "dog")


def found(seed, images=12):
    """What the command evaluate writes, of noise."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 99, (3, 3, 12)).astype(np.int64)
    return {"images": images, "sweep": sweep.scores(counts, sweep.parse_thresholds("0:1:0.1"),
                                                    NAMES)}


def test_the_page_has_a_chart_of_all_and_one_of_each(run_folder):
    assert "Background threshold" not in command.run(run_folder).read_text()
    first, second = found(0), found(1, images=1234)
    files.write_json(run_folder / "labels_a" / "sweep.json", first)
    files.write_json(run_folder / "sweep.json", second)
    text = command.run(run_folder).read_text()
    assert '<a href="#sweeps">' in text
    for title in ("mIoU", "labels_a", "run"):
        assert f'aria-label="{title} over the background threshold"' in text
    rows = text.split('id="table-sweeps"')[1].split("</table>")[0]
    for name, value in (("labels_a", first), ("run", second)):
        row = rows.split(f">{name}</th>")[1].split("</tr>")[0]
        best = value["sweep"]["best"]
        for cell in (f"{best['threshold']:g}", f"{100 * best['miou']:.1f}",
                     f"{100 * best['fp']:.1f}", f"{100 * best['fn']:.1f}", "full"):
            assert f">{cell}</td>" in row
    assert ">1,234</td>" in rows
    # The charts of one set hold its points: 46 is the axis, 262 its width, mIoU 0..1 over 154.
    lines = text.split('aria-label="run over the background threshold"')[1].split("</svg>")[0]
    points = lines.split('class="line c0" points="')[1].split('"')[0].split()
    want = [f"{46 + 262 * x:.1f},{10 + 154 * (1 - y):.1f}" for x, y in
            zip(second["sweep"]["thresholds"], second["sweep"]["miou"], strict=True)]
    assert points == want


def test_a_folder_of_cams_alone_has_a_page(tmp_path):
    files.write_json(tmp_path / "cams" / "sweep.json", found(0))
    text = command.run(tmp_path).read_text()
    assert "Best background threshold" in text and ">cams</th>" in text


def test_hostile_names_are_shown_not_run(tmp_path):
    name = "<script>alert(1)<"
    files.write_json(tmp_path / name / "sweep.json", found(0))
    text = command.run(tmp_path).read_text()
    assert name not in text and html.escape(name) in text


@pytest.mark.parametrize("spoil, said", [
    (lambda value: [], r"the file is \[\]; want an object"),
    (lambda value: value | {"sweep": 3}, "sweep is 3; want an object"),
    (lambda value: value | {"sweep": None}, "no curves of equal length"),
    (lambda value: {"images": 3, "miou": 0.5}, "no curves of equal length with a best threshold"),
    (lambda value: value["sweep"]["fp"].pop() and value, "no curves of equal length"),
    (lambda value: value["sweep"].pop("recall") and value, "no curves of equal length"),
    (lambda value: value["sweep"]["best"].pop("threshold") and value, "no curves of equal length"),
    (lambda value: value["sweep"]["miou"].append("x") or value, "sweep.miou is .* a list of num"),
])
def test_broken_sweeps_are_named(tmp_path, spoil, said):
    value = found(3)
    value["sweep"]["best"]["threshold"] = 0.5
    value["sweep"]["fp"][-1] = 0.5
    files.write_json(tmp_path / "cams" / "sweep.json", spoil(value))
    with pytest.raises(ValueError, match=f"cams/sweep.json: {said}") as caught:
        read_run.read_run(tmp_path)
    assert "\n" not in str(caught.value)
