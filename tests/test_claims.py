"""Claims: planted tables in which each verdict is right, and statistics against known values."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest

from dori_lite.book import claims, reported
from dori_lite.book.claims import CLAIMS, FAILS, HOLDS, UNDECIDED, Claim, summary, verdict
from dori_lite.stats import mean_interval, paired_interval, ratios, spearman_interval

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
    return verdict(REPLAY, *paired_interval(by_model["own"], by_model["other"]))


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
        ([0.0] * 8, [0.5] * 8, UNDECIDED),  # nor do eight: a ratio without end has no interval
        ([0.0] * 8, [0.0] * 8, UNDECIDED),  # no variety anywhere: no ratio
    ],
)
def test_each_verdict_of_variety_occurs(own, other, expected):
    assert verdict(VARIETY, *mean_interval(ratios(own, other), geometric=True)) == expected


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
        assert verdict(REPLAY, *mean_interval(values)) == UNDECIDED
        assert verdict(REPLAY, *mean_interval(values, bounds=(-1, 1), reach=1)) == UNDECIDED
    for units, expected in ((2, UNDECIDED), (4, UNDECIDED), (5, HOLDS), (8, HOLDS)):  # all of them copies
        assert verdict(REPLAY, *paired_interval([1] * units, [0] * units)) == expected


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


@pytest.mark.parametrize(
    "shape, expected",
    [(lambda x: np.log(x), HOLDS), (lambda x: -np.log(x), FAILS), (lambda x: np.sin(37 * np.arange(20)), UNDECIDED)],
)
def test_verdicts_of_exposures_occur(shape, expected):
    x = np.repeat([1, 4, 16, 64, 256], 4)
    assert verdict(CLAIMS["exposures"], *spearman_interval(x, shape(x))) == expected


def test_spearman_of_too_little_is_undecided():
    for x, y in (([1, 2, 3], [1, 2, 3]), ([1, 1, 1, 1], [1, 2, 3, 4]), ([1, 2, 3, 4], [1, math.nan, 3, 4])):
        assert verdict(CLAIMS["exposures"], *spearman_interval(x, y)) == UNDECIDED


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
