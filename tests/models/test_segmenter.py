"""Drop masks, freezing and the two halves of a segmenter, on an encoder of four means."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wsssjax.models.dpt import DPTHead
from wsssjax.models.segmenter import Segmenter

WIDTHS = (3, 4, 5, 6)


class Means(nn.Module):
    tap_widths = WIDTHS
    tap_strides = (4, 8, 16, 32)

    @nn.compact
    def __call__(self, image_bhwc, *, train):
        aux = {}
        for i, (width, s) in enumerate(zip(WIDTHS, self.tap_strides, strict=True)):
            x = nn.avg_pool(image_bhwc, (s, s), (s, s))
            aux[f"tap{i}"] = nn.Dense(width, name=f"dense{i}")(x)
        return aux["tap3"].mean((1, 2)), aux


@pytest.fixture(scope="module")
def parts():
    image = jnp.asarray(np.random.default_rng(0).standard_normal((2, 64, 32, 3)), jnp.float32)
    models = {freeze: Segmenter(Means(), DPTHead(4, 8, (4, 4, 4, 4), (4, 8, 16, 32)), freeze)
              for freeze in (False, True)}
    variables = jax.jit(lambda: models[False].init(jax.random.key(1), image, train=False))()
    return models, variables, image


def test_names_and_widths(parts):
    models, variables, _ = parts
    assert set(variables["params"]) == {"backbone", "head"}
    assert models[True].tap_widths == WIDTHS


def test_halves_make_the_whole(parts):
    models, variables, image = parts
    model = models[False]
    logits, aux = model.apply(variables, image, train=False)
    assert logits.shape == (2, 64, 32, 4) and set(aux) == {"tap0", "tap1", "tap2", "tap3"}
    taps = model.apply(variables, image, method="encode")
    again = model.apply(variables, taps, (64, 32), method="decode")
    np.testing.assert_array_equal(logits, again)


def test_masks_scale_the_channels_of_their_own_map_and_row(parts):
    models, variables, image = parts
    model = models[False]
    taps = model.apply(variables, image, method="encode")
    rng = np.random.default_rng(1)
    drop = tuple(jnp.asarray(rng.integers(0, 3, (2, d)), jnp.float32) for d in WIDTHS)
    scaled = [np.array(t) for t in taps]
    for t, m in zip(scaled, drop, strict=True):
        for b in range(2):
            for d in range(t.shape[-1]):
                t[b, :, :, d] *= float(m[b, d])
    want = model.apply(variables, [jnp.asarray(t) for t in scaled], (64, 32), method="decode")
    got, _ = model.apply(variables, image, train=True, drop=drop)
    np.testing.assert_allclose(got, want, atol=1e-6)
    ones = tuple(jnp.ones_like(m) for m in drop)
    plain, _ = model.apply(variables, image, train=True)
    np.testing.assert_array_equal(model.apply(variables, image, train=True, drop=ones)[0], plain)
    assert np.abs(got - plain).max() > 1e-3


def test_freezing_stops_the_gradient_at_the_maps(parts):
    models, variables, image = parts
    norms = {}
    for freeze, model in models.items():
        def loss(params, model=model):
            return jnp.square(model.apply({"params": params}, image, train=True)[0]).sum()

        grads = jax.jit(jax.grad(loss))(variables["params"])
        norms[freeze] = {k: sum(float(jnp.abs(x).sum()) for x in jax.tree.leaves(g))
                         for k, g in grads.items()}
    assert norms[True]["backbone"] == 0 and norms[False]["backbone"] > 0
    assert norms[True]["head"] == pytest.approx(norms[False]["head"], rel=1e-5)
