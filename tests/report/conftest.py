"""A small run folder made of noise: every part that a report can show, with numbers of its own."""

import importlib.util
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from wsssjax.core import files
from wsssjax.data import label_map

_SPEC = importlib.util.spec_from_file_location(
    "selections", pathlib.Path(__file__).with_name("selections.py"))
selections = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(selections)


CLASSES = ["background", "train", "boat", "kite"]
IDS = [f"img_{i}" for i in range(6)]
STEPS = ("prepare", "cam_a", "labels_a", "select", "arm_s", "arm_s_sup", "evaluate")


def make_results() -> dict:
    rng = np.random.default_rng(7)

    def scores():
        return {name: float(rng.uniform()) for name in CLASSES}

    def entry(method, supervision, **more):
        return {"method": method, "supervision": supervision, "miou": float(rng.uniform()),
                "iou": scores(), **more}

    curve = [[step, float(rng.uniform())] for step in range(0, 60, 10)]
    return {
        "title": "tiny run", "data": "noise", "classes": CLASSES, "seed": 3,
        "labels": {"A": entry("cam", "I"), "B": entry("eps", "I+S"), "B+": entry("merged", "I+S")},
        "context": {name: {"train/rails": {"ratio": float(rng.uniform()),
                                           "iou": float(rng.uniform())}} for name in ("A", "B")},
        "saliency": {"mae": float(rng.uniform()), "max_f": float(rng.uniform())},
        "histogram": {"edges": [0.0, 0.25, 0.5, 0.75, 1.0],
                      "counts": {n: rng.integers(100, 999, 4).tolist() for n in ("A", "B", "B+")}},
        "selection": {
            "count": 1234, "quota": {"train": 21, "boat": 22, "kite": 23},
            "taken": {"train": 11, "boat": 12, "kite": 23},
            "counts": {"train": 31, "boat": 32, "kite": 33}, "unmet": {"train": 10, "boat": 10},
            "selected_miou": 0.8125, "rest_miou": 0.5312, "random_miou": 0.6187,
            "single_class_share": 0.9173,
        },
        "arms": {
            "S": entry("unimatch_v2", "I+S", labelled=1234, mask_ratio=curve),
            "M": entry("unimatch_v2", "I+S", labelled=1233, mask_ratio=curve),
            "ALL": entry("supervised", "I+S", labelled=5678),
            "T": entry("unimatch_v2", "F", labelled=1232),
            "S-sup": entry("supervised", "I+S", labelled=1231),
        },
    }


def fill(folder: pathlib.Path, results: dict) -> pathlib.Path:
    """Writes the whole run; photos and truth lie in folders of their own below it."""
    rng = np.random.default_rng(0)
    files.write_json(folder / "results.json", results)
    files.write_json(folder / "config.json", {"method": "recipe", "command": "python -m x --y=1"})
    (folder / "photos").mkdir()
    for i, name in enumerate(IDS):
        size = (40 + i, 60)
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(
            folder / "photos" / f"{name}.{'png' if i % 2 else 'jpg'}")
        for kind in ("labels_a", "labels_b", "labels_b_plus", "truth"):
            label = np.repeat(rng.integers(0, len(CLASSES), (size[0], 6), np.uint8), 10, axis=1)
            label_map.write(folder / kind / f"{name}.png", label)
    files.write_json(folder / "evaluate" / "gallery.json", {
        "image_root": "photos", "truth_root": str(folder / "truth"),
        "best": IDS[:2], "borderline": IDS[2:4], "worst": IDS[4:]})
    selections.write(folder / "select", [
        (name, iou, ["train"], "quota" if i < 3 else "full", ["train"] if i < 3 else [])
        for i, (name, iou) in enumerate(zip(IDS, (0.95, 0.9, 0.7, 0.6, 0.2, 0.0), strict=True))
    ], {"train": 3, "boat": 0, "kite": 0})
    before = {}
    for number, step in enumerate(STEPS):
        files.write_json(folder / step / "config.json", {"step": step, "number": number})
        files.write_json(folder / step / "manifest.json", {
            "step": step, "config_hash": f"{number:016x}", "inputs": before, "id_count": 6,
            "id_hash": "x", "classes": CLASSES, "versions": {"jax": "0.0"}, "seed": 3,
            "devices": {"count": 2, "kind": "cpu"}, "device_batch": 4, "wall_s": 10.0 + number})
        before = {step: "x"}
    for step in ("cam_a", "arm_s", "arm_s_sup"):
        rows = [{"step": s, "train/loss": 3.0 - s / 50, "train/mask_ratio": s / 100,
                 "train/loss_x": float(s)} for s in range(0, 100, 10)]
        (folder / step / "metrics.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def results() -> dict:
    return make_results()


@pytest.fixture
def run_folder(tmp_path, results) -> pathlib.Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return fill(folder, results)


@pytest.fixture
def selection_files():
    """The module that writes selections made by hand."""
    return selections
