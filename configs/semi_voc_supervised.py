"""Supervised segmenter on VOC 2012: labelled photos → segmenter; the baseline of UniMatch V2.

    python -m wsssjax.train --config=configs/semi_voc_supervised.py --workdir=runs/supervised \\
        --config.data.root=VOCdevkit/VOC2012 --config.data.labeled=splits/92/labeled.txt

The labels may be masks drawn by people or pseudo-labels: with the pseudo-labels of all photos, this
is the last stage of ordinary weakly supervised segmentation. The settings are those published for
DINOv2 (Base, 92 labels, encoder trained: 76.9 mIoU, best epoch); here the encoder is
EfficientNet-Lite0, for which nothing is published.
Argument: `efficientnet_lite0` (default).
"""

import ml_collections

ENCODERS = ("efficientnet_lite0",)


def get_config(arg=""):
    """Config of one training; as many lines as it has settings."""
    if arg not in ("", *ENCODERS):
        raise ValueError(f"config argument {arg!r}: want nothing or {' or '.join(ENCODERS)}")
    c = ml_collections.ConfigDict()
    c.method = "supervised"
    c.seed = 0
    c.dtype = "float32"  # of matmuls and convolutions: float32 or bfloat16
    c.parallel = "pmap"  # or shard_map
    c.device_batch = 8  # photos per device and step
    c.total_steps = 5_580  # 60 passes over 3,000 photos (short lists repeated), 32 a step
    c.log_steps = 20
    c.save_steps = 500
    c.tensorboard = False  # also write event files for TensorBoard
    c.classes = "voc"  # voc, coco or a file with one class name a line

    c.criterion = "ce"  # cross-entropy over labelled pixels

    c.data = ml_collections.ConfigDict()
    c.data.root = "."  # folder that the paths in the lists count from
    c.data.labeled = "labeled.txt"  # list: '<photo> <label>' a line
    c.data.scale = (0.5, 2.0)  # random factor on the longer side: range
    c.data.crop = 512  # pixels, both sides; published: 518, a multiple of DINOv2's patch
    c.data.flip_p = 0.5  # probability
    c.data.mean = (127 / 255,) * 3  # of RGB in 0..1, as the encoder was pretrained with
    c.data.std = (128 / 255,) * 3
    c.data.workers = 2  # loader processes; 0 loads in the training process

    c.model = ml_collections.ConfigDict()
    c.model.encoder = arg or ENCODERS[0]
    c.model.encoder_weights = ""  # .safetensors from tools/convert_weights.py; "" starts random
    c.model.output_stride = 32  # pixels per cell of the coarsest feature map
    c.model.freeze_encoder = True  # only the head learns
    c.model.head_width = 64  # channels of the DPT head
    c.model.dtype = c.get_ref("dtype")

    c.optim = ml_collections.ConfigDict()
    c.optim.name = "adamw"
    c.optim.lr = 5e-6  # for 32 photos a step over all devices; scale it with their number
    c.optim.momentum = 0.0  # sgd only
    c.optim.weight_decay = 0.01
    c.optim.b1, c.optim.b2, c.optim.eps = 0.9, 0.999, 1e-8
    c.optim.poly_power = 0.9  # lr (1 - step / total_steps) ** power
    c.optim.lag_steps = 1  # each step runs on the rate of the step before, as published
    c.optim.groups = (  # pattern of parameter names, lr factor, decay factor; first match counts
        ("^backbone/", 1.0, 1.0),
        (".*", 40.0, 1.0),
    )

    c.predict = ml_collections.ConfigDict()
    c.predict.multiple = 32  # pixels; photos are resized to the nearest multiple on each side
    c.predict.batch = 8  # photos of one such size per call
    return c
