"""Training a segmenter by the command: evaluation, kill and resume, two hosts, bad input."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from wsssjax import predict, train
from wsssjax.core import config as configs
from wsssjax.core import files, logs, weights
from wsssjax.data import label_map
from wsssjax.evaluate import __main__ as evaluate
from wsssjax.report import __main__ as report

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = str(ROOT / "configs/semi_voc_unimatch_v2.py")
SMALL = {"model.encoder": "small_cnn", "model.output_stride": "8", "model.head_width": "8",
         "data.crop": "32", "device_batch": "2", "log_steps": "1", "save_steps": "2",
         "total_epochs": "4", "data.workers": "0", "conf_threshold": "0.1", "optim.lr": "1e-4",
         "predict.multiple": "32", "predict.batch": "2"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Twelve photos whose colours tell the class, in three lists: 3 labelled, 6 not, 3 to score."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    (root / "photos").mkdir()
    for i in range(12):
        label = np.kron(rng.integers(0, 21, (3, 4)), np.ones((20, 20))).astype(np.uint8)
        image = np.stack([label * 12, 255 - label * 12, label * 7], -1)
        Image.fromarray(image[: 60 - i]).save(root / f"photos/{i}.png")
        label_map.write(root / f"labels/{i}.png", label[: 60 - i])
    for name, ids in (("labeled", range(3)), ("unlabeled", range(3, 9)), ("val", range(9, 12))):
        (root / f"{name}.txt").write_text(
            "".join(f"photos/{i}.png labels/{i}.png\n" for i in ids))
    return root


def flags(photos, workdir, config=f"{CONFIG}:efficientnet_lite0", **changes):
    changes = {k.replace("__", "."): v for k, v in changes.items()}
    lists = {f"data.{name}": photos / f"{name}.txt" for name in ("labeled", "unlabeled", "val")}
    fields = {**SMALL, "data.root": photos, **lists, **changes}
    return [f"--config={config}", f"--workdir={workdir}",
            *(f"--config.{k}={v}" for k, v in fields.items())]


def command(arguments, **environment):
    """The command in a process of its own with one device."""
    env = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT)} | environment
    return subprocess.Popen([sys.executable, "-m", "wsssjax.train", *arguments], env=env, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def outcome(workdir):
    """Everything a run leaves that must not depend on how it came about."""
    names = ("weights", "weights_ema", "weights_best", "weights_ema_best")
    found = {name: (workdir / f"{name}.safetensors").read_bytes() for name in names}
    return found | {name: (workdir / name).read_text() for name in ("scores.json", "metrics.jsonl")}


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    """A run that nobody disturbed: 12 steps, evaluated every 3."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    process = command(flags(photos, workdir))
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-2000:]
    return workdir, out


def test_scores_are_those_of_the_weights_beside_them(photos, whole, tmp_path):
    workdir, out = whole
    scores = files.read_json(workdir / "scores.json")
    assert [row["step"] for row in scores["evaluations"]] == [3, 6, 9, 12]
    assert [row["epoch"] for row in scores["evaluations"]] == [1, 2, 3, 4]
    logged = {row["step"]: row for row in logs.read_metrics(workdir / "metrics.jsonl")
              if "val/miou" in row}
    settings = configs.load(f"{CONFIG}:efficientnet_lite0", SMALL)
    (tmp_path / "photos").mkdir()
    for i in range(9, 12):
        os.link(photos / f"photos/{i}.png", tmp_path / f"photos/{i}.png")
    for who, suffix in (("student", ""), ("teacher", "_ema")):
        rows = scores["evaluations"]
        assert scores[who]["last"]["step"] == 12
        best = max(row[who]["miou"] for row in rows)
        assert scores[who]["best"]["miou"] == best
        assert scores[who]["best"]["step"] == max(
            row["step"] for row in rows if row[who]["miou"] == best)
        assert f"{100 * best:5.2f} (epoch {scores[who]['best']['epoch']:g})" in out
        for which, file in (("last", ""), ("best", "_best")):
            labels = tmp_path / f"{who}{which}"
            predict.run(settings, workdir / f"weights{suffix}{file}.safetensors",
                        tmp_path / "photos", labels)
            again = evaluate.run(labels=str(labels), truth=str(photos / "labels"), absent="zero",
                                 ids=["9", "10", "11"], progress=False)
            kept = scores[who][which]
            np.testing.assert_allclose(kept["miou"], again["miou"], atol=1e-4)
            assert kept["iou"].keys() == again["iou"].keys() and len(kept["iou"]) == 21
            row = logged[kept["step"]]
            assert row[f"val/miou{suffix}"] == kept["miou"]
    page = report.run(workdir).read_text()
    table = page[page.index('<table id="table-validation">'):]
    cells = re.findall(r"<t[dh][^>]*>([^<]*)</t[dh]>", table[: table.index("</table>")])
    for who in ("student", "teacher"):
        for which in ("best", "last"):
            kept = scores[who][which]
            row = [f"{kept['epoch']:g}", str(kept["step"]), f"{100 * kept['miou']:.1f}"]
            first = next(i for i, c in enumerate(cells)
                         if c.startswith(who) and cells[i + 1].startswith(which))
            assert cells[first + 2 : first + 5] == row
    assert "12 steps of 2 photos of each list (devices 1 x groups 1 x batch 2); state param" in out


@pytest.mark.parametrize("after", [4, 7])
def test_killed_in_the_middle_of_an_epoch_and_resumed_gives_the_same_bits(photos, whole, tmp_path,
                                                                          after):
    process = command(flags(photos, tmp_path / "run"))
    path, clock = tmp_path / "run" / "metrics.jsonl", time.monotonic()
    while process.poll() is None and time.monotonic() - clock < 200:
        if path.is_file() and len(path.read_text().splitlines()) > after:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.005)
    assert process.wait() == -signal.SIGKILL, process.communicate()
    process.communicate()
    assert not (tmp_path / "run" / "weights.safetensors").exists(), "killed too late to prove it"
    again = command(flags(photos, tmp_path / "run"))
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err[-2000:]
    want, got = outcome(whole[0]), outcome(tmp_path / "run")
    for name in want:
        assert got[name] == want[name], name


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_good_checkpoint(photos, tmp_path):
    changes = {"optim__lr": "1e30", "data__val": "", "optim__poly_power": "0"}
    with pytest.raises(ValueError, match=r"step \d+: train/\w+ is (nan|inf)") as error:
        train.main(flags(photos, tmp_path / "run", save_steps=1, **changes))
    step = int(str(error.value).split()[1].rstrip(":"))
    kept = sorted(int(p.name) for p in (tmp_path / "run/checkpoints").iterdir())
    assert kept[-1] == step - 1 >= 1
    assert not (tmp_path / "run/weights.safetensors").exists()


@pytest.mark.parametrize("method", ["supervised", "fixmatch", "unimatch"])
def test_the_baselines_run_by_the_same_command(photos, tmp_path, method):
    config = str(ROOT / f"configs/semi_voc_{method}.py") + ":efficientnet_lite0"
    train.main(flags(photos, tmp_path / "run", config, total_steps=2, data__epoch_photos=4))
    rows = logs.read_metrics(tmp_path / "run/metrics.jsonl")
    assert rows[-1]["step"] == 2 and "train/loss_x" in rows[0]
    scores = files.read_json(tmp_path / "run/scores.json")
    assert ("teacher" in scores) == (method != "supervised")
    assert (tmp_path / "run/weights_ema.safetensors").exists() == (method != "supervised")


def test_dinov2_in_sliding_windows(photos, tmp_path):
    """The Cityscapes recipe on small DINOv2: OHEM, two groups, windows, frozen in bfloat16."""
    for i in range(12):
        label = label_map.read(photos / f"labels/{i}.png", 21) % 19
        label_map.write(tmp_path / f"labels/{i}.png", label)
    os.symlink(photos / "photos", tmp_path / "photos")
    for name in ("labeled", "unlabeled", "val"):
        (tmp_path / f"{name}.txt").write_text((photos / f"{name}.txt").read_text())
    changes = {"model__encoder": "dinov2_s", "data__crop": 42, "predict__window": 42,
               "predict__multiple": 14, "accumulate": 2, "ohem_min_kept": 500,
               "model__freeze_encoder": "true", "dtype": "bfloat16", "total_steps": 2}
    train.main(flags(tmp_path, tmp_path / "run",
                     str(ROOT / "configs/semi_cityscapes_unimatch_v2.py") + ":small", **changes))
    scores = files.read_json(tmp_path / "run/scores.json")
    assert len(scores["teacher"]["last"]["iou"]) == 19
    hardware = files.read_json(tmp_path / "run/hardware.json")
    encoder = 22_056_576 * 2  # bfloat16 but for the vectors and tables
    assert hardware["state_bytes"]["parameters"] < encoder * 1.1
    saved = weights.load(tmp_path / "run/weights.safetensors")
    assert {x.dtype for x in saved.values()} == {np.dtype("float32")}


def test_two_processes_are_two_devices(photos, tmp_path):
    """jax.distributed over the loopback: two hosts of one device equal one host of two."""
    def run(workdir, **environment):
        return command(flags(photos, workdir, parallel="shard_map", total_epochs=2),
                       JAX_PLATFORMS="cpu", **environment)

    one = run(tmp_path / "one", XLA_FLAGS="--xla_force_host_platform_device_count=2")
    out, err = one.communicate(timeout=300)
    assert one.returncode == 0, err[-2000:]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    hosts = [run(tmp_path / "two", JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES="2",
                 JAX_PROCESS_ID=str(i)) for i in range(2)]
    for host in hosts:
        out, err = host.communicate(timeout=300)
        assert host.returncode == 0, err[-2000:]
    want, got = (weights.load(tmp_path / name) for name in ("one", "two"))
    for name in want:
        np.testing.assert_allclose(got[name], want[name], atol=1e-6, err_msg=name)
    rows = [logs.read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "two")]
    assert len(rows[0]) == len(rows[1]) > 2
    for a, b in zip(*rows, strict=True):
        assert a.keys() == b.keys()
        np.testing.assert_allclose([b[k] for k in a], [a[k] for k in a], rtol=1e-4, atol=1e-6)
    facts = json.loads((tmp_path / "two/hardware.json").read_text())
    assert facts["hosts"] == 2 and facts["devices"] == 1


def test_pmap_on_several_hosts_is_refused(photos, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    hosts = [command(flags(photos, tmp_path / "run"), JAX_COORDINATOR_ADDRESS=address,
                     JAX_NUM_PROCESSES="2", JAX_PROCESS_ID=str(i)) for i in range(2)]
    for host in hosts:
        _, err = host.communicate(timeout=300)
        assert host.returncode == 1 and "take --config.parallel=shard_map" in err, err[-2000:]


def test_lists_that_overlap_end_the_command_with_one_line(photos, tmp_path):
    (tmp_path / "same.txt").write_text((photos / "labeled.txt").read_text())
    process = command(flags(photos, tmp_path / "run", data__unlabeled=tmp_path / "same.txt"))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1 and err.count("\n") == 1, err
    assert "same.txt, line 1: " in err and "is also in" in err


def test_a_checkpoint_of_another_size_is_refused(photos, tmp_path):
    """The folder holds a run with a wider head; its config is put in the new one's place."""
    train.main(flags(photos, tmp_path / "run", total_steps=2, data__val=""))
    (tmp_path / "run/config.json").unlink()
    with pytest.raises(ValueError, match="checkpoints/2: the checkpoint of another network; "
                                         "of another shape .*head/"):
        train.main(flags(photos, tmp_path / "run", total_steps=2, data__val="",
                         model__head_width=16))


def test_a_first_start_that_failed_does_not_lock_the_folder(photos, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(FileNotFoundError, match="nowhere"):
        train.main(flags(photos, run, data__labeled=photos / "nowhere.txt", total_steps=2))
    train.main(flags(photos, run, total_steps=2, data__val=""))
    with pytest.raises(ValueError, match=r"a run with another config \(data.crop: 32 -> 64\); use"):
        train.main(flags(photos, run, total_steps=2, data__val="", data__crop=64))


def test_a_run_of_another_length_is_not_gone_on_with(photos, tmp_path):
    """As when it is started again on fewer devices: its rates would jump."""
    run = tmp_path / "run"
    train.main(flags(photos, run, total_steps=2, data__val=""))
    facts = files.read_json(run / "hardware.json")
    files.write_json(run / "hardware.json", facts | {"total_steps": 8})
    with pytest.raises(ValueError, match="this run has 8 steps; it would have 2 on these devices"):
        train.main(flags(photos, run, total_steps=2, data__val=""))


def test_validation_is_checked_before_the_first_step(photos, tmp_path):
    (tmp_path / "val.txt").write_text((photos / "labeled.txt").read_text().splitlines()[1] + "\n")
    with pytest.raises(ValueError, match=r"labeled.txt, line 2: .*is also in .*val.txt, line 1"):
        train.main(flags(photos, tmp_path / "a", data__val=tmp_path / "val.txt"))
    with pytest.raises(ValueError, match="9.png': 51 x 80 pixels is smaller than one sliding win"):
        train.main(flags(photos, tmp_path / "b", predict__mode="sliding_window"))
    assert not (tmp_path / "a/metrics.jsonl").exists()
