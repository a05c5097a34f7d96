"""COCO's run-length coding of binary masks, plain lists and compressed strings."""

from __future__ import annotations

import numpy as np

BITS, SIGN, MORE, SHIFT = 5, 0x10, 0x20, 48  # a character holds five bits, its sign and "goes on"
MAX_GROUPS = 12                              # 60 bits; longer numbers do not fit an int64


def encode(mask_hw: np.ndarray) -> np.ndarray:
    """Run lengths int64 [r] of a bool mask, column by column, starting with a run of zeros.

    >>> encode(np.array([[0, 1], [1, 0]], bool)).tolist()
    [1, 2, 1]
    """
    flat = np.asarray(mask_hw, bool).T.reshape(-1)
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], ends, [flat.size]]))
    return np.concatenate([[0], runs]) if flat.size and flat[0] else runs


def encode_regions(region_hw: np.ndarray) -> list[np.ndarray]:
    """Run lengths of every region 0..n-1 of a partition, in one pass over the pixels.

    region_hw: int [h, w]; numbers that do not occur give an empty mask.

    >>> [counts_r.tolist() for counts_r in encode_regions(np.array([[0, 0, 1], [0, 2, 2]]))]
    [[0, 3, 3], [4, 1, 1], [3, 1, 1, 1]]
    """
    flat = region_hw.T.reshape(-1)
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    ends = np.append(starts[1:], flat.size)
    order = np.argsort(flat[starts], kind="stable")  # runs by region, within it by place
    splits = np.searchsorted(flat[starts][order], np.arange(1, int(flat.max()) + 1))
    regions = zip(np.split(starts[order], splits), np.split(ends[order], splits), strict=True)
    counts = []
    for first, last in regions:
        edges = np.concatenate([[0], np.stack([first, last], 1).reshape(-1), [flat.size]])
        runs = np.diff(edges)
        counts.append(runs if runs[-1] else runs[:-1])
    return counts


def area_and_box(counts_r: np.ndarray, size: tuple[int, int]) -> tuple[int, list[int]]:
    """Pixels of a mask and its box [x, y, w, h] from run lengths; an empty mask has box 0, 0, 0, 0.

    >>> area_and_box(np.array([1, 2, 1]), (2, 2))
    (2, [0, 0, 2, 2])
    """
    ends = np.cumsum(counts_r)
    full = np.asarray(counts_r[1::2]) > 0
    last = ends[1::2][full] - 1
    first = last - np.asarray(counts_r[1::2])[full] + 1
    if not first.size:
        return 0, [0, 0, 0, 0]
    height = size[0]
    # A run that goes on in the next column holds the last row of one and the first of the other.
    wraps = (first // height != last // height).any()
    top = 0 if wraps else int((first % height).min())
    bottom = height - 1 if wraps else int((last % height).max())
    left, right = int(first[0] // height), int(last[-1] // height)
    return int((last - first + 1).sum()), [left, top, right - left + 1, bottom - top + 1]


def check(counts_r: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The same run lengths; ValueError unless they fill an image of [h, w] exactly."""
    height, width = size
    if counts_r.size and counts_r.min() < 0:
        raise ValueError(f"has a run of {counts_r.min()} pixels; want 0 or more")
    # Compared one by one before summing: huge runs could overflow to the right total.
    if (counts_r > height * width).any() or counts_r.sum() != height * width:
        raise ValueError(f"has runs over {counts_r.astype(float).sum():.0f} pixels; "
                         f"want {height} x {width}")
    return counts_r


def decode(counts_r: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The bool mask [h, w] of run lengths; ValueError unless they fill it exactly.

    >>> decode(np.array([1, 2, 1]), (2, 2)).tolist()
    [[False, True], [True, False]]
    """
    check(counts_r, size)
    ones_r = np.arange(counts_r.size) % 2 == 1
    return np.repeat(ones_r, counts_r).reshape(size[1], size[0]).T


def compress(counts_r: np.ndarray) -> str:
    """Run lengths as COCO's string: from the fourth on the difference to the run before last.

    >>> compress(np.array([3, 3, 3])), decompress("333").tolist()
    ('333', [3, 3, 3])
    """
    values = np.array(counts_r, np.int64)
    values[3:] -= np.asarray(counts_r, np.int64)[1:-2]
    characters, used = [], []
    open_r = np.ones(values.size, bool)
    while open_r.any():
        low = values & (2 * SIGN - 1)
        values = values >> BITS
        # Done once the rest is nothing but copies of the sign bit just written.
        goes_on = values != np.where(low & SIGN, -1, 0)
        characters.append(low + MORE * goes_on + SHIFT)
        used.append(open_r)
        open_r = open_r & goes_on
    if not characters:
        return ""
    return np.stack(characters, 1)[np.stack(used, 1)].astype(np.uint8).tobytes().decode("ascii")


def decompress(text: str) -> np.ndarray:
    """Run lengths int64 [r] of COCO's string; ValueError names what is wrong with it."""
    try:
        codes = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - SHIFT
    except UnicodeEncodeError:
        raise ValueError("has a counts string with characters outside ASCII") from None
    if not codes.size:
        return codes
    if codes.min() < 0 or codes.max() >= 2 * MORE:
        wrong = text[int(np.flatnonzero((codes < 0) | (codes >= 2 * MORE))[0])]
        raise ValueError(f"has the character {wrong!r} in its counts string")
    ends = np.flatnonzero((codes & MORE) == 0)
    if not ends.size or ends[-1] != codes.size - 1:
        raise ValueError("has a counts string that is cut off")
    starts = np.concatenate([[0], ends[:-1] + 1])
    groups = ends - starts + 1
    if groups.max() > MAX_GROUPS:
        raise ValueError("has a run length of more than 60 bits")
    place = np.arange(codes.size) - np.repeat(starts, groups)
    values = np.add.reduceat((codes & (MORE - 1)) << (BITS * place), starts)
    values -= np.where(codes[ends] & SIGN, np.int64(1) << (BITS * groups), 0)
    # Undo the differences: they run separately over odd and over even places from 1 and 2 on.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def parse(counts) -> np.ndarray:
    """Run lengths int64 [r] of a `counts` entry of either form."""
    if isinstance(counts, str):
        return decompress(counts)
    if not isinstance(counts, list) or any(type(c) is not int for c in counts):
        raise ValueError("has no counts; want a COCO string or a list of whole numbers")
    if any(not -(2**62) < c < 2**62 for c in counts):
        raise ValueError("has a run length of more than 60 bits")
    return np.array(counts, np.int64)
