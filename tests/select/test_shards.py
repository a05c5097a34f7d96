"""Slices scored apart and joined are the undivided result; every gap is named with its cure."""

import importlib.util
import pathlib
import shutil

import pytest

from wsssjax.data import label_map
from wsssjax.select import blocks
from wsssjax.select.__main__ import main, run

KIT = pathlib.Path(__file__).parents[1] / "select_kit.py"
spec = importlib.util.spec_from_file_location("select_kit", KIT)
kit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kit)
pairs, seen = kit.pairs, kit.seen
content, options, results = kit.content, kit.options, kit.results


@pytest.fixture
def shards(pairs):
    """Three folders, each with its part of the scores."""
    for i in range(3):
        found = run(**options(pairs, f"shard{i}", shard=f"{i}/3"))
        assert found == {"shard": f"{i}/3", "blocks": len(range(i, 8, 3)), "of": 8}
    return [str(pairs / f"shard{i}") for i in range(3)]


def test_joined_slices_are_the_undivided_result(pairs, shards, seen):
    assert [sorted(content(folder)) for folder in shards] == [
        [f"scores/{b:06d}.parquet" for b in range(i, 8, 3)] for i in range(3)]
    run(**options(pairs, "whole"))
    seen.clear()
    for folder in (shards, shards[::-1]):
        run(**options(pairs, "joined", merge_shards=folder))
        assert results(pairs / "joined") == results(pairs / "whole")
    assert not seen and not (pairs / "joined" / "scores").exists()


def test_slices_hold_the_columns_of_other_scores(pairs, seen):
    shutil.copytree(pairs / "second", pairs / "merged")
    shutil.copytree(pairs / "first", pairs / "third")
    more = {"score": "quality", "methods": [str(pairs / "third")],
            "refined": [str(pairs / "merged")]}
    run(**options(pairs, "whole", **more))
    for i in range(2):
        run(**options(pairs, f"part{i}", shard=f"{i}/2", **more))
    seen.clear()
    run(**options(pairs, "joined", merge_shards=[str(pairs / f"part{i}") for i in range(2)],
                  **more))
    assert not seen and results(pairs / "joined") == results(pairs / "whole")
    with pytest.raises(ValueError, match="made for other ids, classes, pool, --block or"):
        run(**options(pairs, merge_shards=[str(pairs / f"part{i}") for i in range(2)]))


def test_slices_of_other_label_files_are_refused(pairs, shards):
    swapped = {"first": str(pairs / "second"), "second": str(pairs / "first")}
    with pytest.raises(ValueError, match="shard0: its scores are of other label files than those"):
        run(**options(pairs, merge_shards=shards, **swapped))
    for name in ("third", "fourth"):
        shutil.copytree(pairs / ("first" if name == "third" else "second"), pairs / name)
    more = {"score": "consensus", "methods": [str(pairs / "third"), str(pairs / "fourth")]}
    for i in range(2):
        run(**options(pairs, f"part{i}", shard=f"{i}/2", **more))
    parts = {"merge_shards": [str(pairs / f"part{i}") for i in range(2)], "score": "consensus"}
    shutil.copytree(pairs / "first", pairs / "other")
    for methods in (("fourth", "third"), ("third", "other")):  # reordered, exchanged
        with pytest.raises(ValueError, match="part0: its scores are of other label files than"):
            run(**options(pairs, **parts, methods=[str(pairs / m) for m in methods]))
    assert run(**options(pairs, **parts, methods=more["methods"]))["images"] == 60


def test_two_folders_that_hold_one_block_must_agree(pairs, shards):
    shutil.copytree(shards[1], pairs / "copied")
    run(**options(pairs, "whole"))
    run(**options(pairs, "joined", merge_shards=[*shards, str(pairs / "copied")]))
    assert results(pairs / "joined") == results(pairs / "whole")
    path = blocks.path_of(pairs / "copied", 4)
    block, marks = blocks.read(path, 4), blocks.read_marks(path)
    block.counts.both[0] = 0
    path.write_bytes(blocks.encode(block, marks))
    with pytest.raises(ValueError, match="copied/scores/000004.parquet: holds other scores than "
                                         ".*shard1/scores/000004.parquet; delete"):
        run(**options(pairs, merge_shards=[*shards, str(pairs / "copied")]))


def test_slices_may_share_a_folder_and_labels_may_have_other_times(pairs, seen):
    run(**options(pairs, "whole"))
    for i in (1, 0):
        run(**options(pairs, "shared", shard=f"{i}/2"))
    for path in (pairs / "first").iterdir():
        path.touch()
    seen.clear()
    run(**options(pairs, "joined", merge_shards=[str(pairs / "shared")]))
    assert not seen and results(pairs / "joined") == results(pairs / "whole")
    for name in ("whole", "shared"):  # and undivided blocks serve as well
        run(**options(pairs, "again", merge_shards=[str(pairs / name)]))
        assert results(pairs / "again") == results(pairs / "whole")


def test_a_slice_goes_on_where_it_was(pairs, shards, seen):
    blocks.path_of(shards[1], 4).unlink()
    seen.clear()
    run(**options(pairs, "shard1", shard="1/3"))
    assert sorted(seen) == kit.ids_of_block(4)


def test_missing_blocks_are_named_with_the_shards_that_make_them(pairs, shards):
    with pytest.raises(ValueError, match=r"2 of 8 blocks are missing, the first is 000002; make "
                                         r"them with --shard=2/3$"):
        run(**options(pairs, merge_shards=shards[:2]))
    blocks.path_of(shards[0], 3).unlink()
    path = blocks.path_of(shards[1], 7)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"2 of 8 blocks .* 000003; .*--shard=0/3, --shard=1/3$"):
        run(**options(pairs, merge_shards=shards))
    assert not (pairs / "out").exists()


@pytest.mark.parametrize("changes, message", [
    ({"pool": "first"}, "shard0/scores/000000.parquet: made for other ids, classes, pool"),
    ({"block": 9}, "shard0/scores/000000.parquet: made for other ids"),
    ({"merge_shards": []}, "--merge_shards: names no folder"),
    ({"merge_shards": ["nowhere"]}, "nowhere: holds no scores/"),
    ({"shard": "0/3"}, "--shard, --merge_shards: one scores, the other joins"),
])
def test_slices_of_another_question_are_refused(pairs, shards, changes, message):
    with pytest.raises((ValueError, OSError), match=message):
        run(**options(pairs, **{"merge_shards": shards, **changes}))


def test_other_ids_are_another_question(pairs, shards):
    for folder in ("first", "second"):
        shutil.copy(pairs / folder / "000.png", pairs / folder / "000a.png")
    with pytest.raises(ValueError, match="made for other ids"):
        run(**options(pairs, merge_shards=shards))


@pytest.mark.parametrize("text", ["3/3", "1", "-1/2", "a/2", "1/0", "1/2/3", "0.5/2", ""])
def test_unknown_shards_say_the_form(pairs, text):
    with pytest.raises(ValueError, match="--shard=.*: want i/n with i from 0 to n - 1"):
        run(**options(pairs, shard=text))
    assert not (pairs / "out").exists()


def test_more_shards_than_blocks_leave_some_with_nothing_to_do(pairs):
    assert run(**options(pairs, shard="9/20"))["blocks"] == 0


def test_the_command_tells_what_a_shard_did(pairs, capsys):
    flags = [f"--{k}={v}" for k, v in options(pairs).items() if k != "quota_spec"]
    flags.append('--quota={"cat": 1}')
    main([*flags, "--shard=1/2", f"--json={pairs}/shard.json"])
    said = capsys.readouterr().out
    assert "shard 1/2: 4 of 8 blocks are scored" in said and "--merge_shards=" in said
    main([*flags, "--shard=0/2"])
    main([*flags, f"--merge_shards={pairs}/out,"])
    assert "60 labels selected" in capsys.readouterr().out
    assert label_map.folder_ids(pairs / "second")[0] == "000"
