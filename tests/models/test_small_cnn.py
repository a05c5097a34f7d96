"""The small network keeps rows apart, keeps its word on strides, and learns where things are."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from wsssjax.core.losses import sigmoid_xent
from wsssjax.models.classifier import Classifier
from wsssjax.models.small_cnn import SmallCNN


@pytest.mark.parametrize("stride", [8, 16])
def test_rows_and_strides(stride):
    net = SmallCNN(output_stride=stride)
    image = jnp.asarray(np.random.default_rng(0).standard_normal((3, 50, 97, 3)), jnp.float32)
    variables = jax.jit(lambda: net.init(jax.random.key(0), image, train=False))()
    assert set(variables) == {"params"}  # nothing beside parameters changes
    run = jax.jit(lambda x: net.apply(variables, x, train=True))
    mean, aux = run(image)
    for i, (s, d) in enumerate(zip(net.tap_strides, net.tap_widths, strict=True)):
        assert aux[f"tap{i}"].shape == (3, -(-50 // s), -(-97 // s), d)
    assert aux["features"].shape == (3, -(-50 // stride), -(-97 // stride), net.feature_width)
    np.testing.assert_allclose(mean, aux["features"].mean((1, 2)), atol=1e-5)
    other = run(image.at[1:].set(7.0))[1]
    for name, x in aux.items():
        np.testing.assert_allclose(other[name][0], x[0], atol=1e-5)  # rows do not see each other
        assert np.abs(other[name][1] - x[1]).max() > 0.1
    block = np.asarray(aux["features"])[:, : 16 // stride, : 16 // stride].mean((1, 2))
    np.testing.assert_allclose(aux["tap2"][:, 0, 0], block, atol=1e-5)


def scenes(rng, count):
    """Noise with a red or a green textured square, or both: (image, tags, top left corners)."""
    image = rng.normal(0, 0.5, (count, 64, 64, 3)).astype(np.float32)
    tags = np.array([(1, 0), (0, 1), (1, 1)])[rng.integers(0, 3, count)].astype(np.float32)
    corners = np.stack([rng.integers(0, 5, (count, 2)) * 8,  # red in the left half, green right
                        rng.integers(0, 5, (count, 2)) * 8], 1)
    corners[:, 0, 1] = rng.integers(0, 2, count) * 8
    corners[:, 1, 1] = 32 + rng.integers(0, 2, count) * 8
    for i in range(count):
        for k in range(2):
            if tags[i, k]:
                y, x = corners[i, k]
                image[i, y : y + 24, x : x + 24, k] += rng.uniform(1, 2, (24, 24))
    return image, tags, corners


def test_learns_where_from_tags_alone():
    model = Classifier(SmallCNN(), 2)
    rng = np.random.default_rng(0)
    params = jax.jit(lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)),
                                        train=False))()
    optimizer = optax.adam(2e-3)

    @jax.jit
    def step(params, opt, image, tags):
        def loss(params):
            total, count = sigmoid_xent(model.apply(params, image, train=True)[0], tags)
            return total / count

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt = optimizer.update(grads, opt)
        return optax.apply_updates(params, updates), opt, value

    opt = optimizer.init(params)
    for _ in range(60):
        image, tags, _ = scenes(rng, 16)
        params, opt, value = step(params, opt, image, tags)
    assert float(value) < 0.35  # 0.69 at chance
    image, tags, corners = scenes(rng, 64)
    scores, aux = jax.jit(lambda p, x: model.apply(p, x, train=False))(params, image)
    assert ((np.asarray(scores) > 0) == (tags > 0)).mean() > 0.9
    inside = []
    for i, k in np.argwhere(tags > 0):
        at = np.unravel_index(np.argmax(aux["maps"][i, :, :, k]), (8, 8))
        inside.append(all(0 <= a * 8 + 4 - c < 24 for a, c in zip(at, corners[i, k], strict=True)))
    assert np.mean(inside) > 0.8  # a square covers 14 % of the image


def test_output_stride_is_checked():
    with pytest.raises(ValueError, match="output_stride 32: want 8 or 16"):
        jax.eval_shape(lambda: SmallCNN(output_stride=32).init(
            jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
