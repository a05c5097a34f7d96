"""Pass 1: pairs of label maps → score files, block by block; what is there already is kept."""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from wsssjax.core import cluster, files, progress, threads
from wsssjax.data import label_map
from wsssjax.select import blocks, iou
from wsssjax.select.blocks import BLOCK, Block, Blocks, Marks

BATCH = 16  # pairs that an accelerator counts at a time


class Signals(NamedTuple):
    """Further numbers of every pair.  names: of the columns.  of: (id, first uint8 [h, w],
    second) → one float for each name; it may read files.  files: id → the files that it reads,
    so that a block is scored again when one of them changes."""

    names: tuple[str, ...]
    of: Callable[[str, np.ndarray, np.ndarray], Sequence[float]]
    files: Callable[[str], Sequence[str | os.PathLike]]


class Job(NamedTuple):
    """What to score.  first, second: folders of label maps.  pool: "first" or "second"."""

    first: str
    second: str
    num_classes: int
    pool: str = "second"
    signals: Signals | None = None


def inputs(job: Job, ids: Sequence[str]) -> list[str]:
    """Every file that scoring these ids reads, absolute; by folder and id, always in one order."""
    folders = [os.path.join(os.path.abspath(folder), "") for folder in (job.first, job.second)]
    paths = [f"{folder}{name}.png" for folder in folders for name in ids]
    if job.signals:
        paths += [os.path.abspath(path) for name in ids for path in job.signals.files(name)]
    return paths


def hash_what(job: Job, ids: Sequence[str]) -> str:
    """See `blocks.hash_what`."""
    names = job.signals.names if job.signals else ()
    return blocks.hash_what(ids, job.num_classes, job.pool, names)


def read_pair(job: Job, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The two label maps of an id, uint8 [h, w]."""
    paths = [os.path.join(folder, f"{name}.png") for folder in (job.first, job.second)]
    first_hw, second_hw = (label_map.read(path, job.num_classes) for path in paths)
    if first_hw.shape != second_hw.shape:
        sizes = [f"{path} has {shape[0]} x {shape[1]}" for path, shape in
                 zip(paths, (first_hw.shape, second_hw.shape), strict=True)]
        raise ValueError(f"{', '.join(sizes)} pixels (h x w); a pair needs one size")
    return first_hw, second_hw


def score_ids(job: Job, ids: Sequence[str], num_threads: int | None = None,
              host: bool | None = None) -> Block:
    """Counts and signals of these ids.  host: see `iou.count_pairs`."""
    host = iou.on_host() if host is None else host

    def count(names):
        pairs = [read_pair(job, name) for name in names]
        counts, areas_bk = iou.count_whole(pairs, job.num_classes, job.pool, host)
        signals = [job.signals.of(name, *pair) for name, pair in zip(names, pairs, strict=True)
                   ] if job.signals else np.zeros((len(names), 0))
        return [first_hw.size for first_hw, _ in pairs], *counts, areas_bk, signals

    batch = 1 if host else BATCH
    batches = [ids[i:i + batch] for i in range(0, len(ids), batch)]
    parts = threads.each(count, batches, threads=num_threads)
    pixels, *counts, areas, signals = map(np.concatenate, zip(*parts, strict=True))
    names = job.signals.names if job.signals else ()
    return Block(pa.array(ids, pa.string()), pixels, iou.PairCounts(*counts), areas,
                 dict(zip(names, signals.T.astype(np.float64), strict=True)))


def score_block(job: Job, shard: str, ids: Sequence[str], num_threads: int | None = None,
                host: bool | None = None) -> bytes:
    """The score file of these ids.  host: see `iou.count_pairs`."""
    # Before reading: a file that changes meanwhile must not pass for the one that was read.
    marks = Marks(hash_what(job, ids), *blocks.hash_files(inputs(job, ids)), shard)
    return blocks.encode(score_ids(job, ids, num_threads, host), marks)


def is_done(job: Job, path: pathlib.Path, ids: Sequence[str]) -> bool:
    """Whether a score file holds these ids, scored from the files as they are now."""
    marks = blocks.read_marks(path)
    return (marks is not None and marks.what == hash_what(job, ids)
            and marks.files == blocks.hash_files(inputs(job, ids))[0])


class _Todo(Sequence):
    """The ids of the blocks that are still to be scored, made when they are asked for."""

    def __init__(self, names, indices, block):
        self.names, self.indices, self.block = names, indices, block

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, at):  # IndexError behind the last ends a loop
        return blocks.ids_of(self.names, self.indices[at], self.block)


def score(job: Job, names: pa.StringArray, out: str | os.PathLike, *, shard: str = "0/1",
          block: int = BLOCK, executor: str = "threads", num_threads: int | None = None,
          label: str = "compare") -> Blocks:
    """Scores what is missing in `<out>/scores`, and returns the score files of this shard.

    names: sorted ids.  shard: "i/n" takes the blocks i, i + n, i + 2n, ….  block: ids a file.
    A kill loses the blocks in work, at most; so does an error in one file. Memory holds few blocks
    at a time, however many ids there are.
    """
    index, count = cluster.shard(shard)
    mine = range(index, blocks.count_of(names, block), count)
    paths = tuple(blocks.path_of(out, i) for i in mine)
    if not mine:  # this shard has scored all that it had to: `merge` must find its folder
        (pathlib.Path(out) / blocks.FOLDER).mkdir(parents=True, exist_ok=True)
    done = [is_done(job, path, blocks.ids_of(names, i, block))
            for i, path in zip(mine, paths, strict=True)]
    missing = [i for i, there in zip(mine, done, strict=True) if not there]
    todo = _Todo(names, missing, block)
    if executor == "threads":  # they share out each block
        made = (score_block(job, shard, ids, num_threads) for ids in todo)
    else:  # a task counts for one core and no accelerator
        work = functools.partial(score_block, job, shard, num_threads=1, host=True)
        made = cluster.each(work, todo, executor)
    kept = len(mine) - len(missing)
    with progress.Progress(len(mine), label, done=kept, unit="blocks") as line:
        for i, data in zip(missing, made, strict=True):
            with files.atomic(blocks.path_of(out, i)) as file:
                file.write(data)
            line.advance()
    return Blocks(paths, job.num_classes)


def merge(job: Job, names: pa.StringArray, folders: Sequence[str], *,
          block: int = BLOCK) -> Blocks:
    """The score files of all blocks from the folders of several shards; nothing is scored.

    ValueError names the first block that none of them holds, and the shard that makes it, or a
    folder whose scores are of other label files, as far as their sizes tell: on another machine
    they have other paths and times.
    """
    if not folders:
        raise ValueError("--merge_shards: names no folder; want OUT1,OUT2,…")
    for folder in folders:
        if not (pathlib.Path(folder) / blocks.FOLDER).is_dir():
            raise FileNotFoundError(f"{folder}: holds no {blocks.FOLDER}/; want the --out of "
                                    "python -m wsssjax.select --shard=i/n")
    found, missing, other, of = [], [], None, len(folders)
    for i in range(blocks.count_of(names, block)):
        ids = blocks.ids_of(names, i, block)
        what, there = hash_what(job, ids), []
        for path in (blocks.path_of(folder, i) for folder in folders):
            marks = blocks.read_marks(path)
            if marks is not None:
                of = cluster.shard(marks.shard)[1] if marks.shard != "0/1" else of
                if marks.what == what:
                    there.append((path, marks))
                else:
                    other = other or path
        if there:
            _need_same(job, ids, there)
            found.append(there[0][0])
        else:
            missing.append(i)
    if missing:
        if other:
            raise ValueError(f"{other}: made for other ids, classes, pool, --block or further "
                             "sets; merge with the flags that the shards were scored with")
        shards = ", ".join(f"--shard={i}/{of}" for i in sorted({i % of for i in missing}))
        raise ValueError(f"--merge_shards: {len(missing)} of {blocks.count_of(names, block)} "
                         f"blocks are missing, the first is {missing[0]:06d}; make them with "
                         f"{shards}")
    return Blocks(tuple(found), job.num_classes)


def _need_same(job: Job, ids: Sequence[str], there: Sequence[tuple[pathlib.Path, Marks]]) -> None:
    """ValueError unless all these files of one block were scored from the label files of `job`."""
    _, sizes = blocks.hash_files(inputs(job, ids))
    first = there[0][0]
    for path, marks in there:
        if marks.sizes != sizes:
            raise ValueError(f"{path.parent.parent}: its scores are of other label files than "
                             "those of --first, --second, --with and --refined; give the same "
                             "folders in the same order, or score that shard again")
        if path != first and not blocks.same(first, path, job.num_classes):
            raise ValueError(f"{path}: holds other scores than {first}; delete the one that is not "
                             "of these label files")
