"""The whole selection against the time that two threads take to decode the same label maps.

    python tools/bench/selection.py --first=labels_a --second=labels_b --repeats=3
"""

from __future__ import annotations

import pathlib
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from wsssjax.core import cli
from wsssjax.data import label_map
from wsssjax.select import __main__ as select_command


def decode(path: pathlib.Path) -> int:
    """Decodes one PNG and does nothing else."""
    return np.asarray(Image.open(path)).size


def main(arguments: list[str]) -> None:
    """Prints seconds of both, and their ratio, for each repeat."""
    parser = cli.parser("python tools/bench/selection.py", __doc__,
                        "python tools/bench/selection.py --first=A --second=B")
    parser.add_argument("--first", required=True, help="folder of label maps")
    parser.add_argument("--second", required=True, help="folder of label maps")
    parser.add_argument("--repeats", type=int, default=3)
    flags = parser.parse_args(arguments)
    ids = label_map.folder_ids(flags.second)
    paths = [pathlib.Path(f) / f"{name}.png" for name in ids for f in (flags.first, flags.second)]
    for _ in range(flags.repeats):
        start = time.perf_counter()
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(decode, paths))
        decoded = time.perf_counter() - start
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as out:
            select_command.run(first=flags.first, second=flags.second, out=out,
                               quota_spec="none", min_iou=0.9)
        whole = time.perf_counter() - start
        print(f"{len(ids)} pairs: decode {decoded:.2f} s, selection {whole:.2f} s, "
              f"ratio {whole / decoded:.2f}")


if __name__ == "__main__":
    cli.run(main)
