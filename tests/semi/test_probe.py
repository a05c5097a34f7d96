"""The probe: its features, its two steps against plain torch, its restarts, its label maps."""

import functools
import json
import pathlib
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from wsssjax import predict, train
from wsssjax.core import checkpoint, files, optim, parallel, resize, weights
from wsssjax.core import config as configs
from wsssjax.core import state as states
from wsssjax.data import batch as batches
from wsssjax.data import label_map, photos
from wsssjax.data.classes import VOC_CLASSES
from wsssjax.models import probe_head
from wsssjax.semi import probe, probe_features, student, unimatch_v2

CONFIG = pathlib.Path(__file__).parents[2] / "configs/semi_voc_probe.py"
TAPS = (1, 2, 3)
SIDE = 48


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Eight photos of several sizes, labels of five, three lists, weights of a small encoder."""
    root = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    (root / "photos").mkdir()
    for i in range(8):
        label = np.kron(rng.integers(0, 4, (3, 4)), np.ones((20, 16))).astype(np.uint8)
        label[:8, : 8 + i] = 255
        image = np.stack([label * 40, 255 - label * 30, rng.integers(0, 256, label.shape)], -1)
        Image.fromarray(image.astype(np.uint8)[: 60 - i]).save(root / f"photos/p{i}.png")
        label_map.write(root / f"labels/p{i}.png", label[: 60 - i])
    for name, ids in (("labeled", range(5)), ("unlabeled", range(5, 8))):
        (root / f"{name}.txt").write_text(
            "".join(f"photos/p{i}.png labels/p{i}.png\n" for i in ids))
    config = make_config(root)
    shapes = jax.eval_shape(functools.partial(student.first_variables, student.build_model(config)),
                            jax.random.key(0))

    def numbers(path, x):  # such that features differ from photo to photo and from cell to cell
        std = (2 / np.prod(x.shape[:-1])) ** 0.5 if x.ndim > 1 else 0.05
        return rng.normal(path[-1].key == "gain", std, x.shape).astype(np.float32)

    variables = jax.tree_util.tree_map_with_path(numbers, shapes)
    weights.save(root / "encoder.safetensors", variables)
    return root


def make_config(root, **changes):
    config = configs.load(CONFIG)
    fields = {
        "model.encoder": "small_cnn", "model.output_stride": 16, "model.head_width": 6,
        "model.head_taps": TAPS, "model.encoder_weights": str(root / "encoder.safetensors"),
        "probe.side": SIDE, "data.root": str(root), "data.labeled": str(root / "labeled.txt"),
        "data.unlabeled": str(root / "unlabeled.txt"), "device_batch": 2, "total_steps": 6,
        "log_steps": 1, "save_steps": 2, "predict.batch": 3, "predict.multiple": 16,
        "conf_threshold": 0.06, "optim.lr": 1e-2, "optim.lag_steps": 1}
    for name, value in (fields | {k.replace("__", "."): v for k, v in changes.items()}).items():
        node = config
        *parents, last = name.split(".")
        for part in parents:
            node = node[part]
        node[last] = value
    return config


def everything(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}


def paths_of(world):
    return sorted((world / "photos").iterdir())


@pytest.fixture(scope="module")
def kept(world, tmp_path_factory):
    """(features of all photos, folder where they are kept)."""
    folder = tmp_path_factory.mktemp("kept")
    config = make_config(world, probe__features=str(folder))
    probe_features.Features(config).read(paths_of(world)[3:])  # a part, in another order of making
    return probe_features.Features(config).read(paths_of(world)), folder


# ----------------------------------------------------------------------------------- features


def test_features_are_those_of_a_direct_encode(world, kept):
    config = make_config(world)
    model = student.build_model(config)
    template = jax.eval_shape(functools.partial(student.first_variables, model), jax.random.key(0))
    variables = weights.restore(template, weights.load(world / "encoder.safetensors"))
    encode = jax.jit(functools.partial(model.apply, variables, method="encode"))
    for path, maps in zip(paths_of(world), kept[0], strict=True):
        small = resize.resize_pillow(jnp.asarray(photos.read_photo(path)), (SIDE, SIDE), "bilinear")
        image = (np.asarray(small, np.float32) / 255 - np.float32(config.data.mean)) / np.float32(
            config.data.std)
        assert tuple(maps) == TAPS
        for side, x in enumerate((image, image[:, ::-1])):
            want = encode(x[None])
            for i in TAPS:
                assert maps[i].dtype == np.float16 and np.ptp(maps[i].astype(np.float32)) > 0.1
                np.testing.assert_allclose(maps[i][side], want[i][0], rtol=1e-3, atol=1e-3)


def test_kept_features_are_the_same_bits_and_are_made_once(world, kept, monkeypatch):
    first, folder = kept
    before = everything(folder)
    assert len(before) == 9 and probe_features.SETTINGS in before
    want = probe_features.Features(make_config(world)).read(paths_of(world))
    monkeypatch.setattr(probe_features, "encoder", lambda config: pytest.fail("made again"))
    config = make_config(world, probe__features=str(folder))
    again = probe_features.Features(config).read(paths_of(world))
    for found in (first, again):
        jax.tree.map(np.testing.assert_array_equal, found, want)
    assert everything(folder) == before


def test_another_photo_of_the_same_id_has_features_of_its_own(world, kept, tmp_path):
    folder = shutil.copytree(kept[1], tmp_path / "kept")
    features = probe_features.Features(make_config(world, probe__features=str(folder)))
    (tmp_path / "other").mkdir()
    Image.fromarray(photos.read_photo(world / "photos/p1.png")).save(tmp_path / "other/p0.png",
                                                                    compress_level=1)
    (other,) = features.read([tmp_path / "other/p0.png"])
    (own,) = features.read([world / "photos/p0.png"])
    jax.tree.map(np.testing.assert_array_equal, other, kept[0][1])
    jax.tree.map(np.testing.assert_array_equal, own, kept[0][0])
    assert len(list(folder.glob("p0-*.npz"))) == 2


@pytest.mark.parametrize("field, value, named", [
    ("probe__side", 32, "another side "), ("probe__flip", False, "another flip "),
    ("model__head_taps", (1, 2), "another taps "), ("data__mean", (0.1, 0.2, 0.3), "colours"),
    ("model__encoder_weights", "other", "weights")])
def test_a_folder_made_otherwise_is_refused(world, kept, tmp_path, field, value, named):
    if value == "other":
        flat = weights.load(world / "encoder.safetensors")
        weights.save(tmp_path / "other.safetensors", {n: x + 1 for n, x in flat.items()})
        value = str(tmp_path / "other.safetensors")
    config = make_config(world, probe__features=str(kept[1]), **{field: value})
    with pytest.raises(ValueError, match=f"made with .*{named}.*give another --config.probe.feat"):
        probe_features.Features(config)


@pytest.mark.parametrize("damage", ["cut", "empty", "float32", "names", "rows"])
def test_damaged_features_are_an_error_that_names_the_file(world, kept, tmp_path, damage):
    folder = shutil.copytree(kept[1], tmp_path / "kept")
    (path,) = folder.glob("p0-*.npz")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-700])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        change = {"float32": lambda x: x.astype(np.float32), "rows": lambda x: x[[0, 1, 1]],
                  "names": lambda x: x}[damage]
        prefix = "map" if damage == "names" else "tap"
        np.savez(path, **{f"{prefix}{i}": change(x) for i, x in kept[0][0].items()})
    config = make_config(world, probe__features=str(folder))
    with pytest.raises(ValueError, match="p0-.*remove it, it is made again") as error:
        probe_features.Features(config).read([world / "photos/p0.png"])
    assert "\n" not in str(error.value)


def test_what_cannot_work_is_refused(world):
    build = probe.build
    with pytest.raises(ValueError, match="encoder_weights is empty"):
        build(make_config(world, model__encoder_weights=""))
    with pytest.raises(ValueError, match="freeze_encoder is false"):
        build(make_config(world, model__freeze_encoder=False))
    with pytest.raises(ValueError, match="config.probe.side is 0"):
        build(make_config(world, probe__side=0))
    with pytest.raises(ValueError, match="head_taps is .*rising"):
        build(make_config(world, model__head_taps=(3, 1)))
    patches = configs.load(f"{CONFIG}:small", {"model.encoder_weights": "x", "probe.side": "250"})
    with pytest.raises(ValueError, match="250; want a multiple of 14"):
        build(patches)
    with pytest.raises(ValueError, match="config.model.decoder is 'dpt'; method 'probe' trains"):
        build(make_config(world, model__decoder="dpt"))
    with pytest.raises(ValueError, match="decoder='probe': reads config.model.head_taps"):
        config = configs.load(CONFIG.with_name("semi_voc_unimatch_v2.py"))
        config.model.decoder = "probe"
        student.build_model(config)
    config = make_config(world)
    (world / "gone.txt").write_text("photos/nobody.png labels/p0.png\n")
    with pytest.raises(FileNotFoundError, match="nobody"):
        build(make_config(world, data__labeled=str(world / "gone.txt"))).loader()
    with pytest.raises(FileNotFoundError, match="nobody.png: no such file"):
        probe_features.Features(config).read([world / "photos/nobody.png"])


@pytest.mark.parametrize("side, near", [(264, "256 or 288"), (272, "256 or 288"),
                                        (300, "288 or 320"), (257, "256 or 288")])
def test_a_side_whose_boxes_would_cut_through_cells_is_refused(world, side, near):
    """Maps 1, 2 and 3 of strides 8, 16 and 32; what there is of cells, the network says itself."""
    config = make_config(world, probe__side=side)
    with pytest.raises(ValueError, match=f"side is {side}: its maps have .* want {near}$") as error:
        probe.build(config)
    model = student.build_model(config)
    shapes = jax.eval_shape(functools.partial(student.first_variables, model), jax.random.key(0))
    made = jax.eval_shape(functools.partial(model.apply, method="encode"), shapes,
                          jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32))
    cells = [made[i].shape[1] for i in TAPS]
    assert str(cells) in str(error.value) and any(cells[0] % n for n in cells)
    for fits in (256, *map(int, near.split(" or "))):
        probe_features.check(make_config(world, probe__side=fits))
    probe_features.check(make_config(world, probe__side=side, model__head_taps=(2,)))


def test_threads_build_one_network(world, monkeypatch):
    real, built = probe_features.encoder, []

    def slow(config):
        built.append(config)
        time.sleep(0.2)
        return real(config)

    monkeypatch.setattr(probe_features, "encoder", slow)
    # As from Python 3.12 on, whose cached_property has no lock of its own.
    plain = property(lambda self: self.__dict__.get("_forward") or self.__dict__.setdefault(
        "_forward", probe_features.encoder(self.config)))
    monkeypatch.setattr(probe_features.Features, "forward", plain)
    assert len(probe_features.Features(make_config(world)).read(paths_of(world))) == 8
    assert len(built) == 1


def test_features_without_mirror_images(world, kept, tmp_path):
    """Half the work for photos that are only looked at; a training makes the rest."""
    config = make_config(world, probe__features=str(tmp_path))
    alone = probe_features.Features(config, mirror=False).read(paths_of(world))
    for one, both in zip(alone, kept[0], strict=True):
        for i in TAPS:
            assert len(one[i]) == 1
            # Another batch size may round another way.
            np.testing.assert_allclose(one[i][0], both[i][0], rtol=2e-3, atol=2e-4)
    again = probe_features.Features(config).read(paths_of(world))
    jax.tree.map(np.testing.assert_array_equal, again, kept[0])
    assert everything(tmp_path) == everything(kept[1])
    few = probe_features.Features(config, mirror=False).read(paths_of(world))  # of whole files
    jax.tree.map(lambda x, both: np.testing.assert_array_equal(x, both[:1]), few, kept[0])


# ------------------------------------------------------------------------------------- loader


def test_batches_hold_what_the_table_of_keys_says(world, kept):
    features, folder = kept
    config = make_config(world, probe__features=str(folder), data__strong__cut_p=1.0)
    rows = 2 * parallel.device_count()
    loader = probe.loader(config, unlabelled=True)
    mirrored = set()
    for _ in range(6):
        batch = next(loader)
        assert set(batch) == {"label", "cut1", "cut2", *(f"{p}{i}" for p in ("tap", "weak_tap")
                                                         for i in TAPS)}
        batches.device_arrays(batch)
        for r in range(rows):
            # Which photo it is, the maps tell; its label must be that photo's, turned likewise.
            which, side = next((n, s) for n in range(5) for s in (0, 1)
                               if (features[n][2][s] == batch["tap2"][r]).all())
            mirrored.add(side)
            for i in TAPS:
                np.testing.assert_array_equal(batch[f"tap{i}"][r], features[which][i][side])
            label = label_map.read(world / f"labels/p{which}.png", 21)
            p, q = batch["label"].shape[1:]
            want = np.array([[label[(2 * y + 1) * label.shape[0] // (2 * p),
                                    (2 * x + 1) * label.shape[1] // (2 * q)]
                              for x in range(q)] for y in range(p)])[:, :: -1 if side else 1]
            np.testing.assert_array_equal(batch["label"][r], want)
            assert any((features[n][2][s] == batch["weak_tap2"][r]).all() for n in range(5, 8)
                       for s in (0, 1))
            for key in ("cut1", "cut2"):
                box, coarse = batch[key][r], batch["tap3"].shape[1]
                cells = box.reshape(coarse, p // coarse, coarse, q // coarse)
                assert box.shape == (p, q)
                assert (cells.all((1, 3)) == cells.any((1, 3))).all(), "whole cells of the coarsest"
    assert mirrored == {0, 1} and (batch["label"] == 255).any()
    loader.close()


def test_tags_go_with_the_unlabelled_maps(world, kept, tmp_path):
    (tmp_path / "tags.csv").write_text("id,tags\np5,cat\np6,dog;sofa\np7,\n")
    config = make_config(world, probe__features=str(kept[1]), data__tags=str(tmp_path / "tags.csv"))
    loader = probe.loader(config, unlabelled=True)
    owner = {kept[0][n][2][s].tobytes(): n for n in range(8) for s in (0, 1)}
    found = {}
    for _ in range(6):
        batch = next(loader)
        for map_pqd, tags_k in zip(batch["weak_tap2"], batch["tags"], strict=True):
            found.setdefault(owner[map_pqd.tobytes()], set()).add(tuple(np.flatnonzero(tags_k)))
    loader.close()
    names = VOC_CLASSES[1:]
    assert found == {5: {(names.index("cat"),)}, 7: {()},
                     6: {(names.index("dog"), names.index("sofa"))}}


# -------------------------------------------------------------------------------------- steps


class TorchProbe:
    """The head and both losses in plain torch, float64, row by row."""

    def __init__(self, torch, config, params):
        self.torch, self.config = torch, config
        flat = {optim.path_name(p): x for p, x in jax.tree_util.tree_leaves_with_path(params)}
        self.student = {n: torch.tensor(np.array(x)).double() for n, x in flat.items()}
        self.teacher = {n: x.clone() for n, x in self.student.items()}
        for x in self.student.values():
            x.requires_grad_()
        self.optimizer = torch.optim.AdamW(
            list(self.student.values()), lr=config.optim.lr, eps=config.optim.eps,
            weight_decay=config.optim.weight_decay)

    def head(self, params, taps):
        torch, total = self.torch, 0.0
        for i, x in taps.items():
            x = x @ params[f"project_{i}/kernel"][0, 0] + params[f"project_{i}/bias"]
            grid = taps[min(taps)].shape[1:3]
            total = total + torch.nn.functional.interpolate(
                x.permute(0, 3, 1, 2), size=grid, mode="bilinear", align_corners=False)
        x = total.relu().permute(0, 2, 3, 1)
        return x @ params["score/kernel"][0, 0] + params["score/bias"]

    def mix(self, x, box, factor):
        out = x.clone()
        for b in range(len(x)):
            for r in range(x.shape[1]):
                for c in range(x.shape[2]):
                    if box[b, r * factor, c * factor]:
                        out[b, r, c] = x[len(x) - 1 - b, r, c]
        return out

    def losses(self, batch, kept=None, whole=None):
        """{name: loss} of the rows of one device; kept, whole: its draws, of a probe that learns
        from unlabelled photos."""
        torch, config = self.torch, self.config
        xent = torch.nn.functional.cross_entropy

        def maps(prefix):
            return {i: torch.tensor(batch[f"{prefix}{i}"]).double() for i in TAPS}

        z_x = self.head(self.student, maps("tap"))
        label = torch.tensor(batch["label"]).long()
        loss_x = xent(z_x.permute(0, 3, 1, 2), label, ignore_index=255)
        if kept is None:
            return {"loss": loss_x, "loss_x": loss_x}
        weak = maps("weak_tap")
        with torch.no_grad():
            conf, found = self.head(self.teacher, weak).softmax(-1).max(-1)
        losses = []
        for v in (1, 2):
            box = batch[f"cut{v}"]
            view = {}
            for (i, x), keep in zip(weak.items(), kept, strict=True):
                on = torch.tensor(np.array(keep)).double()
                mask = 2 * on if v == 1 else 2 - 2 * on
                mask[torch.tensor(np.array(whole))] = 1.0
                factor = box.shape[1] // x.shape[1]
                view[i] = self.mix(x, box, factor) * mask[:, None, None, :]
            z = self.head(self.student, view)
            sure = (self.mix(conf[..., None], box, 1) >= config.conf_threshold)[..., 0]
            nll = xent(z.permute(0, 3, 1, 2), self.mix(found[..., None], box, 1)[..., 0],
                       reduction="none")
            losses.append((nll * sure).mean())
        loss_u = sum(losses) / 2
        return {"loss": (loss_x + config.unlabelled_weight * loss_u) / 2, "loss_x": loss_x,
                "loss_u": loss_u, "mask_ratio": (conf >= config.conf_threshold).double().mean()}

    def step(self, k, devices):
        """{name: value} after a step down the mean gradient of the devices, each (rows, draws)."""
        config = self.config
        each = [self.losses(rows, *drawn) for rows, drawn in devices]
        mean = {name: sum(one[name] for one in each) / len(each) for name in each[0]}
        self.optimizer.zero_grad()
        mean["loss"].backward()
        grad = float(sum((x.grad**2).sum() for x in self.student.values()) ** 0.5)
        self.optimizer.param_groups[0]["lr"] = config.optim.lr * (
            1 - max(k - 1, 0) / config.total_steps) ** config.optim.poly_power
        self.optimizer.step()
        alpha = min(1 - 1 / (k + 1), config.ema_limit)
        for n, x in self.student.items():
            self.teacher[n] = alpha * self.teacher[n] + (1 - alpha) * x.detach()
        return {name: x.item() for name, x in mean.items()} | {
            "grad_head": grad, "grad_backbone": 0.0}


@pytest.fixture(scope="module")
def prepared(world, kept):
    """(config, model, batch i): three batches of eight rows, from real features."""
    config = make_config(world, probe__features=str(kept[1]), device_batch=4,
                         unlabelled_weight=0.7, conf_threshold=0.6, data__strong__cut_p=1.0)
    loader = probe.loader(config, unlabelled=True)
    made = [next(loader) for _ in range(3)]
    loader.close()
    for batch in made:
        batch["label"] = np.array(batch["label"])
        batch["label"][4:, 3:] = 255  # of two devices' rows: a mean over all cells would differ
    return config, student.build_model(config), made


def first_state(config, model, *, semi, devices):
    """A state whose head is sure of some cells and not of others."""
    shapes = jax.eval_shape(functools.partial(student.first_variables, model), jax.random.key(0))
    variables = weights.restore(shapes, weights.load(config.model.encoder_weights))
    variables["params"]["head"] = jax.tree.map(lambda x: 2 * x, variables["params"]["head"])
    state = states.create(variables, student.optimizer(config, variables["params"]), ema=semi,
                          learned=functools.partial(student.trainable, config))
    return parallel.replicate(state, devices=devices)


@pytest.mark.parametrize("semi, devices", [(True, 2), (False, 1)])
def test_three_steps_match_torch(prepared, semi, devices):
    """Each device draws for itself and divides by its own cells; then gradients are averaged."""
    torch = pytest.importorskip("torch")
    config, model, made = prepared
    state = first_state(config, model, semi=semi, devices=devices)
    frozen = parallel.to_host(state.params["backbone"])
    run = TorchProbe(torch, config, state.params["head"])
    function = functools.partial(probe.train_step if semi else probe.supervised_step,
                                 config=config, model=model)
    step = parallel.compile_step(function, devices=devices)
    widths = [made[0][f"tap{i}"].shape[-1] for i in TAPS]
    key, ratios = jax.random.key(3), []
    for k, batch in enumerate(made):
        each = []
        for d in range(devices):
            own_key = jax.random.fold_in(jax.random.fold_in(key, k), d)
            rows = {n: x[4 * d : 4 * d + 4] for n, x in batch.items()}
            each.append((rows, unimatch_v2.draw_drop(own_key, 4, widths) if semi else ()))
        want = run.step(k, each)
        state, got = step(state, {n: x[: 4 * devices] for n, x in batch.items()
                                  if semi or n == "label" or n.startswith("tap")}, key)
        assert set(got) == set(want)
        for name, value in want.items():
            np.testing.assert_allclose(got[name], value, rtol=3e-4, atol=1e-7, err_msg=name)
        ratios.append(want.get("mask_ratio", 0.5))
    assert any(0.1 < r < 0.9 for r in ratios), "some cells must teach and some must not"
    teacher = [(state.ema["head"], run.teacher)] if semi else []
    for tree, theirs in ((state.params["head"], run.student), *teacher):
        for path, x in jax.tree_util.tree_leaves_with_path(tree):
            name = optim.path_name(path)
            np.testing.assert_allclose(x, theirs[name].detach(), atol=5e-5, err_msg=name)
    jax.tree.map(np.testing.assert_array_equal, parallel.to_host(state.params["backbone"]), frozen)


def test_the_head_reads_four_maps_or_those_in_use_and_drops_channels(prepared):
    config, model, made = prepared
    state = first_state(config, model, semi=False, devices=1)
    maps = probe.maps({n: x[:4] for n, x in made[0].items()}, "tap")
    four = (jnp.ones((4, 24, 24, model.tap_widths[0])), *maps.values())
    decode = functools.partial(model.apply, state.variables(), method="decode")
    want = decode(maps, (30, 20))
    np.testing.assert_array_equal(decode(four, (30, 20)), want)
    assert want.shape == (4, 30, 20, 21) and want.dtype == jnp.float32
    drop = tuple(jnp.asarray(np.random.default_rng(i).integers(0, 3, (4, width)), jnp.float32)
                 for i, width in enumerate(model.tap_widths))
    by_hand = {i: maps[i] * drop[i][:, None, None, :] for i in TAPS}
    np.testing.assert_allclose(decode(four, (30, 20), drop), decode(by_hand, (30, 20)), atol=1e-6)
    assert isinstance(model.head, probe_head.ProbeHead)


# ------------------------------------------------------------------------- trainings, label maps


@pytest.fixture(scope="module")
def trained(world, kept, tmp_path_factory):
    """(config, folder) of a training that nobody disturbed; features are kept."""
    folder = tmp_path_factory.mktemp("trained")
    config = make_config(world, probe__features=str(kept[1]))
    train.train(config, folder / "run")
    return config, folder


def test_a_stopped_run_goes_on_with_the_same_bits(world, trained, tmp_path, monkeypatch):
    """Stopped after the checkpoint of step 2, in step 3; then features in memory."""
    config, folder = trained
    again = make_config(world)
    real, calls = checkpoint.save, []

    def save(*arguments):
        real(*arguments)
        calls.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", save)
    with pytest.raises(KeyboardInterrupt):
        train.train(again, tmp_path)
    monkeypatch.undo()
    assert checkpoint.steps(tmp_path / "checkpoints") == [2] and calls == [1]
    train.train(again, tmp_path)
    for name in ("weights.safetensors", "weights_ema.safetensors", "metrics.jsonl"):
        assert (tmp_path / name).read_bytes() == (folder / "run" / name).read_bytes(), name
    rows = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]


def test_label_maps_equal_a_direct_decode(world, trained, tmp_path):
    config, folder = trained
    path = folder / "run/weights_ema.safetensors"
    ids = probe.predict_folder(config, path, world / "photos", tmp_path / "out")
    assert ids == [f"p{i}" for i in range(8)]
    model = student.build_model(config)
    template = jax.eval_shape(functools.partial(student.first_variables, model), jax.random.key(0))
    variables = weights.restore(template, weights.load(path))
    decode = jax.jit(functools.partial(model.apply, variables, method="decode"),
                     static_argnums=1)
    for name in ids[::3]:
        photo = photos.read_photo(world / f"photos/{name}.png")
        image = probe_features.squashed(photo, config)
        taps = jax.jit(functools.partial(model.apply, method="encode"))(variables, image[None])
        taps = [x.astype(jnp.float16).astype(jnp.float32) for x in taps]
        logits = decode(taps, photo.shape[:2])[0]
        label = label_map.read(tmp_path / f"out/{name}.png", 21, photo.shape[:2])
        top = np.sort(np.asarray(logits), -1)
        clear = top[..., -1] - top[..., -2] > 1e-3  # in half floats a rounding may tip the rest
        assert clear.mean() > 0.95
        np.testing.assert_array_equal(label[clear], np.asarray(logits).argmax(-1)[clear])


def test_label_maps_are_kept_and_other_settings_refused(world, trained, tmp_path):
    config, folder = trained
    run, out = folder / "run", tmp_path / "out"
    probe.predict_folder(config, run / "weights.safetensors", world / "photos", out)
    want = everything(out)
    (out / "p5.png").unlink()
    times = {p.name: p.stat().st_mtime_ns for p in out.glob("*.png")}
    few = make_config(world, probe__features=str(tmp_path / "few"))
    probe.predict_folder(few, run / "weights.safetensors", world / "photos", out)
    assert everything(out) == want
    (made,) = (tmp_path / "few").glob("*.npz")  # of the one that lacked, without its mirror image
    assert {len(x) for x in np.load(made).values()} == {1}
    assert all((out / name).stat().st_mtime_ns == t for name, t in times.items())
    with pytest.raises(ValueError, match="made with another head "):
        probe.predict_folder(config, run / "weights_ema.safetensors", world / "photos", out)
    with pytest.raises(ValueError, match="made with another side"):
        probe.predict_folder(make_config(world, probe__side=32), run / "weights.safetensors",
                             world / "photos", out)


def test_weights_that_do_not_fit_are_refused(world, trained, tmp_path):
    config, folder = trained
    path = folder / "run/weights.safetensors"
    flat = weights.load(path)
    name = next(n for n in flat if n.startswith("params/backbone") and n.endswith("kernel"))
    weights.save(tmp_path / "other.safetensors", flat | {name: flat[name] + 1})
    with pytest.raises(ValueError, match="trained on another encoder than"):
        probe.predict_folder(config, tmp_path / "other.safetensors", world / "photos",
                             tmp_path / "o")
    short = {n: x for n, x in flat.items() if "score/bias" not in n}
    weights.save(tmp_path / "short.safetensors", short)
    with pytest.raises(ValueError, match="short.safetensors.*missing 1 name.*score/bias"):
        probe.predict_folder(config, tmp_path / "short.safetensors", world / "photos",
                             tmp_path / "o")
    assert not (tmp_path / "o").exists()
    with pytest.raises(FileNotFoundError, match="no such weights"):
        probe.predict_folder(config, tmp_path / "none", world / "photos", tmp_path / "o")


def test_the_ordinary_command_takes_the_weights(world, trained, tmp_path):
    config, folder = trained
    predict.run(config, folder / "run", world / "photos", tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.png"))) == 8
    assert files.read_json(tmp_path / "out/predict.json")["model"]["decoder"] == "probe"


def test_the_supervised_method_reads_no_unlabelled_list(world, kept):
    config = make_config(world, method="probe_supervised", data__unlabeled="nowhere.txt",
                         probe__features=str(kept[1]))
    method = train.METHODS[config.method](config)
    loader = method.loader()
    assert set(next(loader)) == {"label", *(f"tap{i}" for i in TAPS)}
    loader.close()
    assert method.total_steps == train.METHODS["probe"](config).total_steps == 6


@pytest.mark.parametrize("argument, taps", [("", (2, 3)), ("base", (3,))])
def test_shipped_config(argument, taps, tmp_path):
    config = configs.load(f"{CONFIG}:{argument}", {"model.encoder_weights": "weights"})
    method = train.METHODS[config.method](config)
    assert method.total_steps == config.total_steps
    assert student.build_model(config).head.taps == taps
    with pytest.raises(ValueError, match="config argument 'huge'"):
        configs.load(f"{CONFIG}:huge")
