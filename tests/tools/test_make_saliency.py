"""tools/make_saliency.py: what a small network must give, resuming, and every file it refuses."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from wsssjax.cam import saliency_onnx
from wsssjax.cam.saliency_onnx import RECIPES, Recipe, saliency_folder
from wsssjax.core import files

pytest.importorskip("onnxruntime")
ROOT = pathlib.Path(__file__).parents[2]
TOOL = ROOT / "tools" / "make_saliency.py"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


# ---- ONNX files written by hand: protocol buffers are numbered fields, length before content -----


def _number(value):
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def _field(number, value):
    if isinstance(value, int):
        return _number(number << 3) + _number(value)
    value = value.encode() if isinstance(value, str) else value
    return _number(number << 3 | 2) + _number(len(value)) + value


def _tensor(name, shape, kind=1):
    dims = b"".join(_field(1, _field(1, n) if isinstance(n, int) else _field(2, n)) for n in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, kind) + _field(2, dims)))


def _reduce(op, source, target):
    """A node that takes `op` over the channels."""
    axes = _field(1, "axes") + _field(8, 1) + _field(20, 7)
    return (_field(1, source) + _field(2, target) + _field(4, op) + _field(5, axes))


def onnx_file(path, shape=("n", 3, 8, 8), kind=1, inputs=1, nodes=None, outputs=("mean", "max")):
    """Writes a network whose outputs are the mean and the maximum over the channels."""
    nodes = nodes or [_reduce("ReduceMean", "x0", "mean"), _reduce("ReduceMax", "x0", "max")]
    graph = b"".join(_field(1, node) for node in nodes) + _field(2, "g")
    graph += b"".join(_field(11, _tensor(f"x{i}", shape, kind)) for i in range(inputs))
    graph += b"".join(_field(12, _tensor(name, ("n", 1, "p", "q"), kind)) for name in outputs)
    path.write_bytes(_field(1, 8) + _field(8, _field(1, "") + _field(2, 13)) + _field(7, graph))
    return path


def recipe(**changes):
    return Recipe(**{"side": 8, "resample": "bilinear", "scale": "max", "mean": MEAN, "std": STD,
                     "output": 0, "finish": "minmax"} | changes)


@pytest.fixture
def folder(tmp_path):
    """Five photos of odd sizes, and a network."""
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i, name in enumerate("abcde"):
        blocks = rng.integers(0, 200, (3, 4, 3)).astype(np.uint8)
        photo = np.repeat(np.repeat(blocks, 5 + i, 0), 6, 1)
        Image.fromarray(photo).save(tmp_path / "photos" / f"{name}.png")
    onnx_file(tmp_path / "net.onnx")
    return tmp_path


def run(folder, out="out", weights="net.onnx", how=None, **options):
    return saliency_folder(folder / "photos", folder / out, folder / weights, how or recipe(),
                           **options)


def maps(folder, out="out"):
    return {p.stem: np.asarray(Image.open(p)) for p in sorted((folder / out).glob("*.png"))}


# ---- values ------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [
    {}, {"scale": "255"}, {"output": 1}, {"finish": "sigmoid"}, {"resample": "lanczos"},
    {"mean": (0.5, 0.5, 0.5), "std": (1.0, 1.0, 1.0), "resample": "bicubic"},
])
def test_maps_are_what_the_recipe_says(folder, changes):
    how = recipe(**changes)
    assert run(folder, how=how) == (5, 0)
    pil = getattr(Image.Resampling, how.resample.upper())
    for name, got in maps(folder).items():
        photo = Image.open(folder / "photos" / f"{name}.png")
        x = np.asarray(photo.resize((8, 8), pil), np.float64)
        x = x / (x.max() if how.scale == "max" else 255)
        x = (x - how.mean) / how.std
        y = x.max(-1) if how.output else x.mean(-1)
        y = 1 / (1 + np.exp(-y)) if how.finish == "sigmoid" else (y - y.min()) / (y.max() - y.min())
        want = np.asarray(Image.fromarray(y.astype(np.float32)).resize(photo.size, pil))
        assert got.shape == photo.size[::-1] and got.dtype == np.uint8
        assert np.abs(got - np.clip(want, 0, 1) * 255).max() < 0.502  # rounding alone


def test_batches_threads_and_fixed_rows_change_nothing(folder):
    onnx_file(folder / "two.onnx", shape=(2, 3, 8, 8))
    run(folder)
    run(folder, "batched", batch=3)
    run(folder, "one", workers=1)
    run(folder, "fixed", "two.onnx")  # five photos in pairs: the last one is filled up
    for other in ("batched", "one", "fixed"):
        for name, got in maps(folder, other).items():
            np.testing.assert_array_equal(got, maps(folder)[name], (other, name))


def test_half_precision_networks_and_outputs_without_a_channel(folder):
    onnx_file(folder / "half.onnx", kind=10)
    run(folder)
    run(folder, "half", "half.onnx")
    for name, got in maps(folder, "half").items():
        assert np.abs(got.astype(int) - maps(folder)[name]).max() <= 1
    squeeze = _field(1, "mean") + _field(2, "flat") + _field(4, "Flatten") + _field(
        5, _field(1, "axis") + _field(3, 3) + _field(20, 2))
    onnx_file(folder / "flat.onnx", nodes=[_reduce("ReduceMean", "x0", "mean"), squeeze],
              outputs=("flat",))
    with pytest.raises(ValueError, match=r"flat.onnx: its output 'flat' is \[8, 8\]; want \[1, 1,"):
        run(folder, "flat", "flat.onnx")


def test_a_photo_of_one_colour_has_no_saliency(folder):
    Image.new("RGB", (9, 7), (0, 0, 0)).save(folder / "photos" / "a.png")
    run(folder)
    assert maps(folder)["a"].shape == (7, 9) and not maps(folder)["a"].any()


def test_a_turned_photo_gets_an_upright_map(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20), (9, 99, 9)).save(folder / "photos" / "z.jpg", exif=exif)
    run(folder)
    assert maps(folder)["z"].shape == (40, 20)


def test_published_networks_have_a_recipe():
    assert RECIPES["u2netp"] == RECIPES["u2net"] and RECIPES["u2net"].side == 320
    assert {r.side for r in RECIPES.values()} == {320, 1024}
    for row in RECIPES.values():
        text = json.dumps(saliency_onnx.dataclasses.asdict(row))
        assert saliency_onnx.read_recipe(text) == row


# ---- resuming ----------------------------------------------------------------------------------


def test_finished_maps_are_kept_and_others_refused(folder):
    run(folder)
    before = {p.name: p.stat().st_mtime_ns for p in (folder / "out").glob("*.png")}
    (folder / "out" / "c.png").unlink()
    assert run(folder) == (1, 4)
    after = {p.name: p.stat().st_mtime_ns for p in (folder / "out").glob("*.png")}
    assert {n for n in before if before[n] == after[n]} == set(before) - {"c.png"}
    with pytest.raises(ValueError, match="made with another recipe"):
        run(folder, how=recipe(scale="255"))
    onnx_file(folder / "other.onnx", shape=("n", 3, "h", "w"))
    with pytest.raises(ValueError, match="made with another weights"):
        run(folder, weights="other.onnx")
    (folder / "out" / saliency_onnx.NOTE).unlink()
    with pytest.raises(ValueError, match=r"a.png: a map that this network did not make \(5 of 5"):
        run(folder)


def test_the_results_do_not_go_among_the_photos(folder):
    with pytest.raises(ValueError, match="--out=.*photos: is --images itself"):
        run(folder, "photos")


# ---- what is refused ---------------------------------------------------------------------------


def _bad_weights(path):
    whole = path.read_bytes()
    return {
        "no network": (b"\x89PNG not a network", "onnxruntime cannot load it"),
        "empty": (b"", "onnxruntime cannot load it"),
        "cut off": (whole[:-40], "onnxruntime cannot load it"),
        "two inputs": ({"inputs": 2}, r"takes 2 inputs \(x0, x1\); want a network that takes a"),
        "rank": ({"shape": ("n", 3, 8)}, r"its input is tensor\(float\) \['n', 3, 8\]; want"),
        "integers": ({"kind": 6}, r"its input is tensor\(int32\)"),
        "one channel": ({"shape": ("n", 1, 8, 8)}, "1 channels; want 3"),
        "another size": ({"shape": (1, 3, 16, 16)}, "the recipe's photos have 8 x 8 pixels"),
        "few outputs": ({"outputs": ("mean",)}, None),
    }


@pytest.mark.parametrize("case", _bad_weights(TOOL))
def test_weights_that_do_not_fit_are_one_line(folder, case):
    content, told = _bad_weights(folder / "net.onnx")[case]
    path, how = folder / "bad.onnx", recipe()
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        onnx_file(path, **content)
    if case == "few outputs":
        how, told = recipe(output=1), r"has 1 outputs \(mean\), the recipe wants number 1"
    with pytest.raises(ValueError, match=told) as caught:
        run(folder, weights="bad.onnx", how=how)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert not (folder / "out").exists()


def test_values_that_are_no_numbers_name_the_photo(folder):
    log = _field(1, "x0") + _field(2, "log") + _field(4, "Log")
    onnx_file(folder / "nan.onnx", nodes=[log, _reduce("ReduceMean", "log", "mean")],
              outputs=("mean",))
    with pytest.raises(ValueError, match=r"nan.onnx: gives values .* for '[a-e]'"):
        run(folder, weights="nan.onnx")
    assert not maps(folder)


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\xff\xd8\xff\xe0 cut"])
def test_unreadable_photos_are_named(folder, content):
    (folder / "photos" / "c.png").unlink()
    (folder / "photos" / "c.jpg").write_bytes(content)
    with pytest.raises(ValueError, match="photos/c.jpg: "):
        run(folder, workers=1)
    assert {"a", "b"} <= set(maps(folder)) and "c" not in maps(folder)  # what was done stays done


def test_missing_files_and_bad_numbers(folder):
    with pytest.raises(FileNotFoundError, match="none.onnx: no such weights; want an ONNX file"):
        run(folder, weights="none.onnx")
    with pytest.raises(ValueError, match="--batch=0: want 1 or more"):
        run(folder, batch=0)
    with pytest.raises(ValueError, match="--provider 'GPU' is unknown; there are .*CPUExecution"):
        run(folder, provider="GPU")
    onnx_file(folder / "two.onnx", shape=(2, 3, 8, 8))
    with pytest.raises(ValueError, match="--batch=3: .*two.onnx is made for batches of 2"):
        run(folder, weights="two.onnx", batch=3)


BAD_RECIPES = {
    "{": "not valid JSON",
    "[1]": "no such file",
    '{"side": 8}': "lacks resample, scale, mean, std, output, finish; resample is one of bilinear",
    '{"sides": 8}': "'sides' is unknown; did you mean 'side'",
    "none.json": "none.json: no such file; want JSON text or a file",
}


@pytest.mark.parametrize("spec", BAD_RECIPES)
def test_bad_recipes_are_told(spec):
    with pytest.raises((ValueError, OSError), match=BAD_RECIPES[spec]):
        saliency_onnx.read_recipe(spec)


@pytest.mark.parametrize("field, value", [
    ("side", 0), ("side", 1.5), ("side", True), ("resample", "area"), ("resample", []),
    ("scale", "min"), ("mean", [1, 2]), ("std", [0, 1, 1]), ("output", -1), ("finish", None)])
def test_bad_values_of_a_recipe_are_told(field, value):
    table = saliency_onnx.dataclasses.asdict(recipe()) | {field: value}
    with pytest.raises(ValueError, match=f"--recipe: {field} is .*; want "):
        saliency_onnx.read_recipe(json.dumps(table))


def command(*flags):
    return subprocess.run([sys.executable, TOOL, *flags], capture_output=True, text=True, cwd=ROOT,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})


def test_the_command(folder):
    text = json.dumps(saliency_onnx.dataclasses.asdict(recipe()))
    flags = (f"--weights={folder}/net.onnx", f"--images={folder}/photos", f"--out={folder}/out",
             f"--json={folder}/done.json")
    done = command(f"--recipe={text}", *flags)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert done.stdout.startswith(f"5 saliency maps in {folder}/out, 0 of them already there (")
    assert files.read_json(folder / "done.json")["written"] == 5
    both = command(f"--recipe={text}", "--model=u2netp", *flags)
    assert both.returncode == 1 and both.stderr.count("\n") == 1
    assert "--model: want it or --recipe, one of the two; models are u2net" in both.stderr
    unknown = command("--model=u2nep", *flags)
    assert unknown.returncode == 1 and "did you mean 'u2netp'" in unknown.stderr


def test_the_network_is_an_extra(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"onnxruntime is not installed: pip install "
                                         r"'wsssjax\[saliency\]'"):
        run(folder)


def test_u2netp_gives_the_maps_that_are_stored(shared, tmp_path):
    """The stored ones were made of full-size photos, halved, and saved as JPEG."""
    root = shared / "data"
    names = sorted(p.stem for p in (root / "voc_mini/JPEGImages").glob("*.jpg"))[::29]
    listed = tmp_path / "photos.txt"
    listed.write_text("".join(f"{root}/voc_mini/JPEGImages/{name}.jpg\n" for name in names))
    saliency_folder(listed, tmp_path / "out", root / "weights/u2netp.onnx", RECIPES["u2netp"])
    for name in names:
        want = Image.open(root / f"voc_small/saliency/{name}.jpg")
        got = Image.open(tmp_path / f"out/{name}.png").resize(want.size, Image.Resampling.BILINEAR)
        error = np.abs(np.asarray(got, np.float32) - np.asarray(want, np.float32)).mean()
        assert error < 1.5, (name, error)  # grey levels; 0.55 on average over 86 photos
