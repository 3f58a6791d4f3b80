"""Effects in units, and what they say of a committed claim."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from dori_lite import stats
from dori_lite.book import claims, verdicts
from dori_lite.book.claims import FAILS, HOLDS, UNDECIDED, Claim
from dori_lite.book.contrasts import contrast
from dori_lite.book.verdicts import DEPENDS


def claim(**options):
    given = {"key": "k", "chapter": 1, "statement": "s.", "effect": "e", "control": "c", "measure": "score"}
    return Claim(**given | {"threshold": 0.5, "rung": "intervention"} | options)


def rows(condition, scores, rate=None, near=2.0, groups=True):
    found = []
    for k, score in enumerate(scores):
        row = {"target": f"t{k}", "condition": condition, "descriptor mean": score, "adaptive l2": [near, near]}
        row |= {"descriptor rate": score if rate is None else rate, "adaptive l2 rate": score if rate is None else rate}
        found.append(row | ({"group": k // 2} if groups else {}))
    return pd.DataFrame(found)


HIGH, LOW = [0.9, 0.85, 0.95, 0.9, 0.8, 0.9], [0.1, 0.0, 0.1, 0.05, 0.1, 0.0]


def judged(about, high=HIGH, low=LOW, **options):
    table = pd.concat([rows("own", high, **options.get("own", {})), rows("other", low, **options.get("other", {}))])
    return verdicts.judged(about, contrast(table, "own", "other"))


NEAR, FAR = {"near": 3.0}, {"near": 0.5}


def test_the_score_decides_if_the_other_detector_has_its_sign():
    assert judged(claim(), own=NEAR, other=FAR)["verdict"] == HOLDS
    assert judged(claim(), own=FAR, other=NEAR)["verdict"] == DEPENDS
    assert judged(claim(threshold=0.95), own=NEAR, other=FAR)["verdict"] == FAILS
    undecided = judged(claim(threshold=0.83), own=FAR, other=NEAR)
    assert undecided["verdict"] == UNDECIDED and undecided["low"] < 0.83 < undecided["high"]
    assert undecided["units"] == 6 and undecided["clusters"] == 3


def test_without_an_interval_nothing_is_decided():
    alone = judged(claim(), high=[0.9], low=[0.1], own=FAR, other=NEAR)
    assert alone["verdict"] == UNDECIDED and math.isnan(alone["low"]) and alone["estimate"] == pytest.approx(0.8)
    agreed = judged(claim(), high=[1.0] * 6, low=[0.0] * 6)
    assert (agreed["estimate"], agreed["verdict"]) == (1.0, UNDECIDED) and math.isnan(agreed["high"])


def test_a_negative_effect_needs_a_negative_nearness():
    assert judged(claim(), high=LOW, low=HIGH, own=FAR, other=NEAR)["verdict"] == FAILS
    assert judged(claim(), high=LOW, low=HIGH, own=NEAR, other=FAR)["verdict"] == DEPENDS


def test_clusters_are_what_counts():
    table = pd.concat([rows("own", HIGH), rows("other", LOW)])
    together, alone = judged(claim()), verdicts.judged(claim(), contrast(table.drop(columns="group"), "own", "other"))
    gaps = np.subtract(HIGH, LOW)
    assert together["clusters"] == 3 and alone["clusters"] == 6 and together["units"] == alone["units"] == 6
    for found, expected in ((together, stats.mean_interval(gaps.reshape(3, 2).mean(1))), (alone, None)):
        expected = expected or stats.mean_interval(gaps)
        assert [found[name] for name in ("estimate", "low", "high")] == pytest.approx(expected)


def test_what_is_found_names_threshold_and_evidence():
    found = judged(claim(threshold=0.25, rung="counterfactual"))
    assert list(found) == [
        *("estimate", "low", "high", "units", "clusters", "threshold", "rung", "verdict", "nearness")
    ]
    assert (found["threshold"], found["rung"]) == (0.25, "counterfactual")


@pytest.mark.parametrize("one, other, expected", [
    (1.0, 1.0, HOLDS), (0.0, 0.0, FAILS), (1.0, 0.0, DEPENDS), (1.0, 0.45, UNDECIDED), (0.45, 0.45, UNDECIDED),
])  # fmt: skip
def test_rates_hold_or_fail_only_together(one, other, expected):
    units = pd.DataFrame({"descriptor rate": [one] * 20, "adaptive l2 rate": [other] * 20, "cluster": range(20)})
    assert verdicts.rates_judged(claim(rate=0.5), units)["verdict"] == expected


def test_rates_stand_beside_the_score_where_a_threshold_was_committed():
    assert "rates" not in judged(claim())
    found = judged(claim(rate=0.5), own=NEAR | {"rate": 1.0}, other=FAR | {"rate": 0.0})["rates"]
    assert found["threshold"] == 0.5 and set(found) == {"descriptor", "adaptive l2", "threshold", "verdict"}


def test_rates_are_differences_of_shares_by_cluster():
    values, other = [1.0, 0.5, 0.75, 1.0, 0.25, 0.5], [0.5, 0.5, 0.0, 0.25, 0.5, 1.0]
    units = pd.DataFrame({"descriptor rate": values, "adaptive l2 rate": other, "cluster": [0, 0, 1, 1, 2, 2]})
    found = verdicts.rates_judged(claim(rate=0.3, threshold=0.9), units)
    for name, some in (("descriptor", values), ("adaptive l2", other)):
        expected = stats.mean_interval(some, clusters=[0, 0, 1, 1, 2, 2], bounds=(-1, 1), reach=1)
        assert tuple(found[name][k] for k in ("estimate", "low", "high")) == expected
        low, high = expected[1:]
        assert found[name]["verdict"] == (HOLDS if low > 0.3 else FAILS if high < 0.3 else UNDECIDED)
    one = verdicts.rates_judged(claim(rate=0.3), units[:1])
    assert one["verdict"] == one["descriptor"]["verdict"] == UNDECIDED and math.isnan(one["descriptor"]["low"])


def test_rates_are_held_against_the_rate_and_not_the_score_s_threshold():
    units = pd.DataFrame({"descriptor rate": [0.7] * 20, "adaptive l2 rate": [0.7] * 20, "cluster": range(20)})
    assert verdicts.rates_judged(claim(rate=0.3, threshold=0.9), units)["verdict"] == HOLDS
    assert verdicts.rates_judged(claim(rate=0.95, threshold=0.1), units)["verdict"] == FAILS


def test_ratios_are_averaged_as_logarithms():
    units = pd.DataFrame({"value": [2.0, 8.0, 4.0, 4.0], "cluster": range(4)})
    found = verdicts.judged(claim(measure="ratio", threshold=1.5), units)
    assert found["estimate"] == pytest.approx(4.0) and found["verdict"] == HOLDS and "nearness" not in found


def test_equivalence_takes_the_ninety_percent_interval():
    units = pd.DataFrame({"value": [0.02, -0.01, 0.05, 0.0, 0.01, -0.03], "cluster": range(6)})
    about = claim(measure="alignment", threshold=0.1, within=True)
    found = verdicts.judged(about, units)
    wide = verdicts.judged(claim(measure="alignment", threshold=0.1), units)
    assert found["verdict"] == HOLDS and found["high"] - found["low"] < wide["high"] - wide["low"]


def graded(noise=0.05):
    """Six pictures of three grades: the slope is 0.25, by hand, and its error √(noise² / 8 + 0.1²/8)."""
    values = [0.15 - 0.1, 0.15 + 0.1, 0.4, 0.4, 0.65 - noise, 0.65 + noise]
    return pd.DataFrame({"x": [6, 6, 7, 7, 8, 8], "value": values, "nearness": -1.0, "cluster": [*"abcdef"]})


def test_a_slope_is_a_regression_on_exposures():
    error = math.sqrt((2 * 0.1**2 + 2 * 0.05**2) / 4 / 4)  # residuals' squares, by n − 2, by those of x
    for within, tail in ((False, 0.975), (True, 0.95)):
        half = scipy_stats.t.ppf(tail, 4) * error
        about = claim(measure="slope", threshold=0.1, within=within)
        found = verdicts.judged(about, graded())
        ends = [found[name] for name in ("estimate", "low", "high")]
        assert ends == pytest.approx([0.25, 0.25 - half, 0.25 + half])
        assert found["verdict"] == (FAILS if within else HOLDS)  # above 0.1, and outside of ±0.1
        assert (found["units"], found["clusters"]) == (6, 6) and ("nearness" in found) != within
    assert verdicts.judged(claim(measure="slope", threshold=0.4), graded())["verdict"] == FAILS
    assert verdicts.judged(claim(measure="slope", threshold=0.3), graded())["verdict"] == UNDECIDED
    falling = graded().assign(nearness=[2.0, 2.0, 1.0, 1.0, 0.0, 0.0])
    found = verdicts.judged(claim(measure="slope", threshold=0.1), falling)
    assert found["nearness"] == pytest.approx(-1.0) and found["verdict"] == DEPENDS
    flat = graded().assign(value=[0.02, 0.0, 0.01, 0.01, 0.0, 0.02])
    assert verdicts.judged(claim(measure="slope", threshold=0.03, within=True), flat)["verdict"] == HOLDS


def test_a_slope_of_too_little_is_undecided():
    for units in (graded()[:2], graded()[:1], graded().assign(x=7), graded().assign(value=[0, 0, 1, 1, 2, 2])):
        found = verdicts.judged(claim(measure="slope", threshold=0.1), units)
        assert found["verdict"] == UNDECIDED and math.isnan(found["low"])


def detected(**models):
    """Units of models, {name: (positives, negatives)}; two captions a cluster."""
    found = [
        {"model": name, "positive": k == 0, "value": x, "cluster": f"group {n // 2}"}
        for name, sides in models.items()
        for k, side in enumerate(sides)
        for n, x in enumerate(side)
    ]
    return pd.DataFrame(found).sample(frac=1, random_state=0)


BETTER, WORSE = ([5, 6, 7, 8], [1, 2, 3, 4]), ([2.5, 6, 7, 8], [1, 2, 3, 4])


@pytest.mark.parametrize("order", [1, -1])
def test_the_lowest_model_s_area_counts(order):
    models = dict([("twin-a", BETTER), ("twin-b", WORSE)][::order])
    found = verdicts.judged(claim(measure="auc", threshold=0.8), detected(**models))
    names = [f"group {n // 2}" for n in range(4)]
    expected = stats.auc_interval(*WORSE, clusters=[names, names])
    assert expected[0] == 14 / 16 and expected != stats.auc_interval(*WORSE)
    assert [found[name] for name in ("estimate", "low", "high")] == pytest.approx(expected)
    assert (found["units"], found["clusters"]) == (16, 2) and "nearness" not in found


def test_an_area_is_of_one_model_at_a_time():
    """Pooled, the models' levels would decide: each is perfect by itself."""
    units = detected(a=([15, 16, 17, 18], [11, 12, 13, 14]), b=([5, 6, 7, 8], [1, 2, 3, 4]))
    assert verdicts.interval(claim(measure="auc"), units)[0] == 1.0
    swapped = detected(a=(WORSE[1], WORSE[0]))
    assert verdicts.interval(claim(measure="auc"), swapped)[0] == 2 / 16


def test_without_positives_there_is_no_area(one_line):
    units = detected(a=BETTER)
    one_line(ValueError, "negatives have shape", verdicts.judged, claim(measure="auc"), units[units["positive"]])


def test_the_lowest_area_s_interval_is_lowest_at_either_end():
    """The model whose estimate is lowest need not have the lowest ends."""
    assert verdicts.lowest([(0.9, 0.6, 0.99), (0.95, 0.5, 0.97)]) == (0.9, 0.5, 0.97)
    assert verdicts.lowest([(0.9, 0.6, 0.99)]) == (0.9, 0.6, 0.99)
    for order in (1, -1):
        one, low, high = verdicts.lowest([(0.9, 0.6, 0.99), (1.0, math.nan, math.nan)][::order])
        assert one == 0.9 and math.isnan(low) and math.isnan(high)  # of one model nothing is known
    perfect = ([5, 6], [1, 2])  # but of two captions
    many = ([2.5, *range(5, 12)], range(4)), ([5, 6, 7, 8], range(4))
    found = verdicts.interval(claim(measure="auc"), detected(a=many[0], b=perfect).assign(cluster=range(16)))
    ends = [stats.auc_interval(*sides) for sides in (many[0], perfect)]
    assert ends[0][0] < ends[1][0] and ends[1][1] < ends[0][1]
    assert found == pytest.approx((ends[0][0], ends[1][1], min(ends[0][2], ends[1][2])))


# ---- many claims together ----------------------------------------------------------------------------


def test_among_several_claims_an_interval_is_wider():
    units = pd.DataFrame({"value": [0.5, 0.7, 0.4, 0.9, 0.6, 0.3], "cluster": range(6)})
    for within, error in ((False, 0.05), (True, 0.10)):
        about = claim(measure="z", within=within)
        assert verdicts.level_of(about) == 1 - error
        for among in (1, 4, 29):
            found = verdicts.judged(about, units, among)
            expected = stats.mean_interval(units["value"], level=1 - error / among)
            assert [found[name] for name in ("estimate", "low", "high")] == pytest.approx(expected)
            assert verdicts.interval(about, units, 1 - error / among) == pytest.approx(expected)
    rates = pd.DataFrame({f"{name} rate": [0.5, 0.25, 0.75, 0.5, 1.0] for name in ("descriptor", "adaptive l2")})
    scores = rates.assign(score=[0.8, 0.9, 0.7, 0.9, 0.6], nearness=1.0, cluster=range(5))
    found = verdicts.judged(claim(rate=0.3), scores, 10)["rates"]["descriptor"]
    expected = stats.mean_interval(scores["descriptor rate"], bounds=(-1, 1), reach=1, level=0.995)
    assert (found["estimate"], found["low"], found["high"]) == pytest.approx(expected)


def holm(chances, most: float) -> set:
    """The textbook's: the smallest is held to most / m, the next to most / (m − 1), until one is not below."""
    found = set()
    for k, key in enumerate(sorted(chances, key=chances.get)):
        if chances[key] > most / (len(chances) - k):
            break
        found.add(key)
    return found


def test_claims_are_judged_together_as_by_holm_s_p_values(monkeypatch):
    names, steps = [f"c{k}" for k in range(9)], 0
    monkeypatch.setattr(verdicts, "claim", {name: claim(key=name, measure="z", threshold=0.2) for name in names}.get)
    for seed in range(30):
        random = np.random.default_rng(seed)
        means = {name: random.choice([-0.8, 0.2, 0.9, 1.1, 1.3]) for name in names}
        units = {name: pd.DataFrame({"value": random.normal(mean, 0.8, 10), "cluster": range(10)})
                 for name, mean in means.items()}  # fmt: skip
        sides = {}
        for said, side in ((HOLDS, "greater"), (FAILS, "less")):
            test = {k: scipy_stats.ttest_1samp(u["value"], 0.2, alternative=side).pvalue for k, u in units.items()}
            sides[said] = holm(test, 0.025)
            steps += len(sides[said]) > sum(p <= 0.025 / 9 for p in test.values())
        found = verdicts.together(units)
        assert [*found] == names
        assert {said: {k for k, v in found.items() if v == said} for said in sides} == sides
    assert steps > 5  # more than Bonferroni finds


def test_together_a_claim_that_detectors_differ_on_is_not_among_those_that_hold(monkeypatch):
    monkeypatch.setattr(verdicts, "claim", lambda key: claim(key=key, threshold=0.1))
    table = pd.concat([rows("own", HIGH, near=0.5), rows("other", LOW, near=3.0)])
    differ = contrast(table, "own", "other")
    agree = differ.assign(nearness=1.0)
    assert verdicts.together({"a": differ, "b": agree}) == {"a": DEPENDS, "b": HOLDS}
    assert verdicts.together({}) == {}


def test_z_and_nats_are_plain_means():
    units = pd.DataFrame({"value": [0.5, -0.5, 4.0, -1.0], "cluster": ["a", "a", "b", "b"]})
    for measure in ("z", "nats", "alignment", "cosine"):
        found = verdicts.interval(claim(measure=measure), units)
        assert found == stats.mean_interval([0.0, 1.5])


def test_every_committed_measure_is_judged():
    judged = {*"score ratio auc slope alignment z nats cosine agreement".split()}
    assert {about.measure for about in claims.CLAIMS.values()} == judged


def test_the_same_side_of_the_threshold():
    assert verdicts.same_sign(claim(), 0.6, 0.9) and not verdicts.same_sign(claim(), 0.6, 0.4)
    assert verdicts.same_sign(claim(), 0.1, -0.4) and not verdicts.same_sign(claim(), 0.4, 0.6)
    ratio = claim(measure="ratio", threshold=2.0)
    assert verdicts.same_sign(ratio, 1.5, 0.5) and not verdicts.same_sign(ratio, 1.5, 2.5)
    inside = claim(within=True, threshold=0.1)
    assert verdicts.same_sign(inside, 0.05, -0.02) and not verdicts.same_sign(inside, 0.05, -0.3)
    assert verdicts.same_sign(inside, 0.3, -0.3)  # both outside
