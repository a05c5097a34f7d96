"""tools/bench/loader.py: its arithmetic, and one run of each kind on a few tiny photos."""

import importlib.util
import pathlib
import re

import numpy as np
import pytest

TOOL = pathlib.Path(__file__).parents[2] / "tools/bench/loader.py"
QUICK = ["--config.model.encoder=small_cnn", "--config.model.output_stride=8",
         "--config.model.head_width=8", "--config.data.crop=64", "--config.device_batch=2"]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("bench_loader", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_waiting_is_the_share_of_time_without_work(tool):
    assert tool.waiting(0.3, 0.1) == pytest.approx(2 / 3)
    assert tool.waiting(0.1, 0.3) == 0.0


def test_each_transform_is_timed_once_under_its_stage(tool, monkeypatch):
    """A clock that moves on by itself when a transform runs."""
    clock = [0.0]
    monkeypatch.setattr(tool.time, "process_time", lambda: clock[0])

    def op(name, seconds):
        def call(self, example, rng):
            clock[0] += seconds
            return example
        return type(name, (), {"__call__": call})()

    class Photos(list):
        def __getitem__(self, index):
            clock[0] += 1.0
            return {}

    ops = [op("RandomScale", 2.0), op("Flip", 0.5), op("ColorJitter", 4.0), op("CutBoxes", 0.25),
           op("Normalize", 8.0)]
    found = tool.stage_seconds(Photos([0, 0]), ops, 3)
    assert found == pytest.approx({"decode": 1.0, "geometry": 2.5, "colour": 4.25,
                                   "normalise": 8.0})


def test_generated_photos_feed_all_tables_and_real_steps(tool, capsys, monkeypatch):
    monkeypatch.setattr(tool, "SIZE_HW", (125, 250))
    tool.main(["--photos=3", "--batches=2", "--workers=0", "--step_ms=10000", "--steps=2", *QUICK])
    out = capsys.readouterr().out
    assert "2 labelled, 1 unlabelled photos; crop 64; batches of 4 + 4" in out
    rows = re.findall(r"^(labelled|unlabelled) +(\w+) +([\d.]+) ms", out, re.M)
    for name in ("labelled", "unlabelled"):
        times = {stage: float(ms) for stream, stage, ms in rows if stream == name}
        parts = [times[s] for s in ("decode", "geometry", "colour", "normalise")]
        assert times["whole"] == pytest.approx(np.sum(parts), abs=0.03) and times["decode"] > 0
    assert re.search(r"0 workers: +[\d.]+ images/s, \d+ ms a batch; waiting 0 % with steps of "
                     r"10000 ms", out)
    assert re.search(r"0 workers, 2 real steps on cpu: \d+ ms in next\(loader\), \d+ ms in the "
                     r"step; waiting \d+ %", out)


def test_bad_flags(tool, tmp_path):
    for flags, message in (
        (["--workers=two"], "--workers=two: want numbers"),
        (["--batches=0"], "--batches=0: want 1 or more"),
        (["--images=x"], "--images and --labels belong together"),
        ([f"--images={tmp_path}", f"--labels={tmp_path}"], "holds no photo"),
        (["--config.data.cropp=3"], "no field 'cropp'"),
    ):
        with pytest.raises(ValueError, match=message):
            tool.main(flags)
