"""Boundary recall, precision and F1 of label maps: a class-agnostic proxy.

EPS (arXiv 2105.08965) reports such numbers but publishes no code for them, says of its edges only
that a Laplacian detector finds them, and its truth are the boundary annotations of SBD. This is our
definition, for truth given as label maps; its numbers may be compared with each other and not with
a paper's:

* An edge is where the four-neighbour Laplacian of a class's mask is not 0, on the mask's own side;
  of two touching classes only the larger number's side counts, so that edges are one pixel thick.
* recall = true edges with a labelled edge within d, over all true edges; precision = labelled edges
  with a true one within d, over all labelled ones; F1 is their harmonic mean. d is a fraction of
  the image's diagonal, measured by distance transforms: an edge may be found by several others,
  unlike in BSDS's one-to-one matching.
* Counts are pooled over the set before they are divided.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from wsssjax.core.constants import BACKGROUND, IGNORE

# Fractions of the image diagonal within which an edge is found: BSDS's habit, and SBD's.
TOLERANCES = (0.0075, 0.02)
VOID_BAND = 5.0  # pixels; VOC's open band along objects is thinner, its open regions are thicker


class EdgeCounts(NamedTuple):
    """Edge pixels, float-free so that they pool over a set; the last axis runs over TOLERANCES.

    found [t]: truth edges with a predicted edge near.  true: all truth edges.
    right [t]: predicted edges with a truth edge near.  said: all predicted edges.
    """

    found: np.ndarray
    true: int
    right: np.ndarray
    said: int


def edges(label_hw: np.ndarray) -> np.ndarray:
    """Where a region ends, bool [h, w], one pixel thick, on the object's side.

    A pixel is an edge if one of its four neighbours has a smaller label: the objects' inner rim
    against the background, and the larger class's rim between two classes. The picture's border
    is no edge.
    """
    edge_hw = np.zeros(label_hw.shape, bool)
    edge_hw[1:] |= label_hw[1:] > label_hw[:-1]
    edge_hw[:-1] |= label_hw[:-1] > label_hw[1:]
    edge_hw[:, 1:] |= label_hw[:, 1:] > label_hw[:, :-1]
    edge_hw[:, :-1] |= label_hw[:, :-1] > label_hw[:, 1:]
    return edge_hw


def _distance(edge_hw: np.ndarray) -> np.ndarray:
    """Euclidean distance to the nearest marked pixel, float32 [h, w]; infinite without any."""
    if not edge_hw.any():
        return np.full(edge_hw.shape, np.inf, np.float32)
    return cv2.distanceTransform((~edge_hw).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def fill_void(truth_hw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Truth with each open pixel given its nearest known class, and where that is a mere guess.

    VOC leaves a thin band open along every object. Filled from both sides, the edge lies in the
    middle of the band, the best estimate there is. Pixels farther than VOID_BAND from any known one
    belong to regions that nobody annotated; no edge is scored there.
    """
    void_hw = truth_hw == IGNORE
    if not void_hw.any():
        return truth_hw, void_hw
    if void_hw.all():
        return np.full_like(truth_hw, BACKGROUND), void_hw
    distance_hw, nearest_hw = cv2.distanceTransformWithLabels(
        void_hw.astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    class_of = np.zeros(nearest_hw.max() + 1, np.uint8)
    class_of[nearest_hw[~void_hw]] = truth_hw[~void_hw]
    return class_of[nearest_hw], distance_hw > VOID_BAND


def count_edges(label_hw: np.ndarray, truth_hw: np.ndarray) -> EdgeCounts:
    """Edge counts of one image. label_hw, truth_hw: uint8, IGNORE allowed in both.

    An open pixel of the label is background: it claims no object.
    """
    filled_hw, unknown_hw = fill_void(truth_hw)
    label_hw = np.where(label_hw == IGNORE, BACKGROUND, label_hw)
    true_hw, said_hw = (edges(m) & ~unknown_hw for m in (filled_hw, label_hw))
    limits_t = np.array(TOLERANCES) * np.hypot(*truth_hw.shape)
    to_said_n = _distance(said_hw)[true_hw]
    to_true_n = _distance(true_hw)[said_hw]
    return EdgeCounts(
        np.array([(to_said_n <= limit).sum() for limit in limits_t], np.int64), int(true_hw.sum()),
        np.array([(to_true_n <= limit).sum() for limit in limits_t], np.int64), int(said_hw.sum()))


def scores(counts: list[EdgeCounts]) -> dict:
    """{"0.0075": {"recall", "precision", "f1"}, "0.02": {…}}, counts pooled over the set.

    A ratio over no edge at all is 0.
    """
    true, said = sum(c.true for c in counts), sum(c.said for c in counts)
    found_t, right_t = sum(c.found for c in counts), sum(c.right for c in counts)
    result = {}
    for t, tolerance in enumerate(TOLERANCES):
        recall, precision = float(found_t[t] / max(true, 1)), float(right_t[t] / max(said, 1))
        f1 = 2 * recall * precision / (recall + precision) if recall + precision else 0.0
        result[str(tolerance)] = {"recall": recall, "precision": precision, "f1": f1}
    return result
