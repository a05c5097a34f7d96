"""A generated VOC-like data set: small drawn photos with tags, masks and context, no download.

Every image is a scene (railway, lake, street, meadow, room) with one main object, up to two more,
and clutter. What the classes look like is chosen so that the known failures of class activation
maps occur:

* partial activation: an object is one telling part (a cat's face, a train's front, a sail, wheels,
  a beak, flowers) and a larger rest whose colour is shared by other classes and by clutter;
* false activation: clutter that looks like a part (plates as yellow as a train's nose, tents like
  sails, tyres, bushes, cushions in fur colours), and reflections on water;
* co-occurrence: nearly every train stands on rails and few other images show rails, so tags alone
  cannot tell the two apart; less strictly, boats and water.

`person` is the common class, as in VOC. Objects hide one another, are cut by the frame, throw
shadows, and vary in size, light, haze and noise.

Truth. `label` holds the class of each pixel's object, and 255 where an outline passes through the
pixel (about one pixel wide, as in VOC). A class is tagged when at least MIN_SHARE of the image's
pixels show it; pixels of a class below that are 255, so tags and label always name the same
classes. `context` names the background seen at each pixel and is 0 on objects and clutter. It is
meant for scoring only: how many pixels of rails does a label map call train?

An image depends on (seed, index, size) alone, so sets of different `count` share their first
images. The constants below were set by looking at pictures, before any method ran on them.
"""

from collections.abc import Iterator

import numpy as np

from wsssjax.core.constants import BACKGROUND, IGNORE
from wsssjax.data.classes import SHAPES_CLASSES
from wsssjax.data.shapes_objects import CLUTTER, OBJECTS, Kind
from wsssjax.data.shapes_paint import FULL, Canvas, Dice, noise, paste
from wsssjax.data.shapes_scenes import CONTEXT_CLASSES, NONE, WATER, Scene, paint

__all__ = ["CONTEXT_CLASSES", "SHAPES_CLASSES", "generate", "split"]

MIN_SHARE = 0.006  # of the image's pixels; below it a class is neither tagged nor labelled
LONG_SIDE = (1.0, 1.34)  # longer / shorter side
LANDSCAPE = 0.7  # share of images that are wider than high
TRAIN_SHARE = 0.75  # of a data set; the rest is the test part

MAIN_CLASS = {
    "person": 0.24, "train": 0.15, "cat": 0.13, "boat": 0.12, "car": 0.13, "bird": 0.12,
    "plant": 0.11,
}  # fmt: skip
SCENES = {  # of each main class
    "person": {"street": 0.34, "room": 0.32, "meadow": 0.22, "lake": 0.08, "railway": 0.04},
    "train": {"railway": 0.96, "street": 0.04},
    "cat": {"room": 0.55, "meadow": 0.27, "street": 0.18},
    "boat": {"lake": 0.94, "meadow": 0.06},
    "car": {"street": 0.78, "meadow": 0.2, "railway": 0.02},
    "bird": {"meadow": 0.48, "lake": 0.3, "street": 0.17, "railway": 0.05},
    "plant": {"room": 0.6, "street": 0.22, "meadow": 0.18},
}
COMPANIONS = {0: 0.4, 1: 0.38, 2: 0.22}
COMPANY = {  # class of each further object
    "railway": {"person": 0.6, "bird": 0.25, "plant": 0.15},
    "lake": {"boat": 0.35, "bird": 0.35, "person": 0.3},
    "street": {"person": 0.42, "car": 0.26, "plant": 0.14, "bird": 0.1, "cat": 0.08},
    "meadow": {"person": 0.36, "bird": 0.22, "cat": 0.16, "car": 0.16, "plant": 0.1},
    "room": {"person": 0.42, "cat": 0.3, "plant": 0.28},
}
CLUTTER_COUNT = {0: 0.25, 1: 0.35, 2: 0.27, 3: 0.13}
LITTER = {  # kind of each piece of clutter
    "railway": {"sign": 0.4, "bush": 0.3, "crate": 0.15, "trunk": 0.15},
    "lake": {"rock": 0.4, "tent": 0.3, "sign": 0.15, "bush": 0.15},
    "street": {"sign": 0.3, "tyre": 0.2, "crate": 0.25, "trunk": 0.15, "bush": 0.1},
    "meadow": {"bush": 0.35, "rock": 0.25, "tent": 0.15, "trunk": 0.15, "tyre": 0.1},
    "room": {"rock": 0.45, "crate": 0.25, "tyre": 0.2, "bush": 0.1},
}
AHEAD = 0.4  # share of railways seen along the rails
COMPANION_SIZE = (0.5, 0.85)  # of the size it would have as the main object
MAX_OVERLAP = 0.5  # of the smaller of two boxes, when both are placed


class _Item:
    """An object or a piece of clutter with its place: box in pixels, feet on row `base`."""

    def __init__(self, label: int, kind: Kind, height: float, x: float, base: float):
        self.label, self.kind, self.base = label, kind, base
        self.h, self.w = max(6, int(height)), max(6, int(height * kind.aspect))
        self.top, self.left = int(base) - self.h, int(x - self.w / 2)

    def overlap(self, other: "_Item") -> float:
        """Share of the smaller box that the other one covers."""
        rows = min(self.top + self.h, other.top + other.h) - max(self.top, other.top)
        columns = min(self.left + self.w, other.left + other.w) - max(self.left, other.left)
        return max(rows, 0) * max(columns, 0) / min(self.h * self.w, other.h * other.w)


def generate(
    count: int, size: int = 96, seed: int = 0
) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Yields `count` times (id, image u8 [h,w,3], label u8 [h,w], tags f32 [k], context u8 [h,w]).

    size: the shorter side in pixels; the longer one is up to LONG_SIDE times that.
    label: index into SHAPES_CLASSES, 255 on outlines.  tags: SHAPES_CLASSES without background.
    context: index into CONTEXT_CLASSES.
    """
    if count < 0 or size < 32:
        raise ValueError(f"shapes: count={count}, size={size}; want count >= 0 and size >= 32")
    for index in range(count):
        attempt = 0
        while (drawn := _draw(Dice(seed, index, attempt), size)) is None:
            attempt += 1  # nothing of any class was left to see
        yield f"shapes_{index:05d}", *drawn


def split(count: int) -> tuple[list[str], list[str]]:
    """(train ids, test ids) of a set of `count` images: the first three quarters and the rest."""
    ids = [f"shapes_{index:05d}" for index in range(count)]
    cut = int(count * TRAIN_SHARE)
    return ids[:cut], ids[cut:]


def _draw(dice: Dice, size: int):
    """(image, label, tags, context), or None where no class is large enough for a tag."""
    long = int(size * dice.real(*LONG_SIDE))
    h, w = (size, long) if dice.chance(LANDSCAPE) else (long, size)
    main = dice.pick(MAIN_CLASS)
    place = dice.pick(SCENES[main])
    ahead = dice.chance(AHEAD)
    scene = paint(dice, place, h, w, ahead)
    items = _place(dice, scene, main, place, ahead, h, w)
    image_hwc, context_hw = scene.image_hwc, scene.context_hw
    label_hw = np.full((h, w), BACKGROUND, np.uint8)
    light = dice.real(-0.3, 0.3)
    for item in sorted(items, key=lambda item: item.base):
        _shadow(dice, item, image_hwc)
        _paint_item(dice, item, image_hwc, label_hw, context_hw, light)
    tags_k = np.zeros(len(SHAPES_CLASSES) - 1, np.float32)
    for label in range(1, len(SHAPES_CLASSES)):
        shown_hw = label_hw == label
        if shown_hw.sum() >= MIN_SHARE * h * w:
            tags_k[label - 1] = 1.0
        else:
            label_hw[shown_hw] = IGNORE
    if not tags_k.any():
        return None
    return _develop(dice, image_hwc, light), label_hw, tags_k, context_hw


# -------------------------------------------------------------------------------- composition


def _place(dice: Dice, scene: Scene, main: str, place: str, ahead: bool, h: int, w: int):
    """List of items of one image, the main object first."""
    short = min(h, w)
    items = [_main_item(dice, scene, main, ahead, h, w)]
    for _ in range(dice.pick(COMPANIONS)):
        name = dice.pick(COMPANY[place])
        kind = OBJECTS[name]
        height = dice.real(*kind.height) * dice.real(*COMPANION_SIZE) * short
        low = scene.ground[0] if scene.track is None and place != "railway" else int(0.9 * h)
        high = max(scene.ground[1], int(0.95 * h)) if name == "person" else scene.ground[1]
        label = SHAPES_CLASSES.index(name)
        for _ in range(6):
            item = _Item(label, kind, height, dice.real(0.05, 0.95) * w, dice.real(low, high))
            if all(item.overlap(other) <= MAX_OVERLAP for other in items):
                items.append(item)
                break
    for _ in range(dice.pick(CLUTTER_COUNT)):
        kind = CLUTTER[dice.pick(LITTER[place])]
        height = dice.real(*kind.height) * short
        base = dice.real(scene.ground[0], 1.02 * h)
        item = _Item(BACKGROUND, kind, height, dice.real(0.0, 1.0) * w, base)
        if item.overlap(items[0]) <= MAX_OVERLAP:
            items.append(item)
    return items


def _main_item(dice: Dice, scene: Scene, main: str, ahead: bool, h: int, w: int) -> _Item:
    label, x = SHAPES_CLASSES.index(main), dice.real(0.32, 0.68) * w
    if main != "train":
        kind = OBJECTS[main]
        height = dice.real(*kind.height) * min(h, w)
        low, high = scene.ground
        base = dice.real(low + 0.4 * (high - low), high)
        if main in ("person", "plant") and dice.chance(0.2):
            base += 0.25 * height  # cut by the lower edge of the frame
        return _Item(label, kind, height, x, max(base, 0.75 * height))
    if scene.track is None:
        kind = OBJECTS["train_ahead" if ahead else "train_across"]
        base = dice.real(*scene.ground)
        return _Item(label, kind, dice.real(*kind.height) * min(h, w), x, base)
    kind = OBJECTS["train_ahead"]
    base = dice.real(*scene.ground)
    vanish_x, horizon, width, lean = scene.track
    height = min(1.35 * width * (base - horizon), 0.85 * h)
    middle = vanish_x + (base - horizon) * lean
    return _Item(label, kind, height, middle, base)


# ------------------------------------------------------------------------------------ painting


def _shadow(dice: Dice, item: _Item, image_hwc: np.ndarray) -> None:
    """Darkens a flat ellipse of ground under an item."""
    h, w = image_hwc.shape[:2]
    rx, ry = 0.6 * item.w, 0.09 * item.h + 2
    top, bottom = max(int(item.base - ry), 0), min(int(item.base + ry) + 1, h)
    left, right = max(item.left - 2, 0), min(item.left + item.w + 2, w)
    if top >= bottom or left >= right:
        return
    y = (np.arange(top, bottom, dtype=np.float32) - np.float32(item.base)) / np.float32(ry)
    x = np.arange(left, right, dtype=np.float32) - np.float32(item.left + item.w / 2)
    far_hw = (y * y)[:, None] + ((x / np.float32(rx)) ** 2)[None]
    shade_hw = np.maximum(1 - far_hw, 0) * np.float32(dice.real(0.3, 0.6))
    image_hwc[top:bottom, left:right] *= (1 - shade_hw)[..., None]


def _reflect(dice: Dice, item: _Item, image_hwc, context_hw, layer_hwc, cover_hw) -> None:
    """Mirrors a drawn item in the water below its feet; the label there stays background."""
    before_hwc, dry_hw = image_hwc.copy(), context_hw != WATER
    strength = dice.real(0.2, 0.45)
    paste(image_hwc, layer_hwc[::-1], cover_hw[::-1], int(item.base), item.left, strength)
    image_hwc[dry_hw] = before_hwc[dry_hw]


def _paint_item(dice: Dice, item: _Item, image_hwc, label_hw, context_hw, light: float) -> None:
    """Writes one item into image, label and context."""
    canvas = Canvas(item.h, item.w, unit=item.h)
    item.kind.draw(canvas, dice)
    if dice.chance(0.5):
        canvas.mirror()
    sums_hwc, cover_hw = canvas.shrink()
    across = np.linspace(-light, light, item.w, dtype=np.float32)[None]
    down = np.linspace(0.1, -0.18, item.h, dtype=np.float32)[:, None]
    bumps_hw = noise(dice, item.h, item.w, 2) * 0.07 + noise(dice, item.h, item.w, 8) * 0.1
    layer_hwc = sums_hwc * (1 + across + down + bumps_hw)[..., None]
    _reflect(dice, item, image_hwc, context_hw, layer_hwc, cover_hw)
    rows, columns, cover = paste(image_hwc, layer_hwc, cover_hw, item.top, item.left)
    label, context = label_hw[rows, columns], context_hw[rows, columns]
    mixed = (cover >= 2) & (cover <= FULL - 2)
    if item.label == BACKGROUND:
        mixed &= label != BACKGROUND  # the outline of clutter matters only before an object
    label[cover > FULL // 2] = item.label
    label[mixed] = IGNORE
    context[cover > FULL // 2] = NONE


def _develop(dice: Dice, image_hwc: np.ndarray, light: float) -> np.ndarray:
    """u8 photo of the painted scene: light from one side, haze, exposure, tint, sensor noise."""
    h, w = image_hwc.shape[:2]
    across = np.linspace(-light, light, w, dtype=np.float32)[None, :, None]
    image_hwc = image_hwc * (1 + np.float32(0.5) * across)
    if dice.chance(0.3):
        image_hwc += (np.float32(dice.real(150, 215)) - image_hwc) * np.float32(dice.real(0.1, 0.4))
    gain, warmth = dice.real(0.68, 1.18), dice.real(-0.07, 0.07)
    image_hwc *= np.array([gain * (1 + warmth), gain, gain * (1 - warmth)], np.float32)
    grain = dice.grid(h, w) + dice.grid(h, w) - 1.0
    image_hwc += (grain * dice.real(4, 14)).astype(np.float32)[..., None]
    return np.clip(image_hwc, 0, 255).astype(np.uint8)
