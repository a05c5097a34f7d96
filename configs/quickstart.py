"""The whole route on a laptop: generated photos with tags → segmenter, scores and a report.

    python -m wsssjax.train --config=configs/quickstart.py --workdir=runs/quickstart
    python -m wsssjax.train --config=configs/quickstart.py:tiny --workdir=runs/tiny

About 8 minutes on two CPU cores; `:tiny` runs every step on a few images in about one, and its
scores mean nothing. Nothing is downloaded. The data set `shapes` is drawn by the step `prepare`
(wsssjax/data/shapes.py); its truth scores the results and trains the upper bound T, nothing else.
"""

import json

from wsssjax.core.config import stage
from wsssjax.data.classes import SHAPES_CLASSES


def get_config(arg=""):
    if arg not in ("", "tiny"):
        raise ValueError(f"config argument {arg!r}: want nothing or 'tiny'")
    tiny = arg == "tiny"
    c = stage(__file__, "recipe.py")
    c.title = "Quickstart: from tags to a segmenter on generated photos"
    c.classes = "shapes"                 # class names
    c.arms = ("S", "M", "ALL", "T", "S-sup")  # trainings of the segmenter

    c.data.kind = "shapes"               # generated
    c.data.train_count = 36 if tiny else 450
    c.data.test_count = 12 if tiny else 150
    c.data.size = 96                     # pixels, about the longer side of a generated photo
    c.data.seed = 0                      # of the generator; the data set stays when `seed` changes
    c.saliency.source = "mbd"            # minimum barrier distance

    c.cam_a = classifier("cam_voc_cam.py", c, tiny)
    c.cam_b = classifier("cam_voc_eps.py", c, tiny)

    # What is done to the labels of B, in this order. Here a CRF makes better labels (45.0 instead
    # of 41.0 mIoU) but misses more of the objects, and the segmenter learns that (31.1 instead of
    # 37.5); on real photos it helps both. `:tiny` tries all links.
    c.refine = ("sam", "crf") if tiny else ("sam",)

    c.select.quota_spec = json.dumps(dict.fromkeys(SHAPES_CLASSES[1:], 2 if tiny else 14))
    c.select.min_area = 20               # pixels below which a class does not count as present

    c.segmenter = segmenter(c, tiny)
    c.segmenter_encoder = "cam_b"        # the recipe's own classifier is the encoder; frozen
    return c


def classifier(name, c, tiny):
    """A classifier from tags alone, trained from scratch on small photos."""
    t = stage(__file__, name)
    t.seed = c.get_ref("seed")
    t.classes = ""                       # filled in by the recipe, as data.packed and data.split
    t.device_batch = 16
    t.total_steps = 4 if tiny else 800
    t.log_steps = 2 if tiny else 25
    t.save_steps = 2 if tiny else 200
    t.data.long_side = (80, 128)         # pixels
    t.data.crop = 96
    t.data.jitter = (0.1, 0.1, 0.1, 0.02)  # colour tells some of these classes apart
    t.data.workers = 0
    t.model.encoder = "small_cnn"
    t.model.output_stride = 8
    t.model.dropout = 0.0
    t.optim.name, t.optim.lr, t.optim.weight_decay = "adamw", 3e-3, 1e-4
    t.optim.groups = ((".*", 1.0, 1.0),)
    if "eps" in t:
        t.eps.background_classes = ()
    t.infer.scales = (1.0, 1.5)
    t.infer.canvas, t.infer.grid, t.infer.batch = "grid", 32, 16
    t.infer.threshold = 0.3 if t.method == "cam" else 0.2
    return t


def segmenter(c, tiny):
    """A thin DPT head on the frozen classifier, trained by UniMatch V2."""
    s = stage(__file__, "semi_voc_unimatch_v2.py", "efficientnet_lite0")
    s.seed = c.get_ref("seed")
    s.classes = ""
    s.device_batch = 8                   # labelled photos a step; as many unlabelled
    s.total_steps = 4 if tiny else 400
    s.log_steps = 2 if tiny else 10
    s.save_steps = 2 if tiny else 100
    s.data.crop = 96
    s.data.workers = 0
    s.model.encoder = "small_cnn"
    s.model.output_stride = 8
    s.model.head_width = 24
    s.optim.lr = 5e-5                    # the head runs on 40 times this
    s.predict.multiple, s.predict.batch = 32, 16
    return s
