"""A grid from end to end on a small recipe, whose training and prediction are stand-ins."""

import importlib.util
import json
import pathlib

import jax
import numpy as np
import pytest

from wsssjax.ablate import grid, run
from wsssjax.core import files, parallel
from wsssjax.data import label_map
from wsssjax.evaluate import __main__ as evaluate
from wsssjax.report import tables
from wsssjax.steps import arms, depends

ROOT = pathlib.Path(__file__).parents[2]
SEEDS = ["arm=S,M,ALL", "seed=0,1"]
LOG = []


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch):
    """A training that notes its seed, and predictions that are wrong where its seed says."""
    def train(config, out):
        LOG.append((config.method, config.seed))
        files.write_json(out / "weights.safetensors", [config.seed, len(
            files.read_ids(_ids(out, config.data.labeled)))])
        files.write_json(out / "hardware.json", {"total_steps": 7})

    def predict(config, weights, photos, out, save=()):
        rng = np.random.default_rng(files.read_json(weights))
        for name, photo in files.photo_paths(photos).items():
            truth = pathlib.Path(photo).parents[1] / "masks" / f"{name}.png"
            found_hw = label_map.read(truth, 255)
            found_hw[rng.random(found_hw.shape) < 0.3] = 0
            label_map.write(out / f"{name}.png", np.where(found_hw == 255, 0, found_hw))

    monkeypatch.setattr(arms.train, "train", train)
    monkeypatch.setattr(arms.predict, "run", predict)
    LOG.clear()


def _ids(out, lines):
    """The list as one of ids."""
    with files.atomic(out / "ids.txt", "w") as file:
        file.writelines(f"{pathlib.Path(line.split()[0]).stem}\n"
                        for line in pathlib.Path(lines).read_text().splitlines())
    return out / "ids.txt"


@pytest.fixture(scope="module")
def labels(tmp_path_factory, small):
    folder = tmp_path_factory.mktemp("labels")
    small.write_labels(folder)
    return folder


@pytest.fixture
def go(small, labels, tmp_path):
    """(axes, …) → table; steps that were begun are in `go.said`."""
    def call(axes, out="out", shard="0/1", work=True, **changes):
        call.said, call.out = [], tmp_path / out
        cells = grid.cells([grid.read_axis(text) for text in axes])
        return run.run(small.CONFIG, small.grid_overrides(labels, **changes), cells,
                       str(tmp_path / out), shard=shard, work=work, say=call.said.append)
    return call


def test_programs_of_a_cell_go_with_it(go, monkeypatch):
    """Hundreds of cells must fit into one process."""
    train, programs = arms.train.train, []

    def compiled(config, out):
        programs.append(jax.jit(lambda x: x * config.seed))
        programs[-1](1.0)
        assert [p._cache_size() for p in programs] == [0] * (len(programs) - 1) + [1]
        train(config, out)

    monkeypatch.setattr(arms.train, "train", compiled)
    go(SEEDS)
    assert [p._cache_size() for p in programs] == [0] * 6


def kinds(said):
    return [line.split()[-1].rpartition("-")[0] for line in said]


def test_steps_are_shared_by_cells_and_made_once(go):
    found = go(SEEDS)
    made = kinds(go.said)
    assert [made.count(name) for name in ("prepare", "labels_a", "labels_b", "select",
                                          "label_scores")] == [1] * 5
    assert [made.count(name) for name in ("arm_s", "arm_m", "arm_all", "control_m", "row")] \
        == [2, 2, 2, 2, 6]
    assert sorted(LOG) == [("supervised", seed) for seed in (0, 1)] + [
        ("unimatch_v2", seed) for seed in (0, 0, 1, 1)]
    assert len(found["rows"]) == 6 and all(row["miou"] is not None for row in found["rows"])
    assert {row["steps"] for row in found["rows"]} == {7}
    assert go(SEEDS) == found and go.said == []  # it goes on from where it is: nothing is left
    assert go(["arm=S,T", "seed=0"]) and kinds(go.said) == ["arm_t", "test_t", "row"]


def test_selected_images_stay_as_seeds_change_and_drawn_ones_do_not(go, tmp_path):
    go(SEEDS)

    def lists(arm):
        return {path.read_text() for path in tmp_path.glob(f"out/steps/arm_{arm}-*/ids.txt")}

    assert len(lists("s")) == 1 == len(lists("all")) and len(lists("m")) == 2
    assert len(list(tmp_path.glob("out/steps/select-*"))) == 1
    assert {len(text.splitlines()) for text in lists("m")} == {
        len(text.splitlines()) for text in lists("s")}


def test_a_row_says_what_evaluate_says(go, tmp_path):
    row = go(["arm=S"])["rows"][0]
    steps = {path.name.rpartition("-")[0]: path for path in (tmp_path / "out/steps").iterdir()}
    paths = files.read_json(steps["prepare"] / "paths.json")
    truth = str(steps["prepare"] / paths["truth"])
    test = evaluate.run(truth=truth, labels=str(steps["test_s"]), classes="shapes",
                        ids=str(steps["prepare"] / paths["test"]))
    assert (row["miou"], row["iou"]) == (test["miou"], test["iou"])
    ids = steps["arm_s"] / "ids.txt"
    taught = evaluate.run(truth=truth, labels=str(steps["labels_b"]), classes="shapes",
                          ids=str(ids))
    assert row["label_miou"] == taught["miou"]
    chosen = files.read_ids(ids)
    assert row["labelled"] == len(chosen) and row["supervision"] == "I+S"
    maps = [label_map.read(steps["labels_b"] / f"{name}.png", 8) for name in chosen]
    masks = [label_map.read(pathlib.Path(truth) / f"{name}.png", 8) for name in chosen]
    assert row["pixels"] == sum((mask != 255).sum() for mask in masks)
    present = [set(np.unique(x)) - {0, 255} for x in maps]
    assert sum(row["counts"].values()) == sum(map(len, present))
    assert row["single_class_share"] == np.mean([len(x) == 1 for x in present])


def test_an_axis_over_the_selection_shares_the_labels(go, tmp_path):
    found = go(["iou=foreground,mean", "arm=none,U"])
    made = kinds(go.said)
    assert made.count("select") == 2 and made.count("labels_a") == made.count("prepare") == 1
    assert made.count("arm_u") == 2
    nothing = [row for row in found["rows"] if row["cell"]["arm"] == "none"]
    assert len(nothing) == 2
    for row in nothing:
        assert row["labelled"] and row["label_miou"] is not None
        assert (row["miou"], row["steps"]) == (None, None)
    assert {row["cell"]["iou"] for row in found["rows"]} == {"foreground", "mean"}


def test_given_labels_name_the_step_by_their_content(go, labels, tmp_path, small):
    go(["arm=none", "pair=A:B,B:A"])
    assert kinds(go.said).count("labels_a") == 1 and kinds(go.said).count("select") == 2
    small.write_labels(tmp_path / "copy")
    go(["arm=none"], given__a=tmp_path / "copy/a")
    assert go.said == []  # the same maps elsewhere
    changed = min((tmp_path / "copy/a").iterdir())
    label_map.write(changed, np.zeros_like(label_map.read(changed, 8)))
    depends.content.cache_clear()  # another command would read the folder again
    go(["arm=none"], given__a=tmp_path / "copy/a")
    assert kinds(go.said)[0] == "labels_a" and "prepare" not in kinds(go.said)


def test_rows_follow_what_is_told_of_the_sets(go):
    assert go(["arm=S"])["rows"][0]["supervision"] == "I+S"
    again = go(["arm=S"], given__seen__a="C", given__titles__a="ours")
    assert again["rows"][0]["supervision"] == "I+S+C"
    assert [(s["name"], s["method"]) for s in again["sets"]] == [("A", "ours"), ("B", "given")]
    assert kinds(go.said) == ["label_scores", "row"]  # nothing is trained again


def test_shards_part_the_cells_and_the_last_sees_all_rows(go):
    first = go(SEEDS, shard="0/2")
    assert [row["miou"] is None for row in first["rows"]] == [False, True] * 3
    second = go(SEEDS, shard="1/2")
    assert {row["miou"] is None for row in second["rows"]} == {False}
    assert len(LOG) == 6
    whole = go(SEEDS, out="whole")
    for row, want in zip(second["rows"], whole["rows"], strict=True):
        assert row | {"wall_s": 0} == want | {"wall_s": 0}


def test_tables_alone_run_nothing_and_leave_gaps(go):
    found = go(SEEDS, work=False)
    assert go.said == [] and LOG == []
    assert [row["miou"] for row in found["rows"]] == [None] * 6 and found["sets"] == []
    go(["arm=S", "seed=1"])
    found = go(SEEDS, work=False)
    assert [row["miou"] is not None for row in found["rows"]] == [c == ("S", 1) for c in (
        (row["cell"]["arm"], row["cell"]["seed"]) for row in found["rows"])]
    assert [s["name"] for s in found["sets"]] == ["A", "B"]


def test_label_sets_of_every_axis_stand_in_the_table(go, labels, tmp_path, small):
    """Two sets B, one A: B is told by the axis in which it differs, A stands once."""
    small.write_labels(tmp_path / "copy")
    changed = min((tmp_path / "copy/b").iterdir())
    label_map.write(changed, np.zeros_like(label_map.read(changed, 8)))
    found = go([f"given.b={labels / 'b'},{tmp_path / 'copy/b'}", "arm=none", "quota=none",
                "min_iou=0.1,0.2"])
    assert [(s["name"], s["cell"]) for s in found["sets"]] == [
        ("A", {}), ("B", {"given.b": str(labels / "b")}),
        ("B", {"given.b": str(tmp_path / "copy/b")})]
    one, other = (s for s in found["sets"] if s["name"] == "B")
    assert one["miou"] != other["miou"] and one["histogram"] != other["histogram"]
    swapped = go(["pair=A:B,B:A", "arm=none"])  # the same sets
    assert [(s["name"], s["cell"]) for s in swapped["sets"]] == [("A", {}), ("B", {})]


def test_a_behind_a_crf_is_a_set_of_its_own(small, labels, tmp_path):
    config = grid.config_of(small.CONFIG, small.grid_overrides(labels, given__a=""),
                            {"finish_a": "crf", "arm": "none"})
    assert run._name(config, "A") == "A + CRF" and run._name(config, "B") == "B"
    given = grid.config_of(small.CONFIG, small.grid_overrides(labels),
                           {"finish_a": "crf", "arm": "none"})
    assert run._name(given, "A") == "A"  # finished labels: nothing is done to them


def test_full_voc_is_known_by_its_ids(go, monkeypatch):
    assert go(["arm=none"])["voc"] == ""
    made = files.read_json(next(go.out.glob("steps/label_scores-*/scores.json")))
    monkeypatch.setattr(run, "VOC", {made["train_hash"]: "train_aug"})
    assert go(["arm=none"])["voc"] == ""  # other test photos
    monkeypatch.setattr(run, "VOC_VAL", made["test_hash"])
    assert go(["arm=none"])["voc"] == "train_aug"


@pytest.mark.parametrize("name", ["train", "train_aug", "val"])
def test_ids_of_full_voc(shared, name):
    found = files.hash_ids(sorted(files.read_ids(shared / f"data/voc/{name}.txt")))
    assert (run.VOC_VAL if name == "val" else {v: k for k, v in run.VOC.items()}[name]) == found


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("ablate_tool", ROOT / "tools/ablate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_command_writes_tables_also_with_missing_rows(small, labels, tmp_path, capsys, tool):
    flags = [*small.grid_flags(labels), "--axis=arm=S,M", "--axis=seed=0,1", f"--out={tmp_path}"]
    tool.main([*flags, "--tables_only"])
    assert LOG == [] and (tmp_path / "grid/report.html").is_file()
    tool.main([*flags, "--shard=0/2", "--table=protocol", "--name=mine"])
    out = capsys.readouterr().out
    assert "[2/2] arm_s-" in out and "arm_m" not in out
    table = json.loads((tmp_path / "mine/table.json").read_text())
    assert [row["miou"] is None for row in table["rows"]] == [False, True, False, True]
    assert {path.suffix for path in (tmp_path / "mine").iterdir()} >= {".txt", ".csv", ".html"}
    assert (tmp_path / "mine/paired.csv").is_file() and (tmp_path / "mine/figure1.svg").is_file()
    for name in ("notes.txt", "table9.csv"):
        (tmp_path / f"mine/{name}").touch()
    # The same name for another grid: what that does not fill goes, what others wrote stays.
    tool.main([*small.grid_flags(labels), "--axis=arm=none", "--table=6", f"--out={tmp_path}",
               "--tables_only", "--name=mine", "--axis=min_iou=0", "--axis=pair=A:B"])
    assert capsys.readouterr().out.startswith("table6: no cell of the grid fills it\n")
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {
        "table.json", "report.html", "notes.txt", "table9.csv", "figure1.svg",
        *(f"{key}.{kind}" for key in ("table4", "figure1") for kind in ("txt", "csv"))}
    with pytest.raises(ValueError, match="--shard=2/2: want i/n with i from 0 to n - 1"):
        tool.main([*flags, "--shard=2/2"])


def test_check_looks_at_the_inputs_and_runs_nothing(small, labels, tmp_path, capsys, tool):
    flags = [*small.grid_flags(labels), "--axis=arm=S,T", f"--out={tmp_path / 'out'}",
             "--config.check=true"]
    tool.main(flags)
    assert "ok" in capsys.readouterr().out and not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="1 problem in the inputs"):
        tool.main([*flags, f"--config.given.a={tmp_path / 'nowhere'}"])
    assert str(tmp_path / "nowhere") in capsys.readouterr().out and LOG == []


def test_its_help_tells_every_arm(capsys, tool):
    with pytest.raises(SystemExit):
        tool.main(["--help"])
    out = capsys.readouterr().out
    assert all(f"  {name:6} {text}\n" in out for name, text in tables.ARMS.items())
    assert set(tables.ARMS) == set(arms.ARMS)


def test_a_failed_step_is_gone_on_with(go, monkeypatch):
    train = arms.train.train

    def broken(config, out):
        raise OSError("no space left")

    monkeypatch.setattr(arms.train, "train", broken)
    with pytest.raises(OSError, match="no space"):
        go(["arm=S"])
    monkeypatch.setattr(arms.train, "train", train)
    found = go(["arm=S"])
    assert kinds(go.said) == ["arm_s", "test_s", "row"] and found["rows"][0]["miou"] is not None


def test_joined_hosts_are_told_to_run_apart(go, monkeypatch):
    monkeypatch.setattr(parallel, "process", lambda: (0, 2))
    with pytest.raises(ValueError, match="unset JAX_COORDINATOR_ADDRESS, and give every host its"):
        go(["arm=S"])
