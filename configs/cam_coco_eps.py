"""EPS on COCO 2014: a classifier from image tags and saliency maps.

    python tools/prepare_data.py coco --root=coco ...
    python -m wsssjax.cam.saliency --images=coco/train2014 --out=saliency
    python -m wsssjax.train --config=configs/cam_coco_eps.py --config.data.packed=FOLDER \\
        --config.data.saliency=saliency --config.model.encoder_weights=resnet38

resnet38 cannot start random; for its ImageNet weights see refine_voc_affinity.py. As the public
scripts have it: 82,081 photos, 50 epochs. Labels on train score 37.15 mIoU there (31.23 for CAM).
`eps.mix` is 0.9 where the paper says 0.5 for all.
Arguments: `resnet38` (default), as published, or `efficientnet_lite0`.
"""

from wsssjax.core.config import stage


def get_config(arg=""):
    """The config for VOC, where it differs."""
    c = stage(__file__, "cam_voc_eps.py", arg or "resnet38")
    c.device_batch = 16  # photos per device and step; published: 16 in all
    c.total_steps = 256_500
    c.classes = "coco"
    c.eps.mix = 0.9
    c.eps.background_classes = ("chair", "dining table", "couch")  # COCO's names of VOC's three
    c.data.long_side = (256, 448)  # pixels
    c.data.crop = 321  # pixels
    return c
