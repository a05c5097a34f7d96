"""Steps that cells share: made once, by whoever of several processes comes first."""

import multiprocessing
import os
import pathlib
import signal
import time

import pytest

from wsssjax import recipe
from wsssjax.ablate import run
from wsssjax.core import files

SLOW_S = 0.4


def work(folder, inputs):
    """Notes who began, works for a while, and leaves a number."""
    with open(folder.parent / "begun.log", "a") as log:
        log.write(f"{folder.name} {os.getpid()}\n")
    time.sleep(SLOW_S)
    files.write_json(folder / "n.json", 1 + sum(
        files.read_json(path / "n.json") for path in inputs.values()))


def steps(last=1):
    return [recipe.Step("a", work), recipe.Step("b", work, ("a",), {"n": 2}),
            recipe.Step("c", work, ("a", "b"), {"n": last})]


def context(out):
    return recipe.Context(pathlib.Path(out), ("background", "cat"), 0, 1)


def run_all(out, last=1, say=lambda text: None):
    return [run.make(place, context(out), say)
            for place in run.places(steps(last), context(out)).values()]


def begun(out):
    return [line.split()[0].partition("-")[0]
            for line in (out / "steps/begun.log").read_text().splitlines()]


def spawn(*arguments):
    child = multiprocessing.get_context("fork").Process(target=run_all, args=arguments)
    child.start()
    return child


@pytest.mark.filterwarnings("ignore:.*fork.*")  # the children touch no device
def test_two_processes_make_each_step_once(tmp_path):
    children = [spawn(tmp_path, last) for last in (1, 1, 2)]
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert sorted(begun(tmp_path)) == ["a", "b", "c", "c"]  # c has two settings
    assert run_all(tmp_path) == [False, False, False]
    assert not list(tmp_path.rglob("*.wsssjax-tmp"))


@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_who_dies_leaves_the_step_to_who_waits(tmp_path):
    first = spawn(tmp_path)
    while not (tmp_path / "steps/begun.log").exists():
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)
    said = []
    assert run_all(tmp_path, say=said.append) == [True, True, True]
    first.join()
    assert begun(tmp_path) == ["a", "a", "b", "c"]
    place = run.places(steps(), context(tmp_path))["c"]
    assert files.read_json(place.folder / "n.json") == 1 + 1 + 2
    assert run.is_done(place) and place.folder.name in said


def test_who_waits_is_told(tmp_path):
    place = run.places(steps()[:1], context(tmp_path))["a"]
    child = spawn(tmp_path)
    while not (tmp_path / "steps/begun.log").exists():
        time.sleep(0.01)
    said = []
    assert not run.make(place, context(tmp_path), said.append)
    child.join(60)
    assert said == [f"{place.folder.name}: another process makes it; waiting"]


def test_folders_follow_what_a_step_depends_on(tmp_path):
    def names(last, out=tmp_path, **changes):
        return {name: place.folder.name for name, place in run.places(
            steps(last), context(out)._replace(**changes)).items()}

    one, other = names(1), names(2)
    assert (one["a"], one["b"]) == (other["a"], other["b"]) and one["c"] != other["c"]
    assert names(1, tmp_path / "elsewhere") == one
    assert not set(names(1, classes=("background", "dog")).values()) & set(one.values())
    assert names(1, devices=8) == one  # nothing is trained here
