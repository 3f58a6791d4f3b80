"""Statistics: against known values, brute force, scipy, and how often an interval covers what it says it does."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats as scipy_stats
from scipy.stats import mannwhitneyu

from dori_lite import stats
from dori_lite.stats import (
    auc_interval,
    mean_interval,
    paired,
    paired_interval,
    ratios,
    roc,
    slope_interval,
    upper_limit,
)

COVERAGE = Path(__file__).parents[1] / "benchmarks" / "coverage.py"

# ---- how often they cover -------------------------------------------------------------------------------


@pytest.fixture
def coverage():
    spec = importlib.util.spec_from_file_location("coverage", COVERAGE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_intervals_cover_in_every_design_of_the_book(coverage):
    found = {(name, n): covered for name, n, covered, _ in coverage.everything(1200)}
    assert len(found) > 50 and coverage.BAR == 0.93
    assert not {key: covered for key, covered in found.items() if covered < coverage.BAR}


def test_the_simulation_finds_the_percentile_bootstrap_short(coverage, monkeypatch):
    def percentiles(values, **_):
        means = np.random.default_rng(0).choice(values, (200, len(values))).mean(1)
        return values.mean(), *np.quantile(means, [0.025, 0.975])

    monkeypatch.setattr(stats, "mean_interval", percentiles)
    covered, _ = coverage.mean_coverage(coverage.SHARES["rates near 1"], 8, 300)
    assert 0.5 < covered < 0.9


# ---- means ----------------------------------------------------------------------------------------------


def test_a_mean_without_bounds_is_scipys_t():
    values = np.random.default_rng(1).normal(2, 1, 12)
    for level in (0.8, 0.95):
        expected = scipy_stats.ttest_1samp(values, 0).confidence_interval(level)
        mean, low, high = mean_interval(values, level=level)
        assert (mean, low, high) == pytest.approx((values.mean(), expected.low, expected.high))
    assert mean_interval(torch.tensor(values)) == mean_interval(pd.Series(values)) == mean_interval(list(values))


@pytest.mark.parametrize("count", [0, 1, 5, 8])
def test_units_that_are_all_or_nothing_get_the_exact_limits(count):
    values = np.repeat([1, 0], [count, 8 - count])
    for level in (0.9, 0.95):
        expected = scipy_stats.binomtest(count, 8).proportion_ci(level)
        assert mean_interval(values, bounds=(0, 1), level=level) == pytest.approx((count / 8, *expected))
        low, high = (4 * end - 1 for end in expected)
        assert mean_interval(4 * values - 1, bounds=(-1, 3), level=level) == pytest.approx((count / 2 - 1, low, high))


def test_bounded_means_have_wilsons_form():
    values = np.array([0.1, 0.9, 0.25, 0.75, 0.5, 1.0, 0.0, 0.4])
    mean, low, high = mean_interval(values, bounds=(0, 1))
    error = scipy_stats.t.ppf(0.975, 7) * values.std(ddof=1) / 8**0.5
    for end in (low, high):  # the mean lies as far off as the spread allows that the end would have
        assert (mean - end) ** 2 == pytest.approx(error**2 * end * (1 - end) / (mean * (1 - mean)))
    assert mean_interval(1 - values, bounds=(0, 1)) == pytest.approx((1 - mean, 1 - high, 1 - low))
    shifted = mean_interval(10 * values - 3, bounds=(-3, 7))
    assert shifted == pytest.approx(tuple(10 * x - 3 for x in (mean, low, high)))


def test_bounded_means_leave_room_for_units_that_were_not_seen():
    missed = 1 - 0.05 ** (1 / 16)
    assert missed == pytest.approx(upper_limit(0, 16))
    assert mean_interval([0.5] * 16, bounds=(0, 1)) == pytest.approx((0.5, 0.5 - missed / 2, 0.5 + missed / 2))
    nearly = [1.0] * 15 + [0.75]
    mean, low, high = mean_interval(nearly, bounds=(0, 1))
    assert low == pytest.approx(mean * (1 - missed)) and mean < high <= 1
    assert mean_interval([1.0] * 16, bounds=(-1, 1), reach=1) == pytest.approx((1, 1 - missed, 1))
    assert mean_interval([0.0] * 16, bounds=(-1, 1), reach=1) == pytest.approx((0, -missed, missed))
    assert mean_interval([0.0] * 16, bounds=(-1, 1), reach=0.5) == pytest.approx((0, -missed / 2, missed / 2))
    assert mean_interval([-1.0] * 16, bounds=(-1, 1), reach=1) == pytest.approx((-1, -1, missed - 1))
    for values in ([0.0] * 7 + [0.25], [1.0] * 7 + [0.25]):
        mean, low, high = mean_interval(values, bounds=(0, 1))
        assert 0 <= low < mean < high <= 1  # never past what is possible


def test_bounded_intervals_stay_within_their_bounds():
    random = np.random.default_rng(4)
    for k in range(600):
        values = random.binomial(10, (0.01, 0.5, 0.99)[k % 3], random.integers(2, 12)) / 10
        mean, low, high = mean_interval(values, bounds=(0, 1))
        assert 0 <= low <= mean <= high <= 1
        mean, low, high = mean_interval(2 * values / 3 - 1 / 3, bounds=(-1 / 3, 1 / 3), reach=0.5)
        assert low >= -1 / 3 and high <= 1 / 3


def test_geometric_means_treat_a_factor_and_its_inverse_alike(one_line):
    values = np.array([2.0, 4, 8, 16])
    mean, low, high = mean_interval(values, geometric=True)
    expected = scipy_stats.ttest_1samp(np.log(values), 0).confidence_interval(0.95)
    assert (mean, low, high) == pytest.approx((2**2.5, math.exp(expected.low), math.exp(expected.high)))
    assert mean_interval(1 / values, geometric=True) == pytest.approx((1 / mean, 1 / high, 1 / low))
    for wrong, options in (([1, -1], {}), ([1, 2], {"bounds": (0, 3)})):
        one_line(ValueError, "geometric mean needs ratios", mean_interval, wrong, geometric=True, **options)
    mean, *ends = mean_interval([math.inf, 2, 2, 2], geometric=True)
    assert mean == math.inf and np.isnan(ends).all()


def test_a_cluster_is_one_unit():
    values, names = [1, 0.5, 0.25, 0.75, 0, 0, 1], ["a", "a", "b", "b", "c", "c", "d"]
    each = [0.75, 0.5, 0, 1]
    for options in ({}, {"bounds": (0, 1)}, {"level": 0.8}):
        assert mean_interval(values, clusters=names, **options) == mean_interval(each, **options)
    order = np.random.default_rng(0).permutation(7)
    shuffled = mean_interval(np.array(values)[order], clusters=pd.Series(names)[order])
    assert shuffled == pytest.approx(mean_interval(each))
    assert mean_interval([2, 8, 9], clusters=[1, 1, 2], geometric=True) == mean_interval([4, 9], geometric=True)
    assert mean_interval([1, 1, 0, 0], clusters=[0, 0, 1, 1], bounds=(0, 1)) == mean_interval([1, 0], bounds=(0, 1))
    assert np.isnan(mean_interval([1.0, 0.5], clusters=["a", "a"])[1:]).all()


def test_differences_are_of_units_and_bounded_by_their_sides():
    own, other = {"a": 1, "b": 0.5, "c": 0.75}, {"c": 0.25, "a": 0, "b": 0.5}
    expected = mean_interval([1, 0, 0.5], bounds=(-1, 1), reach=1)
    assert paired_interval(own, other) == expected
    ten = paired_interval([10, 5, 7.5], [0, 5, 2.5], bounds=(0, 10))
    assert ten == pytest.approx(tuple(10 * x for x in expected))
    assert paired_interval([1, 0.5, 0.75], [0, 0.5, 0.25], bounds=None, level=0.9) == mean_interval(
        [1, 0, 0.5], level=0.9
    )
    clustered = paired_interval([1, 0.5, 0.75], [0, 0.5, 0.25], clusters=[0, 0, 1])
    assert clustered == mean_interval([0.5, 0.5], bounds=(-1, 1), reach=1)


def test_too_few_units_and_what_is_no_number_have_no_interval():
    for values in ([], [1.0], [1.0, math.nan, 1.0], [1.0, math.inf], [2.0, 2.0]):
        mean, *ends = mean_interval(values)
        assert np.isnan(ends).all() and (mean in (1.0, 2.0, math.inf) or math.isnan(mean))
    assert mean_interval([1.0])[0] == 1.0 and np.isnan(mean_interval([0.5], bounds=(0, 1))[1:]).all()
    assert np.isnan(mean_interval([0.0, math.nan], bounds=(0, 1))).all()


def test_a_smaller_level_gives_a_shorter_interval():
    values = [0.25, 0.5, 1, 0.75, 0, 0.5]
    for options in ({}, {"bounds": (0, 1)}):
        _, low, high = mean_interval(values, **options)
        _, low_90, high_90 = mean_interval(values, level=0.9, **options)
        assert low < low_90 < high_90 < high


def test_wrong_input_to_a_mean_is_one_clear_line(one_line):
    for values, match in (
        (np.ones((4, 2)), "average over seeds first"),
        (1.0, "average over seeds first"),
        ([True, False], "values are of type bool"),
        (["1", "0"], "values are of type <U1"),
        ([None, 1.0], "values are of type object"),
    ):
        one_line(ValueError, match, mean_interval, values)
    for options, match in (
        ({"level": 95}, "level 95 is not between 0 and 1"),
        ({"level": 1.0}, "level 1.0 is not between"),
        ({"level": "high"}, "level 'high' is not between"),
        ({"level": math.nan}, "level nan is not between"),
        ({"clusters": ["a"]}, "name or number to all 2 units"),
        ({"clusters": [[1], [2]]}, "name or number to all 2 units"),
        ({"clusters": [None, "a"]}, "clusters are object"),
        ({"clusters": [0.5, math.nan]}, "clusters are float64"),
        ({"bounds": (1, 0)}, "not two finite numbers, the least first"),
        ({"bounds": (0, math.inf)}, "not two finite numbers"),
        ({"bounds": 1}, "not two finite numbers"),
        ({"bounds": (0, 0.4)}, "a value of 0.5 lies outside the bounds"),
        ({"bounds": (0, 1), "reach": 0}, "reach=0"),
        ({"bounds": (0, 1), "reach": "far"}, "reach='far'"),
        ({"reach": 1}, "give bounds"),
    ):
        one_line(ValueError, match, mean_interval, [0.25, 0.5], **options)
    one_line(ValueError, "a value of 2 lies outside", paired_interval, [2, 0], [0, 0])
    one_line(ValueError, "own are of type bool", paired_interval, [True], [False])


def test_upper_limit():
    assert upper_limit(0, 20) == pytest.approx(1 - 0.05 ** (1 / 20))
    assert upper_limit(0, 20, level=0.99) == pytest.approx(1 - 0.01 ** (1 / 20))
    assert upper_limit(3, 3) == 1.0 and upper_limit(0, 0) == 1.0
    limit = upper_limit(2, 10)  # at the limit, so few successes have a chance of one in twenty
    assert sum(math.comb(10, k) * limit**k * (1 - limit) ** (10 - k) for k in range(3)) == pytest.approx(0.05)
    for wrong in ((-1, 3), (4, 3), (0.5, 3), (math.nan, 3), (0, math.inf)):
        with pytest.raises(ValueError, match="not a count"):
            upper_limit(*wrong)
    with pytest.raises(ValueError, match="level 95 is not between"):
        upper_limit(0, 3, level=95)


def test_paired_matches_units():
    assert paired([1, 0.5], [0, 0.5]).tolist() == [1, 0]
    assert paired({"a": 1, "b": 0.5}, {"b": 0.25, "a": 0}).tolist() == [1, 0.25]
    own = pd.Series([1.0, 0.5], index=["a", "b"])
    assert paired(own, pd.Series([0.25, 0.0], index=["b", "a"])).tolist() == [1, 0.25]
    assert ratios([2, 0, 0], [4, 1, 0])[:2].tolist() == [2, math.inf] and math.isnan(ratios([0], [0])[0])
    for wrong, match in (
        (([1, 2], [1]), "one number a unit"),
        (([[1, 2]], [[1, 2]]), "one number a unit"),
        (({"a": 1}, {"b": 1}), "only on one side: a, b"),
        (({"a": 1}, [1]), "same form"),
        ((pd.Series([1, 2], index=["a", "a"]), pd.Series([1], index=["a"])), "each unit once"),
    ):
        with pytest.raises(ValueError, match=match):
            paired(*wrong)


# ---- slopes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n, level", [(28, 0.95), (28, 0.9), (5, 0.95), (3, 0.8)])
def test_a_slope_is_least_squares_with_the_textbook_s_t(n, level):
    random = np.random.default_rng(n)
    x = random.permutation(np.repeat(np.arange(6.0, 6 + n), 4)[:n] if n > 5 else np.arange(float(n)))
    y = 0.2 * x + random.normal(0, 0.3, n)
    slope, low, high = slope_interval(x, y, level=level)
    expected, intercept = np.polyfit(x, y, 1)
    error = math.sqrt(((y - expected * x - intercept) ** 2).sum() / (n - 2) / ((x - x.mean()) ** 2).sum())
    half = scipy_stats.t.ppf((1 + level) / 2, n - 2) * error
    assert (slope, low, high) == pytest.approx((expected, expected - half, expected + half))
    assert all(type(number) is float for number in (slope, low, high))


def test_a_slope_by_hand():
    # Through (0, 0), (1, 2), (2, 1): slope 1/2, residuals −1/2, 1, −1/2, one degree of freedom, Σ(x − x̄)² = 2.
    half = 12.706204736 * math.sqrt(1.5 / 1 / 2)
    assert slope_interval([0, 1, 2], [0, 2, 1]) == pytest.approx((0.5, 0.5 - half, 0.5 + half))


def test_a_slope_turns_with_its_points_and_scales_with_its_units():
    x, y = np.array([6, 6, 7, 7, 8, 8]), np.array([0.05, 0.25, 0.4, 0.35, 0.6, 0.7])
    slope, low, high = slope_interval(x, y)
    assert low < slope < high
    assert slope_interval(x, -y) == pytest.approx((-slope, -high, -low)) == slope_interval(-x, y)
    assert slope_interval(x + 3, 10 * y - 1) == pytest.approx((10 * slope, 10 * low, 10 * high))
    order = [3, 0, 5, 1, 4, 2]
    assert slope_interval(x[order], y[order]) == pytest.approx((slope, low, high))
    assert slope_interval(torch.tensor(x), pd.Series(y, index=[*"fedcba"])) == pytest.approx((slope, low, high))
    _, low_80, high_80 = slope_interval(x, y, level=0.8)
    assert low < low_80 < slope < high_80 < high


def test_a_slope_s_interval_does_not_reckon_with_where_the_line_begins():
    x, y = np.arange(1000.0, 1008.0), np.array([0.0, 0.2, 0.1, 0.3, 0.5, 0.4, 0.7, 0.6])
    assert slope_interval(x, y) == pytest.approx(slope_interval(x - 1000, y + 5))


@pytest.mark.parametrize("x, y, slope", [
    ([1, 2, 3, 4], [2, 4, 6, 8], 2.0),  # all on one line
    ([1, 2, 3], [5, 5, 5], 0.0),
    ([1, 1, 3, 3], [2, 2, 0, 0], -1.0),
    ([1, 3], [2, 8], 3.0),  # two points
])  # fmt: skip
def test_a_perfect_line_has_a_slope_and_no_interval(x, y, slope):
    found, low, high = slope_interval(x, y)
    assert found == pytest.approx(slope) and math.isnan(low) and math.isnan(high)


@pytest.mark.parametrize("x, y", [
    ([], []), ([1], [2]), ([2, 2, 2, 2], [1, 2, 3, 4]), ([1, 2, 3, 4], [1, math.nan, 3, 4]),
    ([1, 2, math.nan, 4], [1, 2, 3, 5]), ([1, 2, 3, 4], [1, 2, math.inf, 4]), ([-math.inf, 2, 3, 4], [1, 2, 4, 3]),
])  # fmt: skip
def test_what_has_no_slope_is_not_a_number(x, y):
    assert all(math.isnan(number) for number in slope_interval(x, y))


def test_wrong_input_to_a_slope_is_one_clear_line(one_line):
    one_line(ValueError, r"one number a unit; their shapes are \(3,\) and \(2,\)", slope_interval, [1, 2, 3], [1, 2])
    one_line(ValueError, "not x of shape", slope_interval, [[1, 2, 3]], [[1, 2, 3]])
    one_line(ValueError, "not y of shape", slope_interval, [1, 2, 3], 1.0)
    one_line(ValueError, "x are of type bool", slope_interval, [True, False], [1, 2])
    one_line(ValueError, "y are of type <U1", slope_interval, [1, 2], ["1", "2"])
    one_line(ValueError, "x are of type object", slope_interval, [None, 1.0], [1, 2])
    one_line(ValueError, "y are of unequal lengths", slope_interval, [1, 2], [[1], [1, 2]])
    for level in (0, 1, 95, "high"):
        one_line(
            ValueError, f"level {level!r} is not between 0 and 1", slope_interval, [1, 2, 3], [1, 3, 2], level=level
        )


# ---- how well scores separate ---------------------------------------------------------------------------


def test_roc_by_hand():
    # Pairs won of 4 × 5: 0.9 beats 5; 0.8 beats 4 and ties 1; 0.5 beats 2 and ties 1; 0.2 ties 1 and beats 1.
    positives, negatives = [0.9, 0.8, 0.5, 0.2], [0.8, 0.6, 0.5, 0.2, 0.1]
    found = roc(positives, negatives)
    assert found["auc"] == pytest.approx((5 + 4.5 + 2.5 + 1.5) / 20)
    # Thresholds above all, then 0.9, 0.8, 0.6, 0.5, 0.2, 0.1.
    assert found["fpr"] == pytest.approx([0, 0, 0.2, 0.4, 0.6, 0.8, 1])
    assert found["tpr"] == pytest.approx([0, 0.25, 0.5, 0.5, 0.75, 1, 1])
    assert found["tpr at 1% fpr"] == found["tpr at 10% fpr"] == 0.25
    assert auc_interval(positives, negatives)[0] == pytest.approx(found["auc"])


def test_roc_at_low_false_positive_rates():
    negatives = np.arange(100.0)
    found = roc([99.5, 98.5, 97.5, 89.5, 88.5], negatives)  # passed by 0, 1, 2, 10 and 11 negatives
    assert found["tpr at 1% fpr"] == pytest.approx(2 / 5)
    assert found["tpr at 10% fpr"] == pytest.approx(4 / 5)
    assert roc([1.0], [1.0])["auc"] == 0.5 and roc([1.0], [1.0])["tpr at 10% fpr"] == 0


def test_auc_is_mann_whitney():
    random = np.random.default_rng(0)
    positives, negatives = random.integers(2, 9, 23) / 4, random.integers(0, 8, 31) / 4  # many ties
    expected = mannwhitneyu(positives, negatives).statistic / (23 * 31)
    assert roc(positives, negatives)["auc"] == pytest.approx(expected)
    assert roc(torch.tensor(positives), list(negatives))["auc"] == pytest.approx(expected)
    assert auc_interval(torch.tensor(positives), negatives)[0] == pytest.approx(expected)


def area(positives, negatives):
    return np.mean((positives[:, None] > negatives) + 0.5 * (positives[:, None] == negatives))


def test_an_areas_error_is_delongs():
    random = np.random.default_rng(1)
    positives, negatives = np.round(random.normal(0.7, 1, 40), 1), np.round(random.normal(0, 1, 30), 1)
    auc, low, high = auc_interval(positives, negatives)
    ups = [area(positives[[k]], negatives) for k in range(40)]
    downs = [area(positives, negatives[[k]]) for k in range(30)]
    error = math.sqrt(np.var(ups, ddof=1) / 40 + np.var(downs, ddof=1) / 30)
    logits = [math.log(x / (1 - x)) for x in (low, auc, high)]
    half = scipy_stats.t.ppf(0.975, 69) * error / (auc * (1 - auc))
    assert np.diff(logits) == pytest.approx([half, half])
    flipped = auc_interval(negatives, positives)
    assert flipped == pytest.approx((1 - auc, 1 - high, 1 - low))
    _, inner_low, inner_high = auc_interval(positives, negatives, level=0.5)
    assert 0 < low < inner_low < auc < inner_high < high < 1


def test_perfect_separation_gives_the_exact_lower_bound():
    for n, m, pairs in ((16, 16, 16), (8, 8, 8), (3, 2, 2), (5, 40, 5)):
        for level in (0.9, 0.95):
            bound = (1 - level) ** (1 / pairs)  # an area this low wins so many independent pairs just so often
            assert auc_interval(range(100, 100 + n), range(m), level=level) == pytest.approx((1, bound, 1))
            assert auc_interval(range(n), range(100, 100 + m), level=level) == pytest.approx((0, 0, 1 - bound))
    assert auc_interval([1, 1], [1, 1, 1]) == pytest.approx((0.5, 0.5 * 0.05**0.5, 1 - 0.5 * 0.05**0.5))
    for one in (([1], [0, 0.5]), ([1, 2], [0])):
        auc, *ends = auc_interval(*one)
        assert auc == 1 and np.isnan(ends).all()


def test_an_area_leaves_room_for_captions_that_were_not_seen():
    positives, negatives = [*range(101, 116), -1], range(16)  # one of 16 lies below all
    auc, low, high = auc_interval(positives, negatives)
    assert auc == 15 / 16 and low <= auc * 0.05 ** (1 / 16) and auc < high < 1


def test_scores_that_share_a_label_count_as_one():
    random = np.random.default_rng(3)
    positives, negatives = random.normal(1, 1, 8), random.normal(0, 1, 10)
    alone = auc_interval(positives, negatives)
    labels = [f"p{k}" for k in range(8)], [f"n{k}" for k in range(10)]
    assert auc_interval(positives, negatives, clusters=labels) == pytest.approx(alone)
    doubled = auc_interval(
        np.repeat(positives, 2), np.repeat(negatives, 2), clusters=tuple(np.repeat(names, 2) for names in labels)
    )
    assert doubled == pytest.approx(alone)  # the same again is nothing new
    paired_up = auc_interval(positives, negatives[:8] + positives, clusters=(range(8), range(8)))
    apart = auc_interval(positives, negatives[:8] + positives)
    assert paired_up[2] - paired_up[1] < apart[2] - apart[1]  # what moves both sides alike moves no area
    _, low, _ = auc_interval(range(10, 18), range(8), clusters=(np.arange(8) // 2, np.arange(8) // 2))
    assert low == pytest.approx(0.05 ** (1 / 4))


def test_errors_are_one_clear_line(one_line):
    for function in (roc, auc_interval):
        for bad in ([], [[1.0, 2.0]], 1.0):
            one_line(ValueError, "positives have shape", function, bad, [1.0])
            one_line(ValueError, "negatives have shape", function, [1.0], bad)
        for bad in ([np.nan, 1.0], [np.inf], torch.tensor([-torch.inf])):
            one_line(ValueError, "positives hold NaN", function, bad, [1.0])
            one_line(ValueError, "negatives hold NaN", function, [1.0], bad)
        one_line(ValueError, "positives are of type <U1", function, ["a"], [1.0])
    for level in (0, 1, 95):
        one_line(ValueError, f"level {level} is not between 0 and 1", auc_interval, [1.0], [0.0], level=level)
    for clusters in ([1, 2], "ab", ([1], [2], [3])):
        one_line(ValueError, "clusters", auc_interval, [1.0, 2.0], [0.0, 1.0], clusters=clusters)
