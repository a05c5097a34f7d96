"""UniMatch V2 on Cityscapes: 19 classes, crops of 798 pixels, OHEM, sliding windows.

    python -m wsssjax.train --config=configs/semi_cityscapes_unimatch_v2.py:base \\
        --workdir=runs/cityscapes --config.model.encoder_weights=dinov2_b \\
        --config.data.root=cityscapes --config.data.labeled=splits/1_16/labeled.txt \\
        --config.data.unlabeled=splits/1_16/unlabeled.txt --config.data.val=splits/val.txt

Labels are the train ids (`gtFine/…_gtFine_labelTrainIds.png`): 0..18, 255 ignored.
Published (mIoU of the EMA teacher on val, best / last epoch, one run each):

    labels      1/16 (186)    1/8 (372)     1/4 (744)     1/2 (1488)
    small     80.6 / 80.0   81.9 / 81.7   82.4 / 82.3   82.6 / 82.4
    base      83.6 / 83.5   84.3 / 83.9   84.5 / 84.3   85.1 / 85.1
    small*    75.1 / 74.8   77.1 / 76.8   78.2 / 78.0   78.6 / 78.5
    base*     79.8 / 79.7   81.4 / 81.2   81.9 / 81.7   82.8 / 82.6
    * encoder frozen
Base at 1/8 was slightly better with lower thresholds (84.6 with --config.conf_threshold=0).
Nothing was published for large and giant. 4 A100 take 32 hours for small, 47 for base.
Arguments: small, base (default), large, giant.
"""

from wsssjax.core.config import stage


def get_config(arg=""):
    """The config of VOC, where Cityscapes differs."""
    c = stage(__file__, "semi_voc_unimatch_v2.py", arg)
    c.classes = "cityscapes"
    c.device_batch = 2  # with 4 devices
    c.total_epochs = 180
    c.criterion = "ohem"
    c.data.crop = 798
    c.predict.mode, c.predict.window, c.predict.batch = "sliding_window", 798, 4
    return c
