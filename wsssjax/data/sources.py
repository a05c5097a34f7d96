"""Where examples come from: packed data sets and list files, both read at random.

An example is a dict: `name` str, `image` uint8 [h,w,3] RGB, and, where known, `label` uint8 [h,w],
`tags` float32 [k], `saliency` uint8 [h,w], `context` uint8 [h,w]. Sources can be pickled, so that
loader processes open their own files.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterable

import numpy as np

from wsssjax.data import label_map, photos

KEYS = ("image", "tags", "label", "saliency", "context")
ANY_LABEL = 255  # as `num_classes`: every value of an 8-bit label map is let through


class Packed:
    """Examples of one split of a packed data set, in the order they were packed."""

    def __init__(
        self, folder: str | os.PathLike, split: str, keys: tuple[str, ...] = ("image", "tags")
    ):
        """folder: what `prepare.pack` returned, or the `out` it was given.  keys: what examples
        hold beside `name`; an entry that an image lacks (tags of an untagged one) is left out.
        Its id stands in `lacking`, {key: ids}, where the pack is new enough to say."""
        self.folder, self.split, self.keys = pack_folder(folder), split, tuple(keys)
        unknown = [key for key in self.keys if key not in KEYS]
        if unknown:
            raise ValueError(f"key {unknown[0]!r} of a packed example: want some of {KEYS}")
        metadata = read_metadata(self.folder)
        self.class_names = tuple(metadata["class_names"])
        if split not in metadata["ids"]:
            have = ", ".join(metadata["ids"])
            raise ValueError(f"{self.folder}: no split {split!r}; it has {have}")
        self.ids = tuple(metadata["ids"][split])
        self.lacking = metadata.get("lacking", {}).get(split, {})
        self._records = None
        stored = self._open().dataset_info.features
        missing = [key for key in self.keys if key not in stored]
        if missing:
            have = ", ".join(key for key in KEYS if key in stored)
            raise ValueError(f"{self.folder}: packed without {', '.join(missing)}; it has {have}")

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict:
        name = self.ids[index]
        title = f"{self.folder}: {self.split} image {name!r}"
        try:
            record = self._open()[index]
        except Exception as error:  # the C++ reader raises several types
            raise ValueError(f"{title}: unreadable ({error}); pack the data set again") from None
        if record["id"] != name.encode():  # a file cut off gives empty records
            raise ValueError(f"{title}: found {record['id']!r}; pack the data set again")
        example = {"name": name}
        for key in self.keys:
            if key == "image":
                example[key] = photos.decode_photo(record[key], title)
            elif record[f"has_{key}"]:
                example[key] = self._decode(key, record[key], title)
        _check_sizes(example, title)
        return example

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_records": None}

    def _decode(self, key: str, value, title: str) -> np.ndarray:
        if key == "tags":
            return np.asarray(value, np.float32)
        if key == "label":
            return label_map.decode(value, title, len(self.class_names))
        return photos.decode_saliency(value, title)

    def _open(self):
        """TFDS's reader of the encoded records, opened once in each process."""
        if self._records is None:
            import tensorflow_datasets as tfds  # half a second; only those who read packs pay

            try:
                builder = tfds.builder_from_directory(self.folder)
                images = [key for key in KEYS if key != "tags" and key in builder.info.features]
                skip = {key: tfds.decode.SkipDecoding() for key in images}
                self._records = builder.as_data_source(self.split, decoders=skip)
            except Exception as error:  # TFDS raises many types on broken files
                reason = " ".join(str(error).split())[:200]
                raise ValueError(
                    f"{self.folder}: broken pack ({reason}); pack the data set again"
                ) from None
        return self._records


class Listed:
    """Examples of a list of photos and label maps on disk, in the order of the list."""

    def __init__(
        self,
        lines: Iterable[str],
        root: str | os.PathLike = "",
        *,
        num_classes: int = ANY_LABEL,
        tags: dict[str, np.ndarray] | None = None,
    ):
        """lines: `<photo path> <label path>`, or the photo path alone.  root: folder that relative
        paths count from.  num_classes: greatest label value plus one, where it shall be checked.
        tags: by id, to go with the photos."""
        self.pairs = []
        for number, line in enumerate(lines, 1):
            words = line.split()
            if len(words) not in (1, 2):
                raise ValueError(f"line {number} of a list, {line[:80]!r}: want '<photo> <label>'")
            photo, label = pathlib.Path(root, words[0]), words[1] if len(words) == 2 else ""
            self.pairs.append((photo.stem, photo, pathlib.Path(root, label) if label else None))
        if not self.pairs:
            raise ValueError("a list without photos; want one '<photo> <label>' a line")
        self.ids = tuple(name for name, _, _ in self.pairs)
        self.num_classes, self.tags = num_classes, tags

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict:
        name, photo, label = self.pairs[index]
        example = {"name": name, "image": photos.read_photo(photo)}
        if label is not None:
            size = example["image"].shape[:2]
            example["label"] = label_map.read(label, self.num_classes, size)
        if self.tags is not None:
            if name not in self.tags:
                raise ValueError(f"{photo}: no tags for id {name!r}; add it to the tags file")
            example["tags"] = self.tags[name]
        return example


def list_lines(path: str | os.PathLike) -> list[str]:
    """The filled lines of a list file, each `<photo path>` or `<photo path> <label path>`."""
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a text file; want '<photo> <label>' a line") from None
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        if len(line.split()) > 2 or "\0" in line:
            raise ValueError(
                f"{path}, line {number}: {line[:80]!r}; want '<photo> <label>', no spaces in paths"
            )
        if line.strip():
            lines.append(line.strip())
    if not lines:
        raise ValueError(f"{path}: names no photo; want '<photo> <label>' a line")
    return lines


def pack_folder(folder: str | os.PathLike) -> pathlib.Path:
    """The folder that holds the pack itself: `folder`, or the only `<name>/<version>` in it."""
    folder = pathlib.Path(folder)
    if (folder / "dataset_info.json").is_file():
        return folder
    found = sorted(path.parent for path in folder.glob("*/*/dataset_info.json")
                   if not path.parent.parent.name.startswith("."))
    if not found:
        raise FileNotFoundError(
            f"{folder}: no packed data set; make one with python tools/prepare_data.py"
        )
    if len(found) > 1:
        names = ", ".join(str(path.relative_to(folder)) for path in found)
        raise ValueError(f"{folder}: holds several packs, {names}; name one of them")
    return found[0]


def read_metadata(folder: pathlib.Path) -> dict:
    """Class names, ids of each split and fingerprint of a pack."""
    path = folder / "metadata.json"
    cure = "pack the data set again with python tools/prepare_data.py"
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        ids, names = metadata["ids"], metadata["class_names"]
        whole = all(isinstance(split, list) for split in ids.values()) and isinstance(names, list)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise ValueError(f"{path}: missing or broken; {cure}")
    return metadata


def _check_sizes(example: dict, title: str) -> None:
    """All images of one example cover the same pixels."""
    size = example["image"].shape[:2] if "image" in example else None
    for key in ("label", "saliency", "context"):
        if key in example and size is not None and example[key].shape != size:
            raise ValueError(
                f"{title}: {key} of {example[key].shape}, photo of {size} (h, w); scale one of them"
            )
