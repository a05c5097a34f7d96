"""Classic segmenters on VOC 2012: label maps of all training photos → segmenter.

    python tools/convert_weights.py --arch=resnet101_deeplab --src=deeplabv1_resnet101-coco.pth \\
        --out=resnet101_deeplab
    python -m wsssjax.train --config=configs/semi_voc_deeplab.py:eps_v2_resnet101 \\
        --workdir=runs/deeplab --config.model.encoder_weights=resnet101_deeplab \\
        --config.data.root=VOCdevkit/VOC2012 --config.data.labeled=lists/labels.txt \\
        --config.data.val=splits/val.txt
    python -m wsssjax.predict --config=configs/semi_voc_deeplab.py:eps_v2_resnet101 \\
        --weights=runs/deeplab --images=VOCdevkit/VOC2012/JPEGImages --out=labels

The labels are those of the method that an argument is named after, for the 10,582 photos of
train_aug; any others will do. The last command tests as published, several scales and a CRF
included (--config.predict.crf= for none); data.val, as it trains, is seen at one scale without.
Published mIoU of the whole method, in %, on val and test:

    argument            encoder     head                      labels      val    test
    eps_v1_vgg16        VGG-16      LargeFOV                  EPS         66.6   67.9
    eps_v2_vgg16        VGG-16      ASPP                      EPS         67.0   67.3
    eps_v1_resnet101    ResNet-101  one dilated convolution   EPS         71.0   71.8
    eps_v2_resnet101    ResNet-101  ASPP                      EPS         70.9   70.8   (default)
    irn_resnet50        ResNet-50   ASPP                      IRN         63.5   64.8
    bao_resnet38        ResNet-38   two dilated convolutions  BAO         74.1   74.6
    psa_resnet38        ResNet-38   two dilated convolutions  PSA         61.7   63.7
    mars_resnet101      ResNet-101  DeepLab v3+               MARS        77.7   77.2

IRN's labels after MARS give 69.8 and 70.9, those of RS+EPM, from which MARS's 77.7 come, 74.4 and
73.6. MARS's own score needs its complementing trainer; here its network learns finished labels.
A user who trained eps_v2_resnet101 on the released labels (69.3 mIoU) had 68.2 on val, 70.5 after
the CRF. Hours were not published.

What is known of the recipes, and what is ours:

* EPS: its ResNet-101 began from DeepLab's COCO weights, which saw true masks. Its labels are
  shrunk to the scores; DeepLab v2 adds up the losses of three scales and of their maximum, and
  accumulates twice 5 photos. Biases of the head learn at 20 times the rate and do not decay, its
  weights at 10 times; the rate changes at every tenth step. Not published, ours: the head of
  DeepLab v1 on ResNet-101 (DeepLab's own, one 3x3 convolution of dilation 12), VGG-16's rates
  (biases twice, without decay, as AffinityNet has them), and that v1 sees one scale. Ours alone:
  photos are shrunk by Pillow, with antialiasing.
* IRN: as EPS, from ImageNet weights of torchvision, in their colours: the recipe was not found.
* BAO: the published code hands SGD the weight decay where momentum belongs, so momentum is 1e-5
  and nothing decays: kept; padding is labelled background: kept. Its random scale is one a batch;
  here each photo has its own. It begins from a ResNet-38 that classifies VOC.
* PSA: its segmenter's recipe was not found; BAO's stands in.
* MARS: its recipe is unpublished; the numbers are those of its authors' next method (DHR).
"""

from wsssjax.core.config import stage

MULTI = (1.0, 0.75, 0.5)


def get_config(arg=""):
    """The supervised config, where a classic recipe differs."""
    arg = arg or "eps_v2_resnet101"
    if arg not in RECIPES:
        raise ValueError(f"config argument {arg!r}: want nothing or {' or '.join(RECIPES)}")
    c = stage(__file__, "semi_voc_supervised.py")
    c.data.epoch_photos = 0  # a pass is the list, once
    c.model.output_stride = 8  # pixels per cell of the encoder's last map
    c.optim.name, c.optim.momentum, c.optim.poly_power, c.optim.lag_steps = "sgd", 0.9, 0.9, 0
    c.predict.mode, c.predict.multiple = "multi_scale", 1
    c.predict.canvas, c.predict.grid = "bucket", 64
    RECIPES[arg](c)
    return c


def eps(c, encoder, decoder, dilations, scales, width=0):
    """DeepLab v1 and v2 as EPS trains them."""
    c.device_batch, c.accumulate = 5, 2  # photos per device and group; groups a step
    c.total_steps = 20_000
    c.loss_scales, c.loss_size = scales, "features"
    c.data.resize, c.data.scale = "choice", (0.5, 0.75, 1.0, 1.25, 1.5)
    c.data.crop, c.data.canvas = 321, "mean"
    c.data.mean = (122.675 / 255, 116.669 / 255, 104.008 / 255)  # of RGB in 0..1
    c.data.std = (1 / 255,) * 3  # Caffe's: pixels of 0..255 with the mean taken off
    c.model.bgr = True
    c.model.encoder, c.model.decoder = encoder, decoder
    c.model.head_width, c.model.head_dilations = width, dilations
    c.model.resnet.layout = "caffe"
    c.optim.lr, c.optim.weight_decay, c.optim.hold_steps = 2.5e-4, 5e-4, 10
    c.optim.groups = (("^backbone/", 1.0, 1.0), ("/bias$", 20.0, 0.0), (".*", 10.0, 1.0))
    if encoder == "vgg16":
        c.optim.groups = (("^backbone/.*/bias$", 2.0, 0.0), *c.optim.groups)
    c.predict.scales, c.predict.resize, c.predict.merge = scales, "half_pixel", "max_logits"
    c.predict.crf = "deeplab"


def irn(c):
    """EPS's DeepLab v2 on ResNet-50, with torchvision's weights."""
    mean, std = c.data.mean, c.data.std
    eps(c, "resnet50", "aspp", (6, 12, 18, 24), MULTI)
    c.data.mean, c.data.std, c.model.bgr = mean, std, False
    c.model.resnet.layout = "torchvision"


def bao(c):
    """MCTformer's and BAO's ResNet-38."""
    c.device_batch, c.total_epochs = 4, 30
    c.data.scale, c.data.crop = (0.7, 1.3), 321
    c.data.canvas, c.data.canvas_label = "mean", 0
    c.model.encoder, c.model.decoder = "resnet38", "resnet38_head"
    c.model.head_width, c.model.head_dilations = 512, (12,)
    c.optim.lr, c.optim.momentum, c.optim.weight_decay = 7e-4, 1e-5, 0.0
    c.optim.groups = (("^backbone/conv1a/", 0.0, 0.0), ("^backbone/", 1.0, 1.0), (".*", 10.0, 1.0))
    c.predict.scales, c.predict.resize = (0.5, 0.75, 1.0, 1.25, 1.5), "corners"
    c.predict.merge, c.predict.crf = "max", "bao_segmenter"


def mars(c):
    """RS+EPM's and MARS's DeepLab v3+, norms trained."""
    c.device_batch, c.total_epochs = 16, 100
    c.data.resize, c.data.scale = "long_side", (320, 640)
    c.data.crop, c.data.canvas, c.data.jitter = 512, "mean_random", (0.3, 0.3, 0.3, 0.1)
    c.model.encoder, c.model.decoder = "resnet101", "deeplabv3plus"
    c.model.head_width, c.model.head_dilations = 256, (12, 24, 36)
    c.model.resnet.dilation, c.model.resnet.norm = "rest", "batch"
    c.optim.lr, c.optim.weight_decay = 1e-3, 4e-5
    c.optim.groups = (("^backbone/", 1.0, 1.0), (".*", 10.0, 1.0))
    c.predict.scales, c.predict.flip = (1.0, 0.5, 1.5, 2.0), True
    c.predict.resize, c.predict.merge = "bicubic", "mean"
    c.predict.crf, c.predict.crf_least = "deeplab", 0.05


RECIPES = {
    "eps_v1_vgg16": lambda c: eps(c, "vgg16", "largefov", (12,), (1.0,), 1024),
    "eps_v2_vgg16": lambda c: eps(c, "vgg16", "aspp", (6, 12, 18, 24), MULTI, 1024),
    "eps_v1_resnet101": lambda c: eps(c, "resnet101", "largefov", (12,), (1.0,)),
    "eps_v2_resnet101": lambda c: eps(c, "resnet101", "aspp", (6, 12, 18, 24), MULTI),
    "irn_resnet50": irn,
    "bao_resnet38": bao,
    "psa_resnet38": bao,
    "mars_resnet101": mars,
}
