"""Exit codes and single lines of every command: 0 done and --help, 1 bad input, 2 bad flags."""

import importlib
import os
import pathlib
import runpy
import subprocess
import sys

import pytest

from wsssjax.core import cli

ROOT = pathlib.Path(__file__).parents[1]
COMMANDS = {
    "train": ["-m", "wsssjax.train"],
    "cam": ["-m", "wsssjax.cam"],
    "refine": ["-m", "wsssjax.refine"],
    "select": ["-m", "wsssjax.select"],
    "predict": ["-m", "wsssjax.predict"],
    "evaluate": ["-m", "wsssjax.evaluate"],
    "report": ["-m", "wsssjax.report"],
    "convert_weights": ["tools/convert_weights.py"],
    "propose_masks": ["tools/propose_masks.py"],
    "prepare_data": ["tools/prepare_data.py"],
    "make_saliency": ["tools/make_saliency.py"],
    "clip_text": ["tools/clip_text.py"],
    "compare_pairs": ["tools/compare_pairs.py"],
}


def run(name, *flags):
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run([sys.executable, *COMMANDS[name], *flags], cwd=ROOT, env=env,
                          capture_output=True, text=True, timeout=120)


def assert_one_line(result, *words):
    assert result.returncode == 1, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_an_example(name):
    shown = run(name, "--help")
    assert shown.returncode == 0, shown.stderr
    assert "example" in shown.stdout and COMMANDS[name][-1] in shown.stdout


def entry(name):
    """The `main` of a command, without a process of its own."""
    target = COMMANDS[name][-1]
    if target.endswith(".py"):
        return runpy.run_path(str(ROOT / target))["main"]
    module = importlib.import_module(target)
    if not hasattr(module, "main"):
        module = importlib.import_module(f"{target}.__main__")
    return module.main


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("flag", ["--no_such_flag=1", "stray"])
def test_a_wrong_flag_or_a_stray_word_ends_with_2(name, flag, monkeypatch, capsys):
    words = ["voc", flag] if name == "prepare_data" else [flag]
    monkeypatch.setattr(sys, "argv", [name, *words])
    with pytest.raises(SystemExit) as stop:
        cli.run(entry(name))
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def run_here(name, monkeypatch, capsys, *flags):
    """Like `run`, without a process of its own."""
    monkeypatch.setattr(sys, "argv", [name, *flags])
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as stop:
        cli.run(entry(name))
    return subprocess.CompletedProcess(name, stop.value.code, "", capsys.readouterr().err)


def test_train_answers_bad_config_in_one_line(tmp_path, monkeypatch, capsys):
    def run(*flags):
        return run_here(flags[0], monkeypatch, capsys, *flags[1:])

    quick = "--config=configs/quickstart.py:tiny"
    work = f"--workdir={tmp_path}"
    assert_one_line(run("train", "--config=configs/quickstrat.py"), "did you mean",
                    "configs/quickstart.py")
    assert_one_line(run("train", "--config=configs/quickstart.py:small"), "'small'", "tiny")
    assert_one_line(run("train", quick, work, "--config.segmenter.total_step=3"),
                    "config.segmenter.total_step", "did you mean 'total_steps'")
    assert_one_line(run("train", quick, work, "--config.segmenter.total_steps=many"),
                    "want a number")
    assert_one_line(run("train", quick, work, "--redo=cam_x"), "no such step", "cam_a")
    assert_one_line(run("train", quick, work, "--config.arms=S,X"), "config.arms 'X' is unknown")
    assert_one_line(run("train", "--config=configs/paper_voc_lite.py", work), "data.root")


def test_missing_files_are_named(tmp_path, monkeypatch, capsys):
    gone, out = str(tmp_path / "gone"), f"--out={tmp_path}/o"
    for name, flags in {
        "select": [f"--first={gone}", f"--second={gone}", "--quota=voc/92", out],
        "evaluate": [f"--labels={gone}", f"--truth={gone}"],
        "refine": ["--method=sam", f"--labels={gone}", f"--proposals={gone}", out],
        "report": [f"--run={gone}"],
        "propose_masks": ["--backend=felzenszwalb", f"--images={gone}", out],
        "prepare_data": ["voc", f"--root={gone}"],
        "convert_weights": ["--arch=efficientnet_lite0", f"--src={gone}", out],
    }.items():
        assert_one_line(run_here(name, monkeypatch, capsys, *flags), "gone")
