"""Arms differ in what they say and in nothing else; steps know the files that they depend on."""

import json
import pathlib
import shutil

import numpy as np
import photo_trees
import pytest

from wsssjax import recipe, train
from wsssjax.core import config as configs
from wsssjax.core import files
from wsssjax.data import label_map
from wsssjax.data.classes import VOC_CLASSES
from wsssjax.steps import arms, order, scores, sets

ROOT = pathlib.Path(__file__).parents[2]
QUOTA = dict.fromkeys(VOC_CLASSES[1:], 1)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A small VOC with two label sets: the masks, and the masks with a rim open or gone."""
    root = tmp_path_factory.mktemp("arms") / "voc"
    ids = photo_trees.voc(root, train=14, val=4)
    for name in ids[:14]:
        label_hw = label_map.read(root / f"SegmentationClassAug/{name}.png", 21)
        label_map.write(root.parent / f"a/{name}.png", label_hw)
        label_hw = label_hw.copy()
        label_hw[: 2 + ids.index(name)] = 255
        label_map.write(root.parent / f"b/{name}.png", label_hw)
    return root


def load(tree, **changes):
    given = {"data.root": str(tree), "given.a": str(tree.parent / "a"),
             "given.b_plus": str(tree.parent / "b"), "given.seen.a": "I",
             "given.seen.b_plus": "I+A", "select.quota_spec": json.dumps(QUOTA)}
    return configs.load(str(ROOT / "configs/paper_voc.py:tiny"),
                        given | {name.replace("__", "."): text for name, text in changes.items()})


@pytest.fixture(scope="module")
def made(tree, tmp_path_factory):
    """{step: folder} of data set, label sets, selection and draws."""
    config, workdir = load(tree), tmp_path_factory.mktemp("made")
    steps = order.build_labels(config) + order.build_selection(config)
    steps += [order.build_draw(config, name) for name in ("control_q", "control_u")]
    recipe.run(steps, recipe.Context(workdir, VOC_CLASSES, 0, 1), say=lambda text: None)
    return {step.name: workdir / step.name for step in steps}


@pytest.fixture
def trained(monkeypatch):
    """Configs that a training was started with; nothing is trained."""
    found = []
    monkeypatch.setattr(train, "train", lambda config, out: found.append(config))
    return found


def lines(path):
    return pathlib.Path(path).read_text().splitlines()


@pytest.mark.parametrize("passes", ["passes", "steps"])
def test_all_arms_take_the_steps_of_s(tree, made, trained, tmp_path, passes):
    counted = {"segmenter__total_epochs": "5", "segmenter__total_steps": "0"}
    config = load(tree, **(counted if passes == "passes" else {"segmenter__total_steps": "7"}),
                  segmenter__device_batch="2", segmenter__accumulate="1")
    for name, arm in arms.ARMS.items():
        if arm.chosen != "listed":
            (tmp_path / name).mkdir()
            arms.train_arm(config, arm, tmp_path / name, made)
    selected = len(lines(made["select"] / "labeled.txt"))
    devices = recipe.parallel.device_count()
    want = 5 * max(-(-(14 - selected) // devices) // 2, 1) if passes == "passes" else 7
    assert {own.total_steps for own in trained} == {want}
    assert len({(own.device_batch, own.seed, own.optim.lr) for own in trained}) == 1
    methods = [own.method for own in trained]
    assert methods == ["unimatch_v2"] * 4 + ["supervised", "unimatch_v2", "supervised",
                                             "supervised"]


def test_tags_are_told_to_all_arms_that_learn_from_other_images(tree, made, trained, tmp_path):
    known = arms.where(made["prepare"])["tags"]
    for number, (told, want) in enumerate((({"segmenter_tags": "true"}, known),
                                           ({"segmenter__data__tags": "my.csv"}, "my.csv"))):
        tagged = {}
        for name in ("S", "M", "T", "ALL", "S-sup"):
            out = tmp_path / f"{name}{number}"
            out.mkdir()
            arms.train_arm(load(tree, **told), arms.ARMS[name], out, made)
            tagged[name] = trained[-1].data.tags
        assert tagged == {"S": want, "M": want, "T": want, "ALL": "", "S-sup": ""}
    arms_of = {"arms": "S,M,T,ALL,S-sup"}
    assert changed(hashes(load(tree, **arms_of)),
                   hashes(load(tree, segmenter_tags="true", **arms_of))) == {
                       "arm_s", "arm_m", "arm_t"}


def test_lists_of_an_arm_are_the_training_photos_once_each(tree, made, trained, tmp_path):
    config, truth = load(tree), str(arms.where(made["prepare"])["truth"])
    selected = sorted(line.split("/")[-1] for line in lines(made["select"] / "labeled.txt"))
    for name, arm in arms.ARMS.items():
        if arm.chosen == "listed":
            continue
        (tmp_path / name).mkdir()
        arms.train_arm(config, arm, tmp_path / name, made)
        labelled, rest = (lines(tmp_path / name / f"{part}.txt")
                          for part in ("labeled", "unlabeled"))
        assert len({line.split()[0] for line in labelled + rest}) == 14 == len(labelled + rest)
        folder = truth if name in ("T", "Tall") else str(made["labels_b_plus"])
        assert all(line.split()[1].startswith(folder) for line in labelled)
        if arm.chosen == "select":
            assert sorted(line.split("/")[-1] for line in labelled) == selected
        if name == "U":
            assert len(labelled) == len(selected)
        if arm.chosen == "all":
            assert not rest


def test_the_list_of_arm_l_may_be_unimatchs(tree, made, tmp_path):
    ids = files.read_ids(made["prepare"] / "train.txt")
    for text in ("\n".join(ids[3:6]), "\n".join(f"J/{n}.jpg S/{n}.png" for n in ids[3:6])):
        (tmp_path / "l.txt").write_text(text + "\n")
        config = load(tree, listed=str(tmp_path / "l.txt"))
        assert arms.chosen_ids(config, arms.ARMS["L"], made) == ids[3:6]
    (tmp_path / "l.txt").write_text("2011_000009\n")
    with pytest.raises(ValueError, match="l.txt.*2011_000009.*want ids of the training images"):
        arms.chosen_ids(config, arms.ARMS["L"], made)


def test_thinning_stops_at_its_limit_and_follows_its_seed(tree, made):
    labels, ids = str(made["labels_b_plus"]), files.read_ids(made["prepare"] / "train.txt")

    def kept(seed=0, **limits):
        how = load(tree, **{f"labelled__{k}": str(v) for k, v in limits.items()}).labelled
        return arms.thinned(ids, how, seed, labels)

    assert kept() == ids and len(kept(images=5)) == 5 and kept(images=99) == ids
    assert kept(images=5) == kept(images=5) != kept(1, images=5)
    pixels = {n: int((label_map.read(f"{labels}/{n}.png", 21) != 255).sum()) for n in ids}
    some = kept(pixels=9000)
    total = sum(pixels[n] for n in some)
    assert total >= 9000 > total - max(pixels[n] for n in some)  # the last one reached it
    assert some == [n for n in ids if n in some]


def test_kept_parts_teach_arm_s_alone(tree, made):
    config = load(tree, select__keep="pixels")
    for name, folder in (("S", made["select"] / "labels"), ("S-sup", made["select"] / "labels"),
                         ("M", made["labels_b_plus"]), ("T", arms.where(made["prepare"])["truth"])):
        assert arms.label_folder(config, arms.ARMS[name], made) == str(folder)


def test_no_photo_left_to_learn_from_is_told(tree, made, trained, tmp_path):
    config = load(tree)
    inputs = made | {"select": tmp_path / "all"}
    shutil.copytree(made["select"], inputs["select"])
    both = [*lines(made["select"] / "labeled.txt"), *lines(made["select"] / "unlabeled.txt")]
    (inputs["select"] / "labeled.txt").write_text("\n".join(both) + "\n")
    with pytest.raises(ValueError, match="all 14 training photos are labelled.*lower the quota"):
        arms.train_arm(config, arms.ARMS["S"], tmp_path, inputs)
    arms.train_arm(config, arms.ARMS["S-sup"], tmp_path, inputs)  # wants no others


def test_arms_of_true_masks_want_them_before_anything_is_made(tree, made):
    config = load(tree, arms="S,T")
    arms.check_truth(config, made["prepare"])
    bare = made["prepare"].parent / "bare"
    shutil.copytree(made["prepare"], bare)
    paths = files.read_json(bare / "paths.json")
    files.write_json(bare / "paths.json", paths | {"truth": ""})
    with pytest.raises(ValueError, match=r"no true mask of .* \(14 lack one\), which arm T learns"):
        arms.check_truth(config, bare)
    arms.check_truth(load(tree, arms="S,M"), bare)


def test_a_row_counts_the_labels_as_the_selection_does(tree, made, tmp_path):
    scores.row(load(tree), "none", tmp_path, made)
    row, summary = files.read_json(tmp_path / "row.json"), files.read_json(
        made["select"] / "summary.json")
    assert row["counts"] == summary["counts"] and row["labelled"] == summary["selected"]
    assert row["label_miou"] == 1.0  # open pixels do not count, and the others are the masks
    ids = [line.split("/")[-1][:-4] for line in lines(made["select"] / "labeled.txt")]
    want = sum(int((label_map.read(made["labels_b_plus"] / f"{n}.png", 21) != 255).sum())
               for n in ids)
    assert row["pixels"] == want


def hashes(config):
    """{step: hash of what it depends on by itself}."""
    return {s.name: files.hash_value(s.config) for s in order.build(config)}


def changed(before, after):
    return {name for name in before if before[name] != after.get(name)}


def test_steps_follow_what_lies_in_files(tree, tmp_path):
    order.depends._data_files.cache_clear()
    copy, quota = tmp_path / "voc", tmp_path / "quota.json"
    shutil.copytree(tree, copy)
    quota.write_text(json.dumps(QUOTA))
    flags = {"data__root": str(copy), "select__quota_spec": str(quota)}
    before = hashes(load(tree, **flags))
    quota.write_text(json.dumps(QUOTA | {"cat": 2}))
    assert changed(before, hashes(load(tree, **flags))) == {"select"}
    quota.write_text(json.dumps(QUOTA))
    text = (copy / "tags.csv").read_text().splitlines()
    (copy / "tags.csv").write_text("\n".join([*text[:-5], text[-5] + ";sofa", *text[-4:]]) + "\n")
    order.depends._data_files.cache_clear()
    assert changed(before, hashes(load(tree, **flags))) == {"prepare"}


def test_titles_and_letters_are_told_again_when_they_change(tree):
    before = hashes(load(tree))
    assert changed(before, hashes(load(tree, given__seen__a="I+C"))) == {"evaluate"}
    assert changed(before, hashes(load(tree, given__titles__a="CLIP-ES"))) == {"evaluate"}
    assert changed(before, hashes(load(tree, seed="3"))) >= {"arm_s", "control_m"}
    assert not changed(before, hashes(load(tree, seed="3"))) & {"prepare", "labels_a", "select"}
    assert not changed(before, hashes(load(tree, segmenter__data__workers="3")))


def test_supervision_is_that_of_what_is_run(tree):
    found = {n: (m.title, m.seen) for n, m in sets.folders(load(tree)).items()}
    assert found == {"A": ("BAO", "I"), "B+": ("given", "I+A")}
    assert sets.folders(load(tree, given__seen__a=""))["A"].seen == "?"
    whole = load(tree, given__a="", given__b_plus="", finish_a="sam")
    seen = {n: m.seen for n, m in sets.folders(whole).items()}
    assert seen == {"A": "I", "B": "I+S", "B+": "I+S"}  # superpixels have seen nothing
    with whole.unlocked():
        whole.proposals.backend = "sam"
    seen = {n: m.seen for n, m in sets.folders(whole).items()}
    assert seen == {"A": "I+A", "B": "I+S", "B+": "I+S+A"}
    assert scores.supervision(whole, "T") == "I+S+A+F" and scores.supervision(whole, "Tall") == "F"
    assert scores.supervision(whole, "ALL") == "I+S+A"
    with pytest.raises(ValueError, match="'X' is no letter of supervision"):
        sets.folders(load(tree, given__seen__a="X"))


def test_draws_keep_classes_or_size(tree, made):
    table = {name: set(lines(made[name] / "labeled.txt"))
             for name in ("select", "control_u", "control_m", "control_q")}
    assert len(table["control_u"]) == len(table["select"]) >= len(table["control_m"])
    taken = np.zeros(21, int)
    for line in table["control_q"]:
        label_hw = label_map.read(line.split()[1], 21)
        taken[np.setdiff1d(label_hw, [0, 255])] += 1
    there = np.zeros(21, int)
    for path in made["labels_b_plus"].glob("*.png"):
        there[np.setdiff1d(label_map.read(path, 21), [0, 255])] += 1
    assert (taken >= np.minimum(there, 1))[1:].all()  # the quota is filled where the pool can
