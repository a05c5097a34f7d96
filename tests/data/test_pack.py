"""Packs: what went in comes out, truth stays out, broken packs are named, kills leave no ruin."""

import pathlib
import pickle
import subprocess
import sys
import types

import numpy as np
import pytest

from wsssjax.data import builders, label_map, photos, prepare, records, sources

ALL = ("image", "tags", "label", "saliency")


@pytest.fixture
def packed(voc_tree, tmp_path):
    data = records.collect("voc", voc_tree)
    return prepare.pack(data, "voc", tmp_path / "packed", with_truth=True)


def test_everything_comes_out_as_it_went_in(voc_tree, packed):
    source = sources.Packed(packed, "train", ALL)
    assert len(source) == 5 and source.ids == tuple(f"2007_{i:06d}" for i in range(5))
    for index, name in enumerate(source.ids):
        example = source[index]
        assert list(example) == ["name", *ALL] and example["name"] == name
        photo = photos.read_photo(voc_tree / f"JPEGImages/{name}.jpg")
        np.testing.assert_array_equal(example["image"], photo)
        label = label_map.read(voc_tree / f"SegmentationClassAug/{name}.png", 21)
        np.testing.assert_array_equal(example["label"], label)
        saliency = photos.read_saliency(voc_tree / f"saliency/{name}.png")
        np.testing.assert_array_equal(example["saliency"], saliency)
        assert example["tags"].dtype == np.float32 and example["tags"].argmax() == index
    assert list(sources.Packed(packed, "test", ("tags",))[0]) == ["name", "tags"]


def test_bytes_are_stored_as_they_are(voc_tree, packed):
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(packed)
    skip = {key: tfds.decode.SkipDecoding() for key in ("image", "label", "saliency")}
    record = builder.as_data_source("train", decoders=skip)[1]
    assert record["image"] == (voc_tree / "JPEGImages/2007_000001.jpg").read_bytes()
    assert record["label"] == (voc_tree / "SegmentationClassAug/2007_000001.png").read_bytes()
    assert not list(packed.parent.glob("*incomplete*"))


def test_truth_stays_out_unless_asked_for(voc_tree, tmp_path):
    """No byte of a mask lies in a pack without truth, and none can be asked of it."""
    folder = prepare.pack(records.collect("voc", voc_tree), "voc", tmp_path / "packed")
    with pytest.raises(ValueError, match="packed without label; it has image, tags, saliency"):
        sources.Packed(folder, "train", ("image", "label"))
    mask = (voc_tree / "SegmentationClassAug/2007_000001.png").read_bytes()
    pixels = mask[mask.index(b"IDAT") :][:40]
    stored = b"".join(path.read_bytes() for path in folder.iterdir())
    assert pixels not in stored
    photo = (voc_tree / "JPEGImages/2007_000001.jpg").read_bytes()
    assert photo[200:260] in stored  # the search would have found it


def test_entries_that_only_some_images_have(voc_tree, tmp_path):
    (voc_tree / "saliency/2007_000003.png").unlink()
    (voc_tree / "tags.csv").write_text(
        "".join(line + "\n" for line in (voc_tree / "tags.csv").read_text().splitlines()[:6]))
    folder = prepare.pack(records.collect("voc", voc_tree), "voc", tmp_path / "packed")
    source = sources.Packed(folder, "train", ("image", "saliency"))
    assert ["saliency" in source[index] for index in range(5)] == [True] * 3 + [False, True]
    assert "tags" not in sources.Packed(folder, "test")[0]


def test_packing_again_keeps_or_refuses_or_replaces(voc_tree, tmp_path):
    data = records.collect("voc", voc_tree)
    folder = prepare.pack(data, "voc", tmp_path / "packed")
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert prepare.pack(data, "voc", tmp_path / "packed") == folder
    assert before == {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    (voc_tree / "train.txt").write_text("2007_000003\n")
    data = records.collect("voc", voc_tree)
    with pytest.raises(ValueError, match="packed from other files; pass --redo"):
        prepare.pack(data, "voc", tmp_path / "packed")
    prepare.pack(data, "voc", tmp_path / "packed", redo=True)
    assert sources.Packed(folder, "train").ids == ("2007_000003",)
    assert [path.name for path in (tmp_path / "packed").iterdir()] == ["voc"]


def test_long_sets_are_cut_into_shards_in_order(voc_tree, tmp_path, monkeypatch):
    monkeypatch.setattr(builders, "SHARD_BYTES", 9000)
    folder = prepare.pack(records.collect("voc", voc_tree), "voc", tmp_path / "packed")
    assert len(list(folder.glob("voc-train.array_record-*"))) > 1
    source = sources.Packed(folder, "train")
    assert [source[index]["name"] for index in range(5)] == list(source.ids)


def test_a_source_travels_to_other_processes(packed):
    source = sources.Packed(packed, "train", ALL)
    source[0]
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy[3]["image"], source[3]["image"])


def test_listed_files(voc_tree):
    lines = ["JPEGImages/2007_000001.jpg SegmentationClassAug/2007_000001.png",
             str(voc_tree / "JPEGImages/2007_000002.jpg")]
    source = pickle.loads(pickle.dumps(sources.Listed(lines, voc_tree)))
    assert [list(source[index]) for index in range(2)] == [["name", "image", "label"],
                                                           ["name", "image"]]
    label = label_map.read(voc_tree / "SegmentationClassAug/2007_000001.png", 21)
    np.testing.assert_array_equal(source[0]["label"], label)
    with pytest.raises(ValueError, match="2007_000001.png: value 2 at row 5"):
        sources.Listed(lines, voc_tree, num_classes=2)[0]
    with pytest.raises(ValueError, match="2007_000003.png: label map of 36 x 37"):
        sources.Listed(["JPEGImages/2007_000001.jpg SegmentationClassAug/2007_000003.png"],
                       voc_tree)[0]
    with pytest.raises(FileNotFoundError, match="2007_000009.jpg: no such file"):
        sources.Listed(["JPEGImages/2007_000009.jpg"], voc_tree)[0]
    with pytest.raises(ValueError, match="line 2 of a list, 'a b c'"):
        sources.Listed(["a b", "a b c"], voc_tree)
    with pytest.raises(ValueError, match="without photos"):
        sources.Listed([])


def test_list_files(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("\ufeffa/b.jpg c.png\r\n\n  d.jpg \n")
    assert sources.list_lines(path) == ["a/b.jpg c.png", "d.jpg"]
    for text, told in ((b"", "names no photo"), (b"\n \n", "names no photo"),
                       (b"a b.jpg c.png\n", "line 1: 'a b.jpg c.png'; want"),
                       (b"a\0.jpg\n", "line 1"), (b"\xff\xd8\xff", "not a text file")):
        path.write_bytes(text)
        with pytest.raises(ValueError, match=told) as caught:
            sources.list_lines(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_where_packs_are_looked_for(packed, tmp_path):
    for folder in (packed, packed.parent.parent):
        assert sources.Packed(folder, "train").folder == packed
    with pytest.raises(FileNotFoundError, match="no packed data set; make one"):
        sources.Packed(tmp_path / "none", "train")
    with pytest.raises(ValueError, match="no split 'val'; it has train, test"):
        sources.Packed(packed, "val")
    with pytest.raises(ValueError, match="key 'mask'"):
        sources.Packed(packed, "train", ("image", "mask"))


def _spoil(folder, name, change):
    path = next(folder.glob(name))
    path.write_bytes(change(path.read_bytes()))


BROKEN = {
    "metadata empty": ("metadata.json", lambda data: b""),
    "metadata of another shape": ("metadata.json", lambda data: b'{"ids": 3}'),
    "info cut off": ("dataset_info.json", lambda data: data[: len(data) // 2]),
    "features cut off": ("features.json", lambda data: data[: len(data) // 2]),
    "records empty": ("*train*", lambda data: b""),
    "records cut off": ("*train*", lambda data: data[: len(data) // 2]),
    "records of noise": ("*train*", lambda data: bytes(reversed(data))),
    "records flipped": ("*train*", lambda data: data[:9000] + b"\0" * 500 + data[9500:]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_packs_are_one_line_that_names_the_folder(packed, case):
    name, change = BROKEN[case]
    _spoil(packed, name, change)
    with pytest.raises(ValueError) as caught:
        source = sources.Packed(packed, "train")
        [source[index] for index in range(len(source))]
    assert str(packed) in str(caught.value) and "\n" not in str(caught.value)
    assert "pack the data set again" in str(caught.value)


def test_shapes_for_a_recipe(tmp_path):
    """Drawn, laid out as a folder, packed without truth; a second run changes no byte."""
    config = types.SimpleNamespace(
        kind="shapes", root="", train_count=6, test_count=2, size=40, seed=1)
    prepare.for_recipe(config, tmp_path)
    first = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    prepare.for_recipe(config, tmp_path)
    again = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert first.keys() == again.keys()
    assert all(first[path] == again[path] for path in first if path.name != "metadata.json")

    from wsssjax.core import files
    from wsssjax.data import classes
    from wsssjax.data import tags as tag_files

    paths = {key: tmp_path / path for key, path in files.read_json(tmp_path / "paths.json").items()}
    source = sources.Packed(paths["packed"], "train")
    assert len(source) == 6 and files.read_ids(paths["test"])[0] not in source.ids
    with pytest.raises(ValueError, match="without label"):
        sources.Packed(paths["packed"], "train", ("label",))
    names = classes.read_class_names(paths["classes"])
    drawn = builders.draw_shapes(train=6, test=2, size=40, seed=1)
    assert names == drawn.class_names
    tags = tag_files.read_tags(paths["tags"], names)
    assert list(tags) == list(source.ids) == files.read_ids(paths["train"])
    found = files.photo_paths(paths["train_photos"])
    for index, record in enumerate(drawn.splits["train"]):
        image = photos.decode_photo(record.photo, record.name)
        np.testing.assert_array_equal(source[index]["image"], image)
        np.testing.assert_array_equal(photos.read_photo(found[record.name]), image)
        np.testing.assert_array_equal(tags[record.name], record.tags)
        truth = label_map.read(paths["truth"] / f"{record.name}.png", len(names), image.shape[:2])
        np.testing.assert_array_equal(truth, label_map.decode(record.label, "", len(names)))
        assert (paths["context"] / f"{record.name}.png").read_bytes() == record.context
        # Tags are what the truth shows: nothing taught that is not in the picture.
        np.testing.assert_array_equal(tag_files.mask_tags(truth, len(names)), record.tags)


def test_voc_for_a_recipe(voc_tree, tmp_path):
    from wsssjax.core import files

    config = types.SimpleNamespace(kind="voc", root=str(voc_tree), train="train", test="test")
    prepare.for_recipe(config, tmp_path / "out")
    paths = files.read_json(tmp_path / "out/paths.json")
    assert paths["truth"] == str(voc_tree / "SegmentationClassAug")
    assert paths["saliency"] == str(voc_tree / "saliency") and paths["context"] == ""
    (voc_tree / "JPEGImages/2007_000002.jpg").write_bytes(b"")
    (voc_tree / "JPEGImages/2007_000003.jpg").unlink()
    with pytest.raises(ValueError, match=r"2007_000003.* \(and 1 more problems, see .*problems"):
        prepare.for_recipe(config, tmp_path / "out")
    assert len((tmp_path / "out/problems.txt").read_text().splitlines()) == 2
    with pytest.raises(ValueError, match="config.data.root is empty"):
        prepare.for_recipe(types.SimpleNamespace(kind="voc", root=""), tmp_path / "other")


KILLED = """
import os, pathlib, random, signal, sys, time
from wsssjax.data import prepare, records
root, out = map(pathlib.Path, sys.argv[1:])
data = records.collect("voc", root)
prepare.pack(data, "voc", out / "never_killed", with_truth=True)
random.seed(0)
for turn in range(24):
    child = os.fork()
    if child == 0:
        prepare.pack(data, "voc", out / "killed", with_truth=True, redo=True)
        os._exit(0)
    time.sleep(random.uniform(0, 0.08))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if turn % 3 == 2 and (out / "killed/voc/1.0.0").exists():
        (out / "killed/voc/1.0.0").rename(out / f"whole_{turn}")
print(prepare.pack(data, "voc", out / "killed", with_truth=True))
"""


def test_killed_at_any_instant_and_run_again_gives_the_same_pack(voc_tree, tmp_path):
    """Wherever a pack was found after a kill, and at the end, it equals the one never killed."""
    done = subprocess.run([sys.executable, "-c", KILLED, voc_tree, tmp_path], capture_output=True,
                          text=True, cwd=pathlib.Path(__file__).parents[2], timeout=120)
    assert done.returncode == 0, done.stderr
    want = {p.name: p.read_bytes() for p in (tmp_path / "never_killed/voc/1.0.0").iterdir()}
    for folder in [tmp_path / "killed/voc/1.0.0", *tmp_path.glob("whole_*")]:
        assert {p.name: p.read_bytes() for p in folder.iterdir()} == want
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["voc"]


def test_tensorflow_is_never_imported(voc_tree, tmp_path):
    code = ("import sys\nfrom wsssjax.data import builders, loader, prepare, records, sources\n"
            "data = records.collect('voc', sys.argv[1])\n"
            "folder = prepare.pack(data, 'voc', sys.argv[2])\n"
            "sources.Packed(folder, 'train')[0]\n"
            "assert not [m for m in sys.modules if m.split('.')[0] in ('tensorflow', 'torch')]\n")
    done = subprocess.run([sys.executable, "-c", code, voc_tree, tmp_path / "out"],
                          capture_output=True, text=True, cwd=pathlib.Path(__file__).parents[2])
    assert done.returncode == 0 and done.stdout == "" and done.stderr == "", done.stderr
