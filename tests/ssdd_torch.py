"""SSDD a second time, in PyTorch and in its plainest form, for the parity tests to load.

One-hot maps instead of tables, one head at a time, python loops over samples and classes; its
state dict has the published names.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

IGNORE = 255


class Norm(nn.Module):
    """A frozen batch norm: its numbers are part of the state, none of it is a parameter."""

    def __init__(self, width, eps):
        super().__init__()
        self.eps = eps
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0),
                            ("running_var", 1.0)):
            self.register_buffer(name, torch.full((width,), value))

    def forward(self, x):
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias,
                            False, 0.0, self.eps)


def conv(inputs, outputs, size=1, stride=1, dilation=1, bias=False, padding=None):
    if padding is None:
        padding = dilation if size == 3 else 0
    return nn.Conv2d(inputs, outputs, size, stride, padding, dilation, bias=bias)


class Block(nn.Module):
    def __init__(self, kind, inputs, mid, width, stride, first, dilation):
        super().__init__()
        self.kind, self.same = kind, kind == "basic" and stride == 1 and inputs == width
        self.bn_branch2a = Norm(inputs, 1e-5)
        self.bn_branch2b1 = Norm(mid, 1e-5)
        if kind == "basic":
            self.conv_branch2a = conv(inputs, mid, 3, stride, first)
            self.conv_branch2b1 = conv(mid, width, 3, 1, dilation)
        else:
            self.conv_branch2a = conv(inputs, mid, 1, stride)
            self.conv_branch2b1 = conv(mid, width // 2, 3, 1, dilation)
            self.bn_branch2b2 = Norm(width // 2, 1e-5)
            self.conv_branch2b2 = conv(width // 2, width)
        if not self.same:
            self.conv_branch1 = conv(inputs, width, 1, stride)

    def forward(self, x):
        y = torch.relu(self.bn_branch2a(x))
        z = self.conv_branch2b1(torch.relu(self.bn_branch2b1(self.conv_branch2a(y))))
        if self.kind == "bottleneck":
            z = self.conv_branch2b2(torch.relu(self.bn_branch2b2(z)))
        return (x if self.same else self.conv_branch1(y)) + z, y


class ResNet38(nn.Module):
    """(entry of b3, last map); `width` is a factor on all channels, dropout is left out."""

    def __init__(self, width=1.0):
        super().__init__()

        def scaled(d):
            return max(2, round(d * width))

        plan = [("b2", "basic", 128, 128, 2, 1, 1), ("b2_1", "basic", 128, 128, 1, 1, 1),
                ("b2_2", "basic", 128, 128, 1, 1, 1), ("b3", "basic", 256, 256, 2, 1, 1),
                ("b3_1", "basic", 256, 256, 1, 1, 1), ("b3_2", "basic", 256, 256, 1, 1, 1),
                ("b4", "basic", 512, 512, 2, 1, 1)]
        plan += [(f"b4_{i}", "basic", 512, 512, 1, 1, 1) for i in range(1, 6)]
        plan += [("b5", "basic", 512, 1024, 1, 1, 2), ("b5_1", "basic", 512, 1024, 1, 2, 2),
                 ("b5_2", "basic", 512, 1024, 1, 2, 2), ("b6", "bottleneck", 512, 2048, 1, 1, 4),
                 ("b7", "bottleneck", 1024, 4096, 1, 1, 4)]
        inputs = scaled(64)
        self.conv1a = conv(3, inputs, 3)
        self.names = []
        for name, kind, mid, out, stride, first, dilation in plan:
            self.add_module(name, Block(kind, inputs, scaled(mid), scaled(out), stride, first,
                                        dilation))
            inputs = scaled(out)
            self.names.append(name)
        self.bn7 = Norm(inputs, 1e-5)
        self.low_width, self.feature_width = scaled(128), inputs

    def forward(self, x):
        x = self.conv1a(x)
        for name in self.names:
            x, entry = getattr(self, name)(x)
            if name == "b3":
                low = entry
        return low, torch.relu(self.bn7(x))


class ConvNorm(nn.Module):
    def __init__(self, *args, **kwargs):
        super().__init__()
        self.conv1 = conv(*args, padding=0, **kwargs)
        self.bn1 = Norm(args[1], 1e-3)

    def forward(self, x):
        return torch.relu(self.bn1(self.conv1(x)))


def mirror(x, n):
    return F.pad(x, (n, n, n, n), mode="reflect")


class SegHead(nn.Module):
    def __init__(self, inputs, classes, width, dilation):
        super().__init__()
        self.dilation = dilation
        self.seg1 = ConvNorm(inputs, width, 3, dilation=dilation, bias=True)
        self.seg2 = conv(width, classes, 3, dilation=dilation, bias=True, padding=0)

    def forward(self, x):
        hidden = self.seg1(mirror(x, self.dilation))
        return self.seg2(mirror(hidden, self.dilation)), hidden


class DDHead(nn.Module):
    def __init__(self, inputs, width):
        super().__init__()
        self.conv1ab = ConvNorm(inputs, width, 3)

    def forward(self, e_h, e_l):
        return self.conv1ab(mirror(torch.cat([e_h, e_l], 1), 1))


class Bottleneck(nn.Module):
    def __init__(self, inputs, width):
        super().__init__()
        self.conv1, self.conv3 = conv(inputs, width), conv(width, width)
        self.conv2 = conv(width, width, 3, padding=0)
        self.downsample = conv(inputs, width)
        for name in ("bn1", "bn2", "bn3", "bnd"):
            self.add_module(name, Norm(width, 1e-3))

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(mirror(y, 1))))
        return torch.relu(self.bn3(self.conv3(y)) + self.bnd(self.downsample(x)))


class DD(nn.Module):
    def __init__(self, classes, width):
        super().__init__()
        self.classes = classes
        self.conv1c = ConvNorm(classes, width)
        self.conv1abc = Bottleneck(2 * width, width)
        self.pred_abc = conv(width, 1)

    def forward(self, head, label):
        hot = torch.stack([(label == k) for k in range(self.classes)], 1).to(head)
        return self.pred_abc(self.conv1abc(torch.cat([head, self.conv1c(hot)], 1)))[:, 0]


class SSDD(nn.Module):
    def __init__(self, classes, branches, width=1.0, head_width=512, dilation=12, dd_width=256):
        super().__init__()
        self.encoder = ResNet38(width)
        self.branches = ("seg_main", "seg_sub")[:branches]
        for i, name in enumerate(self.branches):
            self.add_module(name, SegHead(self.encoder.feature_width, classes, head_width,
                                          dilation))
            self.add_module(f"dd_head{i}", DDHead(head_width + self.encoder.low_width, dd_width))
            self.add_module(f"dd{i}", DD(classes, dd_width))

    def segment(self, image):
        """([logits per branch], [hidden per branch], low), all at a quarter of the sides."""
        low, features = self.encoder(image)
        found = [getattr(self, name)(features) for name in self.branches]
        up = [[F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False) for x in f]
              for f in found]
        return [f[0] for f in up], [f[1] for f in up], F.avg_pool2d(low, 2)

    def difference(self, branch, hidden, low, label):
        head = getattr(self, f"dd_head{branch}")(hidden.detach(), low.detach())
        return getattr(self, f"dd{branch}")(head, label)


def randomise(model, seed):
    """Every tensor of the state dict drawn anew, so that no norm is the identity."""
    generator = torch.Generator().manual_seed(seed)
    state = model.state_dict()
    for name, x in state.items():
        draw = torch.randn(x.shape, generator=generator).to(x.dtype)
        if name.endswith("running_var"):
            state[name] = 1 + 0.2 * draw.abs()
        elif x.ndim == 1:
            base = 1.0 if "bn" in name and name.endswith("weight") else 0.0
            state[name] = base + 0.1 * draw
        else:
            state[name] = draw * (1.4 / x[0].numel()) ** 0.5
    model.load_state_dict(state)
    return model


def numpy_state(model):
    return {f"module.{name}": x.numpy() for name, x in model.state_dict().items()}


# ---- the method --------------------------------------------------------------------------------


def flags(knowledge, advice, tags, absent=True):
    """[b][k] of 0/1, sample by sample, class by class; absent: a class in neither map is lost."""
    out = torch.zeros(len(tags), tags.shape[1] + 1)
    for b in range(len(tags)):
        for c in range(1, tags.shape[1] + 1):
            if tags[b, c - 1] and (absent or (knowledge[b] == c).any()):
                delta = (advice[b] == c).sum().item() / max((knowledge[b] == c).sum().item(), 1)
                out[b, c] = float(delta < 0.5)
    return out


def integrate(knowledge, advice, d_k, d_a, flag, bias, ground=0.0):
    w = torch.sigmoid(d_k) - torch.sigmoid(d_a) + bias
    w = w - ground * (knowledge == 0).to(w) + ground * (advice == 0).to(w)
    for b in range(len(w)):
        for c in range(1, flag.shape[1]):
            w[b] += flag[b, c] * ((advice[b] == c).to(w) - (knowledge[b] == c).to(w))
    out = torch.where(w >= 0, advice, knowledge)
    out = torch.where(knowledge == IGNORE, advice, out)
    return torch.where(advice == IGNORE, knowledge, out)


def balanced(logits, differ, keep):
    """Over whatever is handed in: half the mean over each kind, an empty mean being 0."""
    p, total = torch.sigmoid(logits), 0.0
    for kind, value in ((~differ & keep, 1 - p), (differ & keep, p)):
        if kind.any():
            total = total - 0.5 * torch.log(value[kind]).mean()
    return total if torch.is_tensor(total) else 0.0 * logits.sum()


def skipping(logits, differ, keep, flag):
    losses = [balanced(logits[b], differ[b], keep[b]) for b in range(len(logits))
              if not flag[b].any()]
    return sum(losses) / len(losses) if losses else 0.0 * logits.sum()


def cross_entropy(logits, label):
    return F.cross_entropy(logits, label, ignore_index=IGNORE)


def own_labels(logits, tags):
    y = torch.cat([torch.ones(len(tags), 1), tags], 1).to(logits)[:, :, None, None]
    return (torch.softmax(logits, 1) * y + 1e-4 * y).argmax(1)


def static_losses(model, image, knowledge, advice, tags):
    (z,), (e_h,), e_l = model.segment(image)
    flag = flags(knowledge, advice, tags)
    keep = (knowledge != IGNORE) & (advice != IGNORE)
    parts = [skipping(model.difference(0, e_h, e_l, m), knowledge != advice, keep, flag)
             for m in (knowledge, advice)]
    return {"loss_seg": cross_entropy(z, knowledge), "loss_diff": sum(parts) / 2}


def dynamic_losses(model, image, seed, tags, crf, last="d1", absent=True):
    (main, sub), (e_main, e_sub), e_l = model.segment(image)
    with torch.no_grad():
        m_r, m_s = own_labels(main, tags), own_labels(sub, tags)
        m_c = crf(main, tags)
    d_r, d_c = (model.difference(0, e_main, e_l, m) for m in (m_r, m_c))
    flag = flags(m_r, m_c, tags, absent)
    with torch.no_grad():
        d1 = integrate(m_r, m_c, d_r, d_c, flag, 0.4)
    d_o, d_1 = (model.difference(1, e_sub, e_l, m) for m in (seed, d1))
    with torch.no_grad():
        d2 = integrate(seed, d1, d_o, d_1, flags(seed, d1, tags, absent), 0.4)
    every = torch.ones(m_r.shape, dtype=torch.bool)
    target = d1 if last == "d1" else d2
    parts = [skipping(d_r, m_r != m_c, every, flag), skipping(d_c, m_r != m_c, every, flag),
             balanced(d_o, seed != m_s, seed != IGNORE), balanced(d_1, target != m_s, every)]
    loss_seg = (cross_entropy(main, d2) + cross_entropy(sub, seed) / 2
                + cross_entropy(sub, d2) / 2)
    return {"loss_seg": loss_seg, "loss_diff": sum(parts) / 4}


def descend(model, losses, lr, decay, factor):
    """One step of SGD without momentum: conv1a still, heads and difference networks ten times."""
    named = {n: p for n, p in model.named_parameters() if not n.startswith("encoder.conv1a")}
    grads = torch.autograd.grad(sum(losses.values()), list(named.values()))
    with torch.no_grad():
        for (name, p), g in zip(named.items(), grads, strict=True):
            rate = lr * factor * (1.0 if name.startswith("encoder.") else 10.0)
            p -= rate * (g + decay * p)


def to_torch(x):
    x = np.asarray(x)
    return torch.tensor(x.transpose(0, 3, 1, 2) if x.ndim == 4 else x).contiguous()
