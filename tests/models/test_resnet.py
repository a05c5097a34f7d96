"""ResNet-50 and -101 against torchvision's, and what that has not against a network of our own."""

import functools
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wsssjax.core import weights
from wsssjax.models import registry, resnet

THIN = 1 / 16
PLAIN = pathlib.Path(__file__).parents[1] / "classifiers_torch.py"


@pytest.fixture(scope="module")
def torchvision():
    return pytest.importorskip("torchvision")


@pytest.fixture(scope="module")
def plain():
    pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location("classifiers_torch", PLAIN)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shaken(model, seed=0):
    """The model with norms that are not near the identity."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for name, low in (("weight", 0.4), ("bias", -0.3), ("running_mean", -0.3),
                              ("running_var", 0.5)):
                values = torch.rand(module.num_features, generator=generator)
                getattr(module, name).data.copy_(low + values * 0.6)
    return model.eval()


def state_dict(model):
    return {name: x.detach().numpy() for name, x in model.state_dict().items()}


def restored(net, tensors, side=33):
    template = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, side, side, 3)),
                                               train=False))
    flat = registry.place_norms(resnet.from_torch(tensors), template)
    return weights.restore(template, flat)


@functools.partial(jax.jit, static_argnums=0)
def apply(net, variables, image):
    return net.apply(variables, image, train=False)


def torch_taps(model, image_bhwc):
    import torch

    x, taps = torch.tensor(image_bhwc.transpose(0, 3, 1, 2)), []
    with torch.no_grad():
        x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
        for stage in resnet.STAGES:
            x = getattr(model, stage)(x)
            taps.append(x.numpy().transpose(0, 2, 3, 1))
    return taps


def drawn(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_full_network_equals_torchvision(torchvision):
    """The deeper one, its last stride turned into dilation, with frozen norms."""
    model = shaken(torchvision.models.resnet101(replace_stride_with_dilation=(False, False, True)))
    image = drawn(1, 1, 49, 70, 3)
    net = resnet.ResNet(101, 16, "late", "frozen")
    pooled, aux = apply(net, restored(net, state_dict(model)), image)
    wanted = torch_taps(model, image)
    for index, want in enumerate(wanted):
        got = aux[f"tap{index}"]
        assert got.shape == want.shape and want.shape[-1] == net.tap_widths[index]
        assert -(-49 // net.tap_strides[index]) == want.shape[1]
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5 * np.abs(want).max())
    np.testing.assert_array_equal(aux["features"], aux["tap3"])
    np.testing.assert_allclose(pooled, wanted[3].mean((1, 2)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fields, strides, dilations, first", [
    ({"output_stride": 8, "dilation": "late"}, (1, 2, 1, 1), (1, 1, 2, 4), (1, 1, 1, 2)),
    ({"output_stride": 16, "norm": "stored"}, (1, 2, 2, 1), (1, 1, 1, 1), None),  # IRN
    ({"output_stride": 8, "dilation": "rest"}, (1, 2, 1, 1), (1, 1, 2, 4), (1, 1, 1, 1)),  # RS+EPM
    ({"output_stride": 8, "dilation": "all", "layout": "caffe"}, (1, 2, 1, 1), (1, 1, 2, 4), None),
], ids=["torchvision", "irn", "rest", "deeplab2"])
def test_layouts_equal_torch(plain, fields, strides, dilations, first):
    model = plain.randomise(plain.ResNet(
        50, THIN, strides, dilations, first, fields.get("layout") == "caffe")).eval()
    net = resnet.ResNet(50, width=THIN, **fields)
    variables = restored(net, state_dict(model))
    import torch

    image = drawn(2, 2, 64, 55, 3)
    with torch.no_grad():
        wanted = model(torch.tensor(image.transpose(0, 3, 1, 2)))
    _, aux = apply(net, variables, image)
    for index, want in enumerate(wanted):
        want = want.numpy().transpose(0, 2, 3, 1)
        assert aux[f"tap{index}"].shape == want.shape and want.std() > 0.05
        np.testing.assert_allclose(aux[f"tap{index}"], want, atol=2e-5 * np.abs(want).max())
    if "layout" in fields:  # an even side at stride 2 gives one more
        assert aux["features"].shape[1:3] == (9, 8)


def test_training_by_the_batch_equals_torch(plain):
    """Outputs and the running statistics after one pass; gradients are the norm's own test."""
    import torch

    model = plain.randomise(plain.ResNet(50, THIN), seed=4).double().train()
    net = resnet.ResNet(50, width=THIN)
    before = restored(net, state_dict(model))
    image = drawn(5, 4, 65, 49, 3)
    (pooled, _), new = jax.jit(functools.partial(net.apply, train=True, mutable=["batch_stats"]))(
        before, image)
    with torch.no_grad():
        want = model(torch.tensor(image.transpose(0, 3, 1, 2)).double())[3].mean((2, 3)).numpy()
    np.testing.assert_allclose(pooled, want, atol=1e-4 * np.abs(want).max())
    moved = weights.flatten(new)
    for name, x in resnet.from_torch(state_dict(model)).items():
        if name.startswith("batch_stats"):
            np.testing.assert_allclose(moved[name], x, rtol=1e-4, atol=1e-5, err_msg=name)


def test_no_gradient_below_the_frozen_stage(plain):
    net = resnet.ResNet(50, 16, norm="stored", freeze_below="layer3", width=THIN)
    variables = restored(net, state_dict(plain.randomise(plain.ResNet(50, THIN))))
    image = drawn(7, 1, 33, 33, 3)
    grads = jax.jit(jax.grad(lambda params: net.apply(
        {**variables, "params": params}, image, train=True)[0].sum()))(variables["params"])
    for name, tree in grads.items():
        moved = [float(jnp.abs(x).max()) > 0 for x in jax.tree.leaves(tree)]
        assert all(moved) if name.startswith(("layer3", "layer4")) else not any(moved), name


def test_norms_learn_where_they_shall(plain):
    """Scale and bias are parameters of stored norms, not of frozen ones, which get them all the
    same from weights of any kind."""
    flat = resnet.from_torch(state_dict(plain.randomise(plain.ResNet(50, THIN))))
    shapes = {norm: weights.flatten(jax.eval_shape(lambda n=norm: resnet.ResNet(
        50, norm=n, width=THIN).init(jax.random.key(0), jnp.zeros((1, 33, 33, 3)), train=False)))
        for norm in ("stored", "frozen")}
    assert "params/layer4_0/downsample_1/scale" in shapes["stored"]
    assert not [n for n in shapes["frozen"] if n.startswith("params/") and "kernel" not in n]
    for wanted in shapes.values():
        placed = registry.place_norms(flat, wanted)
        assert placed.keys() == wanted.keys()
        assert registry.place_norms(placed, shapes["stored"]).keys() == shapes["stored"].keys()


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.encoder."])
def test_prefixes_and_classifiers_are_taken_off(plain, prefix):
    tensors = state_dict(plain.ResNet(50, THIN))
    more = {f"{prefix}{n}": x for n, x in tensors.items()}
    more |= {f"{prefix}fc.weight": np.zeros((9, 4)), f"{prefix}fc.bias": np.zeros(9)}
    assert resnet.from_torch(more).keys() == resnet.from_torch(tensors).keys()
    assert set(resnet.passed_over(more)) == {f"{prefix}fc.weight", f"{prefix}fc.bias"}


@pytest.mark.parametrize("tensors, complaint", [
    ({"layer5.0.conv1.weight": np.zeros((1, 1, 1, 1))}, "layer5.0.conv1.weight .*no tensor of a"),
    ({"layer1.0.conv1.bias": np.zeros(1)}, "no tensor of a ResNet-50 or -101"),
    ({"bn1.weight": np.zeros((1, 1))}, r"bn1.weight \[1, 1\]: no tensor"),
    ({"conv1.weight": np.zeros((1, 1, 7, 7)), "stage1.0.weight": np.ones((1, 1, 7, 7))},
     "stage1.0.weight: differs from the same layer"),
])
def test_other_tensors_are_named(tensors, complaint):
    with pytest.raises(ValueError, match=complaint):
        resnet.from_torch(tensors)


@pytest.mark.parametrize("fields, complaint", [
    ({"depth": 34}, "resnet depth 34: want one of 50, 101"),
    ({"output_stride": 4}, "resnet output_stride 4: want one of 8, 16, 32"),
    ({"dilation": "al"}, "resnet dilation 'al' is unknown; did you mean 'all'"),
    ({"norm": "froze"}, "resnet norm 'froze' is unknown; did you mean 'frozen'"),
    ({"freeze_below": "layer5"}, "freeze_below 'layer5' is unknown; did you mean 'layer"),
    ({"layout": "torch"}, "resnet layout 'torch' is unknown"),
])
def test_unknown_fields_are_named(fields, complaint):
    net = resnet.ResNet(**{"width": THIN, **fields})
    with pytest.raises(ValueError, match=complaint):
        jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False))


@pytest.mark.parametrize("layer", ["layer3.1.conv2", "layer4.0.downsample.0", "layer2.3.conv1"])
def test_a_new_layer_starts_as_torchvisions(torchvision, layer):
    """Kaiming normal by what a kernel gives."""
    want = torchvision.models.resnet50().get_submodule(layer)
    conv = resnet.Conv(want.out_channels, want.kernel_size[0])
    image = jnp.zeros((1, 3, 3, want.in_channels))
    kernel = conv.init(jax.random.key(0), image)["params"]["kernel"]
    assert kernel.std() == pytest.approx(float(want.weight.detach().std()), rel=0.02)
    assert np.abs(kernel).max() > 3.5 * kernel.std()


def test_bfloat16_computes_in_it_and_keeps_its_parameters():
    net = resnet.ResNet(50, width=THIN, dtype=jnp.bfloat16)
    variables = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 33, 33, 3)),
                                                train=False))
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    pooled, aux = jax.eval_shape(functools.partial(net.apply, train=False), variables,
                                 jax.ShapeDtypeStruct((1, 33, 33, 3), jnp.float32))
    assert pooled.dtype == jnp.float32
    assert {x.dtype for x in aux.values()} == {jnp.dtype("bfloat16")}
