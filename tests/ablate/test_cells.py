"""Means, spreads and paired comparisons, by numbers computed by hand."""

import math

import pytest

from wsssjax.ablate import cells, paper_tables


def grouped(ablations, scores, **more):
    """The one group of rows with the mIoU of {arm: {seed: value}}."""
    rows = [ablations.row(arm, seed, value, **more) for arm, seeds in scores.items()
            for seed, value in seeds.items()]
    (group,) = cells.groups(rows)
    return group


def test_mean_and_sample_sd(ablations):
    group = grouped(ablations, {"S": {2: 0.42, 0: 0.40, 1: 0.47}})
    stat = cells.over_seeds(group.arms["S"], "miou")
    assert stat.values == ((0, 0.40), (1, 0.47), (2, 0.42)) and (stat.n, stat.planned) == (3, 3)
    # mean .43; squares .0009, .0016, .0001 over 2
    assert stat.mean == pytest.approx(0.43) and stat.sd == pytest.approx(math.sqrt(0.0013))


@pytest.mark.parametrize("values, mean, n", [({0: None, 1: None}, None, 0), ({0: 0.3}, 0.3, 1),
                                             ({0: None, 1: 0.3}, 0.3, 1)])
def test_fewer_than_two_values_have_no_spread(ablations, values, mean, n):
    stat = cells.over_seeds(grouped(ablations, {"S": values}).arms["S"], "miou")
    assert (stat.mean, stat.sd, stat.n, stat.planned) == (mean, None, n, len(values))


def test_differences_are_taken_seed_by_seed_and_never_over_other_seeds(ablations):
    group = grouped(ablations, {"S": {0: 0.50, 1: 0.44, 2: 0.90, 4: 0.30},
                                "M": {0: 0.45, 1: 0.42, 2: None, 3: 0.10, 4: 0.31}})
    found = cells.difference(group, "S", "M")
    assert [seed for seed, _ in found.stat.values] == [0, 1, 4]
    assert [v for _, v in found.stat.values] == pytest.approx([0.05, 0.02, -0.01])
    assert found.stat.mean == pytest.approx(0.02) and found.stat.sd == pytest.approx(0.03)
    assert found.stat.planned == 5
    assert cells.told(found.missing) == "S: seed 3; M: seed 2"


def test_without_a_common_seed_nothing_is_compared(ablations):
    found = cells.difference(grouped(ablations, {"S": {0: 0.5, 1: 0.5}, "M": {2: 0.1, 3: 0.1}}),
                              "S", "M")
    assert found.stat.mean is None and found.stat.n == 0
    assert cells.told(found.missing) == "S: seeds 2, 3; M: seeds 0, 1"


def test_the_mean_ratio_is_that_of_the_ratios(ablations):
    group = grouped(ablations, {"S": {0: 0.2, 1: 0.4, 2: 0.3}, "T": {0: 0.4, 1: 0.5, 2: 0.0}})
    found = cells.ratio(group, "S", "T")
    assert dict(found.stat.values) == pytest.approx({0: 0.5, 1: 0.8})
    assert found.stat.mean == pytest.approx(0.65)  # the ratio of the means would be 2/3
    assert cells.told(found.missing) == "T is 0: seed 2"


def test_groups_differ_in_anything_but_arm_and_seed(ablations):
    rows = [ablations.row(arm, seed, quota=quota, more=more) for quota in ("voc/92", "voc/183")
            for more in ({"a": 1}, {"a": 2}) for arm in ("M", "odd", "S") for seed in (1, 0)]
    groups = cells.groups(rows)
    assert [(g.cell["quota"], g.cell["more"]["a"]) for g in groups] == [
        ("voc/92", 1), ("voc/92", 2), ("voc/183", 1), ("voc/183", 2)]
    assert all(list(g.arms) == ["S", "M", "odd"] and list(g.arms["S"]) == [0, 1] for g in groups)
    assert all("arm" not in g.cell and "seed" not in g.cell for g in groups)


def test_a_cell_that_two_grids_name_stands_once(ablations):
    rows = [ablations.row(), ablations.row()]
    assert len(cells.groups(rows)[0].arms["S"]) == 1
    with pytest.raises(AssertionError, match="two results of the cell"):
        cells.groups([ablations.row(), ablations.row(miou=0.1)])


PAPER = {("A", "B"): 0.9, ("B", "B"): 0.8, ("C", "B"): 0.8, ("D", "B"): 0.7}


def test_order_that_holds():
    here = {pair: {0: value, 1: value + 0.1} for pair, value in PAPER.items()}
    text = paper_tables.sentences(PAPER, here)
    assert text.startswith("The paper's order by mIoU is (A,B) > (B,B) = (C,B) > (D,B); it holds "
                           "here, in all 5 comparisons. ")
    assert "(A,B) above (B,B): holds (+10.0, above in 2 of 2 seeds)" in text
    assert "(B,B) above (C,B)" not in text and "(A,B) above (D,B)" not in text


def test_order_that_holds_in_part_ties_and_what_is_not_known():
    here = {("A", "B"): {0: 0.5, 1: 0.5}, ("B", "B"): {0: 0.6, 1: 0.44, 7: 0.0},
            ("C", "B"): {0: 0.5, 1: 0.5}, ("D", "B"): {0: 0.1}}
    text = paper_tables.sentences(PAPER, here)
    assert "it does not hold as a whole here: 3 of 5 comparisons do" in text
    assert "(A,B) above (B,B): does not hold (−2.0, above in 1 of 2 seeds)" in text
    assert "(A,B) above (C,B): a tie (+0.0, above in 0 of 2 seeds)" in text
    assert "(B,B) above (D,B): holds (+50.0)" in text
    text = paper_tables.sentences(PAPER, here | {("D", "B"): {3: 0.1}})
    assert "so far 0 of 2 known comparisons hold here (5 in all)" in text
    assert "(C,B) above (D,B): not known yet" in text
    assert "not known whether it holds here" in paper_tables.sentences(PAPER, {})


def test_an_order_is_not_told_from_a_few_images():
    here = {pair: {0: value} for pair, value in PAPER.items()}
    text = paper_tables.sentences(PAPER, here, {("D", "B")})
    assert "so far 2 of 2 known comparisons hold here (5 in all)" in text
    assert "(C,B) above (D,B): too few to tell, fewer than 20 images" in text
    assert "(A,B) above (C,B): holds (+10.0)" in text


def test_values_of_axes_as_words():
    assert cells.shown({"b": 1, "a": 2}) == '{"a": 2, "b": 1}' and cells.shown("") == "default"
    assert cells.shown(["crf", "sam"]) == "crf, sam" and cells.shown([]) == "none"
    assert cells.shown(0, "images") == "none" and cells.shown(0) == "0"
