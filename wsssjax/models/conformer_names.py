"""Weights of a Conformer between PyTorch's names and ours."""

from __future__ import annotations

import re

import numpy as np

from wsssjax.models import torch_names

CLASSIFIERS = ("trans_cls_head", "conv_cls_head", "label_enc", "classifier_x")  # no encoder's parts
_IN_BLOCK = r"(norm[12]|attn\.(qkv|proj)|mlp\.fc[12])"
_IN_CONV = r"(conv[123]|bn[123]|residual_conv|residual_bn)"
_LAYER = re.compile(
    rf"(conv1|bn1|trans_patch_conv|trans_norm|conv_1\.{_IN_CONV}|trans_1\.{_IN_BLOCK}"
    rf"|conv_trans_\d+\.((cnn|fusion)_block\.{_IN_CONV}|trans_block\.{_IN_BLOCK}"
    r"|squeeze_block\.(conv_project|ln)|expand_block\.(conv_project|bn)))")


def from_torch(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights under our flat names (`params/conv_1/conv1/kernel`) from a PyTorch state dict.

    tensors: numpy, any float dtype; the result is float32. The prefix "module." is taken off, batch
    counters and the layers that classify (CLASSIFIERS) are passed over; a name of unknown form is a
    ValueError. Whether names are missing is seen when the result is restored.
    """
    flat = {}
    for full, value in tensors.items():
        layer, _, kind = full.removeprefix("module.").rpartition(".")
        if kind == "num_batches_tracked" or layer in CLASSIFIERS:
            continue
        value = np.asarray(value, np.float32)
        if (layer, kind) == ("", "cls_token"):
            flat["params/cls_token"] = value
            continue
        if not _LAYER.fullmatch(layer) or not (name := torch_names.leaf(kind, value.ndim)):
            raise ValueError(f"{full} {list(value.shape)}: no tensor of a Conformer")
        top = "batch_stats" if kind in torch_names.STATISTICS else "params"
        flat["/".join([top, *layer.split("."), name])] = torch_names.moved(value)
    return flat


def to_torch(flat: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The PyTorch state dict of our flat names; the exact inverse, without batch counters."""
    kinds = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean",
             "var": "running_var", "cls_token": "cls_token"}
    tensors = {}
    for name, value in flat.items():
        _, *layer, last = name.split("/")
        back = value.transpose(3, 2, 0, 1) if value.ndim == 4 else (
            value.T if value.ndim == 2 else value)
        tensors[".".join([*layer, kinds[last]])] = np.ascontiguousarray(back)
    return tensors


def passed_over(tensors: dict[str, np.ndarray]) -> list[str]:
    """Names that `from_torch` reads nothing from: of the layers that classify."""
    return [n for n in tensors if n.removeprefix("module.").rpartition(".")[0] in CLASSIFIERS]
