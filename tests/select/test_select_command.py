"""The select command on small folders: its files, its rules and its one-line errors."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from wsssjax.data import label_map
from wsssjax.select import control, store
from wsssjax.select.__main__ import main, run

NAMES = "background\ncat\ndog\ntrain\n"


def label(value, size=(8, 9), rows=4):
    """A map whose upper rows hold one class."""
    label_hw = np.zeros(size, np.uint8)
    label_hw[:rows] = value
    return label_hw


@pytest.fixture
def folders(tmp_path):
    """Six pairs: three cats of falling agreement, a dog, a cat with a dog, an empty pair."""
    first = {"a": label(1), "b": label(1, rows=3), "c": label(1, rows=2), "d": label(2, rows=3),
             "e": label(1), "f": label(0)}
    second = {"a": label(1), "b": label(1), "c": label(1), "d": label(2), "e": label(1),
              "f": label(0)}
    second["e"][:2] = 2
    for folder, maps in (("first", first), ("second", second)):
        for name, label_hw in maps.items():
            label_map.write(tmp_path / folder / f"{name}.png", label_hw)
    (tmp_path / "names.txt").write_text(NAMES)
    return tmp_path


def options(folders, **changes):
    return {"first": str(folders / "first"), "second": str(folders / "second"),
            "out": str(folders / "out"), "quota_spec": '{"cat": 2, "dog": 1}',
            "classes": str(folders / "names.txt"), **changes}


def content(folder):
    """Every file below a folder, by its name."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def lines(path):
    return path.read_text().splitlines()


def test_files_hold_the_selection(folders):
    summary = run(**options(folders))
    assert summary["selected"] == 3 and summary["images"] == 6
    assert summary["taken"] == {"cat": 2, "dog": 1, "train": 0} == summary["counts"]
    assert summary["reasons"] == {"quota": 3, "full": 2, "empty": 1} and summary["unmet"] == {}
    table = pq.read_table(folders / "out" / "selection.parquet").to_pydict()
    assert table["id"] == list("abcdef")
    assert table["selected"] == [True, True, False, True, False, False]
    assert table["iou"] == [1.0, 0.75, 0.5, 0.75, 18 / 54, 0.0]
    assert table["rank"] == [1, 2, 4, 3, 5, 6]
    assert table["classes"] == [["cat"], ["cat"], ["cat"], ["dog"], ["cat", "dog"], []]
    assert table["class_iou"][4] == {"cat": 0.5, "dog": 0.0, "train": None}
    assert table["reason"][2:] == ["full", "quota", "full", "empty"]
    assert table["filled"] == [["cat"], ["cat"], [], ["dog"], [], []]
    assert table["score"] == table["iou"]
    labels = folders / "second"
    assert lines(folders / "out" / "labeled.txt") == [
        f"JPEGImages/{i}.jpg {labels}/{i}.png" for i in "abd"]
    assert lines(folders / "out" / "unlabeled.txt") == [
        f"JPEGImages/{i}.jpg {labels}/{i}.png" for i in "cef"]
    assert json.loads((folders / "out" / "summary.json").read_text()) == summary


def test_same_input_gives_the_same_bytes_and_no_path(folders):
    run(**options(folders))
    kept = content(folders / "out")
    run(**options(folders, num_threads=1))
    assert content(folders / "out") == kept
    shutil.rmtree(folders / "out")
    run(**options(folders, num_threads=1, block=2))
    assert {name: data for name, data in content(folders / "out").items() if "scores" not in name
            } == {name: data for name, data in kept.items() if "scores" not in name}
    assert str(folders) not in kept["summary.json"].decode()
    assert set(kept) == {"selection.parquet", "labeled.txt", "unlabeled.txt", "summary.json",
                         "scores/000000.parquet"}


def test_unmet_quota_takes_all_there_is_and_says_so(folders):
    summary = run(**options(folders, quota_spec='{"dog": 5, "train": 2}'))
    assert summary["unmet"] == {"dog": 3, "train": 2} and summary["selected"] == 2
    assert summary["counts"] == {"cat": 1, "dog": 2, "train": 0}


def test_quota_none_with_a_bound(folders):
    summary = run(**options(folders, quota_spec="none", min_iou=0.7))
    assert summary["quota"] is None and summary["selected"] == 3


def test_pool_first_lists_and_counts_the_first_labels(folders):
    summary = run(**options(folders, pool="first", quota_spec='{"dog": 9}'))
    assert summary["counts"]["dog"] == 1  # e holds a dog only in the second folder
    assert lines(folders / "out" / "labeled.txt") == [
        f"JPEGImages/d.jpg {folders / 'first'}/d.png"]


def test_small_areas_and_tags_decide_what_an_image_holds(folders):
    stray = label(1)
    stray[7, :3] = 3
    label_map.write(folders / "second" / "a.png", stray)
    want = options(folders, quota_spec='{"train": 1}')
    assert run(**want)["selected"] == 1
    assert run(**want, min_area=4)["selected"] == 0
    (folders / "tags.csv").write_text("id,tags\n" + "".join(f"{i},cat\n" for i in "abcde")
                                      + "f,train\n")
    summary = run(**want, classes_from="tags", tags=str(folders / "tags.csv"))
    assert summary["unmet"] == {"train": 1}  # f is tagged, but both of its maps are empty


def test_classes_are_counted_where_the_other_map_is_open(folders):
    label_map.write(folders / "first" / "a.png", label(255))
    assert run(**options(folders, quota_spec='{"cat": 9}'))["counts"]["cat"] == 3
    table = store.read_table(folders / "out")
    assert table["classes"][0] == ["cat"] and table["iou"][0] == 0


def test_photo_paths_come_from_the_images_folder(folders):
    (folders / "photos").mkdir()
    for name in "abcdef":
        (folders / "photos" / f"{name}.png").write_bytes(b"")
    run(**options(folders, images=str(folders / "photos")))
    assert lines(folders / "out" / "labeled.txt")[0].startswith(f"{folders}/photos/a.png ")


def hostile(folders):
    """Options that cannot work, and what the message must say."""
    second = folders / "second"
    (folders / "ids.txt").write_text("a\nz\ny\n")
    (folders / "with space").mkdir()
    for name in "abcdef":
        (folders / "with space" / f"{name}.jpg").write_bytes(b"")
    (folders / "few").mkdir()
    (folders / "few" / "a.jpg").write_bytes(b"")
    (folders / "tags.csv").write_text("id,tags\na,cat\n")
    yield {"ids": str(folders / "ids.txt")}, "first: holds no label map of 2 of 3 ids: y, z; "
    yield {"quota_spec": '{"kat": 1}'}, "'kat' is unknown; did you mean 'cat'"
    yield {"kind": "fore"}, "--iou=fore: want one of foreground, mean, mean_bg"
    yield {"min_iou": 1.5}, "--min_iou=1.5: want a fraction"
    yield {"min_iou": float("nan")}, "--min_iou=nan: want a fraction"
    yield {"min_area": 0}, "--min_area=0: want 1 pixel"
    yield {"pool": "third"}, "--pool=third: want first or second"
    yield {"classes_from": "tags"}, "needs --tags"
    tagged = {"classes_from": "tags", "tags": str(folders / "tags.csv")}
    yield tagged, r"tags.csv: no tags of 'b' \(5 of 6 ids"
    yield {"images": str(folders / "with space")}, "a path with a space"
    yield {"images": str(folders / "few")}, "no photo of 'b' and 4 others"
    yield {"first": str(folders / "nowhere")}, "nowhere"
    label_map.write(second / "c.png", label(1, size=(8, 8)))
    yield {}, "first/c.png has 8 x 9, .*second/c.png has 8 x 8 pixels"
    label_map.write(second / "c.png", label(7))
    yield {}, "second/c.png: value 7"
    Image.new("RGB", (9, 8)).save(second / "c.png")
    yield {}, "second/c.png"
    (second / "c.png").write_bytes((second / "a.png").read_bytes()[:60])
    yield {}, "second/c.png"
    (second / "c.png").write_bytes(b"")
    yield {}, "second/c.png"


def test_bad_input_is_named_and_leaves_no_files(folders):
    for changes, message in hostile(folders):
        with pytest.raises((ValueError, OSError), match=message):
            run(**options(folders, **changes))
        assert not (folders / "out").exists()


def test_control_arm_takes_others_of_the_same_classes(folders):
    run(**options(folders, quota_spec='{"cat": 1, "dog": 1}'))
    summary = control.run(selection=str(folders / "out"), out=str(folders / "matched"), seed=0)
    assert lines(folders / "out" / "labeled.txt")[0].endswith("/a.png")
    drawn = {line[-5] for line in lines(folders / "matched" / "labeled.txt")}
    assert len(drawn) == 2 and drawn & {"b", "c"}  # a's partner; the dog d has none of its kind
    assert (summary["same_classes"], summary["nearest_classes"]) == (1, 1)
    everything = lines(folders / "matched" / "labeled.txt") + lines(
        folders / "matched" / "unlabeled.txt")
    assert sorted(everything) == sorted(store.read_lines(folders / "out").values())


def test_control_arm_names_a_broken_table(folders):
    run(**options(folders))
    (folders / "out" / "selection.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(ValueError, match="selection.parquet: not a readable parquet"):
        control.run(selection=str(folders / "out"), out=str(folders / "m"), seed=0)


def test_command_prints_a_table_and_writes_json(folders, capsys):
    flags = [f"--{k}={v}" for k, v in options(folders).items() if k != "quota_spec"]
    main([*flags, '--quota={"cat": 9}', f"--json={folders}/s.json"])
    assert "too few images of cat (5 short)" in " ".join(capsys.readouterr().out.split())
    assert json.loads((folders / "s.json").read_text())["selected"] == 4


@pytest.mark.parametrize("flags, code", [(["--frist=a"], 2), (["--first=a", "--second=b",
                                          "--quota=none", "--out=c"], 1)])
def test_exit_codes_and_a_single_line(flags, code, tmp_path):
    done = subprocess.run([sys.executable, "-m", "wsssjax.select", *flags], capture_output=True,
                          text=True)
    assert done.returncode == code, done.stderr
    assert len(done.stderr.splitlines()) == 1 and "Traceback" not in done.stderr
