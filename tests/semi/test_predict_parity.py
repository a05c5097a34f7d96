"""`python -m wsssjax.predict` with a UniMatch V2 checkpoint equals the PyTorch model's logits."""

import importlib.util
import pathlib
import sys

import numpy as np
import pytest
from PIL import Image

from wsssjax import predict

ROOT = pathlib.Path(__file__).parents[2]
SIZES = {"square": (84, 84), "multiple": (56, 98), "odd": (61, 75), "high": (131, 44),
         "photo": (333, 500), "least": (14, 30)}


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(PyTorch model, folder with photos and the converted checkpoint of that model)."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("parity")
    reference = load(ROOT / "tools/bench/torch_reference.py")
    torch.manual_seed(0)
    model = reference.build("small", 21).eval()
    with torch.no_grad():
        for x in model.parameters():  # far from the start, where logits hardly vary
            x.add_(torch.randn_like(x) * (0.02 if x.ndim > 1 else 0.2))
            x.mul_(2.0 if x.ndim == 4 and x.shape[-1] < 14 else 1.0)
    checkpoint = {"model_ema": {f"module.{n}": x for n, x in reference.state_dict(model).items()},
                  "model": {"module.x": torch.zeros(1)}, "epoch": 59, "previous_best": 79.0}
    torch.save(checkpoint, folder / "best.pth")
    load(ROOT / "tools/convert_weights.py").main(
        ["--arch=unimatch_v2_dinov2_s", f"--src={folder / 'best.pth'}", "--ema",
         f"--out={folder / 'weights'}"])
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for name, (h, w) in SIZES.items():
        coarse = Image.fromarray(rng.integers(0, 256, (6, 7, 3), dtype=np.uint8))
        coarse.resize((w, h), Image.Resampling.BICUBIC).save(folder / "photos" / f"{name}.png")
    return model, folder


def test_logits_equal_torch(world):
    import torch
    model, folder = world
    resize = torch.nn.functional.interpolate
    predict.main([f"--config={ROOT / 'configs/semi_voc_unimatch_v2.py'}:small", "--save=logits",
                  f"--weights={folder / 'weights'}", f"--images={folder / 'photos'}",
                  f"--out={folder / 'out'}", "--config.predict.batch=2"])
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in
                 ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for name, (h, w) in SIZES.items():
        photo = np.asarray(Image.open(folder / "photos" / f"{name}.png"))
        x = (torch.tensor(photo.transpose(2, 0, 1)[None]) / 255 - mean) / std
        grid = [int(side / 14 + 0.5) * 14 for side in (h, w)]
        with torch.no_grad():
            z = model(resize(x, grid, mode="bilinear", align_corners=True))
            z = resize(z, (h, w), mode="bilinear", align_corners=True)
        want = z[0].permute(1, 2, 0).numpy()
        got = np.load(folder / "out" / f"{name}.npy")
        assert got.dtype == np.float32 and got.shape == (h, w, 21)
        assert want.std((0, 1)).min() > 0.05, "logits must vary over the photo"
        error = np.abs(got - want).max() / np.abs(want).max()
        print(f"{name}: relative error {error:.1e}")
        assert error < 1e-4, (name, error)  # asked for: 1e-3
        assert (got.argmax(-1) == want.argmax(-1)).mean() > 0.999


def test_a_photo_smaller_than_a_patch_is_named(world, tmp_path):
    _, folder = world
    Image.new("RGB", (300, 13)).save(tmp_path / "sliver.png")
    with pytest.raises(ValueError, match="photo 'sliver': 13 x 300 pixels is smaller than one"):
        predict.main([f"--config={ROOT / 'configs/semi_voc_unimatch_v2.py'}:small",
                      f"--weights={folder / 'weights'}", f"--images={tmp_path}",
                      f"--out={tmp_path / 'out'}"])


def test_weights_of_another_size_are_listed(world, tmp_path):
    _, folder = world
    with pytest.raises(ValueError) as error:
        predict.main([f"--config={ROOT / 'configs/semi_voc_unimatch_v2.py'}:base",
                      f"--weights={folder / 'weights'}", f"--images={folder / 'photos'}",
                      f"--out={tmp_path / 'out'}"])
    assert "params/backbone/blocks/attn/proj/bias (want [12, 768], found [12, 384])" in str(
        error.value)
    assert not (tmp_path / "out").exists()
