"""Effects in units, and what they say of a committed claim."""

import numpy as np
import pandas as pd
import pytest

from dori_lite.book import verdicts
from dori_lite.book.claims import FAILS, HOLDS, UNDECIDED, Claim
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


def test_a_contrast_is_canary_by_canary_against_the_highest_control():
    table = pd.concat([rows("own", HIGH, near=3.0), rows("other", LOW, near=0.5), rows("pruned", LOW[::-1], near=0.5)])
    found = verdicts.contrast(table, "own", "other", "pruned")
    assert found["score"].tolist() == pytest.approx(
        [h - max(a, b) for h, a, b in zip(HIGH, LOW, LOW[::-1], strict=True)]
    )
    assert found["nearness"].tolist() == pytest.approx([np.log(3.0) - np.log(0.5)] * 6)
    assert found["cluster"].tolist() == [0, 0, 1, 1, 2, 2]
    shuffled = pd.concat([rows("own", HIGH), rows("other", LOW).iloc[::-1]])
    assert verdicts.contrast(shuffled, "own", "other")["score"].tolist() == pytest.approx(
        [h - x for h, x in zip(HIGH, LOW, strict=True)]
    )


def test_without_groups_each_canary_is_its_own_cluster():
    table = pd.concat([rows("own", HIGH, groups=False), rows("other", LOW, groups=False)])
    assert verdicts.contrast(table, "own", "other")["cluster"].tolist() == [f"t{k}" for k in range(6)]


def test_what_cannot_be_compared_is_one_line(one_line):
    table = pd.concat([rows("own", HIGH), rows("other", LOW[:4])])
    one_line(ValueError, "no rows with condition 'x'; there are: own, other", verdicts.contrast, table, "own", "x")
    one_line(ValueError, "'other' and 'own' are of different canaries", verdicts.contrast, table, "own", "other")
    twice = pd.concat([rows("own", HIGH), rows("own", HIGH)])
    one_line(ValueError, "t0 is there twice", verdicts.units_of, twice)


def judged(about, high=HIGH, low=LOW, **options):
    table = pd.concat([rows("own", high, **options.get("own", {})), rows("other", low, **options.get("other", {}))])
    return verdicts.judged(about, verdicts.contrast(table, "own", "other"))


NEAR, FAR = {"near": 3.0}, {"near": 0.5}


def test_the_score_decides_if_the_other_detector_has_its_sign():
    assert judged(claim(), own=NEAR, other=FAR)["verdict"] == HOLDS
    assert judged(claim(), own=FAR, other=NEAR)["verdict"] == DEPENDS
    assert judged(claim(threshold=0.95), own=NEAR, other=FAR)["verdict"] == FAILS
    undecided = judged(claim(threshold=0.83), own=FAR, other=NEAR)
    assert undecided["verdict"] == UNDECIDED and undecided["low"] < 0.83 < undecided["high"]
    assert undecided["units"] == 6 and undecided["clusters"] == 3


def test_clusters_are_what_counts():
    alone = verdicts.judged(
        claim(),
        verdicts.contrast(
            pd.concat([rows("own", HIGH, groups=False), rows("other", LOW, groups=False)]), "own", "other"
        ),
    )
    together = judged(claim())
    assert alone["clusters"] == 6 and together["high"] - together["low"] != alone["high"] - alone["low"]


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


def test_the_same_side_of_the_threshold():
    assert verdicts.same_sign(claim(), 0.6, 0.9) and not verdicts.same_sign(claim(), 0.6, 0.4)
    inside = claim(within=True, threshold=0.1)
    assert verdicts.same_sign(inside, 0.05, -0.02) and not verdicts.same_sign(inside, 0.05, -0.3)


def test_identical_pictures_have_a_finite_nearness():
    table = rows("own", [1.0, 1.0])
    table["adaptive l2"] = [[float("inf"), 1.0], [0.0, 1.0]]
    assert verdicts.units_of(table)["nearness"].tolist() == [5.0, -5.0]
