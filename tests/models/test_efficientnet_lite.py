"""EfficientNet-Lite0 against the PyTorch package its public weights belong to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wsssjax.core import weights
from wsssjax.models import efficientnet_lite


def unflatten(flat):
    tree = {}
    for name, value in flat.items():
        node = tree
        *parents, last = name.split("/")
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = jnp.asarray(value)
    return tree


@pytest.fixture(scope="module")
def reference():
    """The original with random batch statistics that keep activations in range."""
    torch = pytest.importorskip("torch")
    package = pytest.importorskip("efficientnet_lite_pytorch")
    torch.manual_seed(0)
    # Without an image size the package pads as TensorFlow does at any size.
    model = package.EfficientNet.from_name("efficientnet-lite0", image_size=None).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.8, 1.6)
            torch.nn.init.uniform_(module.bias, -0.5, 1.0)
    return model


@pytest.fixture(scope="module")
def variables(reference):
    state = {name: x.numpy() for name, x in reference.state_dict().items()}
    return unflatten(efficientnet_lite.from_torch(state))


def run_reference(model, image_bhwc):
    import torch
    taps = {}
    hooks = [
        model._blocks[i].register_forward_hook(lambda _, __, y, n=n: taps.update({f"tap{n}": y}))
        for n, i in enumerate((2, 4, 10, 15))]
    with torch.no_grad():
        image = torch.tensor(np.asarray(image_bhwc).transpose(0, 3, 1, 2))
        logits = model(image).numpy()
        taps["features"] = model.extract_features(image)
    for hook in hooks:
        hook.remove()
    return logits, {name: y.permute(0, 2, 3, 1).numpy() for name, y in taps.items()}


def check_equal(model, variables, image):
    net = efficientnet_lite.EfficientNetLite0(num_classes=1000)
    logits, aux = jax.jit(lambda v, x: net.apply(v, x, train=True))(variables, image)
    want_logits, want = run_reference(model, image)
    assert want_logits.std() > 0.01
    np.testing.assert_allclose(logits, want_logits, atol=1e-5 * max(1, np.abs(want_logits).max()))
    for name, width in zip(("tap0", "tap1", "tap2", "tap3", "features"), (24, 40, 112, 320, 1280),
                           strict=True):
        assert aux[name].shape[-1] == width
        np.testing.assert_allclose(aux[name], want[name], atol=3e-5 * np.abs(want[name]).max())


@pytest.mark.parametrize("size", [(64, 96), (75, 50)])
def test_equals_the_original(reference, variables, size):
    image = np.random.default_rng(0).standard_normal((2, *size, 3)).astype(np.float32)
    check_equal(reference, variables, image)


def test_equals_the_original_with_public_weights(reference, shared):
    import torch
    source = np.load(shared / "data" / "weights" / "efficientnet_lite0_f16.npz", allow_pickle=False)
    state = {name: torch.tensor(source[name]) for name in source.files}
    before = {name: x.clone() for name, x in reference.state_dict().items()}
    reference.load_state_dict(state)
    variables = unflatten(efficientnet_lite.from_torch({n: source[n] for n in source.files}))
    image = np.random.default_rng(1).uniform(-1, 1, (1, 97, 66, 3)).astype(np.float32)
    check_equal(reference, variables, image)
    reference.load_state_dict(before)


def test_names_are_exactly_those_of_the_network(variables):
    net = efficientnet_lite.EfficientNetLite0(num_classes=1000)
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)),
                                             train=False))
    report = weights.compare(shapes, weights.flatten(variables))
    assert report == ((), (), ())
    count = sum(np.size(x) for x in jax.tree.leaves(variables["params"]))
    assert count == 4_652_008  # as published for Lite0


def test_denser_grid_holds_the_sparse_one(variables):
    """With spread kernels, stride 16 computes stride 32 at four times as many places."""
    del variables["params"]["fc"]
    image = np.random.default_rng(0).standard_normal((1, 128, 64, 3)).astype(np.float32)

    @jax.jit
    def features(v, x):
        out = []
        for options in ({}, {"output_stride": 16}, {"output_stride": 16, "dilate": False}):
            net = efficientnet_lite.EfficientNetLite0(**options)
            assert net.tap_strides[3] == options.get("output_stride", 32)
            out.append(net.apply(v, x, train=False)[1])
        return out

    sparse, dense, undilated = features(variables, image)
    assert dense["features"].shape == undilated["features"].shape == (1, 8, 4, 1280)
    for name in ("tap3", "features"):
        np.testing.assert_allclose(dense[name][:, 1::2, 1::2], sparse[name], atol=1e-4)
    np.testing.assert_allclose(dense["tap2"], sparse["tap2"], atol=1e-5)
    assert np.abs(undilated["features"][:, 1::2, 1::2] - sparse["features"]).max() > 0.1


def test_from_torch_refuses_other_networks():
    with pytest.raises(ValueError, match=r"layer1.0.weight \[4, 3, 3\]: no tensor of an Effic"):
        efficientnet_lite.from_torch({"layer1.0.weight": np.zeros((4, 3, 3))})


def test_output_stride_is_checked():
    net = efficientnet_lite.EfficientNetLite0(output_stride=8)
    with pytest.raises(ValueError, match="output_stride 8: want 16 or 32"):
        jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
