"""report.html of a run: its steps, label sets, selection, pictures, segmenters and curves."""

from __future__ import annotations

import json

import numpy as np

from wsssjax.report import (
    charts,
    curves,
    figures,
    gallery,
    images,
    read_selection,
    selection_page,
    tables,
    template,
)
from wsssjax.report.checks import is_number
from wsssjax.report.read_run import Run
from wsssjax.report.template import markup

_SETS = ("A", "B", "A+", "B+")


def make(run: Run) -> str:
    """The page of a run; the same run gives the same text."""
    results = run.results
    names = results.get("classes") or []
    listed = _images(run)
    return template.render(
        "run.html.j2", script="images.js" if listed else "",
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
        images=listed,
        sweeps=curves.sweeps(run),
        groups=gallery.build(run),
        side=gallery.SIDE,
        curves=curves.training(run),
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
    return {name: markup(charts.quota_bar(*(part.get(name, 0) for part in parts), most))
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
    drawn = [(name, markup(charts.histogram(
        edges, {name: counts}, x="IoU with the truth", y="images", top=top, first_color=i,
        label=f"Histogram of the IoU of label set {name} with the truth")))
        for i, (name, counts) in enumerate(sets.items())]
    rows = tuple((f"{low:.3g} to {high:.3g}", *(tables.count(c[i]) for c in sets.values()))
                 for i, (low, high) in enumerate(zip(edges, edges[1:], strict=False)))
    return {"charts": drawn,
            "table": tables.Table("histogram", "Images by IoU", ("IoU", *sets), rows)}


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


def _agreement(run: Run):
    """Histogram of the IoU of the two labels of each image, selected ones apart."""
    pairs = [pair for pair in run.pairs.values() if is_number(pair["iou"])]
    return selection_page.agreement(np.array([pair["iou"] for pair in pairs], np.float64),
                                    np.array([bool(pair["selected"]) for pair in pairs], bool))


def _images(run: Run) -> dict | None:
    """The table of images of the run's select step; None where it is missing or unfinished."""
    folder = run.folder / "select"
    if not run.results or not read_selection.holds_selection(folder):
        return None
    roots = [run.folder / run.gallery[key] if run.gallery.get(key) else None
             for key in ("image_root", "truth_root")]
    names = [name for name in run.results.get("pair") or () if name in gallery.SETS]
    pair = [run.folder / gallery.SETS[name] for name in (names if names[1:] else ("A", "B+"))]
    return images.of_run(read_selection.read_selection(folder), pair, *roots)
