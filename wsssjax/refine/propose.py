"""A folder of photos → a folder of proposals, image by image, on all cores, resumable."""

from __future__ import annotations

import ctypes
import functools
import multiprocessing
import os
import pathlib
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

from wsssjax.core import cluster, files, progress, threads
from wsssjax.core.config import choose, near
from wsssjax.data import photos
from wsssjax.refine import felzenszwalb, import_masks, proposals

# Fine scales and no merging: coarse regions without a network join object and ground, and then
# pull a label's edge away from where it was right.
FELZENSZWALB = {"scales": (30.0, 100.0), "sigma": 0.8, "min_part": 0.0005, "merges": 0,
                "max_part": 0.9}
BACKENDS = ("felzenszwalb", "sam", "import")
# Written into `by` for the reader. They move no pixel but by rounding, so that a run may go on
# with smaller batches or on another machine.
HOW_IT_RAN = ("points_per_batch", "device", "torch")
FEW = 200  # photos below which starting further processes takes longer than it saves
PR_SET_PDEATHSIG = 1


class Counts(NamedTuple):
    """Masks in a file, and identical ones left out of it."""

    masks: int
    duplicates: int


def shard(ids: list[str], part: str) -> list[str]:
    """Every n-th id from the i-th on, for `part` "i/n" with i = 0 … n - 1.

    >>> shard(["a", "b", "c"], "0/2"), shard(["a", "b", "c"], "1/2")
    (['a', 'c'], ['b'])
    """
    index, count = cluster.shard(part)
    return ids[index::count]


def done_before(path: pathlib.Path, by: dict) -> Counts | None:
    """The counts of a whole file made in just this way, None without; a broken one is made again.

    How it ran (`HOW_IT_RAN`) may differ.
    """
    try:
        value = proposals.read_file(path)
    except (ValueError, FileNotFoundError):
        return None
    made = value.get("by")
    if not isinstance(made, dict) or _what(made) != _what(by):
        return None
    return tally(value)


def _what(by: dict) -> dict:
    return {key: value for key, value in by.items() if key not in HOW_IT_RAN}


def tally(value: dict) -> Counts:
    """Masks kept and dropped of one file's content."""
    dropped = value.get("duplicates")
    return Counts(len(value["masks"]), dropped if type(dropped) is int else 0)


def save(out: str, name: str, size: tuple[int, int], records: list[dict], by: dict) -> Counts:
    """Writes `<out>/<name>.json.gz`."""
    path = pathlib.Path(out) / f"{name}{proposals.SUFFIX}"
    return tally(proposals.write(path, size, records, by))


def propose_one(item: tuple[str, str], out: str, by: dict) -> Counts:
    """Writes the proposals of one (id, photo path); the unit of a process."""
    name, path = item
    image_hwc = photos.read_photo(path)
    return save(out, name, image_hwc.shape[:2], felzenszwalb.propose(image_hwc, by), by)


def die_with_parent(parent: int) -> None:
    """Asks Linux to end this process when its parent ends, however that happens."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends us
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it was gone before we asked
            os._exit(1)


def _felzenszwalb(items, out: str, by: dict, processes: int | None) -> Iterator[Counts]:
    work = functools.partial(propose_one, out=out, by=by)
    count = processes or (threads.usable_cores() if len(items) >= FEW else 1)
    if count == 1:
        yield from map(work, items)
        return
    # scikit-image holds Python's lock here, so threads would not help; "spawn", since a fork of a
    # process in which JAX runs threads may hang.
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), die_with_parent,
                               (os.getpid(),))
    try:
        yield from pool.map(work, items, chunksize=4)
    except BrokenProcessPool:
        raise OSError(f"{out}: a worker process was killed (out of memory?); the same command "
                      "goes on from here") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _sam_bridge():
    """The module that runs SAM; ValueError says what to install."""
    try:
        import segment_anything  # noqa: F401

        from wsssjax.bridge import sam_torch
    except ImportError as error:
        raise ValueError(f"--backend=sam: {error.name} is not installed; pip install "
                         "'wsssjax[sam]', or use --backend=felzenszwalb") from None
    except RuntimeError as error:  # torch and torchvision of different builds
        raise ValueError(f"--backend=sam: torch does not load ({error}); install torch and "
                         "torchvision of the same build") from None
    return sam_torch


def describe(backend: str, checkpoint: str | None = None, device: str = "auto",
             **changes) -> dict:
    """The `by` of a run: the backend with every parameter. changes: of the backend's defaults.

    Of "import" it is only the backend: what each image was made of goes into its own file.
    """
    choose(dict.fromkeys(BACKENDS), backend, "--backend")
    if backend == "sam":
        if not checkpoint:
            raise ValueError("--backend=sam: needs --checkpoint=FILE, one of Meta's sam_vit_*.pth")
        return _sam_bridge().describe(checkpoint, device, **changes)
    known = FELZENSZWALB if backend == "felzenszwalb" else {}
    for name in changes:
        if name not in known:
            raise ValueError(f"--backend={backend}: {name!r} is no parameter of it"
                             f"{near(name, known)}")
    if backend == "import":
        return {"backend": "import"}
    settings = FELZENSZWALB | changes
    _check_felzenszwalb(**settings)
    return felzenszwalb.describe(**settings)


def _check_felzenszwalb(scales, sigma, min_part, merges, max_part) -> None:
    for name, value, good, want in (
            ("scales", scales, len(scales) and all(s > 0 for s in scales), "numbers above 0"),
            ("sigma", sigma, 0 <= sigma < 1000, "pixels, 0 or more"),
            ("min_part", min_part, 0 <= min_part < 1, "a part of the photo, 0 to below 1"),
            ("merges", merges, merges >= 0, "a count, 0 or more"),
            ("max_part", max_part, 0 < max_part <= 1, "a part of the photo, above 0 to 1")):
        if not good:
            raise ValueError(f"--backend=felzenszwalb: {name} {value!r}; want {want}")


def sweep(out: pathlib.Path, ids: set[str]) -> None:
    """Removes what a killed run left half written, of these ids only: other shards are at work."""
    for path in out.glob(f".*{proposals.SUFFIX}.*"):
        if path.name[1:].partition(proposals.SUFFIX)[0] in ids:
            path.unlink(missing_ok=True)


def run(*, images: str, out: str, backend: str = "felzenszwalb", checkpoint: str | None = None,
        device: str = "auto", source: str | None = None, part: str = "0/1",
        processes: int | None = None, executor: str = "threads", **changes) -> dict:
    """Writes `<id>.json.gz` for every photo that has none made in the same way; returns a summary.

    images: folder or list file.  device: of SAM, auto, cpu or cuda.  source: of "import", see
    `import_masks`.  part: "i/n", see `shard`.  processes: None means one a core.  executor:
    "threads", or "ray" for a cluster, see `core.cluster.each`; SAM runs here.  changes: parameters
    of the backend that differ from its defaults, recorded in `by`.
    """
    cluster.check(executor)
    if executor != "threads" and backend == "sam":
        raise ValueError(f"--executor={executor}: --backend=sam runs on this machine's device; "
                         "share its photos out with --shard=i/n")
    by = describe(backend, checkpoint, device, **changes)
    paths = files.photo_paths(images)
    ids = shard(list(paths), part)
    folder = pathlib.Path(out)
    make_all, by_of = _backend(backend, out, by, checkpoint, source, list(paths), processes,
                               executor)
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder, set(ids))
    before = {name: done_before(folder / f"{name}{proposals.SUFFIX}", by_of(name)) for name in ids}
    left = [(name, str(paths[name])) for name in ids if before[name] is None]
    counts = [found for found in before.values() if found is not None]
    with progress.Progress(len(ids), "propose masks", done=len(counts)) as line:
        for made in make_all(left):
            counts.append(made)
            line.advance()
    return {"images": len(ids), "already_there": len(ids) - len(left), "by": by,
            "masks": sum(c.masks for c in counts), "duplicates": sum(c.duplicates for c in counts),
            "without_masks": sum(not c.masks for c in counts)}


def _backend(backend, out, by, checkpoint, source, names, processes, executor):
    """(function of items that yields their counts, function of an id that gives its `by`)."""
    if backend == "sam":
        return lambda items: _sam_bridge().propose_all(items, out, by, checkpoint), lambda name: by
    if backend == "felzenszwalb" and executor == "threads":
        return lambda items: _felzenszwalb(items, out, by, processes), lambda name: by
    if backend == "felzenszwalb":
        work_one = functools.partial(propose_one, out=out, by=by)
        return lambda items: cluster.each(work_one, items, executor, chunk=4), lambda name: by
    opened = import_masks.open_source(source)
    matched = import_masks.match(opened, names)

    def by_of(name):
        return import_masks.describe(opened, matched[name])

    def work(item):
        name, path = item
        size = photos.photo_size(path)
        return save(out, name, size, import_masks.read(opened, matched[name], size), by_of(name))

    return lambda items: cluster.each(work, items, executor), by_of
