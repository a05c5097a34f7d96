"""A segmenter small enough to be written a second time in torch, line by line."""

import functools
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wsssjax.core import config as configs
from wsssjax.core import parallel
from wsssjax.core import state as states
from wsssjax.semi import student

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
CLASSES = 5
STRIDES = (1, 2, 4, 4)


class Backbone(nn.Module):
    """Four maps: mean over s × s pixels, linear, ReLU."""

    widths: tuple

    @nn.compact
    def __call__(self, image_bhwc):
        taps = []
        for i, (width, s) in enumerate(zip(self.widths, STRIDES, strict=True)):
            pooled = nn.avg_pool(image_bhwc, (s, s), (s, s))
            taps.append(nn.relu(nn.Dense(width, name=f"tap{i}")(pooled)))
        return tuple(taps)


class Head(nn.Module):
    """Sum of linear maps of the taps, each enlarged by repetition."""

    @nn.compact
    def __call__(self, taps, size_hw):
        logits = [nn.Dense(CLASSES, name=f"out{i}")(t) for i, t in enumerate(taps)]
        full = [jnp.repeat(jnp.repeat(z, size_hw[0] // z.shape[1], 1), size_hw[1] // z.shape[2], 2)
                for z in logits]
        return sum(full)


class Toy(nn.Module):
    """Has the methods of a segmenter that the training steps use."""

    widths: tuple = (6, 6, 6, 6)

    moves_statistics = False

    def setup(self):
        self.backbone, self.head = Backbone(self.widths), Head()

    @property
    def tap_widths(self):
        return self.widths

    def encode(self, image_bhwc):
        return self.backbone(image_bhwc)

    def decode(self, taps, size_hw, drop=None):
        if drop is not None:
            taps = [t * m[:, None, None, :] for t, m in zip(taps, drop, strict=True)]
        return self.head(taps, size_hw)

    def __call__(self, image_bhwc, *, train, drop=None):
        return self.decode(self.encode(image_bhwc), image_bhwc.shape[1:3], drop), {}


def load_config(name="semi_voc_unimatch_v2", **changes):
    """A shipped config with a few fields changed and rates that move a toy within three steps."""
    config = configs.load(CONFIGS / f"{name}.py")
    config.total_steps = 10
    config.model.freeze_encoder = True
    config.device_batch = 4
    config.optim.lr = 1e-3
    config.optim.groups = (("^backbone/", 1.0, 1.0), (".*", 4.0, 1.0))
    for key, value in changes.items():
        node = config
        *parents, last = key.split("__")
        for part in parents:
            node = node[part]
        node[last] = value
    return config


def make_state(config, model, *, teacher=True, devices=1, seed=0):
    """A state at step 0 with weights that make some pixels confident and some not."""
    shapes = jax.eval_shape(
        functools.partial(model.init, train=False), jax.random.key(seed), jnp.zeros((1, 8, 8, 3)))
    rng = np.random.default_rng(seed)
    variables = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(0, 0.35, x.shape), jnp.float32), shapes)
    state = states.create(variables, student.optimizer(config, variables["params"]), ema=teacher,
                          learned=functools.partial(student.trainable, config))
    return parallel.replicate(state, devices=devices)


def make_batch(seed, rows=4, size=8):
    """A batch of noise with every corner in it: ignored labels, padding, boxes and no boxes."""
    rng = np.random.default_rng(seed)
    batch = {k: rng.normal(size=(rows, size, size, 3)).astype(np.float32)
             for k in ("image", "weak", "strong1", "strong2")}
    batch["label"] = rng.integers(0, CLASSES, (rows, size, size)).astype(np.int32)
    batch["label"][:, :2] = 255
    batch["valid"] = np.ones((rows, size, size), bool)
    batch["valid"][1, :, 5:] = False
    batch["valid"][rows - 1, 6:] = False
    for v in (1, 2):
        batch[f"cut{v}"] = np.zeros((rows, size, size), bool)
        for b in range(0, rows, 2):
            batch[f"cut{v}"][b + v - 1, 1 : 3 + b, v : 6] = True
    return batch


class Kit:
    """What the tests of this folder share."""

    classes, strides, model, devices = CLASSES, STRIDES, Toy, 2
    config, state = staticmethod(load_config), staticmethod(make_state)
    batch = staticmethod(make_batch)


@pytest.fixture(scope="session")
def kit():
    return Kit
