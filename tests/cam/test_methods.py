"""CAM and EPS as methods: the step against its formula, devices, freezing, maps, learning."""

import jax
import numpy as np
import pytest

from wsssjax.cam import cam, eps
from wsssjax.core import parallel
from wsssjax.models import registry

BUILD = {"cam": cam.build, "eps": eps.build}


def one_step(method, batch, devices=1, seed=0):
    """(state before, state after, metrics) on the host."""
    before = parallel.to_host(method.init(jax.random.key(seed)))
    step = parallel.compile_step(method.step, devices=devices)
    after, metrics = step(parallel.replicate(before, devices=devices), batch, jax.random.key(1))
    return before, parallel.to_host(after), {k: float(v) for k, v in metrics.items()}


def test_cam_head_moves_by_the_gradient_of_mean_cross_entropy(make_config, batch):
    """The gradient of a linear layer on pooled features, by hand, with decay and ten times lr."""
    config = make_config("cam", {"optim.momentum": "0"})
    method = cam.build(config)
    before, after, metrics = one_step(method, batch)
    model = registry.build_classifier(config.model, 3)
    _, aux = model.apply(before.variables(), batch["image"], train=False)
    pooled_bd = np.asarray(aux["features"], np.float64).mean((1, 2))
    weight_dk = np.float64(before.params["head"]["kernel"])
    scores_bk = pooled_bd @ weight_dk
    chance_bk = 1 / (1 + np.exp(-scores_bk))
    y = batch["tags"]
    want_loss = -(y * np.log(chance_bk) + (1 - y) * np.log(1 - chance_bk)).mean()
    np.testing.assert_allclose(metrics["loss_cls"], want_loss, rtol=1e-5)
    grad_dk = pooled_bd.T @ (chance_bk - y) / y.size
    want_dk = weight_dk - 10 * 0.01 * (grad_dk + 5e-4 * weight_dk)
    got_dk = after.params["head"]["kernel"]
    np.testing.assert_allclose(got_dk - weight_dk, want_dk - weight_dk, rtol=1e-3, atol=2e-7)
    assert after.step == 1


@pytest.mark.parametrize("name", ["cam", "eps"])
def test_two_devices_equal_one(make_config, batch, name):
    method = BUILD[name](make_config(name))
    _, one, one_metrics = one_step(method, batch, devices=1)
    before, two, two_metrics = one_step(method, batch, devices=2)
    assert one_metrics == pytest.approx(two_metrics, rel=1e-5)
    for a, b, start in zip(*map(jax.tree.leaves, (one.params, two.params, before.params)),
                           strict=True):
        np.testing.assert_allclose(a - start, b - start, rtol=2e-3, atol=1e-7)


@pytest.mark.parametrize("name", ["cam", "eps"])
def test_frozen_backbone_stays_to_the_bit(make_config, batch, name):
    changes = {"optim.groups": "(('^backbone/', 0., 0.), ('^head/', 10., 1.))"}
    before, after, _ = one_step(BUILD[name](make_config(name, changes)), batch)
    for a, b in zip(*map(jax.tree.leaves, (before.params["backbone"], after.params["backbone"])),
                    strict=True):
        np.testing.assert_array_equal(a, b)
    moved = after.params["head"]["kernel"] - before.params["head"]["kernel"]
    assert np.abs(moved).max() > 1e-4


def test_dropout_acts_in_training_only(make_config, batch):
    loud = cam.build(make_config("cam", {"model.dropout": "0.5"}))
    quiet = cam.build(make_config("cam"))
    _, _, with_drop = one_step(loud, batch)
    before, _, without = one_step(quiet, batch)
    assert abs(with_drop["loss_cls"] - without["loss_cls"]) > 1e-4
    np.testing.assert_array_equal(loud.predict(before.variables(), batch["image"], batch["tags"]),
                                  quiet.predict(before.variables(), batch["image"], batch["tags"]))


def test_maps_of_cam_are_rectified_class_logits(make_config, batch, random_head):
    config = make_config("cam")
    method = cam.build(config)
    variables = random_head(method.init(jax.random.key(0)).variables())
    model = registry.build_classifier(config.model, 3)
    _, aux = model.apply(variables, batch["image"], train=False)
    features = np.asarray(aux["features"], np.float64)
    want = features @ np.float64(variables["params"]["head"]["kernel"])
    got = np.asarray(method.predict(variables, batch["image"], batch["tags"]))
    assert (want < 0).any() and got.shape == (4, 4, 4, 3)
    np.testing.assert_allclose(got, np.maximum(want, 0), atol=1e-4)


def test_maps_of_eps_leave_the_background_channel_out(make_config, batch, random_head):
    config = make_config("eps")
    method = eps.build(config)
    variables = random_head(method.init(jax.random.key(0)).variables())
    model = registry.build_classifier(config.model, 4)
    _, aux = model.apply(variables, batch["image"], train=False)
    raw = np.exp(np.float64(aux["maps"]))
    want = raw / raw.sum(-1, keepdims=True)
    got = np.asarray(method.predict(variables, batch["image"], batch["tags"]))
    np.testing.assert_allclose(got, want[..., :3], atol=1e-5)


def test_background_score_of_eps_has_no_part_in_the_tag_loss(make_config, batch):
    """The tag loss is that of the first three scores; the total is the sum of both losses."""
    config = make_config("eps")
    before, _, metrics = one_step(eps.build(config), batch)
    model = registry.build_classifier(config.model, 4)
    scores_bk, _ = model.apply(before.variables(), batch["image"], train=False)
    s, y = np.float64(scores_bk)[:, :3], batch["tags"]
    want = (np.log1p(np.exp(s)) - y * s).mean()
    np.testing.assert_allclose(metrics["loss_cls"], want, rtol=1e-5)
    assert metrics["loss"] == pytest.approx(metrics["loss_cls"] + metrics["loss_sal"], rel=1e-6)


def test_eps_learns_class_and_outline(make_config):
    """A bright patch of one of three colours: EPS must fit both its class and its outline."""
    rng = np.random.default_rng(0)
    image = 0.1 * rng.standard_normal((4, 32, 32, 3)).astype(np.float32)
    saliency = np.zeros((4, 32, 32), np.float32)
    tags = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    for row, (top, left) in enumerate([(0, 0), (8, 16), (16, 8), (16, 16)]):
        image[row, top : top + 16, left : left + 16, tags[row].argmax()] += 2.0
        saliency[row, top : top + 16, left : left + 16] = 1.0
    batch = {"image": image, "tags": tags, "saliency": saliency}
    changes = {"optim.name": "adamw", "optim.lr": "3e-3", "total_steps": "200",
               "eps.selection": "naive"}
    method = eps.build(make_config("eps", changes))
    step = parallel.compile_step(method.step, devices=1)
    state = parallel.replicate(method.init(jax.random.key(0)), devices=1)
    for _ in range(150):
        state, metrics = step(state, batch, jax.random.key(0))
    assert metrics["loss_cls"] < 0.2 and metrics["loss_sal"] < 0.05
    maps = np.asarray(method.predict(state.variables(), image, None))
    own = np.stack([maps[row, ..., tags[row].argmax()] for row in range(4)])
    inside = saliency[:, ::8, ::8] > 0.5
    assert own[inside].mean() > own[~inside].mean() + 0.5


@pytest.mark.parametrize("changes, complaint", [
    ({"eps.selection": "adaptiv"}, "did you mean 'adaptive'"),
    ({"eps.selection": "predefined", "eps.background_classes": "('sofa',)"},
     "background_classes 'sofa' is unknown"),
])
def test_misspelt_fields_are_named(make_config, changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        eps.build(make_config("eps", changes))


def test_classes_of_another_data_set_do_not_stop_a_selection_that_ignores_them(make_config):
    """VOC's background classes stand in the config's default; own photos have other classes."""
    shipped = {"eps.background_classes": "('chair','diningtable','sofa')"}
    maps = [eps.build(make_config("eps", changes)).init(jax.random.key(0)).params["head"]
            for changes in (shipped, {"eps.background_classes": "()"})]
    jax.tree.map(np.testing.assert_array_equal, *maps)
