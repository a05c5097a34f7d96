"""State dicts out of PyTorch files, without running what is pickled in them."""

from __future__ import annotations

import os
import pathlib

import numpy as np

WRAPPERS = ("model_ema", "state_dict", "model")  # entries under which trainers keep the weights


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Arrays by the names of a .pth file; floats of 16 bits come out as float32.

    Trainers wrap state dicts ({"model": ..., "epoch": 3}) and prefix names with `module.`; both are
    taken off. Anything beside tensors in plain containers is refused: the file is not trusted.
    """
    try:
        import torch
    except ImportError:
        raise ValueError(f"{path}: reading it needs torch; pip install 'wsssjax[torch]'") from None
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of weights")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds here, all of them meaning a bad file
        reason = str(error).strip().split("\n")[0].split(". ")[0]
        raise ValueError(f"{path}: damaged, or not a plain file of weights ({reason}); download it "
                         "again") from None
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
            break
    if not isinstance(content, dict) or not content or not all(
            isinstance(name, str) and torch.is_tensor(x) for name, x in content.items()):
        raise ValueError(f"{path}: holds no state dict; want tensors by name")
    return {name.removeprefix("module."): _array(x, torch) for name, x in content.items()}


def _array(tensor, torch) -> np.ndarray:
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()
    return tensor.detach().numpy()
