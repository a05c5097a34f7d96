"""Static SSDD on VOC 2012: two label sets of the same photos → one that takes the best of both.

    python -m wsssjax.refine --method=affinity --cams=cams --images=VOCdevkit/VOC2012/JPEGImages \\
        --config=configs/refine_voc_affinity.py --weights=runs/affinity \\
        --save=labels,scores --out=affinity
    python -m wsssjax.refine --method=crf --cams=affinity --images=VOCdevkit/VOC2012/JPEGImages \\
        --save=labels,scores --out=affinity_crf
    python -m wsssjax.train --config=configs/refine_voc_ssdd_static.py --workdir=runs/ssdd_static \\
        --config.model.encoder_weights=resnet38 --config.data.images=VOCdevkit/VOC2012/JPEGImages \\
        --config.data.tags=tags.csv --config.data.knowledge=affinity \\
        --config.data.advice=affinity_crf
    python -m wsssjax.refine --method=difference --labels=affinity --advice=affinity_crf \\
        --images=VOCdevkit/VOC2012/JPEGImages --tags=tags.csv --out=ssdd_seed \\
        --config=configs/refine_voc_ssdd_static.py --weights=runs/ssdd_static

cams and runs/affinity are what refine_voc_affinity.py tells of, ssdd_seed is what semi_voc_ssdd.py
learns from. Shimoda and Yanai, ICCV 2019; there the knowledge is AffinityNet's labels and the
advice the same after a dense CRF, but any two will do. Scores are resized, not labels, as published
and wherever a folder has both: to reproduce the paper, knowledge and advice need the --save above
(scores alone will do; labels are to look at). Label maps count as one-hot scores. Published: 53.4
mIoU of the labels on train, against 52.5 of AffinityNet's and 48.0 after the CRF on the authors'
own scale; half a day, 2 photos a GPU, GPUs not stated.

What the published code does by accident, and what is done here:

* SGD is made anew at each step, so that its momentum of 0.9 never acts: momentum 0 here.
* The maps that it stores are mirrored at random, stored by place in the list, exchanged (knowledge
  as advice) and used without the photo's own augmentation: here they are stored by id, unmirrored,
  in order, and labels and photo are always moved together. ssdd.static_seed=released of
  semi_voc_ssdd.py brings that back.
* The new layers' batch norms are frozen where they start, a division by the root of 1.001: kept.
* Photos and labels are squashed to squares: kept; data.square=false keeps their proportions.
* A class that a crop has lost counts as lost by the advice and takes the crop out of the
  difference loss: kept; ssdd.flag_absent=false does without.
* An image whose labels agree (or differ) everywhere gives NaN: here an empty mean is 0.
Argument: resnet38 (default), or efficientnet_lite0, for which nothing is published.
"""

import ml_collections

ENCODERS = ("resnet38", "efficientnet_lite0")


def get_config(arg=""):
    """Config of one training; as many lines as it has settings."""
    arg = arg or "resnet38"
    if arg not in ENCODERS:
        raise ValueError(f"config argument {arg!r}: want nothing or {' or '.join(ENCODERS)}")
    c = ml_collections.ConfigDict()
    c.method = "ssdd_static"
    c.seed = 0
    c.dtype = "float32"  # of matmuls and convolutions: float32 (published) or bfloat16
    c.precision = "highest"  # of float32 products on GPUs: highest (published) or default (TF32)
    c.parallel = "pmap"  # or shard_map
    c.device_batch = 2  # photos per device and step
    c.total_epochs = 11  # passes; published: 16 are run, the weights after 11 are used
    c.total_steps = 0  # instead of total_epochs, where it is not 0
    c.log_steps = 20
    c.save_steps = 500
    c.tensorboard = False  # also write event files for TensorBoard
    c.classes = "voc"  # voc, coco or a file with one class name a line

    c.ssdd = ml_collections.ConfigDict()
    c.ssdd.flag_absent = True  # a tagged class without a pixel in either map is a lost one

    c.data = ml_collections.ConfigDict()
    c.data.images = ""  # folder of photos, or a list of paths; must be given
    c.data.ids = ""  # text file, one id a line; "": all of data.knowledge
    c.data.tags = ""  # CSV `id,tags`; "": the classes in the first label set
    c.data.knowledge = ""  # folder of scores <id>.npz, or of label maps <id>.png; must be given
    c.data.advice = ""  # the same, made from the knowledge or not; must be given
    c.data.side = (448, 512)  # pixels, range of the photo's sides (of the longer, if not square)
    c.data.square = True  # squash photos to squares, as published
    c.data.crop = 448  # pixels; maps have a quarter of it
    c.data.flip_p = 0.5  # probability
    c.data.jitter = (0.3, 0.3, 0.3, 0.1)  # brightness, contrast, saturation, hue
    c.data.mean = (0.485, 0.456, 0.406)  # of RGB in 0..1, as the encoder was pretrained with
    c.data.std = (0.229, 0.224, 0.225)
    c.data.workers = 2  # loader processes; 0 loads in the training process

    c.model = ml_collections.ConfigDict()
    c.model.encoder = arg
    c.model.encoder_weights = ""  # AffinityNet's classifier, converted; "" starts random
    c.model.output_stride = 16  # pixels per cell of EfficientNet's last map; ResNet-38 has 8
    c.model.freeze_encoder = False  # true: only heads and difference networks learn
    c.model.head_width = 512  # hidden channels of the segmentation head
    c.model.head_dilation = 12  # cells, of the head's two convolutions
    c.model.difference_width = 256  # channels of the difference network
    c.model.dtype = c.get_ref("dtype")

    c.optim = ml_collections.ConfigDict()
    c.optim.name = "sgd"
    c.optim.lr = 1e-3
    c.optim.momentum = 0.0  # as published, in effect
    c.optim.weight_decay = 2e-4
    c.optim.b1, c.optim.b2, c.optim.eps = 0.9, 0.999, 1e-8  # adamw only
    c.optim.cosine_epochs = 19  # the rate would be 0 there: 1.2 times 16, rounded down
    c.optim.groups = (  # pattern of parameter names, lr factor, decay factor; first match counts
        ("^backbone/conv1a/", 0.0, 0.0),
        ("^backbone/", 1.0, 1.0),
        (".*", 10.0, 1.0),
    )

    c.predict = ml_collections.ConfigDict()
    c.predict.side = 448  # pixels, a multiple of 8: what photos are squashed to
    c.predict.batch = 8  # photos per call
    if arg == "efficientnet_lite0":
        use_efficientnet(c)
    return c


def use_efficientnet(c):
    """A small CNN in ResNet-38's place, its norms and first layer frozen too."""
    c.model.head_dilation = 6  # at stride 16: as many pixels as 12 at stride 8
    c.data.mean, c.data.std = (127 / 255,) * 3, (128 / 255,) * 3
    c.optim.groups = (("^backbone/conv_stem/", 0.0, 0.0), (r"/bn\d/", 0.0, 0.0),
                      ("^backbone/", 1.0, 1.0), (".*", 10.0, 1.0))
