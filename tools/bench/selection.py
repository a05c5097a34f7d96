"""The whole selection against the time that two threads take to decode the same label maps.

    python tools/bench/selection.py --first=labels_a --second=labels_b --repeats=3

Then the kernel, on maps in memory: this machine's path against numpy.bincount over pairs of values,
one thread each, and with --device the batches that JAX's default device counts.
"""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from wsssjax.core import cli
from wsssjax.data import label_map
from wsssjax.select import iou

NUM_CLASSES = 21
KERNEL_PAIRS = 256  # held in memory for the kernel
BATCH = 64  # pairs on a device at a time
SIZE = (375, 500)


def decode(path: pathlib.Path) -> int:
    """Decodes one PNG and does nothing else."""
    return np.asarray(Image.open(path)).size


def decode_all(first: str, second: str) -> float:
    """Seconds that two threads take for all PNGs of both folders."""
    paths = [pathlib.Path(folder) / f"{name}.png" for name in label_map.folder_ids(second)
             for folder in (first, second)]
    start = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(decode, paths))
    return time.perf_counter() - start


def decode_command(first: str, second: str) -> float:
    """The same in a process of its own, since the command is one: opening a file for the first time
    costs a process more than opening it again."""
    command = [sys.executable, __file__, f"--first={first}", f"--second={second}", "--decode"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def whole_command(first: str, second: str) -> tuple[float, float]:
    """(seconds of starting up and ending, seconds from the first file to the last) of a process."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "wsssjax.select", f"--first={first}",
                   f"--second={second}", "--quota=voc/1464", f"--out={out}"]
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        whole = time.perf_counter() - start
    work = float(re.search(r"in ([\d.]+) s", done.stdout)[1])
    return whole - work, work


def bincount(first_hw, second_hw) -> np.ndarray:
    """All pairs of values counted by NumPy alone, int64 [256, 256]."""
    pairs = first_hw.reshape(-1).astype(np.uint16) << 8 | second_hw.reshape(-1)
    return np.bincount(pairs, minlength=1 << 16).reshape(256, 256)


def seconds(function, repeats: int = 5) -> float:
    """The best of a few."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def kernel(pairs) -> str:
    """The host's path beside bincount, as a line."""
    iou.pair_counts_host(*zip(*pairs[:1], strict=True), NUM_CLASSES)  # compiles
    first, second = zip(*pairs, strict=True)
    ours = seconds(lambda: iou.pair_counts_host(first, second, NUM_CLASSES)) / len(pairs)
    numpy = seconds(lambda: [bincount(*pair) for pair in pairs]) / len(pairs)
    return (f"kernel: host {1e3 * ours:.3f} ms a pair, bincount {1e3 * numpy:.3f} ms, "
            f"ratio {ours / numpy:.2f}")


def device() -> str:
    """Pairs of SIZE a second on JAX's default device, maps there already and sent there."""
    import jax

    from wsssjax.select import iou_device

    rng = np.random.default_rng(0)
    blocks = rng.integers(0, NUM_CLASSES, (2, BATCH, SIZE[0] // 25, SIZE[1] // 25))
    stacks = np.repeat(np.repeat(blocks, 25, 2), 25, 3).astype(np.uint8)
    there = [jax.device_put(stack) for stack in stacks]
    rates = []
    for maps in (there, stacks):
        def count(maps=maps):
            for _ in range(8):
                jax.block_until_ready(iou_device.pair_counts(*maps, NUM_CLASSES))
        count()
        rates.append(8 * BATCH / seconds(count))
    name = jax.devices()[0].device_kind
    return (f"{name}: {rates[0]:,.0f} pairs/s of {SIZE[0]} x {SIZE[1]} with the maps on the "
            f"device, {rates[1]:,.0f} with sending them")


def main(arguments: list[str]) -> None:
    """Prints seconds of decoding and of the command, and their ratio, for each repeat."""
    parser = cli.parser("python tools/bench/selection.py", __doc__,
                        "python tools/bench/selection.py --first=A --second=B")
    parser.add_argument("--first", required=True, help="folder of label maps of VOC's classes")
    parser.add_argument("--second", required=True, help="folder of label maps")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--decode", action="store_true", help="only decode, and print the seconds")
    parser.add_argument("--device", action="store_true", help="also time JAX's default device")
    flags = parser.parse_args(arguments)
    ids = label_map.folder_ids(flags.second)
    if flags.decode:
        print(decode_all(flags.first, flags.second))
        return
    for _ in range(flags.repeats):
        decoded = decode_command(flags.first, flags.second)
        start_up, work = whole_command(flags.first, flags.second)
        print(f"{len(ids)} pairs: decode {decoded:.2f} s, selection {work:.2f} s, ratio "
              f"{work / decoded:.2f}; start-up {start_up:.2f} s", flush=True)
    pairs = [tuple(label_map.read(pathlib.Path(f) / f"{name}.png", NUM_CLASSES)
                   for f in (flags.first, flags.second)) for name in ids[:KERNEL_PAIRS]]
    print(kernel(pairs), flush=True)
    if flags.device:
        print(device())


if __name__ == "__main__":
    cli.run(main)
