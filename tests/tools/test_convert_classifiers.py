"""Published classifiers: a state dict in their names → weights → the command → the maps that the
published code would give, step by step in PyTorch."""

import importlib.util
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from wsssjax.cam import __main__ as command
from wsssjax.core import weights
from wsssjax.data import cam_file
from wsssjax.models import recognise, registry, resnet, resnet38

ROOT = pathlib.Path(__file__).parents[2]
THIN = 1 / 16
SIZES = {"a": (45, 62), "b": (60, 51)}  # h, w; both in a bucket of 64 x 64
TAGS = {"a": "cat;person", "b": "aeroplane"}
TAGGED = {"a": (8, 15), "b": (1,)}
CONFIGS = {"cam_resnet38": "cam_voc_cam.py:resnet38", "eps_resnet38": "cam_voc_eps.py:resnet38",
           "cam_resnet50": "cam_voc_cam.py:resnet50"}


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def plain():
    pytest.importorskip("torch")
    return load(ROOT / "tests/classifiers_torch.py")


@pytest.fixture
def tool(monkeypatch):
    """The command, and the encoders of the configs, at a sixteenth of the width."""
    module = load(ROOT / "tools/convert_weights.py")
    thin38, r38 = resnet38.ResNet38(width=THIN), resnet38.from_torch
    thin50 = resnet.ResNet(50, 16, norm="stored", width=THIN)
    head = r"classifier|newly_added\.0"
    for name, arch in {
        "cam_resnet38": module._classifier(lambda: thin38, r38, "fc8"),
        "eps_resnet38": module._classifier(lambda: thin38, r38, "fc8", background=True),
        "cam_resnet50": module._classifier(lambda: thin50, resnet.from_torch, head,
                                           passed_over=module._aliases),
        "resnet38": module.Arch(lambda *_: thin38, r38),
        "resnet50": module.Arch(lambda *_: resnet.ResNet(50, width=THIN), resnet.from_torch,
                                passed_over=resnet.passed_over),
        "resnet101": module.Arch(lambda *_: resnet.ResNet(101, width=THIN), resnet.from_torch),
    }.items():
        assert name in module.ARCHES
        monkeypatch.setitem(module.ARCHES, name, arch)
    monkeypatch.setitem(registry.ENCODERS, "resnet38", registry.Encoder(
        lambda _, dtype: resnet38.ResNet38(width=THIN, dtype=dtype), r38))
    monkeypatch.setitem(registry.ENCODERS, "resnet50", registry.Encoder(
        lambda config, dtype: resnet.ResNet(50, config.output_stride, width=THIN, dtype=dtype,
                                            **config.resnet), resnet.from_torch))
    return module


def network(plain, arch):
    build = {"cam_resnet38": lambda: plain.Cam38(20, THIN), "cam_resnet50": lambda: plain.Irn(
        20, THIN), "eps_resnet38": lambda: plain.Cam38(21, THIN)}[arch]
    return plain.randomise(build(), seed=5).eval()


@pytest.fixture
def photos(tmp_path):
    """(folder of two photos, CSV of their tags, {id: pixels})."""
    rng, pixels = np.random.default_rng(0), {}
    (tmp_path / "photos").mkdir()
    for name, (h, w) in SIZES.items():
        noise = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
        image = noise.resize((w, h), Image.Resampling.BICUBIC)
        image.save(tmp_path / "photos" / f"{name}.png")
        pixels[name] = np.asarray(image)
    (tmp_path / "tags.csv").write_text("id,tags\n" + "".join(f"{n},{t}\n" for n, t in TAGS.items()))
    return tmp_path / "photos", tmp_path / "tags.csv", pixels


@pytest.fixture
def written(monkeypatch):
    """{id: maps} in float32, as the command hands them to the file."""
    found, write = {}, cam_file.write

    def remember(path, classes_m, cam_mhw, size):
        found[path.stem] = cam_mhw
        write(path, classes_m, cam_mhw, size)

    monkeypatch.setattr(command.cam_file, "write", remember)
    monkeypatch.setattr(command.parallel, "start", lambda: None)
    return found


@pytest.mark.parametrize("arch", CONFIGS)
def test_published_weights_give_the_published_maps(plain, tool, tmp_path, photos, written, arch):
    """All scales in buckets, which both photos share; one on exact canvases, each of which is a
    program to compile."""
    import torch

    model = network(plain, arch)
    torch.save(model.state_dict(), tmp_path / "published.pth")
    report = tool.convert(arch, str(tmp_path / "published.pth"), str(tmp_path / "ours"))
    assert report["file"] == weights.FILE and (report["skipped"] != []) == (arch == "cam_resnet50")
    images, tags, pixels = photos
    follow = {"cam_resnet38": plain.psa_maps, "cam_resnet50": plain.irn_maps,
              "eps_resnet38": plain.eps_maps}[arch]
    for canvas in ("exact", "bucket"):
        out, more = tmp_path / canvas, {}
        flags = [f"--config.infer.canvas={canvas}", "--config.infer.batch=2"]
        if canvas == "exact":
            more = {"scales": (1.5,)}
            flags.append("--config.infer.scales=(1.5,)")
        command.main([f"--config={ROOT / 'configs' / CONFIGS[arch]}", f"--out={out}", *flags,
                      f"--weights={tmp_path / 'ours'}", f"--images={images}", f"--tags={tags}"])
        for name, photo in pixels.items():
            tags_k = np.zeros(20, np.float32)
            tags_k[np.array(TAGGED[name]) - 1] = 1
            want = follow(model, photo, tags_k, **more)
            assert want.max() > 0.9 and want.std() > 0.05
            np.testing.assert_allclose(written[name], want, atol=1e-5, err_msg=canvas)
            found = cam_file.read(out / f"{name}.npz")
            assert tuple(found.classes) == TAGGED[name] and tuple(found.size) == SIZES[name]
            np.testing.assert_allclose(found.cam, want, atol=6e-4)  # half floats


def test_an_irn_checkpoint_is_read_once_however_it_names_its_layers(plain, tool, tmp_path):
    """All names, the aliases alone, and torchvision's names with IRN's classifier: one result."""
    state = plain.numpy_state(network(plain, "cam_resnet50"))
    forms = {
        "whole": state,
        "stages": {n: x for n, x in state.items()
                   if not n.startswith(("resnet50.", "backbone.", "newly_added."))},
        "lists": {n: x for n, x in state.items() if n.startswith(("backbone.", "newly_added."))},
        "torchvision": {n.removeprefix("resnet50."): x for n, x in state.items()
                        if n.startswith(("resnet50.", "classifier."))},
    }
    forms["torchvision"]["fc.weight"] = np.zeros((1000, 128), np.float32)
    found = {}
    for name, tensors in forms.items():
        np.savez(tmp_path / f"{name}.npz", **tensors)
        report = tool.convert("cam_resnet50", str(tmp_path / f"{name}.npz"),
                              str(tmp_path / name))
        found[name] = weights.load(tmp_path / name)
        used = len(tensors) - len(report["skipped"])
        assert used == len(found[name]), name
    for name, flat in found.items():
        assert flat.keys() == found["whole"].keys()
        for place, x in flat.items():
            np.testing.assert_array_equal(x, found["whole"][place], err_msg=f"{name} {place}")
    np.testing.assert_array_equal(found["whole"]["params/head/kernel"],
                                  state["classifier.weight"][:, :, 0, 0].T)
    forms["whole"]["stage3.0.5.conv2.weight"] = state["stage3.0.5.conv2.weight"] + 1
    np.savez(tmp_path / "two.npz", **forms["whole"])
    with pytest.raises(ValueError, match="two.npz, as cam_resnet50: .*conv2.weight: differs from"):
        tool.convert("cam_resnet50", str(tmp_path / "two.npz"), str(tmp_path / "two"))


@pytest.mark.parametrize("depth", [50, 101])
def test_encoders_convert_and_start_a_classifier(plain, tool, tmp_path, depth):
    import torch

    model = plain.randomise(plain.ResNet(depth, THIN))
    state = model.state_dict() | {"fc.weight": torch.zeros(1000, 128), "fc.bias": torch.zeros(1000)}
    torch.save(state, tmp_path / "r.pth")
    report = tool.convert(f"resnet{depth}", str(tmp_path / "r.pth"), str(tmp_path / "r"))
    flat = weights.load(tmp_path / "r")
    assert all(name.split("/")[1] == "backbone" for name in flat)
    np.testing.assert_array_equal(flat["params/backbone/layer3_4/conv2/kernel"],
                                  state["layer3.4.conv2.weight"].numpy().transpose(2, 3, 1, 0))
    if depth == 50:
        counters = sum(name.endswith("num_batches_tracked") for name in state)
        assert len(report["skipped"]) == counters + 2
        written = json.loads((tmp_path / "r" / "report.json").read_text())
        assert "fc.weight" in written["skipped"]


@pytest.mark.parametrize("arch, given, complaint", [
    ("cam_resnet38", "cam_resnet50", "no tensor of a ResNet-38; these look like .* a ResNet-50"),
    ("cam_resnet50", "eps_resnet38", "no tensor of a ResNet-50 or -101; .* a ResNet-38"),
    ("cam_resnet38", "eps_resnet38", "21 class maps: with one for the background; .*arch=eps_"),
    ("eps_resnet38", "cam_resnet38", "20 class maps: without one for the background; .*=cam_"),
    ("resnet101", "cam_resnet50", "missing .* names: .*; these look like weights of a ResNet-50"),
])
def test_another_network_is_named(plain, tool, tmp_path, arch, given, complaint):
    np.savez(tmp_path / "w.npz", **plain.numpy_state(network(plain, given)))
    with pytest.raises(ValueError, match=f"w.npz, as {arch}: .*{complaint}") as error:
        tool.convert(arch, str(tmp_path / "w.npz"), str(tmp_path / "out"))
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_an_encoder_alone_is_no_classifier(plain, tool, tmp_path):
    state = plain.numpy_state(network(plain, "cam_resnet38"))
    state.pop("fc8.weight")
    np.savez(tmp_path / "w.npz", **state)
    with pytest.raises(ValueError, match="no fc8.weight, the class maps; this is an encoder alone"):
        tool.convert("cam_resnet38", str(tmp_path / "w.npz"), str(tmp_path / "out"))
    np.savez(tmp_path / "w.npz", **state, **{"fc8.weight": np.zeros((20, 256), np.float32)})
    with pytest.raises(ValueError, match=r"fc8.weight \[20, 256\]: want class maps"):
        tool.convert("cam_resnet38", str(tmp_path / "w.npz"), str(tmp_path / "out"))


def run(photos, tmp_path, spec, *more):
    images, tags, _ = photos
    command.main([f"--config={ROOT / 'configs' / spec}", f"--weights={tmp_path / 'ours'}",
                  f"--images={images}", f"--tags={tags}", f"--out={tmp_path / 'out'}", *more])


def test_the_command_names_what_does_not_fit(plain, tool, tmp_path, photos, written):
    np.savez(tmp_path / "w.npz", **plain.numpy_state(network(plain, "cam_resnet38")))
    tool.convert("cam_resnet38", str(tmp_path / "w.npz"), str(tmp_path / "ours"))
    with pytest.raises(ValueError, match="as cam: .*; these look like weights of a ResNet-38"):
        run(photos, tmp_path, "cam_voc_cam.py:resnet50")
    (tmp_path / "five.txt").write_text("cat\nperson\naeroplane\nowl\nelk\n")
    with pytest.raises(ValueError, match="as cam: .*head/kernel gives 20 maps, the 5 classes of "
                                         ".*five.txt' want 5; pass --classes"):
        run(photos, tmp_path, "cam_voc_cam.py:resnet38", f"--classes={tmp_path / 'five.txt'}")
    with pytest.raises(ValueError, match="as eps: .*kernel gives 20 maps, the 20 .* want 21"):
        run(photos, tmp_path, "cam_voc_eps.py:resnet38")
    photos[1].write_text("id,tags\na,cat;yak\nb,cat\n")
    with pytest.raises(ValueError, match="tags.csv, line 2: id 'a': unknown class 'yak'"):
        run(photos, tmp_path, "cam_voc_cam.py:resnet38")
    photos[1].write_text("id,tags\na,cat\nc,cat\n")
    with pytest.raises(ValueError, match=r"no tags for the photo .*b\.png"):
        run(photos, tmp_path, "cam_voc_cam.py:resnet38")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("*.npz"))


def test_weights_of_a_training_that_diverged_are_told(plain, tool, tmp_path, photos, written):
    """They are finite, but what they give is not."""
    state = plain.numpy_state(network(plain, "cam_resnet38"))
    state["conv1a.weight"] = state["conv1a.weight"] * np.float32(1e38)
    np.savez(tmp_path / "w.npz", **state)
    tool.convert("cam_resnet38", str(tmp_path / "w.npz"), str(tmp_path / "ours"))
    with pytest.raises(ValueError, match="photo 'a': NaN or infinity in its class maps; the tr"):
        run(photos, tmp_path, "cam_voc_cam.py:resnet38", "--config.infer.scales=(1.0,)")


def test_a_photo_without_tags_is_background(plain, tool, tmp_path, photos, written):
    np.savez(tmp_path / "w.npz", **plain.numpy_state(network(plain, "cam_resnet38")))
    tool.convert("cam_resnet38", str(tmp_path / "w.npz"), str(tmp_path / "ours"))
    photos[1].write_text(f"id,tags\na,\nb,{'0' * 20}\n")
    run(photos, tmp_path, "cam_voc_cam.py:resnet38", "--config.infer.scales=(1.0,)")
    for name, size in SIZES.items():
        assert not np.asarray(Image.open(tmp_path / "out" / f"{name}.png")).any()
        found = cam_file.read(tmp_path / "out" / f"{name}.npz")
        assert found.cam.shape == (0, *size) and found.classes.shape == (0,)


@pytest.mark.parametrize("names, network", [
    (["module.b3.conv_branch2a.weight"], "resnet38"),
    (["params/backbone/b3/conv_branch2a/kernel"], "resnet38"),
    (["layer3.22.conv3.weight", "layer3.5.conv3.weight"], "resnet101"),
    (["params/backbone/layer3_5/conv3/kernel"], "resnet50"),
    (["layer4.1.conv2.weight", "layer3.5.conv2.weight"], "resnet18"),
    (["_blocks.3._depthwise_conv.weight"], "efficientnet"),
    (["blocks.0.attn.qkv.weight"], "dinov2"), (["features.28.weight"], "vgg16"),
    (["conv_trans_2.cnn_block.conv1.weight"], "conformer"), (["visual.proj"], "clip"),
    (["w", "head.weight"], ""),
])
def test_networks_by_their_names(names, network):
    assert recognise.network(names) == network
    assert (recognise.hint(names, f"cam_{network}") == "") and (
        (recognise.hint(names, "other") == "") == (network == ""))
