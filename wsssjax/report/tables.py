"""The tables of a run: made once as plain text cells, shown by the terminal and by the page."""

from __future__ import annotations

from typing import NamedTuple

import rich.box
import rich.table
import rich.text

SUPERVISION_KEY = ("Supervision: I image-level tags, S saliency, A SAM masks, C CLIP, "
                   "F full (true masks).")
ARMS = {
    "S": "selected labels + unlabelled rest",
    "M": "matched random labels + unlabelled rest",
    "Q": "labels that fill the quota in random order + unlabelled rest",
    "U": "random labels + unlabelled rest",
    "L": "labels of a given list + unlabelled rest",
    "ALL": "every pseudo-label",
    "T": "true masks on the images of S (upper bound)",
    "Tall": "true masks on all images (upper bound)",
    "S-sup": "selected labels only",
}
MASK_POINTS = 6  # columns of the mask-ratio table


class Table(NamedTuple):
    """Text cells in rows; the first `heads` columns are words, the others right-aligned numbers."""

    key: str  # names the table in links and tests
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    heads: int = 1


def percent(value: float | None) -> str:
    """A share 0..1 as `52.3`; a dash where there is none."""
    return "–" if value is None else f"{100 * value:.1f}"


def points(value: float | None, base: float | None) -> str:
    """The signed distance of two shares in percentage points."""
    if value is None or base is None:
        return "–"
    return f"{100 * (value - base):+.1f}".replace("-", "−")


def count(value: float | None) -> str:
    """A whole number with thousands set apart."""
    return "–" if value is None else f"{value:,.0f}"


def in_order(entries: dict) -> dict:
    """The arms in their usual order, other names behind them as they come."""
    return {name: entries[name] for name in (*ARMS, *entries) if name in entries}


def validation(scores: dict) -> Table | None:
    """Best and last evaluation of a training's student and teacher on its validation list."""
    rows = []
    for who, title in (("student", "student"), ("teacher", "teacher (EMA)")):
        for which, how in (("best", "best epoch, chosen on this list"), ("last", "last epoch")):
            found = (scores.get(who) or {}).get(which)
            if found:
                epoch = found.get("epoch")
                rows.append((title, how, "–" if epoch is None else f"{epoch:g}",
                             count(found.get("step")), percent(found.get("miou"))))
    if not rows:
        return None
    return Table("validation", "Validation while training",
                 ("model", "which", "epoch", "step", "mIoU"), tuple(rows),
                 "Published numbers of UniMatch V2 are the teacher's best epoch.", heads=2)


def build(results: dict) -> list[Table]:
    """Every table that `results` has numbers for, in reading order."""
    tables = (labels(results), context(results), saliency(results), selection(results),
              quota(results), arms(results), mask_ratio(results))
    return [table for table in tables if table is not None]


def render(results: dict) -> list[rich.table.Table]:
    """The tables for the terminal; the class counts are left to the page.

    Print each with rich's console. Cells are `Text`: names from a class file are no markup.
    """
    return [_rich(table) for table in build(results) if table.key != "quota"]


def labels(results: dict) -> Table | None:
    """mIoU of the label sets against the true masks of the training images."""
    sets = results.get("labels")
    if not sets:
        return None
    if not _scored(sets):
        rows = tuple((name, _text(s, "method"), _text(s, "supervision"))
                     for name, s in sets.items())
        return Table("labels", "Pseudo-labels of the training images",
                     ("set", "method", "supervision"), rows,
                     "Not scored: that takes true masks of all training images. "
                     f"{SUPERVISION_KEY}", 3)
    first = next(iter(sets))
    base = sets[first].get("miou")
    rows = tuple((name, _text(s, "method"), _text(s, "supervision"), percent(s.get("miou")),
                  "" if name == first else points(s.get("miou"), base), percent(s.get("fp")),
                  percent(s.get("fn"))) for name, s in sets.items())
    return Table("labels", "Pseudo-labels of the training images",
                 ("set", "method", "supervision", "mIoU %", f"vs {first}", "FP %", "FN %"), rows,
                 "Scored against true masks that learning never sees. FP: false activation, FN: "
                 f"partial activation; the three add up to 100. {SUPERVISION_KEY}", 3)


def context(results: dict) -> Table | None:
    """How much of a co-occurring background is taken for the object."""
    rows = tuple(
        (name, _supervision(results, name), pair, _ratio(score.get("ratio")),
         percent(score.get("iou")))
        for name, pairs in (results.get("context") or {}).items() for pair, score in pairs.items())
    return rows and Table(
        "context", "Confusion with a co-occurring background",
        ("set", "supervision", "class / background", "confusion ratio", "IoU %"), rows,
        "Pixels of the background that the labels call the class, over correctly labelled pixels "
        "of the class: 0 is none.", 3) or None


def saliency(results: dict) -> Table | None:
    """Error of the saliency maps that saliency-guided labels learn from."""
    scores = results.get("saliency")
    if not scores:
        return None
    names = {"mae": "mean absolute error (0..1)", "max_f": "largest F-measure (0..1)"}
    rows = tuple((names.get(key, key), _ratio(value)) for key, value in scores.items())
    return Table("saliency", "Saliency maps against the true foreground", ("measure", "value"),
                 rows, "Supervision: S.")


def sweeps(found: dict) -> Table | None:
    """The best background threshold of each set of class maps."""
    if not found:
        return None
    rows = []
    for name, sweep in found.items():
        best = sweep["best"]
        rows.append((name, f"{best['threshold']:g}", percent(best["miou"]),
                     percent(best.get("fp")), percent(best.get("fn")), count(sweep["images"]),
                     _text(sweep, "stop")))
    return Table("sweeps", "Best background threshold",
                 ("maps", "threshold", "mIoU %", "FP %", "FN %", "images", "rule"), tuple(rows),
                 "A pixel is a class where the class's map is above the threshold. rule: which "
                 "thresholds are tried, from the lowest on: all (full), or up to the first at "
                 "which mIoU falls (first_decrease) or does not rise (first_non_increase).")


def selection(results: dict) -> Table | None:
    """Quality of the selected labels beside a random draw and the rest."""
    chosen = results.get("selection")
    if not chosen:
        return None
    base = chosen.get("random_miou")
    scored = any(key.endswith("_miou") for key in chosen)
    named = results.get("pair") or ()
    pool = next((_supervision(results, n) for n in (*named[1:], "B+", "B", "A")
                 if n in (results.get("labels") or {})), "–")
    rows = tuple(
        (name, pool, size, percent(chosen.get(key)),
         "" if key == "random_miou" else points(chosen.get(key), base))
        for name, key, size in (("selected", "selected_miou", count(chosen.get("count"))),
                                ("random, same size", "random_miou", count(chosen.get("count"))),
                                ("rest (not selected)", "rest_miou", "–"))
        if key in chosen or key == "selected_miou")
    share = chosen.get("single_class_share")
    note = "mIoU of the labels against true masks." if scored else (
        "Not scored: that takes true masks of all training images.")
    if share is not None:
        note += f" {percent(share)} % of the selected labels hold a single class."
    missing = chosen.get("unmet")
    if missing:
        named = ", ".join(_shortage(missing))
        note += f" Quota not met for {named}: the pool has too few images of it."
    if not scored:
        means = chosen.get("mean_iou") or {}
        rows = (("selected", pool, count(chosen.get("count")), percent(means.get("selected"))),
                ("rest (not selected)", pool, "–", percent(means.get("rest"))))
        return Table("selection", "The selected labels", ("labels", "supervision", "images",
                     "mean IoU of the two sets, %"), rows, note, 2)
    return Table("selection", "Quality of the selected labels",
                 ("labels", "supervision", "images", "mIoU %", "vs random"), rows, note, 2)


def quota(results: dict) -> Table | None:
    """Images per class that the quota asks for, that filled it, and that the selection holds."""
    chosen = results.get("selection") or {}
    parts = [chosen.get(key) or {} for key in ("quota", "taken", "counts")]
    if not any(parts):
        return None
    order = [n for n in results.get("classes") or () if any(n in part for part in parts)]
    order += sorted({n for part in parts for n in part} - set(order))
    rows = [(name, *(count(part.get(name, 0)) for part in parts)) for name in order]
    rows.append(("all classes", *(count(sum(part.values())) for part in parts)))
    return Table("quota", "Images per class against the quota",
                 ("class", "quota", "taken", "in selection"), tuple(rows),
                 "taken: images that filled a place of the quota. in selection: all selected "
                 "images with the class; an image of several classes counts for each.")


def arms(results: dict) -> Table | None:
    """Test mIoU of the segmenters."""
    trained = results.get("arms")
    if not trained:
        return None
    how = "Same steps, batch and seed; the student of the last step"
    if not _scored(trained):
        rows = tuple((name, _arm(name, arm), _text(arm, "supervision"), count(arm.get("labelled")))
                     for name, arm in in_order(trained).items())
        return Table("arms", "Segmenters", ("arm", "trained on", "supervision", "labelled"), rows,
                     f"{how}. Not scored: that takes true masks of test images. {SUPERVISION_KEY}",
                     3)
    base = trained.get("S", {}).get("miou")
    rows = tuple((name, _arm(name, arm), _text(arm, "supervision"), count(arm.get("labelled")),
                  percent(arm.get("miou")), "" if name == "S" else points(arm.get("miou"), base))
                 for name, arm in in_order(trained).items())
    return Table("arms", "Segmenters on the test images",
                 ("arm", "trained on", "supervision", "labelled", "mIoU %", "vs S"), rows,
                 f"{how}. {SUPERVISION_KEY}", 3)


def mask_ratio(results: dict) -> Table | None:
    """Share of unlabelled pixels that the teacher is sure of, over the training."""
    curves = {name: arm["mask_ratio"] for name, arm in in_order(results.get("arms") or {}).items()
              if arm.get("mask_ratio")}
    if not curves:
        return None
    steps = sorted({int(step) for curve in curves.values() for step, _ in curve})
    last = len(steps) - 1
    picked = sorted({steps[round(i * last / (MASK_POINTS - 1))] for i in range(MASK_POINTS)})
    known = {name: {int(step): value for step, value in curve} for name, curve in curves.items()}
    rows = tuple((name, _text(results["arms"][name], "supervision"),
                  *(percent(known[name].get(step)) for step in picked)) for name in known)
    return Table("mask_ratio", "Pixels the teacher is sure of, in %",
                 ("arm", "supervision", *(f"step {step:,}" for step in picked)), rows,
                 "Share of unlabelled pixels above the confidence threshold. Near 0: the "
                 "unlabelled images teach nothing.", 2)


def per_class(results: dict, part: str, key: str, title: str) -> Table | None:
    """IoU by class, one column an entry of `results[part]`; None without any class score."""
    sets = {name: s["iou"] for name, s in in_order(results.get(part) or {}).items() if s.get("iou")}
    if not sets:
        return None
    order = [n for n in results.get("classes") or () if any(n in iou for iou in sets.values())]
    order += sorted({n for iou in sets.values() for n in iou} - set(order))
    rows = tuple((name, *(percent(iou.get(name)) for iou in sets.values())) for name in order)
    heads = tuple(f"{name} ({_supervision(results, name, part)})" for name in sets)
    return Table(key, title, ("class", *heads), rows,
                 "IoU in %; a dash: the class is in neither prediction nor truth. In brackets: "
                 "supervision.")


def _rich(table: Table) -> rich.table.Table:
    text = rich.text.Text
    shown = rich.table.Table(title=text("\n" + table.title), caption=text(table.note),
                             title_justify="left", caption_justify="left",
                             box=rich.box.SIMPLE_HEAD)
    for i, name in enumerate(table.columns):
        shown.add_column(text(name), justify="left" if i < table.heads else "right")
    for row in table.rows:
        shown.add_row(*map(text, row))
    return shown


def _scored(entries: dict) -> bool:
    return any(entry.get("miou") is not None for entry in entries.values())


def _text(entry: dict, key: str) -> str:
    return entry.get(key) or "–"


def _arm(name: str, arm: dict) -> str:
    return ", ".join(t for t in (ARMS.get(name, ""), arm.get("method") or "") if t) or "–"


def _supervision(results: dict, name: str, part: str = "labels") -> str:
    return _text((results.get(part) or {}).get(name) or {}, "supervision")


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _shortage(missing) -> list[str]:
    if isinstance(missing, dict):
        return [f"{name} ({value})" for name, value in missing.items()]
    return [str(name) for name in missing] if isinstance(missing, list) else [str(missing)]
