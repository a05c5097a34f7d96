"""EPS on VOC 2012: a classifier from image tags and saliency maps.

    python -m wsssjax.cam.saliency --images=VOCdevkit/VOC2012/JPEGImages --out=saliency
    python -m wsssjax.train --config=configs/cam_voc_eps.py --config.data.packed=FOLDER \\
        --config.data.saliency=saliency

Any saliency will do that lies as <id>.png or .jpg beside the photos, of their sizes; the labels
depend on it. Published for the segmenter trained on them (mIoU on val, test): PFAN 71.0, 71.8; DSS
70.0, 70.1; USPS, without supervision, 68.8, 69.9.
Arguments:

    efficientnet_lite0  (default) the recipe on a small encoder; nothing is published
    resnet38            as published, labels on VOC train at threshold 0.20 and saliency of PFAN:
                        69.4 in the paper, 69.22 in the public code's own run. Selections of the
                        paper's Table 3: none 66.1, naive 66.5, predefined 67.9, adaptive 69.4

The public code's command line defaults to --config.eps.overlap_min=0.5 and 10,000 steps; its
scripts, which made the numbers, set what stands here. Photos per step are published for all devices
together: with n of them, --config.device_batch=8/n. resnet38 cannot start random (its norms do not
learn); for its ImageNet weights see refine_voc_affinity.py. The published classifier comes through
tools/convert_weights.py --arch=eps_resnet38 and is what `python -m wsssjax.cam --weights=` takes.
Losses of the published run (loss_cls, loss_sal): step 0 0.865, 0.208; 50 0.268, 0.084; 1,100 0.115,
0.051; 19,950 0.051, 0.033.
"""

import ml_collections

ARGUMENTS = ("efficientnet_lite0", "resnet38")


def get_config(arg=""):
    """Config of one training; as many lines as it has settings."""
    if arg not in ("", *ARGUMENTS):
        raise ValueError(f"config argument {arg!r}: want nothing or one of {', '.join(ARGUMENTS)}")
    c = ml_collections.ConfigDict()
    c.method = "eps"
    c.seed = 0
    c.dtype = "float32"  # of matmuls and convolutions: float32 or bfloat16
    c.parallel = "pmap"  # or shard_map
    c.device_batch = 8  # photos per device and step
    c.total_steps = 20_000  # 15.1 epochs of 10,582 photos at 8 a step
    c.log_steps = 50
    c.save_steps = 1_000
    c.tensorboard = False  # also write event files for TensorBoard
    c.classes = "voc"  # voc, coco or a file with one class name a line

    c.eps = ml_collections.ConfigDict()
    c.eps.selection = "adaptive"  # which tagged classes are foreground: adaptive, naive,
    #                               predefined (all but background_classes) or none
    c.eps.overlap_min = 0.4  # share of a class map that must be salient, exclusive; adaptive only
    c.eps.mix = 0.5  # weight of the foreground in the estimated saliency; 0.9 on COCO
    c.eps.background_classes = ("chair", "diningtable", "sofa")  # predefined only

    c.data = ml_collections.ConfigDict()
    c.data.packed = ""  # folder that tools/prepare_data.py wrote; must be given
    c.data.split = "train"
    c.data.saliency = ""  # folder of <id>.png or .jpg, 0..255; "": it is in the packed set
    c.data.long_side = (256, 512)  # pixels, range of the longer side
    c.data.crop = 448  # pixels; smaller photos land at random on a canvas, saliency 0 there
    c.data.flip = 0.5  # probability
    c.data.jitter = (0.3, 0.3, 0.3, 0.1)  # brightness, contrast, saturation, hue; photo only
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
    c.model.dropout = 0.0  # none before the head, unlike plain CAM
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
    if arg == "resnet38":
        c.data.mean, c.data.std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        c.model.encoder = "resnet38"
        c.model.output_stride = 8  # the only one it has
        # Neither updates nor decay below b3; norms are no parameters.
        c.optim.groups = ((r"^backbone/(conv1a|b2(_\d)?)/", 0.0, 0.0), *c.optim.groups)
        c.infer.canvas = "bucket"  # exact compiles a program for every photo size and scale
    return c
