"""Tags from CSV, VOC XML and COCO JSON; class names; every broken file is one line."""

import json

import numpy as np
import pytest

from wsssjax.data import classes, tags

NAMES = ("background", "cat", "dog", "traffic light")


def _csv(tmp_path, text):
    path = tmp_path / "tags.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_names_and_digits_mean_the_same(tmp_path):
    path = _csv(tmp_path, "id,tags\na,cat\nb.jpg, traffic light ; dog \nc,011\n\nd,\"dog\"\n")
    got = tags.read_tags(path, NAMES)
    assert {name: row.tolist() for name, row in got.items()} == {
        "a": [1, 0, 0], "b": [0, 1, 1], "c": [0, 1, 1], "d": [0, 1, 0],
    }
    assert all(row.dtype == np.float32 for row in got.values())
    for name, row in got.items():
        text = tags.format_tags(row, NAMES)
        np.testing.assert_array_equal(tags.parse_tag_text(text, NAMES), row, err_msg=name)


def test_files_saved_by_a_spreadsheet(tmp_path):
    path = _csv(tmp_path, b"\xef\xbb\xbfid,tags\r\na,cat;dog\r\n")
    assert tags.read_tags(path, NAMES)["a"].tolist() == [1, 1, 0]


BAD_CSV = {
    "unknown class": ("id,tags\na,cat;dgo\n", "line 2: id 'a': unknown class 'dgo'; did .* dog"),
    "the background": ("id,tags\na,background\n", "unknown class 'background'"),
    "comma between": ("id,tags\na,cat,dog\n", "3 columns.*separated by ';'"),
    "twice": ("id,tags\na,cat\nb,dog\na,dog\n", "line 4: id 'a' stands twice"),
    "no tag": ("id,tags\na,\n", "id 'a': no tag"),
    "all zero": ("id,tags\na,000\n", "id 'a': no tag"),
    "too few digits": ("id,tags\na,01\n", "2 characters 0/1; want 3"),
    "no id": ("id,tags\n,cat\n", "line 2: no id"),
    "no header": ("a,cat\n", "want the header `id,tags`"),
    "empty": ("", "want the header `id,tags`"),
    "header only": ("id,tags\n", "holds no row"),
    "binary": (b"\x89PNG\r\n\x1a\n\0\0", "not a UTF-8 text file"),
    "zero bytes": ("id,tags\na\0,cat\n", "rename the photo"),
    "a way out": ("id,tags\n../../a,cat\n", "rename the photo"),
    "a space": ("id,tags\nmy cat.jpg,cat\n", "'my cat' has a space"),
    "an open quote": ("id,tags\na,\"cat\nb,dog\n", "not a CSV file"),
    "an endless field": ("id,tags\na," + "c" * 200_000 + "\n", "not a CSV file"),
}


@pytest.mark.parametrize("case", BAD_CSV)
def test_bad_tag_files_are_one_line_that_names_the_file(tmp_path, case):
    text, told = BAD_CSV[case]
    path = _csv(tmp_path, text)
    with pytest.raises(ValueError, match=told) as caught:
        tags.read_tags(path, NAMES)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_all_bad_rows_are_told_and_good_ones_kept(tmp_path):
    path = _csv(tmp_path, "id,tags\na,cat\nb,cow\nc\nd,dog\n")
    found, problems = tags.parse_tags(path, NAMES)
    assert sorted(found) == ["a", "d"]
    assert [problem.split(": ")[0].split()[-1] for problem in problems] == ["3", "4"]


def test_the_number_of_bad_rows_is_told(tmp_path):
    path = _csv(tmp_path, "id,tags\na,cta\nb,dog\nb,cat\nc,01\n")
    with pytest.raises(ValueError, match=r"line 2: id 'a': unknown class 'cta'.*\(and 2 more prob"):
        tags.read_tags(path, NAMES)


def test_rows_of_zeros_are_counted_and_named(tmp_path):
    path = _csv(tmp_path, "id,tags\n" + "".join(f"{c},000\n" for c in "abcdefg") + "x,100\n")
    with pytest.raises(ValueError, match="7 rows, ids 'a', 'b', 'c', 'd', 'e' and 2 more: no tag;"):
        tags.read_tags(path, NAMES)
    assert list(tags.read_tags(path, NAMES, untagged=True)) == list("abcdefgx")


@pytest.mark.parametrize("text, names, told", [
    ("0110", NAMES, r"line 2: id 'a': 4 characters 0/1; want 3, one per .* \(is --classes right"),
    ("11", NAMES, "2 characters 0/1; want 3, one per foreground class"),
    ("traffic light", NAMES[:3], "unknown class 'traffic light'; want one of cat, dog"),
])
def test_a_list_of_other_classes_than_the_tags(tmp_path, text, names, told):
    with pytest.raises(ValueError, match=told):
        tags.read_tags(_csv(tmp_path, f"id,tags\na,{text}\n"), names)


def test_voc_xml_takes_objects_but_not_their_parts(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(
        "<annotation><object><name>person</name><part><name>head</name></part></object>"
        "<object><name>dog</name><difficult>1</difficult></object>"
        "<object><name>person</name></object></annotation>"
    )
    names = classes.VOC_CLASSES
    want = [name in ("person", "dog") for name in names[1:]]
    assert tags.read_voc_xml(path, names).tolist() == want


BAD_XML = {
    "empty": ("", "not valid XML"),
    "cut off": ("<annotation><object><name>dog</name>", "not valid XML"),
    "unknown class": ("<a><object><name>cow boy</name></object></a>", "unknown class 'cow boy'"),
    "no object": ("<annotation/>", "no tag"),
    "entities": ('<!DOCTYPE a [<!ENTITY b "bbbb">]><a>&b;</a>', "document type"),
    "odd encoding": ('<?xml version="1.0" encoding="utf-77"?><a/>', "not valid XML"),
}


@pytest.mark.parametrize("case", BAD_XML)
def test_bad_xml_is_one_line_that_names_the_file(tmp_path, case):
    text, told = BAD_XML[case]
    path = tmp_path / "2007_000001.xml"
    path.write_text(text)
    with pytest.raises(ValueError, match=told) as caught:
        tags.read_voc_xml(path, classes.VOC_CLASSES)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def _coco(**changes):
    table = {
        "images": [{"id": 7, "file_name": "000007.jpg"}, {"id": 9, "file_name": "000009.jpg"}],
        "categories": [{"id": 90, "name": "dog"}, {"id": 13, "name": "cat"}],
        "annotations": [{"image_id": 9, "category_id": 90}, {"image_id": 9, "category_id": 13},
                        {"image_id": 9, "category_id": 90}],
    }
    return json.dumps({**table, **changes})


def test_coco_tags_follow_names_not_category_numbers(tmp_path):
    path = tmp_path / "instances.json"
    path.write_text(_coco())
    got = tags.read_coco_json(path, NAMES)
    assert {name: row.tolist() for name, row in got.items()} == {"000009": [1, 1, 0]}


BAD_COCO = {
    "cut off": (_coco()[:-9], "not valid JSON"),
    "a list": ("[]", "not a COCO instances file"),
    "no categories": (_coco(categories=None), "not a COCO instances file"),
    "unknown image": (_coco(annotations=[{"image_id": 1, "category_id": 90}]),
                      r"unknown image 1 or class 90 \(1 of 1 annotations\)"),
    "ids twice": (_coco(images=[{"id": 7, "file_name": "a.jpg"}, {"id": 9, "file_name": "a.png"}]),
                  "1 of 2 images have the id or the file name of another"),
    "deep": ("[" * 100_000, "not valid JSON"),
    "unknown class": (_coco(categories=[{"id": 90, "name": "cow"}, {"id": 13, "name": "cat"}]),
                      "unknown class 'cow'"),
    "nothing": (_coco(annotations=[]), "holds no annotation"),
}


@pytest.mark.parametrize("case", BAD_COCO)
def test_bad_coco_files_are_one_line_that_names_the_file(tmp_path, case):
    text, told = BAD_COCO[case]
    path = tmp_path / "instances.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=told) as caught:
        tags.read_coco_json(path, NAMES)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_class_sets():
    assert len(classes.VOC_CLASSES) == 21 and classes.VOC_CLASSES[15] == "person"
    assert len(classes.COCO_CLASSES) == 81 and classes.COCO_CLASSES[80] == "toothbrush"
    for names in classes.CLASS_SETS.values():
        assert classes.check_class_names(list(names), "x") == names and names[0] == "background"


@pytest.mark.parametrize("text", ["background\ncat\ndog\n", "cat\n\n dog ", "\ufeffcat\r\ndog\r\n"])
def test_class_files_with_and_without_background(tmp_path, text):
    (tmp_path / "classes.txt").write_text(text)
    got = classes.read_class_names(tmp_path / "classes.txt")
    assert got == ("background", "cat", "dog")


BAD_CLASSES = {
    "empty": (b"", "no class besides the background"),
    "background only": (b"background\n", "no class besides the background"),
    "twice": (b"cat\ndog\ncat\n", "'cat' stands twice"),
    "background late": (b"cat\nbackground\n", "'background' stands twice"),
    "separators": (b"cat;dog\n", "'cat;dog' has a comma"),
    "binary": (b"\x89PNG\xff", "not a UTF-8 text file"),
    "zero bytes": (b"cat\0\n", "rename"),
    "too many": ("\n".join(map(str, range(255))).encode(), "256 classes"),
}


@pytest.mark.parametrize("case", BAD_CLASSES)
def test_bad_class_files_are_one_line_that_names_the_file(tmp_path, case):
    text, told = BAD_CLASSES[case]
    path = tmp_path / "classes.txt"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=told) as caught:
        classes.read_class_names(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_class_set_that_does_not_exist():
    with pytest.raises(FileNotFoundError, match="'vok': want voc, coco, .* or a file"):
        classes.read_class_names("vok")


def test_published_voc_tags_equal_their_array(shared):
    """The CSV of all 12,031 VOC images against the array it was made from."""
    table = np.load(shared / "data/voc/image_labels.npz")
    got = tags.read_tags(shared / "data/voc/image_labels.csv", classes.VOC_CLASSES)
    assert list(got) == [name.decode() for name in table["ids"]]
    np.testing.assert_array_equal(np.stack(list(got.values())), table["labels"])
