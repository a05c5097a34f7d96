"""Broken run folders: one line that names the file, exit code 1, and no page half written."""

import json
import sys

import pyarrow
import pyarrow.parquet
import pytest

from wsssjax.core import cli, files
from wsssjax.report import __main__ as command
from wsssjax.report import read_run


def fails(monkeypatch, capsys, *arguments) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["report", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.run(command.main)
    return stop.value.code, capsys.readouterr().err


@pytest.mark.parametrize("name, content", [
    ("results.json", b""),
    ("results.json", b'{"title": "cut'),
    ("results.json", b"\xff\xfe\x00"),
    ("results.json", b"[" * 100_000),
    ("results.json", b"[1, 2]"),
    ("config.json", b"{"),
    ("arm_s/manifest.json", b"null"),
    ("arm_s/manifest.json", b'{"wall_s": "long"}'),
    ("arm_s/manifest.json", b'{"inputs": 3}'),
    ("arm_s/metrics.jsonl", b'{"step": 1}\n{"step": \n{"step": 3}\n'),
    ("arm_s/metrics.jsonl", b"[1]\n"),
    ("arm_s/metrics.jsonl", b"\xff\xff\n"),
    ("select/selection.parquet", b""),
    ("select/selection.parquet", b"PAR1 no parquet PAR1"),
    ("evaluate/gallery.json", b'{"best": "img_0"}'),
    ("evaluate/gallery.json", b'{"best": ["../photos/img_0"]}'),
    ("evaluate/gallery.json", b'{"best": [""]}'),
    ("labels_a/img_0.png", b""),
    ("labels_a/img_0.png", b"\x89PNG\r\n\x1a\n cut"),
    ("truth/img_1.png", b"GIF89a"),
    ("photos/img_0.jpg", b"\xff\xd8\xff\xe0 cut"),
])
def test_broken_files_are_named_in_one_line(run_folder, monkeypatch, capsys, name, content):
    (run_folder / name).write_bytes(content)
    code, said = fails(monkeypatch, capsys, f"--run={run_folder}")
    assert code == 1 and said.count("\n") == 1 and str(run_folder / name) in said
    assert not (run_folder / "report.html").exists()


@pytest.mark.parametrize("where, value, said", [
    ("labels", {"A": 3}, "labels.A is 3; want an object"),
    ("labels", {"A": None}, "labels.A is None; want an object"),
    ("labels", {"A": {"miou": "0.5"}}, "labels.A.miou is '0.5'; want a number"),
    ("labels", {"A": {"miou": True}}, "labels.A.miou is True; want a number"),
    ("labels", {"A": {"iou": {"train": [1]}}}, "labels.A.iou is"),
    ("classes", "train;boat", "classes is 'train;boat'; want a list of names"),
    ("arms", {"S": {"mask_ratio": [[1, 2, 3]]}}, "arms.S.mask_ratio is"),
    ("selection", {"quota": {"train": "all"}}, "selection.quota is"),
    ("histogram", {"edges": [0, 1], "counts": {"A": [1, None]}}, "histogram.counts.A is"),
    ("context", {"A": {"train/rails": 0.1}}, "context.A.train/rails is 0.1; want an object"),
    ("saliency", {"mae": 10**400}, "saliency.mae is 1000"),
    ("title", ["x"], "title is ['x']; want text"),
])
def test_wrong_types_in_results_are_named(run_folder, results, where, value, said):
    (run_folder / "results.json").write_text(json.dumps(results | {where: value}))
    with pytest.raises(ValueError) as caught:
        read_run.read_run(run_folder)
    assert f"results.json: {said}" in str(caught.value) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(run_folder)) + 150


@pytest.mark.parametrize("change", [
    {"iou": None}, {"iou": ["high"] * 6}, {"rank": [0.5] * 6}, {"selected": ["yes"] * 6}])
def test_parquet_of_other_columns_is_named(run_folder, monkeypatch, capsys, change):
    path = run_folder / "select" / "selection.parquet"
    columns = pyarrow.parquet.read_table(path).to_pydict() | change
    pyarrow.parquet.write_table(
        pyarrow.table({k: v for k, v in columns.items() if v is not None}), path)
    code, said = fails(monkeypatch, capsys, f"--run={run_folder}")
    assert code == 1 and said.count("\n") == 1 and str(path) in said and next(iter(change)) in said


def test_label_of_an_unknown_class_is_named(run_folder, results, monkeypatch, capsys):
    files.write_json(run_folder / "results.json", results | {"classes": ["background", "train"]})
    code, said = fails(monkeypatch, capsys, f"--run={run_folder}")
    assert code == 1 and said.count("\n") == 1 and "img_0.png" in said and "0..1" in said


def test_folders_without_a_run_are_refused(tmp_path, monkeypatch, capsys):
    for folder in (tmp_path, tmp_path / "nowhere"):
        code, said = fails(monkeypatch, capsys, f"--run={folder}")
        assert code == 1 and said.count("\n") == 1 and str(folder) in said and "--workdir" in said
    assert fails(monkeypatch, capsys, "--runs=x")[0] == 2
    assert fails(monkeypatch, capsys)[0] == 2


def test_steps_follow_their_inputs_even_in_a_circle(tmp_path):
    inputs = {"a": {"c": "x"}, "b": {}, "c": {"b": "x", "gone": "x"}, "d": {"e": "x"},
              "e": {"d": "x"}}
    for name, before in inputs.items():
        files.write_json(tmp_path / name / "manifest.json", {"inputs": before})
    names = [step.name for step in read_run.read_run(tmp_path).steps]
    assert names[:3] == ["b", "c", "a"] and set(names[3:]) == {"d", "e"}


def test_old_page_stays_when_the_new_one_fails(run_folder, monkeypatch, capsys):
    before = command.run(run_folder).read_bytes()
    (run_folder / "results.json").write_text("{")
    assert fails(monkeypatch, capsys, f"--run={run_folder}")[0] == 1
    assert (run_folder / "report.html").read_bytes() == before
