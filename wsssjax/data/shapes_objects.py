"""Objects and clutter of the generated data set, drawn one unit high, y down, into a Canvas.

Each object has one part that says what it is (a face, a front, a sail, wheels, a beak, flowers)
and a rest whose colour is drawn from a wide palette that clutter and other classes share. That is
what makes class activation maps stop at the telling part.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from wsssjax.data.shapes_paint import BLACK, WHITE, Canvas, Color, Dice, mix

_FURS = ((196, 128, 70), (120, 116, 112), (60, 54, 52), (150, 108, 76), (222, 212, 196))
_CLOTHES = (
    (170, 50, 48), (56, 84, 150), (60, 120, 80), (220, 214, 204), (50, 50, 58),
    (200, 160, 70), (120, 80, 130), (130, 130, 134),
)
_SKINS = ((226, 180, 150), (190, 136, 100), (120, 80, 58), (240, 204, 180))
_HAIR = ((40, 30, 26), (96, 64, 40), (200, 170, 110), (130, 126, 124))
_PAINTS = (
    (176, 44, 44), (48, 80, 150), (52, 110, 84), (206, 204, 200), (70, 74, 82),
    (210, 170, 60), (150, 150, 154), (110, 66, 50),
)
_LEAVES = ((66, 112, 52), (92, 132, 60), (52, 92, 66), (120, 140, 66))
_PETALS = ((226, 80, 110), (240, 200, 70), (230, 120, 60), (200, 110, 210), (245, 240, 236))
_FEATHERS = ((70, 66, 66), (236, 232, 226), (130, 96, 70), (84, 120, 170), (176, 170, 160))
_POTS = ((176, 96, 66), (150, 146, 140), (84, 100, 130), (206, 196, 180))
_ROCKS = ((120, 116, 112), (150, 132, 110), (96, 88, 84), (186, 176, 160))


class Kind(NamedTuple):
    """How an object is drawn: `draw(canvas, dice)` into aspect x 1 units."""

    draw: Callable[[Canvas, Dice], None]
    aspect: float  # width / height
    height: tuple[float, float]  # share of the image's shorter side, when it is the main object


def _limbs(canvas: Canvas, dice: Dice, xs, top: float, width: float, color: Color) -> None:
    for x in xs:
        foot = x + dice.real(-0.03, 0.03)
        canvas.stroke([(x, top), (foot, 0.985)], width, color)


# ----------------------------------------------------------------------------------- objects


def person(canvas: Canvas, dice: Dice) -> None:
    """Face and hair tell; clothes are any colour, plain, striped or with a bag."""
    skin, hair = dice.color(*_SKINS, spread=10), dice.color(*_HAIR, spread=10)
    shirt, trousers = dice.color(*_CLOTHES), dice.color(*_CLOTHES)
    spread = dice.real(0.04, 0.1)
    for side in (-1, 1):
        knee = (0.25 + side * (0.06 + spread / 2), 0.76)
        canvas.stroke([(0.25 + side * 0.05, 0.54), knee, (0.25 + side * (0.05 + spread), 0.97)],
                      0.095, trousers)
        canvas.ellipse(0.25 + side * (0.06 + spread), 0.975, 0.055, 0.022, BLACK)
        hand = (0.25 + side * dice.real(0.14, 0.21), dice.real(0.3, 0.58))
        elbow = (0.25 + side * 0.18, 0.4)
        canvas.stroke([(0.25 + side * 0.1, 0.23), elbow, hand], 0.065, mix(shirt, BLACK, 0.15))
        canvas.ellipse(*hand, 0.032, 0.03, skin)
    canvas.polygon([(0.12, 0.2), (0.38, 0.2), (0.36, 0.57), (0.14, 0.57)], shirt, part=2)
    if dice.chance(0.4):
        stripe = dice.color(*_CLOTHES)
        for y in np.arange(0.24, 0.56, dice.real(0.07, 0.12)):
            canvas.box(0, y, 0.5, y + 0.03, stripe, inside=2)
    canvas.box(0.215, 0.15, 0.285, 0.22, mix(skin, BLACK, 0.15))
    canvas.ellipse(0.25, 0.09, 0.078, 0.088, hair)
    canvas.ellipse(0.25, 0.105, 0.062, 0.074, skin)
    for side in (-1, 1):
        canvas.ellipse(0.25 + side * 0.026, 0.095, 0.011, 0.011, BLACK)
    canvas.box(0.23, 0.138, 0.27, 0.148, (160, 70, 66))


def cat(canvas: Canvas, dice: Dice) -> None:
    """The face tells: ears, green eyes, muzzle, stripes. The body is plain fur."""
    fur = dice.color(*_FURS)
    dark = mix(fur, BLACK, 0.22)
    if dice.chance(0.5):  # walking
        canvas.stroke([(1.1, 0.5), (1.22, 0.36), (1.2, 0.12)], 0.075, dark)
        _limbs(canvas, dice, (0.52, 1.0), 0.62, 0.1, dark)
        canvas.blob(dice, 0.74, 0.58, 0.46, 0.21, fur, rough=0.06)
        _limbs(canvas, dice, (0.42, 1.08), 0.62, 0.11, fur)
        x, y = 0.3, 0.36
    else:  # sitting
        canvas.stroke([(0.85, 0.92), (1.1, 0.9), (1.16, 0.7)], 0.075, dark)
        canvas.blob(dice, 0.66, 0.72, 0.3, 0.27, fur, rough=0.06)
        canvas.polygon([(0.46, 0.4), (0.78, 0.42), (0.9, 0.95), (0.42, 0.97)], fur)
        _limbs(canvas, dice, (0.5, 0.64), 0.65, 0.1, mix(fur, WHITE, 0.08))
        x, y = 0.58, 0.3
    for side in (-1, 1):
        outer = ((0.04, -0.15), (0.19, -0.28), (0.22, -0.04))
        inner = ((0.09, -0.13), (0.17, -0.22), (0.18, -0.09))
        canvas.polygon([(x + side * dx, y + dy) for dx, dy in outer], fur)
        canvas.polygon([(x + side * dx, y + dy) for dx, dy in inner], (220, 150, 146))
    canvas.ellipse(x, y, 0.23, 0.2, fur, part=2)
    for shift in (-0.07, 0.0, 0.07):
        canvas.stroke([(x + shift, y - 0.22), (x + 0.7 * shift, y - 0.09)], 0.03, dark, inside=2)
    canvas.ellipse(x, y + 0.1, 0.11, 0.075, mix(fur, WHITE, 0.7))
    for side in (-1, 1):
        canvas.ellipse(x + side * 0.095, y - 0.01, 0.056, 0.05, (176, 206, 70))
        canvas.ellipse(x + side * 0.095, y - 0.01, 0.02, 0.045, BLACK)
        canvas.stroke([(x + side * 0.08, y + 0.1), (x + side * 0.26, y + 0.07)], 0.014, WHITE)
    canvas.polygon([(x - 0.035, y + 0.06), (x + 0.035, y + 0.06), (x, y + 0.1)], (206, 110, 116))


def train_across(canvas: Canvas, dice: Dice) -> None:
    """Seen from the side. The nose tells: yellow, with windscreen and lamp; coaches are plain."""
    paint, band = dice.color(*_PAINTS), dice.color(*_PAINTS)
    canvas.box(0.2, 0.84, 2.75, 0.93, (44, 42, 44))
    for x in (0.42, 0.72, 1.32, 1.62, 2.2, 2.5):
        canvas.ellipse(x, 0.9, 0.09, 0.09, (40, 38, 40))
        canvas.ellipse(x, 0.9, 0.035, 0.035, (120, 118, 116))
    slant = dice.real(0.15, 0.5)
    body = [(slant, 0.16), (2.78, 0.16), (2.78, 0.86), (0.06, 0.86), (0.04, 0.62)]
    canvas.polygon(body, paint, part=2)
    canvas.polygon([(slant, 0.16), (slant + 0.1, 0.1), (2.78, 0.1), (2.78, 0.18)],
                   mix(paint, (150, 150, 150), 0.6))
    canvas.box(0, 0.66, 2.8, 0.73, band, inside=2)
    glass = dice.color((52, 64, 80), (100, 120, 136), spread=10)
    step = dice.real(0.24, 0.34)
    for x in np.arange(0.85, 2.6, step):
        canvas.box(x, 0.28, x + 0.68 * step, 0.52, glass, inside=2)
    canvas.box(1.66, 0.1, 1.7, 0.9, mix(paint, BLACK, 0.6), inside=2)
    yellow = dice.color((240, 196, 40), (236, 150, 40), spread=10)
    canvas.polygon([(0, 0.5), (0.62, 0.5), (0.5, 0.9), (0, 0.9)], yellow, inside=2)
    screen = [(slant - 0.02, 0.22), (slant + 0.3, 0.22), (slant + 0.24, 0.47), (0.1, 0.47)]
    canvas.polygon(screen, (30, 36, 46), inside=2)
    canvas.ellipse(0.17, 0.68, 0.06, 0.06, (255, 250, 220))
    canvas.box(0.3, 0.62, 0.36, 0.74, (200, 40, 36), inside=2)


def train_ahead(canvas: Canvas, dice: Dice) -> None:
    """Seen from the front, its coaches going back to one side."""
    paint, band = dice.color(*_PAINTS), dice.color(*_PAINTS)
    length, drop = dice.real(0.35, 0.75), dice.real(0.12, 0.22)
    side = [(0.62, 0.1), (0.62 + length, 0.1 + drop), (0.62 + length, 0.88 - drop), (0.62, 0.9)]
    canvas.polygon(side, mix(paint, BLACK, 0.2), part=2)
    glass = dice.color((52, 64, 80), (100, 120, 136), spread=10)
    for start in np.arange(0.08, 0.85, 0.22):
        x0, x1 = 0.62 + length * start, 0.62 + length * (start + 0.13)
        y0, y1 = 0.26 + 0.8 * drop * start, 0.5 - 0.2 * drop * start
        canvas.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], glass, inside=2)
    canvas.polygon([(0.62, 0.66), (1.4, 0.58), (1.4, 0.63), (0.62, 0.74)], band, inside=2)
    canvas.box(0.08, 0.84, 0.58, 0.97, (40, 38, 40))
    front = [(0.1, 0.06), (0.54, 0.06), (0.64, 0.16), (0.64, 0.92), (0.02, 0.92), (0.02, 0.16)]
    canvas.polygon(front, paint, part=3)
    yellow = dice.color((240, 196, 40), (236, 150, 40), spread=10)
    canvas.box(0, 0.5, 0.66, 0.84, yellow, inside=3)
    canvas.box(0.08, 0.2, 0.31, 0.45, (30, 36, 46), inside=3)
    canvas.box(0.35, 0.2, 0.58, 0.45, (30, 36, 46), inside=3)
    for x in (0.12, 0.54):
        canvas.ellipse(x, 0.66, 0.06, 0.06, (255, 250, 220))
    canvas.box(0.27, 0.6, 0.39, 0.74, (200, 40, 36))


def boat(canvas: Canvas, dice: Dice) -> None:
    """The sail tells (or cabin and funnel of a motor boat); the hull is any colour."""
    hull = dice.color(*_PAINTS)
    if dice.chance(0.7):
        canvas.box(0.5, 0.02, 0.53, 0.82, (110, 84, 60))
        cloth = dice.color((246, 242, 232), (236, 226, 206), (224, 96, 70), spread=8)
        lean = dice.real(0.0, 0.1)
        canvas.polygon([(0.54, 0.03), (0.95 + lean, 0.68), (0.54, 0.7)], cloth, part=2)
        jib = [(0.48, 0.1), (0.14 - 0.5 * lean, 0.68), (0.48, 0.7)]
        canvas.polygon(jib, mix(cloth, BLACK, 0.12))
        for y in (0.3, 0.5):
            canvas.box(0.5, y, 1.1, y + 0.03, mix(cloth, (60, 80, 140), 0.7), inside=2)
    else:
        canvas.box(0.3, 0.42, 0.82, 0.78, WHITE)
        canvas.box(0.4, 0.24, 0.66, 0.44, mix(hull, WHITE, 0.5))
        for x in (0.35, 0.52, 0.69):
            canvas.box(x, 0.5, x + 0.09, 0.6, (52, 70, 92))
        canvas.box(0.68, 0.18, 0.78, 0.44, (200, 70, 50))
        canvas.stroke([(0.32, 0.42), (0.32, 0.08)], 0.02, (90, 80, 70))
    canvas.polygon([(0.02, 0.74), (1.13, 0.72), (0.98, 0.97), (0.2, 0.98)], hull, part=3)
    canvas.box(0, 0.76, 1.2, 0.81, mix(hull, WHITE, 0.6), inside=3)


def car(canvas: Canvas, dice: Dice) -> None:
    """Wheels and lamps tell; the body is any paint."""
    paint = dice.color(*_PAINTS)
    roof, tail = dice.real(0.02, 0.12), dice.real(1.5, 1.85)
    body = [(0.04, 0.5), (0.45, 0.44), (0.72, roof), (tail - 0.2, roof), (tail + 0.12, 0.44)]
    body += [(2.0, 0.5), (2.04, 0.84), (0.02, 0.84)]
    canvas.polygon(body, paint, part=2)
    glass = dice.color((60, 72, 86), (130, 150, 164), spread=10)
    middle = (0.75 + tail) / 2
    canvas.polygon([(0.56, 0.44), (0.77, roof + 0.07), (middle - 0.04, roof + 0.07),
                    (middle - 0.04, 0.44)], glass)
    canvas.polygon([(middle + 0.04, 0.44), (middle + 0.04, roof + 0.07),
                    (tail - 0.22, roof + 0.07), (tail + 0.02, 0.44)], glass)
    canvas.box(0, 0.72, 2.1, 0.76, mix(paint, BLACK, 0.35), inside=2)
    canvas.box(middle - 0.01, 0.46, middle + 0.01, 0.82, mix(paint, BLACK, 0.4), inside=2)
    canvas.ellipse(0.1, 0.57, 0.07, 0.06, (255, 244, 200))
    canvas.box(1.94, 0.52, 2.04, 0.62, (210, 40, 36), inside=2)
    for x in (0.45, 1.6):
        canvas.ellipse(x, 0.8, 0.2, 0.19, (26, 26, 28))
        canvas.ellipse(x, 0.8, 0.1, 0.095, (190, 190, 192))


def bird(canvas: Canvas, dice: Dice) -> None:
    """Beak and head tell; body and wing are plain feathers."""
    feather = dice.color(*_FEATHERS)
    dark = mix(feather, BLACK, 0.35)
    for x in (0.6, 0.72):
        canvas.stroke([(x, 0.75), (x - 0.02, 0.98)], 0.028, (190, 120, 50))
        canvas.stroke([(x - 0.1, 0.98), (x + 0.05, 0.98)], 0.028, (190, 120, 50))
    canvas.polygon([(0.9, 0.5), (1.32, 0.66), (1.3, 0.78), (0.85, 0.72)], dark)
    canvas.ellipse(0.68, 0.58, 0.36, 0.24, feather, tilt=0.0)
    canvas.polygon([(0.3, 0.3), (0.52, 0.22), (0.8, 0.5), (0.36, 0.62)], feather)
    if dice.chance(0.5):
        canvas.ellipse(0.46, 0.58, 0.13, 0.15, dice.color((206, 90, 56), (236, 220, 180)))
    canvas.polygon([(0.6, 0.42), (1.12, 0.66), (0.78, 0.72), (0.6, 0.6)], dark)
    canvas.ellipse(0.4, 0.22, 0.18, 0.17, mix(feather, dice.color(*_FEATHERS), 0.4))
    canvas.polygon([(0.02, 0.25), (0.27, 0.13), (0.27, 0.31)], (240, 150, 40))
    canvas.ellipse(0.35, 0.18, 0.045, 0.045, WHITE)
    canvas.ellipse(0.345, 0.18, 0.026, 0.026, BLACK)


def plant(canvas: Canvas, dice: Dice) -> None:
    """Flowers tell; leaves look like bushes and the pot is any pottery."""
    leaf = dice.color(*_LEAVES)
    for _ in range(dice.whole(13, 18)):
        x, y = dice.real(0.12, 0.68), dice.real(0.12, 0.6)
        shade = mix(leaf, BLACK if dice.chance(0.5) else WHITE, dice.real(0.0, 0.25))
        canvas.stroke([(0.4, 0.7), (x, y)], 0.025, mix(leaf, BLACK, 0.3))
        canvas.ellipse(x, y, 0.11, 0.07, shade, tilt=dice.real(-0.8, 0.8))
    petals = dice.color(*_PETALS)
    for _ in range(dice.whole(3, 6)):
        x, y = dice.real(0.14, 0.66), dice.real(0.1, 0.42)
        for dx, dy in ((-0.05, 0), (0.05, 0), (0, -0.05), (0, 0.05)):
            canvas.ellipse(x + dx, y + dy, 0.045, 0.045, petals)
        canvas.ellipse(x, y, 0.03, 0.03, (250, 220, 90))
    pot = dice.color(*_POTS)
    canvas.polygon([(0.2, 0.68), (0.6, 0.68), (0.54, 0.99), (0.26, 0.99)], pot)
    canvas.box(0.17, 0.64, 0.63, 0.73, mix(pot, WHITE, 0.15))


# ----------------------------------------------------------------------------------- clutter


def rock(canvas: Canvas, dice: Dice) -> None:
    """Boulder or cushion in the colours of fur and stone: a body without a head."""
    color = dice.color(*_ROCKS, *_FURS)
    canvas.blob(dice, 0.7, 0.55, 0.58, 0.4, color, rough=0.15)
    canvas.blob(dice, 0.55, 0.42, 0.25, 0.16, mix(color, WHITE, 0.15), rough=0.15)


def bush(canvas: Canvas, dice: Dice) -> None:
    """Leaves without pot or flowers."""
    leaf = dice.color(*_LEAVES)
    canvas.blob(dice, 0.6, 0.65, 0.5, 0.33, mix(leaf, BLACK, 0.2), rough=0.15)
    for _ in range(14):
        shade = mix(leaf, BLACK if dice.chance(0.5) else WHITE, dice.real(0.0, 0.25))
        canvas.ellipse(dice.real(0.2, 1.0), dice.real(0.25, 0.9), 0.12, 0.08, shade)


def crate(canvas: Canvas, dice: Dice) -> None:
    """Box in the paints of cars, trains and hulls."""
    paint = dice.color(*_PAINTS)
    canvas.box(0.05, 0.1, 1.05, 0.98, paint)
    canvas.polygon([(1.05, 0.1), (1.17, 0.03), (1.17, 0.9), (1.05, 0.98)], mix(paint, BLACK, 0.35))
    for x in (0.3, 0.55, 0.8):
        canvas.box(x, 0.1, x + 0.03, 0.98, mix(paint, BLACK, 0.3))


def sign(canvas: Canvas, dice: Dice) -> None:
    """Post with a plate, often as yellow as the nose of a train."""
    canvas.box(0.22, 0.2, 0.27, 1.0, (96, 96, 100))
    plate = dice.color((240, 196, 40), (206, 50, 44), (60, 96, 170), (230, 230, 226))
    canvas.box(0.06, 0.03, 0.44, 0.3, plate)
    canvas.box(0.12, 0.13, 0.38, 0.19, mix(plate, BLACK, 0.75))


def tyre(canvas: Canvas, dice: Dice) -> None:
    """Wheel without a car, or a ball."""
    rubber = dice.color((30, 30, 32), (30, 30, 32), (180, 60, 50), spread=8)
    canvas.ellipse(0.5, 0.52, 0.46, 0.46, rubber)
    canvas.ellipse(0.5, 0.52, 0.22, 0.22, dice.color((150, 150, 152), (90, 84, 80)))


def tent(canvas: Canvas, dice: Dice) -> None:
    """Bright triangle: a sail on land."""
    cloth = dice.color((240, 236, 226), (224, 96, 70), (214, 190, 120), spread=12)
    canvas.polygon([(0.6, 0.05), (1.15, 0.98), (0.05, 0.98)], cloth)
    canvas.polygon([(0.6, 0.05), (0.76, 0.98), (0.46, 0.98)], mix(cloth, BLACK, 0.45))


def trunk(canvas: Canvas, dice: Dice) -> None:
    """Trunk or lamp post that rises beyond the objects and often stands before them."""
    color = dice.color((86, 66, 50), (110, 108, 108), (64, 60, 56))
    canvas.polygon([(0.12, 0.0), (0.22, 0.0), (0.25, 1.0), (0.08, 1.0)], color)


OBJECTS = {
    "person": Kind(person, 0.5, (0.55, 0.9)),
    "train_across": Kind(train_across, 2.8, (0.4, 0.58)),
    "train_ahead": Kind(train_ahead, 1.4, (0.5, 0.75)),
    "cat": Kind(cat, 1.3, (0.42, 0.75)),
    "boat": Kind(boat, 1.2, (0.45, 0.75)),
    "car": Kind(car, 2.1, (0.28, 0.45)),
    "bird": Kind(bird, 1.35, (0.35, 0.62)),
    "plant": Kind(plant, 0.8, (0.45, 0.8)),
}
CLUTTER = {
    "rock": Kind(rock, 1.4, (0.15, 0.32)),
    "bush": Kind(bush, 1.2, (0.2, 0.42)),
    "crate": Kind(crate, 1.2, (0.15, 0.3)),
    "sign": Kind(sign, 0.5, (0.35, 0.6)),
    "tyre": Kind(tyre, 1.0, (0.12, 0.25)),
    "tent": Kind(tent, 1.2, (0.18, 0.35)),
    "trunk": Kind(trunk, 0.33, (0.6, 1.1)),
}
