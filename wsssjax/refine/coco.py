"""Masks in the JSON of others: SAM's generator, SA-1B, COCO results and COCO annotations."""

from __future__ import annotations

import gzip
import json
import os
import pathlib
import zlib

SCORES = {"score": ("predicted_iou", "score"), "stability": ("stability_score", "stability")}
PLACES = {"point": "point_coords", "crop_box": "crop_box"}
EXTRAS = (*SCORES, *PLACES)  # what our records may hold besides the mask


def read_json(path: str | os.PathLike, limit: int, cure: str):
    """The value of a .json or .json.gz file of at most `limit` bytes unpacked; ValueError names it.

    cure: what to do about a broken file.
    """
    try:
        with (gzip.open if str(path).endswith(".gz") else open)(path, "rb") as file:
            data = file.read(limit + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: not a whole gzip file ({error}); {cure}") from None
    if len(data) > limit:
        raise ValueError(f"{path}: unpacks to over {limit >> 20} MB; want fewer masks")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:  # not UTF-8, no JSON, or a number of 5000 digits
        raise ValueError(f"{path}: not valid JSON ({error}); {cure}") from None


def annotations(value, path: str | os.PathLike) -> list[dict]:
    """The list of annotations in a file of one image: a plain list (SAM) or one under its name.

    >>> annotations({"image": {}, "annotations": [{"segmentation": {}}]}, "sa_1.json")
    [{'segmentation': {}}]
    """
    found = value.get("annotations") if isinstance(value, dict) else value
    if not isinstance(found, list) or not all(isinstance(a, dict) for a in found):
        raise ValueError(f"{path}: has no list of annotations; want SAM's records, "
                         '[{"segmentation": {"size": [h, w], "counts": …}, …}, …]')
    return found


def is_size(size) -> bool:
    """Whether a JSON value is [height, width] in whole positive numbers."""
    return (isinstance(size, list) and len(size) == 2
            and all(type(side) is int and side > 0 for side in size))


def convert(found: list[dict], path: str | os.PathLike) -> dict:
    """{"size", "masks"} as in our files from the annotations of one image; counts stay unparsed.

    size is None where there is no mask that could tell it.

    >>> convert([{"segmentation": {"size": [2, 2], "counts": [1, 3]}, "predicted_iou": 0.9}], "a")
    {'size': [2, 2], 'masks': [{'counts': [1, 3], 'score': 0.9}]}
    """
    size, masks = None, []
    for index, annotation in enumerate(found):
        coded = annotation.get("segmentation")
        if isinstance(coded, list):
            raise ValueError(f"{path}: mask {index} is a polygon; want run lengths "
                             "(pycocotools' annToRLE makes them)")
        if not isinstance(coded, dict) or not is_size(coded.get("size")):
            raise ValueError(f'{path}: mask {index} has no "segmentation" of '
                             '{"size": [h, w], "counts": …}')
        size = size or coded["size"]
        if coded["size"] != size:
            raise ValueError(f"{path}: mask {index} has the size {coded['size']}, mask 0 {size}; "
                             "want one size for an image")
        masks.append({"counts": coded.get("counts"), **_extras(annotation, path, index)})
    return {"size": size, "masks": masks}


def _extras(annotation: dict, path, index: int) -> dict:
    extras = {}
    for ours, theirs in SCORES.items():
        given = [name for name in theirs if annotation.get(name) is not None]
        if given:
            value = annotation[given[0]]
            if isinstance(value, list) or not finite(value):
                raise ValueError(f"{path}: mask {index} has the {given[0]} {value!r}; want a "
                                 "number")
            extras[ours] = float(value)
    for ours, theirs in PLACES.items():
        if isinstance(annotation.get(theirs), list) and finite(annotation[theirs]):
            extras[ours] = annotation[theirs]
    return extras


def finite(value) -> bool:
    """Whether it is a number, or lists of numbers, that JSON can hold.

    >>> finite([[1.5, 2]]), finite(float("nan")), finite("1")
    (True, False, False)
    """
    if isinstance(value, list):
        return all(finite(part) for part in value)
    return type(value) in (int, float) and abs(value) < 1e300


def by_image(value, path: str | os.PathLike) -> dict[str, list[dict]]:
    """Annotations by image name from one file for many images, each list in the file's order.

    value: COCO results, [{"image_id", "segmentation", …}, …], or {"images", "annotations"}, whose
    file names then are the images' names.

    >>> by_image([{"image_id": 9, "score": 1}, {"image_id": 7}, {"image_id": 9}], "results.json")
    {'9': [{'image_id': 9, 'score': 1}, {'image_id': 9}], '7': [{'image_id': 7}]}
    """
    names, stems = {}, set()
    images = value.get("images", []) if isinstance(value, dict) else []
    for image in images if isinstance(images, list) else []:
        if not isinstance(image, dict) or not isinstance(image.get("file_name"), str):
            raise ValueError(f'{path}: has an image without "file_name"')
        stem = pathlib.PurePath(image["file_name"]).stem
        if stem in stems:
            raise ValueError(f"{path}: two images are called {stem!r}; give them names of their "
                             "own")
        stems.add(stem)
        names[str(image.get("id"))] = stem
    found: dict[str, list[dict]] = {name: [] for name in names.values()}
    for index, annotation in enumerate(annotations(value, path)):
        image_id = annotation.get("image_id")
        if not isinstance(image_id, (int, str)) or isinstance(image_id, bool):
            raise ValueError(f'{path}: annotation {index} has the "image_id" {image_id!r}; want a '
                             "name or a number")
        found.setdefault(names.get(str(image_id), str(image_id)), []).append(annotation)
    return found
