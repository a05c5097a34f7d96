"""Dense CRF beside pydensecrf2, side by side on the same cores, lattice building included.

    python tools/bench/crf.py --images=JPEGImages --labels=labels --count=20 --repeats=3

Each preset runs on the same photos with all 21 labels: hard unaries for irn, soft ones made of the
labels for psa. Workers: threads for ours, processes for pydensecrf2, which holds Python's lock.
"""

from __future__ import annotations

import multiprocessing
import pathlib
import resource
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np

from wsssjax.core import cli, crf, files, lattice_host, threads
from wsssjax.data import label_map, photos

LABELS = 21
SHIFT = (6, 9)  # pixels that the labels are moved by, where they are true masks


def unary(label_hw: np.ndarray, name: str) -> np.ndarray:
    """Energies float32 [h, w, 21] as the preset wants them."""
    hard_hwk = crf.labels_to_unary(label_hw, LABELS)
    if crf.PRESETS[name].gt_prob:
        return hard_hwk
    soft_hwk = np.exp(-hard_hwk)
    return crf.scores_to_unary(soft_hwk / soft_hwk.sum(-1, keepdims=True))


def pydensecrf2(item) -> np.ndarray:
    """Labels by the library. item: (unary [21, n], image, preset's name)."""
    import pydensecrf.densecrf as densecrf

    unary_kn, image_hwc, name = item
    h, w = image_hwc.shape[:2]
    model = densecrf.DenseCRF2D(w, h, LABELS)
    model.setUnaryEnergy(unary_kn)
    gauss, bilateral = crf.PRESETS[name].kernels
    model.addPairwiseGaussian(sxy=gauss.sxy, compat=gauss.compat)
    model.addPairwiseBilateral(sxy=bilateral.sxy, srgb=bilateral.srgb, rgbim=image_hwc,
                               compat=bilateral.compat)
    q_kn = np.array(model.inference(crf.PRESETS[name].iterations))
    return q_kn.argmax(0).astype(np.uint8).reshape(h, w)


def ours(infer):
    def run(item):
        unary_kn, image_hwc, name = item
        unary_hwk = unary_kn.T.reshape(*image_hwc.shape[:2], LABELS)
        return infer(unary_hwk, image_hwc, crf.PRESETS[name]).argmax(-1).astype(np.uint8)

    return run


def timed(pool, function, items) -> tuple[float, list]:
    """Seconds per image over the whole pool, and the label maps."""
    start = time.perf_counter()
    found = list(pool.map(function, items))
    return (time.perf_counter() - start) / len(items), found


def measure(items, repeats: int, workers: int, paths: list[str]) -> dict[str, list[float]]:
    """Seconds per image of each path and repeat; the paths take turns. Compiling is not timed."""
    seconds: dict[str, list[float]] = {path: [] for path in paths}
    first = None
    spawn = multiprocessing.get_context("spawn")
    with (ProcessPoolExecutor(workers, spawn) as processes,
          ThreadPoolExecutor(workers) as pool):
        ways = {"pydensecrf2": (processes, pydensecrf2), "host": (pool, ours(crf.infer)),
                "compiled": (pool, ours(crf.infer_compiled))}
        for repeat in range(repeats + 1):
            for path in paths:
                way, function = ways[path]
                took, found = timed(way, function, items)
                first = found if first is None else first
                same = np.mean([np.mean(a == b) for a, b in zip(first, found, strict=True)])
                assert same > 0.995, (path, same)
                if repeat:
                    seconds[path].append(took)
    return seconds


def main(arguments: list[str]) -> None:
    """Prints one line a preset and path: ms per image (median, range), ratio to the library."""
    parser = cli.parser("python tools/bench/crf.py", __doc__,
                        "python tools/bench/crf.py --images=JPEGImages --labels=labels")
    add = parser.add_argument
    add("--images", required=True, help="folder or list of photos")
    add("--labels", required=True, help="folder of label maps (of the photos, any quality)")
    add("--presets", default="psa,irn")
    add("--paths", default="pydensecrf2,host,compiled")
    add("--count", type=int, default=20, help="photos")
    add("--repeats", type=int, default=3)
    add("--workers", type=int, default=threads.usable_cores())
    flags = parser.parse_args(arguments)
    paths = files.photo_paths(flags.images)
    names = [n for n in label_map.folder_ids(flags.labels) if n in paths][:flags.count]
    for preset in flags.presets.split(","):
        items, vertices = [], []
        for name in names:
            image_hwc = np.array(photos.read_photo(paths[name]))
            label_hw = label_map.read(pathlib.Path(flags.labels) / f"{name}.png", LABELS)
            unary_hwk = unary(np.roll(label_hw, SHIFT, (0, 1)), preset)
            items.append((np.ascontiguousarray(unary_hwk.reshape(-1, LABELS).T), image_hwc, preset))
            vertices.append(sum(
                lattice_host.build(crf.features(image_hwc, kernel)).near.shape[1]
                for kernel in crf.PRESETS[preset].kernels))
        pixels = [i[1].shape[0] * i[1].shape[1] for i in items]
        needs = [crf.needs(n, LABELS, crf.PRESETS[preset], v)
                 for n, v in zip(pixels, vertices, strict=True)]
        print(f"{preset}: {len(items)} photos, {np.mean(pixels):,.0f} pixels, "
              f"{np.mean(vertices):,.0f} vertices, {max(needs) / 1e6:.0f} MB an image at most, "
              f"{flags.workers} workers")
        seconds = measure(items, flags.repeats, flags.workers, flags.paths.split(","))
        base = np.median(seconds.get("pydensecrf2", [np.nan]))
        for path, values in seconds.items():
            print(f"  {path:12} {1e3 * np.median(values):7.1f} ms an image "
                  f"({1e3 * min(values):.1f} to {1e3 * max(values):.1f}), "
                  f"{base / np.median(values):.2f} times the throughput of pydensecrf2", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"peak memory of this process {peak:.2f} GB")


if __name__ == "__main__":
    cli.run(main)
