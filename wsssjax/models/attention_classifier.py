"""A classifier whose class maps are spread by an encoder's attention; TransCAM's and BAO's heads.

TransCAM (Li et al., 2022): class maps X are a 3x3 convolution of the last features; each patch then
collects the maps of the patches it looks at, A X. BAO (JVCIR 2025) adds a second 3x3 convolution
that reads the same features, weighted channel by channel by the image's own tags; its channel 0 is
a map of the background that is learnt and needs no threshold. Maps and scores have K + 1 channels,
the background FIRST.

Any encoder carries the heads. Where it gives no attention (a CNN), the matrix A is the identity and
maps stay as they are; where it gives no class token, scores are those of the maps alone.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from wsssjax.models import conformer_names, registry, torch_names
from wsssjax.models.layers import KaimingConv
from wsssjax.models.vit import Linear

BACKGROUND_LAYERS = ("label_enc", "classifier_x")  # what BAO has and TransCAM has not


def attend(attention_bnn, maps_bpqk):
    """maps_bpqk spread by attention [b,n,n], n = p q row by row: row i times all maps is what
    patch i gets. None is the identity."""
    if attention_bnn is None:
        return maps_bpqk
    b, p, q, k = maps_bpqk.shape
    return jnp.einsum("bnm,bmk->bnk", attention_bnn,
                      maps_bpqk.reshape(b, p * q, k)).reshape(b, p, q, k)


class Heads(nn.Module):
    """{name: array} from an encoder's `aux`, see `AttentionClassifier`."""

    num_classes: int  # without the background
    background: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, aux, tags_bk=None):
        features, attention = aux["features"], aux.get("attention")
        wide = jnp.promote_types(features.dtype, jnp.float32)

        def maps(x_bpqd, name):
            head = KaimingConv(self.num_classes + 1, 3, bias=True, dtype=self.dtype, name=name)
            return head(x_bpqd).astype(wide)

        raw = maps(features, "conv_cls_head")
        scores_bk = raw.mean((1, 2))
        out = {"maps": raw, "cams": attend(attention, raw), "conv_scores": scores_bk}
        if "class_token" in aux:
            linear = Linear(self.num_classes + 1, self.dtype, name="trans_cls_head")
            out["trans_scores"] = linear(aux["class_token"]).astype(wide)
            scores_bk = scores_bk + out["trans_scores"]
        if self.background:
            b, d = features.shape[0], features.shape[-1]
            tags = jnp.zeros((b, self.num_classes)) if tags_bk is None else tags_bk
            factor = Linear(d, self.dtype, name="label_enc")(tags).reshape(b, 1, 1, d)
            out["am"] = attend(attention, maps(features * factor, "classifier_x"))
        return out | {"scores": scores_bk}


class AttentionClassifier(nn.Module):
    """(scores float32 [b, K+1], aux). aux: all that the encoder gives, and, background first,
    `maps` [b,p,q,K+1], raw; `cams`, the same after attention; `conv_scores`, their mean before it;
    `trans_scores`, of the class token, where there is one. scores is the sum of both.

    background: also BAO's layers and `am` [b,p,q,K+1], activation maps of the image whose tags
    float32 [b,K] are given (None: no tag); raw, after attention.
    freeze: no gradient reaches the encoder, which runs in training as it does afterwards.
    """

    backbone: nn.Module
    num_classes: int  # without the background
    background: bool = False
    freeze: bool = False
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.head = Heads(self.num_classes, self.background, self.dtype)

    def __call__(self, image_bhwc, tags_bk=None, *, train: bool):
        _, aux = self.backbone(image_bhwc, train=train and not self.freeze)
        if self.freeze:
            aux = jax.lax.stop_gradient(aux)
        found = self.head(aux, tags_bk)
        return found.pop("scores"), aux | found


def build(config: Any, num_classes: int, *, background: bool) -> AttentionClassifier:
    """The heads for `num_classes` classes beside the background on the encoder of config.model."""
    backbone = registry.build_encoder(config)
    return AttentionClassifier(backbone, num_classes, background, config.freeze_encoder,
                               backbone.dtype)


# ---- weights -----------------------------------------------------------------------------------


def from_torch(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our flat names from a whole checkpoint of TransCAM or BAO on Conformer-S.

    The heads are told by name, everything else is `conformer_names.from_torch`'s; a name of neither
    is a ValueError.
    """
    flat, rest = {}, {}
    for full, value in tensors.items():
        layer, _, kind = full.removeprefix("module.").rpartition(".")
        if layer not in conformer_names.CLASSIFIERS:
            rest[full] = value
            continue
        value = np.asarray(value, np.float32)
        name = torch_names.leaf(kind, value.ndim)
        if name not in ("kernel", "bias"):
            raise ValueError(f"{full} {list(value.shape)}: no tensor of TransCAM or BAO")
        flat[f"params/head/{layer}/{name}"] = torch_names.moved(value)
    encoder = conformer_names.from_torch(rest)
    return flat | {n.replace("/", "/backbone/", 1): x for n, x in encoder.items()}


def to_torch(flat: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The names of TransCAM's or BAO's own code; the exact inverse, without batch counters."""
    return conformer_names.to_torch({n.replace("/backbone/", "/", 1).replace("/head/", "/", 1): x
                               for n, x in flat.items()})
