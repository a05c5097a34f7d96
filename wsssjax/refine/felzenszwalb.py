"""Proposals without a network: regions of Felzenszwalb's graph segmentation at several scales.

Felzenszwalb and Huttenlocher, Efficient Graph-Based Image Segmentation (IJCV 2004), in the
implementation of scikit-image. Similar neighbours of the coarsest scale are merged further, as
selective search does, and each merged region is one more proposal.
"""

from __future__ import annotations

import numpy as np
import skimage
import skimage.segmentation

from wsssjax.refine import proposals, rle


def describe(*, scales: tuple[float, ...], sigma: float, min_part: float, merges: int,
             max_part: float) -> dict:
    """What goes into `by`: everything that the masks depend on besides the photo."""
    return {"backend": "felzenszwalb", "scales": list(scales), "sigma": sigma,
            "min_part": min_part, "merges": merges, "max_part": max_part,
            "skimage": skimage.__version__}


def segment(image_hwc: np.ndarray, by: dict) -> list[np.ndarray]:
    """One partition per scale, int [h, w]. image_hwc: uint8 RGB."""
    min_size = max(1, round(by["min_part"] * image_hwc.shape[0] * image_hwc.shape[1]))
    return [skimage.segmentation.felzenszwalb(image_hwc, scale=scale, sigma=by["sigma"],
                                              min_size=min_size) for scale in by["scales"]]


def neighbours(region_hw: np.ndarray, count: int) -> np.ndarray:
    """Which regions touch through a pixel's side, bool [n, n], symmetric, false on the diagonal."""
    touch_nn = np.zeros((count, count), bool)
    for a, b in ((region_hw[1:], region_hw[:-1]), (region_hw[:, 1:], region_hw[:, :-1])):
        touch_nn[a.reshape(-1), b.reshape(-1)] = True
    touch_nn |= touch_nn.T
    np.fill_diagonal(touch_nn, False)
    return touch_nn


def merge_similar(image_hwc: np.ndarray, region_hw: np.ndarray, merges: int) -> list[np.ndarray]:
    """Sets of regions that grow by joining the most similar neighbours, as bool [n] each.

    The cost of joining is Ward's: how much the squared distance of pixels to their region's mean
    colour rises. Ties go to the smaller numbers, so the result depends on the photo alone.
    """
    flat, count = region_hw.reshape(-1), int(region_hw.max()) + 1
    area_n = np.bincount(flat, minlength=count).astype(np.float64)
    sums = [np.bincount(flat, image_hwc[..., c].reshape(-1), minlength=count) for c in range(3)]
    colour_nc = np.stack(sums, 1) / np.maximum(area_n, 1)[:, None]
    members_nn, touch_nn = np.eye(count, dtype=bool), neighbours(region_hw, count)

    def costs(i):
        apart_n = ((colour_nc - colour_nc[i]) ** 2).sum(1)
        weight_n = area_n * area_n[i] / np.maximum(area_n + area_n[i], 1)
        return np.where(touch_nn[i], apart_n * weight_n, np.inf)

    cost_nn = np.stack([costs(i) for i in range(count)])
    joined = []
    while len(joined) < merges and np.isfinite(cost_nn).any():
        i, j = sorted(divmod(int(cost_nn.argmin()), count))
        total = area_n[i] + area_n[j]
        colour_nc[i] = (area_n[i] * colour_nc[i] + area_n[j] * colour_nc[j]) / total
        area_n[i] = total
        members_nn[i] |= members_nn[j]
        touch_nn[i] |= touch_nn[j]
        touch_nn[:, i] |= touch_nn[:, j]
        touch_nn[i, i] = False
        touch_nn[j] = touch_nn[:, j] = False
        cost_nn[j] = cost_nn[:, j] = np.inf
        cost_nn[i] = cost_nn[:, i] = costs(i)
        joined.append(members_nn[i].copy())
    return joined


def propose(image_hwc: np.ndarray, by: dict) -> list[dict]:
    """Records of all regions of one photo, finest scale first, none twice.

    image_hwc: uint8 RGB.  by: see `describe`; regions over `max_part` of the photo are left out.
    """
    size = image_hwc.shape[:2]
    partitions = segment(image_hwc, by)
    counts = [c for partition_hw in partitions for c in rle.encode_regions(partition_hw)]
    if by["merges"] and partitions:
        for member_n in merge_similar(image_hwc, partitions[-1], by["merges"]):
            counts.append(rle.encode(member_n[partitions[-1]]))
    records = {}
    for counts_r in counts:
        entry = proposals.record(counts_r, size)
        if 0 < entry["area"] <= by["max_part"] * size[0] * size[1]:
            records.setdefault(entry["counts"], entry)
    return list(records.values())
