"""A data set as plain files that every later stage and every other program can open."""

from __future__ import annotations

import os
import pathlib

from wsssjax.core import files
from wsssjax.data.records import DataSet, Record

FOLDERS = {"label": "truth", "saliency": "saliency", "context": "context"}


def unfold(data: DataSet, out: str | os.PathLike) -> dict[str, str]:
    """Writes lists, tags, class names and folders of maps; returns their paths relative to `out`.

    Files that exist already are linked to, not copied; photos stay where they are and are named in
    `<split>_photos.txt`. A part that no record has is "".
    """
    out = pathlib.Path(out)
    everyone = [record for records in data.splits.values() for record in records]
    paths = {name: folder if any(getattr(r, name) is not None for r in everyone) else ""
             for name, folder in FOLDERS.items()}
    for record in everyone:
        for part, folder in paths.items():
            content = getattr(record, part)
            if content is not None:
                suffix = ".png" if isinstance(content, bytes) else content.suffix
                _place(content, out / folder / f"{record.name}{suffix}")
    for split, records in data.splits.items():
        _write_lines(out / f"{split}.txt", [record.name for record in records])
        _write_lines(out / f"{split}_photos.txt", [_photo(record, out) for record in records])
        paths |= {split: f"{split}.txt", f"{split}_photos": f"{split}_photos.txt"}
    tags = ["id,tags"]
    for record in everyone:
        if record.tags is not None:
            tags.append(f"{record.name}," + "".join(str(int(t)) for t in record.tags))
    _write_lines(out / "tags.csv", tags)
    _write_lines(out / "classes.txt", data.class_names)
    truth = paths.pop("label")
    return paths | {"truth": truth, "tags": "tags.csv", "classes": "classes.txt"}


def _photo(record: Record, out: pathlib.Path) -> str:
    """Where the photo of a record lies; a generated one is written first."""
    if not isinstance(record.photo, bytes):
        path = str(record.photo.resolve())
        if " " in path:
            raise ValueError(f"{path}: list files part photo and label by a space; "
                             "move the photos to a path without one")
        return path
    path = pathlib.Path("photos") / f"{record.name}.png"
    _place(record.photo, out / path)
    return str(path)


def _place(content: bytes | pathlib.Path, path: pathlib.Path) -> None:
    if path.is_symlink() or path.exists():
        return
    if isinstance(content, bytes):
        with files.atomic(path) as file:
            file.write(content)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(content.resolve())


def _write_lines(path: pathlib.Path, lines) -> None:
    with files.atomic(path, "w") as file:
        file.writelines(f"{line}\n" for line in lines)
