"""MARS's segmenter on VOC 2012: debiased labels, complemented by a teacher as it learns.

    python -m wsssjax.refine --method=mars --labels=LABELS --images=VOCdevkit/VOC2012/JPEGImages \\
        --tags=tags.csv --config=configs/refine_voc_mars.py --weights=dinov2_b --out=DEBIASED
    python -m wsssjax.train --config=configs/semi_voc_mars.py --workdir=runs/mars \\
        --config.model.encoder_weights=resnet101 --config.data.root=VOCdevkit/VOC2012 \\
        --config.data.labeled=lists/labels.txt --config.data.debiased=DEBIASED \\
        --config.data.tags=tags.csv --config.data.val=splits/val.txt
    python -m wsssjax.predict --config=configs/semi_voc_mars.py --images=VOCdevkit/…/JPEGImages \\
        --weights=runs/mars/weights_ema.safetensors --out=labels

lists/labels.txt names the LABELS that went into the first command, `<photo> <label>` a line. Which
network gives the paper's numbers, the student or its teacher, is not stated; both are kept. Jo, Yu
and Kim (ICCV 2023), one A6000 GPU, hours not published; mIoU / FP / FN over the union, on VOC
train, of RS+EPM's labels:

    base                                    77.4 / 0.123 / 0.108
    mars.complement=plain  teacher's labels 80.9 / 0.122 / 0.075
    mars.complement=weighted  and W         81.8 / 0.099 / 0.090   (default)
    mars.complement=none, which ignores what was taken, is not in the paper.

On val and test 77.7 and 77.2. The recipe is unpublished. [near] is taken from other code of the
authors, as all that semi_voc_deeplab.py:mars_resnet101 sets, [ours] is our choice.

Pitfall: with few steps the ramp makes the teacher little more than the student; take
--config.mars.ema_decay=0.999 --config.mars.ema_ramp_steps=0 there, as the authors' next method has.
Argument: resnet101 (default), or efficientnet_lite0 with a DPT head, of which nothing is published.
"""

import ml_collections

from wsssjax.core.config import stage


def get_config(arg=""):
    """The DeepLab v3+ of MARS, where its trainer differs from plain supervision."""
    if arg not in ("", "resnet101", "efficientnet_lite0"):
        raise ValueError(f"config argument {arg!r}: want 'resnet101' or 'efficientnet_lite0'")
    c = stage(__file__, "semi_voc_deeplab.py", "mars_resnet101")
    c.method = "mars"

    c.mars = ml_collections.ConfigDict()
    # What is done about biased pixels: weighted, learned by the teacher's label and the certain
    # mask W; plain, without W; none, ignored.
    c.mars.complement = "weighted"
    c.mars.restrict = True  # the teacher's label is background or one of the photo's tags [ours]
    c.mars.divisor = "pixels"  # of the loss: pixels with a label, or the sum of their W [ours]
    c.mars.ema_decay = 0.9999  # of the teacher, statistics of norms included [near]
    c.mars.ema_ramp_steps = 2_000  # times 1 - exp(-t / this), t from 1; 0: constant [near]
    # R, at every step on the device: none, crf, or affinity (PAMR) [ours; the paper: such as CRF].
    c.mars.refine = "none"
    c.mars.crf = "deeplab"  # crf: preset of core/crf.py [near]
    c.mars.crf_stride = 4  # crf: pixels of the crop per cell that it sees; a whole part of the crop
    c.mars.affinity_dilations = (1, 2, 4, 8, 12, 24)  # affinity: pixels, of eight neighbours each
    c.mars.affinity_steps = 10  # affinity: repetitions

    c.data.debiased = ""  # folder of the debiased labels <id>.png; must be given
    c.data.tags = ""  # CSV `id,tags`; must be given
    if arg == "efficientnet_lite0":
        use_efficientnet(c)
    return c


def use_efficientnet(c):
    """A small CNN with norms on stored statistics, and a DPT head."""
    c.data.mean, c.data.std = (127 / 255,) * 3, (128 / 255,) * 3
    c.model.encoder, c.model.decoder = "efficientnet_lite0", "dpt"
    c.model.output_stride, c.model.head_width = 16, 64
    c.predict.mode, c.predict.multiple, c.predict.crf = "original", 32, ""
