"""How well the scores of `wsssjax.select` tell good pseudo-labels from bad ones, against truth.

    python tools/judge_scores.py --first=cam --second=eps_sam --with=bao --refined=eps \\
        --refined=eps_crf --truth=SegmentationClass --out=judged

True masks are read to judge alone: no score sees them, but for the row `ridge, truth`, which is a
predictor fitted with truth on everything that the scores can see (cross-validated in ten parts) and
so says how much there is to see.

Quality of a label: per-class IoU with the truth, averaged over the foreground classes in either,
pixels that the truth leaves open counted as background, as those are that the label leaves open
(the report page and the recipe's scores leave out what the truth leaves open). The rows `quality,
worst` and `quality, mean` see --first and --refined alone, `quality, all sets` --with as well.
Columns: Spearman's rank correlation of
score and quality over all images, over those whose label has one class, over the others; mean
quality of the best 10, 25 and 50 % by score; of the best half also the share of the pool's
foreground pixels, and the number of classes (the exponential of the entropy of the class counts).
Brackets: 95 % bootstrap intervals over images.
"""

from __future__ import annotations

import pathlib

import numpy as np
import pyarrow.parquet as pq

from wsssjax.core import cli, files, metrics, threads
from wsssjax.core.constants import BACKGROUND, IGNORE
from wsssjax.data import label_map
from wsssjax.data.classes import read_class_names
from wsssjax.select import blocks, iou, names, store
from wsssjax.select import run as select_run

TOPS = (0.1, 0.25, 0.5)
FOLDS, PENALTIES = 10, np.logspace(-2, 4, 13)


# ---- what there is to know of each image -------------------------------------------------------


def true_quality(pool: str, truth: str, ids: list[str], num_classes: int) -> np.ndarray:
    """Quality of each label of the folder `pool`, float64 [n]."""
    def of(name):
        label_hw = label_map.read(pathlib.Path(pool) / f"{name}.png", num_classes)
        truth_hw = label_map.read(pathlib.Path(truth) / f"{name}.png", num_classes,
                                  size=label_hw.shape)
        pair = [np.where(x == IGNORE, BACKGROUND, x).astype(np.uint8)
                for x in (label_hw, truth_hw)]
        return iou.image_iou(iou.pair_counts_host(pair[:1], pair[1:], num_classes), "mean")[0][0]

    return np.array(list(threads.each(of, ids, "truth")))


def seen(scored: blocks.Blocks) -> np.ndarray:
    """Everything that the scores can see, float64 [n, d]: IoUs of all kinds with all folders,
    class counts and areas of both labels."""
    parts = []
    for block in scored:
        pixels = block.pixels[:, None]
        columns = [iou.image_iou(block.counts, kind)[0] for kind in iou.SCORES]
        for areas_nk in (block.counts.first, block.pool):
            areas_nk = areas_nk[:, BACKGROUND + 1:]
            columns += [(areas_nk > 0).sum(1), (areas_nk.sum(1, keepdims=True) / pixels)[:, 0]]
        parts.append(np.column_stack([*columns, *block.signals.values()]))
    return np.concatenate(parts).astype(np.float64)


def ridge(x_nd: np.ndarray, y_n: np.ndarray, seed: int) -> np.ndarray:
    """y of each image as predicted by a ridge regression fitted on the other parts.

    The penalty is the best of PENALTIES inside those parts, by leaving one image out."""
    fold_n = np.random.default_rng(seed).permutation(len(y_n)) % FOLDS
    out_n = np.zeros(len(y_n))
    for fold in range(FOLDS):
        fit, rest = fold_n != fold, fold_n == fold
        centre_d, spread_d = x_nd[fit].mean(0), x_nd[fit].std(0) + 1e-9
        z_nd, mean = (x_nd - centre_d) / spread_d, y_n[fit].mean()
        u, s, vt = np.linalg.svd(z_nd[fit], full_matrices=False)
        target_d, errors = u.T @ (y_n[fit] - mean), []
        for penalty in PENALTIES:
            shrink_d = s**2 / (s**2 + penalty)
            left_n = y_n[fit] - mean - u @ (shrink_d * target_d)
            errors.append(np.square(left_n / (1 - 1 / fit.sum() - (u**2 @ shrink_d))).mean())
        penalty = PENALTIES[int(np.argmin(errors))]
        out_n[rest] = mean + z_nd[rest] @ (vt.T @ (s / (s**2 + penalty) * target_d))
    return out_n


# ---- measures ----------------------------------------------------------------------------------


def spearman(x_n: np.ndarray, y_n: np.ndarray) -> float | None:
    """Rank correlation; None where either does not vary."""
    if len(x_n) < 2 or np.ptp(x_n) == 0 or np.ptp(y_n) == 0:
        return None
    return float(np.corrcoef(metrics.ranks(x_n), metrics.ranks(y_n))[0, 1])


def judge(score_n, quality_n, classes_nk, area_n, draws: int, seed: int) -> dict:
    """All measures of one score; correlations as [value, low, high]."""
    rng = np.random.default_rng(seed)
    count_n = classes_nk.sum(1)
    parts = {"all": count_n >= 0, "one_class": count_n == 1, "multi_class": count_n > 1}
    found = {}
    for name, keep in parts.items():
        x_n, y_n = score_n[keep], quality_n[keep]
        value, drawn = spearman(x_n, y_n), []
        for _ in range(0 if value is None else draws):
            i = rng.integers(0, len(x_n), len(x_n))
            drawn.append(spearman(x_n[i], y_n[i]))
        drawn = [x for x in drawn if x is not None] or [value]
        found[name] = [value, *(None if value is None else float(np.percentile(drawn, q))
                                for q in (2.5, 97.5))]
    order = np.argsort(-score_n, kind="stable")
    for top in TOPS:
        found[f"top_{round(100 * top)}"] = float(quality_n[order[:max(1, round(top * len(order)))]]
                                                 .mean())
    half = order[:max(1, len(order) // 2)]
    share_k = classes_nk[half].sum(0) / max(1, classes_nk[half].sum())
    share_k = share_k[share_k > 0]
    return found | {"pixels": float(area_n[half].sum() / max(1, area_n.sum())),
                    "classes": float(np.exp(-(share_k * np.log(share_k)).sum()))}


def rows_of(flags) -> dict[str, dict]:
    """{row: its measures}."""
    pool = flags.second if flags.pool == "second" else flags.first
    wanted = names.choosable(flags.first, flags.second, flags.pool, flags.ids)[0]
    missing = names.without(wanted, names.in_folder(flags.truth))
    if len(missing):
        raise ValueError(f"--truth={flags.truth}: holds no true mask of {len(missing)} of "
                         f"{len(wanted)} ids: {names.shown(missing)}; pass --ids=LIST")
    rows_wanted = ["classes", "paper, foreground", "paper, mean", "paper, worst"]
    rows_wanted += ["consensus, mean", "consensus, worst"] if flags.methods else []
    rows_wanted += ["quality, worst", "quality, mean"] if flags.refined else []
    rows_wanted += ["quality, all sets"] if flags.refined and flags.methods else []
    class_names = read_class_names(flags.classes)
    rows, scored = {}, {}
    out = pathlib.Path(flags.out) / "scores"
    for name in rows_wanted:
        score, _, kind = name.partition(", ")
        # Without --with first, so that the score files of the last row have every signal.
        methods = flags.methods if kind == "all sets" or score != "quality" else ()
        select_run.run(first=flags.first, second=flags.second, out=str(out), quota_spec="none",
                       pool=flags.pool, ids=flags.ids, classes=flags.classes, score=score,
                       kind=kind if kind in iou.SCORES else None, methods=methods,
                       refined=flags.refined)
        table = pq.read_table(out / store.TABLE)
        scored[name] = table["score"].to_numpy()
    ids = table["id"].to_pylist()
    quality_n = true_quality(pool, flags.truth, ids, len(class_names))
    paths = tuple(blocks.path_of(out, i) for i in range(blocks.count_of(wanted)))
    kept = blocks.Blocks(paths, len(class_names))
    classes_nk = np.concatenate([b.pool[:, BACKGROUND + 1:] > 0 for b in kept])
    area_n = np.concatenate([b.pool[:, BACKGROUND + 1:].sum(1) for b in kept])
    if len(ids) >= 2 * FOLDS:
        scored["ridge, truth"] = ridge(seen(kept), quality_n, flags.seed)
    for name, score_n in scored.items():
        rows[name] = judge(score_n, quality_n, classes_nk, area_n, flags.draws, flags.seed)
    return {"images": len(ids), "one_class": int((classes_nk.sum(1) == 1).sum()),
            "mean_quality": float(quality_n.mean()), "scores": rows}


def report(found: dict):
    """The measures as a table for the terminal."""
    from rich.table import Table

    table = Table(title=f"{found['images']:,} labels, {found['one_class']:,} of one class, mean "
                  f"quality {found['mean_quality']:.3f}")
    for column in ("score", "Spearman, all", "one class", "several", "top 10 %", "25 %", "50 %",
                   "pixels", "classes"):
        table.add_column(column, justify="left" if column == "score" else "right")
    for name, row in found["scores"].items():
        table.add_row(name, *("–" if row[part][0] is None else
                              "{:.3f} [{:.2f} {:.2f}]".format(*row[part])
                              for part in ("all", "one_class", "multi_class")),
                      *(f"{row[f'top_{round(100 * t)}']:.3f}" for t in TOPS),
                      f"{100 * row['pixels']:.0f} %", f"{row['classes']:.1f}")
    return table


def main(arguments: list[str]) -> None:
    """Runs the tool."""
    p = cli.parser("python tools/judge_scores.py", __doc__,
                   "python tools/judge_scores.py --first=cam --second=eps_sam --refined=eps "
                   "--truth=SegmentationClass --out=judged")
    p.add_argument("--first", required=True, help="folder of label maps of one method")
    p.add_argument("--second", required=True, help="folder of label maps of another method")
    p.add_argument("--pool", default="second", help="whose labels are judged: second or first")
    p.add_argument("--with", action="append", default=[], dest="methods", metavar="DIR",
                   help="label maps of one more method; repeat it")
    p.add_argument("--refined", action="append", default=[], metavar="DIR",
                   help="the pool's labels before or after a refinement; repeat it")
    p.add_argument("--truth", required=True, help="folder of true masks")
    p.add_argument("--ids", help="text file, one id a line (default: all of the pool)")
    p.add_argument("--classes", default="voc", help="voc, coco, or a file of class names")
    p.add_argument("--draws", type=int, default=1000, help="of the bootstrap (default 1000)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", required=True, help="folder for judged.json and the score files")
    flags = p.parse_args(arguments)
    found = rows_of(flags)
    files.write_json(pathlib.Path(flags.out) / "judged.json", found)
    from rich.console import Console

    Console(width=120).print(report(found))


if __name__ == "__main__":
    cli.run(main)
