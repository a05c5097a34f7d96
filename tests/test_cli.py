"""Exit codes and single lines of every command: 0 done and --help, 1 bad input, 2 bad flags."""

import os
import pathlib
import subprocess
import sys

import pytest

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
def test_help_shows_an_example_and_a_wrong_flag_ends_with_2(name):
    shown = run(name, "--help")
    assert shown.returncode == 0, shown.stderr
    assert "example" in shown.stdout and COMMANDS[name][-1] in shown.stdout
    wrong = run(name, "--no_such_flag=1")
    assert wrong.returncode == 2
    assert "Traceback" not in wrong.stderr
    stray = run(name, "stray") if name != "prepare_data" else run(name, "voc", "stray")
    assert stray.returncode == 2


def test_train_answers_bad_config_in_one_line(tmp_path):
    quick = "--config=configs/quickstart.py:tiny"
    work = f"--workdir={tmp_path}"
    assert_one_line(run("train", "--config=configs/quickstrat.py"), "did you mean",
                    "configs/quickstart.py")
    assert_one_line(run("train", "--config=configs/quickstart.py:small"), "'small'", "tiny")
    assert_one_line(run("train", quick, work, "--config.segmenter.total_step=3"),
                    "config.segmenter.total_step", "did you mean 'total_steps'")
    assert_one_line(run("train", quick, work, "--config.segmenter.total_steps=many"), "want a number")
    assert_one_line(run("train", quick, work, "--redo=cam_x"), "no such step", "cam_a")
    assert_one_line(run("train", quick, work, "--config.arms=S,X"), "config.arms 'X' is unknown")
    assert_one_line(run("train", "--config=configs/paper_voc_lite.py", work), "data.root")


def test_missing_files_are_named(tmp_path):
    gone = str(tmp_path / "gone")
    for name, flags in {
        "select": [f"--first={gone}", f"--second={gone}", "--quota=voc/92", f"--out={tmp_path}/o"],
        "evaluate": [f"--labels={gone}", f"--truth={gone}"],
        "refine": ["--method=sam", f"--labels={gone}", f"--proposals={gone}", f"--out={tmp_path}/o"],
        "report": [f"--run={gone}"],
        "propose_masks": ["--backend=felzenszwalb", f"--images={gone}", f"--out={tmp_path}/o"],
        "prepare_data": ["voc", f"--root={gone}"],
        "convert_weights": ["--arch=efficientnet_lite0", f"--src={gone}", f"--out={tmp_path}/o"],
    }.items():
        assert_one_line(run(name, *flags), "gone")
