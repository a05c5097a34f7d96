"""report.html: one run as one file that needs no network, no script and no other file."""

from __future__ import annotations

import importlib.resources
import json
import re

import jinja2
import markupsafe

from wsssjax.report import charts, figures, gallery, tables
from wsssjax.report.read import Run, is_number

_MAIN_CURVES = ("train/loss", "train/mask_ratio")  # drawn openly; other logged values on demand
_NO_CURVE = re.compile(r"step|epoch|.*(second|_s$|rate_lr|/lr$)")
_SETS = ("A", "B", "B+")
_SWEEP_CURVES = {"miou": "mIoU", "fp": "FP", "fn": "FN", "precision": "precision",
                 "recall": "recall"}


def make(run: Run) -> str:
    """The page of a run; the same run gives the same text."""
    source = importlib.resources.files("wsssjax.report").joinpath("page.html.j2")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined,
                                     trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(source.read_text(encoding="utf-8"))
    results = run.results
    names = results.get("classes") or []
    return template.render(
        title=results.get("title") or run.folder.resolve().name,
        recipe=bool(results),
        facts=_facts(run),
        headline=_headline(results),
        steps=_steps(run),
        tables={table.key: table for table in tables.build(results)},
        validation=tables.validation(run.scores),
        label_classes=tables.per_class(results, "labels", "label_classes",
                                       "Pseudo-labels by class"),
        arm_classes=tables.per_class(results, "arms", "arm_classes", "Segmenters by class"),
        bars=_bars(results),
        histogram=_histogram(results),
        agreement=_agreement(run),
        sweeps=_sweeps(run),
        groups=gallery.build(run),
        side=gallery.SIDE,
        curves=_curves(run),
        configs=_configs(run),
        chips={name: figures.color(i) for i, name in enumerate(names[:255])},
    )


def _facts(run: Run) -> list[tuple[str, str]]:
    """What was run, as (word, value) pairs."""
    manifests = [step.manifest for step in run.steps if step.manifest]
    walls = [m["wall_s"] for m in manifests if m.get("wall_s") is not None]
    command = next((v["command"] for v in (run.config, *manifests) if v and v.get("command")), None)
    devices = sorted({plain(m["devices"]) for m in manifests if m.get("devices") is not None})
    seed = run.results.get("seed", (run.config or {}).get("seed"))
    method = (run.config or {}).get("method")
    facts = {
        "command": plain(command),
        "method": "" if run.results else plain(method),
        "data": plain(run.results.get("data")),
        "classes": len(run.results.get("classes") or ()) or "",
        "seed": plain(seed),
        "devices": ", ".join(devices),
        "versions": "; ".join(sorted({plain(m["versions"]) for m in manifests
                                      if m.get("versions") is not None})),
        "wall time": _duration(sum(walls)) if walls else "",
    }
    return [(name, str(value)) for name, value in facts.items() if value != ""]


def _headline(results: dict) -> list[tuple[str, str, str]]:
    """(what, number, remark): the few numbers a reader wants first."""
    found = []
    for name in _SETS:
        labels = (results.get("labels") or {}).get(name) or {}
        if labels.get("miou") is not None:
            found.append((f"labels {name}", tables.percent(labels["miou"]),
                          labels.get("supervision") or ""))
    chosen = results.get("selection") or {}
    if chosen.get("selected_miou") is not None:
        other = tables.percent(chosen.get("random_miou"))
        found.append(("selected labels", tables.percent(chosen["selected_miou"]),
                      f"random {other}"))
    for name, arm in tables.in_order(results.get("arms") or {}).items():
        if arm.get("miou") is not None:
            found.append((f"segmenter {name}", tables.percent(arm["miou"]),
                          arm.get("supervision") or ""))
    return found


def _steps(run: Run) -> tables.Table | None:
    """The steps with their manifests."""
    rows = []
    for step in run.steps:
        m = step.manifest
        if m is None:
            continue
        rows.append((step.name, "–" if m.get("wall_s") is None else _duration(m["wall_s"]),
                     tables.count(m.get("id_count")), plain(m.get("device_batch")) or "–",
                     plain(m.get("devices")) or "–", plain(m.get("seed")) or "–",
                     plain(m.get("config_hash"))[:8] or "–"))
    if not rows:
        return None
    return tables.Table("steps", "Steps", ("step", "wall time", "images", "batch per device",
                                           "devices", "seed", "config"), tuple(rows),
                        "config: first digits of its hash.")


def _bars(results: dict) -> dict[str, str]:
    """By class the bar that stands beside its row in the quota table."""
    chosen = results.get("selection") or {}
    parts = [chosen.get(key) or {} for key in ("quota", "taken", "counts")]
    most = max((v for part in parts for v in part.values()), default=0)
    return {name: _svg(charts.quota_bar(*(part.get(name, 0) for part in parts), most))
            for name in {n for part in parts for n in part}}


def _histogram(results: dict) -> dict | None:
    """Figure of the label sets' quality: charts by set, and the counts as a table."""
    bins = results.get("histogram") or {}
    edges = bins.get("edges") or []
    sets = {name: counts for name, counts in (bins.get("counts") or {}).items()
            if counts and len(counts) == len(edges) - 1}
    if not sets:
        return None
    top = max(max(counts) for counts in sets.values())
    drawn = [(name, _svg(charts.histogram(
        edges, {name: counts}, x="IoU with the truth", y="images", top=top, first_color=i,
        label=f"Histogram of the IoU of label set {name} with the truth")))
        for i, (name, counts) in enumerate(sets.items())]
    rows = tuple((f"{low:.3g} to {high:.3g}", *(tables.count(c[i]) for c in sets.values()))
                 for i, (low, high) in enumerate(zip(edges, edges[1:], strict=False)))
    return {"charts": drawn,
            "table": tables.Table("histogram", "Images by IoU", ("IoU", *sets), rows)}


def _sweeps(run: Run) -> dict | None:
    """Curves over the background threshold: mIoU of all sets in one chart, then a chart a set."""
    if not run.sweeps:
        return None
    curves = {name: {key: list(zip(sweep["thresholds"], sweep[key], strict=True))
                     for key in _SWEEP_CURVES} for name, sweep in run.sweeps.items()}
    drawn = [("mIoU", {name: by_key["miou"] for name, by_key in curves.items()})]
    drawn += [(name, {_SWEEP_CURVES[key]: curve for key, curve in by_key.items()})
              for name, by_key in curves.items()]
    shown = [{"title": title, "legend": [(n, _svg(charts.swatch(i))) for i, n in enumerate(group)],
              "svg": _svg(charts.lines(group, x="background threshold", y="share", top=1.0,
                                       label=f"{title} over the background threshold"))}
             for title, group in drawn]
    return {"charts": shown, "table": tables.sweeps(run.sweeps)}


def _agreement(run: Run) -> markupsafe.Markup | None:
    """Histogram of the IoU of the two labels of each image, selected ones apart."""
    bins = 20
    layers = {"selected": [0] * bins, "rest": [0] * bins}
    for pair in run.pairs.values():
        iou = pair["iou"]
        if is_number(iou) and 0 <= iou <= 1:
            layer = layers["selected" if pair.get("selected") else "rest"]
            layer[min(int(iou * bins), bins - 1)] += 1
    if not any(map(any, layers.values())):
        return None
    edges = [i / bins for i in range(bins + 1)]
    return _svg(charts.histogram(edges, layers, x="IoU of the pair", y="images",
                                 label="Histogram of the IoU of the two compared label maps"))


def _curves(run: Run) -> dict[str, list[dict]]:
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
                "title": what, "svg": _svg(chart),
                "legend": [(name, _svg(charts.swatch(i))) for i, name in enumerate(group)]})
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


def _configs(run: Run) -> list[tuple[str, str]]:
    """(name, JSON text) of the run's resolved config and of each step's."""
    found = [("run", run.config)] + [(step.name, step.config) for step in run.steps]
    shown, seen = [], []
    for name, config in found:
        if config is not None and config not in seen:  # a single training is a step too
            seen.append(config)
            shown.append((name, json.dumps(config, indent=1, sort_keys=True, ensure_ascii=False)))
    return shown


def plain(value) -> str:
    """A JSON value as words: `{"platform": "cpu", "count": 2}` as `platform cpu, count 2`."""
    if value is None:
        return ""
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(entry)}" for key, entry in value.items())
    if isinstance(value, list):
        return ", ".join(map(plain, value))
    return str(value)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _svg(text: str) -> markupsafe.Markup:
    return markupsafe.Markup(text)  # made by charts.py, which escapes every name
