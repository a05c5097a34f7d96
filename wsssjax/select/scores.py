"""By which number the labels are ranked before Algorithm 1 takes them; higher is trusted more.

paper      the IoU of the two sets, as Algorithm 1 has it (--iou says which).
consensus  the mean of the pool's IoU with each other set: the other of --first and --second (with
           --pool=first the second), and all of --with.
classes    fewer foreground classes first: what every score has to beat.
quality    agreement and stability together (below); wants --refined.

**quality**, ours, is an estimate of a label's quality from two kinds of views whose errors differ.
Other methods see other pixels of an object than the pool's method does: do they agree? Refinements
(merging with class-agnostic masks, a CRF) follow the edges of the photo, which no classifier learns
to keep to: do they leave the label alone? A label counts as good as its worst class (--iou=worst,
the default here; --iou=mean tells better inside images of several classes and worse elsewhere).
Views are not of one scale, so each becomes the log-odds of its rank among all images; views of a
kind are averaged, the two kinds added. Nothing is learnt and no true mask is read. (Weights fitted
by a factor model were worse: merging and CRF err alike, and so outvote the other methods.)
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from wsssjax.core import metrics
from wsssjax.core.config import choose
from wsssjax.data import label_map
from wsssjax.select import blocks, greedy, iou, names, stream

AGREE, STABLE = "with", "refined"  # the two kinds of further label folders


class Others(NamedTuple):
    """Further folders of label maps of the same ids and sizes as the pool's.

    methods: of other methods.  refined: the pool's own labels, before or after a refinement."""

    methods: tuple[str, ...] = ()
    refined: tuple[str, ...] = ()

    def columns(self) -> Iterator[tuple[str, str, str]]:
        """(name, kind, folder) of each; the name begins the names of its signals."""
        for kind, folders in ((AGREE, self.methods), (STABLE, self.refined)):
            for index, folder in enumerate(folders):
                yield f"{kind}{index}", kind, folder


def check(score: str, others: Others, first: str, second: str) -> None:
    """ValueError for what cannot be scored."""
    choose(SCORES, score, "--score")
    if score == "consensus" and not others.methods:
        raise ValueError("--score=consensus: wants --with=DIR, the labels of one more method; "
                         "without one it is --score=paper")
    if score == "quality" and not others.refined:
        raise ValueError("--score=quality: wants --refined=DIR, the pool's labels as they are "
                         "before or after merging or a CRF; python -m wsssjax.refine makes them")
    seen = {pathlib.Path(f).resolve(): flag for flag, f in (("first", first), ("second", second))}
    for _, kind, folder in others.columns():
        place = pathlib.Path(folder).resolve()
        if place in seen:
            raise ValueError(f"--{kind}={folder}: is --{seen[place]}, too; a set that counts twice "
                             "says nothing new")
        seen[place] = kind


def check_used(score: str, keep: str, others: Others, kind: str | None) -> None:
    """ValueError for flags that would change nothing; kind: --iou, None where it was not given."""
    if keep == "classes" and (others.methods or others.refined or kind):
        raise ValueError("--keep=classes: goes by the IoU of each class of --first and --second; "
                         "leave out --with, --refined and --iou")
    if others.methods and score not in ("consensus", "quality") and keep != "pixels":
        raise ValueError(f"--with: changes nothing with --score={score}; use --score=consensus or "
                         "quality, or --keep=pixels, or leave it out")
    if others.refined and score != "quality":
        raise ValueError(f"--refined: changes nothing with --score={score}; use --score=quality, "
                         "or leave it out")


def check_ids(others: Others, wanted: pa.StringArray) -> None:
    """ValueError where a further folder lacks some of the ids."""
    for _, kind, folder in others.columns():
        missing = names.without(wanted, names.in_folder(folder))
        if len(missing):
            raise ValueError(f"--{kind}={folder}: holds no label map of "
                             f"{len(missing)} of {len(wanted)} ids: {names.shown(missing)}; "
                             "make them, or leave the folder out")


def signals(others: Others, num_classes: int, pool: str) -> stream.Signals | None:
    """The IoUs of the pool's label with each further folder, of every kind; None without any."""
    if not (others.methods or others.refined):
        return None
    columns = list(others.columns())

    def path(folder, name):
        return os.path.join(folder, f"{name}.png")

    def of(name, first_hw, second_hw):
        pool_hw = second_hw if pool == "second" else first_hw
        maps = [label_map.read(pathlib.Path(path(folder, name)), num_classes, size=pool_hw.shape)
                for _, _, folder in columns]
        counts = iou.pair_counts_host(maps, [pool_hw] * len(maps), num_classes)
        by_kind = [iou.image_iou(counts, kind)[0] for kind in iou.SCORES]
        return [found[j] for j in range(len(columns)) for found in by_kind]

    return stream.Signals(tuple(f"{name}_{kind}" for name, _, _ in columns for kind in iou.SCORES),
                          of, lambda name: [path(folder, name) for _, _, folder in columns])


# ---- scores ------------------------------------------------------------------------------------


def paper(scored: blocks.Blocks, found: blocks.Columns, kind: str) -> np.ndarray:
    """float64 [n], 0..1."""
    del scored, kind
    return found.iou


def classes(scored: blocks.Blocks, found: blocks.Columns, kind: str) -> np.ndarray:
    """float64 [n]: minus the number of foreground classes in the pool's label."""
    del kind
    count = sum(greedy.has(found.words, c).astype(np.int64) for c in range(scored.num_classes - 1))
    return -np.asarray(count, np.float64)


def consensus(scored: blocks.Blocks, found: blocks.Columns, kind: str) -> np.ndarray:
    """float64 [n], 0..1."""
    further = [x for name, x in _signals(scored, kind).items() if name.startswith(AGREE)]
    return np.mean([found.iou, *further], axis=0)


def quality(scored: blocks.Blocks, found: blocks.Columns, kind: str) -> np.ndarray:
    """float64 [n], about -30..30 for a million images; 0 is a label of middling quality."""
    views = _signals(scored, kind)
    stable = [x for name, x in views.items() if name.startswith(STABLE)]
    agree = [found.iou, *(x for name, x in views.items() if name.startswith(AGREE))]
    return sum(np.mean([log_odds(x) for x in views], axis=0) for views in (agree, stable))


def log_odds(x_n: np.ndarray) -> np.ndarray:
    """Log-odds of each number's rank among all, ties sharing their mean rank; float64 [n]."""
    share = (metrics.ranks(x_n) - 0.5) / len(x_n)
    return np.log(share / (1 - share))


def _signals(scored: blocks.Blocks, kind: str) -> dict[str, np.ndarray]:
    """{folder's name: its IoU of one kind, float64 [n]}."""
    found: dict[str, list] = {}
    for block in scored:
        for name, column in block.signals.items():
            if name.endswith(f"_{kind}"):
                found.setdefault(name.removesuffix(f"_{kind}"), []).append(column)
    return {name: np.concatenate(parts) for name, parts in found.items()}


# (score files, columns, kind of IoU) → float64 [n]
DEFAULT_IOU = {"quality": "worst"}  # of a score; of all others "foreground"
SCORES: dict[str, Callable] = {f.__name__: f for f in (paper, consensus, classes, quality)}
