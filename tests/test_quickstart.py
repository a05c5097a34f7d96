"""The real main job on the generated photos: whole, again, killed at random instants, damaged."""

import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from wsssjax.data.sources import Packed

ROOT = pathlib.Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "wsssjax.train", "--config=configs/quickstart.py:tiny"]
KILLS = int(os.environ.get("WSSSJAX_KILLS", "3"))  # 22 and more reach every step


def environment():
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    env.pop("XLA_FLAGS", None)  # one device, as a user has it
    return env


def start(workdir, *flags):
    return subprocess.Popen([*COMMAND, f"--workdir={workdir}", *flags], cwd=ROOT,
                            env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, start_new_session=True)


def finish(workdir, *flags):
    child = start(workdir, *flags)
    out, err = child.communicate(timeout=1200)
    return child.returncode, out, err


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run."""
    workdir = tmp_path_factory.mktemp("whole")
    code, out, err = finish(workdir)
    assert code == 0, err[-3000:]
    return workdir, out


def steps_of(out):
    return [line.split()[-1] for line in out.splitlines() if line.startswith("[")]


def test_every_step_leaves_a_manifest_and_the_table_is_printed(whole):
    workdir, out = whole
    steps = steps_of(out)
    assert steps[0] == "prepare" and steps[-2:] == ["evaluate", "report"]
    for step in steps:
        manifest = json.loads((workdir / step / "manifest.json").read_text())
        assert manifest["step"] == step and manifest["wall_s"] >= 0
        assert (workdir / step / "config.json").is_file()
    results = json.loads((workdir / "results.json").read_text())
    assert list(results["labels"]) == ["A", "B", "B proposals", "B+"]
    assert set(results["arms"]) == {"S", "M", "ALL", "T", "S-sup"}
    for arm in results["arms"].values():
        assert f"{100 * arm['miou']:.1f}" in out
    assert results["context"]["A"].keys() & {"train/rails"}
    page = (workdir / "report.html").read_text()
    page = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)  # it reads what the page holds
    places = re.findall(r'(?:src|href)="([^"]*)"', page) + re.findall(r"url\(([^)]*)\)", page)
    assert places and all(place.startswith(("#", "data:")) for place in places), set(places)


def test_results_hold_scores_only(whole):
    workdir, _ = whole
    for path in (workdir / "results.json", workdir / "select" / "summary.json"):
        text = path.read_text()
        assert str(workdir) not in text and str(ROOT) not in text
        assert "wall" not in text and "time" not in text


def read(folder, name):
    return np.asarray(Image.open(folder / f"{name}.png"))


def brute_force_miou(folder, truth, ids, k):
    """mIoU without any code of the package."""
    pairs = [(read(folder, i), read(truth, i)) for i in ids]
    prediction = np.concatenate([p[t != 255] for p, t in pairs])
    target = np.concatenate([t[t != 255] for _, t in pairs])
    ious = []
    for c in range(k):
        union = ((prediction == c) | (target == c)).sum()
        if union:
            ious.append(((prediction == c) & (target == c)).sum() / union)
    return np.mean(ious)


def test_the_scores_are_those_of_a_brute_force(whole):
    workdir, _ = whole
    results = json.loads((workdir / "results.json").read_text())
    truth, k = workdir / "prepare" / "shapes" / "masks", len(results["classes"])
    train, test = ((workdir / "prepare" / f"{split}.txt").read_text().split()
                   for split in ("train", "test"))
    listed = {step: [pathlib.Path(line.split()[0]).stem for line in
                     (workdir / step / "labeled.txt").read_text().splitlines()]
              for step in ("select", "control_m", "arm_t", "arm_all")}
    pool = workdir / "labels_b_plus"
    rest = sorted(set(train) - set(listed["select"]))
    selection = results["selection"]
    for got, folder, ids in (
            (results["labels"]["A"]["miou"], workdir / "labels_a", train),
            (results["labels"]["B"]["miou"], workdir / "labels_b", train),
            (results["labels"]["B+"]["miou"], pool, train),
            (selection["selected_miou"], pool, listed["select"]),
            (selection["rest_miou"], pool, rest),
            (selection["random_miou"], pool, listed["control_m"]),
            (results["arms"]["S"]["miou"], workdir / "test_s", test),
            (results["arms"]["ALL"]["miou"], workdir / "test_all", test)):
        np.testing.assert_allclose(got, brute_force_miou(folder, truth, ids, k), rtol=1e-12)
    assert listed["arm_t"] == listed["select"] and listed["arm_all"] == sorted(train)
    # Arm T learns from the truth, every other arm from pseudo-labels alone.
    for arm in ("s", "m", "all", "t", "s_sup"):
        lines = (workdir / f"arm_{arm}" / "labeled.txt").read_text().splitlines()
        assert all((str(truth) in line) == (arm == "t") for line in lines)


def test_the_packed_data_set_holds_no_truth(whole):
    workdir, _ = whole
    packed = Packed(workdir / "prepare" / "packed", "train")
    assert not {"label", "context"} & set(packed[0])
    with pytest.raises(ValueError, match="packed without label"):
        Packed(workdir / "prepare" / "packed", "train", ("image", "label"))
    assert "test" not in json.loads(next((workdir / "prepare" / "packed").rglob(
        "metadata.json")).read_text())["ids"]


def test_the_same_command_again_has_nothing_to_do(whole):
    workdir, _ = whole
    before = {p: p.stat().st_mtime_ns for p in workdir.rglob("*") if p.is_file()}
    code, out, err = finish(workdir)
    assert code == 0 and "nothing to do" in out, err
    after = {p: p.stat().st_mtime_ns for p in workdir.rglob("*") if p.is_file()}
    changed = {p.name for p in before.keys() | after.keys() if before.get(p) != after.get(p)}
    assert changed <= {"config.json"}


def test_another_setting_is_refused_and_loses_nothing(whole):
    workdir, _ = whole
    results = (workdir / "results.json").read_bytes()
    code, _, err = finish(workdir, "--config.merge.merge=max_iou")
    assert code == 1 and len(err.strip().splitlines()) == 1
    assert "labels_b_sam" in err and "--redo=labels_b_sam" in err
    assert (workdir / "results.json").read_bytes() == results


def children(pid):
    """Processes of the session that `pid` leads, itself left out."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[3]) == pid and fields[0] != "Z" and int(path.parent.name) != pid:
            found.append(int(path.parent.name))
    return found


def kill_in(workdir, step, rng):
    """Starts the run, kills it at a random instant of `step`; what it printed of its steps."""
    child = start(workdir)
    try:
        for line in child.stdout:
            if line.startswith("[") and line.split()[-1] == step:
                time.sleep(rng.choice((rng.uniform(0, 0.3), rng.uniform(0, 6))))
                break
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
    deadline = time.monotonic() + 10
    while children(child.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not children(child.pid), f"processes outlive a kill in {step}"


@pytest.mark.skipif(not pathlib.Path("/proc").is_dir(), reason="finds children through /proc")
def test_killed_anywhere_it_ends_with_the_same_bytes(whole, tmp_path):
    """Kill -9 at random instants, then the same command: the same results.json."""
    workdir, out = whole
    steps = steps_of(out)
    rng = random.Random(int(os.environ.get("WSSSJAX_KILL_SEED", "0")))
    if len(steps) > KILLS:
        hit = sorted(rng.sample(range(len(steps)), KILLS))
    else:
        hit = sorted([*range(len(steps)), *rng.choices(range(len(steps)), k=KILLS - len(steps))])
    for index in hit:
        kill_in(tmp_path, steps[index], rng)
    code, _, err = finish(tmp_path)
    assert code == 0, err[-3000:]
    want, got = (json.loads((d / "results.json").read_text()) for d in (workdir, tmp_path))
    assert got == want
    assert (tmp_path / "results.json").read_bytes() == (workdir / "results.json").read_bytes()
    assert not list(tmp_path.rglob(".*wsssjax-tmp"))
