"""UniMatch V2 on VOC 2012: labelled and unlabelled photos → segmenter.

    python -m wsssjax.train --config=configs/semi_voc_unimatch_v2.py --workdir=runs/v2 \\
        --config.data.root=VOCdevkit/VOC2012 \\
        --config.data.labeled=splits/92/labeled.txt \\
        --config.data.unlabeled=splits/92/unlabeled.txt

The settings are those published for DINOv2 on VOC: 4 devices of 4 + 4 photos, 60 passes over the
unlabelled ones. Published with a frozen DINOv2-Base and 92 labels: 84.6 mIoU (teacher, best epoch).
Here the encoder is EfficientNet-Lite0, for which nothing is published.
Argument: `efficientnet_lite0` (default).
"""

import ml_collections

ENCODERS = ("efficientnet_lite0",)


def get_config(arg=""):
    """Config of one training; as many lines as it has settings."""
    if arg not in ("", *ENCODERS):
        raise ValueError(f"config argument {arg!r}: want nothing or {' or '.join(ENCODERS)}")
    c = ml_collections.ConfigDict()
    c.method = "unimatch_v2"
    c.seed = 0
    c.dtype = "float32"  # of matmuls and convolutions: float32 or bfloat16
    c.parallel = "pmap"  # or shard_map
    c.device_batch = 4  # labelled photos per device and step; as many unlabelled ones
    c.total_steps = 39_300  # 60 passes over 10,490 unlabelled photos, 16 a step
    c.log_steps = 20
    c.save_steps = 660
    c.tensorboard = False  # also write event files for TensorBoard
    c.classes = "voc"  # voc, coco or a file with one class name a line

    c.criterion = "ce"  # of the labelled photos: cross-entropy over labelled pixels
    c.conf_threshold = 0.95  # teacher probability from which a pixel teaches, inclusive
    c.unlabelled_weight = 1.0  # of the unlabelled loss beside the labelled one
    c.ema_limit = 0.996  # the teacher's decay, after a ramp of 250 steps

    c.data = ml_collections.ConfigDict()
    c.data.root = "."  # folder that the paths in the lists count from
    c.data.labeled = "labeled.txt"  # list: '<photo> <label>' a line
    c.data.unlabeled = "unlabeled.txt"  # list: '<photo>' a line; a label beside it is not read
    c.data.scale = (0.5, 2.0)  # random factor on the longer side: range
    c.data.crop = 512  # pixels, both sides; published: 518, a multiple of DINOv2's patch
    c.data.flip_p = 0.5  # probability
    c.data.mean = (127 / 255,) * 3  # of RGB in 0..1, as the encoder was pretrained with
    c.data.std = (128 / 255,) * 3
    c.data.workers = 2  # loader processes; 0 loads in the training process

    c.data.strong = ml_collections.ConfigDict()  # each strong view draws for itself
    c.data.strong.jitter_p = 0.8
    c.data.strong.brightness = 0.5  # factor 1 - x .. 1 + x
    c.data.strong.contrast = 0.5  # likewise
    c.data.strong.saturation = 0.5  # likewise
    c.data.strong.hue = 0.25  # shift -x .. x, turns of the colour circle
    c.data.strong.gray_p = 0.2
    c.data.strong.blur_p = 0.5
    c.data.strong.blur_sigma = (0.1, 2.0)  # pixels, range
    c.data.strong.cut_p = 0.5  # of a CutMix box
    c.data.strong.cut_area = (0.02, 0.4)  # its share of the crop: range
    c.data.strong.cut_ratio = (0.3, 1 / 0.3)  # its height / width: range

    c.model = ml_collections.ConfigDict()
    c.model.encoder = arg or ENCODERS[0]
    c.model.encoder_weights = ""  # .safetensors from tools/convert_weights.py; "" starts random
    c.model.output_stride = 32  # pixels per cell of the coarsest feature map
    c.model.freeze_encoder = True  # only the head learns
    c.model.head_width = 64  # channels of the DPT head
    c.model.dtype = c.get_ref("dtype")

    c.optim = ml_collections.ConfigDict()
    c.optim.name = "adamw"
    c.optim.lr = 5e-6  # for 16 + 16 photos a step over all devices; scale it with their number
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
