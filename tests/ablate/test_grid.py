"""Axes from text, the cells that they span, and the config of each."""

import pytest

from wsssjax.ablate import grid, presets

LITE = "configs/paper_voc_lite.py"


@pytest.fixture(autouse=True)
def at_root(monkeypatch, pytestconfig):
    monkeypatch.chdir(pytestconfig.rootpath)


def test_values_stand_by_comma_or_as_a_list_or_in_braces():
    read = grid.read_axis
    assert read("seed=0,1,2") == ("seed", ("0", "1", "2"))
    assert read("pair=A:B+,A:B") == ("pair", ("A:B+", "A:B"))
    assert read("min_iou=[0.5, 0.9]").values == ("0.5", "0.9")
    assert read('quota=["voc/92", "{\\"cat\\": 3}"]').values == ("voc/92", '{"cat": 3}')
    assert read('quota={"cat": 3, "dog": 2}').values == ('{"cat": 3, "dog": 2}',)
    assert read("cam_b.infer.threshold=0.2,0.3").name == "cam_b.infer.threshold"


@pytest.mark.parametrize("text, why", [
    ("seed", "want NAME=VALUE,VALUE, such as seed=0,1,2"),
    ("seed=", "want NAME=VALUE,VALUE"),
    ("seed=1,1", "a value stands twice"),
    ("sead=0,1", "no such axis; did you mean 'seed'"),
    ("arm=S,SS", "'SS' is unknown; did you mean 'S'"),
    ('quota=["voc/92"', "no readable list"),
])
def test_what_no_axis_is_says_so(text, why):
    with pytest.raises(ValueError, match=why) as error:
        grid.read_axis(text)
    assert str(error.value).startswith("--axis=") and "\n" not in str(error.value)


def cells(*texts):
    return grid.cells([grid.read_axis(text) for text in texts])


def test_cells_are_the_product_and_neighbours_share_steps():
    found = cells("arm=S,T", "seed=0,1", "pair=A:B,A:B+")
    assert len(found) == 8 == len({tuple(cell.items()) for cell in found})
    assert [cell["pair"] for cell in found] == ["A:B"] * 4 + ["A:B+"] * 4
    assert [cell["arm"] for cell in found[:4]] == ["S", "T", "S", "T"]
    assert cells("seed=3") == [{"seed": "3", "arm": "S"}]
    with pytest.raises(ValueError, match="--axis: seed stands twice"):
        cells("seed=0", "seed=1")


def test_the_config_of_a_cell_has_its_values_and_its_arm_alone():
    cell = {"pair": "A+:B+", "quota": "voc/92", "seed": "2", "method": "supervised",
            "cam_b.infer.threshold": "0.25", "arm": "M"}
    config = grid.config_of(LITE, {"data.root": "x"}, cell)
    assert config.pair == ("A+", "B+") and config.select.quota_spec == "voc/92"
    assert (config.segmenter.seed, config.seed) == (2, 0)  # labels are made once
    assert config.segmenter.method == "supervised" and config.cam_b.infer.threshold == 0.25
    assert config.arms == ("M",) and config.data.root == "x"
    assert grid.config_of(LITE, {}, {"arm": "none"}).arms == ()
    described = grid.describe(config, cell)
    assert described["pair"] == ["A+", "B+"] and described["min_iou"] is None
    assert described["cam_b.infer.threshold"] == 0.25 and described["arm"] == "M"


def test_a_value_that_a_field_does_not_take_is_named():
    for cell, why in (({"seed": "x"}, "--config.segmenter.seed=x: want a number"),
                      ({"cam_b.infer.treshold": "1"}, "did you mean 'threshold'"),
                      ({"pair": "A:C"}, "config.pair 'C' is unknown"),
                      ({"pair": "A"}, "want two different sets")):
        with pytest.raises(ValueError, match=why):
            cell |= {"arm": "S"}
            grid.describe(grid.config_of(LITE, {}, cell), cell)


def test_a_table_brings_its_grid_and_axes_change_it():
    assert len(presets.all_cells("8", [])) == 5 * 2 * 3
    changed = presets.all_cells("8", [grid.read_axis("quota=voc/92"), grid.read_axis("seed=7")])
    assert [(c["quota"], c["arm"], c["seed"]) for c in changed] == [
        ("voc/92", "S", "7"), ("voc/92", "U", "7")]
    whole = presets.all_cells("7", [])
    assert len(whole) == 4 * 3 + 3
    both = presets.all_cells("7", [grid.read_axis("arm=S")])
    assert len(both) == 12  # cells of both grids of the table, none twice
    with pytest.raises(ValueError, match="--table '9' is unknown"):
        presets.all_cells("9", [])
