"""Scores are pooled maps; dropout takes whole channels; freezing stops at the encoder."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wsssjax.models.classifier import Classifier


class Halves(nn.Module):
    feature_width = 64

    @nn.compact
    def __call__(self, image_bhwc, *, train):
        x = nn.avg_pool(image_bhwc, (2, 2), (2, 2))
        return None, {"features": nn.Dense(64, name="dense")(x), "tap0": x}


@pytest.fixture(scope="module")
def image():
    return jnp.asarray(np.random.default_rng(0).standard_normal((3, 6, 10, 3)), jnp.float32)


def start(model, image):
    return model.init(jax.random.key(0), image, train=False)


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_scores_pool_the_maps(image, pool):
    given = {} if pool == "mean" else {"pool": lambda maps_bpqk: maps_bpqk.max((1, 2))}
    model = Classifier(Halves(), 5, **given)
    variables = start(model, image)
    scores, aux = model.apply(variables, image, train=False)
    assert set(aux) == {"features", "tap0", "maps"}
    kernel = np.asarray(variables["params"]["head"]["kernel"])
    assert kernel.shape == (64, 5)
    maps = np.einsum("bpqd,dk->bpqk", np.asarray(aux["features"], np.float64), kernel)
    np.testing.assert_allclose(aux["maps"], maps, atol=1e-5)
    np.testing.assert_allclose(scores, getattr(maps, pool)((1, 2)), atol=1e-5)


def test_dropout_takes_whole_channels_in_training_only(image):
    model = Classifier(Halves(), 64, dropout=0.5)
    variables = start(model, image)
    variables["params"]["head"]["kernel"] = jnp.eye(64)  # maps are the dropped features
    _, plain = model.apply(variables, image, train=False)
    _, aux = model.apply(variables, image, train=True, rngs={"dropout": jax.random.key(3)})
    np.testing.assert_allclose(plain["maps"], plain["features"], rtol=1e-6)
    factor = np.asarray(aux["maps"] / plain["features"])
    for b in range(3):
        for d in range(64):
            assert np.ptp(factor[b, :, :, d]) < 1e-5
    share = (factor[:, 0, 0] > 1).mean()
    assert set(np.round(factor[:, 0, 0].ravel(), 4)) == {0.0, 2.0} and 0.3 < share < 0.7
    assert (factor[0, 0, 0] != factor[1, 0, 0]).any()
    with pytest.raises(Exception, match="dropout"):
        model.apply(variables, image, train=True)  # no random stream given


def test_freezing(image):
    for freeze in (False, True):
        model = Classifier(Halves(), 5, freeze=freeze)
        variables = start(model, image)
        grads = jax.grad(
            lambda p, m=model: jnp.square(m.apply({"params": p}, image, train=True)[0]).sum())(
                variables["params"])
        moved = float(jnp.abs(grads["backbone"]["dense"]["kernel"]).sum())
        assert (moved == 0) == freeze
        assert float(jnp.abs(grads["head"]["kernel"]).sum()) > 0


def test_taps_side_by_side(image):
    model = Classifier(Halves(), 5, taps=("tap0", "features"))
    variables = start(model, image)
    _, aux = model.apply(variables, image, train=False)
    joined = np.concatenate([aux["tap0"], aux["features"]], -1)
    np.testing.assert_allclose(aux["maps"], joined @ variables["params"]["head"]["kernel"],
                               atol=1e-5)


def test_taps_of_two_grids_are_named(image):
    class Two(nn.Module):
        @nn.compact
        def __call__(self, image_bhwc, *, train):
            return None, {"tap0": image_bhwc, "features": image_bhwc[:, ::2, ::2]}

    with pytest.raises(ValueError, match="want one grid, found tap0 6 x 10, features 3 x 5"):
        start(Classifier(Two(), 5, taps=("tap0", "features")), image)
