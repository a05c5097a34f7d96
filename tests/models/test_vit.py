"""DINOv2 against `transformers` on random weights, and what must not change its numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from wsssjax.core import weights
from wsssjax.models import dpt, registry, vit, vit_names
from wsssjax.models.segmenter import Segmenter

TINY = vit.Size(128, 4, (0, 1, 2, 3))
GATED = vit.Size(128, 4, (0, 1, 2, 3), swiglu=True)


@functools.cache
def reference(size, registers, folder):
    """(transformers' model with random weights, our variables read from the file it saves)."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    kind = "Dinov2WithRegisters" if registers else "Dinov2"
    extra = {"num_register_tokens": registers} if registers else {}
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(
        hidden_size=size.width, num_hidden_layers=size.depth, image_size=518, patch_size=14,
        num_attention_heads=size.width // 64, use_swiglu_ffn=size.swiglu, **extra)).eval()
    with torch.no_grad():
        for p in model.parameters():  # biases, norms and scales too must tell themselves apart
            p.add_(0.1 * torch.randn_like(p))
    model.save_pretrained(folder)
    flat = vit_names.from_public(safetensors.numpy.load_file(folder / "model.safetensors"))
    network = vit.ViT(size, registers)
    return model, weights.restore(shapes(network), flat)


def shapes(network):
    return jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 28, 28, 3)),
                                               train=False))


def variables(network, seed=0):
    rng = np.random.default_rng(seed)
    found = jax.tree.map(lambda s: (0.2 * rng.standard_normal(s.shape)).astype(s.dtype),
                         shapes(network))
    params = found["params"]
    for part in ("ls1", "ls2"):
        params.get("backbone", params)["blocks"][part]["gamma"] += 1.0  # so that each block counts
    return found


def image(*size, rows=1):
    return np.random.default_rng(1).standard_normal((rows, *size, 3)).astype(np.float32)


@pytest.mark.parametrize("size, registers, side", [
    (vit.SIZES["s"], 0, (518, 518)), (vit.SIZES["s"], 0, (378, 504)),
    (vit.SIZES["s"], 0, (70, 98)), (vit.SIZES["s"], 0, (28, 616)),
    (TINY, 4, (518, 518)), (TINY, 4, (224, 266)), (GATED, 0, (224, 266)),
], ids=str)
def test_taps_match_transformers(tmp_path_factory, size, registers, side):
    """Its resize of the position table has no offset, and antialiases where there are registers."""
    import torch
    folder = tmp_path_factory.getbasetemp() / f"vit_{size.width}_{registers}_{size.swiglu}"
    model, ours = reference(size, registers, folder)
    network = vit.ViT(size, registers, positions="auto" if registers else "size")
    x = image(*side)
    with torch.no_grad():
        states = model(torch.tensor(x).permute(0, 3, 1, 2), output_hidden_states=True).hidden_states
        want = [model.layernorm(states[tap + 1])[:, 1 + registers:].numpy() for tap in size.taps]
    _, aux = jax.jit(lambda v, x: network.apply(v, x, train=False))(ours, x)
    for i, tap in enumerate(want):
        got = np.asarray(aux[f"tap{i}"])
        assert got.shape == (1, side[0] // 14, side[1] // 14, size.width)
        error = np.abs(got.reshape(tap.shape) - tap).max() / np.abs(tap).max()
        print(f"{side}, tap {i}: relative error {error:.1e}")
        assert error < 1e-5, (i, error)


@pytest.mark.parametrize("changes", [{"scan": False}, {"remat": True}, {"attention": "xla"},
                                     {"scan": False, "remat": True}], ids=str)
def test_loop_and_recomputation_change_nothing(changes):
    """Taps that are not the last blocks: what comes after them must not disturb the buffer."""
    size = vit.Size(64, 5, (0, 2, 3, 4))
    plain, other = vit.ViT(size), vit.ViT(size, **changes)
    ours, x = variables(plain), image(28, 42, rows=2)
    assert jax.tree.map(lambda s: s.shape, shapes(other)) == jax.tree.map(lambda s: s.shape, ours)

    def loss(network, v):
        _, aux = network.apply(v, x, train=True)
        return sum((jnp.sin(aux[f"tap{i}"]) * (i + 1)).sum() for i in range(4))

    want, want_grad = jax.jit(jax.value_and_grad(functools.partial(loss, plain)))(ours)
    got, got_grad = jax.jit(jax.value_and_grad(functools.partial(loss, other)))(ours)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    for name, g in weights.flatten(want_grad).items():
        top = max(np.abs(g).max(), 1e-3)
        np.testing.assert_allclose(weights.flatten(got_grad)[name] / top, g / top, atol=2e-4,
                                   err_msg=name)


def test_taps_are_the_outputs_of_their_blocks():
    """A network of three blocks is the front of one of five."""
    long, short = vit.Size(64, 5, (0, 1, 2, 4)), vit.Size(64, 3, (0, 1, 2, 2))
    ours, x = variables(vit.ViT(long)), image(28, 28)
    front = jax.tree.map(lambda a: a, ours)
    front["params"]["blocks"] = jax.tree.map(lambda a: a[:3], ours["params"]["blocks"])
    _, want = vit.ViT(short).apply(front, x, train=False)
    _, got = vit.ViT(long).apply(ours, x, train=False)
    for i in range(3):
        np.testing.assert_allclose(got[f"tap{i}"], want[f"tap{i}"], atol=2e-5)
    assert np.abs(got["tap3"] - got["tap2"]).max() > 0.1


def test_training_and_evaluation_are_one_function():
    network = vit.ViT(TINY)
    ours, x = variables(network), image(42, 28)
    run = jax.jit(lambda v, train: network.apply(v, x, train=train)[1], static_argnums=1)
    jax.tree.map(np.testing.assert_array_equal, run(ours, True), run(ours, False))


def test_the_table_is_untouched_at_518_and_shifted_elsewhere():
    """At 37 x 37 all three resizes agree; at another grid they must not."""
    nets = {name: vit.ViT(TINY, positions=name) for name in vit.POSITIONS}
    ours = variables(nets["offset"])

    def tokens(name, grid):
        table = ours["params"]["pos_embed"][:, 1:].reshape(1, 37, 37, -1)
        return np.asarray(vit._fit(table, grid, vit.POSITIONS[name]))

    for name in nets:
        np.testing.assert_array_equal(tokens(name, (37, 37)), ours["params"]["pos_embed"][:, 1:])
    found = {name: tokens(name, (27, 36)) for name in nets}
    for one, other in (("offset", "size"), ("offset", "antialias"), ("size", "antialias")):
        assert np.abs(found[one] - found[other]).max() > 0.05, (one, other)


def test_bfloat16_is_near_and_a_frozen_encoder_stored_in_it_is_the_same_to_the_bit():
    head = dpt.DPTHead(5, 8, dpt.channels(8), (14,) * 4, jnp.bfloat16)
    half = Segmenter(vit.ViT(TINY, dtype=jnp.bfloat16), head, freeze=True)
    full = Segmenter(vit.ViT(TINY), head.clone(dtype=jnp.float32), freeze=True)
    ours, x = variables(full), image(42, 56)

    class config:
        freeze_encoder, dtype = True, "bfloat16"

    stored = registry.store_frozen(ours, config)
    dtypes = {n: str(a.dtype) for n, a in weights.flatten(stored).items()}
    for name, dtype in dtypes.items():
        small = "/backbone/" in name and name.endswith("kernel")
        assert dtype == ("bfloat16" if small else "float32"), name
    run = jax.jit(lambda v: half.apply(v, x, train=False)[0])
    np.testing.assert_array_equal(run(stored), run(ours))
    want = jax.jit(lambda v: full.apply(v, x, train=False)[0])(ours)
    error = np.abs(run(ours) - want).max() / np.abs(want).max()
    assert 1e-6 < error < 0.1


@pytest.mark.parametrize("changes, message", [
    ({"positions": "ofset"}, "config.model.vit.positions 'ofset' is unknown; did you mean"),
    ({"attention": "flash"}, "config.model.vit.attention 'flash': want one of auto, loop, xla, cu"),
])
def test_unknown_names(changes, message):
    with pytest.raises(ValueError) as error:
        shapes(vit.ViT(TINY, **changes))
    assert message in str(error.value)


@pytest.mark.parametrize("side", [(27, 28), (28, 35), (0, 14)])
def test_sides_are_multiples_of_the_patch(side):
    with pytest.raises(ValueError, match=f"image of {side[0]} x {side[1]} pixels; want multiples"):
        jax.eval_shape(lambda: vit.ViT(TINY).init(jax.random.key(0), jnp.zeros((1, *side, 3)),
                                                  train=False))


def test_random_start():
    """Small Gaussian matrices, ones and zeros where the reference has them."""
    params = jax.jit(lambda: vit.ViT(TINY).init(
        jax.random.key(3), jnp.zeros((1, 14, 14, 3)), train=False))()["params"]
    qkv = np.asarray(params["blocks"]["attn"]["qkv"]["kernel"])
    assert qkv.shape == (4, 128, 384)
    np.testing.assert_allclose(qkv.std((1, 2)), 0.02, rtol=0.03)
    assert np.abs(np.corrcoef(qkv.reshape(4, -1)) - np.eye(4)).max() < 0.03, "blocks draw alike"
    np.testing.assert_allclose(np.sort(qkv.reshape(-1))[[1 + qkv.size // 40, -qkv.size // 40]],
                               (-0.0392, 0.0392), rtol=0.03)  # 1.96 sigma: it is a Gaussian
    assert (params["blocks"]["ls1"]["gamma"] == 1).all()
    assert (params["blocks"]["mlp"]["fc1"]["bias"] == 0).all()


@pytest.mark.parametrize("size, encoder, total, tensors", [
    ("s", 22_056_576, 24_795_637, 237), ("b", 86_580_480, 97_528_789, 237),
    ("l", 304_368_640, 335_579_157, 405), ("g", 1_136_480_768, 1_258_748_693, 629)])
def test_counts_of_the_published_models(size, encoder, total, tensors):
    """Shapes only: nothing of these sizes is ever made."""
    width = {"s": 64, "b": 128, "l": 256, "g": 384}[size]
    network = Segmenter(vit.ViT(vit.SIZES[size]),
                        dpt.DPTHead(21, width, dpt.channels(width), (14,) * 4))
    found = weights.flatten(jax.eval_shape(lambda: network.init(
        jax.random.key(0), jnp.zeros((1, 28, 28, 3)), train=False)))
    count = {name: int(np.prod(x.shape)) for name, x in found.items()}
    assert sum(n for name, n in count.items() if "/backbone/" in name) == encoder
    assert sum(count.values()) == total
    # The published layout has one tensor a block where ours has one for all.
    assert sum(vit.SIZES[size].depth if "/blocks/" in name else 1 for name in count) == tensors
