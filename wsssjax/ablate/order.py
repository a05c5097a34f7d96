"""Whether an order of the paper holds here, comparison by comparison, in words."""

from __future__ import annotations

from wsssjax.report import tables

Pair = tuple[str, str]


def named(pair) -> str:
    """`(A,B+)`."""
    return f"({','.join(pair)})"


def ranked(published: dict[Pair, float]) -> str:
    """`(A,B+) > (A,B) = (B,B+)`, the best first; equal ones stay in the order given."""
    pairs = sorted(published, key=lambda pair: -published[pair])
    text = named(pairs[0])
    for before, after in zip(pairs, pairs[1:], strict=False):
        text += f" {'=' if published[before] == published[after] else '>'} {named(after)}"
    return text


def sentences(published: dict[Pair, float], here: dict[Pair, dict]) -> str:
    """Which of the paper's comparisons of neighbours hold here, and how many of all.

    published: the paper's value of each pair; pairs with the same value are not compared.
    here: value by seed of each pair, None where it is not known. Two pairs are compared over the
    seeds that both have, by the mean of the differences.
    """
    levels = sorted(set(published.values()), reverse=True)
    found = {}
    for better in published:
        for worse in published:
            if published[better] > published[worse]:
                found[better, worse] = _compare(here.get(better, {}), here.get(worse, {}))
    known = [gap for gap, _, _ in found.values() if gap is not None]
    holding = sum(gap > 0 for gap in known)
    near = [(better, worse) for high, low in zip(levels, levels[1:], strict=False)
            for better in published if published[better] == high
            for worse in published if published[worse] == low]
    parts = [f"{named(b)} above {named(w)}: {_verdict(*found[b, w])}" for b, w in near]
    if not known:
        verdict = "not known yet whether it holds here"
    elif len(known) < len(found):
        verdict = (f"so far {holding} of {len(known)} known comparisons hold here "
                   f"({len(found)} in all)")
    elif holding == len(found):
        verdict = f"it holds here, in all {len(found)} comparisons"
    else:
        verdict = f"it does not hold as a whole here: {holding} of {len(found)} comparisons do"
    return (f"The paper's order by mIoU is {ranked(published)}; {verdict}. Neighbours: "
            f"{'; '.join(parts)}.")


def _compare(better: dict, worse: dict) -> tuple[float | None, int, int]:
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
