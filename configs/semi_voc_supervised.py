"""Supervised segmenter on VOC 2012: labelled photos → segmenter; the baseline of UniMatch V2.

    python -m wsssjax.train --config=configs/semi_voc_supervised.py:base \\
        --workdir=runs/supervised --config.model.encoder_weights=dinov2_b \\
        --config.data.root=VOCdevkit/VOC2012 \\
        --config.data.labeled=splits/92/labeled.txt --config.data.val=splits/val.txt

The labels may be masks drawn by people or pseudo-labels: with the pseudo-labels of all photos, this
is the last stage of ordinary weakly supervised segmentation.

Published ("labelled only"; mIoU on val, best epoch, one run each):

    labels     92     183     366     732    1464   10582 (SBD masks)
    small    67.0    75.6    81.8    83.7    85.6    85.0
    base     76.9    82.1    85.3    87.2    88.3    86.5
    large    76.9    82.4    86.8    89.4    90.7
The published runs of base with 92, 183 and 366 labels ended after 44, 42 and 42 of 60 epochs.
On 4 A100, 8 photos each; hours were not published. 93 steps an epoch, 330 with all 10,582 photos.
Scores with 92 labels vary by points from run to run, with more by tenths.
Arguments as in semi_voc_unimatch_v2.py.
"""

from wsssjax.core.config import stage


def get_config(arg=""):
    """UniMatch V2's config, where it differs."""
    c = stage(__file__, "semi_voc_unimatch_v2.py", arg)
    c.method = "supervised"
    c.device_batch = 8  # photos per device and step
    c.save_steps = 500
    c.data.epoch_photos = 3_000  # a shorter list is repeated up to this for one pass
    return c
