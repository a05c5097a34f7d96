"""The pairs of label sets: scores equal those of the single commands, hostile flags are named."""

import importlib.util
import itertools
import json
import pathlib

import numpy as np
import pytest

from wsssjax.data import label_map
from wsssjax.evaluate.__main__ import run as evaluate
from wsssjax.select.__main__ import run as select

TOOL = pathlib.Path(__file__).parents[2] / "tools" / "compare_pairs.py"
spec = importlib.util.spec_from_file_location("compare_pairs", TOOL)
compare_pairs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(compare_pairs)
QUOTA = '{"cat": 2, "dog": 2}'


@pytest.fixture
def sets(tmp_path):
    """Twelve true masks and three label sets of them, ever noisier."""
    rng = np.random.default_rng(0)
    (tmp_path / "names.txt").write_text("background\ncat\ndog\n")
    folders = {name: tmp_path / name for name in ("truth", "good", "fair", "poor")}
    for i in range(12):
        truth_hw = np.zeros((12, 16), np.uint8)
        truth_hw[2:9, 3:12] = 1 + i % 2
        for name, noise in zip(folders, (0.0, 0.05, 0.2, 0.5), strict=True):
            wrong_hw = rng.random((12, 16)) < noise * rng.random()
            found_hw = np.where(wrong_hw, rng.integers(0, 3, (12, 16)), truth_hw).astype(np.uint8)
            label_map.write(folders[name] / f"{i:02d}.png", found_hw)
    return tmp_path, {name: str(path) for name, path in folders.items() if name != "truth"}


def options(folder, **changes):
    return {"truth": str(folder / "truth"), "quota": QUOTA, "classes": str(folder / "names.txt"),
            "out": str(folder / "out"), **changes}


def test_every_pair_is_scored_as_the_single_commands_do(sets):
    folder, named = sets
    rows = compare_pairs.run(named, **options(folder))
    assert {(r["first"], r["second"]) for r in rows} == set(itertools.permutations(named, 2))
    assert rows == json.loads((folder / "out" / "pairs.json").read_text())
    assert [r["selected_miou"] for r in rows] == sorted(r["selected_miou"] for r in rows)[::-1]
    row = next(r for r in rows if (r["first"], r["second"]) == ("fair", "poor"))
    summary = select(first=named["fair"], second=named["poor"], quota_spec=QUOTA,
                     classes=str(folder / "names.txt"), out=str(folder / "own"))
    assert row["count"] == summary["selected"] and row["taken"] == summary["taken"]
    chosen = [pathlib.Path(line.split()[0]).stem
              for line in (folder / "own" / "labeled.txt").read_text().splitlines()]
    want = evaluate(labels=named["poor"], truth=str(folder / "truth"), ids=chosen,
                    classes=str(folder / "names.txt"), progress=False)
    assert row["selected_miou"] == want["miou"]


def test_a_second_run_only_scores_and_other_settings_are_refused(sets):
    folder, named = sets
    before = compare_pairs.run(named, **options(folder, pools=("good",)))
    assert {r["second"] for r in before} == {"good"} and len(before) == 2
    stamp = (folder / "out" / "fair--good" / "selection.parquet").stat().st_mtime_ns
    assert compare_pairs.run(named, **options(folder, pools=("good",))) == before
    assert (folder / "out" / "fair--good" / "selection.parquet").stat().st_mtime_ns == stamp
    with pytest.raises(ValueError, match="made with another quota"):
        compare_pairs.run(named, **options(folder, quota='{"cat": 1, "dog": 1}'))


def test_labels_made_anew_are_not_scored_with_the_old_selection(sets):
    folder, named = sets
    compare_pairs.run(named, **options(folder))
    label_map.write(folder / "poor" / "03.png", np.zeros((12, 16), np.uint8))
    with pytest.raises(ValueError, match="good--poor: its files were made with another second_lab"):
        compare_pairs.run(named, **options(folder))


def test_without_a_list_the_first_set_says_which_ids(sets):
    """Labels that only later sets have are left out of every pair."""
    folder, named = sets
    for name in ("truth", "good"):
        (folder / name / "11.png").unlink()
    rows = compare_pairs.run(named, **options(folder))
    assert len(rows) == 6
    for first, second in itertools.permutations(named, 2):
        summary = json.loads((folder / f"out/{first}--{second}/summary.json").read_text())
        assert summary["images"] == 11


@pytest.mark.parametrize("changes, complaint", [
    ({"kind": "median"}, "--iou 'median' is unknown"),
    ({"quota": "voc/93"}, "--quota 'voc/93' is unknown; did you mean 'voc/92'"),
    ({"quota": "some"}, "--quota=some: want none, voc/92"),
    ({"classes": "cityscapes"}, "--classes: class 0 of these 19 classes is 'road'"),
])
def test_flags_are_checked_before_anything_is_counted(sets, changes, complaint, monkeypatch):
    folder, named = sets
    monkeypatch.setattr(compare_pairs.miou, "folder_confusions", None)
    with pytest.raises(ValueError, match=complaint):
        compare_pairs.run(named, **options(folder, **changes))
    assert not (folder / "out").exists()


@pytest.mark.parametrize("text, complaint", [
    ("a=x", "names 1 label set"), ("a=x,a=y", "'a' stands twice"), ("a=x,b", "'b'; want NAME="),
    ("a/b=x,c=y", "want NAME=FOLDER"), ("", "names 0 label set"),
])
def test_sets_without_sense_are_named(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        compare_pairs.read_sets(text)


def test_pools_and_missing_labels_are_named(sets):
    folder, named = sets
    with pytest.raises(ValueError, match="'best' is none of --sets; there are good, fair, poor"):
        compare_pairs.run(named, **options(folder, pools=("best",)))
    (folder / "poor" / "03.png").unlink()
    with pytest.raises((ValueError, FileNotFoundError), match="03"):
        compare_pairs.run(named, **options(folder))
