"""The fast forms of convolutions equal the plain ones, gradients included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from wsssjax.models import layers

CASES = [((9, 12), 3, 1, 1), ((9, 12), 3, 2, 1), ((8, 11), 5, 2, 1), ((7, 6), 5, 1, 2),
         ((12, 5), 3, 1, 2), ((1, 2), 5, 2, 1)]


def noise(*shape):
    return jnp.asarray(np.random.default_rng(shape).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize("size, k, stride, dilation", CASES)
def test_depthwise_forms_agree(size, k, stride, dilation):
    x, kernel = noise(3, *size, 4), noise(k, k, 4)

    @jax.jit
    def both(x, kernel, pull):
        out = {}
        for form in ("shift", "grouped"):
            y, back = jax.vjp(
                lambda x, kernel: layers.depthwise(x, kernel, stride, dilation, form),  # noqa: B023
                x, kernel)
            out[form] = (y, *back(pull))
        return out

    shape = (3, -(-size[0] // stride), -(-size[1] // stride), 4)
    out = both(x, kernel, noise(*shape))
    assert out["shift"][0].shape == shape
    for ours, want in zip(out["shift"], out["grouped"], strict=True):
        np.testing.assert_allclose(ours, want, rtol=1e-5, atol=2e-5)


def test_depthwise_sums_in_float32():
    """In bfloat16 a sum over 4096 pixels would stop growing at 256."""
    x = jnp.ones((1, 64, 64, 2), jnp.bfloat16)
    kernel = jnp.ones((3, 3, 2), jnp.bfloat16)
    grad = jax.grad(lambda w: layers.depthwise(x, w, form="shift").astype(jnp.float32).sum())(
        kernel)
    assert grad.dtype == jnp.bfloat16
    np.testing.assert_allclose(grad[1, 1].astype(np.float32), 4096)


def test_same_padding_is_xlas():
    for n in range(1, 12):
        for k, stride, dilation in ((3, 1, 1), (3, 2, 1), (5, 2, 1), (5, 1, 2)):
            (want,) = lax.padtype_to_pads((n,), ((k - 1) * dilation + 1,), (stride,), "SAME")
            assert layers.same_padding(n, k, stride, dilation) == tuple(want)


def test_pointwise_is_a_1x1_convolution():
    x, kernel = noise(2, 5, 3, 4), noise(4, 6)
    want = lax.conv_general_dilated(x, kernel[None, None], (1, 1), "SAME",
                                    dimension_numbers=layers.DIMENSIONS)
    np.testing.assert_allclose(layers.pointwise(x, kernel), want, atol=1e-5)


@pytest.mark.parametrize("size, stride", [(1, 1), (3, 1), (3, 2)])
def test_conv_matches_torch_and_starts_like_it(size, stride):
    torch = pytest.importorskip("torch")
    module = layers.TorchConv(7, size, stride)
    x = noise(2, 8, 9, 5)
    params = module.init(jax.random.key(0), x)["params"]
    reference = torch.nn.Conv2d(5, 7, size, stride, size // 2)
    bound = float(reference.weight.detach().abs().max())
    assert abs(float(jnp.abs(params["kernel"]).max()) - bound) < 0.1 * bound
    with torch.no_grad():
        reference.weight.copy_(torch.tensor(np.asarray(params["kernel"]).transpose(3, 2, 0, 1)))
        reference.bias.copy_(torch.tensor(np.asarray(params["bias"])))
        want = reference(torch.tensor(np.asarray(x).transpose(0, 3, 1, 2))).permute(0, 2, 3, 1)
    np.testing.assert_allclose(module.apply({"params": params}, x), want, atol=1e-5)


def test_uniform_looks_random():
    init = jax.jit(layers.uniform(2.0), static_argnums=1)
    keys = jax.random.split(jax.random.key(0), 2)
    a, b = (np.asarray(init(k, (50, 40, 25))).ravel() for k in keys)
    np.testing.assert_array_equal(a, np.asarray(init(keys[0], (50000,))))  # key and count say all
    counts = np.histogram(a, 50, (-2, 2))[0]
    assert abs(counts - 1000).max() < 5 * 1000**0.5
    assert a.min() < -1.999 and a.max() > 1.999 and np.abs(a).max() <= 2
    pairs = [(a, b), (a[1:], a[:-1]), (a[25:], a[:-25]), (a, np.arange(a.size)),
             (np.abs(a[1:]), np.abs(a[:-1]))]
    for x, y in pairs:
        assert abs(np.corrcoef(x, y)[0, 1]) < 5 / a.size**0.5


def test_uniform_differs_between_parameters():
    params = layers.TorchConv(8, 3).init(jax.random.key(0), jnp.zeros((1, 4, 4, 8)))["params"]
    other = layers.TorchConv(8, 3).init(jax.random.key(1), jnp.zeros((1, 4, 4, 8)))["params"]
    assert (params["kernel"].ravel()[:8] != params["bias"]).all()
    assert (params["kernel"] != other["kernel"]).mean() > 0.99


@pytest.mark.parametrize("size, dtype", [
    ((120, 121), "float32"), ((131, 127), "float32"), ((299, 300), "float32"),
    ((24, 601), "float32"), ((121, 120), "bfloat16"),
], ids=str)
def test_own_gradient_of_a_wide_convolution_is_the_convolutions(size, dtype):
    """Chunks that divide the rows and that do not, one row a chunk, several images."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, *size, 5)), dtype)
    kernel = jnp.asarray(rng.standard_normal((3, 3, 5, 7)), dtype)
    weight = jnp.asarray(rng.standard_normal((2, *size, 7)), dtype)

    def grads(function):
        loss = lambda x, k: (function(x, k) * weight).astype(jnp.float32).sum()  # noqa: E731
        return jax.jit(jax.value_and_grad(loss, (0, 1)))(x, kernel)

    def plain(x, k):
        return jax.lax.conv_general_dilated(x, k, (1, 1), ((1, 1), (1, 1)),
                                            dimension_numbers=layers.DIMENSIONS)

    assert np.prod(size) >= layers.WIDE_PIXELS
    (value, got), (want_value, want) = grads(layers.conv), grads(plain)
    tolerance = 1e-4 if dtype == "float32" else 0.05
    np.testing.assert_allclose(value, want_value, rtol=tolerance)
    for g, w in zip(got, want, strict=True):
        assert g.dtype == w.dtype == dtype
        top = np.abs(w.astype(np.float32)).max()
        np.testing.assert_allclose(g.astype(np.float32) / top, w.astype(np.float32) / top,
                                   atol=2e-6 if dtype == "float32" else 0.02)


def test_gelu_and_its_gradient():
    x = jnp.concatenate([jnp.linspace(-9, 9, 4001), jnp.asarray([0.0, -0.0, 60.0, -60.0])])
    want, slope = jax.vmap(jax.value_and_grad(lambda v: jax.nn.gelu(v, approximate=False)))(x)
    got, got_slope = jax.vmap(jax.value_and_grad(layers.gelu))(x)
    # jax takes erfc, torch and we 1 + erf: rounded at 1, that is 6e-8 times |x| of up to 9 apart
    np.testing.assert_allclose(got, want, atol=6e-7)
    np.testing.assert_allclose(got_slope, slope, atol=6e-7)
    half = layers.gelu(x.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(np.float32), want, rtol=0.02, atol=0.02)
