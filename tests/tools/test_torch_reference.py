"""The PyTorch reference against numbers computed from the public implementation."""

import copy
import importlib.util
import pathlib
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

TOOL = pathlib.Path(__file__).parents[2] / "tools" / "bench" / "torch_reference.py"


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their own module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def reference():
    return load(TOOL)


@pytest.fixture(scope="module")
def fixtures(shared):
    return shared / "fixtures"


def build_meta(reference, *arguments, **keywords):
    with torch.device("meta"):
        return reference.build(*arguments, **keywords)


def count(module):
    return sum(x.numel() for x in module.state_dict().values())


@pytest.mark.parametrize("size, crop", [("small", 518), ("base", 84), ("large", 56)])
def test_counted_operations_are_torchs(reference, size, crop):
    """The bench of the training step counts them by formulas; torch counts the calls it makes."""
    from torch.utils.flop_counter import FlopCounterMode
    bench = load(TOOL.with_name("train_step.py"))
    model = build_meta(reference, size, bench.CLASSES, attention="eager")
    image = torch.zeros(1, 3, crop, crop, device="meta")
    with FlopCounterMode(display=False) as encoder:
        maps = model.encoder(image)
    with FlopCounterMode(display=False) as head:
        model.decode(maps, (crop, crop))
    own = reference.SIZES[size]
    assert bench.encoder_flops(own.width, own.depth, crop) == encoder.get_total_flops()
    assert bench.head_flops(own.width, own.head_width, own.channels, crop) == head.get_total_flops()


# --------------------------------------------------------------------------- weights and names


@pytest.mark.parametrize("size, encoder, head, tensors", [
    ("small", 22_056_576, 2_739_061, 237), ("base", 86_580_480, 10_948_309, 237),
    ("large", 304_368_640, 31_210_517, 405), ("giant", 1_136_480_768, 122_267_925, 629),
])
def test_sizes(reference, size, encoder, head, tensors):
    model = build_meta(reference, size, 21)
    assert (count(model.encoder), count(model.head)) == (encoder, head)
    assert len(reference.state_dict(model)) == tensors


def hub_shapes(depth, d, hidden, swiglu):
    """Names and shapes of a DINOv2 hub file."""
    shapes = {"cls_token": (1, 1, d), "pos_embed": (1, 1370, d), "mask_token": (1, d),
              "patch_embed.proj.weight": (d, 3, 14, 14), "patch_embed.proj.bias": (d,),
              "norm.weight": (d,), "norm.bias": (d,)}
    layers = {"norm1": (d,), "norm2": (d,), "attn.qkv": (3 * d, d), "attn.proj": (d, d)}
    layers |= ({"mlp.w12": (2 * hidden, d), "mlp.w3": (d, hidden)} if swiglu else
               {"mlp.fc1": (hidden, d), "mlp.fc2": (d, hidden)})
    for i in range(depth):
        for name, shape in layers.items():
            shapes[f"blocks.{i}.{name}.weight"] = shape
            shapes[f"blocks.{i}.{name}.bias"] = shape[:1]
        shapes |= {f"blocks.{i}.ls{n}.gamma": (d,) for n in (1, 2)}
    return shapes


@pytest.mark.parametrize("size, registers", [("small", False), ("small", True), ("giant", False)])
def test_names_are_the_hubs(reference, size, registers):
    model = build_meta(reference, size, 21, registers=registers)
    got = {n.removeprefix("backbone."): tuple(x.shape)
           for n, x in reference.state_dict(model).items() if n.startswith("backbone.")}
    want = hub_shapes(12, 384, 1536, False) if size == "small" else hub_shapes(40, 1536, 4096, True)
    assert got == want | ({"register_tokens": (1, 4, 384)} if registers else {})


@pytest.mark.parametrize("modules", [False, True])
@pytest.mark.parametrize("swiglu", [False, True])
@pytest.mark.parametrize("array", [np.asarray, torch.tensor])
def test_names_go_round(reference, modules, swiglu, array):
    rng = np.random.default_rng(0)
    hub = {n: array(rng.standard_normal(s).astype(np.float32))
           for n, s in (hub_shapes(2, 6, 8, swiglu) | {"register_tokens": (1, 4, 6)}).items()}
    hf = reference.hf_from_hub(hub, modules=modules)
    assert "encoder.layer.1.layer_scale2.lambda1" in hf
    assert (f"encoder.layer.0.attention.{'k_proj' if modules else 'attention.key'}.weight") in hf
    assert ("encoder.layer.1.mlp.weights_in.bias" in hf) == (swiglu and not modules)
    back = reference.hub_from_hf(hf)
    assert set(back) == set(hub)
    for name, x in hub.items():
        np.testing.assert_array_equal(back[name], x, err_msg=name)
    # the second third of the rows of qkv are the keys
    key = next(x for n, x in hf.items() if n.endswith(("0.attention.k_proj.weight",
                                                       "0.attention.attention.key.weight")))
    np.testing.assert_array_equal(key, hub["blocks.0.attn.qkv.weight"][6:12])


def test_unknown_or_missing_names_are_errors(reference):
    with pytest.raises(ValueError, match="blocks.0.extra.weight: no tensor of a DINOv2 hub file"):
        reference.hf_from_hub({"blocks.0.extra.weight": np.zeros(3)})
    with pytest.raises(ValueError, match="classifier.weight: no tensor of a Hugging Face DINOv2"):
        reference.hub_from_hf({"classifier.weight": np.zeros(3)})
    with pytest.raises(ValueError, match="blocks.0.attn.qkv.bias: 3 parts make it, and not all"):
        reference.hub_from_hf({"encoder.layer.0.attention.q_proj.bias": np.zeros(3)})


@pytest.mark.parametrize("registers, swiglu", [(False, False), (True, False), (False, True)])
def test_state_comes_back_after_loading(reference, registers, swiglu):
    kind = "giant" if swiglu else "small"
    torch.manual_seed(0)
    first, second = (reference.build(kind, 5, depth=4, width=64, head_width=8,
                                     registers=registers) for _ in range(2))
    flat = reference.state_dict(first)
    assert any((flat[n] != x).any() for n, x in reference.state_dict(second).items())
    reference.load_state_dict(second, flat)
    image = torch.randn(2, 3, 42, 56)
    with torch.no_grad():
        torch.testing.assert_close(first(image), second(image), rtol=0, atol=0)
    for name, x in reference.state_dict(second).items():
        assert (x == flat[name]).all(), name
    with pytest.raises((KeyError, RuntimeError)):
        reference.load_state_dict(second, dict(list(flat.items())[1:]))


# ------------------------------------------------------------------------------- the network


@pytest.mark.parametrize("p, first, second, last", [
    (24, 0.205518, 1.754970, 35.665460), (27, 0.138515, 1.536088, 35.752487),
    (36, 0.009350, 1.054049, 35.913400), (57, -0.089627, 0.380270, 36.065895),
])
def test_positions_are_resized_with_the_offset(reference, p, first, second, last):
    """Acceptance values of the description: a ramp over the table, along each axis."""
    ramp = torch.arange(37.0)
    grid = torch.stack([ramp[:, None].expand(37, 37), ramp.expand(37, 37)], -1)
    table = torch.cat([torch.full((1, 1, 2), 9.0), grid.reshape(1, 37 * 37, 2)], 1)
    got = reference.resize_positions(table, (p, 30))
    assert (got[0, 0] == 9).all()
    rows = got[0, 1:, 0].reshape(p, 30)[:, 3]
    np.testing.assert_allclose(rows[[0, 1, -1]], [first, second, last], atol=1e-5)
    columns = reference.resize_positions(table, (30, p))[0, 1:, 1].reshape(30, p)[3]
    np.testing.assert_allclose(columns, rows, atol=1e-5)
    assert reference.resize_positions(table, (37, 37)) is table


def test_both_ways_of_positions_agree_on_the_tables_own_grid(reference):
    """Nothing is resized at 518 x 518, so that the encoder must be transformers' own, exactly."""
    torch.manual_seed(0)
    for registers in (False, True):
        ours, theirs = (reference.build("small", 3, depth=4, width=64, head_width=8,
                                        registers=registers, offset=offset)
                        for offset in (True, False))
        reference.load_state_dict(theirs, reference.state_dict(ours))
        image = torch.randn(1, 3, 518, 518)
        with torch.no_grad():
            for a, b in zip(ours.encoder(image), theirs.encoder(image), strict=True):
                assert a.shape == (1, 64, 37, 37)
                torch.testing.assert_close(a, b, rtol=0, atol=0)
            whole = theirs.encoder.model(pixel_values=image).last_hidden_state
        last = whole[:, 5 if registers else 1:].transpose(1, 2).reshape(1, 64, 37, 37)
        torch.testing.assert_close(b, last, rtol=0, atol=0)


# ----------------------------------------------------------------------------- three steps


def inputs(numbers, side=70):
    """The batches of fixtures/README.md, with the draws of the complementary dropout."""
    rng = np.random.Generator(np.random.Philox(99))
    for it in range(3):
        images = [rng.standard_normal((4, 3, side, side), dtype=np.float32) for _ in range(4)]
        batch = dict(zip(("image", "weak", "strong1", "strong2"), images, strict=True))
        batch["label"] = rng.integers(0, 21, (4, side, side))
        batch["label"][:, :8] = 255
        batch["valid"] = np.ones((4, side, side), bool)
        batch["valid"][1, :, 60:] = False
        batch["valid"][3, 50:] = False
        for v in (0, 1):
            box = batch[f"cut{v + 1}"] = np.zeros((4, side, side), bool)
            for b in range(4):
                if (b + v + it) % 2 == 0:
                    box[b, 10 + 5 * b:40, 5:30 + 4 * b] = True
        batch["kept"] = numbers[f"drop_{it}"].astype(bool)
        batch["whole"] = np.isin(np.arange(4), numbers[f"perm_{it}"][:2])
        yield batch


def tensors(batch, dtype):
    return {name: torch.tensor(x, dtype=dtype if x.dtype == np.float32 else None)
            for name, x in batch.items()}


@pytest.fixture(scope="module")
def named(reference, fixtures):
    """A model with the weights that the fixtures name, in float64."""
    weight = load(fixtures / "named_weights.py").named_weight
    model = reference.build("small", 21)
    flat = {n: torch.tensor(weight(n, tuple(x.shape)))
            for n, x in reference.state_dict(model).items()}
    reference.load_state_dict(model, flat)
    return model.double()


@pytest.mark.parametrize("name", ["trainable", "frozen"])
def test_three_steps_are_the_public_implementations(reference, fixtures, named, name):
    """Measured: losses and gradient norms within 1e-9 relative, the mask ratio, which the fixtures
    hold in float32, within 4e-8, parameters within 3e-12 absolute; frozen, all but the ratio within
    3e-15. The bounds leave room for another torch's rounding where positions are resized."""
    numbers = np.load(fixtures / "unimatch_v2_steps_f64.npz")
    settings = reference.Settings(total_steps=10, conf_threshold=0.2,
                                  freeze_encoder=name == "frozen")
    run = reference.start(copy.deepcopy(named), settings)
    for it, batch in enumerate(inputs(numbers)):
        got = reference.train_step(run, tensors(batch, torch.float64))
        want = numbers[f"{name}_scalars_{it}"]
        scalars = np.array([float(x) for x in got.values()])
        np.testing.assert_allclose(scalars, want, rtol=2e-6, err_msg=f"step {it}")
    for role, model in (("student", run.student), ("ema", run.teacher)):
        state = reference.state_dict(model)
        kept = [n for n in numbers if n.startswith(f"{name}_{role}_")]
        assert len(kept) == 7
        for key in kept:
            x = state[key.removeprefix(f"{name}_{role}_")].numpy().reshape(-1)
            x = x[::max(1, x.size // 64)][:64]
            np.testing.assert_allclose(x, numbers[key], rtol=0, atol=1e-7, err_msg=key)
