"""The paper's recipe on COCO 2014, 80 classes: BAO x MARS + SAM, UniMatch V2 on frozen DINOv2-B.

    python -m wsssjax.train --config=configs/paper_coco.py --workdir=runs/coco --config.check=true
    python -m wsssjax.train --config=configs/paper_coco.py --workdir=runs/coco

with COCO under coco/ as paper_coco_lite.py draws it. Steps, their stand-ins, letters of supervision
and arguments are those of paper_voc.py. The paper was never run on COCO and no score is known. No
classifier was published for it either, so that both are trained, from ImageNet's weights: weights/
holds dinov2_b, conformer_small, resnet38, resnet101 and sam_vit_h_4b8939.pth. EPS's own labels
score 37.15 mIoU on train as published, MARS's segmenter 49.4 on val.

A quota by counting: --config.select.quota_spec=LIST:coco/masks wants as many images of each class
as the photos of a list of ids have. That looks at true masks; the default does not.
"""

import json

from wsssjax.core.config import stage
from wsssjax.data.classes import COCO_CLASSES


def get_config(arg=""):
    """The recipe of VOC, where COCO differs."""
    c = stage(__file__, "paper_voc.py", arg)
    c.title = "The paper's recipe on COCO 2014"
    c.classes = "coco"
    c.data.kind, c.data.root = "coco", "coco"
    c.data.train, c.data.test = "train", "test"  # 82,081 photos; val's 40,137
    c.given.cam_a = c.given.cam_b = c.cam_a.init_weights = ""

    published = stage(__file__, "cam_coco_eps.py")
    c.cam_b.eps = published.eps
    c.segmenter.total_epochs = stage(__file__, "semi_coco_unimatch_v2.py").total_epochs
    # Images per class; of the rarest (toaster, hair drier) COCO has a few hundred.
    c.select.quota_spec = json.dumps(dict.fromkeys(COCO_CLASSES[1:], 1 if arg else 20))
    if arg:
        return c
    c.cam_a.model.encoder_weights = "weights/conformer_small"
    for name in ("device_batch", "total_steps"):
        c.cam_b[name] = published[name]
    c.cam_b.data.long_side, c.cam_b.data.crop = published.data.long_side, published.data.crop
    return c
