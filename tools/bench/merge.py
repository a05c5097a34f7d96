"""Merging label maps with masks: the whole command by the clock, and one thread stage by stage.

    python tools/bench/merge.py --images=1000 --masks=60

The data are made up at VOC's size: blobs with rough edges of all sizes, nested and overlapping, as
masks; unions of a few of them, shifted and holed, as label maps of one to three classes.
"""

from __future__ import annotations

import pathlib
import tempfile
import time

import cv2
import numpy as np

from wsssjax.core import cli
from wsssjax.data import label_map
from wsssjax.refine import merge_runs, proposals, rle, sam_merge
from wsssjax.refine.merge_folder import merge_folder

SIZE = (375, 500)
NUM_CLASSES = 21


def blob(rng: np.random.Generator) -> np.ndarray:
    """One mask bool [h, w]: a rotated ellipse whose radius wavers and whose edge frays."""
    height, width = SIZE
    angle = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    waver = 1 + sum(rng.normal(0, 0.25 / k) * np.cos(k * angle + rng.uniform(0, 6)) for k in
                    range(2, 16))
    radius = np.exp(rng.uniform(np.log(12), np.log(250))) * np.clip(waver, 0.2, 2)
    stretch, turn = rng.uniform(0.4, 1), rng.uniform(0, np.pi)
    x, y = radius * np.cos(angle), stretch * radius * np.sin(angle)
    points = np.stack([x * np.cos(turn) - y * np.sin(turn) + rng.uniform(0, width),
                       x * np.sin(turn) + y * np.cos(turn) + rng.uniform(0, height)], 1)
    mask_hw = np.zeros(SIZE, np.uint8)
    cv2.fillPoly(mask_hw, [points.round().astype(np.int32)], 1)
    box = np.ones((3, 3), np.uint8)
    edge_hw = cv2.dilate(mask_hw, box) != cv2.erode(mask_hw, box)
    return mask_hw.astype(bool) ^ (edge_hw & (rng.random(SIZE) < 0.2))


def make(folder: pathlib.Path, images: int, masks: int) -> list[str]:
    """Writes `labels/` and `proposals/` and returns the ids."""
    ids = [f"2007_{i:06d}" for i in range(images)]
    for i, name in enumerate(ids):
        rng = np.random.default_rng(i)
        masks_mhw = np.stack([blob(rng) for _ in range(masks)])
        label_hw = np.zeros(SIZE, np.uint8)
        for class_id in rng.choice(np.arange(1, NUM_CLASSES), rng.integers(1, 4), replace=False):
            object_hw = masks_mhw[rng.choice(masks, 3)].any(0)
            shifted_hw = np.roll(object_hw, rng.integers(-9, 10, 2), (0, 1))
            label_hw[shifted_hw & ~blob(rng)] = class_id
        label_map.write(folder / "labels" / f"{name}.png", label_hw)
        records = [proposals.record(rle.encode(m), SIZE, score=0.9) for m in masks_mhw]
        proposals.write(folder / "proposals" / f"{name}{proposals.SUFFIX}", SIZE, records, {})
    return ids


def stages(folder: pathlib.Path, ids: list[str]) -> dict[str, float]:
    """Milliseconds an image of each stage on one thread; unpacked masks for comparison."""
    spent = dict.fromkeys(("read label map", "read masks", "merge", "write label map",
                           "unpack masks", "merge unpacked"), 0.0)

    def timed(what, function, *arguments):
        start = time.perf_counter()
        value = function(*arguments)
        spent[what] += 1000 * (time.perf_counter() - start) / len(ids)
        return value

    for name in ids:
        label_hw = timed("read label map", label_map.read, folder / "labels" / f"{name}.png",
                         NUM_CLASSES)
        masks = timed("read masks", proposals.read_runs, folder / "proposals", name, SIZE)
        merged = timed("merge", merge_runs.merge, label_hw, masks.counts)
        timed("write label map", label_map.write, folder / "out" / f"{name}.png", merged.label_hw)
        masks_mhw = timed("unpack masks", lambda counts: np.stack(
            [rle.decode(counts_r, SIZE) for counts_r in counts]), masks.counts)
        plain_hw = timed("merge unpacked", sam_merge.merge, label_hw, masks_mhw)
        assert (plain_hw == merged.label_hw).all(), name
    return spent


def main(arguments: list[str]) -> None:
    """Prints the seconds of the whole merge and the milliseconds of its stages."""
    parser = cli.parser("python tools/bench/merge.py", __doc__,
                        "python tools/bench/merge.py --images=1000 --masks=60")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--masks", type=int, default=60, help="an image")
    parser.add_argument("--repeats", type=int, default=3)
    flags = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        ids = make(folder, flags.images, flags.masks)
        size = sum(path.stat().st_size for path in (folder / "proposals").iterdir())
        print(f"proposals: {size / len(ids) / flags.masks:.0f} bytes a mask", flush=True)
        stages(folder, ids[:2])  # compiles
        for _ in range(flags.repeats):
            start = time.perf_counter()
            merge_folder(labels=str(folder / "labels"), proposal_folder=str(folder / "proposals"),
                         out=str(folder / "out"), ids=ids, num_classes=NUM_CLASSES)
            seconds = time.perf_counter() - start
            print(f"{len(ids)} images x {flags.masks} masks: {seconds:.1f} s, "
                  f"{1000 * seconds / len(ids):.1f} ms an image", flush=True)
        for what, milliseconds in stages(folder, ids[:100]).items():
            print(f"  {what:<16} {milliseconds:6.2f} ms an image, one thread")


if __name__ == "__main__":
    cli.run(main)
