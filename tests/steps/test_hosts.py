"""One recipe on two hosts that share a folder: the first works, both train."""

import importlib.util
import os
import pathlib
import re
import socket
import subprocess
import sys

import pytest

from wsssjax import recipe
from wsssjax.core import files, logs, parallel

ROOT = pathlib.Path(__file__).parents[2]
SMALL = ROOT / "tests/ablate/small.py"


@pytest.fixture(scope="module")
def small():
    spec = importlib.util.spec_from_file_location("small", SMALL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start(small, labels, workdir):
    """Two processes of one device each, joined over the loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "wsssjax.train", *small.flags(labels), f"--workdir={workdir}",
               "--config.segmenter.parallel=shard_map"]
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    env |= {"JAX_PLATFORMS": "cpu", "JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    return [subprocess.Popen(command, cwd=ROOT, env=env | {"JAX_PROCESS_ID": str(i)}, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE) for i in range(2)]


def test_two_hosts_run_one_recipe(small, tmp_path):
    """That two hosts train as two devices of one do, test_train_semi.py proves."""
    small.write_labels(tmp_path)
    hosts = start(small, tmp_path, tmp_path / "run")
    (first, _), (second, _) = found = [host.communicate(timeout=600) for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], found
    begun = re.findall(r"^\[\d+/\d+\] (\S+)", first, re.MULTILINE)
    assert begun == ["prepare", "labels_a", "labels_b", "select", "control_m", "arm_s", "test_s",
                     "evaluate", "report"]
    assert not re.findall(r"\[\d+/\d+\]", second)
    assert "report:" in first and "report:" not in second
    for name in begun:
        assert files.read_json(tmp_path / "run" / name / "manifest.json")["devices"] == 2
    hardware = files.read_json(tmp_path / "run/arm_s/hardware.json")
    assert (hardware["hosts"], hardware["devices"]) == (2, 1)
    rows = logs.read_metrics(tmp_path / "run/arm_s/metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    assert not list((tmp_path / "run").rglob("*.wsssjax-tmp"))


class Joined:
    """The second of two hosts, beside a first that this test plays."""

    def __init__(self, monkeypatch, todo, meanwhile):
        self.answers, self.meanwhile, self.seen = iter(todo), meanwhile, []
        monkeypatch.setattr(parallel, "process", lambda: (1, 2))
        monkeypatch.setattr(parallel, "first_says", self.first_says)
        monkeypatch.setattr(parallel, "check_equal", lambda number, what: self.seen.append(number))
        monkeypatch.setattr(recipe, "POLL_S", 0)
        monkeypatch.setattr(recipe.time, "sleep", lambda seconds: self.meanwhile())

    def first_says(self, number):
        assert number == 0
        return next(self.answers)


def test_the_second_host_trains_waits_and_writes_nothing(monkeypatch, tmp_path):
    ran = []

    def step(name, batch=0):
        return recipe.Step(name, lambda folder, inputs: ran.append(name), batch=batch)

    def write():
        files.write_json(tmp_path / "labels/manifest.json", {})

    (tmp_path / "labels").mkdir()
    host = Joined(monkeypatch, [1, 1, 0], write)
    context = recipe.Context(tmp_path, ("background", "cat"), 0, 2)
    worked = recipe.run([step("labels"), step("arm", 4), step("done")], context, say=ran.append)
    assert worked == ["labels", "arm"] and ran == ["arm"] and host.seen == [1, 0]
    written = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert written == ["manifest.json"]


def test_hosts_without_a_shared_folder_are_told(monkeypatch, tmp_path):
    host = Joined(monkeypatch, [1], lambda: files.write_json(tmp_path / "a/manifest.json", {}))
    context = recipe.Context(tmp_path, ("background", "cat"), 0, 2)
    recipe.run([recipe.Step("a", None)], context)
    assert host.seen == [0]  # from which check_equal makes the error
    monkeypatch.undo()
    monkeypatch.setattr(parallel, "sum_hosts", lambda counts: counts + 1)
    monkeypatch.setattr(parallel.jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="disagree on the folder x .*; give them all one shared"):
        parallel.check_equal(0, "folder x")


def test_a_failure_of_the_first_host_is_told_to_those_who_wait(monkeypatch, tmp_path):
    def fail(folder, inputs):
        raise ValueError("no such quota")

    context = recipe.Context(tmp_path, ("background", "cat"), 0, 2)
    steps = [recipe.Step("select", fail)]
    monkeypatch.setattr(parallel, "process", lambda: (0, 2))
    monkeypatch.setattr(parallel, "first_says", lambda number: number)
    monkeypatch.setattr(parallel, "check_equal", lambda number, what: None)
    with pytest.raises(ValueError, match="^no such quota$"):
        recipe.run(steps, context, say=lambda text: None)
    Joined(monkeypatch, [1], lambda: pytest.fail("waits for nothing"))
    with pytest.raises(ValueError, match="select: the first host failed here: no such quota$"):
        recipe.run(steps, context)
    monkeypatch.undo()
    recipe.run([recipe.Step("select", lambda folder, inputs: None)], context, say=lambda text: None)
    assert not (tmp_path / "select" / recipe.FAILED).exists()


def test_a_refusal_of_the_first_host_is_that_of_all(monkeypatch, tmp_path):
    said = []
    context = recipe.Context(tmp_path, ("background", "cat"), 0, 2)
    steps = [recipe.Step("a", lambda folder, inputs: None, config={"n": 1})]
    recipe.run(steps, context, say=said.append)
    monkeypatch.setattr(parallel, "first_says", lambda number: said.append(number) or number)
    with pytest.raises(ValueError, match="a: made with other settings"):
        recipe.run([steps[0]._replace(config={"n": 2})], context, say=said.append)
    assert said[-1] == 2
    Joined(monkeypatch, [2], lambda: pytest.fail("waits for nothing"))
    with pytest.raises(ValueError, match="a: the first host refuses what lies here"):
        recipe.run(steps, context)


def test_a_step_made_again_has_no_manifest_meanwhile(tmp_path):
    """Other hosts wait for the new one."""
    def run(folder, inputs):
        assert not (folder / "manifest.json").exists()
        files.write_json(tmp_path / "out.json", 1)

    steps = [recipe.Step("a", run, outputs=("out.json",))]
    context = recipe.Context(tmp_path, ("background", "cat"), 0, 1)
    recipe.run(steps, context, say=lambda text: None)
    (tmp_path / "out.json").unlink()
    assert recipe.run(steps, context, say=lambda text: None) == ["a"]
