"""Plain class activation maps: an image classifier whose last layer is read pixel by pixel.

Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016, in the form of
AffinityNet (Ahn and Kwak, CVPR 2018) and of IRN (Ahn, Cho and Kwak, CVPR 2019): scores are the
mean of a map of class logits, the map itself after ReLU is the CAM. Any encoder with a feature map
carries it; what the two publications differ in are fields of the config.
"""

from __future__ import annotations

import jax

from wsssjax.cam import infer, learner
from wsssjax.core.losses import sigmoid_xent
from wsssjax.core.method import Method
from wsssjax.models import registry


def tag_loss(scores_bk, tags_bk):
    """Mean binary cross-entropy over rows and classes, one float32 scalar.

    scores_bk: image logits.  tags_bk: float32, 0 or 1.  No class weights.
    """
    total, count = sigmoid_xent(scores_bk, tags_bk)
    return total / count


def build(config) -> Method:
    """CAM as a method. The step divides by the rows of its device (learner.trainer).

    `predict` gives ReLU(class logits) [b,p,q,k] at feature resolution: ReLU comes before any
    resizing and before the sum over scales. Dropout acts in training only.
    """
    registry.need(config, ("model.dropout", "model.head_start"), "config.method='cam'",
                  "cam_voc_cam.py")
    model = registry.build_classifier(config.model, learner.foreground_count(config),
                                      start=config.model.head_start)
    infer.check_method(config, model.backbone)

    def losses(output, batch):
        scores_bk, _ = output
        return {"loss_cls": tag_loss(scores_bk, batch["tags"])}

    def predict(variables, image_bhwc, tags_bk):
        _, aux = model.apply(variables, image_bhwc, train=False)
        return jax.nn.relu(aux["maps"])

    init, step = learner.trainer(config, model, losses)
    return Method(init, step, predict, lambda: learner.batches(config, saliency=False),
                  config.total_steps)
