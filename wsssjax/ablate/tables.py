"""Every table of an ablation; made here: the protocol's arms, and arms compared seed by seed."""

from __future__ import annotations

from wsssjax.ablate import figure, paired, slices
from wsssjax.ablate import paper_tables as paper
from wsssjax.ablate.check import checked
from wsssjax.ablate.paired import Group, over_seeds
from wsssjax.ablate.parts import (
    LABEL_MIOU,
    SPREAD,
    SUPERVISION,
    all_have,
    arms_told,
    axis_columns,
    class_names,
    count_columns,
    counts,
    lines,
    rows_of,
    supervision,
    title,
    trained,
)
from wsssjax.ablate.sheet import COUNT, POINTS, RATIO, SHARE, Column, Sheet, to_csv, to_text
from wsssjax.report.tables import SUPERVISION_KEY, count

__all__ = ["build", "done", "to_csv", "to_text"]

def build(table: dict) -> dict[str, Sheet]:
    """Every table that the rows of an ablation can fill, by key, in reading order.

    table: see `check.checked`, which raises for what is no table. The keys are protocol,
    class_counts, paired, ratios, table3 … table8 and figure1.
    """
    table = checked(table)
    groups = paired.groups(table["rows"])
    found = (protocol(groups), class_counts(table, groups), differences(groups), ratios(groups),
             paper.table3(table), paper.table4(table), paper.table5(table, groups),
             paper.table6(table), paper.table7(table, groups), paper.table8(table, groups),
             figure.sheet(table))
    return {sheet.key: sheet for sheet in found if sheet is not None}


def done(rows: list[dict]) -> tuple[int, int]:
    """(cells with a result, cells). The result of a cell is its mIoU; of a selection that nothing
    is trained on, the number of its images."""
    has = [row["labelled" if row["cell"]["arm"] == paired.NONE else "miou"] is not None
           for row in rows]
    return sum(has), len(has)


def protocol(groups: list[Group]) -> Sheet | None:
    """Each arm's labelled images and its mIoU on the test images."""
    arms = trained(groups)
    if not arms:
        return None
    axes = slices.varying([group for group, _ in arms])
    rows = tuple((*slices.values(group.cell, axes), arm, supervision(group.arms[arm]),
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
    axes = slices.varying([group for group, _ in arms])
    names = class_names(table, rows_of(arms))
    rows = tuple((*slices.values(group.cell, axes), arm, over_seeds(group.arms[arm], "labelled"),
                  *counts(group.arms[arm], names)) for group, arm in arms)
    return Sheet("class_counts", "Labelled images by class and arm",
                 (*axis_columns(axes), Column("arm", "arm"),
                  Column("labelled", "labelled", COUNT, stat=True), *count_columns(names)), rows,
                 lines(all_have([g for g, _ in arms]), "An image of several classes counts for "
                        "each. Means over seeds where an arm draws at random."))


def differences(groups: list[Group]) -> Sheet | None:
    """S minus the other arms, seed by seed."""
    return _comparisons("paired", "S minus the other arms, paired by seed", groups,
                        paired.DIFFERENCES, paired.difference, "−",
                        Column("difference", "mean ± sd", POINTS, stat=True),
                        "In points of test mIoU, over the seeds that both arms have.")


def ratios(groups: list[Group]) -> Sheet | None:
    """S as a share of the arms with true masks, seed by seed."""
    return _comparisons("ratios", "S as a share of true masks, paired by seed", groups,
                        paired.RATIOS, paired.ratio, "/",
                        Column("ratio", "mean ± sd", RATIO, stat=True),
                        "Ratio of the test mIoU, over the seeds that both arms have; the mean is "
                        "that of the ratios.")


def _comparisons(name, text, groups, arms, compare, sign, column, note) -> Sheet | None:
    """A row for each pair of arms that a group has; a column for each seed."""
    found = [(group, compare(group, *pair)) for group in groups for pair in arms
             if set(pair) <= set(group.arms)]
    if not found:
        return None
    axes = slices.varying([group for group, _ in found])
    seeds = list(dict.fromkeys(seed for group, c in found for arm in (c.first, c.second)
                               for seed in group.arms[arm]))
    seeds.sort(key=lambda seed: (seed is not None, seed or 0))
    rows = []
    for group, c in found:
        value = dict(c.stat.values)
        rows.append((*slices.values(group.cell, axes), f"{c.first} {sign} {c.second}",
                     supervision(group.arms[c.first], group.arms[c.second]),
                     paired.told(c.missing), c.stat, *map(value.get, seeds)))
    used = {id(row): row for group, c in found for row in
            rows_of([(group, c.first), (group, c.second)])}
    return Sheet(name, title(text, list(used.values())),
                 (*axis_columns(axes), Column("comparison", "comparison"), SUPERVISION,
                  Column("missing", "missing"), column,
                  *(Column(f"seed_{s}", f"seed {s}", column.kind) for s in seeds)),
                 tuple(rows), lines(all_have([group for group, _ in found]), note,
                                    f"{SPREAD} missing: seeds that one of the two arms lacks.",
                                    SUPERVISION_KEY))
