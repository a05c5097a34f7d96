"""Classic segmenters on COCO 2014: label maps of all training photos → segmenter.

    python -m wsssjax.train --config=configs/semi_coco_deeplab.py:eps_v2_vgg16 \\
        --workdir=runs/coco_deeplab --config.model.encoder_weights=vgg16 \\
        --config.data.root=COCO --config.data.labeled=lists/labels.txt \\
        --config.data.val=splits/val.txt

The recipes are those of semi_voc_deeplab.py, where all is told; 81 classes. Published mIoU of the
whole method on val, in %:

    eps_v2_vgg16      35.7   EPS's labels of the 82,081 photos (default)
    mars_resnet101    49.4   MARS's, by its own trainer; 46.4 from RS+EPM's

The lengths were not published: EPS's is as many passes here as on VOC, 18.9; MARS's as on VOC.
"""

from wsssjax.core.config import stage

ARGUMENTS = ("eps_v2_vgg16", "mars_resnet101")


def get_config(arg=""):
    """The config of VOC, where COCO differs."""
    arg = arg or ARGUMENTS[0]
    if arg not in ARGUMENTS:
        raise ValueError(f"config argument {arg!r}: want nothing or {' or '.join(ARGUMENTS)}")
    c = stage(__file__, "semi_voc_deeplab.py", arg)
    c.classes = "coco"
    if c.total_steps:
        c.total_steps = 155_000
    return c
