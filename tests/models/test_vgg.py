"""VGG-16 of DeepLab against torchvision's layers, with pools and dilations as described."""

import functools
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from wsssjax.core import weights
from wsssjax.models import registry, vgg

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")
PLAIN = pathlib.Path(__file__).parents[1] / "deeplab_torch.py"
spec = importlib.util.spec_from_file_location("deeplab_torch", PLAIN)
plain = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plain)
THIN = 1 / 16


def pair(width, **options):
    """(ours, its variables, torchvision's), alike."""
    other = plain.randomise(plain.VGG16(width))
    module = vgg.VGG16(width=width, **options)
    template = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)),
                                                  train=False))
    return module, weights.restore(template, vgg.from_torch(plain.numpy_state(other))), other


def check(module, variables, other, image):
    pooled, aux = jax.jit(functools.partial(module.apply, train=False))(variables, image)
    with torch.no_grad():
        maps = {place: plain.nhwc(x) for place, x in other.maps(plain.nchw(image)).items()}
    last = 30 if module.pool5 else 29
    for tap, place, stride in (("tap0", 8, 2), ("tap1", 15, 4), ("tap2", 22, 8), ("tap3", last, 8),
                               ("features", last, 8)):
        want = maps[place]
        assert want.shape[1:3] == tuple(-(-side // stride) for side in image.shape[1:3])
        assert want.std() > 0.05
        error = np.abs(np.asarray(aux[tap]) - want).max() / np.abs(want).max()
        assert error < 2e-5, (tap, error)
    np.testing.assert_allclose(pooled, maps[last].mean((1, 2)), rtol=1e-4, atol=1e-5)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_full_width_equals_torchvision():
    module, variables, other = pair(1.0)
    assert sum(x.size for x in jax.tree.leaves(variables)) == 14_714_688
    check(module, variables, other, noise(1, 45, 61, 3))


@pytest.mark.parametrize("size, pool5", [((33, 47), True), ((1, 1), True), ((64, 8), False)])
def test_any_size_equals_torchvision(size, pool5):
    check(*pair(THIN, pool5=pool5), noise(2, *size, 3))


def test_widths_and_strides():
    module = vgg.VGG16()
    assert module.tap_widths == (128, 256, 512, 512) and module.tap_strides == (2, 4, 8, 8)
    assert module.feature_width == 512


@pytest.mark.parametrize("freeze_below, first", [("", 0), ("conv3", 10)])
def test_no_gradient_below_the_frozen_place(freeze_below, first):
    module, variables, _ = pair(THIN, freeze_below=freeze_below)
    image = noise(1, 24, 24, 3)
    grads = jax.jit(jax.grad(lambda p: module.apply(p, image, train=True)[0].sum()))(variables)
    for name, grad in grads["params"].items():
        assert (np.abs(grad["kernel"]).max() > 0) == (int(name.split("_")[1]) >= first), name
    with pytest.raises(ValueError, match="vgg freeze_below 'conv9' is unknown"):
        vgg.VGG16(freeze_below="conv9").init(jax.random.key(0), image, train=False)


def test_the_registry_loads_torchvisions_file(tmp_path, monkeypatch):
    """Its linear layers are passed over; the names of another network are refused."""
    monkeypatch.setitem(registry.ENCODERS, "vgg16", registry.Encoder(
        lambda _, dtype: vgg.VGG16(width=THIN, dtype=dtype), vgg.from_torch))
    _, want, other = pair(THIN)
    state = {f"module.{n}": x for n, x in plain.numpy_state(other).items()}
    np.savez(tmp_path / "vgg.npz", **state, **{"classifier.0.weight": np.zeros((3, 4))})
    config = ml_collections.ConfigDict({
        "encoder": "vgg16", "encoder_weights": str(tmp_path / "vgg.npz"), "dropout": 0.0,
        "freeze_encoder": False, "dtype": "float32"})
    net = registry.build_classifier(config, 20)
    first = jax.jit(functools.partial(net.init, train=False))(
        {"params": jax.random.key(0)}, noise(1, 16, 16, 3))
    loaded = registry.load_encoder(first, config)
    jax.tree.map(np.testing.assert_array_equal, loaded["params"]["backbone"], want["params"])
    np.savez(tmp_path / "vgg.npz", **{n: x for n, x in state.items() if ".28." not in n})
    with pytest.raises(ValueError, match="as encoder 'vgg16': .*missing 2 names: .*features_28"):
        registry.load_encoder(first, config)


@pytest.mark.parametrize("name, shape", [
    ("features.1.running_mean", (4,)), ("layer1.0.conv1.weight", (4, 4, 3, 3)),
    ("features.0.weight", (4,)), ("conv1a.weight", (64, 3, 3, 3))])
def test_a_strange_tensor_is_named(name, shape):
    with pytest.raises(ValueError, match=rf"{name} \[.*\]: no tensor of a VGG-16"):
        vgg.from_torch({name: np.zeros(shape)})


def test_bfloat16_stays_near_float32():
    module, variables, _ = pair(THIN)
    image = noise(1, 32, 32, 3)
    _, full = module.apply(variables, image, train=False)
    pooled, half = module.clone(dtype=jnp.bfloat16).apply(variables, image, train=False)
    assert half["features"].dtype == jnp.bfloat16 and pooled.dtype == jnp.float32
    np.testing.assert_allclose(half["features"].astype(np.float32), full["features"],
                               atol=0.05 * np.abs(full["features"]).max())
