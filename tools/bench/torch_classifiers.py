"""The classifiers' networks in PyTorch eager, and their published multi-scale inference.

What our inference is compared with in speed and in numbers; it shares nothing with our JAX code.
Photos are uint8 [h,w,3]; networks take [b,3,h,w] and return class maps [b,k,p,q].
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCALES = (0.5, 1.0, 1.5, 2.0)


class _Basic(nn.Module):
    """A pre-activated block of two 3x3 convolutions."""

    def __init__(self, inputs, mid, width, stride=1, first=1, dilation=1):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(mid)
        self.conv1 = nn.Conv2d(inputs, mid, 3, stride, first, first, bias=False)
        self.conv2 = nn.Conv2d(mid, width, 3, 1, dilation, dilation, bias=False)
        self.short = None
        if inputs != width or stride != 1:
            self.short = nn.Conv2d(inputs, width, 1, stride, bias=False)

    def forward(self, x):
        y = F.relu(self.bn1(x))
        short = x if self.short is None else self.short(y)
        return short + self.conv2(F.relu(self.bn2(self.conv1(y))))


class _Bottleneck(nn.Module):
    """A pre-activated block of a 1x1, a dilated 3x3 and a 1x1 convolution."""

    def __init__(self, inputs, width, dilation):
        super().__init__()
        mids = (inputs, width // 4, width // 2)
        self.bns = nn.ModuleList(nn.BatchNorm2d(mid) for mid in mids)
        self.conv1 = nn.Conv2d(inputs, width // 4, 1, bias=False)
        self.conv2 = nn.Conv2d(width // 4, width // 2, 3, 1, dilation, dilation, bias=False)
        self.conv3 = nn.Conv2d(width // 2, width, 1, bias=False)
        self.short = nn.Conv2d(inputs, width, 1, bias=False)

    def forward(self, x):
        y = F.relu(self.bns[0](x))
        z = F.relu(self.bns[1](self.conv1(y)))
        return self.short(y) + self.conv3(F.relu(self.bns[2](self.conv2(z))))


def resnet38(outputs: int) -> nn.Module:
    """ResNet-38 (AffinityNet's), then a 1x1 convolution: maps of stride 8."""
    blocks: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False)]
    for inputs, width, count in ((64, 128, 3), (128, 256, 3), (256, 512, 6)):
        blocks.append(_Basic(inputs, width, width, stride=2))
        blocks += [_Basic(width, width, width) for _ in range(count - 1)]
    blocks.append(_Basic(512, 512, 1024, 1, 1, 2))
    blocks += [_Basic(1024, 512, 1024, 1, 2, 2) for _ in range(2)]
    blocks += [_Bottleneck(1024, 2048, 4), _Bottleneck(2048, 4096, 4)]
    return nn.Sequential(*blocks, nn.BatchNorm2d(4096), nn.ReLU(),
                         nn.Conv2d(4096, outputs, 1, bias=False))


def resnet50(outputs: int) -> nn.Module:
    """torchvision's ResNet-50 with its last stride taken out, then a 1x1 convolution: stride 16."""
    import torchvision

    net = torchvision.models.resnet50(weights=None)
    net.layer4[0].conv2.stride = net.layer4[0].downsample[0].stride = (1, 1)
    parts = (net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2, net.layer3,
             net.layer4)
    return nn.Sequential(*parts, nn.Conv2d(2048, outputs, 1, bias=False))


def efficientnet_lite0(outputs: int) -> nn.Module:
    """The published EfficientNet-Lite0's features (stride 32), then a 1x1 convolution."""
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0")

    class Maps(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.head = net, nn.Conv2d(1280, outputs, 1, bias=False)

        def forward(self, x):
            return self.head(self.net.extract_features(x))

    return Maps()


def class_maps(network: Callable, photo_hw3: np.ndarray, tags_k: np.ndarray,
               activation: Callable = F.relu, scales=SCALES) -> np.ndarray:
    """CAM float32 [m,h,w] as AffinityNet and EPS publish it: each scale and its mirror image alone.
    """
    h, w = photo_hw3.shape[:2]
    chosen = np.flatnonzero(tags_k)
    total = torch.zeros(len(chosen), h, w)
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (MEAN, STD))
    with torch.inference_mode():
        for scale in scales:
            size = (round(w * scale), round(h * scale))
            scaled = np.array(Image.fromarray(photo_hw3).resize(size, Image.Resampling.BICUBIC))
            x = (torch.from_numpy(scaled).permute(2, 0, 1) / 255 - mean) / std
            for mirror in (False, True):
                maps = activation(network((x.flip(2) if mirror else x)[None]))
                maps = F.interpolate(maps[:, chosen], (h, w), mode="bilinear",
                                     align_corners=False)[0]
                total += maps.flip(2) if mirror else maps
    return (total / (total.amax((1, 2), keepdim=True) + 1e-5)).numpy()
