"""Scores on a validation list while a segmenter trains: student and teacher, each photo once.

As UniMatch V2: photos at their own size (config.predict), one confusion matrix over the set, mean
over all classes, a class absent from truth and prediction counting 0. Each photo counts once; the
reference pads its list to the number of GPUs and counts a few twice (3 of VOC's 1,449 on 4).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from wsssjax.core import metrics, parallel, threads
from wsssjax.core.state import TrainState
from wsssjax.data import lists, photos
from wsssjax.data.classes import read_class_names
from wsssjax.data.sources import Listed
from wsssjax.semi import multi_scale, predict, views

AHEAD = 32  # photos decoded together; more would only fill the memory


class Validation(NamedTuple):
    """forward: (variables, images) → logits, over this host's devices; for mode multi_scale as
    `multi_scale.forward` has it.  source: all photos of the list with their labels.  settings,
    data: config.predict and config.data."""

    forward: Callable
    source: Listed
    class_names: tuple[str, ...]
    settings: Any
    data: Any


def prepare(config: Any, model: Any, forward: Callable) -> Validation:
    """What `run` needs. forward: (variables, image_bhwc) → logits of `model`."""
    names = read_class_names(config.classes)
    lines = views.read_lines(config.data.val, labelled=True)
    # No photo may be learned with its label and scored; their labels are checked apart.
    learned = [line.split()[0] for line in views.read_lines(config.data.labeled, labelled=True)]
    lists.check_lists(lines, learned, config.data.root, len(names), config.classes,
                      labeled_path=config.data.val, unlabeled_path=config.data.labeled)
    for line in lines:
        photo = os.path.join(config.data.root, line.split()[0])
        predict.check_size(photo, photos.photo_size(photo), config.predict)
    forward, settings = seen(config, model, forward)
    return Validation(parallel.compile_forward(forward),
                      Listed(lines, config.data.root, num_classes=len(names)), names,
                      settings, config.data)


def seen(config: Any, model: Any, forward: Callable) -> tuple[Callable, Any]:
    """(the forward pass that config.predict.mode wants, config.predict for validation).

    Of several scales and mirror images, scale 1 alone is taken, unless full_eval is set.
    """
    if not multi_scale.asked(config):
        return forward, config.predict
    settings = config.predict.copy_and_resolve_references()
    if not settings.full_eval:
        settings.scales, settings.flip = (1.0,), False
    return multi_scale.forward(model, settings.canvas), settings


def run(what: Validation, state: TrainState, *, teacher: bool) -> dict[str, dict]:
    """{"student": scores, "teacher": scores} as `core.metrics.scores` gives them, 0..1."""
    scores = {}
    for name, ema in (("student", False), ("teacher", True)):
        if ema and not teacher:
            continue
        variables = parallel.replicate(parallel.to_host(state.variables(ema=ema)))
        counts = _confusion(what, variables)
        scores[name] = metrics.scores(counts, what.class_names, absent="zero")
    return scores


def _confusion(what: Validation, variables: Any) -> np.ndarray:
    """int64 [k, k + 1] over the whole list; the hosts take turns with its photos."""
    index, count = parallel.process()
    k, labels = len(what.class_names), {}

    def examples() -> Iterable:
        own = range(index, len(what.source), count)
        for first in range(0, len(own), AHEAD):
            part = own[first : first + AHEAD]
            found = threads.each(what.source.__getitem__, part, chunk=1)
            for place, example in zip(part, found, strict=True):
                labels[place] = example["label"]
                yield place, example["image"]

    total = np.zeros((k, k + 1), np.int64)
    found = predict.photo_logits(examples(), functools.partial(what.forward, variables),
                                 what.settings, what.data)
    for place, logits_hwk in found:
        total += metrics.confusion(logits_hwk.argmax(-1), labels.pop(place), k)
    return parallel.sum_hosts(total)
