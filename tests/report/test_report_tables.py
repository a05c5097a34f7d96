"""Tables in the terminal, and the pictures for a README."""

import io

import numpy as np
import pytest
import rich.console
from PIL import Image

from wsssjax.data import label_map
from wsssjax.report import figures, strip, tables


def printed(results) -> str:
    console = rich.console.Console(file=io.StringIO(), width=140, color_system=None)
    for table in tables.render(results):
        console.print(table)
    return console.file.getvalue()


def test_terminal_tables_hold_the_main_numbers(results):
    text = printed(results)
    scored = [*results["labels"].values(), *results["arms"].values()]
    for s in scored:
        line = [x for x in text.splitlines() if f" {100*s['miou']:.1f} " in f"{x} "]
        assert any(s["supervision"] in x.split() for x in line), s
    for number in ("81.2", "61.9", "53.1", "91.7", "1,234"):
        assert number in text
    assert all(f"{pair['train/rails']['ratio']:.3f}" in text
               for pair in results["context"].values())


def test_arms_stand_in_their_usual_order_with_signed_distances(results):
    shuffled = dict(sorted(results["arms"].items())) | {"X": {"miou": 0.5}}
    table = tables.arms({"arms": shuffled})
    assert [row[0] for row in table.rows] == ["S", "M", "ALL", "T", "S-sup", "X"]
    base = results["arms"]["S"]["miou"]
    for row in table.rows[1:]:
        want = 100 * (shuffled[row[0]]["miou"] - base)
        assert float(row[-1].replace("−", "-")) == pytest.approx(want, abs=0.051)
        assert row[-1][0] in "+−"
    assert all(arm.get("supervision", "–") == row[2]
               for arm, row in zip(tables.in_order(shuffled).values(), table.rows, strict=True))


def test_markup_in_names_is_printed_as_it_is(results):
    results["labels"] = {"[red]A[/red]": {"method": "[link=http://x]cam[/link]", "miou": 0.5}}
    text = printed(results)
    assert "[red]A[/red]" in text and "[link=http://x]cam[/link]" in text


def test_nothing_to_show_gives_no_table():
    assert tables.build({}) == [] and tables.render({"title": "x", "arms": {}}) == []
    assert tables.per_class({"labels": {"A": {"miou": 0.5}}}, "labels", "k", "t") is None


def test_mask_ratio_picks_spread_steps_of_every_arm():
    curves = {"S": [[s, s / 1000] for s in range(0, 1001, 5)], "M": [[0, 0.5], [1000, 0.25]]}
    table = tables.mask_ratio({"arms": {k: {"mask_ratio": v} for k, v in curves.items()}})
    assert table.columns[2:] == ("step 0", "step 200", "step 400", "step 600", "step 800",
                                 "step 1,000")
    assert table.rows[0][2:] == ("0.0", "20.0", "40.0", "60.0", "80.0", "100.0")
    assert table.rows[1][2:] == ("50.0", "–", "–", "–", "–", "25.0")


def test_overlay_equals_a_loop_over_pixels():
    rng = np.random.default_rng(3)
    photo_hw3 = rng.integers(0, 256, (7, 5, 3), np.uint8)
    label_hw = rng.choice(np.array([0, 1, 20, 255], np.uint8), (7, 5))
    got = figures.overlay(photo_hw3, label_hw, opacity=0.25)
    for i in range(7):
        for j in range(5):
            color = label_map.palette()[label_hw[i, j]].astype(float)
            want = photo_hw3[i, j] if label_hw[i, j] == 0 else 0.75 * photo_hw3[i, j] + color / 4
            np.testing.assert_allclose(got[i, j], want, atol=0.51)
    with pytest.raises(ValueError, match="same size"):
        figures.overlay(photo_hw3, label_hw[:-1])


def test_outline_marks_where_regions_meet_and_nothing_else():
    label_hw = np.zeros((6, 8), np.uint8)
    label_hw[2:, 3:] = 5
    want = label_hw.copy()
    want[2, 3:] = want[2:, 3] = 255
    np.testing.assert_array_equal(figures.outlined(label_hw), want)
    np.testing.assert_array_equal(figures.outlined(np.full((3, 3), 7, np.uint8)), 7)


def test_strip_lays_photos_and_maps_side_by_side():
    photo_hw3 = np.full((30, 40, 3), 200, np.uint8)
    label_hw = np.full((30, 40), 2, np.uint8)
    tall_hw3 = np.full((80, 20, 3), 90, np.uint8)
    rows = [[photo_hw3, label_hw], [tall_hw3, np.zeros((80, 20), np.uint8)]]
    data = strip.strip(rows, ["image", "A"], cell_hw=(60, 80), gap=4)
    assert data == strip.strip(rows, ["image", "A"], cell_hw=(60, 80), gap=4)
    image_hw3 = np.asarray(Image.open(io.BytesIO(data)))
    assert image_hw3.shape == (16 + 2 * 60 + 4, 2 * 80 + 4, 3)
    np.testing.assert_array_equal(image_hw3[46, 40], 200)  # the middle of each cell
    color = label_map.palette()[2].astype(float)
    np.testing.assert_allclose(image_hw3[46, 124], 200 * 0.35 + color * 0.65, atol=1)
    np.testing.assert_array_equal(image_hw3[110, 40], 90)
    np.testing.assert_array_equal(image_hw3[110, 124], 90)  # background is the bare photo
    np.testing.assert_array_equal(image_hw3[110, 2], 255)  # a tall photo leaves white at its sides
    beside = Image.open(io.BytesIO(strip.strip(
        rows, ["image", "A"], cell_hw=(60, 80), gap=4, beside=2)))
    assert beside.height == 16 + 60 and beside.width > 2 * image_hw3.shape[1]


def test_strip_refuses_rows_that_do_not_fit_their_heads():
    photo_hw3 = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="row 1 has 1 pictures"):
        strip.strip([[photo_hw3]], ["image", "A"])
    with pytest.raises(ValueError, match="0 rows"):
        strip.strip([], ["image"])
