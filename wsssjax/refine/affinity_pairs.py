"""Pairs of pixels within reach of each other: how far apart their features lie, how they relate.

AffinityNet's pairs of radius 5: a source pixel and the 34 offsets of a half plane whose length is
below the radius, so that each unordered pair stands once. Sources are the pixels whose every offset
stays inside: all but the last four rows and the first and last four columns. Nothing is gathered:
an offset is a static slice, and the gradient is one too.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from wsssjax.core.constants import BACKGROUND, IGNORE

RADIUS = 5  # pixels of the feature map; offsets are shorter
REACH = RADIUS - 1  # rows below a source, columns on either side of it, that its offsets span
OFFSETS = (
    *((0, dx) for dx in range(1, RADIUS)),
    *((dy, dx) for dy in range(1, RADIUS) for dx in range(-REACH, RADIUS)
      if dy * dy + dx * dx < RADIUS * RADIUS),
)  # (dy, dx) from source to destination, in the order of all arrays [..., 34, h, w]


class Kinds(NamedTuple):
    """Bool [b, 34, h - 4, w - 8] each; a pair with an ignored pixel is of no kind.

    background: both are background.  foreground: both are of one class.  negative: they differ.
    """

    background: jax.Array
    foreground: jax.Array
    negative: jax.Array


def _ends(x_bhwd):
    """Yields per offset (sources, destinations) as slices of x."""
    h, w = x_bhwd.shape[1] - REACH, x_bhwd.shape[2] - 2 * REACH
    source = x_bhwd[:, :h, REACH : REACH + w]
    for dy, dx in OFFSETS:
        yield source, x_bhwd[:, dy : dy + h, REACH + dx : REACH + dx + w]


def _wide(x):
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


@jax.custom_vjp
def distances(features_bhwd):
    """Mean over channels of |source - destination|, float32 or wider [b, 34, h - 4, w - 8].

    features_bhwd: float, h above 4 and w above 8. The paper writes the sum over channels, the
    published code takes the mean, and its exponents belong to the mean.

    >>> x = jnp.arange(2 * 6 * 10, dtype=jnp.float32).reshape(1, 6, 10, 2)
    >>> d = distances(x)
    >>> d.shape, OFFSETS[0], float(d[0, 0, 0, 0]), OFFSETS[4], float(d[0, 4, 0, 0])
    ((1, 34, 2, 2), (0, 1), 2.0, (1, -4), 12.0)
    """
    x = _wide(features_bhwd)
    return jnp.stack([jnp.abs(a - b).mean(-1) for a, b in _ends(x)], 1)


def _forward(features_bhwd):
    return distances(features_bhwd), features_bhwd


def _backward(features_bhwd, grad_bnhw):
    """Each pixel gathers from its 68 partners: no scatter, and nothing of 34 times the features."""
    x = _wide(features_bhwd)
    _, h, w, d = x.shape
    around = ((0, 0), (REACH, REACH), (REACH, REACH), (0, 0))
    x_pad = jnp.pad(x, around)
    # Zero for each pixel that is no source, with a margin to look back into.
    g_pad = jnp.pad(grad_bnhw, ((0, 0), (0, 0), (REACH, 2 * REACH), (2 * REACH, 2 * REACH)))

    def term(n, dy, dx, top, left):
        g = g_pad[:, n, top : top + h, left : left + w, None]
        other = x_pad[:, REACH + dy : REACH + dy + h, REACH + dx : REACH + dx + w]
        return g * jnp.sign(x - other)

    total = jnp.zeros_like(x)
    for n, (dy, dx) in enumerate(OFFSETS):
        total += term(n, dy, dx, REACH, REACH)  # as source
        total += term(n, -dy, -dx, REACH - dy, REACH - dx)  # as destination
    return ((total / d).astype(features_bhwd.dtype),)


distances.defvjp(_forward, _backward)


def kinds(label_bhw) -> Kinds:
    """How the two pixels of each pair relate.

    label_bhw: int32, 0 background, IGNORE allowed; other numbers need only be equal within a class.

    >>> label = jnp.full((1, 6, 10), 255).at[0, 0, 3:8].set(jnp.array([0, 0, 0, 7, 7]))
    >>> [int(kind.sum()) for kind in kinds(label)]
    [1, 0, 4]
    """
    ends = [(a[..., 0], b[..., 0]) for a, b in _ends(label_bhw[..., None])]
    a = jnp.stack([a for a, _ in ends], 1)
    b = jnp.stack([b for _, b in ends], 1)
    valid = (a != IGNORE) & (b != IGNORE)
    same = valid & (a == b)
    return Kinds(same & (a == BACKGROUND), same & (a != BACKGROUND), valid & (a != b))
