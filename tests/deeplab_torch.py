"""The DeepLab family a second time, in PyTorch and in its plainest form, for the tests to load.

VGG-16 and the blocks of the v3+ encoder are torchvision's; the ResNet of DeepLab v2 has the names
of its published state dict. `width` is a factor on all channels of an encoder.
"""

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

IGNORE = 255


def scaled(channels, width):
    return max(2, round(channels * width))


def half_pixel(x, size):
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


# ---- encoders ----------------------------------------------------------------------------------


class VGG16(nn.Module):
    """torchvision's layers; pools 3x3 with padding 1, the last two of stride 1; conv5 dilated."""

    def __init__(self, width=1.0):
        super().__init__()
        plan = [v if v == "M" else scaled(v, width) for v in torchvision.models.vgg.cfgs["D"]]
        self.features = torchvision.models.vgg.make_layers(plan)
        for place, stride in ((4, 2), (9, 2), (16, 2), (23, 1), (30, 1)):
            self.features[place] = nn.MaxPool2d(3, stride, 1)
        for place in (24, 26, 28):
            self.features[place].dilation = self.features[place].padding = (2, 2)
        self.width = scaled(512, width)

    def maps(self, x):
        """(conv2_2, conv3_3, conv4_3, conv5_3 and pool5) after their ReLUs."""
        found = {}
        for place, layer in enumerate(self.features):
            x = layer(x)
            if place in (8, 15, 22, 29, 30):
                found[place] = x.clone()  # torchvision's ReLU works in place
        return found

    def forward(self, x):
        return None, self.features(x)


class ConvBn(nn.Module):
    def __init__(self, inputs, outputs, size=1, stride=1, padding=0, dilation=1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, padding, dilation, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-5)

    def forward(self, x):
        return self.bn(self.conv(x))


class Block(nn.Module):
    """A bottleneck of Caffe: the stride lies on its first convolution."""

    def __init__(self, inputs, mid, stride, dilation, project):
        super().__init__()
        self.reduce = ConvBn(inputs, mid, 1, stride)
        self.conv3x3 = ConvBn(mid, mid, 3, 1, dilation, dilation)
        self.increase = ConvBn(mid, 4 * mid)
        if project:
            self.shortcut = ConvBn(inputs, 4 * mid, 1, stride)

    def forward(self, x):
        y = self.increase(torch.relu(self.conv3x3(torch.relu(self.reduce(x)))))
        return torch.relu(y + (self.shortcut(x) if hasattr(self, "shortcut") else x))


class CaffeResNet(nn.Module):
    """layer1 (7x7 and a pool that rounds up) to layer5, stride 8, the last two dilated."""

    def __init__(self, blocks, width=1.0):
        super().__init__()
        self.layer1 = nn.Sequential()
        self.layer1.add_module("conv1", ConvBn(3, scaled(64, width), 7, 2, 3))
        inputs = scaled(64, width)
        for stage, (count, stride, dilation) in enumerate(
                zip(blocks, (1, 2, 1, 1), (1, 1, 2, 4), strict=True)):
            mid, layer = scaled(64 << stage, width), nn.Sequential()
            for block in range(count):
                layer.add_module(f"block{block + 1}", Block(
                    inputs, mid, stride if block == 0 else 1, dilation, block == 0))
                inputs = 4 * mid
            setattr(self, f"layer{stage + 2}", layer)
        self.width = inputs

    def forward(self, x):
        x = F.max_pool2d(torch.relu(self.layer1(x)), 3, 2, 1, ceil_mode=True)
        for stage in range(2, 6):
            x = getattr(self, f"layer{stage}")(x)
        return None, x


class ResNet(nn.Module):
    """torchvision's blocks at stride 8; behind a removed stride all but the first are dilated."""

    def __init__(self, blocks, width=1.0):
        super().__init__()
        inputs = scaled(64, width)
        self.conv1 = nn.Conv2d(3, inputs, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        for stage, (count, stride, dilation) in enumerate(
                zip(blocks, (1, 2, 1, 1), (1, 1, 2, 4), strict=True)):
            mid, layer = scaled(64 << stage, width), []
            for block in range(count):
                first = block == 0
                down = nn.Sequential(nn.Conv2d(inputs, 4 * mid, 1, stride, bias=False),
                                     nn.BatchNorm2d(4 * mid)) if first else None
                layer.append(torchvision.models.resnet.Bottleneck(
                    inputs, mid, stride if first else 1, down, dilation=1 if first else dilation))
                inputs = 4 * mid
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layer))
        self.width, self.low_width = inputs, 4 * scaled(64, width)

    def forward(self, x):
        x = F.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        low = x = self.layer1(x)
        for stage in range(2, 5):
            x = getattr(self, f"layer{stage}")(x)
        return low, x


# ---- heads: (fine map or None, last map) → scores -----------------------------------------------


class LargeFov(nn.Module):
    def __init__(self, inputs, classes, width=1024, dilation=12):
        super().__init__()
        self.fc6 = nn.Conv2d(inputs, width, 3, padding=dilation, dilation=dilation)
        self.fc7 = nn.Conv2d(width, width, 1)
        self.fc8 = nn.Conv2d(width, classes, 1)

    def forward(self, maps):
        return self.fc8(torch.relu(self.fc7(torch.relu(self.fc6(maps[1])))))


class VggAspp(nn.Module):
    def __init__(self, inputs, classes, width=1024, dilations=(6, 12, 18, 24)):
        super().__init__()
        self.branches = nn.ModuleList(LargeFov(inputs, classes, width, d) for d in dilations)

    def forward(self, maps):
        return sum(branch(maps) for branch in self.branches)


class Aspp(nn.Module):
    def __init__(self, inputs, classes, dilations=(6, 12, 18, 24)):
        super().__init__()
        for index, d in enumerate(dilations):
            self.add_module(f"c{index}", nn.Conv2d(inputs, classes, 3, padding=d, dilation=d))

    def forward(self, maps):
        return sum(layer(maps[1]) for layer in self.children())


class TwoConvolutions(nn.Module):
    def __init__(self, inputs, classes, width=512, dilation=12):
        super().__init__()
        self.fc8 = nn.Conv2d(inputs, width, 3, padding=dilation, dilation=dilation)
        self.fc9 = nn.Conv2d(width, classes, 3, padding=dilation, dilation=dilation)

    def forward(self, maps):
        return self.fc9(torch.relu(self.fc8(maps[1])))


class V3Plus(nn.Module):
    """Without dropout: it is switched off where the two are compared."""

    def __init__(self, low, inputs, classes, width=256, low_width=48, dilations=(12, 24, 36)):
        super().__init__()
        def block(a, b, size=1, dilation=1):
            pad = dilation * (size // 2)
            conv = nn.Conv2d(a, b, size, padding=pad, dilation=dilation, bias=False)
            return nn.Sequential(conv, nn.BatchNorm2d(b), nn.ReLU())

        self.aspp0 = block(inputs, width)
        for index, d in enumerate(dilations, 1):
            setattr(self, f"aspp{index}", block(inputs, width, 3, d))
        self.pool = block(inputs, width)
        self.project = block((2 + len(dilations)) * width, width)
        self.low = block(low, low_width)
        self.fuse1, self.fuse2 = block(width + low_width, width, 3), block(width, width, 3)
        self.classifier = nn.Conv2d(width, classes, 3, padding=1, bias=False)
        self.count = 1 + len(dilations)

    def forward(self, maps):
        fine, x = maps
        whole = half_pixel(self.pool(F.adaptive_avg_pool2d(x, 1)), x.shape[2:])
        parts = [getattr(self, f"aspp{index}")(x) for index in range(self.count)]
        x = self.project(torch.cat([*parts, whole], 1))
        fine = self.low(fine)
        x = torch.cat([half_pixel(x, fine.shape[2:]), fine], 1)
        return self.classifier(self.fuse2(self.fuse1(x)))


class Segmenter(nn.Module):
    def __init__(self, encoder, head):
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, x):
        """Scores at their own resolution."""
        return self.head(self.encoder(x))


# ---- training ----------------------------------------------------------------------------------


def pyramid(model, x, scales):
    """Scores of each scale and, of several, their maximum at the size of the first."""
    found = []
    for scale in scales:
        size = [int(side * scale) for side in x.shape[2:]]
        found.append(model(x if scale == 1 else half_pixel(x, size)))
    if len(found) > 1:
        first = found[0].shape[2:]
        found.append(torch.stack([half_pixel(z, first) for z in found]).amax(0))
    return found


def shrunk(label_bhw, size):
    """Labels as Pillow shrinks them."""
    from PIL import Image
    rows = [np.asarray(Image.fromarray(x.astype(np.uint8)).resize(
        (size[1], size[0]), Image.Resampling.NEAREST)) for x in label_bhw]
    return np.stack(rows)


def loss(model, x, label_bhw, scales, at_features):
    total = 0.0
    for z in pyramid(model, x, scales):
        target = label_bhw
        if at_features:
            target = shrunk(label_bhw, z.shape[2:])
        else:
            z = half_pixel(z, label_bhw.shape[1:])
        total = total + F.cross_entropy(z, torch.tensor(target).long(), ignore_index=IGNORE)
    return total


# ---- weights -----------------------------------------------------------------------------------


def randomise(model, seed=0, gain=1.0):
    """Kernels that keep the size of what passes, biases and norms far from their start."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(x, low, high):
        return torch.rand(x.shape, generator=generator) * (high - low) + low

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                fan = module.weight[0].numel()
                module.weight.copy_(torch.randn(module.weight.shape, generator=generator)
                                    * gain * (2 / fan) ** 0.5)
                if module.bias is not None:
                    module.bias.copy_(drawn(module.bias, -0.2, 0.2))
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(drawn(module.weight, 0.5, 1.0))
                module.bias.copy_(drawn(module.bias, -0.2, 0.4))
                module.running_mean.copy_(drawn(module.running_mean, -0.1, 0.1))
                module.running_var.copy_(drawn(module.running_var, 0.5, 1.5))
    return model.eval()


def numpy_state(module):
    return {n: x.detach().numpy().copy() for n, x in module.state_dict().items()
            if not n.endswith("num_batches_tracked")}


def head_flat(head):
    """Our flat names of a head above."""
    kinds = {"weight": "kernel", "running_mean": "mean", "running_var": "var"}
    flat = {}
    for name, x in numpy_state(head).items():
        *path, kind = name.split(".")
        top, kind = ("batch_stats" if kind.startswith("running") else "params"), kinds.get(kind,
                                                                                          kind)
        if path[0] == "branches":
            path = [f"{path[2]}_{int(path[1]) + 1}"]
        elif isinstance(head, V3Plus) and len(path) == 2:
            norm = path[1] == "1"
            path = [path[0] + ("_bn" if norm else "")]
            kind = "scale" if norm and kind == "kernel" else kind
        if kind == "kernel":
            x = x.transpose(2, 3, 1, 0)
        flat[f"{top}/{'/'.join(path)}/{kind}"] = x
    return flat


def nchw(image_bhwc):
    return torch.tensor(np.ascontiguousarray(np.asarray(image_bhwc).transpose(0, 3, 1, 2)))


def nhwc(x):
    return x.detach().permute(0, 2, 3, 1).numpy()
