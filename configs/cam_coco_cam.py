"""Plain CAM on COCO 2014: a classifier from image tags.

    python tools/prepare_data.py coco --root=coco
    python -m wsssjax.train --config=configs/cam_coco_cam.py --config.data.packed=coco/packed \\
        --config.model.encoder_weights=resnet38
    python -m wsssjax.cam --config=configs/cam_coco_cam.py --weights=FOLDER --out=cams \\
        --images=coco/packed/train_photos.txt --tags=coco/packed/tags.csv

resnet38 cannot start random; for its ImageNet weights see refine_voc_affinity.py. What the public
EPS scripts set for COCO: 82,081 photos, 50 epochs. Labels on train score 31.23 mIoU there.
Arguments: `resnet38` (default), as published, or another of cam_voc_cam.py.
"""

from wsssjax.core.config import stage


def get_config(arg=""):
    """The config for VOC, where it differs."""
    c = stage(__file__, "cam_voc_cam.py", arg or "resnet38")
    c.device_batch = 16  # photos per device and step; published: 16 in all
    c.total_steps = 256_500
    c.classes = "coco"
    c.data.long_side = (256, 448)  # pixels
    c.data.crop = 321  # pixels
    return c
