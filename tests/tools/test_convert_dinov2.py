"""DINOv2 and UniMatch V2 weights: in from every published layout, and out again, to the bit."""

import importlib.util
import pathlib

import jax
import numpy as np
import pytest
import safetensors.numpy

from wsssjax.core import weights
from wsssjax.models import dpt, vit, vit_names

torch = pytest.importorskip("torch")
ROOT = pathlib.Path(__file__).parents[2]
SMALL = {"s": vit.Size(64, 4, (0, 1, 2, 3)), "b": vit.Size(128, 4, (0, 1, 2, 3)),
         "g": vit.Size(64, 3, (0, 1, 1, 2), swiglu=True)}


@pytest.fixture(scope="module")
def tool():
    """The command, with encoders of a few channels in the places of S, B and g."""
    spec = importlib.util.spec_from_file_location("convert_weights",
                                                  ROOT / "tools" / "convert_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    patch = pytest.MonkeyPatch()
    for name, size in SMALL.items():
        patch.setitem(vit.SIZES, name, size)
    patch.setattr(module, "HEADS", dict.fromkeys("sblg", 8))
    yield module
    patch.undo()


def hub(size="s", registers=False, seed=0):
    """A state dict of the hub's, written down from the published table of names and shapes."""
    width, depth, _, swiglu = SMALL[size]
    rng = np.random.default_rng(seed)
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, 1370, width), "mask_token": (1, width),
              "patch_embed.proj.weight": (width, 3, 14, 14), "patch_embed.proj.bias": (width,),
              "norm.weight": (width,), "norm.bias": (width,)}
    if registers:
        shapes["register_tokens"] = (1, 4, width)
    hidden = (4 * width * 2 // 3 + 7) // 8 * 8
    mlp = {"w12": (2 * hidden, width), "w3": (width, hidden)} if swiglu else {
        "fc1": (4 * width, width), "fc2": (width, 4 * width)}
    for i in range(depth):
        block = {"norm1.weight": (width,), "norm1.bias": (width,), "norm2.weight": (width,),
                 "norm2.bias": (width,), "ls1.gamma": (width,), "ls2.gamma": (width,),
                 "attn.qkv.weight": (3 * width, width), "attn.qkv.bias": (3 * width,),
                 "attn.proj.weight": (width, width), "attn.proj.bias": (width,)}
        for name, shape in mlp.items():
            block |= {f"mlp.{name}.weight": shape, f"mlp.{name}.bias": shape[:1]}
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
    return {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}


def model(size="s", classes=5):
    """A whole UniMatch V2 state dict."""
    head = dpt.DPTHead(classes, 8, dpt.channels(8), (14,) * 4)
    taps = [jax.ShapeDtypeStruct((1, 2, 2, SMALL[size].width), np.float32)] * 4
    shapes = jax.eval_shape(lambda *t: head.init(jax.random.key(0), t, (28, 28)), *taps)
    rng = np.random.default_rng(1)
    flat = {n: rng.standard_normal(x.shape).astype(np.float32)
            for n, x in weights.flatten(shapes).items()}
    found = {f"backbone.{n}": x for n, x in hub(size).items()}
    return found | {f"head.{n}": x for n, x in dpt.to_torch(flat, "params/").items()}


def save(path, tensors, **more):
    tensors = {n: torch.from_numpy(x) for n, x in tensors.items()}
    torch.save({**more, more["key"]: tensors} if "key" in more else tensors, path)
    return str(path)


def same(got, want):
    assert got.keys() == want.keys()
    for name, x in want.items():
        assert got[name].shape == x.shape and got[name].dtype == np.float32, name
        np.testing.assert_array_equal(got[name], x, err_msg=name)


def back(tool, arch, folder, out):
    report = tool.convert(arch, str(folder), str(out), to="torch")
    assert report["source"]["hash"] == weights.fingerprint(folder / weights.FILE)
    state = torch.load(out / "model.pth", weights_only=True)
    return {n: x.numpy() for n, x in state.items()}


@pytest.mark.parametrize("size, registers", [("s", False), ("s", True), ("g", False)])
def test_hub_and_hugging_face_give_one_file_and_come_back_to_the_bit(tool, tmp_path, size,
                                                                     registers):
    state = hub(size, registers)
    arch = f"dinov2_{size}" + "_reg" * registers
    sources = {
        "hub": save(tmp_path / "hub.pth", state),
        # as DINOv2's own training writes them, two blocks to a chunk
        "chunks": save(tmp_path / "chunks.pth", {
            (f"blocks.{int(n.split('.')[1]) // 2}.{n[7:]}" if n.startswith("blocks.") else n): x
            for n, x in state.items()}),
        "hf": tmp_path / "hf.safetensors",
        "prefixed": tmp_path / "prefixed.safetensors",
    }
    hf = vit_names.hf_from_hub(state)
    assert "encoder.layer.0.attention.attention.query.weight" in hf
    safetensors.numpy.save_file(hf, sources["hf"])
    safetensors.numpy.save_file(
        {f"dinov2.{n}": x for n, x in hf.items()} | {"classifier.bias": np.zeros(3, np.float32)},
        sources["prefixed"])
    found = {}
    for name, src in sources.items():
        report = tool.convert(arch, str(src), str(tmp_path / name))
        assert report["skipped"] == (["classifier.bias"] if name == "prefixed" else [])
        found[name] = weights.load(tmp_path / name)
    for name in found:
        same(found[name], found["hub"])
    stacked = found["hub"]["params/backbone/blocks/attn/qkv/kernel"]
    np.testing.assert_array_equal(stacked[1], state["blocks.1.attn.qkv.weight"].T)
    same(back(tool, arch, tmp_path / "hub", tmp_path / "back"), state)


def test_a_trained_model_and_its_average(tool, tmp_path):
    state = model()
    average = {n: x + 1 for n, x in state.items()}
    prefixed = {f"module.{n}": torch.from_numpy(x) for n, x in state.items()}
    checkpoint = {
        "model": prefixed, "epoch": 3, "previous_best": np.float64(79.0), "best_epoch": 2,
        "model_ema": {f"module.{n}": torch.from_numpy(x) for n, x in average.items()},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4}]}}
    torch.save(checkpoint, tmp_path / "latest.pth")
    arch = "unimatch_v2_dinov2_s"
    for src, ema, want in (
        (save(tmp_path / "plain.pth", state), False, state),
        (tmp_path / "latest.pth", False, state),
        (tmp_path / "latest.pth", True, average),
    ):
        report = tool.convert(arch, str(src), str(tmp_path / "out"), ema=ema)
        assert report["tensors"] == len(weights.load(tmp_path / "out"))
        same(back(tool, arch, tmp_path / "out", tmp_path / "back"), want)
    # The encoder alone comes out of a trained segmenter too.
    encoder = {n.removeprefix("backbone."): x for n, x in average.items()
               if n.startswith("backbone.")}
    same(back(tool, "dinov2_s", tmp_path / "out", tmp_path / "encoder"), encoder)


def test_what_does_not_fit_is_listed_and_nothing_written(tool, tmp_path):
    def refused(arch, src, message, **more):
        with pytest.raises(ValueError) as error:
            tool.convert(arch, str(src), str(tmp_path / "out"), **more)
        assert message in str(error.value), str(error.value)
        assert str(src) in str(error.value) or "--" in str(error.value)
        assert not (tmp_path / "out").exists()

    state, whole = hub(), model()
    short = {n: x for n, x in state.items() if n != "blocks.2.ls1.gamma"}
    refused("dinov2_s", save(tmp_path / "a.pth", short), "blocks.ls1.gamma is missing in 1 of 4")
    short = {n: x for n, x in state.items() if n != "norm.bias"}
    refused("dinov2_s", save(tmp_path / "b.pth", short), "missing 1 name: params/norm/bias")
    refused("dinov2_s", save(tmp_path / "c.pth", state | {"head.weight": np.zeros((2, 2))}),
            "left over 1 name: params/head/kernel")
    refused("dinov2_s", save(tmp_path / "d.pth", state | {"fc.x": np.zeros(2)}),
            "1 name: fc.x [2]: no tensor of a DINOv2")
    refused("dinov2_b", save(tmp_path / "e.pth", state), "of another shape")
    refused("dinov2_s_reg", save(tmp_path / "f.pth", state), "missing 1 name: params/register_tok")
    refused("dinov2_s", save(tmp_path / "g.pth", whole), "backbone.cls_token")
    refused("unimatch_v2_dinov2_s", save(tmp_path / "h.pth", state), "no tensor of UniMatch V2")
    refused("unimatch_v2_dinov2_b", save(tmp_path / "i.pth", whole), "of another shape")
    last = {n: x for n, x in whole.items() if "output_conv.2" not in n}
    refused("unimatch_v2_dinov2_s", save(tmp_path / "j.pth", last), "missing 2 names")
    refused("unimatch_v2_dinov2_s", save(tmp_path / "k.pth", whole), "has no entry 'model_ema'",
            ema=True)
    refused("dinov2_s", tmp_path / "a.pth", "--ema", ema=True)
    refused("dinov2_s", tmp_path / "a.pth", "--to 'pytorch' is unknown", to="pytorch")
    torch.save({"model": {"a": torch.ones(1), "b": 3, "c": "x"}}, tmp_path / "l.pth")
    refused("unimatch_v2_dinov2_s", tmp_path / "l.pth", "found 2 names: b (int), c (str)")
    torch.save({"model": {"a": torch.ones(1)}, "args": pathlib.PurePosixPath("x")},
               tmp_path / "m.pth")
    refused("unimatch_v2_dinov2_s", tmp_path / "m.pth", "pathlib.PurePosixPath")
