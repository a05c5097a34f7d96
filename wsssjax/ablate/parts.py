"""What the tables of an ablation share: columns, titles, notes, counts by class."""

from __future__ import annotations

import statistics

from wsssjax.ablate import paired, slices
from wsssjax.ablate.paired import Group
from wsssjax.ablate.sheet import COUNT, SHARE, Column

SUPERVISION = Column("supervision", "supervision")
MIOU = Column("miou", "mIoU %", SHARE, stat=True)
LABEL_MIOU = Column("label_miou", "label mIoU %", SHARE, stat=True)
SPREAD = "± is the sample standard deviation over seeds; (2 of 3): seeds that have run."


def title(text: str, rows: list[dict], field: str = "miou") -> str:
    """The text, and how many of the rows have a value where not all do."""
    done = sum(row[field] is not None for row in rows)
    return text if done == len(rows) else f"{text} ({done} of {len(rows)} cells done)"


def lines(*parts: str) -> str:
    """A note of those parts that say something, a line each."""
    return "\n".join(filter(None, parts))


def all_have(found: list, but: tuple[str, ...] = ()) -> str:
    """A sentence on what all cells of a table have in common."""
    text = slices.fixed(found, but)
    return f"All rows: {text}." if text else ""


def axis_columns(axes: list[str]) -> tuple[Column, ...]:
    heads = [slices.HEADS.get(name, name) for name in axes]
    return tuple(Column(head.replace(" ", "_"), head) for head in heads)


def supervision(*by_seed: dict) -> str | None:
    """The supervision of the rows, different ones apart: `I+S`, `I+S / F`."""
    letters = dict.fromkeys(row["supervision"] for rows in by_seed for row in rows.values()
                            if row["supervision"])
    return " / ".join(letters) or None


def arm_name(arm: str) -> str:
    """The arm in few words, where it stands for labels without selection."""
    return {"L": "L, a given list of images",
            "U": "U, a random draw of equal size"}[arm]


def arms_told(arms: list[str]) -> str:
    """What each of the arms trains on, as a sentence."""
    told = [f"{arm}: {text}" for arm, text in paired.ARMS.items() if arm in arms]
    return f"Arms: {'; '.join(told)}." if told else ""


def rows_of(arms: list[tuple[Group, str]]) -> list[dict]:
    """The rows of these arms."""
    return [row for group, arm in arms for row in group.arms[arm].values()]


def class_names(table: dict, rows: list[dict]) -> list[str]:
    """The classes but the background, and what else the rows count."""
    names = table["classes"][1:]
    return names + sorted({name for row in rows for name in row["counts"] or ()} - set(names))


def counts(by_seed: dict, names: list[str]) -> list[float | None]:
    """Images of each class, a mean where seeds differ; None where nothing is known."""
    known = [row["counts"] for row in by_seed.values() if row["counts"] is not None]
    return [whole(statistics.fmean(c.get(name, 0) for c in known)) if known else None
            for name in names]


def whole(value: float) -> float:
    """The number as an integer where it is one."""
    return int(value) if value == int(value) else value


def count_columns(names: list[str]) -> tuple[Column, ...]:
    return tuple(Column(name, name, COUNT) for name in names)


def trained(groups: list[Group]) -> list[tuple[Group, str]]:
    """The arms that train a segmenter, group by group."""
    return [(group, arm) for group in groups for arm in group.arms if arm != paired.NONE]
