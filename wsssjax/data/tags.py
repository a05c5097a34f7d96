"""Image-level tags: from a CSV file, VOC's XML annotations, or COCO's JSON."""

from __future__ import annotations

import csv
import json
import os
import pathlib
import xml.etree.ElementTree

import numpy as np

from wsssjax.core import files
from wsssjax.data.classes import unknown_class

MAX_XML_BYTES = 4 << 20
_CURE = "want class names separated by ';' or one 0/1 per class"
_NO_TAG = f"no tag; {_CURE}, or leave the image out"
_SHOWN = 5  # ids that a message names


def read_tags(path: str | os.PathLike, class_names: tuple[str, ...], *,
              untagged: bool = False) -> dict[str, np.ndarray]:
    """Tags by image id, float32 [k] of 0/1, k = foreground classes.

    path: CSV file with the header `id,tags`; tags are class names separated by `;`, or a string of
        k characters 0/1 in class order. An id may be written as a photo's file name. Or COCO's
        instances file, `.json`, see `read_coco_json`.
    class_names: background first.  untagged: rows without a tag may be there, as photos of
        background only; who learns from tags has no use for them.
    """
    tags, problems = parse_tags(path, class_names, untagged=untagged)
    if problems:
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise ValueError(problems[0] + more)
    return tags


def parse_tags(
    path: str | os.PathLike, class_names: tuple[str, ...], *, untagged: bool = False
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Tags of the good rows by id, and one line for each bad row; one for all without a tag."""
    if str(path).endswith(".json"):
        return read_coco_json(path, class_names), []
    rows, tags, problems, bare = _read_rows(path), {}, [], []
    for number, row in rows:
        where = f"{path}, line {number}"
        if len(row) != 2:
            problems.append(f"{where}: {len(row)} columns; want `id,tags`, and {_CURE}")
            continue
        name, text = row[0].strip(), row[1].strip()
        if name.lower().endswith(files.PHOTO_SUFFIXES):
            name = name[: name.rindex(".")]
        if id_problem(name):
            problems.append(f"{where}: {id_problem(name)}")
        elif name in tags:
            problems.append(f"{where}: id {name!r} stands twice; keep one of them")
        else:
            try:
                tags[name] = parse_tag_text(text, class_names, untagged=True)
            except ValueError as error:
                problems.append(f"{where}: id {name!r}: {error}")
            if name in tags and not untagged and not tags[name].any():
                del tags[name]
                bare.append((where, name))
    if len(bare) == 1:
        problems.append(f"{bare[0][0]}: id {bare[0][1]!r}: {_NO_TAG}")
    elif bare:
        shown = ", ".join(repr(name) for _, name in bare[:_SHOWN])
        more = f" and {len(bare) - _SHOWN} more" if len(bare) > _SHOWN else ""
        problems.append(f"{path}: {len(bare)} rows, ids {shown}{more}: {_NO_TAG}")
    if not tags and not problems:
        problems.append(f"{path}: holds no row; want `id,tags` and one row an image")
    return tags, problems


def id_problem(name: str) -> str:
    """Why `name` cannot be the id of an image, "" where it can: ids become file names and words."""
    if not name:
        return "no id; want `id,tags`"
    if name.startswith(".") or any(mark in name for mark in " /\\,") or not name.isprintable():
        return f"id {name[:80]!r} has a space, comma, slash or leading dot; rename the photo"
    return ""


def parse_tag_text(text: str, class_names: tuple[str, ...], *,
                   untagged: bool = False) -> np.ndarray:
    """Tags float32 [k] of one CSV field; ValueError without the file's name.

    untagged: all zeros are allowed.
    """
    k = len(class_names) - 1
    parts = [part.strip() for part in text.split(";") if part.strip()]
    tags_k = np.zeros(k, np.float32)
    if len(parts) == 1 and parts[0] not in class_names and set(text) <= {"0", "1"}:
        if len(text) != k:
            raise ValueError(f"{len(text)} characters 0/1; want {k}, one per foreground class (is "
                             "--classes right?)")
        tags_k[:] = [character == "1" for character in text]
    else:
        for part in parts:
            if part not in class_names[1:]:
                raise ValueError(unknown_class(part, class_names))
            tags_k[class_names.index(part) - 1] = 1
    if not tags_k.any() and not untagged:
        raise ValueError(_NO_TAG)
    return tags_k


def mask_tags(label_hw: np.ndarray, num_classes: int) -> np.ndarray:
    """Tags float32 [k] of the classes that a label map holds."""
    count_k = np.bincount(label_hw.ravel(), minlength=256)[1:num_classes]
    return (count_k > 0).astype(np.float32)


def read_voc_xml(path: str | os.PathLike, class_names: tuple[str, ...]) -> np.ndarray:
    """Tags float32 [k] of one VOC annotation: every named object, difficult ones too."""
    data = pathlib.Path(path).read_bytes()
    if len(data) > MAX_XML_BYTES:
        raise ValueError(f"{path}: {len(data)} bytes, limit {MAX_XML_BYTES}; no VOC annotation")
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:  # nested entities can fill the memory
        raise ValueError(f"{path}: declares a document type; VOC annotations have none")
    try:
        root = xml.etree.ElementTree.fromstring(data)
    except (xml.etree.ElementTree.ParseError, ValueError, LookupError) as error:
        raise ValueError(f"{path}: not valid XML ({error}); copy the file again") from None
    names = [(entry.text or "").strip() for entry in root.findall("object/name")]
    try:
        return parse_tag_text(";".join(names), class_names)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_coco_json(
    path: str | os.PathLike, class_names: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Tags by image id (file name without suffix) of a COCO instances file, crowds included.

    Images without any annotation are left out.
    """
    table = _read_coco(path)
    try:
        files_by_id = {entry["id"]: entry["file_name"] for entry in table["images"]}
        names = {key: pathlib.PurePath(file).stem for key, file in files_by_id.items()}
        categories = {entry["id"]: entry["name"] for entry in table["categories"]}
        pairs = [(entry["image_id"], entry["category_id"]) for entry in table["annotations"]]
        unknown = [(image, category) for image, category in pairs
                   if image not in names or category not in categories]
        twice = len(table["images"]) - len(set(names.values()))
        used = {categories[category] for _, category in pairs if category in categories}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a COCO instances file ({error!r}); want images, categories "
                         "and annotations") from None
    if twice:
        raise ValueError(f"{path}: {twice} of {len(table['images'])} images have the id or the "
                         "file name of another; each may stand once")
    if unknown:
        image, category = unknown[0]
        raise ValueError(f"{path}: annotation of unknown image {image!r} or class {category!r} "
                         f"({len(unknown)} of {len(pairs)} annotations); copy the file again")
    column = {name: index for index, name in enumerate(class_names[1:])}
    if other := sorted(str(name) for name in used if name not in column):
        more = f" ({len(other)} of its {len(used)} classes are unknown)" if len(other) > 1 else ""
        raise ValueError(f"{path}: {unknown_class(other[0], class_names)}{more}")
    tags = {}
    for image, category in pairs:
        row_k = tags.setdefault(names[image], np.zeros(len(column), np.float32))
        row_k[column[categories[category]]] = 1
    if not tags:
        raise ValueError(f"{path}: holds no annotation; want a COCO instances file")
    return dict(sorted(tags.items()))


def _read_coco(path: str | os.PathLike):
    """The JSON without the outlines, which are nine tenths of it and would take gigabytes."""
    def without_outline(entry):
        entry.pop("segmentation", None)
        return entry

    try:
        return json.loads(pathlib.Path(path).read_text(encoding="utf-8"),
                          object_hook=without_outline)
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits
        raise ValueError(f"{path}: not valid JSON ({error}); write it again") from None


def format_tags(tags_k: np.ndarray, class_names: tuple[str, ...]) -> str:
    """The CSV field of tags [k]: class names separated by `;`."""
    return ";".join(name for name, tag in zip(class_names[1:], tags_k, strict=True) if tag)


def _read_rows(path: str | os.PathLike) -> list[tuple[int, list[str]]]:
    """(line number, fields) of every filled row below the header."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            rows = [(reader.line_num, row) for row in reader if any(map(str.strip, row))]
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a UTF-8 text file; want a CSV file `id,tags`") from None
    except csv.Error as error:
        raise ValueError(f"{path}: not a CSV file ({error}); want `id,tags`") from None
    if not rows or len(rows[0][1]) != 2 or rows[0][1][0].strip() != "id":
        first = ",".join(rows[0][1])[:60] if rows else ""
        raise ValueError(f"{path}: first line {first!r}; want the header `id,tags`")
    return rows[1:]
