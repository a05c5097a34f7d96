"""Sixty pairs of noisy label maps, and what the tests of a selection's files ask of a folder."""

import pathlib

import numpy as np
import pytest

from wsssjax.data import label_map
from wsssjax.select import stream

COUNT, BLOCK = 60, 8


@pytest.fixture
def pairs(tmp_path):
    """Sixty pairs of noisy maps of three classes, some with open pixels."""
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        first_hw = np.repeat(rng.integers(0, 4, (12, 5)), 3, axis=1).astype(np.uint8)
        second_hw = np.where(rng.random(first_hw.shape) < rng.random(), first_hw, 1)
        second_hw[rng.random(first_hw.shape) < 0.1] = 255
        for folder, label_hw in (("first", first_hw), ("second", second_hw.astype(np.uint8))):
            label_map.write(tmp_path / folder / f"{i:03d}.png", label_hw)
    (tmp_path / "names.txt").write_text("background\ncat\ndog\ntrain\n")
    return tmp_path


def options(pairs, out="out", **changes):
    return {"first": str(pairs / "first"), "second": str(pairs / "second"),
            "out": str(pairs / out), "quota_spec": '{"cat": 9, "dog": 5}',
            "classes": str(pairs / "names.txt"), "block": BLOCK, **changes}


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in pathlib.Path(folder).rglob("*")
            if p.is_file()}


def results(folder):
    return {name: data for name, data in content(folder).items() if "scores" not in name}


@pytest.fixture
def seen(monkeypatch):
    """The ids that were read since."""
    found = []
    inner = stream.read_pair
    monkeypatch.setattr(stream, "read_pair",
                        lambda job, name: found.append(name) or inner(job, name))
    return found


def ids_of_block(index):
    return [f"{i:03d}" for i in range(COUNT)][index * BLOCK:(index + 1) * BLOCK]
