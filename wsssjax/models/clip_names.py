"""CLIP's weights from the two public layouts into ours, whose blocks are stacked.

    OpenAI, open_clip   visual.transformer.resblocks.3.attn.in_proj_weight [3 d, d]
    Hugging Face        vision_model.encoder.layers.3.self_attn.{q,k,v}_proj.weight [d, d]
    ours                blocks/attn/in_proj/kernel [depth - 1, d, 3 d], last/attn/in_proj/kernel

Both files hold two towers; each function takes its own and passes over the other. Exact.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from wsssjax.core import weights
from wsssjax.models import clip

# What belongs to neither tower, or is no weight: sizes, and lists of numbers that count up.
OTHERS = re.compile(r"^(logit_scale|input_resolution|context_length|vocab_size)$|position_ids$")
TEXT = re.compile(r"^(transformer|token_embedding|ln_final)\.|^(positional_embedding|"
                  r"text_projection)$")
_BLOCK = re.compile(r"^(visual\.)?transformer\.resblocks\.(\d+)\.(.+)$")
_HF_BLOCK = re.compile(r"^(vision|text)_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)$")
_HF_IN_BLOCK = {"self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2",
                "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
_HF_OUTSIDE = {
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    "visual_projection.weight": "visual.proj",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "text_projection.weight": "text_projection",
}
_TURNED = ("visual_projection.weight", "text_projection.weight")  # [out, in] there, [in, out] here


def image_tower(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our flat names (`params/…`) of the image tower, from either layout.

    ValueError that lists names that no CLIP has, or says which block lacks a tensor.
    """
    found = {name.removeprefix("visual."): x for name, x in _openai(tensors).items()
             if name.startswith("visual.")}
    flat = _ours(found)
    for name in [n for n in flat if n.startswith("params/blocks/")]:
        rows = flat.pop(name)
        flat[name] = rows[:-1]
        flat[name.replace("/blocks/", "/last/", 1)] = rows[-1]
    return flat


def text_tower(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our flat names (`params/…`) of the text tower, from either layout; errors as above."""
    return _ours({name: x for name, x in _openai(tensors).items() if TEXT.match(name)})


def text_size(flat: Mapping[str, np.ndarray]) -> clip.TextSize:
    """The sizes that a text tower's weights have, by our names; ValueError where some are missing.
    """
    want = {"token_embedding": 2, "positional_embedding": 2, "text_projection": 2,
            "blocks/ln_1/scale": 2}
    for name, rank in want.items():
        if np.ndim(flat.get(f"params/{name}")) != rank:
            raise ValueError(f"missing {name.replace('/', '.')}, or not of rank {rank}")
    (vocabulary, width), (context, _), (_, embed), (depth, _) = (
        flat[f"params/{name}"].shape for name in want)
    if width % clip.HEAD_WIDTH:
        raise ValueError(f"width {width}: want a multiple of {clip.HEAD_WIDTH}")
    return clip.TextSize(width, depth, vocabulary, context, embed)


def passed_over(tensors: Mapping[str, np.ndarray]) -> list[str]:
    """The names that `image_tower` does not read: the text tower's, and those of no weight."""
    return sorted(name for name in tensors if OTHERS.search(name) or TEXT.match(name)
                  or name.startswith(("text_model.", "text_projection.")))


def _openai(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """OpenAI's names from either layout, without what is no weight; floats are float32."""
    hf = any(name.startswith(("vision_model.", "text_model.")) for name in tensors)
    found, thirds, unknown = {}, {}, []
    for name, value in tensors.items():
        value = np.asarray(value)
        if OTHERS.search(name):
            continue
        value = value.astype(np.float32)
        block = _HF_BLOCK.match(name)
        if not hf:
            if not (name.startswith("visual.") or TEXT.match(name)):
                unknown.append(name)
            found[name] = value
        elif block:
            tower, row, part, kind = block.groups()
            head = f"{'visual.' * (tower == 'vision')}transformer.resblocks.{row}."
            if part in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
                whole = f"{head}attn.in_proj_{kind}"
                thirds.setdefault(whole, {})[part.removeprefix("self_attn.")[0]] = value
            elif part in _HF_IN_BLOCK:
                found[f"{head}{_HF_IN_BLOCK[part]}.{kind}"] = value
            else:
                unknown.append(name)
        elif name in _HF_OUTSIDE:
            found[_HF_OUTSIDE[name]] = value.T if name in _TURNED else value
        else:
            unknown.append(name)
    if unknown:
        raise ValueError(f"{weights.listed(unknown)}: no tensor of a CLIP vision transformer")
    for name, parts in thirds.items():
        if set(parts) != set("qkv"):
            raise ValueError(f"{name} is made of q, k and v; found {', '.join(sorted(parts))}")
        found[name] = np.concatenate([parts[p] for p in "qkv"])
    return found


def _ours(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our flat names of one tower, its blocks stacked."""
    flat, stacks = {}, {}
    for name, value in tensors.items():
        block = _BLOCK.match(name)
        ours, value = _leaf(block[3] if block else name, value)
        if block:
            stacks.setdefault(f"params/blocks/{ours}", {})[int(block[2])] = value
        else:
            flat[f"params/{ours}"] = value
    depth = 1 + max((i for rows in stacks.values() for i in rows), default=-1)
    for name, rows in stacks.items():
        if gaps := sorted(set(range(depth)) - set(rows)):
            raise ValueError(f"{name.removeprefix('params/')} is missing in {len(gaps)} of {depth} "
                             f"blocks, the first of them {gaps[0]}")
        flat[name] = np.stack([rows[i] for i in range(depth)])
    return flat


def _leaf(name: str, value: np.ndarray) -> tuple[str, np.ndarray]:
    """(our name, our layout) of one tensor."""
    if name == "conv1.weight":
        # [d, 3, s, s] to the rows of a matrix: pixels outermost, colours innermost.
        return "conv1", np.ascontiguousarray(value.transpose(2, 3, 1, 0).reshape(-1, len(value)))
    name = name.replace("in_proj_", "in_proj.")
    path, _, kind = name.rpartition(".")
    if name == "token_embedding.weight":
        return "token_embedding", value
    if kind not in ("weight", "bias"):
        return name, value
    if kind == "weight" and value.ndim == 2:
        kind, value = "kernel", np.ascontiguousarray(value.T)
    elif kind == "weight":
        kind = "scale"
    return f"{path.replace('.', '/')}/{kind}", value
