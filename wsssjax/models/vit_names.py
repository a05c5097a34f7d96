"""DINOv2's weights between three layouts: the hub's, Hugging Face's, and ours with stacked blocks.

    hub           blocks.3.attn.qkv.weight [3 d, d]
    Hugging Face  encoder.layer.3.attention.attention.{query,key,value}.weight [d, d]
    ours          blocks/attn/qkv/kernel [depth, d, 3 d]
All moves are exact, both ways.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from wsssjax.core import weights
from wsssjax.models.vit import PATCH

TOKENS = ("cls_token", "pos_embed", "mask_token", "register_tokens")
_TO_OURS = {"weight": "kernel", "bias": "bias", "gamma": "gamma"}
_CHUNKED = re.compile(r"^blocks\.\d+\.(\d+)\.")  # as DINOv2's own training code writes them
_BLOCK = re.compile(r"^blocks\.(\d+)\.(.+)$")
# Hugging Face's names of what lies in a block and outside, as (theirs, the hub's).
_HF_BLOCK = (
    ("attention.output.dense", "attn.proj"), ("layer_scale1.lambda1", "ls1.gamma"),
    ("layer_scale2.lambda1", "ls2.gamma"), ("mlp.weights_in", "mlp.w12"),
    ("mlp.weights_out", "mlp.w3"), ("norm1", "norm1"), ("norm2", "norm2"), ("mlp", "mlp"),
)
_HF_OUTSIDE = (
    ("embeddings.patch_embeddings.projection", "patch_embed.proj"), ("layernorm", "norm"),
    ("embeddings.position_embeddings", "pos_embed"), *(
        (f"embeddings.{name}", name) for name in ("cls_token", "mask_token", "register_tokens")),
)
_HF_ATTENTION = "attention.attention."


def from_hub(tensors: Mapping[str, np.ndarray], prefix: str = "params/") -> dict[str, np.ndarray]:
    """Our flat names from the hub's. ValueError that lists the names that no DINOv2 has.

    tensors: float arrays of one encoder, PyTorch layouts.  prefix: what our names start with.
    """
    flat, stacks = {}, {}
    _refuse([f"{name} {list(np.shape(value))}" for name, value in tensors.items()
             if _ours(_BLOCK.sub(r"\2", _CHUNKED.sub(r"blocks.\1.", name)), value) is None])
    for name, value in tensors.items():
        name, value = _CHUNKED.sub(r"blocks.\1.", name), np.asarray(value, np.float32)
        found = _BLOCK.match(name)
        ours, value = _ours(found[2] if found else name, value)
        if found:
            stacks.setdefault(f"blocks/{ours}", {})[int(found[1])] = value
        else:
            flat[prefix + ours] = value
    depth = 1 + max((i for rows in stacks.values() for i in rows), default=-1)
    for name, rows in stacks.items():
        if gaps := sorted(set(range(depth)) - set(rows)):
            raise ValueError(f"{name.replace('/', '.')} is missing in {len(gaps)} of {depth} "
                             f"blocks, the first of them {gaps[0]}")
        flat[prefix + name] = np.stack([rows[i] for i in range(depth)])
    return flat


def to_hub(flat: Mapping[str, np.ndarray], prefix: str = "params/") -> dict[str, np.ndarray]:
    """The hub's names from ours; the inverse of `from_hub`."""
    tensors = {}
    for name, value in flat.items():
        *path, kind = name.removeprefix(prefix).split("/")
        value = np.asarray(value, np.float32)
        if path[:1] == ["blocks"]:
            for i, row in enumerate(value):
                theirs, row = _theirs(path[1:], kind, row)
                tensors[f"blocks.{i}.{theirs}"] = row
        else:
            theirs, tensors[theirs] = _theirs(path, kind, value)
    return tensors


def _refuse(names: list[str]) -> None:
    if names:
        raise ValueError(f"{weights.listed(names)}: no tensor of a DINOv2 encoder")


def _ours(name: str, value: np.ndarray):
    """(our name, our layout) of one tensor, or None where a DINOv2 has no such tensor."""
    *path, kind = name.split(".")
    if name in TOKENS:
        return name, value
    if name == "patch_embed.proj.weight" and value.ndim == 4:
        # [d, 3, 14, 14] to the rows of a matrix: pixels outermost, colours innermost.
        return "patch_embed/proj/kernel", np.ascontiguousarray(
            value.transpose(2, 3, 1, 0).reshape(-1, value.shape[0]))
    norm = path[-1:] and path[-1].startswith("norm")
    rank = 2 if kind == "weight" and not norm else 1
    if not path or kind not in _TO_OURS or value.ndim != rank:
        return None
    if norm and kind == "weight":
        return "/".join([*path, "scale"]), value
    value = np.ascontiguousarray(value.T) if kind == "weight" else value
    return "/".join([*path, _TO_OURS[kind]]), value


def _theirs(path: list[str], kind: str, value: np.ndarray):
    if not path:
        return kind, value
    if path[-2:] == ["patch_embed", "proj"] and kind == "kernel":
        value = value.reshape(PATCH, PATCH, -1, value.shape[-1]).transpose(3, 2, 0, 1)
    elif kind == "kernel":
        value = value.T
    kind = "weight" if kind in ("kernel", "scale") else kind
    return ".".join([*path, kind]), np.ascontiguousarray(value)


def from_public(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our flat names from the hub's or from Hugging Face's, whichever these are."""
    if any("embeddings.cls_token" in name for name in tensors):
        tensors = hub_from_hf(tensors)
    return from_hub(tensors)


def hub_from_hf(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The hub's names from Hugging Face's; the three attention matrices become one.

    A model's own prefix (`dinov2.`, `dinov2_with_registers.`, `backbone.`) is taken off; a
    classifier's head is passed over. ValueError for other names that no DINOv2 has.
    """
    hub, thirds, unknown = {}, {}, []
    for name, value in tensors.items():
        if name.startswith("classifier."):
            continue
        bare = re.sub(r"^(dinov2|dinov2_with_registers|backbone)\.", "", name)
        layer = re.match(r"^encoder\.layer\.(\d+)\.(.+)$", bare)
        head, rest = (f"blocks.{layer[1]}.", layer[2]) if layer else ("", bare)
        if layer and rest.startswith(_HF_ATTENTION):
            part, _, kind = rest.removeprefix(_HF_ATTENTION).partition(".")
            thirds.setdefault(f"{head}attn.qkv.{kind}", {})[part] = np.asarray(value)
            continue
        renamed = _renamed(rest, _HF_BLOCK if layer else _HF_OUTSIDE)
        if renamed is None:
            unknown.append(name)
        else:
            hub[head + renamed] = value
    _refuse(unknown)
    for name, parts in thirds.items():
        if set(parts) != {"query", "key", "value"}:
            raise ValueError(f"{name} is made of query, key and value; found {sorted(parts)}")
        hub[name] = np.concatenate([parts[p] for p in ("query", "key", "value")])
    return hub


def hf_from_hub(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Hugging Face's names (without a model prefix) from the hub's; the inverse."""
    found = {}
    for name, value in tensors.items():
        block = _BLOCK.match(name)
        head, rest = (f"encoder.layer.{block[1]}.", block[2]) if block else ("", name)
        if rest.startswith("attn.qkv."):
            kind = rest.rsplit(".", 1)[1]
            for part, third in zip(("query", "key", "value"), np.split(value, 3), strict=True):
                found[f"{head}{_HF_ATTENTION}{part}.{kind}"] = third
            continue
        table = tuple((b, a) for a, b in (_HF_BLOCK if block else _HF_OUTSIDE))
        renamed = _renamed(rest, table)
        _refuse([name] if renamed is None else [])
        found[head + renamed] = value
    return found


def _renamed(name: str, table) -> str | None:
    for old, new in table:
        if name == old or name.startswith(f"{old}."):
            return new + name[len(old):]
    return None
