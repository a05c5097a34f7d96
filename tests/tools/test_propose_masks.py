"""tools/propose_masks.py: resumes, shards, names bad input, and leaves no process behind."""

import json
import os
import pathlib
import re
import runpy
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from wsssjax.core.config import load
from wsssjax.refine import proposals, propose

TOOL = pathlib.Path(__file__).parents[2] / "tools" / "propose_masks.py"
ROOT = TOOL.parents[1]


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for name in "abcde":
        blocks = rng.integers(0, 255, (3, 4, 3)).astype(np.uint8)
        image = np.repeat(np.repeat(blocks, 10, 0), 10, 1)
        Image.fromarray(image).save(tmp_path / "photos" / f"{name}.png")
    return tmp_path


def command(*flags):
    return subprocess.run([sys.executable, TOOL, *flags], capture_output=True, text=True, cwd=ROOT,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})


def test_tool_writes_one_file_per_photo_with_its_parameters(photos):
    flags = ("--backend=felzenszwalb", f"--images={photos}/photos", f"--out={photos}/out")
    done = command(*flags)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (photos / "out").iterdir()) == [f"{i}.json.gz" for i in "abcde"]
    value = proposals.read_file(photos / "out" / "a.json.gz")
    assert value["size"] == [30, 40] and value["by"] == propose.describe("felzenszwalb")
    assert proposals.read(photos / "out", "a", (30, 40)).any(0).all()
    assert "5 of them already there" in command(*flags).stdout


def run(photos, **changes):
    return propose.run(**{"images": str(photos / "photos"), "out": str(photos / "out")} | changes)


def test_only_what_is_missing_broken_or_made_otherwise_is_made(photos):
    run(photos)
    kept = {p.name: p.stat().st_mtime_ns for p in (photos / "out").iterdir()}
    (photos / "out" / "b.json.gz").unlink()
    (photos / "out" / "c.json.gz").write_bytes(b"half")
    assert run(photos)["already_there"] == 3
    now = {p.name: p.stat().st_mtime_ns for p in (photos / "out").iterdir()}
    assert {n for n in kept if now[n] == kept[n]} == {f"{i}.json.gz" for i in "ade"}
    assert run(photos, scales=(10.0,))["already_there"] == 0
    assert run(photos, scales=(10.0,))["already_there"] == 5


def test_processes_and_shards_write_the_same_bytes_as_one(photos):
    run(photos)
    run(photos, out=str(photos / "two"), processes=2)
    for part in ("0/2", "1/2"):
        run(photos, out=str(photos / "parts"), part=part)
    for other in ("two", "parts"):
        for path in sorted((photos / "out").iterdir()):
            assert path.read_bytes() == (photos / other / path.name).read_bytes()


def test_shards_part_the_ids():
    ids = [str(i) for i in range(10)]
    parts = [propose.shard(ids, f"{i}/3") for i in range(3)]
    assert sorted(sum(parts, [])) == ids and max(map(len, parts)) == 4


@pytest.mark.parametrize("flags, message", [
    (["--backend=felzenszwalb", "--shard=2/2"], "--shard=2/2: want i/n"),
    (["--backend=felzenszwalb", "--shard=x"], "--shard=x: want i/n"),
    (["--backend=mcg"], "--backend 'mcg' is unknown; there are felzenszwalb, import, sam"),
    (["--backend=sam"], "--backend=sam: needs --checkpoint=FILE"),
])
def test_bad_flags_are_one_line(photos, flags, message):
    done = command(f"--images={photos}/photos", f"--out={photos}/out", *flags)
    assert done.returncode == 1 and message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("processes", [1, 2])
def test_a_broken_photo_is_named_and_loses_nothing(photos, processes):
    (photos / "photos" / "e.png").write_bytes(b"\x89PNG\r\n\x1a\nhalf")
    with pytest.raises(ValueError, match="e.png"):
        run(photos, processes=processes)
    assert len(list((photos / "out").glob("*.json.gz"))) == 4
    assert not list((photos / "out").glob(".*"))


def test_photos_of_one_pixel_or_one_colour_have_no_proposals_and_do_not_stop(photos):
    for name, size in (("f", (1, 1)), ("g", (20, 30)), ("h", (1, 50))):
        Image.fromarray(np.full((*size, 3), 70, np.uint8)).save(photos / f"photos/{name}.png")
        made = run(photos)
        assert proposals.read(photos / "out", name, size).shape == (0, *size)
    assert made["without_masks"] == 3 and made["images"] == 8 and made["masks"] > 0


def test_photos_lie_as_a_viewer_shows_them(photos):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(photos / "photos" / "a.png")
    image.save(photos / "photos" / "turned.jpg", exif=exif)
    image.convert("CMYK").save(photos / "photos" / "inks.jpg")
    deep = np.array(image.convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(photos / "photos" / "deep.png")
    run(photos)
    for name, size in (("turned", (40, 30)), ("inks", (30, 40)), ("deep", (30, 40))):
        assert len(proposals.read(photos / "out", name, size)) > 3


@pytest.mark.parametrize("changes, message", [
    ({"scale": (1.0,)}, "--backend=felzenszwalb: 'scale' is no parameter of it; did you mean 'sca"),
    ({"scales": ()}, r"scales \(\); want numbers above 0"),
    ({"scales": (0.0,)}, r"scales \(0.0,\); want numbers above 0"),
    ({"min_part": 1.5}, "min_part 1.5; want a part of the photo"),
    ({"max_part": 0.0}, "max_part 0.0; want a part of the photo"),
    ({"merges": -1}, "merges -1; want a count"),
    ({"sigma": -1.0}, "sigma -1.0; want pixels"),
])
def test_bad_parameters_are_named_before_anything_is_written(photos, changes, message):
    with pytest.raises(ValueError, match=message):
        run(photos, **changes)
    assert not (photos / "out").exists()


def test_the_config_holds_the_defaults():
    fields = dict(load(f"{ROOT}/configs/propose_felzenszwalb.py"))
    assert fields == propose.FELZENSZWALB | {"backend": "felzenszwalb"}


@pytest.mark.parametrize("flags, message", [
    (["--config.scale=3"], "--config.scale: config has no field 'scale'; did you mean 'scales'?"),
    (["--config.sigma=wide"], "--config.sigma=wide: want a number"),
    (["--config=configs/propose_sam.py"], "is for --backend=sam, not felzenszwalb"),
    (["--config=configs/propose_sma.py"], "no such config file; did you mean"),
    (["--checkpoint=x"], "--checkpoint: is for --backend=sam only"),
    (["--device=cpu"], "--device: is for --backend=sam only"),
    (["--from=x"], "--from: is for --backend=import only"),
])
def test_flags_of_another_backend_are_refused(photos, monkeypatch, flags, message):
    monkeypatch.chdir(ROOT)
    main = runpy.run_path(str(TOOL))["main"]
    with pytest.raises(ValueError, match=re.escape(message)):
        main(["--backend=felzenszwalb", f"--images={photos}/photos", f"--out={photos}/out", *flags])


def test_fields_and_counts_on_the_command_line(photos, capsys):
    main = runpy.run_path(str(TOOL))["main"]
    flags = [f"--images={photos}/photos", f"--out={photos}/out", f"--json={photos}/r.json"]
    main(["--backend=felzenszwalb", "--config.scales=20,60", "--config.max_part", "0.5", *flags])
    made = json.loads((photos / "r.json").read_text())
    assert made["by"]["scales"] == [20.0, 60.0] and made["by"]["max_part"] == 0.5
    masks = [proposals.read(photos / "out", name, (30, 40)) for name in "abcde"]
    assert made["masks"] == sum(map(len, masks)) and max(m.mean() for ms in masks for m in ms) <= .5
    told = capsys.readouterr().out
    assert f"{made['masks']} masks of 5 photos, 0 of them already there" in told
    with pytest.raises(ValueError, match="--config.scales: --backend=import has no parameters"):
        main(["--backend=import", "--config.scales=1", *flags])
    with pytest.raises(ValueError, match="--backend: missing"):
        main(flags)


def test_only_this_shards_leftovers_are_swept(photos):
    (photos / "out").mkdir()
    mine, others = (photos / "out" / f".{name}.json.gz.77.wsssjax-tmp" for name in "ab")
    for path in (mine, others):
        path.write_bytes(b"half")
    run(photos, part="0/2")
    assert not mine.exists() and others.exists()


def test_killed_in_the_middle_and_run_again_equals_one_run(photos):
    rng = np.random.default_rng(1)
    for name in "fghijk":
        noise = rng.integers(0, 255, (300, 400, 3)).astype(np.uint8)
        Image.fromarray(noise).save(photos / "photos" / f"{name}.png")
    flags = [sys.executable, TOOL, "--backend=felzenszwalb", f"--images={photos}/photos",
             f"--out={photos}/killed"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    killed = subprocess.Popen(flags, env=env, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list((photos / "killed").glob("f.json.gz")):
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    before = len(list((photos / "killed").glob("*.json.gz")))
    assert 0 < before < 11
    made = run(photos, out=str(photos / "killed"))
    assert made["already_there"] == before
    assert made | {"already_there": 0} == run(photos)
    assert {p.name: p.read_bytes() for p in (photos / "out").iterdir()} == {
        p.name: p.read_bytes() for p in (photos / "killed").iterdir()}


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl is Linux's own")
def test_workers_die_with_a_killed_parent(photos):
    for name in "fghijklmno":  # enough work to be killed in the middle of it
        noise = np.random.default_rng(1).integers(0, 255, (900, 1200, 3)).astype(np.uint8)
        Image.fromarray(noise).save(photos / "photos" / f"{name}.png")
    code = ("from wsssjax.refine import propose\nif __name__ == '__main__':\n"
            f"    propose.run(images='{photos}/photos', out='{photos}/out', processes=2)\n")
    (photos / "go.py").write_text(code)
    parent = subprocess.Popen([sys.executable, photos / "go.py"],
                              env=os.environ | {"PYTHONPATH": str(ROOT)})
    children = pathlib.Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    workers, deadline = [], time.monotonic() + 60
    while time.monotonic() < deadline and not list((photos / "out").glob("*.json.gz")):
        time.sleep(0.05)
        workers = children.read_text().split()
    assert len(workers) >= 2 and parent.poll() is None
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in workers if alive(pid)]
