"""TransCAM: class maps spread by the attention of all of a transformer's blocks.

Li et al., "TransCAM: Transformer Attention-based CAM Refinement for Weakly Supervised Semantic
Segmentation", 2022. Scores are those of the class maps plus those of the class token; the
background has a map and a score, too, which nothing teaches. The network is told in
models/attention_classifier.py; on an encoder without attention or class token this is a plain CAM
with a 3x3 head. Its maps are where BAO (cam/bao.py) begins.
"""

from __future__ import annotations

from wsssjax.cam import infer, learner
from wsssjax.cam.cam import tag_loss
from wsssjax.core import parallel
from wsssjax.core.method import Method
from wsssjax.data import sources
from wsssjax.models import attention_classifier, registry

LENGTHS = ("epoch_steps", "total_steps", "total_epochs")  # fields that `with_lengths` reads


def build(config) -> Method:
    """TransCAM as a method.

    The loss is a mean over the rows of the device (learner.trainer) and the K classes; the
    background's score has no part in it. `predict` gives the K maps at feature resolution, raw:
    nothing is cut off before they are summed over scales.
    """
    registry.need(config, LENGTHS, "config.method='transcam'", "cam_voc_transcam.py")
    config, _ = with_lengths(config)
    model = attention_classifier.build(config.model, learner.foreground_count(config),
                                       background=False)
    infer.check_method(config, model.backbone)

    def losses(output, batch):
        scores_bk, _ = output
        return {"loss_cls": tag_loss(scores_bk[:, 1:], batch["tags"])}

    def predict(variables, image_bhwc, tags_bk):
        _, aux = model.apply(variables, image_bhwc, train=False)
        return aux["cams"][..., 1:]

    init, step = learner.trainer(config, model, losses)
    return Method(init, step, predict, lambda: learner.batches(config, saliency=False),
                  config.total_steps)


def with_lengths(config):
    """(config with its total_steps filled in, steps of one pass over the photos).

    config.total_steps and config.epoch_steps count where they are not 0. Else a pass has as many
    steps as there are whole batches on all devices, and the training config.total_epochs passes.
    Both are 0 where config.data.packed names no photos, as when label maps are made.
    """
    config, data = config.copy_and_resolve_references(), config.data
    for name in LENGTHS:
        if config[name] < 0:
            raise ValueError(f"config.{name} is {config[name]}; want 0 or more")
    epoch = config.epoch_steps
    if not epoch and data.packed:
        rows = config.device_batch * parallel.device_count() * parallel.process()[1]
        epoch = max(len(sources.Packed(data.packed, data.split)) // rows, 1)
    if data.packed and not (config.total_steps or config.total_epochs):
        raise ValueError("config.total_epochs and config.total_steps are both 0; give one of them")
    with config.unlocked():
        config.total_steps = config.total_steps or config.total_epochs * epoch
    return config, epoch
