"""The check of a recipe's weights, SAM's checkpoint among them, and of its trainings' settings."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp

from wsssjax import train
from wsssjax.cam import __main__ as cam_command
from wsssjax.cam import learner, transcam
from wsssjax.core import parallel, weights
from wsssjax.core.config import choose
from wsssjax.models import registry
from wsssjax.refine import features, mars
from wsssjax.steps.check_data import Data
from wsssjax.steps.finding import Finding, look, problems_of, size, spread

SIDE = 112  # pixels of the image that tells the shapes of parameters; a multiple of 14 and of 16
SOURCES = "; docs/paper.md tells where each file comes from and how it is converted"
# Meta's files; the hexadecimal digits of a name are the beginning of the file's MD5.
SAM = ("sam_vit_h_4b8939.pth", "sam_vit_l_0b3195.pth", "sam_vit_b_01ec64.pth")
SAM_CURE = ("; its own README links the three: github.com/facebookresearch/segment-anything; or "
            "give finished masks, --config.given.proposals=FOLDER")


def classifier(config: Any, side: str, data: Data) -> Finding:
    """Finished weights of a whole classifier. side: a or b."""
    path, own = config.given[f"cam_{side}"], _own(config[f"cam_{side}"], data)

    def act():
        _, variables = cam_command.restored(own, path)
        return f"{_told(path, variables)}, fits {own.method} on {own.model.encoder}"

    return look(f"weights of cam_{side}", path, act, SOURCES)


def encoder(what: str, model: Any, refusal: str = "") -> Finding:
    """Weights of an encoder, as model.encoder_weights names them.

    refusal: the problem where none are named, "" where it may start random.
    """
    path = model.encoder_weights
    if not path:
        random = f"none are named: {model.encoder} starts random"
        return Finding(what, model.encoder, "none", (refusal,) if refusal else (),
                       () if refusal else (random,))

    def act():
        module = registry.build_encoder(model)
        image_bhwc = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32)
        shapes = jax.eval_shape(functools.partial(module.init, train=False), jax.random.key(0),
                                image_bhwc)
        found = registry.load_encoder({k: {"backbone": v} for k, v in shapes.items()}, model)
        return f"{_told(path, found)}, fits {model.encoder}"

    return look(what, path, act, SOURCES)


def start(what: str, config: Any, data: Data) -> list[Finding]:
    """Weights that a classifier's training goes on from: config.init_weights, or its encoder's."""
    own = _own(config, data)
    if "init_weights" not in own or not own.init_weights:
        refusal = problems_of(learner.check_start, [own])
        return [encoder(f"encoder of {what}", own.model, "".join(refusal))]

    def act():
        method = choose(train.METHODS, own.method, "config.method")(own)
        found = jax.eval_shape(method.init, jax.random.key(0)).params
        return f"{_told(own.init_weights, found)}, fits {own.method} on {own.model.encoder}"

    return [look(f"start of {what}", own.init_weights, act, SOURCES)]


def mars_features(config: Any, data: Data) -> Finding:
    """What MARS takes features of the photos from: an encoder, or files. config: its `debias`."""
    what = "features of MARS"
    if problems := problems_of(lambda check: check(), [
            functools.partial(mars.check, config.mars),
            lambda: choose(dict.fromkeys(features.SOURCES), config.features.source,
                           "config.mars.debias.features.source")]):
        return Finding(what, problems=tuple(problems))
    if config.features.source == "files":
        return _stored_features(what, config.features.folder, data)
    strides = look(what, "", lambda: features.check(
        config.features, registry.build_encoder(config.model).tap_strides) or "")
    if strides.problems:
        return strides
    refusal = ("config.mars.debias.model.encoder_weights is empty; give the weights of "
               f"{config.model.encoder}")
    return encoder(f"encoder of the {what}", config.model,
                   "" if config.features.untrained else refusal)


def _stored_features(what: str, folder: str, data: Data) -> Finding:
    """Features in the files of another program."""
    def act():
        paths = {r.name: r.photo for r in data.train or ()}
        if not paths:
            return "not looked at without training photos"
        found = features.Stored(folder, paths)
        for _ in found.batches(spread(list(paths))):
            pass
        return f"{len(paths):,} files of {found.width} channels"

    return look(what, folder, act)


def _own(config: Any, data: Data) -> Any:
    """A copy with the fields that the recipe fills in, as far as the check has them."""
    own = config.copy_and_resolve_references()
    with own.unlocked():
        own.classes = data.classes_name
    return own


def _told(path: str | os.PathLike, variables: Any) -> str:
    """`346.4 MB, 86,580,480 numbers`."""
    file = pathlib.Path(path)
    file = file / weights.FILE if file.is_dir() else file
    count = sum(leaf.size for leaf in jax.tree.leaves(variables))
    return f"{size(file)}, {count:,} numbers"


# ---- SAM ---------------------------------------------------------------------------------------


def sam(proposals: Any) -> list[Finding]:
    """SAM's checkpoint and the packages that run it, neither of which is loaded."""
    path = pathlib.Path(proposals.checkpoint)

    def act():
        if not proposals.checkpoint or not path.is_file():
            raise ValueError(f"config.proposals.checkpoint={proposals.checkpoint}: no such file; "
                             f"want {SAM[0]}{SAM_CURE}")
        known = re.search(r"_([0-9a-f]{6})\.pth$", path.name) if path.name in SAM else None
        if not known:
            return size(path)
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "md5").hexdigest()
        if not found.startswith(known[1]):
            raise ValueError(f"{path}: {size(path)}, whose MD5 begins with {found[:6]} and not "
                             f"with {known[1]} as its name says; fetch it again")
        return f"{size(path)}, MD5 {found}"

    def packages():
        missing = [name for name in ("torch", "torchvision", "segment_anything")
                   if importlib.util.find_spec(name) is None]
        if missing:
            raise ValueError(f"{', '.join(missing)} not installed; pip install 'wsssjax[sam]', or "
                             "give finished masks, --config.given.proposals=FOLDER")
        return "installed"

    other = (f"no name of Meta's ({', '.join(SAM)}), so no MD5 to compare",)
    return [look("SAM's checkpoint", path, act,
                 warnings=other if path.is_file() and path.name not in SAM else ()),
            look("SAM's packages", "", packages)]


# ---- trainings ---------------------------------------------------------------------------------


def training(what: str, config: Any, data: Data, lists: pathlib.Path, *, semi: bool = False,
             most: bool = False) -> Finding:
    """Settings of a training, with as many photos a step and as many steps as it is going to have.

    lists: folder with labeled.txt and unlabeled.txt, of which only the number of lines counts.
    semi: whether it learns from unlabelled photos too.  most: whether from fewer than those lines.
    """
    own = _own(config, data)
    with own.unlocked():
        if "labeled" in own.data:
            own.data.labeled = str(lists / "labeled.txt")
            own.data.unlabeled = str(lists / "unlabeled.txt")

    def act():
        train.check_steps(own)
        method = choose(train.METHODS, own.method, "config.method")(own)
        devices = parallel.device_count() * parallel.process()[1]
        groups = own.accumulate if "accumulate" in own else 1
        rows = devices * groups * own.device_batch
        parts = " x ".join(text for text in (
            f"{devices} device{'s' * (devices != 1)}", f"{groups} groups" if groups > 1 else "",
            f"{own.device_batch}") if text)
        steps = method.total_steps or own.total_epochs * _epoch(own, data, rows)
        told = f"{steps:,} steps" + " at most" * (most and not own.total_steps)
        if not (data.count or own.total_steps):
            told = "as many steps as the photos make"
        return f"{own.method}, {told}, {rows}{f' + {rows}' * semi} photos each ({parts})"

    return look(f"training of {what}", "", act)


def _epoch(own: Any, data: Data, rows: int) -> int:
    """Steps of a pass over the packed training photos."""
    fixed = own.epoch_steps if transcam.LENGTHS[0] in own else 0
    return fixed or max(data.count // rows, 1)
