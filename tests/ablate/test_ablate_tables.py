"""The paper's tables from rows made by hand: layout, numbers, CSV, and what is left out."""

import csv
import io

import pytest

from wsssjax.ablate import cells, figure, page, published, sheet
from wsssjax.data.classes import VOC_CLASSES
from wsssjax.select import quota

KEYS = list(page.TABLES)


def shown(found, key):
    """The table's rows as dicts of text by column."""
    table = sheet.to_table(found[key])
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def read(found, key):
    return list(csv.DictReader(io.StringIO(sheet.to_csv(found[key]))))


def full(ablations, rows, voc="train_aug"):
    return ablations.table(rows, voc=voc, data="voc", classes=list(VOC_CLASSES))


@pytest.fixture
def found(ablations):
    return page.build(ablations.table(ablations.grid()))


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
    assert "Every training took 500 steps." in note and "Tall: true masks on all images" in note


def test_different_lengths_of_training_are_told(ablations):
    found = page.build(ablations.table([ablations.row(), ablations.row("M", steps=1_234_567)]))
    assert "different numbers of steps: 500, 1,234,567." in found["protocol"].note


def test_class_counts_and_means_over_seeds(ablations):
    rows = [ablations.row("U", seed, counts={"train": 3 + seed, "boat": 5, "sled": 2},
                          labelled=10 + seed) for seed in (0, 1)]
    (row,) = shown(page.build(ablations.table(rows)), "class_counts")
    assert row == {"arm": "U", "labelled": "10.5 ± 0.7", "train": "3.5", "boat": "5", "kite": "0",
                   "sled": "2"}


def test_paired_table_has_every_seed_and_says_what_is_missing(ablations):
    rows = ablations.grid(quotas=("voc/183",))
    rows[4]["miou"] = None  # arm M, seed 1
    rows[5]["miou"] = 0.3  # arm M, seed 2
    found = page.build(ablations.table(rows))
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
    assert [row["selected"] for row in shown(page.build(ablations.table(rows)), "table3")] == [
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
    found = page.build(ablations.table(rows))
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
    found = page.build(ablations.table(rows))
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
    found = page.build(ablations.table(rows))
    for key in ("protocol", "paired", "table3", "table6", "table7", "table8"):
        assert {row["score"] for row in shown(found, key)} == {"paper", "quality"}, key
    assert [row["method"] for row in shown(found, "table5")] == ["ours (paper)", "ours (quality)"]
    assert found["table7"].note.count("The paper's order") == 2
    assert "score quality: The paper's order" in found["table7"].note


def test_limits_of_the_labelled_images_are_told_where_there_are_any(ablations):
    rows = [ablations.row()]
    rows[0]["cell"] |= {"images": 0, "pixels": 0}
    assert "limit" not in page.build(ablations.table(rows))["protocol"].note
    rows.append(rows[0] | {"cell": rows[0]["cell"] | {"images": 50}, "labelled": 50})
    found = page.build(ablations.table(rows))
    assert [row["image limit"] for row in shown(found, "protocol")] == ["none", "50"]
    assert [row["image_limit"] for row in read(found, "table3")] == ["none", "50"]


def test_cells_that_have_not_run_are_dashes(ablations):
    rows = ablations.grid()
    for row in rows:
        row |= {name: None for name in row if name not in ("cell", "supervision")}
    found = page.build(ablations.table(rows, sets=[]))
    assert list(found) == [key for key in KEYS if key not in ("class_counts", "table4",
                                                                  "figure1")]
    assert found["protocol"].title.endswith("(0 of 45 cells done)")
    assert found["table3"].title.endswith("(0 of 6 cells done)")
    assert {row["test mIoU %"] for row in shown(found, "protocol")} == {"–"}
    assert {row["mIoU %"] for row in shown(found, "table7")} == {"–"}
    assert "not known whether it holds here" in found["table7"].note
    assert cells.done(rows) == (0, 49)
    for key in found:
        assert read(found, key) is not None and sheet.to_text(found[key])


def test_no_rows_are_no_tables(ablations):
    assert page.build(ablations.table([], sets=[])) == {}


def numbers_of_the_paper():
    return {f"{value:.1f}" for values in (published.WITH, published.WITHOUT) for value in
            values.values()} | {"2,095", "91.9", "75.5", "83.3"}


def test_numbers_of_the_paper_are_absent_on_other_data(ablations):
    rows = ablations.grid(quotas=("voc/92", "voc/1464"))
    for row in rows:  # so that none of ours is one of theirs
        row["miou"] = row["miou"] and 0.123
        row["label_miou"] = 0.234
    found = page.build(ablations.table(rows))
    for table in found.values():
        words = sheet.to_text(table) + sheet.to_csv(table)
        assert "published" not in words, table.key
        assert not numbers_of_the_paper() & set(words.replace(",", ", ").split()), table.key
    aug = page.build(full(ablations, rows))
    own = page.build(full(ablations, rows, "train"))
    for key in page.PAPER:  # those of official train, and those of train_aug
        one, other = (own, aug) if key in ("table4", "table6") else (aug, own)
        text = sheet.to_text(one[key])
        assert "published" in text and numbers_of_the_paper() & set(text.split()), key
        assert "published" not in sheet.to_text(other[key]) + sheet.to_csv(other[key]), key
    for key in ("protocol", "class_counts", "paired", "ratios"):
        assert aug[key].columns == page.build(
            ablations.table(rows, classes=list(VOC_CLASSES)))[key].columns


def test_numbers_of_the_paper_on_full_voc(ablations):
    rows = ablations.grid(quotas=("voc/92", "voc/1464"))
    rows += [ablations.row("L", 0, 0.5, quota="voc/1464", labelled=1464)]
    found = page.build(full(ablations, rows))
    line = read(found, "table3")
    assert [(r["quota"], r["source"], r["selected_mean"]) for r in line] == [
        ("voc/92", "here", "120"), ("voc/92", "published", "147"),
        ("voc/1464", "here", "240"), ("voc/1464", "published", "2095")]
    assert (line[3]["aeroplane"], line[3]["person"], line[3]["tvmonitor"]) == ("88", "658", "83")
    last, ours = read(found, "table5")[-2:]
    assert (last["method"], last["val_miou_mean"], last["test_miou"]) == (
        "the paper", "0.844", "0.833")
    assert (ours["method"], ours["val_miou_n"], ours["test_miou"]) == ("ours", "3", "")
    assert [(r["published_images"], r["published"]) for r in read(found, "table7")] == [
        ("1464", "0.832"), ("2095", "0.844"), ("2021", "0.825"), ("2061", "0.827"),
        ("2068", "0.825")]
    assert [(r["miou_voc/92_mean"], r["miou_voc/1464_mean"]) for r in read(found, "table8")[2:]
            ] == [("0.812", "0.832"), ("0.827", "0.844")]


def test_numbers_of_the_paper_on_official_train(ablations):
    sets = [ablations.label_set(name) for name in ("B+", "A+", "B sam", "B", "A + CRF", "A")]
    found = page.build(full(ablations, ablations.grid(), "train") | {"sets": sets})
    assert [(row["set"], row["published"]) for row in read(found, "table4")] == [
        ("A", "0.755"), ("A + CRF", "0.774"), ("B", "0.818"), ("A+", "0.813"), ("B sam", ""),
        ("B+", "0.836")]
    assert [(r["published_images"], r["published"]) for r in read(found, "table6")] == [
        ("609", "0.919"), ("1072", "0.865"), ("898", "0.898"), ("555", "0.901")]


@pytest.mark.parametrize("other", [
    {"score": "quality"}, {"keep": "agreed"}, {"iou": "mean"}, {"images": 50}, {"pixels": 9},
    {"cam_b.infer.threshold": 0.3}, {"method": "probe"}, {"tags": True}])
def test_other_settings_have_no_published_number(ablations, other):
    rows = [ablations.row("S", 0, 0.5, pair=pair, **how) for pair in ablations.PAIRS
            for how in ({"quota": "voc/1464"}, {"quota": "none", "min_iou": 0.9})]
    rows += [ablations.row("L", 0, 0.5, quota="voc/1464")]
    for row in rows:
        row["cell"] |= other
    found = page.build(full(ablations, rows))
    assert {row["published"] for row in read(found, "table7")} == {""}
    assert "published" not in sheet.to_text(found["table8"])
    train = page.build(full(ablations, rows, "train"))
    same = other.keys() <= {"method", "tags"}  # which change nothing about what is selected
    assert {row["published"] for row in read(train, "table6")} == (
        {"0.919", "0.865", "0.898", "0.901"} if same else {""})
    assert ("published" in sheet.to_csv(found["table3"])) == same


def test_another_pair_or_bound_has_no_published_number(ablations):
    rows = [ablations.row("S", 0, 0.5, pair=("A", "B"), quota="voc/92"),
            ablations.row("none", 0, None, quota="none", min_iou=0.8, labelled=60)]
    found = page.build(full(ablations, rows))
    assert all("published" not in sheet.to_csv(found[key]) for key in ("table3", "table8"))
    assert [row["published"] for row in read(page.build(full(ablations, rows, "train")),
                                             "table6")] == [""]
    rows = [ablations.row("S", 0, 0.5, quota="voc/92", min_iou=0.5)]
    found = page.build(full(ablations, rows))
    assert all("published" not in sheet.to_csv(found[key]) for key in ("table3", "table8"))


def test_a_random_draw_is_not_what_the_paper_left_unselected(ablations):
    rows = [ablations.row(arm, 0, 0.5, quota="voc/1464") for arm in ("S", "U")]
    found = page.build(full(ablations, rows))
    assert [row["labels"] for row in read(found, "table8")] == [
        "without selection (U, a random draw of equal size)", "with selection (A,B+)",
        "with selection, published"]
    assert [row["published"] for row in read(found, "table7")] == ["", "0.844"]


def test_table6_takes_any_bound_and_tells_it(ablations):
    rows = [ablations.row("none", 0, None, pair=pair, quota="none", min_iou=bound,
                          labelled=19 if pair == ("A", "B") else 20, label_miou=0.8 + more)
            for pair, more in ablations.PAIRS.items() for bound in (0.75,)]
    found = page.build(ablations.table(rows))["table6"]
    assert found.title == "Table 6. Labels with IoU > 75 %, by compared pair"
    assert "(A,B+) above (A,B): too few to tell, fewer than 20 images" in found.note
    assert "so far 3 of 3 known comparisons hold here (6 in all)" in found.note
    rows.append(ablations.row("none", 0, None, quota="none", min_iou=0.5, labelled=90))
    found = page.build(ablations.table(rows))
    assert found["table6"].title == "Table 6. Labels above a bound on IoU, by compared pair"
    assert {row["min_iou"] for row in shown(found, "table6")} == {"0.75", "0.5"}


def test_label_sets_of_one_name_are_told_apart_by_their_axes(ablations):
    sets = [ablations.label_set("B+", histogram=[i, 9], **{"cam_b.infer.threshold": i / 10})
            for i in (2, 3)] + [ablations.label_set("A", histogram=[5, 5])]
    found = page.build(ablations.table([], sets=sets))
    assert [(row["set"], row["cam_b.infer.threshold"]) for row in shown(found, "table4")] == [
        ("A", "none"), ("B+", "0.2"), ("B+", "0.3")]
    assert sheet.to_csv(found["figure1"]).splitlines() == [
        "from,to,B+ cam_b.infer.threshold 0.2,B+ cam_b.infer.threshold 0.3,A", "0,0.5,2,3,5",
        "0.5,1,9,9,5"]
    assert "IoU with the truth: B+ (cam_b.infer.threshold 0.3, eps, I+S)" in sheet.to_text(
        found["figure1"])


def test_published_counts_fit_the_quota_and_the_number_selected():
    for name, counts in published.COUNTS.items():
        asked = quota.PRESETS[name]
        assert len(counts) == 20 and all(c >= q for c, q in zip(counts, asked, strict=True))
        assert max(counts) < published.SELECTED[name] <= sum(asked)


def test_quotas_are_in_the_order_of_their_numbers(ablations):
    rows = [ablations.row(quota=name) for name in ("voc/1464", "none", "voc/92", "voc/183")]
    found = page.build(ablations.table(rows))
    assert [row["quota"] for row in shown(found, "table3")] == ["voc/92", "voc/183", "voc/1464"]


def test_names_stay_names_in_csv_and_text(ablations):
    wild = 'kite, "red"\n\x1b[31m'
    rows = [ablations.row(counts={wild: 3}, quota=wild, supervision="I,S")]
    table = page.build(ablations.table(rows, classes=["background", wild]))
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
    found = page.build(full(ablations, ablations.grid()))["table3"]
    text = sheet.to_text(found, width=80)
    assert max(map(len, text.splitlines())) <= 80
    heads = [line for line in text.splitlines() if line.startswith("quota ")]
    assert len(heads) > 2
    assert sum((line.split()[2:] for line in heads), []) == [c.head for c in found.columns[2:]]


def test_figure_1_as_text_and_csv(ablations):
    table = ablations.table([])
    found = page.build(table)["figure1"]
    text = sheet.to_text(found)
    assert "Figure 1. Labels by IoU with the truth: B+ (eps, crf, sam, I+S)" in text
    assert f"0 to 0.5      30  {'#' * 30}\n0.5 to 1      10  {'#' * 10}\n" in text
    assert f"0.5 to 1      40  {'#' * 40}\n" in text and "0 to 0.5       0\n" in text
    assert sheet.to_csv(found) == "from,to,A,B+\n0,0.5,30,0\n0.5,1,10,40\n"
    empty = ablations.table([], sets=[ablations.label_set("A")])
    assert (figure.svg(empty), figure.sheet(empty)) == ("", None)
    zeros = ablations.table([], edges=[0, 1], sets=[ablations.label_set("A", histogram=[0])])
    assert "0 to 1       0\n" in figure.sheet(zeros).drawing and "<svg" in figure.svg(zeros)
