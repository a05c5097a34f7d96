"""Numbers of the paper on full VOC 2012: mIoU in %, to be shown beside runs on the same images.

Source: "Selecting high-quality pseudo-labels" (Fujimori, Oono, Shishibori), Tables 3 to 8. A is
BAO, B is MARS, A+ and B+ are their labels merged with SAM masks.
"""

from __future__ import annotations

from wsssjax.data.classes import VOC_CLASSES

NAMES = {"A": "BAO seed", "A + CRF": "BAO", "B": "MARS", "A+": "BAO + SAM", "B+": "MARS + SAM"}

# Table 3: class counts, aeroplane … tvmonitor, of the images selected by each quota.
SELECTED = {"voc/92": 147, "voc/183": 273, "voc/366": 539, "voc/732": 1082, "voc/1464": 2095}
COUNTS = {
    "voc/92": (5, 4, 2, 6, 8, 5, 9, 6, 10, 4, 7, 15, 4, 10, 43, 8, 5, 5, 2, 2),
    "voc/183": (7, 15, 14, 6, 15, 15, 13, 25, 17, 6, 7, 17, 11, 11, 69, 10, 8, 10, 8, 9),
    "voc/366": (17, 13, 26, 19, 26, 21, 28, 41, 40, 15, 26, 29, 16, 23, 170, 20, 13, 19, 22, 26),
    "voc/732": (46, 32, 64, 40, 45, 42, 69, 72, 77, 31, 39, 80, 35, 30, 334, 35, 33, 54, 38, 43),
    "voc/1464": (88, 67, 110, 78, 102, 78, 141, 150, 159, 65, 82, 175, 73, 86, 658, 83, 67, 109,
                 83, 83),
}

# Table 4: labels of the 1,464 images of official train.
LABELS = {"A": 75.5, "A + CRF": 77.4, "B": 81.8, "A+": 81.3, "B+": 83.6}

# Table 5: (method, supervision, val, test).
METHODS = (
    ("BAO", "I", 74.1, 74.6), ("MoRe", "I", 76.4, 75.0), ("MARS", "I", 77.7, 77.2),
    ("S2C", "I+A", 78.2, 77.5), ("VPL", "I+C", 79.3, 79.0), ("FMA-WSSS", "I+C+A", 82.6, 81.6),
    ("SemPLeS", "I+C+A", 83.4, 82.9), ("the paper", "I+A", 84.4, 83.3),
)

# Table 6: (images, mIoU) of the labels of official train whose pair agrees by more than that.
AGREE_BY = 0.9
AGREEING = {("A", "B+"): (609, 91.9), ("B", "B+"): (1072, 86.5), ("A+", "B+"): (898, 89.8),
            ("A", "B"): (555, 90.1)}

# Table 7: (labelled images, mIoU on val), quota of all 1,464 images.
FULL_QUOTA = "voc/1464"
PAIRS = {("A", "B+"): (2095, 84.4), ("B", "B+"): (2021, 82.5), ("A+", "B+"): (2061, 82.7),
         ("A", "B"): (2068, 82.5)}
UNSELECTED_IMAGES = 1464

# Table 8: mIoU on val by quota.
WITHOUT = {"voc/92": 81.2, "voc/183": 82.7, "voc/366": 82.1, "voc/732": 82.1, "voc/1464": 83.2}
WITH = {"voc/92": 82.7, "voc/183": 82.9, "voc/366": 82.6, "voc/732": 83.2, "voc/1464": 84.4}

MAIN_PAIR = ("A", "B+")
METHOD = "unimatch_v2"  # that the segmenters of Tables 7 and 8 were trained by


def counts(quota: str) -> dict[str, int]:
    """Table 3's counts of a quota by class."""
    return dict(zip(VOC_CLASSES[1:], COUNTS[quota], strict=True))


def fraction(percent: float | None) -> float | None:
    """A share in % as a fraction without the rounding error of a division."""
    return None if percent is None else round(percent / 100, 6)
