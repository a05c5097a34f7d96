"""Dense CRF over label maps or class maps: `python -m wsssjax.refine --method=crf`.

The published recipes for refining labels (presets in `core/crf.py`):

    label maps   preset irn: labels are right with probability 0.7, all K + 1 classes in the CRF;
                 255 is no opinion, and becomes a class. Preset bao_label: the same, but 91 labels
                 share the doubt, COCO's number, as BAO's public code runs it on VOC: a wrong label
                 costs -ln(0.3 / 90) instead of -ln(0.3 / 20)
    CAM files    preset psa: background (1 - max)^alpha beside the maps, which need not sum to 1;
                 labels in the CRF are the background and the photo's tagged classes

Photos are taken at their own size, without normalisation; the result is the most probable label.
"""

from __future__ import annotations

import functools
import pathlib
from typing import NamedTuple

import numpy as np

from wsssjax.core import cluster, crf, files, threads
from wsssjax.core.config import choose
from wsssjax.core.constants import BACKGROUND, IGNORE
from wsssjax.data import cam_file, label_map, photos
from wsssjax.refine import random_walk

SUFFIXES = {"labels": ".png", "scores": ".npz"}
SCOPES = ("all", "present")
DEVICES = ("host", "jax")
LABEL_COUNTS = {"bao_label": 91}  # labels in the CRF of a preset, where not the classes alone
SETTINGS = "crf.json"  # beside the results: what they were made with
GT_PROB = 0.7  # of hard labels with a preset for scores
ALPHA = 16.0  # power of the background
MEMORY_GB = 4.0


class Marginals(NamedTuple):
    """classes: uint8 [m], rising, background first.  q_hwm: float32, sums to 1 at each pixel (to
    less where labels were in the CRF that are no classes)."""

    classes: np.ndarray
    q_hwm: np.ndarray


def refine_labels(label_hw: np.ndarray, image_hwc: np.ndarray, how: crf.Preset, num_classes: int,
                  *, scope: str = "all", label_count: int | None = None,
                  infer=crf.infer) -> Marginals:
    """Marginals of a hard label map.

    label_hw: uint8 [h, w], IGNORE has no opinion.  image_hwc: uint8 RGB.  scope: which labels are
    in the CRF: "all" classes, or the background and those "present" in the map (as IRN and
    AffinityNet run it: the fewer labels, the weaker the unary).  label_count: with "all", how many
    labels are in it. No pixel has one of those beyond the classes, so none becomes one; they are
    left out of the result, which then sums to less than 1.

    >>> image = np.zeros((6, 6, 3), np.uint8)
    >>> label = np.zeros((6, 6), np.uint8)
    >>> label[2, 3] = 1                      # one pixel against all its neighbours
    >>> most_probable(refine_labels(label, image, crf.PRESETS["irn"], 2)).max().item()
    0
    """
    found = np.arange(label_count or num_classes)
    if scope == "present":
        found = np.union1d(BACKGROUND, label_hw[label_hw != IGNORE])
    place = np.full(256, IGNORE, np.uint8)
    place[found] = np.arange(len(found))
    unary_hwm = crf.labels_to_unary(place[label_hw], len(found), how.gt_prob or GT_PROB)
    q_hwm = infer(unary_hwm, image_hwc, how)
    return Marginals(found[:num_classes].astype(np.uint8), q_hwm[..., :num_classes])


def refine_cams(classes_m: np.ndarray, cam_mhw: np.ndarray, image_hwc: np.ndarray,
                how: crf.Preset, *, alpha: float = ALPHA, infer=crf.infer) -> Marginals:
    """Marginals of class maps of the photo's size.

    cam_mhw: float, 0..1.  classes_m: their numbers, rising.  alpha: the background is scored
    (1 - max)^alpha, unless the maps begin with one of its own, class 0.
    """
    if not (len(classes_m) and classes_m[0] == BACKGROUND):
        cam_mhw = random_walk.with_background(cam_mhw, alpha)
        classes_m = np.concatenate([np.uint8([BACKGROUND]), classes_m])
    scores_hwm = np.ascontiguousarray(np.moveaxis(cam_mhw, 0, -1))
    return Marginals(classes_m, infer(crf.scores_to_unary(scores_hwm), image_hwc, how))


def most_probable(found: Marginals, min_confidence: float = 0.0) -> np.ndarray:
    """uint8 [h, w]: the class of the largest marginal; ties go to the smaller number.

    min_confidence: a pixel whose largest marginal is below it becomes IGNORE (CLIP-ES: 0.95).
    """
    label_hw = found.classes[found.q_hwm.argmax(-1)]
    return np.where(found.q_hwm.max(-1) < min_confidence, np.uint8(IGNORE), label_hw)


class Settings(NamedTuple):
    """What a run was asked for, checked."""

    kind: str  # of the input: labels or cams
    preset: str
    how: crf.Preset
    alpha: float | None
    scope: str | None
    label_count: int | None  # of the labels in the CRF; None: the classes, or those present
    min_confidence: float  # marginal below which a pixel stays open


def settings(kind: str, preset: str | None = None, *, iterations: int | None = None,
             gt_prob: float | None = None, alpha: float | None = None,
             scope: str | None = None, label_count: int | None = None,
             min_confidence: float = 0.0) -> Settings:
    """Settings for "labels" or "cams"; None stands for the default, ValueError names a bad one."""
    name = preset or {"labels": "irn", "cams": "psa"}[kind]
    how = crf.preset(name)
    others = {"labels": {"alpha": alpha},
              "cams": {"gt_prob": gt_prob, "scope": scope, "label_count": label_count}}[kind]
    for flag, value in others.items():
        if value is not None:
            want = "CAM files; label maps hold no scores" if kind == "labels" else (
                "label maps; CAM files hold scores")
            raise ValueError(f"--{flag}={value}: is for {want}")
    if kind == "labels":
        how = how._replace(gt_prob=gt_prob if gt_prob is not None else how.gt_prob or GT_PROB)
        if not 0 < how.gt_prob < 1:
            raise ValueError(f"--gt_prob={gt_prob}: want a probability above 0 and below 1")
        scope = choose(dict(zip(SCOPES, SCOPES, strict=True)), scope or SCOPES[0], "--scope")
        if scope == "present" and label_count is not None:
            raise ValueError(f"--label_count={label_count}: is for --scope=all")
        if scope == "all" and label_count is None:
            label_count = LABEL_COUNTS.get(name)
    else:
        alpha = ALPHA if alpha is None else alpha
        if not 0 < alpha < float("inf"):
            raise ValueError(f"--alpha={alpha}: want a number above 0")
    if not 0 <= min_confidence < 1:
        raise ValueError(f"--min_confidence={min_confidence}: want a probability, 0 or more and "
                         "below 1")
    if iterations is not None:
        if iterations < 0:
            raise ValueError(f"--iterations={iterations}: want 0 or more")
        how = how._replace(iterations=iterations)
    return Settings(kind, name, how, alpha, scope, label_count, min_confidence)


def run(*, images: str, out: str, ids: list[str], num_classes: int, labels: str | None = None,
        cams: str | None = None, save: tuple[str, ...] = ("labels",), device: str = "host",
        memory_gb: float | None = None, label: str = "crf", executor: str = "threads",
        **options) -> None:
    """Writes `<out>/<id>.png` ("labels") and `<id>.npz` ("scores": marginals) for every id.

    labels: folder of label maps, or cams: of CAM files.  options: see `settings`.  device: "host":
    a photo a core; "jax": the default device.  memory_gb: of all photos in work on the host, each
    counted with one lattice vertex a pixel (photos have half of it); None: MEMORY_GB.  executor:
    "threads", or "ray" for a cluster, see `core.cluster.each`; memory_gb then counts for a core.
    Files there already that are newer than what they are made from are kept.
    """
    asked = settings("labels" if labels else "cams", **options)
    for what, table, value in (("--device", DEVICES, device),
                               *(("--save", SUFFIXES, s) for s in save)):
        choose(dict.fromkeys(table), value, what)
    count = num_classes if asked.label_count is None else asked.label_count
    if not num_classes <= count <= IGNORE:
        raise ValueError(f"--label_count={count} with preset {asked.preset}: want {num_classes}, "
                         f"the classes, to {IGNORE}")
    cluster.check(executor)
    if executor != "threads" and device != "host":
        raise ValueError(f"--executor={executor}: runs on the cores of a cluster, not with "
                         f"--device={device}")
    if memory_gb is not None and (device == "jax" or not 0 < memory_gb < float("inf")):
        raise ValueError(f"--memory_gb={memory_gb}: want a number above 0, with --device=host")
    paths, source, target = files.photo_paths(images), pathlib.Path(labels or cams), pathlib.Path(
        out)
    files.need_ids(ids, paths, f"--images={images}", "add it, or name others with --ids")
    files.claim(target / SETTINGS, {
        "source": str(source.resolve()), "images": str(pathlib.Path(images).resolve()),
        "kind": asked.kind, "preset": asked.preset, "iterations": asked.how.iterations,
        "gt_prob": asked.how.gt_prob, "alpha": asked.alpha, "scope": asked.scope,
        "label_count": asked.label_count, "classes": num_classes,
        "min_confidence": asked.min_confidence})
    budget = threads.Budget(int((memory_gb or MEMORY_GB) * 1e9))
    infer = crf.infer_compiled if device == "jax" else functools.partial(crf.infer,
                                                                         memory=budget.total)

    def one(name):
        made_from = source / f"{name}{'.png' if labels else '.npz'}"
        targets = [target / f"{name}{SUFFIXES[s]}" for s in save]
        if files.newer(targets, [made_from, paths[name]]):
            return
        image_hwc = photos.read_photo(paths[name])
        pixels = image_hwc.shape[0] * image_hwc.shape[1]
        try:
            with budget.taken(crf.needs(pixels, count, asked.how, vertices=pixels)):
                found = _refine(asked, made_from, image_hwc, num_classes, infer)
        except crf.TooLarge as error:
            raise ValueError(f"{paths[name]}: {error}; scale it down or raise --memory_gb"
                             ) from None
        _write(target / name, found, save, asked.min_confidence)

    workers = threads.usable_cores() if device == "host" else 1
    for _ in cluster.each(one, ids, executor, label, workers=workers):
        pass


def _refine(asked: Settings, path: pathlib.Path, image_hwc, num_classes: int, infer) -> Marginals:
    """The marginals of one file."""
    size = image_hwc.shape[:2]
    if asked.kind == "labels":
        label_hw = label_map.read(path, num_classes, size)
        return refine_labels(label_hw, image_hwc, asked.how, num_classes, scope=asked.scope,
                             label_count=asked.label_count, infer=infer)
    classes_m, cam_mhw = cam_file.read_full(path, size)
    if len(classes_m) and classes_m[-1] >= num_classes:
        raise ValueError(f"{path}: holds class {classes_m[-1]}; want 0..{num_classes - 1} (is "
                         "--classes right?)")
    return refine_cams(classes_m, cam_mhw, image_hwc, asked.how, alpha=asked.alpha, infer=infer)


def _write(stem: pathlib.Path, found: Marginals, save: tuple[str, ...],
           min_confidence: float) -> None:
    if "scores" in save:
        scores_mhw = np.moveaxis(found.q_hwm, -1, 0).clip(0, 1)
        cam_file.write(stem.with_name(f"{stem.name}.npz"), found.classes, scores_mhw,
                       found.q_hwm.shape[:2])
    if "labels" in save:
        label_map.write(stem.with_name(f"{stem.name}.png"), most_probable(found, min_confidence))
