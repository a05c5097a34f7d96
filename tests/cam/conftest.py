"""Configs and batches small enough for tests: the shipped configs with a toy encoder."""

import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wsssjax.core import config as configs
from wsssjax.models import registry

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
CLASSES = "background\nfox\nowl\nelk\n"


def waves(key, shape, dtype):
    """Weights without random numbers, whose generator takes XLA longest of all to compile."""
    return jnp.asarray(np.sin(7 * np.arange(1, np.prod(shape) + 1)).reshape(shape) / 3, dtype)


class Toy(nn.Module):
    """Features [b,h/8,w/8,12]: means over 4 x 4 pixels, linear, ReLU, 2 x 2 convolution."""

    output_stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, image_bhwc, *, train: bool):
        pooled = nn.avg_pool(image_bhwc, (4, 4), (4, 4))
        x = nn.relu(nn.Dense(8, kernel_init=waves, name="dense")(pooled))
        x = nn.relu(nn.Conv(12, (2, 2), strides=2, kernel_init=waves, name="conv")(x))
        return None, {"features": x}


@pytest.fixture
def make_config(tmp_path, monkeypatch):
    """(method, {"a.b": "value"}) → the shipped config of the method for 3 classes at 32 px."""
    (tmp_path / "classes.txt").write_text(CLASSES)
    monkeypatch.setitem(registry.ENCODERS, "toy", registry.Encoder(Toy, None))

    def make(method, changes=()):
        small = {
            "classes": str(tmp_path / "classes.txt"), "device_batch": "4", "total_steps": "10",
            "data.crop": "32", "data.long_side": "(24,40)", "data.workers": "0",
            "model.encoder": "toy", "model.dropout": "0",
            "infer.scales": "(1.0,1.5)", "infer.canvas": "grid", "infer.grid": "16",
            "infer.batch": "2",
        }
        config = configs.load(str(CONFIGS / f"cam_voc_{method}.py"))
        if method == "eps":
            small["eps.background_classes"] = "('owl',)"
        for name, text in (small | dict(changes)).items():
            configs.override(config, name, text)
        return config

    return make


@pytest.fixture
def batch():
    """Four rows of noise with tags and saliency; no row without a tag."""
    rng = np.random.default_rng(0)
    tags = (rng.random((4, 3)) < 0.5).astype(np.float32)
    tags[np.arange(4), rng.integers(0, 3, 4)] = 1
    return {"image": rng.standard_normal((4, 32, 32, 3)).astype(np.float32), "tags": tags,
            "saliency": rng.random((4, 32, 32)).astype(np.float32)}


@pytest.fixture
def random_head():
    """Variables with a head that is not near zero, so that maps differ from place to place."""
    def change(variables):
        head = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(7), leaf.shape),
                            variables["params"]["head"])
        return {**variables, "params": {**variables["params"], "head": head}}

    return change
