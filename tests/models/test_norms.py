"""Batch norm against PyTorch's: outputs, gradients, running statistics; and what may not move."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wsssjax.models.norms import MODES, BatchNorm


def drawn(seed=0, shape=(3, 5, 7, 4)):
    return np.random.default_rng(seed).normal(1.0, 2.0, shape).astype(np.float32)


def variables_of(mode, width=4):
    rng = np.random.default_rng(1)
    norm = {name: rng.uniform(0.5, 1.5, width).astype(np.float32)
            for name in ("scale", "bias", "mean", "var")}
    if mode == "frozen":
        return {"batch_stats": norm}
    return {"params": {k: norm[k] for k in ("scale", "bias")},
            "batch_stats": {k: norm[k] for k in ("mean", "var")}}, norm


@pytest.mark.parametrize("steps", [1, 4])
def test_training_equals_torch(steps):
    torch = pytest.importorskip("torch")
    variables, norm = variables_of("batch")
    reference = torch.nn.BatchNorm2d(4, eps=1e-5)
    with torch.no_grad():
        reference.weight.copy_(torch.tensor(norm["scale"]))
        reference.bias.copy_(torch.tensor(norm["bias"]))
        reference.running_mean.copy_(torch.tensor(norm["mean"]))
        reference.running_var.copy_(torch.tensor(norm["var"]))
    module, stats = BatchNorm("batch", 1e-5), variables["batch_stats"]
    for step in range(steps):
        x, weight = drawn(step), drawn(step + 50)

        def loss(params, x, weight=weight, stats=stats):
            y, new = module.apply({"params": params, "batch_stats": stats}, x, train=True,
                                  mutable=["batch_stats"])
            return (y * weight).sum(), new["batch_stats"]

        (grads, grad_x), stats = jax.grad(loss, argnums=(0, 1), has_aux=True)(
            variables["params"], x)
        tx = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
        reference.zero_grad()
        (reference(tx) * torch.tensor(weight.transpose(0, 3, 1, 2))).sum().backward()
        np.testing.assert_allclose(grad_x, tx.grad.numpy().transpose(0, 2, 3, 1), atol=2e-5)
        np.testing.assert_allclose(grads["scale"], reference.weight.grad.numpy(), rtol=1e-5)
        np.testing.assert_allclose(grads["bias"], reference.bias.grad.numpy(), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(stats["mean"], reference.running_mean.numpy(), rtol=1e-6)
    np.testing.assert_allclose(stats["var"], reference.running_var.numpy(), rtol=1e-6)
    reference.eval()
    got = module.apply({**variables, "batch_stats": stats}, drawn(9), train=False)
    want = reference(torch.tensor(drawn(9).transpose(0, 3, 1, 2))).detach().numpy()
    np.testing.assert_allclose(got, want.transpose(0, 2, 3, 1), atol=2e-6)


@pytest.mark.parametrize("mode", ["stored", "frozen"])
def test_stored_statistics_serve_training_and_never_move(mode):
    module = BatchNorm(mode)
    found = variables_of(mode)
    variables = found if mode == "frozen" else found[0]
    for train in (False, True):
        y, new = module.apply(variables, drawn(), train=train, mutable=["batch_stats"])
        jax.tree.map(np.testing.assert_array_equal, new["batch_stats"], variables["batch_stats"])
        flat = {**variables.get("params", {}), **variables["batch_stats"]}
        want = (drawn() - flat["mean"]) / np.sqrt(flat["var"] + 1e-5) * flat["scale"] + flat["bias"]
        np.testing.assert_allclose(y, want, atol=5e-6)


def test_frozen_norms_have_no_parameters_and_others_do():
    for mode in MODES:
        made = BatchNorm(mode).init(jax.random.key(0), jnp.zeros((1, 2, 2, 4)), train=False)
        assert ("params" in made) == (mode != "frozen")
        assert set(made["batch_stats"]) == (
            {"mean", "var", "scale", "bias"} if mode == "frozen" else {"mean", "var"})
