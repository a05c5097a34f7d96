"""Testing at several scales: three published ways against PyTorch, and what they are made of."""

import functools
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from wsssjax import predict
from wsssjax.core import config as configs
from wsssjax.core import parallel, weights
from wsssjax.data import label_map
from wsssjax.models import deeplab, registry, resnet, resnet38
from wsssjax.semi import multi_scale, pixels, student, validate

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")
ROOT = pathlib.Path(__file__).parents[2]
CONFIG = ROOT / "configs/semi_voc_deeplab.py"
CLASSES, THIN, SHORT = 4, 1 / 16, 14
SIZES = {"a": (61, 83), "b": (49, 70)}  # h, w; both in a bucket of 64 x 128
ARGUMENTS = ("eps_v2_resnet101", "bao_resnet38", "mars_resnet101")


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"tests/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


plain, ssdd = load("deeplab_torch"), load("ssdd_torch")


@pytest.fixture(autouse=True)
def thin_encoders(monkeypatch):
    """The encoders' names stand for narrow ones; PyTorch runs them on one core."""
    monkeypatch.setitem(resnet.BLOCKS, SHORT, (1, 1, 1, 1))
    monkeypatch.setitem(registry.ENCODERS, "resnet101", registry.Encoder(
        lambda c, dtype: resnet.ResNet(SHORT, c.output_stride, width=THIN, dtype=dtype,
                                       **c.resnet), resnet.from_torch))
    monkeypatch.setitem(registry.ENCODERS, "resnet38", registry.Encoder(
        lambda _, dtype: resnet38.ResNet38(width=THIN, dtype=dtype), resnet38.from_torch))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two photos of odd sizes with edges that a CRF follows, and names of three classes."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    (root / "photos").mkdir()
    for name, (h, w) in SIZES.items():
        coarse = np.kron(rng.integers(0, 256, (3, 4, 3)), np.ones((26, 26, 1)))[:h, :w]
        noisy = np.clip(coarse + rng.normal(0, 12, coarse.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(root / f"photos/{name}.png")
    (root / "classes.txt").write_text("cat\ndog\ncow\n")
    return root


def fields(folder, **changes):
    base = {"classes": folder / "classes.txt", "model.head_width": 12, "predict.batch": 2,
            "model.head_dilations": "(2,3,5)", "data.crop": 64}
    return {name: str(value) for name, value in {**base, **changes}.items()}


def own(argument):
    return {"eps_v2_resnet101": {"model.head_width": 0},
            "bao_resnet38": {"model.head_dilations": "(2,)", "predict.scales": "(0.5,1.0,1.25)"},
            "mars_resnet101": {}}[argument]


@functools.cache
def torch_network(argument):
    """(the network in PyTorch, our flat names of it)."""
    if argument == "eps_v2_resnet101":
        encoder = plain.CaffeResNet((1,) * 4, THIN)
        head, convert = plain.Aspp(encoder.width, CLASSES, (2, 3, 5)), deeplab.encoder_from_torch
    elif argument == "bao_resnet38":
        encoder = ssdd.ResNet38(THIN)
        head = plain.TwoConvolutions(encoder.feature_width, CLASSES, 12, 2)
        convert = resnet38.from_torch
    else:
        encoder = plain.ResNet((1,) * 4, THIN)
        head = plain.V3Plus(encoder.low_width, encoder.width, CLASSES, 12, 48, (2, 3, 5))
        convert = resnet.from_torch
    model = plain.randomise(plain.Segmenter(encoder, head))
    with torch.no_grad():  # scores of the size that trained ones have
        last = {"eps": "c", "bao": "fc9", "mar": "classifier"}[argument[:3]]
        for name, x in head.named_parameters():
            if name.startswith(last):
                x.mul_({"eps": 0.03, "bao": 0.02, "mar": 2.0}[argument[:3]])
    return model, (weights.under("backbone", convert(plain.numpy_state(encoder)))
                   | weights.under("head", plain.head_flat(head)))


# ---- the three ways, as they are told ----------------------------------------------------------


def normalised(photo, mean, std):
    x = torch.tensor(photo.transpose(2, 0, 1)[None]) / 255
    return (x - torch.tensor(mean)[None, :, None, None]) / torch.tensor(std)[None, :, None, None]


def eps_scores(model, photo):
    """Blue first, the mean taken off 0..255; logits of three scales on the grid of the first, their
    largest, enlarged, softmax."""
    x = torch.tensor(photo[..., ::-1].copy().transpose(2, 0, 1)[None]).float()
    x = x - torch.tensor([104.008, 116.669, 122.675])[None, :, None, None]
    return plain.half_pixel(plain.pyramid(model, x, (1.0, 0.75, 0.5))[-1],
                            photo.shape[:2]).softmax(1)


def bao_scores(model, photo):
    """Corner-aligned scales, softmax, the largest of each class; no mirror images."""
    h, w, _ = photo.shape
    x = normalised(photo, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    found = []
    for scale in (0.5, 1.0, 1.25):  # of the published five, which each compile
        z = model(torch.nn.functional.interpolate(
            x, (int(h * scale), int(w * scale)), mode="bilinear", align_corners=True))
        found.append(plain.half_pixel(z, (h, w)).softmax(1))
    return torch.stack(found).amax(0)


def mars_scores(model, photo):
    """Pillow's scales and mirror images, softmax averaged on the grid of scale 1, enlarged."""
    h, w, _ = photo.shape
    total, grid = 0.0, None
    for scale in (1.0, 0.5, 1.5, 2.0):
        small = Image.fromarray(photo).resize((round(w * scale), round(h * scale)),
                                              Image.Resampling.BICUBIC)
        x = normalised(np.array(small), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        for z in (model(x), model(x.flip(3)).flip(3)):
            grid = grid or z.shape[2:]
            total = total + plain.half_pixel(z.softmax(1), grid)
    return plain.half_pixel(total / 8, (h, w))


SCORES = {"eps_v2_resnet101": eps_scores, "bao_resnet38": bao_scores,
          "mars_resnet101": mars_scores}
KERNELS = {"eps_v2_resnet101": (1, 3, 67, 3, 4), "bao_resnet38": (4, 3, 83, 5, 3),
           "mars_resnet101": (1, 3, 67, 3, 4)}  # sxy, w; sxy, srgb, w


def after_crf(p_hwk, photo, kernels, least):
    """The dense CRF of the public library, ten iterations, over classes that reach `least`."""
    densecrf = pytest.importorskip("pydensecrf.densecrf")
    kept = np.flatnonzero(p_hwk.max((0, 1)) >= least)
    h, w, _ = photo.shape
    sxy, weight, sxy_2, srgb, weight_2 = kernels
    field = densecrf.DenseCRF2D(w, h, len(kept))
    p = p_hwk[..., kept].clip(1e-5, 1).transpose(2, 0, 1).reshape(len(kept), -1)
    field.setUnaryEnergy(np.ascontiguousarray(-np.log(p), np.float32))
    field.addPairwiseGaussian(sxy=sxy, compat=weight)
    field.addPairwiseBilateral(sxy=sxy_2, srgb=srgb, rgbim=np.ascontiguousarray(photo),
                               compat=weight_2)
    q = np.zeros(p_hwk.shape, np.float32)
    q[..., kept] = np.asarray(field.inference(10)).reshape(-1, h, w).transpose(1, 2, 0)
    return q


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_scores_and_crf_equal_what_the_papers_tell(folder, tmp_path, argument):
    """By command, both photos in buckets of a padded batch, before and after the CRF."""
    model, flat = torch_network(argument)
    settings = configs.load(f"{CONFIG}:{argument}", fields(folder, **own(argument)))
    template = jax.eval_shape(functools.partial(student.first_variables,
                                                student.build_model(settings)), jax.random.key(0))
    weights.save(tmp_path / "w.safetensors", registry.place_norms(flat, template))
    for how in ("", settings.predict.crf):
        settings.predict.crf = how
        if argument.startswith("mars"):
            settings.predict.crf_least = 0.2  # so that four classes have some below it
        out = tmp_path / f"out_{how}"
        predict.run(settings, tmp_path / "w.safetensors", folder / "photos", out,
                    save=("labels", "logits"))
        for name, (h, w) in SIZES.items():
            photo = np.array(Image.open(folder / f"photos/{name}.png"))
            with torch.no_grad():
                want = plain.nhwc(SCORES[argument](model, photo))[0]
            got = np.load(out / f"{name}.npy")
            assert got.shape == (h, w, CLASSES) and got.dtype == np.float32
            assert want.max((0, 1)).min() < 0.9 and want.std((0, 1)).max() > 0.05
            if how:
                want = after_crf(want, photo, KERNELS[argument], settings.predict.crf_least)
                # A point on the border of two simplices may fall on either side: a few pixels.
                assert (np.abs(got - want) > 1e-3).mean() < 2e-3, np.abs(got - want).max()
                assert ((got == 0).all((0, 1)) == (want == 0).all((0, 1))).all()
            else:
                got = pixels.softmax(got) if argument.startswith("eps") else got
                np.testing.assert_allclose(got, want, atol=2e-5)
            label = label_map.read(out / f"{name}.png", CLASSES, (h, w))
            np.testing.assert_array_equal(label, np.load(out / f"{name}.npy").argmax(-1))
            assert (label == want.argmax(-1)).mean() > 0.995 and len(np.unique(label)) > 1


# ---- buckets, sizes, settings ------------------------------------------------------------------


class How:
    """config.predict and config.data in one."""

    scales, flip, resize, merge = (1.0, 0.5), True, "half_pixel", "mean"
    canvas, grid, batch, multiple, mode = "bucket", 64, 3, 1, "multi_scale"
    crf, crf_least, full_eval = "", 0.0, False
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def noise(sizes, seed=0):
    rng = np.random.default_rng(seed)
    return [(f"p{i}", rng.integers(0, 256, (*s, 3), dtype=np.uint8)) for i, s in enumerate(sizes)]


def test_few_programs_serve_many_sizes_and_every_photo_comes_once():
    seen = []

    def run(image_bhwc, size_b2):
        seen.append(image_bhwc.shape)
        assert image_bhwc.dtype == np.float32 and size_b2.dtype == np.int32
        for row, (h, w) in enumerate(size_b2):  # zeros beyond each photo, a mirror in the last rows
            assert not image_bhwc[row, h:].any() and not image_bhwc[row, :, w:].any()
            if row < 3:
                np.testing.assert_array_equal(image_bhwc[row, :h, :w],
                                              image_bhwc[row + 3, :h, :w][:, ::-1])
        return image_bhwc, size_b2

    sizes = [(60 + i % 5, 100 - i) for i in range(13)] + [(30, 200), (1, 1)]
    found = list(multi_scale.photo_scores(noise(sizes), run, How, How))
    assert sorted(name for name, _ in found) == sorted(f"p{i}" for i in range(15))
    assert all(dict(found)[f"p{i}"].shape[:2] == s for i, s in enumerate(sizes))
    assert set(seen) == {(6, 64, 128, 3), (6, 64, 64, 3), (6, 64, 256, 3)}
    for scores in dict(found).values():
        np.testing.assert_allclose(scores.sum(-1), 1, atol=1e-5)  # a mean of softmax


@pytest.mark.parametrize("size, scale, changes, want", [
    ((375, 500), 0.75, {}, (281, 375)), ((375, 500), 0.75, {"resize": "bicubic"}, (281, 375)),
    ((375, 501), 0.5, {}, (187, 250)), ((375, 501), 0.5, {"resize": "bicubic"}, (188, 250)),
    ((375, 500), 0.5, {"multiple": 14}, (182, 252)), ((1, 3), 0.25, {}, (1, 1))])
def test_sides_at_a_scale(size, scale, changes, want):
    how = type("Changed", (How,), changes)
    assert multi_scale.scaled(size, scale, how) == want


@pytest.mark.parametrize("merge, want", [
    ("mean", [0.5 * (0.25 + 0.9), 0.5 * (0.75 + 0.1)]), ("max", [0.9, 0.75]),
    ("max_logits", [np.log(9), np.log(3)])])
def test_merges_by_hand(merge, want):
    """Two views of a photo that is the same everywhere: odds 1 to 3, then 9 to 1."""
    logits = {True: np.float32([0, np.log(3)]), False: np.float32([np.log(9), 0])}

    def run(image_bhwc, size_b2):
        z = logits[image_bhwc.shape[1] == 64]
        return np.broadcast_to(z, (*image_bhwc.shape[:1], 8, 8, 2)), np.full((1, 2), 8)

    how = type("Changed", (How,), {"merge": merge, "flip": False, "batch": 1, "canvas": "exact"})
    ((_, scores),) = multi_scale.photo_scores(noise([(64, 64)]), run, how, how)
    np.testing.assert_allclose(scores, np.broadcast_to(np.float32(want), (64, 64, 2)), rtol=1e-6)


def test_a_network_without_scores_of_its_own_gives_those_of_the_image():
    """SSDD's, whose config has the same fields."""
    class Whole:
        def apply(self, variables, image_bhwc, train):
            return image_bhwc * variables, {}

    run = multi_scale.forward(Whole(), "exact")
    logits, own_b2 = run(2.0, jnp.ones((3, 5, 7, 2)), None)
    assert logits.shape == (3, 5, 7, 2) and own_b2.tolist() == [[5, 7]] * 3
    settings = configs.load(ROOT / "configs/semi_voc_ssdd.py", {"predict.mode": "multi_scale"})
    multi_scale.check(settings)
    settings.predict.canvas = "bucket"
    with pytest.raises(ValueError, match="canvas=bucket: is for .* 'resnet38' with 'ssdd'"):
        multi_scale.check(settings)


@pytest.mark.parametrize("argument", ["mars_resnet101"])
def test_validation_sees_scale_1_unless_asked(folder, tmp_path, argument):
    """The counts of validation are those of the label maps that predict writes without CRF."""
    _, flat = torch_network(argument)
    for name, size in SIZES.items():
        label_map.write(folder / f"labels/{name}.png", np.zeros(size, np.uint8))
    (tmp_path / "val.txt").write_text("".join(f"photos/{n}.png labels/{n}.png\n" for n in SIZES))
    Image.new("RGB", (20, 20)).save(tmp_path / "other.png")
    label_map.write(tmp_path / "label.png", np.zeros((20, 20), np.uint8))
    (tmp_path / "learned.txt").write_text(f"{tmp_path}/other.png {tmp_path}/label.png\n")
    changes = {"data.root": folder, "data.val": tmp_path / "val.txt", "predict.crf": "",
               "data.labeled": tmp_path / "learned.txt", "predict.scales": "(1.0,0.5)"}
    settings = configs.load(f"{CONFIG}:{argument}", fields(folder, **changes))
    model = student.build_model(settings)
    template = jax.eval_shape(functools.partial(student.first_variables, model), jax.random.key(0))
    flat = registry.place_norms(flat, template)
    weights.save(tmp_path / "w.safetensors", flat)
    variables = parallel.replicate(jax.tree.map(jnp.asarray, weights.restore(template, flat)))
    for full in (False, True):
        settings.predict.full_eval = full
        counts = validate._confusion(validate.prepare(settings, model, None), variables)
        alone = settings.copy_and_resolve_references()
        if not full:
            alone.predict.scales, alone.predict.flip = (1.0,), False
        predict.run(alone, tmp_path / "w.safetensors", folder / "photos", tmp_path / f"o{full}")
        want = sum(np.bincount(label_map.read(tmp_path / f"o{full}/{n}.png", CLASSES).ravel(),
                               minlength=CLASSES) for n in SIZES)
        np.testing.assert_array_equal(counts[0, :CLASSES], want)


def test_probabilities_of_the_other_modes():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(3, 4, 5)).astype(np.float32)
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    for changes, scores in (({"mode": "original"}, z), ({"merge": "max_logits"}, z),
                            ({"mode": "sliding_window"}, 3 * p), ({"merge": "mean"}, p)):
        how = type("Changed", (How,), changes)
        np.testing.assert_allclose(multi_scale.probabilities(scores, how), p, rtol=1e-5)
    largest = np.maximum(p, 0.3)
    how = type("Changed", (How,), {"merge": "max"})
    np.testing.assert_array_equal(multi_scale.probabilities(largest, how), largest)


def test_classes_that_are_nowhere_likely_stay_out_of_the_crf():
    p = np.full((6, 6, 4), 0.01, np.float32)
    p[..., 0], p[2, 3, 2] = 0.97, 0.5
    assert multi_scale.kept_classes(p, 0.05).tolist() == [0, 2]
    assert multi_scale.kept_classes(p, 0.0).tolist() == [0, 1, 2, 3]
    assert multi_scale.kept_classes(p * [1, 1, 0, 1], 0.0).tolist() == [0, 1, 3]  # not tagged
    assert multi_scale.kept_classes(p * 0.01, 0.05).tolist() == [0]  # the likeliest always
    how = type("Changed", (How,), {"crf": "deeplab", "crf_least": 0.05})
    q = multi_scale.smoothed(p, np.zeros((6, 6, 3), np.uint8), how)
    assert not q[..., [1, 3]].any() and q[..., 2].any()
    np.testing.assert_allclose(q.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize("name, value, message", [
    ("predict.merge", "median", "config.predict.merge 'median' is unknown"),
    ("predict.resize", "area", "config.predict.resize 'area' is unknown"),
    ("predict.canvas", "square", "config.predict.canvas 'square' is unknown"),
    ("predict.scales", "()", r"config.predict.scales=\(\): want factors above 0"),
    ("predict.scales", "(0.0,1.0)", r"config.predict.scales=\(0.0, 1.0\): want factors above 0"),
    ("predict.scales", "(0.5,2.0)", "merge 'mean' takes place on the grid of scale 1; add 1.0"),
    ("predict.batch", "0", "config.predict.batch=0: want 1 or more"),
    ("predict.grid", "48", "config.predict.grid=48: want a multiple of 32"),
    ("predict.multiple", "2", "config.predict.canvas=bucket: is for encoders resnet, vgg"),
    ("model.encoder", "dinov2_s", "config.predict.canvas=bucket: is for .* not for 'dinov2_s'"),
    ("model.decoder", "dpt", "config.predict.canvas=bucket: is for .* with 'dpt'"),
    ("predict.crf", "deep", "config.predict.crf 'deep' is unknown; did you mean 'deeplab'"),
    ("predict.crf_least", "1.0", "config.predict.crf_least=1.0: want a probability below 1"),
])
def test_settings_that_cannot_work(folder, name, value, message):
    settings = configs.load(f"{CONFIG}:mars_resnet101", fields(folder, **{name: value}))
    with pytest.raises(ValueError, match=message):
        multi_scale.check(settings)
