"""Networks by name, and encoder weights from every kind of file a config may point to."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from wsssjax.core import weights
from wsssjax.models import efficientnet_lite, registry


def model_config(**changes):
    config = ml_collections.ConfigDict({
        "encoder": "small_cnn", "encoder_weights": "", "output_stride": 8, "freeze_encoder": True,
        "decoder": "dpt", "bgr": False, "head_width": 8, "dropout": 0.0, "dtype": "float32"})
    with config.unlocked():
        config.update(changes)
    return config


def start(model, seed=0):
    return jax.jit(lambda: model.init(jax.random.key(seed), jnp.zeros((1, 32, 32, 3)),
                                      train=False))()


def constant(tree):
    """Arrays for a tree of shapes, or for what a function would return: nothing to compile."""
    shapes = jax.eval_shape(tree) if callable(tree) else tree
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: rng.standard_normal(s.shape).astype(s.dtype), shapes)


@pytest.fixture(scope="module")
def lite():
    """Shapes of a classifier on EfficientNet-Lite0 and a state dict in PyTorch's names for it."""
    config = model_config(encoder="efficientnet_lite0", output_stride=16)
    model = registry.build_classifier(config, 3)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)),
                                               train=False))
    rng = np.random.default_rng(0)
    state = {"_fc.weight": np.zeros((9, 1280), np.float16), "_fc.bias": np.zeros(9, np.float16),
             "_bn0.num_batches_tracked": np.array(3)}
    kinds = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean",
             "var": "running_var"}
    for name, leaf in weights.flatten(shapes).items():
        _, top, *path, kind = name.split("/")
        if top == "backbone":
            path = [f"_{p.replace('blocks_', 'blocks.')}" for p in path]
            value = rng.uniform(-1, 1, leaf.shape).astype(np.float16)
            if kind == "kernel":
                value = value.transpose(3, 2, 0, 1)
            state[".".join([*path, kinds[kind]])] = value
    return shapes, state


def test_encoder_weights_in_pytorch_names(lite, tmp_path):
    shapes, state = lite
    assert "_blocks.3._depthwise_conv.weight" in state and "_bn1.running_var" in state
    np.savez(tmp_path / "lite.npz", **state)
    config = model_config(encoder="efficientnet_lite0",
                          encoder_weights=str(tmp_path / "lite.npz"))
    variables = constant(shapes)
    got = registry.load_encoder(variables, config)
    want = weights.under("backbone", efficientnet_lite.from_torch(state))
    flat = weights.flatten(got)
    assert flat.keys() == weights.flatten(variables).keys()
    for name, value in flat.items():
        if "/backbone/" in name:
            np.testing.assert_array_equal(value, want[name])
        else:
            np.testing.assert_array_equal(value, weights.flatten(variables)[name])
    short = {n: x for n, x in state.items() if n != "_conv_stem.weight"}
    np.savez(tmp_path / "lite.npz", **short)
    with pytest.raises(ValueError) as error:
        registry.load_encoder(variables, config)
    assert "lite.npz, as encoder 'efficientnet_lite0'" in str(error.value)
    assert "missing 1 name: params/backbone/conv_stem/kernel" in str(error.value)
    np.savez(tmp_path / "lite.npz", **state, extra=np.zeros((2, 2, 2)))
    with pytest.raises(ValueError, match=r"lite.npz: extra \[2, 2, 2\]: no tensor of an Effic"):
        registry.load_encoder(variables, config)


def test_segmenter_starts_from_a_trained_classifier(tmp_path):
    classifier = start(registry.build_classifier(model_config(), 3), seed=1)
    weights.save(tmp_path / "weights.safetensors", classifier)
    config = model_config(encoder_weights=str(tmp_path))  # the folder of a run
    model = registry.build_segmenter(config, 4)
    before = start(model, seed=2)
    after = registry.load_encoder(before, config)
    jax.tree.map(np.testing.assert_array_equal, after["params"]["backbone"],
                 classifier["params"]["backbone"])
    jax.tree.map(np.testing.assert_array_equal, after["params"]["head"], before["params"]["head"])
    image = jnp.asarray(np.random.default_rng(0).standard_normal((2, 40, 56, 3)), jnp.float32)
    run = jax.jit(lambda v: model.apply(v, image, train=False)[0])
    assert run(after).shape == (2, 40, 56, 4)
    assert np.abs(run(after) - run(before)).max() > 1e-4


def test_weights_of_another_encoder_are_refused(lite, tmp_path):
    small = constant(lambda: registry.build_encoder(model_config()).init(
        jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    weights.save(tmp_path / "w.safetensors", {"params": {"backbone": small["params"]}})
    path = str(tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="as encoder 'efficientnet_lite0': .*missing 2.. names"):
        registry.load_encoder(constant(lite[0]),
                              model_config(encoder="efficientnet_lite0", encoder_weights=path))
    np.savez(tmp_path / "w.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match="encoder 'small_cnn' has no public weights"):
        registry.load_encoder({"params": {"backbone": small["params"]}},
                              model_config(encoder_weights=str(tmp_path / "w.npz")))
    with pytest.raises(FileNotFoundError, match="no such weights"):
        registry.load_encoder({}, model_config(encoder_weights=str(tmp_path / "none")))


def test_no_weights_change_nothing():
    variables = {"params": {"backbone": {"w": 1}}}
    assert registry.load_encoder(variables, model_config()) is variables


@pytest.mark.parametrize("changes, message", [
    ({"encoder": "smal_cnn"}, "encoder 'smal_cnn' is unknown; did you mean 'small_cnn'"),
    ({"dtype": "float16"}, "config.model.dtype 'float16' is unknown"),
    ({"head_width": 9}, "head_width 9: want a multiple of 4"),
])
def test_unknown_values(changes, message):
    with pytest.raises(ValueError) as error:
        registry.build_segmenter(model_config(**changes), 4)
    assert message in str(error.value)


def test_bfloat16_computes_near_float32_and_keeps_its_parameters():
    image = jnp.asarray(np.random.default_rng(0).standard_normal((1, 32, 32, 3)), jnp.float32)
    full = registry.build_segmenter(model_config(), 4)
    half = registry.build_segmenter(model_config(dtype="bfloat16"), 4)
    variables = start(full)
    shapes = jax.eval_shape(lambda: half.init(jax.random.key(0), image, train=False))
    assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    want = jax.jit(lambda v: full.apply(v, image, train=False)[0])(variables)
    got, aux = jax.jit(lambda v: half.apply(v, image, train=False))(variables)
    assert got.dtype == jnp.float32 and aux["tap1"].dtype == jnp.bfloat16
    difference = np.abs(got - want).max() / np.abs(want).max()
    assert 0 < difference < 0.1  # not zero: it did compute in half precision
