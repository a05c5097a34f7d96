"""What `python -m wsssjax.select` left in a folder: its summary, and its table row by row."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import NamedTuple

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet

from wsssjax.report import reasons
from wsssjax.report.checks import COUNTS, NAMES, NUMBER, SCORES, TEXT, read_object

TABLE, SUMMARY, LISTS = "selection.parquet", "summary.json", ("labeled.txt", "unlabeled.txt")
ROWS_MOST = 100_000  # images that one page can list; of more than these, every n-th by rank
GROUPS = ("best", "borderline", "worst", "sample")  # images that are shown as pictures
PER_GROUP = 250
_SUMMARY = {"images": NUMBER, "selected": NUMBER, "quota": COUNTS, "taken": COUNTS,
            "counts": COUNTS, "unmet": COUNTS, "mean_iou": SCORES, "min_iou": NUMBER,
            "reasons": COUNTS, "iou": TEXT, "pool": TEXT, "keep": TEXT, "warnings": NAMES}


class Rows(NamedTuple):
    """The images that a page lists, by rank: one entry an image in every field.

    position: int64 [m], of the image among all.  classes: positions in `Selection.class_names`.
    class_iou: of the same classes, None where neither label has it.  why: the reason in words.
    """

    position: np.ndarray
    ids: list[str]
    classes: list[list[int]]
    class_iou: list[list[float | None]]
    why: list[str]


@dataclasses.dataclass(frozen=True)
class Selection:
    """A selection of n images of k foreground classes, in memory except for its pictures.

    rank_n: int64, 1 = best.  iou_n, score_n: float64.  reason_n: positions in `reasons`.
    group_n: uint8, bit i for a member of GROUPS[i].  images_k: int64, images with the class.
    """

    folder: pathlib.Path
    summary: dict
    class_names: tuple[str, ...]
    rank_n: np.ndarray
    iou_n: np.ndarray
    score_n: np.ndarray
    selected_n: np.ndarray
    reason_n: np.ndarray
    reasons: tuple[str, ...]
    group_n: np.ndarray
    images_k: np.ndarray
    rows: Rows

    @property
    def scored(self) -> bool:
        """Whether images were ordered by another score than their IoU."""
        return not np.array_equal(self.score_n, self.iou_n, equal_nan=True)

    @property
    def keep(self) -> str:
        """What was kept of a selected label."""
        return self.summary.get("keep", "whole")

    @property
    def border(self) -> int | None:
        """Rank of the last image taken; None where none was."""
        return int(self.rank_n[self.selected_n].max()) if self.selected_n.any() else None


def holds_selection(folder) -> bool:
    """Whether select has finished in the folder: its summary is written last."""
    return all((pathlib.Path(folder) / name).is_file() for name in (TABLE, SUMMARY))


def read_selection(folder) -> Selection:
    """The selection in a folder; ValueError names the first file that is broken."""
    folder = pathlib.Path(folder)
    summary = read_object(folder / SUMMARY, _SUMMARY)
    if summary is None:
        raise ValueError(f"{folder / SUMMARY}: missing, so the selection was not finished; run "
                         "wsssjax.select again")
    path = folder / TABLE
    try:
        # Opened here: given a path, pyarrow would take a folder of that name for a data set.
        with open(path, "rb") as file:
            parquet = pyarrow.parquet.ParquetFile(file)
            return _read(folder, summary, parquet, _class_names(path, parquet.schema_arrow))
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path}: no readable parquet file ({error}); select again") from None


def picture_groups(rank_n: np.ndarray, selected_n: np.ndarray, shows_n: np.ndarray) -> np.ndarray:
    """uint8 [n], bit i for a member of GROUPS[i]; at most PER_GROUP in each.

    best: the first by rank.  borderline: around the rank of the last image taken.  worst: the last
    by rank.  sample: drawn from all others, always the same.  shows_n: bool, whether there is
    anything to see; other images are only sampled.
    """
    group_n = np.zeros(len(rank_n), np.uint8)
    seen = np.flatnonzero(shows_n)[np.argsort(rank_n[shows_n], kind="stable")]
    group_n[seen[:PER_GROUP]] |= 1
    if selected_n.any():
        distance = np.abs(rank_n[seen] - rank_n[selected_n].max())
        group_n[seen[np.argsort(distance, kind="stable")[:PER_GROUP]]] |= 2
    group_n[seen[-PER_GROUP:]] |= 4
    others = np.flatnonzero(group_n == 0)
    drawn = np.random.default_rng(0).permutation(len(others))[:PER_GROUP]
    group_n[others[drawn]] |= 8
    return group_n


def _class_names(path, schema) -> tuple[str, ...]:
    """Foreground class names, once all columns are known to have types that can be read."""
    types = pyarrow.types
    wanted = {"id": _is_text, "iou": types.is_floating, "rank": types.is_integer,
              "selected": types.is_boolean, "reason": _is_text, "classes": _is_texts,
              "class_iou": types.is_struct}
    optional = {"score": types.is_floating, "filled": _is_texts}
    for name, fits in (wanted | optional).items():
        if name in schema.names:
            if not fits(schema.field(name).type):
                raise ValueError(f"{path}: no fit column {name!r}; run select again")
        elif name in wanted:
            raise ValueError(f"{path}: has no column {name!r}; run select again")
    return tuple(field.name for field in schema.field("class_iou").type)


def _is_text(kind) -> bool:
    kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    return pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)


def _is_texts(kind) -> bool:
    lists = pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind)
    return lists and _is_text(kind.value_type)


def _read(folder, summary, parquet, names) -> Selection:
    has = set(parquet.schema_arrow.names)
    order = [c for c in ("rank", "iou", "score", "selected", "reason") if c in has]
    table = parquet.read(columns=order)
    for name in ("rank", "selected"):
        if table[name].null_count:
            raise ValueError(f"{folder / TABLE}: {name} is null in a row; run select again")
    column = {c: table[c].to_numpy() for c in order if c != "reason"}
    words = table["reason"].cast(pyarrow.string()).fill_null("").combine_chunks()
    words = pyarrow.chunked_array([words]).combine_chunks().dictionary_encode()
    codes, code_n = words.dictionary.to_pylist(), words.indices.to_numpy().astype(np.uint8)
    rank_n, selected_n = column["rank"].astype(np.int64), column["selected"].astype(bool)
    dull = [i for i, code in enumerate(codes) if code in (reasons.EMPTY, reasons.NO_CLASS)]
    group_n = picture_groups(rank_n, selected_n, ~np.isin(code_n, dull))
    taken = [i for i, code in enumerate(codes) if code == reasons.QUOTA]
    fills_n = np.isin(code_n, taken)
    step = -(-len(rank_n) // ROWS_MOST) or 1
    listed_n = (rank_n % step == 0) | (group_n > 0)
    images_k, read = _lists(parquet, has, names, listed_n | fills_n)
    rows = _rows(read, rank_n, [codes[i] for i in code_n[read["position"]]], listed_n, names,
                 summary)
    iou_n = column["iou"].astype(np.float64)
    return Selection(folder, summary, names, rank_n, iou_n,
                     column.get("score", iou_n).astype(np.float64), selected_n, code_n,
                     tuple(codes), group_n, images_k, rows)


def _lists(parquet, has, names, want_n) -> tuple[np.ndarray, dict]:
    """Images with each class, int64 [k], and the long columns of the wanted rows alone."""
    columns = [c for c in ("id", "classes", "filled", "class_iou") if c in has]
    read = {"position": np.flatnonzero(want_n), "id": [], "classes": [], "class_iou": []}
    read["filled"] = [] if "filled" in has else None
    images_k, start = np.zeros(len(names), np.int64), 0
    for number in range(parquet.num_row_groups):
        group = parquet.read_row_group(number, columns=columns)
        flat = pyarrow.compute.list_flatten(group["classes"])
        images_k += np.bincount(_positions(flat, names), minlength=len(names))
        group = group.filter(pyarrow.array(want_n[start:start + len(group)]))
        start += parquet.metadata.row_group(number).num_rows
        read["id"] += group["id"].to_pylist()
        for name in ("classes", "filled"):
            if read[name] is not None:
                read[name] += _split(group[name], names)
        iou_kn = [pyarrow.compute.struct_field(group["class_iou"], [k]).to_pylist()
                  for k in range(len(names))]
        classes = read["classes"][len(read["class_iou"]):]
        read["class_iou"] += [[iou_kn[k][i] for k in row] for i, row in enumerate(classes)]
    return images_k, read


def _positions(texts, names) -> np.ndarray:
    found = pyarrow.compute.index_in(texts.cast(pyarrow.string()), pyarrow.array(names,
                                                                                  pyarrow.string()))
    if found.null_count:
        raise ValueError(f"{TABLE}: classes names a class that class_iou has not; run select again")
    return found.to_numpy().astype(np.int64)


def _split(lists, names) -> list[list[int]]:
    """Lists of names as lists of positions."""
    length_n = pyarrow.compute.fill_null(pyarrow.compute.list_value_length(lists), 0).to_numpy()
    flat, ends = _positions(pyarrow.compute.list_flatten(lists), names).tolist(), length_n.cumsum()
    return [flat[end - size:end] for end, size in zip(ends, length_n, strict=True)]


def _rows(read, rank_n, codes, listed_n, names, summary) -> Rows:
    position = read["position"]
    by_rank = np.argsort(rank_n[position], kind="stable")
    quota = summary.get("quota")
    wanted = None if quota is None else [int(quota.get(name, 0)) for name in names]
    classes = [read["classes"][i] for i in by_rank]
    filled = [read["filled"][i] for i in by_rank] if read["filled"] is not None else None
    codes = [codes[i] for i in by_rank]
    why = reasons.in_words(codes, classes, filled, names=names, quota=wanted,
                           min_iou=summary.get("min_iou"), keep=summary.get("keep", "whole"))
    keep = [j for j, i in enumerate(by_rank) if listed_n[position[i]]]
    return Rows(position[by_rank[keep]], [read["id"][by_rank[j]] for j in keep],
                [classes[j] for j in keep], [read["class_iou"][by_rank[j]] for j in keep],
                [why[j] for j in keep])
