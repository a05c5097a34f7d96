"""Tables 3 to 8 of the paper, from the rows of an ablation, and whether its orders hold here.

Numbers of the paper stand beside ours only where the images are those of full VOC 2012: in Tables
4 and 6 the 1,464 of official train, in the others the 10,582 of train_aug.
"""

from __future__ import annotations

from wsssjax.ablate import cells, published
from wsssjax.ablate.cells import Group, named, over_seeds, pair_of, rows_of
from wsssjax.ablate.published import fraction
from wsssjax.ablate.sheet import (
    COUNT,
    LABEL_MIOU,
    MIOU,
    SHARE,
    SPREAD,
    SUPERVISION,
    Column,
    Sheet,
    all_have,
    arm_name,
    axis_columns,
    class_names,
    count_columns,
    counts,
    lines,
    supervision,
    title,
)
from wsssjax.report import tables
from wsssjax.report.tables import SUPERVISION_KEY

Pair = tuple[str, str]
ENOUGH = 20  # images, below which a mean label mIoU says nothing about an order


def table3(table: dict) -> Sheet | None:
    """Images selected and class counts, by quota."""
    found = cells.of_main_pair([s for s in cells.selections(table["rows"])
                                if cells.has_quota(s.cell)])
    if not found:
        return None
    axes = cells.varying(found, but=("quota",))
    rows_in = [row for s in found for row in s.rows.values()]
    names = class_names(table, rows_in)
    full = table["voc"] == "train_aug"
    rows = []
    for quota in cells.quotas(found):
        here = [s for s in found if s.cell["quota"] == quota]
        rows += [(cells.shown(quota), *cells.values(s.cell, axes), *(("here",) if full else ()),
                  over_seeds(s.rows, "labelled"), *counts(s.rows, names)) for s in here]
        like = [s for s in here if cells.is_main(s.cell)]
        if full and like and quota in published.COUNTS:
            rows.append((quota, *cells.values(like[0].cell, axes), "published",
                         published.SELECTED[quota], *map(published.counts(quota).get, names)))
    source = (Column("source", "source"),) if full else ()
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
    sets = sorted(table["sets"], key=lambda s: _place(s["name"]))
    axes = list(dict.fromkeys(name for s in sets for name in s["cell"]))
    columns = [Column("set", "set"), *axis_columns(axes), Column("method", "method"), SUPERVISION,
               Column("miou", "mIoU %", SHARE)]
    rows = [[s["name"], *cells.values(s["cell"], axes), s["method"], s["supervision"], s["miou"]]
            for s in sets]
    note = ["Labels against true masks of the training images, which no label learned from."]
    if table["voc"] == "train":
        columns.append(Column("published", "published", SHARE))
        for row, s in zip(rows, sets, strict=True):
            row.append(None if s["cell"] else fraction(published.LABELS.get(s["name"])))
        told = ", ".join(f"{name} {what}" for name, what in published.NAMES.items())
        note.append(f"published: {told}, on the 1,464 images of official train.")
    scored = sum(s["miou"] is not None for s in sets)
    left = "" if scored == len(sets) else f" ({scored} of {len(sets)} sets scored)"
    return Sheet("table4", f"Table 4. Label sets on the training images{left}", tuple(columns),
                 tuple(map(tuple, rows)), lines(*note, SUPERVISION_KEY))


def _place(name: str) -> float:
    """Where a label set stands: in the paper's order; one between B and B+ before B+."""
    order = list(published.LABELS)
    if name in order:
        return order.index(name)
    whole = f"{name[:1]}+"
    return order.index(whole) - 0.5 if whole in order else len(order)


def table5(table: dict, groups: list[Group]) -> Sheet | None:
    """The segmenter of arm S beside published methods."""
    found = cells.largest(cells.of_main_pair(cells.counted(groups)))
    if not found:
        return None
    axes = cells.varying(found)
    names = [", ".join(cells.values(group.cell, axes)) for group in found]
    ours = [(f"ours ({name})" if name else "ours", supervision(group.arms["S"]),
             over_seeds(group.arms["S"], "miou")) for name, group in zip(names, found,
                                                                        strict=True)]
    columns = [Column("method", "method"), SUPERVISION]
    if table["voc"] == "train_aug":
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
    """Labels whose pair agrees by more than a bound: how many, and how good."""
    found = [s for s in cells.selections(table["rows"])
             if not cells.has_quota(s.cell) and s.cell["min_iou"]]
    if not found:
        return None
    found = _in_order(found, published.AGREEING)
    axes = cells.varying(found, but=("pair",))
    columns = [Column("compared", "compared"), *axis_columns(axes), Column("pool", "pool"),
               SUPERVISION, Column("images", "images", COUNT, stat=True), LABEL_MIOU]
    rows = [[named(pair_of(s.cell)), *cells.values(s.cell, axes), pair_of(s.cell)[1],
             supervision(s.rows), over_seeds(s.rows, "labelled"),
             over_seeds(s.rows, "label_miou")] for s in found]
    note = [all_have(found, but=("pair", "min_iou"))]
    if table["voc"] == "train":
        columns += [Column("published_images", "images, published", COUNT),
                    Column("published", "mIoU, published", SHARE)]
        for row, s in zip(rows, found, strict=True):
            like = cells.as_published(s.cell) and s.cell["min_iou"] == published.AGREE_BY
            images, miou = (published.AGREEING if like else {}).get(pair_of(s.cell), (None, None))
            row += [images, fraction(miou)]
        note.append("published: among the 1,464 images of official train.")
    paper = {pair: miou for pair, (_, miou) in published.AGREEING.items()}
    note += _orders(found, paper, lambda s: {0: over_seeds(s.rows, "label_miou").mean},
                    lambda s: over_seeds(s.rows, "labelled").mean)
    rows_in = [row for s in found for row in s.rows.values()]
    bounds = sorted({s.cell["min_iou"] for s in found})
    above = f"with IoU > {100 * bounds[0]:g} %" if len(bounds) == 1 else "above a bound on IoU"
    return Sheet("table6", title(f"Table 6. Labels {above}, by compared pair", rows_in,
                                 "labelled"), tuple(columns), tuple(map(tuple, rows)),
                 lines(*note, SUPERVISION_KEY))


def table7(table: dict, groups: list[Group]) -> Sheet | None:
    """Segmenters by compared pair, at one quota."""
    together = cells.panels(cells.counted(groups), "pair")
    several = [panel for panel in together if len(panel) > 1]
    found = [g for panel in several or [cells.of_main_pair(cells.largest(cells.counted(groups)))]
             for g in _in_order(panel, published.PAIRS)]
    if not found:
        return None
    axes = cells.varying(found, but=("pair",))
    columns = [Column("compared", "compared"), *axis_columns(axes), SUPERVISION,
               Column("images", "labelled images", COUNT, stat=True), MIOU]
    rows, used = [], []
    for panel in cells.panels(found, "pair"):
        first = cells.of_main_pair(panel)[0]
        entries = [("S", named(pair_of(group.cell)), group) for group in panel]
        for arm in _without(panel)[:1]:
            holder = first if arm in first.arms else next(g for g in panel if arm in g.arms)
            entries.insert(0, (arm, f"no selection ({arm_name(arm)})", holder))
        for arm, name, group in entries:
            used.append((group, arm))
            row = [name, *cells.values(group.cell, axes), supervision(group.arms[arm]),
                   over_seeds(group.arms[arm], "labelled"), over_seeds(group.arms[arm], "miou")]
            rows.append(row + (_published7(group, arm) if table["voc"] == "train_aug" else []))
    if table["voc"] == "train_aug":
        columns += [Column("published_images", "images, published", COUNT),
                    Column("published", "mIoU, published", SHARE)]
    paper = {pair: miou for pair, (_, miou) in published.PAIRS.items()}
    note = _orders(found, paper, lambda g: dict(over_seeds(g.arms["S"], "miou").values))
    return Sheet("table7", title("Table 7. Segmenters on the test images, by compared pair",
                                  rows_of(used)), tuple(columns), tuple(map(tuple, rows)),
                 lines(all_have(found, but=("pair",)), *note, SPREAD, SUPERVISION_KEY))


def table8(table: dict, groups: list[Group]) -> Sheet | None:
    """Segmenters without and with selection, by quota."""
    found = cells.of_main_pair(cells.counted(groups))
    if not found:
        return None
    axes = cells.varying(found, but=("quota",))
    quotas = cells.quotas(found)
    rows, used = [], []
    for panel in cells.panels(found, "quota"):
        arms = (*_without(panel)[:1], "S")
        cell = cells.values(panel[0].cell, axes)
        for arm in arms:
            name = (f"with selection {named(pair_of(panel[0].cell))}" if arm == "S" else
                    f"without selection ({arm_name(arm)})")
            here = {group.cell["quota"]: group for group in panel if arm in group.arms}
            part = rows_of([(group, arm) for group in here.values()])
            used += part
            rows.append((name, *cell, supervision(dict(enumerate(part))),
                         *(over_seeds(here[quota].arms[arm], "miou") if quota in here else None
                           for quota in quotas)))
        if table["voc"] == "train_aug" and cells.is_main(panel[0].cell):
            # What the paper calls "without selection" is a given list, not a random draw.
            paper = [("without", published.WITHOUT)] if "L" in arms else []
            rows += [(f"{word} selection, published", *cell, "I+A",
                      *(fraction(values.get(quota)) for quota in quotas))
                     for word, values in (*paper, ("with", published.WITH))]
    return Sheet("table8", title("Table 8. mIoU % on the test images, without and with selection,"
                                 " by quota", used),
                 (Column("labels", "labels"), *axis_columns(axes), SUPERVISION,
                  *(Column(f"miou_{cells.shown(q)}", cells.shown(q), SHARE, stat=True)
                    for q in quotas)), tuple(rows),
                 lines(all_have(found, but=("quota",)), SPREAD, SUPERVISION_KEY))


def _in_order(found: list, paper: dict) -> list:
    """The groups or selections in the paper's order of pairs, others behind them."""
    place = {pair: i for i, pair in enumerate(paper)}
    return sorted(found, key=lambda entry: place.get(pair_of(entry.cell), len(place)))


def _without(panel: list[Group]) -> list[str]:
    """The arms that stand for "no selection", the better one first: a given list, or a draw."""
    return [arm for arm in ("L", "U") if any(arm in group.arms for group in panel)]


def _published7(group: Group, arm: str) -> list:
    """The paper's (images, mIoU) of the same setting."""
    cell = group.cell
    if cell["quota"] == published.FULL_QUOTA and not cell["min_iou"] and cells.as_published(cell):
        if arm == "S":
            images, miou = published.PAIRS.get(pair_of(cell), (None, None))
            return [images, fraction(miou)]
        if arm == "L" and cells.is_main(cell):
            return [published.UNSELECTED_IMAGES,
                    fraction(published.WITHOUT[published.FULL_QUOTA])]
    return [None, None]


def _orders(found: list, paper: dict, values, images=None) -> list[str]:
    """A line for each panel of two or more of the paper's pairs. values: group → {seed: value}.
    images: group → how many images its values are of, where they may be few."""
    axes = cells.varying(found, but=("pair",))
    told = []
    for panel in cells.panels(found, "pair"):
        of_paper = {pair_of(entry.cell): entry for entry in panel if pair_of(entry.cell) in paper}
        if len(of_paper) > 1:
            here = {pair: values(entry) for pair, entry in of_paper.items()}
            few = {pair for pair, entry in of_paper.items()
                   if images and (images(entry) or 0) < ENOUGH}
            where = ", ".join(f"{cells.HEADS.get(name, name)} {value}" for name, value in
                              zip(axes, cells.values(panel[0].cell, axes), strict=True))
            told.append(f"{where}: " * bool(where) + sentences(paper, here, few))
    return told


# ---- whether the paper's order holds -------------------------------------------------------


def ranked(paper: dict[Pair, float]) -> str:
    """`(A,B+) > (A,B) = (B,B+)`, the best first; equal ones stay in the order given."""
    pairs = sorted(paper, key=lambda pair: -paper[pair])
    text = named(pairs[0])
    for before, after in zip(pairs, pairs[1:], strict=False):
        text += f" {'=' if paper[before] == paper[after] else '>'} {named(after)}"
    return text


def sentences(paper: dict[Pair, float], here: dict[Pair, dict], few: set[Pair] = frozenset()
              ) -> str:
    """Which of the paper's comparisons of neighbours hold here, and how many of all.

    paper: its value of each pair; pairs with the same value are not compared.
    here: value by seed of each pair, None where it is not known. Two pairs are compared over the
    seeds that both have, by the mean of the differences.
    few: pairs whose values are of fewer than ENOUGH images; nothing is concluded from them.
    """
    levels = sorted(set(paper.values()), reverse=True)
    found = {(better, worse): _gap(here.get(better, {}), here.get(worse, {}))
             for better in paper for worse in paper if paper[better] > paper[worse]}
    known = [gap for pairs, (gap, _, _) in found.items()
             if gap is not None and not few & set(pairs)]
    holding = sum(gap > 0 for gap in known)
    near = [(better, worse) for high, low in zip(levels, levels[1:], strict=False)
            for better in paper if paper[better] == high
            for worse in paper if paper[worse] == low]
    parts = [f"{named(b)} above {named(w)}: " + (
        f"too few to tell, fewer than {ENOUGH} images" if few & {b, w} else
        _verdict(*found[b, w])) for b, w in near]
    if not known:
        verdict = "not known whether it holds here"
    elif len(known) < len(found):
        verdict = (f"so far {holding} of {len(known)} known comparisons hold here "
                   f"({len(found)} in all)")
    elif holding == len(found):
        verdict = f"it holds here, in all {len(found)} comparisons"
    else:
        verdict = f"it does not hold as a whole here: {holding} of {len(found)} comparisons do"
    return (f"The paper's order by mIoU is {ranked(paper)}; {verdict}. Neighbours: "
            f"{'; '.join(parts)}.")


def _gap(better: dict, worse: dict) -> tuple[float | None, int, int]:
    """(mean difference, seeds in which it is above 0, common seeds)."""
    gaps = [better[seed] - worse[seed] for seed in better
            if better[seed] is not None and worse.get(seed) is not None]
    if not gaps:
        return None, 0, 0
    return sum(gaps) / len(gaps), sum(gap > 0 for gap in gaps), len(gaps)


def _verdict(gap: float | None, above: int, seeds: int) -> str:
    if gap is None:
        return "not known yet"
    word = "holds" if gap > 0 else "a tie" if gap == 0 else "does not hold"
    many = f", above in {above} of {seeds} seeds" if seeds > 1 else ""
    return f"{word} ({tables.points(gap, 0.0)}{many})"
