"""Masks without a network: regions of a graph segmentation at several scales.

    python tools/propose_masks.py --backend=felzenszwalb --images=JPEGImages --out=proposals
    python tools/propose_masks.py --config=configs/propose_felzenszwalb.py --config.scales=30,100 \
        --images=JPEGImages --out=proposals

About 0.3 s for a photo of 500 x 375 pixels and a core, and 300 to 900 masks.
"""

import ml_collections


def get_config(arg=""):
    if arg:
        raise ValueError(f"config argument {arg!r}: there is none")
    c = ml_collections.ConfigDict()
    c.backend = "felzenszwalb"
    c.scales = (30.0, 100.0)             # of the graph segmentation: larger means coarser
    c.sigma = 0.8                        # pixels, blur before it
    c.min_part = 0.0005                  # of the photo, smallest region
    c.max_part = 0.9                     # of the photo, largest region
    c.merges = 0                         # further joins of similar neighbours, each one more mask
    return c
