"""Masks by SAM: every setting of Meta's automatic mask generator.

    python tools/propose_masks.py --backend=sam --checkpoint=sam_vit_h_4b8939.pth \
        --images=JPEGImages --out=proposals
    python tools/propose_masks.py --config=configs/propose_sam.py:notebook \
        --checkpoint=sam_vit_b_01ec64.pth --images=JPEGImages --out=proposals \
        --config.points_per_batch=32 --shard=0/2

`default` holds the generator's own defaults; `notebook` is what SAM's example notebook shows, with
four crops more (5 passes of the encoder); `dense64` asks at 4,096 points, 4 times the decoder's
work. As `config.proposals` of a recipe it works too.
"""

import ml_collections


def get_config(arg="default"):
    arg = arg or "default"
    if arg not in ("default", "notebook", "dense64"):
        raise ValueError(f"config argument {arg!r}: want 'default', 'notebook' or 'dense64'")
    notebook = arg == "notebook"
    c = ml_collections.ConfigDict()
    c.backend = "sam"
    c.checkpoint = ""                    # sam_vit_b_01ec64.pth, sam_vit_l_0b3195.pth, sam_vit_h_…
    c.device = "auto"                    # cuda where torch sees a GPU; or cpu, cuda

    c.points_per_side = 64 if arg == "dense64" else 32  # of the grid of points laid over a photo
    c.points_per_batch = 64              # at a time; fewer take less memory
    c.point_grids = ()                   # instead of the grid: [[x, y], …] in 0..1, a list a layer
    c.pred_iou_thresh = 0.86 if notebook else 0.88  # SAM's own guess of a mask's IoU, to be above
    c.stability_score_thresh = 0.92 if notebook else 0.95  # to reach: IoU of two cuts of the mask
    c.stability_score_offset = 1.0       # logits, how far apart those cuts are from 0
    c.box_nms_thresh = 0.7               # IoU of boxes above which the worse mask goes
    c.crop_n_layers = 1 if notebook else 0  # layer k looks at 4^k crops of the photo besides
    c.crop_nms_thresh = 0.7              # as box_nms_thresh, between crops
    c.crop_overlap_ratio = 512 / 1500    # of the photo's short side, in the first layer
    c.crop_n_points_downscale_factor = 2 if notebook else 1  # fewer points a side, layer by layer
    c.min_mask_region_area = 100 if notebook else 0  # pixels; smaller holes and islands go
    return c
