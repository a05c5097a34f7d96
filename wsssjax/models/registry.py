"""Networks by name, as `config.model` describes them, and pretrained weights into their encoders.

config.model: `encoder` (a name in ENCODERS), `encoder_weights` (a file or folder, "" for none),
`output_stride`, `freeze_encoder`, `dtype` ("float32" or "bfloat16", what convolutions compute in);
classifiers also read `dropout`, segmenters `head_width`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from wsssjax.core import weights
from wsssjax.core.config import choose
from wsssjax.models import dpt, efficientnet_lite, small_cnn
from wsssjax.models.classifier import Classifier
from wsssjax.models.segmenter import Segmenter

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class Encoder(NamedTuple):
    """module: (output_stride=, dtype=) → encoder module.  from_torch: state dict of the public
    PyTorch weights → our flat names, None where there are no such weights."""

    module: Callable
    from_torch: Callable | None


ENCODERS = {
    "efficientnet_lite0": Encoder(efficientnet_lite.EfficientNetLite0,
                                  efficientnet_lite.from_torch),
    "small_cnn": Encoder(small_cnn.SmallCNN, None),
}


def build_encoder(config: Any):
    """The encoder module that config.model names."""
    encoder = choose(ENCODERS, config.encoder, "config.model.encoder")
    return encoder.module(output_stride=config.output_stride, dtype=_dtype(config))


def build_classifier(config: Any, num_outputs: int, *, pool: str = "mean") -> Classifier:
    """A classifier with `num_outputs` class maps on the encoder of config.model."""
    return Classifier(build_encoder(config), num_outputs, config.dropout, pool,
                      config.freeze_encoder, _dtype(config))


def build_segmenter(config: Any, num_classes: int) -> Segmenter:
    """A DPT head of width config.head_width on the encoder of config.model."""
    backbone = build_encoder(config)
    head = dpt.DPTHead(num_classes, config.head_width, dpt.channels(config.head_width),
                       backbone.tap_strides, _dtype(config))
    return Segmenter(backbone, head, config.freeze_encoder)


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
        found = weights.restore(backbone, flat, allow_unused=("/backbone/fc/",))
    except ValueError as error:
        raise ValueError(f"{config.encoder_weights}, as encoder {config.encoder!r}: "
                         f"{error}") from None
    found = jax.tree.map(jnp.asarray, found)
    return {k: {**v, **found.get(k, {})} for k, v in variables.items()}


def _from_torch(flat: dict, config: Any) -> dict:
    convert = choose(ENCODERS, config.encoder, "config.model.encoder").from_torch
    if convert is None:
        raise ValueError(f"{config.encoder_weights}: not names of ours, and encoder "
                         f"{config.encoder!r} has no public weights; want what training exported")
    try:
        return weights.under("backbone", convert(flat))
    except ValueError as error:
        raise ValueError(f"{config.encoder_weights}: {error}") from None


def _dtype(config: Any):
    return choose(DTYPES, config.dtype, "config.model.dtype")
