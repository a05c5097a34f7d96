"""Conformer's ImageNet file, whole checkpoints of TransCAM and BAO there and back, and misfits."""

import functools
import importlib.util
import json
import pathlib

import numpy as np
import pytest

from wsssjax.core import weights
from wsssjax.models import conformer

torch = pytest.importorskip("torch")
ROOT = pathlib.Path(__file__).parents[2]
BASE, NUMBERS = 2, (2, 5, 9, 12)


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


plain = load(ROOT / "tests/conformer_torch.py")


@pytest.fixture
def tool(monkeypatch):
    """The command with a Conformer of a thirtieth of the width and a third of the depth."""
    few = tuple(block for block in conformer.BLOCKS if block.number in NUMBERS)
    monkeypatch.setattr(conformer, "Conformer", functools.partial(
        conformer.Conformer, BASE / 64, blocks=few))
    return load(ROOT / "tools/convert_weights.py")


def network(classes=20, bao=False, seed=0):
    return plain.randomise(plain.Network(BASE, classes, bao, NUMBERS), seed)


def save(path, model, change=lambda state: None):
    """What the public code saves."""
    state = dict(model.state_dict())
    change(state)
    torch.save(state, path)
    return str(path)


def test_the_imagenet_file_gives_its_encoder(tool, tmp_path, capsys):
    """Wrapped under `model`; its two classifiers of 1000 classes are passed over."""
    def as_published(state):
        state |= {"trans_cls_head.weight": torch.zeros(1000, 6 * BASE),
                  "trans_cls_head.bias": torch.zeros(1000),
                  "conv_cls_head.weight": torch.zeros(1000, 16 * BASE),
                  "conv_cls_head.bias": torch.zeros(1000)}

    model = network()
    state = dict(model.state_dict())
    as_published(state)
    torch.save({"model": state, "epoch": 300}, tmp_path / "wrapped.pth")
    plainly = save(tmp_path / "plain.pth", model, as_published)
    found = []
    for src in (str(tmp_path / "wrapped.pth"), plainly):
        tool.main(["--arch=conformer_small", f"--src={src}", f"--out={tmp_path / 'out'}"])
        found.append(weights.load(tmp_path / "out"))
    counters = sum("num_batches" in n for n in state)
    assert f"passed over: {counters + 4}, none missing" in capsys.readouterr().out
    assert found[0].keys() == found[1].keys() and len(found[0]) == len(state) - counters - 4
    assert all(n.split("/")[1] == "backbone" for n in found[0])
    for name, x in found[0].items():
        np.testing.assert_array_equal(x, found[1][name])
    np.testing.assert_array_equal(found[0]["params/backbone/trans_norm/scale"],
                                  state["trans_norm.weight"].numpy())
    kernel = found[0]["params/backbone/trans_patch_conv/kernel"]
    np.testing.assert_array_equal(kernel, state["trans_patch_conv.weight"].numpy().transpose(
        2, 3, 1, 0))


@pytest.mark.parametrize("arch, classes", [("transcam", 20), ("bao", 20), ("transcam", 80)])
def test_whole_checkpoints_go_there_and_back(tool, tmp_path, arch, classes):
    """To the bit, and torch's strict reader takes what comes back."""
    model = network(classes, arch == "bao")
    src = save(tmp_path / "model.pth", model)
    report = tool.convert(arch, src, str(tmp_path / "ours"))
    ours = weights.load(tmp_path / "ours")
    assert ours["params/head/conv_cls_head/kernel"].shape == (3, 3, 16 * BASE, classes + 1)
    assert ("params/head/label_enc/kernel" in ours) == (arch == "bao")
    assert report["tensors"] == len(ours) and report["source"]["name"] == "model.pth"
    tool.convert(arch, str(tmp_path / "ours/weights.safetensors"), str(tmp_path / "back"),
                 to="torch")
    back = torch.load(tmp_path / "back/model.pth", weights_only=True)
    fresh = network(classes, arch == "bao", seed=9)
    fresh.load_state_dict(back)
    for name, x in model.state_dict().items():
        if "num_batches" not in name:
            assert torch.equal(fresh.state_dict()[name], x), name
    again = json.loads((tmp_path / "back/report.json").read_text())
    assert again["numbers"] == report["numbers"]


@pytest.mark.parametrize("arch, change, message", [
    ("transcam", lambda s: s.update({"conv_cls_head.bias": torch.zeros(20),
                                     "conv_cls_head.weight": torch.zeros(20, 32, 3, 3)}),
     "20 class maps; want 21"),
    ("transcam", lambda s: s.update({"trans_cls_head.bias": torch.zeros(20)}),
     "head/trans_cls_head/bias (want [21], found [20])"),
    ("bao", lambda s: None, "missing 4 names: params/head/classifier_x/bias"),
    ("transcam", lambda s: s.pop("conv_trans_12.fusion_block.residual_bn.running_var"),
     "missing 1 name: batch_stats/backbone/conv_trans_12/fusion_block/residual_bn/var"),
    ("transcam", lambda s: s.update({"conv_trans_13.trans_block.norm1.bias": torch.zeros(12)}),
     "left over 1 name: params/backbone/conv_trans_13/trans_block/norm1/bias"),
    ("transcam", lambda s: s.update({"bn1.bias": torch.tensor([1.0, np.inf])}),
     "NaN or infinity in 1 name"),
    ("conformer_small", lambda s: s.pop("cls_token"), "missing 1 name: params/cls_token"),
])
def test_what_does_not_fit_is_named_in_one_line(tool, tmp_path, arch, change, message):
    src = save(tmp_path / "model.pth", network(), change)
    with pytest.raises(ValueError) as error:
        tool.convert(arch, src, str(tmp_path / "out"))
    text = str(error.value)
    assert message in text and "model.pth" in text and "\n" not in text
    assert "look like" not in text and not (tmp_path / "out").exists()


@pytest.mark.parametrize("arch", ["conformer_small", "transcam", "bao"])
@pytest.mark.parametrize("name, looks", [
    ("b3.conv_branch2a.weight", "a ResNet-38"), ("layer3.5.conv3.weight", "a ResNet-50")])
def test_another_backbone_is_named(tool, tmp_path, arch, name, looks):
    torch.save({name: torch.zeros(4, 4, 1, 1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=rf"other.pth.*{name} .*no tensor of a Conformer; these "
                       f"look like weights of {looks}") as error:
        tool.convert(arch, str(tmp_path / "other.pth"), str(tmp_path / "out"))
    assert "\n" not in str(error.value)


def test_a_bao_file_is_no_transcam_file_and_the_encoder_alone_has_no_way_back(tool, tmp_path):
    src = save(tmp_path / "model.pth", network(bao=True))
    with pytest.raises(ValueError, match="as transcam: .*left over 4 names: params/head/classif"):
        tool.convert("transcam", src, str(tmp_path / "out"))
    tool.convert("conformer_small", src, str(tmp_path / "encoder"))
    with pytest.raises(ValueError, match="no way back to PyTorch; only .*transcam and bao have"):
        tool.convert("conformer_small", str(tmp_path / "encoder"), str(tmp_path / "out"),
                     to="torch")
