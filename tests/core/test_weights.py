"""Saved is what is loaded; every difference of names is said; damaged files are refused."""

import io
import os

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from wsssjax.core import weights


def tree(seed=0):
    rng = np.random.default_rng(seed)
    block = lambda: {"kernel": rng.standard_normal((3, 4)).astype(np.float32),  # noqa: E731
                     "bias": rng.standard_normal(4).astype(np.float32)}
    return {"params": {"backbone": {"conv_stem": block(), "blocks_0": block()}, "head": block()},
            "batch_stats": {"backbone": {"mean": np.array(2.5, np.float32)}}}


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_round_trip(tmp_path):
    before, other = tree(0), tree(1)
    weights.save(tmp_path / "weights.safetensors", jax.tree.map(jnp.asarray, before))
    assert [p.name for p in tmp_path.iterdir()] == ["weights.safetensors"]
    for path in (tmp_path, tmp_path / "weights.safetensors"):
        same(weights.restore(other, weights.load(path)), before)
    shapes = jax.eval_shape(lambda: other)
    same(weights.restore(shapes, weights.load(tmp_path)), before)


def test_flat_names_and_npz(tmp_path):
    flat = weights.flatten(tree())
    assert list(flat)[:2] == ["batch_stats/backbone/mean", "params/backbone/blocks_0/bias"]
    np.savez(tmp_path / "w.npz", **flat)
    same(weights.restore(tree(1), weights.load(tmp_path / "w.npz")), tree())
    assert "params/backbone/head/kernel" in weights.under("backbone", flat)


def test_a_flat_dict_saves_under_its_own_names(tmp_path):
    weights.save(tmp_path / "w.safetensors", weights.flatten(tree()))
    same(weights.restore(tree(1), weights.load(tmp_path / "w.safetensors")), tree())


def test_dtypes_follow_the_network(tmp_path):
    half = {"params": {"w": np.arange(4, dtype=np.float16), "b": np.ones(2, ml_dtypes.bfloat16)}}
    weights.save(tmp_path / "w.safetensors", half)
    wide = {"params": {"w": np.zeros(4, np.float32), "b": np.zeros(2, np.float32)}}
    got = weights.restore(wide, weights.load(tmp_path / "w.safetensors"))["params"]
    assert got["w"].dtype == got["b"].dtype == np.float32
    np.testing.assert_array_equal(got["w"], np.arange(4))
    with pytest.raises(ValueError, match=r"params/w \(want int32, found float16\)"):
        weights.restore({"params": {"w": np.zeros(4, np.int32)}},
                        {"params/w": half["params"]["w"]})


def test_report_both_ways():
    flat = weights.flatten(tree())
    flat["params/backbone/conv_stm/kernel"] = flat.pop("params/backbone/conv_stem/kernel")
    flat["params/head/bias"] = np.zeros(5, np.float32)
    report = weights.compare(tree(), flat)
    assert report.missing == ("params/backbone/conv_stem/kernel",)
    assert report.unused == ("params/backbone/conv_stm/kernel",)
    assert report.misshaped == (("params/head/bias", "[4]", "[5]"),)
    with pytest.raises(ValueError) as error:
        weights.restore(tree(), flat)
    text = str(error.value)
    assert "\n" not in text
    assert "missing 1 name: params/backbone/conv_stem/kernel (nearest to" in text
    assert "in the file: 'params/backbone/conv_stm/kernel')" in text
    assert "left over 1 name: params/backbone/conv_stm/kernel" in text
    assert "of another shape 1 name: params/head/bias (want [4], found [5])" in text


def test_long_lists_are_cut():
    names = [f"n{i}" for i in range(12)]
    assert weights.listed(names) == "12 names: n0, n1, n2, n3, n4, and 7 more"


def test_excuses_and_renaming():
    start, flat = tree(1), weights.flatten(tree(0))
    flat = {n.replace("/head/", "/old_head/"): x for n, x in flat.items()}
    got = weights.restore(start, flat, allow_missing=("^params/head/",),
                          allow_unused=("/old_head/",))
    same(got["params"]["head"], start["params"]["head"])  # kept
    same(got["params"]["backbone"], tree(0)["params"]["backbone"])  # taken
    assert (got["params"]["head"]["bias"] != tree(0)["params"]["head"]["bias"]).any()
    same(weights.restore(start, flat, rename=[("/old_head/", "/head/")]), tree(0))
    with pytest.raises(ValueError, match="gives two weights one name"):
        weights.restore(start, flat, rename=[("/(kernel|bias)$", "/x")])
    with pytest.raises(ValueError, match="of another shape"):  # an excuse covers names, not shapes
        weights.restore(start, {**flat, "params/head/bias": np.zeros(9, np.float32)},
                        allow_missing=(".*",), allow_unused=(".*",))


def damaged():
    good = safetensors.numpy.save(weights.flatten(tree()))
    archive = io.BytesIO()
    np.savez(archive, a=np.arange(1000.0))
    archive = archive.getvalue()
    objects = io.BytesIO()
    np.savez(objects, a=np.array([{}], dtype=object))
    npy = io.BytesIO()
    np.save(npy, np.zeros(3))
    flipped = bytearray(archive)
    flipped[200] ^= 255
    return {
        "empty.safetensors": b"", "short.safetensors": good[:4], "header.safetensors": good[:60],
        "cut.safetensors": good[:-5], "long.safetensors": good + b"x",
        "huge.safetensors": b"\xff" * 8 + good[8:], "text.safetensors": b"hello world, not weights",
        "nothing.safetensors": safetensors.numpy.save({}),
        "empty.npz": b"", "cut.npz": archive[:-30], "flipped.npz": bytes(flipped),
        "objects.npz": objects.getvalue(), "plain.npz": npy.getvalue(), "text.npz": b"PK hello",
    }


@pytest.mark.parametrize("name", damaged())
def test_damaged_files(tmp_path, name):
    (tmp_path / name).write_bytes(damaged()[name])
    with pytest.raises(ValueError) as error:
        weights.load(tmp_path / name)
    assert str(error.value).startswith(str(tmp_path / name)) and "\n" not in str(error.value)


def test_absent_and_foreign_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such weights; want a .safetensors file"):
        weights.load(tmp_path / "x.safetensors")
    with pytest.raises(FileNotFoundError, match="weights.safetensors: no such weights"):
        weights.load(tmp_path)
    (tmp_path / "x.pth").write_bytes(b"PK")
    with pytest.raises(ValueError, match="convert it once: python tools/convert_weights.py"):
        weights.load(tmp_path / "x.pth")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite(tmp_path, value):
    bad = tree()
    bad["params"]["head"]["bias"][2] = value
    path = tmp_path / "w.safetensors"
    with pytest.raises(ValueError, match="NaN or infinity in 1 name: params/head/bias"):
        weights.save(path, bad)
    assert os.listdir(tmp_path) == []
    path.write_bytes(safetensors.numpy.save(weights.flatten(bad)))
    with pytest.raises(ValueError, match="NaN or infinity in 1 name: params/head/bias"):
        weights.load(path)
