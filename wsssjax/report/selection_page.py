"""report.html of a selection: what was taken, by class and by image, and why."""

from __future__ import annotations

import numpy as np

from wsssjax.report import charts, figures, images, reasons, tables, template, thumbnails
from wsssjax.report.read_selection import Selection
from wsssjax.report.template import markup

BINS = 20  # of the histogram
TENTHS = 10  # groups of the reliability curve
_TOLD = {"images", "selected", "quota", "taken", "counts", "unmet", "mean_iou", "reasons"}


def make(selection: Selection, where: thumbnails.Sources, *, truth: bool = False) -> str:
    """The page of a selection; the same files give the same text.

    truth: whether `where` knows true masks, which add a column and the reliability curve.
    """
    quality_m = images.true_quality(selection, where) if truth else None
    names = selection.class_names
    return template.render(
        "selection.html.j2", script="images.js",
        title=f"Selection {selection.folder.resolve().name}",
        headline=_headline(selection, quality_m),
        facts=_facts(selection),
        ranked="has the highest score" if selection.scored else "agrees best",
        warnings=selection.summary.get("warnings") or [],
        reasons=_reasons(selection),
        classes=_classes(selection),
        bars=_bars(selection),
        agreement=agreement(selection.iou_n, selection.selected_n),
        reliability=_reliability(selection, quality_m),
        images=images.section(selection, where, quality_m),
        chips={name: figures.color(k + 1) for k, name in enumerate(names[:254])},
    )


def agreement(iou_n: np.ndarray, selected_n: np.ndarray):
    """Histogram of the IoU of the two labels of each image, selected ones apart; None of nothing.
    """
    known_n = np.isfinite(iou_n) & (iou_n >= 0) & (iou_n <= 1)
    if not known_n.any():
        return None
    bin_n = np.minimum((iou_n[known_n] * BINS).astype(int), BINS - 1)
    layers = {name: np.bincount(bin_n[part_n], minlength=BINS).tolist() for name, part_n in
              (("selected", selected_n[known_n]), ("rest", ~selected_n[known_n]))}
    edges = [i / BINS for i in range(BINS + 1)]
    return markup(charts.histogram(
        edges, layers, x="IoU of the pair", y="images",
        label="Histogram of the IoU of the two compared label maps, selected and rest"))


def tenths(score_m: np.ndarray, quality_m: np.ndarray) -> list[tuple[float, float, float, int]]:
    """(mean score, mean quality, lowest score, images) of ten equal parts by rising score; fewer
    parts where there are fewer images. The images stand by rank, the best first."""
    order = np.argsort(-score_m, kind="stable")[::-1]
    parts = np.array_split(order, min(TENTHS, len(order))) if len(order) else []
    return [(float(score_m[p].mean()), float(quality_m[p].mean()), float(score_m[p].min()), len(p))
            for p in parts]


def _headline(selection: Selection, quality_m) -> list[tuple[str, str, str]]:
    """(what, number, remark): the few numbers a reader wants first."""
    count, taken = len(selection.rank_n), int(selection.selected_n.sum())
    found = [("images", tables.count(count), ""),
             ("selected", tables.count(taken), f"{tables.percent(taken / max(count, 1))} %")]
    for name, part_n in (("selected", selection.selected_n), ("rest", ~selection.selected_n)):
        if part_n.any():
            found.append(("mean IoU", f"{np.nanmean(selection.iou_n[part_n]):.3f}", name))
    if selection.border is not None:
        found.append(("last one taken", f"rank {tables.count(selection.border)}",
                      f"IoU {selection.iou_n[_at_rank(selection, selection.border)]:.3f}"))
    quota = selection.summary.get("quota")
    if quota:
        unmet = sum(1 for missing in (selection.summary.get("unmet") or {}).values() if missing)
        wanted = sum(1 for number in quota.values() if number)
        found.append(("quotas met", f"{wanted - unmet} of {wanted}", "classes"))
    if quality_m is not None:
        chosen_m = selection.selected_n[selection.rows.position]
        for name, want in (("selected", True), ("rest", False)):
            known = [q for q, yes in zip(quality_m, chosen_m, strict=True)
                     if q is not None and yes == want]
            if known:
                found.append(("true quality", f"{np.mean(known):.3f}", name))
    return found


def _at_rank(selection: Selection, rank: int) -> int:
    return int(np.flatnonzero(selection.rank_n == rank)[0])


def _facts(selection: Selection) -> list[tuple[str, str]]:
    """What the selection was told, as its summary has it."""
    return [(name, str(value)) for name, value in sorted(selection.summary.items())
            if name not in _TOLD and isinstance(value, str | int | float)]


def _reasons(selection: Selection) -> tables.Table:
    """Images by reason."""
    counts = np.bincount(selection.reason_n, minlength=len(selection.reasons))
    found = [(reasons.short(code, selection.keep), code, int(n)) for code, n in
             zip(selection.reasons, counts, strict=True)]
    rows = tuple((words, code, tables.count(n)) for words, code, n in
                 sorted(found, key=lambda row: -row[2]))
    return tables.Table("reasons", "Images by reason", ("reason", "in the table", "images"), rows,
                        "in the table: the word in the column reason of selection.parquet.", 2)


def _classes(selection: Selection) -> tables.Table:
    """Images of each class: wanted, taken, held, there, missing."""
    parts = _parts(selection)
    quota = selection.summary.get("quota")
    unmet = selection.summary.get("unmet") or {}
    rows = [(name, tables.count(quota.get(name, 0) if quota else None),
             tables.count(parts["taken"].get(name, 0)), tables.count(parts["counts"].get(name, 0)),
             tables.count(int(there)), tables.count(unmet.get(name) or None))
            for name, there in zip(selection.class_names, selection.images_k, strict=True)]
    return tables.Table(
        "quota", "Images per class against the quota",
        ("class", "quota", "taken", "in selection", "in all images", "unmet"), tuple(rows),
        "taken: images that filled a place of the quota. in selection: all selected images with "
        "the class; an image of several classes counts for each. unmet: places that stayed empty, "
        "because there are too few images of the class.")


def _bars(selection: Selection) -> dict:
    parts = _parts(selection)
    most = max((v for part in parts.values() for v in part.values()), default=0)
    return {name: markup(charts.quota_bar(
        *(parts[key].get(name, 0) for key in ("quota", "taken", "counts")), most))
        for name in selection.class_names}


def _parts(selection: Selection) -> dict[str, dict]:
    return {key: selection.summary.get(key) or {} for key in ("quota", "taken", "counts")}


def _reliability(selection: Selection, quality_m) -> dict | None:
    """Chart and table of the true quality by tenths of the score; None without truth."""
    known = [row for row, q in enumerate(quality_m or ()) if q is not None]
    if not known:
        return None
    score_m = selection.score_n[selection.rows.position[known]]
    found = tenths(score_m, np.array([quality_m[row] for row in known]))
    drawn = {"mean true quality": [(score, good) for score, good, _, _ in found]}
    what = "score" if selection.scored else "IoU of the pair"
    if score_m.min() >= 0 and score_m.max() <= 1:
        drawn[f"equal to the {what}"] = [(0.0, 0.0), (1.0, 1.0)]
    rows = tuple((f"{i} of {len(found)}", f"{low:.3f}", f"{score:.3f}", f"{good:.3f}",
                  tables.count(count)) for i, (score, good, low, count) in enumerate(found, 1))
    chart = charts.lines(drawn, x=what, y="true quality", top=1.0,
                         label=f"Mean true quality of ten parts of the images by {what}")
    return {
        "chart": {"title": f"True quality by {what}", "svg": markup(chart),
                  "legend": [(n, markup(charts.swatch(i))) for i, n in enumerate(drawn)]},
        "table": tables.Table(
            "reliability", f"Images in {len(found)} equal parts by {what}",
            ("part", f"{what} from", "mean", "true quality", "images"), rows,
            f"Of {len(known):,} images whose true masks were found. True quality: mean IoU of the "
            "label with the true mask over the foreground classes in either; what the truth "
            "leaves open does not count. " + ("" if selection.keep == "whole" else
            "The lists name, of a selected image, the label that was kept; what is open there is "
            "missed. ") + "The truth chose nothing."),
    }
