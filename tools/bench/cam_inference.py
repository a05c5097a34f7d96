"""Multi-scale class maps, photos per second: ours beside PyTorch eager, same networks and photos.

    python tools/bench/cam_inference.py --images=VOCdevkit/VOC2012/JPEGImages --count=8

Four scales and their mirror images of each photo, read and scaled by Pillow, through the network,
enlarged, summed and normalised, random weights (they do not change the speed). Ours runs with
`canvas=bucket` for networks padded as PyTorch pads (exact sizes from few programs), with
`canvas=grid` for EfficientNet; compiling is timed apart. The two take turns; medians.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import torch
import torch_classifiers

from wsssjax.cam import infer
from wsssjax.core import cli, config, files, parallel
from wsssjax.data import photos
from wsssjax.models.classifier import Classifier
from wsssjax.models.efficientnet_lite import EfficientNetLite0
from wsssjax.models.resnet import ResNet
from wsssjax.models.resnet38 import ResNet38

CLASSES = 20


class Row(NamedTuple):
    """encoder: ours.  reference: PyTorch's, from the number of maps.  canvas: of our inference."""

    encoder: Callable
    reference: Callable
    canvas: str


ROWS = {
    "resnet50": Row(lambda dtype: ResNet(50, 16, norm="frozen", dtype=dtype),
                    torch_classifiers.resnet50, "bucket"),
    "resnet38": Row(lambda dtype: ResNet38(dtype=dtype), torch_classifiers.resnet38, "bucket"),
    "efficientnet_lite0": Row(lambda dtype: EfficientNetLite0(output_stride=32, dtype=dtype),
                              torch_classifiers.efficientnet_lite0, "grid"),
}


def main(arguments: list[str]) -> None:
    """Prints a line per network: photos/s of both, their ratio, programs, compile time."""
    parser = cli.parser("python tools/bench/cam_inference.py", __doc__.split("\n")[0],
                        "python tools/bench/cam_inference.py --images=JPEGImages --count=8")
    parser.add_argument("--images", required=True, help="folder of photos, or a list")
    parser.add_argument("--count", type=int, default=8, help="photos, the first by their ids")
    parser.add_argument("--batch", type=int, default=1, help="photos per call of ours")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--networks", default=",".join(ROWS), help=f"of {', '.join(ROWS)}")
    parser.add_argument("--dtype", default="float32", help="of ours: float32 or bfloat16")
    parser.add_argument("--cuda", action="store_true", help="PyTorch on the GPU as well")
    flags = parser.parse_args(arguments)
    parallel.start()
    paths = list(files.photo_paths(flags.images).values())[: flags.count]
    images = [photos.read_photo(path) for path in paths]
    print(f"{jax.default_backend()}, {len(images)} photos, batch {flags.batch}, {flags.dtype}")
    for name in flags.networks.split(","):
        row = config.choose(ROWS, name, "--networks")
        dtype = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}[flags.dtype]
        ours, programs = _ours(row, images, flags.batch, dtype)
        theirs = _theirs(row, images, "cuda" if flags.cuda else "cpu")
        start = time.perf_counter()
        ours()
        first = time.perf_counter() - start
        theirs()
        times = [(_seconds(ours), _seconds(theirs)) for _ in range(flags.repeats)]
        own, other = (statistics.median(t) for t in zip(*times, strict=True))
        spread = max(max(t) / min(t) for t in zip(*times, strict=True))
        print(f"{name:20s} ours {len(images) / own:7.2f} photos/s, "
              f"PyTorch {len(images) / other:7.2f}, "
              f"our time {own / other:.2f} of theirs (slowest/fastest {spread:.2f}); "
              f"{programs()} programs, {first - own:.0f} s to compile them", flush=True)


def _seconds(function: Callable) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _tags(index: int) -> np.ndarray:
    """One or two classes, as most photos have."""
    tags_k = np.zeros(CLASSES, np.float32)
    tags_k[[index % CLASSES, (7 * index) % CLASSES]] = 1
    return tags_k


def _ours(row: Row, images, batch: int, dtype):
    """(function that makes all class maps, function that counts the compiled programs)."""
    model = Classifier(row.encoder(dtype), CLASSES, dtype=dtype)
    variables = jax.jit(lambda key: model.lazy_init(
        key, jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32), train=False))(jax.random.key(0))
    settings = ml_collections.ConfigDict({
        "scales": torch_classifiers.SCALES, "flip": True, "canvas": row.canvas, "grid": 64,
        "side": 512, "multiple": 1, "align": 1, "batch": batch, "normalise": "max",
        "background": "threshold", "threshold": 0.2})
    data = ml_collections.ConfigDict({"mean": torch_classifiers.MEAN, "std": torch_classifiers.STD})

    def predict(variables, image_bhwc, tags_bk):
        return jax.nn.relu(model.apply(variables, image_bhwc, train=False)[1]["maps"])

    forward = infer.compiled(predict, variables, settings)
    batches = infer.plan({f"{i:06d}": x.shape[:2] for i, x in enumerate(images)}, settings)

    def run():
        for names in batches:
            rows = [int(name) for name in names]
            infer.class_maps(forward, [images[i] for i in rows], [_tags(i) for i in rows],
                             settings, data)

    return run, forward.func._cache_size


def _theirs(row: Row, images, device: str):
    """Function that makes all class maps with PyTorch."""
    network = row.reference(CLASSES).eval().to(device)

    def forward(x):
        return network(x.to(device)).cpu()

    def run():
        for index, image in enumerate(images):
            torch_classifiers.class_maps(forward, image, _tags(index))
        if device == "cuda":
            torch.cuda.synchronize()

    return run


if __name__ == "__main__":
    cli.run(main)
