"""Published weights of the classic segmenters, from their names to a network that equals them."""

import functools
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from wsssjax.core import weights
from wsssjax.models import deeplab, registry, resnet, vgg
from wsssjax.models.segmenter import Segmenter

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
ROOT = pathlib.Path(__file__).parents[2]
THIN, SHORT, CLASSES = 1 / 16, 14, 6


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


plain = load(ROOT / "tests/deeplab_torch.py")


@pytest.fixture(scope="module")
def tool():
    return load(ROOT / "tools/convert_weights.py")


@pytest.fixture
def thin(tool, monkeypatch):
    """The architectures as narrow networks, ResNet-101 with one block a stage."""
    monkeypatch.setitem(resnet.BLOCKS, SHORT, (1, 1, 1, 1))

    def encoder():
        return resnet.ResNet(SHORT, 8, "all", "frozen", layout="caffe", width=THIN)

    def change(name, module):
        monkeypatch.setitem(tool.ARCHES, name, tool.ARCHES[name]._replace(module=module))

    change("vgg16", lambda *_: vgg.VGG16(width=THIN))
    change("resnet101_deeplab", lambda *_: encoder())
    change("deeplab_v2_resnet101", lambda classes, _: Segmenter(
        encoder(), deeplab.Aspp(classes, (2, 3, 5, 7), 0)))
    return encoder


def published(prefix="base."):
    """(network, state dict of DeepLab v2 in kazuto1011's names, counters in it)."""
    encoder = plain.CaffeResNet((1, 1, 1, 1), THIN)
    head = plain.Aspp(encoder.width, CLASSES, (2, 3, 5, 7))
    model = plain.randomise(plain.Segmenter(encoder, head))
    state = {f"{prefix}{n}": x for n, x in encoder.state_dict().items()}
    state |= {f"{prefix}aspp.{n}": x for n, x in head.state_dict().items()}
    return model, state


def shapes(module):
    return jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)),
                                              train=False))


def meta_state(build):
    """Names and shapes of a state dict, without the gigabyte."""
    with torch.device("meta"):
        state = build().state_dict()
    return {n: np.broadcast_to(np.float32(0), x.shape) for n, x in state.items()
            if not n.endswith("num_batches_tracked")}


def test_full_networks_have_the_published_tensors():
    whole = Segmenter(resnet.ResNet(101, 8, "all", "frozen", layout="caffe"),
                      deeplab.Aspp(21, (6, 12, 18, 24), 0))
    state = meta_state(lambda: plain.Segmenter(plain.CaffeResNet((3, 4, 23, 3)),
                                               plain.Aspp(2048, 21)))
    state = {f"base.{n.replace('encoder.', '').replace('head.', 'aspp.')}": x
             for n, x in state.items()}
    assert "base.layer4.block23.conv3x3.conv.weight" in state and len(state) == 5 * 104 + 8
    assert not any(weights.compare(shapes(whole), deeplab.from_torch(state)))
    state = meta_state(lambda: torchvision.models.vgg16(weights=None))
    assert not any(weights.compare(shapes(vgg.VGG16()), vgg.from_torch(state)))
    state = meta_state(lambda: torchvision.models.resnet101(weights=None))
    plain_resnet = shapes(resnet.ResNet(101, 8, "rest", "batch"))
    assert not any(weights.compare(plain_resnet, resnet.from_torch(state)))


def test_a_whole_deeplab_v2_gives_its_scores(tool, thin, tmp_path):
    """Of a checkpoint of several scales, whose names begin with base."""
    model, state = published()
    torch.save(state, tmp_path / "v2.pth")
    report = tool.convert("deeplab_v2_resnet101", str(tmp_path / "v2.pth"), str(tmp_path / "out"))
    assert len(report["skipped"]) == 17 and report["tensors"] == len(state) - 17
    segmenter = Segmenter(thin(), deeplab.Aspp(CLASSES, (2, 3, 5, 7), 0))
    flat = weights.load(tmp_path / "out")
    assert "batch_stats/backbone/layer2_0/downsample_1/scale" in flat  # nothing of a norm learns
    variables = weights.restore(shapes(segmenter), flat)
    image = np.random.default_rng(0).standard_normal((1, 65, 50, 3)).astype(np.float32)
    got = jax.jit(lambda v: segmenter.apply(v, image, method="scores"))(variables)
    with torch.no_grad():
        want = plain.nhwc(model(plain.nchw(image)))
    assert want.shape == (1, 9, 7, CLASSES)  # a pool that rounds up
    np.testing.assert_allclose(got, want, atol=2e-5 * np.abs(want).max())


@pytest.mark.parametrize("prefix", ["", "module.base."])
def test_the_encoder_of_a_deeplab_starts_a_training(tool, thin, tmp_path, monkeypatch, prefix):
    """Its head is passed over, whether it is that of v1 or v2; norms land where they are wanted."""
    _, state = published(prefix)
    state[f"{prefix}fc.weight"] = torch.zeros(3, 2, 1, 1)
    torch.save(state, tmp_path / "coco.pth")
    report = tool.convert("resnet101_deeplab", str(tmp_path / "coco.pth"), str(tmp_path / "out"))
    assert len(report["skipped"]) == 17 + 8 + 1
    config = ml_collections.ConfigDict({
        "encoder": "resnet101", "encoder_weights": str(tmp_path / "out"), "output_stride": 8,
        "freeze_encoder": False, "bgr": True, "decoder": "aspp", "head_width": 0,
        "head_dilations": (6, 12), "head_dropout": True, "dtype": "float32",
        "resnet": {"dilation": "all", "norm": "stored", "freeze_below": "", "layout": "caffe"}})
    monkeypatch.setitem(registry.ENCODERS, "resnet101", registry.Encoder(
        lambda c, dtype: resnet.ResNet(SHORT, 8, width=THIN, dtype=dtype, **c.resnet),
        resnet.from_torch))
    model = registry.build_segmenter(config, 3)
    first = jax.jit(functools.partial(model.init, train=False))(
        jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    loaded = weights.flatten(registry.load_encoder(first, config))
    name = "backbone/layer3_0/bn2/scale"
    np.testing.assert_array_equal(loaded[f"params/{name}"],
                                  weights.load(tmp_path / "out")[f"batch_stats/{name}"])
    # The file itself is no ResNet of torchvision's, and says so.
    np.savez(tmp_path / "coco.npz", **{n.removeprefix("module."): x.numpy()
                                       for n, x in state.items()})
    config.encoder_weights = str(tmp_path / "coco.npz")
    with pytest.raises(ValueError, match="these look like weights of DeepLab's own ResNet .convert "
                                         "it with --arch=resnet101_deeplab"):
        registry.load_encoder(first, config)


def test_vgg16_of_torchvision(tool, thin, tmp_path):
    state = plain.VGG16(THIN).state_dict()
    state |= {f"classifier.{i}.{k}": torch.zeros(2) for i in (0, 3, 6) for k in ("weight", "bias")}
    torch.save({n: x.half() for n, x in state.items()}, tmp_path / "vgg.pth")
    report = tool.convert("vgg16", str(tmp_path / "vgg.pth"), str(tmp_path / "out"))
    assert report["tensors"] == 26 and len(report["skipped"]) == 6
    kernel = weights.load(tmp_path / "out")["params/backbone/features_28/kernel"]
    want = state["features.28.weight"].half().float().numpy().transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(kernel, want)


@pytest.mark.parametrize("arch, change, message", [
    ("deeplab_v2_resnet101", lambda s: s.pop("base.aspp.c2.bias"), "missing 1 name: "
     "params/head/c2/bias"),
    ("deeplab_v2_resnet101", lambda s: s.pop("base.layer5.block1.increase.bn.weight"),
     "missing 1 name: batch_stats/backbone/layer4_0/bn3/scale"),
    ("deeplab_v2_resnet101", lambda s: s.update({"base.aspp.c1.bias": np.zeros(9, np.float32)}),
     r"params/head/c1/bias \(want \[6\], found \[9\]\)"),
    ("deeplab_v2_resnet101", lambda s: s.update({"base.aspp.c0.bias": np.zeros(9, np.float32)}),
     r"of another shape .* \(want \[9\], found \[6\]\)"),
    ("vgg16", lambda s: None, "no tensor of a VGG-16.*; these look like weights of DeepLab's own"),
    ("resnet101_deeplab", lambda s: s.update({"features.28.bias": np.zeros(4)}),
     r"features.28.bias \[4\]: no tensor of a ResNet"),
])
def test_what_does_not_fit_is_named_and_nothing_written(tool, thin, tmp_path, arch, change,
                                                        message):
    """Cut files, classes in two numbers, and another network's weights."""
    state = {n: x.numpy() for n, x in published()[1].items()}
    change(state)
    np.savez(tmp_path / "w.npz", **state)
    with pytest.raises(ValueError, match=message):
        tool.convert(arch, str(tmp_path / "w.npz"), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
