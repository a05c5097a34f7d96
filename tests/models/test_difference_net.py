"""The networks of SSDD against their plain form in torch, on random weights of every tensor."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from wsssjax.core import weights
from wsssjax.models import difference_net, resnet38, small_cnn

torch = pytest.importorskip("torch")
PLAIN = pathlib.Path(__file__).parents[1] / "ssdd_torch.py"
spec = importlib.util.spec_from_file_location("ssdd_torch", PLAIN)
plain = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plain)
CLASSES = 6


def thin(branches, **changes):
    fields = dict(width=12, dilation=12, difference_width=8) | changes
    return difference_net.DifferenceSegmenter(
        resnet38.ResNet38(width=1 / 32, dropout=False, freeze_below="b2"), CLASSES, branches,
        **fields)


def pair(branches, seed=0):
    """(our model, our variables, torch's model) with the same random weights."""
    other = plain.randomise(plain.SSDD(CLASSES, branches, 1 / 32, 12, 12, 8), seed)
    model = thin(branches)
    template = jax.eval_shape(lambda: difference_net.first_variables(model, jax.random.key(0)))
    variables = weights.restore(template, difference_net.from_torch(plain.numpy_state(other)))
    return model, jax.tree.map(jnp.asarray, variables), other


@pytest.mark.parametrize("branches, size", [(1, (112, 128)), (2, (120, 104))])
def test_matches_torch(branches, size):
    model, variables, other = pair(branches)
    rng = np.random.default_rng(1)
    image = rng.normal(size=(2, *size, 3)).astype(np.float32)
    found, (whole, _) = jax.jit(lambda v: (
        model.apply(v, image, train=False, method="segment"),
        model.apply(v, image, train=False)))(variables)
    label = rng.integers(0, CLASSES, (2, 2, size[0] // 4, size[1] // 4)).astype(np.int32)
    label[0, :, :5] = 255
    with torch.no_grad():
        logits, hidden, low = other.segment(plain.to_torch(image))
        full, _ = other.seg_main(other.encoder(plain.to_torch(image))[1])
        full = torch.nn.functional.interpolate(full, scale_factor=8, mode="bilinear")
    for got, want in [*zip(found.logits, logits, strict=True),
                      *zip(found.hidden, hidden, strict=True), (found.low, low)]:
        want = want.numpy().transpose(0, 2, 3, 1)
        assert np.abs(want).max() > 0.1
        np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())
    np.testing.assert_allclose(whole, full.numpy().transpose(0, 2, 3, 1), atol=2e-5)
    for branch in range(branches):
        got = model.apply(variables, found, branch, label, method="differences")
        for m in range(2):
            with torch.no_grad():
                want = other.difference(branch, hidden[branch], low, torch.tensor(label[m])).numpy()
            assert want.std() > 0.01
            np.testing.assert_allclose(got[m], want, atol=1e-5 * np.abs(want).max())


def test_nothing_flows_back_from_the_difference_network():
    model = thin(1).clone(backbone=small_cnn.SmallCNN(widths=(4, 4, 6, 8)))
    variables = jax.jit(lambda: difference_net.first_variables(model, jax.random.key(0)))()
    image = jnp.asarray(np.random.default_rng(2).normal(size=(1, 112, 112, 3)), jnp.float32)
    label = jnp.zeros((2, 1, 28, 28), jnp.int32)

    def total(params):
        v = {**variables, "params": params}
        found = model.apply(v, image, train=False, method="segment")
        return model.apply(v, found, 0, label, method="differences").sum()

    grads = jax.jit(jax.grad(total))(variables["params"])
    for part, tree in grads.items():
        moves = any((np.asarray(g) != 0).any() for g in jax.tree.leaves(tree))
        assert moves == part.startswith("dd"), part


@pytest.mark.parametrize("size, dilation", [((14, 17), 12), ((5, 5), 1), ((28, 20), 6)])
def test_both_forms_of_the_convolution(size, dilation):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *size, 5)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 5, 4)).astype(np.float32)
    want = torch.nn.functional.conv2d(
        plain.mirror(plain.to_torch(x), dilation), torch.tensor(kernel.transpose(3, 2, 0, 1)),
        dilation=dilation).numpy().transpose(0, 2, 3, 1)
    for form in ("shift", "conv", "auto"):
        got = difference_net.reflect_conv(jnp.asarray(x), kernel, dilation, form)
        np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (2, 9)])
def test_maps_narrower_than_the_dilation(size):
    x = np.random.default_rng(0).normal(size=(1, *size, 3)).astype(np.float32)
    kernel = np.zeros((3, 3, 3, 3), np.float32)
    kernel[2, 2] = np.eye(3)
    got = difference_net.reflect_conv(jnp.asarray(x), kernel, 12)
    want = np.pad(x, ((0, 0), (12, 12), (12, 12), (0, 0)), mode="reflect")[:, 24:, 24:]
    np.testing.assert_array_equal(got, want)


def test_look_up_is_the_product_with_the_one_hot_map():
    rng = np.random.default_rng(0)
    rows = jnp.asarray(rng.normal(size=(7, 3)), jnp.float32)
    index = jnp.asarray(rng.integers(0, 7, (2, 4, 5)))
    factor = jnp.asarray(rng.normal(size=(2, 4, 5, 3)), jnp.float32)
    got, back = jax.vjp(lambda r: difference_net.look_up(r, index), rows)
    want, plain_back = jax.vjp(lambda r: jax.nn.one_hot(index, 7) @ r, rows)
    np.testing.assert_allclose(got, want)
    np.testing.assert_allclose(back(factor)[0], plain_back(factor)[0], rtol=1e-5)


def test_published_sizes():
    """19.0 M in each head, 1.48 M in the part that reads the photo, 0.93 M in the rest."""
    model = difference_net.DifferenceSegmenter(resnet38.ResNet38(), 21, 2)
    shapes = jax.eval_shape(lambda: difference_net.first_variables(model, jax.random.key(0)))

    def count(part, *, norms):
        trees = [shapes["params"][part]] + norms * [
            {n: x for n, x in weights.flatten(shapes["batch_stats"][part]).items()
             if n.endswith(("scale", "bias"))}]
        return sum(x.size for x in jax.tree.leaves(trees))

    for branch, name in enumerate(difference_net.BRANCHES):
        assert count(name, norms=False) == 18_971_669
        assert count(f"dd_head{branch}", norms=True) == 1_475_072
        assert count(f"dd{branch}", norms=True) == 925_696
    assert set(shapes["params"]) == {"backbone", *difference_net.BRANCHES, "dd_head0", "dd_head1",
                                     "dd0", "dd1"}


NAMES = {  # as published; shapes as PyTorch has them
    "module.seg_main.seg2.weight": (21, 512, 3, 3),
    "module.seg_sub.seg2.bias": (21,),
    "module.dd_head0.conv1ab.conv1.weight": (256, 640, 3, 3),
    "module.dd_head1.conv1ab.conv1.weight": (256, 640, 3, 3),
    "module.dd0.conv1c.conv1.weight": (256, 21, 1, 1),
    "module.dd1.conv1abc.conv1.weight": (256, 512, 1, 1),
    "module.dd0.conv1abc.conv2.weight": (256, 256, 3, 3),
    "module.dd0.conv1abc.conv3.weight": (256, 256, 1, 1),
    "module.dd0.conv1abc.downsample.weight": (256, 512, 1, 1),
    "module.dd0.pred_abc.weight": (1, 256, 1, 1),
}


def test_published_names_and_shapes():
    model = difference_net.DifferenceSegmenter(resnet38.ResNet38(), 21, 2)
    shapes = jax.eval_shape(lambda: difference_net.first_variables(model, jax.random.key(0)))
    flat = weights.flatten(shapes)
    converted = difference_net.from_torch({n: np.zeros(s, np.float32) for n, s in NAMES.items()})
    assert len(converted) == len(NAMES)
    for name, x in converted.items():
        assert flat[name].shape == x.shape, name
    with pytest.raises(ValueError, match=r"module.dd0.conv9.weight \[1\]: no tensor of SSDD"):
        difference_net.from_torch({"module.dd0.conv9.weight": np.zeros(1)})
    with pytest.raises(ValueError, match=r"dd0.pred_abc.weight \[1\]: no tensor of SSDD"):
        difference_net.from_torch({"dd0.pred_abc.weight": np.zeros(1)})


def test_fresh_layers_are_kaiming_normal():
    model = thin(2, difference_width=64, width=64)
    variables = jax.jit(lambda: difference_net.first_variables(model, jax.random.key(3)))()
    found = weights.flatten({k: v for k, v in variables["params"].items() if k != "backbone"})
    for name, x in found.items():
        if name.endswith("bias"):
            assert (np.asarray(x) == 0).all()
        elif x.size > 2_000:
            np.testing.assert_allclose(x.std(), (2 / np.prod(x.shape[:3])) ** 0.5, rtol=0.1)


def test_efficientnet_carries_it():
    config = ml_collections.ConfigDict(dict(
        encoder="efficientnet_lite0", output_stride=16, dtype="bfloat16", head_width=16,
        head_dilation=6, difference_width=8, freeze_encoder=False))
    model = difference_net.build(config, CLASSES, branches=1)
    image = jnp.ones((1, 112, 96, 3))
    variables = jax.eval_shape(lambda: difference_net.first_variables(model, jax.random.key(0)))
    found, whole = jax.eval_shape(
        lambda v: (model.apply(v, image, train=True, method="segment"),
                   model.apply(v, image, train=False)[0]), variables)
    assert found.logits[0].shape == (1, 28, 24, CLASSES) and found.logits[0].dtype == jnp.float32
    assert found.low.shape == (1, 28, 24, 24) and found.hidden[0].dtype == jnp.bfloat16
    assert whole.shape == (1, 112, 96, CLASSES)
    assert variables["params"]["seg_main"]["seg1"]["conv1"]["kernel"].shape == (3, 3, 1280, 16)
