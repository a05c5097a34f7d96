"""The command tools/prepare_data.py, as people run it."""

import json
import os
import pathlib
import resource
import subprocess
import sys

import pytest

from wsssjax.core import files
from wsssjax.data import classes, sources, tags

REPOSITORY = pathlib.Path(__file__).parents[2]


def _run(*flags, limit=None):
    """limit: bytes that the command may write into one file, as on a disk that is nearly full."""
    def shrink():
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        [sys.executable, REPOSITORY / "tools/prepare_data.py", *map(str, flags)], preexec_fn=shrink,
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})


def _fails(done, told):
    assert done.returncode == 1, done.stderr
    assert told in done.stderr and done.stderr.count("\n") == 1 and done.stdout == ""


def test_packs_and_says_what(voc_tree, tmp_path):
    done = _run("voc", f"--root={voc_tree}", f"--json={tmp_path}/r.json")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert done.stdout.startswith(
        "train: 5 images, 5 with tags, 5 with a mask, 5 with saliency\ntest: 2 images, ")
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["problem_count"] == 0 and result["problems"] == []
    assert result["splits"]["train"]["per_class"]["cat"] == 0
    assert result["splits"]["train"]["per_class"]["aeroplane"] == 1
    assert pathlib.Path(result["pack"]) == voc_tree / "packed/voc/1.0.0"
    assert len(sources.Packed(voc_tree / "packed", "train")) == 5
    with pytest.raises(ValueError, match="packed without label"):
        sources.Packed(voc_tree / "packed", "train", ("label",))


def test_lists_and_tags_lie_beside_the_pack(voc_tree):
    """An image of two lists has one row of tags."""
    (voc_tree / "val.txt").write_text("2007_000004\n2007_000005\n")
    done = _run("voc", f"--root={voc_tree}", "--split=train,val")
    assert done.returncode == 0, done.stderr
    packed = voc_tree / "packed"
    assert files.read_ids(packed / "val.txt") == ["2007_000004", "2007_000005"]
    assert files.photo_paths(packed / "train_photos.txt")["2007_000003"].samefile(
        voc_tree / "JPEGImages/2007_000003.jpg")
    assert set(tags.read_tags(packed / "tags.csv", classes.VOC_CLASSES)) == {
        f"2007_{i:06d}" for i in range(6)}


def test_what_is_read_is_not_written_over(voc_tree, tmp_path):
    """Neither the user's own lists and tags in the root, nor a file of --tags elsewhere."""
    (tmp_path / "own").mkdir()
    (voc_tree / "tags.csv").rename(tmp_path / "own/tags.csv")
    (voc_tree / "ImageSets/Segmentation").mkdir(parents=True)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.txt")}
    for out in (voc_tree, voc_tree / "ImageSets/Segmentation", tmp_path / "own"):
        _fails(_run("voc", f"--root={voc_tree}", f"--tags={tmp_path}/own/tags.csv",
                    f"--out={out}"), f"--out={out}: its lists or tags are read")
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*.txt")}
    assert not list(tmp_path.rglob("dataset_info.json"))


def test_problems_are_all_listed_and_nothing_is_packed(voc_tree, tmp_path):
    (voc_tree / "JPEGImages/2007_000002.jpg").write_bytes(b"GIF89a")
    (voc_tree / "saliency/2007_000003.png").write_bytes(b"")
    (voc_tree / "JPEGImages/2007_000005.jpg").unlink()
    done = _run("voc", f"--root={voc_tree}", f"--out={tmp_path}/out", f"--json={tmp_path}/r.json")
    _fails(done, f"id '2007_000005' of test has no photo; want JPEGImages/2007_000005.jpg (and 2 "
                 f"more problems, see {tmp_path}/r.json)")
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["problem_count"] == 3 and result["pack"] == ""
    assert any("2007_000002.jpg: not a JPEG or PNG" in text for text in result["problems"])
    assert any("2007_000003.png: empty" in text for text in result["problems"])
    assert not list((tmp_path / "out").glob("*/*"))


def test_a_full_disk_is_one_line_and_leaves_nothing(voc_tree, tmp_path):
    done = _run("voc", f"--root={voc_tree}", f"--out={tmp_path}/out", limit=5000)
    _fails(done, f"{tmp_path}/out: the pack could not be written (")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_cannot_be_written(voc_tree, tmp_path):
    (tmp_path / "file").write_text("")
    _fails(_run("voc", f"--root={voc_tree}", f"--out={tmp_path}/file/out"), f"{tmp_path}/file")


def test_bad_flags(monkeypatch, capsys):
    import importlib.util

    from wsssjax.core import cli

    spec = importlib.util.spec_from_file_location("tool", REPOSITORY / "tools/prepare_data.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    for flags, code, told in ((("voc", "--root=.", "--spilt=train"), 2, "--spilt"),
                              (("voc", "--root=.", "word"), 2, "word"),
                              (("voc",), 2, "--root"),
                              (("pascal", "--root=."), 1, "'pascal': want one of voc, folder"),
                              (("--help",), 0, "")):
        monkeypatch.setattr(sys, "argv", ["prepare_data.py", *flags])
        with pytest.raises(SystemExit) as left:
            cli.run(tool.main)
        printed = capsys.readouterr()
        assert left.value.code == code and told in printed.err
        assert printed.err.count("\n") == (0 if code == 0 else 1)
    assert "python tools/prepare_data.py voc --root=" in printed.out
