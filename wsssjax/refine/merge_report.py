"""What merging did to a label map, for people: pixels by class, and which mask claimed what."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence

import numpy as np

from wsssjax.core import files
from wsssjax.core.constants import BACKGROUND, IGNORE
from wsssjax.refine import coco, proposals, sam_merge
from wsssjax.refine.merge_runs import Merged

FORMS = (".jsonl", ".csv")


def name_of(class_id: int, class_names: Sequence[str] | None) -> str:
    """What to call a value of a label map.

    >>> name_of(1, ("background", "cat")), name_of(1, None), name_of(255, None)
    ('cat', '1', 'ignore')
    """
    if class_id == IGNORE:
        return "ignore"
    return class_names[class_id] if class_names else str(class_id)


def changes(before_hw: np.ndarray, after_hw: np.ndarray,
            class_names: Sequence[str] | None = None) -> dict[str, dict[str, int]]:
    """Pixels by class: before, after, gained from and lost to others; background and 255 included.

    >>> before_hw, after_hw = np.array([[1, 1, 255]], np.uint8), np.array([[1, 0, 0]], np.uint8)
    >>> changes(before_hw, after_hw)["1"]
    {'before': 2, 'after': 1, 'gained': 0, 'lost': 1}
    """
    pairs = before_hw.astype(np.uint16) * 256 + after_hw
    table = np.bincount(pairs.reshape(-1), minlength=256 * 256).reshape(256, 256)
    before, after, kept = table.sum(1), table.sum(0), table.diagonal()
    return {name_of(k, class_names): {"before": int(before[k]), "after": int(after[k]),
                                      "gained": int(after[k] - kept[k]),
                                      "lost": int(before[k] - kept[k])}
            for k in np.flatnonzero(before + after).tolist()}


def row(name: str, before_hw: np.ndarray, merged: Merged,
        class_names: Sequence[str] | None = None) -> dict:
    """The report of one image: masks, masks claimed, pixels changed in all and by class."""
    claims = merged.claims
    return {"id": name, "height": before_hw.shape[0], "width": before_hw.shape[1],
            "masks": len(claims.class_m),
            "claimed": int(np.count_nonzero(claims.class_m != BACKGROUND)),
            "over_cap": int(np.count_nonzero(~claims.there_m)),
            "changed": int(np.count_nonzero(before_hw != merged.label_hw)),
            "classes": changes(before_hw, merged.label_hw, class_names)}


def explain(masks: proposals.Masks, merged: Merged, options: dict,
            class_names: Sequence[str] | None = None) -> dict:
    """Every mask of one image: area, score, pixels shared with each class, who claimed it and why.

    options: of `sam_merge.merge`, written along.  "test": "mostly" (over half of the mask is the
    class), "holds" (the mask holds 85 % of the class), "both", or None where nobody claimed it.
    """
    found, claims = merged.found, merged.claims
    names = [name_of(int(k), class_names) for k in found.classes]
    entries = []
    for m, (label, score) in enumerate(zip(masks.names, masks.scores, strict=True)):
        tests = [word for word, passed in (("mostly", claims.mostly_m[m]),
                                           ("holds", claims.holds_m[m])) if passed]
        shared = {name: {"pixels": int(found.shared_mk[m, k]),
                         "of_mask": _part(found.shared_mk[m, k], found.mask_m[m]),
                         "of_class": _part(found.shared_mk[m, k], found.class_k[k])}
                  for k, name in enumerate(names) if found.shared_mk[m, k]}
        taken = claims.class_m[m] != BACKGROUND
        entries.append({
            "mask": label, "area": int(found.mask_m[m]),
            "score": score if coco.finite(score) and not isinstance(score, list) else None,
            "shared": shared, "over_cap": not bool(claims.there_m[m]),
            "claimed_by": name_of(int(claims.class_m[m]), class_names) if taken else None,
            "test": "both" if len(tests) == 2 else tests[0] if tests else None})
    return {"proposals": masks.path.name, "options": options,
            "classes": dict(zip(names, found.class_k.tolist(), strict=True)), "masks": entries}


def _part(pixels, whole) -> float:
    return round(int(pixels) / int(whole), 4)


def check_path(path: str | os.PathLike) -> None:
    """ValueError unless the ending tells which form the report is to have."""
    if os.path.splitext(path)[1] not in FORMS:
        raise ValueError(f"--report={path}: want a name ending in .jsonl (one object an image) or "
                         ".csv (one row an image)")


def write(path: str | os.PathLike, rows: Sequence[dict]) -> None:
    """Writes the rows of all images as JSON lines or CSV; the same rows give the same bytes."""
    check_path(path)
    with files.atomic(path, "w") as file:
        if str(path).endswith(".jsonl"):
            file.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in rows)
            return
        plain = ["id", "height", "width", "masks", "claimed", "over_cap", "changed"]
        table = csv.writer(file, lineterminator="\n")
        table.writerow([*plain, "gained", "lost"])
        for entry in rows:
            table.writerow([entry[key] for key in plain]
                           + [cell(entry["classes"], way) for way in ("gained", "lost")])


def cell(classes: dict[str, dict[str, int]], way: str) -> str:
    """Classes with pixels gained (or lost) in one cell.

    >>> cell({"cat": {"gained": 12}, "dog": {"gained": 0}, "cow": {"gained": 1}}, "gained")
    'cat:12;cow:1'
    """
    return ";".join(f"{name}:{counts[way]}" for name, counts in classes.items() if counts[way])


def total(rows: Sequence[dict]) -> dict:
    """Sums over all images, for the command's result."""
    return {"masks": sum(r["masks"] for r in rows), "claimed": sum(r["claimed"] for r in rows),
            "over_cap": sum(r["over_cap"] for r in rows),
            "changed": sum(r["changed"] for r in rows),
            "pixels": sum(r["height"] * r["width"] for r in rows),
            "without_masks": sum(not r["masks"] for r in rows)}


def options_of(rule: str, coverage: str, keep_uncovered: bool | None,
               area_cap: float | None) -> dict:
    """The options of a merge as an explanation shows them, the rule's own choices spelt out."""
    how = sam_merge.check(rule, coverage)
    return {"merge": rule, "coverage": coverage, "area_cap": area_cap,
            "keep_uncovered": how.keep if keep_uncovered is None else keep_uncovered}
