"""Dynamic SSDD on VOC 2012: photos with tags and seed label maps → segmenter.

    python -m wsssjax.train --config=configs/semi_voc_ssdd.py --workdir=runs/ssdd \\
        --config.model.encoder_weights=resnet38 --config.data.images=VOCdevkit/VOC2012/JPEGImages \\
        --config.data.tags=tags.csv --config.data.seed=ssdd_seed \\
        --config.data.root=VOCdevkit/VOC2012 --config.data.val=splits/val.txt

Shimoda and Yanai, ICCV 2019: 64.9 mIoU on val and 65.5 on test (the authors' released weights 65.4
on val); 61.4 on val for a segmenter trained on the seed alone. One day, 2 photos a GPU, GPUs not
stated. Published scores are of photos squashed to 448 pixels, five scales and mirror images summed,
softmax of that sum, and a dense CRF; here photos keep their proportions and are seen once.

The seed is what refine_voc_ssdd_static.py leads to, by the commands there (static_seed=clean), but
any label maps will do. psa_crf reads data.advice in its place, the authors' ablation where that is
AffinityNet after a CRF; released mixes data.knowledge and data.advice by the maps in
data.differences (refine --method=difference --maps=FOLDER) as the published code does: mirrored at
random, exchanged, and without the photo's own scale and window. To reproduce the paper, knowledge
and advice are the folders of refine --method=affinity and of refine --method=crf --cams=…, both
with --save=labels,scores: the published code resizes scores, not labels.

What the published code does by accident, and what is done here:

* The target of the last difference loss is made with D2, though the network was shown D1: here
  ssdd.last_target=d1; d2 for theirs.
* The CRF sees a photo of a quarter of its size with the deviations of the whole: kept;
  ssdd.crf_shrink=4 fits them.
* Momentum, mirrored and exchanged maps, squares, norms, lost classes: see
  refine_voc_ssdd_static.py; ssdd.flag_absent and data.square are the same switches.
Argument: resnet38 (default), or efficientnet_lite0, for which nothing is published.
"""

import ml_collections

from wsssjax.core.config import stage


def get_config(arg=""):
    """The static config, where it differs."""
    c = stage(__file__, "refine_voc_ssdd_static.py", arg)
    c.method = "ssdd"
    c.total_epochs = 31  # passes; published: 41 are run, and the weights after 31 named
    c.eval_epochs = 1  # passes between two evaluations on data.val
    c.optim.cosine_epochs = 49  # the rate would be 0 there: 1.2 times 41, rounded down

    c.ssdd.bias = 0.4  # how much less sure the advice may be, and still be taken
    c.ssdd.last_target = "d1"  # d2: as released
    c.ssdd.static_seed = "clean"  # or psa_crf, released: see above
    c.ssdd.seed_bias = 0.1  # released: in favour of the advice
    c.ssdd.seed_background_bias = 0.1  # released: for background in the advice, against the other's
    c.ssdd.crf = "ssdd_loop"  # preset of the CRF inside the step
    c.ssdd.crf_shrink = 1.0  # divides its spatial deviations

    c.data.side = (512, 768)  # pixels, range of the photo's sides
    c.data.seed = ""  # clean: folder of scores <id>.npz, or of label maps <id>.png
    c.data.differences = ""  # released: folder of stored maps <id>.npz
    c.data.root = "."  # folder that the paths in data.val count from
    c.data.val = ""  # list: '<photo> <label>' a line, evaluated as it trains; "" for none

    c.predict = ml_collections.ConfigDict()
    c.predict.mode = "original"  # whole photos, resized to multiples; sliding_window; multi_scale
    c.predict.multiple = 8  # pixels; photos are resized to the nearest multiple on each side
    c.predict.window = 448  # pixels, side of a sliding window, moved by 2/3 of it
    c.predict.batch = 8  # photos of one size, or windows, per call
    c.predict.scales, c.predict.flip = (1.0,), False  # mode multi_scale: factors, mirror images
    c.predict.resize = "bicubic"  # how a photo is scaled: bicubic (Pillow), half_pixel or corners
    c.predict.merge = "mean"  # of softmax; max of softmax; max_logits
    c.predict.canvas, c.predict.grid = "exact", 64  # a bucket is for other networks
    c.predict.full_eval = False  # data.val is seen at all scales, too, and not at scale 1 alone
    c.predict.crf = ""  # python -m wsssjax.predict: a preset of core/crf.py behind it
    c.predict.crf_least = 0.0  # the CRF leaves out classes that are nowhere this probable
    return c
