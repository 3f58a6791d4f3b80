"""Claims: planted tables in which each verdict is right, and statistics against known values."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest

from dori_lite.book import claims, reported
from dori_lite.book.claims import CLAIMS, FAILS, HOLDS, UNDECIDED, Claim, summary, verdict
from dori_lite.stats import bootstrap, bootstrap_spearman, paired, ratios

REPLAY, VARIETY = CLAIMS["replay"], CLAIMS["variety"]
CANARIES = [f"canary-{k}" for k in range(8)]


def table(own, other):
    """Rates of copies, a row for each canary, model and generation seed, as a run would hold them."""
    rows = [
        (c, m, s, float(s < 4 * rate))
        for c, *rates in zip(CANARIES, own, other, strict=True)
        for m, rate in zip(("own", "other"), rates, strict=True)
        for s in range(4)
    ]
    return pd.DataFrame(rows, columns=["canary", "model", "generation_seed", "copy"])


def judged(planted):
    by_model = planted.groupby(["model", "canary"])["copy"].mean().unstack("model")
    return verdict(REPLAY, *bootstrap(paired(by_model["own"], by_model["other"]), seed=0))


@pytest.mark.parametrize(
    "own, other, expected",
    [
        ([1, 1, 0.75, 1, 1, 0.75, 1, 1], [0] * 8, HOLDS),
        ([0.25, 0, 0, 0.5, 0, 0, 0.25, 0], [0] * 8, FAILS),
        ([1, 0, 1, 0, 1, 0, 1, 0.5], [0] * 8, UNDECIDED),
        ([1] * 8, [1, 1, 0.75, 1, 1, 1, 1, 1], FAILS),  # both replay: not what repetition did
        ([0] * 8, [1] * 8, FAILS),  # the wrong way round
    ],
)
def test_each_verdict_of_replay_occurs(own, other, expected):
    assert judged(table(own, other)) == expected


@pytest.mark.parametrize(
    "own, other, expected",
    [
        ([0.05, 0.1, 0.08, 0.04, 0.1, 0.06, 0.09, 0.07], [0.5, 0.6, 0.4, 0.5, 0.7, 0.6, 0.5, 0.4], HOLDS),
        ([0.5] * 8, [0.5, 0.6, 0.4, 0.5, 0.7, 0.6, 0.5, 0.4], FAILS),
        ([0.05, 0.5, 0.08, 0.6, 0.1, 0.7, 0.5, 0.5], [0.5, 0.6, 0.4, 0.5, 0.7, 0.6, 0.5, 0.4], UNDECIDED),
        ([0.0] + [0.5] * 7, [0.5] * 8, UNDECIDED),  # one canary without any variety decides nothing
        ([0.0] * 8, [0.5] * 8, HOLDS),
        ([0.0] * 8, [0.0] * 8, UNDECIDED),  # no variety anywhere: no ratio
    ],
)
def test_each_verdict_of_variety_occurs(own, other, expected):
    assert verdict(VARIETY, *bootstrap(ratios(own, other), seed=0, geometric=True)) == expected


def test_verdict_at_the_edges():
    assert verdict(REPLAY, 0.7, 0.51, 0.9) == HOLDS and verdict(REPLAY, 0.3, 0.1, 0.49) == FAILS
    for low, high in ((0.5, 0.9), (0.1, 0.5), (0.5, 0.5), (0.1, 0.9)):  # what touches the threshold
        assert verdict(REPLAY, 0.5, low, high) == UNDECIDED
    for nan in ((math.nan, 0.6, 0.9), (0.7, math.nan, 0.9), (0.7, 0.6, math.nan)):
        assert verdict(REPLAY, *nan) == UNDECIDED
    with pytest.raises(ValueError, match="upside down"):
        verdict(REPLAY, 0.7, 0.9, 0.6)


def test_too_few_units_are_undecided():
    for values in ([], [1.0], [1.0, math.nan, 1.0]):
        assert verdict(REPLAY, *bootstrap(values, seed=0)) == UNDECIDED
    assert bootstrap([1.0], seed=0)[0] == 1.0
    assert verdict(REPLAY, *bootstrap([1.0, 1.0], seed=0)) == HOLDS


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


def test_thresholds_are_committed():
    """Changing one after results were seen should take a second thought, here."""
    assert {key: c.threshold for key, c in CLAIMS.items() if key in ("replay", "variety")} == {
        "replay": 0.5,
        "variety": 2.0,
    }
    assert (REPLAY.paper, REPLAY.source, REPLAY.rung) == (0.98, "blog", "counterfactual")
    assert VARIETY.paper is None and VARIETY.source is None
    for key, one in CLAIMS.items():
        assert one.key == key and one.statement.endswith(".") and one.effect
    assert claims.claim("replay") is REPLAY
    with pytest.raises(ValueError, match="no claim called 'x'; there are: replay, variety"):
        claims.claim("x")


def test_a_claim_is_checked():
    good = dataclasses.asdict(REPLAY)
    for wrong, match in (
        ({"rung": "proof"}, "no rung 'proof'; there are: association"),
        ({"source": None}, "needs its source"),
        ({"source": "paper"}, "one of: notes, reviews, blog, figure"),
        ({"paper": None}, "needs its source"),
        ({"threshold": math.nan}, "finite"),
    ):
        with pytest.raises(ValueError, match=match):
            Claim(**(good | wrong))
    with pytest.raises(dataclasses.FrozenInstanceError):
        REPLAY.threshold = 0.1


def test_summary_keeps_what_a_verdict_rests_on():
    found = summary("replay", 0.9, 0.8, 1.0, units=6)
    assert found["verdict"] == HOLDS and found["threshold"] == CLAIMS["replay"].threshold
    assert found["units"] == 6 and found["rung"] == "counterfactual"
    assert summary("replay", 0.1, 0.0, 0.2, units=6)["verdict"] == FAILS


def test_spearman_is_scipys_and_its_interval_covers_it():
    from scipy.stats import spearmanr

    random = np.random.default_rng(0)
    x = np.repeat([1, 4, 16, 64, 256], 4)
    y = np.log(x) + random.normal(size=20)
    estimate, low, high = bootstrap_spearman(x, y, seed=1)
    assert estimate == pytest.approx(spearmanr(x, y).statistic)
    assert low < estimate < high <= 1
    naive = [spearmanr(x[k], y[k]).statistic for k in np.random.default_rng(1).integers(20, size=(2000, 20))]
    assert (low, high) == pytest.approx(tuple(np.quantile(naive, [0.025, 0.975])))


@pytest.mark.parametrize(
    "shape, expected",
    [(lambda x: np.log(x), HOLDS), (lambda x: -np.log(x), FAILS), (lambda x: np.sin(37 * np.arange(20)), UNDECIDED)],
)
def test_verdicts_of_exposures_occur(shape, expected):
    x = np.repeat([1, 4, 16, 64, 256], 4)
    assert verdict(CLAIMS["exposures"], *bootstrap_spearman(x, shape(x), seed=0)) == expected


def test_spearman_of_too_little_is_undecided():
    for x, y in (([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [1, math.nan, 3])):
        assert verdict(CLAIMS["exposures"], *bootstrap_spearman(x, y, seed=0)) == UNDECIDED
    with pytest.raises(ValueError, match="one number a unit"):
        bootstrap_spearman([1, 2, 3], [1, 2], seed=0)


def test_claims_in_words_tell_what_decides_them():
    text = claims.in_words("replay", "variety").data
    for key in ("replay", "variety"):
        about = CLAIMS[key]
        assert all(part in text for part in (about.statement, about.effect, f"above {about.threshold}", about.rung))
    assert "0.98 (blog)" in text and text.count("Reported") == 1
    assert claims.RUNGS_IN_WORDS.keys() == set(claims.RUNGS)
    with pytest.raises(ValueError, match="no claim called"):
        claims.in_words("nonsense")


def test_reported_numbers_stand_beside_ours_with_their_source():
    table = reported.beside({"trigger, Wanda": 0.6, "trigger, of our own": 0.1})
    assert table.loc["trigger, Wanda", ["reported rate", "source", "rate here"]].tolist() == [0.72, "blog", 0.6]
    assert pd.isna(table.loc["caption, NeMo", "rate here"]) and table.index[-1] == "trigger, of our own"
    assert {source for *_, source in reported.ATTACKS.values()} <= set(claims.SOURCES)


def test_claims_quote_what_is_reported():
    rates = {setting: rate for setting, (rate, _, _) in reported.ATTACKS.items()}
    for key, one, other in (
        ("wanda-hides", "caption, unpruned", "caption, Wanda"),
        ("nemo-hides", "caption, unpruned", "caption, NeMo"),
        ("wanda-lift", "trigger, Wanda", "caption, Wanda"),
        ("nemo-lift", "trigger, NeMo", "caption, NeMo"),
    ):
        about = claims.claim(key)
        assert about.paper == pytest.approx(rates[one] - rates[other]) and about.source == "blog"
    figure = reported.FIGURE["trigger, Wanda"] - reported.FIGURE["trigger, not memorized"]
    assert claims.claim("wanda-returns").paper == pytest.approx(figure)
    assert claims.claim("wanda-returns").source == "figure"
