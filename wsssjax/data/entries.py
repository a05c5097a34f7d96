"""What an example may hold, and the checks that transforms make on it."""

from typing import Any

import numpy as np

Example = dict[str, Any]

IMAGE_KEYS = ("image", "weak", "strong1", "strong2")
MASK_KEYS = ("label", "valid", "cut1", "cut2")
PIXEL_KEYS = (*IMAGE_KEYS, "saliency", *MASK_KEYS)  # entries of one height and width


def present(example: Example, keys: tuple[str, ...]) -> list[str]:
    """Those of `keys` that the example has, in their order."""
    return [key for key in keys if key in example]


def need(example: Example, *keys: str) -> None:
    """Nothing; a missing key is an error that lists the keys there are."""
    missing = [key for key in keys if key not in example]
    if missing:
        found = ", ".join(example) or "nothing"
        raise ValueError(f"{_title(example)} has no {', '.join(missing)}; it has {found}")


def refuse(example: Example, *keys: str) -> None:
    """Nothing; a key that is there already and would be overwritten is an error."""
    taken = present(example, keys)
    if taken:
        raise ValueError(
            f"{_title(example)} already has {', '.join(taken)}; use each of Views, CutBoxes once"
        )


def need_bytes(who: str, key: str, array: np.ndarray) -> None:
    """Nothing; an array that is not uint8 is an error. who: the transform that asks."""
    if array.dtype != np.uint8:
        raise ValueError(
            f"{who}: {key!r} is {array.dtype}, want uint8; put {who} before whatever normalises it"
        )


def image_size(example: Example) -> tuple[int, int]:
    """(h, w) shared by all pixel-aligned entries; an entry of another size is an error."""
    keys = present(example, PIXEL_KEYS)
    if not keys:
        need(example, "image")
    h, w = example[keys[0]].shape[:2]
    for key in keys[1:]:
        if example[key].shape[:2] != (h, w):
            other_h, other_w = example[key].shape[:2]
            raise ValueError(
                f"{_title(example)}: {key} has {other_h}x{other_w} pixels but {keys[0]} has "
                f"{h}x{w}; both must come from the same photo"
            )
    return h, w


def _title(example: Example) -> str:
    return f"example {example['name']!r}" if "name" in example else "example"
