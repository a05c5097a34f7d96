"""UniMatch V2 on COCO: 81 classes with the background.

    python -m wsssjax.train --config=configs/semi_coco_unimatch_v2.py:base --workdir=runs/coco \\
        --config.model.encoder_weights=dinov2_b --config.data.root=coco \\
        --config.data.labeled=splits/1_512/labeled.txt \\
        --config.data.unlabeled=splits/1_512/unlabeled.txt --config.data.val=splits/val.txt

Labels: 0 background (it counts in the mean), 1..80 the classes in their order, 255 ignored.
Published (mIoU of the EMA teacher on val, best / last epoch, one run each):

    labels     1/512 (232)   1/256 (463)   1/128 (925)   1/64 (1849)   1/32 (3697)
    small     39.3 / 39.3   45.4 / 44.9   53.2 / 52.5   55.0 / 54.3   57.0 / 56.9
    base      47.9 / 47.6   55.8 / 55.7   58.7 / 58.3   60.4 / 60.0   63.3 / 62.9
    small*    37.4 / 32.9   42.4 / 41.8   48.2 / 47.8   51.1 / 50.8   52.3 / 51.9
    base*     43.9 / 41.1   50.1 / 48.9   54.8 / 53.6   57.2 / 55.8   58.4 / 57.9
    * encoder frozen
Nothing was published for large and giant. Base at 1/512 takes 4 A100 50 hours.
Arguments: small, base (default), large, giant.
"""

from wsssjax.core.config import stage


def get_config(arg=""):
    """The config of VOC, where COCO differs."""
    c = stage(__file__, "semi_voc_unimatch_v2.py", arg)
    c.classes = "coco"
    c.total_epochs = 20
    return c
