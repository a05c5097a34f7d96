"""TransCAM on VOC 2012: a Conformer-S from image tags, class maps spread by its attention.

    python tools/convert_weights.py --arch=conformer_small --src=Conformer_small_patch16.pth \\
        --out=conformer_small
    python -m wsssjax.train --config=configs/cam_voc_transcam.py --workdir=runs/transcam \\
        --config.data.packed=FOLDER --config.model.encoder_weights=conformer_small
    python -m wsssjax.cam --config=configs/cam_voc_transcam.py \\
        --weights=runs/transcam/weights.safetensors --images=JPEGImages --tags=tags.csv --out=seed

Published: 64.85 mIoU on VOC train (1,464 photos) at the best threshold, 0.44; another user got
63.46, and the authors say ± 2 by seed. At 0.30, 0.40, 0.60 and 0.70: 57.58, 64.24, 55.97, 42.93.
Labels for what follows were taken at 0.60 (foreground) and 0.25 before a CRF; 0.44 stands below.
Trained weights of the public code come through --arch=transcam. This is BAO's first stage, too.

Published on one device. With several each normalises over its own rows; 8 of them are what the
statistics are made of there.
Arguments: `conformer_small` (default), or `efficientnet_lite0`, for which nothing is published: it
has no attention, so its maps stay where they are, and no class token.
"""

import ml_collections

ARGUMENTS = ("conformer_small", "efficientnet_lite0")


def get_config(arg=""):
    """Config of one training; as many lines as it has settings."""
    if arg not in ("", *ARGUMENTS):
        raise ValueError(f"config argument {arg!r}: want nothing or one of {', '.join(ARGUMENTS)}")
    c = ml_collections.ConfigDict()
    c.method = "transcam"
    c.seed = 0
    c.dtype = "float32"  # of matmuls and convolutions: float32 or bfloat16
    c.parallel = "pmap"  # or shard_map
    c.device_batch = 8  # photos per device and step
    c.total_epochs = 20  # passes over the photos; read where total_steps is 0
    c.total_steps = 0  # 26,440 with 10,582 photos at 8 a step
    c.epoch_steps = 0  # steps of one pass; 0: whole batches that the photos fill (1,322)
    c.log_steps = 50
    c.save_steps = 1_000
    c.tensorboard = False  # also write event files for TensorBoard
    c.classes = "voc"  # voc, coco or a file with one class name a line

    c.data = ml_collections.ConfigDict()
    c.data.packed = ""  # folder that tools/prepare_data.py wrote; must be given to train
    c.data.split = "train"
    c.data.saliency = ""  # unused here
    c.data.long_side = (320, 640)  # pixels, range of the longer side
    c.data.crop = 512  # pixels, a multiple of 16; smaller photos land at random on a canvas
    c.data.flip = 0.5  # probability
    c.data.jitter = (0.3, 0.3, 0.3, 0.1)  # brightness, contrast, saturation, hue
    c.data.mean = (0.485, 0.456, 0.406)  # of RGB in 0..1, as the encoder was pretrained with
    c.data.std = (0.229, 0.224, 0.225)
    c.data.workers = 2  # loader processes; 0 loads in the training process

    c.model = ml_collections.ConfigDict()
    c.model.encoder = "conformer_small"
    c.model.encoder_weights = ""  # .safetensors from tools/convert_weights.py; "" starts random
    c.model.output_stride = 16  # pixels per feature; of other encoders, this one has 16 only
    # No gradient reaches a frozen encoder; give ^backbone/ an lr factor of 0 as well, since weight
    # decay needs no gradient.
    c.model.freeze_encoder = False
    c.model.conformer = ml_collections.ConfigDict()  # read with encoder = conformer_small
    c.model.conformer.drop_path = 0.1  # probability that a photo skips a branch of the last block
    c.model.conformer.norm = "batch"  # statistics of the batch; stored, frozen: models/norms.py
    c.model.dtype = c.get_ref("dtype")

    c.optim = ml_collections.ConfigDict()
    c.optim.name = "adamw"
    c.optim.lr = 5e-5
    c.optim.weight_decay = 5e-4  # times lr, of every parameter
    c.optim.momentum = 0.0  # sgd only
    c.optim.b1, c.optim.b2, c.optim.eps = 0.9, 0.999, 1e-8
    c.optim.poly_power = 0.0  # lr (1 - step / total_steps) ** power; 0: constant
    c.optim.lag_steps = 0  # 1: each step runs on the rate of the step before
    c.optim.groups = (  # pattern of parameter names, lr factor, decay factor; first match counts
        (".*", 1.0, 1.0),
    )

    c.infer = ml_collections.ConfigDict()  # all fields are told in wsssjax/cam/infer.py
    c.infer.scales = (0.5, 1.0, 1.5)  # squares of 256, 512 and 768 pixels
    c.infer.flip = True  # adds the mirror image at every scale
    c.infer.canvas = "square"  # the photo's aspect is not kept, as published
    c.infer.grid = 64  # pixels, for canvas = bucket and grid
    c.infer.side = 512  # pixels, for canvas = square
    c.infer.multiple = 16  # pixels; the network's input sides are multiples of it
    c.infer.align = 1  # pixels; maps are enlarged to multiples of it and cut
    c.infer.batch = 2  # photos per call, their mirror images come on top; half a GB each at 768
    c.infer.normalise = "minmax"  # or max, none
    c.infer.background = "threshold"  # map: for BAO
    c.infer.threshold = 0.44  # score of the background, 0..1
    if arg == "efficientnet_lite0":
        c.model.encoder = arg
        c.data.mean, c.data.std = (127 / 255,) * 3, (128 / 255,) * 3
    return c
