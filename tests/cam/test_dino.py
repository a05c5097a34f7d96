"""Class maps from frozen tokens: the walk by brute force, mirror images, training against torch,
and the commands on six tiny photos."""

import pathlib
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from wsssjax.cam import __main__ as command
from wsssjax.cam import affinity_refine, dino
from wsssjax.core import config as configs
from wsssjax.core import parallel, weights
from wsssjax.data import cam_file, label_map
from wsssjax.models import registry, vit

ROOT = pathlib.Path(__file__).parents[2]
TINY = vit.Size(64, 4, (0, 1, 2, 3))


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# ---- the walk ----------------------------------------------------------------------------------


@pytest.mark.parametrize("power, steps", [(1.0, 1), (4.0, 2), (2.5, 3)])
def test_walk_by_brute_force(power, steps):
    tokens, maps = noise(2, 3, 4, 6) + 0.4, np.abs(noise(2, 3, 4, 5, seed=1))
    got = jax.jit(affinity_refine.spread, static_argnames=("power", "steps"))(
        maps, tokens, power=power, steps=steps)
    for row in range(2):
        t = tokens[row].reshape(12, 6).astype(np.float64)
        cosine = [[a @ b / np.sqrt((a @ a) * (b @ b)) for b in t] for a in t]
        mean = sum(map(sum, cosine)) / 144
        m = maps[row].reshape(12, 5).astype(np.float64)
        for _ in range(steps):
            new = np.zeros_like(m)
            for i in range(12):
                alike = [max(c - mean, 0) ** power + 1e-6 * (i == j)
                         for j, c in enumerate(cosine[i])]
                new[i] = sum(a * value for a, value in zip(alike, m, strict=True)) / sum(alike)
            m = new
        np.testing.assert_allclose(got[row].reshape(12, 5), m, rtol=2e-4)
        assert np.abs(m - maps[row].reshape(12, 5)).max() > 0.1


def test_two_kinds_of_tokens_share_their_maps_and_nothing_else():
    """By hand: c is 1 within a kind and 0 between, so each kind gets its own mean."""
    tokens = np.zeros((1, 2, 4, 2), np.float32)
    tokens[0, :, :2, 0] = tokens[0, :, 2:, 1] = 3.0
    maps = np.arange(8, dtype=np.float32).reshape(1, 2, 4, 1)
    got = np.asarray(affinity_refine.spread(jnp.array(maps), jnp.array(tokens), power=4.0, steps=2))
    np.testing.assert_allclose(got[0, ..., 0], [[2.5, 2.5, 4.5, 4.5]] * 2, atol=1e-3)


def test_walk_keeps_what_it_must():
    """A flat map, the range of any map, and mirror images; tokens that are all alike stop it."""
    tokens, maps = noise(1, 4, 5, 8), np.abs(noise(1, 4, 5, 3, seed=1))
    walk = jax.jit(lambda m, t: affinity_refine.spread(m, t, power=3.0, steps=2))
    got = np.asarray(walk(maps, tokens))
    mirrored = np.asarray(walk(maps[:, :, ::-1], tokens[:, :, ::-1]))
    np.testing.assert_allclose(mirrored[:, :, ::-1], got, rtol=1e-5)
    assert (got.min((1, 2)) > maps.min((1, 2))).all() and (got.max((1, 2)) < maps.max((1, 2))).all()
    np.testing.assert_allclose(walk(np.full_like(maps, 0.7), tokens), 0.7, rtol=1e-5)
    np.testing.assert_allclose(walk(maps, 5 * tokens), got, rtol=1e-5)
    for same in (np.ones_like(tokens), np.zeros_like(tokens)):
        np.testing.assert_allclose(walk(maps, same), maps, rtol=1e-3)
    one = walk(maps[:, :1, :1], tokens[:, :1, :1])
    np.testing.assert_allclose(one, maps[:, :1, :1], rtol=1e-6)


def test_a_finer_layer_takes_the_maps_to_its_grid():
    tokens, maps = noise(1, 6, 8, 4), np.abs(noise(1, 3, 4, 2))
    got = affinity_refine.spread(jnp.array(maps), jnp.array(tokens), power=2.0, steps=1)
    assert got.shape == (1, 6, 8, 2)
    still = affinity_refine.spread(jnp.array(maps), jnp.array(tokens), power=2.0, steps=0)
    np.testing.assert_array_equal(still, maps)


# ---- pooling -----------------------------------------------------------------------------------


def test_pools_by_hand(make_config):
    config = make_config("dino").dino
    maps = np.float32([4, 0, 1, 3, -2]).reshape(1, 1, 5, 1)
    with config.unlocked():
        config.pool_share, config.pool_sharpness = 0.3, 2.0
    found = {name: float(pool(maps, config)[0, 0]) for name, pool in dino.POOLS.items()}
    assert found["mean"] == pytest.approx(1.2)
    assert found["top"] == pytest.approx(3.5)  # 1.5 values of five: two of them
    assert found["lse"] == pytest.approx(
        np.log(np.exp(2 * maps.astype(np.float64)).mean()) / 2)
    with config.unlocked():
        config.pool_share, config.pool_sharpness = 1.0, 1e-3
    assert float(dino.POOLS["top"](maps, config)[0, 0]) == pytest.approx(1.2)
    assert float(dino.POOLS["lse"](maps, config)[0, 0]) == pytest.approx(1.2, abs=1e-2)


# ---- training ----------------------------------------------------------------------------------


@pytest.fixture
def tiny(make_config, monkeypatch):
    """changes → the shipped config with a vision transformer of 64 channels."""
    monkeypatch.setitem(registry.ENCODERS, "dinov2_tiny", registry.Encoder(
        lambda config, dtype: vit.ViT(TINY, dtype=dtype, **config.vit), None))

    def make(changes=()):
        return make_config("dino", {
            "model.encoder": "dinov2_tiny", "data.crop": "42", "device_batch": "4",
            "total_steps": "50", "infer.grid": "28", **dict(changes)})

    return make


def trained(method, batches, seed=0):
    """(state before, state after a step for each batch, last metrics), on the host."""
    before = parallel.to_host(method.init(jax.random.key(seed)))
    step = parallel.compile_step(method.step, devices=1)
    state = parallel.replicate(before, devices=1)
    for batch in batches:
        state, metrics = step(state, batch, jax.random.key(1))
    return before, parallel.to_host(state), {k: float(v) for k, v in metrics.items()}


def by_torch(torch, config, features, batches, kernel, pool):
    """The head after these batches, by torch's own AdamW on the encoder's features."""
    weight = torch.tensor(np.array(kernel), requires_grad=True)
    update = torch.optim.AdamW([weight], lr=config.optim.lr, weight_decay=config.optim.weight_decay)
    for t, batch in enumerate(batches):
        update.param_groups[0]["lr"] = config.optim.lr * (1 - t / config.total_steps) ** 0.9
        maps_bnk = (torch.tensor(features[t]) @ weight).flatten(1, 2)
        n = maps_bnk.shape[1]
        if pool == "mean":
            scores = maps_bnk.mean(1)
        elif pool == "lse":
            scores = (torch.logsumexp(4 * maps_bnk, 1) - np.log(n)) / 4
        else:
            scores = maps_bnk.topk(int(np.ceil(0.2 * n)), 1).values.mean(1)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            scores, torch.tensor(batch["tags"]))
        update.zero_grad()
        loss.backward()
        update.step()
    return weight.detach().numpy(), loss.item()


def many(count, side=42):
    rng = np.random.default_rng(5)
    for _ in range(count):
        tags = (rng.random((4, 3)) < 0.5).astype(np.float32)
        yield {"image": rng.standard_normal((4, side, side, 3)).astype(np.float32), "tags": tags}


@pytest.mark.parametrize("encoder, pool, count", [
    ("dinov2_tiny", "mean", 1), ("toy", "lse", 1), ("toy", "top", 1), ("toy", "mean", 50)])
def test_head_learns_as_in_torch_and_the_encoder_stays(tiny, encoder, pool, count):
    torch = pytest.importorskip("torch")
    config = tiny({"dino.pool": pool, "model.encoder": encoder})
    method, batches = dino.build(config), list(many(count, 42 if encoder != "toy" else 32))
    before, after, metrics = trained(method, batches)
    network = registry.build_encoder(config.model)
    run = jax.jit(lambda x: network.apply({"params": before.params["backbone"]}, x, train=False)[1])
    features = [np.asarray(run(batch["image"])["features"]) for batch in batches]
    kernel = before.params["head"]["kernel"]
    want, loss = by_torch(torch, config, features, batches, kernel, pool)
    got = after.params["head"]["kernel"]
    error = np.abs(got - want).max() / np.abs(want - kernel).max()
    print(f"{encoder}, {pool}, {count} steps: relative error of the head's way {error:.1e}")
    assert error < 2e-3 and np.abs(want - kernel).max() > 5e-4
    assert metrics["loss_cls"] == pytest.approx(loss, rel=1e-4)
    for a, b in zip(*map(jax.tree.leaves, (before.params["backbone"], after.params["backbone"])),
                    strict=True):
        assert np.array_equal(a.view(np.uint32), b.view(np.uint32))
    # No optimizer state but for the head: two moments of its kernel, and counters.
    large = [x.shape for x in jax.tree.leaves(after.opt) if np.size(x) > 1]
    assert large == [kernel.shape] * 2


def test_two_devices_equal_one(tiny):
    method, batch = dino.build(tiny({"model.encoder": "toy"})), next(many(1, 32))
    states = []
    for devices in (1, 2):
        step = parallel.compile_step(method.step, devices=devices)
        state = parallel.replicate(method.init(jax.random.key(0)), devices=devices)
        states.append(parallel.to_host(step(state, batch, jax.random.key(1))[0]))
    np.testing.assert_allclose(states[0].params["head"]["kernel"],
                               states[1].params["head"]["kernel"], atol=1e-6)


def test_maps_are_walked_logits_of_the_taps(tiny, random_head):
    """Two taps side by side, walked on a third."""
    config = tiny({"model.taps": "('tap1','features')", "infer.affinity_layer": "tap2"})
    method = dino.build(config)
    variables = random_head(jax.jit(method.init)(jax.random.key(0)).variables())
    x = noise(2, 28, 42, 3)
    network = registry.build_encoder(config.model)
    aux = jax.jit(lambda p: network.apply({"params": p}, x, train=False)[1])(
        variables["params"]["backbone"])
    joined = np.concatenate([aux["tap1"], aux["features"]], -1).astype(np.float64)
    raw = np.maximum(joined @ np.float64(variables["params"]["head"]["kernel"]), 0)
    want = affinity_refine.spread(jnp.float32(raw), aux["tap2"], power=config.infer.affinity_power,
                                  steps=config.infer.affinity_steps)
    got = jax.jit(method.predict)(variables, x, np.ones((2, 3), np.float32))
    assert got.shape == (2, 2, 3, 3)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)


class Colours(nn.Module):
    """Tokens that are the mean colours of 8 x 8 pixels, and a one."""

    @nn.compact
    def __call__(self, image_bhwc, *, train: bool):
        self.param("unused", nn.initializers.zeros, (1,))
        means = nn.avg_pool(image_bhwc, (8, 8), (8, 8))
        return None, {"features": jnp.concatenate([means, jnp.ones_like(means[..., :1])], -1)}


def test_it_learns_to_point(make_config, monkeypatch):
    """A square of one of three colours: the walked map of its class is higher inside."""
    monkeypatch.setitem(registry.ENCODERS, "toy", registry.Encoder(lambda *_: Colours(), None))
    rng = np.random.default_rng(0)
    image = 0.1 * rng.standard_normal((4, 32, 32, 3)).astype(np.float32)
    tags = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    inside = np.zeros((4, 4, 4), bool)
    for row, (top, left) in enumerate([(0, 0), (1, 2), (2, 1), (2, 2)]):
        inside[row, top : top + 2, left : left + 2] = True
        square = image[row, 8 * top : 8 * top + 16, 8 * left : 8 * left + 16]
        square[..., tags[row].argmax()] += 2.0
    method = dino.build(make_config("dino", {"optim.lr": "0.1", "total_steps": "200"}))
    _, after, metrics = trained(method, [{"image": image, "tags": tags}] * 150)
    assert metrics["loss_cls"] < 0.1
    maps = np.asarray(method.predict(after.variables(), image, None))
    for row in range(4):
        own = maps[row, ..., tags[row].argmax()]
        assert own[inside[row]].min() > 3 * own[~inside[row]].max()


@pytest.mark.parametrize("encoder, side, grid", [
    ("dinov2_s", 42, 3), ("clip_vit_b16", 48, 3), ("efficientnet_lite0", 64, 4),
    ("small_cnn", 64, 8)])
def test_any_encoder_carries_it(make_config, encoder, side, grid):
    """Shapes only: nothing of these sizes is made."""
    stride = "8" if encoder == "small_cnn" else "16"
    method = dino.build(make_config("dino", {"model.encoder": encoder, "data.crop": str(side),
                                             "model.output_stride": stride}))
    state = jax.eval_shape(method.init, jax.random.key(0))
    maps = jax.eval_shape(method.predict, state.variables(),
                          jax.ShapeDtypeStruct((2, side, side, 3), "float32"), None)
    assert maps.shape == (2, grid, grid, 3) and maps.dtype == jnp.float32
    assert [x.shape for x in jax.tree.leaves(state.opt) if x.size > 1] == [
        state.params["head"]["kernel"].shape] * 2


@pytest.mark.parametrize("changes, message", [
    ({"dino.pool": "avg"}, "config.dino.pool 'avg' is unknown; there are lse, mean, top"),
    ({"model.taps": "()"}, "config.model.taps=(): want one name or more"),
    ({"dino.pool_share": "0"}, "config.dino.pool_share=0.0: want a share above 0"),
    ({"dino.pool_sharpness": "0"}, "config.dino.pool_sharpness=0.0: want a number above 0"),
    ({"infer.affinity_power": "0"}, "config.infer.affinity_power=0.0, affinity_steps=2: want a"),
    ({"infer.canvas": "bucket"}, "config.infer.canvas='bucket': method 'dino' would see"),
])
def test_fields_without_a_meaning(tiny, changes, message):
    with pytest.raises(ValueError) as error:
        dino.build(tiny(changes))
    assert message in str(error.value)


def test_layers_that_are_not_there_are_named(tiny):
    with pytest.raises(ValueError, match="config.model.taps 'tap9' is unknown; did you mean 'tap"):
        dino.build(tiny({"model.taps": "('tap9',)"}))
    method = dino.build(tiny({"infer.affinity_layer": "feature"}))
    variables = jax.eval_shape(method.init, jax.random.key(0)).variables()
    with pytest.raises(ValueError, match="config.infer.affinity_layer 'feature' is unknown; did "):
        jax.eval_shape(method.predict, variables, jax.ShapeDtypeStruct((1, 28, 28, 3), "float32"),
                       None)


def test_config_arguments():
    for name in ("voc", "folder"):
        path = f"{ROOT}/configs/cam_{name}_dino.py"
        for size, encoder in (("small", "dinov2_s"), ("base", "dinov2_b"), ("large", "dinov2_l")):
            assert configs.load(f"{path}:{size}").model.encoder == encoder
        with pytest.raises(ValueError, match="config argument 'giant': want nothing or one of sma"):
            configs.load(f"{path}:giant")


# ---- the commands ------------------------------------------------------------------------------


def call(*flags):
    return subprocess.run([sys.executable, *map(str, flags)], cwd=ROOT, text=True,
                          capture_output=True)


def test_own_photos_from_tags_to_labels(tmp_path):
    """The commands of configs/cam_folder_dino.py on six tiny photos, one smaller than a patch, with
    a small network in the place of DINOv2."""
    root, rng = tmp_path / "photos", np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    sizes = {"a": (40, 60), "b": (48, 40), "c": (9, 11), "d": (40, 60), "e": (64, 40),
             "f": (44, 52)}
    for name, (h, w) in sizes.items():
        Image.fromarray(rng.integers(0, 256, (h, w, 3), np.uint8)).save(root / f"images/{name}.png")
    (root / "tags.csv").write_text("id,tags\na,fox\nb,owl\nc,fox;owl\nd,owl\ne,fox\nf,owl\n")
    (root / "classes.txt").write_text("fox\nowl\n")
    out = call("tools/prepare_data.py", "folder", f"--root={root}")
    assert out.returncode == 0, out.stderr
    small = ("--config=configs/cam_folder_dino.py", f"--config.classes={root}/classes.txt",
             "--config.model.encoder=small_cnn", "--config.model.output_stride=8",
             "--config.infer.multiple=1", "--config.infer.grid=32",
             "--config.model.encoder_weights=")
    out = call("-m", "wsssjax.train", *small, f"--config.data.packed={root}/packed",
               f"--workdir={tmp_path}/run", "--config.total_steps=2", "--config.data.crop=32",
               "--config.data.long_side=(32,48)", "--config.device_batch=3",
               "--config.data.workers=0")
    assert out.returncode == 0, out.stderr
    out = call("-m", "wsssjax.cam", *small, f"--weights={tmp_path}/run", f"--images={root}/images",
               f"--tags={root}/tags.csv", f"--out={tmp_path}/labels", "--threshold=0.3")
    assert out.returncode == 0, out.stderr
    for name, size in sizes.items():
        label_map.read(tmp_path / "labels" / f"{name}.png", 3, size)
        assert cam_file.read(tmp_path / "labels" / f"{name}.npz").cam.shape[1:] == size


def test_a_photo_smaller_than_a_patch(tiny, tmp_path, monkeypatch):
    """It is taken up to one patch, whose map is as good as its score."""
    monkeypatch.setattr(command.parallel, "start", lambda: None)
    config = tiny({"infer.scales": "(1.0,)"})
    variables = dino.build(config).init(jax.random.key(0)).variables()
    weights.save(tmp_path / weights.FILE, jax.device_get(variables))
    (tmp_path / "images").mkdir()
    Image.fromarray(np.full((3, 5, 3), 200, np.uint8)).save(tmp_path / "images" / "a.png")
    (tmp_path / "tags.csv").write_text("id,tags\na,fox;owl;elk\n")
    with config.unlocked():
        config.infer.grid = 14
    command.run(config, tmp_path, tmp_path / "images", tmp_path / "tags.csv", tmp_path / "out")
    found = cam_file.read(tmp_path / "out" / "a.npz").cam
    assert found.shape == (3, 3, 5) and np.isfinite(found.astype(np.float32)).all()
    assert (found == found[:, :1, :1]).all()
