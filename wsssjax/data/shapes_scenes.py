"""Backgrounds of the generated data set: railway, lake, street, meadow and room."""

from typing import NamedTuple

import numpy as np

from wsssjax.data.shapes_paint import FULL, Canvas, Color, Dice, mix, noise

CONTEXT_CLASSES = ("none", "rails", "water", "road", "grass", "sky", "wall", "floor")
# `rails` is the whole track: rails, sleepers and the bed they lie in.
NONE, RAILS, WATER, ROAD, GRASS, SKY, WALL, FLOOR = range(8)

# How rough each context is: (fine bumps, coarse bumps) in grey levels.
ROUGHNESS = {
    NONE: (9, 10),
    RAILS: (20, 8),
    WATER: (6, 6),
    ROAD: (9, 6),
    GRASS: (18, 12),
    SKY: (2, 12),
    WALL: (6, 10),
    FLOOR: (6, 10),
}

_GREENS = ((92, 128, 58), (70, 108, 52), (122, 138, 70), (140, 130, 76))
_SKIES = ((150, 186, 222), (186, 200, 212), (116, 160, 214), (214, 196, 180), (196, 202, 206))
_WATERS = ((58, 104, 138), (80, 124, 130), (66, 92, 112), (104, 140, 160))
_WALLS = ((168, 110, 88), (178, 170, 156), (146, 140, 138), (200, 184, 150), (120, 108, 104))
_PAPERS = ((206, 196, 178), (178, 192, 190), (196, 170, 160), (160, 164, 184), (216, 212, 204))
_FLOORS = ((150, 112, 76), (120, 88, 62), (168, 150, 130), (132, 126, 122), (150, 96, 90))
_BALLAST = ((128, 118, 108), (110, 104, 100), (140, 124, 104))


class Scene(NamedTuple):
    """A painted background and what objects need to know in order to stand in it."""

    image_hwc: np.ndarray  # float32, 0..255
    context_hw: np.ndarray  # uint8, index into CONTEXT_CLASSES
    ground: tuple[int, int]  # rows between which feet may stand
    track: tuple[float, float, float] | None  # seen from ahead: (vanishing x, y, width per row)


def paint(dice: Dice, name: str, h: int, w: int, ahead: bool) -> Scene:
    """The scene called `name` in h x w pixels. ahead: look along the rails, not across them."""
    canvas = Canvas(h, w)
    track = None
    if name == "railway" and ahead:
        ground, track = _railway_ahead(dice, canvas, h, w)
    elif name == "railway":
        ground = _railway_across(dice, canvas, h, w)
    else:
        painters = {"lake": _lake, "street": _street, "meadow": _meadow, "room": _room}
        ground = painters[name](dice, canvas, h, w)
    sums_hwc, _ = canvas.shrink()
    image_hwc = sums_hwc.astype(np.float32) / np.float32(FULL)
    context_hw = canvas.parts() - 1
    return Scene(_textured(dice, image_hwc, context_hw), context_hw, ground, track)


def _textured(dice: Dice, image_hwc, context_hw):
    """image_hwc with bumps, and with long flat streaks on water, as rough as each context asks."""
    h, w = context_hw.shape
    fine = np.array([ROUGHNESS[i][0] for i in range(8)], np.float32)
    coarse = np.array([ROUGHNESS[i][1] for i in range(8)], np.float32)
    bumps_hw = noise(dice, h, w, 2) * fine[context_hw] + noise(dice, h, w, 22) * coarse[context_hw]
    streaks_hw = noise(dice, h, w, 2.2, 16) * np.float32(dice.real(12, 30))
    bumps_hw += np.where(context_hw == WATER, streaks_hw, np.float32(0))
    return image_hwc + bumps_hw[..., None]


def _sky(dice: Dice, canvas: Canvas, h: int, w: int, horizon: float) -> Color:
    """Sky from pale at the horizon to full at the top, sometimes with hills; returns its colour."""
    full = dice.color(*_SKIES)
    bands = 8
    for band in range(bands):
        pale = mix(full, (238, 238, 236), 0.6 * band / bands)
        top = horizon * band / bands
        canvas.box(0, top, w, horizon, pale, SKY + 1)
    if dice.chance(0.65):
        hill = mix(dice.color(*_GREENS, (96, 104, 124)), full, dice.real(0.2, 0.6))
        for _ in range(dice.whole(1, 3)):
            rx, ry = dice.real(0.2, 0.6) * w, dice.real(0.05, 0.22) * h
            canvas.ellipse(dice.real(0, w), horizon, rx, ry, hill, NONE + 1)
        canvas.box(0, horizon - 0.02 * h, w, horizon, hill, NONE + 1)
    return full


def _facade(dice: Dice, canvas: Canvas, h: int, w: int, bottom: float) -> None:
    """Front of a building with rows of windows, sky above it now and then."""
    top = 0.0
    if dice.chance(0.5):
        top = dice.real(0.05, 0.35) * bottom
        _sky(dice, canvas, h, w, top)
    wall = dice.color(*_WALLS)
    canvas.box(0, top, w, bottom, wall, WALL + 1)
    if dice.chance(0.5):  # courses of brick
        for y in np.arange(top + 3, bottom, 4.0):
            canvas.box(0, y, w, y + 0.5, mix(wall, (60, 50, 46), 0.25), WALL + 1)
    if dice.chance(0.6):
        glass = dice.color((70, 84, 100), (120, 136, 150), (52, 56, 64))
        step, size = dice.real(0.2, 0.36) * w, dice.real(0.09, 0.16) * w
        for y in np.arange(top + 0.08 * h, bottom - 0.12 * h, dice.real(0.2, 0.3) * h):
            for x in np.arange(dice.real(-0.1, 0.1) * w, w, step):
                canvas.box(x, y, x + size, y + 1.2 * size, glass, WALL + 1)


def _backdrop(dice: Dice, canvas: Canvas, h: int, w: int, horizon: float) -> None:
    if dice.chance(0.6):
        _sky(dice, canvas, h, w, horizon)
    else:
        _facade(dice, canvas, h, w, horizon)


def _railway_across(dice: Dice, canvas: Canvas, h: int, w: int) -> tuple[int, int]:
    """Track that runs from left to right; feet of a train stand on its nearer rail."""
    horizon = dice.real(0.4, 0.55) * h
    _backdrop(dice, canvas, h, w, horizon)
    canvas.box(0, horizon, w, h, dice.color(*_GREENS, (126, 120, 112)), GRASS + 1)
    near = dice.real(0.72, 0.84) * h
    far = near - dice.real(0.09, 0.13) * h
    edge = dice.real(0.08, 0.14) * h
    canvas.box(0, far - edge, w, near + edge, dice.color(*_BALLAST), RAILS + 1)
    wood = dice.color((74, 56, 44), (58, 50, 46), (96, 84, 74))
    step, lean = dice.real(0.07, 0.11) * h, dice.real(-0.06, 0.06) * h
    for x in np.arange(-2 * step, w + 2 * step, step):
        quad = [(x, near + 0.6 * edge), (x + 0.45 * step, near + 0.6 * edge)]
        quad += [(x + 0.45 * step + lean, far - 0.5 * edge), (x + lean, far - 0.5 * edge)]
        canvas.polygon(quad, wood, RAILS + 1)
    steel = dice.color((186, 184, 182), (150, 140, 132))
    for y in (far, near):
        canvas.box(0, y - 0.013 * h, w, y + 0.008 * h, steel, RAILS + 1)
        canvas.box(0, y + 0.008 * h, w, y + 0.016 * h, (62, 54, 50), RAILS + 1)
    return int(near), int(near) + 1


def _railway_ahead(dice: Dice, canvas: Canvas, h: int, w: int):
    """Track that runs away from the camera to a vanishing point."""
    horizon = dice.real(0.32, 0.46) * h
    _backdrop(dice, canvas, h, w, horizon)
    canvas.box(0, horizon, w, h, dice.color(*_GREENS, (126, 120, 112)), GRASS + 1)
    x0, width = dice.real(0.35, 0.65) * w, dice.real(0.75, 1.1)
    lean = dice.real(-0.25, 0.25)

    def at(y, side):
        return x0 + (y - horizon) * (lean + side * width / 2), y

    bed = [at(horizon, 0), at(h, -1.7), at(h, 1.7)]
    canvas.polygon(bed, dice.color(*_BALLAST), RAILS + 1)
    wood = dice.color((74, 56, 44), (58, 50, 46), (96, 84, 74))
    depth = 0.06 * h
    while horizon + depth < h:
        y0, y1 = horizon + depth, horizon + depth * 1.1
        canvas.polygon([at(y0, -1.4), at(y0, 1.4), at(y1, 1.4), at(y1, -1.4)], wood, RAILS + 1)
        depth *= 1.22
    steel = dice.color((186, 184, 182), (150, 140, 132))
    for side in (-1, 1):
        rail = [at(horizon, side), at(h, side - 0.09), at(h, side + 0.09)]
        canvas.polygon(rail, steel, RAILS + 1)
    # A train leans with the track, so the point under its middle moves with the row.
    return (int(0.72 * h), int(0.95 * h)), (x0, horizon, width, lean)


def _lake(dice: Dice, canvas: Canvas, h: int, w: int) -> tuple[int, int]:
    horizon = dice.real(0.35, 0.55) * h
    sky = _sky(dice, canvas, h, w, horizon)
    water = mix(dice.color(*_WATERS), sky, dice.real(0.0, 0.35))
    canvas.box(0, horizon, w, h, water, WATER + 1)
    bottom = h
    if dice.chance(0.5):
        bank = dice.color((196, 178, 140), (150, 146, 140), *_GREENS)
        level, slope = dice.real(0.84, 0.94) * h, dice.real(-0.06, 0.06) * h
        points = [(0, level - slope), (w, level + slope), (w, h), (0, h)]
        canvas.polygon(points, bank, NONE + 1)
        bottom = level
    return int(horizon + 0.25 * (bottom - horizon)), int(bottom)


def _street(dice: Dice, canvas: Canvas, h: int, w: int) -> tuple[int, int]:
    horizon = dice.real(0.42, 0.58) * h
    _facade(dice, canvas, h, w, horizon)
    kerb = horizon + dice.real(0.04, 0.12) * h
    canvas.box(0, horizon, w, kerb, dice.color((160, 156, 150), (140, 132, 126)), NONE + 1)
    road = dice.color((100, 100, 104), (124, 120, 118), (84, 86, 92))
    canvas.box(0, kerb, w, h, road, ROAD + 1)
    if dice.chance(0.6):
        y, step, x = dice.real(0.75, 0.92) * h, dice.real(0.2, 0.35) * w, dice.real(-0.2, 0) * w
        while x < w:
            canvas.box(x, y, x + 0.5 * step, y + 0.025 * h, (206, 204, 196), ROAD + 1)
            x += step
    return int(kerb + 0.25 * (h - kerb)), int(0.97 * h)


def _meadow(dice: Dice, canvas: Canvas, h: int, w: int) -> tuple[int, int]:
    horizon = dice.real(0.25, 0.55) * h
    _sky(dice, canvas, h, w, horizon)
    canvas.box(0, horizon, w, h, dice.color(*_GREENS), GRASS + 1)
    return int(horizon + 0.4 * (h - horizon)), int(0.97 * h)


def _room(dice: Dice, canvas: Canvas, h: int, w: int) -> tuple[int, int]:
    horizon = dice.real(0.5, 0.72) * h
    paper = dice.color(*_PAPERS)
    canvas.box(0, 0, w, horizon, paper, WALL + 1)
    if dice.chance(0.4):  # striped wallpaper
        step = dice.real(0.06, 0.16) * w
        for x in np.arange(0, w, step):
            canvas.box(x, 0, x + 0.4 * step, horizon, mix(paper, (120, 100, 96), 0.2), WALL + 1)
    floor = dice.color(*_FLOORS)
    canvas.box(0, horizon, w, h, floor, FLOOR + 1)
    if dice.chance(0.6):  # boards that run towards the camera
        for x in np.arange(-w, 2 * w, dice.real(0.12, 0.25) * w):
            board = [(w / 2 + (x - w / 2) * 0.5, horizon), (x, h), (x + 1, h)]
            canvas.polygon(board, mix(floor, (40, 30, 24), 0.5), FLOOR + 1)
    canvas.box(0, horizon - 0.025 * h, w, horizon, mix(paper, (250, 250, 250), 0.5), WALL + 1)
    return int(horizon + 0.3 * (h - horizon)), int(0.97 * h)
