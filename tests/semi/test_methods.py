"""FixMatch, UniMatch V1, OHEM and groups of rows against plain second writings and each other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wsssjax.core import config as configs
from wsssjax.core import losses, optim, parallel
from wsssjax.semi import consistency, fixmatch, student, supervised, unimatch, unimatch_v2


def sgd(kit, **changes):
    """Plain descent at rate 1: parameters move by the gradient itself."""
    config = kit.config(optim__name="sgd", optim__lr=1.0, optim__weight_decay=0.0,
                        optim__lag_steps=0, optim__poly_power=0.0, conf_threshold=0.6, **changes)
    config.optim.groups = ((".*", 1.0, 1.0),)
    return config


def flat(params):
    return {optim.path_name(p): np.asarray(x)
            for p, x in jax.tree_util.tree_leaves_with_path(params)}


def run(kit, method, config, batch, *, devices=1, steps=1, key=0, **more):
    """(state after `steps`, metrics of the last, parameters before)."""
    model = kit.model()
    state = kit.state(config, model, devices=devices)
    start = flat(state.params)
    step = parallel.compile_step(
        functools.partial(method.train_step, config=config, model=model, **more), devices=devices)
    for _ in range(steps):
        state, metrics = step(state, batch, jax.random.key(key))
    return state, {n: float(v) for n, v in metrics.items()}, start


# ------------------------------------------------------------------- losses, written down plainly


def softmax_xent(logits_bhwk, label_bhw):
    logp = logits_bhwk - np.log(np.exp(logits_bhwk).sum(-1, keepdims=True))
    safe = np.where(label_bhw == 255, 0, label_bhw)
    return -np.take_along_axis(logp, safe[..., None], -1)[..., 0]


def mirrored(x, box):
    out = x.copy()
    for b, i, j in np.argwhere(box):
        out[b, i, j] = x[len(x) - 1 - b, i, j]
    return out


def plain_losses(kit, config, params, batch, drop=None):
    """{loss: value} of both methods in float64, from the definition in their papers."""
    model = kit.model()

    def logits(image, factors=None):
        with jax.enable_x64(True):
            wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x, np.float64)), params)
            return np.asarray(model.apply({"params": wide}, np.asarray(image, np.float64),
                                          train=False, drop=factors)[0])

    z_w = logits(batch["weak"])
    conf = (np.exp(z_w) / np.exp(z_w).sum(-1, keepdims=True)).max(-1)
    label, valid = z_w.argmax(-1), batch["valid"]
    sure = conf >= config.conf_threshold
    keep = batch["label"] != 255
    found = {"loss_x": softmax_xent(logits(batch["image"]), batch["label"])[keep].mean(),
             "mask_ratio": (sure & valid).sum() / valid.sum()}
    for v in (1, 2):
        box = batch[f"cut{v}"]
        z = logits(mirrored(batch[f"strong{v}"], box))
        mixed = [mirrored(t, box) for t in (label, sure, valid)]
        nll = softmax_xent(z, mixed[0])
        found[f"loss_s{v}"] = (nll * (mixed[1] & mixed[2])).sum() / mixed[2].sum()
    if drop is not None:
        nll = softmax_xent(logits(batch["weak"], drop), label)
        found["loss_fp"] = (nll * (sure & valid)).sum() / valid.sum()
    return found


@pytest.mark.parametrize("freeze", [False, True])
def test_fixmatch_is_its_definition(kit, freeze):
    config, batch = sgd(kit, model__freeze_encoder=freeze), kit.batch(0)
    want = plain_losses(kit, config, kit.state(config, kit.model()).params, batch)
    _, got, _ = run(kit, fixmatch, config, batch)
    assert 0.1 < want["mask_ratio"] < 0.9
    np.testing.assert_allclose(got["mask_ratio"], want["mask_ratio"], rtol=1e-6)
    np.testing.assert_allclose(got["loss_x"], want["loss_x"], rtol=1e-5)
    np.testing.assert_allclose(got["loss_u"], want["loss_s1"], rtol=1e-5)
    np.testing.assert_allclose(got["loss"], (want["loss_x"] + want["loss_s1"]) / 2, rtol=1e-5)


@pytest.mark.parametrize("teacher", ["self", "ema"])
def test_unimatch_v1_is_its_definition(kit, teacher):
    """At step 0 the teacher is the student; at step 2 it is not, and only one of them labels."""
    config, batch = sgd(kit, model__freeze_encoder=False, teacher=teacher), kit.batch(1)
    config.optim.lr, config.conf_threshold = 0.3, 0.5
    rng = np.random.default_rng(3)
    drop = tuple(jnp.asarray(2.0 * (rng.random((4, 6)) < 0.5), jnp.float32) for _ in range(4))
    want = plain_losses(kit, config, kit.state(config, kit.model()).params, batch, drop)
    _, got, _ = run(kit, unimatch, config, batch, draw=lambda *_: drop)
    loss_u = want["loss_s1"] / 4 + want["loss_s2"] / 4 + want["loss_fp"] / 2
    for name, value in (("loss_x", want["loss_x"]), ("loss_fp", want["loss_fp"]),
                        ("loss_u", loss_u), ("loss", (want["loss_x"] + loss_u) / 2)):
        np.testing.assert_allclose(got[name], value, rtol=1e-5, err_msg=name)
    state, _, _ = run(kit, unimatch, config, batch, steps=2, draw=lambda *_: drop)
    mine = state.params if teacher == "self" else state.variables(ema=True)["params"]
    mine = jax.tree.map(np.array, mine)  # the step below takes the state's memory
    ratio = plain_losses(kit, config, mine, batch)["mask_ratio"]
    other = state.params if teacher == "ema" else state.variables(ema=True)["params"]
    assert abs(plain_losses(kit, config, other, batch)["mask_ratio"] - ratio) > 1e-3
    step = parallel.compile_step(functools.partial(
        unimatch.train_step, config=config, model=kit.model(), draw=lambda *_: drop), devices=1)
    _, metrics = step(state, batch, jax.random.key(0))
    np.testing.assert_allclose(metrics["mask_ratio"], ratio, rtol=1e-6)


def test_unimatch_v1_drops_half_the_channels_of_each_map_by_itself():
    masks = unimatch.draw_drop(jax.random.key(0), 64, (32, 32, 48, 32))
    assert [m.shape for m in masks] == [(64, 32), (64, 32), (64, 48), (64, 32)]
    for mask in masks:
        assert set(np.unique(mask)) == {0.0, 2.0}
        np.testing.assert_allclose(mask.mean(), 1.0, atol=0.1)
    assert (masks[0] != masks[1]).any()
    with pytest.raises(ValueError, match="config.teacher is 'none'; want self or ema"):
        unimatch.build(configs.load("configs/semi_voc_unimatch.py:small", {"teacher": "none"}))


def test_fixmatch_is_unimatch_v2_of_one_view_without_dropout(kit):
    """With both views and boxes alike and no dropout the two have one loss and one gradient."""
    config, batch = sgd(kit, model__freeze_encoder=False), kit.batch(2)
    batch["strong2"], batch["cut2"] = batch["strong1"], batch["cut1"]
    whole = (jnp.ones((4, 6), bool),) * 4, jnp.ones(4, bool)
    one, metrics_1, _ = run(kit, fixmatch, config, batch)
    two, metrics_2, _ = run(kit, unimatch_v2, config, batch, draw=lambda *_: whole)
    for name in metrics_1:
        np.testing.assert_allclose(metrics_1[name], metrics_2[name], rtol=1e-5, err_msg=name)
    for name, x in flat(one.params).items():
        np.testing.assert_allclose(x, flat(two.params)[name], atol=2e-6, err_msg=name)


# ------------------------------------------------------------------------------- groups of rows


@pytest.mark.parametrize("method", [unimatch_v2, fixmatch, unimatch, supervised])
@pytest.mark.parametrize("freeze, loop", [(False, False), (True, False), (False, True)])
def test_two_groups_on_one_device_are_two_devices(kit, monkeypatch, method, freeze, loop):
    """Draws, CutMix partners, divisors and all: the published batch on fewer devices.

    loop: as accelerators go through the groups; a CPU has them one after the other.
    """
    halves = [kit.batch(s) for s in (0, 1)]
    halves[1]["valid"][:, 3:] = False  # unequal counts: a mean over all pixels would differ
    halves[1]["label"][:, 3:] = 255
    batch = {k: np.concatenate([h[k] for h in halves]) for k in halves[0]}
    many, metrics_2, start = run(kit, method, sgd(kit, model__freeze_encoder=freeze), batch,
                                 devices=2, steps=2)
    if loop:
        monkeypatch.setattr(parallel, "on_cpu", lambda: False)
    few, metrics_1, _ = run(kit, method, sgd(kit, model__freeze_encoder=freeze, accumulate=2),
                            batch, devices=1, steps=2)
    for name in metrics_2:
        np.testing.assert_allclose(metrics_1[name], metrics_2[name], rtol=1e-4, err_msg=name)
    moved = 0
    for ema in (False, True):
        if ema and many.ema is None:
            continue
        got, want = (flat(s.variables(ema=ema)["params"]) for s in (few, many))
        for name in want:
            np.testing.assert_allclose(got[name], want[name], atol=5e-6, err_msg=name)
            moved += (want[name] != start[name]).any()
    assert moved
    alone, _, _ = run(kit, method, sgd(kit, model__freeze_encoder=freeze), halves[0], steps=2)
    assert any(np.abs(x - flat(many.params)[n]).max() > 1e-3 for n, x in flat(alone.params).items())


# ----------------------------------------------------------------------------------------- OHEM


def plain_ohem(logits, label, threshold, min_kept):
    """The rule by sorting, as the specification words it: (sum, count)."""
    keep = label != 255
    nll = softmax_xent(logits.astype(np.float64), label)
    probability = np.where(keep, np.exp(-nll), 1.0)
    if min_kept and keep.sum() >= min_kept:
        limit = max(threshold, np.sort(probability.reshape(-1))[min_kept - 1])
        keep = keep & (probability <= limit)
    return nll[keep].sum(), keep.sum()


@pytest.mark.parametrize("min_kept", [0, 1, 37, 150, 174, 400, 10**6])
@pytest.mark.parametrize("threshold", [0.05, 0.7, 0.999])
def test_ohem_is_the_rule_by_sorting(min_kept, threshold):
    rng = np.random.default_rng(min_kept)
    logits = rng.normal(0, 2, (2, 10, 10, 5)).astype(np.float32)
    label = rng.integers(0, 5, (2, 10, 10)).astype(np.int32)
    label[rng.random(label.shape) < 0.13] = 255
    want = plain_ohem(logits, label, threshold, min_kept)
    got = jax.jit(losses.ohem_xent, static_argnums=(2, 3))(logits, label, threshold, min_kept)
    assert int(got[1]) == want[1]
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5)


def test_ohem_teaches_through_the_kept_pixels_alone():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (1, 8, 8, 5)).astype(np.float32)
    label = rng.integers(0, 5, (1, 8, 8)).astype(np.int32)
    label[0, 0] = 255
    grad = np.asarray(jax.grad(lambda z: losses.ohem_xent(z, label, 0.3, 10)[0])(logits))
    probability = np.exp(-softmax_xent(logits, label))
    hard = (label != 255) & (probability <= 0.3)
    assert 10 < hard.sum() < 56
    np.testing.assert_array_equal((grad != 0).any(-1), hard)


@pytest.mark.parametrize("k", [1, 2, 50, 99, 100])
def test_kth_largest(k):
    x = np.random.default_rng(k).exponential(size=100).astype(np.float32)
    x[::7], x[3::7] = 0.0, -0.0
    assert float(losses._kth_largest(jnp.asarray(x), k)) == np.sort(x)[-k]


def test_ohem_with_many_pixels_that_are_sure_beyond_rounding():
    """Their loss is zero, some of it minus zero: none of them is hard."""
    logits = np.zeros((1, 10, 10, 3), np.float32)
    logits[..., 0] = 80.0
    label = np.zeros((1, 10, 10), np.int32)
    label[0, 0, :5] = 1
    total, count = losses.ohem_xent(logits, label, 0.7, 3)
    assert int(count) == 5
    np.testing.assert_allclose(total, 5 * 80.0, rtol=1e-6)


def test_criterion_reaches_the_step(kit):
    config = sgd(kit, criterion="ohem", ohem_threshold=0.4, ohem_min_kept=20)
    batch = kit.batch(0)
    _, got, _ = run(kit, supervised, config, {k: batch[k] for k in ("image", "label")})
    model = kit.model()
    params = kit.state(config, model).params
    logits = np.asarray(model.apply({"params": params}, batch["image"], train=False)[0])
    total, count = plain_ohem(logits, batch["label"], 0.4, 20)
    assert 20 < count < (batch["label"] != 255).sum()
    np.testing.assert_allclose(got["loss_x"], total / count, rtol=1e-5)


# ------------------------------------------------------------------- what is stored of the encoder


def test_state_of_a_frozen_base_is_small():
    """Limits: 0.55 GB in float32, 0.37 GB with an encoder in bfloat16."""
    def size(dtype):
        config = configs.load("configs/semi_voc_selected.py:base", {"dtype": dtype})
        config.total_steps = 10
        model = student.build_model(config)
        return jax.eval_shape(functools.partial(student.init, config, model, teacher=True),
                              jax.random.key(0))

    for dtype, limit in (("float32", 0.55e9), ("bfloat16", 0.37e9)):
        state = size(dtype)
        parts = {name: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
                 for name, tree in (("params", state.params), ("ema", state.ema),
                                    ("opt", state.opt))}
        assert sum(parts.values()) < limit, parts
        names = {optim.path_name(p) for tree in (state.ema, state.opt)
                 for p, _ in jax.tree_util.tree_leaves_with_path(tree)}
        assert not [n for n in names if "backbone" in n]


def test_a_frozen_encoder_runs_once_and_forward_only(kit):
    """Counted where it is called: one forward over all four kinds of image."""
    config, batch = sgd(kit, model__freeze_encoder=True), kit.batch(0)
    calls = []

    class Counting(kit.model):
        def encode(self, image_bhwc):
            calls.append(image_bhwc.shape)
            return super().encode(image_bhwc)

    model = Counting()
    state = kit.state(config, kit.model())
    step = functools.partial(unimatch_v2.train_step, config=config, model=model)
    jaxpr = str(jax.make_jaxpr(step, axis_env=[(parallel.AXIS, 1)])(
        state, batch, jax.random.key(0)))
    assert calls == [(16, 8, 8, 3)], "4 labelled, 4 weak, 2 x 4 strong, at once"
    # Each map's layer of the encoder is one product [16, h, w, 3] x [3, 6]; its backward pass would
    # bring one of [6, 3] or [3, 6] shape out of a contraction over all pixels.
    assert jaxpr.count(":f32[3,6] = dot_general") + jaxpr.count(":f32[6,3] = dot_general") == 0
    trained = functools.partial(unimatch_v2.train_step, model=kit.model(),
                                config=sgd(kit, model__freeze_encoder=False))
    whole = str(jax.make_jaxpr(trained, axis_env=[(parallel.AXIS, 1)])(
        kit.state(sgd(kit, model__freeze_encoder=False), kit.model()), batch, jax.random.key(0)))
    assert whole.count(":f32[3,6] = dot_general") + whole.count(":f32[6,3] = dot_general") == 4


def test_the_teacher_stays_float32_and_follows_every_learned_part(kit):
    config = sgd(kit, model__freeze_encoder=True)
    state, _, _ = run(kit, unimatch_v2, config, kit.batch(0))
    assert set(state.ema) == {"head"} and set(state.params) == {"backbone", "head"}
    for name, x in flat(state.variables(ema=True)["params"]).items():
        np.testing.assert_array_equal(x, flat(state.params)[name])  # step 0: a copy of the student
    half = consistency.follow({"x": jnp.ones((), jnp.float32)}, {"x": jnp.zeros((), jnp.bfloat16)},
                              jnp.int32(300), 0.996)
    assert half["x"].dtype == jnp.float32
