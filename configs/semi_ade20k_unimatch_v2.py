"""UniMatch V2 on ADE20K: 150 classes.

    python tools/prepare_data.py ade20k --root=ADEChallengeData2016
    python -m wsssjax.train --config=configs/semi_ade20k_unimatch_v2.py:base \\
        --workdir=runs/ade20k --config.model.encoder_weights=dinov2_b \\
        --config.data.root=ADEChallengeData2016 --config.data.labeled=splits/1_64/labeled.txt \\
        --config.data.unlabeled=splits/1_64/unlabeled.txt --config.data.val=splits/val.txt

Labels are shifted: 0..149, 255 ignored, as the first command makes them in annotations_shifted/
from the official annotations (0 "other", 1..150); the lists of UniMatch V2 name annotations/, so
put the new folder in them (sed -i 's#annotations/#annotations_shifted/#' LIST). Unshifted labels
cost all but 6 points of mIoU.
Published (mIoU of the EMA teacher on val, best / last epoch, one run each):

    labels      1/64 (316)    1/32 (631)    1/16 (1263)   1/8 (2526)    1/4 (5052)
    small     31.5 / 31.4   38.1 / 37.9   40.7 / 40.5   44.4 / 44.2   45.8 / 45.5
    base      38.7 / 38.1   45.0 / 44.4   46.7 / 46.2   49.8 / 48.8   52.0 / 51.4
    large     40.0 / 39.4   45.0 / 44.7   49.3 / 48.5   52.1 / 51.4   54.2 / 54.0
    small*    29.9 / 29.4   34.5 / 34.1   37.3 / 37.0   39.6 / 39.3   41.4 / 41.4
    base*     35.6 / 34.1   40.2 / 39.1   42.3 / 41.9   45.6 / 45.1   47.3 / 47.0
    * encoder frozen. The authors' config freezes it, their table's runs did not.
Nothing was published for giant. Base at 1/64 takes 4 A100 29 hours.
Arguments: small, base (default), large, giant.
"""

from wsssjax.core.config import stage


def get_config(arg=""):
    """The config of VOC, where ADE20K differs."""
    c = stage(__file__, "semi_voc_unimatch_v2.py", arg)
    c.classes = "ade20k"
    c.device_batch = 2  # with 4 devices
    return c
