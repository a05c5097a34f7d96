"""Config files: loading, overriding from the command line, locking, and near names."""

from __future__ import annotations

import ast
import difflib
import json
import os
import pathlib
import runpy

import ml_collections


def near(name: str, names) -> str:
    """`; did you mean 'x' or 'y'?`, or the names there are when none is near."""
    names = sorted(map(str, names))
    close = difflib.get_close_matches(name, names, n=3)
    if close:
        return "; did you mean " + " or ".join(repr(c) for c in close) + "?"
    return "; there are " + ", ".join(names) if names else ""


def load(spec: str, overrides: dict[str, str] | None = None) -> ml_collections.ConfigDict:
    """The locked config of `path.py` or `path.py:argument`, with `{"a.b": "value"}` applied.

    A misspelt field, a missing file, an unknown argument or a value of the wrong type is a
    ValueError of one line.
    """
    path, _, argument = str(spec).partition(":")
    if not os.path.isfile(path):
        folder = pathlib.Path(path).parent
        found = [str(p) for p in folder.glob("*.py")] if folder.is_dir() else []
        raise ValueError(f"{path}: no such config file{near(path, found)}")
    try:
        get_config = runpy.run_path(path)["get_config"]
    except KeyError:
        raise ValueError(f"{path}: has no get_config(arg); see configs/quickstart.py") from None
    except SyntaxError as error:
        raise ValueError(f"{path}, line {error.lineno}: {error.msg}") from None
    config = get_config(argument)
    config.lock()
    for name, text in (overrides or {}).items():
        override(config, name, text)
    return config


def stage(recipe_file: str, name: str, argument: str = "") -> ml_collections.ConfigDict:
    """The unlocked config of a single stage that lies beside a recipe's config file.

    recipe_file: the recipe's `__file__`.  name: `cam_voc_eps.py`, for instance.
    """
    path = pathlib.Path(recipe_file).with_name(name)
    return runpy.run_path(str(path))["get_config"](argument)


def override(config: ml_collections.ConfigDict, name: str, text: str) -> None:
    """Sets the field `a.b.c` from text; the text must read as the type the field has."""
    node, trail = config, []
    *parents, last = name.split(".")
    for part in parents:
        node = _child(node, part, trail)
        trail.append(part)
        if not isinstance(node, ml_collections.ConfigDict):
            raise ValueError(f"--config.{name}: {'.'.join(trail)} has no fields of its own")
    old = _child(node, last, trail)
    if isinstance(old, ml_collections.ConfigDict):
        raise ValueError(f"--config.{name}: is a group of fields{near('', old.keys())}")
    node[last] = _parse(old, text, name)


def _child(node, name, trail):
    if name not in node:
        where = ".".join(["config", *trail])
        raise ValueError(f"--config.{'.'.join([*trail, name])}: {where} has no field {name!r}"
                         f"{near(name, node.keys())}")
    return node[name]


def _parse(old, text: str, name: str):
    """`text` as a value of the type of `old`."""
    def wrong(want):
        return ValueError(f"--config.{name}={text}: want {want}, as {old!r}")

    if isinstance(old, bool):
        if text.lower() not in ("true", "false", "1", "0"):
            raise wrong("true or false")
        return text.lower() in ("true", "1")
    if isinstance(old, str) or old is None:
        return text
    if isinstance(old, (tuple, list)):
        if old and all(isinstance(v, str) for v in old) and not text.startswith(("(", "[")):
            return tuple(t for t in text.split(",") if t)
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            if not old:
                return tuple(t for t in text.split(",") if t)
            raise wrong("a list, such as 1,2") from None
        return tuple(value) if isinstance(value, (tuple, list)) else (value,)
    try:
        return type(old)(text)
    except ValueError:
        raise wrong(f"a number ({type(old).__name__})") from None


def to_dict(config: ml_collections.ConfigDict) -> dict:
    """Plain JSON-able values, references resolved."""
    return json.loads(json.dumps(config.to_dict()))


def differences(old: dict, new: dict, prefix: str = "") -> list[str]:
    """Names of the fields in which two nested dicts differ, `a.b: 1 -> 2`."""
    out = []
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            out += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            out.append(f"{prefix}{key}: {a!r} -> {b!r}")
    return out


def choose(table: dict, name: str, what: str):
    """`table[name]`, or a ValueError that prints the names there are."""
    if name not in table:
        raise ValueError(f"{what} {name!r} is unknown{near(name, table)}")
    return table[name]
