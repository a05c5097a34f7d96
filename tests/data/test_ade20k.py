"""ADE20K's annotations: shifted by one, resumable, and named where they are something else."""

import importlib.util
import json
import pathlib

import numpy as np
import pytest

from wsssjax.core import files
from wsssjax.data import ade20k, label_map

TOOL = pathlib.Path(__file__).parents[2] / "tools/prepare_data.py"


@pytest.fixture
def tree(tmp_path, raw_png):
    """Official annotations, grey as published: all values, then noise."""
    rng = np.random.default_rng(0)
    shapes = {"training": [(10, 16), (7, 9), (31, 5)], "validation": [(8, 8)]}
    for split, sizes in shapes.items():
        folder = tmp_path / "annotations" / split
        folder.mkdir(parents=True)
        for i, size in enumerate(sizes):
            official = rng.integers(0, 151, size)
            if i == 0:
                official.flat[:] = np.arange(official.size) % 151
            (folder / f"ADE_{i:08d}.png").write_bytes(raw_png(official, 8, 0))
    return tmp_path


def run(*flags):
    spec = importlib.util.spec_from_file_location("prepare_data", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    tool.main([str(flag) for flag in flags])


def shifted(root):
    return {str(p.relative_to(root / "annotations_shifted")): p
            for p in sorted((root / "annotations_shifted").rglob("*")) if p.is_file()}


def test_each_value_is_shifted_and_no_other_file_is_left(tree, capsys):
    run("ade20k", f"--root={tree}", f"--json={tree}/r.json")
    assert len(shifted(tree)) == 4
    for name, path in shifted(tree).items():
        official = label_map.read(tree / "annotations" / name, 255).astype(int)
        got = label_map.read(path, 150)
        for value in np.unique(official):
            want = 255 if value == 0 else value - 1
            assert (got[official == value] == want).all(), (name, value)
    out = capsys.readouterr().out
    assert "training: 3 annotations shifted, 0 of them already there\nvalidation: 1 " in out
    assert json.loads((tree / "r.json").read_text())["training"]["images"] == 3


def test_what_is_there_is_kept_and_a_killed_run_is_cleaned_up(tree):
    run("ade20k", f"--root={tree}")
    paths = shifted(tree)
    whole = {name: path.read_bytes() for name, path in paths.items()}
    one = paths["training/ADE_00000001.png"]
    one.unlink()
    (one.parent / f".ADE_00000001.png.1{files._TEMPORARY}").write_bytes(b"half")
    times = {name: path.stat().st_mtime_ns for name, path in paths.items() if path.exists()}
    assert ade20k.shift_tree(tree)["training"] == {"images": 3, "already_there": 2}
    assert {name: path.read_bytes() for name, path in shifted(tree).items()} == whole
    assert all(paths[name].stat().st_mtime_ns == time for name, time in times.items())
    assert ade20k.shift_tree(tree, redo=True)["training"]["already_there"] == 0


@pytest.mark.parametrize("value, message", [
    (151, r"ADE_00000000\.png: value 151 at row 2, column 3; .* hold 0\.\.150"),
    (255, r"value 255 at row 2, column 3; .* \(is it shifted already\?\)"),
])
def test_values_beyond_150_are_refused(tree, raw_png, value, message):
    official = np.ones((5, 6), int)
    official[2, 3] = value
    (tree / "annotations/validation/ADE_00000000.png").write_bytes(raw_png(official, 8, 0))
    with pytest.raises(ValueError, match=message):
        ade20k.shift_tree(tree)
    assert "validation/ADE_00000000.png" not in shifted(tree)


def test_trees_and_flags_that_make_no_sense(tree, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder training or validation; --root must"):
        ade20k.shift_tree(tree / "annotations")
    with pytest.raises(ValueError, match="--split: nothing is packed of ade20k"):
        run("ade20k", f"--root={tree}", "--split=training")
    with pytest.raises(ValueError, match="--classes=ade20k: class 0 .* is 'wall'"):
        run("voc", f"--root={tree}", "--classes=ade20k")
    (tree / "annotations/training/ADE_00000001.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"ADE_00000001\.png: empty"):
        ade20k.shift_tree(tree)


def test_reading_a_value_out_of_range_tells_of_the_shift_for_150_classes_only(tmp_path):
    label_map.write(tmp_path / "a.png", np.full((2, 2), 150, np.uint8))
    with pytest.raises(ValueError, match=r"is --classes right\?\); official ADE20K .* "
                                         "tools/prepare_data.py ade20k --root="):
        label_map.read(tmp_path / "a.png", 150)
    for count in (21, 149):
        with pytest.raises(ValueError, match=r"\(is --classes right\?\)$"):
            label_map.read(tmp_path / "a.png", count)
