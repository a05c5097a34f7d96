"""A grid: values for some fields of a recipe's config, and the cells that they span."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Sequence
from typing import NamedTuple

from wsssjax.core import config as configs
from wsssjax.core.config import choose, near
from wsssjax.steps import sets
from wsssjax.steps.arms import ARMS

# Short names of the fields that ablations vary; any other field goes by its own name.
FIELDS = {
    "pair": "pair", "quota": "select.quota_spec", "iou": "select.kind", "score": "select.score",
    "keep": "select.keep", "min_iou": "select.min_iou", "method": "segmenter.method",
    "seed": "segmenter.seed", "images": "labelled.images", "pixels": "labelled.pixels",
}
NO_ARM = "none"  # of an arm: the selection alone, nothing is trained
ORDER = ("pair", "quota", "iou", "score", "keep", "min_iou", "images", "pixels", "method", "seed",
         "arm")  # cells that share most steps lie together


class Axis(NamedTuple):
    """name: `arm`, a key of FIELDS, or a field of the config.  values: as text."""

    name: str
    values: tuple[str, ...]


def read_axis(text: str) -> Axis:
    """An axis from `seed=0,1,2`, `pair=A:B+,A:B` or `quota=["voc/92", "{\\"cat\\": 3}"]`.

    One value in braces has its commas for itself: `quota={"cat": 3, "dog": 2}`.
    """
    name, equals, values = text.partition("=")
    if not equals or not values:
        raise ValueError(f"--axis={text}: want NAME=VALUE,VALUE, such as seed=0,1,2")
    found: Sequence = [values] if values.startswith("{") else values.split(",")
    if values.startswith("["):
        try:
            found = [value if isinstance(value, str) else repr(value)
                     for value in ast.literal_eval(values)]
        except (ValueError, SyntaxError):
            raise ValueError(f"--axis={text}: no readable list; want [\"a\", \"b\"]") from None
    if len(set(found)) < len(found):
        raise ValueError(f"--axis={text}: a value stands twice")
    if name == "arm":
        for value in found:
            choose(dict.fromkeys([*ARMS, NO_ARM]), value, "--axis=arm")
    elif name not in FIELDS and "." not in name:
        raise ValueError(f"--axis={name}: no such axis{near(name, ['arm', *FIELDS])}; or want a "
                         "field of the config, such as cam_b.infer.threshold")
    return Axis(name, tuple(found))


def cells(axes: Sequence[Axis]) -> list[dict[str, str]]:
    """{axis: value} of every point of the grid, in an order in which neighbours share steps."""
    names = [axis.name for axis in axes]
    if len(set(names)) < len(names):
        raise ValueError(f"--axis: {max(names, key=names.count)} stands twice; name it once, its "
                         "values by comma")
    axes = sorted(axes, key=lambda a: ORDER.index(a.name) if a.name in ORDER else -1)
    if "arm" not in names:
        axes.append(Axis("arm", ("S",)))
    return [dict(zip([a.name for a in axes], values, strict=True))
            for values in itertools.product(*(a.values for a in axes))]


def config_of(spec: str, overrides: dict[str, str], cell: dict[str, str]):
    """The recipe's config at a cell; its `arms` are the cell's alone.

    An axis changes the one field that it names: the seed of the segmenter is one with that of the
    recipe in its file, and labels would else be made anew for each seed.
    """
    config = configs.load(spec, overrides).copy_and_resolve_references()
    changes = {}
    for name, value in cell.items():
        if name == "pair":
            changes["pair"] = value.replace(":", ",")
        elif name != "arm":
            changes[FIELDS.get(name, name)] = value
    for name, value in changes.items():
        configs.override(config, name, value)
    with config.unlocked():
        config.arms = () if cell["arm"] == NO_ARM else (cell["arm"],)
    return config


def describe(config, cell: dict[str, str]) -> dict:
    """The cell as tables read it: every short name with its value in the config, and more axes."""
    whole = configs.to_dict(config)

    def value(field):
        node = whole
        for part in field.split("."):
            node = node[part]
        return node

    found = {name: value(field) for name, field in FIELDS.items()}
    found |= {name: value(name) for name in cell if name not in (*FIELDS, "arm")}
    found["pair"] = list(sets.pair(config))
    found["min_iou"] = found["min_iou"] or None
    return found | {"arm": cell["arm"]}
