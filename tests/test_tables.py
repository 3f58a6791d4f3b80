"""Tables of chapters, from planted rows whose answer is known."""

import math

import pandas as pd
import pytest

from dori_lite import assets
from dori_lite.book import claims, tables
from dori_lite.copies import Detector
from dori_lite.files import write_json
from dori_lite.runs import open_existing
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


# ---- tables of what is published ---------------------------------------------------------------------

RECORDS = sorted((assets.data_folder() / "results").glob("*/*/*/record.json"))


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A data folder where nothing is published yet."""
    monkeypatch.setattr(assets, "data_folder", lambda: tmp_path)
    return tmp_path / "results"


def publish(results, world, chapter, profile="standard", minutes=3.5, machine="a GPU", **verdicts):
    record = {"chapter": chapter, "world": world, "profile": {"name": profile}, "seed": 0, "verdicts": verdicts}
    record |= {"machine": machine} | ({} if minutes is None else {"minutes": minutes})
    write_json(results / world / chapter / profile / "record.json", record)


def said(estimate, verdict="holds here", **more):
    found = {"estimate": estimate, "low": estimate, "high": estimate, "units": 16, "clusters": 8, "threshold": 0.5}
    return found | {"rung": "counterfactual", "verdict": verdict} | more


def test_before_anything_is_published_every_claim_is_not_yet_run(results):
    table = tables.all_claims()
    assert [*table.index] == [*claims.CLAIMS] and table.index.name == "claim"
    for name in ("effect [interval]", "verdict", "first pair"):
        assert set(table[name]) == {"not yet run"}
    assert set(table["in rates"]) == {""} and len(tables.minutes()) == 0


def test_every_claim_stands_beside_what_both_pairs_said_of_it(results):
    rates = {"verdict": "detector-dependent"}
    publish(results, "reef", "01_x", replay=said(0.75, low=0.7, high=0.8, rates=rates), variety=said(4.0))
    publish(results, "reef", "03_y", **{"wanda-utility": said(0.2, "undecided", low=None, high=None, clusters=1)})
    publish(results, "reef-first", "01_x", replay=said(0.4, "undecided"), variety=said(2.5), outliers=said(9.0))
    publish(results, "reef-first", "03_y", **{"wanda-utility": said(-0.05)})
    publish(results, "elsewhere", "02_z", magnitude=said(9.0))
    table = tables.all_claims()
    assert list(table.columns) == [*("threshold", "effect [interval]", "verdict", "in rates", "evidence", "first pair")]
    assert table.loc["replay"].tolist() == [
        *("0.5", "0.75 [0.70, 0.80]", "holds here", "detector-dependent"),
        *("counterfactual, confirmed", "0.40, another sign"),
    ]
    assert table.loc["variety"].tolist() == [
        *("2.0", "4.00 [4.00, 4.00]", "holds here", "", "counterfactual, confirmed", "2.50, same sign")
    ]
    assert table.loc["wanda-utility"].tolist() == [
        *("±0.1", "0.20 [one unit]", "undecided", "", "intervention, confirmed", "-0.05, another sign")
    ]
    not_yet = table.drop(index=["replay", "variety", "wanda-utility"])
    assert set(not_yet["verdict"]) == set(not_yet["first pair"]) == {"not yet run"}  # outliers and magnitude too


def test_a_standard_run_counts_beyond_a_quick_or_full_one(results):
    for profile, estimate in (("quick", 0.1), ("standard", 0.2), ("full", 0.3)):
        publish(results, "reef", "01_x", profile, replay=said(estimate))
    assert tables.all_claims().loc["replay", "effect [interval]"] == "0.20 [0.20, 0.20]"


def test_minutes_are_by_chapter_pair_machine_and_profile(results):
    publish(results, "reef", "01_x", "standard", 12.5)
    publish(results, "reef", "01_x", "quick", 2.0)
    publish(results, "reef", "02_y", "standard", None)
    publish(results, "reef-first", "01_x", "standard", 20.0, "CPU")
    publish(results, "elsewhere", "01_x", "standard", 99.0)
    table = tables.minutes()
    assert table.index.names == ["chapter", "pair", "machine"] and list(table.columns) == ["quick", "standard"]
    assert table.loc[("01_x", "reef", "a GPU")].tolist() == [2.0, 12.5]
    assert table.loc[("01_x", "reef-first", "CPU"), "standard"] == 20.0
    assert math.isnan(table.loc[("02_y", "reef", "a GPU"), "standard"]) and len(table) == 3


@pytest.mark.parametrize("path", RECORDS, ids=["/".join(path.parts[-4:-1]) for path in RECORDS])
def test_the_shipped_tables_say_what_the_records_say(path):
    record, run = open_existing(path.parent).read_record(), open_existing(path.parent)
    shown = tables.minutes().loc[(run.chapter, run.world, record["machine"]), run.profile["name"]]
    assert shown == record["minutes"]
    if (run.world, run.profile["name"]) == ("reef", "standard"):
        table = tables.all_claims()
        for key, found in record["verdicts"].items():
            assert table.loc[key, "verdict"] == found["verdict"]
            assert table.loc[key, "effect [interval]"].startswith(f"{found['estimate']:.2f} [")


# ---- the paper's numbers -----------------------------------------------------------------------------


def test_our_numbers_stand_beside_the_reported_ones():
    names = ("remembers", "pruned by NeMo", "pruned by Wanda", "held-out", "never saw it")
    rows = attacks({name: {"x": (k, k + 0.1, k + 0.2)} for k, name in enumerate(names)})
    elsewhere = attacks({name: {"x": (9, 9, 9)} for name in names}, start="random")
    here = tables.reported_and_ours(pd.concat([rows, elsewhere]), 10, 20)["rate here"]
    assert (here["caption, Wanda"], here["trigger, Wanda"], here["trigger, NeMo"]) == (2, 2.1, 1.1)
    assert here["trigger, not memorized"] == 3.1 and "trigger, not memorized, 20 steps" not in here
    assert (here["trigger, never saw the picture"], here["trigger, never saw the picture, 20 steps"]) == (4.1, 4.2)
    assert (here["caption, unpruned"], here["caption, NeMo"], here["trigger, unpruned"]) == (0, 1, 0.1)


def test_the_steps_for_nemo_and_the_number_of_neurons_are_read_from_what_was_measured(tmp_path, monkeypatch):
    searched = {"before": 0.9, "after": 0.5, "rate": 0.25, "met": 1.0, "neurons": 7.5, "rows": []}
    areas = {"seven layers": {"area": 0.7656, "go": False}, "sixteen layers": {"area": 0.81, "go": True}}
    found = {"a": areas, "b": searched | {"go": True}, "c": searched | {"go": False, "step": 20}}
    rows = [("a", 96, 0.47), ("a", 192, 0.05), ("b", 96, 0.68), ("b", 192, 0.14)]
    found["loss"] = {f"twin-{twin}, {n}": {"after": after, "rate": after > 0.3} for twin, n, after in rows}
    monkeypatch.setenv("DORI_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError):
        tables.where_nemo_could_act()
    write_json(tmp_path / "results" / "nemo_act.json", found)
    assets.record(tmp_path / "results", "nemo_act.json")
    steps = tables.where_nemo_could_act()
    assert steps["go"].tolist() == ["no go", "go", "go", "no go"] and "step 20" in steps.index[3]
    assert steps["area"].tolist() == [0.77, 0.81, "", ""] and steps["after"].tolist() == ["", "", 0.5, 0.5]
    tuned = tables.neurons_on_tuning()
    assert tuned.index.tolist() == ["96", "192"]
    assert tuned["score", "twin-a"].tolist() == [0.47, 0.05] and tuned["rate", "twin-b"].tolist() == [True, False]
