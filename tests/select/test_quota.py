"""Quotas: every form, every kind of mistake, and Table 2 counted in the true masks."""

import json

import numpy as np
import pytest

from wsssjax.data import label_map
from wsssjax.data.classes import VOC_CLASSES
from wsssjax.select import quota

NAMES = ("background", "cat", "dog", "train")


def test_none_and_presets():
    assert quota.read_quota("none", NAMES) is None
    totals = [int(quota.read_quota(name, VOC_CLASSES).sum()) for name in quota.PRESETS]
    assert totals == [147, 273, 540, 1096, 2170]  # ΣR of the paper


def test_json_leaves_out_what_is_zero(tmp_path):
    path = tmp_path / "quota.json"
    path.write_text(json.dumps({"train": 4, "cat": 1}))
    for spec in (str(path), '{"train": 4, "cat": 1}'):
        assert quota.read_quota(spec, NAMES).tolist() == [1, 0, 4]


@pytest.mark.parametrize("text, message", [
    ('{"kat": 1}', "'kat' is unknown; did you mean 'cat'"),
    ('{"background": 1}', "'background' is unknown"),
    ('{"cat": -1}', "cat has the count -1; want a whole number"),
    ('{"cat": 1.5}', "cat has the count 1.5"),
    ('{"cat": true}', "cat has the count True"),
    ('{"cat": NaN}', "cat has the count nan"),
    ('[1, 2]', "want a JSON object"),
    ('{"cat": 1', "not valid JSON"),
    ("", "not valid JSON"),
])
def test_broken_json_is_named(tmp_path, text, message):
    path = tmp_path / "quota.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="quota") as error:
        quota.read_quota(str(path), NAMES)
    assert message in str(error.value)


@pytest.mark.parametrize("spec, message", [
    ("voc/93", "did you mean 'voc/92'"),
    ("ninety", "want none, voc/92"),
])
def test_unknown_forms_say_what_there_is(spec, message):
    with pytest.raises(ValueError, match=message):
        quota.read_quota(spec, VOC_CLASSES)


def test_a_preset_needs_its_classes():
    with pytest.raises(ValueError, match="'aeroplane' is unknown"):
        quota.read_quota("voc/92", NAMES)


@pytest.mark.parametrize("lines", ["a\nb\n", "img/a.jpg lab/a.png\nimg/b.jpg lab/b.png\n"])
def test_list_and_folder_count_images_of_each_class(tmp_path, lines):
    for name, values in {"a": [[0, 1], [1, 3]], "b": [[3, 255]], "c": [[2, 2]]}.items():
        label_map.write(tmp_path / f"{name}.png", np.array(values, np.uint8))
    (tmp_path / "list.txt").write_text(lines)
    got = quota.read_quota(f"{tmp_path}/list.txt:{tmp_path}", NAMES)
    assert got.tolist() == [1, 0, 2]


def test_an_id_twice_in_a_list_is_refused(tmp_path):
    (tmp_path / "list.txt").write_text("i/a.jpg l/a.png\ni/a.jpg l/a.png\n")
    with pytest.raises(ValueError, match="'a' stands twice"):
        quota.read_quota(f"{tmp_path}/list.txt:{tmp_path}", NAMES)


def test_presets_equal_the_split_lists_counted_in_the_true_masks(shared):
    voc = shared / "data" / "voc"
    lists = {name: quota.read_list(voc / "splits" / name.removeprefix("voc/") / "labeled.txt")
             for name in quota.PRESETS}
    every = sorted(set().union(*lists.values()))
    present = {}
    for name in every:  # each mask is read once for all five rows
        values = np.unique(label_map.read(voc / "truth_train" / f"{name}.png", 21))
        present[name] = np.isin(np.arange(1, 21), values)
    for preset, ids in lists.items():
        assert len(ids) == int(preset.removeprefix("voc/"))
        got = np.sum([present[name] for name in ids], axis=0)
        np.testing.assert_array_equal(got, quota.PRESETS[preset], preset)
    row = f"{voc}/splits/92/labeled.txt:{voc}/truth_train"
    assert tuple(quota.read_quota(row, VOC_CLASSES)) == quota.PRESETS["voc/92"]
