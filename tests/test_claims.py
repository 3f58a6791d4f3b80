"""Claims that were committed before the second pair existed: read as data, hashed, planned, put into words."""

import math
from dataclasses import replace

import pandas as pd
import pytest

from dori_lite import planning
from dori_lite.book import claims as committed
from dori_lite.book import everywhere, inside, removed, reported, weights
from dori_lite.book.claims import CLAIMS, FAILS, HOLDS, UNDECIDED, Claim, Plan


def test_the_claims_are_those_that_the_twins_were_trained_after():
    """The hash is in the twins' manifest (tests/test_recipes.py compares it): nothing may be edited here."""
    assert committed.committed() == "97a678d256d6a9f1d7cfffa48616d4c538840201b41edf831d5b091897007cb3"
    first = [about for about in CLAIMS.values() if about.later is None]
    assert len(first) == 26 and {about.chapter for about in first} == {1, 2, 3, 4, 5}


def test_what_was_thought_of_later_is_no_part_of_the_stamp_and_says_so(monkeypatch):
    before, later = committed.committed(), [about for about in CLAIMS.values() if about.later]
    known = {"neurons-hide", "neurons-choose", "neurons-return", "transfers"}
    assert {about.key for about in later} == known | {
        *everywhere.EFFECTS,
        *inside.EFFECTS,
        *weights.EFFECTS,
        *removed.EFFECTS,
    }
    monkeypatch.setitem(CLAIMS, "neurons-hide", replace(CLAIMS["neurons-hide"], threshold=0.1))
    assert committed.committed() == before
    assert "*Committed later*: 2026-11-26" in committed.in_words("neurons-hide").data
    assert "Committed later" not in committed.in_words("replay").data


@pytest.mark.parametrize("field, value", [("threshold", 0.4), ("effect", "another"), ("plan", None), ("control", "")])
def test_any_edit_changes_the_hash_but_an_amendment_does_not(monkeypatch, field, value):
    before = committed.committed()
    monkeypatch.setitem(CLAIMS, "replay", replace(CLAIMS["replay"], amended=("2026-12-01: because",)))
    assert committed.committed() == before
    monkeypatch.setitem(CLAIMS, "replay", replace(CLAIMS["replay"], **{field: value}))
    assert committed.committed() != before


def test_the_rules_are_part_of_it(monkeypatch):
    before = committed.committed()
    monkeypatch.setattr(committed, "RULES", committed.RULES.replace("both hold", "one holds"))
    assert committed.committed() != before


def test_every_claim_says_what_could_have_shown_it_otherwise():
    for about in CLAIMS.values():
        assert about.control and about.effect and about.statement.endswith(".")
        assert about.rate is None or about.measure == "score"
        assert (about.paper is None) == (about.source is None)


def test_the_file_is_read_as_it_stands():
    rules, found = committed.read()
    assert rules == committed.RULES and found == CLAIMS and "unit is the canary" in rules
    assert all(key == about.key and isinstance(about.amended, tuple) for key, about in found.items())
    assert found["replay"].plan == Plan(16, 8, 0.856, 0.076) and found["membership"].plan is None
    within = {"exposures-flat", "wanda-utility", "scatter-is-the-start", "linear-image"}
    within |= {"at-the-floor", "floor-of-the-loop", "savings", "loss-gap"}
    assert {key for key, about in found.items() if about.within} == within
    assert committed.claim("work").threshold == 2.0 and committed.claim("work").measure == "ratio"


def test_claims_in_words_tell_what_decides_them(monkeypatch):
    text = committed.in_words("replay", "variety", "wanda-utility").data
    for key, where in (("replay", "above 0.5"), ("variety", "above 2.0"), ("wanda-utility", "within ±0.1")):
        about = CLAIMS[key]
        assert all(part in text for part in (key, about.statement, about.effect, about.control, where, about.rung))
    assert "0.98 (blog)" in text and text.count("Reported") == 1 and "Amended" not in text
    assert text.count("\n") == 2 and committed.RUNGS["counterfactual"] in text
    monkeypatch.setitem(CLAIMS, "replay", replace(CLAIMS["replay"], amended=("2026-12-01: because.",)))
    assert "*Amended*: 2026-12-01: because." in committed.in_words("replay").data
    with pytest.raises(ValueError, match="no claim called"):
        committed.in_words("nonsense")


def test_reported_numbers_stand_beside_ours_with_their_source():
    table = reported.beside({"trigger, Wanda": 0.6, "trigger, of our own": 0.1})
    assert table.loc["trigger, Wanda", ["reported rate", "source", "rate here"]].tolist() == [0.72, "blog", 0.6]
    assert pd.isna(table.loc["caption, NeMo", "rate here"]) and table.index[-1] == "trigger, of our own"
    assert {source for *_, source in reported.ATTACKS.values()} <= set(committed.SOURCES)


def test_claims_quote_what_is_reported():
    rates = {setting: rate for setting, (rate, _, _) in reported.ATTACKS.items()}
    for key, one, other in (
        ("wanda-hides", "caption, unpruned", "caption, Wanda"),
        ("nemo-hides", "caption, unpruned", "caption, NeMo"),
        ("wanda-lift", "trigger, Wanda", "caption, Wanda"),
    ):
        about = committed.claim(key)
        assert about.paper == pytest.approx(rates[one] - rates[other]) and about.source == "blog"
    assert CLAIMS["replay"].paper == rates["caption, unpruned"]
    figure = reported.FIGURE["trigger, Wanda"] - reported.FIGURE["trigger, not memorized"]
    assert CLAIMS["wanda-returns"].paper == pytest.approx(figure) and CLAIMS["wanda-returns"].source == "figure"


def claim(**options):
    given = {"key": "k", "chapter": 1, "statement": "s.", "effect": "e", "control": "c", "measure": "score"}
    return Claim(**given | {"threshold": 0.5, "rung": "intervention"} | options)


def test_verdicts_are_by_the_interval():
    said = {"above": (0.6, 0.8, HOLDS), "below": (0.1, 0.4, FAILS), "across": (0.4, 0.6, UNDECIDED)}
    for low, high, expected in said.values():
        assert committed.verdict(claim(), (low + high) / 2, low, high) == expected
    inside = claim(within=True, threshold=0.1)
    for low, high, expected in (
        (-0.05, 0.09, HOLDS),
        (0.11, 0.2, FAILS),
        (-0.3, -0.11, FAILS),
        (-0.02, 0.2, UNDECIDED),
    ):
        assert committed.verdict(inside, (low + high) / 2, low, high) == expected
    assert committed.verdict(claim(), 0.7, math.nan, math.nan) == UNDECIDED
    assert committed.verdict(claim(), math.inf, 1.0, math.inf) == UNDECIDED
    assert committed.verdict(claim(), 0.7, 0.5, 0.8) == UNDECIDED  # at the threshold is not above it
    assert committed.verdict(inside, 0.0, -0.1, 0.1) == UNDECIDED
    with pytest.raises(ValueError, match="upside down"):
        committed.verdict(claim(), 0.7, 0.8, 0.6)


def test_power_is_plannings(one_line):
    plan = Plan(16, 8, 0.7, 0.3)
    expected = planning.power(8, 0.3 * 0.5**0.5, 0.2)
    assert committed.power(claim(plan=plan)) == pytest.approx(expected) and 0.5 < expected < 1
    ratio = claim(measure="ratio", threshold=2.0, plan=Plan(16, 8, 1.0, 0.3))
    assert committed.power(ratio) == pytest.approx(planning.power(8, 0.3 * 0.5**0.5, 1 - 0.6931), abs=1e-3)
    assert committed.power(claim(plan=Plan(16, 8, 0.4, 0.3))) == 0.0 and committed.power(claim()) is None
    within = claim(within=True, threshold=0.1, plan=Plan(16, 16, 0.0, 0.1))
    assert committed.power(within) == pytest.approx(planning.power(16, 0.1, 0.1, inside=True, level=0.9))


def test_claims_that_do_not_fit_are_one_line(one_line):
    one_line(ValueError, "no claim called 'x'; there are: replay", committed.claim, "x")
    for options in ({"rung": "hunch"}, {"measure": "feeling"}):
        with pytest.raises(ValueError, match="claim k: "):
            claim(**options)
    for options in ({"paper": 0.9}, {"source": "blog"}, {"paper": 0.9, "source": "hearsay"}):
        with pytest.raises(ValueError, match="needs its source, one of: notes, reviews, blog, figure"):
            claim(**options)
    with pytest.raises(ValueError, match="finite number"):
        claim(threshold=float("nan"))
