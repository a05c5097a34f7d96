"""The permutohedral lattice, in Numba and in XLA, against plain Python and published values."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wsssjax.core import crf, lattice, lattice_host


def plain(features_nd, x_nk):
    """K x in plain Python and double precision, vertices in a dict."""
    n, d = features_nd.shape
    spots, values = [], {}
    for f, x in zip(features_nd.astype(np.float64), x_nk, strict=True):
        c = [f[i] * (d + 1) * math.sqrt(2 / 3) / math.sqrt((i + 1) * (i + 2)) for i in range(d)]
        e = [sum(c)] + [sum(c[j:]) - j * c[j - 1] for j in range(1, d + 1)]
        v = [round(value / (d + 1)) for value in e]
        g, z = [(d + 1) * value for value in v], sum(v)
        rank = [0] * (d + 1)
        for i in range(d + 1):
            for j in range(i + 1, d + 1):
                if e[i] - g[i] < e[j] - g[j]:
                    rank[i] += 1
                else:
                    rank[j] += 1
        for i in range(d + 1):
            rank[i] += z
            if rank[i] < 0:
                rank[i], g[i] = rank[i] + d + 1, g[i] + d + 1
            elif rank[i] > d:
                rank[i], g[i] = rank[i] - d - 1, g[i] - d - 1
        b = [0.0] * (d + 2)
        for i in range(d + 1):
            t = (e[i] - g[i]) / (d + 1)
            b[d - rank[i]] += t
            b[d - rank[i] + 1] -= t
        b[0] += 1 + b[d + 1]
        spot = []
        for q in range(d + 1):
            key = tuple(g[i] + (q if rank[i] <= d - q else q - d - 1) for i in range(d))
            spot.append((key, b[q]))
            values[key] = values.get(key, 0) + b[q] * x
        spots.append(spot)
    for j in range(d + 1):
        old = dict(values)
        for key in values:
            up = tuple(k + 1 - (d + 1) * (i == j) for i, k in enumerate(key))
            down = tuple(k - 1 + (d + 1) * (i == j) for i, k in enumerate(key))
            values[key] = old[key] + 0.5 * (old.get(up, 0) + old.get(down, 0))
    return np.stack([sum(b * values[key] for key, b in spot) for spot in spots]) / (1 + 2.0**-d)


def in_numba(features_nd, x_nk):
    return lattice_host.apply(lattice_host.build(features_nd), x_nk)


def in_xla(features_nd, x_nk):
    return np.asarray(jax.jit(lambda f, x: lattice.apply(lattice.build(f), x))(features_nd, x_nk))


FORMS = pytest.mark.parametrize("form", [in_numba, in_xla])


@FORMS
@pytest.mark.parametrize("d", [1, 2, 3, 5])
def test_equals_plain_python(d, form):
    rng = np.random.default_rng(d)
    features_nd = rng.normal(0, 2, (150, d)).astype(np.float32)
    x_nk = rng.normal(0, 1, (150, 3)).astype(np.float32)
    np.testing.assert_allclose(form(features_nd, x_nk), plain(features_nd, x_nk), rtol=1e-4,
                               atol=2e-5)


@FORMS
def test_published_values_in_one_dimension(form):
    line = np.arange(5, dtype=np.float32)[:, None]
    np.testing.assert_allclose(form(line, np.ones((5, 1), np.float32))[:, 0],
                               [1.53775, 2.22621, 2.26026, 2.09844, 1.50300], atol=1e-5)
    line, impulse = np.arange(9, dtype=np.float32)[:, None], np.zeros((9, 1), np.float32)
    impulse[4] = 1
    np.testing.assert_allclose(
        form(line, impulse)[:, 0],
        [0, 0.00983, 0.15441, 0.55983, 0.84274, 0.56596, 0.12991, 0, 0], atol=1e-5)


@FORMS
def test_published_values_on_a_grid(form):
    features_nd = crf.features(np.zeros((4, 5, 3), np.uint8), crf.Kernel(3, None, 3))
    got = form(features_nd, np.ones((20, 1), np.float32)).reshape(4, 5)
    np.testing.assert_allclose(got, [
        [10.29667, 11.05503, 11.81338, 11.62750, 10.03655],
        [10.63411, 12.18793, 13.52861, 13.34272, 11.20676],
        [10.97156, 12.52538, 13.76164, 13.32124, 11.16047],
        [11.30900, 11.67771, 12.04642, 11.60602, 9.96162]], atol=2e-5)


@pytest.mark.parametrize("spread", [0.01, 1.0, 20.0])
def test_both_forms_place_points_alike(spread):
    """From all points in one simplex to a vertex set that outgrows the first hash table."""
    rng = np.random.default_rng(1)
    features_nd = rng.normal(0, spread, (9_000, 5)).astype(np.float32)
    host = lattice_host.build(features_nd)
    device = jax.jit(lattice.build)(features_nd)
    vertices = host.near.shape[1] - 1
    assert int(device.count) == vertices
    assert spread < 20 or vertices > lattice_host._FIRST_TABLE // 2
    np.testing.assert_allclose(np.asarray(device.weight).T, host.weight, atol=2e-4 * max(1, spread))
    links = [int((np.asarray(device.near[:, s]) > 0).sum()) for s in (0, 1)]
    assert links == [int((host.near[..., s] > 0).sum()) for s in (0, 1)] and links[0] == links[1]


def test_weights_are_barycentric():
    rng = np.random.default_rng(2)
    weight = lattice_host.build(rng.normal(0, 3, (500, 5)).astype(np.float32)).weight
    np.testing.assert_allclose(weight.sum(1), 1, atol=1e-5)
    assert weight.min() > -1e-5


def test_room_for_just_the_vertices_there_are():
    rng = np.random.default_rng(3)
    features_nd = rng.normal(0, 1, (400, 2)).astype(np.float32)
    x_nk = rng.random((400, 2), np.float32)
    points = lattice.place(features_nd)
    tight = lattice.link(points, int(points.number[-1]))
    np.testing.assert_allclose(lattice.apply(tight, x_nk),
                               lattice.apply(lattice.build(features_nd), x_nk), rtol=1e-6)


def test_points_that_fill_up_change_nothing():
    rng = np.random.default_rng(4)
    features_nd = rng.normal(0, 1, (100, 5)).astype(np.float32)
    x_nk = rng.random((100, 2), np.float32)
    longer = np.pad(features_nd, ((0, 28), (0, 0)), mode="edge")
    lat = lattice.link(lattice.place(longer, jnp.arange(128) < 100), 600)
    got = lattice.apply(lat, np.pad(x_nk, ((0, 28), (0, 0)), constant_values=7.0))[:100]
    np.testing.assert_allclose(got, in_xla(features_nd, x_nk), rtol=1e-5)


def test_too_narrow_a_kernel_is_named():
    with pytest.raises(ValueError, match="too narrow"):
        lattice_host.build(np.full((3, 5), 2e4, np.float32))
    with pytest.raises(ValueError, match="too narrow"):
        lattice_host.build(np.full((3, 5), np.nan, np.float32))
