"""The paper's recipe on COCO 2014, 80 classes, with the small encoder of paper_voc_lite.py.

    python tools/prepare_data.py coco_masks --root=coco
    python tools/make_saliency.py --model=u2netp --weights=u2netp.onnx --images=coco/train2014 \\
        --out=coco/saliency
    python -m wsssjax.train --config=configs/paper_coco_lite.py --config.data.root=coco \\
        --workdir=runs/coco_lite

    coco/
      train2014/  val2014/                             COCO_train2014_000000000009.jpg ...
      annotations/instances_train2014.json, annotations/instances_val2014.json    tags, no outlines
      stuffthingmaps/train2017/, stuffthingmaps/val2017/    COCO-Stuff: masks of 2014's photos, too
      masks/                                           what coco_masks made; for scores only
      saliency/                                        <id>.png of the photos of train2014

Trains on the 82,081 photos with a tag, tests on val's 40,137; a train.txt and a test.txt of ids in
coco/ take some of them instead. COCO 2017 goes the same way. Lengths below are a few passes, not a
published recipe (that is cam_coco_cam.py and cam_coco_eps.py), and no score is known. A quota by
counting: --config.select.quota_spec=LIST:coco/masks wants as many images of each class as the
photos of a list of ids have. That looks at true masks; the default does not.
Weights and arguments: as in paper_voc_lite.py; the argument's config.data.packed is what
`prepare_data.py coco` packed.
"""

import json

from wsssjax.core.config import stage
from wsssjax.data.classes import COCO_CLASSES


def get_config(arg=""):
    """The recipe of VOC or one of its trainings, where COCO differs."""
    c = stage(__file__, "paper_voc_lite.py", arg)
    c.classes = "coco"
    recipe = arg in ("", "probe")
    for part in (c.cam_a, c.cam_b, c.segmenter) if recipe else (c,):
        part.total_steps = 20_000            # 3.9 passes over 82,081 photos at 16 a step
        part.log_steps, part.save_steps = 100, 1_000
        part.data.workers = 2                # loader processes; the photos have full size
        if "eps" in part:
            part.eps.mix = 0.9               # as the public scripts have it for COCO
            part.eps.background_classes = ("chair", "dining table", "couch")  # predefined only
    if not recipe:
        return c
    c.title = "The paper's recipe on COCO 2014, with EfficientNet-Lite0"
    c.data.kind = "coco"
    # Images per class; of the rarest (toaster, hair drier) COCO has a few hundred.
    c.select.quota_spec = json.dumps(dict.fromkeys(COCO_CLASSES[1:], 20))
    return c
