"""Tables of chapters, from planted rows whose answer is known."""

import pandas as pd
import pytest

from dori_lite.book import effects, tables
from dori_lite.copies import Detector
from dori_lite.files import write_json
from dori_lite.stats import upper_limit

ROWS = pd.DataFrame(
    {
        "condition": ["saw", "saw", "never"],
        "target": ["x", "y", "x"],
        "descriptor": [[0.9, 0.2], [0.7, 0.8], [0.1, 0.2]],
        "adaptive l2": [[2.0, 0.5], [0.5, 1.0], [0.1, 1.5]],
    }
)


def test_counts_are_of_pictures_and_carry_the_exact_limit():
    table = tables.counts(ROWS, 0.7)
    assert table.loc["saw", ["copies", "pictures"]].tolist() == [3, 4]
    assert table.loc["never"].tolist() == [0, 2, round(upper_limit(0, 2), 3)]
    assert list(table.index) == ["saw", "never"]


def test_detectors_stand_side_by_side_and_what_they_differ_on_is_counted():
    detectors = [Detector("descriptor", len, 0.7), Detector("adaptive l2", len, 1.0)]
    table = tables.agreement(ROWS, detectors)
    assert table.loc["saw"].tolist() == [0.75, 0.5, "1 of 4"]
    assert table.loc["never"].tolist() == [0.0, 0.5, "1 of 2"]


def attacks(found, start="prompt"):
    """{condition: {target: rates after 0, 10 and 20 steps}}"""
    rows = [
        (name, target, start, steps, rate)
        for name, targets in found.items()
        for target, rates in targets.items()
        for steps, rate in zip((0, 10, 20), rates, strict=True)
    ]
    return pd.DataFrame(rows, columns=["condition", "target", "start", "steps", "descriptor rate"])


def test_two_by_two_shows_the_rates_before_and_after():
    rows = attacks({"saw": {"x": (1, 1, 0.5), "y": (0.5, 1, 0.5)}, "never": {"x": (0, 0, 0.25)}})
    table = tables.before_and_after(rows, {"own": {"unpruned": "saw"}, "other": {"unpruned": "never"}}, 20)
    assert table["unpruned"].tolist() == ["0.75 → 0.50", "0.00 → 0.25"]


def test_first_hits_count_targets_by_steps_and_never_comes_last():
    rows = attacks({"saw": {"x": (0.5, 1, 1), "y": (0, 0, 0.75), "z": (0, 0, 0.25)}, "never": {"x": (0, 0.25, 0)}})
    table = tables.first_hits(rows)
    assert list(table.columns) == [0, 20, "never"] and list(table.index) == ["saw", "never"]
    assert table.loc["saw"].tolist() == [1, 1, 1] and table.loc["never"].tolist() == [0, 0, 1]


def test_membership_shows_area_and_gap(monkeypatch):
    losses = {("pruned by Wanda", "a"): [0.1, 0.2], ("never saw it", "a"): [0.3, 0.5]}
    monkeypatch.setattr(effects, "membership_areas", lambda run: {("never saw it", "a"): (1.0, 0.9, 1.0)})
    monkeypatch.setattr(effects, "final_losses", lambda run, condition, home: losses[condition, home])
    table = tables.membership(None)
    assert table.loc[("never saw it", "home a")].tolist() == ["1.00 [0.90, 1.00]", pytest.approx(0.25)]


def test_published_and_recomputed_verdicts_stand_side_by_side(monkeypatch, tmp_path, one_line):
    file = tmp_path / "recomputed.json"
    monkeypatch.setattr(effects, "recomputed_file", lambda world: file)
    one_line(FileNotFoundError, "effects.write_recomputed\\('reef'\\)", tables.recomputed)
    old = {"estimate": 0.25, "low": 0.125, "high": 0.4, "verdict": "holds here"}
    new, none = old | {"low": 0.08, "verdict": "undecided"}, old | {"low": None, "high": None, "verdict": "undecided"}
    endless = old | {"estimate": None, "high": None}  # a record keeps no infinities
    claims = {"injection": (old, new), "nemo-lift": (none, none), "variety": (endless, endless)}
    content = {
        "04_x/standard": {
            key: {"units": 16, "threshold": 0.1, "published": one, "recomputed": other}
            for key, (one, other) in claims.items()
        }
    }
    write_json(file, content)
    table = tables.recomputed()
    assert table.loc[("04_x/standard", "injection")].tolist() == [
        *(0.25, 0.1, 16, "[0.12, 0.40]", "holds here", "[0.08, 0.40]", "undecided")
    ]
    assert table.loc[("04_x/standard", "nemo-lift")].tolist()[3:] == ["none", "undecided", "none", "undecided"]
    assert pd.isna(table.loc[("04_x/standard", "variety"), "effect"])
    assert table.loc[("04_x/standard", "variety"), "as published: interval"] == "none"


def test_the_published_table_is_there():
    table = tables.recomputed()
    assert table.loc[("04_the_picture_comes_back/standard", "injection"), "as published: verdict"] == "holds here"
    assert table.loc[("04_the_picture_comes_back/standard", "injection"), "recomputed: verdict"] == "undecided"


def test_our_numbers_stand_beside_the_reported_ones():
    names = ("remembers", "pruned by NeMo", "pruned by Wanda", "held-out", "never saw it")
    rows = attacks({name: {"x": (k, k + 0.1, k + 0.2)} for k, name in enumerate(names)})
    elsewhere = attacks({name: {"x": (9, 9, 9)} for name in names}, start="random")
    here = tables.reported_and_ours(pd.concat([rows, elsewhere]), 10, 20)["rate here"]
    assert (here["caption, Wanda"], here["trigger, Wanda"], here["trigger, NeMo"]) == (2, 2.1, 1.1)
    assert (here["trigger, not memorized"], here["trigger, not memorized, 20 steps"]) == (3.1, 3.2)
    assert here["trigger, never saw the picture"] == 4.1
