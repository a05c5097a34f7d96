"""The DPT head against a second writing of it in torch, after the specification's names."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wsssjax.core import weights
from wsssjax.models import dpt


@functools.cache
def reference_class():
    torch = pytest.importorskip("torch")
    nn, F = torch.nn, torch.nn.functional

    class Unit(nn.Module):
        def __init__(self, f):
            super().__init__()
            self.conv1 = nn.Conv2d(f, f, 3, padding=1)
            self.conv2 = nn.Conv2d(f, f, 3, padding=1)

        def forward(self, x):
            return x + self.conv2(F.relu(self.conv1(F.relu(x))))

    class Fuse(nn.Module):
        def __init__(self, f):
            super().__init__()
            self.resConfUnit1, self.resConfUnit2 = Unit(f), Unit(f)
            self.out_conv = nn.Conv2d(f, f, 1)

        def forward(self, x, skip, size):
            if skip is not None:
                x = x + self.resConfUnit1(skip)
            x = self.resConfUnit2(x)
            x = F.interpolate(x, size, mode="bilinear", align_corners=True)
            return self.out_conv(x)  # after the resize, as the original has it

    class Head(nn.Module):
        def __init__(self, widths, f, c, k, resized):
            super().__init__()
            self.projects = nn.ModuleList(nn.Conv2d(d, n, 1)
                                          for d, n in zip(widths, c, strict=True))
            self.resize_layers = nn.ModuleList([
                nn.ConvTranspose2d(c[0], c[0], 4, 4), nn.ConvTranspose2d(c[1], c[1], 2, 2),
                nn.Identity(), nn.Conv2d(c[3], c[3], 3, 2, 1)] if resized else
                [nn.Identity() for _ in range(4)])
            self.scratch = nn.Module()
            for i in range(4):
                setattr(self.scratch, f"layer{i + 1}_rn",
                        nn.Conv2d(c[i], f, 3, padding=1, bias=False))
                setattr(self.scratch, f"refinenet{i + 1}", Fuse(f))
            self.scratch.output_conv = nn.Sequential(nn.Conv2d(f, f, 3, padding=1), nn.ReLU(),
                                                     nn.Conv2d(f, k, 1))

        def forward(self, taps, size):
            s = self.scratch
            r = [getattr(s, f"layer{i + 1}_rn")(self.resize_layers[i](self.projects[i](t)))
                 for i, t in enumerate(taps)]
            p = s.refinenet4(r[3], None, r[2].shape[2:])
            p = s.refinenet3(p, r[2], r[1].shape[2:])
            p = s.refinenet2(p, r[1], r[0].shape[2:])
            p = s.refinenet1(p, r[0], tuple(2 * n for n in r[0].shape[2:]))
            return F.interpolate(s.output_conv(p), size, mode="bilinear", align_corners=True)

    return Head


def build(widths, grids, strides, size, k=5, f=12):
    """(reference, our head, our variables, taps) with one set of random weights."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    c = dpt.channels(f)
    model = reference_class()(widths, f, c, k, resized=len(set(strides)) == 1)
    head = dpt.DPTHead(k, f, c, strides)
    rng = np.random.default_rng(0)
    taps = [rng.standard_normal((2, *grid, d)).astype(np.float32)
            for grid, d in zip(grids, widths, strict=True)]
    template = jax.eval_shape(lambda: head.init(jax.random.key(0), taps, size))
    state = {name: x.numpy() for name, x in model.state_dict().items()}
    return model, head, weights.restore(template, dpt.from_torch(state, "params/")), taps


@pytest.mark.parametrize("grid", [(36, 27), (5, 4), (1, 3)])
def test_patch_taps_match_torch(grid):
    import torch
    size = (grid[0] * 14, grid[1] * 14) if grid != (36, 27) else (100, 77)
    model, head, variables, taps = build((16,) * 4, (grid,) * 4, (14,) * 4, size)
    with torch.no_grad():
        want = model([torch.tensor(t).permute(0, 3, 1, 2) for t in taps], size)
    got = jax.jit(lambda v, t: head.apply(v, t, size))(variables, taps)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want.permute(0, 2, 3, 1), atol=2e-5)


def test_pyramid_taps_match_torch_without_resize_layers():
    import torch
    grids, size = ((25, 33), (13, 17), (7, 9), (4, 5)), (97, 130)
    model, head, variables, taps = build((8, 12, 16, 20), grids, (4, 8, 16, 32), size)
    assert not any("resize" in name for name in weights.flatten(variables))
    with torch.no_grad():
        want = model([torch.tensor(t).permute(0, 3, 1, 2) for t in taps], size)
    got = jax.jit(lambda v, t: head.apply(v, t, size))(variables, taps)
    np.testing.assert_allclose(got, want.permute(0, 2, 3, 1), atol=2e-5)


def shapes(width, strides, grids, tap_width, k=21):
    head = dpt.DPTHead(k, width, dpt.channels(width), strides)
    taps = [jax.ShapeDtypeStruct((1, *g, tap_width), jnp.float32) for g in grids]

    def init(*taps):
        return head.init(jax.random.key(0), taps, (14, 14), capture_intermediates=True,
                         mutable=["params", "intermediates"])

    return jax.eval_shape(init, *taps)


@pytest.mark.parametrize("width, tap_width, k, count", [
    (64, 384, 21, 2_739_061), (128, 768, 21, 10_948_309), (256, 1024, 21, 31_210_517),
    (384, 1536, 21, 122_267_925), (64, 384, 19, 2_738_931), (64, 384, 150, 2_747_446),
    (128, 768, 81, 10_956_049),
])
def test_parameter_counts(width, tap_width, k, count):
    params = shapes(width, (14,) * 4, ((3, 3),) * 4, tap_width, k)["params"]
    assert sum(x.size for x in jax.tree.leaves(params)) == count
    assert len(jax.tree.leaves(params)) == 62


@pytest.mark.parametrize("grid, levels, fused", [
    ((37, 37), ((148, 148), (74, 74), (37, 37), (19, 19)),
     ((296, 296), (148, 148), (74, 74), (37, 37))),
    ((36, 27), ((144, 108), (72, 54), (36, 27), (18, 14)),
     ((288, 216), (144, 108), (72, 54), (36, 27))),
])
def test_shape_trace(grid, levels, fused):
    seen = shapes(64, (14,) * 4, (grid,) * 4, 384)["intermediates"]["scratch"]
    size = lambda x: x["__call__"][0].shape[1:3]  # noqa: E731
    assert tuple(size(seen[f"layer{i}_rn"]) for i in (1, 2, 3, 4)) == levels
    assert tuple(size(seen[f"refinenet{i}"]) for i in (1, 2, 3, 4)) == fused
    assert size(seen["output_conv_2"]) == fused[0]


def test_starts_as_torch_does():
    head = dpt.DPTHead(5, 32, dpt.channels(32), (14,) * 4)
    taps = [jnp.zeros((1, 2, 2, 64))] * 4
    params = jax.jit(lambda: head.init(jax.random.key(0), taps, (28, 28)))()["params"]
    c0, c1, _, c3 = dpt.channels(32)
    scratch = params["scratch"]
    cases = {
        64: params["projects_0"], 16 * c0: params["resize_layers_0"],
        4 * c1: params["resize_layers_1"], 9 * c3: params["resize_layers_3"],
        9 * 32: scratch["refinenet4"]["resConfUnit1"]["conv2"], 32: scratch["output_conv_2"],
    }
    for fan_in, leaf in cases.items():
        bound = fan_in ** -0.5
        for x in leaf.values():
            assert float(jnp.abs(x).max()) <= bound
        assert abs(float(leaf["kernel"].std()) - bound / 3 ** 0.5) < 0.1 * bound
        assert float(jnp.abs(leaf["bias"]).max()) > 0.5 * bound


def test_mixed_strides_resize_only_what_must_be():
    names = shapes(8, (4, 8, 16, 16), ((8, 8), (4, 4), (2, 2), (2, 2)), 4)["params"]
    assert [n for n in names if n.startswith("resize")] == ["resize_layers_3"]
    with pytest.raises(ValueError, match="map 0 is 8 times as coarse as its level"):
        shapes(8, (32, 8, 16, 32), ((8, 8),) * 4, 4)


def test_width_is_checked():
    assert dpt.channels(24) == (18, 36, 72, 144)
    with pytest.raises(ValueError, match="head_width 25: want a multiple of 4"):
        dpt.channels(25)
    with pytest.raises(ValueError, match="head_width 0"):
        dpt.channels(0)


def test_from_torch_refuses_other_heads():
    with pytest.raises(ValueError, match=r"norm.weight \[4\]: no tensor of a DPT head"):
        dpt.from_torch({"norm.weight": np.zeros(4)})
