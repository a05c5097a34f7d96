"""All tables and figures that the rows of an ablation can fill, and report.html that shows them."""

from __future__ import annotations

from wsssjax.ablate import cells, figure, protocol
from wsssjax.ablate import paper_tables as paper
from wsssjax.ablate.cells import Group, over_seeds
from wsssjax.ablate.published import METHOD
from wsssjax.ablate.sheet import POINTS, RATIO, SHARE, Column, Sheet, shown, supervision, to_table
from wsssjax.report import template
from wsssjax.report.tables import count

PAPER = tuple(f"table{i}" for i in range(3, 9))
TABLES = ("protocol", "class_counts", "paired", "ratios", *PAPER, figure.KEY)  # in reading order
_ARMS = ("S", "M", "U", "ALL", "T", "Tall")  # of the headline


def build(table: dict) -> dict[str, Sheet]:
    """Those of TABLES that the rows can fill, by key.

    table: `title`, `data` (kind), `voc` (train or train_aug where the images are those of full VOC,
    else ""), `classes` (background first), `edges` (of the histograms), `sets` (`name`, `cell`: the
    axes that tell it from others of its name, `method`, `supervision`, `miou`, `histogram`) and
    `rows` (`cell` and the entries of steps/scores.EMPTY_ROW). Scores are fractions, None what is
    not known yet.
    """
    groups = cells.groups(table["rows"])
    found = (protocol.protocol(groups), protocol.class_counts(table, groups),
             protocol.differences(groups), protocol.ratios(groups),
             paper.table3(table), paper.table4(table), paper.table5(table, groups),
             paper.table6(table), paper.table7(table, groups), paper.table8(table, groups),
             figure.sheet(table))
    return {sheet.key: sheet for sheet in found if sheet is not None}


def make(table: dict) -> str:
    """The page of an ablation; the same table gives the same text."""
    groups = cells.groups(table["rows"])
    main = _main(groups)
    return template.render(
        "ablation.html.j2",
        title=table["title"] or "Ablation",
        headline=_headline(main) if main else [],
        about=main and cells.fixed([main]),
        facts=_facts(table, groups),
        tables={key: to_table(sheet) for key, sheet in build(table).items()},
        paper=PAPER,
        full_voc=bool(table["voc"]),
        figure=[(name, template.markup(svg)) for name, svg in figure.drawn(table)],
        chips={},
    )


def _main(groups: list[Group]) -> Group | None:
    """The group that the page begins with, found without a look at any score: the pair (A,B+) at
    its largest quota, trained by the paper's method where it is among them."""
    found = cells.largest(cells.of_main_pair(cells.counted(groups)))
    found.sort(key=lambda group: group.cell.get("method") != METHOD)
    return found[0] if found else None


def _headline(group: Group) -> list[tuple[str, str, str]]:
    """(what, number, remark): the few numbers a reader wants first."""
    found = []
    for arm in _ARMS:
        if arm in group.arms:
            letters = supervision(group.arms[arm])
            found.append((f"arm {arm}", _text(over_seeds(group.arms[arm], "miou"), SHARE),
                          letters or ""))
    for pairs, compare, sign, kind in ((cells.DIFFERENCES, cells.difference, "−", POINTS),
                                       (cells.RATIOS, cells.ratio, "/", RATIO)):
        for first, second in pairs:
            if {first, second} <= set(group.arms):
                stat = compare(group, first, second).stat
                found.append((f"{first} {sign} {second}", _text(stat._replace(planned=stat.n),
                                                                kind),
                              f"{stat.n} of {stat.planned} seeds"))
    return found


def _text(stat, kind: str) -> str:
    """The mean alone; its spread stands in the tables."""
    return shown(stat.mean, Column("", "", kind))


def _facts(table: dict, groups: list[Group]) -> list[tuple[str, str]]:
    """What was run, as (word, value) pairs."""
    done, planned = cells.done(table["rows"])
    seeds = {seed for group in groups for rows in group.arms.values() for seed in rows}
    facts = {
        "data": table["data"],
        "classes": len(table["classes"]) or "",
        "cells done": f"{count(done)} of {count(planned)}",
        "seeds": ", ".join(map(str, sorted(seeds - {None}))),
        "same in all cells": cells.fixed(groups) if groups else "",
    }
    return [(name, str(value)) for name, value in facts.items() if value]
