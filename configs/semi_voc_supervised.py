"""Supervised segmenter on VOC 2012: labelled photos → segmenter; the baseline of UniMatch V2.

    python -m wsssjax.train --config=configs/semi_voc_supervised.py --workdir=runs/supervised \\
        --config.data.root=VOCdevkit/VOC2012 --config.data.labeled=splits/92/labeled.txt

The labels may be people's masks or pseudo-labels: with the pseudo-labels of all photos this is the
last stage of ordinary weakly supervised segmentation.
Argument (`…_supervised.py:NAME`): the encoder; `efficientnet_lite0` is the default and the only one yet.
"""

import ml_collections

ENCODERS = ("efficientnet_lite0",)


def get_config(arg=""):
    """Config of one training; every field is set here."""
    if arg not in ("", *ENCODERS):
        raise ValueError(f"config argument {arg!r}: want an encoder; there are {', '.join(ENCODERS)}")
    c = ml_collections.ConfigDict()
    c.method = "supervised"
    c.seed = 0
    c.dtype = "float32"                    # of matmuls and convolutions: float32 or bfloat16
    c.parallel = "pmap"                    # how devices run together: pmap or shard_map
    c.device_batch = 8                     # photos a step and device
    c.total_steps = 5_580                  # 60 passes over 3000 photos at 4 devices, as the paper's
    c.log_steps = 20                       # steps between two lines of metrics
    c.save_steps = 500                     # steps between two checkpoints
    c.classes = "voc"                      # class names: voc, coco or a file, background first
    c.criterion = "ce"                     # loss: cross-entropy over labelled pixels

    c.data = ml_collections.ConfigDict()
    c.data.root = "."                      # folder that the paths in the list count from
    c.data.labeled = "labeled.txt"         # list file: '<photo> <label>' a line
    c.data.scale = (0.5, 2.0)              # range of the random factor on a photo's longer side
    c.data.crop = 512                      # side of the square crop, pixels; the paper's DINOv2: 518
    c.data.flip_p = 0.5                    # chance of a left-right flip
    c.data.mean = (127 / 255,) * 3         # of RGB in 0..1, as the encoder was pretrained with
    c.data.std = (128 / 255,) * 3
    c.data.workers = 2                     # processes that prepare photos; 0: none beside the main one

    c.model = ml_collections.ConfigDict()
    c.model.encoder = arg or ENCODERS[0]
    c.model.encoder_weights = ""           # converted pretrained weights; "" starts from random ones
    c.model.output_stride = 32             # pixels per cell of the encoder's coarsest map
    c.model.freeze_encoder = True          # only the head learns
    c.model.head_width = 64                # channels of the DPT head
    c.model.dtype = c.get_ref("dtype")

    c.optim = ml_collections.ConfigDict()
    c.optim.name = "adamw"
    c.optim.lr = 5e-6                      # for 32 photos a step over all devices
    c.optim.b1, c.optim.b2, c.optim.eps = 0.9, 0.999, 1e-8
    c.optim.momentum = 0.0                 # of sgd; adamw has none
    c.optim.weight_decay = 0.01
    c.optim.poly_power = 0.9               # rate = lr · (1 - step / total_steps) ^ power
    c.optim.lag_steps = 1                  # a step runs on the rate of the one before, as the paper's
    # (pattern of parameter names, factor on lr, factor on weight_decay); the first match counts
    c.optim.groups = (("^backbone/", 1.0, 1.0), (".*", 40.0, 1.0))

    c.predict = ml_collections.ConfigDict()
    c.predict.multiple = 32                # photos are resized to the nearest multiple, pixels
    c.predict.batch = 8                    # photos at once
    return c
