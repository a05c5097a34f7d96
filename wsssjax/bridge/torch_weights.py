"""State dicts in and out of PyTorch files, without running what is pickled in them."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping

import numpy as np

from wsssjax.core import files, weights

WRAPPERS = ("model_ema", "state_dict", "model")  # entries under which trainers keep the weights


def read(path: str | os.PathLike, entry: str = "") -> dict[str, np.ndarray]:
    """Arrays by the names of a .pth file; floats of 16 bits come out as float32.

    Trainers wrap state dicts ({"model": ..., "epoch": 3}) and prefix names with `module.`; both are
    taken off. entry: the wrapper's entry to take, such as "model_ema" ("": the first of WRAPPERS
    that is there); a plain state dict is read whatever it says, unless it names the average, which
    a plain state dict may not be.
    ValueError for a file that holds other objects beside plain values, all of them named: it is not
    trusted, so nothing of them is run; and for a state dict with anything but tensors in it.
    """
    torch = _torch(path)
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of weights")
    content = _load(torch, path)
    found = [name for name in WRAPPERS
             if isinstance(content, dict) and isinstance(content.get(name), dict)]
    if entry and entry not in found and (found or entry == "model_ema"):
        raise ValueError(f"{path}: has no entry {entry!r}; it has "
                         f"{', '.join(found) or 'a plain state dict'}")
    if found:
        content = content[entry or found[0]]
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path}: holds no state dict; want tensors by name")
    others = [f"{name} ({type(x).__name__})" for name, x in content.items()
              if not (isinstance(name, str) and torch.is_tensor(x))]
    if others:
        raise ValueError(f"{path}: holds no state dict; want tensors by name, found "
                         f"{weights.listed(others)}")
    return {name.removeprefix("module."): _array(x, torch) for name, x in content.items()}


def write(path: str | os.PathLike, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a plain state dict that `torch.load(path, weights_only=True)` reads."""
    torch = _torch(path)
    state = {name: torch.from_numpy(np.array(x)) for name, x in tensors.items()}
    with files.atomic(path) as file:
        torch.save(state, file)


def _torch(path):
    try:
        import torch
    except ImportError:
        raise ValueError(f"{path}: PyTorch's own format needs torch; "
                         "pip install 'wsssjax[torch]'") from None
    return torch


def _load(torch, path):
    try:
        # Trainers leave their best score in the file as numpy's float; it is a plain value too.
        with torch.serialization.safe_globals(_numpy_scalars()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds here, all of them meaning a bad file
        reason = str(error).strip().split("\n")[0].split(". ")[0]
        if others := _foreign(torch, path):
            reason = f"objects that are no tensors, {weights.listed(others)}"
        raise ValueError(f"{path}: damaged, or not a plain file of weights ({reason}); download it "
                         "again") from None


def _numpy_scalars() -> list:
    scalar = np.float64(0).__reduce__()[0]
    kinds = [type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32")]
    return [np.dtype, *kinds, *(
        (scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core"))]


def _foreign(torch, path) -> list[str]:
    """Names of what a file would have to run to be read; empty where that cannot be told."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # noqa: BLE001  (a damaged or old file: the first message stands)
        return []


def _array(tensor, torch) -> np.ndarray:
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()
    return tensor.detach().numpy()
