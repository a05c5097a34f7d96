"""Building blocks that several networks share, each in the form that runs fastest where it runs.

On a CPU, XLA runs grouped convolutions ten times slower than the multiply-adds they stand for, the
gradient of a 1x1 convolution up to seven times slower than that of a plain matrix product, and the
kernel's gradient of a wide 3x3 convolution on one core.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
WIDE_PIXELS = 120 * 120  # from here on a 3x3 convolution's kernel gradient is our own on a CPU
CHUNK_PIXELS = 600  # of one product in it: what stays in the cache


def on_channels(vector_d, dtype=None):
    """vector_d as [1, 1, 1, d], so that nothing broadcasts by accident."""
    return jnp.asarray(vector_d, dtype).reshape(1, 1, 1, -1)


# ---- initialisation ----------------------------------------------------------------------------


def uniform(bound: float):
    """An initializer: numbers uniform within ± bound, a pure function of key and shape.

    They come from a counter hashed with the key (murmur3's finaliser), not from jax.random: its
    generator is unrolled anew for every parameter, so that compiling the start of a network took
    12 CPU seconds where this takes 2.
    """
    def init(key, shape, dtype=jnp.float32):
        bits = lax.iota(jnp.uint32, math.prod(shape))
        for word in jax.random.key_data(key).reshape(-1):
            bits = _mix(bits + word)
        steps = (bits >> 8).astype(jnp.float32)  # 24 bits: all that float32 holds
        return ((steps * 2.0**-23 - (1 - 2.0**-24)) * bound).reshape(shape).astype(dtype)

    return init


def normal(std: float):
    """An initializer: Gaussian numbers of this standard deviation, drawn as `uniform` draws."""
    def init(key, shape, dtype=jnp.float32):
        within = uniform(1.0)(key, shape)
        return (std * 2**0.5 * lax.erf_inv(within)).astype(dtype)

    return init


def _mix(bits):
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
    return bits ^ (bits >> 16)


def torch_uniform(fan_in: int):
    """An initializer: uniform within 1 / sqrt(fan_in), PyTorch's default for weights and biases."""
    return uniform(fan_in ** -0.5)


def kaiming_normal(key, shape, dtype=jnp.float32):
    """Numbers for a convolution's kernel [.., inputs, outputs] that keep the variance of gradients
    behind a ReLU: Kaiming normal by fan-out, as torchvision draws its convolutions."""
    return normal((2 / (math.prod(shape) // shape[-2])) ** 0.5)(key, shape, dtype)


def kaiming_uniform(key, shape, dtype=jnp.float32):
    """Numbers for a kernel that keep the variance of what passes through a ReLU: by fan-in."""
    return he_uniform(math.prod(shape[:-1]))(key, shape, dtype)


def he_uniform(fan_in: int):
    """An initializer that keeps the variance of what passes through a ReLU."""
    return uniform((6 / fan_in) ** 0.5)


# ---- activations -------------------------------------------------------------------------------


@jax.custom_vjp
def gelu(x):
    """x Φ(x) with the exact normal distribution by erf, as torch has it; in the dtype of x.

    The forward pass keeps the derivative instead of x and erf: half the memory, and a gradient
    four times as fast on a CPU.
    """
    return _gelu_forward(x)[0]


def _gelu_forward(x):
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    below = 0.5 * (1.0 + lax.erf(wide * 0.5**0.5))
    density = jnp.exp(-0.5 * wide * wide) * (2 * math.pi) ** -0.5
    return (wide * below).astype(x.dtype), (below + wide * density).astype(x.dtype)


gelu.defvjp(_gelu_forward, lambda slope, grad: (slope * grad,))


# ---- norms --------------------------------------------------------------------------------------


def stored_norm(module: nn.Module, x, epsilon: float):
    """x after a batch norm on the stored statistics of `module`, over the last axis.

    Scale, bias, mean and variance all lie in `batch_stats`: nothing of it learns.
    """
    width = (x.shape[-1],)
    stored = {name: module.variable("batch_stats", name, fill, width).value for name, fill in (
        ("scale", jnp.ones), ("bias", jnp.zeros), ("mean", jnp.zeros), ("var", jnp.ones))}
    scale_d = stored["scale"] * lax.rsqrt(stored["var"] + epsilon)
    shift_d = stored["bias"] - stored["mean"] * scale_d
    shape = (1,) * (x.ndim - 1) + width
    return x * scale_d.astype(x.dtype).reshape(shape) + shift_d.astype(x.dtype).reshape(shape)


# ---- convolutions ------------------------------------------------------------------------------


def pointwise(x_bhwc, kernel_cd):
    """A 1x1 convolution as one flat matrix product."""
    b, h, w, c = x_bhwc.shape
    return (x_bhwc.reshape(b * h * w, c) @ kernel_cd).reshape(b, h, w, -1)


def conv(x_bhwc, kernel_kkcd, stride: int = 1, dilation: int = 1):
    """A convolution with half a (dilated) kernel (floor) of zeros around, whatever the stride."""
    k = kernel_kkcd.shape[0]
    wide = math.prod(x_bhwc.shape[1:3]) >= WIDE_PIXELS
    if k == 3 and stride == dilation == 1 and wide and jax.default_backend() == "cpu":
        return _conv3(x_bhwc, kernel_kkcd)
    # explicit, because "SAME" would pad a stride-2 layer on one side only
    pad = dilation * (k // 2)
    return lax.conv_general_dilated(x_bhwc, kernel_kkcd, (stride,) * 2, ((pad, pad),) * 2,
                                    rhs_dilation=(dilation,) * 2, dimension_numbers=DIMENSIONS)


@jax.custom_vjp
def _conv3(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)),
                                    dimension_numbers=DIMENSIONS)


def _conv3_forward(x, kernel):
    return _conv3(x, kernel), (x, kernel)


def _conv3_backward(saved, grad):
    """The kernel's gradient as matrix products over a few rows of one image at a time.

    4 images of 296 x 296 pixels on two cores: with 64 channels 0.20 s against 0.60 s of XLA's own
    (one core), with 128 channels 0.55 s against 2.5 s.
    """
    x, kernel = saved
    b, h, w, c = x.shape
    d = grad.shape[-1]
    grad_x = _conv3(grad, kernel[::-1, ::-1].transpose(0, 1, 3, 2))
    rows = max(1, CHUNK_PIXELS // w)
    parts = -(-h // rows)
    more = parts * rows - h
    x = jnp.pad(x, ((0, 0), (1, 1 + more), (1, 1), (0, 0)))
    grad = jnp.pad(grad, ((0, 0), (0, more), (0, 0), (0, 0)))

    def add(total, index):
        image, top = index // parts, index % parts * rows
        pixels = lax.dynamic_slice(x, (image, top, 0, 0), (1, rows + 2, w + 2, c))[0]
        g = lax.dynamic_slice(grad, (image, top, 0, 0), (1, rows, w, d)).reshape(-1, d)
        windows = [pixels[i : i + rows, j : j + w].reshape(-1, c) for i in range(3)
                   for j in range(3)]
        product = jnp.matmul(jnp.concatenate(windows, -1).T, g, preferred_element_type=total.dtype)
        return total + product, None

    start = jnp.zeros((9 * c, d), jnp.promote_types(kernel.dtype, jnp.float32))
    total, _ = lax.scan(add, start, jnp.arange(b * parts))
    return grad_x, total.reshape(kernel.shape).astype(kernel.dtype)


_conv3.defvjp(_conv3_forward, _conv3_backward)


class TorchConv(nn.Module):
    """A convolution with PyTorch's symmetric padding and, unless told, default initialisation."""

    features: int
    size: int = 1  # kernel side
    stride: int = 1
    bias: bool = True
    dtype: jnp.dtype = jnp.float32
    dilation: int = 1
    kernel_init: Callable | None = None
    bias_init: Callable | None = None

    @property
    def reaches(self) -> bool:
        """Whether an output depends on more than one pixel (see `padded`)."""
        return self.size > 1

    @nn.compact
    def __call__(self, x_bhwc):
        width = x_bhwc.shape[-1]
        init = torch_uniform(width * self.size**2)
        kernel = self.param("kernel", self.kernel_init or init,
                            (self.size, self.size, width, self.features))
        x, kernel = x_bhwc.astype(self.dtype), kernel.astype(self.dtype)
        if self.size == 1:  # with a stride: the pixels first, and a matrix product is what is left
            y = pointwise(x[:, :: self.stride, :: self.stride], kernel[0, 0])
        else:
            y = conv(x, kernel, self.stride, self.dilation)
        if self.bias:
            bias = self.param("bias", self.bias_init or init, (self.features,))
            y = y + on_channels(bias, self.dtype)
        return y


# As torchvision builds residual networks: a norm behind it has the bias.
KaimingConv = functools.partial(TorchConv, bias=False, kernel_init=kaiming_normal)


class MaxPool(nn.Module):
    """The largest of 3x3 pixels at every pixel, or at every second one from the first on:
    [b, ceil(h / stride), ceil(w / stride), d].

    ceil: a last window that begins in the padding counts, too, so that at stride 2 an even side n
    gives n / 2 + 1 (the networks of Caffe).
    """

    stride: int = 2
    ceil: bool = False

    reaches = True  # see `padded`; it follows a ReLU, so zeros around are no rival

    def __call__(self, x_bhwc):
        pads = [(1, 1 + self.ceil * (1 - side) % self.stride) for side in x_bhwc.shape[1:3]]
        return nn.max_pool(x_bhwc, (3, 3), (self.stride,) * 2, pads)


class TorchUpsample(nn.Module):
    """A transposed convolution whose kernel side equals its stride: each pixel becomes a block.

    kernel: [c, factor, factor, features]; PyTorch's [c, features, factor, factor] moved round.
    """

    features: int
    factor: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x_bhwc):
        b, h, w, c = x_bhwc.shape
        k = self.factor
        init = torch_uniform(self.features * k * k)  # PyTorch reads fan_in off dimension 1
        kernel = self.param("kernel", init, (c, k, k, self.features)).astype(self.dtype)
        bias = self.param("bias", init, (self.features,))
        y = pointwise(x_bhwc.astype(self.dtype), kernel.reshape(c, -1))
        y = y.reshape(b, h, w, k, k, self.features).transpose(0, 1, 3, 2, 4, 5)
        return y.reshape(b, h * k, w * k, self.features) + on_channels(bias, self.dtype)


# ---- depthwise convolution ---------------------------------------------------------------------


def same_padding(n: int, k: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """(before, after) of TensorFlow's "SAME": ceil(n / stride) outputs, the odd zero at the end."""
    outputs = -(-n // stride)
    total = max((outputs - 1) * stride + (k - 1) * dilation + 1 - n, 0)
    return total // 2, total - total // 2


def depthwise(x_bhwc, kernel_kkc, stride: int = 1, dilation: int = 1, form: str = "auto"):
    """One k x k filter a channel with TensorFlow's "SAME" padding: [b, ceil(h/s), ceil(w/s), c].

    form: "shift" adds k² shifted products, "grouped" is XLA's grouped convolution, "auto" takes
    the first on a CPU (1 to 5 against 12 to 94 ms forward at batch 8) and the second elsewhere.
    """
    if form == "auto":
        form = "shift" if jax.default_backend() == "cpu" else "grouped"
    if form == "shift":
        return _shifted(x_bhwc, kernel_kkc, stride, dilation)
    assert form == "grouped", form
    return lax.conv_general_dilated(
        x_bhwc, kernel_kkc[:, :, None, :], (stride, stride), "SAME", rhs_dilation=(dilation,) * 2,
        dimension_numbers=DIMENSIONS, feature_group_count=x_bhwc.shape[-1])


def _pad(x, k, stride, dilation):
    rows = same_padding(x.shape[1], k, stride, dilation)
    columns = same_padding(x.shape[2], k, stride, dilation)
    return jnp.pad(x, ((0, 0), rows, columns, (0, 0)))


def _windows(padded, k, size, stride, dilation):
    """Yields (i, j, the pixels under kernel entry i, j for every output)."""
    b, _, _, c = padded.shape
    ends = [(n - 1) * stride + 1 for n in size]
    for i in range(k):
        for j in range(k):
            top, left = i * dilation, j * dilation
            yield i, j, lax.slice(padded, (0, top, left, 0), (b, top + ends[0], left + ends[1], c),
                                  (1, stride, stride, 1))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _shifted(x, kernel, stride, dilation):
    k = kernel.shape[0]
    size = tuple(-(-n // stride) for n in x.shape[1:3])
    total = 0
    for i, j, window in _windows(_pad(x, k, stride, dilation), k, size, stride, dilation):
        total = total + window * on_channels(kernel[i, j])
    return total


def _shifted_forward(x, kernel, stride, dilation):
    return _shifted(x, kernel, stride, dilation), (x, kernel)


def _shifted_backward(stride, dilation, saved, grad):
    # The transposes of strided slices that autodiff would write are four times slower.
    x, kernel = saved
    k = kernel.shape[0]
    spread = []  # (before, after, holes) that line the gradient up with the input again
    for n, m in zip(x.shape[1:3], grad.shape[1:3], strict=True):
        before = (k - 1) * dilation - same_padding(n, k, stride, dilation)[0]
        after = n + (k - 1) * dilation - before - ((m - 1) * stride + 1)
        spread.append((before, after, stride - 1))
    spread = ((0, 0, 0), *spread, (0, 0, 0))
    spread_grad = lax.pad(grad, jnp.zeros((), grad.dtype), spread)
    grad_x = 0
    for i, j, window in _windows(spread_grad, k, x.shape[1:3], 1, dilation):
        grad_x = grad_x + window * on_channels(kernel[k - 1 - i, k - 1 - j])

    def add_image(total, pair):
        padded, g = pair  # one image at a time: its k² sums run over data still in the cache
        sums = [(window[0] * g).sum((0, 1), dtype=jnp.float32)
                for _, _, window in _windows(padded[None], k, g.shape[:2], stride, dilation)]
        return total + jnp.stack(sums), None

    start = jnp.zeros((k * k, kernel.shape[-1]), jnp.float32)
    sums, _ = lax.scan(add_image, start, (_pad(x, k, stride, dilation), grad))
    return grad_x, sums.reshape(kernel.shape).astype(kernel.dtype)


_shifted.defvjp(_shifted_forward, _shifted_backward)
