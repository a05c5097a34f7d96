"""Data sets as lists of records: which photo, tags, mask and saliency map belong together.

Folder trees that are understood (everything but photos, lists and tags may be absent):

    voc     JPEGImages/<id>.jpg  SegmentationClass/<id>.png  SegmentationClassAug/<id>.png
            ImageSets/Segmentation/<split>.txt or <split>.txt  tags.csv or Annotations/<id>.xml
            saliency/<id>.jpg|png
    folder  images/<id>.jpg|png (or right in the folder)  masks/<id>.png  saliency/<id>.jpg|png
            tags.csv  classes.txt  <split>.txt (without any: all photos are `train`)
    coco    the same tree with COCO's classes, or the original one, of 2014 or 2017:
            train2014/<id>.jpg  val2014/<id>.jpg, here or in images/
            annotations/instances_train2014.json  annotations/instances_val2014.json: `train` and
            `val` are their images with an annotation, which is their tag; <split>.txt may name
            some of either. `test` without a list is val, as val.txt has it where there is one:
            nobody has the annotations of COCO's own
            masks/<id>.png (coco_masks.py makes them)
"""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Iterable

import numpy as np

from wsssjax.core import files
from wsssjax.data import label_map, tags
from wsssjax.data.classes import read_class_names

LISTS = ("train", "train_aug", "trainaug", "val", "test")  # taken where no split is asked for
LIST_FOLDERS = (".", "ImageSets/Segmentation")
PHOTO_FOLDERS = {"voc": ("JPEGImages",), "folder": ("images", "."), "coco": ("images", ".")}
LABEL_FOLDERS = ("SegmentationClass", "SegmentationClassAug", "masks")  # official masks first
SALIENCY_FOLDERS = ("saliency",)
CLASSES = {"voc": "voc", "folder": "classes.txt", "coco": "coco"}
ANNOTATIONS = "annotations"  # COCO's folder of instances files
STANDS_FOR = {"test": "val"}  # of COCO


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One image. Images stand as a path, or as encoded bytes where no file exists."""

    name: str
    photo: pathlib.Path | bytes
    tags: np.ndarray | None = None  # float32 [k], None = unknown
    label: pathlib.Path | bytes | None = None  # true label map, PNG
    saliency: pathlib.Path | bytes | None = None  # 8-bit grey
    context: bytes | None = None  # true map of what stands around an object, PNG; `shapes` only


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSet:
    """Records of each split, in the order of the list files (sorted where there is no list)."""

    class_names: tuple[str, ...]  # background first
    splits: dict[str, tuple[Record, ...]]


def fail(problem: str) -> None:
    """The default way to tell of a problem: the first one ends the work."""
    raise ValueError(problem)


def collect(
    kind: str,
    root: str | pathlib.Path,
    *,
    splits: Iterable[str] = (),
    classes: str = "",
    tag_file: str = "",
    tags_from_masks: Iterable[str] = (),
    tell: Callable[[str], None] = fail,
) -> DataSet:
    """The data set in a folder; no photo or mask is opened yet.

    kind: "voc", "folder" or "coco".  splits: names of lists, () = all of LISTS that are there.
    classes: "voc", "coco" or a file, "" = what `kind` implies.  tag_file: CSV, or COCO's instances
    JSON; "" = tags.csv, else the XML or JSON annotations where there are any.  tags_from_masks:
    splits whose tags are taken from the true masks, whatever else there is.  tell: called with one
    line for each problem; images with one are left out.
    """
    if kind not in PHOTO_FOLDERS:
        raise ValueError(f"data set kind {kind!r}: want one of {', '.join(PHOTO_FOLDERS)}")
    root = pathlib.Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    folder_file = root / CLASSES[kind]
    class_names = read_class_names(classes or (folder_file if kind == "folder" else CLASSES[kind]))
    finder = _Finder(kind, root, class_names, tag_file, frozenset(tags_from_masks), tell)
    splits = tuple(splits) or finder.splits()
    if other := sorted(finder.tags_from_masks - set(splits)):
        raise ValueError(f"--tags_from_masks={other[0]}: no split that is taken; there are "
                         f"{', '.join(splits)}")
    lines = {split: finder.lines(split) for split in splits}
    if missing := [split for split in splits if not lines[split]]:
        tried = " or ".join(str(root / folder / f"{missing[0]}.txt") for folder in LIST_FOLDERS)
        raise FileNotFoundError(f"no list of split {', '.join(missing)}: want {tried}")
    found = {split: finder.records(split, lines[split]) for split in splits}
    return DataSet(class_names=class_names, splits=found)


def fingerprint(data: DataSet, parts: tuple[str, ...]) -> str:
    """Sixteen hex digits that change when an id, a tag, or a file's size or time changes.

    parts: the images that count beside the photo.
    """
    digest = hashlib.sha256(repr((data.class_names, parts)).encode())
    for split, records in data.splits.items():
        digest.update(split.encode())
        for record in records:
            digest.update(record.name.encode())
            digest.update(b"?" if record.tags is None else record.tags.tobytes())
            for part in ("photo", *parts):
                digest.update(_stamp(getattr(record, part)))
    return digest.hexdigest()[:16]


def load(part: pathlib.Path | bytes) -> bytes:
    """The encoded bytes of one image of a record."""
    return part if isinstance(part, bytes) else part.read_bytes()


def read_list(path: pathlib.Path) -> list[tuple[str, str, str]]:
    """(id, photo path, label path) of each line; the paths are "" where only the id is written.

    Lines are ids, or `<photo path> [<label path>]` as in SBD-augmented lists.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a text file; want one image id a line") from None
    entries, seen = [], set()
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        is_path = "/" in words[0]
        name = pathlib.PurePosixPath(words[0]).stem if is_path else words[0]
        if len(words) > (2 if is_path else 1) or tags.id_problem(name):
            wrong = line.strip()[:80]
            raise ValueError(f"{path}, line {number}: {wrong!r}; want an id, or '<photo> <label>'")
        if name in seen:
            raise ValueError(f"{path}, line {number}: id {name!r} stands twice; keep one of them")
        seen.add(name)
        label = words[1].lstrip("/") if len(words) == 2 else ""
        entries.append((name, words[0].lstrip("/") if is_path else "", label))
    if not entries:
        raise ValueError(f"{path}: holds no id; want one image id a line")
    return entries


class _Finder:
    """Finds the files of one data set; state is what `collect` was asked, and what was read."""

    def __init__(self, kind, root, class_names, tag_file, tags_from_masks, tell):
        self.kind, self.root, self.class_names = kind, root, class_names
        self.tags_from_masks, self.tell = tags_from_masks, tell
        self.tag_file = pathlib.Path(tag_file) if tag_file else root / "tags.csv"
        self.tags = self._read_tags() if tag_file or self.tag_file.is_file() else None
        self.parts = self._coco_parts() if kind == "coco" else {}
        self.read: dict[str, dict[str, np.ndarray]] = {}
        self.photo_folders = (*(part for part, _ in self.parts.values()), *PHOTO_FOLDERS[kind])

    def splits(self) -> tuple[str, ...]:
        """Those with a list; without any, COCO's parts, else all photos as `train`."""
        return self._listed() or tuple(self.parts) or ("train",)

    def lines(self, split: str) -> list[tuple[str, str, str]]:
        """What `read_list` has of a split's images: of its list, else of COCO's annotations, else,
        where there is neither a list nor annotations, all photos as `train`; [] without any."""
        source = self._source(split)
        if isinstance(source, pathlib.Path):
            return read_list(source)
        if source:
            return [(name, "", "") for name in self._instances(source)]
        if split == "train" and self.kind != "voc" and not (self._listed() or self.parts):
            return [(name, "", "") for name in self._all_ids()]
        return []

    def records(self, split: str, lines: list[tuple[str, str, str]]) -> tuple[Record, ...]:
        """The records of one split; each image that lacks something needed is told and left out."""
        records = []
        table = self._tag_table(split)
        for name, photo, label in lines:
            if tags.id_problem(name):
                self.tell(f"{self.root}: {tags.id_problem(name)}")
                continue
            photo_path = self.root / photo if photo else self._photo(name)
            if photo_path is None or not photo_path.is_file():
                want = photo or f"{self.photo_folders[0]}/{name}.jpg"
                self.tell(f"{self.root}: id {name!r} of {split} has no photo; want {want}")
                continue
            label_path = self.root / label if label else self._find(LABEL_FOLDERS, name, (".png",))
            if label_path is not None and not label_path.is_file():
                label_path = None  # a list may name masks that only its author has
            try:
                tags_k = self._tags(name, split, label_path, table)
            except (ValueError, OSError) as error:
                self.tell(str(error))
                continue
            saliency = self._find(SALIENCY_FOLDERS, name, (".png", ".jpg", ".jpeg"))
            records.append(Record(
                name=name, photo=photo_path, tags=tags_k, label=label_path, saliency=saliency
            ))
        return tuple(records)

    def _source(self, split: str) -> pathlib.Path | str | None:
        """Where the ids of a split stand: a list file, or a part of COCO."""
        names = (split, STANDS_FOR.get(split, split)) if self.kind == "coco" else (split,)
        lists = filter(None, map(self._list_path, names))
        return next(lists, None) or next((name for name in names if name in self.parts), None)

    def _tag_table(self, split: str) -> tuple[dict[str, np.ndarray], pathlib.Path] | None:
        """Tags by id of a split and the file they are in; None where each image has its own."""
        if split in self.tags_from_masks:
            return None
        if self.tags is not None:
            return self.tags, self.tag_file
        source = self._source(split)  # a list may name photos of every part
        parts = (source,) if source in self.parts else self.parts
        found = {name: row_k for part in parts for name, row_k in self._instances(part).items()}
        return (found, self.root / ANNOTATIONS) if parts else None

    def _tags(self, name: str, split: str, label: pathlib.Path | None, table) -> np.ndarray | None:
        """Tags of one image; training photos must have some, others may do without."""
        if table:
            found, source = table[0].get(name), table[1]
        else:
            found, source = self._own_tags(name, split, label)
        if split.startswith("train") and (found is None or not found.any()):
            raise ValueError(f"{source}: no tags for id {name!r} of {split}; add them, or take the "
                             "id out of the list")
        return found

    def _own_tags(self, name: str, split: str, label: pathlib.Path | None):
        """(tags or None, file) of one image, of its mask or its XML."""
        xml = self.root / "Annotations" / f"{name}.xml"
        if split in self.tags_from_masks:
            if label is None:
                raise ValueError(f"{self.root}: id {name!r} of {split} has no mask to get tags of")
            label_hw = label_map.read(label, len(self.class_names))
            return tags.mask_tags(label_hw, len(self.class_names)), label
        if xml.is_file():
            return tags.read_voc_xml(xml, self.class_names), xml
        return None, self.tag_file

    def _read_tags(self) -> dict[str, np.ndarray]:
        found, problems = tags.parse_tags(self.tag_file, self.class_names)
        for problem in problems:
            self.tell(problem)
        return found

    def _listed(self) -> tuple[str, ...]:
        return tuple(split for split in LISTS if self._list_path(split))

    def _list_path(self, split: str) -> pathlib.Path | None:
        paths = [self.root / folder / f"{split}.txt" for folder in LIST_FOLDERS]
        return next((path for path in paths if path.is_file()), None)

    def _photo(self, name: str) -> pathlib.Path | None:
        return self._find(self.photo_folders, name, files.PHOTO_SUFFIXES + (".JPG", ".PNG"))

    def _find(self, folders, name, suffixes) -> pathlib.Path | None:
        for folder in folders:
            for suffix in suffixes:
                path = self.root / folder / f"{name}{suffix}"
                if path.is_file():
                    return path
        return None

    def _all_ids(self) -> list[str]:
        """Ids of all tags and all photos: what has only one of the two is told later."""
        folders = [self.root / folder for folder in PHOTO_FOLDERS[self.kind]]
        folder = next(folder for folder in folders if folder.is_dir())
        photos = {path.stem for path in folder.iterdir()
                  if path.suffix.lower() in files.PHOTO_SUFFIXES}
        return sorted(photos | set(self.tags or ()))

    def _coco_parts(self) -> dict[str, tuple[str, pathlib.Path]]:
        """{split: (folder of photos, instances file)} of a tree as published."""
        found: dict[str, tuple[str, pathlib.Path]] = {}
        for path in sorted((self.root / ANNOTATIONS).glob("instances_*.json")):
            part = path.stem.removeprefix("instances_")
            split = part.rstrip("0123456789")
            folder = next((f for f in (part, f"images/{part}") if (self.root / f).is_dir()), None)
            if folder is None:
                continue  # the archive of annotations holds both parts, whichever photos are there
            if split in found:
                raise ValueError(f"{self.root}: both {found[split][0]}/ and {folder}/ are {split}; "
                                 "keep the photos or the annotations of one of them here")
            found[split] = folder, path
        if not found and (self.root / ANNOTATIONS).is_dir() and not (self.root / "images").is_dir():
            raise FileNotFoundError(f"{self.root}: annotations but no photos; want train2014/ and "
                                    "val2014/ (or 2017), or images/")
        return found

    def _instances(self, split: str) -> dict[str, np.ndarray]:
        """Tags by id of all annotated images of a part of COCO; its file is read once."""
        if split not in self.read:
            self.read[split] = tags.read_coco_json(self.parts[split][1], self.class_names)
        return self.read[split]


def _stamp(part: pathlib.Path | bytes | None) -> bytes:
    if part is None:
        return b"-"
    if isinstance(part, bytes):
        return hashlib.sha256(part).digest()
    status = part.stat()
    return f"{status.st_size} {status.st_mtime_ns}".encode()
