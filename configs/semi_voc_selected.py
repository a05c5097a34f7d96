"""The segmenter of the paper: selected pseudo-labels, the rest unlabelled, frozen DINOv2-Base.

    python -m wsssjax.select --first=bao --second=$PWD/mars_sam --quota=voc/1464 \\
        --images=$PWD/VOCdevkit/VOC2012/JPEGImages --out=selection
    python -m wsssjax.train --config=configs/semi_voc_selected.py:base --workdir=runs/paper \\
        --config.model.encoder_weights=dinov2_b --config.data.labeled=selection/labeled.txt \\
        --config.data.unlabeled=selection/unlabeled.txt \\
        --config.data.root=VOCdevkit/VOC2012 --config.data.val=splits/val.txt
Whole paths ($PWD) in the selection's lists let splits/val.txt count from data.root.

Fujimori, Oono, Shishibori, Selecting high-quality pseudo-labels for WSSS: 84.4 mIoU on VOC 2012
val, from image-level tags (of the student; BAO's and MARS's labels merged with SAM, quota
voc/1464). The lists may also be any others in the line format of UniMatch.

The paper leaves open: the batch (here UniMatch V2's, 4 devices of 4 + 4 photos: device_batch and
accumulate), and whether it reports the best or the last epoch: scores.json holds both, for the
student and for the teacher. 80 epochs of 9,118 unlabelled photos are 45,600 steps; how long they
took was not published (trained base: 1.2 s a step on 4 A100; frozen it takes less).
Argument: base (default: the paper's), small, large, giant.
"""

from wsssjax.core.config import stage


def get_config(arg=""):
    """UniMatch V2's config, where the paper differs."""
    c = stage(__file__, "semi_voc_unimatch_v2.py", arg)
    c.total_epochs = 80
    c.model.freeze_encoder = True
    return c
