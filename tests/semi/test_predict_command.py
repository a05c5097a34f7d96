"""`python -m wsssjax.predict`: its files, its restarts, and what it says about bad input."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from wsssjax import predict
from wsssjax.core import config as configs
from wsssjax.core import crf, files, resize, weights
from wsssjax.data import classes, label_map, photos
from wsssjax.semi import multi_scale, pixels, student

CONFIG = str(pathlib.Path(__file__).parents[2] / "configs/semi_voc_supervised.py")
SMALL = {"predict.multiple": "32", "model.encoder": "small_cnn", "model.output_stride": "8",
         "model.head_width": "8", "predict.batch": "2", "data.crop": "64", "data.root": "nowhere"}
SIZES = {"a": (64, 96), "b": (61, 99), "c": (70, 81), "d": (64, 97), "e": (33, 35)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(model, variables, file of the weights) of a random segmenter."""
    settings = configs.load(CONFIG, SMALL)
    model = student.build_model(settings)
    variables = student.init(settings, model, jax.random.key(0), teacher=False).variables()
    # Enlarged, so that logits vary within a photo; shifted, so that a forgotten bias shows.
    variables = jax.tree.map(
        lambda x: 2.5 * x + 0.05 * np.sin(np.arange(x.size)).reshape(x.shape), variables)
    # The last layer brings them back to the size of real logits, for which the bounds are meant.
    last = jax.tree.map(lambda x: 0.02 * x, variables["params"]["head"]["scratch"]["output_conv_2"])
    variables["params"]["head"]["scratch"]["output_conv_2"] = last
    path = tmp_path_factory.mktemp("weights") / "segmenter.safetensors"
    weights.save(path, variables)
    return model, variables, path


@pytest.fixture
def folder(tmp_path):
    """Five photos: JPEG, PNG, and a PNG with a palette."""
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for name, (h, w) in SIZES.items():
        coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        image = coarse.resize((w, h), Image.Resampling.BICUBIC)
        image = image.convert("P") if name == "e" else image
        image.save(tmp_path / "photos" / f"{name}.{'jpg' if name in 'ab' else 'png'}")
    return tmp_path


@pytest.fixture
def quick(monkeypatch):
    """Puts a fixed product with the colours in the network's place, where files are what counts."""
    weight = np.random.default_rng(0).normal(size=(3, 21)).astype(np.float32)

    def network(image_bhwc, size_b2=None):
        scores = image_bhwc @ weight
        return scores if size_b2 is None else (scores, size_b2)

    monkeypatch.setattr(predict, "restored", lambda *_: network)


def settings_of(**changes):
    return SMALL | {name.replace("__", "."): value for name, value in changes.items()}


def arguments(folder, weights_path, out, save="labels,logits", **changes):
    overrides = settings_of(**changes)
    return [f"--config={CONFIG}", f"--weights={weights_path}", f"--images={folder / 'photos'}",
            f"--out={out}", f"--save={save}", *(f"--config.{k}={v}" for k, v in overrides.items())]


def contents(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_files_equal_one_photo_at_a_time(trained, folder):
    model, variables, path = trained
    predict.main(arguments(folder, path, folder / "out"))
    settings = configs.load(CONFIG, SMALL)
    forward = jax.jit(functools.partial(model.apply, train=False))
    for name, (h, w) in SIZES.items():
        (photo,) = (folder / "photos").glob(f"{name}.*")
        image = photos.read_photo(photo) / np.float32(255)
        image = (image - np.float32(settings.data.mean)) / np.float32(settings.data.std)
        grid = tuple(max(round(side / 32), 1) * 32 for side in (h, w))
        x = resize.resize_corners(jnp.asarray(image, jnp.float32), grid)
        logits, _ = forward(variables, x[None])
        want = np.asarray(resize.resize_corners(logits[0], (h, w)))
        got = np.load(folder / "out" / f"{name}.npy")
        assert got.dtype == np.float32 and got.shape == (h, w, 21)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4, err_msg=name)
        label = label_map.read(folder / "out" / f"{name}.png", 21, (h, w))
        np.testing.assert_array_equal(label, got.argmax(-1))
        assert len(np.unique(label)) > 1, "a constant label map would prove little"


def test_a_second_run_makes_what_is_missing_and_nothing_else(trained, folder, quick):
    path, out = trained[2], folder / "out"
    predict.main(arguments(folder, path, out))
    want = contents(out)
    (out / "b.png").unlink()
    (out / "d.npy").unlink()
    (out / f".c.png.1{files._TEMPORARY}").write_bytes(b"half")
    times = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    predict.main(arguments(folder, path, out))
    assert contents(out) == want
    kept = {p.name for p in out.iterdir() if p.stat().st_mtime_ns == times.get(p.name)}
    assert {"a.png", "a.npy", "c.png", "c.npy", "e.png", "e.npy"} <= kept


def test_label_maps_alone(trained, folder, quick):
    predict.main(arguments(folder, trained[2], folder / "out", save="labels"))
    assert sorted(contents(folder / "out")) == [*(f"{n}.png" for n in SIZES), "predict.json"]


WAYS = [{"predict__mode": "original"}, {"predict__mode": "sliding_window", "predict__window": "32"},
        *({"predict__mode": "multi_scale", "predict__scales": "(1.0,0.5)", "predict__flip": "true",
           "predict__merge": merge} for merge in multi_scale.MERGES)]


def write_tags(folder):
    """({id: numbers of the classes that it may hold}, file)."""
    rows = {"a": "cat;dog", "b": "person", "c": "", "d": "aeroplane;tvmonitor", "e": "sofa"}
    tags = folder / "tags.csv"
    tags.write_text("id,tags\n" + "".join(f"{k},{v}\n" for k, v in rows.items()))
    names = classes.read_class_names("voc")
    return {k: [0, *sorted(names.index(tag) for tag in v.split(";") if tag)]
            for k, v in rows.items()}, tags


@pytest.mark.parametrize("flags", WAYS)
def test_tags_leave_no_other_class(trained, folder, quick, flags):
    rows, tags = write_tags(folder)
    predict.main(arguments(folder, trained[2], folder / "free", **flags))
    predict.main([*arguments(folder, trained[2], folder / "tagged", **flags), f"--tags={tags}"])
    for name, allowed in rows.items():
        scores_hwk = np.load(folder / "free" / f"{name}.npy")
        want = np.array(allowed)[scores_hwk[..., allowed].argmax(-1)]
        np.testing.assert_array_equal(label_map.read(folder / "tagged" / f"{name}.png", 21), want)
        got = np.load(folder / "tagged" / f"{name}.npy")
        np.testing.assert_array_equal(got[..., allowed], scores_hwk[..., allowed])
    with pytest.raises(ValueError, match="made with another tags"):
        predict.main(arguments(folder, trained[2], folder / "tagged", **flags))
    tags.write_text("id,tags\na,cat\n")
    with pytest.raises(ValueError, match=r"has nothing for 'b' \(4 of 5 ids missing\)"):
        predict.main([*arguments(folder, trained[2], folder / "new"), f"--tags={tags}"])


@pytest.mark.parametrize("flags", WAYS)
def test_tags_leave_no_other_class_to_the_crf(trained, folder, quick, flags):
    """It is the CRF of the tagged classes alone, also where it leaves out none that is likely."""
    rows, tags = write_tags(folder)
    predict.main(arguments(folder, trained[2], folder / "free", **flags))
    predict.main([*arguments(folder, trained[2], folder / "out", **flags, predict__crf="deeplab"),
                  f"--tags={tags}"])
    for name, allowed in rows.items():
        scores_hwm = np.load(folder / "free" / f"{name}.npy")[..., allowed]
        if multi_scale.gives_logits(configs.load(CONFIG, settings_of(**flags)).predict):
            scores_hwm = pixels.softmax(scores_hwm)
        elif flags["predict__mode"] == "sliding_window":
            scores_hwm = scores_hwm / scores_hwm.sum(-1, keepdims=True)
        (photo,) = (folder / "photos").glob(f"{name}.*")
        want = crf.infer(crf.scores_to_unary(np.ascontiguousarray(scores_hwm)),
                         photos.read_photo(photo), crf.preset("deeplab"))
        got = np.load(folder / "out" / f"{name}.npy")
        np.testing.assert_allclose(got[..., allowed], want, atol=1e-5)
        assert not np.delete(got, allowed, axis=-1).any()


def test_other_weights_do_not_mix(trained, folder, quick):
    _, variables, path = trained
    predict.main(arguments(folder, path, folder / "out"))
    before = contents(folder / "out")
    other = folder / "other.safetensors"
    weights.save(other, jax.tree.map(lambda x: x * 1.01, variables))
    with pytest.raises(ValueError, match="made with another weights .*give another --out"):
        predict.main(arguments(folder, other, folder / "out"))
    with pytest.raises(ValueError, match="made with another predict"):
        predict.main(arguments(folder, path, folder / "out", predict__multiple="64"))
    assert contents(folder / "out") == before


@pytest.mark.parametrize("damage, message", [
    (lambda f: (f / "photos/b.jpg").write_bytes((f / "photos/b.jpg").read_bytes()[:200]),
     r"b\.jpg: broken JPEG"),
    (lambda f: (f / "photos/c.png").write_bytes(b""), r"c\.png: empty"),
    (lambda f: (f / "photos/c.png").write_text("<html>"), r"c\.png: not a JPEG or PNG"),
    (lambda f: (f / "photos/a.png").write_bytes(b"x"), r"the id 'a' is taken"),
])
def test_a_bad_photo_is_named_and_mending_it_is_enough(trained, folder, quick, damage, message):
    whole = {p: p.read_bytes() for p in (folder / "photos").iterdir()}
    damage(folder)
    with pytest.raises(ValueError, match=message):
        predict.main(arguments(folder, trained[2], folder / "out", save="labels"))
    for photo in (folder / "photos").iterdir():
        photo.write_bytes(whole[photo]) if photo in whole else photo.unlink()
    predict.main(arguments(folder, trained[2], folder / "out", save="labels"))
    assert label_map.folder_ids(folder / "out") == sorted(SIZES)


def test_weights_that_do_not_fit(trained, folder):
    path, out = trained[2], folder / "out"
    names = folder / "names.txt"
    names.write_text("background\ncat\ndog\n")
    for argument_list, message in (
        (arguments(folder, path, out, classes=names), "head/"),
        (arguments(folder, path, out, model__head_width="16"), "head/"),
        (arguments(folder, folder / "nowhere", out), "nowhere"),
        (arguments(folder, folder / "photos", out), "photos"),
        (arguments(folder, folder / "photos/a.jpg", out), r"a\.jpg"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            predict.main(argument_list)
    assert not out.exists(), "nothing is written before the weights are known to fit"


def test_what_the_flags_may_not_say(trained, folder):
    path, out = trained[2], folder / "out"
    with pytest.raises(ValueError, match="--save 'label' is unknown; did you mean 'labels'"):
        predict.main(arguments(folder, path, out, save="label"))
    (folder / "bare.py").write_text(
        "import ml_collections\ndef get_config(arg=''):\n    return ml_collections.ConfigDict()\n")
    with pytest.raises(ValueError, match="trains no segmenter"):
        predict.main([f"--config={folder / 'bare.py'}", f"--weights={path}",
                      f"--images={folder / 'photos'}", f"--out={out}"])
    with pytest.raises(SystemExit) as stop:
        predict.main([*arguments(folder, path, out), "--wieghts=x"])
    assert stop.value.code == 2
