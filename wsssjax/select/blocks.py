"""Score files: what the slow pass over the label maps leaves for the quick one that chooses.

`<out>/scores/<block>.parquet` holds the counts of up to BLOCK pairs, in the order of their ids:

    id        text
    pixels    int32, h * w
    classes   list of uint8: the classes in either map, rising, background included
    both, first, second, pool   lists of int32 beside `classes`: pixels of the class where both
              maps say it, where the first and where the second says it (pixels that either leaves
              open count nowhere), and in the whole label of the pool
    …         float64, one column a further signal

Hashes in the file's metadata say whether it still holds: `what` (ids, classes, pool, signals),
`files` (name, size and time of every file that was read) and, for another machine, where names and
times differ, `sizes` (of the same files in the order of folders and ids).
"""

from __future__ import annotations

import io
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wsssjax.core import files, threads
from wsssjax.core.constants import BACKGROUND
from wsssjax.select import greedy, iou
from wsssjax.select.iou import PairCounts

SCHEMA = 2
BLOCK = 4096  # ids in a file
FOLDER = "scores"
COUNTS = ("both", "first", "second", "pool")


class Block(NamedTuple):
    """ids: column of text.  pixels: int64 [n].  counts: int64 [n, k], background included.
    pool: int64 [n, k], class areas of the pool's whole labels.  signals: float64 [n] by name."""

    ids: pa.StringArray
    pixels: np.ndarray
    counts: PairCounts
    pool: np.ndarray
    signals: dict[str, np.ndarray]


class Marks(NamedTuple):
    """What a file's metadata says.  what, files, sizes: hashes.  shard: "i/n" of the run that
    made it."""

    what: str
    files: str
    sizes: str
    shard: str


def path_of(folder: str | os.PathLike, index: int) -> pathlib.Path:
    """The file of a block; `folder` is that of the selection."""
    return pathlib.Path(folder) / FOLDER / f"{index:06d}.parquet"


def hash_what(ids: Sequence[str], num_classes: int, pool: str, signals: Sequence[str]) -> str:
    """Changes when a block of these ids must hold other columns or rows."""
    return files.hash_value([SCHEMA, files.hash_ids(ids), num_classes, pool, list(signals)])


def hash_files(paths: Sequence[str]) -> tuple[str, str]:
    """(`files`, `sizes`): they change when one of the files does, as far as (absolute) name, size
    and time tell, and as far as the sizes alone do."""
    stats = [(path, os.stat(path)) for path in paths]
    return (files.hash_value([(name, s.st_size, s.st_mtime_ns) for name, s in stats]),
            files.hash_value([s.st_size for _, s in stats]))


def encode(block: Block, marks: Marks) -> bytes:
    """The bytes of a score file; the same block gives the same bytes."""
    counts = dict(zip(COUNTS, (*block.counts, block.pool), strict=True))
    there_nk = (counts["first"] + counts["second"] + counts["pool"]) > 0
    offsets = pa.array(np.concatenate([[0], there_nk.sum(1).cumsum()]), pa.int32())
    class_ids = np.nonzero(there_nk)[1].astype(np.uint8)
    columns = {"id": block.ids, "pixels": pa.array(block.pixels, pa.int32()),
               "classes": pa.ListArray.from_arrays(offsets, pa.array(class_ids))}
    for name, counts_nk in counts.items():
        values = pa.array(counts_nk[there_nk], pa.int32())
        columns[name] = pa.ListArray.from_arrays(offsets, values)
    for name, values in block.signals.items():
        columns[name] = pa.array(values, pa.float64())
    table = pa.table(columns).replace_schema_metadata(marks._asdict())
    file = io.BytesIO()
    # Counts are all different: a dictionary of them would only make the file larger and slower.
    pq.write_table(table, file, write_page_checksum=True, use_dictionary=["classes.list.element"])
    return file.getvalue()


def read_marks(path: pathlib.Path) -> Marks | None:
    """What a file says it holds; None where there is no whole file."""
    try:
        found = pq.read_metadata(path).metadata or {}
        return Marks(*(found[name.encode()].decode() for name in Marks._fields))
    except (FileNotFoundError, pa.ArrowException, KeyError, UnicodeDecodeError):
        return None


def read(path: pathlib.Path, num_classes: int, only_counts: bool = False) -> Block:
    """The block in a score file; ValueError names one that is broken.

    only_counts: leaves out ids, pixels and signals, which are then empty.
    """
    try:
        # One block is too small for threads of its own: they cost more than they save.
        file = pq.ParquetFile(pa.BufferReader(path.read_bytes()), page_checksum_verification=True)
        wanted = ["classes", *COUNTS] if only_counts else None
        table = file.read(columns=wanted, use_threads=False).combine_chunks()
        count = len(table)
        lists = _chunk(table, "classes")
        class_ids = lists.values.to_numpy()
        rows = np.repeat(np.arange(count), np.diff(lists.offsets.to_numpy()))
        dense = np.zeros((len(COUNTS), count, num_classes), np.int64)
        for name, dense_nk in zip(COUNTS, dense, strict=True):
            dense_nk[rows, class_ids] = _chunk(table, name).values.to_numpy()
        ids, pixels, signals = pa.array([], pa.string()), np.zeros(0, np.int64), {}
        if not only_counts:
            ids, pixels = _chunk(table, "id"), table["pixels"].to_numpy().astype(np.int64)
            signals = {name: table[name].to_numpy() for name in table.column_names
                       if name not in ("id", "pixels", "classes", *COUNTS)}
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, LookupError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: not a readable score file ({error}); delete it, and the same "
                         "command makes it again") from None
    return Block(ids, pixels, PairCounts(*dense[:3]), dense[3], signals)


def same(path: pathlib.Path, other: pathlib.Path, num_classes: int) -> bool:
    """Whether two files hold the same block, whoever made them."""
    first, second = (encode(read(p, num_classes), Marks("", "", "", "")) for p in (path, other))
    return first == second


def _chunk(table: pa.Table, name: str) -> pa.Array:
    return table[name].chunk(0) if table[name].num_chunks else table[name].combine_chunks()


class Blocks(NamedTuple):
    """All score files of a selection, in the order of their ids; iterating reads one at a time."""

    paths: tuple[pathlib.Path, ...]
    num_classes: int  # background included

    def __iter__(self) -> Iterator[Block]:
        return (read(path, self.num_classes) for path in self.paths)


class Columns(NamedTuple):
    """What the choice needs of every image.  iou: float64 [n].  empty: bool [n], no foreground in
    either map.  open: bool [n], no pixel that both maps name.  blank: bool [n], no
    foreground in the pool's whole label.  words: uint64 [n, w], foreground
    classes of the pool's label as bit masks, see `greedy.pack`."""

    iou: np.ndarray
    empty: np.ndarray
    open: np.ndarray
    blank: np.ndarray
    words: np.ndarray


def columns(blocks: Blocks, kind: str, min_area: int = 1) -> Columns:
    """The columns of all blocks, read a few at a time.

    kind: see `iou.image_iou`.  min_area: pixels below which a class does not count as present.
    """
    def of(path):
        block = read(path, blocks.num_classes, only_counts=True)
        iou_n, empty_n = iou.image_iou(block.counts, kind)
        named_n = block.counts.first.any(1)
        words_nw = greedy.pack(block.pool[:, BACKGROUND + 1:] >= min_area)
        return iou_n, empty_n, ~named_n, ~block.pool[:, BACKGROUND + 1:].any(1), words_nw

    parts = list(threads.each(of, blocks.paths))
    return Columns(*map(np.concatenate, zip(*parts, strict=True)))


def ids_of(names: pa.StringArray, index: int, block: int = BLOCK) -> list[str]:
    """The ids of a block."""
    return names.slice(index * block, block).to_pylist()


def count_of(names: pa.StringArray, block: int = BLOCK) -> int:
    """The number of blocks."""
    return -(-len(names) // block)


