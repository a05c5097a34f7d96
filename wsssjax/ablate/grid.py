"""Grids: the axes that a person or a table of the paper asks for, and the cells that they span."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Sequence
from typing import NamedTuple

from wsssjax.core import config as configs
from wsssjax.core.config import choose, near
from wsssjax.steps import sets
from wsssjax.steps.arms import ARMS, SUPERVISED

# Short names of the fields that ablations vary; any other field goes by its own name.
FIELDS = {
    "pair": "pair", "quota": "select.quota_spec", "iou": "select.kind", "score": "select.score",
    "keep": "select.keep", "min_iou": "select.min_iou", "method": "segmenter.method",
    "tags": "segmenter_tags",
    "seed": "segmenter.seed", "images": "labelled.images", "pixels": "labelled.pixels",
}
NO_ARM = "none"  # of an arm: the selection alone, nothing is trained
ORDER = ("pair", "quota", "iou", "score", "keep", "min_iou", "images", "pixels", "method", "tags",
         "seed", "arm")  # cells that share most steps lie together
NUMBER = "{quota}"  # in config.listed: the number of a quota, 92 of voc/92


class Axis(NamedTuple):
    """name: `arm`, a key of FIELDS, or a field of the config.  values: as text."""

    name: str
    values: tuple[str, ...]


# ---- the paper's grids ----------------------------------------------------------------------

SEEDS = Axis("seed", ("0", "1", "2"))
QUOTAS = Axis("quota", ("voc/92", "voc/183", "voc/366", "voc/732", "voc/1464"))
PAIRS = Axis("pair", ("A:B+", "B:B+", "A+:B+", "A:B"))
MAIN = Axis("pair", ("A:B+",))
ALONE = Axis("arm", (NO_ARM,))

# Grids of each table, whose cells are put together; what a grid does not name is the config's.
GRIDS = {
    "protocol": [[Axis("arm", ("S", "M", "Q", "U", "ALL", "T", "Tall", "S-sup")), SEEDS]],
    "3": [[QUOTAS, ALONE]],
    "4": [[Axis("pair", ("A:B+", "A+:B+")), ALONE], [MAIN, Axis("finish_a", ("crf",)), ALONE]],
    "5": [[Axis("arm", ("S",)), SEEDS]],
    "6": [[PAIRS, Axis("quota", ("none",)), Axis("min_iou", ("0.9",)), ALONE]],
    "7": [[PAIRS, Axis("arm", ("S",)), SEEDS], [MAIN, Axis("arm", ("U",)), SEEDS]],
    "8": [[QUOTAS, Axis("arm", ("S", "U")), SEEDS]],
    "figure1": [[ALONE]],
}
UNSELECTED = ("7", "8")  # tables whose arm U gives way to a list, where there is one


def all_cells(table: str, axes: Sequence[Axis], listed: bool = False) -> list[dict[str, str]]:
    """{axis: value} of the cells of all grids of a table ("" for none), each once.

    axes: what a person asked for: they replace those of the grids.  listed: whether there is a
    list of images to be labelled without selection.
    """
    names = [axis.name for axis in axes]
    if len(set(names)) < len(names):
        raise ValueError(f"--axis: {max(names, key=names.count)} stands twice; name it once, its "
                         "values by comma")
    wanted, found = {axis.name: axis for axis in axes}, []
    for grid in choose(GRIDS, table, "--table") if table else [[]]:
        whole = [wanted.get(axis.name, _listed(axis) if listed and table in UNSELECTED else axis)
                 for axis in grid]
        whole += [axis for axis in axes if axis.name not in {a.name for a in grid}]
        found += [cell for cell in cells(whole) if cell not in found]
    return found


def _listed(axis: Axis) -> Axis:
    return Axis(axis.name, tuple("L" if axis.name == "arm" and value == "U" else value
                                 for value in axis.values))


# ---- axes and cells -------------------------------------------------------------------------


def read_axis(text: str) -> Axis:
    """An axis from `seed=0,1,2`, `pair=A:B+,A:B` or `finish_a=["", "crf"]`.

    One value in braces has its commas for itself: `quota={"cat": 3, "dog": 2}`. A field that has a
    short name goes by that.
    """
    name, equals, values = text.partition("=")
    if not equals or not values:
        raise ValueError(f"--axis={text}: want NAME=VALUE,VALUE, such as seed=0,1,2")
    found: Sequence = [values] if values.startswith("{") else values.split(",")
    if values.startswith("["):
        try:
            found = [value if isinstance(value, str) else repr(value)
                     for value in ast.literal_eval(values)]
        except (ValueError, SyntaxError, TypeError):
            raise ValueError(f"--axis={text}: no readable list; want [\"a\", \"b\"]") from None
    if not found:
        raise ValueError(f"--axis={text}: has no value; want one or more, such as seed=0,1,2")
    if len(set(found)) < len(found):
        raise ValueError(f"--axis={text}: a value stands twice")
    if name == "arms":
        raise ValueError(f"--axis={text}: a cell has one arm; want --axis=arm={values}")
    if name == "arm":
        for value in found:
            choose(dict.fromkeys([*ARMS, NO_ARM]), value, "--axis=arm")
    short = {field: key for key, field in FIELDS.items()}
    return Axis(short.get(name, name), tuple(found))


def cells(axes: Sequence[Axis]) -> list[dict[str, str]]:
    """{axis: value} of every point of the grid, in an order in which neighbours share steps."""
    axes = sorted(axes, key=lambda a: ORDER.index(a.name) if a.name in ORDER else -1)
    if "arm" not in [axis.name for axis in axes]:
        axes.append(Axis("arm", ("S",)))
    return [dict(zip([a.name for a in axes], values, strict=True))
            for values in itertools.product(*(a.values for a in axes))]


def load(spec: str, overrides: dict[str, str]):
    """The recipe's config without any axis."""
    if "arms" in overrides:
        raise ValueError(f"--config.arms={overrides['arms']}: an ablation has one arm a cell; want "
                         f"--axis=arm={overrides['arms']}")
    config = configs.load(spec, overrides)
    if "arms" not in config:
        raise ValueError(f"--config={spec}: is no recipe; want one such as "
                         "configs/paper_voc_lite.py")
    return config


def config_of(spec: str, overrides: dict[str, str], cell: dict[str, str]):
    """The recipe's config at a cell; its `arms` are the cell's alone.

    An axis changes the one field that it names: the seed of the segmenter is one with that of the
    recipe in its file, and labels would else be made anew for each seed.
    """
    config = load(spec, overrides).copy_and_resolve_references()
    for name, value in cell.items():
        if name == "arm":
            continue
        if name.partition(".")[0] not in (*config, *FIELDS):
            raise ValueError(f"--axis={name}: no such axis{near(name, ['arm', *FIELDS, *config])}")
        configs.override(config, FIELDS.get(name, name),
                         value.replace(":", ",") if name == "pair" else value)
    with config.unlocked():
        config.arms = () if cell["arm"] == NO_ARM else (cell["arm"],)
    _fill_listed(config, cell["arm"])
    method = config.segmenter.method
    if (method in ("supervised", *SUPERVISED.values()) and cell["arm"] != NO_ARM
            and ARMS[cell["arm"]].learns == "semi"):
        alone = [name for name, arm in ARMS.items() if arm.learns == "supervised"]
        raise ValueError(f"--axis=arm={cell['arm']}: learns from unlabelled images, too, which "
                         f"method {method!r} does not; want another config.segmenter.method, or of "
                         f"the arms {', '.join(alone)} alone")
    return config


def _fill_listed(config, arm: str) -> None:
    """Puts the number of the quota into config.listed where that asks for it."""
    if NUMBER not in config.listed:
        return
    _, slash, number = config.select.quota_spec.rpartition("/")
    if not slash and arm == "L":
        raise ValueError(f"config.listed={config.listed}: {NUMBER} is the number of a quota such "
                         f"as voc/92, and config.select.quota_spec={config.select.quota_spec} has "
                         "none; name a file")
    config.listed = config.listed.replace(NUMBER, number)


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
    for name in ("min_iou", "tags"):
        found[name] = found[name] or None
    return found | {"arm": cell["arm"]}
