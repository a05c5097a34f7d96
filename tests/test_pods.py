"""The commands of docs/pods.md: all are read, the cheapest are run, on fake devices and processes.

Every block of the page runs in bash. Stand-ins for python, gcloud, srun, sbatch and scontrol note
how they are called, or start the real python: as it is called (PODS_REAL), or with settings of
seconds in place of the page's (PODS_RUN).
"""

import importlib
import importlib.util
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from wsssjax import train
from wsssjax.core import cli, files
from wsssjax.core import config as configs
from wsssjax.data import builders, label_map, prepare
from wsssjax.select import run as select

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / "docs/pods.md").read_text(encoding="utf-8")
STANDINS = {
    "python": """
import json, os, sys
names = ("JAX_", "SLURM_", "CUDA_", "XLA_", "RAY_")
with open(os.environ["PODS_LOG"], "a") as log:
    log.write(json.dumps([sys.argv[1:], {k: v for k, v in os.environ.items()
                                         if k.startswith(names)}]) + "\\n")
if "PODS_REAL" in os.environ:
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
if "PODS_RUN" in os.environ:
    kept = [a for a in sys.argv[1:] if not a.startswith(("--config", "--out", "--workdir"))]
    os.execv(sys.executable, [sys.executable, *kept, *json.loads(os.environ["PODS_RUN"])])
""",
    "gcloud": """
import os, subprocess, sys
if "describe" in sys.argv:
    print("10.0.0.1")
command = [a.partition("=")[2] for a in sys.argv if a.startswith("--command=")]
for worker in range(2 if command else 0):
    assert "--worker=all" in sys.argv
    subprocess.run(["bash", "-euc", command[0]], check=True)
""",
    "srun": """
import itertools, os, subprocess, sys
command = list(itertools.dropwhile(lambda a: a.startswith("-"), sys.argv[1:]))
count = 1 if "--ntasks=1" in sys.argv else int(os.environ["SLURM_NTASKS"])
for task in range(count):
    subprocess.run(command, check=True, env=os.environ | {
        "SLURM_PROCID": str(task), "SLURM_LOCALID": str(task % 8), "SLURM_STEP_NODELIST": "n[1-2]"})
""",
    "sbatch": """
import subprocess, sys
print(42)
for a in sys.argv:
    if a.startswith("--wrap="):
        subprocess.run(["bash", "-euc", a.partition("=")[2]], check=True)
""",
    "scontrol": "print('n1\\nn2')",
    "pip": "",
}


def blocks():
    """{section: bash text}; scripts with a line of their own for the interpreter are apart."""
    found = {}
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]:
        title = section.splitlines()[0]
        for number, text in enumerate(re.findall(r"```bash\n(.*?)```", section, re.DOTALL)):
            name = f"{title} {number}" if text.startswith("#!") else title
            found[name] = found.get(name, "") + text
    return found


@pytest.fixture
def machine(tmp_path):
    """(text, **environment) → process of bash that runs it; its stand-ins note calls in `log`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, code in STANDINS.items():
        (folder / name).write_text(f"#!{sys.executable}\n{code}")
        (folder / name).chmod(0o755)
    (tmp_path / "wsssjax").mkdir()
    env = {k: v for k, v in os.environ.items()
           if k != "XLA_FLAGS" and not k.startswith(("JAX_", "SLURM_"))}
    env |= {"PATH": f"{folder}:{env['PATH']}", "PODS_LOG": str(tmp_path / "log"), "TPU": "pod",
            "ZONE": "zone", "SHARED": str(tmp_path), "PYTHONPATH": str(ROOT)}

    def call(text, cwd=ROOT, **environment):
        return subprocess.Popen(["bash", "-euc", text], cwd=cwd, text=True, env=env | environment,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                start_new_session=True)
    return call


def calls(tmp_path):
    """[(arguments of python, environment)] in their order."""
    return [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]


class Parsed(Exception):
    """Flags that a parser took."""


def main_of(arguments):
    """(main function, its arguments) of `-m wsssjax.x …` or `tools/x.py …`."""
    if arguments[0] == "-m":
        module = importlib.import_module(arguments[1])
        if not hasattr(module, "main"):
            module = importlib.import_module(f"{arguments[1]}.__main__")
        return module.main, arguments[2:]
    spec = importlib.util.spec_from_file_location("tool", ROOT / arguments[0])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main, arguments[1:]


def set_up(config, folder):
    """Builds the method of each training that the command starts; ValueError where none can be."""
    (folder / "photo.txt").write_text("photo.png label.png\n")
    for part in trainings(config):
        own = part.copy_and_resolve_references()
        with own.unlocked():
            own.classes = own.classes or "voc"  # a recipe fills them in, as the lists
        for name in {"labeled", "unlabeled"} & set(own.data):
            own.data[name] = str(folder / "photo.txt")
        train.check_steps(own)
        train.METHODS[own.method](own)


def trainings(config):
    """The configs of trainings in a config, itself or its groups."""
    if "device_batch" in config:
        return [config]
    groups = [config[name] for name in config if isinstance(config[name], type(config))]
    return [part for group in groups for part in trainings(group)]


def test_what_could_not_be_set_up_is_seen(tmp_path):
    spec = "configs/paper_voc.py:tiny"
    assert [part.method for part in trainings(configs.load(spec))] == [
        "bao", "eps", "mars", "unimatch_v2"]
    with pytest.raises(ValueError, match="device_batch is 1; want at least 2"):
        set_up(configs.load(spec, {"segmenter.device_batch": "1"}), tmp_path)


@pytest.mark.parametrize("name", blocks())
def test_every_command_is_one_that_there_is(name, machine, tmp_path, monkeypatch):
    slurm = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8", "SLURM_JOB_ID": "7",
             "SLURM_NTASKS": "16", "SLURM_JOB_NODELIST": "n[1-2]"} if "Slurm" in name else {}
    process = machine(blocks()[name].replace(" > ablation-$gpu.log", ""), cwd=tmp_path, **slurm)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    parse = cli._Parser.parse_args

    def stop(self, *args, **kwargs):
        raise Parsed(vars(parse(self, *args, **kwargs)))

    monkeypatch.setattr(cli._Parser, "parse_args", stop)
    monkeypatch.chdir(ROOT)
    seen = []
    for arguments, environment in calls(tmp_path):
        main, rest = main_of(arguments)
        with pytest.raises(Parsed) as parsed:  # SystemExit where a flag is unknown
            main(rest)
        flags = parsed.value.args[0]
        if flags.get("config"):
            config = configs.load(flags["config"], cli.split_overrides(rest)[1])
            if main is train.main:
                set_up(config, tmp_path)
        seen.append((flags, environment))
    assert seen
    check = CHECKS.get(name)
    if check:
        check(seen)


def _pod(seen):
    for _, environment in seen:
        assert environment["JAX_COORDINATOR_ADDRESS"] == "10.0.0.1:8476"
    assert len(seen) == 4  # two commands on two hosts


def _nodes(seen):
    from jax._src.clusters.slurm_cluster import SlurmCluster

    assert [e["SLURM_PROCID"] for _, e in seen] == [str(i) for i in range(16)]
    for _, environment in seen:
        assert environment["JAX_COORDINATOR_ADDRESS"] == "n1:8476"
        assert {"SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID",
                "SLURM_LOCALID"} <= environment.keys()  # all that jax asks of Slurm
    with pytest.MonkeyPatch.context() as patch:
        for key, value in seen[5][1].items():
            patch.setenv(key, value)
        assert SlurmCluster.is_env_present()
        assert (SlurmCluster.get_process_count(), SlurmCluster.get_process_id()) == (16, 5)


def _array(seen):
    assert [flags["shard"] for flags, _ in seen] == ["3/8"]
    assert "JAX_COORDINATOR_ADDRESS" not in seen[0][1]


CHECKS = {"A TPU pod": _pod, "Slurm: one training over several nodes 0": _nodes,
          "Slurm: an array of ablations 1": _array}


def test_no_command_of_the_page_stands_outside_of_its_blocks():
    """Scripts are plain bash, directives before the first command."""
    scripts = {name: text for name, text in blocks().items() if text.startswith("#!/bin/bash\n")}
    assert len(scripts) == 3
    for text in scripts.values():
        lines = text.splitlines()[1:]
        first = next(i for i, line in enumerate(lines) if not line.startswith("#SBATCH --"))
        assert first > 3 and not any(line.startswith("#SBATCH") for line in lines[first:])
        subprocess.run(["bash", "-n", "-c", text], check=True)
    assert PAGE.count("```bash") == len(re.findall(r"```bash\n.*?```", PAGE, re.DOTALL))
    for name in re.findall(r"`(tests/[\w/]+\.py)`", PAGE):
        assert (ROOT / name).is_file(), name


# ---- run for real ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small():
    spec = importlib.util.spec_from_file_location("small", ROOT / "tests/ablate/small.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def array_script():
    return next(text for name, text in blocks().items() if "SLURM_ARRAY_TASK_ID/" in text)


def begun(out, name):
    """How many steps of a name there are."""
    return sorted(path.name for path in (out / "steps").glob(f"{name}-*") if path.is_dir())


def test_two_tasks_of_an_array_share_a_folder_and_one_is_killed(small, machine, tmp_path):
    """Three arms; the second task dies while it trains ALL, and is submitted again."""
    small.write_labels(tmp_path)
    out = tmp_path / "out"
    flags = small.grid_flags(tmp_path, segmenter__method="supervised")  # quick to compile
    run = json.dumps([*flags, f"--out={out}", "--axis=arm=S-sup,ALL,Tall", "--axis=seed=0"])
    slurm = {"PODS_RUN": run, "JAX_PLATFORMS": "cpu", "SLURM_ARRAY_TASK_COUNT": "2"}
    tasks = [machine(array_script(), **slurm, SLURM_ARRAY_TASK_ID=str(i)) for i in range(2)]
    waited = time.monotonic() + 500
    while not list(out.glob("steps/arm_all-*/labeled.txt")):
        assert time.monotonic() < waited and tasks[1].poll() is None
        time.sleep(0.05)
    os.killpg(tasks[1].pid, signal.SIGKILL)
    lost, _ = tasks[1].communicate()
    again = machine(array_script(), **slurm, SLURM_ARRAY_TASK_ID="1")
    said = [lost]
    for task in (tasks[0], again):
        text, err = task.communicate(timeout=500)
        assert task.returncode == 0, err[-3000:]
        said.append(text)
    made = re.findall(r"^\[\d+/\d+\] (\w+-[0-9a-f]+)$", "\n".join(said), re.MULTILINE)
    killed = next(name for name in made if name.startswith("arm_all"))
    assert {name for name in made if made.count(name) > 1} == {killed}  # nothing else ran twice
    for name in ("prepare", "labels_a", "labels_b", "select", "arm_s_sup", "arm_all", "arm_tall"):
        assert len(begun(out, name)) == 1, name
    assert len(begun(out, "row")) == 3 and not list(out.rglob("*.wsssjax-tmp"))

    last = machine("python tools/ablate.py --table=protocol --tables_only", **slurm)
    _, err = last.communicate(timeout=200)
    assert last.returncode == 0, err[-3000:]
    rows = files.read_json(out / "protocol/table.json")["rows"]
    assert [row["cell"]["arm"] for row in rows] == ["S-sup", "ALL", "Tall"]
    assert all(row["steps"] == 2 and row["miou"] is not None for row in rows)


def test_eight_devices_train_two_steps(small, machine, tmp_path):
    """The block for several GPUs, two photos a device, with a small network."""
    small.write_labels(tmp_path)
    prepare.write_folder(builders.draw_shapes(train=small.TRAIN, test=1, size=small.SIZE, seed=0),
                 tmp_path / "data")
    photos = files.photo_paths(str(tmp_path / "data/images"))
    lines = [f"{photos[p.stem]} {p}\n" for p in sorted((tmp_path / "a").iterdir())]
    (tmp_path / "labeled.txt").write_text("".join(lines[:6]))
    (tmp_path / "unlabeled.txt").write_text("".join(lines[6:]))
    command = next(line for line in "\n".join(blocks().values()).replace("\\\n", "").splitlines()
                   if "runs/half" in line)
    asked = [a for a in shlex.split(command) if a.startswith("--config")]
    changes = {"data.labeled": tmp_path / "labeled.txt", "data.workers": 0, "log_steps": 1,
               "data.unlabeled": tmp_path / "unlabeled.txt", "data.root": "/", "save_steps": 2,
               "model.encoder_weights": "", "model.encoder": "small_cnn", "classes": "shapes",
               "model.output_stride": 8, "model.head_width": 8, "data.crop": 32,
               "total_steps": 2, "device_batch": 2}
    run = json.dumps([*asked, *(f"--config.{k}={v}" for k, v in changes.items()),
                      f"--workdir={tmp_path / 'run'}"])
    process = machine(command, PODS_RUN=run, JAX_PLATFORMS="cpu",
                      XLA_FLAGS="--xla_gpu_enable_latency_hiding_scheduler=true "
                                "--xla_force_host_platform_device_count=8")
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, err[-3000:]
    assert "2 steps of 16 photos of each list (devices 8 x groups 1 x batch 2)" in out
    facts = files.read_json(tmp_path / "run/hardware.json")
    assert (facts["devices"], facts["device_batch"], facts["hosts"]) == (8, 2, 1)
    assert (tmp_path / "run/weights.safetensors").is_file()


def test_a_selection_in_four_parts_is_that_of_one(machine, tmp_path, monkeypatch):
    """The block itself, on small maps, which are fewer than the quota asks for."""
    rng = np.random.default_rng(0)
    for i in range(40):
        label_hw = np.kron(rng.integers(0, 21, (2, 2)), np.ones((8, 8))).astype(np.uint8)
        label_map.write(tmp_path / f"mars_sam/p{i:02}.png", label_hw)
        label_hw[: rng.integers(9)] = 0
        label_map.write(tmp_path / f"bao/p{i:02}.png", label_hw)
    block = next(text for text in blocks()["Label steps on several machines"].split("wait\n")
                 if "--shard=$part/4" in text)
    merge = "python -m wsssjax.select" + blocks()["Label steps on several machines"].split(
        "wait\npython -m wsssjax.select")[1].split("\nfor ")[0]
    process = machine(f"{block}wait\n{merge}", cwd=tmp_path, PODS_REAL="1", SLURM_NTASKS="1",
                      JAX_PLATFORMS="cpu")
    _, err = process.communicate(timeout=500)
    assert process.returncode == 0, err[-3000:]
    assert len(list(tmp_path.glob("parts/*"))) == 4
    monkeypatch.chdir(tmp_path)
    select.run(first="bao", second="mars_sam", quota_spec="voc/1464", out="alone")
    assert (tmp_path / "alone/labeled.txt").read_text().count("\n") > 20
    for path in filter(pathlib.Path.is_file, (tmp_path / "alone").iterdir()):
        assert (tmp_path / "selection" / path.name).read_bytes() == path.read_bytes(), path.name
