"""Endless shuffled batches for training, one ordered pass for scoring; both read through grain.

Element i of the endless stream is known without any before it: epoch and place follow from i, the
photo from a permutation drawn for (seed, epoch), its random numbers from (seed, epoch, photo). So
the position is one integer, a restart jumps to it, and neither the number of worker processes nor
that of threads changes what comes out.
"""

from __future__ import annotations

import dataclasses
import functools
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

import grain
import numpy as np
from absl import flags

Transform = Callable[[dict, np.random.Generator], dict]
ENDLESS = 1 << 40  # batches; len() of the stream
READY_BATCHES = 4  # prepared ahead, by all threads or all workers together
_ORDER, _EXAMPLE = 0, 1  # keep the streams of random numbers apart


class Loader:
    """Endless batches: dicts of stacked arrays, `name` a list of str. Call `close` after use.

    Each epoch goes through all examples in a new order; the last, incomplete batch of an epoch is
    filled from the next one, so batches are always full. With several processes each takes its
    block of a step's examples: one after the other they are what one process would take.
    """

    def __init__(
        self,
        source: Sequence[dict],
        transforms: Sequence[Transform],
        *,
        batch: int,
        seed: int,
        workers: int = 0,
        threads: int = 2,
        process_index: int = 0,
        process_count: int = 1,
    ):
        """batch: examples of this process per batch.  seed: 0 or more.  workers: processes that
        prepare batches; 0 = `threads` threads of this process."""
        limits = {"batch": (batch, 1), "seed": (seed, 0), "workers": (workers, 0),
                  "threads": (threads, 1), "process_count": (process_count, process_index + 1)}
        for name, (value, least) in limits.items():
            if value < least:
                raise ValueError(f"loader: {name}={value}; want {least} or more")
        if len(source) == 0:
            raise ValueError("loader: the data set is empty; want at least one image")
        self._stream = _Stream(
            source=source, transforms=tuple(transforms), batch=batch, seed=seed,
            process_index=process_index, process_count=process_count,
        )
        self._workers, self._threads = workers, threads
        self._position = 0  # examples that all processes together have handed out
        self._batches = None

    def __iter__(self) -> Loader:
        return self

    def __next__(self) -> dict:
        if self._batches is None:
            stream = dataclasses.replace(self._stream, start=self._position)
            self._batches = _batches(stream, self._workers, self._threads)
        try:
            batch = next(self._batches)
        except RuntimeError as error:
            self.close()
            if "terminated unexpectedly" in str(error):
                raise OSError(
                    f"a loader process died ({error}); is memory or /dev/shm full? workers=0 does "
                    "without processes"
                ) from None
            raise
        except Exception:
            self.close()  # the next call starts afresh where this one failed
            raise
        self._position += self._stream.batch * self._stream.process_count
        return batch

    def get_state(self) -> dict[str, int]:
        """The position, fit for JSON: what `set_state` needs to go on after the last batch."""
        return {"examples": self._position, "size": len(self._stream.source),
                "seed": self._stream.seed}

    def set_state(self, state: dict[str, int]) -> None:
        """Goes on where `get_state` was called; the number of workers may differ."""
        own = self.get_state()
        for key in ("size", "seed"):
            if state.get(key) != own[key]:
                raise ValueError(
                    f"loader state of {key} {state.get(key)}, but this loader has {own[key]}: "
                    "restore it with the data and the seed it was saved with"
                )
        if not isinstance(state.get("examples"), int) or state["examples"] < 0:
            raise ValueError(f"loader state {state}: want examples as a count, 0 or more")
        self.close()
        self._position = state["examples"]

    def close(self) -> None:
        """Ends threads and worker processes; the loader can go on afterwards."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None


class Joined:
    """Batches of several loaders in one dict, without `name`; its state holds all their states."""

    def __init__(self, **loaders: Loader):
        self._loaders = loaders

    def __iter__(self) -> Joined:
        return self

    def __next__(self) -> dict:
        joined, owner = {}, {}
        for label, loader in self._loaders.items():
            for key, value in next(loader).items():
                if key == "name":
                    continue
                if key in joined:
                    raise ValueError(
                        f"loaders {owner[key]!r} and {label!r} both yield {key!r}; drop it from one"
                    )
                joined[key], owner[key] = value, label
        return joined

    def get_state(self) -> dict[str, dict]:
        """The position of each loader."""
        return {label: loader.get_state() for label, loader in self._loaders.items()}

    def set_state(self, state: dict[str, dict]) -> None:
        """Goes on where `get_state` was called."""
        if set(state) != set(self._loaders):
            raise ValueError(f"state of loaders {sorted(state)}; want {sorted(self._loaders)}")
        for label, loader in self._loaders.items():
            loader.set_state(state[label])

    def close(self) -> None:
        """Ends the threads and worker processes of all loaders."""
        for loader in self._loaders.values():
            loader.close()


def evaluation_batches(
    source: Sequence[dict], transforms: Sequence[Transform], batch: int, threads: int = 2
) -> Iterator[dict]:
    """One pass in the order of the source; `row` bool [b] is False on copies that fill the last.

    Random numbers, should a transform ask for some, come from (0, 0, index).
    """
    once = _Pass(source=source, transforms=tuple(transforms), batch=batch)
    batches = _batches(once, 0, threads)
    try:
        yield from batches
    finally:
        batches.close()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Stream:
    """Batch i of the endless stream of one process, for any i."""

    source: Sequence[dict]
    transforms: tuple[Transform, ...]
    batch: int
    seed: int
    process_index: int
    process_count: int
    start: int = 0  # examples of all processes before batch 0

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> dict:
        first = self.start + (index * self.process_count + self.process_index) * self.batch
        return stack([self._example(place) for place in range(first, first + self.batch)])

    def _example(self, place: int) -> dict:
        epoch, step = divmod(place, len(self.source))
        photo = int(_order(len(self.source), self.seed, epoch)[step])
        return _apply(self.source, self.transforms, photo, (self.seed, epoch, photo))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Pass:
    """Batch i of one ordered pass."""

    source: Sequence[dict]
    transforms: tuple[Transform, ...]
    batch: int

    def __len__(self) -> int:
        return -(-len(self.source) // self.batch)

    def __getitem__(self, index: int) -> dict:
        first, size = index * self.batch, len(self.source)
        found = [_apply(self.source, self.transforms, photo, (0, 0, photo))
                 for photo in range(first, min(first + self.batch, size))]
        real = len(found)
        found += [found[-1]] * (self.batch - real)
        return {**stack(found), "row": np.arange(self.batch) < real}


def stack(examples: list[dict]) -> dict:
    """One batch: arrays stacked along a new first axis, strings as a list."""
    first = examples[0]
    for example in examples[1:]:
        if example.keys() != first.keys():
            raise ValueError(
                f"image {example.get('name')!r} has {', '.join(example)}, but "
                f"{first.get('name')!r} has {', '.join(first)}: they do not fit in one batch"
            )
    batch = {}
    for key, value in first.items():
        column = [example[key] for example in examples]
        if isinstance(value, str):
            batch[key] = column
            continue
        shapes = [np.shape(array) for array in column]
        if len(set(shapes)) > 1:
            other = next(i for i, shape in enumerate(shapes) if shape != shapes[0])
            raise ValueError(
                f"{key!r} is {shapes[0]} for image {first.get('name')!r}, {shapes[other]} for "
                f"{examples[other].get('name')!r}: crop them to one size, or take batch=1"
            )
        batch[key] = np.stack(column)
    return batch


def _apply(source, transforms, index: int, entropy: tuple[int, int, int]) -> dict:
    """Example `index` after all transforms; errors of a transform get the image's name."""
    example = source[index]
    rng = _generator(entropy, _EXAMPLE)
    for transform in transforms:
        try:
            example = transform(example, rng)
        except ValueError as error:
            name = example.get("name", f"number {index}")
            if str(name) in str(error):
                raise
            raise ValueError(f"image {name!r}: {error}") from None
    return example


@functools.lru_cache(maxsize=8)
def _order(size: int, seed: int, epoch: int) -> np.ndarray:
    """The order of one epoch, int64 [size]."""
    return _generator((seed, epoch), _ORDER).permutation(size)


def _generator(entropy: tuple[int, ...], stream: int) -> np.random.Generator:
    sequence = np.random.SeedSequence(entropy, spawn_key=(stream,))
    return np.random.Generator(np.random.PCG64(sequence))


def _batches(stream: _Stream | _Pass, workers: int, threads: int):
    """A grain iterator over the batches, prepared ahead in threads or in worker processes."""
    if not flags.FLAGS.is_parsed():  # grain reads its flags; no absl app has parsed them here
        flags.FLAGS(sys.argv[:1])
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=READY_BATCHES)
    data = grain.MapDataset.source(stream)
    if workers == 0:
        return iter(data.to_iter_dataset(options))
    one = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    each = grain.MultiprocessingOptions(
        num_workers=workers, per_worker_buffer_size=max(1, READY_BATCHES // workers)
    )
    batches = data.to_iter_dataset(one).mp_prefetch(each, worker_init_fn=_start_worker)
    # Workers hand arrays over in shared memory that lives only as long as grain's own view of it.
    return iter(batches.map(_own_arrays))


def _own_arrays(batch: dict) -> dict:
    return {key: np.array(value) if isinstance(value, np.ndarray) else value
            for key, value in batch.items()}


def _start_worker(worker: int, workers: int) -> None:
    """Runs first in each worker process: it must die with its parent, and leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, args=(os.getppid(),), daemon=True).start()


def _follow(parent: int) -> None:
    """Ends this process as soon as its parent is gone, even by kill -9."""
    process = multiprocessing.parent_process()
    while os.getppid() == parent:
        multiprocessing.connection.wait([process.sentinel], timeout=1.0)
        if not process.is_alive():
            break
    os._exit(1)
