"""Stage 3: which labels to trust."""

from __future__ import annotations


def select(first, second, quota=None, *, iou=None, out=None, **options):
    """The labels on which two label sets agree best, until every class has its quota: a
    `wsssjax.select.api.Selection` with `table` (Arrow), `to_pandas()`, `selected` (ids), `summary`.

    first, second: folders of label maps, `<id>.png`; the second's labels are taken.  quota: {class:
    images}, a preset such as "voc/183", a list and a folder, see `quota.read_quota`; None takes all
    that agree better than `min_iou`.  iou: see `iou.image_iou`; None is "foreground", with
    score="quality" "worst".  out: folder for the files that
    `python -m wsssjax.select` writes; running it again there scores only what changed. None keeps
    no file.  options: of `run.run`: pool, ids, min_iou, images, classes, classes_from, min_area,
    tags, score, methods, refined, keep, executor, out_labels, ….

    Three cats, about which two methods agree well, less well and hardly; two are wanted:

    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from wsssjax.data import label_map
    >>> from wsssjax.select import select
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for name, columns in {"tom": 4, "kit": 3, "leo": 1}.items():
    ...     label_hw = np.zeros((4, 4), np.uint8)
    ...     label_hw[:, :columns] = 8  # cat
    ...     label_map.write(folder / "a" / f"{name}.png", label_hw)
    ...     label_map.write(folder / "b" / f"{name}.png", np.full((4, 4), 8, np.uint8))
    >>> found = select(folder / "a", folder / "b", {"cat": 2})
    >>> found.selected
    ['kit', 'tom']
    >>> found.table.select(["id", "iou", "rank", "reason"]).to_pylist()[1]
    {'id': 'leo', 'iou': 0.25, 'rank': 3, 'reason': 'full'}
    >>> found.summary["counts"]["cat"], found.summary["unmet"]
    (2, {})
    """
    from wsssjax.select import api  # here, so that importing the package stays quick

    return api.select(first, second, quota, iou=iou, out=out, **options)
