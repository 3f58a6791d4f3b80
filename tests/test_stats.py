"""Statistics: against known values, brute force, and how often an interval covers what it says it does."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import mannwhitneyu, norm, spearmanr

from dori_lite.stats import auc_interval, bootstrap, bootstrap_spearman, paired, ratios, roc, upper_limit

# ---- means, ratios and ranks over units -----------------------------------------------------------------


def test_bootstrap_covers_the_mean_as_often_as_it_says():
    rng, hits = np.random.default_rng(0), 0
    for k in range(300):
        mean, low, high = bootstrap(rng.normal(0.3, 1, 40), seed=k, reps=400)
        assert low <= mean <= high
        hits += low <= 0.3 <= high
    assert 0.90 <= hits / 300 <= 0.98


def test_bootstrap_against_the_standard_error():
    values = np.random.default_rng(1).normal(2, 1, 400)
    mean, low, high = bootstrap(values, seed=0)
    error = 1.96 * values.std() / 20
    assert mean == pytest.approx(values.mean())
    assert (mean - low, high - mean) == (pytest.approx(error, rel=0.15), pytest.approx(error, rel=0.15))
    _, low_90, high_90 = bootstrap(values, seed=0, level=0.9)
    assert low < low_90 < high_90 < high
    assert bootstrap(values, seed=0) == (mean, low, high) != bootstrap(values, seed=1)


def test_geometric_mean_treats_a_factor_and_its_inverse_alike():
    found, inverse = bootstrap([2, 4, 8, 16], seed=0, geometric=True), bootstrap([1 / 2, 1 / 4, 1 / 8, 1 / 16], 0)
    assert found[0] == pytest.approx(2**2.5) and 2 <= found[1] < found[0] < found[2] <= 16
    assert inverse[0] != pytest.approx(2**-2.5)
    assert bootstrap([1 / 2, 1 / 4, 1 / 8, 1 / 16], 0, geometric=True)[0] == pytest.approx(2**-2.5)
    with pytest.raises(ValueError, match="negative"):
        bootstrap([1, -1], 0, geometric=True)


def test_bootstrap_wants_one_number_a_unit():
    with pytest.raises(ValueError, match="average over seeds first"):
        bootstrap(np.ones((4, 2)), seed=0)


def test_upper_limit():
    assert upper_limit(0, 20) == pytest.approx(1 - 0.05 ** (1 / 20))
    assert upper_limit(0, 20, level=0.99) == pytest.approx(1 - 0.01 ** (1 / 20))
    assert upper_limit(3, 3) == 1.0 and upper_limit(0, 0) == 1.0
    limit = upper_limit(2, 10)  # at the limit, so few successes have a chance of one in twenty
    assert sum(math.comb(10, k) * limit**k * (1 - limit) ** (10 - k) for k in range(3)) == pytest.approx(0.05)
    for wrong in ((-1, 3), (4, 3)):
        with pytest.raises(ValueError, match="not a count"):
            upper_limit(*wrong)


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


def test_spearman_is_scipys_and_its_interval_covers_it():
    random = np.random.default_rng(0)
    x = np.repeat([1, 4, 16, 64, 256], 4)
    y = np.log(x) + random.normal(size=20)
    estimate, low, high = bootstrap_spearman(x, y, seed=1)
    assert estimate == pytest.approx(spearmanr(x, y).statistic)
    assert low < estimate < high <= 1
    naive = [spearmanr(x[k], y[k]).statistic for k in np.random.default_rng(1).integers(20, size=(2000, 20))]
    assert (low, high) == pytest.approx(tuple(np.quantile(naive, [0.025, 0.975])))


def test_spearman_of_too_little_is_not_a_number(one_line):
    for x, y in (([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [1, math.nan, 3])):
        assert all(math.isnan(value) for value in bootstrap_spearman(x, y, seed=0))
    one_line(ValueError, "one number a unit", bootstrap_spearman, [1, 2, 3], [1, 2], seed=0)
    one_line(ValueError, "one number a unit", bootstrap_spearman, [[1, 2, 3]], [[1, 2, 3]], seed=0)


def test_a_mean_of_too_few_units_has_no_interval():
    for values in ([], [1.0], [1.0, math.nan, 1.0]):
        mean, *ends = bootstrap(values, seed=0)
        assert all(math.isnan(end) for end in ends) and (mean == 1.0 or math.isnan(mean))
    assert bootstrap([1.0], seed=0)[0] == 1.0
    assert bootstrap([1.0, 1.0], seed=0) == (1.0, 1.0, 1.0)


def test_bootstrap_is_resampling_written_out():
    values = np.random.default_rng(2).normal(1, 1, 25)
    found = bootstrap(values, seed=7, reps=999, level=0.8)
    means = sorted(values[k].mean() for k in np.random.default_rng(7).integers(25, size=(999, 25)))
    assert found == (pytest.approx(values.mean()), pytest.approx(means[99]), pytest.approx(means[899]))
    mean, low, high = bootstrap([math.inf, 2, 2, 2, 2, 2, 2, 2], seed=0, geometric=True)
    assert mean == high == math.inf and low == pytest.approx(2)  # between infinities nothing is interpolated


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
    assert auc_interval(positives, negatives, 0, reps=10)[0] == pytest.approx(found["auc"])


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
    assert auc_interval(torch.tensor(positives), negatives, 0)[0] == pytest.approx(expected)


def area(positives, negatives):
    return np.mean((positives[:, None] > negatives) + 0.5 * (positives[:, None] == negatives))


def test_auc_interval_is_a_bootstrap_over_captions():
    random = np.random.default_rng(1)
    positives, negatives = np.round(random.normal(0.7, 1, 20), 1), np.round(random.normal(0, 1, 30), 1)
    auc, low, high = auc_interval(positives, negatives, seed=3)
    resampled = [area(random.choice(positives, 20), random.choice(negatives, 30)) for _ in range(4000)]
    assert (low, high) == pytest.approx(np.quantile(resampled, [0.025, 0.975]), abs=0.02)
    assert 0 < low < auc < high < 1
    assert auc_interval(positives, negatives, seed=3) == (auc, low, high) != auc_interval(positives, negatives, seed=4)
    _, inner_low, inner_high = auc_interval(positives, negatives, seed=3, level=0.5)
    assert low < inner_low < auc < inner_high < high
    resampled = [area(random.choice(positives, 20), negatives) for _ in range(4000)]
    assert np.subtract(*np.quantile(resampled, [0.975, 0.025])) < 0.9 * (high - low)  # the negatives vary as well


def test_auc_interval_covers():
    """Of 200 experiments with a known AUC, the 90 % intervals hold it about as often as they say."""
    random, truth = np.random.default_rng(2), norm.cdf(1 / 2**0.5)
    held = 0
    for k in range(200):
        _, low, high = auc_interval(random.normal(1, 1, 30), random.normal(0, 1, 30), seed=k, reps=300, level=0.9)
        held += low <= truth <= high
    assert 0.82 <= held / 200 <= 0.96


def test_auc_interval_of_degenerate_groups():
    assert auc_interval([2, 3, 4], [0, 1], 0) == (1, 1, 1)
    assert auc_interval([0, 1], [2, 3], 0) == (0, 0, 0)
    assert auc_interval([1, 1], [1, 1, 1], 0) == (0.5, 0.5, 0.5)
    assert auc_interval([1], [0], 0) == (1, 1, 1)


def test_errors_are_one_clear_line(one_line):
    def wrong(match, function, *args, **options):
        one_line(ValueError, match, function, *args, **options)

    for function, rest in ((roc, ()), (auc_interval, (0,))):
        for bad in ([], [[1.0, 2.0]], 1.0):
            wrong("positives have shape", function, bad, [1.0], *rest)
            wrong("negatives have shape", function, [1.0], bad, *rest)
        for bad in ([np.nan, 1.0], [np.inf], torch.tensor([-torch.inf])):
            wrong("positives hold NaN", function, bad, [1.0], *rest)
            wrong("negatives hold NaN", function, [1.0], bad, *rest)
    for level in (0, 1, 95):
        wrong(f"level {level} is not between 0 and 1", auc_interval, [1.0], [0.0], 0, level=level)
