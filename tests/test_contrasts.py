"""Rows as tables of units, and one condition beyond others, from rows whose answer is known."""

import math

import numpy as np
import pandas as pd
import pytest

from dori_lite.book import contrasts
from dori_lite.book.contrasts import (
    FAR,
    beyond,
    clusters_of,
    column,
    contrast,
    extreme,
    first_reach,
    in_turn,
    only,
    units_of,
    values,
)


def rows(condition, scores, near=1.0, rate=0.5, other_rate=0.25, groups=True, targets="abcdef"):
    """Rows of one condition; `near` and the rates are one number for all, or one a target."""
    n = len(scores)
    near, rate, other_rate = (x if isinstance(x, list) else [x] * n for x in (near, rate, other_rate))
    table = {"target": [*targets[:n]], "condition": condition, "descriptor mean": scores, "descriptor rate": rate}
    table |= {"adaptive l2": [[x, x] for x in near], "adaptive l2 rate": other_rate}
    return pd.DataFrame(table | ({"group": np.arange(n) // 2} if groups else {}))


def units(scores, targets="abcdef", **values):
    """A table of units."""
    table = pd.DataFrame({"score": scores, **values}, index=pd.Index([*targets[: len(scores)]], name="target"))
    return table.assign(cluster=[f"group {k // 2}" for k in range(len(scores))])


# ---- one condition -----------------------------------------------------------------------------------


def test_a_unit_is_a_row_with_the_mean_logarithm_of_its_nearness():
    table = rows("own", [0.9, 0.5], near=[1.0, 1.0], rate=[1.0, 0.5], other_rate=[0.25, 0.0])
    table["adaptive l2"] = [[math.e, math.e**3], [1.0, math.e**-1]]
    found = units_of(table)
    assert list(found) == ["score", "nearness", "descriptor rate", "adaptive l2 rate", "cluster"]
    assert found.index.tolist() == ["a", "b"] and found.index.name == "target"
    assert found["score"].tolist() == [0.9, 0.5] and found["nearness"].tolist() == pytest.approx([2.0, -0.5])
    assert found["descriptor rate"].tolist() == [1.0, 0.5] and found["adaptive l2 rate"].tolist() == [0.25, 0.0]


def test_identical_pictures_have_a_finite_nearness():
    table = rows("own", [1.0, 1.0])
    table["adaptive l2"] = [[math.inf, 1.0], [0.0, 1.0]]
    assert FAR == 10 and units_of(table)["nearness"].tolist() == [FAR / 2, -FAR / 2]


def test_a_canary_that_is_there_twice_is_refused(one_line):
    one_line(ValueError, "b is there twice; give one condition", units_of, rows("own", [1, 2, 3], targets="abb"))


def test_names_that_share_a_description_are_one_cluster():
    assert clusters_of(rows("own", [1, 1, 1]))["cluster"].tolist() == ["group 0", "group 0", "group 1"]
    assert clusters_of(rows("own", [1, 1], groups=False))["cluster"].tolist() == ["a", "b"]
    mixed = rows("own", [1, 1, 1, 1]).assign(group=[2.0, math.nan, None, 2.0])
    assert clusters_of(mixed)["cluster"].tolist() == ["group 2", "b", "c", "group 2"]
    objects = mixed.assign(group=pd.Series([2, None, math.nan, 2], dtype=object))
    assert clusters_of(objects)["cluster"].tolist() == ["group 2", "b", "c", "group 2"]


def test_each_target_counts_once_in_the_order_of_its_first_row():
    twice = pd.concat([rows("own", [1, 1], targets="ba"), rows("other", [1, 1, 1], targets="abc")])
    assert clusters_of(twice).index.tolist() == ["b", "a", "c"]
    assert units_of(rows("own", [1, 1], groups=False))["cluster"].tolist() == ["a", "b"]


def test_only_one_condition_s_rows_are_taken(one_line):
    table = pd.concat([rows("own", [0.9, 0.8]), rows("other", [0.1, 0.2])]).assign(model="twin-a")
    assert only(table, "other")["descriptor mean"].tolist() == [0.1, 0.2]
    assert len(only(table, "twin-a", "model")) == 4
    one_line(ValueError, "no rows with condition 'x'; there are: own, other", only, table, "x")
    one_line(ValueError, "no rows with window 'x'; there are: none", only, table, "x", "window")
    one_line(ValueError, "no rows with condition 'own'; there are: none", only, pd.DataFrame(), "own")


def test_a_column_of_one_condition_is_by_target():
    table = pd.concat([rows("own", [0.9, 0.8], targets="ba"), rows("other", [0.1, 0.2])]).assign(model="twin-a")
    found = column(table, "own", "descriptor mean")
    assert found.to_dict() == {"b": 0.9, "a": 0.8}
    assert column(table[:2], "twin-a", "condition", "model").to_dict() == {"b": "own", "a": "own"}


def test_values_keep_order_and_clusters():
    table = units([0.1, 0.2, 0.3])
    other_index = pd.Series([3, 2, 1], index=["c", "b", "a"])
    found = values(table, other_index)  # in the order of the units: by position
    assert list(found) == ["cluster", "value"] and found["value"].tolist() == [3.0, 2.0, 1.0]
    assert found["cluster"].equals(table["cluster"]) and found["value"].dtype == float
    with pytest.raises(ValueError, match="Length"):
        values(table, [1.0, 2.0])


# ---- one condition beyond others ---------------------------------------------------------------------


def test_a_contrast_is_canary_by_canary_against_the_highest_of_the_others():
    own = rows("own", [0.9, 0.8, 0.7], near=math.e**3, rate=1.0, other_rate=[1.0, 0.5, 0.75])
    one = rows("one", [0.1, 0.5, 0.2], near=[1.0, math.e, 1.0], rate=[0.0, 0.5, 0.25], other_rate=0.0)
    two = rows("two", [0.4, 0.3, 0.25], near=math.e**0.5, rate=[0.25, 0.0, 0.0], other_rate=0.5)
    table = pd.concat([two.iloc[::-1], own, one.iloc[[1, 0, 2]]])  # matched by name, not by place
    found = contrast(table, "own", "one", "two")
    assert found.index.tolist() == ["a", "b", "c"]
    assert found["score"].tolist() == pytest.approx([0.9 - 0.4, 0.8 - 0.5, 0.7 - 0.25])
    assert found["nearness"].tolist() == pytest.approx([2.5, 2.0, 2.5])
    assert found["descriptor rate"].tolist() == [0.75, 0.5, 0.75]
    assert found["adaptive l2 rate"].tolist() == [0.5, 0.0, 0.25]
    assert found["cluster"].tolist() == ["group 0", "group 0", "group 1"]
    assert contrast(table, "own", "one")["score"].tolist() == pytest.approx([0.8, 0.3, 0.5])
    renamed = table.rename(columns={"condition": "model"})
    assert contrast(renamed, "one", "own", column="model")["score"].tolist() == pytest.approx([-0.3, -0.8, -0.5])


def test_the_highest_is_taken_value_by_value():
    one, two = units([0.1, 0.9], nearness=[2.0, 2.0]), units([0.5, 0.2], nearness=[1.0, 3.0])
    assert extreme("max", one, two)["score"].tolist() == [0.5, 0.9]
    assert extreme("max", one, two)["nearness"].tolist() == [2.0, 3.0]
    assert extreme("min", one, two)["score"].tolist() == [0.1, 0.2]
    assert extreme("mean", one, two)["score"].tolist() == pytest.approx([0.3, 0.55])
    assert extreme("mean", one, two)["nearness"].tolist() == [1.5, 2.5]
    assert extreme("max", one).equals(one)


def test_an_extreme_matches_by_name_and_leaves_its_tables():
    one, two = units([0.1, 0.9], "ab"), units([0.3, 0.4], "ba")
    before = one.copy(), two.copy()
    found = extreme("mean", one, two)
    assert found.index.tolist() == ["a", "b"] and found["score"].tolist() == pytest.approx([0.25, 0.6])
    assert beyond(one, two)["score"].tolist() == pytest.approx([-0.3, 0.6])
    assert one.equals(before[0]) and two.equals(before[1])


def test_other_canaries_are_refused(one_line):
    match = "conditions are of different canaries; keep those that are in all of them"
    whole, fewer, others = units([0.1, 0.2, 0.3]), units([0.1, 0.2]), units([0.1, 0.2, 0.3], "abx")
    for one, two in ((whole, fewer), (fewer, whole), (whole, others)):
        one_line(ValueError, match, beyond, one, two)
        one_line(ValueError, match, extreme, "max", one, two)
        one_line(ValueError, match, beyond, one, one, two)
    table = pd.concat([rows("own", [1, 1, 1]), rows("other", [0, 0])])
    one_line(ValueError, match, contrast, table, "own", "other")
    one_line(ValueError, "no rows with condition 'x'", contrast, table, "own", "x")


def test_rows_of_one_target_come_in_turn():
    several = pd.concat([rows("s", [1, 10]), rows("s", [2, 20]), rows("s", [30, 3], targets="ba")])
    found = in_turn(several)
    assert [table["score"].to_dict() for table in found] == [{"a": 1, "b": 10}, {"a": 2, "b": 20}, {"b": 30, "a": 3}]
    assert extreme("mean", *found)["score"].to_dict() == {"a": 2, "b": 20}
    assert len(in_turn(several[several["target"] == "a"])) == 3


def test_of_unequal_numbers_of_rows_no_mean_is_taken(one_line):
    uneven = in_turn(pd.concat([rows("s", [1, 10]), rows("s", [2])]))
    one_line(ValueError, "different canaries", extreme, "mean", *uneven)


# ---- where a curve reaches a level -------------------------------------------------------------------


def test_the_level_is_reached_between_two_points():
    assert first_reach([4, 6, 8], [0.0, 0.2, 0.6], 0.4) == pytest.approx(7)
    assert first_reach([4, 6, 8], [0.0, 0.2, 0.6], 0.05) == pytest.approx(4.5)
    assert first_reach([4, 6, 8], [0.0, 0.4, 0.6], 0.4) == 6  # at a point itself
    assert isinstance(first_reach(np.array([4, 6]), np.array([0, 1]), 0.5), float)


def test_the_first_time_counts_and_a_curve_that_begins_above_gives_its_first_point():
    assert first_reach([4, 6, 8, 10], [0.0, 0.8, 0.0, 0.8], 0.4) == pytest.approx(5)
    assert first_reach([4, 6, 8], [0.5, 0.2, 0.6], 0.4) == 4.0


def test_what_never_reaches_is_not_a_number():
    assert math.isnan(first_reach([4, 6], [0.0, 0.39], 0.4)) and math.isnan(first_reach([], [], 0.4))


def test_the_two_detectors_are_those_of_the_tables():
    assert contrasts.DETECTORS == ("descriptor", "adaptive l2")
