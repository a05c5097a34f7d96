"""Probe on VOC 2012: a small head on features that a frozen encoder makes once.

    python -m wsssjax.train --config=configs/semi_voc_probe.py --workdir=runs/probe \\
        --config.model.encoder_weights=efficientnet_lite0 --config.probe.features=features \\
        --config.data.root=VOCdevkit/VOC2012 --config.data.labeled=selection/labeled.txt \\
        --config.data.unlabeled=selection/unlabeled.txt

It compares sets of labelled photos and their labels before hours are spent on a segmenter; what it
finds is no score of the segmenter. Trainings that share config.probe.features make them once. The
unlabelled list is learned from too; --config.method=probe_supervised leaves it out.

Nothing is published for it. On two cores 25 photos a second get their features, once; a training
with the label maps of 300 photos then takes 35 CPU seconds, 18 of a supervised one, and 1.5 GB.
Argument: efficientnet_lite0 (default), small, base, large, giant (DINOv2).
"""

import ml_collections

from wsssjax.core.config import stage


def get_config(arg=""):
    """UniMatch V2's config, where the probe differs."""
    arg = arg or "efficientnet_lite0"
    c = stage(__file__, "semi_voc_unimatch_v2.py", arg)
    patches = arg != "efficientnet_lite0"
    c.method = "probe"  # or probe_supervised
    c.total_steps = 1_000  # of both methods: labelled photos are seen equally often
    c.device_batch = 8  # labelled photos per device and step; as many unlabelled ones
    c.log_steps = 50
    c.save_steps = 1_000
    c.conf_threshold = 0.8
    c.ema_limit = 0.98  # the teacher's decay, after a ramp of 50 steps
    c.model.freeze_encoder = True  # the only way
    c.model.decoder = "probe"
    c.model.head_width = 128
    # Maps in use, 0 being the finest. DINOv2's have one grid, and their size is told below.
    c.model.head_taps = (3,) if patches else (2, 3)
    c.optim.lr = 1e-3
    c.optim.groups = ((".*", 1.0, 1.0),)

    c.probe = ml_collections.ConfigDict()
    c.probe.side = 252 if patches else 256  # pixels; photos are squashed to this square
    c.probe.flip = True  # mirror images are made, too, and drawn with data.flip_p
    c.probe.features = ""  # folder that keeps the maps: 0.2 MB a photo, DINOv2-B 1.0 MB; "" for
    #                        memory alone, which holds those of both lists in any case
    return c
