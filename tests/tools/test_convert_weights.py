"""The command, from a PyTorch file to weights that a config can name."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wsssjax.core import weights

ROOT = pathlib.Path(__file__).parents[2]
TOOL = ROOT / "tools" / "convert_weights.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("convert_weights", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def state():
    """What the public package would save, in half precision."""
    pytest.importorskip("torch")
    package = pytest.importorskip("efficientnet_lite_pytorch")
    model = package.EfficientNet.from_name("efficientnet-lite0")
    return {n: (x.half() if x.is_floating_point() else x) for n, x in model.state_dict().items()}


def run(*flags):
    return subprocess.run([sys.executable, TOOL, *flags], capture_output=True, text=True,
                          cwd=ROOT, timeout=120)


def test_pth_npz_and_public_names(tool, state, tmp_path, capsys):
    import torch
    torch.save(state, tmp_path / "w.pth")
    np.savez(tmp_path / "w.npz", **{n: x.numpy() for n, x in state.items()})
    outs = []
    for name in ("w.pth", "w.npz"):
        tool.main(["--arch=efficientnet_lite0", f"--src={tmp_path / name}",
                   f"--out={tmp_path / name}.out"])
        outs.append(weights.load(tmp_path / f"{name}.out"))
    assert "247 tensors" in capsys.readouterr().out
    assert outs[0].keys() == outs[1].keys() and len(outs[0]) == 247
    for name, x in outs[0].items():
        assert x.dtype == np.float32
        np.testing.assert_array_equal(x, outs[1][name])
    kernel = outs[0]["params/backbone/blocks_3/expand_conv/kernel"]
    want = state["_blocks.3._expand_conv.weight"].float().numpy()
    np.testing.assert_array_equal(kernel[0, 0], want[:, :, 0, 0].T)
    report = json.loads((tmp_path / "w.pth.out" / "report.json").read_text())
    assert report["tensors"] == 247 and len(report["skipped"]) == 49
    assert report["source"]["name"] == "w.pth"
    assert report["names"]["params/backbone/conv_stem/kernel"] == [3, 3, 3, 32]


@pytest.mark.parametrize("change, message", [
    (lambda s: s.pop("_conv_head.weight"), "missing 1 name: params/conv_head/kernel"),
    (lambda s: s.update({"_blocks.20._bn1.bias": s["_bn1.bias"]}), "left over 1 name: "
     "params/blocks_20/bn1/bias"),
    (lambda s: s.update({"_bn1.bias": s["_bn0.bias"]}), "bn1/bias (want [1280], found [32])"),
    (lambda s: s.update({"_fc.bias": s["_fc.bias"] * np.inf}), "NaN or infinity in 1 name"),
])
def test_what_does_not_fit_is_named_and_nothing_written(tool, state, tmp_path, change, message):
    arrays = {n: x.numpy() for n, x in state.items()}
    arrays["_fc.bias"] = arrays["_fc.bias"] + np.float16(1)
    change(arrays)
    np.savez(tmp_path / "w.npz", **arrays)
    with pytest.raises(ValueError) as error:
        tool.convert("efficientnet_lite0", str(tmp_path / "w.npz"), str(tmp_path / "out"))
    assert message in str(error.value) and "w.npz" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_exit_codes(tmp_path):
    src = tmp_path / "w.pth"
    src.write_bytes(b"junk")
    flags = [f"--src={src}", f"--out={tmp_path / 'out'}"]
    bad = run("--arch=efficientnet_lite0", *flags)
    assert bad.returncode == 1 and bad.stderr.count("\n") == 1 and "w.pth" in bad.stderr
    name = run("--arch=efficientnet_lite", *flags)
    assert name.returncode == 1 and "did you mean 'efficientnet_lite0'" in name.stderr
    assert run("--arhc=x", *flags).returncode == 2
    shown = run("--help")
    assert shown.returncode == 0 and "python tools/convert_weights.py --arch=" in shown.stdout


def torch_named(template, depth):
    """Random tensors by PyTorch's names: what follows the first `depth` parts of ours."""
    rng, tensors = np.random.default_rng(0), {}
    kinds = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    for name, x in weights.flatten(template).items():
        *layer, kind = name.split("/")[depth:]
        shape = x.shape if kind != "kernel" or len(x.shape) == 4 else (1, 1, *x.shape)
        value = rng.random(shape, np.float32)
        tensors[".".join([*layer, kinds.get(kind, kind)])] = (
            value.transpose(3, 2, 0, 1) if kind == "kernel" else value)
    return tensors


def test_affinitynet_and_its_encoder_convert(tool, tmp_path, monkeypatch):
    """A narrow ResNet-38 in place of the 425 MB one, named as the published state dict is."""
    from wsssjax.models import affinity_net, resnet38

    thin = resnet38.ResNet38(width=1 / 16)
    net = affinity_net.AffinityNet(thin, affinity_net.TAPS["resnet38"])
    monkeypatch.setitem(tool.ARCHES, "resnet38", tool.ARCHES["resnet38"]._replace(
        module=lambda *_: thin))
    monkeypatch.setitem(tool.ARCHES, "affinity_resnet38", tool.ARCHES["affinity_resnet38"]._replace(
        module=lambda *_: net))
    template = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 56, 56, 3)),
                                               train=False))
    tensors = torch_named(template, 2)
    np.savez(tmp_path / "aff.npz", **tensors)
    tool.convert("affinity_resnet38", str(tmp_path / "aff.npz"), str(tmp_path / "aff"))
    whole = weights.load(tmp_path / "aff")
    np.testing.assert_array_equal(whole["params/head/f8_3/kernel"],
                                  tensors["f8_3.weight"][:, :, 0, 0].T)
    tool.convert("resnet38", str(tmp_path / "aff.npz"), str(tmp_path / "encoder"))
    encoder = weights.load(tmp_path / "encoder")
    assert encoder and all("/backbone/" in name for name in encoder)
    for name, x in encoder.items():
        np.testing.assert_array_equal(x, whole[name])


@pytest.mark.parametrize("branches", [1, 2], ids=["static", "dynamic"])
def test_both_files_of_ssdd_convert_to_one_network(tool, tmp_path, monkeypatch, branches):
    """Narrow networks named as the published state dicts are; classes and heads are counted."""
    from wsssjax.models import difference_net, resnet38

    real = difference_net.DifferenceSegmenter

    def thin(_, classes, heads):
        return real(resnet38.ResNet38(width=1 / 16), classes, heads, width=8, dilation=3,
                    difference_width=8)

    monkeypatch.setattr(difference_net, "DifferenceSegmenter", thin)
    template = jax.eval_shape(lambda: thin(None, 6, branches).init(
        jax.random.key(0), jnp.zeros((1, 56, 56, 3)), train=False))
    tensors = {f"module.{n.replace('backbone', 'encoder', 1)}": x
               for n, x in torch_named(template, 1).items()}
    parts = ({}, {})
    for name, x in tensors.items():
        parts[name.startswith("module.dd")][name] = x
    src = [str(tmp_path / f"{name}.npz") for name in ("seg", "ssdd")]
    for path, part in zip(src, parts, strict=True):
        np.savez(path, **part)
    report = tool.convert("ssdd_resnet38", ",".join(src), str(tmp_path / "out"))
    got = weights.load(tmp_path / "out")
    assert report["source"]["name"] == "seg.npz,ssdd.npz" and report["tensors"] == len(tensors)
    assert got.keys() == weights.flatten(template).keys()
    assert len(got["params/seg_main/seg2/bias"]) == 6
    assert ("params/dd1/pred_abc/kernel" in got) == (branches == 2)
    np.testing.assert_array_equal(
        got["params/dd0/conv1abc/conv2/kernel"],
        tensors["module.dd0.conv1abc.conv2.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(got["batch_stats/seg_main/seg1/bn1/var"],
                                  tensors["module.seg_main.seg1.bn1.running_var"])
    with pytest.raises(ValueError, match="seg.npz, as ssdd_resnet38: .*missing .*_stats/dd0/"):
        tool.convert("ssdd_resnet38", src[0], str(tmp_path / "half"))
    with pytest.raises(ValueError, match="seg.npz: holds what the file before holds .*encoder"):
        tool.convert("ssdd_resnet38", f"{src[0]},{src[0]}", str(tmp_path / "half"))
    assert not (tmp_path / "half").exists()
