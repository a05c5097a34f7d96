"""The table of images: why each was selected or not, to be sorted and filtered in the browser."""

from __future__ import annotations

import pathlib

import numpy as np

from wsssjax.core import metrics, threads
from wsssjax.core.constants import BACKGROUND
from wsssjax.data import label_map
from wsssjax.report import figures, reasons, template, thumbnails
from wsssjax.report.read_selection import GROUPS, Selection

PAGE_BYTES = 19_000_000  # of rows and pictures together; the rest of a page is far below 1 MB
PICTURE_BYTES = 12_000_000
GROUP_WORDS = {"best": "best by rank", "borderline": "borderline, around the last one taken",
               "worst": "worst by rank", "sample": "a sample of the others"}


def quality(label_hw: np.ndarray, truth_hw: np.ndarray, num_classes: int) -> float | None:
    """Mean IoU over the foreground classes in either map; None without any, or at unequal sizes.

    Pixels that the truth leaves open count nowhere (tools/judge_scores.py takes them for
    background); what the label leaves open is missed.
    """
    if label_hw.shape != truth_hw.shape:
        return None
    counts = metrics.confusion(label_hw, truth_hw, num_classes)
    iou = metrics.scores(counts, range(num_classes))["iou"]
    iou.pop(BACKGROUND, None)
    return float(np.mean(list(iou.values()))) if iou else None


def true_quality(selection: Selection, where: thumbnails.Sources) -> list[float | None]:
    """`quality` of the pool's label of each listed row; None where label or truth is missing."""
    count = len(selection.class_names) + 1

    def score(name: str) -> float | None:
        label, truth = where.pool(name), where.truth(name)
        if label is None or truth is None:
            return None
        return quality(label_map.read(label, count), label_map.read(truth, count), count)

    return list(threads.each(score, selection.rows.ids))


def section(selection: Selection, where: thumbnails.Sources,
            quality_m: list[float | None] | None = None, *, most: int | None = None,
            budget: int = PICTURE_BYTES) -> dict:
    """What the template `images.html.j2` shows.

    quality_m: by row, the column "true quality"; None leaves the column out.  most: rows with a
    picture.  budget: bytes of pictures.
    """
    table = _data(selection, quality_m)
    rest = PAGE_BYTES - len(template.data_block(table).encode("utf-8", "replace"))
    pictures = thumbnails.encode(selection, where, max(min(budget, rest), 0), most)
    table["pictures"] = pictures.uris
    return {
        "data": template.data_block(table),
        "columns": _columns(selection, table),
        "classes": [(selection.class_names[k], int(k)) for k in np.flatnonzero(selection.images_k)],
        "reasons": table["reasons"],
        "groups": [GROUP_WORDS[name] for name in GROUPS],
        "count": len(selection.rows.ids),
        "notes": _notes(selection, pictures),
    }


def _data(selection: Selection, quality_m) -> dict:
    """The rows column by column: texts that recur stand once and are named by their position."""
    rows, at = selection.rows, selection.rows.position
    words = list(dict.fromkeys(rows.why))
    place = {text: i for i, text in enumerate(words)}
    return {
        "names": list(selection.class_names),
        "colors": [figures.color(k + 1) for k in range(len(selection.class_names))],
        "reasons": [reasons.short(code, selection.keep) for code in selection.reasons],
        "words": words,
        "id": rows.ids,
        "rank": selection.rank_n[at].tolist(),
        "iou": _rounded(selection.iou_n[at].tolist()),
        "score": _rounded(selection.score_n[at].tolist()) if selection.scored else None,
        "quality": None if quality_m is None else _rounded(quality_m),
        "selected": selection.selected_n[at].astype(int).tolist(),
        "reason": selection.reason_n[at].tolist(),
        "why": [place[text] for text in rows.why],
        "classes": rows.classes,
        "classIou": [_rounded(values, 3) for values in rows.class_iou],
        "group": selection.group_n[at].tolist(),
    }


def _columns(selection: Selection, table: dict) -> list[tuple[str, str, bool]]:
    """(key in the data, head, whether it holds numbers) of the columns that can be sorted."""
    columns = [("id", "image", False), ("selected", "selected", False), ("rank", "rank", True),
               ("iou", "IoU", True), ("score", "score", True), ("quality", "true quality", True),
               ("why", "why", False), ("classes", "classes (IoU)", False)]
    return [column for column in columns if table[column[0]] is not None]


def _notes(selection: Selection, pictures: thumbnails.Pictures) -> list[str]:
    notes = []
    count, listed = len(selection.rank_n), len(selection.rows.ids)
    if listed < count:
        notes.append(f"{listed:,} of {count:,} images are listed: those with a picture and, by "
                     "rank, every n-th of the others. All are in selection.parquet.")
    if pictures.uris:
        notes.append(f"{len(pictures.uris):,} images have pictures: the photo, the label that can "
                     "be selected, and the label it was compared with, as far as their files were "
                     "found.")
    if pictures.over_budget:
        notes.append(f"{pictures.over_budget:,} more pictures are left out to keep the page small; "
                     f"those shown are {pictures.side} pixels wide or high.")
    if pictures.without_file:
        notes.append(f"No photo or label file was found for {pictures.without_file:,} images; "
                     "--images=DIR and --first=DIR say where to look.")
    return notes


def _rounded(values, digits: int = 5) -> list[float | None]:
    return [None if v is None or v != v else round(float(v), digits) for v in values]


def of_run(selection: Selection, pair, image_root, truth_root) -> dict:
    """The table for the page of a whole run, which has pictures of its own: few and small here.

    pair: folders of the two label sets that were compared, the pool last.
    """
    where = thumbnails.sources(
        selection, first=pair[0], pool=pair[1], truth=truth_root,
        images=image_root if image_root and pathlib.Path(image_root).is_dir() else None)
    quality_m = true_quality(selection, where) if truth_root else None
    return section(selection, where, quality_m, most=200, budget=2_500_000)
