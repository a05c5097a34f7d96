"""Class maps from frozen DINOv2 tokens on VOC 2012 (our own design: wsssjax/cam/dino.py).

    python tools/prepare_data.py voc --root=VOCdevkit/VOC2012 --split=train_aug --out=packed
    python tools/convert_weights.py --arch=dinov2_b --src=dinov2_vitb14_pretrain.pth --out=dinov2_b
    python -m wsssjax.train --config=configs/cam_voc_dino.py:base --workdir=runs/dino \\
        --config.data.packed=packed --config.data.split=train_aug \\
        --config.model.encoder_weights=dinov2_b
    python -m wsssjax.cam --config=configs/cam_voc_dino.py:base --weights=runs/dino \\
        --images=JPEGImages --tags=tags.csv --out=dino_cams

Nothing is published for it, and with DINOv2 nothing has been measured. With a frozen
EfficientNet-Lite0 (its last features classified, tap2 walked on; 1,213 photos of half VOC's size to
learn from, 900 steps of 16, no augmentation; scales 1 and 1.5), mIoU of the maps at the best
threshold on training photos:

    walk                        none   power 1, 1 step   2, 2 (default)   3, 4   features 1, 2
    200 photos, to choose on    37.7        43.1              43.3        43.4       40.0
    300 other photos            36.8        42.7              42.8        43.1       39.4

Power 8 gives nothing (38), power 1 with 4 steps is too much (35.6). Of the pools the mean is best
(37.7 without a walk; top half 31.8, lse of sharpness 1 29.5): the others had hardly learnt in these
steps (loss 0.11 to 0.12 against 0.07), still less the sharper ones. For DINOv2 the power, the
steps and the threshold want a look at some photos: python -m wsssjax.evaluate --cams= sweeps the
threshold where there are masks.

Arguments: `small`, `base` (default), `large`: the DINOv2 encoder; or `efficientnet_lite0`, which a
laptop carries.
"""

import ml_collections

from wsssjax.core.config import stage

ENCODERS = {"small": "dinov2_s", "base": "dinov2_b", "large": "dinov2_l",
            "efficientnet_lite0": "efficientnet_lite0"}


def get_config(arg=""):
    """Plain CAM with a frozen encoder, and what this method has beside it."""
    arg = arg or "base"
    if arg not in ENCODERS:
        raise ValueError(f"config argument {arg!r}: want nothing or one of {', '.join(ENCODERS)}")
    light = arg == "efficientnet_lite0"
    c = stage(__file__, "cam_voc_cam.py")
    c.method = "dino"
    c.device_batch = 16  # photos per device and step
    c.total_steps = 3_300  # 5 epochs of 10,582 photos at 16 a step
    c.save_steps = 500

    c.dino = ml_collections.ConfigDict()
    c.dino.pool = "mean"  # maps to scores: mean; lse, a smooth maximum; top, the largest values
    c.dino.pool_sharpness = 4.0  # lse: 0 is the mean, infinity the maximum
    c.dino.pool_share = 0.2  # top: of a map's values

    if not light:
        c.data.mean, c.data.std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        c.data.long_side = (336, 560)  # pixels
        c.data.crop = 448  # pixels, a multiple of 14

    c.model.encoder = ENCODERS[arg]
    c.model.freeze_encoder = True
    c.model.dropout = 0.0
    c.model.taps = ("features",)  # what the head reads, side by side: features, tap0 ... tap3
    c.model.vit = ml_collections.ConfigDict()  # of DINOv2, see configs/semi_voc_unimatch_v2.py
    c.model.vit.positions = "auto"
    c.model.vit.scan = True
    c.model.vit.remat = False
    c.model.vit.attention = "auto"
    c.model.clip = ml_collections.ConfigDict()  # of clip_vit_b16, see configs/cam_voc_clip.py
    c.model.clip.positions = "bilinear"

    c.optim.name = "adamw"
    c.optim.lr = 1e-3
    c.optim.weight_decay = 1e-4
    c.optim.groups = (("^backbone/", 0.0, 0.0), ("^head/", 1.0, 1.0))

    c.infer.scales = (1.0, 1.5)
    c.infer.canvas = "grid"
    c.infer.grid = 64 if light else 56  # pixels
    c.infer.multiple = 1 if light else 14  # pixels: a patch of DINOv2
    c.infer.batch = 4
    c.infer.threshold = 0.55
    c.infer.affinity_layer = "tap2" if light else "features"  # whose tokens are compared
    c.infer.affinity_power = 2.0  # of what lies above the mean cosine: higher is stricter
    c.infer.affinity_steps = 2  # of the walk; 0: none
    return c
