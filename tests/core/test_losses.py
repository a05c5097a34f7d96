import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wsssjax.core.constants import IGNORE
from wsssjax.core.losses import masked_xent, sigmoid_xent

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("ignored", [0.0, 0.3, 1.0])  # 1.0: nothing left to learn from
def test_masked_xent_matches_torch(ignored):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 5, 7, 4)).astype(np.float32) * 5
    labels = rng.integers(0, 4, (2, 5, 7))
    labels[rng.random(labels.shape) < ignored] = IGNORE
    keep = rng.random(labels.shape) < 0.8
    total, count = masked_xent(logits, jnp.asarray(labels, jnp.int32), keep)
    want_labels = np.where(keep, labels, IGNORE)
    want = torch.nn.functional.cross_entropy(
        torch.tensor(logits).permute(0, 3, 1, 2), torch.tensor(want_labels),
        ignore_index=IGNORE, reduction="sum")
    np.testing.assert_allclose(total, want.numpy(), rtol=1e-6)
    assert count == (want_labels != IGNORE).sum()


def test_masked_xent_gradient_is_finite_and_zero_where_ignored():
    logits = jnp.full((1, 1, 2, 3), 1e4)
    labels = jnp.array([[[IGNORE, 1]]], jnp.int32)
    keep = jnp.ones((1, 1, 2), bool)
    grad = jax.grad(lambda x: masked_xent(x, labels, keep)[0])(logits)
    assert np.isfinite(grad).all()
    np.testing.assert_array_equal(grad[0, 0, 0], 0.0)
    assert np.abs(grad[0, 0, 1]).sum() > 0.5


def test_sigmoid_xent_matches_torch_at_large_logits():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(3, 6)).astype(np.float32) * np.float32([[1], [30], [200]])
    targets = rng.integers(0, 2, (3, 6)).astype(np.float32)
    total, count = sigmoid_xent(jnp.asarray(logits), jnp.asarray(targets))
    want = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(logits), torch.tensor(targets), reduction="sum")
    np.testing.assert_allclose(total, want.numpy(), rtol=1e-6)
    assert count == 18
