"""What a step's result depends on, as JSON values: settings, and the files that they name."""

from __future__ import annotations

import functools
import os
import pathlib

from wsssjax.core import config as configs
from wsssjax.core import files
from wsssjax.core import weights as weight_files
from wsssjax.data import prepare as prepare_data
from wsssjax.data.classes import read_class_names
from wsssjax.select import quota

STILL = ("workers", "tensorboard")  # fields that change no bit of a result
WEIGHTS = ("encoder_weights", "init_weights")  # fields that name a file or folder of weights


def settings(value):
    """A config's values, as `configs.to_dict` gives them, without fields that change nothing and
    with a fingerprint beside each name of weights."""
    if not isinstance(value, dict):
        return value
    found = {name: settings(part) for name, part in value.items() if name not in STILL}
    for name in WEIGHTS:
        if value.get(name):
            found[f"{name}_hash"] = fingerprint(value[name])
    return found


@functools.cache
def fingerprint(weights: str) -> str:
    """Sixteen hex digits of a weight file, or of the one in a folder; "" where there is none."""
    try:
        return weight_files.fingerprint(weights)
    except OSError:  # the step tells what is missing
        return ""


@functools.cache
def content(folder: str, suffix: str) -> str:
    """Sixteen hex digits of the files of a folder that end in `suffix`: names and bytes."""
    found = sorted(pathlib.Path(folder).glob(f"*{suffix}"))
    if not found:
        raise FileNotFoundError(f"{folder}: no such folder, or no *{suffix} in it")
    return files.hash_value([[p.name, files.hash_file(p)] for p in found])


def data(config) -> dict:
    """Of the step `prepare`: the data set's settings, and its lists, tags and files."""
    plain = configs.to_dict(config)
    return {"data": plain["data"], "classes": plain["classes"],
            "files": _data_files(config.data.kind, config.data.root, config.data.train,
                                 config.data.test)}


@functools.cache
def _data_files(kind: str, root: str, train: str, test: str) -> str:
    try:
        return "" if kind == "shapes" else prepare_data.fingerprint(kind, root, (train, test))
    except (ValueError, OSError):  # the step tells what is wrong
        return ""


def selection(config) -> dict:
    """Of the step `select`: its settings; a quota that stands in files as the counts there."""
    found = {"select": configs.to_dict(config)["select"], "pair": list(config.pair)}
    spec = config.select.quota_spec
    if os.path.isfile(spec) or (":" in spec and not spec.startswith("{")):
        found["quota"] = quota.read_quota(spec, read_class_names(config.classes)).tolist()
    return found


def encoder(config) -> dict:
    """Of an arm: the classifier whose encoder it takes, where the recipe did not train it."""
    if config.segmenter_encoder != "cam_b":
        return {}
    given = config.given.cam_b
    return {"segmenter_encoder": "cam_b", **({"encoder": fingerprint(given)} if given else {})}
