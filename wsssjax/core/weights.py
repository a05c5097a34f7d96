"""Weights by name: flat names in safetensors files, and a report both ways when they are restored.

A flat name is the path of a leaf: `params/backbone/conv_stem/kernel`.
"""

from __future__ import annotations

import difflib
import os
import pathlib
import re
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from wsssjax.core import files
from wsssjax.core.optim import path_name

FILE = "weights.safetensors"  # what a folder of weights holds
_LISTED = 5  # names that a message lists before it counts


class Report(NamedTuple):
    """missing: names the network has and the file has not.  unused: the other way round.
    misshaped: (name, shape or dtype wanted, the one found)."""

    missing: tuple[str, ...]
    unused: tuple[str, ...]
    misshaped: tuple[tuple[str, str, str], ...]

    def text(self) -> str:
        """All faults in one line, the first names of each kind."""
        faults = []
        if self.missing:
            faults.append(f"missing {listed(self.missing)}{_nearest(self.missing, self.unused)}")
        if self.unused:
            faults.append(f"left over {listed(self.unused)}")
        if self.misshaped:
            faults.append("of another shape " + listed(
                [f"{name} (want {want}, found {found})" for name, want, found in self.misshaped]))
        return "; ".join(faults)


def flatten(variables: Any) -> dict[str, Any]:
    """{"params/a/b": leaf} of a tree, in the order of the names."""
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return dict(sorted((path_name(path), leaf) for path, leaf in leaves))


def under(top: str, flat: Mapping[str, Any]) -> dict[str, Any]:
    """The same weights one level down: `params/x` becomes `params/<top>/x`."""
    split = {name: name.split("/", 1) for name in flat}
    return {f"{kind}/{top}/{rest}": flat[name] for name, (kind, rest) in split.items()}


def save(path: str | os.PathLike, variables: Any) -> None:
    """Writes a tree (or a flat dict) of arrays to `path`, whole or not at all."""
    flat = {name: np.asarray(leaf, order="C") for name, leaf in flatten(variables).items()}
    # bfloat16 fits into float32 exactly, and every reader of the file knows float32.
    flat = {name: x.astype(np.float32) if x.dtype == jnp.bfloat16 else x
            for name, x in flat.items()}
    _refuse_non_finite(flat, path)
    data = safetensors.numpy.save(flat)
    with files.atomic(path) as file:
        file.write(data)


def load(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Arrays by the names in the file. `path`: .safetensors, .npz, or a folder from training.

    A file that is truncated, of another kind, or holds NaN or infinity is a ValueError.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        path = path / FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weights; want a .safetensors file or a folder "
                                f"that holds {FILE}")
    if path.suffix == ".npz":
        flat = _load_npz(path)
    elif path.suffix in (".pth", ".pt", ".bin", ".ckpt"):
        raise ValueError(f"{path}: PyTorch's own format; convert it once: "
                         f"python tools/convert_weights.py --arch=NAME --src={path} --out=DIR")
    else:
        try:
            flat = safetensors.numpy.load_file(path)
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: damaged, or no safetensors file ({error}); write it "
                             "again") from None
    if not flat:
        raise ValueError(f"{path}: holds no weights; write it again")
    _refuse_non_finite(flat, path)
    return flat


def fingerprint(path: str | os.PathLike) -> str:
    """Sixteen hex digits of the content of a weight file, or of the one in a folder."""
    path = pathlib.Path(path)
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weights")
    return files.hash_file(path)


def _load_npz(path):
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("not an archive")
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: damaged, or no .npz file of plain arrays ({error}); write it "
                         "again") from None


def _refuse_non_finite(flat: Mapping[str, np.ndarray], path) -> None:
    bad = [n for n, x in flat.items()
           if jnp.issubdtype(x.dtype, jnp.inexact) and not np.isfinite(x.astype(np.float32)).all()]
    if bad:
        raise ValueError(f"{path}: NaN or infinity in {listed(bad)}; the training that wrote it "
                         "diverged, take an earlier file")


def compare(variables: Any, flat: Mapping[str, Any]) -> Report:
    """What stands between a tree (arrays or shapes) and flat weights, both ways."""
    wanted = flatten(variables)
    misshaped = []
    for name in wanted.keys() & flat.keys():
        leaf, found = wanted[name], flat[name]
        if tuple(leaf.shape) != tuple(found.shape):
            misshaped.append((name, str(list(leaf.shape)), str(list(found.shape))))
        elif _kind(leaf) != _kind(found):
            misshaped.append((name, str(leaf.dtype), str(found.dtype)))
    return Report(tuple(n for n in wanted if n not in flat),
                  tuple(n for n in sorted(flat) if n not in wanted), tuple(sorted(misshaped)))


def restore(variables: Any, flat: Mapping[str, Any], *, allow_missing: Sequence[str] = (),
            allow_unused: Sequence[str] = (), rename: Sequence[tuple[str, str]] = ()) -> Any:
    """`variables` with its leaves taken from `flat`, in the dtypes of the tree, on the host.

    variables: arrays, or shapes where nothing may be missing.  allow_missing, allow_unused:
    regular expressions of names that are excused; a missing leaf keeps its value.
    rename: (regular expression, replacement) pairs, applied to the names of `flat` in turn.
    """
    for pattern, replacement in rename:
        renamed = {re.sub(pattern, replacement, name): x for name, x in flat.items()}
        if len(renamed) < len(flat):
            raise ValueError(f"renaming {pattern!r} to {replacement!r} gives two weights one name")
        flat = renamed
    report = compare(variables, flat)
    missing = _without(report.missing, allow_missing)
    unused = _without(report.unused, allow_unused)
    faults = Report(tuple(missing), tuple(unused), report.misshaped)
    if any(faults):
        raise ValueError(f"weights do not fit the network: {faults.text()}")

    def pick(path, leaf):
        name = path_name(path)
        if name in flat:
            return np.asarray(flat[name]).astype(leaf.dtype)
        assert not isinstance(leaf, jax.ShapeDtypeStruct), f"{name}: excused, but has no value"
        return leaf

    return jax.tree_util.tree_map_with_path(pick, variables)


def listed(names: Iterable[str]) -> str:
    """`3 names: a, b, c`, cut after five."""
    names = list(names)
    more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{len(names)} name{'s' * (len(names) != 1)}: {', '.join(names[:_LISTED])}{more}"


def _without(names, patterns):
    return [n for n in names if not any(re.search(p, n) for p in patterns)]


def _nearest(missing: Sequence[str], unused: Sequence[str]) -> str:
    """` (nearest in the file to 'x': 'y')` for the first missing name that has a neighbour."""
    for name in missing[:_LISTED]:
        close = difflib.get_close_matches(name, unused, n=1, cutoff=0.8)
        if close:
            return f" (nearest to {name!r} in the file: {close[0]!r})"
    return ""


def _kind(x) -> str:
    return "float" if jnp.issubdtype(x.dtype, jnp.inexact) else str(x.dtype)
