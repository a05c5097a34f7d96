"""The supervised step: the labelled half of UniMatch V2, nothing else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wsssjax.core import parallel
from wsssjax.semi import supervised, unimatch_v2


@pytest.mark.parametrize("freeze", [False, True])
def test_equals_unimatch_v2_whose_teacher_is_never_sure(kit, freeze):
    """A threshold above 1 leaves L_x / 2, which plain descent at twice the rate makes good."""
    config = kit.config(model__freeze_encoder=freeze, optim__name="sgd", optim__lr=0.1,
                        optim__weight_decay=0.0)
    semi_config = kit.config(model__freeze_encoder=freeze, optim__name="sgd", optim__lr=0.2,
                             optim__weight_decay=0.0, conf_threshold=1.1)
    model, batches = kit.model(), [kit.batch(k) for k in range(2)]
    semi = parallel.compile_step(
        functools.partial(unimatch_v2.train_step, config=semi_config, model=model), devices=1)
    plain = parallel.compile_step(
        functools.partial(supervised.train_step, config=config, model=model), devices=1)
    want, got = kit.state(semi_config, model), kit.state(config, model, teacher=False)
    start = jax.tree.map(np.array, got.params)
    for batch in batches:
        want, metrics = semi(want, batch, jax.random.key(0))
        labelled = {key: batch[key] for key in ("image", "label")}
        got, metrics_x = plain(got, labelled, jax.random.key(0))
        np.testing.assert_allclose(metrics_x["loss"], metrics["loss_x"], rtol=1e-5)
    assert got.ema is None and int(got.step) == 2
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), got.params, want.params)
    moved = jax.tree.map(lambda x, y: bool((np.array(x) != y).any()), got.params, start)
    assert all(jax.tree.leaves(moved["head"]))
    assert any(jax.tree.leaves(moved["backbone"])) != freeze


def test_loss_counts_labelled_pixels_only(kit):
    """Uniform logits cost ln K a pixel, however many are ignored; no pixel costs nothing."""
    config, model = kit.config("semi_voc_supervised"), kit.model()
    step = parallel.compile_step(
        functools.partial(supervised.train_step, config=config, model=model), devices=1)
    for ignored, want in ((0, np.log(kit.classes)), (7, np.log(kit.classes)), (8, 0.0)):
        state = kit.state(config, model, teacher=False)
        zero = {**state.params, "head": jax.tree.map(jnp.zeros_like, state.params["head"])}
        batch = {key: kit.batch(0)[key] for key in ("image", "label")}
        batch["label"][:, :ignored] = 255
        _, metrics = step(parallel.replicate(state.replace(params=zero), devices=1), batch,
                          jax.random.key(0))
        np.testing.assert_allclose(metrics["loss"], want, rtol=1e-6)
