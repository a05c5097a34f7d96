"""Class maps of photos, seconds per photo: ours beside PyTorch eager, same weights and photos.

    python tools/bench/cam_inference.py --images=VOCdevkit/VOC2012/JPEGImages --count=8
    python tools/bench/cam_inference.py --images=JPEGImages --networks=dinov2_b,clip --varied \\
        --repeats=0 --config.infer.canvas=grid

Each row is the whole computation of a config in configs/, reading apart: photos scaled by Pillow,
all scales and mirror images through the network, the method's refinement, maps enlarged, summed and
normalised. --config.a.b=v changes a field of every row's config, on both sides. Weights are random
and shared; the two must find the same maps, see `agreement`. The two take turns; medians. Compiling
is timed apart, with the cache of compiled programs off. On a GPU both may use TF32, and both find
room with XLA_PYTHON_CLIENT_PREALLOCATE=false in the environment.

PyTorch runs a photo at a time, each scale a batch of the view and its mirror image, at the sizes
that ours has; where ours pads photos to few sizes (canvas=bucket), at the photos' own. Its threads
wait for each other: on a CPU that others use, too, it loses far more than ours; measure on an idle
one. --varied cuts every photo to another size; --repeats=0 runs ours alone, once, and tells how
many programs so many sizes need.
"""

from __future__ import annotations

import functools
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import torch
import torch_classifiers
import torch_conformer
import torch_vit

from wsssjax.cam import __main__ as command
from wsssjax.cam import infer, text_features
from wsssjax.core import cli, config, files, parallel, weights
from wsssjax.data import classes, photos
from wsssjax.models import (
    attention_classifier,
    classifier,
    clip,
    clip_names,
    efficientnet_lite,
    registry,
    resnet,
    resnet38,
    vit_names,
)

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs"
CLASSES = 20
BACKGROUNDS = 25  # that CLIP-ES has words for
TEXT_SCALE = 20.0  # CLIP's 100 would leave no gradient with random weights
AGREE = 1e-2  # largest difference of two maps in 0..1; rounding leaves less than a tenth of it
SMALLEST = 0.6  # of a photo's side that --varied leaves


class Row(NamedTuple):
    """config: in configs/, with its argument.  changes: fields of it.  reference: PyTorch's
    network, from (config, text features of the classes).  convert: its state dict → our names."""

    config: str
    changes: dict
    reference: Callable
    convert: Callable


def _trunk_and_head(trunk: Callable, head: str) -> Callable:
    """Row.convert of a torch_classifiers.Maps around published names."""
    return lambda tensors: classifier.from_torch(_below("net.", tensors), trunk, head)


def _below(prefix: str, tensors: dict) -> dict:
    return {n.removeprefix(prefix): x for n, x in tensors.items() if n.startswith(prefix)}


def _efficientnet(tensors):
    trunk = {n: x for n, x in _below("net.trunk.", tensors).items() if not n.startswith("_fc.")}
    head_kd11 = tensors["net.head.weight"]
    return weights.under("backbone", efficientnet_lite.from_torch(trunk)) | {
        "params/head/kernel": head_kd11[:, :, 0, 0].T}


def _dino(tensors):
    import torch_reference  # beside this file; it imports transformers

    hub = torch_reference.hub_from_hf(_below("encoder.model.", tensors))
    return weights.under("backbone", vit_names.from_hub(hub)) | {
        "params/head/kernel": tensors["head.weight"][:, :, 0, 0].T}


def _clip(tensors):
    return weights.under("backbone", clip_names.image_tower(tensors))


def _plain(network: Callable) -> Callable:
    return lambda settings, text: network(CLASSES)


def _dino_row(size: str) -> Row:
    return Row(f"cam_voc_dino.py:{size}", {},
               lambda c, text: torch_vit.dino(size, CLASSES, c.infer), _dino)


ROWS = {
    "efficientnet_lite0": Row(
        "cam_voc_cam.py", {"model.output_stride": "32", "infer.canvas": "grid"},
        _plain(torch_classifiers.efficientnet_lite0), _efficientnet),
    "resnet50": Row("cam_voc_cam.py:resnet50", {}, _plain(torch_classifiers.resnet50),
                    _trunk_and_head(resnet.from_torch, "classifier")),
    "resnet38": Row("cam_voc_cam.py:resnet38", {}, _plain(torch_classifiers.resnet38),
                    _trunk_and_head(resnet38.from_torch, "fc8")),
    "transcam": Row("cam_voc_transcam.py", {},
                    _plain(functools.partial(torch_conformer.build, bao=False)),
                    attention_classifier.from_torch),
    "bao": Row("cam_voc_bao.py", {}, _plain(functools.partial(torch_conformer.build, bao=True)),
               attention_classifier.from_torch),
    "dinov2_s": _dino_row("small"),
    "dinov2_b": _dino_row("base"),
    "clip": Row("cam_voc_clip.py", {},
                lambda c, text: torch_vit.clip(text.features_te, text.scale, c.infer), _clip),
}


def main(arguments: list[str]) -> None:
    """Prints a line per network: seconds per photo of both, their ratio, programs, compile time."""
    plain, overrides = cli.split_overrides(arguments)
    parser = cli.parser("python tools/bench/cam_inference.py", __doc__.split("\n")[0],
                        "python tools/bench/cam_inference.py --images=JPEGImages --count=8")
    parser.add_argument("--images", required=True, help="folder of photos, or a list")
    parser.add_argument("--count", type=int, default=8, help="photos, the first by their ids")
    parser.add_argument("--batch", type=int, default=1, help="photos per call of ours")
    parser.add_argument("--repeats", type=int, default=3, help="turns; 0: ours alone, once")
    parser.add_argument("--networks", default=",".join(ROWS), help=f"of {', '.join(ROWS)}")
    parser.add_argument("--varied", action="store_true", help="cut each photo to another size")
    parser.add_argument("--dtype", default="float32", help="of ours: float32 or bfloat16")
    parser.add_argument("--cuda", action="store_true", help="PyTorch on the GPU as well")
    parser.add_argument("--autocast", action="store_true", help="PyTorch in bfloat16, too")
    flags = parser.parse_args(plain)
    if flags.count < 1:
        raise ValueError(f"--count={flags.count}: want 1 photo or more")
    parallel.start()
    jax.config.update("jax_enable_compilation_cache", False)
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU, which is what XLA does there
    paths = list(files.photo_paths(flags.images).values())[: flags.count]
    images = [photos.read_photo(path) for path in paths]
    images = _varied(images) if flags.varied else images
    sizes = len({x.shape for x in images})
    print(f"{jax.default_backend()}, {len(images)} photos of {sizes} sizes, batch {flags.batch}, "
          f"{flags.dtype}")
    changes = {"dtype": flags.dtype, "infer.batch": str(flags.batch), **overrides}
    for name in flags.networks.split(","):
        row = config.choose(ROWS, name, "--networks")
        with tempfile.TemporaryDirectory() as folder:
            print(f"{name:20s} {_measured(row, changes, images, flags, folder)}", flush=True)


def _measured(row: Row, changes: dict, images, flags, folder) -> str:
    """The row's numbers in words. folder: empty."""
    settings = config.load(f"{CONFIGS}/{row.config}", row.changes | changes)
    text = _text()
    if settings.method == "clip":
        settings.model.text = f"{folder}/text.safetensors"
        text_features.write(settings.model.text, text)
    infer.check(settings.infer)
    network = row.reference(settings, text)
    ours, programs = _ours(row, settings, network, images)
    start = time.perf_counter()
    found = ours()
    first = time.perf_counter() - start
    if flags.repeats < 1:
        return f"{programs()} programs compiled and all photos run in {first:.1f} s"
    theirs = _theirs(network, settings, images, flags)
    exact = jax.default_backend() == "cpu" and flags.dtype == "float32" and not flags.autocast
    apart = agreement(found, theirs(), exact)
    times = [(_seconds(ours), _seconds(theirs)) for _ in range(flags.repeats)]
    own, other = (statistics.median(t) for t in zip(*times, strict=True))
    spread = max(max(t) / min(t) for t in zip(*times, strict=True))
    return (f"ours {own / len(images):7.3f} s/photo ({len(images) / own:.2f}/s), "
            f"PyTorch {other / len(images):7.3f} ({len(images) / other:.2f}/s), "
            f"our time {own / other:.2f} of theirs (slowest/fastest {spread:.2f}); "
            f"{programs()} programs, {first - own:.0f} s to compile them; maps differ by "
            f"{apart:.0e}")


def agreement(ours, theirs, exact: bool) -> float:
    """The largest difference of two lists of maps [m,h,w] in 0..1.

    exact: both in float32 on a CPU; then a difference above AGREE is a ValueError. Maps that are
    all zero would agree whatever is wrong: a ValueError too.
    """
    if not max(float(x.max()) for x in ours) > 0.1:
        raise ValueError("our maps are all zero, which compares nothing; give other photos")
    apart = max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))
    if exact and not apart <= AGREE:
        raise ValueError(f"our maps and PyTorch's differ by {apart:.2g}; want {AGREE} at most: "
                         "the two do not compute the same")
    return apart


def _seconds(function: Callable) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _varied(images) -> list[np.ndarray]:
    """Photos cut to sides of SMALLEST to 1 of theirs, at the left and at the top."""
    rng = np.random.default_rng(0)
    cut = [[round(side * rng.uniform(SMALLEST, 1)) for side in x.shape[:2]] for x in images]
    return [x[:h, :w] for x, (h, w) in zip(images, cut, strict=True)]


def _tags(index: int) -> np.ndarray:
    """One or two classes, as most photos have."""
    tags_k = np.zeros(CLASSES, np.float32)
    tags_k[[index % CLASSES, (7 * index + 3) % CLASSES]] = 1
    return tags_k


def _text() -> text_features.TextFeatures:
    """Random words for CLIP."""
    names = tuple(classes.need_background(classes.read_class_names("voc"), "voc")[1:])
    rows_te = np.random.default_rng(0).standard_normal(
        (CLASSES + BACKGROUNDS, clip.SIZES["b16"].embed)).astype(np.float32)
    rows_te /= np.linalg.norm(rows_te, axis=1, keepdims=True)
    scenery = tuple(f"scenery {i}" for i in range(BACKGROUNDS))
    return text_features.TextFeatures(rows_te, TEXT_SCALE, names, names, scenery, ("a {}.",))


def _ours(row: Row, settings, network, images):
    """(function that makes all class maps, function that counts the compiled programs)."""
    method = command.METHODS[settings.method](settings)
    template = jax.eval_shape(method.init, jax.random.key(0)).variables()
    flat = row.convert({n: x.numpy().copy() for n, x in network.state_dict().items()})
    variables = jax.device_put(weights.restore(template, registry.place_norms(flat, template)))
    forward = infer.compiled(method.predict, variables, settings.infer)
    batches = infer.plan({f"{i:06d}": x.shape[:2] for i, x in enumerate(images)}, settings.infer)

    def run():
        found = {}
        for names in batches:
            rows = [int(name) for name in names]
            maps = infer.class_maps(forward, [images[i] for i in rows], [_tags(i) for i in rows],
                                    settings.infer, settings.data)
            found |= {i: one.cam for i, one in zip(rows, maps, strict=True)}
        return [found[i] for i in range(len(images))]

    return run, forward.func._cache_size


def _theirs(network, settings, images, flags):
    """Function that makes all class maps with PyTorch."""
    device = "cuda" if flags.cuda else "cpu"
    network = network.to(device)

    def run():
        with torch.autocast(device, torch.bfloat16, enabled=flags.autocast):
            return [torch_classifiers.class_maps(network, image, _tags(i), settings.infer,
                                                 settings.data)
                    for i, image in enumerate(images)]

    return run


if __name__ == "__main__":
    cli.run(main)
