"""UniMatch V2 on VOC 2012: labelled and unlabelled photos → segmenter.

    python -m wsssjax.train --config=configs/semi_voc_unimatch_v2.py --workdir=runs/v2 \\
        --config.data.root=VOCdevkit/VOC2012 \\
        --config.data.labeled=splits/92/labeled.txt --config.data.unlabeled=splits/92/unlabeled.txt

Argument (`…_v2.py:NAME`): the encoder; `efficientnet_lite0` is the default and the only one yet.
The settings are those of the paper on VOC with a frozen encoder, which was a DINOv2 there, on 4 devices of
4 + 4 photos each; scale `optim.lr` with the number of photos in a step over all devices.
"""

import ml_collections

ENCODERS = ("efficientnet_lite0",)


def get_config(arg=""):
    """Config of one training; every field is set here."""
    if arg not in ("", *ENCODERS):
        raise ValueError(f"config argument {arg!r}: want an encoder; there are {', '.join(ENCODERS)}")
    c = ml_collections.ConfigDict()
    c.method = "unimatch_v2"
    c.seed = 0
    c.dtype = "float32"                    # of matmuls and convolutions: float32 or bfloat16
    c.parallel = "pmap"                    # how devices run together: pmap or shard_map
    c.device_batch = 4                     # labelled photos a step and device; as many unlabelled
    c.total_steps = 39_300                 # 60 passes over the unlabelled photos at 4 devices
    c.log_steps = 20                       # steps between two lines of metrics
    c.save_steps = 655                     # steps between two checkpoints
    c.classes = "voc"                      # class names: voc, coco or a file, background first

    c.criterion = "ce"                     # labelled loss: cross-entropy over labelled pixels
    c.conf_threshold = 0.95                # teacher probability from which a pixel teaches, inclusive
    c.unlabelled_weight = 1.0              # of the unlabelled loss beside the labelled one
    c.ema_limit = 0.996                    # decay that the teacher's average ramps up to

    c.data = data_config()
    c.data.unlabeled = "unlabeled.txt"     # list file: '<photo>' or '<photo> <label>', label unused
    c.data.strong = strong_config()
    c.model = model_config(arg or ENCODERS[0])
    c.model.dtype = c.get_ref("dtype")
    c.optim = optim_config()
    c.predict = predict_config()
    return c


def data_config():
    """Photos and the views of them that both streams share."""
    d = ml_collections.ConfigDict()
    d.root = "."                           # folder that the paths in the lists count from
    d.labeled = "labeled.txt"              # list file: '<photo> <label>' a line
    d.scale = (0.5, 2.0)                   # range of the random factor on a photo's longer side
    d.crop = 512                           # side of the square crop, pixels; the paper's DINOv2: 518
    d.flip_p = 0.5                         # chance of a left-right flip
    d.mean = (127 / 255,) * 3              # of RGB in 0..1, as the encoder was pretrained with
    d.std = (128 / 255,) * 3
    d.workers = 2                          # processes that prepare photos; 0: none beside the main one
    return d


def strong_config():
    """What makes a view strong; each view draws for itself."""
    s = ml_collections.ConfigDict()
    s.jitter_p = 0.8                       # chance of a colour jitter
    s.brightness = 0.5                     # factors from 1 - x to 1 + x
    s.contrast = 0.5
    s.saturation = 0.5
    s.hue = 0.25                           # shift from -x to x turns of the colour circle
    s.gray_p = 0.2                         # chance of losing all colour
    s.blur_p = 0.5                         # chance of a blur
    s.blur_sigma = (0.1, 2.0)              # its radius, pixels
    s.cut_p = 0.5                          # chance of a CutMix box
    s.cut_area = (0.02, 0.4)               # its share of the crop
    s.cut_ratio = (0.3, 1 / 0.3)           # its height over its width
    return s


def model_config(encoder):
    """Encoder and head."""
    m = ml_collections.ConfigDict()
    m.encoder = encoder
    m.encoder_weights = ""                 # converted pretrained weights; "" starts from random ones
    m.output_stride = 32                   # pixels per cell of the encoder's coarsest map
    m.freeze_encoder = True                # only the head learns
    m.head_width = 64                      # channels of the DPT head
    return m


def optim_config():
    """AdamW as in the paper: the head runs on 40 times the encoder's rate."""
    o = ml_collections.ConfigDict()
    o.name = "adamw"
    o.lr = 5e-6                            # for 16 + 16 photos a step over all devices
    o.b1, o.b2, o.eps = 0.9, 0.999, 1e-8
    o.momentum = 0.0                       # of sgd; adamw has none
    o.weight_decay = 0.01
    o.poly_power = 0.9                     # rate = lr · (1 - step / total_steps) ^ power
    o.lag_steps = 1                        # a step runs on the rate of the one before, as in the paper
    # (pattern of parameter names, factor on lr, factor on weight_decay); the first match counts
    o.groups = (("^backbone/", 1.0, 1.0), (".*", 40.0, 1.0))
    return o


def predict_config():
    """How photos are labelled with the trained segmenter."""
    p = ml_collections.ConfigDict()
    p.multiple = 32                        # photos are resized to the nearest multiple, pixels
    p.batch = 8                            # photos at once
    return p
