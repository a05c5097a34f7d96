import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from wsssjax.core import optim

torch = pytest.importorskip("torch")


def config(**changes):
    base = dict(name="adamw", lr=0.05, momentum=0.0, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.01,
                poly_power=0.9, lag_steps=0,
                groups=(("^backbone/", 0.1, 1.0), (".*", 1.0, 1.0)))
    return ml_collections.ConfigDict(base | changes)


def params():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    return {"backbone": {"conv": {"kernel": draw(3, 4)}}, "head": {"bias": draw(5)}}


@pytest.mark.parametrize(("name", "momentum"), [("sgd", 0.9), ("sgd", 0.0), ("adamw", 0.0)])
@pytest.mark.parametrize("lag", [0, 1])
def test_groups_and_schedule_match_torch(name, momentum, lag):
    total = 7
    c = config(name=name, momentum=momentum, lag_steps=lag)
    start = params()
    tensors = [torch.nn.Parameter(torch.tensor(np.array(x))) for x in jax.tree.leaves(start)]
    groups = [{"params": [tensors[0]], "lr": c.lr * 0.1}, {"params": [tensors[1]], "lr": c.lr}]
    if name == "sgd":
        opt = torch.optim.SGD(groups, momentum=momentum, weight_decay=0.01)
    else:
        opt = torch.optim.AdamW(groups, eps=1e-8, weight_decay=0.01)
    tx = optim.build(c, start, total)
    state, p = tx.init(start), start
    rng = np.random.default_rng(1)
    for step in range(total):
        grads = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), p)
        factor = (1 - max(step - lag, 0) / total) ** 0.9
        for group, base in zip(opt.param_groups, (c.lr * 0.1, c.lr), strict=True):
            group["lr"] = base * factor
        for t, g in zip(tensors, jax.tree.leaves(grads), strict=True):
            t.grad = torch.tensor(g)
        opt.step()
        updates, state = tx.update(grads, state, p)
        p = optax.apply_updates(p, updates)
    for got, want in zip(jax.tree.leaves(p), tensors, strict=True):
        np.testing.assert_allclose(got, want.detach().numpy(), rtol=2e-5, atol=1e-6)


def test_a_frozen_group_does_not_even_decay():
    c = config(groups=(("^backbone/", 0.0, 1.0), (".*", 1.0, 1.0)))
    start = params()
    tx = optim.build(c, start, 5)
    state = tx.init(start)
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, start), state, start)
    np.testing.assert_array_equal(updates["backbone"]["conv"]["kernel"], 0.0)
    assert np.abs(updates["head"]["bias"]).min() > 0
    # and it keeps no moments: the optimizer's memory is that of the head alone
    sizes = [x.size for x in jax.tree.leaves(state) if x.ndim]
    assert max(sizes) == 5


def test_schedule_golden_values():
    """Encoder rate of UniMatch V2 at T = 39,300, from its published settings."""
    rate = optim.poly(5e-6, 39_300, 0.9, lag_steps=1)
    want = {0: 5.0e-6, 1: 5.0e-6, 2: 4.999885e-6, 100: 4.988663e-6, 19_650: 2.679556e-6,
            39_299: 6.838e-10}
    for step, value in want.items():
        rtol = 1e-4 if step > 39_000 else 1e-6  # as many digits as the golden value has
        np.testing.assert_allclose(rate(jnp.int32(step)), value, rtol=rtol)


def test_patterns_that_match_nothing_are_refused():
    with pytest.raises(ValueError, match="'\\^backbon/' matches no parameter"):
        optim.build(config(groups=(("^backbon/", 1.0, 1.0), (".*", 1.0, 1.0))), params(), 5)
    with pytest.raises(ValueError, match="no pattern matches the parameter 'head/bias'"):
        optim.build(config(groups=(("^backbone/", 1.0, 1.0),)), params(), 5)
    with pytest.raises(ValueError, match="'adam' is unknown"):
        optim.build(config(name="adam"), params(), 5)


def test_cosine_is_the_published_one_and_takes_the_place_of_poly():
    """SSDD's factors: 0.38 at the checkpoint of 16 epochs that is used, 0.06 at the end."""
    rate = optim.cosine(1.0, 19 * 100)
    for epoch, want in ((0, 1.0), (11, 0.38), (16, 0.06), (19, 0.0), (25, 0.0)):
        np.testing.assert_allclose(rate(jnp.int32(epoch * 100)), want, atol=6e-3)
    c = config(name="sgd", weight_decay=2e-4)
    del c.poly_power, c.lag_steps
    tx = optim.build(c, params(), 7, schedule=lambda lr: optim.cosine(lr, 4))
    state, p = tx.init(params()), params()
    for step in range(4):
        factor = 0.5 * (1 + np.cos(np.pi * step / 4))
        before = p
        updates, state = tx.update(jax.tree.map(jnp.ones_like, p), state, p)
        p = optax.apply_updates(p, updates)
        for name, lr in (("backbone", 0.1 * c.lr), ("head", c.lr)):
            for old, new in zip(jax.tree.leaves(before[name]), jax.tree.leaves(p[name]),
                                strict=True):
                want = old - lr * factor * (1 + 2e-4 * old)
                np.testing.assert_allclose(new, want, rtol=1e-5, atol=1e-7)
