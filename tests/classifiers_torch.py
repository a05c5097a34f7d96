"""CAM and EPS a second time, in PyTorch and in their plainest form, for the parity tests to load.

State dicts have the published names: AffinityNet's and EPS's classifier (`b3.conv_branch2a.weight`,
`fc8.weight`), IRN's (each layer as resnet50.…, stage1.… and backbone.0.…; `classifier.weight`).
Dropout is left out.
"""

import importlib.util
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

spec = importlib.util.spec_from_file_location(
    "ssdd_torch", pathlib.Path(__file__).with_name("ssdd_torch.py"))
ssdd = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ssdd)

MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
FROZEN38 = ("conv1a", "b2", "b2_1", "b2_2")


# ---- networks ----------------------------------------------------------------------------------


class Bottleneck(nn.Module):
    def __init__(self, inputs, mid, stride, dilation, project, early):
        super().__init__()
        first, second = (stride, 1) if early else (1, stride)
        self.conv1 = nn.Conv2d(inputs, mid, 1, first, bias=False)
        self.bn1 = nn.BatchNorm2d(mid)
        self.conv2 = nn.Conv2d(mid, mid, 3, second, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(mid)
        self.conv3 = nn.Conv2d(mid, 4 * mid, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * mid)
        self.downsample = nn.Sequential(nn.Conv2d(inputs, 4 * mid, 1, stride, bias=False),
                                        nn.BatchNorm2d(4 * mid)) if project else nn.Identity()

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class ResNet(nn.Module):
    """strides, dilations: of the four stages; first: dilation of each stage's first block."""

    def __init__(self, depth=50, width=1.0, strides=(1, 2, 2, 2), dilations=(1, 1, 1, 1),
                 first=None, caffe=False):
        super().__init__()

        def scaled(d):
            return max(2, round(d * width))

        inputs = scaled(64)
        self.conv1 = nn.Conv2d(3, inputs, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1, ceil_mode=caffe)
        for stage in range(4):
            mid, blocks = scaled(64 * 2**stage), []
            for i in range(BLOCKS[depth][stage]):
                looks = (first or dilations)[stage] if i == 0 else dilations[stage]
                blocks.append(Bottleneck(inputs, mid, strides[stage] if i == 0 else 1, looks,
                                         i == 0, caffe))
                inputs = 4 * mid
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.feature_width = inputs

    def forward(self, x):
        """The maps of the four stages."""
        x, found = self.maxpool(self.relu(self.bn1(self.conv1(x)))), []
        for name in ("layer1", "layer2", "layer3", "layer4"):
            x = getattr(self, name)(x)
            found.append(x)
        return found


class Cam38(ssdd.ResNet38):
    """Raw class maps; AffinityNet's and EPS's classifier."""

    def __init__(self, classes, width=1.0):
        super().__init__(width)
        self.fc8 = nn.Conv2d(self.feature_width, classes, 1, bias=False)

    def forward(self, x):
        return self.fc8(super().forward(x)[1])

    def groups(self):
        """(parameters at the plain rate, at ten times); the others stand still."""
        plain = [p for n, p in self.named_parameters() if n.split(".")[0] not in (*FROZEN38, "fc8")]
        return plain, [self.fc8.weight]


class Irn(nn.Module):
    """Raw class maps; IRN's classifier, whose layers go by several names."""

    def __init__(self, classes, width=1.0):
        super().__init__()
        self.resnet50 = ResNet(50, width, (1, 2, 2, 1))
        net = self.resnet50
        self.stage1 = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1)
        self.stage2, self.stage3 = nn.Sequential(net.layer2), nn.Sequential(net.layer3)
        self.stage4 = nn.Sequential(net.layer4)
        self.classifier = nn.Conv2d(net.feature_width, classes, 1, bias=False)
        self.backbone = nn.ModuleList([self.stage1, self.stage2, self.stage3, self.stage4])
        self.newly_added = nn.ModuleList([self.classifier])

    def forward(self, x):
        for module in self.modules():  # by stored statistics, in training too
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        x = self.stage2(self.stage1(x)).detach()
        return self.classifier(self.stage4(self.stage3(x)))

    def groups(self):
        """(parameters at the plain rate, at ten times). Those before layer3 are there as well, but
        without a gradient SGD leaves them alone, decay included."""
        return list(self.backbone.parameters()), list(self.newly_added.parameters())


def randomise(model, seed=0):
    """Every tensor drawn anew, so that no norm is the identity; aliases stay aliases."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, x in [*model.named_parameters(), *model.named_buffers()]:
            if not x.is_floating_point():
                continue
            draw = torch.randn(x.shape, generator=generator, dtype=torch.float32).to(x.dtype)
            if name.endswith("running_var"):
                x.copy_(1 + 0.2 * draw.abs())
            elif x.ndim == 1:
                norm = "bn" in name or "downsample.1" in name or name.startswith("stage1.1.")
                base = 1.0 if norm and name.endswith("weight") else 0.0
                x.copy_(base + 0.1 * draw)
            else:
                x.copy_(draw * (1.4 / x[0].numel()) ** 0.5)
    return model


def numpy_state(model):
    return {name: x.detach().numpy() for name, x in model.state_dict().items()}


# ---- losses and descent ------------------------------------------------------------------------


def cam_losses(maps, batch):
    return {"loss_cls": F.multilabel_soft_margin_loss(maps.mean((2, 3)), batch["tags"])}


def eps_losses(maps, batch, *, tau=0.4, lam=0.5):
    """EPS's two losses, its published order of sums; the background is the last channel."""
    tags, (h, w) = batch["tags"], maps.shape[2:]
    loss_cls = F.multilabel_soft_margin_loss(maps.mean((2, 3))[:, :-1], tags)
    saliency = F.interpolate(batch["saliency"][:, None], size=(h, w))[:, 0]  # legacy nearest
    m = torch.softmax(maps, 1)
    with torch.no_grad():
        on, salient = m[:, :-1].round(), saliency[:, None].round()
        overlap = (on * salient).sum((2, 3)) / (on + 1e-4).sum((2, 3))
        chosen = (overlap > tau).to(m)
    front = (tags * chosen)[:, :, None, None]
    back = (tags * (1 - chosen))[:, :, None, None]
    foreground = (m[:, :-1] * front).sum(1)
    background = m[:, -1] + (m[:, :-1] * back).sum(1)
    estimate = lam * foreground + (1 - lam) * (1 - background)
    return {"loss_cls": loss_cls, "loss_sal": F.mse_loss(estimate, saliency)}


class Poly(torch.optim.SGD):
    """The published optimizer: weight decay stands where momentum belongs, and the rates are set
    before each step. rounded: (first rate, steps done, rate) → the rate to take, for a comparison
    in float64 with rates that were computed in float32."""

    def __init__(self, model, lr, weight_decay, steps, rounded):
        plain, new = model.groups()
        groups = [{"params": plain, "lr": lr}, {"params": new, "lr": 10 * lr}]
        super().__init__(groups, lr, weight_decay, weight_decay=weight_decay)
        assert self.param_groups[0]["momentum"] == weight_decay
        self.base, self.done, self.steps, self.rounded = [lr, 10 * lr], 0, steps, rounded

    def step(self):
        for group, base in zip(self.param_groups, self.base, strict=True):
            group["lr"] = self.rounded(base, self.done, base * (1 - self.done / self.steps) ** 0.9)
        self.done += 1
        super().step()


def train(model, losses, batches, lr, weight_decay, steps, rounded=lambda base, t, rate: rate):
    """The losses of each batch, {name: [n]}; the model learns from them."""
    optimizer, curve = Poly(model, lr, weight_decay, steps, rounded), []
    dtype = next(model.parameters()).dtype
    for batch in batches:
        found = {n: torch.tensor(x, dtype=dtype) for n, x in batch.items()}
        parts = losses(model(found.pop("image").permute(0, 3, 1, 2)), found)
        optimizer.zero_grad()
        sum(parts.values()).backward()
        optimizer.step()
        curve.append({n: x.item() for n, x in parts.items()})
    return {n: np.array([parts[n] for parts in curve]) for n in curve[0]}


# ---- maps of photos ----------------------------------------------------------------------------


def network_input(photo, scale):
    """[1,3,h,w] of a photo at a scale: PIL bicubic from the original, normalised."""
    h, w = (round(side * scale) for side in photo.shape[:2])
    resized = np.asarray(Image.fromarray(photo).resize((w, h), Image.BICUBIC), np.float32)
    return torch.tensor(((resized / 255 - MEAN) / STD).transpose(2, 0, 1))[None]


def resized(maps, h, w):
    return F.interpolate(maps, (h, w), mode="bilinear", align_corners=False)


def flipped_maps(model, photo, tags, activate, scales):
    """AffinityNet and EPS: eight passes, each enlarged to the photo and masked by the tags, the sum
    over its maximum + 1e-5. [classes present, h, w] in the order of the classes."""
    h, w = photo.shape[:2]
    present = np.flatnonzero(tags)
    total = torch.zeros(len(tags), h, w)
    with torch.no_grad():
        for scale in scales:
            image = network_input(photo, scale)
            for flip in (False, True):
                maps = activate(model(image.flip(3) if flip else image))
                maps = resized(maps, h, w)[0] * torch.tensor(tags)[:, None, None]
                total += maps.flip(2) if flip else maps
    total = total[present]
    return (total / (total.amax((1, 2), keepdim=True) + 1e-5)).numpy()


def psa_maps(model, photo, tags, scales=(0.5, 1.0, 1.5, 2.0)):
    return flipped_maps(model, photo, tags, torch.relu, scales)


def eps_maps(model, photo, tags, scales=(0.5, 1.0, 1.5, 2.0)):
    return flipped_maps(model, photo, tags, lambda z: torch.softmax(z, 1)[:, :-1], scales)


def irn_maps(model, photo, tags, scales=(1.0, 0.5, 1.5, 2.0)):
    """IRN's `high_res`: photo and mirror image in one batch, their maps added at feature size,
    enlarged to the sides taken up to multiples of 16, and cut."""
    h, w = photo.shape[:2]
    present = np.flatnonzero(tags)
    total = torch.zeros(len(present), h, w)
    with torch.no_grad():
        for scale in scales:
            image = network_input(photo, scale)
            maps = torch.relu(model(torch.cat([image, image.flip(3)])))
            maps = (maps[0] + maps[1].flip(2))[None]
            up = ((h - 1) // 16 + 1) * 16, ((w - 1) // 16 + 1) * 16
            total += resized(maps, *up)[0, present, :h, :w]
    return (total / (total.amax((1, 2), keepdim=True) + 1e-5)).numpy()
