"""A folder of label maps merged with a folder of masks, on all cores."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np

from wsssjax.core import cluster, files
from wsssjax.core.constants import BACKGROUND, IGNORE
from wsssjax.data import label_map
from wsssjax.refine import merge_report, merge_runs, proposals, sam_merge

SETTINGS = "sam.json"  # beside the results: what they were made with
EXPLAIN = "explain"  # folder beside the label maps, one <id>.json an image


def merge_folder(*, labels: str, proposal_folder: str | None, out: str, ids: Sequence[str],
                 num_classes: int, merge: str = "max_iou_imp2", coverage: str = "sequential",
                 keep_uncovered: bool | None = None, area_cap: float | None = None,
                 explain: bool = False, report: str | None = None,
                 class_names: Sequence[str] | None = None,
                 label: str = "merge with masks", executor: str = "threads") -> dict:
    """Writes every label map merged with its masks, see `sam_merge.merge`, and returns sums: masks,
    claimed, over_cap, changed and pixels, and the images without_masks and without_foreground.

    explain: also write `<out>/explain/<id>.json`, which mask claimed what.  report: a .jsonl or
    .csv file of what changed, image by image.  class_names: for both; None gives numbers.
    executor: see `core.cluster.each`.
    """
    if not proposal_folder:
        raise ValueError("--method=sam: needs --proposals=P; tools/propose_masks.py makes them")
    sam_merge.check_cap(area_cap)
    options = merge_report.options_of(merge, coverage, keep_uncovered, area_cap)
    if report:
        merge_report.check_path(report)
    proposals.check_all(proposal_folder, list(ids))
    files.claim(pathlib.Path(out) / SETTINGS, {
        **options, "labels": str(pathlib.Path(labels).resolve()),
        "proposals": str(pathlib.Path(proposal_folder).resolve())})

    def one(name):
        label_hw = label_map.read(pathlib.Path(labels) / f"{name}.png", num_classes)
        masks = proposals.read_runs(proposal_folder, name, label_hw.shape)
        merged = merge_runs.merge(label_hw, masks.counts, merge, coverage=coverage,
                                  keep_uncovered=keep_uncovered, area_cap=area_cap)
        label_map.write(pathlib.Path(out) / f"{name}.png", merged.label_hw)
        if explain:
            files.write_json(pathlib.Path(out) / EXPLAIN / f"{name}.json", {
                "id": name, **merge_report.explain(masks, merged, options, class_names)})
        empty = not np.any((label_hw != BACKGROUND) & (label_hw != IGNORE))
        return merge_report.row(name, label_hw, merged, class_names), empty

    done = list(cluster.each(one, list(ids), executor, label))
    rows = [row for row, _ in done]
    if report:
        merge_report.write(report, rows)
    return merge_report.total(rows) | {"without_foreground": sum(empty for _, empty in done)}
