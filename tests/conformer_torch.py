"""Conformer-S, TransCAM and BAO a second time, in PyTorch and in their plainest form, for the
parity tests to load; the state dict has the published names."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

HEADS = ("trans_cls_head", "conv_cls_head", "label_enc", "classifier_x")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def conv(inputs, outputs, size=1, stride=1, bias=False):
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=bias)


class ConvBlock(nn.Module):
    def __init__(self, inputs, outputs, stride=1, projection=False):
        super().__init__()
        m = outputs // 4
        self.conv1, self.bn1 = conv(inputs, m), nn.BatchNorm2d(m, eps=1e-6)
        self.conv2, self.bn2 = conv(m, m, 3, stride), nn.BatchNorm2d(m, eps=1e-6)
        self.conv3, self.bn3 = conv(m, outputs), nn.BatchNorm2d(outputs, eps=1e-6)
        self.projection = projection
        if projection:
            self.residual_conv = conv(inputs, outputs, 1, stride)
            self.residual_bn = nn.BatchNorm2d(outputs, eps=1e-6)

    def forward(self, x, x_t=None):
        y = F.relu(self.bn1(self.conv1(x)))
        if x_t is not None:
            y = y + x_t
        x2 = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(x2))
        if self.projection:
            x = self.residual_bn(self.residual_conv(x))
        return F.relu(y + x), x2


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        outs, maps = [], []
        d = x.shape[-1]
        each = d // self.heads
        q, k, v = self.qkv(x).split(d, -1)
        for h in range(self.heads):
            part = slice(h * each, (h + 1) * each)
            a = (q[..., part] @ k[..., part].transpose(1, 2) * each**-0.5).softmax(-1)
            outs.append(a @ v[..., part])
            maps.append(a)
        return self.proj(torch.cat(outs, -1)), sum(maps) / self.heads


class Mlp(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """`keep`, where set: two [b] factors of the branches in place of stochastic depth."""

    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = Attention(width, heads), Mlp(width)
        self.keep = None

    def forward(self, x):
        one, two = self.keep or (torch.ones(len(x)), torch.ones(len(x)))
        y, a = self.attn(self.norm1(x))
        x = x + y * one.to(x.dtype)[:, None, None]
        return x + self.mlp(self.norm2(x)) * two.to(x.dtype)[:, None, None], a


class Squeeze(nn.Module):
    def __init__(self, inputs, width, dw):
        super().__init__()
        self.conv_project = conv(inputs, width, bias=True)
        self.ln, self.dw = nn.LayerNorm(width, eps=1e-6), dw

    def forward(self, x, t):
        x = F.avg_pool2d(self.conv_project(x), self.dw).flatten(2).transpose(1, 2)
        return torch.cat([t[:, :1], F.gelu(self.ln(x))], 1)


class Expand(nn.Module):
    def __init__(self, width, outputs, dw):
        super().__init__()
        self.conv_project, self.dw = conv(width, outputs, bias=True), dw
        self.bn = nn.BatchNorm2d(outputs, eps=1e-6)

    def forward(self, t):
        b, n, d = t.shape
        side = round((n - 1) ** 0.5)
        x = t[:, 1:].transpose(1, 2).reshape(b, d, side, side)
        x = F.relu(self.bn(self.conv_project(x)))
        return F.interpolate(x, scale_factor=self.dw, mode="nearest")


class Fused(nn.Module):
    def __init__(self, inputs, outputs, stride, dw, width, heads, last):
        super().__init__()
        self.cnn_block = ConvBlock(inputs, outputs, stride, inputs != outputs)
        self.fusion_block = ConvBlock(outputs, outputs, 1, last)
        self.squeeze_block = Squeeze(outputs // 4, width, dw)
        self.expand_block = Expand(width, outputs // 4, dw)
        self.trans_block = Block(width, heads)

    def forward(self, x, t):
        x, x2 = self.cnn_block(x)
        t, a = self.trans_block(self.squeeze_block(x2, t) + t)
        return self.fusion_block(x, self.expand_block(t))[0], t, a


class Network(nn.Module):
    """forward(image, y) → a dict of everything. `base`: 64 as published; bao: with its layers;
    numbers: of the fused blocks, 2 to 12 as published."""

    def __init__(self, base=64, classes=20, bao=False, numbers=range(2, 13)):
        super().__init__()
        self.numbers = tuple(numbers)
        width = 6 * base
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.conv1, self.bn1 = nn.Conv2d(3, base, 7, 2, 3, bias=False), nn.BatchNorm2d(base)
        self.conv_1 = ConvBlock(base, 4 * base, 1, True)
        self.trans_patch_conv = nn.Conv2d(base, width, 4, 4)
        self.trans_1 = Block(width, 6)
        inputs = 4 * base
        for i in self.numbers:
            outputs = base * (4 if i < 5 else 8 if i < 9 else 16)
            dw = 4 if i < 5 else 2 if i < 9 else 1
            setattr(self, f"conv_trans_{i}", Fused(inputs, outputs, 2 if i in (5, 9) else 1, dw,
                                                   width, 6, i == 12))
            inputs = outputs
        self.trans_norm = nn.LayerNorm(width)
        self.trans_cls_head = nn.Linear(width, classes + 1)
        self.conv_cls_head = conv(16 * base, classes + 1, 3, bias=True)
        if bao:
            self.label_enc = nn.Linear(classes, 16 * base)
            self.classifier_x = conv(16 * base, classes + 1, 3, bias=True)

    def forward(self, image, y=None):
        stem = F.max_pool2d(F.relu(self.bn1(self.conv1(image))), 3, 2, 1)
        x, _ = self.conv_1(stem)
        t = self.trans_patch_conv(stem).flatten(2).transpose(1, 2)
        t = torch.cat([self.cls_token.expand(len(t), -1, -1), t], 1)
        t, a = self.trans_1(t)
        for i in self.numbers:
            x, t, more = getattr(self, f"conv_trans_{i}")(x, t)
            a = a + more
        a = a[:, 1:, 1:]
        b, _, h, w = x.shape
        found = {"features": x, "attention": a,
                 "trans_scores": self.trans_cls_head(self.trans_norm(t)[:, 0])}

        def spread(maps):
            return torch.einsum("bij,bcj->bci", a, maps.flatten(2)).reshape(b, -1, h, w)

        found["maps"] = self.conv_cls_head(x)
        found["conv_scores"] = found["maps"].mean((2, 3))
        found["cams"] = spread(found["maps"])
        if hasattr(self, "label_enc"):
            found["am"] = spread(self.classifier_x(x * self.label_enc(y)[:, :, None, None]))
        return found


def randomise(model, seed=0):
    """The model with numbers that keep maps and attention lively; in evaluation mode."""
    g = torch.Generator().manual_seed(seed)

    def uniform(x, low, high):
        with torch.no_grad():
            x.copy_(torch.rand(x.shape, generator=g) * (high - low) + low)

    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            uniform(module.running_mean, -0.2, 0.2)
            uniform(module.running_var, 0.3, 0.6)
            # Residual branches that stay small keep twelve blocks from exploding.
            uniform(module.weight, 0.5, 1.0) if "bn3" not in name else uniform(
                module.weight, 0.2, 0.4)
            uniform(module.bias, -0.2, 0.3)
        elif isinstance(module, nn.LayerNorm):
            uniform(module.weight, 0.7, 1.3)
            uniform(module.bias, -0.2, 0.2)
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            fan = module.weight[0].numel()
            # Sharper attention than by chance, but class maps that training does not blow up.
            factor = 2.0 if "qkv" in name else 0.3 if name in HEADS else 1.0
            bound = (3 / fan) ** 0.5 * factor
            uniform(module.weight, -bound, bound)
            if module.bias is not None:
                uniform(module.bias, -0.2, 0.2)
    uniform(model.cls_token, -0.1, 0.1)
    return model.eval()


def numpy_state(model):
    return {name: x.detach().numpy().copy() for name, x in model.state_dict().items()}


def to_torch(image_bhwc, like):
    return torch.tensor(image_bhwc.transpose(0, 3, 1, 2)).to(like.cls_token.dtype)


# ---- training ----------------------------------------------------------------------------------


def class_loss(found, y):
    scores = found["conv_scores"] + found["trans_scores"]
    return F.binary_cross_entropy_with_logits(scores[:, 1:], y)


def pixel_labels(cams, y):
    """[b,h,w], from raw maps [b,K,h,w]."""
    m = F.relu(cams) * y[:, :, None, None]
    m = m / (m.amax((2, 3), keepdim=True) + 1e-5)
    return torch.cat([1 - m.amax(1, keepdim=True), m], 1).argmax(1)


def pixel_loss(am, label, epsilon=0.4, foreground=1.0):
    classes = am.shape[1] - 1
    q = torch.full_like(am, epsilon / classes).scatter(1, label[:, None], 1 - epsilon)
    e = -(q * am.log_softmax(1)).sum(1)
    halves = [x.mean() if len(x) else x.sum() for x in (e[label == 0], e[label != 0])]
    return (halves[0] + foreground * halves[1]) / 2


def transcam_step(model, optimizer, image, y):
    model.train()
    loss = class_loss(model(image), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return {"loss": loss.item()}


def bao_step(student, teacher, optimizer, image, y, step, epoch_steps):
    """One step, the teacher's included; step counts from 0."""
    student.train(), teacher.train()
    with torch.no_grad():
        label = pixel_labels(teacher(image, y)["cams"][:, 1:], y)
    found = student(image, y)
    loss_cls, loss_pix = class_loss(found, y), pixel_loss(found["am"], label)
    optimizer.zero_grad()
    (loss_cls + loss_pix).backward()
    optimizer.step()
    if step < epoch_steps:
        teacher.load_state_dict(student.state_dict())
    else:
        m = 1 - (1 - 0.9995) * (np.cos(np.pi * (step % epoch_steps) / epoch_steps) + 1) / 2
        with torch.no_grad():
            for t, s in zip(teacher.parameters(), student.parameters(), strict=True):
                t.copy_(m * t + (1 - m) * s)
    return {"loss": (loss_cls + loss_pix).item(), "loss_cls": loss_cls.item(),
            "loss_pix": loss_pix.item(), "foreground": (label != 0).double().mean().item()}


# ---- label maps --------------------------------------------------------------------------------


def label_maps(model, image_hw3, tags, side, scales=(0.5, 1.0, 1.5), threshold=None):
    """(normalised maps [21,h,w], label map), background map first, by the six views in turn.

    threshold: in the place of a background map that the network does not learn (TransCAM).
    """
    h, w = image_hw3.shape[:2]
    y = torch.tensor(tags, dtype=torch.float32)
    keep = torch.cat([torch.ones(1), y])[:, None, None]
    total = torch.zeros(len(tags) + 1, h, w)
    for scale in scales:
        n = round(side * scale)
        small = np.asarray(Image.fromarray(image_hw3).resize((n, n), Image.Resampling.BICUBIC))
        x = (small / 255 - np.array(MEAN)) / np.array(STD)
        x = torch.tensor(x.transpose(2, 0, 1)[None], dtype=torch.float32)
        for mirrored in (False, True):
            with torch.no_grad():
                found = model(x.flip(3) if mirrored else x, y[None])
            first = found["cams" if threshold is not None else "am"][:, :1]
            maps = torch.cat([first, found["cams"][:, 1:]], 1)
            maps = F.interpolate(maps, (h, w), mode="bilinear", align_corners=False)[0] * keep
            total += maps.flip(2) if mirrored else maps
    v = total.numpy().copy()
    v[v < 0] = 0
    low, high = v.min((1, 2), keepdims=True), v.max((1, 2), keepdims=True)
    v[v < low + 1e-5] = 0
    v = (v - low - 1e-5) / (high - low + 1e-5)
    if threshold is not None:
        v[0] = threshold
    return v, v.argmax(0).astype(np.uint8)
