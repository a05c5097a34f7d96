"""SAM proposals through Meta's segment-anything and its automatic mask generator."""

from __future__ import annotations

import functools
import pathlib
import pickle
from collections.abc import Callable

import numpy as np
import torch

from wsssjax.core import files
from wsssjax.data import photos
from wsssjax.refine import proposals, rle

# The generator's own defaults; `by` records them, so another setting makes the masks anew.
DEFAULTS = {
    "points_per_side": 32, "pred_iou_thresh": 0.88, "stability_score_thresh": 0.95,
    "stability_score_offset": 1.0, "box_nms_thresh": 0.7, "crop_n_layers": 0,
    "crop_nms_thresh": 0.7, "crop_overlap_ratio": 512 / 1500, "crop_n_points_downscale_factor": 1,
    "min_mask_region_area": 0,
}
MODELS = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}  # by the width of the image encoder


@functools.lru_cache(maxsize=1)
def load_weights(path: str) -> tuple[str, dict]:
    """(model name, state dict) of a SAM checkpoint; nothing in the file is ever executed."""
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint; sam_vit_h_4b8939.pth is listed at "
                                "github.com/facebookresearch/segment-anything")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
        width = weights["image_encoder.patch_embed.proj.weight"].shape[0]
        return MODELS[width], weights
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError,
            AttributeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:100]
        raise ValueError(f"{path}: not a SAM checkpoint ({reason}); want one of Meta's "
                         "sam_vit_*.pth") from None


def describe(checkpoint: str, **changes) -> dict:
    """What goes into `by`: model, checkpoint hash and every parameter of the generator."""
    unknown = sorted(set(changes) - set(DEFAULTS))
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no parameter of SAM's mask generator; there are "
                         + ", ".join(DEFAULTS))
    return {"backend": "sam", "model": load_weights(checkpoint)[0],
            "checkpoint": files.hash_file(checkpoint), **DEFAULTS, **changes}


def build_generator(checkpoint: str, by: dict):
    """Meta's generator on the GPU if there is one."""
    import segment_anything

    name, weights = load_weights(checkpoint)
    model = segment_anything.sam_model_registry[name]()
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{checkpoint}: does not fit SAM {name} ({reason})") from None
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    settings = {key: by[key] for key in DEFAULTS}
    return segment_anything.SamAutomaticMaskGenerator(model, **settings)


def propose(generator, image_hwc: np.ndarray) -> list[dict]:
    """Records of one photo in the generator's order. image_hwc: uint8 RGB, as SAM expects."""
    return [proposals.record(rle.encode(found["segmentation"]), image_hwc.shape[:2],
                             score=float(found["predicted_iou"]),
                             stability=float(found["stability_score"]),
                             point=[[float(v) for v in p] for p in found["point_coords"]],
                             crop_box=[int(v) for v in found["crop_box"]])
            for found in generator.generate(image_hwc)]


def propose_all(items: list[tuple[str, str]], out: str, by: dict, advance: Callable[[], None],
                checkpoint: str) -> None:
    """Writes `<id>.json.gz` for every (id, photo path), one after the other."""
    if not items:
        return
    generator = build_generator(checkpoint, by)
    for name, path in items:
        image_hwc = photos.read_photo(path)
        proposals.write(pathlib.Path(out) / f"{name}{proposals.SUFFIX}", image_hwc.shape[:2],
                        propose(generator, image_hwc), by)
        advance()
