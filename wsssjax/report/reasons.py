"""Why an image was taken or left, in words."""

from __future__ import annotations

from collections.abc import Sequence

QUOTA, ABOVE = "quota", "min_iou"                   # reasons to take an image
FULL, BELOW, EMPTY, NO_CLASS = "full", "below", "empty", "no_class"  # and to leave one
SHORT = {
    QUOTA: "fills a class", ABOVE: "agrees well enough", FULL: "all its classes were full",
    BELOW: "IoU too low", EMPTY: "no foreground where both labels speak",
    NO_CLASS: "no foreground class",
}
BY_CLASS = {  # the same of --keep=classes, where every class takes labels of its own
    QUOTA: "among the best of a class", ABOVE: "a class agrees well enough",
    FULL: "not among the best of a class", BELOW: "no class agrees well enough",
}


def short(code: str, keep: str = "whole") -> str:
    """The reason in a few words; one that is not known stays as it is written."""
    return (BY_CLASS if keep == "classes" else {}).get(code) or SHORT.get(
        code, code or "no reason given")


def in_words(codes: Sequence[str], classes: Sequence[list[int]],
             filled: Sequence[list[int]] | None, *, names: Sequence[str],
             quota: Sequence[int] | None, min_iou: float | None,
             keep: str = "whole") -> list[str]:
    """One sentence an image. The images stand in the order in which they were tried, and none that
    filled a class may be missing: the places that a class had filled so far are counted here.

    classes: positions in `names`.  filled: the classes that were short and got the image; None
    works them out from the quota, as the selection does.  quota: images wanted by class.  keep: of
    `wsssjax.select --keep`; with "classes" every class has an order of its own, and none is told.
    """
    if keep == "classes":
        return [_by_class(code, [names[k] for k in (filled[i] if filled is not None else [])],
                          min_iou) for i, code in enumerate(codes)]
    taken = [0] * len(names)
    words = []
    for i, code in enumerate(codes):
        if code == QUOTA:
            got = filled[i] if filled is not None else [
                k for k in classes[i] if quota is not None and taken[k] < quota[k]]
            words.append(_fills(got, taken, names, quota))
            for k in got:
                taken[k] += 1
        elif code == FULL:
            words.append(_full(classes[i], names, quota))
        elif code == BELOW:
            words.append("IoU too low" if min_iou is None else f"IoU not above {min_iou:g}")
        elif code == ABOVE:
            words.append("no quota: every image is taken" if min_iou is None else
                         f"IoU above {min_iou:g}")
        elif code == EMPTY:
            words.append(SHORT[EMPTY])
        elif code == NO_CLASS:
            words.append("holds no foreground class")
        else:
            words.append(short(code))
    return words


def _by_class(code, kept, min_iou) -> str:
    said = short(code, "classes")
    if code == NO_CLASS:
        return "holds no foreground class"
    if code in (ABOVE, BELOW) and min_iou is not None:
        said = f"IoU {'' if code == ABOVE else 'of no class '}above {min_iou:g}"
    return f"{said}, kept: {', '.join(kept)}" if kept else said


def _fills(got, taken, names, quota) -> str:
    if quota is None or not got:
        return "filled " + ", ".join(names[k] for k in got) if got else SHORT[QUOTA]
    return "filled " + " and ".join(
        f"{names[k]}, which had {taken[k]:,} of {quota[k]:,}" for k in got)


def _full(classes, names, quota) -> str:
    if quota is None:
        return SHORT[FULL]
    places = ", ".join(f"{names[k]} {quota[k]:,} of {quota[k]:,}" if quota[k] else
                       f"{names[k]} not wanted" for k in classes)
    return f"{SHORT[FULL]}: {places}"
