"""Probe on VOC 2012."""

from wsssjax.core.config import stage


def get_config(arg=""):
    """UniMatch V2's config, where the probe differs."""
    arg = arg or "efficientnet_lite0"
    c = stage(__file__, "semi_voc_unimatch_v2.py", arg)
    c.method = "probe"
    c.total_steps = 500
    c.device_batch = 16
    c.save_steps = 500
    c.log_steps = 50
    c.model.freeze_encoder = True
    c.model.decoder = "probe"
    c.model.head_width = 64
    c.model.head_taps = (1, 2, 3)
    c.optim.lr = 1e-3
    c.optim.groups = ((".*", 1.0, 1.0),)
    c.probe = type(c)()
    c.probe.side = 256
    c.probe.flip = True
    c.probe.features = ""
    return c
