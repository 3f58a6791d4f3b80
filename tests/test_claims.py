"""Claims that were committed before the second pair existed: read as data, hashed, planned."""

from dataclasses import replace

import pytest

from dori_lite import planning
from dori_lite.book import claims as committed
from dori_lite.book.claims import CLAIMS, FAILS, HOLDS, UNDECIDED, Claim, Plan


def test_the_claims_are_those_that_the_twins_were_trained_after():
    """The hash is in the twins' manifest (tests/test_recipes.py compares it): nothing may be edited here."""
    assert committed.committed() == "97a678d256d6a9f1d7cfffa48616d4c538840201b41edf831d5b091897007cb3"
    assert len(CLAIMS) == 26 and {about.chapter for about in CLAIMS.values()} == {1, 2, 3, 4, 5}


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
    assert committed.verdict(claim(), 0.7, float("nan"), float("nan")) == UNDECIDED


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
    with pytest.raises(ValueError, match="needs its source"):
        claim(paper=0.9)
    with pytest.raises(ValueError, match="finite number"):
        claim(threshold=float("nan"))
