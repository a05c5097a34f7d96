"""One selection from end to end: score what is missing, choose, write."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from wsssjax.core import cluster, files
from wsssjax.core.constants import BACKGROUND
from wsssjax.data.classes import need_background, read_class_names
from wsssjax.data.tags import read_tags
from wsssjax.select import (
    blocks,
    greedy,
    iou,
    labels,
    names,
    quota,
    relabel,
    scores,
    store,
    stream,
)


def _tag_words(tags: str, ids: pa.StringArray, class_names) -> np.ndarray:
    """Bit masks of the images' tags, uint64 [n, w]."""
    table = read_tags(tags, class_names)
    missing = [name for name in ids.to_pylist() if name not in table]
    if missing:
        raise ValueError(f"{tags}: no tags of {missing[0]!r} ({len(missing)} of {len(ids)} ids "
                         "missing); add them, or use --classes_from=pool")
    parts = (ids.slice(start, store.GROUP).to_pylist()
             for start in range(0, len(ids), store.GROUP))
    return np.concatenate([greedy.pack([table[name] > 0 for name in part]) for part in parts])


def _summary(selection: greedy.Selection, found: blocks.Columns, quota_k, class_names, options,
             warnings) -> dict:
    def table(values_k):
        return {name: int(v) for name, v in zip(class_names, values_k, strict=True)}

    reasons = np.bincount(selection.reason, minlength=len(greedy.REASONS))
    return {
        **options,
        "images": len(found.iou),
        "selected": int(selection.selected.sum()),
        "quota": None if quota_k is None else table(quota_k),
        "taken": table(selection.taken),
        "counts": table(selection.counts),
        "unmet": {n: v for n, v in table(selection.unmet).items() if v},
        "mean_iou": store.mean_ious(found.iou, selection.selected),
        "reasons": {n: int(c) for n, c in zip(greedy.REASONS, reasons, strict=True) if c},
        "warnings": warnings,
    }


def _check(options: dict, others, tags, shard, merge_shards, executor, block, out_labels) -> None:
    for name, words in (("pool", ("first", "second")), ("classes_from", ("pool", "tags"))):
        if options[name] not in words:
            raise ValueError(f"--{name}={options[name]}: want {' or '.join(words)}")
    if options["classes_from"] == "tags" and not tags:
        raise ValueError("--classes_from=tags: needs --tags=CSV")
    if options["min_iou"] is not None and not 0 <= options["min_iou"] < 1:
        raise ValueError(f"--min_iou={options['min_iou']}: want a fraction, 0 or more and below 1")
    if options["min_area"] < 1:
        raise ValueError(f"--min_area={options['min_area']}: want 1 pixel or more")
    if options["iou"] not in iou.SCORES:
        raise ValueError(f"--iou={options['iou']}: want one of {', '.join(iou.SCORES)}")
    cluster.check(executor)
    if shard is not None:
        cluster.shard(shard)
    if shard and merge_shards is not None:
        raise ValueError("--shard, --merge_shards: one scores, the other joins; give one of them")
    for name, value in (("merge_shards", merge_shards), *others._asdict().items()):
        if isinstance(value, str | os.PathLike):
            raise ValueError(f"{name}={str(value)!r}: want a list of folders")
    if block < 1:
        raise ValueError(f"--block={block}: want 1 id a score file, or more")
    if options["keep"] not in relabel.KEEP:
        raise ValueError(f"--keep={options['keep']}: want one of {', '.join(relabel.KEEP)}")
    if options["keep"] != "whole" and out_labels:
        raise ValueError(f"--out_labels={out_labels}: --keep={options['keep']} writes labels of "
                         "its own to OUT/labels; leave one of the two out")
    if options["keep"] == "classes" and (options["score"] != "paper"
                                         or options["classes_from"] == "tags"):
        raise ValueError("--keep=classes: goes by the IoU of each class of the pool's labels; "
                         "leave out --score and --classes_from")
    if out_labels not in (None, *labels.GATHER):
        raise ValueError(f"--out_labels={out_labels}: want {' or '.join(labels.GATHER)}")


def _check_labels(folder, out_labels, keep, inputs: dict, others, quota_spec: str) -> None:
    """See `labels.check`."""
    flag = (f"--keep={keep}" if keep != "whole" else
            f"--out_labels={out_labels}" if out_labels else None)
    read = [(f"--{name}", place) for name, place in inputs.items()]
    read += [(f"--{kind}", place) for _, kind, place in others.columns()]
    _, colon, counted = quota_spec.rpartition(":")
    labels.check(folder, flag, [*read, ("--quota", counted if colon else None)])


def _warnings(first, second, found: blocks.Columns, quota_k, class_names, score) -> list[str]:
    """What a person should know before trusting the result."""
    told = []
    if pathlib.Path(first).resolve() == pathlib.Path(second).resolve():
        told.append("--first and --second are the same folder: that its labels agree with "
                    "themselves says nothing about them")
    if found.open.any():
        told.append(f"{np.count_nonzero(found.open)} of {len(found.open)} pairs have no pixel that "
                    "both maps name (255 everywhere); " +
                    ("they are never selected" if score == "paper" else "their IoU counts as 0"))
    never = [] if quota_k is None else [
        name for c, name in enumerate(class_names)
        if quota_k[c] and not greedy.has(found.words, c).any()]
    if never:
        told.append(f"no image holds {', '.join(never)}, of which the quota wants some")
    return told


def _choose(scored: blocks.Blocks, found: blocks.Columns, quota_k, options: dict):
    """(score of every image, float64 [n]; the selection)."""
    min_iou = options["min_iou"]
    if options["keep"] == "classes":
        iou_nk = relabel.class_ious(scored, options["min_area"])
        return (np.fmax.reduce(iou_nk, axis=1, initial=0.0),
                relabel.by_class(iou_nk, quota_k, min_iou, found.empty))
    score_n = scores.SCORES[options["score"]](scored, found, options["iou"])
    words_nw, empty_n = found.words, found.empty
    if options["score"] != "paper":  # the first map alone cannot veto what more sets judge
        words_nw, empty_n = np.where(found.blank[:, None], np.uint64(0), words_nw), None
    return score_n, greedy.select(
        score_n, words_nw, quota_k, num_classes=scored.num_classes - 1, empty_n=empty_n,
        below_n=None if min_iou is None else ~(found.iou > min_iou))


def _write_labels(folder, pool, others, wanted: pa.StringArray, selection, words_nw, options,
                  num_classes, out_labels) -> tuple[greedy.Selection, list[str]]:
    """Fills OUT/labels; see `relabel.recount`.  folder: None fills none.  pool, others: folders."""
    if not folder:
        return selection, []
    labels.begin(folder)
    keep, chosen = options["keep"], wanted.filter(pa.array(selection.selected))
    if keep == "whole":
        labels.gather(pool, folder, chosen, out_labels)
        return selection, []
    kept_nk = None
    if keep == "classes":
        kept_nk = greedy.unpack(selection.filled[selection.selected], num_classes - 1)
    gone_nk = relabel.write(folder, pool, others, chosen.to_pylist(), num_classes, kept_nk,
                            options["min_area"])
    return relabel.recount(selection, words_nw, gone_nk, keep)


def load_libraries() -> None:
    """Nothing; afterwards the first pair takes no longer than the next ones.

    Arrow looks for pandas when it makes its first array, and compiled code comes from the disk.
    """
    empty_hw = np.zeros((1, 1), np.uint8)
    pa.array(iou.pair_counts_host([empty_hw], [empty_hw], 2).both[0])
    greedy.select(np.zeros(1), np.ones((1, 1), np.uint64), [1])


def run(*, first: str, second: str, out: str, quota_spec: str, pool: str = "second",
        ids: str | None = None, kind: str | None = None, min_iou: float | None = None,
        images: str | None = None, classes: str = "voc", classes_from: str = "pool",
        min_area: int = 1, tags: str | None = None, num_threads: int | None = None,
        shard: str | None = None, merge_shards: Sequence[str] | None = None,
        executor: str = "threads", block: int = blocks.BLOCK, out_labels: str | None = None,
        score: str = "paper", methods: Sequence[str] = (), refined: Sequence[str] = (),
        keep: str = "whole") -> dict:
    """Compares two label sets, selects, writes the selection's files, and returns its summary.

    quota_spec: see `quota.read_quota`.  kind: see `iou.image_iou`; None is the score's default.
    ids: list file.  min_area: pixels below which a class does not count as present in the pool's
    label.  shard: "i/n" scores its part of the blocks, no more, and returns {"shard", "blocks",
    "of"}.  merge_shards: folders of all shards, whose scores are taken.  block: ids a score file.
    out_labels: "copy" or "link" gathers the selected labels in `<out>/labels`.  score: by what the
    images are ranked, see `scores`; methods, refined: further folders of label maps for it, see
    `scores.Others`.  keep: what stays of a selected label, see `relabel`; but for "whole", the
    labels lie in `<out>/labels`.
    """
    kind = kind or scores.DEFAULT_IOU.get(score, "foreground")
    options = {"pool": pool, "iou": kind, "min_iou": min_iou, "classes_from": classes_from,
               "min_area": min_area, "score": score, "keep": keep}
    _check(options, scores.Others(methods, refined), tags, shard, merge_shards, executor, block,
           out_labels)
    scores.check(score, others := scores.Others(tuple(methods), tuple(refined)), first, second)
    options |= {"with": len(others.methods), "refined": len(others.refined)}
    class_names = need_background(read_class_names(classes), "select")
    quota_k = quota.read_quota(quota_spec, class_names)
    wanted, warnings = names.choosable(first, second, pool, ids)
    scores.check_ids(others, wanted)
    mine, other = (second, first) if pool == "second" else (first, second)
    folder = pathlib.Path(out) / labels.FOLDER
    _check_labels(folder, out_labels, keep, {"first": first, "second": second, "images": images},
                  others, str(quota_spec))
    gathered = folder if out_labels or keep != "whole" else None
    lines = store.Lines(wanted, images, mine, gathered)
    words_nw = _tag_words(tags, wanted, class_names) if classes_from == "tags" else None
    job = stream.Job(first, second, len(class_names), pool,
                     scores.signals(others, len(class_names), pool))
    files.sweep(out)
    scored = (stream.merge(job, wanted, merge_shards, block=block) if merge_shards is not None else
              stream.score(job, wanted, out, shard=shard or "0/1", block=block, executor=executor,
                           num_threads=num_threads))
    if shard:
        return {"shard": shard, "blocks": len(scored.paths),
                "of": blocks.count_of(wanted, block)}
    found = blocks.columns(scored, kind, min_area)
    if words_nw is not None:
        found = found._replace(words=words_nw)
    score_n, selection = _choose(scored, found, quota_k, options)
    foreground = class_names[BACKGROUND + 1:]
    warnings += _warnings(first, second, found, quota_k, foreground, score)
    store.clear(out)
    selection, told = _write_labels(gathered, mine, [other, *methods], wanted, selection,
                                    found.words, options, len(class_names), out_labels)
    store.write_table(out, store.tables(scored, found, score_n, selection, foreground), foreground)
    lines.write(out, selection.selected)
    summary = _summary(selection, found, quota_k, foreground, options, warnings + told)
    files.write_json(pathlib.Path(out) / store.SUMMARY, summary)
    return summary
