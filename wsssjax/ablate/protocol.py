"""The protocol's tables: the arms, their labelled images by class, and arms compared by seed."""

from __future__ import annotations

from wsssjax.ablate import cells
from wsssjax.ablate.cells import Group, over_seeds, rows_of, trained
from wsssjax.ablate.sheet import (
    COUNT,
    LABEL_MIOU,
    POINTS,
    RATIO,
    SHARE,
    SPREAD,
    SUPERVISION,
    Column,
    Sheet,
    all_have,
    arms_told,
    axis_columns,
    class_names,
    count_columns,
    counts,
    lines,
    supervision,
    title,
)
from wsssjax.report.tables import SUPERVISION_KEY, count


def protocol(groups: list[Group]) -> Sheet | None:
    """Each arm's labelled images and its mIoU on the test images."""
    arms = trained(groups)
    if not arms:
        return None
    axes = cells.varying([group for group, _ in arms])
    rows = tuple((*cells.values(group.cell, axes), arm, supervision(group.arms[arm]),
                  *(over_seeds(group.arms[arm], field) for field in
                    ("labelled", "single_class_share", "label_miou", "miou")))
                 for group, arm in arms)
    steps = sorted({row["steps"] for row in rows_of(arms) if row["steps"] is not None})
    same = (f"Every training took {count(steps[0])} steps." if len(steps) == 1 else
            "The trainings took different numbers of steps: "
            f"{', '.join(map(count, steps))}." if steps else "")
    return Sheet("protocol", title("Protocol: the arms on the test images", rows_of(arms)),
                 (*axis_columns(axes), Column("arm", "arm"), SUPERVISION,
                  Column("labelled", "labelled", COUNT, stat=True),
                  Column("single_class_share", "single-class %", SHARE, stat=True), LABEL_MIOU,
                  Column("miou", "test mIoU %", SHARE, stat=True)), rows,
                 lines(all_have([g for g, _ in arms]), arms_told([arm for _, arm in arms]),
                        "single-class: share of the labelled images whose label has one class. "
                        "label mIoU: of the labelled images, against true masks.",
                        f"{same} {SPREAD}".strip(), SUPERVISION_KEY))


def class_counts(table: dict, groups: list[Group]) -> Sheet | None:
    """Labelled images of each class, by arm."""
    arms = [(group, arm) for group, arm in trained(groups)
            if any(row["counts"] for row in group.arms[arm].values())]
    if not arms:
        return None
    axes = cells.varying([group for group, _ in arms])
    names = class_names(table, rows_of(arms))
    rows = tuple((*cells.values(group.cell, axes), arm, over_seeds(group.arms[arm], "labelled"),
                  *counts(group.arms[arm], names)) for group, arm in arms)
    return Sheet("class_counts", "Labelled images by class and arm",
                 (*axis_columns(axes), Column("arm", "arm"),
                  Column("labelled", "labelled", COUNT, stat=True), *count_columns(names)), rows,
                 lines(all_have([g for g, _ in arms]), "An image of several classes counts for "
                        "each. Means over seeds where an arm draws at random."))


def differences(groups: list[Group]) -> Sheet | None:
    """S minus the other arms, seed by seed."""
    return _comparisons("paired", "S minus the other arms, paired by seed", groups,
                        cells.DIFFERENCES, cells.difference, "−",
                        Column("difference", "mean ± sd", POINTS, stat=True),
                        "In points of test mIoU, over the seeds that both arms have.")


def ratios(groups: list[Group]) -> Sheet | None:
    """S as a share of the arms with true masks, seed by seed."""
    return _comparisons("ratios", "S as a share of true masks, paired by seed", groups,
                        cells.RATIOS, cells.ratio, "/",
                        Column("ratio", "mean ± sd", RATIO, stat=True),
                        "Ratio of the test mIoU, over the seeds that both arms have; the mean is "
                        "that of the ratios.")


def _comparisons(name, text, groups, arms, compare, sign, column, note) -> Sheet | None:
    """A row for each pair of arms that a group has; a column for each seed."""
    found = [(group, compare(group, *pair)) for group in groups for pair in arms
             if set(pair) <= set(group.arms)]
    if not found:
        return None
    axes = cells.varying([group for group, _ in found])
    seeds = list(dict.fromkeys(seed for group, c in found for arm in (c.first, c.second)
                               for seed in group.arms[arm]))
    seeds.sort(key=lambda seed: (seed is not None, seed or 0))
    rows = []
    for group, c in found:
        value = dict(c.stat.values)
        rows.append((*cells.values(group.cell, axes), f"{c.first} {sign} {c.second}",
                     supervision(group.arms[c.first], group.arms[c.second]),
                     cells.told(c.missing), c.stat, *map(value.get, seeds)))
    used = {id(row): row for group, c in found for row in
            rows_of([(group, c.first), (group, c.second)])}
    return Sheet(name, title(text, list(used.values())),
                 (*axis_columns(axes), Column("comparison", "comparison"), SUPERVISION,
                  Column("missing", "missing"), column,
                  *(Column(f"seed_{s}", f"seed {s}", column.kind) for s in seeds)),
                 tuple(rows), lines(all_have([group for group, _ in found]), note,
                                    f"{SPREAD} missing: seeds that one of the two arms lacks.",
                                    SUPERVISION_KEY))
