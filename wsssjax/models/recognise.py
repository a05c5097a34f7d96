"""Which network a file of weights comes from, by its names: for messages about files that do not
fit."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Part of an encoder's name: (what to call the network, a name that it alone has). Names are
# PyTorch's, with dots, or ours, with slashes and underscores.
NETWORKS = {
    "resnet38": ("a ResNet-38", r"\bb3[./]conv_branch2a[./]"),
    "conformer": ("a Conformer", r"\bconv_trans_2[./]"),
    "resnet101": ("a ResNet-101", r"\blayer3[._]22[./]conv3[./]"),
    "resnet50": ("a ResNet-50", r"\blayer3[._]5[./]conv3[./]"),
    "resnet18": ("a ResNet of 18 or 34 layers", r"\blayer4[._]1[./]conv2[./]"),
    "efficientnet": ("an EfficientNet", r"\b_?blocks[._]3[./]_?depthwise_conv[./]"),
    "clip": ("CLIP", r"\bresblocks\.0\.|\b(text|vision)_model\.|\bvisual[./]|/in_proj/kernel"),
    "dinov2": ("a DINOv2", r"\bblocks[./](\d+\.)*(attn|ls1)[./]|\bencoder\.layer\.0\.layer_scale1"),
    "vgg16": ("a VGG-16", r"\bfeatures[._]28[./]"),
    "deeplab": ("DeepLab's own ResNet (convert it with --arch=resnet101_deeplab)",
                r"\blayer5\.block1\.conv3x3\."),
}


def network(names: Iterable[str]) -> str:
    """The key in NETWORKS of the network with these names, "" where they do not tell."""
    text = "\n".join(names)
    return next((key for key, (_, mark) in NETWORKS.items() if re.search(mark, text)), "")


def hint(names: Iterable[str], wanted: str) -> str:
    """`; these look like weights of a ResNet-50`, "" where they are of `wanted` or nobody's.

    wanted: name of the encoder or of the network that did not fit.
    """
    found = network(names)
    if not found or found in wanted:
        return ""
    return f"; these look like weights of {NETWORKS[found][0]}"
