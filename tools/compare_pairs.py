"""Command: which pair of label sets selects best? Every pair is compared, selected and scored.

For each ordered pair (first, second) Algorithm 1 chooses labels of the second set by their IoU with
the first, under the same quota; the chosen labels are scored against true masks, beside those of a
matched random draw (other photos with the same classes). This is the question of Table 6 and 7 of
the paper (Fujimori et al.), for any label sets. The truth scores and never chooses.
"""

from __future__ import annotations

import itertools
import pathlib
import re

from wsssjax import scoring
from wsssjax.core import cli, files
from wsssjax.core.config import choose
from wsssjax.data.classes import need_background, read_class_names
from wsssjax.evaluate import miou
from wsssjax.select import __main__ as select_command
from wsssjax.select import control, iou, names
from wsssjax.select import quota as quotas


def main(arguments: list[str]) -> None:
    """Nothing; writes <out>/pairs.json and a selection folder for each pair, prints the table."""
    parser = cli.parser(
        "python tools/compare_pairs.py", __doc__,
        "python tools/compare_pairs.py --sets=cam=labels_cam,eps=labels_eps,bao=labels_bao \\\n"
        "    --truth=SegmentationClass --quota=voc/183 --out=pairs")
    add = parser.add_argument
    add("--sets", required=True, help="NAME=FOLDER of label maps, by comma, two or more")
    add("--pools", default="", help="names of the sets whose labels may be taken (default: all)")
    add("--truth", required=True, help="folder of true label maps, for scores alone")
    add("--quota", required=True, help="as of python -m wsssjax.select")
    add("--ids", default="", help="text file, one id a line (default: all of the first set)")
    add("--iou", default="foreground", help="foreground (default), mean or mean_bg")
    add("--classes", default="voc", help="voc, coco, or a file of class names, background first")
    add("--seed", type=int, default=0, help="of the matched random draw")
    add("--out", required=True, help="folder for <first>--<second>/ and pairs.json")
    flags = parser.parse_args(arguments)
    rows = run(read_sets(flags.sets), truth=flags.truth, quota=flags.quota, out=flags.out,
               ids=flags.ids, kind=flags.iou, classes=flags.classes, seed=flags.seed,
               pools=tuple(name for name in flags.pools.split(",") if name))
    from rich.console import Console

    Console().print(table(rows))


def read_sets(text: str) -> dict[str, str]:
    """{name: folder} of `NAME=FOLDER,NAME=FOLDER`, in this order."""
    sets: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        name, equals, folder = part.partition("=")
        if not equals or not re.fullmatch(r"[\w+.-]+", name) or not folder:
            raise ValueError(f"--sets: {part!r}; want NAME=FOLDER, the name of letters, digits, "
                             "and _ + . -")
        if name in sets:
            raise ValueError(f"--sets: the name {name!r} stands twice")
        sets[name] = folder
    if len(sets) < 2:
        raise ValueError(f"--sets={text}: names {len(sets)} label set; a pair needs two")
    return sets


def run(sets: dict[str, str], *, truth: str, quota: str, out: str, ids: str = "",
        kind: str = "foreground", classes: str = "voc", seed: int = 0,
        pools: tuple[str, ...] = ()) -> list[dict]:
    """One dict a pair, best selection first: {"first", "second", "count", "selected_miou", …}.

    The scores are those of `scoring.selection_scores`, fractions 0..1. Selections that are there
    already are scored again, and made again only where they are missing; labels that are not those
    they were made of are an error.
    """
    for name in pools:
        if name not in sets:
            raise ValueError(f"--pools: {name!r} is none of --sets; there are {', '.join(sets)}")
    choose(iou.SCORES, kind, "--iou")
    class_names = need_background(read_class_names(classes), "--classes")
    quota_k = quotas.read_quota(quota, class_names)
    for folder in sets.values():  # each has all of them, or this is an error
        wanted = names.pool_ids(next(iter(sets.values())), folder, "first", ids or None)
    counts = {name: miou.folder_confusions(folder, truth, wanted, len(class_names), name)
              for name, folder in sets.items() if not pools or name in pools}
    labels_hash = {name: label_hash(folder, wanted) for name, folder in sets.items()}
    out_folder, rows = pathlib.Path(out), []
    for first, second in itertools.permutations(sets, 2):
        if second not in counts:
            continue
        folder = out_folder / f"{first}--{second}"
        made_with = {"first": sets[first], "second": sets[second],
                     "first_labels": labels_hash[first], "second_labels": labels_hash[second],
                     "quota": None if quota_k is None else quota_k.tolist(), "iou": kind,
                     "classes": list(class_names), "ids": files.hash_ids(wanted), "seed": seed}
        folder.mkdir(parents=True, exist_ok=True)
        files.claim(folder / "pair.json", made_with)
        if not (folder / "control" / "summary.json").is_file():
            id_list = folder / "ids.txt"
            with files.atomic(id_list, "w") as file:
                file.writelines(f"{name}\n" for name in wanted)
            select_command.run(first=sets[first], second=sets[second], quota_spec=quota, kind=kind,
                               classes=classes, ids=str(id_list), out=str(folder))
            control.run(selection=str(folder), out=str(folder / "control"), seed=seed)
        found = scoring.selection_scores(folder, folder / "control", wanted, counts[second],
                                         class_names)
        rows.append({"first": first, "second": second, **found})
    rows.sort(key=lambda row: (-(row["selected_miou"] or 0), row["first"], row["second"]))
    files.write_json(out_folder / "pairs.json", rows)
    return rows


def label_hash(folder: str, ids: list[str]) -> str:
    """Sixteen hex digits that change when the size or time of a label file changes."""
    found = [(pathlib.Path(folder) / f"{name}.png").stat() for name in ids]
    return files.hash_value([[status.st_size, status.st_mtime_ns] for status in found])


def table(rows: list[dict]):
    """The pairs as a table for the terminal, percent."""
    from rich.table import Table

    def percent(value):
        return "–" if value is None else f"{100 * value:.1f}"

    found = Table(title="selected labels of the second set, mIoU in %")
    for column in ("first", "second", "images", "selected", "random", "rest", "all", "rank corr."):
        found.add_column(column, justify="left" if column in ("first", "second") else "right")
    for row in rows:
        correlation = row["quality_correlation"]
        found.add_row(row["first"], row["second"], str(row["count"]),
                      *(percent(row[f"{part}_miou"]) for part in
                        ("selected", "random", "rest", "all")),
                      "–" if correlation is None else f"{correlation:.2f}")
    return found


if __name__ == "__main__":
    cli.run(main)
