"""The paper's tables from rows made by hand: layout, numbers, CSV, and what is left out."""

import csv
import io

import pytest

from wsssjax.ablate import figure, published, sheet, slices, tables
from wsssjax.data.classes import VOC_CLASSES
from wsssjax.select import quota

KEYS = ["protocol", "class_counts", "paired", "ratios", *(f"table{i}" for i in range(3, 9)),
        "figure1"]


def shown(found, key):
    """The table's rows as dicts of text by column."""
    table = sheet.to_table(found[key])
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def read(found, key):
    return list(csv.DictReader(io.StringIO(sheet.to_csv(found[key]))))


def full(ablations, rows):
    return ablations.table(rows, full_voc=True, data="voc", classes=list(VOC_CLASSES))


@pytest.fixture
def found(ablations):
    return tables.build(ablations.table(ablations.grid()))


def test_every_table_is_there_in_reading_order(found):
    assert list(found) == KEYS and all(found[key].key == key for key in KEYS)


def test_protocol(found):
    rows = shown(found, "protocol")
    assert [(row["pair"], row["quota"], row["arm"]) for row in rows[:7]] == [
        ("(A,B+)", "voc/92", arm) for arm in ("S", "M", "U", "ALL", "T", "Tall")
    ] + [("(A,B+)", "voc/183", "S")]
    assert rows[6] == {
        "pair": "(A,B+)", "quota": "voc/183", "arm": "S", "supervision": "I+S", "labelled": "240",
        "single-class %": "69.0", "label mIoU %": "62.8", "test mIoU %": "43.0 ± 1.0"}
    assert rows[5]["supervision"] == "F" and len(rows) == 2 * 6 + 3
    note = found["protocol"].note
    assert "All rows: score paper, keep whole, method unimatch_v2." in note
    assert "Every training took 500 steps." in note and "Tall: true masks on every image" in note


def test_different_lengths_of_training_are_told(ablations):
    found = tables.build(ablations.table([ablations.row(), ablations.row("M", steps=1_234_567)]))
    assert "different numbers of steps: 500, 1,234,567." in found["protocol"].note


def test_class_counts_and_means_over_seeds(ablations):
    rows = [ablations.row("U", seed, counts={"train": 3 + seed, "boat": 5, "sled": 2},
                          labelled=10 + seed) for seed in (0, 1)]
    (row,) = shown(tables.build(ablations.table(rows)), "class_counts")
    assert row == {"arm": "U", "labelled": "10.5 ± 0.7", "train": "3.5", "boat": "5", "kite": "0",
                   "sled": "2"}


def test_paired_table_has_every_seed_and_says_what_is_missing(ablations):
    rows = ablations.grid(quotas=("voc/183",))
    rows[4]["miou"] = None  # arm M, seed 1
    rows[5]["miou"] = 0.3  # arm M, seed 2
    found = tables.build(ablations.table(rows))
    assert found["paired"].title.endswith("(11 of 12 cells done)")
    first = shown(found, "paired")[0]
    assert first == {"comparison": "S − M", "supervision": "I+S", "missing": "M: seed 1",
                     "mean ± sd": "+8.5 ± 4.9 (2 of 3)", "seed 0": "+5.0", "seed 1": "–",
                     "seed 2": "+12.0"}
    line = read(found, "paired")[0]
    assert float(line["difference_mean"]) == pytest.approx(0.085)
    assert float(line["difference_sd"]) == pytest.approx(0.07 / 2 ** 0.5)
    assert (line["difference_n"], line["seed_1"], line["seed_2"]) == ("2", "", "0.12")
    assert [row["comparison"] for row in shown(found, "paired")] == ["S − M", "S − U", "S − ALL"]
    ratio = shown(found, "ratios")
    assert [row["comparison"] for row in ratio] == ["S / T", "S / Tall"]
    assert ratio[1]["supervision"] == "I+S / F" and ratio[1]["seed 0"] == "0.800"


def test_table3(found):
    assert shown(found, "table3") == [
        {"quota": "voc/92", "selected": "120", "train": "100", "boat": "80", "kite": "58"},
        {"quota": "voc/183", "selected": "240", "train": "100", "boat": "80", "kite": "58"}]
    line = read(found, "table3")[1]
    assert (line["selected_mean"], line["selected_n"], line["kite"]) == ("240", "3", "58")


def test_a_selection_stands_once_however_it_is_trained(ablations):
    rows = [ablations.row(arm, seed, labelled=n, method=method) for arm, seed, method, n in (
        ("S", 0, "probe", None), ("S", 0, "unimatch_v2", 70), ("none", 0, "", 70),
        ("M", 0, "probe", 71), ("S-sup", 1, "supervised", 70))]
    assert [row["selected"] for row in shown(tables.build(ablations.table(rows)), "table3")] == [
        "70"]


def test_table4_and_sets_without_a_score(found):
    assert [tuple(row.values()) for row in shown(found, "table4")] == [
        ("A", "cam", "I", "37.8"), ("B", "eps", "I+S", "50.0"),
        ("B+", "eps, crf, sam", "I+S", "–")]
    assert found["table4"].title.endswith("(2 of 3 sets scored)")


def test_table5_is_the_largest_quota_whatever_it_scores(ablations):
    rows = ablations.grid()
    for row in rows:
        if row["cell"]["quota"] == "voc/92" and row["cell"]["arm"] == "S":
            row["miou"] += 0.3
    found = tables.build(ablations.table(rows))
    assert [tuple(row.values()) for row in shown(found, "table5")] == [
        ("ours", "I+S", "43.0 ± 1.0")]
    assert "quota voc/183" in found["table5"].note and len(found["table5"].columns) == 3


def test_table6(found):
    rows = shown(found, "table6")
    assert [(r["compared"], r["pool"], r["images"], r["label mIoU %"]) for r in rows] == [
        ("(A,B+)", "B+", "60", "84.0"), ("(B,B+)", "B+", "60", "80.0"),
        ("(A+,B+)", "B+", "60", "83.0"), ("(A,B)", "B", "60", "81.0")]
    assert all(row["supervision"] == "I+S" for row in rows)
    assert "5 of 6 comparisons do" in found["table6"].note
    assert "(A,B) above (A+,B+): does not hold (−2.0)" in found["table6"].note


def test_table7(found):
    rows = shown(found, "table7")
    assert [tuple(row.values()) for row in rows] == [
        ("no selection (U, a random draw of equal size)", "I+S", "240", "33.0 ± 1.0"),
        ("(A,B+)", "I+S", "240", "43.0 ± 1.0"), ("(B,B+)", "I+S", "200", "37.0 ± 1.0"),
        ("(A+,B+)", "I+S", "200", "40.0 ± 1.0"), ("(A,B)", "I+S", "200", "38.0 ± 1.0")]
    assert "it holds here, in all 5 comparisons" in found["table7"].note
    assert "quota voc/183" in found["table7"].note


def test_a_given_list_stands_for_no_selection_where_there_is_one(ablations):
    rows = ablations.grid() + [ablations.row("L", seed, None if seed else 0.2, quota="voc/183",
                                             labelled=99) for seed in (0, 1)]
    found = tables.build(ablations.table(rows))
    assert list(shown(found, "table7")[0].values()) == [
        "no selection (L, a given list of images)", "I+S", "99", "20.0 (1 of 2)"]
    assert found["table7"].title.endswith("(13 of 14 cells done)")
    first = shown(found, "table8")[0]
    assert first["labels"] == "without selection (L, a given list of images)"
    assert (first["voc/92"], first["voc/183"]) == ("–", "20.0 (1 of 2)")


def test_table8(found):
    assert [tuple(row.values()) for row in shown(found, "table8")] == [
        ("without selection (U, a random draw of equal size)", "I+S", "31.0 ± 1.0", "33.0 ± 1.0"),
        ("with selection (A,B+)", "I+S", "41.0 ± 1.0", "43.0 ± 1.0")]
    line = read(found, "table8")[1]
    assert [float(line[f"miou_voc/92_{part}"]) for part in ("mean", "sd", "n")] == pytest.approx(
        [0.41, 0.01, 3])


def test_an_axis_that_differs_becomes_a_column(ablations):
    rows = [row | {"cell": row["cell"] | {"score": score}} for row in ablations.grid(seeds=(0,))
            for score in ("paper", "quality")]
    found = tables.build(ablations.table(rows))
    for key in ("protocol", "paired", "table3", "table6", "table7", "table8"):
        assert {row["score"] for row in shown(found, key)} == {"paper", "quality"}, key
    assert [row["method"] for row in shown(found, "table5")] == ["ours (paper)", "ours (quality)"]
    assert found["table7"].note.count("The paper's order") == 2
    assert "score quality: The paper's order" in found["table7"].note


def test_limits_of_the_labelled_images_are_told_where_there_are_any(ablations):
    rows = [ablations.row()]
    rows[0]["cell"] |= {"images": 0, "pixels": 0}
    assert "limit" not in tables.build(ablations.table(rows))["protocol"].note
    rows.append(rows[0] | {"cell": rows[0]["cell"] | {"images": 50}, "labelled": 50})
    found = tables.build(ablations.table(rows))
    assert [row["image limit"] for row in shown(found, "protocol")] == ["none", "50"]
    assert [row["image_limit"] for row in read(found, "table3")] == ["none", "50"]


def test_cells_that_have_not_run_are_dashes(ablations):
    rows = ablations.grid()
    for row in rows:
        row |= {name: None for name in row if name not in ("cell", "supervision")}
    found = tables.build(ablations.table(rows, sets={}, histogram={}))
    assert list(found) == [key for key in KEYS if key not in ("class_counts", "table4",
                                                                  "figure1")]
    assert found["protocol"].title.endswith("(0 of 45 cells done)")
    assert found["table3"].title.endswith("(0 of 6 cells done)")
    assert {row["test mIoU %"] for row in shown(found, "protocol")} == {"–"}
    assert {row["mIoU %"] for row in shown(found, "table7")} == {"–"}
    assert "not known yet whether it holds here" in found["table7"].note
    assert tables.done(rows) == (0, 49)
    for key in found:
        assert read(found, key) is not None and sheet.to_text(found[key])


def test_no_rows_are_no_tables():
    assert tables.build({}) == {} and tables.build({"rows": []}) == {}


def numbers_of_the_paper():
    return {f"{value:.1f}" for values in (published.WITH, published.WITHOUT) for value in
            values.values()} | {"2,095", "91.9", "75.5", "83.3"}


def test_numbers_of_the_paper_are_absent_on_other_data(ablations):
    rows = ablations.grid(quotas=("voc/92", "voc/1464"))
    for row in rows:  # so that none of ours is one of theirs
        row["miou"] = row["miou"] and 0.123
        row["label_miou"] = 0.234
    found = tables.build(ablations.table(rows))
    for table in found.values():
        words = sheet.to_text(table) + sheet.to_csv(table)
        assert "published" not in words, table.key
        assert not numbers_of_the_paper() & set(words.replace(",", ", ").split()), table.key
    shown_too = tables.build(full(ablations, rows))
    for key in ("table3", "table4", "table5", "table6", "table7", "table8"):
        text = sheet.to_text(shown_too[key])
        assert "published" in text and numbers_of_the_paper() & set(text.split()), key
    for key in ("protocol", "class_counts", "paired", "ratios"):
        assert shown_too[key].columns == tables.build(
            ablations.table(rows, classes=list(VOC_CLASSES)))[key].columns


def test_numbers_of_the_paper_on_full_voc(ablations):
    rows = ablations.grid(quotas=("voc/92", "voc/1464"))
    rows += [ablations.row("L", 0, 0.5, quota="voc/1464", labelled=1464)]
    found = tables.build(full(ablations, rows))
    line = read(found, "table3")
    assert [(r["quota"], r["source"], r["selected_mean"]) for r in line] == [
        ("voc/92", "here", "120"), ("voc/92", "published", "147"),
        ("voc/1464", "here", "240"), ("voc/1464", "published", "2095")]
    assert (line[3]["aeroplane"], line[3]["person"], line[3]["tvmonitor"]) == ("88", "658", "83")
    assert [row["published"] for row in read(found, "table4")] == ["0.755", "0.818", "0.836"]
    last, ours = read(found, "table5")[-2:]
    assert (last["method"], last["val_miou_mean"], last["test_miou"]) == (
        "the paper", "0.844", "0.833")
    assert (ours["method"], ours["val_miou_n"], ours["test_miou"]) == ("ours", "3", "")
    assert [(r["published_images"], r["published"]) for r in read(found, "table6")] == [
        ("609", "0.919"), ("1072", "0.865"), ("898", "0.898"), ("555", "0.901")]
    assert [(r["published_images"], r["published"]) for r in read(found, "table7")] == [
        ("1464", "0.832"), ("2095", "0.844"), ("2021", "0.825"), ("2061", "0.827"),
        ("2068", "0.825")]
    assert [(r["miou_voc/92_mean"], r["miou_voc/1464_mean"]) for r in read(found, "table8")[2:]
            ] == [("0.812", "0.832"), ("0.827", "0.844")]


@pytest.mark.parametrize("other", [{"score": "quality"}, {"keep": "agreed"}, {"method": "probe"}])
def test_other_settings_have_no_published_number(ablations, other):
    rows = [ablations.row("S", 0, 0.5, pair=pair, **other, **how) for pair in ablations.PAIRS
            for how in ({"quota": "voc/1464"}, {"quota": "none", "min_iou": 0.9})]
    found = tables.build(full(ablations, rows))
    assert {row["published"] for row in read(found, "table7")} == {""}
    want = {""} if "method" not in other else {"0.919", "0.865", "0.898", "0.901"}
    assert {row["published"] for row in read(found, "table6")} == want


def test_published_counts_fit_the_quota_and_the_number_selected():
    for name, counts in published.COUNTS.items():
        asked = quota.PRESETS[name]
        assert len(counts) == 20 and all(c >= q for c, q in zip(counts, asked, strict=True))
        assert max(counts) < published.SELECTED[name] <= sum(asked)


def test_quotas_are_in_the_order_of_their_numbers(ablations):
    rows = [ablations.row(quota=name) for name in ("voc/1464", "none", "voc/92", "voc/183")]
    found = tables.build(ablations.table(rows))
    assert [row["quota"] for row in shown(found, "table3")] == ["voc/92", "voc/183", "voc/1464"]
    assert slices.shown({"b": 1, "a": 2}) == '{"a": 2, "b": 1}' and slices.shown("") == "default"


@pytest.mark.parametrize("break_it, message", [
    (lambda t: t["rows"][3].update(miou=40.3), r"rows\[3\]\.miou is 40\.3; want a fraction 0\.\.1"),
    (lambda t: t["rows"][3].update(miou=float("nan")), r"rows\[3\]\.miou is nan; want a fraction"),
    (lambda t: t["rows"][0].update(miou="0.4"), r"rows\[0\]\.miou is '0\.4'; want a fraction"),
    (lambda t: t["rows"][0].update(miou=True), r"rows\[0\]\.miou is True; want a fraction"),
    (lambda t: t["rows"][1].update(counts={"a": -1}), r"rows\[1\]\.counts is .*; want an object"),
    (lambda t: t["rows"][1].update(labelled=10 ** 400), r"rows\[1\]\.labelled is 1000"),
    (lambda t: t["rows"][2].update(cell=[]), r"rows\[2\]\.cell is \[\]; want an object"),
    (lambda t: t["rows"][2].update(cell={}), r"rows\[2\]\.cell\.arm is None; want the name"),
    (lambda t: t["rows"][2]["cell"].update(seed="0"), r"cell\.seed is '0'; want a whole number"),
    (lambda t: t["rows"][2]["cell"].update(pair="AB"), r"cell\.pair is 'AB'; want the names of"),
    (lambda t: t["rows"].insert(0, None) or t["rows"].insert(0, 7), r"rows\[0\] is 7; want an obj"),
    (lambda t: t.update(rows={}), r"rows is \{\}; want a list"),
    (lambda t: t.update(full_voc="yes"), r"full_voc is 'yes'; want true or false"),
    (lambda t: t.update(classes=[1]), r"classes is \[1\]; want names"),
    (lambda t: t["sets"].update(A=3), r"sets\.A is 3; want an object"),
    (lambda t: t["histogram"].update(edges=[0, 0, 1]), r"histogram\.edges is .*rising numbers"),
    (lambda t: t["histogram"]["counts"].update(A=[1]), r"histogram\.counts\.A is \[1\]; want 2 "),
])
def test_what_is_no_table_is_named(ablations, break_it, message):
    table = ablations.table(ablations.grid())
    break_it(table)
    with pytest.raises(ValueError, match=message) as error:
        tables.build(table)
    assert "\n" not in str(error.value)


def test_a_row_may_lack_everything_but_its_arm(ablations):
    found = tables.build({"rows": [{"cell": {"arm": "S"}}, {"cell": {"arm": "M", "seed": 0}}]})
    assert list(found) == ["protocol", "paired"]
    assert shown(found, "protocol")[0]["test mIoU %"] == "–"
    assert shown(found, "paired")[0]["missing"] == "S: seeds None, 0; M: seeds None, 0"


def test_names_stay_names_in_csv_and_text(ablations):
    wild = 'kite, "red"\n\x1b[31m'
    rows = [ablations.row(counts={wild: 3}, quota=wild, supervision="I,S")]
    table = tables.build(ablations.table(rows, classes=["background", wild]))
    line = read(table, "table3")[0]
    assert (line["quota"], line[wild]) == (wild, "3")
    text = sheet.to_text(table["table3"])
    assert "\x1b" not in text and 'kite, "red"??[31m' in text


@pytest.mark.parametrize("key", KEYS)
def test_csv_parses_back_into_the_cells(found, key):
    lines = read(found, key)
    assert len(lines) == len(found[key].rows)
    for line, row in zip(lines, found[key].rows, strict=True):
        assert None not in line and None not in line.values()
        for cell, column in zip(row, found[key].columns, strict=True):
            if column.stat:
                mean = cell.mean if isinstance(cell, tuple) else cell
                read_back = line[f"{column.key}_mean"]
                assert (mean is None) == (read_back == "")
                assert mean is None or float(read_back) == pytest.approx(mean, abs=1e-11)
            elif column.kind == sheet.WORD:
                assert line[column.key] == (cell or "")
            else:
                assert cell is None or float(line[column.key]) == pytest.approx(cell, abs=1e-11)


def test_wide_tables_go_on_below_with_their_first_columns(ablations):
    found = tables.build(full(ablations, ablations.grid()))["table3"]
    text = sheet.to_text(found, width=80)
    assert max(map(len, text.splitlines())) <= 80
    heads = [line for line in text.splitlines() if line.startswith("quota ")]
    assert len(heads) > 2
    assert sum((line.split()[2:] for line in heads), []) == [c.head for c in found.columns[2:]]


def test_figure_1_as_text_and_csv(ablations):
    table = ablations.table([])
    found = tables.build(table)["figure1"]
    text = tables.to_text(found)
    assert "Figure 1. Labels by IoU with the truth: B+ (eps, crf, sam, I+S)" in text
    assert f"0 to 0.5      30  {'#' * 30}\n0.5 to 1      10  {'#' * 10}\n" in text
    assert f"0.5 to 1      40  {'#' * 40}\n" in text and "0 to 0.5       0\n" in text
    assert tables.to_csv(found) == "from,to,A,B+\n0,0.5,30,0\n0.5,1,10,40\n"
    empty = ablations.table([], histogram=None)
    assert (figure.svg(empty), figure.sheet(empty)) == ("", None)
    zeros = ablations.table([], histogram={"edges": [0, 1], "counts": {"A": [0]}})
    assert "0 to 1       0\n" in figure.sheet(zeros).drawing and "<svg" in figure.svg(zeros)
