"""PyTorch files are read as data, never run."""

import pickle

import numpy as np
import pytest

from wsssjax.bridge import torch_weights

torch = pytest.importorskip("torch")


def state():
    return {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2).bfloat16(),
            "n": torch.tensor(4)}


@pytest.mark.parametrize("wrap", [
    lambda s: s,
    lambda s: {"model": s, "epoch": 3},
    lambda s: {"state_dict": {f"module.{n}": x for n, x in s.items()}},
    lambda s: {"model": {n: x * 0 for n, x in s.items()}, "model_ema": s},  # the average wins
])
def test_reads_and_unwraps(tmp_path, wrap):
    torch.save(wrap(state()), tmp_path / "w.pth")
    got = torch_weights.read(tmp_path / "w.pth")
    assert set(got) == {"a.weight", "a.bias", "n"}
    np.testing.assert_array_equal(got["a.weight"], np.arange(6).reshape(2, 3))
    assert got["a.bias"].dtype == np.float32 and got["n"].shape == ()


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_nothing_in_the_file_runs(tmp_path):
    for save, name in ((torch.save, "zip.pth"),
                       (lambda x, p: p.write_bytes(pickle.dumps(x)), "plain.pth")):
        path = tmp_path / name
        save({"w": Bomb(tmp_path / "ran")}, path)
        with pytest.raises(ValueError) as error:
            torch_weights.read(path)
        assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)
        assert not (tmp_path / "ran").exists()


def test_damaged_and_foreign_files(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(state(), path)
    good = path.read_bytes()
    for content in (b"", good[:50], good[:-40], b"hello, no weights here"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="w.pth: damaged, or not a plain file of weights"):
            torch_weights.read(path)
    for value in ([1, 2], {}, {"a": 3}, {1: torch.ones(2)}):
        torch.save(value, path)
        with pytest.raises(ValueError, match="w.pth: holds no state dict"):
            torch_weights.read(path)
    with pytest.raises(FileNotFoundError, match="no such file of weights"):
        torch_weights.read(tmp_path / "none.pth")
