"""UniMatch V2 on VOC 2012: labelled and unlabelled photos → segmenter.

    python tools/convert_weights.py --arch=dinov2_b --src=dinov2_vitb14_pretrain.pth --out=dinov2_b
    python -m wsssjax.train --config=configs/semi_voc_unimatch_v2.py:base --workdir=runs/v2 \\
        --config.model.encoder_weights=dinov2_b --config.data.root=VOCdevkit/VOC2012 \\
        --config.data.labeled=splits/92/labeled.txt \\
        --config.data.unlabeled=splits/92/unlabeled.txt --config.data.val=splits/val.txt

All other semi_ configs change fields of this one. Published (mIoU of the EMA teacher on val, best
epoch / last epoch; one run each, from the authors' logs; at 92 labels other people's runs differ by
up to 4 points, elsewhere by some tenths):

    labels        92            183           366           732           1464
    small     79.0 / 79.0   85.5 / 85.2   85.9 / 85.8   86.7 / 86.6   87.8 / 87.5
    base      86.3 / 86.3   87.9 / 87.4   88.9 / 88.7   90.0 / 89.7   90.8 / 90.1
    large     86.4 / 86.0   87.6 / 87.4   90.3 / 89.8   91.1 / 91.0   91.2 / 91.1
    small*    81.8 / 81.4   83.8 / 83.8   84.0 / 83.5   85.7 / 85.7   86.2 / 86.1
    base*     84.6 / 84.4   87.2 / 87.2   87.4 / 87.2   88.5 / 88.4   90.2 / 90.1
    * encoder frozen: --config.model.freeze_encoder=true

Nothing was published for the giant. The first epochs tell a broken set-up: base with 92 labels has
75.0 after one, 79.3 after two, 83.7 after five. Published on 4 A100: 5.7 hours for small (10 GB
each), 13.2 for base (20 GB), 33.3 for large. On fewer devices keep 16 + 16 photos a step with
--config.accumulate, or scale config.optim.lr with their number.
Argument: small, base (default), large, giant; or efficientnet_lite0, frozen and at 512 pixels, for
which nothing is published.
"""

import ml_collections

SIZES = {  # name: encoder, channels of the DPT head
    "small": ("dinov2_s", 64), "base": ("dinov2_b", 128), "large": ("dinov2_l", 256),
    "giant": ("dinov2_g", 384), "efficientnet_lite0": ("efficientnet_lite0", 64),
}


def get_config(arg=""):
    """Config of one training; as many lines as it has settings."""
    arg = arg or "base"
    if arg not in SIZES:
        raise ValueError(f"config argument {arg!r}: want nothing or {' or '.join(SIZES)}")
    c = ml_collections.ConfigDict()
    c.method = "unimatch_v2"
    c.seed = 0
    c.dtype = "float32"  # of matmuls and convolutions: float32 (published) or bfloat16
    c.precision = "highest"  # of float32 products on GPUs: highest (published) or default (TF32)
    c.parallel = "pmap"  # or shard_map
    c.device_batch = 4  # labelled photos per device and step; as many unlabelled ones
    c.accumulate = 1  # such groups a device goes through per step: 4 on 1 device are 4 devices
    c.total_epochs = 60  # passes over the unlabelled photos
    c.total_steps = 0  # instead of total_epochs, where it is not 0
    c.log_steps = 20
    c.save_steps = 660
    c.eval_epochs = 1  # passes between two evaluations on data.val
    c.tensorboard = False  # also write event files for TensorBoard
    c.classes = "voc"  # voc, coco, cityscapes, ade20k or a file with one class name a line

    c.loss_scales = (1.0,)  # supervised alone: factors on the crop's sides, each with a loss of its
    #                         own; of several, their maximum has one more
    c.loss_size = "image"  # supervised alone: labels and logits meet at the size of the image, or
    #                        at that of the scores (features: labels are shrunk)
    c.criterion = "ce"  # of labelled photos: ce over all labelled pixels; ohem over the hard ones
    c.ohem_threshold = 0.7  # ohem: pixels whose true class has at most this probability
    c.ohem_min_kept = 200_000  # ohem: pixels taken at least, of a group's rows
    c.conf_threshold = 0.95  # teacher probability from which a pixel teaches, inclusive
    c.unlabelled_weight = 1.0  # of the unlabelled loss beside the labelled one
    c.ema_limit = 0.996  # the teacher's decay, after a ramp of 250 steps
    c.teacher = "ema"  # unimatch (V1) alone: whose labels are learned, ema or self

    c.data = ml_collections.ConfigDict()
    c.data.root = "."  # folder that the paths in the lists count from
    c.data.labeled = "labeled.txt"  # list: '<photo> <label>' a line
    c.data.unlabeled = "unlabeled.txt"  # list: '<photo>' a line; a label beside it is not read
    c.data.tags = ""  # CSV `id,tags` of the unlabelled photos: the teacher then chooses among the
    #                   background and a photo's tags; "" as published, among all classes
    c.data.val = ""  # list: '<photo> <label>' a line, evaluated as it trains; "" for none
    c.data.epoch_photos = 0  # supervised alone: photos that make a pass, where the list is shorter
    c.data.resize = "factor"  # what scale is: factor, a range; choice, factors of which one is
    #                           drawn; long_side, a range of pixels
    c.data.scale = (0.5, 2.0)  # on the longer side
    c.data.crop = 518  # pixels, both sides
    c.data.canvas = "black"  # where a crop reaches beyond the photo, right and below: black; mean,
    #                          the mean colour; mean_random, with the photo at random on it
    c.data.canvas_label = 255  # label there: 255 ignores it, 0 is background
    c.data.jitter = (0.0, 0.0, 0.0, 0.0)  # of labelled photos: brightness, contrast, saturation,
    #                                       hue (see strong)
    c.data.flip_p = 0.5  # probability
    c.data.mean = (0.485, 0.456, 0.406)  # of RGB in 0..1, as the encoder was pretrained with
    c.data.std = (0.229, 0.224, 0.225)
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
    c.model.encoder, c.model.head_width = SIZES[arg]
    c.model.encoder_weights = ""  # .safetensors from tools/convert_weights.py; "" starts random
    c.model.output_stride = 32  # pixels per cell of a CNN's coarsest map; DINOv2 has 14
    c.model.bgr = False  # the encoder's weights want blue first, as those from Caffe
    c.model.decoder = "dpt"  # or one of models/deeplab.py: largefov, aspp, resnet38_head,
    #                          deeplabv3plus, which read the next three
    #                          (aspp, largefov: head_width 0 is one convolution a branch)
    c.model.head_dilations = (12,)  # of its branches
    c.model.head_norm = "batch"  # deeplabv3plus: batch, stored or frozen (models/norms.py)
    c.model.head_dropout = True  # the head drops in training, where it was published to
    c.model.freeze_encoder = False  # true: only the head learns
    c.model.dtype = c.get_ref("dtype")

    c.model.vit = ml_collections.ConfigDict()
    c.model.vit.positions = "auto"  # resize of the table: offset (hub), size (HF), antialias
    c.model.vit.scan = True  # one compiled block in a loop; false compiles each block
    c.model.vit.remat = False  # recompute activations in the backward pass: less memory, slower
    c.model.vit.attention = "auto"  # loop, xla, cudnn; auto: cudnn on GPUs in bfloat16

    c.model.resnet = ml_collections.ConfigDict()  # of encoders resnet50 and resnet101
    c.model.resnet.dilation = "all"  # where a stride is removed: none, all, rest, late
    c.model.resnet.norm = "frozen"  # batch, stored or frozen (models/norms.py)
    c.model.resnet.freeze_below = ""  # stage below which nothing learns, such as layer2
    c.model.resnet.layout = "torchvision"  # or caffe (DeepLab's own weights)

    c.optim = ml_collections.ConfigDict()
    c.optim.name = "adamw"
    c.optim.lr = 5e-6  # for 16 + 16 photos a step over all devices; scale it with their number
    c.optim.momentum = 0.0  # sgd only
    c.optim.weight_decay = 0.01
    c.optim.b1, c.optim.b2, c.optim.eps = 0.9, 0.999, 1e-8
    c.optim.poly_power = 0.9  # lr (1 - step / total_steps) ** power
    c.optim.hold_steps = 1  # the rate changes at every so many steps
    c.optim.lag_steps = 1  # each step runs on the rate of the step before, as published
    c.optim.groups = (  # pattern of parameter names, lr factor, decay factor; first match counts
        ("^backbone/", 1.0, 1.0),
        (".*", 40.0, 1.0),
    )

    c.predict = ml_collections.ConfigDict()
    c.predict.mode = "original"  # whole photos, resized to multiples; sliding_window; multi_scale
    c.predict.multiple = 14  # pixels; photos are resized to the nearest multiple on each side
    c.predict.window = 518  # pixels, side of a sliding window, moved by 2/3 of it
    c.predict.batch = 8  # photos of one size, or windows, per call
    multi_scale(c.predict)
    if arg == "efficientnet_lite0":
        use_efficientnet(c)
    return c


def multi_scale(p):
    """Fields of mode multi_scale (semi/multi_scale.py) and of the CRF behind any mode."""
    p.scales = (1.0,)  # factors on a photo's sides
    p.flip = False  # the mirror image of each, too
    p.resize = "bicubic"  # how a photo is scaled: bicubic (Pillow), half_pixel or corners
    p.merge = "mean"  # of softmax; max of softmax; max_logits
    p.canvas = "exact"  # bucket: sizes padded to a few, for VGG and ResNets with DeepLab's heads
    p.grid = 64  # pixels, for canvas = bucket: sides are padded to multiples of it
    p.full_eval = False  # data.val is seen at all scales, too, and not at scale 1 alone
    p.crf = ""  # python -m wsssjax.predict: a preset of core/crf.py behind it
    p.crf_least = 0.0  # the CRF leaves out classes that are nowhere in a photo as probable as this


def use_efficientnet(c):
    """A frozen CNN in DINOv2's place."""
    c.model.freeze_encoder = True
    c.data.crop, c.predict.multiple, c.predict.window = 512, 32, 512
    c.data.mean, c.data.std = (127 / 255,) * 3, (128 / 255,) * 3
