"""report.html of an ablation: every table and figure that its rows can fill."""

from __future__ import annotations

from wsssjax.ablate import figure, paired, slices, tables
from wsssjax.ablate.check import checked
from wsssjax.ablate.paired import Group, over_seeds
from wsssjax.ablate.published import METHOD
from wsssjax.ablate.sheet import POINTS, RATIO, SHARE, Column, shown, to_table
from wsssjax.report import template
from wsssjax.report.tables import count

PAPER = tuple(f"table{i}" for i in range(3, 9))
_ARMS = ("S", "M", "U", "ALL", "T", "Tall")  # of the headline


def make(table: dict) -> str:
    """The page of an ablation; the same table gives the same text."""
    table = checked(table)
    groups = paired.groups(table["rows"])
    main = _main(groups)
    return template.render(
        "ablation.html.j2",
        title=table["title"] or "Ablation",
        headline=_headline(main) if main else [],
        about=main and slices.fixed([main]),
        facts=_facts(table, groups),
        tables={key: to_table(sheet) for key, sheet in tables.build(table).items()},
        paper=PAPER,
        full_voc=table["full_voc"],
        figure=[(name, template.markup(svg)) for name, svg in figure.drawn(table)],
        chips={},
    )


def _main(groups: list[Group]) -> Group | None:
    """The group that the page begins with, found without a look at any score: the pair (A,B+) at
    its largest quota, trained by the paper's method where it is among them."""
    counted = [g for g in groups if slices.has_quota(g.cell) and "S" in g.arms]
    found = slices.largest(slices.of_main_pair(counted))
    found.sort(key=lambda group: group.cell.get("method") != METHOD)
    return found[0] if found else None


def _headline(group: Group) -> list[tuple[str, str, str]]:
    """(what, number, remark): the few numbers a reader wants first."""
    found = []
    for arm in _ARMS:
        if arm in group.arms:
            letters = tables.supervision(group.arms[arm])
            found.append((f"arm {arm}", _text(over_seeds(group.arms[arm], "miou"), SHARE),
                          letters or ""))
    for pairs, compare, sign, kind in ((paired.DIFFERENCES, paired.difference, "−", POINTS),
                                       (paired.RATIOS, paired.ratio, "/", RATIO)):
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
    done, cells = tables.done(table["rows"])
    seeds = {seed for group in groups for rows in group.arms.values() for seed in rows}
    facts = {
        "data": table["data"],
        "classes": len(table["classes"]) or "",
        "cells done": f"{count(done)} of {count(cells)}",
        "seeds": ", ".join(map(str, sorted(seeds - {None}))),
        "same in all cells": slices.fixed(groups) if groups else "",
    }
    return [(name, str(value)) for name, value in facts.items() if value]
