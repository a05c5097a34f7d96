"""What belongs together in each folder tree that is understood, and what is told where it fails."""

import json

import numpy as np
import pytest
from PIL import Image

from wsssjax.data import classes, label_map, prepare, records, tags


def _problems(kind, root, **options):
    found = []
    data = records.collect(kind, root, tell=found.append, **options)
    prepare.check(data, found.append)
    return data, found


def test_voc_folder_with_lists_beside_the_photos(voc_tree):
    data, problems = _problems("voc", voc_tree)
    assert problems == []
    assert data.class_names == classes.VOC_CLASSES
    assert [r.name for r in data.splits["train"]] == [f"2007_{i:06d}" for i in range(5)]
    assert [r.name for r in data.splits["test"]] == ["2007_000005", "2007_000006"]
    third = data.splits["train"][2]
    assert third.tags.argmax() == 2 and third.tags.sum() == 1
    assert third.label == voc_tree / "SegmentationClassAug/2007_000002.png"
    assert third.saliency == voc_tree / "saliency/2007_000002.png"


def test_order_is_that_of_the_list(voc_tree):
    (voc_tree / "train.txt").write_text("2007_000003\n2007_000001\n")
    data = records.collect("voc", voc_tree, splits=("train",))
    assert [r.name for r in data.splits["train"]] == ["2007_000003", "2007_000001"]
    assert list(data.splits) == ["train"]


def _as_devkit(root):
    """Turns the small tree into one as VOC ships it: lists in ImageSets, tags in XML files."""
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "Annotations").mkdir()
    (root / "test.txt").rename(root / "ImageSets/Segmentation/val.txt")
    (root / "train.txt").rename(root / "ImageSets/Segmentation/train.txt")
    (root / "tags.csv").unlink()
    for index in range(7):
        name = classes.VOC_CLASSES[index + 1]
        text = f"<annotation><object><name>{name}</name></object></annotation>"
        (root / f"Annotations/2007_{index:06d}.xml").write_text(text)


def test_devkit_gives_the_same_as_the_csv(voc_tree):
    before = records.collect("voc", voc_tree, splits=("train",)).splits["train"]
    _as_devkit(voc_tree)
    data, problems = _problems("voc", voc_tree)
    assert problems == [] and list(data.splits) == ["train", "val"]
    for old, new in zip(before, data.splits["train"], strict=True):
        assert old.name == new.name and old.photo == new.photo
        np.testing.assert_array_equal(old.tags, new.tags)


def test_sbd_list_with_paths_and_official_masks_first(voc_tree, raw_png):
    (voc_tree / "train_aug.txt").write_text(
        "/JPEGImages/2007_000000.jpg /SegmentationClassAug/2007_000000.png\n"
        "/JPEGImages/2007_000001.jpg /SegmentationClassAug/2007_000001.png\n"
        "/JPEGImages/2007_000002.jpg /elsewhere/2007_000002.png"
    )
    (voc_tree / "train.txt").write_text("2007_000000\n")
    (voc_tree / "SegmentationClass").mkdir()
    label = np.zeros((30, 40), int)
    (voc_tree / "SegmentationClass/2007_000000.png").write_bytes(raw_png(label))
    data = records.collect("voc", voc_tree)
    assert [r.name for r in data.splits["train_aug"]] == [f"2007_{i:06d}" for i in range(3)]
    assert data.splits["train_aug"][1].label.parent.name == "SegmentationClassAug"
    assert data.splits["train_aug"][2].label is None  # the list's author has it, we do not
    assert data.splits["train"][0].label.parent.name == "SegmentationClass"


def test_tags_from_masks_only_where_it_is_allowed(voc_tree):
    (voc_tree / "tags.csv").unlink()
    _, problems = _problems("voc", voc_tree, splits=("train",))
    assert len(problems) == 5 and "no tags for id '2007_000000' of train" in problems[0]
    data, problems = _problems("voc", voc_tree, tags_from_masks=("train",))
    assert problems == []
    assert [r.tags.argmax() for r in data.splits["train"]] == [0, 1, 2, 3, 4]
    assert [r.tags for r in data.splits["test"]] == [None, None]


def test_tags_from_masks_win_and_name_a_split(voc_tree):
    """What is asked for is done, though tags.csv says otherwise."""
    path = voc_tree / "tags.csv"
    ids = [line.split(",")[0] for line in path.read_text().splitlines()[1:]]
    path.write_text("id,tags\n" + "".join(f"{name},sheep\n" for name in ids))
    data = records.collect("voc", voc_tree, tags_from_masks=("test",))
    assert [r.tags.argmax() for r in data.splits["test"]] == [5, 6]
    assert {r.tags.argmax() for r in data.splits["train"]} == {16}
    with pytest.raises(ValueError, match="--tags_from_masks=val: no split that is taken; there ar"):
        records.collect("voc", voc_tree, tags_from_masks=("val",))


@pytest.fixture
def own_photos(tmp_path):
    root = tmp_path / "photos"
    root.mkdir()
    rng = np.random.default_rng(0)
    for name in ("b.jpg", "a.PNG", "c.jpeg"):
        image = Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8))
        image.save(root / name, "PNG" if name == "a.PNG" else "JPEG")
    (root / "classes.txt").write_text("cat\ndog\n")
    (root / "tags.csv").write_text("id,tags\nb,cat;dog\na.PNG,10\nc,dog\n")
    return root


def test_own_photos_beside_their_tags(own_photos):
    data, problems = _problems("folder", own_photos)
    assert problems == []
    assert data.class_names == ("background", "cat", "dog")
    assert [r.name for r in data.splits["train"]] == ["a", "b", "c"]
    assert [r.tags.tolist() for r in data.splits["train"]] == [[1, 0], [1, 1], [0, 1]]


def test_own_photos_in_a_folder_of_their_own_with_lists(own_photos):
    (own_photos / "images").mkdir()
    for path in own_photos.glob("*.[jP]*"):
        path.rename(own_photos / "images" / path.name)
    (own_photos / "train.txt").write_text("c\na\n")
    (own_photos / "test.txt").write_text("b\n")
    data, problems = _problems("folder", own_photos)
    assert problems == []
    assert {k: [r.name for r in v] for k, v in data.splits.items()} == {
        "train": ["c", "a"], "test": ["b"]}


def test_a_photo_without_tags_and_tags_without_a_photo(own_photos):
    (own_photos / "c.jpeg").rename(own_photos / "d.jpeg")
    _, problems = _problems("folder", own_photos)
    assert len(problems) == 2
    assert "id 'c' of train has no photo" in problems[0]
    assert "tags.csv: no tags for id 'd' of train" in problems[1]


def test_coco_as_published(tmp_path):
    for split, name in (("train", "000000000009"), ("val", "000000000139")):
        (tmp_path / f"{split}2017").mkdir()
        Image.new("RGB", (8, 6)).save(tmp_path / f"{split}2017/{name}.jpg")
        (tmp_path / "annotations").mkdir(exist_ok=True)
        table = {"images": [{"id": 9, "file_name": f"{name}.jpg"}],
                 "categories": [{"id": 90, "name": "toothbrush"}],
                 "annotations": [{"image_id": 9, "category_id": 90}]}
        (tmp_path / f"annotations/instances_{split}2017.json").write_text(json.dumps(table))
    data, problems = _problems("coco", tmp_path)
    assert problems == []
    assert {k: [r.name for r in v] for k, v in data.splits.items()} == {
        "train": ["000000000009"], "val": ["000000000139"]}
    assert data.splits["val"][0].tags.argmax() == 79 and data.splits["val"][0].tags.size == 80


def _cut_photo(root):
    path = root / "JPEGImages/2007_000001.jpg"
    path.write_bytes(path.read_bytes()[:300])


def _small_label(root):
    Image.new("L", (9, 9)).save(root / "SegmentationClassAug/2007_000001.png")


def _small_saliency(root):
    Image.new("L", (9, 9)).save(root / "saliency/2007_000001.png")


def _high_label(root):
    Image.new("L", (39, 32), 77).save(root / "SegmentationClassAug/2007_000001.png")


def _tags(text):
    return lambda root: (root / "tags.csv").write_text(
        (root / "tags.csv").read_text().replace("2007_000001,01000000000000000000", text))


BROKEN = {
    "photo cut off": (_cut_photo, "JPEGImages/2007_000001.jpg: broken JPEG"),
    "photo missing": (lambda root: (root / "JPEGImages/2007_000001.jpg").unlink(),
                      "id '2007_000001' of train has no photo; want JPEGImages/2007_000001.jpg"),
    "label of another size": (_small_label, "2007_000001.png: label map of 9 x 9; its image"),
    "label value": (_high_label, "2007_000001.png: value 77 at row 0"),
    "saliency of another size": (_small_saliency, "2007_000001.png: saliency of (9, 9)"),
    "unknown class": (_tags("2007_000001,hourse"), "unknown class 'hourse'; did you mean horse"),
    "no tag": (_tags("2007_000001,"), "id '2007_000001': no tag"),
    "tags twice": (_tags("2007_000000,cat"), "id '2007_000000' stands twice"),
    "tags missing": (_tags(""), "no tags for id '2007_000001' of train"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_each_kind_of_broken_image_is_named(voc_tree, case):
    spoil, told = BROKEN[case]
    spoil(voc_tree)
    _, problems = _problems("voc", voc_tree)
    assert any(told in problem for problem in problems), problems
    assert all("\n" not in problem for problem in problems) and len(problems) <= 2
    with pytest.raises(ValueError):
        prepare.check(records.collect("voc", voc_tree))


BAD_LISTS = {
    "an id twice": ("a\nb\na\n", "line 3: id 'a' stands twice"),
    "empty": ("\n\n", "holds no id"),
    "two words": ("a b\n", "line 1: 'a b'; want an id"),
    "hidden": ("x/.jpg\n", "want an id"),
    "binary": (b"\xff\xd8\xff\xe0", "not a text file"),
    "zero bytes": ("a\0b\n", "want an id"),
}


@pytest.mark.parametrize("case", BAD_LISTS)
def test_bad_lists_are_one_line_that_names_the_file(voc_tree, case):
    text, told = BAD_LISTS[case]
    path = voc_tree / "train.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=told) as caught:
        records.collect("voc", voc_tree)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_asked_for_and_not_there(voc_tree):
    with pytest.raises(FileNotFoundError, match="no list of split val: want .*val|NAME.txt"):
        records.collect("voc", voc_tree, splits=("train", "val"))
    with pytest.raises(FileNotFoundError, match="no such folder"):
        records.collect("voc", voc_tree / "none")
    with pytest.raises(ValueError, match="kind 'pascal': want one of voc, folder, coco"):
        records.collect("pascal", voc_tree)
    for name in ("train.txt", "test.txt"):
        (voc_tree / name).unlink()
    with pytest.raises(FileNotFoundError, match="no list of split train: want .*voc.train.txt or "):
        records.collect("voc", voc_tree)


def test_small_voc_is_sound(shared):
    """Real photos at half size: counts as documented, tags equal the classes in the masks."""
    data = records.collect("voc", shared / "data/voc_small")
    assert {split: len(found) for split, found in data.splits.items()} == {
        "train": 1213, "test": 350}
    for record in data.splits["train"][::10]:
        label = label_map.read(record.label, 21)
        np.testing.assert_array_equal(record.tags, tags.mask_tags(label, 21), record.name)
