"""Scores that survive kills, changes and broken files: only what is missing is scored again."""

import importlib.util
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from wsssjax.core import files
from wsssjax.data import label_map
from wsssjax.select import blocks, labels, names, store, stream
from wsssjax.select.run import run

KIT = pathlib.Path(__file__).parents[1] / "select_kit.py"
spec = importlib.util.spec_from_file_location("select_kit", KIT)
kit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kit)
pairs, seen = kit.pairs, kit.seen
COUNT, BLOCK, content, options = kit.COUNT, kit.BLOCK, kit.content, kit.options
results, ids_of_block = kit.results, kit.ids_of_block


def test_blocks_come_back_as_they_were_counted(pairs):
    job = stream.Job(str(pairs / "first"), str(pairs / "second"), 4)
    every = names.in_folder(job.second)
    scored = stream.score(job, every, pairs / "out", block=BLOCK)
    want = stream.score_ids(job, every.to_pylist(), num_threads=1)
    got = list(scored)
    assert [len(b.ids) for b in got] == [8] * 7 + [4]
    assert [name for b in got for name in b.ids.to_pylist()] == want.ids.to_pylist()
    for name, column in zip(blocks.COUNTS, (*want.counts, want.pool), strict=True):
        parts = [b.pool if name == "pool" else getattr(b.counts, name) for b in got]
        np.testing.assert_array_equal(np.concatenate(parts), column)
    assert all((b.pixels == 180).all() for b in got)
    assert (want.pool.sum(1) < 180).any()  # open pixels are no class


def test_a_second_run_reads_no_label_and_changes_no_byte(pairs, seen):
    run(**options(pairs))
    assert sorted(seen) == sum(map(ids_of_block, range(8)), [])
    before = content(pairs / "out")
    seen.clear()
    run(**options(pairs))
    assert not seen and content(pairs / "out") == before
    run(**options(pairs, quota_spec="none", min_iou=0.5, kind="mean"))  # the scores serve this, too
    assert not seen and content(pairs / "out") != before


def test_only_blocks_with_changed_files_are_scored_again(pairs, seen):
    run(**options(pairs))
    seen.clear()
    label_map.write(pairs / "first" / "013.png", np.full((12, 15), 2, np.uint8))
    run(**options(pairs))
    assert sorted(seen) == ids_of_block(1)
    fresh = run(**options(pairs, "fresh"))
    assert results(pairs / "out") == results(pairs / "fresh") and fresh["images"] == COUNT


@pytest.mark.parametrize("spoil", [lambda data: data[:-20], lambda data: data[:10],
                                   lambda data: b"", lambda data: b"PAR1" + data[4:-4] + b"RAP1"])
def test_truncated_blocks_are_scored_again(pairs, seen, spoil):
    run(**options(pairs))
    before = content(pairs / "out")
    path = blocks.path_of(pairs / "out", 3)
    path.write_bytes(spoil(path.read_bytes()))
    seen.clear()
    run(**options(pairs))
    assert sorted(seen) == ids_of_block(3) and content(pairs / "out") == before


def test_a_flipped_bit_is_named_with_the_cure(pairs):
    run(**options(pairs))
    path = blocks.path_of(pairs / "out", 3)
    data = bytearray(path.read_bytes())
    column = pq.read_metadata(path).row_group(0).column(0)
    data[4 + column.total_compressed_size - 2] ^= 64  # in an id, which the footer does not cover
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match="000003.parquet: not a readable score file.*delete it"):
        run(**options(pairs))


@pytest.mark.parametrize("changes", [{"pool": "first"}, {"ids": "few.txt"}, {"block": 7}])
def test_blocks_of_another_question_are_scored_again(pairs, seen, changes):
    (pairs / "few.txt").write_text("".join(f"{i:03d}\n" for i in range(1, COUNT)))
    changes = {k: str(pairs / v) if k == "ids" else v for k, v in changes.items()}
    run(**options(pairs))
    seen.clear()
    run(**options(pairs, **changes))
    assert len(seen) > COUNT // 2
    run(**options(pairs, "fresh", **changes))
    assert results(pairs / "out").keys() == results(pairs / "fresh").keys()
    assert results(pairs / "out") == results(pairs / "fresh")


def test_swapped_folders_are_scored_again(pairs, seen):
    run(**options(pairs))
    seen.clear()
    run(**options(pairs, first=str(pairs / "second"), second=str(pairs / "first")))
    assert len(seen) == COUNT


def test_the_order_of_the_id_list_changes_nothing(pairs):
    mixed = np.random.default_rng(1).permutation(COUNT)
    (pairs / "mixed.txt").write_text("".join(f"{i:03d}\n" for i in mixed))
    run(**options(pairs))
    run(**options(pairs, "mixed", ids=str(pairs / "mixed.txt")))
    assert content(pairs / "out") == content(pairs / "mixed")


def test_an_error_keeps_what_was_scored_before_it(pairs, seen):
    (pairs / "first" / "030.png").write_bytes(b"")
    with pytest.raises(ValueError, match="030.png: empty"):
        run(**options(pairs))
    assert sorted(p.name for p in (pairs / "out").rglob("*")) == [
        "000000.parquet", "000001.parquet", "000002.parquet", "scores"]
    label_map.write(pairs / "first" / "030.png", np.zeros((12, 15), np.uint8))
    seen.clear()
    run(**options(pairs))
    assert sorted(seen) == sum(map(ids_of_block, range(3, 8)), [])


def test_no_old_summary_stands_beside_new_lists(pairs, monkeypatch):
    run(**options(pairs))
    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk"):
        patch.setattr(store.Lines, "write", lambda *args: (_ for _ in ()).throw(OSError("disk")))
        run(**options(pairs, quota_spec='{"dog": 1}'))
    assert not (pairs / "out" / "summary.json").exists()
    run(**options(pairs, quota_spec='{"dog": 1}'))
    run(**options(pairs, "fresh", quota_spec='{"dog": 1}'))
    assert content(pairs / "out") == content(pairs / "fresh")


@pytest.mark.parametrize("where", [(labels, "gather"), (store, "write_table"),
                                   (store.Lines, "write"), (files, "write_json")])
def test_what_a_kill_leaves_never_mixes_two_selections(pairs, monkeypatch, where):
    run(**options(pairs, out_labels="copy"))
    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk"):
        patch.setattr(*where, lambda *args: (_ for _ in ()).throw(OSError("disk")))
        run(**options(pairs, quota_spec='{"dog": 1}', out_labels="copy"))
    there = {path.name for path in (pairs / "out").iterdir()} - {"scores", "labels"}
    names = ["selection.parquet", "labeled.txt", "unlabeled.txt"]
    assert there == set(names[:{"gather": 0, "write_table": 0, "write": 1,
                                "write_json": 3}[where[1]]])
    assert len(label_map.folder_ids(pairs / "second")) == COUNT
    run(**options(pairs, quota_spec='{"dog": 1}', out_labels="copy"))
    assert len(label_map.folder_ids(pairs / "out" / "labels")) == 1


SLOW = """
import sys, time
from wsssjax.select import stream
from wsssjax.select.run import run
inner = stream.read_pair
def slow(job, name):
    time.sleep(0.02)
    return inner(job, name)
stream.read_pair = slow
run(first=sys.argv[1], second=sys.argv[2], out=sys.argv[3], classes=sys.argv[4],
    quota_spec='{"cat": 9, "dog": 5}', block=8, num_threads=2)
"""


@pytest.mark.parametrize("blocks_before", [1, 4])
def test_a_killed_process_goes_on_where_it_was(pairs, seen, blocks_before):
    run(**options(pairs, "whole"))
    want = options(pairs)
    command = [sys.executable, "-c", SLOW, want["first"], want["second"], want["out"],
               want["classes"]]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 60
    while len(list((pairs / "out").glob("scores/0*.parquet"))) < blocks_before:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    there = {path.name: path.stat().st_mtime_ns for path in (pairs / "out").glob("scores/0*")}
    assert blocks_before <= len(there) < 8 and results(pairs / "out") == {}
    seen.clear()
    run(**want)
    assert sorted(seen) == sum(map(ids_of_block, range(len(there), 8)), [])
    assert content(pairs / "out") == content(pairs / "whole")
    for name, stamp in there.items():
        assert (pairs / "out" / "scores" / name).stat().st_mtime_ns == stamp


def test_few_blocks_are_in_memory_at_a_time(pairs, monkeypatch):
    """Counted, since peaks of a process tell of everything else in it: live maps and live blocks.
    """
    for i in range(COUNT, 400):
        for folder in ("first", "second"):
            (pairs / folder / f"{i:03d}.png").write_bytes(
                (pairs / folder / f"{i % COUNT:03d}.png").read_bytes())
    live, most = set(), {"maps": 0, "blocks": 0}
    inner_read, inner_score, inner_blocks = stream.read_pair, stream.score_ids, blocks.read

    def watch(kind, value, arrays):
        import weakref

        key = (kind, id(value))
        live.add(key)
        for array in arrays:
            weakref.finalize(array, live.discard, key)
        most[kind] = max(most[kind], sum(k == kind for k, _ in live))
        return value

    def read_pair(*args):
        pair = inner_read(*args)
        return watch("maps", pair, pair[:1])

    def score_ids(*args):
        block = inner_score(*args)
        return watch("blocks", block, [block.pool])

    def read_block(*args, **options):
        block = inner_blocks(*args, **options)
        return watch("blocks", block, [block.pool])

    monkeypatch.setattr(stream, "read_pair", read_pair)
    monkeypatch.setattr(stream, "score_ids", score_ids)
    monkeypatch.setattr(blocks, "read", read_block)
    assert run(**options(pairs, num_threads=2))["images"] == 400
    assert most["maps"] <= 2 and most["blocks"] <= 4, most


def test_signals_stand_in_columns_and_their_files_count(pairs, seen):
    extra = pairs / "extra.txt"
    extra.write_text("0.5")

    def of(name, first_hw, second_hw):
        return float(extra.read_text()), (first_hw == second_hw).mean()

    signals = stream.Signals(("half", "same"), of, lambda name: [extra])
    job = stream.Job(str(pairs / "first"), str(pairs / "second"), 4, "second", signals)
    every = names.in_folder(job.first)

    def columns():
        scored = list(stream.score(job, every, pairs / "out", block=BLOCK))
        return {n: np.concatenate([b.signals[n] for b in scored]) for n in signals.names}

    got = columns()
    assert (got["half"] == 0.5).all() and got["same"].dtype == np.float64
    pair = inner_pair(pairs, "007")
    assert got["same"][7] == (pair[0] == pair[1]).mean()
    seen.clear()
    columns()
    assert not seen
    extra.write_text("0.25")
    assert (columns()["half"] == 0.25).all() and len(seen) == COUNT


def inner_pair(pairs, name):
    return [label_map.read(pairs / folder / f"{name}.png", 4) for folder in ("first", "second")]
