"""Features of photos: an independent average of scales and mirror images, and files of others."""

import os
import pathlib

import flax.linen as nn
import jax
import numpy as np
import pytest
from PIL import Image

from wsssjax.core import config as configs
from wsssjax.core import files, weights
from wsssjax.models import registry
from wsssjax.refine import features

CONFIG = pathlib.Path(__file__).parents[2] / "configs/refine_voc_mars.py"
SMALL = {"model.encoder": "toy", "features.multiple": "8", "features.grid": "1",
         "features.scales": "(1.5,1.0,0.7)", "features.batch": "2"}
SIZES = {"a": (40, 56), "b": (33, 70), "c": (40, 56), "d": (40, 56), "e": (61, 47)}


class Toy(nn.Module):
    """Two maps at strides 4 and 8 that look one cell around."""

    tap_strides = (4, 8, 8, 8)

    @nn.compact
    def __call__(self, image_bhwc, *, train):
        x = nn.Conv(5, (4, 4), (4, 4), name="stem")(image_bhwc)
        y = nn.Conv(6, (3, 3), name="last")(nn.avg_pool(nn.relu(x), (2, 2), (2, 2)))
        return y.mean((1, 2)), {"tap0": x, "features": y}


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setitem(registry.ENCODERS, "toy", registry.Encoder(lambda *_: Toy(), None))


def load(folder, **changes):
    changes = {name.replace("__", "."): str(value) for name, value in changes.items()}
    return configs.load(CONFIG, {**SMALL, "model.encoder_weights": str(folder / "encoder.npz"),
                                 **changes})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five photos of three sizes, and an encoder with random weights under our names."""
    root, rng = tmp_path_factory.mktemp("features"), np.random.default_rng(0)
    for name, (h, w) in SIZES.items():
        Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)).save(root / f"{name}.png")
    variables = Toy().init(jax.random.key(3), np.zeros((1, 32, 32, 3), np.float32), train=False)
    np.savez(root / "encoder.npz", **weights.under("backbone", weights.flatten(variables)))
    return root


def paths(folder, names=SIZES):
    return {name: folder / f"{name}.png" for name in names}


def found(source, names):
    return dict(pair for batch in source.batches(list(names)) for pair in batch)


def plain(torch, tensors, image_hwc, layer):
    """The toy in torch: [1,d,p,q]."""
    conv = torch.nn.functional.conv2d
    kernel = {n: tensors[f"params/backbone/{n}/kernel"].permute(3, 2, 0, 1)
              for n in ("stem", "last")}
    bias = {n: tensors[f"params/backbone/{n}/bias"] for n in kernel}
    x = torch.tensor(image_hwc, dtype=torch.float32).permute(2, 0, 1)[None]
    x = conv(x, kernel["stem"], bias["stem"], stride=4)
    if layer == "tap0":
        return x
    pooled = torch.nn.functional.avg_pool2d(x.relu(), 2)
    return conv(pooled, kernel["last"], bias["last"], padding=1)


@pytest.mark.parametrize("layer, flip", [("features", True), ("tap0", False)])
def test_scales_are_averaged_on_the_first_grid(folder, layer, flip):
    torch = pytest.importorskip("torch")
    config = load(folder, features__layer=layer, features__flip=flip)
    got = found(features.open_source(config, paths(folder, "ab")), "ab")
    torch_of = {name: torch.tensor(x) for name, x in weights.load(folder / "encoder.npz").items()}
    assert sorted(got) == ["a", "b"]
    for name, (h, w) in list(SIZES.items())[:2]:
        total, count, grid = 0, 0, None
        for scale in (1.5, 1.0, 0.7):
            size = [int(np.ceil(round(side * scale) / 8)) * 8 for side in (h, w)]
            small = Image.open(folder / f"{name}.png").resize(size[::-1], Image.Resampling.BICUBIC)
            image = (np.asarray(small) / 255 - config.data.mean) / np.array(config.data.std)
            for step in (1, -1) if flip else (1,):
                one = plain(torch, torch_of, image[:, ::step].copy(), layer).flip(
                    [3] if step < 0 else [])
                grid = grid or one.shape[2:]
                total = total + torch.nn.functional.interpolate(one, size=grid, mode="bilinear",
                                                                align_corners=False)
                count += 1
        want = (total / count)[0].permute(1, 2, 0).numpy()
        assert got[name].dtype == np.float16 and got[name].shape == want.shape
        np.testing.assert_allclose(got[name], want, rtol=2e-3, atol=2e-3 * np.abs(want).max())


def test_a_mirrored_photo_has_mirrored_features(folder, tmp_path):
    """With mirror images in it, to half a float's rounding: no side is favoured."""
    photo = np.asarray(Image.open(folder / "a.png"))
    Image.fromarray(photo[:, ::-1]).save(tmp_path / "a.png")
    config = load(folder, features__scales="(1.0,2.0)")
    one = found(features.open_source(config, paths(folder, "a")), "a")["a"]
    other = found(features.open_source(config, paths(tmp_path, "a")), "a")["a"]
    np.testing.assert_allclose(other[:, ::-1], one, atol=2e-3 * np.abs(one).max())
    assert np.abs(other - one).max() > 0.1 * np.abs(one).max()


def test_photos_share_batches_and_batches_do_not_depend_on_what_is_left(folder):
    config = load(folder)
    source = features.open_source(config, paths(folder))
    assert source.plan == [["b"], ["a", "c"], ["d"], ["e"]]
    whole = found(source, SIZES)
    for name in SIZES:
        np.testing.assert_array_equal(found(source, [name])[name], whole[name])
    settings = load(folder, features__grid=24).features
    assert features.canvas((40, 56), settings) == (48, 48)
    assert features.canvas((5, 61), settings) == (24, 72)
    assert features.input_size((40, 56), 0.7, settings) == (40, 40)
    assert features.plan(SIZES, settings) == [["b"], ["a", "c"], ["d"], ["e"]]


def test_kept_features_are_those_computed(folder, tmp_path):
    config = load(folder, features__folder=tmp_path / "kept")
    first = found(features.open_source(config, paths(folder)), ["a", "b"])
    assert {p.name for p in (tmp_path / "kept").glob("*.npy")} == {"a.npy", "b.npy", "c.npy"}
    again = features.open_source(config, paths(folder))
    again.forward = None  # nothing is to be computed
    for name, want in found(again, ["a", "b"]).items():
        np.testing.assert_array_equal(want, first[name])
    with pytest.raises(ValueError, match="made with another layer .*another --config.features.fo"):
        features.open_source(load(folder, features__folder=tmp_path / "kept",
                                  features__layer="tap0"), paths(folder))
    with pytest.raises(ValueError, match="made with another precision "):
        features.open_source(load(folder, features__folder=tmp_path / "kept",
                                  precision="default"), paths(folder))
    stored = features.open_source(load(folder, features__folder=tmp_path / "kept",
                                       features__source="files"), paths(folder, "ab"))
    for name, want in found(stored, "ab").items():
        np.testing.assert_array_equal(want, first[name])
    assert files.read_json(tmp_path / "kept/features.json") == again.made_with()


def test_kept_features_are_not_those_of_other_photos_of_the_same_names(folder, tmp_path):
    config = load(folder, features__folder=tmp_path / "kept")
    found(features.open_source(config, paths(folder, "a")), "a")
    (tmp_path / "others").mkdir()
    other = np.random.default_rng(9).integers(0, 256, (*SIZES["a"], 3), dtype=np.uint8)
    Image.fromarray(other).save(tmp_path / "others/a.png")
    os.utime(tmp_path / "others/a.png", (0, 0))  # as old as photos are
    with pytest.raises(ValueError, match="kept: its files were made with another photos "):
        features.open_source(config, paths(tmp_path / "others", "a"))


@pytest.mark.parametrize("changes, message", [
    ({"model__encoder_weights": ""}, "encoder_weights is empty; give --weights=FILE, those of "
                                     "toy"),
    ({"features__layer": "tap7"}, "config.features.layer 'tap7' is unknown; did you mean 'tap0'"),
    ({"features__source": "file"}, "config.features.source 'file' is unknown; did you mean 'files"),
    ({"features__scales": "(1.0,0.0)"}, r"scales=\(1.0, 0.0\): want factors above 0"),
    ({"features__scales": "()"}, r"scales=\(\): want factors above 0"),
    ({"features__grid": "0"}, "config.features.grid=0: want 1 or more"),
    ({"features__source": "files"}, "config.features.folder=: no such folder"),
])
def test_bad_fields_are_named(folder, changes, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        features.open_source(load(folder, **changes), paths(folder))


def test_patches_must_fill_the_input(folder):
    settings = load(folder).features
    features.check(settings, (4, 8, 16, 32))
    with pytest.raises(ValueError, match="multiple=8: want a multiple of 14, the encoder's patch"):
        features.check(settings, (14, 14, 14, 14))


@pytest.mark.parametrize("damage, message", [
    (lambda p: p.write_bytes(b""), "x.npy: no features"),
    (lambda p: p.write_bytes(p.read_bytes()[:-4]), "x.npy: no features .*want a .npy of finite"),
    (lambda p: np.save(p, np.zeros((3, 4, 5))), "float64 of shape .3, 4, 5."),
    (lambda p: np.save(p, np.zeros((3, 4), np.float32)), "float32 of shape .3, 4."),
    (lambda p: np.save(p, np.zeros((3, 0, 5), np.float32)), "of shape .3, 0, 5."),
    (lambda p: np.save(p, np.full((3, 4, 6), np.nan, np.float16)), "NaN or infinity"),
    (lambda p: np.save(p, np.array([{}]), allow_pickle=True), "x.npy: no features"),
    (lambda p: np.savez(p.open("wb"), x=np.zeros((3, 4, 6), np.float32)), "x.npy: no array"),
    (lambda p: p.write_bytes(np.lib.format.magic(1, 0) + (118).to_bytes(2, "little") + str(
        {"descr": "<f4", "fortran_order": False, "shape": (9**6, 9**6, 9)}).ljust(117).encode()
        + b"\n"), "x.npy: no features"),
])
def test_broken_files_are_named(tmp_path, damage, message):
    np.save(tmp_path / "x.npy", np.zeros((3, 4, 6), np.float32))
    damage(tmp_path / "x.npy")
    with pytest.raises(ValueError, match=message):
        features.read(tmp_path / "x.npy")


def test_files_of_another_photo_are_named(folder, tmp_path):
    rng = np.random.default_rng(0)
    for name in "abc":
        np.save(tmp_path / f"{name}.npy", rng.normal(size=(5, 7, 6)).astype(np.float32))
    source = features.Stored(tmp_path, paths(folder, "abc"))
    assert {n: x.shape for n, x in found(source, "cb").items()} == {"c": (5, 7, 6), "b": (5, 7, 6)}
    np.save(tmp_path / "b.npy", np.zeros((5, 7, 9), np.float32))
    with pytest.raises(ValueError, match="b.npy: 9 channels, those of a have 6"):
        found(source, "b")
    np.save(tmp_path / "b.npy", np.zeros((16, 6, 6), np.float32))
    with pytest.raises(ValueError, match=r"b.npy: a grid of 16 x 6 on a photo of 33 x 70 \(h x w"):
        found(source, "b")
    with pytest.raises(ValueError, match=r"has nothing for 'd' \(2 of 5 ids missing\)"):
        features.Stored(tmp_path, paths(folder))
    assert source.made_from("a") == [tmp_path / "a.npy"]


@pytest.mark.parametrize("argument", ["", "dinov2_s", "efficientnet_lite0", "files"])
def test_shipped_settings(argument):
    config = configs.load(f"{CONFIG}:{argument}" if argument else CONFIG)
    how = config.features
    assert how.scales == (2.0, 1.0, 1.5, 0.5) and how.flip and how.grid % how.multiple == 0
    assert (how.source == "files") == (argument == "files")
    if argument != "efficientnet_lite0":
        strides = registry.build_encoder(config.model).tap_strides
        features.check(how, strides)
        # No scale takes a photo's sides up: the canvas is made for all of them.
        for scale in how.scales:
            assert features.input_size((375, 500), scale, how) == tuple(
                side * scale for side in features.canvas((375, 500), how))
    with pytest.raises(ValueError, match="config argument 'dino'"):
        configs.load(f"{CONFIG}:dino")
