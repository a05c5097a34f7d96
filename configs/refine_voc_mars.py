"""MARS on VOC 2012: label maps of any method → the same without what comes along with objects.

    python -m wsssjax.refine --method=mars --labels=LABELS --images=VOCdevkit/VOC2012/JPEGImages \\
        --tags=tags.csv --config=configs/refine_voc_mars.py --weights=dinov2_b --out=DEBIASED
    python -m wsssjax.train --config=configs/semi_voc_mars.py …

LABELS are those that a method ends with, 255 allowed; DEBIASED has 255 where they paint what no
object looks like. Without the training that follows, those pixels are to be ignored, not counted as
background: the training gives many of them back. Jo, Yu and Kim (ICCV 2023), mIoU on VOC train and
FP, FN over the union: 77.4 / 0.123 / 0.108 of RS+EPM, 81.8 / 0.099 / 0.090 in the end; on val 74.4
→ 77.7 (IRNet 63.5 → 69.8, SEAM 64.5 → 70.8, AdvCAM 68.1 → 70.3). No code was published: what is
[ours] below is our choice where the paper says nothing, [near] is taken from other code of its
authors.

Features. The paper's are of STEGO or Leopart, trained on the photos of VOC alone. Those of a frozen
DINOv2 are a substitute [ours]: self-supervised too, but not the same. Features of any other
program, STEGO's for instance, are read from `<id>.npy` files: argument `files`.
--config.features.folder=KEPT keeps computed ones, 5.8 MB a photo of 500 x 375 (half floats on a
grid of 52 x 72, 768 channels): the second pass and other settings then load the network, but
compute nothing with it. They belong to the folders of the photos.

Argument: dinov2_s, dinov2_b (default), dinov2_l, dinov2_g; efficientnet_lite0, whose ImageNet
features are supervised, so no MARS in the strict sense; or files.

Layer and gamma of efficientnet_lite0 were chosen with the masks of 150 photos of VOC train at half
size, on TransCAM's labels. Most of the pixels that go are right there, so the training that gives
them back belongs to the method.
"""

import ml_collections

ENCODERS = ("dinov2_s", "dinov2_b", "dinov2_l", "dinov2_g", "efficientnet_lite0")


def get_config(arg=""):
    """Config of one run; as many lines as it has settings."""
    arg = arg or "dinov2_b"
    if arg not in (*ENCODERS, "files"):
        raise ValueError(f"config argument {arg!r}: want one of {', '.join(ENCODERS)} or files")
    light = arg == "efficientnet_lite0"
    c = ml_collections.ConfigDict()
    c.method = "mars"
    c.seed = 0  # of K-means, with each photo's id
    c.dtype = "float32"  # of matmuls and convolutions: float32 or bfloat16
    c.precision = "highest"  # of float32 products on GPUs: highest or default (TF32)
    c.classes = "voc"  # voc, coco or a file with one class name a line

    c.features = ml_collections.ConfigDict()
    c.features.source = "files" if arg == "files" else "encoder"
    c.features.folder = ""  # files: where they lie; encoder: where to keep them, "" for nowhere
    c.features.untrained = False  # true: does without weights, to see that everything runs
    # Which map: features, the last, or tap0 to tap3. EfficientNet's last ones know ImageNet's
    # classes too well, and take an animal's body from its head; so its map of stride 16 [ours].
    c.features.layer = "tap2" if light else "features"
    c.features.scales = (2.0, 1.0, 1.5, 0.5)  # of the sides; the first gives the grid [near]
    c.features.flip = True  # the mirror image of each scale, too [near]
    # Pixels. Photos are first taken to the nearest multiples of grid, so that few programs are
    # compiled; 1 does without, as the authors do. A network input's sides are taken up to multiple.
    c.features.grid = 64 if light else 28
    c.features.multiple = 32 if light else 14
    c.features.batch = 4  # photos per call, on all devices together

    c.mars = ml_collections.ConfigDict()
    c.mars.alpha = 0.40  # share of a class's clusters that are averaged
    c.mars.k_fg = 2  # clusters of a class in a photo
    c.mars.k_bg = 2  # of the background
    c.mars.normalise = True  # vectors at length 1 before K-means [ours]
    c.mars.resolution = "grid"  # what is clustered: cells, by the majority of labels, or pixels
    c.mars.init = "k-means++"  # or random: different vectors [ours]
    c.mars.restarts = 4  # runs of K-means, of which the best counts [ours]
    c.mars.iterations = 20  # at most, of each [ours]
    c.mars.min_cells = 2  # cells (or pixels) that a class needs in a photo to be clustered [ours]
    # What N_c counts: photos with clusters of the class by their labels, or all photos with the
    # tag; tags also leaves classes out that the photo is not tagged with [ours].
    c.mars.presence = "labels"
    c.mars.binarise = "crf"  # how resemblance M becomes yes or no: a CRF, or M > threshold [ours]
    c.mars.threshold = 0.5  # threshold alone
    # The CRF starts from (1 - M)^gamma and M; higher keeps more pixels. How high cosines are, is up
    # to the features, so look at the labels: by EfficientNet's they would lose most at 1 [ours].
    c.mars.gamma = 4.0 if light else 1.0
    c.mars.crf_iterations = 10  # [near], as the two lines below
    c.mars.crf_gaussian = (1.0, 3.0)  # deviation in pixels, weight
    c.mars.crf_bilateral = (67.0, 3.0, 4.0)  # in pixels, in grey levels of 0..255, weight

    c.data = ml_collections.ConfigDict()
    c.data.mean = (127 / 255,) * 3 if light else (0.485, 0.456, 0.406)  # of RGB in 0..1
    c.data.std = (128 / 255,) * 3 if light else (0.229, 0.224, 0.225)

    c.model = ml_collections.ConfigDict()
    c.model.encoder = "dinov2_b" if arg == "files" else arg
    c.model.encoder_weights = ""  # file or folder of weights; --weights=W fills it in
    c.model.output_stride = 16  # pixels per cell of a CNN's last map; DINOv2 has 14
    c.model.dtype = c.get_ref("dtype")
    c.model.vit = ml_collections.ConfigDict()
    c.model.vit.positions = "auto"  # resize of the table: offset (hub), size (HF), antialias
    c.model.vit.scan = True  # one compiled block in a loop; false compiles each block
    c.model.vit.remat = False  # nothing is differentiated here
    c.model.vit.attention = "auto"  # loop, xla, cudnn; auto: cudnn on GPUs in bfloat16
    return c
