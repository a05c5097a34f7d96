"""TransCAM and BAO on Conformer-S in PyTorch eager, forward alone; layers have the published names.

It shares nothing with our JAX code. Interface: see torch_classifiers.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch_classifiers import randomise

BASE, HEADS = 64, 6
WIDTH = BASE * HEADS  # of a token
DEPTH = 12


def _conv(inputs, outputs, size=1, stride=1, bias=False):
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=bias)


def _norm(width):
    return nn.BatchNorm2d(width, eps=1e-6)


class _ConvBlock(nn.Module):
    """(map after a residual bottleneck, its inner map). extra: added to what the 3x3 reads."""

    def __init__(self, inputs, outputs, stride=1, project=False):
        super().__init__()
        mid = outputs // 4
        self.conv1, self.bn1 = _conv(inputs, mid), _norm(mid)
        self.conv2, self.bn2 = _conv(mid, mid, 3, stride), _norm(mid)
        self.conv3, self.bn3 = _conv(mid, outputs), _norm(outputs)
        self.residual_conv = _conv(inputs, outputs, 1, stride) if project else None
        self.residual_bn = _norm(outputs) if project else None

    def forward(self, x, extra=None):
        y = F.relu(self.bn1(self.conv1(x)))
        inner = F.relu(self.bn2(self.conv2(y if extra is None else y + extra)))
        if self.residual_conv is not None:
            x = self.residual_bn(self.residual_conv(x))
        return F.relu(self.bn3(self.conv3(inner)) + x), inner


class _Attention(nn.Module):
    """(tokens, softmax attention averaged over the heads); it must come out, so it is formed."""

    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, HEADS, BASE).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(2, 3) * BASE**-0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2)), weights.mean(1)


class _Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class _Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, 1e-6), nn.LayerNorm(WIDTH, 1e-6)
        self.attn, self.mlp = _Attention(), _Mlp()

    def forward(self, x):
        y, weights = self.attn(self.norm1(x))
        x = x + y
        return x + self.mlp(self.norm2(x)), weights


class _Squeeze(nn.Module):
    """The map as tokens, behind the class token of `tokens`."""

    def __init__(self, inputs, factor):
        super().__init__()
        self.conv_project, self.ln = _conv(inputs, WIDTH, bias=True), nn.LayerNorm(WIDTH, 1e-6)
        self.factor = factor

    def forward(self, x, tokens):
        x = F.avg_pool2d(self.conv_project(x), self.factor).flatten(2).transpose(1, 2)
        return torch.cat([tokens[:, :1], F.gelu(self.ln(x))], 1)


class _Expand(nn.Module):
    """The patch tokens as a map."""

    def __init__(self, outputs, factor):
        super().__init__()
        self.conv_project, self.bn = _conv(WIDTH, outputs, bias=True), _norm(outputs)
        self.factor = factor

    def forward(self, tokens):
        side = round((tokens.shape[1] - 1) ** 0.5)
        x = tokens[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        x = F.relu(self.bn(self.conv_project(x)))
        return F.interpolate(x, scale_factor=self.factor, mode="nearest")


class _Fused(nn.Module):
    def __init__(self, inputs, outputs, stride, factor, last):
        super().__init__()
        self.cnn_block = _ConvBlock(inputs, outputs, stride, inputs != outputs)
        self.fusion_block = _ConvBlock(outputs, outputs, 1, last)
        self.squeeze_block = _Squeeze(outputs // 4, factor)
        self.expand_block = _Expand(outputs // 4, factor)
        self.trans_block = _Block()

    def forward(self, x, tokens):
        x, inner = self.cnn_block(x)
        tokens, weights = self.trans_block(self.squeeze_block(inner, tokens) + tokens)
        return self.fusion_block(x, self.expand_block(tokens))[0], tokens, weights


class AttentionMaps(nn.Module):
    """TransCAM's maps [b,k,p,q]; of BAO [b,1+k,p,q], the background's first. Raw, as published."""

    def __init__(self, classes: int, bao: bool):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.conv1, self.bn1 = nn.Conv2d(3, BASE, 7, 2, 3, bias=False), nn.BatchNorm2d(BASE)
        self.conv_1 = _ConvBlock(BASE, 4 * BASE, 1, True)
        self.trans_patch_conv, self.trans_1 = nn.Conv2d(BASE, WIDTH, 4, 4), _Block()
        inputs = 4 * BASE
        for i in range(2, DEPTH + 1):
            stage = (i - 1) // 4
            outputs = BASE * 4 * 2**stage
            setattr(self, f"conv_trans_{i}", _Fused(
                inputs, outputs, 2 if i in (5, 9) else 1, 4 // 2**stage, i == DEPTH))
            inputs = outputs
        self.trans_norm = nn.LayerNorm(WIDTH)  # this layer and the next give scores, which no
        self.trans_cls_head = nn.Linear(WIDTH, classes + 1)  # map needs: never run
        self.conv_cls_head = _conv(inputs, classes + 1, 3, bias=True)
        if bao:
            self.label_enc = nn.Linear(classes, inputs)
            self.classifier_x = _conv(inputs, classes + 1, 3, bias=True)
        self.bao = bao

    def forward(self, image, tags_bk):
        stem = F.max_pool2d(F.relu(self.bn1(self.conv1(image))), 3, 2, 1)
        x, _ = self.conv_1(stem)
        tokens = self.trans_patch_conv(stem).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], 1)
        tokens, attention = self.trans_1(tokens)
        for i in range(2, DEPTH + 1):
            x, tokens, more = getattr(self, f"conv_trans_{i}")(x, tokens)
            attention = attention + more
        attention = attention[:, 1:, 1:].transpose(1, 2)

        def spread(maps):
            return (maps.flatten(2) @ attention).unflatten(2, x.shape[2:])

        cams = spread(self.conv_cls_head(x))[:, 1:]
        if not self.bao:
            return cams
        am = spread(self.classifier_x(x * self.label_enc(tags_bk)[:, :, None, None]))
        return torch.cat([am[:, :1], cams], 1)


def build(classes: int, bao: bool) -> nn.Module:
    """The network with random weights, in evaluation mode."""
    return randomise(AttentionMaps(classes, bao))
