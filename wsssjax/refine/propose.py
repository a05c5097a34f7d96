"""A folder of photos → a folder of proposals, image by image, on all cores, resumable."""

from __future__ import annotations

import ctypes
import functools
import multiprocessing
import os
import pathlib
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from wsssjax.core import files, progress, threads
from wsssjax.core.config import choose
from wsssjax.data import photos
from wsssjax.refine import felzenszwalb, proposals

# Fine scales and no merging: coarse regions without a network join object and ground, and then
# pull a label's edge away from where it was right.
FELZENSZWALB = {"scales": (30.0, 100.0), "sigma": 0.8, "min_part": 0.0005, "merges": 0,
                "max_part": 0.9}
FEW = 200  # photos below which starting further processes takes longer than it saves
PR_SET_PDEATHSIG = 1


def shard(ids: list[str], part: str) -> list[str]:
    """Every n-th id from the i-th on, for `part` "i/n" with i = 0 … n - 1."""
    index, slash, count = part.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ValueError(f"--shard={part}: want i/n with i from 0 to n - 1, such as 0/4")
    return ids[int(index)::int(count)]


def is_done(path: pathlib.Path, by: dict) -> bool:
    """Whether a whole file made in just this way is there; a broken one is made again."""
    try:
        return proposals.read_file(path).get("by") == by
    except (ValueError, FileNotFoundError):
        return False


def propose_one(item: tuple[str, str], out: str, by: dict) -> str:
    """Writes the proposals of one (id, photo path) and returns the id; the unit of a process."""
    name, path = item
    image_hwc = photos.read_photo(path)
    records = felzenszwalb.propose(image_hwc, by)
    proposals.write(pathlib.Path(out) / f"{name}{proposals.SUFFIX}", image_hwc.shape[:2], records,
                    by)
    return name


def die_with_parent(parent: int) -> None:
    """Asks Linux to end this process when its parent ends, however that happens."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends us
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it was gone before we asked
            os._exit(1)


def _felzenszwalb(items, out: str, by: dict, advance: Callable[[], None],
                  processes: int | None) -> None:
    work = functools.partial(propose_one, out=out, by=by)
    count = processes or (threads.usable_cores() if len(items) >= FEW else 1)
    if count == 1:
        for item in items:
            work(item)
            advance()
        return
    # scikit-image holds Python's lock here, so threads would not help; "spawn", since a fork of a
    # process in which JAX runs threads may hang.
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), die_with_parent,
                               (os.getpid(),))
    try:
        for _ in pool.map(work, items, chunksize=4):
            advance()
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


def describe(backend: str, checkpoint: str | None = None, **changes) -> dict:
    """The `by` of a run: the backend with every parameter. changes: of the backend's defaults."""
    choose(dict.fromkeys(BACKENDS), backend, "--backend")
    if backend == "sam":
        if not checkpoint:
            raise ValueError("--backend=sam: needs --checkpoint=FILE, one of Meta's sam_vit_*.pth")
        return _sam_bridge().describe(checkpoint, **changes)
    return felzenszwalb.describe(**(FELZENSZWALB | changes))


BACKENDS = ("felzenszwalb", "sam")


def run(*, images: str, out: str, backend: str = "felzenszwalb", checkpoint: str | None = None,
        part: str = "0/1", processes: int | None = None, **changes) -> dict:
    """Writes `<id>.json.gz` for every photo that has none made in the same way; returns a summary.

    images: folder or list file.  part: "i/n", see `shard`.  processes: None means one a core.
    changes: parameters of the backend that differ from its defaults, recorded in `by`.
    """
    by = describe(backend, checkpoint, **changes)
    paths = files.photo_paths(images)
    ids = shard(list(paths), part)
    pathlib.Path(out).mkdir(parents=True, exist_ok=True)
    left = [(name, str(paths[name])) for name in ids
            if not is_done(pathlib.Path(out) / f"{name}{proposals.SUFFIX}", by)]
    done = len(ids) - len(left)
    with progress.Progress(len(ids), "propose masks", done=done) as line:
        if backend == "sam":
            _sam_bridge().propose_all(left, out, by, line.advance, checkpoint)
        else:
            _felzenszwalb(left, out, by, line.advance, processes)
    return {"images": len(ids), "already_there": done, "by": by}
