"""Checks a data set image by image, packs it, and lays generated ones out as folders."""

from __future__ import annotations

import concurrent.futures
import contextlib
import io
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from wsssjax.core import files
from wsssjax.data import builders, label_map, photos, records, sources, tags
from wsssjax.data.classes import BACKGROUND_NAME
from wsssjax.data.records import DataSet, Record
from wsssjax.data.shapes import CONTEXT_CLASSES

CHECK_THREADS = 2  # decoding releases Python's lock
PROBLEM_LIMIT = 1000  # listed in a report; all are counted
_STAGE = ".wsssjax-stage"
FOLDER_KINDS = {"image_folder": "folder"}


def check(
    data: DataSet, tell: Callable[[str], None] = records.fail, *, track: Callable | None = None
) -> None:
    """Opens every photo, mask and saliency map; `tell` gets one line for each problem.

    track: (items, total, label) → the same items; shows progress.
    """
    num_classes = len(data.class_names)
    for split, found in data.splits.items():
        with concurrent.futures.ThreadPoolExecutor(CHECK_THREADS) as pool:
            results: Iterable = pool.map(lambda record: _check_record(record, num_classes), found)
            for problem in track(results, len(found), f"checking {split}") if track else results:
                if problem:
                    tell(problem)


def pack(data: DataSet, kind: str, out: str | os.PathLike, *, with_truth: bool = False,
         redo: bool = False) -> pathlib.Path:
    """The folder `<out>/<name>/<version>` with the data set as array_record files.

    kind: key of builders.BUILDERS.  with_truth: store true masks too; leave it False for anything
    that trains.  A pack of the same files is left as it is; one of others is an error, or is
    replaced with `redo`. A kill leaves no pack or a whole one.
    """
    if not any(data.splits.values()):
        raise ValueError("nothing to pack: no split has an image")
    for split, found in data.splits.items():
        if not found:
            raise ValueError(f"split {split} has no image left; mend its list or leave it out")
    out = pathlib.Path(out)
    with staged(out / f".{kind}") as stage:
        builder = builders.BUILDERS[kind](
            data=data, with_truth=with_truth, data_dir=stage, file_format="array_record"
        )
        final = out / pathlib.Path(builder.data_dir).relative_to(stage)
        if (final / "dataset_info.json").is_file():
            old = sources.read_metadata(final).get("fingerprint")
            if old == builder.info.metadata["fingerprint"]:
                return final
            if not redo:
                raise ValueError(f"{final}: packed from other files; pass --redo to pack it again")
        _write_records(builder, stage)
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists():
            os.replace(final, stage / "old")
        os.replace(builder.data_dir, final)
    return final


def write_folder(data: DataSet, out: str | os.PathLike) -> pathlib.Path:
    """Writes a data set as the tree of kind `folder`, and returns `out`.

    images/ masks/ saliency/ context/ tags.csv classes.txt <split>.txt; only what the records have.
    """
    out = pathlib.Path(out)
    with staged(out) as stage:
        (stage / "classes.txt").write_text("\n".join(data.class_names) + "\n", encoding="utf-8")
        for split, found in data.splits.items():
            names = [record.name for record in found]
            (stage / f"{split}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
            for record in found:
                _write_record(record, stage)
        _write_tags(stage / "tags.csv", data, data.splits)
        if out.exists():
            os.replace(out, stage.with_suffix(".old"))
        os.replace(stage, out)
    return out


def for_recipe(config, out: str | os.PathLike) -> None:
    """Fills a recipe's first folder: data set drawn or checked, packed without truth, paths.json.

    config: kind ("shapes", "voc", "image_folder", "coco") with root and the names of the lists that
    are `train` and `test` (the same one twice tests on the training photos), or with train_count,
    test_count, size and seed for "shapes".  paths.json names what later steps need; relative paths
    count from `out`, "" = the data set has no such thing.
    """
    out = pathlib.Path(out).absolute()
    kind = FOLDER_KINDS.get(config.kind, config.kind)
    if kind == "shapes":
        drawn = builders.draw_shapes(train=config.train_count, test=config.test_count,
                                     size=config.size, seed=config.seed)
        root, layout = write_folder(drawn, out / "shapes"), "folder"
    elif not config.root:
        raise ValueError("config.data.root is empty; pass --config.data.root=FOLDER of the photos")
    else:
        root, layout = pathlib.Path(config.root).resolve(), kind
    if len(str(root).split()) > 1 or len(str(out).split()) > 1:
        raise ValueError(f"{out if len(str(out).split()) > 1 else root}: its path has a space, and "
                         "lists of photos put one between photo and label; rename the folder")
    problems: list[str] = []
    lists = ("train", "test") if kind == "shapes" else (config.train, config.test)
    try:
        data = records.collect(layout, root, splits=dict.fromkeys(lists), tell=problems.append)
    except FileNotFoundError as error:
        if not str(error).startswith(f"no list of split {lists[1]}: "):
            raise
        raise FileNotFoundError(f"{error}; or --config.data.test={lists[0]}, to test on the "
                                "training photos") from None
    check(data, problems.append)
    problems += [f"{root}: no tags of training photo {record.name!r}"
                 for record in data.splits[lists[0]] if record.tags is None]
    raise_problems(problems, out)
    splits = {"train": data.splits[lists[0]], "test": data.splits[lists[1]]}
    data = DataSet(class_names=data.class_names, splits=splits)
    learn = DataSet(class_names=data.class_names, splits={"train": data.splits["train"]})
    paths = {
        "packed": pack(learn, kind, out / "packed", redo=True),
        "classes": _write_lines(out / "classes.txt", data.class_names),
        "truth": _common_folder(data, "label", out / "truth"),
        "saliency": _common_folder(data, "saliency", out / "saliency"),
        "context": root / "context" if config.kind == "shapes" else "",
        "context_classes": "",
    }
    if config.kind == "shapes":
        paths["context_classes"] = _write_lines(
            out / "context_classes.txt", (BACKGROUND_NAME, *CONTEXT_CLASSES[1:]))
    paths |= write_lists(data, out, tagged=("train",))
    files.write_json(out / "paths.json", {name: _from(path, out) for name, path in paths.items()})


def fingerprint(kind: str, root: str, lists: Iterable[str]) -> str:
    """Sixteen hex digits of a recipe's data set: ids, tags, and the names and sizes of all files.

    Times of files do not count, so that a copy of the data set is the same one.
    """
    layout = FOLDER_KINDS.get(kind, kind)
    data = records.collect(layout, root, splits=dict.fromkeys(lists), tell=lambda problem: None)

    def stamp(path):
        return path and [path.name, path.stat().st_size]

    return files.hash_value([list(data.class_names), {
        split: [[record.name, None if record.tags is None else record.tags.tolist(),
                 *map(stamp, (record.photo, record.label, record.saliency))] for record in found]
        for split, found in data.splits.items()}])


def write_lists(data: DataSet, out: str | os.PathLike,
                tagged: Iterable[str] = ()) -> dict[str, pathlib.Path]:
    """{"tags": tags.csv, "<split>": <split>.txt, "<split>_photos": <split>_photos.txt} in `out`:
    tags, ids and paths of the photos, as commands take them.

    tagged: splits whose tags are written, () = all.
    """
    out = pathlib.Path(out).absolute()  # a list counts from its own folder
    paths = {"tags": _write_tags(out / "tags.csv", data, tagged or data.splits)}
    for split, found in data.splits.items():
        paths[split] = _write_lines(out / f"{split}.txt", [record.name for record in found])
        paths[f"{split}_photos"] = _write_lines(
            out / f"{split}_photos.txt", [_from(record.photo.absolute(), out) for record in found])
    return paths


def raise_problems(problems: list[str], out: pathlib.Path, listed: str = "") -> None:
    """Nothing where there is no problem; else a ValueError with the first one and their number.

    Several are written to `<out>/problems.txt`, unless they are `listed` in a file already.
    """
    report = out / "problems.txt"
    report.unlink(missing_ok=True)
    if len(problems) == 1:
        raise ValueError(problems[0])
    if problems:
        if not listed:
            _write_lines(report, problems[:PROBLEM_LIMIT])
        more = len(problems) - 1
        raise ValueError(f"{problems[0]} (and {more} more problems, see {listed or report})")


def summary(data: DataSet) -> dict[str, dict]:
    """What each split holds: images, and how many have tags, a mask, a saliency map; per class."""
    table = {}
    for split, found in data.splits.items():
        counts = {part: sum(getattr(record, part) is not None for record in found)
                  for part in ("tags", "label", "saliency")}
        known = [record.tags for record in found if record.tags is not None]
        total_k = np.sum(known, axis=0).astype(int) if known else []
        per_class = dict(zip(data.class_names[1:], map(int, total_k), strict=False))
        table[split] = {"images": len(found), **counts, "per_class": per_class}
    return table


@contextlib.contextmanager
def staged(final: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder beside `final` to work in; whatever is left of it is removed, now or next time."""
    final.parent.mkdir(parents=True, exist_ok=True)
    stage = final.with_name(f".{final.name.lstrip('.')}{_STAGE}")
    leftovers = (stage, stage.with_suffix(".old"))
    try:
        for path in leftovers:
            shutil.rmtree(path, ignore_errors=True)
        stage.mkdir()
        yield stage
    finally:
        for path in leftovers:
            shutil.rmtree(path, ignore_errors=True)


def _check_record(record: Record, num_classes: int) -> str | None:
    """The first problem of one image, or None."""
    title = record.photo if isinstance(record.photo, pathlib.Path) else record.name
    try:
        size = photos.decode_photo(_bytes(record.photo), title).shape[:2]
        if record.label is not None:
            label_map.decode(_bytes(record.label), _title(record.label, record), num_classes, size)
        if record.saliency is not None:
            name = _title(record.saliency, record)
            found = photos.decode_saliency(_bytes(record.saliency), name).shape
            if found != size:
                return f"{name}: saliency of {found}, its photo has {size} (h, w); make it again"
    except (ValueError, OSError) as error:
        return str(error)
    return None


def _write_records(builder, stage: pathlib.Path) -> None:
    """Runs the TFDS builder; its chatter goes nowhere, its error types become OSError."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_dir=stage / "downloads")
    except RuntimeError as error:  # the C++ writer's only type: disk full, no permission
        raise OSError(f"{stage.parent}: the pack could not be written ({error})") from None
    for path in pathlib.Path(builder.data_dir).iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())


def _write_record(record: Record, folder: pathlib.Path) -> None:
    for part, place in (("photo", "images"), ("label", "masks"), ("saliency", "saliency"),
                        ("context", "context")):
        value = getattr(record, part)
        if value is not None:
            data = records.load(value)
            suffix = ".png" if data.startswith(photos.SIGNATURES["PNG"]) else ".jpg"
            (folder / place).mkdir(exist_ok=True)
            (folder / place / f"{record.name}{suffix}").write_bytes(data)


def _common_folder(data: DataSet, part: str, copy: pathlib.Path) -> pathlib.Path | str:
    """The folder that holds this image of all records; where they lie in several, a copy of all."""
    paths = [getattr(record, part) for found in data.splits.values() for record in found]
    paths = [path for path in paths if path is not None]
    folders = {path.parent for path in paths}
    if len(folders) < 2:
        return folders.pop() if folders else ""
    copy.mkdir(exist_ok=True)
    for path in paths:
        shutil.copyfile(path, copy / path.name)
    return copy


def _write_tags(path: pathlib.Path, data: DataSet, splits: Iterable[str]) -> pathlib.Path:
    """One row for each image with a tag, whichever of the splits it is in."""
    rows = {record.name: tags.format_tags(record.tags, data.class_names)
            for split in splits for record in data.splits[split]
            if record.tags is not None and record.tags.any()}
    return _write_lines(path, ["id,tags", *(f"{name},{text}" for name, text in rows.items())])


def _write_lines(path: pathlib.Path, lines: Iterable) -> pathlib.Path:
    with files.atomic(path, "w") as file:
        file.writelines(f"{line}\n" for line in lines)
    return path


def _from(path: pathlib.Path | str, out: pathlib.Path) -> str:
    """`path` as seen from `out` where it lies inside, else as it is."""
    if path == "":
        return ""
    return str(path.relative_to(out)) if path.is_relative_to(out) else str(path)


def _bytes(value: pathlib.Path | bytes) -> bytes:
    return value if isinstance(value, bytes) else photos.read_bytes(value)


def _title(value: pathlib.Path | bytes, record: Record) -> pathlib.Path | str:
    return value if isinstance(value, pathlib.Path) else record.name
