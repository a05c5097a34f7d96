"""Algorithm 1 over millions of images: seconds and memory, on generated score files.

    python tools/bench/selection_rows.py --rows=10_000_000

A process of its own reads all score files, chooses, and then writes the selection's files. The
labels are made up: one to four classes an image, skewed as those of VOC, IoUs all over 0..1.
"""

from __future__ import annotations

import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
import pyarrow as pa

from wsssjax.core import cli
from wsssjax.data.classes import VOC_CLASSES
from wsssjax.select import blocks, greedy, quota, store
from wsssjax.select.iou import PairCounts

PIXELS = 375 * 500


def block_of(rng, start: int, count: int, num_classes: int) -> blocks.Block:
    """Made-up counts of `count` images, ids from `start` on."""
    share_k = 1 / np.arange(2.0, num_classes + 1)
    number = rng.choice([1, 2, 3, 4], count, p=[0.65, 0.24, 0.08, 0.03])
    noise = rng.random((count, num_classes - 1)) ** (1 / share_k)  # draws without replacement
    there = np.argsort(np.argsort(-noise, axis=1), axis=1) < number[:, None]
    first = np.zeros((count, num_classes), np.int64)
    second, both = first.copy(), first.copy()
    first[:, 1:] = rng.integers(1, PIXELS // 4, there.shape) * there
    second[:, 1:] = rng.integers(1, PIXELS // 4, there.shape) * there
    both[:, 1:] = np.minimum(first, second)[:, 1:] * rng.random((count, 1))
    for counts in (first, second):
        counts[:, 0] = PIXELS - counts.sum(1)
    both[:, 0] = np.minimum(first[:, 0], second[:, 0])
    ids = pa.array([f"{i:09d}" for i in range(start, start + count)], pa.string())
    return blocks.Block(ids, np.full(count, PIXELS), PairCounts(both, first, second), second, {})


def write(folder: str, rows: int) -> None:
    """Writes the score files."""
    rng = np.random.default_rng(0)
    for index in range(-(-rows // blocks.BLOCK)):
        start = index * blocks.BLOCK
        block = block_of(rng, start, min(blocks.BLOCK, rows - start), len(VOC_CLASSES))
        path = blocks.path_of(folder, index)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(blocks.encode(block, blocks.Marks("", "", "", "0/1")))


def measure(folder: str, spec: str, factor: int) -> dict:
    """Seconds of each part, and the most memory this process ever held, in GB."""
    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    paths = tuple(sorted((pathlib.Path(folder) / blocks.FOLDER).glob("*.parquet")))
    scored = blocks.Blocks(paths, len(VOC_CLASSES))
    need = quota.read_quota(spec, VOC_CLASSES) * factor
    found = {}
    start = time.perf_counter()
    columns = blocks.columns(scored, "foreground")
    found["read_s"] = time.perf_counter() - start
    selection = greedy.select(columns.iou, columns.words, need, empty_n=columns.empty)
    found["choose_s"] = time.perf_counter() - start - found["read_s"]
    found |= {"rows": len(columns.iou), "choose_gb": peak(),
              "selected": int(selection.selected.sum())}
    start = time.perf_counter()
    classes = VOC_CLASSES[1:]
    store.write_table(folder, store.tables(scored, columns, columns.iou, selection, classes),
                      classes)
    found["table_s"] = time.perf_counter() - start
    ids = pa.concat_arrays([block.ids for block in scored])
    start = time.perf_counter()
    store.Lines(ids, None, "labels").write(folder, selection.selected)
    found |= {"lists_s": time.perf_counter() - start, "write_gb": peak()}
    return found | {"table_mb": (pathlib.Path(folder) / store.TABLE).stat().st_size / 2**20}


def main(arguments: list[str]) -> None:
    """Prints seconds and memory of each part."""
    parser = cli.parser("python tools/bench/selection_rows.py", __doc__,
                        "python tools/bench/selection_rows.py --rows=10_000_000")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--quota", default="voc/1464", help="a preset")
    parser.add_argument("--factor", type=int, default=1000, help="by which the quota is multiplied")
    parser.add_argument("--folder", help="where the score files lie, or are put (default: a "
                        "temporary one)")
    parser.add_argument("--measure", action="store_true", help="only measure what lies there")
    flags = parser.parse_args(arguments)
    if flags.measure:
        print(json.dumps(measure(flags.folder, flags.quota, flags.factor)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = flags.folder or temporary
        if not (pathlib.Path(folder) / blocks.FOLDER).is_dir():
            write(folder, flags.rows)
        command = [sys.executable, __file__, "--measure", f"--folder={folder}",
                   f"--quota={flags.quota}", f"--factor={flags.factor}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    print(f"{found['rows']:,} rows, {len(VOC_CLASSES) - 1} classes, "
          f"{found['selected']:,} selected: read {found['read_s']:.1f} s + choose "
          f"{found['choose_s']:.1f} s in {found['choose_gb']:.2f} GB; then table "
          f"{found['table_s']:.1f} s ({found['table_mb']:.0f} MB) + lists "
          f"{found['lists_s']:.1f} s, at most {found['write_gb']:.2f} GB")


if __name__ == "__main__":
    cli.run(main)
