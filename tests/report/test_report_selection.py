"""The page of a selection: every image with its reason, pictures within a budget, broken files."""

import html
import json
import re
import time

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from wsssjax.core import files
from wsssjax.data import label_map
from wsssjax.report import __main__ as command
from wsssjax.report import images, read_selection, reasons, selection_page, thumbnails

VOC_LIKE = [f"class{k}" for k in range(20)]


def read_page(folder, **flags):
    """The text of the page and the data of its table."""
    text = command.run(folder, **flags).read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="images-data">(.*?)</script>', text)
    return text, json.loads(found[1])


def cells(text, key):
    """Rows of a static table, tags left out."""
    inner = text.split(f'<table id="table-{key}">')[1].split("</table>")[0]
    return [[html.unescape(re.sub("<[^>]+>", "", cell)) for cell in
             re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)]
            for row in re.findall("<tr>(.*?)</tr>", inner, re.S)]


def with_pictures(folder, ids, size=(60, 80)):
    """Photos, pool labels and first labels of the ids, and the lists that name them."""
    rng = np.random.default_rng(5)
    lines = []
    (folder / "photos").mkdir(parents=True)
    for name in ids:
        photo = rng.integers(0, 256, (6, 8, 3), np.uint8)
        Image.fromarray(photo).resize(size[::-1]).save(folder / "photos" / f"{name}.jpg")
        for kind in ("pool", "first"):
            cells_44 = rng.integers(0, 3, (4, 4), np.uint8)
            label_hw = cells_44.repeat(size[0] // 4, 0).repeat(size[1] // 4, 1)
            (folder / kind).mkdir(exist_ok=True)
            (folder / kind / f"{name}.png").write_bytes(label_map.encode(label_hw))
        lines.append(f"photos/{name}.jpg pool/{name}.png\n")
    (folder / "labeled.txt").write_text("".join(lines[::2]))
    (folder / "unlabeled.txt").write_text("".join(lines[1::2]))


@pytest.mark.parametrize("old", [False, True])
def test_every_image_has_its_reason_in_words(tmp_path, selection_files, old):
    folder = selection_files.write(tmp_path / "s", old=old)
    text, data = read_page(folder)
    rows = selection_files.EVERY_REASON
    assert data["id"] == [row[0] for row in rows] and data["rank"] == list(range(1, 8))
    words = {i: data["words"][w] for i, w in zip(data["id"], data["why"], strict=True)}
    assert words == selection_files.IN_WORDS
    assert data["iou"] == [row[1] for row in rows] and data["score"] is None
    assert data["selected"] == [1, 1, 0, 0, 0, 0, 0] and data["quality"] is None
    assert [[data["names"][k] for k in row] for row in data["classes"]] == [row[2] for row in rows]
    assert data["classIou"][1] == [0.91, 0.91]
    assert "it needs true masks" in text and "table-reliability" not in text
    short = {reasons.short(row[3]) for row in rows}
    assert {row[0] for row in cells(text, "reasons")[1:]} == short == set(data["reasons"])
    assert [row[:6] for row in cells(text, "quota")[1:]] == [
        ["cat", "2", "2", "2", "3", "–"], ["dog", "1", "1", "1", "3", "–"],
        ["owl", "0", "0", "0", "1", "–"]]
    for what in ("2 of 2", "rank 2", "IoU 0.910", "28.6 %"):
        assert what in text


def test_without_quota_and_with_another_score(tmp_path, selection_files):
    rows = [("a", 0.9, ["cat"], "min_iou", []), ("b", 0.2, ["cat"], "below", [])]
    folder = selection_files.write(tmp_path / "s", rows, None, names=["cat"])
    path = folder / "selection.parquet"
    table = pyarrow.parquet.read_table(path)
    table = table.set_column(2, "score", pyarrow.array([0.25, 0.125]))
    pyarrow.parquet.write_table(table, path)
    text, data = read_page(folder)
    assert data["score"] == [0.25, 0.125] and 'data-key="score"' in text
    assert "rank 1 has the highest score" in text and "agrees best" not in text
    assert [data["words"][w] for w in data["why"]] == ["IoU above 0.5", "IoU not above 0.5"]
    assert cells(text, "quota")[1][:5] == ["cat", "–", "0", "1", "2"]
    selection_files.write(tmp_path / "t", rows[:1], None, names=["cat"], min_iou=None)
    assert read_page(tmp_path / "t")[1]["words"] == ["no quota: every image is taken"]


def test_a_kept_class_is_told_apart_from_a_filled_place(tmp_path, selection_files):
    rows = [("a", 0.9, ["cat", "dog"], "quota", ["cat"]), ("b", 0.8, ["dog"], "quota", ["dog"]),
            ("c", 0.7, ["cat"], "full", []), ("d", 0.1, ["cat"], "below", [])]
    folder = selection_files.write(tmp_path / "s", rows, {"cat": 1, "dog": 1}, keep="classes")
    text, data = read_page(folder)
    assert [data["words"][w] for w in data["why"]] == [
        "among the best of a class, kept: cat", "among the best of a class, kept: dog",
        "not among the best of a class", "IoU of no class above 0.5"]
    assert "were full" not in text and "not among the best of a class" in data["reasons"]
    above = [("a", 0.9, ["cat"], "min_iou", ["cat"])]
    selection_files.write(tmp_path / "t", above, None, names=["cat"], keep="classes")
    assert read_page(tmp_path / "t")[1]["words"] == ["IoU above 0.5, kept: cat"]


def test_words_equal_a_replay_of_the_selection(selection_files):
    names, quota = ["x", "y", "z"], {"x": 9, "y": 3, "z": 40}
    rows = selection_files.many(400, names, quota)
    place = {n: k for k, n in enumerate(names)}
    codes = [row[3] for row in rows]
    classes, filled = ([[place[n] for n in row[c]] for row in rows] for c in (2, 4))
    options = {"names": names, "quota": list(quota.values()), "min_iou": None}
    words = reasons.in_words(codes, classes, filled, **options)
    assert words == reasons.in_words(codes, classes, None, **options)  # as of an old table
    seen = dict.fromkeys(names, 0)
    for row, text in zip(rows, words, strict=True):
        for name in row[4]:
            assert f"{name}, which had {seen[name]} of {quota[name]}" in text
            seen[name] += 1
    assert reasons.in_words(["new"], [[0]], None, **options) == ["new"]


def test_unmet_quota_is_told(tmp_path, selection_files):
    rows = [("a", 0.9, ["cat"], "quota", ["cat"])]
    text, _ = read_page(selection_files.write(tmp_path / "s", rows, {"cat": 5, "dog": 2},
                                              warnings=["both folders are <one>"]))
    assert '<p class="warning">both folders are &lt;one&gt;</p>' in text
    assert [row[5] for row in cells(text, "quota")[1:]] == ["4", "2"] and "0 of 2" in text


def test_groups_hold_the_best_the_worst_and_those_at_the_border():
    count = 5000
    rank_n = np.random.default_rng(1).permutation(count) + 1
    selected_n = (rank_n <= 2000) & (rank_n % 3 == 0) | (rank_n == 2001)
    shows_n = rank_n != 5000
    group_n = read_selection.picture_groups(rank_n, selected_n, shows_n)
    members = [set(rank_n[group_n & (1 << bit) > 0]) for bit in range(4)]
    assert members[0] == set(range(1, 251)) and members[2] == set(range(4750, 5000))
    assert members[1] == set(range(2001 - 125, 2001 + 125))
    assert len(members[3]) == 250 and not members[3] & (members[0] | members[1] | members[2])
    again_n = read_selection.picture_groups(rank_n, selected_n, shows_n)
    np.testing.assert_array_equal(group_n, again_n)
    few_n = read_selection.picture_groups(np.arange(1, 4), np.zeros(3, bool), np.ones(3, bool))
    assert few_n.tolist() == [5, 5, 5]


def test_pictures_come_from_lists_or_folders(tmp_path, selection_files):
    folder = selection_files.write(tmp_path / "s")
    assert read_page(folder)[1]["pictures"] == {} and "No photo or label file" in read_page(
        folder)[0]
    with_pictures(folder, "abcde")
    first = folder / "first"
    assert command.run(folder, first=first).read_text() == command.run(folder,
                                                                       first=first).read_text()
    for flags in ({"first": folder / "first"},
                  {"first": folder / "first", "images": folder / "photos"}):
        text, data = read_page(folder, **flags)
        assert sorted(data["pictures"]) == ["0", "1", "3", "4", "5"]  # rows of b a c d e
        assert "for 2 images" in text
        for uris in data["pictures"].values():
            assert [uri[:15] for uri in uris] == ["data:image/jpeg"] + ["data:image/png;"] * 2
    assert all(uris[2] == "" for uris in read_page(folder)[1]["pictures"].values())


def test_quality_and_curve_need_truth_and_equal_brute_force(tmp_path, selection_files):
    folder = selection_files.write(tmp_path / "s")
    with_pictures(folder, "abcde")
    text, data = read_page(folder, truth=folder / "first")
    for name, got in zip(data["id"], data["quality"], strict=True):
        if name in "fh":
            assert got is None
            continue
        label, truth = (np.asarray(Image.open(folder / kind / f"{name}.png"))
                        for kind in ("pool", "first"))
        ious = [((label == k) & (truth == k)).sum() / ((label == k) | (truth == k)).sum()
                for k in (1, 2) if ((label == k) | (truth == k)).any()]
        assert got == pytest.approx(np.mean(ious), abs=1e-5)
    curve = cells(text, "reliability")[1:]
    assert [row[0] for row in curve] == [f"{i} of 5" for i in range(1, 6)]
    place = {name: i for i, name in enumerate(data["id"])}
    want = [f"{data['quality'][place[name]]:.3f}" for name in "edcab"]
    assert [row[3] for row in curve] == want and "Of 5 images" in text


def test_tenths_are_equal_parts_by_rising_score():
    rng = np.random.default_rng(0)
    score_m, quality_m = rng.random(1003), rng.random(1003)
    parts = selection_page.tenths(score_m, quality_m)
    assert [n for *_, n in parts] == [101, 101, 101] + [100] * 7
    order = np.argsort(score_m)
    assert parts[0][1] == pytest.approx(quality_m[order[:101]].mean())
    assert parts[-1][0] == pytest.approx(score_m[order[-100:]].mean())
    assert parts[-1][2] == np.sort(score_m)[-100]
    assert selection_page.tenths(score_m[:0], quality_m[:0]) == []


def test_hostile_names_stay_text(tmp_path, selection_files):
    bad = "</script><script>alert(1)</script>"
    names = [bad, "<!--", "a\"'&{{ 7*7 }}"]
    rows = [(bad, 0.9, names, "quota", names), ("../../etc/passwd", 0.5, names[:1], "full", []),
            ("\u2028 é", 0.4, [], bad, [])]
    folder = selection_files.write(tmp_path / "s", rows, dict.fromkeys(names, 1))
    text, data = read_page(folder)
    assert text.count("<script") == 2 and text.count("</script>") == 2 and "<!--" not in text
    assert data["id"] == [row[0] for row in rows] and data["names"] == names
    assert html.escape(bad) in text and bad not in text and "7*7" in text
    assert bad in data["reasons"] and data["pictures"] == {}


def test_ten_thousand_images_make_a_small_page_in_little_time(tmp_path, selection_files):
    rows = selection_files.many(10_000, VOC_LIKE, dict.fromkeys(VOC_LIKE, 60))
    folder = selection_files.write(tmp_path / "s", rows, dict.fromkeys(VOC_LIKE, 60),
                                   row_group=1 << 12)
    ids = [row[0] for row in rows]
    listed = read_selection.read_selection(folder)
    pictured = [ids[r - 1] for r in listed.rank_n[listed.group_n > 0]]
    with_pictures(folder, pictured, size=(240, 320))
    start = time.perf_counter()
    text, data = read_page(folder, first=folder / "first")
    seconds = time.perf_counter() - start
    assert len(data["id"]) == 10_000 and 900 < len(data["pictures"]) <= 1000
    assert 1_000_000 < len(text.encode()) < 20_000_000
    assert seconds < 60  # about 5 on an idle machine of two cores


def test_pictures_shrink_then_go_to_stay_in_the_budget(tmp_path, selection_files, monkeypatch):
    rows = selection_files.many(60, VOC_LIKE[:3], dict.fromkeys(VOC_LIKE[:3], 5))
    folder = selection_files.write(tmp_path / "s", rows, dict.fromkeys(VOC_LIKE[:3], 5))
    with_pictures(folder, [row[0] for row in rows], size=(240, 320))
    selection = read_selection.read_selection(folder)
    where = thumbnails.sources(selection, first=folder / "first")
    full = thumbnails.encode(selection, where, 10**9)
    size = sum(map(thumbnails._bytes, full.uris.values()))
    assert (len(full.uris), full.side, full.over_budget) == (60, 160, 0)
    smaller = thumbnails.encode(selection, where, size * 3 // 4)
    assert smaller.side < 160 and len(smaller.uris) + smaller.over_budget == 60
    tight = thumbnails.encode(selection, where, size // 10)
    assert tight.side == 80 and 0 < len(tight.uris) < 60
    assert sum(map(thumbnails._bytes, tight.uris.values())) <= size // 10
    kept = {rows[i][0] for i in tight.uris}  # each group loses its last, none all
    assert rows[0][0] in kept and rows[-1][0] in kept
    monkeypatch.setattr(images, "PICTURE_BYTES", size // 10)
    section = images.section(selection, where, budget=size // 10)
    assert any(f"{tight.over_budget} more pictures are left out" in n for n in section["notes"])
    assert thumbnails.encode(selection, where, 0).uris == {}


def test_more_images_than_a_page_can_list_are_thinned_by_rank(tmp_path, selection_files,
                                                              monkeypatch):
    monkeypatch.setattr(read_selection, "ROWS_MOST", 100)
    monkeypatch.setattr(read_selection, "PER_GROUP", 5)
    quota = dict.fromkeys(VOC_LIKE[:4], 8)
    rows = selection_files.many(1000, VOC_LIKE[:4], quota)
    folder = selection_files.write(tmp_path / "s", rows, quota, row_group=64)
    text, data = read_page(folder)
    assert 100 <= len(data["id"]) <= 120 and set(range(10, 1001, 10)) <= set(data["rank"])
    shown = [rank for rank, row in enumerate(rows, 1) if row[2]]
    assert set(shown[:5] + shown[-5:]) <= set(data["rank"])
    assert f"{len(data['id'])} of 1,000 images are listed" in text
    everyone = selection_files.write(tmp_path / "all", rows, quota)
    monkeypatch.setattr(read_selection, "ROWS_MOST", 10**6)
    full = read_page(everyone)[1]
    words = dict(zip(full["rank"], (full["words"][w] for w in full["why"]), strict=True))
    for rank, why in zip(data["rank"], data["why"], strict=True):
        assert data["words"][why] == words[rank]  # counted over those that are not listed, too
    assert cells(text, "quota") == cells(command.run(everyone).read_text(), "quota")


@pytest.mark.parametrize("name, change, said", [
    ("selection.parquet", lambda p: p.write_bytes(b"PAR1 no"), "no readable parquet"),
    ("summary.json", lambda p: p.unlink(), "not finished"),
    ("summary.json", lambda p: p.write_text("[]"), "want an object"),
    ("summary.json", lambda p: p.write_text('{"quota": {"cat": "x"}}'), "quota is"),
    ("labeled.txt", lambda p: p.write_bytes(b"\xff\xff"), "not a text file"),
    ("pool/a.png", lambda p: p.write_bytes(b"GIF"), "not a PNG"),
    ("photos/a.jpg", lambda p: p.write_bytes(b""), "empty"),
])
def test_broken_files_are_named(tmp_path, selection_files, name, change, said):
    folder = selection_files.write(tmp_path / "s")
    with_pictures(folder, "abcde")
    change(folder / name)
    with pytest.raises((ValueError, OSError), match=said) as caught:
        command.run(folder)
    assert str(folder / name) in str(caught.value) and not (folder / "report.html").exists()


@pytest.mark.parametrize("column", ["id", "iou", "rank", "selected", "reason", "classes",
                                    "class_iou"])
def test_tables_of_other_columns_are_named(tmp_path, selection_files, column):
    folder = selection_files.write(tmp_path / "s")
    path = folder / "selection.parquet"
    table = pyarrow.parquet.read_table(path)
    at = table.column_names.index(column)
    for wrong in (table.drop_columns([column]),
                  table.set_column(at, column, pyarrow.nulls(len(table), pyarrow.date32()))):
        pyarrow.parquet.write_table(wrong, path)
        with pytest.raises(ValueError, match=f"column '{column}'") as caught:
            command.run(folder)
        assert str(path) in str(caught.value)


def test_flags_that_fit_no_run_are_refused(run_folder, tmp_path, selection_files):
    with pytest.raises(ValueError, match="--truth: only of use with"):
        command.run(run_folder, truth="x")
    with pytest.raises(FileNotFoundError, match="--first=nowhere: no such folder"):
        command.run(selection_files.write(tmp_path / "s"), first="nowhere")


def test_a_runs_page_holds_the_table_of_its_selection(run_folder):
    data = read_page(run_folder)[1]
    assert data["id"] == [f"img_{i}" for i in range(6)]
    assert [data["words"][w] for w in data["why"][:3]] == [
        f"filled train, which had {i} of 3" for i in range(3)]
    assert all(all(uris) for uris in data["pictures"].values()) and len(data["pictures"]) == 6
    assert all(0 <= q <= 1 for q in data["quality"])
    (run_folder / "select" / "summary.json").unlink()
    assert "images-data" not in command.run(run_folder).read_text()
    assert files.read_json(run_folder / "results.json")
