"""CLIP-ES: gradients against torch on transformers' model, the affinity against loops written from
the text, boxes against scipy, and the command on a handful of tiny photos."""

import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from wsssjax import train
from wsssjax.cam import __main__ as command
from wsssjax.cam import affinity_refine, text_features
from wsssjax.cam import clip as method
from wsssjax.core import config as configs
from wsssjax.core import weights
from wsssjax.data import cam_file, label_map
from wsssjax.models import clip, clip_names, registry

ROOT = pathlib.Path(__file__).parents[2]
SMALL = clip.Size(128, 4, 16, 4, 48)
CLASSES = ("fox", "owl", "elk", "yak")
SIZES = {"a": (40, 60), "b": (33, 50), "c": (5, 7), "d": (40, 60), "e": (48, 64), "f": (36, 52)}
TAGS = {"a": "fox", "b": "owl;elk", "c": "elk", "d": "fox;owl;elk;yak", "e": "owl", "f": "yak"}


def words(classes=CLASSES, backgrounds=3, embed=48, seed=0, scale=20.0):
    rows = np.random.default_rng(seed).standard_normal((len(classes) + backgrounds, embed))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    scenery = tuple(f"scenery{i}" for i in range(backgrounds))
    return text_features.TextFeatures(rows.astype(np.float32), scale, tuple(classes),
                                      tuple(classes), scenery, ("a {}.",))


def shapes(tower):
    return jax.eval_shape(lambda: tower.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)),
                                             train=False))


@pytest.fixture(scope="module")
def model():
    """(transformers' model of random weights, our tower, its variables, its aux of an image)."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPVisionConfig(
        hidden_size=128, intermediate_size=512, num_hidden_layers=4, num_attention_heads=2,
        image_size=64, patch_size=16, projection_dim=48)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    reference = transformers.CLIPVisionModelWithProjection(config).eval()
    with torch.no_grad():
        for p in reference.parameters():
            p.add_(0.05 * torch.randn_like(p))
    tower = clip.ImageTower(SMALL, positions="bicubic", attentions=3)
    flat = clip_names.image_tower({n: x.numpy() for n, x in reference.state_dict().items()})
    run = jax.jit(lambda p, x: tower.apply(p, x, train=False)[1])
    return reference, tower, weights.restore(shapes(tower), flat), run


def by_torch(reference, x_1hwc, tags, text, pool):
    """(maps [n, tagged], attention [n, n] of the last three blocks) by autograd."""
    import torch
    vision = reference.vision_model
    with torch.no_grad():
        out = vision(torch.tensor(x_1hwc).permute(0, 3, 1, 2), output_attentions=True,
                     output_hidden_states=True, interpolate_pos_encoding=True)
    layer, entering = vision.encoder.layers[-1], out.hidden_states[-2]
    a = layer.layer_norm1(entering).detach().requires_grad_()
    middle = entering + layer.self_attn(a, attention_mask=None)[0]
    leaving = vision.post_layernorm(middle + layer.mlp(layer.layer_norm2(middle)))
    vector = leaving[:, 0] if pool == "class" else leaving[:, 1:].mean(1)
    vector = reference.visual_projection(vector)[0]
    tagged = np.flatnonzero(tags)
    rows = np.concatenate([text.features_te[tagged], text.features_te[len(tags):]])
    chances = torch.softmax(text.scale * torch.tensor(rows) @ (vector / vector.norm()), 0)
    maps = []
    for entry in range(len(tagged)):
        (gradient,) = torch.autograd.grad(chances[entry], a, retain_graph=True)
        maps.append(torch.relu((a[0, 1:] * gradient[0, 1:].mean(0)).sum(-1)).detach().numpy())
    attention = torch.stack([w[0].mean(0)[1:, 1:] for w in out.attentions[-3:]]).mean(0)
    return np.stack(maps, 1), attention.numpy()


def by_loops(map_pq, attention_nn, threshold=0.4):
    """The class-aware affinity of one map, as the text has it, number by number."""
    ndimage = pytest.importorskip("scipy.ndimage")
    d = attention_nn.astype(np.float64).copy()
    n = len(d)
    for _ in range(3):
        for j in range(n):
            d[:, j] /= d[:, j].sum()
        for i in range(n):
            d[i] /= d[i].sum()
    t = np.array([[(d[i, j] + d[j, i]) / 2 for j in range(n)] for i in range(n)])
    t = np.array([[sum(t[i, m] * t[m, j] for m in range(n)) for j in range(n)] for i in range(n)])
    boxes = np.zeros(map_pq.shape)
    numbers, _ = ndimage.label(map_pq > threshold * map_pq.max(), np.ones((3, 3)))
    for place in ndimage.find_objects(numbers):
        boxes[place] = 1
    return (t @ (boxes * map_pq).reshape(-1)).reshape(map_pq.shape)


def span(x):
    x = x - x.min()
    return x / (x.max() + 1e-7)


@pytest.mark.parametrize("pool", clip.POOLS)
def test_gradient_maps_match_torch(model, pool):
    reference, tower, params, run = model
    text, tags = words(), np.float32([1, 0, 1, 0])
    x = np.random.default_rng(3).standard_normal((1, 48, 80, 3)).astype(np.float32)
    want, attention = by_torch(reference, x, tags, text, pool)
    aux = run(params, x)
    got = np.asarray(jax.jit(lambda p, i: method.gradient_maps(tower, p, i, tags, text, pool))(
        params, aux["last_input"][0]))
    assert got.shape == (15, 4) and (got[:, 1] == 0).all() and (got[:, 3] == 0).all()
    assert (want > 0).any(0).all() and (want == 0).any()
    for k, column in ((0, 0), (2, 1)):
        error = np.abs(got[:, k] - want[:, column]).max() / want[:, column].max()
        print(f"{pool}, class {k}: relative error {error:.1e}")
        assert error < 2e-4
    np.testing.assert_allclose(aux["attention"][0, 1:, 1:], attention, atol=1e-6)


@pytest.fixture
def make_config(tmp_path, monkeypatch):
    """changes → the shipped config for four classes and a tower of 128 channels."""
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    monkeypatch.setitem(registry.ENCODERS, "clip_small", registry.Encoder(
        lambda config, dtype: clip.ImageTower(SMALL, dtype, **config.clip),
        clip_names.image_tower))
    monkeypatch.setattr(command.parallel, "start", lambda: None)
    text_features.write(tmp_path / "text.safetensors", words())

    def make(**changes):
        config = configs.load(str(ROOT / "configs" / "cam_voc_clip.py"))
        for name, value in {
                "classes": str(tmp_path / "classes.txt"), "model.encoder": "clip_small",
                "model.text": str(tmp_path / "text.safetensors"), "infer.attention_blocks": "3",
                **{k.replace("__", "."): v for k, v in changes.items()}}.items():
            configs.override(config, name, value)
        return config

    return make


def test_maps_match_torch_and_loops(model, make_config):
    """The whole of predict, two photos with different tags."""
    reference, _, params, _ = model
    built = method.build(make_config(model__clip__positions="bicubic"))
    text = words()
    tags = np.float32([[1, 0, 1, 0], [0, 1, 0, 0]])
    x = np.random.default_rng(4).standard_normal((2, 64, 48, 3)).astype(np.float32)
    variables = {"params": {"backbone": params["params"]}}
    got = np.asarray(jax.jit(built.predict)(variables, x, tags))
    assert got.shape == (2, 4, 3, 4)
    for row in range(2):
        raw, attention = by_torch(reference, x[row : row + 1], tags[row], text, "patches")
        for column, k in enumerate(np.flatnonzero(tags[row])):
            want = span(by_loops(span(raw[:, column].reshape(4, 3)), attention))
            np.testing.assert_allclose(got[row, ..., k], want, atol=2e-4)
            assert want.min() == 0 and want.max() > 0.99
        assert (got[row][..., tags[row] == 0] == 0).all()


def test_only_tagged_classes_compete(model):
    """The words of a class without a tag, and its place, change nothing."""
    _, tower, params, _ = model
    tags, text = np.float32([0, 1, 0, 1]), words()
    other = text._replace(features_te=text.features_te.copy())
    other.features_te[[0, 2]] = words(seed=9).features_te[[0, 2]]
    given = np.random.default_rng(5).standard_normal((13, 128)).astype(np.float32)
    one, two = np.asarray(jax.jit(lambda p: [method.gradient_maps(
        tower, p, given, tags, t, "patches") for t in (text, other)])(params))
    np.testing.assert_array_equal(one, two)
    assert one.max() > 0


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 5), (13, 17)], ids=str)
def test_boxes_match_scipy(size):
    ndimage = pytest.importorskip("scipy.ndimage")
    rng, boxes = np.random.default_rng(0), jax.jit(affinity_refine.box_mask)
    number = jax.jit(affinity_refine.regions)
    for share in np.linspace(0, 1, 21):
        mask = rng.random(size) < share
        want, count = ndimage.label(mask, np.ones((3, 3)))
        full = np.zeros(size, bool)
        for place in ndimage.find_objects(want):
            full[place] = True
        np.testing.assert_array_equal(boxes(mask), full)
        got = np.asarray(number(mask))
        pairs = {*zip(want[mask], got[mask], strict=True)}
        assert len(pairs) == count == len({b for _, b in pairs}) and (got[~mask] == 0).all()


def test_a_spiral_is_one_region():
    """The longest way a number has to travel."""
    mask = np.zeros((9, 9), bool)
    for row in range(0, 9, 2):
        mask[row] = True
    for row in range(1, 9, 2):
        mask[row, 0 if row % 4 == 3 else 8] = True
    numbers = np.asarray(jax.jit(affinity_refine.regions)(mask))
    assert set(numbers[mask]) == {81}


def test_normalised_attention_has_equal_rows_and_columns():
    attention = np.random.default_rng(0).dirichlet(np.ones(12), 12)
    for rounds, bound in ((3, 0.05), (60, 1e-5)):
        t = np.asarray(affinity_refine.attention_affinity(jnp.array(attention), rounds))
        np.testing.assert_allclose(t, t.T, atol=1e-6)
        assert np.abs(t.sum(0) - 1).max() < bound


# ---- the command -------------------------------------------------------------------------------


@pytest.fixture
def job(tmp_path, make_config):
    """Arguments of `run`: config, weights, images, tags."""
    rng = np.random.default_rng(0)
    images = tmp_path / "images"
    images.mkdir()
    for name, (h, w) in SIZES.items():
        noise = Image.fromarray(rng.integers(0, 256, (3, 4, 3), np.uint8))
        noise.resize((w, h), Image.Resampling.BICUBIC).save(images / f"{name}.png")
    (tmp_path / "tags.csv").write_text("id,tags\n" + "".join(f"{n},{t}\n" for n, t in TAGS.items()))
    config = make_config()
    variables = jax.jit(method.build(config).init)(jax.random.key(0)).variables()
    variables = jax.tree.map(lambda x: np.asarray(x) * 3, variables)
    weights.save(tmp_path / "clip" / weights.FILE, variables)
    return [config, tmp_path / "clip", images, tmp_path / "tags.csv"]


def test_command_on_tiny_photos(job, tmp_path):
    """Photos of any size, one of them smaller than a patch, whose map has one value: background."""
    assert command.run(*job, tmp_path / "out") == list(SIZES)
    for name, size in SIZES.items():
        found = cam_file.read(tmp_path / "out" / f"{name}.npz")
        tagged = [CLASSES.index(t) + 1 for t in TAGS[name].split(";")]
        assert found.classes.tolist() == tagged and found.cam.shape == (len(tagged), *size)
        peaks = found.cam.astype(np.float32).max((1, 2))
        label_hw = label_map.read(tmp_path / "out" / f"{name}.png", 5, size)
        if name == "c":
            assert (peaks == 0).all() and not label_hw.any()
        else:
            # A patch's map ends at 1; no pixel lies further than half a pixel from its centre.
            least = np.prod([1 - 0.5 * -(-side // 16) / side for side in size])
            assert (peaks >= least - 1e-3).all() and set(np.unique(label_hw)) - {0}
            assert set(np.unique(label_hw)) <= {0, *tagged}
    # Other words in the file are other settings, though its name is the same.
    text_features.write(tmp_path / "text.safetensors", words(seed=1))
    with pytest.raises(ValueError, match="made with another model"):
        command.run(*job, tmp_path / "out")


def test_training_is_refused_in_one_line(make_config, tmp_path):
    config = make_config(model__text="none")  # before any file is looked at
    with pytest.raises(ValueError, match="config.method='clip': learns nothing.*wsssjax.cam --con"):
        train.train(config, tmp_path / "run")
    out = subprocess.run(
        [sys.executable, "-m", "wsssjax.train", f"--config={ROOT}/configs/cam_voc_clip.py",
         f"--workdir={tmp_path}/run"], capture_output=True, text=True, cwd=ROOT)
    assert out.returncode == 1 and out.stderr.count("\n") == 1 and "learns nothing" in out.stderr


def refused(job, message):
    with pytest.raises(ValueError) as error:
        command.run(*job, job[1].parent / "out")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_text_that_does_not_fit_is_named(job, tmp_path, make_config):
    path = tmp_path / "text.safetensors"
    text_features.write(path, words(("fox", "owl", "elk")))
    refused(job, f"{path}: is for 3 classes (fox, owl, elk); config.classes has 4 classes (fox, "
            "owl, elk, …)")
    text_features.write(path, words(("fox", "owl", "yak", "elk")))
    refused(job, "is for 4 classes (fox, owl, yak, …); config.classes has 4 classes (fox, owl, elk")
    text_features.write(path, words(embed=40))
    refused(job, "vectors of 40 numbers; the image tower gives 48")
    text_features.write(path, words()._replace(features_te=np.ones((7, 48), np.float32)))
    refused(job, "not of length 1")
    text_features.write(path, words(backgrounds=2)._replace(backgrounds=("sky",)))
    refused(job, "[6, 48] for 5 words")
    weights.save(path, {"features": np.ones((7, 48), np.float32)})
    refused(job, f"{path}: damaged, or no text features")
    text_features.write(path, words())
    whole = path.read_bytes()
    for length in (0, 7, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(job, f"{path}: damaged, or no text features")
    path.unlink()
    refused(job, f"config.model.text='{path}': no such file; tools/clip_text.py writes it")
    job[0] = make_config(model__text="")
    refused(job, "config.model.text='': no such file")


@pytest.mark.parametrize("changes, message", [
    ({"model__encoder": "small_cnn"}, "config.model.encoder='small_cnn': has no words"),
    ({"infer__gradcam_pool": "patch"}, "config.infer.gradcam_pool 'patch' is unknown; did you mean "
                                       "'patches'"),
    ({"infer__attention_blocks": "5"}, "config.infer.attention_blocks=5: want a number in 1..4"),
    ({"infer__attention_rounds": "-1"}, "attention_rounds=-1, attention_squarings=1: want 0 or"),
    ({"infer__box_threshold": "1"}, "config.infer.box_threshold=1.0: want a share"),
    ({"infer__canvas": "bucket"}, "config.infer.canvas='bucket': encoder '"),
])
def test_fields_without_a_meaning(make_config, changes, message):
    config = make_config(**changes)
    if "model__encoder" in changes:
        with config.unlocked():
            config.model.output_stride = 8
    with pytest.raises(ValueError) as error:
        method.build(config)
    assert message in str(error.value)


def test_the_config_takes_no_argument():
    with pytest.raises(ValueError, match="config argument 'b16': this config takes none"):
        configs.load(f"{ROOT}/configs/cam_voc_clip.py:b16")
