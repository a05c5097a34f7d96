"""Charts of what a run logged while training, and of its sweeps over the background threshold."""

from __future__ import annotations

import re

from wsssjax.report import charts, tables
from wsssjax.report.checks import is_number
from wsssjax.report.read_run import Run
from wsssjax.report.template import markup

_MAIN_CURVES = ("train/loss", "train/mask_ratio")  # drawn openly; other logged values on demand
_NO_CURVE = re.compile(r"step|epoch|.*(second|_s$|rate_lr|/lr$)")
_SWEEP_CURVES = {"miou": "mIoU", "fp": "FP", "fn": "FN", "precision": "precision",
                 "recall": "recall"}


def training(run: Run) -> dict[str, list[dict]]:
    """Charts of what the trainings logged: `main` (loss, mask ratio) and `more` (all else)."""
    charted = {"main": [], "more": []}
    logged = {step.name: _series(step.metrics) for step in run.steps if step.metrics}
    for arm, scores in tables.in_order(run.results.get("arms") or {}).items():
        name = "arm_" + arm.lower().replace("-", "_")
        curves = logged.setdefault(name, {})
        if scores.get("mask_ratio") and "train/mask_ratio" not in curves:
            curves["train/mask_ratio"] = [tuple(pair) for pair in scores["mask_ratio"]]
    keys = sorted({key for curves in logged.values() for key in curves})
    for key in sorted(keys, key=lambda k: (k not in _MAIN_CURVES, k)):
        for family, group in _families(logged, key).items():
            what = f"{key}, {family}" if family else key
            chart = charts.lines(group, x="step", y=key, label=f"{what} over the training steps",
                                 top=1.0 if "ratio" in key or "miou" in key else None)
            charted["main" if key in _MAIN_CURVES else "more"].append({
                "title": what, "svg": markup(chart),
                "legend": [(name, markup(charts.swatch(i))) for i, name in enumerate(group)]})
    return charted


def _series(rows: tuple[dict, ...]) -> dict[str, list[tuple[float, float]]]:
    """Logged values by name as (step, value) points; entries that are no finite number left out."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for i, row in enumerate(rows):
        step = row.get("step", i)
        for key, value in row.items():
            if _NO_CURVE.fullmatch(key) or not (is_number(value) and is_number(step)):
                continue
            curves.setdefault(key, []).append((float(step), float(value)))
    return curves


def _families(logged: dict, key: str) -> dict[str, dict]:
    """The curves of `key` parted into classifiers and segmenters, whose losses do not compare."""
    families: dict[str, dict] = {}
    for name, curves in logged.items():
        if key in curves:
            family = {"cam": "classifiers", "arm": "segmenters"}.get(name.split("_")[0], "")
            families.setdefault(family, {})[name] = curves[key]
    return families


def sweeps(run: Run) -> dict | None:
    """Curves over the background threshold: mIoU of all sets in one chart, then a chart a set."""
    if not run.sweeps:
        return None
    curves = {name: {key: list(zip(sweep["thresholds"], sweep[key], strict=True))
                     for key in _SWEEP_CURVES} for name, sweep in run.sweeps.items()}
    drawn = [("mIoU", {name: by_key["miou"] for name, by_key in curves.items()})]
    drawn += [(name, {_SWEEP_CURVES[key]: curve for key, curve in by_key.items()})
              for name, by_key in curves.items()]
    shown = [{"title": title,
              "legend": [(n, markup(charts.swatch(i))) for i, n in enumerate(group)],
              "svg": markup(charts.lines(group, x="background threshold", y="share", top=1.0,
                                         label=f"{title} over the background threshold"))}
             for title, group in drawn]
    return {"charts": shown, "table": tables.sweeps(run.sweeps)}
