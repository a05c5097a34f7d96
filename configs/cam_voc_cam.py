"""Plain CAM on VOC 2012: a classifier from image tags.

    python tools/prepare_data.py voc --root=VOCdevkit/VOC2012 ...
    python -m wsssjax.train --config=configs/cam_voc_cam.py --config.data.packed=FOLDER

Arguments, with the published mIoU of the labels on VOC train (background at the threshold named,
scales 0.5 to 2 and mirror images):

    efficientnet_lite0  (default) the recipe of resnet38 on a small encoder; nothing is published
    resnet38            the CAM baseline of the public EPS code: 47.05 at 0.20. AffinityNet's own
                        (48.0 in the paper, 47.7 with the published weights) differs in
                        --config.device_batch=16 --config.total_steps=9915 --config.optim.lr=0.1;
                        0.1 is the rate for VGG-16, and one who used it with ResNet-38 got 42.3
    resnet50            IRN's: 48.3 at 0.15; others who ran it got 48.1 and 48.6

Photos per step are published for all devices together: with n of them, --config.device_batch
divided by n. The ResNets cannot start random: their norms do not learn statistics, and the loss
leaves all bounds within two steps. ImageNet weights of resnet38 are told of in
refine_voc_affinity.py; those of resnet50 are torchvision's resnet50-19c8e357 through
tools/convert_weights.py --arch=resnet50. Published classifiers come through --arch=cam_resnet38 and
--arch=cam_resnet50 and are what `python -m wsssjax.cam --weights=` takes.
"""

import ml_collections

ARGUMENTS = ("efficientnet_lite0", "resnet38", "resnet50")


def get_config(arg=""):
    """Config of one training; as many lines as it has settings."""
    if arg not in ("", *ARGUMENTS):
        raise ValueError(f"config argument {arg!r}: want nothing or one of {', '.join(ARGUMENTS)}")
    c = ml_collections.ConfigDict()
    c.method = "cam"
    c.seed = 0
    c.dtype = "float32"  # of matmuls and convolutions: float32 or bfloat16
    c.parallel = "pmap"  # or shard_map
    c.device_batch = 8  # photos per device and step
    c.total_steps = 20_000  # 15.1 epochs of 10,582 photos at 8 a step
    c.log_steps = 50
    c.save_steps = 1_000
    c.tensorboard = False  # also write event files for TensorBoard
    c.classes = "voc"  # voc, coco or a file with one class name a line

    c.data = ml_collections.ConfigDict()
    c.data.packed = ""  # folder that tools/prepare_data.py wrote; must be given
    c.data.split = "train"
    c.data.saliency = ""  # unused here
    c.data.long_side = (256, 512)  # pixels, range of the longer side
    c.data.crop = 448  # pixels; smaller photos land at random on a canvas of the mean colour
    c.data.flip = 0.5  # probability
    c.data.jitter = (0.3, 0.3, 0.3, 0.1)  # brightness, contrast, saturation, hue
    c.data.mean = (127 / 255,) * 3  # of RGB in 0..1, as the encoder was pretrained with
    c.data.std = (128 / 255,) * 3
    c.data.workers = 2  # loader processes; 0 loads in the training process

    c.model = ml_collections.ConfigDict()
    c.model.encoder = "efficientnet_lite0"
    c.model.encoder_weights = ""  # .safetensors from tools/convert_weights.py; "" starts random
    c.model.output_stride = 16  # pixels per feature
    # No gradient reaches a frozen encoder; give ^backbone/ an lr factor of 0 as well, since weight
    # decay needs no gradient.
    c.model.freeze_encoder = False
    c.model.dropout = 0.5  # share of feature channels dropped before the head, in training
    c.model.head_start = "xavier"  # uniform; or torch: within 1 / sqrt(channels)
    c.model.dtype = c.get_ref("dtype")

    c.optim = ml_collections.ConfigDict()
    c.optim.name = "sgd"
    c.optim.lr = 0.01
    # The published code hands SGD its weight decay where momentum belongs, so the 0.9 it names is
    # never used. Reproduced here; 0.9 makes steps about ten times as large.
    c.optim.momentum = 5e-4
    c.optim.weight_decay = 5e-4
    c.optim.b1, c.optim.b2, c.optim.eps = 0.9, 0.999, 1e-8  # adamw only
    c.optim.poly_power = 0.9  # lr (1 - step / total_steps) ** power
    c.optim.lag_steps = 0  # 1: each step runs on the rate of the step before
    c.optim.groups = (  # pattern of parameter names, lr factor, decay factor; first match counts
        ("^head/", 10.0, 1.0),
        (".*", 1.0, 1.0),
    )

    c.infer = ml_collections.ConfigDict()  # all fields are told in wsssjax/cam/infer.py
    c.infer.scales = (0.5, 1.0, 1.5, 2.0)
    c.infer.flip = True  # adds the mirror image at every scale
    c.infer.canvas = "exact"  # published sizes; bucket: the same from few programs; grid, square
    c.infer.grid = 64  # pixels, for canvas = bucket and grid
    c.infer.side = 512  # pixels, for canvas = square
    c.infer.multiple = 1  # pixels; the network's input sides are multiples of it
    c.infer.align = 1  # pixels; maps are enlarged to multiples of it and cut
    c.infer.batch = 1  # photos of one canvas per call; more pays unless canvas = exact
    c.infer.normalise = "max"  # or minmax, none
    c.infer.background = "threshold"  # map: for BAO
    c.infer.threshold = 0.2  # score of the background, 0..1
    if arg in ("resnet38", "resnet50"):
        _resnet(c, arg)
    return c


def _resnet(c, encoder):
    """What the published networks differ in from the above."""
    c.data.mean, c.data.std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    c.model.encoder = encoder
    c.infer.canvas = "bucket"  # exact compiles a program for every photo size and scale
    if encoder == "resnet38":
        c.model.output_stride = 8  # the only one it has
        # Neither updates nor decay below b3; norms are no parameters.
        c.optim.groups = ((r"^backbone/(conv1a|b2(_\d)?)/", 0.0, 0.0), *c.optim.groups)
        return
    c.device_batch = 16
    c.total_steps = 3_305  # 5 epochs of 10,582 photos at 16 a step, incomplete batches dropped
    c.data.long_side = (320, 640)
    c.data.crop = 512
    c.data.jitter = (0.0, 0.0, 0.0, 0.0)  # none
    c.model.output_stride = 16
    c.model.dropout = 0.0
    c.model.head_start = "torch"
    c.model.resnet = ml_collections.ConfigDict()  # all fields are told in wsssjax/models/resnet.py
    c.model.resnet.dilation = "none"
    c.model.resnet.norm = "stored"  # their scale and bias learn, their statistics do not move
    c.model.resnet.freeze_below = "layer3"
    c.model.resnet.layout = "torchvision"
    c.optim.lr = 0.1
    c.optim.momentum = c.optim.weight_decay = 1e-4  # by the same accident
    c.optim.groups = ((r"^backbone/(conv1|bn1|layer[12]_\d+)/", 0.0, 0.0), *c.optim.groups)
    c.infer.scales = (1.0, 0.5, 1.5, 2.0)
    c.infer.align = 16
    c.infer.threshold = 0.15
