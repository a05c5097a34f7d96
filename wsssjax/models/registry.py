"""Networks by name, as `config.model` describes them, and pretrained weights into their encoders.

config.model: `encoder` (a name in ENCODERS), `encoder_weights` (a file or folder, "" for none),
`freeze_encoder`, `dtype` ("float32" or "bfloat16", what convolutions and matrix products compute
in); convolutional encoders also read `output_stride`, ResNets the fields under `resnet` (dilation,
norm, freeze_below, layout), DINOv2 those under `vit`, CLIP those under `clip`, a Conformer those
under `conformer`; classifiers `dropout`, segmenters
`bgr`, `decoder` (a name in DECODERS) and the fields that begin with `head_`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from wsssjax.core import weights
from wsssjax.core.config import choose
from wsssjax.models import (
    clip,
    clip_names,
    conformer,
    conformer_names,
    deeplab,
    dpt,
    efficientnet_lite,
    norms,
    probe_head,
    recognise,
    resnet,
    resnet38,
    small_cnn,
    vgg,
    vit,
    vit_names,
)
from wsssjax.models.classifier import Classifier, mean_pool
from wsssjax.models.segmenter import Segmenter

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class Encoder(NamedTuple):
    """module: (config.model, dtype) → encoder module.  from_torch: state dict of the public
    PyTorch weights → our flat names, None where there are no such weights."""

    module: Callable
    from_torch: Callable | None


def _cnn(kind: Callable) -> Callable:
    return lambda config, dtype: kind(output_stride=_field(config, "output_stride"), dtype=dtype)


def _resnet(depth: int) -> Callable:
    return lambda config, dtype: resnet.ResNet(depth, _field(config, "output_stride"),
                                               dtype=dtype, **_field(config, "resnet"))


def _vit(size: str, registers: int) -> Callable:
    return lambda config, dtype: vit.ViT(vit.SIZES[size], registers, dtype, **_field(config, "vit"))


def _clip(size: str) -> Callable:
    return lambda config, dtype: clip.ImageTower(clip.SIZES[size], dtype, **_field(config, "clip"))


def _conformer(config, dtype):
    return conformer.Conformer(dtype=dtype, **_field(config, "conformer"))


def _field(config, name: str):
    need({"model": config}, [f"model.{name}"], f"config.model.encoder={config.encoder!r}",
         _EXAMPLES[name])
    return config[name]


_EXAMPLES = {  # configs that have what some encoders read
    "clip": "cam_voc_clip.py", "conformer": "cam_voc_transcam.py",
    "output_stride": "cam_voc_cam.py", "resnet": "cam_voc_cam.py:resnet50",
    "vit": "semi_voc_unimatch_v2.py"}


def need(config: Any, names: Sequence[str], who: str, example: str) -> None:
    """ValueError unless the fields `names`, such as "model.taps", are there.

    who: what reads them.  example: of configs/, one that has them.
    """
    for name in names:
        node = config
        for part in name.split("."):
            if part not in node:
                raise ValueError(f"{who}: reads config.{name}, which this config has not; begin "
                                 f"with configs/{example}")
            node = node[part]


ENCODERS = {
    **{f"clip_vit_{size}": Encoder(_clip(size), clip_names.image_tower) for size in clip.SIZES},
    "conformer_small": Encoder(_conformer, conformer_names.from_torch),
    "efficientnet_lite0": Encoder(_cnn(efficientnet_lite.EfficientNetLite0),
                                  efficientnet_lite.from_torch),
    "resnet38": Encoder(lambda _, dtype: resnet38.ResNet38(dtype=dtype), resnet38.from_torch),
    **{f"resnet{depth}": Encoder(_resnet(depth), resnet.from_torch) for depth in resnet.BLOCKS},
    "small_cnn": Encoder(_cnn(small_cnn.SmallCNN), None),
    "vgg16": Encoder(lambda _, dtype: vgg.VGG16(dtype=dtype), vgg.from_torch),
    **{f"dinov2_{size}": Encoder(_vit(size, 0), vit_names.from_public) for size in vit.SIZES},
    **{f"dinov2_{size}_reg": Encoder(_vit(size, vit.REGISTERS), vit_names.from_public)
       for size in vit.SIZES},
}


def _dpt(config, classes, backbone, dtype):
    return dpt.DPTHead(classes, config.head_width, dpt.channels(config.head_width),
                       backbone.tap_strides, dtype)


def _largefov(config, classes, backbone, dtype):
    deeplab.only_dilation(config.head_dilations, "largefov")
    return _aspp(config, classes, backbone, dtype)


def _aspp(config, classes, backbone, dtype):
    return deeplab.Aspp(classes, tuple(config.head_dilations), config.head_width,
                        config.head_dropout, dtype)


def _resnet38_head(config, classes, backbone, dtype):
    return deeplab.ResNet38Head(classes, config.head_width,
                                deeplab.only_dilation(config.head_dilations, "resnet38_head"),
                                dtype)


def _deeplabv3plus(config, classes, backbone, dtype):
    choose(dict.fromkeys(norms.MODES), config.head_norm, "config.model.head_norm")
    return deeplab.DeepLabV3Plus(classes, tuple(config.head_dilations), config.head_width,
                                 norm=config.head_norm, dropout=config.head_dropout, dtype=dtype)


def _probe(config, classes, backbone, dtype):
    need({"model": config}, ["model.head_taps"], "config.model.decoder='probe'",
         "semi_voc_probe.py")
    taps = tuple(config.head_taps)
    if not taps or list(taps) != sorted(set(taps)) or not set(taps) <= set(range(4)):
        raise ValueError(f"config.model.head_taps is {taps}; want some of (0, 1, 2, 3), rising")
    return probe_head.ProbeHead(classes, config.head_width, taps, dtype)


DECODERS = {  # (config.model, number of classes, encoder, dtype) → head
    "aspp": _aspp,
    "deeplabv3plus": _deeplabv3plus,
    "dpt": _dpt,
    "largefov": _largefov,
    "probe": _probe,
    "resnet38_head": _resnet38_head,
}


def build_encoder(config: Any):
    """The encoder module that config.model names."""
    encoder = choose(ENCODERS, config.encoder, "config.model.encoder")
    return encoder.module(config, _dtype(config))


def build_classifier(config: Any, num_outputs: int, *, pool: Callable = mean_pool,
                     start: str = "xavier", taps: tuple[str, ...] = ("features",)) -> Classifier:
    """A classifier with `num_outputs` class maps on the encoder of config.model.

    pool, start, taps: see `Classifier`.
    """
    return Classifier(build_encoder(config), num_outputs, config.dropout, pool,
                      config.freeze_encoder, _dtype(config), start, taps)


def build_segmenter(config: Any, num_classes: int) -> Segmenter:
    """The decoder of config.model on its encoder."""
    build_head = choose(DECODERS, config.decoder, "config.model.decoder")
    least = 0 if config.decoder in ("aspp", "largefov") else 1
    if config.head_width < least:
        raise ValueError(f"config.model.head_width={config.head_width}: decoder "
                         f"{config.decoder!r} wants {least} or more")
    backbone = build_encoder(config)
    if config.decoder == "resnet38_head" and isinstance(backbone, resnet38.ResNet38):
        backbone = backbone.clone(freeze_below="b2")  # conv1a alone, as published
    head = build_head(config, num_classes, backbone, _dtype(config))
    return Segmenter(backbone, head, config.freeze_encoder, config.bgr)


def load_encoder(variables: dict, config: Any) -> dict:
    """`variables` with the weights of config.encoder_weights in `backbone`; the head stays.

    The file holds our own names (what training and tools/convert_weights.py write, any head in it
    is passed over) or those of the public PyTorch weights (.npz or .safetensors). Names that are
    missing, left over or of another shape are an error, except the last, linear layer of a
    network that was trained to classify.
    """
    if not config.encoder_weights:
        return variables
    flat = weights.load(config.encoder_weights)
    if not any(name.startswith("params/") for name in flat):
        flat = _from_torch(flat, config)
    flat = {name: x for name, x in flat.items() if name.split("/")[1:2] == ["backbone"]}
    backbone = {k: {"backbone": v["backbone"]} for k, v in variables.items() if "backbone" in v}
    try:
        flat = place_norms(flat, backbone)
        found = weights.restore(backbone, flat, allow_unused=("/backbone/fc/",))
    except ValueError as error:
        raise ValueError(f"{config.encoder_weights}, as encoder {config.encoder!r}: {error}"
                         f"{recognise.hint(flat, config.encoder)}") from None
    found = jax.tree.map(jnp.asarray, found)
    return {k: {**v, **found.get(k, {})} for k, v in variables.items()}


def place_norms(flat: dict, variables: Any) -> dict:
    """`flat` with the norms' scale and bias where the network `variables` has them: a frozen norm
    keeps them in `batch_stats`, every other one in `params`."""
    wanted = weights.flatten(variables)
    moved = {}
    for name, value in flat.items():
        top, _, rest = name.partition("/")
        other = f"{'batch_stats' if top == 'params' else 'params'}/{rest}"
        leaves = rest.rpartition("/")[2] in ("scale", "bias") and name not in wanted
        moved[other if leaves and other in wanted and other not in flat else name] = value
    return moved


def _from_torch(flat: dict, config: Any) -> dict:
    convert = choose(ENCODERS, config.encoder, "config.model.encoder").from_torch
    if convert is None:
        raise ValueError(f"{config.encoder_weights}: not names of ours, and encoder "
                         f"{config.encoder!r} has no public weights; want what training exported")
    try:
        return weights.under("backbone", convert(flat))
    except ValueError as error:
        raise ValueError(f"{config.encoder_weights}: {error}"
                         f"{recognise.hint(flat, config.encoder)}") from None


def segmenter_from_torch(tensors: dict) -> dict:
    """Our flat names from a UniMatch V2 model's: `backbone.` + DINOv2's, `head.` + DPT's."""
    parts = {"backbone": {}, "head": {}}
    if others := [name for name in tensors if name.split(".")[0] not in parts]:
        raise ValueError(f"{weights.listed(others)}: no tensor of UniMatch V2; its names begin "
                         "with backbone. or head.")
    for name, value in tensors.items():
        top, _, rest = name.partition(".")
        parts[top][rest] = value
    return (vit_names.from_hub(parts["backbone"], "params/backbone/")
            | dpt.from_torch(parts["head"], "params/head/"))


def segmenter_to_torch(flat: dict) -> dict:
    """A UniMatch V2 model's names from ours (a DINOv2 segmenter's); the exact inverse."""
    split = {top: {n: x for n, x in flat.items() if n.startswith(f"params/{top}/")}
             for top in ("backbone", "head")}
    encoder = vit_names.to_hub(split["backbone"], "params/backbone/")
    head = dpt.to_torch(split["head"], "params/head/")
    return {f"backbone.{n}": x for n, x in encoder.items()} | {
        f"head.{n}": x for n, x in head.items()}


def store_frozen(variables: dict, config: Any) -> dict:
    """`variables` with a frozen encoder's matrices stored in the dtype they are used in.

    They would be cast at each use, so the function stays the same to the bit; in bfloat16 they
    take half the memory. Whatever learns, and vectors (norms, biases, tokens), stay float32.
    """
    if not config.freeze_encoder:
        return variables

    def store(path, x):
        return x.astype(_dtype(config)) if path[-1].key == "kernel" else x

    params = variables["params"]
    backbone = jax.tree_util.tree_map_with_path(store, params["backbone"])
    return {**variables, "params": {**params, "backbone": backbone}}


def _dtype(config: Any):
    return choose(DTYPES, config.dtype, "config.model.dtype")
