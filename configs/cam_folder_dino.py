"""Class maps and labels of your own photos, from tags and a frozen DINOv2: the quick way in.

    photos/images/0001.jpg …   photos/tags.csv   (id,tags: 0001,cat;sofa)   photos/classes.txt

    python tools/prepare_data.py folder --root=photos
    python tools/convert_weights.py --arch=dinov2_s --src=dinov2_vits14_pretrain.pth --out=dinov2_s
    python -m wsssjax.train --config=configs/cam_folder_dino.py --workdir=runs/photos
    python -m wsssjax.cam --config=configs/cam_folder_dino.py --weights=runs/photos \\
        --images=photos/images --tags=photos/tags.csv --out=photos/labels

The .pth lies at dl.fbaipublicfiles.com/dinov2/dinov2_vits14/. Photos elsewhere: --config.classes,
--config.data.packed. Other weights: --config.model.encoder_weights.
Argument: `small` (default), `base`, `large`, with weights in dinov2_b and dinov2_l; or, without
DINOv2, `efficientnet_lite0`, with weights in the folder of that name.
"""

from wsssjax.core.config import stage

SIZES = {"small": "dinov2_s", "base": "dinov2_b", "large": "dinov2_l",
         "efficientnet_lite0": "efficientnet_lite0"}


def get_config(arg=""):
    """VOC's config for a few hundred photos."""
    arg = arg or "small"
    if arg not in SIZES:
        raise ValueError(f"config argument {arg!r}: want nothing or one of {', '.join(SIZES)}")
    c = stage(__file__, "cam_voc_dino.py", arg)
    c.classes = "photos/classes.txt"
    c.device_batch = 8  # photos per device and step
    c.total_steps = 600  # some passes over a thousand photos
    c.log_steps, c.save_steps = 20, 100
    c.data.packed = "photos/packed"
    c.model.encoder_weights = SIZES[arg]
    return c
