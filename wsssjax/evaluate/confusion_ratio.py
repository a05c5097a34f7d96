"""Confusion ratio: how much of a class's label lies on the scenery that usually comes with it.

m(k, c) = FP / TP, after EPS (arXiv 2105.08965, Table 2): FP are the pixels of context class k
(rails, water) that the label calls c though the truth does not, TP the pixels rightly labelled c;
counts are pooled over the images. The paper scores each pair on a subset of images that it does not
name (its IoU of the same class differs from pair to pair); here it is the images which contain
both, k in the context map and c in the truth, and the IoU given beside the ratio is that of c on
them. Pixels whose truth is open do not count.
"""

from __future__ import annotations

import numpy as np

from wsssjax.core.constants import BACKGROUND, IGNORE


def count_pairs(label_hw, truth_hw, context_hw, num_classes: int, num_contexts: int) -> np.ndarray:
    """Pixels of one image for every pair, int64 [4, j, k]: false, true, union, images.

    label_hw, truth_hw: uint8, classes or IGNORE.  context_hw: uint8, context classes or IGNORE.
    false: context j, label k, truth known and not k.  true: label and truth k.  union: label or
    truth k.  images: 1.  All are 0 for pairs that are not both in the image.
    """
    known_hw = truth_hw != IGNORE
    label, truth, context = (m[known_hw].astype(np.int64) for m in (label_hw, truth_hw, context_hw))
    agree = label == truth
    wrong = ~agree & (label != IGNORE) & (context != IGNORE)
    joint_jk = np.bincount(context[wrong] * num_classes + label[wrong],
                           minlength=num_contexts * num_classes)
    true_k = np.bincount(truth[agree], minlength=num_classes)
    truth_k = np.bincount(truth, minlength=num_classes)
    label_k = np.bincount(label, minlength=256)[:num_classes]
    in_context_j = np.bincount(context_hw.reshape(-1), minlength=256)[:num_contexts] > 0
    both_jk = in_context_j[:, None] & (truth_k > 0)[None]
    rows = [joint_jk.reshape(num_contexts, num_classes)]
    rows += [np.broadcast_to(row[None], both_jk.shape)
             for row in (true_k, truth_k + label_k - true_k, np.ones_like(true_k))]
    return np.where(both_jk[None], np.stack(rows), 0)


def scores(counts_4jk: np.ndarray, context_names, class_names) -> list[dict]:
    """One dict per pair seen together, worst ratio first, then by name.

    {"context", "class", "ratio": FP/TP (None where TP = 0), "iou" of the class, "images"}; the
    class "background" and the context class 0 (no context) are left out.
    """
    false_jk, true_jk, union_jk, images_jk = counts_4jk
    rows = []
    for j, k in np.argwhere(images_jk > 0):
        if j == BACKGROUND or k == BACKGROUND:
            continue
        true = int(true_jk[j, k])
        rows.append({"context": context_names[j], "class": class_names[k],
                     "ratio": int(false_jk[j, k]) / true if true else None,
                     "iou": true / int(union_jk[j, k]), "images": int(images_jk[j, k])})

    def worst_first(row):
        ratio = float("inf") if row["ratio"] is None else row["ratio"]
        return -ratio, row["context"], row["class"]

    return sorted(rows, key=worst_first)
