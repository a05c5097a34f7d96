"""CAM and EPS as methods: the step against its formula, devices, freezing, maps, learning; the
published recipes; data that cannot teach."""

import pathlib
import re

import flax.linen as nn
import jax
import numpy as np
import pytest
from PIL import Image

from wsssjax.cam import __main__ as command
from wsssjax.cam import cam, eps
from wsssjax.core import config as configs
from wsssjax.core import optim, parallel, weights
from wsssjax.data import prepare, records
from wsssjax.models import registry, resnet, resnet38
from wsssjax.models.norms import BatchNorm

BUILD = {"cam": cam.build, "eps": eps.build}
CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


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
    ({"eps.mix": "7"}, "config.eps.mix=7.0: want a share in 0..1"),
    ({"eps.overlap_min": "-3"}, "config.eps.overlap_min=-3.0: want a share in 0..1"),
])
def test_misspelt_fields_are_named(make_config, changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        eps.build(make_config("eps", changes))


@pytest.mark.parametrize("config, method, missing", [
    ("cam_voc_cam.py", "bao", r"method='bao': reads config.bao, .* begin with configs/cam_voc_bao"),
    ("cam_voc_cam.py", "eps", r"method='eps': reads config.eps, .* begin with configs/cam_voc_eps"),
    ("cam_voc_cam.py", "dino", r"method='dino': reads config.dino, .* configs/cam_voc_dino.py"),
    ("cam_voc_cam.py", "clip", r"method='clip': reads config.model.text, .* configs/cam_voc_clip"),
    ("cam_voc_cam.py", "transcam", r"='transcam': reads config.epoch_steps, .*cam_voc_transcam"),
    ("cam_voc_eps.py", "cam", r"method='cam': reads config.model.head_start, .*cam_voc_cam.py"),
])
def test_a_method_with_the_config_of_another_names_what_is_missing(config, method, missing):
    config = configs.load(CONFIGS / config, {"method": method})
    with pytest.raises(ValueError, match=missing) as error:
        command.METHODS[method](config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("encoder, missing", [
    ("resnet50", "encoder='resnet50': reads config.model.resnet, .* configs/cam_voc_cam.py:resnet"),
    ("dinov2_s", "encoder='dinov2_s': reads config.model.vit, .* configs/semi_voc_unimatch_v2.py"),
    ("clip_vit_b16", "='clip_vit_b16': reads config.model.clip, .* configs/cam_voc_clip.py"),
    ("conformer_small", "='conformer_small': reads config.model.conformer, .*cam_voc_transcam.py"),
])
def test_an_encoder_without_its_fields_names_them(encoder, missing):
    with pytest.raises(ValueError, match=missing):
        cam.build(configs.load(CONFIGS / "cam_voc_cam.py", {"model.encoder": encoder}))


@pytest.mark.parametrize("method", command.METHODS)
def test_only_bao_has_a_map_of_the_background(method):
    config = configs.load(CONFIGS / f"cam_voc_{method}.py", {"infer.background": "map"})
    if method == "bao":
        command.METHODS[method](config)
        return
    with pytest.raises(ValueError, match="background='map': this method learns no map of the back"):
        command.METHODS[method](config)


@pytest.mark.parametrize("spec", ["cam_voc_cam.py:resnet38", "cam_voc_cam.py:resnet50",
                                  "cam_coco_eps.py"])
def test_norms_that_do_not_learn_are_not_trained_from_random_numbers(spec):
    method = cam.build if "cam.py" in spec else eps.build
    with pytest.raises(ValueError, match="encoder_weights='': 'resnet.*' cannot start random"):
        method(configs.load(CONFIGS / spec)).loader()


def test_classes_of_another_data_set_do_not_stop_a_selection_that_ignores_them(make_config):
    """VOC's background classes stand in the config's default; own photos have other classes."""
    shipped = {"eps.background_classes": "('chair','diningtable','sofa')"}
    maps = [eps.build(make_config("eps", changes)).init(jax.random.key(0)).params["head"]
            for changes in (shipped, {"eps.background_classes": "()"})]
    jax.tree.map(np.testing.assert_array_equal, *maps)


# ---- published recipes -------------------------------------------------------------------------

SPECIFIED = {  # batch, steps, learning rate, decay, long side, crop, threshold
    "cam_voc_cam.py:resnet38": (8, 20_000, 0.01, 5e-4, (256, 512), 448, 0.2),
    "cam_voc_cam.py:resnet50": (16, 3_305, 0.1, 1e-4, (320, 640), 512, 0.15),
    "cam_voc_eps.py:resnet38": (8, 20_000, 0.01, 5e-4, (256, 512), 448, 0.2),
    "cam_coco_eps.py": (16, 256_500, 0.01, 5e-4, (256, 448), 321, 0.2),
}
STILL = {"resnet38": r"backbone/(conv1a|b2|b2_1|b2_2)/",
         "resnet50": r"backbone/(conv1|bn1|layer1_[0-2]|layer2_[0-3])/"}


@pytest.mark.parametrize("name", SPECIFIED)
def test_published_settings(name):
    c = configs.load(CONFIGS / name)
    batch, steps, lr, decay, long_side, crop, threshold = SPECIFIED[name]
    assert (c.device_batch, c.total_steps) == (batch, steps)
    # What SGD gets as momentum is the weight decay.
    assert (c.optim.lr, c.optim.weight_decay, c.optim.momentum) == (lr, decay, decay)
    assert (c.data.long_side, c.data.crop, c.data.flip) == (long_side, crop, 0.5)
    irn = c.model.encoder == "resnet50"
    assert c.data.jitter == ((0, 0, 0, 0) if irn else (0.3, 0.3, 0.3, 0.1))
    assert c.data.mean == (0.485, 0.456, 0.406) and c.data.std == (0.229, 0.224, 0.225)
    assert c.model.dropout == (0.5 if c.method == "cam" and not irn else 0.0)
    assert sorted(c.infer.scales) == [0.5, 1.0, 1.5, 2.0] and c.infer.flip
    assert (c.infer.threshold, c.infer.align) == (threshold, 16 if irn else 1)
    assert c.optim.poly_power == 0.9 and c.infer.normalise == "max"


@pytest.fixture
def thin(monkeypatch):
    """Both ResNets at a sixteenth of their width."""
    monkeypatch.setitem(registry.ENCODERS, "resnet38", registry.Encoder(
        lambda _, dtype: resnet38.ResNet38(width=1 / 16, dtype=dtype), None))
    monkeypatch.setitem(registry.ENCODERS, "resnet50", registry.Encoder(
        lambda config, dtype: resnet.ResNet(50, config.output_stride, width=1 / 16, dtype=dtype,
                                            **config.resnet), None))


def shapes_of(config):
    return jax.eval_shape(BUILD[config.method](config).init, jax.random.key(0)).params


@pytest.mark.parametrize("name", list(SPECIFIED)[:3])
def test_frozen_layers_get_neither_updates_nor_decay(thin, name):
    """All gradients are 1: frozen layers stay, all others go by gradient and decay at the rate of
    their group. Norms of ResNet-38 are no parameters at all, those of ResNet-50 decay from layer3
    on."""
    config = configs.load(CONFIGS / name)
    params = jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes_of(config))
    names = weights.flatten(params)
    norms = [n for n in names if re.search(r"/(bn|downsample_1)", n)]
    assert bool(norms) == (config.model.encoder == "resnet50")
    update = optim.build(config.optim, params, config.total_steps)
    changes, _ = jax.jit(lambda x: update.update(x, update.init(x), x))(params)
    for place, change in weights.flatten(changes).items():
        factor = 10 if place.startswith("head/") else 1
        if re.match(STILL[config.model.encoder], place):
            factor = 0
        want = -factor * config.optim.lr * (1 + config.optim.weight_decay)
        np.testing.assert_allclose(change, want, rtol=1e-5, err_msg=place)


@pytest.mark.parametrize("name, bound", [
    ("cam_voc_cam.py:resnet38", (6 / (12 + 20)) ** 0.5), ("cam_voc_cam.py:resnet50", 12**-0.5),
    ("cam_voc_eps.py:resnet38", (6 / (12 + 21)) ** 0.5)])
def test_heads_start_as_published(make_config, name, bound):
    """Xavier uniform for AffinityNet and EPS, PyTorch's own for IRN; on the toy's 12 channels."""
    config = configs.load(CONFIGS / name, {
        "model.encoder": "toy", "data.crop": "32", "infer.canvas": "exact",
        "optim.groups": "(('.*', 1., 1.),)"})
    params = BUILD[config.method](config).init(jax.random.key(0)).params
    kernel = np.asarray(params["head"]["kernel"])
    assert 0.95 * bound < np.abs(kernel).max() <= bound
    assert kernel.std() == pytest.approx(bound / 3**0.5, rel=0.1)


class Normed(nn.Module):
    """Features [b,h/8,w/8,8] behind a batch norm that learns its statistics."""

    norm: str = "batch"

    @nn.compact
    def __call__(self, image_bhwc, *, train: bool):
        x = nn.Dense(8, name="dense")(nn.avg_pool(image_bhwc, (8, 8), (8, 8)))
        return None, {"features": nn.relu(BatchNorm(self.norm, name="bn")(x, train=train))}


@pytest.mark.parametrize("norm", ["batch", "stored", "batch, frozen"])
def test_running_statistics_move_where_norms_learn_them(make_config, batch, monkeypatch, norm):
    norm, _, frozen = norm.partition(", ")
    monkeypatch.setitem(registry.ENCODERS, "toy", registry.Encoder(lambda *_: Normed(norm), None))
    config = make_config("cam", {"model.freeze_encoder": str(bool(frozen))})
    method = cam.build(config)
    before, after, metrics = one_step(method, batch)
    two = one_step(method, batch, devices=2)[1]
    old, new, mean = (s.extra["batch_stats"]["backbone"]["bn"] for s in (before, after, two))
    if frozen:  # it runs on them, too
        model = registry.build_classifier(config.model, 3)
        scores_bk, _ = model.apply(before.variables(), batch["image"], train=False)
        assert metrics["loss_cls"] == pytest.approx(float(cam.tag_loss(scores_bk, batch["tags"])),
                                                    rel=1e-5)
    if norm == "stored" or frozen:
        jax.tree.map(np.testing.assert_array_equal, new, old)
        return
    dense = before.params["backbone"]["dense"]
    x = batch["image"].reshape(4, 4, 8, 4, 8, 3).mean((2, 4)) @ dense["kernel"] + dense["bias"]
    np.testing.assert_allclose(new["mean"], 0.1 * x.mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(new["var"], 0.9 + 0.1 * x.reshape(-1, 8).var(0, ddof=1), rtol=1e-5)
    halves = [0.9 + 0.1 * part.reshape(-1, 8).var(0, ddof=1) for part in (x[:2], x[2:])]
    np.testing.assert_allclose(mean["var"], np.mean(halves, 0), rtol=1e-5)


# ---- data that cannot teach --------------------------------------------------------------------


@pytest.fixture
def pack(tmp_path):
    """(tags by id, split) → a packed folder of noise."""
    def make(tags, split):
        (tmp_path / "images").mkdir()
        for name in tags:
            Image.new("RGB", (40, 36)).save(tmp_path / "images" / f"{name}.png")
        (tmp_path / "classes.txt").write_text("background\nfox\nowl\nelk\n")
        rows = "".join(f"{n},{t}\n" for n, t in tags.items() if t is not None)
        (tmp_path / "tags.csv").write_text(f"id,tags\n{rows}")
        (tmp_path / f"{split}.txt").write_text("\n".join(tags))
        data = records.collect("folder", tmp_path, splits=(split,))
        return str(prepare.pack(data, "folder", tmp_path / "packed"))

    return make


def test_rows_without_a_tag_are_counted_and_named(pack):
    with pytest.raises(ValueError, match=r"tags\.csv: 3 rows, ids 'b', 'c', 'd': no tag; want"):
        pack({"a": "fox", "b": "000", "c": "", "d": "000"}, "train")


def test_photos_without_a_tag_are_counted_and_named_before_training(make_config, pack):
    """Packing lets them through in a split that is there to score."""
    packed = pack({"a": "fox", "b": None, "c": None}, "val")
    method = cam.build(make_config("cam", {"data.packed": packed, "data.split": "val"}))
    with pytest.raises(ValueError, match=r"split 'val': 2 of 3 photos \(b, c\) without a tag"):
        method.loader()


@pytest.mark.parametrize("names, complaint", [
    ("fox\nowl\n", "packed with 3 classes, config.classes='.*' names 2; name the classes"),
    ("owl\nfox\nelk\n", "names 3; class 1 is 'fox' there and 'owl' here"),
])
def test_other_classes_than_packed_are_named(make_config, pack, tmp_path, names, complaint):
    packed = pack({"a": "fox"}, "train")
    (tmp_path / "others.txt").write_text(names)
    fields = {"data.packed": packed, "classes": str(tmp_path / "others.txt")}
    with pytest.raises(ValueError, match=complaint):
        cam.build(make_config("cam", fields)).loader()
