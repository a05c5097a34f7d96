"""The convolutional classifiers in PyTorch eager, and the published multi-scale inference of all.

What our inference is compared with in speed and in numbers; it shares nothing with our JAX code.
Photos are uint8 [h,w,3]; a network takes ([b,3,h,w], tags [b,k]) and returns activated class maps
[b,m,p,q]. Layers have their published names, so that weights can be shared. torch_conformer.py and
torch_vit.py hold the other networks.
"""

from __future__ import annotations

import importlib
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

BASIC_38 = (("b2", 64, 128, 128, 2, 1, 1), ("b2_1", 128, 128, 128), ("b2_2", 128, 128, 128),
            ("b3", 128, 256, 256, 2, 1, 1), ("b3_1", 256, 256, 256), ("b3_2", 256, 256, 256),
            ("b4", 256, 512, 512, 2, 1, 1), *((f"b4_{i}", 512, 512, 512) for i in range(1, 6)),
            ("b5", 512, 512, 1024, 1, 1, 2), ("b5_1", 1024, 512, 1024, 1, 2, 2),
            ("b5_2", 1024, 512, 1024, 1, 2, 2))


def package(name: str, install: str):
    """The package; where it is missing, ValueError of one line. install: its name at PyPI."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise ValueError(f"{name} is not installed and this network in PyTorch is made from it; "
                         f"pip install {install}, or name other --networks") from None


def randomise(network: nn.Module) -> nn.Module:
    """The network, in evaluation mode, with weights that neither fade nor explode on their way."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            # Layers of tokens have no ReLU, so that their gain is 1 and not 2.
            gain = 2 if isinstance(module, nn.Conv2d) else 1
            nn.init.normal_(module.weight, std=(gain / module.weight[0].numel()) ** 0.5)
        elif isinstance(module, nn.BatchNorm2d) and name.endswith("bn3"):
            nn.init.constant_(module.weight, 0.3)  # the last one of a residual branch
    return network.eval()


# ---- networks ----------------------------------------------------------------------------------


class Maps(nn.Module):
    """ReLU of what `net` makes of the photo; tags are not looked at."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x, tags_bk):
        return F.relu(self.net(x))


class _Basic(nn.Module):
    """A pre-activated block of two 3x3 convolutions."""

    def __init__(self, inputs, mid, width, stride=1, first=1, dilation=1):
        super().__init__()
        self.bn_branch2a, self.bn_branch2b1 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(mid)
        self.conv_branch2a = nn.Conv2d(inputs, mid, 3, stride, first, first, bias=False)
        self.conv_branch2b1 = nn.Conv2d(mid, width, 3, 1, dilation, dilation, bias=False)
        self.conv_branch1 = None
        if inputs != width or stride != 1:
            self.conv_branch1 = nn.Conv2d(inputs, width, 1, stride, bias=False)

    def forward(self, x):
        y = F.relu(self.bn_branch2a(x))
        short = x if self.conv_branch1 is None else self.conv_branch1(y)
        return short + self.conv_branch2b1(F.relu(self.bn_branch2b1(self.conv_branch2a(y))))


class _Bottleneck(nn.Module):
    """A pre-activated block of a 1x1, a dilated 3x3 and a 1x1 convolution."""

    def __init__(self, inputs, width, dilation):
        super().__init__()
        one, two = width // 4, width // 2
        self.bn_branch2a, self.bn_branch2b1, self.bn_branch2b2 = (
            nn.BatchNorm2d(n) for n in (inputs, one, two))
        self.conv_branch2a = nn.Conv2d(inputs, one, 1, bias=False)
        self.conv_branch2b1 = nn.Conv2d(one, two, 3, 1, dilation, dilation, bias=False)
        self.conv_branch2b2 = nn.Conv2d(two, width, 1, bias=False)
        self.conv_branch1 = nn.Conv2d(inputs, width, 1, bias=False)

    def forward(self, x):
        y = F.relu(self.bn_branch2a(x))
        z = F.relu(self.bn_branch2b1(self.conv_branch2a(y)))
        z = F.relu(self.bn_branch2b2(self.conv_branch2b1(z)))
        return self.conv_branch1(y) + self.conv_branch2b2(z)


def resnet38(outputs: int) -> nn.Module:
    """ResNet-38 (AffinityNet's), then a 1x1 convolution: maps of stride 8."""
    parts = OrderedDict(conv1a=nn.Conv2d(3, 64, 3, 1, 1, bias=False))
    parts |= {name: _Basic(*sizes) for name, *sizes in BASIC_38}
    parts |= {"b6": _Bottleneck(1024, 2048, 4), "b7": _Bottleneck(2048, 4096, 4)}
    parts |= {"bn7": nn.BatchNorm2d(4096), "relu": nn.ReLU(),
              "fc8": nn.Conv2d(4096, outputs, 1, bias=False)}
    return randomise(Maps(nn.Sequential(parts)))


def resnet50(outputs: int) -> nn.Module:
    """torchvision's ResNet-50 with its last stride taken out, then a 1x1 convolution: stride 16."""
    net = package("torchvision", "torchvision").models.resnet50(weights=None)
    net.layer4[0].conv2.stride = net.layer4[0].downsample[0].stride = (1, 1)
    names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
    parts = OrderedDict((name, getattr(net, name)) for name in names)
    parts["classifier"] = nn.Conv2d(2048, outputs, 1, bias=False)
    return randomise(Maps(nn.Sequential(parts)))


class _EfficientMaps(nn.Module):
    """A 1x1 convolution `head` behind the features of `trunk`."""

    def __init__(self, trunk: nn.Module, outputs: int):
        super().__init__()
        self.trunk, self.head = trunk, nn.Conv2d(1280, outputs, 1, bias=False)

    def forward(self, x):
        return self.head(self.trunk.extract_features(x))


def efficientnet_lite0(outputs: int) -> nn.Module:
    """The published EfficientNet-Lite0's features (stride 32), then a 1x1 convolution."""
    package_ = package("efficientnet_lite_pytorch", "efficientnet-lite-pytorch")
    trunk = package_.EfficientNet.from_name("efficientnet-lite0")
    return randomise(Maps(_EfficientMaps(trunk, outputs)))


# ---- inference ---------------------------------------------------------------------------------


def _up(side: float, multiple: int) -> int:
    return int(-(-side // multiple)) * multiple


def input_size(size: Sequence[int], scale: float, infer) -> tuple[int, int]:
    """(h, w) that a photo of `size` is scaled to. infer: see `class_maps`."""
    if infer.canvas == "square":
        size = (infer.side, infer.side)
    if infer.canvas == "grid":
        size = [max(infer.grid, round(side / infer.grid) * infer.grid) for side in size]
    h, w = (max(1, round(side * scale)) for side in size)
    if infer.canvas == "bucket":  # padding is our own way to these sizes
        return h, w
    return _up(h, infer.multiple), _up(w, infer.multiple)


def class_maps(network: nn.Module, photo_hw3: np.ndarray, tags_k: np.ndarray, infer,
               data) -> np.ndarray:
    """CAM float32 [m,h,w]: scale after scale, each a batch of its view and the mirror image.

    tags_k: float32, 0 or 1.  infer, data: with the fields that wsssjax/cam/infer.py describes; m
    is the number of tags, one more where the background has a map.
    """
    (h, w), device = photo_hw3.shape[:2], next(network.parameters()).device
    tags_1k = torch.from_numpy(tags_k)[None].to(device)
    chosen = np.flatnonzero(tags_k)
    if infer.background == "map":
        chosen = np.concatenate([[0], chosen + 1])
    chosen = torch.from_numpy(chosen).to(device)
    whole = (_up(h, infer.align), _up(w, infer.align))
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (data.mean, data.std))
    with torch.inference_mode():
        total = torch.zeros(len(chosen), h, w, device=device)
        for scale in infer.scales:
            size = input_size((h, w), scale, infer)[::-1]
            scaled = np.array(Image.fromarray(photo_hw3).resize(size, Image.Resampling.BICUBIC))
            x = ((torch.from_numpy(scaled).permute(2, 0, 1) / 255 - mean) / std).to(device)
            views = torch.stack([x, x.flip(2)] if infer.flip else [x])
            maps = network(views, tags_1k.expand(len(views), -1))[:, chosen].float()
            if infer.flip:
                maps = maps[:1] + maps[1:].flip(3)
            total += F.interpolate(maps, whole, mode="bilinear",
                                   align_corners=False)[0, :, :h, :w]
        return NORMALISE[infer.normalise](total).cpu().numpy()


def _by_max(total_mhw):
    return total_mhw / (total_mhw.amax((1, 2), keepdim=True) + 1e-5)


def _by_range(total_mhw):
    total_mhw = F.relu(total_mhw)
    low, high = total_mhw.amin((1, 2), keepdim=True), total_mhw.amax((1, 2), keepdim=True)
    total_mhw = torch.where(total_mhw < low + 1e-5, 0.0, total_mhw)
    return (total_mhw - low - 1e-5) / (high - low + 1e-5)


NORMALISE = {"max": _by_max, "minmax": _by_range, "none": lambda total_mhw: total_mhw}
