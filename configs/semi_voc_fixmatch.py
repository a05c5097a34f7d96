"""FixMatch on VOC 2012: one strong view, no feature dropout; a baseline of UniMatch V2.

    python -m wsssjax.train --config=configs/semi_voc_fixmatch.py:base --workdir=runs/fixmatch \\
        --config.model.encoder_weights=dinov2_b --config.data.root=VOCdevkit/VOC2012 \\
        --config.data.labeled=splits/92/labeled.txt \\
        --config.data.unlabeled=splits/92/unlabeled.txt --config.data.val=splits/val.txt

Published (mIoU of the EMA teacher on val, best / last epoch, one run each; 10 hours on 4 A100;
nothing for the other sizes):

    labels        92            183           366           732           1464
    base      83.8 / 83.7   87.4 / 87.4   88.2 / 87.8   89.9 / 89.8   90.2 / 90.1
Arguments as in semi_voc_unimatch_v2.py.
"""

from wsssjax.core.config import stage


def get_config(arg=""):
    """UniMatch V2's config, where it differs."""
    c = stage(__file__, "semi_voc_unimatch_v2.py", arg)
    c.method = "fixmatch"
    return c
