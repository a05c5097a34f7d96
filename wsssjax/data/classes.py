"""Class names in the order of label maps; index 0 is the background where a set has one.

Scenes that are labelled throughout (cityscapes, ade20k) have none: class 0 is one like the others.
"""

from __future__ import annotations

import difflib
import os
import pathlib

from wsssjax.core.constants import IGNORE
from wsssjax.data.classes_ade20k import ADE20K_CLASSES

VOC_CLASSES = tuple(
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse "
    "motorbike person pottedplant sheep sofa train tvmonitor".split()
)
COCO_CLASSES = tuple(
    "background,person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,"
    "fire hydrant,stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,"
    "giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,"
    "baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,fork,"
    "knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,"
    "couch,potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,"
    "microwave,oven,toaster,sink,refrigerator,book,clock,vase,scissors,teddy bear,hair drier,"
    "toothbrush".split(",")
)
# Category ids of COCO_CLASSES[1:] in annotation files. Ten numbers below 90 were given to things
# that nobody annotated.
COCO_IDS = tuple(i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
SHAPES_CLASSES = ("background", "person", "train", "cat", "boat", "car", "bird", "plant")
CITYSCAPES_CLASSES = tuple(  # in the order of its train ids
    "road,sidewalk,building,wall,fence,pole,traffic light,traffic sign,vegetation,terrain,sky,"
    "person,rider,car,truck,bus,train,motorcycle,bicycle".split(",")
)
CLASS_SETS = {"voc": VOC_CLASSES, "coco": COCO_CLASSES, "shapes": SHAPES_CLASSES}
SCENE_SETS = {"cityscapes": CITYSCAPES_CLASSES, "ade20k": ADE20K_CLASSES}  # no background
BACKGROUND_NAME = "background"


def read_class_names(classes: str | os.PathLike) -> tuple[str, ...]:
    """All class names; background first, unless the set has none (cityscapes, ade20k).

    classes: a key of CLASS_SETS or SCENE_SETS, or a text file with one name a line. The file may
        leave the background out: it is put in front where the first line is not `background`.
        Blank lines are dropped.
    """
    sets = CLASS_SETS | SCENE_SETS
    if str(classes) in sets:
        return sets[str(classes)]
    path = pathlib.Path(classes)
    if not path.is_file():
        known = ", ".join(sets)
        raise FileNotFoundError(f"classes {str(classes)!r}: want {known} or a file of class names")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a UTF-8 text file; want one class name a line") from None
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if names[:1] != [BACKGROUND_NAME]:
        names.insert(0, BACKGROUND_NAME)
    return check_class_names(names, path)


def check_class_names(names: list[str], path: str | os.PathLike) -> tuple[str, ...]:
    """The same names as a tuple, once they can be told apart in tags and label maps."""
    if len(names) < 2:
        raise ValueError(f"{path}: names no class besides the background; want one name a line")
    if len(names) > IGNORE:
        raise ValueError(
            f"{path}: {len(names)} classes with the background; an 8-bit label map holds {IGNORE}, "
            "leave some out"
        )
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{path}: class {name!r} stands twice; keep one of them")
        if any(mark in name for mark in ",;\"") or not name.isprintable():
            raise ValueError(f"{path}: class {name!r} has a comma, semicolon or quote; rename it")
    return tuple(names)


def need_background(class_names: tuple[str, ...], who: str) -> tuple[str, ...]:
    """The same names; ValueError where class 0 is no background, which tags and label refinement
    leave out.

    who: what needs it, for the message.
    """
    if class_names[0] != BACKGROUND_NAME:
        raise ValueError(f"{who}: class 0 of these {len(class_names)} classes is "
                         f"{class_names[0]!r}, not {BACKGROUND_NAME!r}; name classes that have one,"
                         " such as voc or coco")
    return class_names


def unknown_class(name: str, class_names: tuple[str, ...]) -> str:
    """What to tell about a name that is no foreground class, the nearest names included."""
    near = difflib.get_close_matches(name, class_names[1:], n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"want one of {_some(class_names[1:])}"
    return f"unknown class {name[:80]!r}; {hint}"


def _some(names: tuple[str, ...], limit: int = 5) -> str:
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")
