"""Images per second of the encoders, depthwise convolutions in both forms, side by side.

    python tools/bench/networks.py --size=256 --batch=8 --repeats=5
"""

from __future__ import annotations

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

from wsssjax.core import cli
from wsssjax.models.efficientnet_lite import EfficientNetLite0
from wsssjax.models.small_cnn import SmallCNN


def seconds(function, repeats: int, *arguments) -> list[float]:
    """Wall time of each call after one that compiles."""
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - start)
    return times


def main(arguments: list[str]) -> None:
    """Prints one line per network and direction: median images/s, and the slowest and fastest."""
    parser = cli.parser("python tools/bench/networks.py", __doc__,
                        "python tools/bench/networks.py --size=256")
    parser.add_argument("--size", type=int, default=256, help="pixels, side of the image")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    flags: argparse.Namespace = parser.parse_args(arguments)
    image_bhwc = jnp.asarray(np.random.default_rng(0).normal(
        size=(flags.batch, flags.size, flags.size, 3)), jnp.float32)
    networks = {
        "efficientnet_lite0, shifted adds": EfficientNetLite0(depthwise="shift"),
        "efficientnet_lite0, grouped": EfficientNetLite0(depthwise="grouped"),
        "small_cnn": SmallCNN(),
    }
    print(f"{jax.default_backend()}, {flags.batch} x {flags.size} px")
    for name, network in networks.items():
        variables = jax.jit(lambda key, n=network: n.init(key, image_bhwc, train=False))(
            jax.random.key(0))

        def scalar(v, x, n=network):
            return n.apply(v, x, train=False)[1]["features"].astype(jnp.float32).sum()

        for direction, function in (("forward", jax.jit(scalar)),
                                    ("forward + backward", jax.jit(jax.grad(scalar)))):
            rates = flags.batch / np.array(seconds(function, flags.repeats, variables, image_bhwc))
            print(f"{name:34s} {direction:19s} {np.median(rates):7.1f} images/s "
                  f"({rates.min():.1f} … {rates.max():.1f})")


if __name__ == "__main__":
    cli.run(main)
