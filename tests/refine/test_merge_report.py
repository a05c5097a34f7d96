"""Reports of merging: pixels add up, the claims are the merge's own, files are the same twice."""

import csv
import json
import pathlib

import numpy as np
import pytest

from wsssjax.data import label_map
from wsssjax.refine import merge_report, merge_runs, proposals, rle
from wsssjax.refine.merge_folder import merge_folder

NAMES = ("background", "cat", "dog")


def grid(text):
    return np.array([[int(c) for c in row] for row in text.replace("#", "9").split()], np.uint8)


LABEL = np.where((g := grid("1100 1102 0002 #002")) == 9, 255, g).astype(np.uint8)
# 0 holds both cats wholly; 1 is mostly dog but does not hold it; 2 nothing; 3 the whole image.
MASKS = np.array([grid("1110 1110 0000 0000"), grid("0000 0001 0001 0000"),
                  grid("0000 0000 0100 0100"), grid("1111 1111 1111 1111")], bool)


def write(folder, name, label, masks, scores=None):
    label_map.write(folder / "labels" / f"{name}.png", label)
    proposals.write(folder / "masks" / f"{name}.json.gz", label.shape, [
        proposals.record(rle.encode(m), label.shape, **({"score": s} if s else {}))
        for m, s in zip(masks, scores or [None] * len(masks), strict=True)], {})


@pytest.fixture
def folders(tmp_path):
    write(tmp_path, "a", LABEL, MASKS, [0.9, 0.8, 0.7, 0.6])
    rng = np.random.default_rng(0)
    for name in "bc":
        label = rng.choice([0, 0, 1, 2, 255], (9, 12)).astype(np.uint8)
        write(tmp_path, name, label, rng.random((5, 9, 12)) < 0.4)
    write(tmp_path, "d", np.full((3, 3), 255, np.uint8), np.zeros((0, 3, 3), bool))
    return tmp_path


def run(folders, **changes):
    return merge_folder(**{
        "labels": str(folders / "labels"), "proposal_folder": str(folders / "masks"),
        "out": str(folders / "out"), "ids": list("abcd"), "num_classes": 3, "class_names": NAMES,
        "label": "", **changes})


def test_rows_count_what_the_files_show(folders):
    sums = run(folders, area_cap=0.8, report=str(folders / "r.jsonl"))
    rows = [json.loads(line) for line in (folders / "r.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == list("abcd")
    for row in rows:
        before = label_map.read(folders / "labels" / f"{row['id']}.png", 3)
        after = label_map.read(folders / "out" / f"{row['id']}.png", 3)
        assert (row["height"], row["width"]) == before.shape
        assert row["changed"] == (before != after).sum()
        for way, there, gone in (("gained", after, before), ("lost", before, after)):
            assert sum(c[way] for c in row["classes"].values()) == row["changed"]
            for k, name in ((0, "background"), (1, "cat"), (2, "dog"), (255, "ignore")):
                want = ((there == k) & (gone != k)).sum()
                assert row["classes"].get(name, {way: 0})[way] == want
    first = rows[0]
    assert (first["masks"], first["claimed"], first["over_cap"]) == (4, 2, 1)
    assert first["classes"]["cat"] == {"before": 4, "after": 6, "gained": 2, "lost": 0}
    assert first["classes"]["ignore"] == {"before": 1, "after": 0, "gained": 0, "lost": 1}
    assert sums == {"masks": 14, "claimed": sum(r["claimed"] for r in rows), "over_cap": 1,
                    "changed": sum(r["changed"] for r in rows), "pixels": 16 + 2 * 108 + 9,
                    "without_masks": 1, "without_foreground": 1}


def test_the_table_tells_the_same(folders):
    run(folders, report=str(folders / "r.jsonl"))
    run(folders, report=str(folders / "r.csv"))
    lines = [json.loads(line) for line in (folders / "r.jsonl").read_text().splitlines()]
    table = list(csv.DictReader((folders / "r.csv").read_text().splitlines()))
    for row, line in zip(table, lines, strict=True):
        assert [row[k] for k in ("id", "changed", "claimed", "masks")] == [
            str(line[k]) for k in ("id", "changed", "claimed", "masks")]
        gained = dict(part.split(":") for part in row["gained"].split(";") if part)
        assert {k: int(v) for k, v in gained.items()} == {
            k: v["gained"] for k, v in line["classes"].items() if v["gained"]}


def test_explain_names_mask_class_and_test(folders):
    run(folders, area_cap=0.8, explain=True)
    told = json.loads((folders / "out" / "explain" / "a.json").read_text())
    assert told["classes"] == {"cat": 4, "dog": 3} and told["proposals"] == "a.json.gz"
    assert told["options"] == {"merge": "max_iou_imp2", "coverage": "sequential",
                               "keep_uncovered": True, "area_cap": 0.8}
    assert [(m["mask"], m["area"], m["score"], m["claimed_by"], m["test"], m["over_cap"])
            for m in told["masks"]] == [
        ("0", 6, 0.9, "cat", "both", False), ("1", 2, 0.8, "dog", "mostly", False),
        ("2", 2, 0.7, None, None, False), ("3", 16, 0.6, None, None, True)]
    assert told["masks"][0]["shared"] == {"cat": {"pixels": 4, "of_mask": 0.6667, "of_class": 1.0}}
    assert told["masks"][1]["shared"]["dog"] == {"pixels": 2, "of_mask": 1.0, "of_class": 0.6667}
    assert label_map.folder_ids(folders / "out") == list("abcd")  # the label folder stays one
    # Without the cap the whole image goes to the first class.
    run(folders, explain=True, out=str(folders / "no_cap"))
    last = json.loads((folders / "no_cap" / "explain" / "a.json").read_text())["masks"][3]
    assert (last["claimed_by"], last["test"]) == ("cat", "holds")


def test_masks_of_a_folder_go_by_their_file_names(folders):
    from PIL import Image

    (folders / "masks" / "a.json.gz").unlink()
    (folders / "masks" / "a").mkdir()
    for name, mask in zip(("x.png", "y.png"), MASKS, strict=False):
        Image.fromarray(mask.astype(np.uint8) * 255).save(folders / "masks" / "a" / name)
    run(folders, ids=["a"], explain=True)
    told = json.loads((folders / "out" / "explain" / "a.json").read_text())
    assert [(m["mask"], m["score"]) for m in told["masks"]] == [("x.png", None), ("y.png", None)]


def test_scores_that_are_no_numbers_are_left_out(folders):
    import gzip

    text = ('{"size":[4,4],"masks":[{"counts":[16],"score":NaN},{"counts":[16],"score":"x"},'
            '{"counts":[16],"score":[1]}]}')
    (folders / "masks" / "a.json.gz").write_bytes(gzip.compress(text.encode()))
    run(folders, ids=["a"], explain=True)
    told = json.loads((folders / "out" / "explain" / "a.json").read_text())
    assert [m["score"] for m in told["masks"]] == [None] * 3


def test_the_same_input_gives_the_same_bytes(folders):
    def everything():
        run(folders, explain=True, report=str(folders / "r.jsonl"))
        return [p.read_bytes() for p in sorted((folders / "out").rglob("*.*"))
                + [folders / "r.jsonl"] if p.is_file()]

    assert everything() == everything()
    assert not [p for p in folders.rglob(".*")]


def test_claims_of_an_explanation_are_those_of_the_merge():
    rng = np.random.default_rng(1)
    label = rng.choice([0, 1, 2], (8, 8)).astype(np.uint8)
    masks = rng.random((6, 8, 8)) < 0.3
    counts = [rle.encode(m) for m in masks]
    merged = merge_runs.merge(label, counts)
    told = merge_report.explain(
        proposals.Masks(pathlib.Path("a"), counts, list("uvwxyz"), [None] * 6), merged, {})
    for m, entry in enumerate(told["masks"]):
        for k, name in ((1, "1"), (2, "2")):
            assert entry["shared"].get(name, {"pixels": 0})["pixels"] == (
                masks[m] & (label == k)).sum()


@pytest.mark.parametrize("changes, message", [
    ({"report": "r.txt"}, r"--report=r\.txt: want a name ending in \.jsonl"),
    ({"area_cap": 0.0}, "--area_cap=0.0: want a fraction"),
    ({"proposal_folder": None}, "--method=sam: needs --proposals=P"),
    ({"merge": "imp2"}, "--merge 'imp2' is unknown"),
    ({"ids": ["a", "z"]}, r"no proposals of 'z' \(1 of 2 ids missing\)"),
])
def test_bad_options_are_named_before_anything_is_written(folders, changes, message):
    with pytest.raises(ValueError, match=message):
        run(folders, **changes)
    assert not (folders / "out").exists()


def test_a_broken_file_is_named_and_nothing_done_is_lost(folders):
    (folders / "masks" / "d.json.gz").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"d\.json\.gz: not a whole gzip file"):
        run(folders, report=str(folders / "r.csv"))
    assert label_map.folder_ids(folders / "out")[:1] == ["a"]
    assert not (folders / "r.csv").exists()
