"""UniMatch V2 in PyTorch: the step that ours is compared with, in numbers and in speed.

It shares nothing with our JAX code: the encoder is the DINOv2 of `transformers` (5 or later), and
the DPT head, losses and optimizer step are written here after the published description. Images are
[b, c, h, w]; tensors have the names of the public files, `backbone.<DINOv2 name>`, `head.<name>`.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from torch import nn

IGNORE, PATCH = 255, 14
TABLE = 37  # cells on a side of the stored table of positions


class Size(NamedTuple):
    """One row of the public models."""

    depth: int
    width: int
    heads: int
    taps: tuple[int, ...]  # blocks whose outputs the head reads, from 0
    head_width: int
    channels: tuple[int, ...]  # of the head's four projections


SIZES = {
    "small": Size(12, 384, 6, (2, 5, 8, 11), 64, (48, 96, 192, 384)),
    "base": Size(12, 768, 12, (2, 5, 8, 11), 128, (96, 192, 384, 768)),
    "large": Size(24, 1024, 16, (4, 11, 17, 23), 256, (256, 512, 1024, 1024)),
    "giant": Size(40, 1536, 24, (9, 19, 29, 39), 384, (1536,) * 4),
}

# ---- names: the DINOv2 hub's and Hugging Face's ------------------------------------------------
_OUTSIDE = {
    "cls_token": "embeddings.cls_token", "mask_token": "embeddings.mask_token",
    "pos_embed": "embeddings.position_embeddings", "norm": "layernorm",
    "register_tokens": "embeddings.register_tokens",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
}
# In a block; a tuple holds the parts that a tensor is cut into, first rows first. _FILES has the
# names of the published files, _MODULES those that transformers 5 gives its modules.
_SHARED = {"norm1": "norm1", "norm2": "norm2", "ls1.gamma": "layer_scale1.lambda1",
           "ls2.gamma": "layer_scale2.lambda1", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
_MODULES = _SHARED | {
    "attn.qkv": ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    "attn.proj": "attention.o_proj",
    "mlp.w12": ("mlp.gate_proj", "mlp.up_proj"), "mlp.w3": "mlp.down_proj",
}
_FILES = _SHARED | {
    "attn.qkv": tuple(f"attention.attention.{part}" for part in ("query", "key", "value")),
    "attn.proj": "attention.output.dense",
    "mlp.w12": "mlp.weights_in", "mlp.w3": "mlp.weights_out",
}


def hf_from_hub(tensors: dict, *, modules: bool = False) -> dict:
    """DINOv2's hub names → Hugging Face's, of the files or of modules; torch or numpy arrays."""
    table = _MODULES if modules else _FILES
    result = {}
    for name, value in tensors.items():
        block, stem, kind = _parts(name, r"blocks\.(\d+)\.")
        new = (table if block else _OUTSIDE).get(stem)
        if new is None:
            raise ValueError(f"{name}: no tensor of a DINOv2 hub file")
        names = _tuple(new)
        rows = len(value) // len(names)
        for i, part in enumerate(names):
            prefix = f"encoder.layer.{block}." if block else ""
            result[f"{prefix}{part}{kind}"] = value[i * rows:(i + 1) * rows]
    return result


def hub_from_hf(tensors: dict) -> dict:
    """Hugging Face's names, of a file or of modules → DINOv2's hub names, parts joined."""
    inside = {}
    for table in (_FILES, _MODULES):
        for hub, new in table.items():
            inside |= {part: (hub, i, len(_tuple(new))) for i, part in enumerate(_tuple(new))}
    outside = {new: (hub, 0, 1) for hub, new in _OUTSIDE.items()}
    pieces = {}
    for name, value in tensors.items():
        block, stem, kind = _parts(name, r"encoder\.layer\.(\d+)\.")
        found = (inside if block else outside).get(stem)
        if found is None:
            raise ValueError(f"{name}: no tensor of a Hugging Face DINOv2")
        hub, index, count = found
        new = f"blocks.{block}.{hub}{kind}" if block else f"{hub}{kind}"
        pieces.setdefault(new, [None] * count)[index] = value
    for name, parts in pieces.items():
        if any(part is None for part in parts):
            raise ValueError(f"{name}: {len(parts)} parts make it, and not all of them are there")
    return {name: _join(parts) if parts[1:] else parts[0] for name, parts in pieces.items()}


def _parts(name: str, block_pattern: str) -> tuple[str, str, str]:
    """(number of the block or "", the name inside it, ".weight", ".bias" or "")."""
    match = re.match(block_pattern, name)
    rest = name[match.end():] if match else name
    kind = re.search(r"\.(weight|bias)$|$", rest).group()
    return (match.group(1) if match else ""), rest.removesuffix(kind), kind


def _tuple(names: str | tuple) -> tuple:
    return names if isinstance(names, tuple) else (names,)


def _join(parts: list):
    return torch.cat(parts) if isinstance(parts[0], torch.Tensor) else np.concatenate(parts)


# ---- the network -------------------------------------------------------------------------------


class Encoder(nn.Module):
    """Four maps [b, d, h/14, w/14] of a DINOv2, each through the one final norm.

    offset: resize the table of positions as UniMatch V2 does; False leaves that to transformers.
    """
    def __init__(self, size: Size, swiglu: bool, registers: int, offset: bool, attention: str):
        super().__init__()
        name = "Dinov2WithRegisters" if registers else "Dinov2"
        extra = {"num_register_tokens": registers} if registers else {}
        config = getattr(transformers, f"{name}Config")(
            hidden_size=size.width, num_hidden_layers=size.depth, num_attention_heads=size.heads,
            image_size=PATCH * TABLE, patch_size=PATCH, layer_norm_eps=1e-6, layerscale_value=1.0,
            use_swiglu_ffn=swiglu, **extra)
        config._attn_implementation = attention
        self.model = getattr(transformers, f"{name}Model")(config)
        self.taps, self.registers, self.offset = size.taps, registers, offset

    def forward(self, image_bchw):
        grid = [side // PATCH for side in image_bchw.shape[2:]]
        x = self._embed(image_bchw, grid) if self.offset else self.model.embeddings(image_bchw)
        maps = []
        for i, block in enumerate(self.model.encoder.layer):
            x = block(x)
            if i in self.taps:
                patches = self.model.layernorm(x)[:, 1 + self.registers:]
                maps.append(patches.transpose(1, 2).unflatten(2, grid))
        return maps

    def _embed(self, image_bchw, grid):
        own = self.model.embeddings
        x = own.patch_embeddings(image_bchw)
        x = torch.cat([own.cls_token.expand(len(x), -1, -1), x], 1)
        x = x + resize_positions(own.position_embeddings, grid).to(x.dtype)
        if self.registers:
            tokens = own.register_tokens.expand(len(x), -1, -1)
            x = torch.cat([x[:, :1], tokens, x[:, 1:]], 1)
        return x


def resize_positions(table_1nd, grid: Sequence[int]):
    """[1, 1 + 37², d] → [1, 1 + p q, d]; unchanged where the grid is the table's own."""
    if tuple(grid) == (TABLE, TABLE):
        return table_1nd
    cells = table_1nd[:, 1:].transpose(1, 2).unflatten(2, (TABLE, TABLE)).float()
    scale = [(side + 0.1) / TABLE for side in grid]  # the offset shifts the samples: it must stay
    cells = F.interpolate(cells, scale_factor=scale, mode="bicubic", align_corners=False)
    assert list(cells.shape[2:]) == list(grid), (cells.shape, grid)
    return torch.cat([table_1nd[:, :1], cells.flatten(2).transpose(1, 2).to(table_1nd.dtype)], 1)


class Unit(nn.Module):
    """x + conv(relu(conv(relu(x))))."""
    def __init__(self, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class Fusion(nn.Module):
    """A coarse map and the skip of its level, at `size`."""
    def __init__(self, width: int):
        super().__init__()
        self.resConfUnit1, self.resConfUnit2 = Unit(width), Unit(width)
        self.out_conv = nn.Conv2d(width, width, 1)

    def forward(self, x, skip, size):
        if skip is not None:
            x = x + self.resConfUnit1(skip)
        return self.out_conv(enlarge(self.resConfUnit2(x), size))


class Head(nn.Module):
    """DPT: class scores at twice the resolution of the finest level."""
    def __init__(self, width_in: int, width: int, c: Sequence[int], num_classes: int):
        super().__init__()
        self.projects = nn.ModuleList(nn.Conv2d(width_in, n, 1) for n in c)
        self.resize_layers = nn.ModuleList([
            nn.ConvTranspose2d(c[0], c[0], 4, 4), nn.ConvTranspose2d(c[1], c[1], 2, 2),
            nn.Identity(), nn.Conv2d(c[3], c[3], 3, 2, 1)])
        self.scratch = nn.Module()
        for i, n in enumerate(c, 1):
            setattr(self.scratch, f"layer{i}_rn", nn.Conv2d(n, width, 3, padding=1, bias=False))
            setattr(self.scratch, f"refinenet{i}", Fusion(width))
        self.scratch.output_conv = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, num_classes, 1))

    def forward(self, maps):
        own = self.scratch
        r1, r2, r3, r4 = (
            getattr(own, f"layer{i + 1}_rn")(self.resize_layers[i](self.projects[i](x)))
            for i, x in enumerate(maps))
        x = own.refinenet4(r4, None, r3.shape[2:])
        x = own.refinenet3(x, r3, r2.shape[2:])
        x = own.refinenet2(x, r2, r1.shape[2:])
        x = own.refinenet1(x, r1, [2 * n for n in r1.shape[2:]])
        return own.output_conv(x)


def enlarge(x, size: Sequence[int]):
    """Bilinear, corner pixels staying corner pixels."""
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=True)


class Segmenter(nn.Module):
    """Logits [b, k, h, w]; `encoder` and `decode` are its halves."""
    def __init__(self, encoder: Encoder, head: Head):
        super().__init__()
        self.encoder, self.head = encoder, head

    def decode(self, maps, size: Sequence[int], drop_bd=None):
        if drop_bd is not None:
            maps = [x * drop_bd[:, :, None, None].to(x.dtype) for x in maps]
        z = self.head(maps)
        return enlarge(z.float() if z.dtype in (torch.bfloat16, torch.float16) else z, size)

    def forward(self, image_bchw, drop_bd=None):
        return self.decode(self.encoder(image_bchw), image_bchw.shape[2:], drop_bd)


def build(size: str, num_classes: int, *, depth: int | None = None, width: int | None = None,
          head_width: int | None = None, taps: Sequence[int] | None = None,
          registers: bool = False, offset: bool = True, attention: str = "sdpa") -> Segmenter:
    """A segmenter of one of SIZES, any part of it made smaller for tests; random weights.

    width: a multiple of 64, the width of an attention head.  taps: by default those of the public
    model, or the ends of four equal parts where `depth` is given.
    """
    own = SIZES[size]
    if depth is not None and taps is None:
        taps = [(i + 1) * depth // 4 - 1 for i in range(4)]
    channels = [n * head_width // 4 for n in (3, 6, 12, 24)] if head_width else own.channels
    width = width or own.width
    own = Size(depth or own.depth, width, width // 64, tuple(taps or own.taps),
               head_width or own.head_width, tuple(channels))
    encoder = Encoder(own, size == "giant", 4 if registers else 0, offset, attention)
    return Segmenter(encoder, Head(own.width, own.head_width, own.channels, num_classes))


def state_dict(model: Segmenter) -> dict[str, torch.Tensor]:
    """All tensors under the names of the public files; detached, a qkv tensor being a copy."""
    hub = hub_from_hf(model.encoder.model.state_dict())
    flat = {f"backbone.{name}": x for name, x in hub.items()}
    return flat | {f"head.{name}": x for name, x in model.head.state_dict().items()}


def load_state_dict(model: Segmenter, flat: dict[str, torch.Tensor]) -> None:
    """Copies tensors, named as by `state_dict`, into the model; every name must be there."""
    parts = {"backbone": {}, "head": {}}
    for name, x in flat.items():
        part, rest = name.split(".", 1)
        parts[part][rest] = x
    model.encoder.model.load_state_dict(hf_from_hub(parts["backbone"], modules=True))
    model.head.load_state_dict(parts["head"])


# ---- the step ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What a step depends on beside the weights; the defaults are those published for VOC."""

    total_steps: int
    freeze_encoder: bool = False
    lr: float = 5e-6
    head_factor: float = 40.0
    conf_threshold: float = 0.95
    ema_limit: float = 0.996
    autocast: torch.dtype | None = None  # such as torch.bfloat16


@dataclasses.dataclass
class Run:
    """A training under way. losses: `unimatch_losses`, or what torch.compile made of it."""

    settings: Settings
    student: Segmenter
    teacher: Segmenter
    optimizer: torch.optim.Optimizer
    losses: Callable
    step: int = 0


def start(student: Segmenter, settings: Settings, losses: Callable | None = None) -> Run:
    """A run at step 0; the teacher is a copy of the student, sharing an encoder that is frozen."""
    student.encoder.requires_grad_(not settings.freeze_encoder)
    if settings.freeze_encoder:
        teacher = Segmenter(student.encoder, copy.deepcopy(student.head))
        teacher.head.requires_grad_(False)
    else:
        teacher = copy.deepcopy(student).requires_grad_(False)
    parts = ((student.encoder, 1.0), (student.head, settings.head_factor))
    groups = [{"params": [p for p in part.parameters() if p.requires_grad], "factor": factor}
              for part, factor in parts]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], betas=(0.9, 0.999),
                                  eps=1e-8, weight_decay=0.01, fused=True)
    return Run(settings, student, teacher, optimizer, losses or unimatch_losses)


def cut_mix(x, box_bhw):
    """x with every box filled from the mirrored row of the batch."""
    return torch.where(box_bhw[:, None] if x.ndim == 4 else box_bhw, x.flip(0), x)


def drop_factors(kept_bd, whole_b):
    """[3b, d]: ones for the labelled; then doubled in one view, zero in the other, or whole."""
    first = torch.where(whole_b[:, None], 1.0, 2.0 * kept_bd)
    return torch.cat([torch.ones_like(first), first, 2.0 - first])


def unimatch_losses(student: Segmenter, teacher: Segmenter, batch: dict, settings: Settings):
    """(loss, loss_x, loss_u, mask ratio) of one batch; see `train_step`."""
    size = batch["image"].shape[2:]
    rows = len(batch["image"])
    with torch.no_grad():
        conf, label = teacher(batch["weak"]).softmax(1).max(1)
    sure, valid = conf >= settings.conf_threshold, batch["valid"]
    mixed = [cut_mix(batch[f"strong{v}"], batch[f"cut{v}"]) for v in (1, 2)]
    images = torch.cat([batch["image"], *mixed])
    drop = drop_factors(batch["kept"], batch["whole"])
    with torch.no_grad() if settings.freeze_encoder else contextlib.nullcontext():
        maps = student.encoder(images)
    z_x, *z_u = student.decode(maps, size, drop).split(rows)
    loss_x = F.cross_entropy(z_x, batch["label"], ignore_index=IGNORE)
    parts = []
    for z, box in zip(z_u, (batch["cut1"], batch["cut2"]), strict=True):
        target, teaches, counts = (cut_mix(t, box) for t in (label, sure & valid, valid))
        pixel = F.cross_entropy(z, target, reduction="none")
        parts.append((pixel * teaches).sum() / counts.sum())
    loss_u = (parts[0] + parts[1]) / 2
    return (loss_x + loss_u) / 2, loss_x, loss_u, (sure & valid).sum() / valid.sum()


def train_step(run: Run, batch: dict) -> dict[str, torch.Tensor]:
    """Makes one step and returns its scalars (tensors, so that nothing waits for the device).

    batch: image, weak, strong1, strong2 [b,3,h,w]; label int64 [b,h,w], 255 = ignore; valid, cut1,
    cut2 bool [b,h,w]; and the draws of the dropout, kept bool [b,d] (channels that view 1 keeps)
    and whole bool [b] (pairs left undropped). Labelled and strong images share one forward, which
    no layer can tell from two.
    """
    settings, k = run.settings, run.step
    half = settings.autocast
    with torch.autocast(batch["image"].device.type, half, enabled=half is not None):
        loss, loss_x, loss_u, ratio = run.losses(run.student, run.teacher, batch, settings)
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    # The rate was set after the step before: steps 0 and 1 both run on the first one.
    rate = settings.lr * (1 - max(k - 1, 0) / settings.total_steps) ** 0.9
    for group in run.optimizer.param_groups:
        group["lr"] = rate * group["factor"]
    norms = [_grad_norm(part) for part in (run.student.encoder, run.student.head)]
    run.optimizer.step()
    _follow(run.teacher, run.student, min(1 - 1 / (k + 1), settings.ema_limit))
    run.step += 1
    return {"loss": loss.detach(), "loss_x": loss_x.detach(), "loss_u": loss_u.detach(),
            "mask_ratio": ratio, "grad_backbone": norms[0], "grad_head": norms[1]}


@torch.no_grad()
def _follow(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    pairs = zip(teacher.parameters(), student.parameters(), strict=True)
    old, new = zip(*[(t, s) for t, s in pairs if t is not s], strict=True)
    torch._foreach_mul_(old, decay)
    torch._foreach_add_(old, new, alpha=1 - decay)


def _grad_norm(part: nn.Module):
    grads = [p.grad for p in part.parameters() if p.grad is not None]
    return torch.stack(torch._foreach_norm(grads)).norm() if grads else torch.zeros(())
