"""UniMatch (V1) on VOC 2012, with DINOv2: two strong views and a feature-perturbed third stream.

    python -m wsssjax.train --config=configs/semi_voc_unimatch.py:base --workdir=runs/v1 \\
        --config.model.encoder_weights=dinov2_b --config.data.root=VOCdevkit/VOC2012 \\
        --config.data.labeled=splits/92/labeled.txt \\
        --config.data.unlabeled=splits/92/unlabeled.txt --config.data.val=splits/val.txt

The losses and streams are V1's; the encoder, the optimizer, the schedule and the mean teacher are
those of V2. With --config.teacher=self the student teaches itself, as V1 does on ResNets.

Published as V2's ablation "V1 recipe" (mIoU of the EMA teacher on val, best / last epoch, one run
each; its code and hours were not, so this is a reading of it; the other sizes have no numbers):

    labels        92            183           366           732           1464
    base      86.0 / 85.8   87.5 / 87.4   88.7 / 88.4   90.0 / 90.0   90.4 / 90.1
V1's own numbers (ResNet-101, 321 pixels: 75.2 / 77.2 / 78.8 / 79.9 / 81.2) need its network.
Arguments as in semi_voc_unimatch_v2.py.
"""

from wsssjax.core.config import stage


def get_config(arg=""):
    """UniMatch V2's config, where it differs."""
    c = stage(__file__, "semi_voc_unimatch_v2.py", arg)
    c.method = "unimatch"
    return c
