"""Conformer-S and the heads of TransCAM and BAO against PyTorch; other encoders under the heads."""

import functools
import importlib.util
import pathlib
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from wsssjax.core import weights
from wsssjax.models import (
    attention_classifier,
    conformer,
    conformer_names,
    efficientnet_lite,
    registry,
    small_cnn,
)

torch = pytest.importorskip("torch")
PLAIN = pathlib.Path(__file__).parents[1] / "conformer_torch.py"
spec = importlib.util.spec_from_file_location("conformer_torch", PLAIN)
plain = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plain)
BASE, CLASSES, FEW = 4, 20, (2, 5, 9, 12)
torch.set_num_threads(1)


def network(base=BASE, classes=CLASSES, background=True, numbers=range(2, 13), **changes):
    blocks = tuple(b for b in conformer.BLOCKS if b.number in numbers)
    encoder = conformer.Conformer(width=base / 64, blocks=blocks, **changes)
    return attention_classifier.AttentionClassifier(encoder, classes, background)


def shapes_of(net):
    return jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)),
                                           train=False))


def variables_of(net, other):
    found = weights.restore(shapes_of(net), attention_classifier.from_torch(
        plain.numpy_state(other)))
    return jax.tree.map(jnp.asarray, found)


def drawn(side, rows=2, seed=0):
    rng = np.random.default_rng(seed)
    tags = (rng.random((rows, CLASSES)) < 0.2).astype(np.float32)
    return rng.standard_normal((rows, side, side, 3)).astype(np.float32), tags


def as_ours(x):
    x = x.detach().numpy()
    return x.transpose(0, 2, 3, 1) if x.ndim == 4 else x


def check(aux, want, bound):
    """The largest error of all outputs, over the largest number of each."""
    for name, x in want.items():
        x = as_ours(x)
        assert aux[name].shape == x.shape and x.std() > 0.01, name
        error = np.abs(np.asarray(aux[name]) - x).max() / np.abs(x).max()
        assert error < bound, (name, error)


# ---- parity ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def thin():
    """(our network, its variables, torch's)."""
    other = plain.randomise(plain.Network(BASE, CLASSES, bao=True))
    net = network()
    return net, variables_of(net, other), other


@pytest.mark.parametrize("side", [48, 80])
def test_every_output_equals_torch(thin, side):
    """Attention, both heads' scores, raw and attended maps, the background branch."""
    net, variables, other = thin
    image, tags = drawn(side)
    scores, aux = jax.jit(functools.partial(net.apply, train=False))(variables, image, tags)
    with torch.no_grad():
        want = other(plain.to_torch(image, other), torch.tensor(tags))
    check(aux, want, 1e-5)
    both = want["conv_scores"] + want["trans_scores"]
    np.testing.assert_allclose(scores, both.numpy(), rtol=1e-4, atol=1e-4)
    encoder = net.backbone
    for tap, stride, width in zip(range(4), encoder.tap_strides, encoder.tap_widths, strict=True):
        assert aux[f"tap{tap}"].shape == (2, side // stride, side // stride, width)
    assert aux["features"].shape[-1] == encoder.feature_width
    assert aux["class_token"].shape == (2, 6 * BASE)
    rows = np.asarray(aux["attention"]).sum(-1)
    assert aux["attention"].min() > 0 and (rows < 12).all() and rows.mean() > 8


def test_full_width_equals_torch_and_has_the_published_size():
    other = plain.randomise(plain.Network(bao=True))
    net = network(64)
    variables = variables_of(net, other)
    count = sum(x.size for x in jax.tree.leaves(variables["params"]))
    assert count == sum(p.numel() for p in other.parameters()) and round(count / 1e6, 2) == 36.68
    image, tags = drawn(32, rows=1)
    _, aux = jax.jit(functools.partial(net.apply, train=False))(variables, image, tags)
    with torch.no_grad():
        want = other(plain.to_torch(image, other), torch.tensor(tags))
    check(aux, want, 2e-5)


def test_training_equals_torch_given_the_rows_that_skip_a_branch():
    """Statistics of the batch, the running ones after it, and stochastic depth per sample."""
    other = plain.randomise(plain.Network(BASE, CLASSES, True, FEW))
    net = network(numbers=FEW, drop_path=0.5)
    variables = variables_of(net, other)
    image, tags = drawn(48, rows=4)

    def run(variables, image, tags):
        return net.apply(
            variables, image, tags, train=True, rngs={"dropout": jax.random.key(3)},
            capture_intermediates=lambda m, _: isinstance(m, nn.Dropout),
            mutable=["intermediates", "batch_stats"])

    (_, aux), new = jax.jit(run)(variables, image, tags)
    skipped = []
    for number in (1, *FEW):
        name = f"conv_trans_{number}" if number > 1 else "trans_1"
        seen = new["intermediates"]["backbone"][name]
        seen = seen["trans_block"] if number > 1 else seen
        there = [np.asarray(seen[f"Dropout_{i}"]["__call__"][0] != 0).any((1, 2)) for i in (0, 1)]
        rate = 0.5 * (number - 1) / 11  # linspace(0, 0.5, 12)
        block = getattr(other, name)
        block = block.trans_block if number > 1 else block
        block.keep = [torch.tensor(x / (1 - rate), dtype=torch.float32) for x in there]
        skipped.append(1 - np.mean(there))
    assert skipped[0] == 0 and 0.2 < skipped[-1] < 0.8, skipped
    other.train()
    with torch.no_grad():
        want = other(plain.to_torch(image, other), torch.tensor(tags))
    check(aux, want, 2e-5)
    moved = weights.flatten({"batch_stats": new["batch_stats"]})
    after = attention_classifier.from_torch(plain.numpy_state(other))
    before = weights.flatten({"batch_stats": variables["batch_stats"]})
    assert moved.keys() == before.keys()
    for name, x in moved.items():
        np.testing.assert_allclose(x, after[name], rtol=1e-5, atol=1e-6, err_msg=name)
        assert np.abs(np.asarray(before[name]) - after[name]).max() > 0, name


def test_bfloat16_stays_near_float32_and_stored_norms_do_not_move():
    other = plain.randomise(plain.Network(BASE, CLASSES, True, FEW))
    net = network(numbers=FEW, dtype=jnp.bfloat16, norm="stored", drop_path=0.0).clone(
        dtype=jnp.bfloat16)
    variables = variables_of(net, other)
    image, tags = drawn(32)
    (_, aux), new = jax.jit(functools.partial(net.apply, train=True, mutable=["batch_stats"]))(
        variables, image, tags)
    jax.tree.map(np.testing.assert_array_equal, new["batch_stats"], variables["batch_stats"])
    with torch.no_grad():
        want = other(plain.to_torch(image, other), torch.tensor(tags))
    assert aux["features"].dtype == jnp.bfloat16
    for name in ("cams", "am", "attention", "conv_scores", "trans_scores"):
        assert aux[name].dtype == jnp.float32, name
        x = as_ours(want[name])
        np.testing.assert_allclose(aux[name], x, atol=0.05 * np.abs(x).max(), err_msg=name)


# ---- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(32, 48), (40, 40), (0, 0)])
def test_other_sizes_are_refused(size):
    with pytest.raises(ValueError, match=f"image of {size[0]} x {size[1]} pixels; a Conformer wants"
                       " squares whose side is a multiple of 16") as error:
        jax.eval_shape(lambda: conformer.Conformer(BASE / 64).init(
            jax.random.key(0), jnp.zeros((1, *size, 3)), train=False))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name, shape", [
    ("conv_1.conv4.weight", (4, 4, 1, 1)), ("layer1.0.conv1.weight", (4, 4, 3, 3)),
    ("conv_trans_2.cnn_block.bn1.weight", (4, 4, 4)), ("cls_token.weight", (1, 1, 4)),
    ("trans_1.attn.qkv.running_mean", (4, 4)), ("conv1", (4,))])
def test_a_strange_tensor_is_named(name, shape):
    with pytest.raises(ValueError, match=rf"{re.escape(name)} \[.*: no tensor of a Conformer"):
        conformer_names.from_torch({name: np.zeros(shape)})


def test_a_strange_tensor_of_a_head_is_named():
    with pytest.raises(ValueError, match=r"conv_cls_head.weight \[7\]: no tensor of TransCAM"):
        attention_classifier.from_torch({"conv_cls_head.weight": np.zeros(7)})


def test_a_config_without_its_fields_is_refused():
    config = ml_collections.ConfigDict({"encoder": "conformer_small", "dtype": "float32"})
    with pytest.raises(ValueError, match="reads config.model.conformer, which .*; begin with"):
        registry.build_encoder(config)


# ---- weights -----------------------------------------------------------------------------------


def test_names_go_there_and_back(thin):
    net, variables, other = thin
    state = {n: x for n, x in plain.numpy_state(other).items() if "num_batches" not in n}
    flat = attention_classifier.from_torch({f"module.{n}": x for n, x in state.items()})
    assert flat.keys() == weights.flatten(variables).keys()
    back = attention_classifier.to_torch(flat)
    assert back.keys() == state.keys()
    for name, x in back.items():
        np.testing.assert_array_equal(x, state[name])
    kernel = flat["params/backbone/conv_trans_9/cnn_block/residual_conv/kernel"]
    want = state["conv_trans_9.cnn_block.residual_conv.weight"]
    np.testing.assert_array_equal(kernel[0, 0], want[:, :, 0, 0].T)


@pytest.mark.parametrize("file", ["imagenet.npz", "transcam.safetensors"])
def test_the_registry_loads_an_encoder_and_leaves_the_head(tmp_path, monkeypatch, file):
    """ImageNet's file, whose own classifiers are passed over and whose last norm is taken, or what
    training exported."""
    monkeypatch.setitem(registry.ENCODERS, "conformer_small", registry.Encoder(
        lambda config, dtype: conformer.Conformer(BASE / 64, dtype=dtype, **config.conformer),
        conformer_names.from_torch))
    config = ml_collections.ConfigDict({
        "encoder": "conformer_small", "encoder_weights": str(tmp_path / file), "dtype": "float32",
        "conformer": {"drop_path": 0.1, "norm": "batch"}, "freeze_encoder": False})
    net = attention_classifier.build(config, 5, background=False)
    rng = np.random.default_rng(0)
    first = jax.tree.map(lambda s: rng.standard_normal(s.shape).astype(s.dtype), shapes_of(net))
    other = plain.randomise(plain.Network(BASE, CLASSES))
    state = plain.numpy_state(other)
    if file.endswith(".npz"):
        state |= {"conv_cls_head.weight": np.zeros((1000, 64)), "conv_cls_head.bias": np.ones(1000)}
        np.savez(tmp_path / file, **state)
    else:
        weights.save(tmp_path / file, attention_classifier.from_torch(state))
    loaded = registry.load_encoder(first, config)
    jax.tree.map(np.testing.assert_array_equal, loaded["params"]["head"], first["params"]["head"])
    want = conformer_names.from_torch(state)
    for name, x in weights.flatten(loaded).items():
        if "/backbone/" in name:
            np.testing.assert_array_equal(x, want[name.replace("/backbone", "")], err_msg=name)
    np.testing.assert_array_equal(loaded["params"]["backbone"]["trans_norm"]["scale"],
                                  state["trans_norm.weight"])


# ---- other encoders ----------------------------------------------------------------------------


def test_without_attention_the_matrix_is_the_identity():
    """Maps stay where they are, scores are theirs alone, and any size will do."""
    encoder = small_cnn.SmallCNN(widths=(4, 4, 6, 8))
    net = attention_classifier.AttentionClassifier(encoder, 3, background=True)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda s: jnp.asarray(0.1 + rng.random(s.shape), s.dtype) / max(s.shape[-1], 1),
        jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 32, 48, 3)), train=False)))
    image = rng.standard_normal((2, 32, 48, 3)).astype(np.float32)
    tags = np.float32([[1, 0, 1], [0, 1, 0]])
    scores, aux = jax.jit(functools.partial(net.apply, train=False))(variables, image, tags)
    assert "trans_cls_head" not in variables["params"]["head"] and "trans_scores" not in aux
    np.testing.assert_array_equal(aux["cams"], aux["maps"])
    np.testing.assert_allclose(scores, np.asarray(aux["maps"]).mean((1, 2)), rtol=1e-5)
    head = jax.tree.map(np.asarray, variables["params"]["head"])
    factor = tags @ head["label_enc"]["kernel"] + head["label_enc"]["bias"]
    features = torch.tensor((np.asarray(aux["features"]) * factor[:, None, None]).transpose(
        0, 3, 1, 2))
    want = torch.nn.functional.conv2d(
        features, torch.tensor(head["classifier_x"]["kernel"].transpose(3, 2, 0, 1)),
        torch.tensor(head["classifier_x"]["bias"]), padding=1)
    np.testing.assert_allclose(aux["am"], as_ours(want), rtol=1e-4, atol=1e-5)


def test_efficientnet_carries_the_heads():
    net = attention_classifier.AttentionClassifier(
        efficientnet_lite.EfficientNetLite0(output_stride=16), 3, background=True)
    scores, aux = jax.eval_shape(
        lambda image, tags: net.init_with_output(jax.random.key(0), image, tags, train=False)[0],
        jnp.zeros((2, 64, 80, 3)), jnp.zeros((2, 3)))
    assert scores.shape == (2, 4) and aux["am"].shape == aux["cams"].shape == (2, 4, 5, 4)


def test_a_frozen_encoder_gets_no_gradient():
    net = attention_classifier.AttentionClassifier(small_cnn.SmallCNN(widths=(4, 4, 6, 8)), 3,
                                                   background=True, freeze=True)
    variables = jax.tree.map(lambda s: jnp.full(s.shape, 0.1, s.dtype), shapes_of(net))
    image = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)

    def loss(params):
        _, aux = net.apply({"params": params}, image, jnp.ones((2, 3)), train=True)
        return (aux["cams"] ** 2 + aux["am"] ** 2).sum()

    grads = jax.jit(jax.grad(loss))(variables["params"])
    assert not any(x.any() for x in jax.tree.leaves(grads["backbone"]))
    assert all(x.any() for x in jax.tree.leaves(grads["head"]))


def test_new_layers_are_drawn_as_published():
    """Linear 0.02; convolutions Kaiming normal by fan-out, their bias as PyTorch's default."""
    aux = {"features": jnp.zeros((1, 2, 2, 512)), "class_token": jnp.zeros((1, 192))}
    heads = attention_classifier.Heads(20, background=True).init(jax.random.key(1), aux)["params"]
    assert heads["trans_cls_head"]["kernel"].std() == pytest.approx(0.02, rel=0.05)
    assert not heads["label_enc"]["bias"].any()
    for name in ("conv_cls_head", "classifier_x"):
        assert heads[name]["kernel"].std() == pytest.approx((2 / (21 * 9)) ** 0.5, rel=0.05)
        assert 0 < np.abs(heads[name]["bias"]).max() <= (512 * 9) ** -0.5
