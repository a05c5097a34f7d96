"""ResNet-38 against a PyTorch network written for this test from the layer table."""

import doctest
import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wsssjax.core import weights
from wsssjax.models import registry, resnet38

THIN = 1 / 16
SPECIFIED = {  # block: (type, in, mid, out, stride, dilations of the two 3x3 convolutions)
    "b2": ("basic", 64, 128, 128, 2, 1, 1), "b2_1": ("basic", 128, 128, 128, 1, 1, 1),
    "b2_2": ("basic", 128, 128, 128, 1, 1, 1), "b3": ("basic", 128, 256, 256, 2, 1, 1),
    "b3_1": ("basic", 256, 256, 256, 1, 1, 1), "b3_2": ("basic", 256, 256, 256, 1, 1, 1),
    "b4": ("basic", 256, 512, 512, 2, 1, 1),
    **{f"b4_{i}": ("basic", 512, 512, 512, 1, 1, 1) for i in range(1, 6)},
    "b5": ("basic", 512, 512, 1024, 1, 1, 2), "b5_1": ("basic", 1024, 512, 1024, 1, 2, 2),
    "b5_2": ("basic", 1024, 512, 1024, 1, 2, 2), "b6": ("neck", 1024, 512, 2048, 1, 4, 4),
    "b7": ("neck", 2048, 1024, 4096, 1, 4, 4),
}


def torch_network(width=1.0, head="affinity", seed=0):
    """The network in PyTorch: forward(x, kept) → {name: map}. kept: masks of dropped channels."""
    torch = pytest.importorskip("torch")
    tnn, relu = torch.nn, torch.nn.functional.relu

    def n(channels):
        return max(2, round(channels * width))

    def conv(a, b, k, stride=1, dilation=1):
        return tnn.Conv2d(a, b, k, stride, dilation if k == 3 else 0, dilation, bias=False)

    class Basic(tnn.Module):
        def __init__(self, a, mid, out, stride, first, second):
            super().__init__()
            self.bn_branch2a = tnn.BatchNorm2d(a)
            self.conv_branch2a = conv(a, mid, 3, stride, first)
            self.bn_branch2b1 = tnn.BatchNorm2d(mid)
            self.conv_branch2b1 = conv(mid, out, 3, 1, second)
            if a != out or stride != 1:
                self.conv_branch1 = conv(a, out, 1, stride)

        def forward(self, x, kept):
            y = relu(self.bn_branch2a(x))
            short = self.conv_branch1(y) if hasattr(self, "conv_branch1") else x
            z = relu(self.bn_branch2b1(self.conv_branch2a(y)))
            return short + self.conv_branch2b1(z), y

    class Neck(tnn.Module):
        def __init__(self, a, mid, out, stride, dilation, _):
            super().__init__()
            self.bn_branch2a = tnn.BatchNorm2d(a)
            self.conv_branch2a = conv(a, mid, 1, stride)
            self.bn_branch2b1 = tnn.BatchNorm2d(mid)
            self.conv_branch2b1 = conv(mid, out // 2, 3, 1, dilation)
            self.bn_branch2b2 = tnn.BatchNorm2d(out // 2)
            self.conv_branch2b2 = conv(out // 2, out, 1)
            self.conv_branch1 = conv(a, out, 1, stride)

        def forward(self, x, kept):
            one, two = kept if kept else (1.0, 1.0)
            y = relu(self.bn_branch2a(x))
            z = relu(self.bn_branch2b1(self.conv_branch2a(y))) * one
            z = relu(self.bn_branch2b2(self.conv_branch2b1(z))) * two
            return self.conv_branch1(y) + self.conv_branch2b2(z), y

    class Network(tnn.Module):
        def __init__(self):
            super().__init__()
            self.conv1a = conv(3, n(64), 3)
            for name, (kind, a, mid, out, *rest) in SPECIFIED.items():
                block = {"basic": Basic, "neck": Neck}[kind]
                setattr(self, name, block(n(a), n(mid), n(out), *rest))
            self.bn7 = tnn.BatchNorm2d(n(4096))
            if head == "affinity":
                self.f8_3 = conv(n(512), 64, 1)
                self.f8_4 = conv(n(1024), 128, 1)
                self.f8_5 = conv(n(4096), 256, 1)
                self.f9 = conv(448, 448, 1)
            else:
                self.fc8 = conv(n(4096), 20, 1)

        def forward(self, x, kept=None):
            x, maps = self.conv1a(x), {}
            for name in SPECIFIED:
                x, maps[name] = getattr(self, name)(x, (kept or {}).get(name))
            maps["features"] = relu(self.bn7(x))
            if head == "affinity":
                elu = torch.nn.functional.elu
                parts = [elu(self.f8_3(maps["b5"])), elu(self.f8_4(maps["b6"])),
                         elu(self.f8_5(maps["features"]))]
                maps["affinity"] = elu(self.f9(torch.cat(parts, 1)))
            return maps

    torch.manual_seed(seed)
    model = Network().eval()
    for module in model.modules():
        if isinstance(module, tnn.BatchNorm2d):
            tnn.init.uniform_(module.running_mean, -0.1, 0.1)
            tnn.init.uniform_(module.running_var, 0.05, 0.2)
            tnn.init.uniform_(module.weight, 0.5, 1.0)
            tnn.init.uniform_(module.bias, -0.2, 0.4)
            module.requires_grad_(False)
    return model


def state_dict(model):
    return {name: x.numpy() for name, x in model.state_dict().items()}


def variables_of(model, width):
    net = resnet38.ResNet38(width=width)
    template = jax.eval_shape(lambda: net.init(
        {"params": jax.random.key(0)}, jnp.zeros((1, 16, 16, 3)), train=False))
    return jax.tree.map(jnp.asarray,
                        weights.restore(template, resnet38.from_torch(state_dict(model))))


def torch_maps(model, image_bhwc, kept=None):
    import torch

    with torch.no_grad():
        maps = model(torch.tensor(image_bhwc.transpose(0, 3, 1, 2)), kept)
    return {name: x.permute(0, 2, 3, 1).numpy() for name, x in maps.items()}


def apply(net, variables, image, **options):
    """The network run as one program."""
    return jax.jit(functools.partial(net.apply, **{"train": False} | options))(variables, image)


def check_maps(aux, want):
    widest = 0.0
    for name in (*resnet38.ENTRIES, "features"):
        assert aux[name].shape == want[name].shape and want[name].std() > 0.05, name
        error = np.abs(np.asarray(aux[name]) - want[name]).max() / np.abs(want[name]).max()
        widest = max(widest, error)
    assert widest < 2e-5, widest


@pytest.fixture(scope="module")
def full():
    return torch_network()


def test_the_published_networks_have_their_tensors_and_parameters(full):
    tensors = state_dict(full)
    assert len(tensors) == 232
    assert round(sum(p.numel() for p in full.parameters()) / 1e6, 1) == 106.5
    classifier = torch_network(head="classifier")
    assert round(sum(p.numel() for p in classifier.parameters()) / 1e6, 1) == 105.2
    for some in (tensors, state_dict(classifier)):
        variables_of_shapes = jax.eval_shape(lambda: resnet38.ResNet38().init(
            {"params": jax.random.key(0)}, jnp.zeros((1, 16, 16, 3)), train=False))
        assert weights.compare(variables_of_shapes, resnet38.from_torch(some)) == ((), (), ())


def test_full_width_equals_torch(full):
    image = np.random.default_rng(0).standard_normal((1, 75, 50, 3)).astype(np.float32)
    net, variables = resnet38.ResNet38(), variables_of(full, 1.0)
    pooled, aux = apply(net, variables, image)
    want = torch_maps(full, image)
    assert want["features"].shape == (1, 10, 7, 4096)
    check_maps(aux, want)
    mean = want["features"].mean((1, 2))
    np.testing.assert_allclose(pooled, mean, rtol=1e-4, atol=1e-6 * mean.max())


@pytest.mark.parametrize("size", [(33, 47), (1, 1), (64, 8)])
def test_any_size_equals_torch(size):
    model = torch_network(THIN)
    image = np.random.default_rng(1).standard_normal((2, *size, 3)).astype(np.float32)
    net = resnet38.ResNet38(width=THIN)
    _, aux = apply(net, variables_of(model, THIN), image)
    check_maps(aux, torch_maps(model, image))
    h, w = size
    for tap, stride, width in zip(range(4), net.tap_strides, net.tap_widths, strict=True):
        assert aux[f"tap{tap}"].shape == (2, -(-h // stride), -(-w // stride), width)
    assert aux["features"].shape[-1] == net.feature_width


def test_training_drops_whole_channels_of_the_two_bottlenecks():
    import torch

    model = torch_network(THIN)
    image = np.random.default_rng(2).standard_normal((2, 24, 40, 3)).astype(np.float32)
    net, variables = resnet38.ResNet38(width=THIN), variables_of(model, THIN)
    (_, aux), seen = apply(
        net, variables, image, train=True, rngs={"dropout": jax.random.key(3)},
        capture_intermediates=lambda m, _: isinstance(m, nn.Dropout), mutable=["intermediates"])
    kept, shares = {}, {}
    for name, rate in (("b6", 0.3), ("b7", 0.5)):
        dropped = seen["intermediates"][name]
        masks = [np.asarray(dropped[f"Dropout_{i}"]["__call__"][0] != 0).any((1, 2))
                 for i in (0, 1)]
        kept[name] = [torch.tensor(m[:, :, None, None] / (1 - rate), dtype=torch.float32)
                      for m in masks]
        shares[name] = np.concatenate([m.ravel() for m in masks]).mean()
    assert 0.55 < shares["b6"] < 0.85 and 0.35 < shares["b7"] < 0.65, shares
    check_maps(aux, torch_maps(model, image, kept))
    quiet, _ = apply(resnet38.ResNet38(width=THIN, dropout=False), variables, image, train=True)
    still, _ = apply(net, variables, image)
    np.testing.assert_array_equal(quiet, still)


@pytest.mark.parametrize("freeze_below", ["b3", "", "b5"])
def test_no_gradient_below_the_frozen_place(freeze_below):
    net = resnet38.ResNet38(width=THIN, freeze_below=freeze_below)
    image = jnp.asarray(np.random.default_rng(3).standard_normal((1, 24, 24, 3)), jnp.float32)
    variables = variables_of(torch_network(THIN), THIN)

    def pooled(params):
        return net.apply({**variables, "params": params}, image, train=False)[0].sum()

    grads = jax.jit(jax.grad(pooled))(variables["params"])
    names = ["conv1a", *SPECIFIED]
    frozen = names[: names.index(freeze_below)] if freeze_below else []
    for name in names:
        moved = [float(jnp.abs(x).max()) > 0 for x in jax.tree.leaves(grads[name])]
        assert not any(moved) if name in frozen else all(moved), name


def test_norms_are_out_of_reach_of_an_optimizer():
    net = resnet38.ResNet38(width=THIN)
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)),
                                             train=False))
    assert not [name for name in weights.flatten(shapes["params"]) if "bn" in name]
    assert len(shapes["batch_stats"]["bn7"]) == 4


@pytest.mark.parametrize("prefix", ["module.", "encoder.", "module.encoder."])
def test_prefixes_of_parallel_and_nested_models_are_taken_off(prefix):
    tensors = state_dict(torch_network(THIN))
    plain = resnet38.from_torch(tensors)
    prefixed = resnet38.from_torch({prefix + name: x for name, x in tensors.items()})
    assert plain.keys() == prefixed.keys()


@pytest.mark.parametrize("name, shape", [
    ("b3.conv_branch2a.bias", (4,)), ("layer1.conv1.weight", (4, 4, 3, 3)),
    ("b3.bn_branch2a.weight", (4, 4)), ("conv1a", (4,)), ("bn7.momentum", (4,))])
def test_a_strange_tensor_is_named(name, shape):
    with pytest.raises(ValueError, match=f"{re.escape(name)} .*: no tensor of a ResNet-38"):
        resnet38.from_torch({name: np.zeros(shape)})


def test_mxnet_names_map_to_the_same_network():
    """The names as the mapping describes them, made from PyTorch's by the opposite rule."""
    tensors = {n: x for n, x in state_dict(torch_network(THIN, "classifier")).items()
               if not n.endswith("num_batches_tracked") and n != "fc8.weight"}
    arrays = {"arg:linear1000_weight": np.zeros((1000, 4)), "arg:linear1000_bias": np.zeros(1000)}
    for name, value in tensors.items():
        *path, kind = name.split(".")
        layer = path[-1]
        norm = {"weight": ("arg:", "gamma"), "bias": ("arg:", "beta"),
                "running_mean": ("aux:", "moving_mean"), "running_var": ("aux:", "moving_var")}
        top, word = norm[kind] if "bn" in layer else ("arg:", "weight")
        if len(path) == 2:
            stage, _, index = path[0][1:].partition("_")
            place = f"{stage}b{index}" if index else f"{stage}a"
            start = "bn" if "bn" in layer else "res"
            layer = f"{start}{place}_{layer.split('_')[1]}"
        arrays[f"{top}{layer}_{word}"] = value
    back = resnet38.from_mxnet(arrays)
    flat = resnet38.from_torch(back)
    assert flat.keys() == resnet38.from_torch(tensors).keys()
    assert back.keys() == tensors.keys()
    assert all(back[name] is tensors[name] for name in tensors)
    with pytest.raises(ValueError, match="conv0_weight: no array of a ResNet-38"):
        resnet38.from_mxnet({"arg:conv0_weight": np.zeros(3)})


@pytest.mark.parametrize("file", ["r38.npz", "r38.safetensors"])
def test_the_registry_loads_public_weights_into_a_classifier(tmp_path, monkeypatch, file):
    """A state dict with another head, or our names as configs/refine_voc_affinity.py saves them:
    the encoder takes its part, the new head stays."""
    import ml_collections

    monkeypatch.setitem(registry.ENCODERS, "resnet38", registry.Encoder(
        lambda _, dtype: resnet38.ResNet38(width=THIN, dtype=dtype), resnet38.from_torch))
    model = torch_network(THIN, "classifier")
    np.savez(tmp_path / "r38.npz", **state_dict(model))
    flat = resnet38.from_torch(state_dict(model))
    weights.save(tmp_path / "r38.safetensors", weights.under("backbone", flat))
    config = ml_collections.ConfigDict({
        "encoder": "resnet38", "encoder_weights": str(tmp_path / file), "dropout": 0.0,
        "freeze_encoder": False, "dtype": "float32"})
    net = registry.build_classifier(config, 20)
    image = np.random.default_rng(4).standard_normal((1, 20, 31, 3)).astype(np.float32)
    first = jax.jit(functools.partial(net.init, train=False))({"params": jax.random.key(0)}, image)
    loaded = registry.load_encoder(first, config)
    np.testing.assert_array_equal(loaded["params"]["head"]["kernel"],
                                  first["params"]["head"]["kernel"])
    check_maps(apply(net, loaded, image)[1], torch_maps(model, image))


def test_an_unknown_place_to_freeze_is_named():
    with pytest.raises(ValueError, match="freeze_below 'b9': want '' or one of b2, b2_1"):
        resnet38.ResNet38(width=THIN, freeze_below="b9").init(
            jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)


def test_bfloat16_stays_near_float32():
    image = np.random.default_rng(5).standard_normal((1, 32, 32, 3)).astype(np.float32)
    model = torch_network(THIN)
    variables = variables_of(model, THIN)
    pooled, aux = apply(resnet38.ResNet38(width=THIN, dtype=jnp.bfloat16), variables, image)
    want = torch_maps(model, image)["features"].mean((1, 2))
    assert aux["features"].dtype == jnp.bfloat16 and pooled.dtype == jnp.float32
    np.testing.assert_allclose(pooled, want, atol=0.05 * np.abs(want).max())


def test_examples_in_docstrings():
    assert doctest.testmod(resnet38) == (0, 1)
