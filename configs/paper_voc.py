"""The paper, whole: VOC 2012 with tags → BAO and MARS labels → SAM → selection → UniMatch V2.

    python -m wsssjax.train --config=configs/paper_voc.py --workdir=runs/paper --config.check=true
    python -m wsssjax.train --config=configs/paper_voc.py --workdir=runs/paper

with VOC under VOCdevkit/VOC2012, and the files that the README lists under weights/. The first
line looks at every input in about a minute; the second runs what is missing, and goes on where it
was stopped. Fujimori, Oono, Shishibori, Selecting high-quality pseudo-labels for WSSS: 84.4 mIoU on
val and 83.3 on test at quota voc/1464, of the student, from tags and SAM's masks.

Steps and where each may begin instead, with a folder or file of finished work:

    labels_a        BAO: weights/bao makes seeds                 --config.given.a=LABELS
                    (--config.given.cam_a="" trains them)
    labels_b        MARS of EPS's labels; no weights of MARS     --config.given.b=LABELS
                    were published, so its segmenter is trained
    proposals       SAM ViT-H, its default masks                 --config.given.proposals=MASKS
    labels_b_plus   MARS merged with SAM                         --config.given.b_plus=LABELS
    select          BAO x (MARS + SAM), Algorithm 1
    arm_s           UniMatch V2, DINOv2-B frozen, 80 passes over the unlabelled photos
    test_s          label maps of val by the last student, scored by `evaluate`
    submit_s        results.tgz for VOC's server, if --config.submission.ids and .photos name its
                    test photos

Supervision letters in tables. The paper counts MARS as I, tags alone, as its labels were made from
RS+EPM's, of which no weights are at hand. EPS's, in their place, learned from the saliency of
a detector that saw outlines of salient objects: the labels of B, and all arms, are said to be I+S,
with SAM's masks I+S+A. MARS's labels of others: --config.given.b=LABELS --config.given.seen.b=I.

The paper leaves open whether BAO's labels are its seeds (75.5 mIoU on train, here) or those behind
a CRF (77.4): --config.finish_a=crf. Its quotas are --config.select.quota_spec=voc/92 to voc/1464.
Argument: nothing for the paper's sizes, or tiny, to see that an installation runs: the same steps
in a minute, with small layers and DINOv2-S, all drawn at random, saliency of minimum barrier
distance, and superpixels in SAM's place. It wants no file but the photos' folder, and its scores
mean nothing.
"""

import json

import ml_collections

from wsssjax.core.config import stage
from wsssjax.data.classes import VOC_CLASSES


def get_config(arg=""):
    """Config of the recipe, where it differs from recipe.py."""
    if arg not in ("", "tiny"):
        raise ValueError(f"config argument {arg!r}: want nothing or 'tiny'")
    c = stage(__file__, "recipe.py")
    c.title = "The paper's recipe: BAO x MARS + SAM, UniMatch V2"
    c.arms = ("S",)                      # the paper's; M, ALL, … are those of the ablations
    c.weights = "weights/dinov2_b"       # of the segmenter and of MARS's features

    c.data.root = "VOCdevkit/VOC2012"
    c.data.train = "train_aug"           # 10,582 photos; ImageSets/Segmentation/train_aug.txt
    c.data.test = "val"                  # 1,449 photos

    c.cam_a = classifier("cam_voc_bao.py", "conformer_small", c)
    c.cam_b = classifier("cam_voc_eps.py", "resnet38", c)
    c.given.cam_a = "weights/bao"        # published weights, converted; "" trains,
    c.given.cam_b = "weights/eps_resnet38"
    c.cam_a.init_weights = "weights/transcam"  # from these
    c.cam_b.model.encoder_weights = "weights/resnet38"
    c.given.titles.a = "BAO"
    c.given.titles.b = "MARS"

    c.finish_b = ("mars",)
    c.mars = ml_collections.ConfigDict()
    c.mars.debias = stage(__file__, "refine_voc_mars.py")
    c.mars.debias.seed = c.get_ref("seed")
    c.mars.debias.model.encoder_weights = c.get_ref("weights")
    c.mars.segmenter = stage(__file__, "semi_voc_mars.py")
    c.mars.segmenter.seed = c.get_ref("seed")
    c.mars.segmenter.model.encoder_weights = "weights/resnet101"

    c.proposals = stage(__file__, "propose_sam.py")
    c.proposals.checkpoint = "weights/sam_vit_h_4b8939.pth"
    c.refine = ("sam",)
    c.select.quota_spec = "voc/1464"     # the paper's best

    c.segmenter = stage(__file__, "semi_voc_selected.py", "base")
    c.segmenter.seed = c.get_ref("seed")
    c.segmenter.classes = ""             # filled in by the recipe, as the lists
    c.segmenter.accumulate = 4           # on 1 device, for 16 + 16 photos a step; 1 on 4 devices
    c.segmenter.model.encoder_weights = c.get_ref("weights")
    if arg == "tiny":
        shrink(c)
    return c


def classifier(name, arg, c):
    """The published classifier."""
    t = stage(__file__, name, arg)
    t.seed = c.get_ref("seed")
    t.classes = ""                       # filled in by the recipe, as data.packed and data.split
    return t


def shrink(c):
    """The same steps with a few small layers, random weights: minutes become seconds."""
    c.weights = c.given.cam_a = c.given.cam_b = ""
    c.cam_a.init_weights = c.cam_b.model.encoder_weights = ""
    c.saliency.source = "mbd"            # EPS learns here, from maps that need no network
    c.arms = ("S", "M")
    c.proposals = stage(__file__, "propose_felzenszwalb.py")  # superpixels in SAM's place
    c.select.quota_spec = json.dumps(dict.fromkeys(VOC_CLASSES[1:], 1))
    for t in (c.cam_a, c.cam_b):
        few_steps(t, 4)
        t.data.long_side, t.data.crop = (64, 96), 64
        t.model.encoder, t.model.output_stride = "small_cnn", 8
        t.optim.groups = ((".*", 1.0, 1.0),)
        t.infer.scales, t.infer.side = (1.0,), 64
        t.infer.canvas = "square" if t.infer.canvas == "square" else "grid"
    # Maps of no meaning must leave some background, too.
    c.cam_b.infer.normalise, c.cam_b.infer.threshold = "minmax", 0.5
    d = c.mars.debias
    d.model.encoder = "dinov2_s"
    d.features.untrained, d.features.grid = True, 56  # pixels
    d.features.scales, d.features.flip = (1.0,), False
    for s in (c.mars.segmenter, c.segmenter):
        few_steps(s, 2)
        s.accumulate = 1
        s.data.crop, s.model.head_width = 56, 16  # pixels; channels
        s.predict.multiple, s.predict.batch = 56, 4  # pixels; photos
    m = c.mars.segmenter
    m.data.scale = (56, 84)              # pixels, range of the longer side
    m.model.encoder, m.model.encoder_weights, m.model.output_stride = "small_cnn", "", 8
    m.predict.mode = "original"
    c.segmenter.model.encoder = "dinov2_s"


def few_steps(t, batch):
    """A training of two steps."""
    t.total_steps, t.device_batch = 2, batch
    t.log_steps = t.save_steps = 1
    t.data.workers = 0
