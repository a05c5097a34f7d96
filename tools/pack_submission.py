"""Command: label maps of VOC 2012's test photos → the archive that its test server takes."""

from __future__ import annotations

import gzip
import io
import pathlib
import tarfile
from collections.abc import Iterator

import numpy as np

from wsssjax.core import cli, config, files
from wsssjax.core.constants import IGNORE
from wsssjax.core.progress import track
from wsssjax.data import label_map, photos
from wsssjax.data.classes import VOC_CLASSES

CHALLENGES = {"comp5": "trained on VOC's photos alone", "comp6": "trained on more"}
SETS = {"test": 1456, "val": 1449, "train": 1464, "trainval": 2913}  # photos of the official lists
FOLDER = "results/VOC2012/Segmentation"


def pack(labels: str, ids: list[str], out: str, challenge: str, part: str,
         images: str | None = None) -> None:
    """Nothing; writes `out` (.tgz) with one palette PNG an id, and reads it again.

    The same label maps give the same bytes. Where something is wrong `out` is left as it was.
    """
    sizes = dict.fromkeys(ids)
    if images:
        paths = files.photo_paths(images)
        _all_there(images, ids, paths, "photo")
        sizes = {name: photos.photo_size(paths[name]) for name in ids}
    _all_there(labels, ids, label_map.folder_ids(labels), "label map")
    with files.atomic(out) as file:
        with (gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed,
              tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive):
            for name in track(ids, len(ids), "packing"):
                data = label_map.encode(_read(labels, name, sizes[name]))
                # Its other fields, owner and time among them, are zero.
                entry = tarfile.TarInfo(f"{FOLDER}/{challenge}_{part}_cls/{name}.png")
                entry.size, entry.mode = len(data), 0o644
                archive.addfile(entry, io.BytesIO(data))
        file.flush()
        _verify(file.name, labels, ids, sizes, f"{FOLDER}/{challenge}_{part}_cls")


def _read(labels: str, name: str, size: tuple[int, int] | None) -> np.ndarray:
    """A label map that holds nothing but classes."""
    path = pathlib.Path(labels) / f"{name}.png"
    label_hw = label_map.read(path, len(VOC_CLASSES), size)
    open_hw = label_hw == IGNORE
    if open_hw.any():
        row, column = np.argwhere(open_hw)[0]
        raise ValueError(f"{path}: value {IGNORE} (ignore) at row {row}, column {column}; the "
                         "server wants a class at each pixel, as python -m wsssjax.predict writes")
    return label_hw


def _verify(path: str, labels: str, ids: list[str], sizes: dict, folder: str) -> None:
    """Each entry of the archive is the label map it was made from, and there are no others."""
    want = iter(ids)
    for entry, data in _entries(path):
        name = next(want, None)
        if entry != f"{folder}/{name}.png":
            raise ValueError(f"{path}: holds {entry} in place of {name}; write it again")
        found_hw = label_map.decode(data, entry, len(VOC_CLASSES), sizes[name])
        if data[24:26] != b"\x08\x03":  # PNG header: bit depth, colour type
            raise ValueError(f"{path}: {entry} is no 8-bit palette PNG; write it again")
        if not np.array_equal(found_hw, _read(labels, name, sizes[name])):
            raise ValueError(f"{path}: {entry} differs from the label map; write it again")
    name = next(want, None)
    if name is not None:
        raise ValueError(f"{path}: ends before {name}; write it again")


def _entries(path: str) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                yield member.name, archive.extractfile(member).read()
    except (tarfile.TarError, EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: unreadable ({error}); write it again") from None


def _all_there(place: str, ids: list[str], there, what: str) -> None:
    missing = sorted(set(ids) - set(there))
    if missing:
        raise ValueError(f"{place}: holds no {what} of {missing[0]!r} ({len(missing)} of "
                         f"{len(ids)} ids missing)")


def main(arguments: list[str]) -> None:
    """Runs the command."""
    parser = cli.parser(
        "python tools/pack_submission.py", __doc__,
        "python tools/pack_submission.py --labels=out/test --ids=test.txt --out=results.tgz")
    add = parser.add_argument
    add("--labels", required=True, metavar="D", help="folder of <id>.png, values 0..20")
    add("--ids", required=True, metavar="LIST", help="text file, one id a line, such as VOC's "
        "ImageSets/Segmentation/test.txt; label maps of other ids are passed over")
    add("--out", required=True, metavar="F", help="archive to write, results.tgz for instance")
    add("--images", metavar="I", help="folder of the photos, or a list file: sizes are checked")
    add("--challenge", default="comp6", help="comp6 (default) or comp5: "
        + ", ".join(f"{name} = {what}" for name, what in CHALLENGES.items()))
    add("--set", default="test", help=f"of {', '.join(SETS)} (default test)")
    add("--partial", action="store_true", help="a list of another length than VOC's own is "
        "packed with a warning; the server scores whole sets only")
    flags = parser.parse_args(arguments)
    config.choose(CHALLENGES, flags.challenge, "--challenge")
    wanted = config.choose(SETS, flags.set, "--set")
    ids = files.read_ids(flags.ids)
    if len(ids) != wanted:
        text = f"{flags.ids}: {len(ids)} ids; VOC 2012 {flags.set} has {wanted:,}"
        if not flags.partial:
            raise ValueError(f"{text}; pass its own list, or add --partial")
        print(f"warning: {text}")
    pack(flags.labels, ids, flags.out, flags.challenge, flags.set, flags.images)
    there = {path.name for path in pathlib.Path(flags.labels).iterdir()}
    extra = len(there - {f"{name}.png" for name in ids})
    print(f"{flags.out}: {len(ids)} label maps, each read again; {extra} other files of "
          f"{flags.labels} passed over")


if __name__ == "__main__":
    cli.run(main)
