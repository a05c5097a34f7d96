"""Axes from text, the cells that they span, and the config of each."""

import pytest

from wsssjax.ablate import grid

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
    assert read('finish_a=["", "crf"]') == ("finish_a", ("", "crf"))
    assert read("segmenter.seed=0,1") == read("seed=0,1")  # one field, one name


@pytest.mark.parametrize("text, why", [
    ("seed", "want NAME=VALUE,VALUE, such as seed=0,1,2"),
    ("seed=", "want NAME=VALUE,VALUE"),
    ("seed=1,1", "a value stands twice"),
    ("seed=[]", "has no value; want one or more, such as seed=0,1,2"),
    ("arms=S,M", "a cell has one arm; want --axis=arm=S,M"),
    ("arm=S,SS", "'SS' is unknown; did you mean 'S'"),
    ('quota=["voc/92"', "no readable list"),
])
def test_what_no_axis_is_says_so(text, why):
    with pytest.raises(ValueError, match=why) as error:
        grid.read_axis(text)
    assert str(error.value).startswith("--axis=") and "\n" not in str(error.value)


def cells(*texts, table="", listed=False):
    return grid.all_cells(table, [grid.read_axis(text) for text in texts], listed)


def test_cells_are_the_product_and_neighbours_share_steps():
    found = cells("arm=S,T", "seed=0,1", "pair=A:B,A:B+")
    assert len(found) == 8 == len({tuple(cell.items()) for cell in found})
    assert [cell["pair"] for cell in found] == ["A:B"] * 4 + ["A:B+"] * 4
    assert [cell["arm"] for cell in found[:4]] == ["S", "T", "S", "T"]
    assert cells("seed=3") == [{"seed": "3", "arm": "S"}]


@pytest.mark.parametrize("table", ["", "8", "protocol"])
@pytest.mark.parametrize("other", ["seed=1", "segmenter.seed=1"])
def test_an_axis_is_named_once(table, other):
    with pytest.raises(ValueError, match="--axis: seed stands twice; name it once"):
        cells("seed=0", other, table=table)


def test_the_config_of_a_cell_has_its_values_and_its_arm_alone():
    cell = {"pair": "A+:B+", "quota": "voc/92", "seed": "2", "method": "allspark",
            "cam_b.infer.threshold": "0.25", "arm": "M"}
    config = grid.config_of(LITE, {"data.root": "x"}, cell)
    assert config.pair == ("A+", "B+") and config.select.quota_spec == "voc/92"
    assert (config.segmenter.seed, config.seed) == (2, 0)  # labels are made once
    assert config.segmenter.method == "allspark" and config.cam_b.infer.threshold == 0.25
    assert config.arms == ("M",) and config.data.root == "x"
    assert grid.config_of(LITE, {}, {"arm": "none"}).arms == ()
    described = grid.describe(config, cell)
    assert described["pair"] == ["A+", "B+"] and described["min_iou"] is None
    assert described["cam_b.infer.threshold"] == 0.25 and described["arm"] == "M"


def at(cell, **overrides):
    return grid.config_of(LITE, overrides, {"arm": "S"} | cell)


def test_any_field_of_the_config_is_an_axis():
    assert at({"finish_a": ""}).finish_a == () and at({"finish_a": "crf"}).finish_a == ("crf",)
    assert at({"refine": "['sam']"}).refine == ("sam",)
    assert at({"segmenter_encoder": "cam_b"}).segmenter_encoder == "cam_b"
    cell = {"finish_a": "crf", "arm": "S"}
    assert grid.describe(at(cell), cell)["finish_a"] == ["crf"]


@pytest.mark.parametrize("cell, why", [
    ({"seed": "x"}, "--config.segmenter.seed=x: want a number"),
    ({"cam_b.infer.treshold": "1"}, "did you mean 'threshold'"),
    ({"sead": "1"}, "--axis=sead: no such axis; did you mean 'seed'"),
    ({"refin": "sam"}, "--axis=refin: no such axis; did you mean 'refine'"),
    ({"pair": "A:C"}, "config.pair 'C' is unknown"),
    ({"pair": "A"}, "want two different sets"),
])
def test_a_value_that_a_field_does_not_take_is_named(cell, why):
    cell |= {"arm": "S"}
    with pytest.raises(ValueError, match=why) as error:
        grid.describe(at(cell), cell)
    assert "\n" not in str(error.value)


def test_what_an_ablation_cannot_run_is_refused():
    with pytest.raises(ValueError, match="--config.arms=S,M: an ablation has one arm a cell; want "
                                         "--axis=arm=S,M"):
        at({}, arms="S,M")
    with pytest.raises(ValueError, match="semi_voc_probe.py: is no recipe"):
        grid.config_of("configs/semi_voc_probe.py", {}, {"arm": "S"})


@pytest.mark.parametrize("method", ["supervised", "probe_supervised"])
@pytest.mark.parametrize("arm", ["S", "M", "L", "T"])
def test_an_arm_that_learns_from_the_others_wants_a_method_that_does(method, arm):
    with pytest.raises(ValueError, match=f"--axis=arm={arm}: learns from unlabelled images, too, "
                                         f"which method '{method}' does not"):
        at({"arm": arm, "method": method})
    for alone in ("S-sup", "ALL", "Tall", "none"):
        at({"arm": alone, "method": method})


def test_a_list_may_follow_the_quota():
    listed = "splits/{quota}/labeled.txt"
    found = at({"arm": "L", "quota": "voc/92"}, listed=listed)
    assert found.listed == "splits/92/labeled.txt"
    assert at({"listed": listed, "quota": "voc/1464"}).listed == "splits/1464/labeled.txt"
    at({"quota": "none"}, listed=listed)  # no arm reads it
    with pytest.raises(ValueError, match="config.listed=splits.*has none; name a file"):
        at({"arm": "L", "quota": '{"cat": 3}'}, listed=listed)


def test_a_table_brings_its_grid_and_axes_change_it():
    assert len(cells(table="8")) == 5 * 2 * 3
    changed = cells("quota=voc/92", "seed=7", table="8")
    assert [(c["quota"], c["arm"], c["seed"]) for c in changed] == [
        ("voc/92", "S", "7"), ("voc/92", "U", "7")]
    assert len(cells(table="7")) == 4 * 3 + 3
    assert len(cells("arm=S", table="7")) == 12  # cells of both grids of the table, none twice
    assert [c.get("finish_a") for c in cells(table="4")] == [None, None, "crf"]
    with pytest.raises(ValueError, match="--table '9' is unknown"):
        cells(table="9")


def test_a_given_list_takes_the_place_of_a_random_draw():
    for table, random in (("7", {"U"}), ("8", {"U"}), ("protocol", {"U"})):
        assert {c["arm"] for c in cells(table=table)} >= random
        arms = {c["arm"] for c in cells(table=table, listed=True)}
        assert arms == {"S", "L"} if table != "protocol" else arms >= random
    assert {c["arm"] for c in cells("arm=S,U", table="8", listed=True)} == {"S", "U"}  # as asked
