"""Planning: power against scipy and simulation, equivalence against the two tests it stands for."""

import math

import numpy as np
import pytest
from scipy.stats import nct, t, ttest_1samp

from dori_lite.planning import equivalence, planned_units, power
from dori_lite.stats import mean_interval


@pytest.mark.parametrize(("units", "sd", "gap"), [(8, 0.3, 0.2), (16, 0.3, 0.2), (16, 0.25, 0.1), (32, 0.4, 0.2)])
def test_power_is_that_of_a_t_test(units, sd, gap):
    for level in (0.9, 0.95):
        expected = nct.sf(t.ppf((1 + level) / 2, units - 1), units - 1, gap * math.sqrt(units) / sd)
        assert power(units, sd, gap, level=level) == pytest.approx(expected, abs=2e-3)


def test_power_for_equivalence_is_what_a_simulation_finds():
    random, n, sd, delta = np.random.default_rng(0), 16, 0.2, 0.12
    values = random.normal(0, sd, (20_000, n))
    half = t.ppf(0.95, n - 1) * values.std(1, ddof=1) / math.sqrt(n)
    inside = (np.abs(values.mean(1)) + half < delta).mean()
    assert power(n, sd, delta, inside=True, level=0.9) == pytest.approx(inside, abs=0.012)


def test_what_units_can_miss_limits_the_power():
    missed = 1 - 0.05 ** (1 / 8)
    assert power(8, 0.01, 0.25, reach=1) < 1e-6 < 0.999 < power(8, 0.01, 0.25)  # 8 units can miss more than 0.25
    assert power(8, 0.0, missed + 0.01, reach=1) == 1 and power(8, 0.0, missed - 0.01, reach=1) == 0
    random = np.random.default_rng(1)  # the planned power is that of the interval which is used
    values = random.normal(0.6, 0.3, (1500, 12)).clip(-1, 1)
    sd = values.std()
    lows = [mean_interval(row, bounds=(-1, 1), reach=1)[1] for row in values]
    assert np.mean(np.array(lows) > 0.3) == pytest.approx(power(12, sd, values.mean() - 0.3, reach=1), abs=0.04)


def test_planned_units_are_the_fewest():
    for options in ({}, {"inside": True, "level": 0.9}, {"reach": 1.0}):
        n = planned_units(0.3, 0.2, **options)
        assert power(n, 0.3, 0.2, **options) >= 0.8 > power(n - 1, 0.3, 0.2, **options)
    assert planned_units(0.01, 1.0) == 2
    assert planned_units(0.3, 0.2, wanted=0.95) > planned_units(0.3, 0.2)


def test_equivalence_is_two_one_sided_tests():
    random = np.random.default_rng(2)
    for k in range(60):
        values, delta = random.normal((0, 0.15, 0.5)[k % 3], 0.2, 20), 0.15
        above = ttest_1samp(values, -delta, alternative="greater").pvalue < 0.05
        below = ttest_1samp(values, delta, alternative="less").pvalue < 0.05
        found = equivalence(values, delta)
        assert (found["verdict"] == "equivalent") == (above and below)
        beyond = ttest_1samp(values, delta, alternative="greater").pvalue < 0.05
        assert (found["verdict"] == "different") == beyond
        assert (found["estimate"], found["low"], found["high"]) == mean_interval(values, level=0.9)
    negative = equivalence(random.normal(-0.5, 0.1, 20), 0.1)
    assert negative["verdict"] == "different" and negative["units"] == 20 and negative["delta"] == 0.1


def test_equivalence_carries_the_planned_power():
    values = [0.1, -0.1, 0.25, -0.25, 0.0, 0.0, 0.1, -0.1]
    sd = np.std(values, ddof=1)
    assert equivalence(values, 0.2)["power"] == power(8, sd, 0.2, inside=True, level=0.9)
    assert equivalence(values, 0.2, sd=0.3)["power"] == power(8, 0.3, 0.2, inside=True, level=0.9)
    bounded = equivalence(values, 0.3, bounds=(-1, 1), reach=1)
    assert bounded["power"] == power(8, sd, 0.3, inside=True, reach=1, level=0.9)
    assert equivalence(values, 0.3, bounds=(-1, 1))["power"] == power(8, sd, 0.3, inside=True, reach=2, level=0.9)
    both = equivalence(values, 0.2, clusters=[0, 0, 1, 1, 2, 2, 3, 3])
    assert (both["units"], both["verdict"]) == (4, "undecided")  # four clusters that agree have no interval
    none = equivalence([0.1], 0.2)
    assert none["verdict"] == "undecided" and math.isnan(none["power"]) and math.isnan(none["low"])
    assert equivalence([0.1, math.nan, 0.0], 0.2)["verdict"] == "undecided"


def test_wrong_plans_are_one_clear_line(one_line):
    for delta in (0, -0.1, math.nan, math.inf, "small", True):
        one_line(ValueError, "delta=", equivalence, [0.1, 0.2], delta)
    one_line(ValueError, "values are of type bool", equivalence, [True, False], 0.1)
    one_line(ValueError, "to all 2 units", equivalence, [0.1, 0.2], 0.1, clusters=["a"])
    one_line(ValueError, "sd=-1", equivalence, [0.1, 0.2], 0.1, sd=-1)
    for units in (1, 8.5, True, "8"):
        one_line(ValueError, "units=", power, units, 0.3, 0.2)
    one_line(ValueError, "gap=0", power, 8, 0.3, 0)
    one_line(ValueError, "sd=nan", power, 8, math.nan, 0.2)
    one_line(ValueError, "reach=-1", power, 8, 0.3, 0.2, reach=-1)
    one_line(ValueError, "level 95 is not", power, 8, 0.3, 0.2, level=95)
    one_line(ValueError, "wanted 1.0 is not", planned_units, 0.3, 0.2, 1.0)
    one_line(ValueError, "10000 units are too few", planned_units, 10.0, 0.01)
