"""The paper on a laptop CPU: real photos with tags and saliency → segmenter, scores and a report.

    python tools/convert_weights.py --arch=efficientnet_lite0 --src=efficientnet_lite0.pth \\
        --out=efficientnet_lite0
    python -m wsssjax.train --config=configs/paper_voc_lite.py --config.data.root=FOLDER \\
        --workdir=runs/voc_lite

FOLDER is laid out as VOC is: JPEGImages/, SegmentationClassAug/ (masks: for scores and for the
upper bound T), saliency/, tags.csv, train.txt and test.txt; see "Your own photos" in the README.
--config.weights names other weights. Every threshold below was fixed on the training photos before
any test photo was scored.

Argument: nothing for the recipe; probe for the same with a probe (semi/probe.py) in the place of
UniMatch V2, which answers in half a minute an arm; or one of its trainings alone, with the same
settings for every method, so that methods compare on equal ground: cam, eps, transcam, bao, or mars
(the segmenter).
Other weights are then --config.model.encoder_weights.

    python tools/prepare_data.py voc --root=FOLDER --split=train
    python -m wsssjax.train --config=configs/paper_voc_lite.py:cam --workdir=runs/cam \\
        --config.data.packed=FOLDER/packed
    python -m wsssjax.cam --config=configs/paper_voc_lite.py:cam \\
        --weights=runs/cam/weights.safetensors --images=FOLDER/packed/train_photos.txt \\
        --tags=FOLDER/packed/tags.csv --out=labels --save=labels
    python -m wsssjax.train --config=configs/paper_voc_lite.py:mars --workdir=runs/mars \\
        --config.data.labeled=labels.txt --config.data.debiased=DEBIASED \\
        --config.data.tags=FOLDER/packed/tags.csv

eps, transcam and bao go as cam does; semi_voc_mars.py tells what labels.txt and DEBIASED are.
"""

from wsssjax.core.config import stage

CLASSIFIERS = {"cam": 0.35, "eps": 0.3, "transcam": 0.35, "bao": 0.35}  # and their thresholds


def get_config(arg=""):
    """The recipe, or the config of one training."""
    if arg not in ("", "probe", "mars", *CLASSIFIERS):
        raise ValueError(f"config argument {arg!r}: want nothing for the recipe, or one of "
                         f"probe, {', '.join(CLASSIFIERS)}, mars")
    c = recipe()
    if arg == "probe":
        c.title = "The paper's recipe on real photos, with a probe on EfficientNet-Lite0"
        c.segmenter = probe(c)
    if arg in ("", "probe"):
        return c
    t = mars(c) if arg == "mars" else classifier(arg, c)
    t.classes = "voc"
    return t.copy_and_resolve_references()


def recipe():
    """Config of the recipe, where it differs from recipe.py."""
    c = stage(__file__, "recipe.py")
    c.title = "The paper's recipe on real photos, with EfficientNet-Lite0"
    c.weights = "efficientnet_lite0"     # its ImageNet weights, file or folder; "" starts random

    c.cam_a = classifier("cam", c)
    c.cam_b = classifier("eps", c)
    c.refine = ("crf", "sam")            # what is done to the labels of B, in this order
    c.select.quota_spec = "voc/183"      # images per class: Table 2 of the paper
    c.segmenter = segmenter(c)           # on the ImageNet encoder, frozen
    return c


def classifier(method, c):
    """A classifier from tags, from ImageNet weights; only the deeper half of the encoder learns."""
    arg = "efficientnet_lite0"
    t = stage(__file__, f"cam_voc_{method}.py", arg)
    t.seed = c.get_ref("seed")
    t.classes = ""                       # filled in by the recipe, as data.packed and data.split
    t.device_batch = 16
    t.total_steps = 320                  # 4.2 passes over 1,213 photos
    t.log_steps = 20
    t.save_steps = 80
    t.data.long_side = (224, 320)        # pixels
    t.data.crop = 224
    t.data.workers = 0
    t.model.encoder_weights = c.get_ref("weights")
    t.model.output_stride = 16
    t.optim.name, t.optim.lr, t.optim.weight_decay = "adamw", 2e-4, 1e-4
    t.optim.groups = (
        ("backbone/(blocks_1[1-5]|conv_head|bn1)", 1.0, 1.0),
        ("^backbone/", 0.0, 0.0),
        ("^head/", 10.0, 1.0),
    )
    t.infer.scales = (1.0, 1.5)
    t.infer.canvas, t.infer.grid, t.infer.batch = "grid", 64, 8
    t.infer.threshold = CLASSIFIERS[method]
    return t


def segmenter(c):
    """A thin DPT head on the frozen ImageNet encoder, trained by UniMatch V2."""
    s = stage(__file__, "semi_voc_unimatch_v2.py", "efficientnet_lite0")
    s.seed = c.get_ref("seed")
    s.classes = ""
    s.device_batch = 4                   # labelled photos a step; as many unlabelled
    s.total_steps = 500
    s.log_steps = 20
    s.save_steps = 100
    s.data.crop = 224
    s.data.workers = 0
    s.model.encoder_weights = c.get_ref("weights")
    s.optim.lr = 2.5e-5                  # the head runs on 40 times this
    return s


def probe(c):
    """A head on features that are made once."""
    s = stage(__file__, "semi_voc_probe.py")
    s.seed = c.get_ref("seed")
    s.classes = ""
    s.model.encoder_weights = c.get_ref("weights")
    return s


def mars(c):
    """MARS's segmenter with the head, the optimizer and the length of the recipe's."""
    s = stage(__file__, "semi_voc_mars.py", "efficientnet_lite0")
    like = segmenter(c)
    for name in ("seed", "device_batch", "total_steps", "log_steps", "save_steps", "optim", "model",
                 "predict"):
        s[name] = like[name]
    s.device_batch = 8                   # photos a step
    s.data.crop, s.data.workers = 224, 0
    s.data.long_side = (224, 320)        # pixels
    s.data.mean, s.data.std = like.data.mean, like.data.std
    s.mars.ema_decay, s.mars.ema_ramp_steps = 0.99, 0  # of 500 steps
    return s
