"""Command: public weights of an encoder → weights.safetensors under our names, with a report."""

from __future__ import annotations

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from wsssjax.bridge import torch_weights
from wsssjax.core import cli, config, files, weights
from wsssjax.models import efficientnet_lite

# name: (module with every parameter of the public file, state dict → our flat names)
ARCHES = {
    "efficientnet_lite0": (efficientnet_lite.EfficientNetLite0(num_classes=1000),
                           efficientnet_lite.from_torch),
}
TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")


def main(arguments: list[str]) -> None:
    """Nothing; writes <out>/weights.safetensors and <out>/report.json."""
    parser = cli.parser(
        "python tools/convert_weights.py", __doc__,
        "python tools/convert_weights.py --arch=efficientnet_lite0 \\\n"
        "    --src=efficientnet-lite0-57934424.pth --out=weights/efficientnet_lite0")
    parser.add_argument("--arch", required=True, help=f"one of: {', '.join(ARCHES)}")
    parser.add_argument("--src", required=True,
                        help="PyTorch names in a .pth (needs torch), .npz or .safetensors")
    parser.add_argument("--out", required=True, help="folder for the result")
    flags = parser.parse_args(arguments)
    report = convert(flags.arch, flags.src, flags.out)
    print(f"{report['tensors']} tensors, {report['numbers']:,} numbers in {flags.out}/"
          f"{weights.FILE}; passed over: {len(report['skipped'])}, none missing")


def convert(arch: str, src: str, out: str) -> dict:
    """The report: how many tensors and numbers were written, which names were passed over.

    A name that is missing, left over or of another shape is a ValueError and nothing is written.
    """
    module, from_torch = config.choose(ARCHES, arch, "--arch")
    read = torch_weights.read if pathlib.Path(src).suffix in TORCH_SUFFIXES else weights.load
    tensors = read(src)
    template = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)),
                                                  train=False))
    try:
        variables = weights.restore(template, from_torch(tensors))
    except ValueError as error:
        raise ValueError(f"{src}, as {arch}: {error}") from None
    flat = weights.under("backbone", weights.flatten(variables))
    folder = pathlib.Path(out)
    weights.save(folder / weights.FILE, flat)
    report = {
        "arch": arch,
        "source": {"name": pathlib.Path(src).name, "hash": files.hash_file(src)},
        "tensors": len(flat),
        "numbers": int(sum(np.size(x) for x in flat.values())),
        "skipped": sorted(n for n in tensors if n.endswith("num_batches_tracked")),
        "names": {name: list(x.shape) for name, x in flat.items()},
    }
    files.write_json(folder / "report.json", report)
    return report


if __name__ == "__main__":
    cli.run(main)
