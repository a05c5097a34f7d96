"""Saliency maps by a published network in an ONNX file: 0..255 per pixel of each photo.

What such networks want before and after is a `Recipe`; those that people use stand in RECIPES. The
filters are those by which rembg, whose release page has all of these files, feeds them (Lanczos);
the constants are each author's own. EPS reads the maps from the folder, as it reads any others.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from wsssjax.core import files, progress, threads
from wsssjax.core.config import choose, near
from wsssjax.data import photos

NOTE = "saliency.json"  # beside the maps: what they were made with
CPU = "CPUExecutionProvider"
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC,
           "lanczos": Image.Resampling.LANCZOS}
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_FIELDS = {"side": "a whole number of pixels, 1 to 8192",
           "resample": f"one of {', '.join(FILTERS)}", "scale": "max or 255",
           "mean": "three numbers", "std": "three numbers above 0",
           "output": "a whole number, 0 or more", "finish": "minmax or sigmoid"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a network wants and what its output means.

    side: pixels of the square that the photo is squashed to.  resample: Pillow filter, there and
    back.  scale: the pixels are divided by 255, or by the photo's own maximum (max).  mean, std: of
    RGB after that.  output: which of the network's outputs, from 0.  finish: how its values become
    0..1: from minimum to maximum of the photo (minmax; one value everywhere is 0), or by a sigmoid.
    """

    side: int
    resample: str
    scale: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    output: int
    finish: str


_U2NET = Recipe(side=320, resample="lanczos", scale="max", mean=(0.485, 0.456, 0.406),
                std=(0.229, 0.224, 0.225), output=0, finish="minmax")
RECIPES = {
    "u2net": _U2NET,  # Qin et al., Pattern Recognition 2020
    "u2netp": _U2NET,  # its small version, 4.6 MB
    "silueta": _U2NET,  # the same network with fewer bits
    # DIS, Qin et al., ECCV 2022; RMBG 1.4 is the same network.
    "isnet": Recipe(side=1024, resample="lanczos", scale="255", mean=(0.5, 0.5, 0.5),
                    std=(1.0, 1.0, 1.0), output=0, finish="minmax"),
    # Zheng et al., CAAI AIR 2024; its output are logits.
    "birefnet": Recipe(side=1024, resample="lanczos", scale="255", mean=(0.485, 0.456, 0.406),
                       std=(0.229, 0.224, 0.225), output=0, finish="sigmoid"),
}


class Network(NamedTuple):
    """path: of the file, for messages.  session: onnxruntime's.  output: name of the one used.
    dtype: of the input.  rows: photos that it takes at a time, None = any number."""

    path: pathlib.Path
    session: Any
    input: str
    output: str
    dtype: Any
    rows: int | None


# ---- recipes -----------------------------------------------------------------------------------


def read_recipe(spec: str) -> Recipe:
    """The recipe that a JSON file, or JSON text, holds: an object with all fields of `Recipe`."""
    if spec.lstrip().startswith("{"):
        name = "--recipe"
        try:
            value = json.loads(spec)
        except json.JSONDecodeError as error:
            raise ValueError(f"--recipe={spec}: not valid JSON ({error})") from None
    else:
        name = spec
        if not pathlib.Path(spec).is_file():
            raise FileNotFoundError(f"--recipe={spec}: no such file; want JSON text or a file with "
                                    f"the fields {', '.join(_FIELDS)}, or --model="
                                    f"{'|'.join(RECIPES)}")
        value = files.read_json(spec)
    if not isinstance(value, dict):
        raise ValueError(f"{name}: {type(value).__name__}; want an object with the fields "
                         f"{', '.join(_FIELDS)}")
    for field in value:
        if field not in _FIELDS:
            raise ValueError(f"{name}: the field {field!r} is unknown{near(field, _FIELDS)}")
    missing = [field for field in _FIELDS if field not in value]
    if missing:
        raise ValueError(f"{name}: lacks {', '.join(missing)}; {missing[0]} is "
                         f"{_FIELDS[missing[0]]}")
    for field, want in _FIELDS.items():
        if not _CHECKS[field](value[field]):
            raise ValueError(f"{name}: {field} is {value[field]!r}; want {want}")
    colours = {key: tuple(map(float, value[key])) for key in ("mean", "std")}
    return Recipe(**value | colours | {"scale": str(value["scale"])})


def _whole(value, low):
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def _three(value, low):
    return isinstance(value, list) and len(value) == 3 and all(
        isinstance(v, int | float) and not isinstance(v, bool) and low < v < 1e6 for v in value)


_CHECKS = {
    "side": lambda v: _whole(v, 1) and v <= 8192,
    "resample": lambda v: isinstance(v, str) and v in FILTERS,
    "scale": lambda v: v in ("max", "255", 255),
    "mean": lambda v: _three(v, -1e6),
    "std": lambda v: _three(v, 0),
    "output": lambda v: _whole(v, 0),
    "finish": lambda v: v in ("minmax", "sigmoid"),
}


# ---- one photo ---------------------------------------------------------------------------------


def network_input(image_hw3: np.ndarray, recipe: Recipe) -> np.ndarray:
    """float32 [3,s,s] that the network is given for a photo uint8 [h,w,3]."""
    square = Image.fromarray(image_hw3).resize((recipe.side, recipe.side), FILTERS[recipe.resample])
    x_ss3 = np.asarray(square, np.float32)
    x_ss3 = x_ss3 / (max(float(x_ss3.max()), 1e-6) if recipe.scale == "max" else 255.0)
    x_ss3 = (x_ss3 - np.float32(recipe.mean)) / np.float32(recipe.std)
    return np.ascontiguousarray(x_ss3.transpose(2, 0, 1), np.float32)


def finished(raw_pq: np.ndarray, size_hw: tuple[int, int], recipe: Recipe) -> np.ndarray:
    """uint8 [h,w]: the network's output [p,q] as a saliency map at the photo's size."""
    map_pq = raw_pq.astype(np.float32)
    if recipe.finish == "sigmoid":
        map_pq = 0.5 + 0.5 * np.tanh(0.5 * map_pq)  # the sigmoid, without overflow
    else:
        low, high = float(map_pq.min()), float(map_pq.max())
        map_pq = (map_pq - low) / (high - low) if high > low else np.zeros_like(map_pq)
    full = Image.fromarray(map_pq).resize(size_hw[::-1], FILTERS[recipe.resample])
    return np.rint(np.asarray(full).clip(0.0, 1.0) * 255.0).astype(np.uint8)


# ---- the network -------------------------------------------------------------------------------


def load(path: str | os.PathLike, recipe: Recipe, provider: str = CPU) -> Network:
    """The network in an ONNX file; ValueError where it is none that turns a photo into a map.

    provider: what onnxruntime computes with.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ValueError("onnxruntime is not installed: pip install 'wsssjax[saliency]', or use "
                         "python -m wsssjax.cam.saliency") from None
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weights; want an ONNX file (rembg's release page "
                                "has u2net.onnx, u2netp.onnx, isnet-general-use.onnx, ...)")
    choose(dict.fromkeys(onnxruntime.get_available_providers()), provider, "--provider")
    options = onnxruntime.SessionOptions()
    # Photos run beside each other, each on one core: less waiting, and the same bits on any number.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what is wrong comes as an exception
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
    except Exception as error:  # a dozen types of its own, all derived from Exception alone
        raise ValueError(f"{path}: onnxruntime cannot load it ({_reason(error)}); want a whole "
                         "ONNX file") from None
    return _checked(path, session, recipe)


def _checked(path, session, recipe) -> Network:
    """The network, once its inputs and outputs fit the recipe."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1:
        raise ValueError(f"{path}: takes {len(inputs)} inputs ({_names(inputs)}); want a network "
                         "that takes a photo alone")
    shape = inputs[0].shape
    if len(shape) != 4 or inputs[0].type not in _TYPES:
        raise ValueError(f"{path}: its input is {inputs[0].type} {shape}; want float "
                         "[photos, 3, height, width]")
    known = [n if isinstance(n, int) and n > 0 else None for n in shape]  # others are free
    if known[1] not in (3, None):
        raise ValueError(f"{path}: its input is {shape}, {known[1]} channels; want 3 "
                         "([photos, 3, height, width])")
    if any(n not in (recipe.side, None) for n in known[2:]):
        raise ValueError(f"{path}: its input is {shape}, the recipe's photos have {recipe.side} x "
                         f"{recipe.side} pixels; name the network's own --model, or --recipe")
    if recipe.output >= len(outputs):
        raise ValueError(f"{path}: has {len(outputs)} outputs ({_names(outputs)}), the recipe "
                         f"wants number {recipe.output}, counted from 0; name another --recipe")
    return Network(path, session, inputs[0].name, outputs[recipe.output].name,
                   _TYPES[inputs[0].type], known[0])


def raw_maps(network: Network, input_b3ss: np.ndarray, names: list[str]) -> np.ndarray:
    """The network's output of a batch, [b,p,q]; a last short batch is filled up with its last row.

    names: what to call the photos in an error.
    """
    fill = (network.rows or len(names)) - len(names)
    if fill:
        input_b3ss = np.concatenate([input_b3ss, np.repeat(input_b3ss[-1:], fill, 0)])
    try:
        (out,) = network.session.run([network.output],
                                     {network.input: input_b3ss.astype(network.dtype)})
    except Exception as error:  # as in `load`
        raise ValueError(f"{network.path}: failed on {names[0]!r} ({_reason(error)}); is it made "
                         f"for batches of {len(input_b3ss)}?") from None
    shape = np.shape(out)
    if len(shape) == 4 and shape[1] == 1:
        out = out[:, 0]
    if np.ndim(out) != 3 or len(out) != len(input_b3ss):
        raise ValueError(f"{network.path}: its output {network.output!r} is {list(shape)}; want "
                         f"[{len(input_b3ss)}, 1, height, width] (another output? see --recipe)")
    for name, raw_pq in zip(names, out, strict=False):
        if not np.isfinite(raw_pq).all():
            raise ValueError(f"{network.path}: gives values that are no finite numbers for "
                             f"{name!r}; use float32 weights")
    return out[:len(names)]


# ---- folders -----------------------------------------------------------------------------------


def saliency_folder(images: str | os.PathLike, out: str | os.PathLike,
                    weights: str | os.PathLike, recipe: Recipe, *, batch: int | None = None,
                    workers: int | None = None, provider: str = CPU) -> tuple[int, int]:
    """(maps written now, maps that were there): `<out>/<id>.png` of every photo, at its size.

    images: folder of photos, or a list file.  batch: photos in one call of the network, None =
    as many as the network was made for, or 1.  workers: photos or batches done beside each other,
    None = one a core.  Maps in `out` that were made otherwise are refused.
    """
    files.outside(out, "--out", images=images)
    for name, value in (("batch", batch), ("threads", workers)):
        if value is not None and value < 1:
            raise ValueError(f"--{name}={value}: want 1 or more")
    paths = files.photo_paths(images)
    network = load(weights, recipe, provider)
    rows = network.rows or batch or 1
    if batch not in (rows, None):
        raise ValueError(f"--batch={batch}: {weights} is made for batches of {rows}; leave it out")
    out = pathlib.Path(out)
    _claim(out, paths, recipe, weights)
    todo = [name for name in paths if not (out / f"{name}.png").exists()]

    def make(names):
        images_hw3 = [photos.read_photo(paths[name]) for name in names]
        input_b3ss = np.stack([network_input(image, recipe) for image in images_hw3])
        maps_bpq = raw_maps(network, input_b3ss, names)
        for name, image, raw_pq in zip(names, images_hw3, maps_bpq, strict=True):
            data = photos.encode_png(finished(raw_pq, image.shape[:2], recipe))
            with files.atomic(out / f"{name}.png") as file:
                file.write(data)
        return len(names)

    parts = [todo[i:i + rows] for i in range(0, len(todo), rows)]
    with progress.Progress(len(paths), "saliency", done=len(paths) - len(todo)) as bar:
        for count in threads.each(make, parts, threads=workers, chunk=1):
            bar.advance(count)
    return len(todo), len(paths) - len(todo)


def _claim(out: pathlib.Path, paths, recipe: Recipe, weights) -> None:
    """Notes what the folder's maps are made with; ValueError where they were made otherwise."""
    if not (out / NOTE).exists():
        there = [name for name in paths if (out / f"{name}.png").exists()]
        if there:
            raise ValueError(f"{out / there[0]}.png: a map that this network did not make "
                             f"({len(there)} of {len(paths)} photos have one, and there is no "
                             f"{NOTE}); give another --out")
    recipe_json = json.loads(json.dumps(dataclasses.asdict(recipe)))
    files.claim(out / NOTE, {"recipe": recipe_json, "weights": files.hash_file(weights)})


def _names(entries) -> str:
    return ", ".join(entry.name for entry in entries)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
