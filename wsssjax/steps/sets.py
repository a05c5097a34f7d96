"""The label sets A, B, A+ and B+ of a recipe: by which steps each is made, and what it has seen.

A and B are the labels of two methods, A+ and B+ the same after `config.refine`. `config.pair`
names the two that are compared, the pool last; what neither needs is not made. `config.given` puts
a folder of finished label maps in the place of any of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from wsssjax.core import config as configs
from wsssjax.refine import proposals
from wsssjax.steps.labels import LINKS, Link

STEPS = {"A": "labels_a", "B": "labels_b", "A+": "labels_a_plus", "B+": "labels_b_plus"}
LETTERS = "ISACF"  # tags, saliency, SAM, CLIP, full masks: the order in which they are written


def reads_saliency(cam) -> bool:
    """Whether a classifier learns from saliency maps."""
    return cam.method == "eps"


def side(name: str) -> str:
    """`a` of the sets A and A+."""
    return name[0].lower()


def field(name: str) -> str:
    """Where `config.given` names the set: `b_plus` for B+."""
    return STEPS[name].removeprefix("labels_")


def pair(config) -> tuple[str, str]:
    """The two sets that are compared; the second is the pool."""
    found = tuple(config.pair)
    for name in found:
        configs.choose(STEPS, name, "config.pair")
    if len(found) != 2 or found[0] == found[1]:
        raise ValueError(f"config.pair={found}: want two different sets, such as A,B+")
    return found


def needed(config) -> list[str]:
    """The sets that the pair needs, refined ones last."""
    wanted = set(pair(config))
    for name in ("A+", "B+"):
        if name in wanted and not config.given[field(name)]:
            wanted.add(name[0])
    return [name for name in STEPS if name in wanted]


def links(names: Sequence[str], before: str, last: str, what: str) -> list[tuple[str, str, Link]]:
    """(step that is refined, step that does it, link) for each name; `last` is the last step."""
    out, stem = [], last.removesuffix("_plus")
    for place, name in enumerate(names):
        link = configs.choose(LINKS, name, what)
        if name in names[:place]:
            raise ValueError(f"{what}={tuple(names)}: names {name!r} twice")
        own = last if place == len(names) - 1 else f"{stem}_{name}"
        out.append((before, own, link))
        before = own
    return out


def finish(config, name: str) -> list[tuple[str, str, Link]]:
    """What turns a classifier's label maps into the set A or B; [] where they are the set."""
    how = f"finish_{side(name)}"
    return links(config[how], f"{STEPS[name]}_seed", STEPS[name], f"config.{how}")


def chain(config, name: str) -> list[tuple[str, str, Link]]:
    """What turns A or B into the set A+ or B+."""
    if not config.refine:
        raise ValueError(f"config.refine is empty; want one or more of {', '.join(LINKS)}")
    return links(config.refine, STEPS[name[0]], STEPS[name], "config.refine")


def stable(config) -> tuple[str, ...]:
    """The steps whose labels say how stable those of the pool are, where the score asks for it."""
    pool = pair(config)[1]
    if config.select.score != "quality":
        return ()
    if not pool.endswith("+") or config.given[field(pool)]:
        raise ValueError("config.select.score=quality: compares the pool with its labels before "
                         "each refinement; want a pool A+ or B+ that this recipe refines")
    return tuple(before for before, _, _ in chain(config, pool))


class Made(NamedTuple):
    """A label set for tables. step: that makes it.  title: `eps + CRF + proposals`.  seen:
    supervision letters, `I+S`; `?` where finished labels came without a word."""

    step: str
    title: str
    seen: str


def folders(config) -> dict[str, Made]:
    """All that is made, by its name: A, B, A+, B+, and under `B CRF` what lies between B and B+."""
    out = {}
    for name in needed(config):
        steps = [] if config.given[field(name)] or not name.endswith("+") else chain(config, name)
        for place, (_, step, link) in enumerate(steps[:-1], 1):
            out[f"{name[0]} {link.title}"] = _made(config, name, step, place)
        out[name] = _made(config, name, STEPS[name], len(steps))
    return out


def seen(config, *names: str, encoder: bool = False, full: bool = False) -> str:
    """Supervision letters of label sets together; encoder: of the recipe's classifier of B, where
    the segmenter's encoder comes from it; full: true masks as well."""
    found = {"F"} if full else set()
    for name in names:
        steps = chain(config, name) if name.endswith("+") and not config.given[field(name)] else []
        found |= _letters(config, name, [link for _, _, link in steps])
    if encoder and config.segmenter_encoder == "cam_b":
        found |= _classifier_letters(config, "B")
    return _joined(found)


def _made(config, name: str, step: str, count: int) -> Made:
    """The set, or what its first `count` links make of it."""
    steps = chain(config, name)[:count] if count else []
    links = [link for _, _, link in steps]
    title = config.given.titles[field(name)] if step == STEPS[name] else ""
    return Made(step, title or _title(config, name, links), _joined(_letters(config, name, links)))


def _title(config, name: str, links: Sequence[Link]) -> str:
    if config.given[field(name)]:
        return "given"
    if name.endswith("+"):
        found = [config.given.titles[side(name)] or _title(config, name[0], ())]
    else:
        found, links = [config[f"cam_{side(name)}"].method], [n for _, _, n in finish(config, name)]
    return " + ".join(found + ["SAM" if _is_sam(config, link) else link.title for link in links])


def _letters(config, name: str, links: Sequence[Link]) -> set[str]:
    told = config.given.seen[field(name)]
    if config.given[field(name)]:
        return _read_letters(told) if told else {"?"}
    if name.endswith("+"):
        found = _letters(config, name[0], ())
    else:
        found = _read_letters(told) if told else _classifier_letters(config, name)
        links = [link for _, _, link in finish(config, name)]
    return found | {"A" for link in links if _is_sam(config, link)}


def _classifier_letters(config, name: str) -> set[str]:
    cam = config[f"cam_{side(name)}"]
    return {"I"} | ({"S"} if reads_saliency(cam) else set()) | (
        {"C"} if cam.method == "clip" else set())


def _read_letters(told: str) -> set[str]:
    found = set(told.split("+"))
    for letter in found - set(LETTERS):
        raise ValueError(f"config.given.seen: {letter!r} is no letter of supervision; want some of "
                         f"{', '.join(LETTERS)} joined by +")
    return found


def _joined(letters: set[str]) -> str:
    return "+".join(letter for letter in (*LETTERS, "?") if letter in letters)


def _is_sam(config, link: Link) -> bool:
    """Whether a link merges with masks of SAM. Finished masks tell it in their files; those of
    other programs, which do not, are taken for SAM's."""
    if "proposals" not in link.inputs:
        return False
    folder = config.given.proposals
    made_by = proposals.made_by(folder) if folder else config.proposals.backend
    return made_by in ("sam", "import")
