"""The refine command on files: what it writes, and its one-line errors."""

import json
import subprocess
import sys

import numpy as np
import pytest

from wsssjax.data import label_map
from wsssjax.refine import proposals, rle, sam_merge
from wsssjax.refine.__main__ import main, run


@pytest.fixture
def folders(tmp_path):
    """Three label maps of two classes with random box masks."""
    rng = np.random.default_rng(0)
    for name in "abc":
        label = rng.choice([0, 0, 1, 2, 255], (12, 15)).astype(np.uint8)
        masks = np.zeros((6, 12, 15), bool)
        for mask in masks:
            top, left = rng.integers(0, 9, 2)
            mask[top:top + 4, left:left + 5] = True
        label_map.write(tmp_path / "labels" / f"{name}.png", label)
        proposals.write(tmp_path / "masks" / f"{name}.json.gz", (12, 15),
                        [proposals.record(rle.encode(m), m.shape) for m in masks], {})
    return tmp_path


def options(folders, **changes):
    return {"method": "sam", "labels": str(folders / "labels"), "out": str(folders / "out"),
            "proposals": str(folders / "masks"), **changes}


@pytest.mark.parametrize("rule", sam_merge.RULES)
def test_files_hold_what_merge_gives(folders, rule):
    assert run(**options(folders, merge=rule))["images"] == 3
    for name in "abc":
        label = label_map.read(folders / "labels" / f"{name}.png", 21)
        masks = proposals.read(folders / "masks", name, label.shape)
        got = label_map.read(folders / "out" / f"{name}.png", 21)
        np.testing.assert_array_equal(got, sam_merge.merge(label, masks, rule))


def test_ids_limit_the_work(folders):
    (folders / "ids.txt").write_text("c\na\n")
    run(**options(folders, ids=str(folders / "ids.txt")))
    assert label_map.folder_ids(folders / "out") == ["a", "c"]


@pytest.mark.parametrize("changes, message", [
    ({"method": "bilateral"}, "--method .bilateral. is unknown"),
    ({"proposals": None}, "--method=sam: needs --proposals; tools"),
    ({"merge": "imp2"}, "--merge 'imp2' is unknown"),
    ({"coverage": "none"}, "--coverage 'none' is unknown"),
    ({"alpha": 3.0}, "--method=sam: does not take --alpha; it takes --labels"),
    ({"area_cap": 1.2}, "--area_cap=1.2: want a fraction"),
    ({"area_cap": float("nan")}, "--area_cap=nan: want a fraction"),
    ({"ids": ["a", "z"]}, r"labels: holds no label map of 'z' \(1 of 2 ids missing\)"),
])
def test_bad_options_are_named_before_anything_is_written(folders, changes, message):
    with pytest.raises(ValueError, match=message):
        run(**options(folders, **changes))
    assert not (folders / "out").exists()


def test_missing_proposals_labels_in_place_and_other_sizes_are_named(folders):
    with pytest.raises(ValueError, match="--out=.*: is --labels itself"):
        run(**options(folders, out=str(folders / "labels" / ".." / "labels")))
    (folders / "masks" / "b.json.gz").unlink()
    with pytest.raises(ValueError, match=r"no proposals of 'b' \(1 of 3 ids missing\)"):
        run(**options(folders))
    with pytest.raises(ValueError, match="--out=.*masks: is --proposals itself"):
        run(**options(folders, out=str(folders / "masks")))
    label_map.write(folders / "labels" / "a.png", np.zeros((11, 15), np.uint8))
    with pytest.raises(ValueError, match="a.json.gz: masks of 12 x 15 .* has 11 x 15"):
        run(**options(folders, ids=["a"]))


def test_two_rules_do_not_mix_in_one_folder(folders):
    run(**options(folders, ids=["a"]))
    with pytest.raises(ValueError, match="made with another merge"):
        run(**options(folders, merge="argmax"))


def test_command(folders, capsys):
    main([f"--labels={folders}/labels", f"--proposals={folders}/masks", f"--out={folders}/out",
          "--method=sam", "--keep_uncovered=false", f"--json={folders}/r.json"])
    assert "3 photos" in capsys.readouterr().out
    result = json.loads((folders / "r.json").read_text())
    assert result["images"] == 3 and result["method"] == "sam" and result["masks"] == 18
    label = label_map.read(folders / "labels" / "a.png", 21)
    masks = proposals.read(folders / "masks", "a", label.shape)
    np.testing.assert_array_equal(label_map.read(folders / "out" / "a.png", 21),
                                  sam_merge.merge(label, masks, keep_uncovered=False))


def test_unknown_method_is_one_line_and_exit_1(tmp_path):
    done = subprocess.run([sys.executable, "-m", "wsssjax.refine", "--method=afinity",
                           "--labels=a", "--out=b"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: --method 'afinity' is unknown")
    assert "affinity" in done.stderr and done.stderr.count("\n") == 1
