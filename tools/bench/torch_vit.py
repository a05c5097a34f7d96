"""Class maps from DINOv2 and from CLIP in PyTorch eager: network, maps and their refinement.

They share nothing with our JAX code. Interface: see torch_classifiers.py. DINOv2 is the model of
`transformers`; CLIP's image tower is written out under OpenAI's names.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch_classifiers import package

# ---- DINOv2 ------------------------------------------------------------------------------------


class DinoMaps(nn.Module):
    """A linear head on the last patch tokens; ReLU(maps) take steps of a walk over the tokens."""

    def __init__(self, size: str, classes: int, power: float, steps: int):
        super().__init__()
        package("transformers", "transformers")
        import torch_reference  # beside this file; it imports transformers

        own = torch_reference.SIZES[size]
        own = own._replace(taps=(own.depth - 1,))
        self.encoder = torch_reference.Encoder(own, False, 0, True, "sdpa")
        self.head = nn.Conv2d(own.width, classes, 1, bias=False)
        self.power, self.steps = power, steps

    def forward(self, x, tags_bk):
        (features,) = self.encoder(x)
        maps = F.relu(self.head(features)).flatten(2).transpose(1, 2)
        tokens = F.normalize(features.flatten(2).transpose(1, 2).float(), dim=-1)
        cosine = tokens @ tokens.transpose(1, 2)
        alike = F.relu(cosine - cosine.mean((1, 2), keepdim=True)) ** self.power
        whole = alike.sum(-1, keepdim=True) + 1e-6
        affinity = (alike + 1e-6 * torch.eye(alike.shape[1], device=alike.device)) / whole
        maps = maps.float()
        for _ in range(self.steps):
            maps = affinity @ maps
        return maps.transpose(1, 2).unflatten(2, features.shape[2:])


def dino(size: str, classes: int, infer) -> nn.Module:
    """Random weights, evaluation mode. size: small, base.  infer: config.infer of our method."""
    return DinoMaps(size, classes, infer.affinity_power, infer.affinity_steps).eval()


# ---- CLIP --------------------------------------------------------------------------------------

PATCH, GRID, WIDTH, DEPTH, HEADS, EMBED = 16, 14, 768, 12, 12, 512


class _ClipMlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.c_fc, self.c_proj = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        x = self.c_fc(x)
        return self.c_proj(x * torch.sigmoid(1.702 * x))


class _ClipBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.mlp = _ClipMlp()

    def forward(self, x, keep: bool):
        """(tokens, attention averaged over the heads, or None)."""
        return self.behind(x, self.ln_1(x), keep)

    def behind(self, x, normed, keep: bool):
        y, weights = self.attn(normed, normed, normed, need_weights=keep)
        x = x + y
        return x + self.mlp(self.ln_2(x)), weights


class _Tower(nn.Module):
    """The layers of CLIP's image tower; `ClipMaps` runs them."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        scale = WIDTH**-0.5
        self.class_embedding = nn.Parameter(scale * torch.randn(WIDTH))
        self.positional_embedding = nn.Parameter(scale * torch.randn(1 + GRID**2, WIDTH))
        self.proj = nn.Parameter(scale * torch.randn(WIDTH, EMBED))
        self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(_ClipBlock() for _ in range(DEPTH))

    def tokens(self, x):
        """[1, 1 + p q, d], what the first block takes."""
        x = self.conv1(x)
        grid, x = x.shape[2:], x.flatten(2).transpose(1, 2)
        table = self.positional_embedding[1:].T.reshape(1, WIDTH, GRID, GRID)
        table = F.interpolate(table, grid, mode="bilinear", align_corners=False)
        places = torch.cat([self.positional_embedding[:1], table[0].flatten(1).T])
        first = self.class_embedding.expand(len(x), 1, -1)
        return self.ln_pre(torch.cat([first, x], 1) + places)


class ClipMaps(nn.Module):
    """CLIP-ES, photo by photo: gradient maps of its tags, spread by attention inside boxes.

    text_te: float32, unit vectors of the classes, then of the backgrounds.
    """

    def __init__(self, text_te: np.ndarray, scale: float, infer):
        super().__init__()
        self.visual, self.scale, self.infer = _Tower(), scale, infer
        self.register_buffer("text_te", torch.from_numpy(text_te), persistent=False)

    def forward(self, x, tags_bk):
        # What is made in inference mode can't be differentiated.
        with torch.inference_mode(False), torch.no_grad():
            return torch.cat([self._maps(one.clone()[None], tags_k.nonzero()[:, 0].tolist(),
                                         len(tags_k))
                              for one, tags_k in zip(x, tags_bk, strict=True)])

    def _maps(self, x, tagged: list[int], count: int):
        grid, tower = [side // PATCH for side in x.shape[2:]], self.visual
        *front, last = tower.transformer.resblocks
        kept, x = [], tower.tokens(x)
        for i, block in enumerate(front):
            x, weights = block(x, i >= DEPTH - self.infer.attention_blocks)
            kept += [] if weights is None else [weights]
        with torch.enable_grad():
            normed = last.ln_1(x).detach().requires_grad_()
            out, weights = last.behind(x, normed, True)
            chances = self._chances(tower.ln_post(out), tagged, count).unbind()
        attention = torch.stack([*kept, weights.detach()]).mean(0)[0, 1:, 1:]
        affinity = self._affinity(attention)
        found = torch.zeros(1, count, *grid, device=x.device)
        for i, k in enumerate(tagged):
            (gradient,) = torch.autograd.grad(chances[i], normed, retain_graph=True)
            patches = normed.detach()[0, 1:]
            one = by_range(F.relu(patches @ gradient[0, 1:].mean(0)).reshape(grid))
            inside = box_mask((one > self.infer.box_threshold * one.max()).cpu().numpy())
            one = one * torch.from_numpy(inside).to(one)
            found[0, k] = by_range((affinity @ one.flatten()).reshape(grid))
        return found

    def _chances(self, tokens, tagged: list[int], count: int):
        photo = tokens[0, 1:].mean(0) @ self.visual.proj
        said = [*tagged, *range(count, len(self.text_te))]
        return (self.scale * (self.text_te[said] @ (photo / photo.norm()))).softmax(0)

    def _affinity(self, attention):
        for _ in range(self.infer.attention_rounds):
            attention = attention / attention.sum(0, keepdim=True)
            attention = attention / attention.sum(1, keepdim=True)
        affinity = (attention + attention.T) / 2
        for _ in range(self.infer.attention_squarings):
            affinity = affinity @ affinity
        return affinity


def by_range(map_pq):
    """From minimum to maximum."""
    map_pq = map_pq - map_pq.min()
    return map_pq / (map_pq.max() + 1e-7)


def box_mask(mask_pq: np.ndarray) -> np.ndarray:
    """float32 [p,q]: 1 inside the bounding boxes of the mask's regions."""
    found = np.zeros(mask_pq.shape, np.float32)
    _, _, boxes, _ = cv2.connectedComponentsWithStats(mask_pq.astype(np.uint8), connectivity=8)
    for left, top, width, height, _ in boxes[1:]:
        found[top : top + height, left : left + width] = 1
    return found


def clip(text_te: np.ndarray, scale: float, infer) -> nn.Module:
    """Random weights, evaluation mode. infer: config.infer of our method."""
    return ClipMaps(text_te, scale, infer).eval()
