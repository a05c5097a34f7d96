"""Images per second of the loader that feeds UniMatch V2, and how long a training waits for it.

    python tools/bench/loader.py --images=JPEGImages --labels=SegmentationClass --step_ms=300

First each stage alone, in one thread: processor time per photo, and how many photos a core does in
a second. Then whole batches, as a training gets them, with each number of worker processes (of
each of the two streams; 0 = two threads each): photos of both lists per second.
waiting: the share of a training that stands still for input, (load - step) / load where loading a
batch takes longer than the step, else 0. Steps are taken to last --step_ms, or are really run
(--steps, random weights unless config.model.encoder_weights says otherwise) and timed.
"""

from __future__ import annotations

import itertools
import os
import pathlib
import tempfile
import time
from collections.abc import Sequence

import jax
import numpy as np
from PIL import Image

from wsssjax import train
from wsssjax.core import cli, files, parallel
from wsssjax.core import config as configs
from wsssjax.data import label_map
from wsssjax.data.classes import read_class_names
from wsssjax.data.loader import READY_BATCHES
from wsssjax.data.sources import Listed
from wsssjax.semi import views

CONFIG = pathlib.Path(__file__).resolve().parents[2] / "configs" / "semi_voc_unimatch_v2.py"
STAGES = {  # of each transform; whatever else there is counts as colour
    "RandomScale": "geometry", "PadCrop": "geometry", "Flip": "geometry", "Normalize": "normalise",
    "Keep": "normalise",
}
SIZE_HW = (375, 500)  # of a generated photo, VOC's most frequent size
WARM_UP = 2 * READY_BATCHES  # batches; as many may lie ready before the clock starts


def draw_photos(folder: pathlib.Path, count: int, num_classes: int) -> None:
    """Writes images/<id>.jpg, as large as VOC's files, and labels/<id>.png."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    h, w = SIZE_HW
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (h // 25, w // 25, 3), dtype=np.uint8))
        smooth_hwc = np.asarray(coarse.resize((w, h), Image.Resampling.BICUBIC), np.float32)
        photo_hwc = np.clip(smooth_hwc + rng.normal(0, 12, (h, w, 1)), 0, 255).astype(np.uint8)
        Image.fromarray(photo_hwc).save(folder / "images" / f"{i:04d}.jpg", quality=90)
        label_hw = rng.integers(0, num_classes, (h // 125, w // 125), dtype=np.uint8)
        label_map.write(folder / "labels" / f"{i:04d}.png", np.kron(
            label_hw, np.ones((125, 125), np.uint8)))


def write_lists(config, folder: pathlib.Path, images: str, labels: str) -> tuple[int, int]:
    """Points config.data at two lists written to `folder`: half the photos that have a label, and
    all others. Returns how many have a label, and how many there are."""
    photos = files.photo_paths(images)
    known = set(label_map.folder_ids(labels)) & set(photos)
    if not known:
        raise ValueError(f"{labels}: holds no label map of a photo in {images}; want <id>.png")
    chosen = set(sorted(known)[::2])  # a training wants the lists apart
    lines = {"labeled": [f"{path.resolve()} {pathlib.Path(labels, name).resolve()}.png"
                         for name, path in photos.items() if name in chosen],
             "unlabeled": [str(path.resolve()) for name, path in photos.items()
                           if name not in chosen]}
    for name, rows in lines.items():
        (folder / f"{name}.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
        config.data[name] = str(folder / f"{name}.txt")
    config.data.root = ""
    return len(known), len(photos)


def stage_seconds(source: Listed, ops: Sequence, count: int) -> dict[str, float]:
    """Processor seconds per photo of each stage, over `count` photos after one that is not timed.

    Processor time of all threads: OpenCV may use several.
    """
    spent = dict.fromkeys(("decode", "geometry", "colour", "normalise"), 0.0)
    for turn in range(-1, count):
        rng = np.random.default_rng(turn + 1)
        start = time.process_time()
        example = source[turn % len(source)]
        stages = ["decode"]
        times = [start, time.process_time()]
        for op in ops:
            example = op(example, rng)
            stages.append(STAGES.get(type(op).__name__, "colour"))
            times.append(time.process_time())
        if turn >= 0:
            for stage, a, b in zip(stages, times, times[1:], strict=False):
                spent[stage] += (b - a) / count
    return spent


def load_seconds(config, workers: int, batches: int) -> float:
    """Seconds per batch of the whole loader, taken as fast as it comes."""
    with config.unlocked():
        config.data.workers = workers
    loader = views.semi_loader(config)
    try:
        for _ in itertools.islice(loader, WARM_UP):
            pass
        start = time.perf_counter()
        for _ in itertools.islice(loader, batches):
            pass
        return (time.perf_counter() - start) / batches
    finally:
        loader.close()


def run_steps(config, workers: int, steps: int) -> tuple[float, float]:
    """(seconds in next(loader), seconds of the rest) per step of a real training.

    The clock starts after READY_BATCHES steps, the first of which compiles: until then the loader
    lives on what it prepared meanwhile.
    """
    with config.unlocked():
        config.data.workers, config.data.val, config.total_steps = workers, "", steps
    method = configs.choose(train.METHODS, config.method, "config.method")(config)
    init_key, step_key = jax.random.split(jax.random.key(config.seed))
    state = parallel.replicate(method.init(init_key))
    step_fn = parallel.compile_step(method.step, backend=config.parallel)
    loader = method.loader()
    waited = worked = 0.0
    try:
        for step in range(-READY_BATCHES, steps):
            start = time.perf_counter()
            batch = next(loader)
            middle = time.perf_counter()
            state, metrics = step_fn(state, batch, step_key)
            jax.block_until_ready((state.step, metrics))
            if step >= 0:
                waited += middle - start
                worked += time.perf_counter() - middle
    finally:
        loader.close()
    return waited / steps, worked / steps


def waiting(load_s: float, step_s: float) -> float:
    """Share of the time in which the step waits, when both go on side by side."""
    return max(0.0, load_s - step_s) / max(load_s, step_s)


def report(config, flags) -> None:
    """Prints all tables."""
    source = {"labelled": views.read_lines(config.data.labeled, labelled=True),
              "unlabelled": views.read_lines(config.data.unlabeled, labelled=False)}
    ops = {"labelled": views.labelled_transforms(config.data),
           "unlabelled": views.unlabelled_transforms(config.data)}
    rows = config.device_batch * config.accumulate * parallel.device_count()
    print(f"{len(source['labelled'])} labelled, {len(source['unlabelled'])} unlabelled photos; "
          f"crop {config.data.crop}; batches of {rows} + {rows}; {os.cpu_count()} cores")
    total = 0.0
    for name, lines in source.items():
        listed = Listed(lines, "", num_classes=len(read_class_names(config.classes)))
        spent = stage_seconds(listed, ops[name], flags.photos)
        total += sum(spent.values())
        for stage, seconds in [*spent.items(), ("whole", sum(spent.values()))]:
            rate = f"{1 / seconds:8.1f}" if seconds else "       –"
            print(f"{name:11s} {stage:10s} {1e3 * seconds:7.2f} ms {rate} images/s per core")
    print(f"one of each {'':10s} {1e3 * total:7.2f} ms {2 / total:8.1f} images/s per core; "
          f"a batch takes {rows * total:.3f} s of one core")
    for workers in flags.workers:
        seconds = load_seconds(config, workers, flags.batches)
        line = (f"{workers} workers: {2 * rows / seconds:6.1f} images/s, "
                f"{1e3 * seconds:.0f} ms a batch")
        if flags.step_ms:
            share = waiting(seconds, flags.step_ms / 1e3)
            line += f"; waiting {100 * share:.0f} % with steps of {flags.step_ms:g} ms"
        print(line, flush=True)
        if flags.steps:
            waited, worked = run_steps(config, workers, flags.steps)
            print(f"{workers} workers, {flags.steps} real steps on {jax.default_backend()}: "
                  f"{1e3 * waited:.0f} ms in next(loader), {1e3 * worked:.0f} ms in the step; "
                  f"waiting {100 * waited / (waited + worked):.0f} %", flush=True)


def main(arguments: list[str]) -> None:
    """Runs the command."""
    parser = cli.parser("python tools/bench/loader.py", __doc__,
                        "python tools/bench/loader.py --step_ms=300 --config.device_batch=4")
    add = parser.add_argument
    add("--config", default=str(CONFIG), metavar="FILE[:ARG]",
        help="its lists are not read; --config.a.b=v changes a field")
    add("--images", default="", help="folder of photos, or a list (default: some are generated)")
    add("--labels", default="", help="folder of <id>.png; photos with one are the labelled ones")
    add("--photos", type=int, default=86, help="photos per stage (default 86)")
    add("--batches", type=int, default=10, help="timed batches per number of workers (default 10)")
    add("--workers", default="0,1,2", help="worker processes per stream, by comma")
    add("--step_ms", type=float, default=0.0, help="milliseconds that a training step takes")
    add("--steps", type=int, default=0, help="real training steps to run and time")
    plain, overrides = cli.split_overrides(arguments)
    flags = parser.parse_args(plain)
    try:
        flags.workers = [int(text) for text in flags.workers.split(",")]
    except ValueError:
        raise ValueError(f"--workers={flags.workers}: want numbers, such as 0,1,2") from None
    for name in ("photos", "batches"):
        if getattr(flags, name) < 1:
            raise ValueError(f"--{name}={getattr(flags, name)}: want 1 or more")
    if bool(flags.images) != bool(flags.labels):
        raise ValueError("--images and --labels belong together; give both, or neither")
    config = configs.load(flags.config, overrides)
    parallel.start()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        if not flags.images:
            draw_photos(folder, flags.photos, len(read_class_names(config.classes)))
            flags.images, flags.labels = str(folder / "images"), str(folder / "labels")
        write_lists(config, folder, flags.images, flags.labels)
        report(config, flags)


if __name__ == "__main__":
    cli.run(main)
