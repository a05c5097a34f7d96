"""Meta's automatic mask generator with three of its falls mended; the masks stay the same.

Of segment-anything 1.0. A photo in whose crops no mask is found made it fail on an empty table of
boxes; so did a crop without pixels, as photos of a few pixels have; and with more than 5,000 boxes
left on a GPU, its box suppression mixed tensors of GPU and CPU.
"""

from __future__ import annotations

import segment_anything
import torch
from segment_anything import automatic_mask_generator
from segment_anything.utils.amg import MaskData
from torchvision.ops.boxes import batched_nms

from wsssjax.bridge import sam_torch


def same_device_nms(boxes, scores, idxs, iou_threshold):
    """torchvision's batched_nms with the categories where the boxes are."""
    return batched_nms(boxes, scores.to(boxes.device), idxs.to(boxes.device), iou_threshold)


class Generator(segment_anything.SamAutomaticMaskGenerator):
    """The same generator for photos of any size and whatever it finds in them."""

    def __init__(self, model, **settings):
        super().__init__(model, **settings)
        automatic_mask_generator.batched_nms = same_device_nms

    def _process_crop(self, image, crop_box, crop_layer_idx, orig_size):
        x0, y0, x1, y1 = crop_box
        if crop_layer_idx and sam_torch.too_narrow((y1 - y0, x1 - x0), self.longest_side):
            return MaskData()
        data = super()._process_crop(image, crop_box, crop_layer_idx, orig_size)
        data["crop_boxes"] = torch.as_tensor(data["crop_boxes"]).reshape(-1, 4).long()
        return data

    @property
    def longest_side(self) -> int:
        """Pixels of the longer side of what the network sees."""
        return self.predictor.model.image_encoder.img_size
