"""Drawing tools of the generated data set: random choices, a polygon canvas, noise, pasting.

Written so that the bits do not depend on the processor: polygons are filled at whole sub-pixel
coordinates, averages are taken over integers, and no sum of floats has a free order.
"""

import math

import cv2
import numpy as np
from PIL import Image

SUB = 3  # sub-pixels per pixel and axis; a pixel's coverage is 0..SUB * SUB
FULL = SUB * SUB

# Rounded, so that a last-bit difference between mathematics libraries cannot move a corner.
_CIRCLE_N2 = np.array(
    [
        [round(f(2 * math.pi * step / 32), 9) for f in (math.cos, math.sin)]
        for step in range(32)
    ]
)

Color = tuple[float, float, float]


class Dice:
    """Random choices from uniform doubles alone, the draw that no numpy release has changed."""

    def __init__(self, *entropy: int):
        self._random = np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy))).random

    def real(self, low: float, high: float) -> float:
        return low + (high - low) * self._random()

    def whole(self, low: int, high: int) -> int:
        """Integer low..high, both included."""
        return low + int(self._random() * (high - low + 1))

    def chance(self, p: float) -> bool:
        return self._random() < p

    def pick(self, options):
        """One element of a sequence, or one key of a dict whose values are weights."""
        if not isinstance(options, dict):
            return options[self.whole(0, len(options) - 1)]
        left = self._random() * sum(options.values())
        for key, weight in options.items():
            left -= weight
            if left < 0:
                return key
        return key

    def color(self, *palette: Color, spread: float = 14.0) -> Color:
        """A palette colour with each channel moved by up to `spread` levels."""
        base = self.pick(palette)
        return tuple(min(max(c + self.real(-spread, spread), 0.0), 255.0) for c in base)

    def grid(self, h: int, w: int) -> np.ndarray:
        """float64 [h,w], uniform in 0..1."""
        return self._random((h, w))


def mix(first: Color, second: Color, share: float) -> Color:
    """Colour that is `share` of the second and the rest of the first."""
    return tuple(a + (b - a) * share for a, b in zip(first, second, strict=True))


BLACK, WHITE = (12.0, 12.0, 14.0), (245.0, 245.0, 240.0)


class Canvas:
    """Polygons in colour with an id per sub-pixel, 0 where nothing was drawn.

    h, w: pixels.  unit: pixels per unit of the coordinates that are drawn.
    """

    def __init__(self, h: int, w: int, unit: float = 1.0):
        self.color_hwc = np.zeros((h * SUB, w * SUB, 3), np.uint8)
        self.part_hw = np.zeros((h * SUB, w * SUB), np.uint8)
        self._scale = unit * SUB

    def polygon(self, points, color: Color, part: int = 1, inside: int = 0) -> None:
        """Fills a polygon of (x, y) points; with `inside`, only where that part already lies."""
        corners = np.floor(np.asarray(points, np.float64) * self._scale + 0.5).astype(np.int32)
        color = tuple(int(c) for c in color)
        if not inside:
            cv2.fillPoly(self.color_hwc, [corners], color)
            cv2.fillPoly(self.part_hw, [corners], part)
            return
        mask_hw = np.zeros_like(self.part_hw)
        cv2.fillPoly(mask_hw, [corners], 1)
        self.color_hwc[(mask_hw > 0) & (self.part_hw == inside)] = color

    def box(self, left, top, right, bottom, color: Color, part: int = 1, inside: int = 0) -> None:
        points = [(left, top), (right, top), (right, bottom), (left, bottom)]
        self.polygon(points, color, part, inside)

    def ellipse(self, x, y, rx, ry, color: Color, part: int = 1, inside: int = 0, tilt=0.0) -> None:
        """tilt: how far the top leans to the right, in units per unit of height."""
        across, down = _CIRCLE_N2[:, 0] * rx, _CIRCLE_N2[:, 1] * ry
        self.polygon(np.stack([x + across - tilt * down, y + down], -1), color, part, inside)

    def blob(self, dice: Dice, x, y, rx, ry, color: Color, part: int = 1, rough=0.12) -> None:
        """Ellipse with a bumpy outline; rough: size of the bumps as a share of the radius."""
        knots = [dice.real(1 - rough, 1 + rough) for _ in range(8)]
        bumps = np.array([(3 * knots[i // 4] + knots[(i // 4 + 1) % 8]) / 4 for i in range(32)])
        points = _CIRCLE_N2 * bumps[:, None] * (rx, ry) + (x, y)
        self.polygon(points, color, part)

    def stroke(self, points, width: float, color: Color, part: int = 1, inside: int = 0) -> None:
        """Open line through (x, y) points with round joints."""
        for (x0, y0), (x1, y1) in zip(points[:-1], points[1:], strict=True):
            length = max(math.sqrt((x1 - x0) ** 2 + (y1 - y0) ** 2), 1e-6)
            dx, dy = (x1 - x0) / length * width / 2, (y1 - y0) / length * width / 2
            quad = [(x0 - dy, y0 + dx), (x1 - dy, y1 + dx), (x1 + dy, y1 - dx), (x0 + dy, y0 - dx)]
            self.polygon(quad, color, part, inside)
        for x, y in points[1:-1]:
            self.ellipse(x, y, width / 2, width / 2, color, part, inside)

    def mirror(self) -> None:
        self.color_hwc = self.color_hwc[:, ::-1]
        self.part_hw = self.part_hw[:, ::-1]

    def shrink(self) -> tuple[np.ndarray, np.ndarray]:
        """(color sums u16 [h,w,3] over drawn sub-pixels, coverage u8 [h,w] in 0..FULL)."""
        drawn_hw = (self.part_hw > 0).astype(np.uint8)
        steps = [(slice(i, None, SUB), slice(j, None, SUB)) for i in range(SUB) for j in range(SUB)]
        color_hwc = sum(self.color_hwc[step].astype(np.uint16) for step in steps)
        return color_hwc, sum(drawn_hw[step] for step in steps)

    def parts(self) -> np.ndarray:
        """u8 [h,w]: the part at each pixel's centre."""
        return self.part_hw[SUB // 2 :: SUB, SUB // 2 :: SUB].copy()


def noise(dice: Dice, h: int, w: int, cell_h: float, cell_w: float | None = None) -> np.ndarray:
    """float32 [h,w] in about -1..1: smooth random bumps of cell_h x cell_w pixels."""
    cell_w = cell_h if cell_w is None else cell_w
    rows, columns = max(2, int(h / cell_h + 1.5)), max(2, int(w / cell_w + 1.5))
    bumps = Image.fromarray((dice.grid(rows, columns) * 255.0).astype(np.uint8))
    smooth_hw = np.asarray(bumps.resize((w, h), Image.Resampling.BICUBIC), np.float32)
    return smooth_hw / np.float32(127.5) - np.float32(1)


def paste(image_hwc, layer_hwc, cover_hw, top: int, left: int, strength: float = 1.0):
    """(rows, columns, covered) slices of the image that the layer reaches; writes image_hwc.

    layer_hwc: float32 colour sums over covered sub-pixels.  cover_hw: u8 0..FULL.
    The slices are empty where the layer lies outside of the image.
    """
    h, w = image_hwc.shape[:2]
    rows = slice(min(max(top, 0), h), max(min(top + cover_hw.shape[0], h), 0))
    columns = slice(min(max(left, 0), w), max(min(left + cover_hw.shape[1], w), 0))
    inner = (
        slice(rows.start - top, max(rows.stop - top, rows.start - top)),
        slice(columns.start - left, max(columns.stop - left, columns.start - left)),
    )
    cover = cover_hw[inner]
    weight = np.float32(strength / FULL)
    view = image_hwc[rows, columns]
    view *= 1 - cover[..., None].astype(np.float32) * weight
    view += layer_hwc[inner] * weight
    return rows, columns, cover
