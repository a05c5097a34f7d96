"""MARS over a folder of label maps: `python -m wsssjax.refine --method=mars`.

Two passes over the photos' features, which are never in memory all at once: the clusters of every
photo, stored beside the results, then, with the debiased centroids of all of them, the labels. What
is computed is told in `refine/mars.py`, where features come from in `refine/features.py`.
"""

from __future__ import annotations

import csv
import functools
import itertools
import math
import os
import pathlib
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from wsssjax.core import config as configs
from wsssjax.core import crf, files, progress, threads
from wsssjax.core import weights as weight_files
from wsssjax.core.constants import BACKGROUND, IGNORE
from wsssjax.data import label_map, photos
from wsssjax.data import tags as tag_files
from wsssjax.data.classes import need_background, read_class_names
from wsssjax.refine import features, mars
from wsssjax.refine.mars import Debiased
from wsssjax.refine.merge_report import cell, name_of

SETTINGS = "mars.json"  # beside the label maps: what they were made with
CENTROIDS = "centroids.safetensors"  # the debiased centroids
CLUSTERS = "clusters"  # folder: the clusters of each photo, as <id>.safetensors
MEMORY_GB = 4.0


class Work(NamedTuple):
    """What each photo of a run needs."""

    config: Any
    names: tuple[str, ...]  # sorted
    labels: pathlib.Path
    paths: dict[str, pathlib.Path]
    tags: dict[str, np.ndarray]
    source: Any  # of `features`
    out: pathlib.Path
    class_names: tuple[str, ...]
    budget: threads.Budget

    def label(self, name: str) -> np.ndarray:
        """The label map of a photo, which must have the photo's size."""
        return label_map.read(self.labels / f"{name}.png", len(self.class_names),
                              photos.photo_size(self.paths[name]))

    def made_from(self, name: str) -> list[pathlib.Path]:
        """The files that the clusters of a photo depend on."""
        return [self.labels / f"{name}.png", *self.source.made_from(name)]

    def clusters_path(self, name: str) -> pathlib.Path:
        return self.out / CLUSTERS / f"{name}.safetensors"


def run(*, config: Any, labels: str, images: str, tags: str | os.PathLike, out: str,
        ids: str | Sequence[str] | None = None, classes: str = "voc",
        weights: str | os.PathLike | None = None, report: str | None = None,
        memory_gb: float | None = None) -> dict:
    """Writes `<out>/<id>.png`, biased pixels as 255, and `<out>/centroids.safetensors`.

    config: that of configs/refine_voc_mars.py, or its file's name.  labels: folder of label maps.
    images: folder or list of photos.  tags: CSV file.  ids: list file or ids; None: all of
    `labels`.  weights: of the encoder, in the place of config.model.encoder_weights.  report: CSV
    file of the pixels that each photo lost, by class.  memory_gb: of all photos in work, their
    features and CRF; one that needs more is an error; None: MEMORY_GB.
    Files there already that are newer than what they are made from are kept, and refused if they
    were made otherwise. Centroids depend on all photos, so a folder belongs to one list of ids.
    Returns {"removed", "classes", "notes", "features"}: the share of foreground pixels that became
    255, pixels and centroids by class, lines for people, and what the features are of.
    """
    config = checked(configs.load(config) if isinstance(config, str) else config, weights, classes)
    if report and not str(report).endswith(".csv"):
        raise ValueError(f"--report={report}: want a name ending in .csv")
    if memory_gb is not None and not 0 < memory_gb < math.inf:
        raise ValueError(f"--memory_gb={memory_gb}: want a number above 0")
    work = _work(config, labels, images, tags, out, ids, memory_gb)
    files.claim(work.out / SETTINGS, _made_with(work, labels, images, tags))
    _cluster_all(work)
    found = _debias_all(work)
    rows = _label_all(work, found)
    if report:
        _write_report(report, rows, work.class_names)
    return _summary(work, found, rows)


def checked(config: Any, weights: str | os.PathLike | None, classes: str) -> Any:
    """The config with the weights in it; ValueError for a field of no meaning."""
    method = config.method if "method" in config else None
    if method != "mars" or "features" not in config:
        raise ValueError(f"config.method is {method!r}; want 'mars', as in "
                         "configs/refine_voc_mars.py")
    config = config.copy_and_resolve_references()
    if weights:
        config.model.encoder_weights = str(weights)
    mars.check(config.mars)
    have, want = (read_class_names(name) for name in (config.classes, classes))
    if have != want:
        raise ValueError(f"--classes={classes} and config.classes={config.classes} are "
                         f"{len(want)} and {len(have)} names; name the same classes")
    return config


def _work(config, labels, images, tags, out, ids, memory_gb):
    class_names = need_background(read_class_names(config.classes), "--classes")
    there = label_map.folder_ids(labels)
    names = there if ids is None else files.read_ids(ids) if isinstance(ids, str) else ids
    names = tuple(sorted(names))
    paths, tags_by_id = files.photo_paths(images), tag_files.read_tags(tags, class_names)
    for what, known in ((labels, set(there)), (images, paths), (tags, tags_by_id)):
        files.need_ids(names, known, what, "add it, or name others with --ids")
    source = features.open_source(config, {name: paths[name] for name in names})
    return Work(config, names, pathlib.Path(labels), paths, tags_by_id, source, pathlib.Path(out),
                class_names, threads.Budget(int((memory_gb or MEMORY_GB) * 1e9)))


def _made_with(work, labels, images, tags):
    """What the results depend on beside the files of each photo."""
    return {"mars": configs.to_dict(work.config)["mars"], "seed": work.config.seed,
            "classes": list(work.class_names), "features": work.source.made_with(),
            "labels": str(pathlib.Path(labels).resolve()),
            "images": str(pathlib.Path(images).resolve()),
            "tags": files.hash_file(tags), "ids": files.hash_ids(work.names)}


def _cluster_all(work: Work) -> None:
    """Writes the clusters of every photo."""
    seed = work.config.seed

    def one(pair):
        name, found_pqd = pair
        label_hw = work.label(name)
        wanted = {BACKGROUND, *(np.flatnonzero(work.tags[name]) + 1).tolist()}
        with _room(work, name, found_pqd, label_hw.shape, smooths=False):
            found = mars.clusters(found_pqd, label_hw, work.config.mars,
                                  (seed, zlib.crc32(name.encode())),
                                  wanted if work.config.mars.presence == "tags" else None)
        weight_files.save(work.clusters_path(name), {
            "cells": np.int32(found_pqd.shape[:2]), **{f"class{k}": v for k, v in found.items()}})

    todo = [name for name in work.names
            if not files.newer([work.clusters_path(name)], work.made_from(name))]
    _each(work, todo, one, "mars: centroids")


def read_clusters(path: str | os.PathLike) -> dict[int, np.ndarray]:
    """The `clusters` of a photo from the file of its."""
    return {int(key.removeprefix("class")): x for key, x in weight_files.load(path).items()
            if key.startswith("class")}


def _debias_all(work: Work) -> Debiased:
    """The debiased centroids of all photos; their file is left alone where nothing changes."""
    def stored():
        return (read_clusters(work.clusters_path(name)) for name in work.names)

    counts = None
    if work.config.mars.presence == "tags":
        tags_nk = np.stack([work.tags[name] for name in work.names])
        counts = {k: int(n) for k, n in enumerate((tags_nk > 0).sum(0), 1)}
    found = mars.debias(stored, work.config.mars, counts)
    path, new = work.out / CENTROIDS, found._asdict()
    old = weight_files.load(path) if path.is_file() else {}
    if old.keys() != new.keys() or any(not np.array_equal(old[k], new[k]) for k in new):
        weight_files.save(path, new)  # makes all label maps old, rightly
    return found


class Row(NamedTuple):
    """One photo: its size, and by class the pixels before and those that became 255."""

    name: str
    size: tuple[int, int]
    before: dict[int, int]
    removed: dict[int, int]


def _label_all(work: Work, found: Debiased) -> list[Row]:
    """Writes the debiased labels; a row for every photo."""
    rows, vectors = {}, dict(zip(found.classes.tolist(), found.vectors, strict=True))
    how = work.config.mars

    def one(pair):
        name, found_pqd = pair
        label_hw, image_hw3 = work.label(name), photos.read_photo(work.paths[name])
        own = [vectors[k] for k in (np.flatnonzero(work.tags[name]) + 1).tolist() if k in vectors]
        if own:
            with _room(work, name, found_pqd, label_hw.shape, smooths=how.binarise == "crf"):
                object_hw = _is_object(work, found_pqd, np.stack(own), image_hw3, name)
            new_hw = mars.debiased_label(label_hw, object_hw, vectors)
        else:
            new_hw = label_hw  # nothing is known of any of its classes
        label_map.write(work.out / f"{name}.png", new_hw)
        rows[name] = _row(name, label_hw, new_hw)

    def done(name):
        return files.newer([work.out / f"{name}.png"],
                           [*work.made_from(name), work.paths[name], work.out / CENTROIDS])

    todo = [name for name in work.names if not done(name)]
    rest = sorted(set(work.names) - set(todo))
    read = functools.partial(label_map.read, num_classes=len(work.class_names))
    for row in threads.each(lambda name: _row(name, read(work.labels / f"{name}.png"),
                                              read(work.out / f"{name}.png")), rest):
        rows[row.name] = row
    _each(work, todo, one, "mars: debiased labels")
    return [rows[name] for name in work.names]


def _is_object(work, features_pqd, vectors_md, image_hw3, name):
    how, size = work.config.mars, image_hw3.shape[:2]
    if how.resolution == "pixels":
        whole_hwd = mars.enlarge(features_pqd.astype(np.float32), size)
        like_hw = mars.resemblance(whole_hwd, vectors_md)
    else:
        like_hw = cv2.resize(mars.resemblance(features_pqd, vectors_md), size[::-1],
                             interpolation=cv2.INTER_LINEAR)
    try:
        return mars.is_object(like_hw, image_hw3, how, work.budget.total)
    except crf.TooLarge as error:
        raise ValueError(f"{work.paths[name]}: {error}; scale it down or raise --memory_gb"
                         ) from None


def _room(work, name, features_pqd, size, *, smooths: bool):
    """Holds the memory that a photo takes while it is in work, by a CRF if it smooths."""
    pixels, d = size[0] * size[1], features_pqd.shape[-1]
    rows = pixels if work.config.mars.resolution == "pixels" else features_pqd[..., 0].size
    needed = 12 * rows * d
    if smooths:
        needed += crf.needs(pixels, 2, mars.preset(work.config.mars), vertices=pixels)
    if needed > work.budget.total and work.config.mars.resolution == "pixels":
        raise ValueError(f"{work.paths[name]}: {needed / 1e9:.1f} GB at config.mars.resolution="
                         "pixels; take grid, or raise --memory_gb")
    return work.budget.taken(needed)


def _each(work: Work, todo: list[str], function: Callable, label: str) -> None:
    """function((name, features)) for all of `todo`; the next features are made meanwhile."""
    count, pairs = len(work.names), itertools.chain.from_iterable(work.source.batches(todo))
    with progress.Progress(count, label, done=count - len(todo)) as bar:
        for _ in threads.each_of(function, pairs):
            bar.advance()


def _row(name, before_hw, after_hw):
    before = np.bincount(before_hw.reshape(-1), minlength=256)
    lost = np.bincount(before_hw[before_hw != after_hw], minlength=256)
    classes = [k for k in np.flatnonzero(before).tolist() if k not in (BACKGROUND, IGNORE)]
    return Row(name, before_hw.shape, {k: int(before[k]) for k in classes},
               {k: int(lost[k]) for k in classes})


def _write_report(path, rows, class_names):
    with files.atomic(path, "w") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["id", "height", "width", "foreground", "removed", "by_class"])
        for row in rows:
            own = {name_of(k, class_names): {"removed": n} for k, n in row.removed.items()}
            table.writerow([row.name, *row.size, sum(row.before.values()),
                            sum(row.removed.values()), cell(own, "removed")])


def _summary(work: Work, found: Debiased, rows: list[Row]) -> dict:
    """What `run` returns."""
    before, removed = Counter(), Counter()
    for row in rows:
        before.update(row.before)
        removed.update(row.removed)
    where = {k: i for i, k in enumerate(found.classes.tolist())}
    tagged = np.flatnonzero(np.stack([work.tags[name] for name in work.names]).any(0)) + 1
    classes = {}
    for k in sorted({*before, *tagged.tolist()}):
        own = {name: int(getattr(found, name)[where[k]]) if k in where else 0
               for name in ("images", "centroids", "selected")}
        classes[name_of(k, work.class_names)] = own | {"pixels": before[k], "removed": removed[k]}
    without = [name for name, row in classes.items() if not row["centroids"]]
    notes = [f"no centroid of {', '.join(without)}: their pixels stay"] if without else []
    return {"removed": sum(removed.values()) / max(sum(before.values()), 1), "classes": classes,
            "notes": notes, "features": work.source.made_with()}
