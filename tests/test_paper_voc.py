"""The paper's recipe, whole, on a small tree of VOC's shape: by command, again, from its ends."""

import hashlib
import io
import json
import pathlib
import tarfile

import numpy as np
import photo_trees
import pytest
from PIL import Image

from wsssjax.core import config as configs
from wsssjax.steps import order

ROOT = pathlib.Path(__file__).parents[1]

STEPS = ("prepare saliency cam_a labels_a cam_b labels_b_seed labels_b_debiased labels_b_mars "
         "labels_b proposals labels_b_plus select control_m arm_s test_s submit_s arm_m test_m "
         "submit_m evaluate report").split()


def steps_of(out):
    return [line.split()[-1] for line in out.splitlines() if line.startswith("[")]


def read(path):
    return json.loads(path.read_text())


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def ids(folder):
    """The ids of a labeled.txt, in its order."""
    return [pathlib.Path(line.split()[0]).stem
            for line in (folder / "labeled.txt").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(folder of the run, its flags, what it printed) of a finished run."""
    folder = tmp_path_factory.mktemp("paper")
    names = photo_trees.voc(folder / "voc", train=12, val=6)
    photo_trees.write_lines(folder / "server.txt", names[-3:])
    flags = ["--config=configs/paper_voc.py:tiny", f"--config.data.root={folder / 'voc'}",
             f"--config.submission.ids={folder / 'server.txt'}",
             f"--config.submission.photos={folder / 'voc' / 'JPEGImages'}"]
    code, out, err = photo_trees.train(*flags, f"--workdir={folder / 'run'}")
    assert code == 0, err[-3000:]
    return folder / "run", flags, out


def test_every_step_is_made_and_everything_is_scored(whole):
    workdir, _, out = whole
    assert steps_of(out) == STEPS
    for step in STEPS:
        assert read(workdir / step / "manifest.json")["step"] == step
    results = read(workdir / "results.json")
    assert {name: (s["method"], s["supervision"]) for name, s in results["labels"].items()} == {
        "A": ("BAO", "I"), "B": ("MARS", "I+S"), "B+": ("MARS + proposals", "I+S")}
    assert {name: arm["supervision"] for name, arm in results["arms"].items()} == {
        "S": "I+S", "M": "I+S"}
    assert results["images"] == {"train": 12, "test": 6}
    for entry in (*results["labels"].values(), *results["arms"].values()):
        assert 0 <= entry["miou"] <= 1
    assert results["arms"]["S"]["labelled"] == len(ids(workdir / "select")) < 12
    page = (workdir / "report.html").read_text()
    assert "MARS + proposals" in page and "UniMatch V2" in page


def test_labels_have_the_sizes_of_photos_and_classes_of_tags(whole):
    workdir, _, _ = whole
    tags = dict(line.split(",") for line in
                (workdir.parent / "voc/tags.csv").read_text().splitlines()[1:])
    found = set()
    for name in (workdir / "prepare/train.txt").read_text().split():
        size = Image.open(workdir.parent / f"voc/JPEGImages/{name}.jpg").size
        for step in ("labels_a", "labels_b_seed", "labels_b", "labels_b_plus"):
            label = Image.open(workdir / step / f"{name}.png")
            assert label.size == size
            values = set(np.unique(np.asarray(label)).tolist())
            allowed = [photo_trees.VOC_CLASSES.index(c) for c in tags[name].split(";")]
            assert values <= {0, *allowed}, (step, name)
            found |= values if step == "labels_b" else set()
    assert len(found) > 1  # MARS leaves objects


def test_the_archive_is_what_the_server_takes(whole):
    workdir, _, _ = whole
    wanted = (workdir.parent / "server.txt").read_text().split()
    with tarfile.open(workdir / "submit_s/results.tgz") as archive:
        members = {pathlib.PurePath(m.name): m for m in archive.getmembers() if m.isfile()}
        assert {str(p.parent) for p in members} == {
            "results/VOC2012/Segmentation/comp6_test_cls"}
        assert sorted(p.stem for p in members) == wanted
        for path, member in members.items():
            packed = np.asarray(Image.open(io.BytesIO(archive.extractfile(member).read())))
            made = np.asarray(Image.open(workdir / "test_s" / path.name))  # these are val's, too
            np.testing.assert_array_equal(packed, made)


def test_the_same_command_again_has_nothing_to_do(whole):
    workdir, flags, _ = whole
    results, weights = digest(workdir / "results.json"), digest(
        workdir / "arm_s/weights.safetensors")
    code, out, err = photo_trees.train(*flags, f"--workdir={workdir}")
    assert code == 0 and "nothing to do" in out and steps_of(out) == [], err[-3000:]
    assert digest(workdir / "results.json") == results
    assert digest(workdir / "arm_s/weights.safetensors") == weights


def test_finished_folders_take_the_place_of_steps(whole, tmp_path):
    """From labels A and B and the masks: the same B+, selection, students and test maps."""
    workdir, flags, _ = whole
    given = [f"--config.given.{name}={workdir / step}" for name, step in
             (("a", "labels_a"), ("b", "labels_b"), ("proposals", "proposals"))]
    seen = ["--config.given.seen.a=I", "--config.given.seen.b=I+S"]  # folders tell nothing of it
    code, out, err = photo_trees.train(*flags, *given, *seen, "--config.arms=S",
                                       f"--workdir={tmp_path / 'run'}")
    assert code == 0, err[-3000:]
    assert steps_of(out) == ("prepare labels_a labels_b proposals labels_b_plus select control_m "
                             "arm_s test_s submit_s evaluate report").split()
    other = tmp_path / "run"
    for name in ids(workdir / "arm_s") + ids(workdir / "control_m"):
        assert digest(other / f"labels_b_plus/{name}.png") == digest(
            workdir / f"labels_b_plus/{name}.png")
    for step in ("select", "control_m", "arm_s"):
        text = (workdir / step / "labeled.txt").read_text()
        assert (other / step / "labeled.txt").read_text() == text.replace(
            str(workdir), str(other)), step
    for path in ("arm_s/weights.safetensors", "submit_s/results.tgz"):
        assert digest(other / path) == digest(workdir / path), path
    mine, theirs = (read(folder / "results.json") for folder in (other, workdir))
    assert mine["labels"] == theirs["labels"]  # titles and letters, too
    assert mine["selection"] == theirs["selection"]
    assert mine["arms"]["S"] == theirs["arms"]["S"]


def test_finished_pool_alone_gives_the_same_selection(whole, tmp_path):
    workdir, flags, _ = whole
    overrides = dict(flag.removeprefix("--config.").split("=", 1) for flag in flags[1:])
    settings = configs.load(ROOT / "configs/paper_voc.py:tiny", overrides | {
        "given.a": str(workdir / "labels_a"), "given.b_plus": str(workdir / "labels_b_plus")})
    steps = order.build_labels(settings) + order.build_selection(settings)
    assert [s.name for s in steps] == ["prepare", "labels_a", "labels_b_plus", "select",
                                       "control_m"]
    for step in steps:
        (tmp_path / step.name).mkdir()
        step.run(tmp_path / step.name, {name: tmp_path / name for name in step.inputs})
    for step in ("select", "control_m"):
        assert ids(tmp_path / step) == ids(workdir / step)


def test_a_folder_that_lacks_labels_is_named(whole, tmp_path):
    workdir, flags, _ = whole
    (tmp_path / "few").mkdir()
    name = ids(workdir / "select")[0]
    (tmp_path / f"few/{name}.png").write_bytes((workdir / f"labels_a/{name}.png").read_bytes())
    code, _, err = photo_trees.train(*flags, f"--config.given.a={tmp_path / 'few'}",
                       f"--workdir={tmp_path / 'run'}")
    assert code == 1 and len(err.strip().splitlines()) == 1
    assert f"{tmp_path / 'few'}: " in err
