"""DeepLab's heads, and whole networks with them, against the same in PyTorch."""

import functools
import importlib.util
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from wsssjax.core import weights
from wsssjax.models import deeplab, padded, registry, resnet, vgg
from wsssjax.models.segmenter import Segmenter

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")


def load(name):
    path = pathlib.Path(__file__).parents[1] / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


plain = load("deeplab_torch")
CLASSES, THIN, SHORT = 5, 1 / 16, 14  # depth of a ResNet with one block a stage
CAFFE = dict(output_stride=8, dilation="all", norm="frozen", layout="caffe")


@pytest.fixture(autouse=True)
def short_resnet(monkeypatch):
    monkeypatch.setitem(resnet.BLOCKS, SHORT, (1, 1, 1, 1))


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def restored(module, flat, size=16, **inputs):
    template = jax.eval_shape(lambda: module.init(
        jax.random.key(0), *(inputs.values() or [jnp.zeros((1, size, size, 3))]), train=False))
    return weights.restore(template, flat)


def torchs(encoder, flat):
    """Flat names of an encoder with the norms' scale and bias where the network has them."""
    template = jax.eval_shape(lambda: encoder.init(
        jax.random.key(0), jnp.zeros((1, 16, 16, 3)), train=False))
    return registry.place_norms(flat, template)


def networks(name):
    """(our segmenter, its variables, torch's), alike and thin."""
    if name.startswith("vgg"):
        own, other = vgg.VGG16(width=THIN), plain.VGG16(THIN)
        convert = vgg.from_torch
        if name == "vgg_v1":
            head = deeplab.Aspp(CLASSES, (3,), 12)
            other_head = plain.LargeFov(other.width, CLASSES, 12, 3)
        else:
            head = deeplab.Aspp(CLASSES, (2, 3, 5), 12)
            other_head = plain.VggAspp(other.width, CLASSES, 12, (2, 3, 5))
    elif name == "resnet_v2":
        own, other = resnet.ResNet(SHORT, width=THIN, **CAFFE), plain.CaffeResNet((1,) * 4, THIN)
        convert, head = deeplab.encoder_from_torch, deeplab.Aspp(CLASSES, (2, 3, 5), 0)
        other_head = plain.Aspp(other.width, CLASSES, (2, 3, 5))
    else:
        own = resnet.ResNet(SHORT, 8, "rest", "batch", width=THIN)
        other, convert = plain.ResNet((1,) * 4, THIN), resnet.from_torch
        head = deeplab.DeepLabV3Plus(CLASSES, (2, 3, 5), 12, 6)
        other_head = plain.V3Plus(other.low_width, other.width, CLASSES, 12, 6, (2, 3, 5))
    model = Segmenter(own, head)
    torchs_model = plain.randomise(plain.Segmenter(other, other_head))
    flat = weights.under("backbone", torchs(own, convert(plain.numpy_state(other))))
    flat |= weights.under("head", plain.head_flat(other_head))
    return model, restored(model, flat), torchs_model


NAMES = ("vgg_v1", "vgg_v2", "resnet_v2", "resnet_v3plus")


def compare(got, want, bound=2e-5):
    assert got.shape == want.shape and want.std() > 0.02
    error = np.abs(np.asarray(got) - want).max() / np.abs(want).max()
    assert error < bound, error


@pytest.mark.parametrize("name", NAMES)
def test_networks_equal_torch_at_odd_sizes(name):
    model, variables, other = networks(name)
    image = noise(2, 45, 74, 3)
    with torch.no_grad():
        z = other(plain.nchw(image))
        want = plain.nhwc(z), plain.nhwc(plain.half_pixel(z, (45, 74)))
    both = jax.jit(lambda v, x: (model.apply(v, x, method="scores"),
                                 model.apply(v, x, train=False)[0]))
    for got, expected in zip(both(variables, image), want, strict=True):
        assert got.dtype == jnp.float32
        compare(got, expected)


@pytest.mark.parametrize("name", ["largefov", "vgg_aspp", "aspp", "resnet38_head",
                                  "deeplabv3plus"])
def test_heads_of_full_width_equal_torch(name):
    """21 classes and the published channels and dilations, on maps of 7 x 9."""
    taps = [noise(1, 13, 17, 256), None, None]
    other, head, inputs = {
        "largefov": (plain.LargeFov(512, 21), deeplab.Aspp(21, (12,)), 512),
        "vgg_aspp": (plain.VggAspp(512, 21), deeplab.Aspp(21, (6, 12, 18, 24)), 512),
        "aspp": (plain.Aspp(2048, 21), deeplab.Aspp(21, (6, 12, 18, 24), 0), 2048),
        "resnet38_head": (plain.TwoConvolutions(4096, 21), deeplab.ResNet38Head(21), 4096),
        "deeplabv3plus": (plain.V3Plus(256, 2048, 21), deeplab.DeepLabV3Plus(21), 2048),
    }[name]
    taps.append(np.abs(noise(1, 7, 9, inputs, seed=1)))
    plain.randomise(other)
    taps = [np.zeros((1, 1, 1, 1), np.float32) if x is None else x for x in taps]
    template = jax.eval_shape(lambda: head.init(jax.random.key(0), taps, None))
    variables = weights.restore(template, plain.head_flat(other))
    with torch.no_grad():
        want = plain.nhwc(other((plain.nchw(taps[0]), plain.nchw(taps[3]))))
    compare(jax.jit(lambda v, t: head.apply(v, t, None))(variables, taps), want)


def test_norms_that_train_equal_torch():
    """Scores by the rows' own statistics, and the running ones after two passes."""
    model, variables, other = networks("resnet_v3plus")
    assert model.moves_statistics and not model.clone(freeze=True, head=deeplab.Aspp(
        CLASSES, (2,))).moves_statistics
    other.train()
    still = model.clone(head=model.head.clone(dropout=False))
    step = jax.jit(functools.partial(still.apply, train=True, mutable=["batch_stats"]))
    for seed in (0, 1):
        image = noise(3, 33, 50, 3, seed=seed)
        with torch.no_grad():
            want = plain.nhwc(plain.half_pixel(other(plain.nchw(image)), (33, 50)))
        (got, _), moved = step(variables, image)
        compare(got, want, 1e-4)
        variables = {**variables, **moved}
    flat = weights.under("head", plain.head_flat(other.head)) | weights.under(
        "backbone", resnet.from_torch(plain.numpy_state(other.encoder)))
    for name, x in weights.flatten(variables).items():
        np.testing.assert_allclose(x, flat[name], rtol=2e-4, atol=2e-5, err_msg=name)


SIZES = [(41, 66), (57, 95)]


@pytest.mark.parametrize("name", ["vgg_v2", "resnet_v2", "resnet_v3plus"])
def test_padded_photos_have_the_scores_of_each_alone(name):
    """The pool of Caffe that rounds up, the mean over a photo and the ratio of two grids, too."""
    model, variables, _ = networks(name)
    rng = np.random.default_rng(3)
    images = [rng.standard_normal((h, w, 3)).astype(np.float32) for h, w in SIZES]
    whole = (96, 96)
    batch = np.stack([np.pad(x, ((0, 96 - x.shape[0]), (0, 96 - x.shape[1]), (0, 0)))
                      for x in images])

    @jax.jit
    def together(image_bhwc, size_b2):
        with padded.inside(size_b2, whole, model.own_side):
            logits = model.apply(variables, image_bhwc, method="scores")
            return logits, padded.own_size(logits.shape[1:3])

    logits, own_b2 = together(batch, np.int32(SIZES))
    alone = jax.jit(lambda x: model.apply(variables, x, method="scores"))
    unmasked, worst = alone(batch), 0.0
    for row, image in enumerate(images):
        want = np.asarray(alone(image[None])[0])
        p, q = own_b2[row]
        assert want.shape[:2] == (p, q)
        np.testing.assert_allclose(logits[row, :p, :q], want, atol=3e-5 * np.abs(want).max())
        worst = max(worst, np.abs(unmasked[row, :p, :q] - want).max() / np.abs(want).max())
    assert worst > 1e-2, "the padding must show where it is not masked"
    assert padded.own_size((3, 3)) is None  # nothing is left of it outside


def test_a_pool_that_rounds_up_is_counted_at_every_stride():
    for side in range(64, 200):
        pooled = (-(-side // 2) + 2 - 3 + 1) // 2 + 1  # ceil((n + 2 - 3) / 2) + 1
        for stride, want in ((1, side), (2, -(-side // 2)), (4, pooled), (8, -(-pooled // 2)),
                             (16, -(-pooled // 4))):
            for whole in (192, 224, 256):
                n = {1: whole, 2: whole // 2}.get(stride, whole // stride + 1)
                assert padded.caffe(min(side, whole), whole, n) == want or side > whole


def test_first_weights():
    """Gaussian of 0.01 and zeros (DeepLab), Xavier (ResNet-38), Kaiming (v3+)."""
    taps = [jnp.zeros((1, 4, 4, 16)), None, None, jnp.zeros((1, 4, 4, 64))]
    taps = [jnp.zeros((1, 1, 1, 1)) if x is None else x for x in taps]
    found = {}
    for name, head in (("v1", deeplab.Aspp(21, (12,), 64)), ("v2", deeplab.Aspp(21, (6, 12), 0)),
                       ("two", deeplab.ResNet38Head(21, 64)), ("v3", deeplab.DeepLabV3Plus(21))):
        found[name] = jax.jit(lambda h=head: h.init(jax.random.key(1), taps, None))()["params"]
    for layer in (found["v1"]["fc6"], found["v1"]["fc7"], found["v2"]["c1"]):
        assert abs(float(layer["kernel"].std()) - 0.01) < 5e-4 and not layer["bias"].any()
    bound = (6 / ((64 + 64) * 9)) ** 0.5
    assert 0.98 * bound < float(jnp.abs(found["two"]["fc8"]["kernel"]).max()) <= bound
    assert 0 < float(jnp.abs(found["two"]["fc8"]["bias"]).max()) <= (64 * 9) ** -0.5
    np.testing.assert_allclose(found["v3"]["aspp1"]["kernel"].std(), (2 / (64 * 9)) ** 0.5,
                               rtol=0.02)


@pytest.mark.parametrize("head, shares", [
    (deeplab.Aspp(CLASSES, (2,), 16), [0.5, 0.5]),
    (deeplab.DeepLabV3Plus(CLASSES, (2, 3), 16, 6), [0.5, 0.5, 0.1])])
def test_dropout_in_training_alone(head, shares):
    """What comes out of each is 0 or 1 / (1 - share) times what went in."""
    taps = [jnp.asarray(noise(2, 12, 12, 8, seed=i)) for i in range(4)]
    variables = jax.jit(lambda: head.init(jax.random.key(0), taps, None))()

    def run(head, rng):
        return head.apply(variables, taps, None, train=True, rngs={"dropout": rng},
                          mutable=["intermediates", "batch_stats"],
                          capture_intermediates=lambda m, _: isinstance(m, nn.Dropout))[1]

    dropped, still = (jax.jit(functools.partial(run, h))(jax.random.key(5))["intermediates"]
                      for h in (head, head.clone(dropout=False)))
    assert len(dropped) == len(shares)
    for index, share in enumerate(shares):
        x, whole = (np.asarray(d[f"Dropout_{index}"]["__call__"][0]) for d in (dropped, still))
        if index == 0:  # those behind it see what it has dropped
            np.testing.assert_allclose(x[x != 0], whole[x != 0] / (1 - share), rtol=1e-5)
        zero = (x[whole > 0] == 0).mean()
        assert abs(zero - share) < 0.05 or index > 0 and zero > share - 0.05, (index, zero)
    plainly = [jax.jit(lambda h: h.apply(variables, taps, None), static_argnums=0)(h)
               for h in (head, head.clone(dropout=False))]
    np.testing.assert_array_equal(*plainly)


def config(**changes):
    c = ml_collections.ConfigDict({
        "encoder": "small_cnn", "output_stride": 8, "freeze_encoder": False, "bgr": False,
        "decoder": "aspp", "head_width": 8, "head_dilations": (2, 3), "head_norm": "stored",
        "head_dropout": True, "dtype": "float32"})
    with c.unlocked():
        c.update(changes)
    return c


@pytest.mark.parametrize("changes, message", [
    ({"decoder": "deeplab"}, "config.model.decoder 'deeplab' is unknown; did you mean 'deeplabv3p"),
    ({"decoder": "largefov"}, r"config.model.head_dilations=\(2, 3\): decoder 'largefov' has one"),
    ({"decoder": "resnet38_head"}, r"head_dilations=\(2, 3\): decoder 'resnet38_head' has one"),
    ({"decoder": "deeplabv3plus", "head_norm": "bach"}, "config.model.head_norm 'bach' is unknown; "
                                                        "did you mean 'batch'"),
    ({"head_width": -1}, "config.model.head_width=-1: decoder 'aspp' wants 0 or more"),
    *(({"decoder": name, "head_width": 0}, f"head_width=0: decoder '{name}' wants 1 or more")
      for name in ("deeplabv3plus", "dpt", "resnet38_head")),
])
def test_decoders_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        registry.build_segmenter(config(**changes), 4)


def test_any_head_fits_any_encoder_and_blue_may_come_first():
    image = noise(1, 40, 40, 3)
    for decoder, dilations in (("largefov", (2,)), ("resnet38_head", (2,)),
                               ("deeplabv3plus", (2, 3))):
        model = registry.build_segmenter(config(decoder=decoder, head_dilations=dilations), 4)
        shape = jax.eval_shape(lambda m=model: m.init_with_output(
            jax.random.key(0), image, train=False)[0][0]).shape
        assert shape == (1, 40, 40, 4)
    first = registry.build_segmenter(config(), 4)
    variables = jax.jit(lambda: first.init(jax.random.key(0), image, train=False))()
    turned = registry.build_segmenter(config(bgr=True), 4)
    both = jax.jit(lambda x: (first.apply(variables, x[..., ::-1], method="scores"),
                              turned.apply(variables, x, method="scores")))(image)
    np.testing.assert_array_equal(*both)


def test_conv1a_alone_is_frozen_under_two_convolutions():
    model = registry.build_segmenter(config(encoder="resnet38", decoder="resnet38_head",
                                            head_dilations=(12,)), 21)
    assert model.backbone.freeze_below == "b2" and model.head.dilation == 12
    other = registry.build_segmenter(config(encoder="resnet38", decoder="largefov",
                                            head_dilations=(12,)), 21)
    assert other.backbone.freeze_below == "b3"


@pytest.mark.parametrize("name, shape, message", [
    ("base.aspp.c0.weight", (4,), r"base.aspp.c0.weight \[4\]: no tensor of a DeepLab v2"),
    ("base.fc.weight", (4, 4, 1, 1), r"base.fc.weight .*: no tensor of a DeepLab v2"),
    ("base.layer2.block1.middle.conv.weight", (4, 4, 1, 1), "no tensor of a ResNet"),
])
def test_strange_tensors_are_named(name, shape, message):
    with pytest.raises(ValueError, match=message):
        deeplab.from_torch({name: np.zeros(shape)})
