"""The label sets A, B, A+ and B+ of a recipe: by which steps each is made, and what it has seen.

A and B are the labels of two methods, A+ and B+ the same after `config.refine`. `config.pair`
names the two that are compared, the pool last; what neither needs is not made. `config.given` puts
a folder of finished label maps in the place of any of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from wsssjax.core import config as configs
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


def folders(config) -> dict[str, tuple[str, str]]:
    """{set: (step, title)} of all that is made, those between B and B+ among them."""
    out = {}
    for name in needed(config):
        if name.endswith("+") and not config.given[field(name)]:
            for _, step, link in chain(config, name)[:-1]:
                out[f"{name[0]} {link.title}"] = (step, _chained(config, name, step))
        out[name] = (STEPS[name], title(config, name))
    return out


def title(config, name: str) -> str:
    """What a set is called in tables: `eps + CRF + proposals`."""
    if config.given.titles[field(name)]:
        return config.given.titles[field(name)]
    if name.endswith("+"):
        return _chained(config, name, STEPS[name])
    if config.given[field(name)]:
        return "given"
    found = [config[f"cam_{side(name)}"].method]
    return " + ".join(found + [link.title for _, _, link in finish(config, name)])


def _chained(config, name: str, last: str) -> str:
    found = [title(config, name[0])]
    for _, step, link in chain(config, name):
        sam = link is LINKS["sam"] and config.proposals.backend == "sam"
        found.append("SAM" if sam else link.title)
        if step == last:
            break
    return " + ".join(found)


def seen(config, *names: str, full: bool = False) -> str:
    """Supervision letters of label sets together, `I+S`; full: true masks as well."""
    found = {"F"} if full else set()
    for name in names:
        cam = config[f"cam_{side(name)}"]
        letters = {"I"}
        if config.given.seen[side(name)]:
            letters |= set(config.given.seen[side(name)].split("+"))
        else:
            letters |= {"S"} if reads_saliency(cam) else set()
            letters |= {"C"} if cam.method == "clip" else set()
        if name.endswith("+") and "sam" in config.refine and config.proposals.backend == "sam":
            letters.add("A")
        found |= letters
    for letter in found - set(LETTERS):
        raise ValueError(f"config.given.seen: {letter!r} is no letter of supervision; want some of "
                         f"{', '.join(LETTERS)} joined by +")
    return "+".join(letter for letter in LETTERS if letter in found)
