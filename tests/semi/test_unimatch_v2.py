"""The step of UniMatch V2 against a second one in torch, and its parts against brute force."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wsssjax.core import optim, parallel
from wsssjax.semi import consistency, student, unimatch_v2

# ------------------------------------------------------------------ the second implementation


class TorchRun:
    """Three networks' worth of plain torch: loops over rows and boxes, autograd, torch's AdamW."""

    def __init__(self, torch, kit, config, params):
        self.torch, self.kit, self.config = torch, kit, config
        self.student = {k: torch.tensor(np.array(v)).double() for k, v in flat(params).items()}
        self.teacher = {k: v.clone() for k, v in self.student.items()}
        self.learned = [k for k in self.student
                        if not (config.model.freeze_encoder and k.startswith("backbone"))]
        for k in self.learned:
            self.student[k].requires_grad_()
        encoder = [self.student[k] for k in self.learned if k.startswith("backbone")]
        head = [self.student[k] for k in self.learned if k.startswith("head")]
        self.rates = [config.optim.lr, config.optim.lr * 4]
        self.optimizer = torch.optim.AdamW(
            [{"params": p, "lr": r} for p, r in zip((encoder, head), self.rates, strict=True)],
            betas=(config.optim.b1, config.optim.b2), eps=config.optim.eps,
            weight_decay=config.optim.weight_decay)

    def forward(self, params, image_nhwc, drop=None):
        torch, total = self.torch, 0.0
        for i, s in enumerate(self.kit.strides):
            x = image_nhwc.permute(0, 3, 1, 2)
            x = torch.nn.functional.avg_pool2d(x, s).permute(0, 2, 3, 1)
            x = torch.relu(x @ params[f"backbone/tap{i}/kernel"] + params[f"backbone/tap{i}/bias"])
            if drop is not None:
                x = x * drop[i][:, None, None, :]
            x = x @ params[f"head/out{i}/kernel"] + params[f"head/out{i}/bias"]
            total = total + x.repeat_interleave(s, 1).repeat_interleave(s, 2)
        return total

    def mix(self, array, box):
        out = array.clone()
        for b in range(len(array)):
            for y, x in box[b].nonzero().tolist():
                out[b, y, x] = array[len(array) - 1 - b, y, x]
        return out

    def step(self, k, batch, kept, whole):
        torch, config = self.torch, self.config
        batch = {n: torch.tensor(v, dtype=torch.float64 if v.dtype == np.float32 else None)
                 for n, v in batch.items()}
        with torch.no_grad():
            chance = self.forward(self.teacher, batch["weak"]).softmax(-1)
            for b, row in enumerate(batch.get("tags", ())):
                for c, has in enumerate(row, 1):
                    chance[b, :, :, c] *= float(has)
            conf, label = (chance / chance.sum(-1, keepdim=True)).max(-1)
        views, targets = [], []
        for v in (1, 2):
            box = batch[f"cut{v}"]
            views.append(self.mix(batch[f"strong{v}"], box))
            targets.append([self.mix(t, box) for t in (label, conf, batch["valid"])])
        first = [2.0 * torch.tensor(np.array(m), dtype=torch.float64) for m in kept]
        drops = [torch.cat([m, 2.0 - m]) for m in first]
        for m in drops:
            for b in np.flatnonzero(whole):
                m[b] = m[b + len(whole)] = 1.0
        z_x = self.forward(self.student, batch["image"])
        z_s = self.forward(self.student, torch.cat(views), drops).chunk(2)
        xent = functools.partial(torch.nn.functional.cross_entropy, reduction="none")
        loss_x = torch.nn.functional.cross_entropy(
            z_x.permute(0, 3, 1, 2), batch["label"].long(), ignore_index=255)
        losses = []
        for z, (lab, con, val) in zip(z_s, targets, strict=True):
            nll = xent(z.permute(0, 3, 1, 2), lab)
            losses.append((nll * (con >= config.conf_threshold) * val).sum() / val.sum())
        loss_u = sum(losses) / 2
        loss = (loss_x + loss_u) / 2
        self.optimizer.zero_grad()
        loss.backward()
        norms = {f"grad_{part}": float(sum(
            (self.student[n].grad ** 2).sum() for n in self.learned if n.startswith(part)) ** 0.5)
            for part in ("backbone", "head")}
        self.optimizer.step()
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * (1 - k / config.total_steps) ** 0.9
        alpha = min(1 - 1 / (k + 1), 0.996)
        for n in self.student:
            self.teacher[n] = alpha * self.teacher[n] + (1 - alpha) * self.student[n].detach()
        sure = (conf >= config.conf_threshold) & batch["valid"]
        ratio = float(sure.sum() / batch["valid"].sum())
        return {"loss": loss.item(), "loss_x": loss_x.item(), "loss_u": loss_u.item(),
                "mask_ratio": ratio, **norms}


def flat(params):
    return {optim.path_name(p): x for p, x in jax.tree_util.tree_leaves_with_path(params)}


@pytest.mark.parametrize("freeze, widths, tagged", [
    (False, (6, 6, 6, 6), False), (True, (3, 4, 5, 6), False), (True, (6, 6, 6, 6), True)])
def test_three_steps_match_torch(kit, freeze, widths, tagged):
    torch = pytest.importorskip("torch")
    config = kit.config(model__freeze_encoder=freeze, conf_threshold=0.5)
    model = kit.model(widths)
    state = kit.state(config, model)
    run = TorchRun(torch, kit, config, state.params)
    start = jax.tree.map(np.array, state.params)
    key = jax.random.key(3)
    step = parallel.compile_step(
        functools.partial(unimatch_v2.train_step, config=config, model=model), devices=1)
    for k in range(3):
        batch = kit.batch(k)
        if tagged:  # of the four photos one has every tag, one has none
            batch["tags"] = np.array([[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0]],
                                     np.float32)
        state, got = step(state, batch, key)
        own_key = jax.random.fold_in(jax.random.fold_in(key, k), 0)  # of step k on device 0
        kept, whole = unimatch_v2.draw_drop(own_key, 4, widths)
        want = run.step(k, batch, kept, np.array(whole))
        assert 0.1 < want["mask_ratio"] < 0.9, "some pixels must teach and some must not"
        assert set(got) == set(want)
        for name, value in want.items():
            np.testing.assert_allclose(got[name], value, rtol=2e-4, atol=1e-7, err_msg=name)
    teacher = state.variables(ema=True)["params"]
    for mine, theirs in ((state.params, run.student), (teacher, run.teacher)):
        for name, x in flat(mine).items():
            np.testing.assert_allclose(x, theirs[name].detach().numpy(), atol=2e-5, err_msg=name)
    moved = {n: bool((np.array(x) != flat(start)[n]).any()) for n, x in flat(state.params).items()}
    assert all(moved[n] != (freeze and n.startswith("backbone")) for n in moved)


# --------------------------------------------------------------------------- between devices


@pytest.fixture(scope="module")
def descent(kit):
    """(config, model, step): plain SGD at rate 1, whose parameters move by the gradient itself."""
    config = kit.config(conf_threshold=0.6, optim__name="sgd", optim__lr=1.0,
                        optim__weight_decay=0.0, optim__lag_steps=0, model__freeze_encoder=False)
    config.optim.groups = ((".*", 1.0, 1.0),)
    model = kit.model()
    kept, whole = unimatch_v2.draw_drop(jax.random.key(1), 4, model.widths)
    step = functools.partial(unimatch_v2.train_step, config=config, model=model,
                             draw=lambda *_: (kept, whole))
    return config, model, {n: parallel.compile_step(step, devices=n) for n in (1, 2)}


def test_two_devices_average_the_gradients_of_two_single_steps(kit, descent):
    config, model, step = descent
    halves = [kit.batch(s) for s in (0, 1)]
    halves[1]["valid"][:, 3:] = False  # unequal counts: a mean over all pixels would differ
    halves[1]["label"][:, 3:] = 255
    start = flat(jax.tree.map(np.array, kit.state(config, model).params))

    def moved(batch, devices):
        state = kit.state(config, model, devices=devices)
        new, metrics = step[devices](state, batch, jax.random.key(0))
        return {n: np.array(x) - start[n] for n, x in flat(new.params).items()}, metrics

    (one, metrics_1), (two, metrics_2) = (moved(half, 1) for half in halves)
    both, metrics = moved({k: np.concatenate([h[k] for h in halves]) for k in halves[0]}, 2)
    for name in both:
        np.testing.assert_allclose(both[name], (one[name] + two[name]) / 2, atol=2e-6, err_msg=name)
    for name in ("loss", "loss_x", "loss_u", "mask_ratio"):
        want = (metrics_1[name] + metrics_2[name]) / 2
        np.testing.assert_allclose(metrics[name], want, rtol=1e-5, err_msg=name)


# --------------------------------------------------------------------------------- the parts


@pytest.mark.parametrize("rows, whole_rows", [(1, 0), (2, 1), (3, 1), (4, 2), (7, 3)])
def test_drop_masks_complement_each_other(rows, whole_rows):
    kept, whole = unimatch_v2.draw_drop(jax.random.key(rows), rows, (64,) * 4)
    masks = [np.array(m) for m in unimatch_v2.drop_masks(kept, whole)]
    for mask in masks:
        np.testing.assert_array_equal(mask, masks[0])
    first, second = masks[0][:rows], masks[0][rows:]
    np.testing.assert_array_equal(first + second, 2.0)
    untouched = (first == 1).all(1)
    assert untouched.sum() == whole_rows
    assert set(np.unique(first[~untouched])) <= {0.0, 2.0}
    assert ((first[~untouched] == 0).any(1) & (first[~untouched] == 2).any(1)).all()


def test_drop_masks_differ_between_maps_of_different_width():
    widths = (40, 48, 48, 64)
    kept, whole = unimatch_v2.draw_drop(jax.random.key(0), 4, widths)
    masks = [np.array(m) for m in unimatch_v2.drop_masks(kept, whole)]
    assert [m.shape for m in masks] == [(8, w) for w in widths]
    assert (masks[1] != masks[2]).any(), "equally wide maps beside others draw for themselves"
    whole_rows = [(m == 1).all(1) for m in masks]
    for rows in whole_rows:
        np.testing.assert_array_equal(rows, whole_rows[0])


def test_drop_masks_average_to_one_and_leave_every_pair_whole_equally_often():
    keys = jax.random.split(jax.random.key(5), 2000)

    @jax.jit
    @jax.vmap
    def draw(key):
        kept, whole = unimatch_v2.draw_drop(key, 4, (8, 8))
        return unimatch_v2.drop_masks(kept, whole)[0], whole

    masks, whole = draw(keys)
    # 2000 draws: the sd of a channel's mean is 0.016, of a pair's share 0.011.
    np.testing.assert_allclose(masks.mean(0), 1.0, atol=0.08)
    np.testing.assert_allclose(whole.mean(0), 0.5, atol=0.055)
    patterns = {tuple(w) for w in np.array(whole)}
    assert len(patterns) == 6, "all ways to leave 2 of 4 pairs whole occur"


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_cut_mix_matches_a_loop(rows):
    rng = np.random.default_rng(rows)
    image = rng.normal(size=(rows, 4, 6, 3)).astype(np.float32)
    label = rng.integers(0, 9, (rows, 4, 6)).astype(np.int32)
    box = rng.random((rows, 4, 6)) < 0.4
    for array in (image, label):
        want = array.copy()
        for b, y, x in np.argwhere(box):
            want[b, y, x] = array[rows - 1 - b, y, x]
        np.testing.assert_array_equal(
            consistency.cut_mix(jnp.asarray(array), jnp.asarray(box)), want)


def test_pseudo_labels_match_softmax():
    scipy_special = pytest.importorskip("scipy.special")
    logits = np.random.default_rng(0).normal(0, 30, (2, 5, 7, 21)).astype(np.float32)
    label, conf = consistency.pseudo_labels(jnp.asarray(logits))
    want = scipy_special.softmax(logits.astype(np.float64), -1)
    np.testing.assert_array_equal(label, want.argmax(-1))
    np.testing.assert_allclose(conf, want.max(-1), rtol=1e-5)


@pytest.mark.parametrize("method", ["fixmatch", "unimatch", "unimatch_v2"])
def test_a_teacher_that_knows_tags_names_no_other_class(kit, method):
    """Every tag changes nothing at all; no tag leaves background, of which it is sure."""
    train_step = importlib.import_module(f"wsssjax.semi.{method}").train_step
    config, model = kit.config(conf_threshold=0.5), kit.model()

    def metrics(**more):
        step = parallel.compile_step(
            functools.partial(train_step, config=config, model=model), devices=1)
        state, found = step(kit.state(config, model), kit.batch(0) | more, jax.random.key(0))
        return state.params, {name: float(x) for name, x in found.items()}

    untold, every = metrics(), metrics(tags=np.ones((4, 4), np.float32))
    jax.tree.map(np.testing.assert_array_equal, untold, every)
    none = metrics(tags=np.zeros((4, 4), np.float32))[1]
    assert none["mask_ratio"] == 1.0 > untold[1]["mask_ratio"]
    assert none["loss_x"] == untold[1]["loss_x"] and none["loss_u"] != untold[1]["loss_u"]


def test_tagged_probabilities_are_over_background_and_tags_alone():
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 3, (3, 4, 5, 6)).astype(np.float32)
    tags = np.array([[1, 0, 1, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1]], np.float32)
    label, conf = consistency.pseudo_labels(consistency.tagged(jnp.asarray(logits), tags))
    for b, y, x in np.ndindex(3, 4, 5):
        held = [0, *(1 + np.flatnonzero(tags[b]))]
        chance = np.exp(logits[b, y, x, held].astype(np.float64))
        chance /= chance.sum()
        assert label[b, y, x] == held[int(chance.argmax())]
        np.testing.assert_allclose(conf[b, y, x], chance.max(), rtol=1e-5)


def test_a_pixel_exactly_at_the_threshold_teaches(kit):
    """With equal logits every confidence is exactly 1/2 for two classes."""
    label, conf = consistency.pseudo_labels(jnp.zeros((1, 2, 2, 2)))
    np.testing.assert_array_equal(conf, np.full((1, 2, 2), 0.5, np.float32))
    config = kit.config(conf_threshold=0.2, optim__name="sgd")  # five classes at zero: 1/5
    state = kit.state(config, kit.model())
    state = state.replace(ema=jax.tree.map(jnp.zeros_like, state.ema))
    step = functools.partial(unimatch_v2.train_step, config=config, model=kit.model())
    _, metrics = parallel.compile_step(step, devices=1)(state, kit.batch(0), jax.random.key(0))
    assert float(metrics["mask_ratio"]) == 1.0


def test_no_labelled_and_no_valid_pixel_leaves_the_student_where_it_was(kit, descent):
    config, model, step = descent
    batch = kit.batch(0)
    batch["label"][:] = 255
    batch["valid"][:] = False
    start = kit.state(config, model)
    want = jax.tree.map(np.array, start.params)
    state, metrics = step[1](start, batch, jax.random.key(0))
    assert {float(v) for v in metrics.values()} == {0.0}
    jax.tree.map(np.testing.assert_array_equal, state.params, want)


def test_teacher_ramp():
    decays = {0: 0.0, 1: 0.5, 9: 0.9, 99: 0.99, 249: 0.996, 1000: 0.996}
    for k, want in decays.items():
        got = consistency.follow(jnp.float32(1.0), jnp.float32(0.0), jnp.int32(k), 0.996)
        np.testing.assert_allclose(got, want, atol=1e-7)
    students = np.random.default_rng(0).normal(size=100).astype(np.float32)
    teacher = jnp.float32(7.0)
    for k, x in enumerate(students):
        teacher = consistency.follow(teacher, x, jnp.int32(k), 0.996)
    np.testing.assert_allclose(teacher, students.mean(), rtol=1e-4, atol=1e-6)


def test_schedule_of_the_encoder_is_the_references(kit):
    """Acceptance values of a run of 39,300 iterations at 5e-6."""
    config = kit.config(total_steps=39_300, optim__lr=5e-6, model__freeze_encoder=False,
                        optim__weight_decay=0.0)
    params = {"backbone": {"x": jnp.ones(())}, "head": {"x": jnp.ones(())}}
    want = {0: 5.0e-6, 1: 5.0e-6, 2: 4.999885e-6, 100: 4.988663e-6, 19_650: 2.679556e-6,
            39_299: 6.838e-10}
    rate = optim.poly(config.optim.lr, config.total_steps, config.optim.poly_power,
                      config.optim.lag_steps)
    for k, value in want.items():
        np.testing.assert_allclose(rate(k), value, rtol=2e-4)
    # The first AdamW step moves by the rate itself: this is what the groups really apply.
    tx = student.optimizer(config, params)
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    np.testing.assert_allclose(updates["backbone"]["x"], -5e-6, rtol=1e-5)
    np.testing.assert_allclose(updates["head"]["x"], -2e-5, rtol=1e-5)


def test_build_refuses_what_cannot_work(kit):
    with pytest.raises(ValueError, match="config.device_batch is 1; want at least 2"):
        unimatch_v2.build(kit.config(device_batch=1))
    with pytest.raises(ValueError, match="config.criterion is 'focal'; want ce or ohem"):
        unimatch_v2.build(kit.config(criterion="focal"))
    with pytest.raises(ValueError, match="config.accumulate is 0; want 1 or more"):
        unimatch_v2.build(kit.config(accumulate=0))
    with pytest.raises(ValueError, match="total_epochs and config.total_steps are both 0"):
        unimatch_v2.build(kit.config(total_steps=0, total_epochs=0))
