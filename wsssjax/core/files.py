"""Files that are either whole or not there, and the few text formats that all stages read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import platform
import time
from collections.abc import Container, Iterable, Iterator

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png")
_TEMPORARY = ".wsssjax-tmp"
_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]  # who writes a temporary file
_OTHER_HOST_S = 3600  # seconds after which a temporary file of another host is taken for dead


@contextlib.contextmanager
def atomic(path: str | os.PathLike, mode: str = "wb") -> Iterator:
    """A file object whose content appears under `path` only when the block ends without error.

    A kill leaves the old file, the new one, or a temporary file that `sweep` removes.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{_HOST}-{os.getpid()}{_TEMPORARY}")
    encoding = None if "b" in mode else "utf-8"
    try:
        with open(temporary, mode, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a full disk does not say whose write it refused
        raise


def sweep(folder: str | os.PathLike) -> None:
    """Removes what killed runs left half written below `folder`, not what others write just now."""
    for path in pathlib.Path(folder).rglob(f".*{_TEMPORARY}"):
        with contextlib.suppress(FileNotFoundError):
            if not _being_written(path):
                path.unlink()


def _being_written(path: pathlib.Path) -> bool:
    """Whether a temporary file has a living writer: a process of this host, or, as far as its age
    tells, one of another host. This process itself has not begun to write."""
    host, _, pid = path.name.removesuffix(_TEMPORARY).rpartition(".")[2].partition("-")
    if not pid.isdecimal() or int(pid) == os.getpid():
        return False
    if host != _HOST:
        return time.time() - path.stat().st_mtime < _OTHER_HOST_S
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True


def claim(path: str | os.PathLike, made_with: dict, flag: str = "--out") -> None:
    """Writes down in `path` what the files of its folder are made with, and sweeps the folder.

    ValueError where the folder holds files that were made with something else: they must not be
    mixed. A note beside which nothing was made yet binds nobody.  flag: what names the folder.
    """
    path = pathlib.Path(path)
    sweep(path.parent)
    if path.exists() and any(other != path for other in path.parent.iterdir()):
        before = read_json(path)
        if not isinstance(before, dict):
            raise ValueError(f"{path}: no note of what its folder was made with; give another "
                             f"{flag} or empty the folder")
        changed = sorted(k for k in made_with if before.get(k) != made_with[k])
        if changed:
            raise ValueError(f"{path.parent}: its files were made with another "
                             f"{', '.join(changed)} (see {path}); give another {flag} or empty "
                             "the folder")
    write_json(path, made_with)


def outside(out: str | os.PathLike, what: str, **inputs) -> None:
    """ValueError where the folder for results is one of the inputs, given by their flags' names."""
    for name, folder in inputs.items():
        if folder and pathlib.Path(out).resolve() == pathlib.Path(folder).resolve():
            raise ValueError(f"{what}={out}: is --{name} itself; name another folder")


def newer(made: Iterable[pathlib.Path], sources: Iterable[pathlib.Path]) -> bool:
    """Whether all files `made` are there, none older than one of its `sources`."""
    try:
        return min(p.stat().st_mtime_ns for p in made) >= max(p.stat().st_mtime_ns for p in sources)
    except FileNotFoundError:
        return False


def write_json(path: str | os.PathLike, value) -> None:
    """Writes `value` with sorted keys: the same value gives the same bytes."""
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"
    with atomic(path, "w") as file:
        file.write(text)


def read_json(path: str | os.PathLike):
    """The value in a JSON file; ValueError names the file and the place where it is broken."""
    try:
        return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error}); write it again") from None


def read_ids(path: str | os.PathLike) -> list[str]:
    """The ids of a list file in their order: one a line, blank lines dropped, none twice."""
    try:
        lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a text file; want one image id a line") from None
    ids, seen = [], set()
    for number, line in enumerate(lines, 1):
        name = line.strip()
        if not name:
            continue
        if name in seen:
            raise ValueError(f"{path}, line {number}: id {name!r} stands twice; keep one of them")
        if " " in name or "/" in name or "\0" in name:
            raise ValueError(f"{path}, line {number}: {name!r} is no id; want one id a line")
        seen.add(name)
        ids.append(name)
    if not ids:
        raise ValueError(f"{path}: holds no id; want one image id a line")
    return ids


def photo_paths(source: str | os.PathLike) -> dict[str, pathlib.Path]:
    """Photos by id, sorted by id. `source`: a folder of JPEG and PNG, or a text file of paths.

    Relative paths in a list file count from the folder of the list.
    """
    source = pathlib.Path(source)
    if source.is_dir():
        found = sorted(p for p in source.iterdir() if p.suffix.lower() in PHOTO_SUFFIXES)
    elif source.is_file():
        try:
            lines = source.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            raise ValueError(f"{source}: want a folder of photos or a text file of paths") from None
        found = [source.parent / line.split()[0] for line in lines if line.strip()]
    else:
        raise FileNotFoundError(f"{source}: no such folder or list of photos")
    paths: dict[str, pathlib.Path] = {}
    for path in found:
        if path.stem in paths:
            raise ValueError(f"{path}: the id {path.stem!r} is taken by {paths[path.stem].name}")
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such photo (named in {source})")
        paths[path.stem] = path
    if not paths:
        raise ValueError(f"{source}: holds no photo; want files ending in .jpg, .jpeg or .png")
    return dict(sorted(paths.items()))


def need_ids(wanted: Iterable[str], there: Container[str], where: object, cure: str) -> None:
    """ValueError that names the first and the number of `wanted` ids that are not `there`.

    where: what should hold them, a path with the flag or field that gave it.
    """
    wanted = list(wanted)
    if missing := [name for name in wanted if name not in there]:
        raise ValueError(f"{where}: has nothing for {missing[0]!r} ({len(missing)} of "
                         f"{len(wanted)} ids missing); {cure}")


def hash_ids(ids: Iterable[str]) -> str:
    """Sixteen hex digits that change when an id or the order changes."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]


def hash_file(path: str | os.PathLike) -> str:
    """Sixteen hex digits of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def hash_value(value) -> str:
    """Sixteen hex digits of a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
