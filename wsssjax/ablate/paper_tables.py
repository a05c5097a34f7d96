"""Tables 3 to 8 of the paper, from the rows of an ablation.

Numbers of the paper stand beside ours only where the images are those of full VOC 2012.
"""

from __future__ import annotations

from wsssjax.ablate import order, paired, published, slices
from wsssjax.ablate.paired import Group, over_seeds
from wsssjax.ablate.parts import (
    LABEL_MIOU,
    MIOU,
    SPREAD,
    SUPERVISION,
    all_have,
    arm_name,
    axis_columns,
    class_names,
    count_columns,
    counts,
    lines,
    rows_of,
    supervision,
    title,
)
from wsssjax.ablate.published import fraction
from wsssjax.ablate.sheet import COUNT, SHARE, Column, Sheet
from wsssjax.report.tables import SUPERVISION_KEY

HIGH_IOU = 0.9  # Table 6 takes labels whose pair agrees by more


def table3(table: dict) -> Sheet | None:
    """Images selected and class counts, by quota."""
    found = slices.of_main_pair([s for s in slices.selections(table["rows"])
                                 if slices.has_quota(s.cell)])
    if not found:
        return None
    axes = slices.varying(found, but=("quota",))
    rows_in = [row for s in found for row in s.rows.values()]
    names = class_names(table, rows_in)
    rows = []
    for quota in slices.quotas(found):
        for s in found:
            if s.cell["quota"] == quota:
                source = ("here",) if table["full_voc"] else ()
                rows.append((slices.shown(quota), *slices.values(s.cell, axes), *source,
                             over_seeds(s.rows, "labelled"), *counts(s.rows, names)))
        if table["full_voc"] and paired.key(quota) in map(paired.key, published.COUNTS):
            rows.append((quota, *[""] * len(axes), "published", published.SELECTED[quota],
                         *map(published.counts(quota).get, names)))
    source = (Column("source", "source"),) if table["full_voc"] else ()
    return Sheet("table3", title("Table 3. Images selected by each quota, and their classes",
                                  rows_in, "labelled"),
                 (Column("quota", "quota"), *axis_columns(axes), *source,
                  Column("selected", "selected", COUNT, stat=True), *count_columns(names)),
                 tuple(rows),
                 lines(all_have(found, but=("quota",)),
                        "selected: images. An image of several classes counts for each."))


def table4(table: dict) -> Sheet | None:
    """mIoU of the label sets on the training images."""
    if not table["sets"]:
        return None
    columns = [Column("set", "set"), Column("method", "method"), SUPERVISION,
               Column("miou", "mIoU %", SHARE)]
    rows = [[name, s["method"], s["supervision"], s["miou"]] for name, s in table["sets"].items()]
    note = ["Labels against true masks of the training images, which no label learned from."]
    if table["full_voc"]:
        columns.append(Column("published", "published", SHARE))
        for row in rows:
            crf = row[0] == "A" and "crf" in (row[1] or "").lower()
            row.append(fraction(published.LABELS_A_CRF if crf else published.LABELS.get(row[0])))
        told = ", ".join(f"{name} {what}" for name, what in published.NAMES.items())
        note.append(f"published: {told}, on the 1,464 images of official train; BAO after a CRF "
                    f"{published.LABELS_A_CRF}.")
    missing = sum(row[3] is None for row in rows)
    left = f" ({len(rows) - missing} of {len(rows)} sets scored)" if missing else ""
    return Sheet("table4", f"Table 4. Label sets on the training images{left}", tuple(columns),
                 tuple(map(tuple, rows)), lines(*note, SUPERVISION_KEY))


def table5(table: dict, groups: list[Group]) -> Sheet | None:
    """The segmenter of arm S beside published methods."""
    found = slices.largest(slices.of_main_pair(_counted(groups)))
    if not found:
        return None
    axes = slices.varying(found)
    names = [", ".join(slices.values(group.cell, axes)) for group in found]
    ours = [(f"ours ({name})" if name else "ours", supervision(group.arms["S"]),
             over_seeds(group.arms["S"], "miou")) for name, group in zip(names, found,
                                                                        strict=True)]
    columns = [Column("method", "method"), SUPERVISION]
    if table["full_voc"]:
        rows = [(name, letters, fraction(val), fraction(test))
                for name, letters, val, test in published.METHODS] + [(*row, None) for row in ours]
        columns += [Column("val_miou", "val mIoU %", SHARE, stat=True),
                    Column("test_miou", "test mIoU %", SHARE)]
        where = "The test images are scored by the VOC server alone. Rows but ours: published."
    else:
        rows = ours
        columns.append(MIOU)
        where = "On the test images of this data."
    return Sheet("table5", title("Table 5. Segmenters", rows_of([(g, "S") for g in found])),
                 tuple(columns), tuple(rows),
                 lines("ours: arm S with the largest quota, the student of the last step."
                        f" {all_have(found)}".rstrip(), where, SPREAD, SUPERVISION_KEY))


def table6(table: dict) -> Sheet | None:
    """Labels whose pair agrees by more than 90 %: how many, and how good."""
    found = [s for s in slices.selections(table["rows"])
             if not slices.has_quota(s.cell) and _is_high(s.cell.get("min_iou"))]
    if not found:
        return None
    found = _in_order(found, published.AGREEING)
    axes = slices.varying(found, but=("pair",))
    columns = [Column("compared", "compared"), *axis_columns(axes), Column("pool", "pool"),
               SUPERVISION, Column("images", "images", COUNT, stat=True), LABEL_MIOU]
    rows = [[_pair_name(s), *slices.values(s.cell, axes), slices.pool_of(s.cell),
             supervision(s.rows), over_seeds(s.rows, "labelled"),
             over_seeds(s.rows, "label_miou")] for s in found]
    note = [all_have(found, but=("pair",))]
    if table["full_voc"]:
        columns += [Column("published_images", "images, published", COUNT),
                    Column("published", "mIoU, published", SHARE)]
        for row, s in zip(rows, found, strict=True):
            images, miou = (published.AGREEING if _as_published(s.cell) else {}).get(
                slices.pair_of(s.cell), (None, None))
            row += [images, fraction(miou)]
        note.append("published: among the 1,464 images of official train.")
    paper = {pair: miou for pair, (_, miou) in published.AGREEING.items()}
    note += _orders(found, paper, lambda s: {0: over_seeds(s.rows, "label_miou").mean})
    rows_in = [row for s in found for row in s.rows.values()]
    return Sheet("table6", title("Table 6. Labels with IoU > 90 %, by compared pair", rows_in,
                                  "labelled"), tuple(columns), tuple(map(tuple, rows)),
                 lines(*note, SUPERVISION_KEY))


def table7(table: dict, groups: list[Group]) -> Sheet | None:
    """Segmenters by compared pair, at one quota."""
    together = slices.panels(_counted(groups), "pair")
    several = [panel for panel in together if len(panel) > 1]
    found = [g for panel in several or [slices.of_main_pair(slices.largest(_counted(groups)))]
             for g in _in_order(panel, published.PAIRS)]
    if not found:
        return None
    axes = slices.varying(found, but=("pair",))
    columns = [Column("compared", "compared"), *axis_columns(axes), SUPERVISION,
               Column("images", "labelled images", COUNT, stat=True), MIOU]
    rows, used = [], []
    for panel in slices.panels(found, "pair"):
        first = slices.of_main_pair(panel)[0]
        entries = [("S", _pair_name(group), group) for group in panel]
        for arm in _without(panel)[:1]:
            holder = first if arm in first.arms else next(g for g in panel if arm in g.arms)
            entries.insert(0, (arm, f"no selection ({arm_name(arm)})", holder))
        for arm, name, group in entries:
            used.append((group, arm))
            row = [name, *slices.values(group.cell, axes), supervision(group.arms[arm]),
                   over_seeds(group.arms[arm], "labelled"), over_seeds(group.arms[arm], "miou")]
            rows.append(row + (_published7(group, arm) if table["full_voc"] else []))
    if table["full_voc"]:
        columns += [Column("published_images", "images, published", COUNT),
                    Column("published", "mIoU, published", SHARE)]
    paper = {pair: miou for pair, (_, miou) in published.PAIRS.items()}
    note = _orders(found, paper, lambda g: dict(over_seeds(g.arms["S"], "miou").values))
    return Sheet("table7", title("Table 7. Segmenters on the test images, by compared pair",
                                  rows_of(used)), tuple(columns), tuple(map(tuple, rows)),
                 lines(all_have(found, but=("pair",)), *note, SPREAD, SUPERVISION_KEY))


def table8(table: dict, groups: list[Group]) -> Sheet | None:
    """Segmenters without and with selection, by quota."""
    found = slices.of_main_pair(_counted(groups))
    if not found:
        return None
    axes = slices.varying(found, but=("quota",))
    quotas = slices.quotas(found)
    rows, used = [], []
    for panel in slices.panels(found, "quota"):
        by_quota = {paired.key(group.cell["quota"]): group for group in panel}
        cell = slices.values(panel[0].cell, axes)
        for arm in (*_without(panel)[:1], "S"):
            name = (f"with selection {_pair_name(panel[0])}" if arm == "S" else
                    f"without selection ({arm_name(arm)})")
            inside = [by_quota.get(paired.key(quota)) for quota in quotas]
            here = [(g, arm) for g in inside if g is not None and arm in g.arms]
            used += here
            rows.append((name, *cell, supervision({i: r for i, r in enumerate(rows_of(here))}),
                         *(None if g is None or arm not in g.arms else
                           over_seeds(g.arms[arm], "miou") for g in inside)))
    if table["full_voc"]:
        for name, values in (("without selection, published", published.WITHOUT),
                             ("with selection, published", published.WITH)):
            rows.append((name, *[""] * len(axes), "I+A",
                         *(fraction(values.get(quota) if isinstance(quota, str) else None)
                           for quota in quotas)))
    return Sheet("table8", title("Table 8. mIoU % on the test images, without and with selection,"
                                  " by quota", rows_of(used)),
                 (Column("labels", "labels"), *axis_columns(axes), SUPERVISION,
                  *(Column(f"miou_{slices.shown(q)}", slices.shown(q), SHARE, stat=True)
                    for q in quotas)), tuple(rows),
                 lines(all_have(found, but=("quota",)), SPREAD, SUPERVISION_KEY))


def _counted(groups: list[Group]) -> list[Group]:
    """The groups that train on a selection by quota."""
    return [group for group in groups if slices.has_quota(group.cell) and "S" in group.arms]


def _is_high(min_iou) -> bool:
    return isinstance(min_iou, int | float) and abs(min_iou - HIGH_IOU) < 1e-9


def _in_order(found: list, paper: dict) -> list:
    """The groups or selections in the paper's order of pairs, others behind them."""
    place = {pair: i for i, pair in enumerate(paper)}
    return sorted(found, key=lambda entry: place.get(slices.pair_of(entry.cell), len(place)))


def _pair_name(entry) -> str:
    pair = slices.pair_of(entry.cell)
    return order.named(pair) if pair else "–"


def _without(panel: list[Group]) -> list[str]:
    """The arms that stand for "no selection", the better one first: a given list, or a draw."""
    return [arm for arm in ("L", "U") if any(arm in group.arms for group in panel)]


def _as_published(cell: dict) -> bool:
    """Whether the cell ranks, keeps and trains as the paper does, on all that was selected."""
    usual = {"score": "paper", "keep": "whole", "method": published.METHOD}
    return all(cell.get(name) in (None, "", value) for name, value in usual.items()) and not any(
        cell.get(limit) for limit in slices.HEADS)


def _published7(group: Group, arm: str) -> list:
    """The paper's (images, mIoU) of the same setting."""
    cell = group.cell
    if cell["quota"] != published.FULL_QUOTA or cell.get("min_iou") or not _as_published(cell):
        return [None, None]
    if arm == "L":
        return [published.UNSELECTED_IMAGES, fraction(published.WITHOUT[published.FULL_QUOTA])]
    images, miou = published.PAIRS.get(slices.pair_of(cell), (None, None))
    return [images, fraction(miou)] if arm == "S" else [None, None]


def _orders(found: list, paper: dict, values) -> list[str]:
    """A line for each panel of two or more of the paper's pairs. values: group → {seed: value}."""
    axes = slices.varying(found, but=("pair",))
    told = []
    for panel in slices.panels(found, "pair"):
        here = {slices.pair_of(entry.cell): values(entry) for entry in panel
                if slices.pair_of(entry.cell) in paper}
        if len(here) > 1:
            where = ", ".join(f"{slices.HEADS.get(name, name)} {value}" for name, value in
                              zip(axes, slices.values(panel[0].cell, axes), strict=True))
            told.append(f"{where}: {order.sentences(paper, here)}" if where else
                        order.sentences(paper, here))
    return told
