"""Command: public weights → weights.safetensors under our names, or ours → a PyTorch state dict.

--arch: an encoder's name reads its public weights (of DINOv2 the hub's .pth as well as Hugging
Face's .safetensors); unimatch_v2_dinov2_s|b|l|g reads a trained UniMatch V2 model, encoder and
head: a plain state dict, or of its checkpoint the entry `model`, with --ema `model_ema`; resnet38
reads the trunk of AffinityNet's classifier, affinity_resnet38 the whole of its second network,
ssdd_resnet38 SSDD's segmenter and its difference networks, static or dynamic, whose two files --src
names with a comma between. cam_resnet38 (AffinityNet's, or the CAM of the EPS code), eps_resnet38
and cam_resnet50 (IRN's) read trained classifiers whole, for python -m wsssjax.cam.
clip_vit_b16 takes the image tower out of a CLIP, by Hugging Face's names or OpenAI's.
conformer_small takes the encoder out of Conformer's ImageNet file, transcam and bao read the whole
checkpoints of TransCAM and BAO.
resnet101_deeplab takes the encoder out of DeepLab's COCO weights (names of kazuto1011's PyTorch
code), deeplab_v2_resnet101 reads a whole DeepLab v2 of these.
--to=torch goes the other way and writes <out>/model.pth. Both ways are exact.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wsssjax.bridge import torch_weights
from wsssjax.core import cli, config, files, weights
from wsssjax.models import (
    affinity_net,
    attention_classifier,
    classifier,
    clip,
    clip_names,
    conformer,
    conformer_names,
    deeplab,
    difference_net,
    dpt,
    efficientnet_lite,
    recognise,
    registry,
    resnet,
    resnet38,
    vgg,
    vit,
    vit_names,
)
from wsssjax.models.attention_classifier import AttentionClassifier
from wsssjax.models.classifier import Classifier
from wsssjax.models.segmenter import Segmenter

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")
TORCH_FILE = "model.pth"
LAST_LAYERS = ("params/head/scratch/output_conv_2/bias", "params/seg_main/seg2/bias",
               "params/head/c0/bias")
FOREGROUNDS = (20, 80)  # classes of VOC and COCO: one map more is the background's
HEADS = {"s": 64, "b": 128, "l": 256, "g": 384}  # width of the DPT head


class Arch(NamedTuple):
    """module: (number of classes, flat names) → the network with every parameter of the file.
    to_ours, to_torch: state dict ↔ flat names (to_torch None where nobody reads such files).
    whole: an encoder and its head, not an encoder alone.
    passed_over: state dict → names that are for other networks (None: there are none).
    """

    module: Callable
    to_ours: Callable
    to_torch: Callable | None = None
    whole: bool = False
    passed_over: Callable | None = None


def _encoder(size: str, registers: int = 0) -> Arch:
    return Arch(lambda *_: vit.ViT(vit.SIZES[size], registers), vit_names.from_public,
                vit_names.to_hub)


def _segmenter(size: str) -> Arch:
    def module(classes, _):
        head = dpt.DPTHead(classes, HEADS[size], dpt.channels(HEADS[size]), (vit.PATCH,) * 4)
        return Segmenter(vit.ViT(vit.SIZES[size]), head)

    return Arch(module, registry.segmenter_from_torch, registry.segmenter_to_torch, whole=True)


def _clip(size: str) -> Arch:
    return Arch(lambda *_: clip.ImageTower(clip.SIZES[size]), clip_names.image_tower,
                passed_over=clip_names.passed_over)


def _resnet(depth: int, *_):
    return resnet.ResNet(depth)


def _aliases(tensors) -> list[str]:
    """Names that the conversion of IRN's classifier reads nothing from."""
    heads = [n for n in tensors if n.endswith(("classifier.weight", "newly_added.0.weight"))]
    return [n for n in resnet.passed_over(tensors) if n not in heads[:1]]


def _affinity() -> Arch:
    def module(*_):
        return affinity_net.AffinityNet(resnet38.ResNet38(), affinity_net.TAPS["resnet38"])

    return Arch(module, affinity_net.from_torch, whole=True)


def _classifier(encoder: Callable, convert: Callable, head: str, *, background: bool = False,
                passed_over: Callable | None = None) -> Arch:
    """A published classifier. background: the last of its maps is the background's."""
    def to_ours(tensors):
        flat = classifier.from_torch(tensors, convert, head)
        maps = flat["params/head/kernel"].shape[1]
        if maps - (not background) in FOREGROUNDS:
            raise ValueError(f"{maps} class maps: {'without' if background else 'with'} one for "
                             f"the background; want --arch={'cam' if background else 'eps'}_…")
        return flat

    def module(_, flat):
        return Classifier(encoder(), flat["params/head/kernel"].shape[1])

    return Arch(module, to_ours, whole=True, passed_over=passed_over)


def _attention_classifier(background: bool) -> Arch:
    """TransCAM, or BAO with its two layers more, on Conformer-S."""
    last = "params/head/conv_cls_head/bias"

    def to_ours(tensors):
        flat = attention_classifier.from_torch(tensors)
        if last in flat and len(flat[last]) - 1 not in FOREGROUNDS:
            raise ValueError(f"{len(flat[last])} class maps; want 21 (VOC) or 81 (COCO), the first "
                             "of them the background's")
        return flat

    def module(_, flat):
        classes = len(flat[last]) - 1 if last in flat else FOREGROUNDS[0]
        return AttentionClassifier(conformer.Conformer(), classes, background)

    return Arch(module, to_ours, attention_classifier.to_torch, whole=True)


def _caffe_resnet():
    return resnet.ResNet(101, 8, "all", "frozen", layout="caffe")


def _deeplab_v2() -> Arch:
    def module(classes, _):
        return Segmenter(_caffe_resnet(), deeplab.Aspp(classes, (6, 12, 18, 24), 0))

    return Arch(module, deeplab.from_torch, whole=True)


def _ssdd() -> Arch:
    def module(classes, names):
        branches = 1 + any(name.startswith("params/seg_sub/") for name in names)
        return difference_net.DifferenceSegmenter(resnet38.ResNet38(), classes, branches)

    return Arch(module, difference_net.from_torch, whole=True)


ARCHES = {
    "resnet38": Arch(lambda *_: resnet38.ResNet38(), resnet38.from_torch),
    **{f"resnet{depth}": Arch(functools.partial(_resnet, depth), resnet.from_torch,
                              passed_over=resnet.passed_over) for depth in resnet.BLOCKS},
    "vgg16": Arch(lambda *_: vgg.VGG16(), vgg.from_torch),
    "resnet101_deeplab": Arch(lambda *_: _caffe_resnet(), deeplab.encoder_from_torch,
                              passed_over=deeplab.passed_over),
    "deeplab_v2_resnet101": _deeplab_v2(),
    "affinity_resnet38": _affinity(),
    "cam_resnet38": _classifier(resnet38.ResNet38, resnet38.from_torch, "fc8"),
    "eps_resnet38": _classifier(resnet38.ResNet38, resnet38.from_torch, "fc8", background=True),
    "cam_resnet50": _classifier(lambda: resnet.ResNet(50, 16, norm="stored"), resnet.from_torch,
                                r"classifier|newly_added\.0", passed_over=_aliases),
    "ssdd_resnet38": _ssdd(),
    "conformer_small": Arch(lambda *_: conformer.Conformer(), conformer_names.from_torch,
                            passed_over=conformer_names.passed_over),
    "transcam": _attention_classifier(background=False),
    "bao": _attention_classifier(background=True),
    "efficientnet_lite0": Arch(lambda *_: efficientnet_lite.EfficientNetLite0(num_classes=1000),
                               efficientnet_lite.from_torch),
    **{f"clip_vit_{size}": _clip(size) for size in clip.SIZES},
    **{f"dinov2_{size}": _encoder(size) for size in vit.SIZES},
    **{f"dinov2_{size}_reg": _encoder(size, vit.REGISTERS) for size in vit.SIZES},
    **{f"unimatch_v2_dinov2_{size}": _segmenter(size) for size in vit.SIZES},
}


def main(arguments: list[str]) -> None:
    """Nothing; writes <out>/weights.safetensors or <out>/model.pth, and <out>/report.json."""
    parser = cli.parser(
        "python tools/convert_weights.py", __doc__,
        "python tools/convert_weights.py --arch=dinov2_b \\\n"
        "    --src=dinov2_vitb14_pretrain.pth --out=weights/dinov2_b")
    parser.add_argument("--arch", required=True, help=f"one of: {', '.join(ARCHES)}")
    parser.add_argument("--src", required=True,
                        help="PyTorch names in a .pth (needs torch), .npz or .safetensors; with "
                             "--to=torch our own weights; A,B reads two files as one")
    parser.add_argument("--out", required=True, help="folder for the result")
    parser.add_argument("--to", default="ours", help="ours (default) or torch")
    parser.add_argument("--ema", action="store_true",
                        help="take the averaged model (model_ema) of a checkpoint")
    flags = parser.parse_args(arguments)
    report = convert(flags.arch, flags.src, flags.out, to=flags.to, ema=flags.ema)
    print(f"{report['tensors']} tensors, {report['numbers']:,} numbers in {flags.out}/"
          f"{report['file']}; passed over: {len(report['skipped'])}, none missing")


def convert(arch: str, src: str, out: str, *, to: str = "ours", ema: bool = False) -> dict:
    """The report: how many tensors and numbers were written, which names were passed over.

    A name that is missing, left over or of another shape is a ValueError and nothing is written.
    """
    chosen = config.choose(ARCHES, arch, "--arch")
    forth = config.choose({"ours": _to_ours, "torch": _to_torch}, to, "--to")
    if ema and (to == "torch" or not chosen.whole):
        raise ValueError(f"--ema: reads a checkpoint of a trained segmenter, not {arch} --to={to}")
    try:
        tensors, skipped, file = forth(chosen, src, pathlib.Path(out), ema)
    except ValueError as error:
        begins = str(error).startswith((str(src), *_sources(src)))
        named = str(error) if begins else f"{src}, as {arch}: {error}"
        raise ValueError(named) from None
    report = {
        "arch": arch,
        "source": {"name": ",".join(pathlib.Path(one).name for one in _sources(src)),
                   "hash": ",".join(weights.fingerprint(one) for one in _sources(src))},
        "file": file,
        "tensors": len(tensors),
        "numbers": int(sum(np.size(x) for x in tensors.values())),
        "skipped": skipped,
        "names": {name: list(x.shape) for name, x in tensors.items()},
    }
    files.write_json(pathlib.Path(out) / "report.json", report)
    return report


def _to_ours(arch: Arch, src: str, out: pathlib.Path, ema: bool):
    """(what was written by name, names passed over, file name)."""
    tensors: dict = {}
    for one in _sources(src):
        found = _read(arch, one, ema)
        if both := sorted(tensors.keys() & found.keys()):
            raise ValueError(f"{one}: holds what the file before holds ({weights.listed(both)}); "
                             "want files that complete each other")
        tensors |= found
    try:
        variables = _fitting(arch, arch.to_ours(tensors))
    except ValueError as error:
        wanted = next((name for name, one in ARCHES.items() if one is arch), "")
        wanted = "conformer" if wanted in ("transcam", "bao") else wanted
        raise ValueError(f"{error}{recognise.hint(tensors, wanted)}") from None
    flat = weights.flatten(variables)
    flat = flat if arch.whole else weights.under("backbone", flat)
    weights.save(out / weights.FILE, flat)
    skipped = [n for n in tensors if n.endswith("num_batches_tracked") or
               (n.startswith("classifier.") and not arch.whole)]
    skipped += arch.passed_over(tensors) if arch.passed_over else []
    return flat, sorted(set(skipped)), weights.FILE


def _sources(src: str) -> list[str]:
    """The files that `src` names; a comma may also be part of one name."""
    return [src] if pathlib.Path(src).exists() else str(src).split(",")


def _read(arch: Arch, src: str, ema: bool) -> dict:
    """The tensors of one file by name."""
    if pathlib.Path(src).suffix in TORCH_SUFFIXES:
        return torch_weights.read(src, ("model_ema" if ema else "model") if arch.whole else "")
    if ema:
        raise ValueError(f"{src}: no checkpoint of PyTorch's, so it has no model_ema; leave --ema")
    return weights.load(src)


def _to_torch(arch: Arch, src: str, out: pathlib.Path, ema: bool):
    if arch.to_torch is None:
        raise ValueError("has no way back to PyTorch; only dinov2_…, unimatch_v2_…, "
                         "transcam and bao have")
    flat = weights.load(src)
    skipped = []
    if not arch.whole:  # an encoder alone, or that of a trained segmenter
        skipped = [n for n in flat if not n.startswith("params/backbone/")]
        flat = {n.replace("params/backbone/", "params/", 1): x for n, x in flat.items()
                if n not in skipped}
    variables = _fitting(arch, flat)
    tensors = arch.to_torch(weights.flatten(variables))
    torch_weights.write(out / TORCH_FILE, tensors)
    return tensors, sorted(skipped), TORCH_FILE


def _classes(flat: dict) -> int:
    """How many classes a segmenter's last layer has; 1 where it has none, which then is told."""
    last = next((flat[name] for name in LAST_LAYERS if name in flat), None)
    return len(last) if last is not None and np.ndim(last) == 1 else 1


def _fitting(arch: Arch, flat: dict) -> dict:
    """The weights as the network's variables; ValueError lists what does not fit."""
    module, side = arch.module(_classes(flat), flat), 8 * vit.PATCH  # 7 * CLIP's
    template = jax.eval_shape(lambda: module.init(
        jax.random.key(0), jnp.zeros((1, side, side, 3)), train=False))
    return weights.restore(template, flat)


if __name__ == "__main__":
    cli.run(main)
