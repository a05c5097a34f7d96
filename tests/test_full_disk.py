"""A full disk and a read-only folder, for real: one line, exit code 1, and nothing done is lost."""

import contextlib
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from wsssjax.core import cli
from wsssjax.data import label_map
from wsssjax.evaluate import __main__ as evaluate_command
from wsssjax.select import __main__ as select_command

ROOT = pathlib.Path(__file__).parents[1]


@contextlib.contextmanager
def mounted(folder, options):
    """A file system in memory on `folder`; skips where this user may not mount."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no mount command here")
    if done.returncode:
        pytest.skip(f"may not mount a small disk here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def labels(tmp_path):
    """A folder of twelve noisy label maps, poorly compressible."""
    rng = np.random.default_rng(0)
    for index in range(12):
        label_map.write(tmp_path / "labels" / f"{index:02d}.png",
                        rng.integers(0, 21, (64, 64)).astype(np.uint8))
    return tmp_path / "labels"


def call(main, monkeypatch, capsys, *flags):
    monkeypatch.setattr(sys, "argv", ["command", *flags])
    with pytest.raises(SystemExit) as stop:
        cli.run(main)
    lines = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 1 and len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


def test_select_on_a_full_disk(labels, tmp_path, monkeypatch, capsys):
    with mounted(tmp_path / "disk", "size=4k") as disk:
        line = call(select_command.main, monkeypatch, capsys, f"--first={labels}",
                    f"--second={labels}", "--quota=none", "--min_iou=0.5", f"--out={disk}/o")
        assert "000000.parquet" in line and "No space left" in line and "free some" in line


def test_select_keeps_its_scores_when_the_table_finds_no_space(labels, tmp_path, monkeypatch,
                                                               capsys):
    flags = [f"--first={labels}", f"--second={labels}", "--quota=none", "--min_iou=0.5"]
    with mounted(tmp_path / "disk", "size=20k") as disk:
        (disk / "filler").write_bytes(b"x" * 4096)
        line = call(select_command.main, monkeypatch, capsys, *flags, f"--out={disk}/o")
        assert "selection.parquet" in line and "No space left" in line
        assert [p.name for p in (disk / "o").rglob("*")] == ["scores", "000000.parquet"]


def test_select_into_a_read_only_folder(labels, tmp_path, monkeypatch, capsys):
    with mounted(tmp_path / "disk", "ro") as disk:
        line = call(select_command.main, monkeypatch, capsys, f"--first={labels}",
                    f"--second={labels}", "--quota=none", "--min_iou=0.5", f"--out={disk}/o")
        assert str(disk) in line and "Read-only" in line


def test_evaluate_keeps_the_old_scores_when_the_disk_is_full(labels, tmp_path, monkeypatch, capsys):
    with mounted(tmp_path / "disk", "size=8k") as disk:
        (disk / "scores.json").write_text(json.dumps({"miou": 0.5}))
        (disk / "filler").write_bytes(b"x" * 4096)
        line = call(evaluate_command.main, monkeypatch, capsys, f"--labels={labels}",
                    f"--truth={labels}", f"--json={disk}/scores.json")
        assert "scores.json" in line and "No space left" in line
        assert json.loads((disk / "scores.json").read_text()) == {"miou": 0.5}


def test_training_on_a_full_disk_stops_before_the_checkpoint(tmp_path):
    """The recipe on six megabytes: prepare fits, the first checkpoint does not."""
    with mounted(tmp_path / "disk", "size=6m") as disk:
        command = [sys.executable, "-m", "wsssjax.train", "--config=configs/quickstart.py:tiny",
                   f"--workdir={disk}/run"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
        lines = done.stderr.strip().splitlines()
        assert done.returncode == 1 and len(lines) == 1, done.stderr[-2000:]
        assert "checkpoints: a checkpoint needs" in lines[0] and "the same command" in lines[0]
        assert (disk / "run" / "prepare" / "manifest.json").is_file()
        assert not list(disk.rglob(".*wsssjax-tmp"))
