"""SAM proposals through Meta's segment-anything and its automatic mask generator."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import math
import pathlib
import pickle
from collections.abc import Iterator

import numpy as np
import torch

from wsssjax.core import files
from wsssjax.core.config import near
from wsssjax.data import photos
from wsssjax.refine import proposals, propose

# The generator's own defaults; `by` records them, so another setting makes the masks anew.
DEFAULTS = {
    "points_per_side": 32, "points_per_batch": 64, "pred_iou_thresh": 0.88,
    "stability_score_thresh": 0.95, "stability_score_offset": 1.0, "box_nms_thresh": 0.7,
    "crop_n_layers": 0, "crop_nms_thresh": 0.7, "crop_overlap_ratio": 512 / 1500,
    "crop_n_points_downscale_factor": 1, "point_grids": (), "min_mask_region_area": 0,
}
LEAST = {"points_per_side": 1, "points_per_batch": 1, "crop_n_layers": 0,
         "crop_n_points_downscale_factor": 1, "min_mask_region_area": 0}
MOST_LAYERS = 4  # 341 crops; each is a pass of the encoder
MODELS = {(768, 12): "vit_b", (1024, 24): "vit_l", (1280, 32): "vit_h"}  # encoder's width, depth
DECODER_HEADS = 8  # of every SAM; the weights do not tell


@functools.lru_cache(maxsize=1)
def load_weights(path: str) -> dict:
    """The state dict of a SAM checkpoint; nothing in the file is ever executed."""
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint; sam_vit_h_4b8939.pth is listed at "
                                "github.com/facebookresearch/segment-anything")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
        sizes(weights)
        return {name: value.float() for name, value in weights.items()}
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, TypeError, ValueError,
            AttributeError, ZeroDivisionError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:100]
        raise ValueError(f"{path}: not a SAM checkpoint ({reason}); want one of Meta's "
                         "sam_vit_*.pth") from None


def sizes(weights: dict) -> dict[str, dict]:
    """Arguments of the package's ImageEncoderViT, PromptEncoder, MaskDecoder and TwoWayTransformer,
    read from the shapes of a state dict.
    """
    def shape(name):
        return tuple(weights[name].shape)

    def depth(prefix):
        return 1 + max(int(name[len(prefix):].split(".")[0]) for name in weights
                       if name.startswith(prefix))

    blocks, decoder = "image_encoder.blocks.", "mask_decoder.transformer.layers."
    width, _, patch, _ = shape("image_encoder.patch_embed.proj.weight")
    grid = shape("image_encoder.pos_embed")[1]
    # A table of relative places has 2 n - 1 rows for windows of n, 2 grid - 1 without windows.
    reach = [(shape(f"{blocks}{i}.attn.rel_pos_h")[0] + 1) // 2 for i in range(depth(blocks))]
    channels = shape("image_encoder.neck.0.weight")[0]
    return {
        "image_encoder": {
            "img_size": grid * patch, "patch_size": patch, "embed_dim": width,
            "depth": len(reach), "num_heads": width // shape(f"{blocks}0.attn.rel_pos_h")[1],
            "mlp_ratio": shape(f"{blocks}0.mlp.lin1.weight")[0] / width, "qkv_bias": True,
            "use_rel_pos": True, "out_chans": channels, "window_size": min(reach),
            "global_attn_indexes": [i for i, n in enumerate(reach) if n == grid]},
        "prompt_encoder": {
            "embed_dim": channels, "image_embedding_size": (grid, grid),
            "input_image_size": (grid * patch, grid * patch),
            "mask_in_chans": shape("prompt_encoder.mask_downscaling.3.weight")[0]},
        "mask_decoder": {
            "transformer_dim": channels,
            "num_multimask_outputs": shape("mask_decoder.mask_tokens.weight")[0] - 1,
            "iou_head_depth": depth("mask_decoder.iou_prediction_head.layers."),
            "iou_head_hidden_dim": shape("mask_decoder.iou_prediction_head.layers.0.weight")[0]},
        "transformer": {
            "depth": depth(decoder), "embedding_dim": channels, "num_heads": DECODER_HEADS,
            "mlp_dim": shape(f"{decoder}0.mlp.lin1.weight")[0]},
    }


def model_name(weights: dict) -> str:
    """vit_b, vit_l, vit_h, or its width and depth where it is none of them."""
    encoder = sizes(weights)["image_encoder"]
    size = encoder["embed_dim"], encoder["depth"]
    return MODELS.get(size, "vit_{}x{}".format(*size))


def build_model(weights: dict):
    """Meta's own `Sam`, of the size of the weights, not filled yet."""
    from segment_anything import modeling

    size = sizes(weights)
    norm = functools.partial(torch.nn.LayerNorm, eps=1e-6)
    return modeling.Sam(
        image_encoder=modeling.ImageEncoderViT(norm_layer=norm, **size["image_encoder"]),
        prompt_encoder=modeling.PromptEncoder(**size["prompt_encoder"]),
        mask_decoder=modeling.MaskDecoder(
            transformer=modeling.TwoWayTransformer(**size["transformer"]), **size["mask_decoder"]))


def check(settings: dict) -> None:
    """ValueError for a value that Meta's generator would fall over, or take in silence."""
    def wrong(name, want):
        raise ValueError(f"--config.{name}={settings[name]!r}: want {want}")

    for name, value in settings.items():
        whole = name in LEAST
        if name != "point_grids" and (isinstance(value, bool)
                                      or not isinstance(value, int if whole else (int, float))
                                      or not math.isfinite(value)):
            wrong(name, "a whole number" if whole else "a number")
        if whole and value < LEAST[name]:
            wrong(name, f"{LEAST[name]} or more")
    layers = settings["crop_n_layers"]
    if layers > MOST_LAYERS:
        wrong("crop_n_layers", f"at most {MOST_LAYERS}")
    if settings["point_grids"]:
        try:
            grids = [np.array(grid, float) for grid in settings["point_grids"]]
        except (TypeError, ValueError):
            grids = []
        if len(grids) != layers + 1 or not all(
                g.ndim == 2 and g.shape[1] == 2 and ((g >= 0) & (g <= 1)).all() for g in grids):
            wrong("point_grids", "a list of points [x, y], 0 to 1, for each of crop_n_layers + 1 = "
                  f"{layers + 1} layers")
    elif settings["points_per_side"] < settings["crop_n_points_downscale_factor"] ** layers:
        wrong("points_per_side", "a point left in the last layer of crops, so at least "
              "crop_n_points_downscale_factor to the power of crop_n_layers")


def pick_device(device: str) -> str:
    """cpu or cuda; ValueError for a name that is neither, and for a GPU that is not there."""
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--device={device}: want auto, cpu or cuda")
    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise ValueError("--device=cuda: torch sees no GPU; install torch for CUDA, or use "
                         "--device=cpu")
    return device if device != "auto" else "cuda" if there else "cpu"


def describe(checkpoint: str, device: str = "auto", **changes) -> dict:
    """What goes into `by`: model, checkpoint hash, every parameter of the generator, versions."""
    for name in changes:
        if name not in DEFAULTS:
            raise ValueError(f"{name!r} is no parameter of SAM's mask generator"
                             f"{near(name, DEFAULTS)}")
    settings = DEFAULTS | changes
    check(settings)
    settings["point_grids"] = [[[float(v) for v in point] for point in grid]
                               for grid in settings["point_grids"]]
    return {"backend": "sam", "model": model_name(load_weights(checkpoint)),
            "checkpoint": files.hash_file(checkpoint), **settings, "device": pick_device(device),
            "segment_anything": importlib.metadata.version("segment_anything"),
            "torch": torch.__version__}


def build_generator(checkpoint: str, by: dict):
    """Meta's generator with the checkpoint's weights, on the device that `by` names."""
    from wsssjax.bridge import sam_generator

    weights = load_weights(checkpoint)
    model = build_model(weights)
    try:
        model.load_state_dict(weights, assign=True)  # a copy of ViT-H would take 2.5 GB
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{checkpoint}: does not fit SAM {by['model']} ({reason})") from None
    model.to(by["device"]).eval()
    settings = {key: by[key] for key in DEFAULTS}
    if settings.pop("point_grids"):
        settings |= {"points_per_side": None,
                     "point_grids": [np.array(grid) for grid in by["point_grids"]]}
    return sam_generator.Generator(model, output_mode="uncompressed_rle", **settings)


def to_records(generator, image_hwc: np.ndarray) -> list[dict]:
    """Records of one photo in the generator's order. image_hwc: uint8 RGB, as SAM expects.

    A mask without a stability (0/0) is empty and left out, as every threshold above 0 does.
    """
    return [proposals.record(np.array(found["segmentation"]["counts"], np.int64),
                             image_hwc.shape[:2], score=float(found["predicted_iou"]),
                             stability=float(found["stability_score"]),
                             point=[[float(v) for v in p] for p in found["point_coords"]],
                             crop_box=[int(v) for v in found["crop_box"]])
            for found in generator.generate(image_hwc)
            if not math.isnan(found["stability_score"])]


def propose_all(items: list[tuple[str, str]], out: str, by: dict,
                checkpoint: str) -> Iterator[propose.Counts]:
    """Writes `<id>.json.gz` for every (id, photo path), one after the other."""
    if not items:
        return
    generator = build_generator(checkpoint, by)
    for name, path in items:
        image_hwc = photos.read_photo(path)
        check_photo(path, image_hwc.shape[:2], generator.longest_side)
        with _named(path, image_hwc.shape[:2], by):
            records = to_records(generator, image_hwc)
        yield propose.save(out, name, image_hwc.shape[:2], records, by)


def too_narrow(size: tuple[int, int], longest_side: int) -> bool:
    """Whether scaling the longer side to `longest_side` leaves no pixel of the shorter one."""
    short, long = sorted(size)
    return short <= 0 or int(short * (longest_side / long) + 0.5) < 1


def check_photo(path: str, size: tuple[int, int], longest_side: int) -> None:
    """ValueError for a photo so narrow that nothing of its short side is left."""
    if too_narrow(size, longest_side):
        raise ValueError(f"{path}: {size[0]} x {size[1]} pixels; SAM scales the longer side to "
                         f"{longest_side}, which leaves nothing of the other: crop the photo")


@contextlib.contextmanager
def _named(path: str, size: tuple[int, int], by: dict) -> Iterator[None]:
    """Turns running out of memory into one line."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not (isinstance(error, (torch.OutOfMemoryError, MemoryError))
                or "allocate memory" in str(error)):
            raise
        raise ValueError(f"{path}: out of memory on {by['device']} at {size[0]} x {size[1]} pixels "
                         f"with --config.points_per_batch={by['points_per_batch']}; lower it, and "
                         "the same command goes on from here") from None
