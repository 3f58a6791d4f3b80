"""Tables of chapters, from planted rows whose answer is known."""

import math

import pandas as pd
import pytest

from dori_lite import assets, stats
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
    six = pd.concat([ROWS] * 3 + [ROWS[2:]] * 2)  # six rows of one condition, five of the other
    table = tables.counts(six, 0.7)
    assert table.loc["saw"].tolist() == [9, 12, round(upper_limit(9, 12), 3)]
    assert table.loc["never", ["copies", "pictures"]].tolist() == [0, 10]
    assert list(table.index) == ["saw", "never"] and math.isnan(table.loc["never", "at most (95 %)"])
    assert table["copies"].dtype == table["pictures"].dtype == int
    assert list(tables.counts(ROWS, 0.7).columns) == ["copies", "pictures"]  # too few for any limit


def test_detectors_stand_side_by_side_and_what_they_differ_on_is_counted():
    detectors = [Detector("descriptor", len, 0.7), Detector("adaptive l2", len, 1.0)]
    table = tables.agreement(ROWS, detectors)
    assert table.loc["saw"].tolist() == [0.75, 0.5, "1 of 4"]
    assert table.loc["never"].tolist() == [0.0, 0.5, "1 of 2"]


SIX = ([5.0, 6.0, 7.0, 8.0, 9.0, 10.0], [1.0, 2.0, 3.0, 4.0, 5.5, 0.0])


def test_areas_have_an_interval_from_six_captions_a_side_on():
    sides = {("magnitude", "twin-a"): SIX, ("magnitude", "twin-b"): (SIX[0], SIX[1][:5])}
    sides |= {("x", "twin-a"): (SIX[0][:2], SIX[1])}
    table = tables.areas(sides, "test", "model")
    assert table.index.names == ["test", "model"] and list(table.columns) == ["auc", "low", "high"]
    assert tuple(table.loc[("magnitude", "twin-a")]) == stats.auc_interval(*SIX) and table["auc"].iloc[0] < 1
    for k, few in enumerate(list(sides.values())[1:], 1):
        assert table["auc"].iloc[k] == stats.auc_interval(*few)[0] and table.iloc[k, 1:].isna().all()
    few = tables.areas({"one": (SIX[0][:5], SIX[1]), "two": (SIX[0], SIX[1][:3])})
    assert list(few.columns) == ["auc"] and list(few.index) == ["one", "two"]


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
    record |= {"processes": 2} if machine == "CPU" else {}
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
        *("counterfactual, committed", "0.40, other side"),
    ]
    assert table.loc["variety"].tolist() == [
        *("2.0", "4.00 [4.00, 4.00]", "holds here", "", "counterfactual, committed", "2.50, same side")
    ]
    assert table.loc["wanda-utility"].tolist() == [
        *("±0.1", "0.20 [one unit]", "undecided", "", "intervention, committed", "-0.05, other side")
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
    assert table.loc[("01_x", "reef-first", "CPU, 2 processes"), "standard"] == 20.0
    assert math.isnan(table.loc[("02_y", "reef", "a GPU"), "standard"]) and len(table) == 3


@pytest.mark.parametrize("path", RECORDS, ids=["/".join(path.parts[-4:-1]) for path in RECORDS])
def test_the_shipped_tables_say_what_the_records_say(path):
    record, run = open_existing(path.parent).read_record(), open_existing(path.parent)
    processes = f", {record['processes']} processes" if record.get("processes", 1) > 1 else ""
    shown = tables.minutes().loc[(run.chapter, run.world, record["machine"] + processes), run.profile["name"]]
    assert shown == record["minutes"]
    if (run.world, run.profile["name"]) == ("reef", "standard"):
        table = tables.all_claims()
        for key, found in record["verdicts"].items():
            assert table.loc[key, "verdict"] == found["verdict"]
            assert table.loc[key, "effect [interval]"].startswith(f"{found['estimate']:.2f} [")


# ---- many claims together ----------------------------------------------------------------------------


def units(effect, noise=0.0):
    values = [effect + noise * x for x in (-1.5, -1, -0.5, 0.5, 1, 1.5)]
    return pd.DataFrame({"score": values, "nearness": 1.0, "value": values, "cluster": range(6)}).assign(
        **{f"{name} rate": 0.5 for name in ("descriptor", "adaptive l2")})  # fmt: skip


def test_many_claims_are_shown_by_themselves_and_among_all(results, monkeypatch):
    said = {"wanda-hides": "holds here", "wanda-chooses": "holds here", "wanda-trace": "undecided"}
    found = {"wanda-hides": units(0.9, 0.01), "wanda-chooses": units(0.6, 0.24), "wanda-trace": units(0.0, 0.3)}
    found |= {"nemo-hides": units(0.01, 0.001), "wanda-utility": units(0.0, 0.01), "outliers": units(9, 0.1)}
    monkeypatch.setattr(tables, "effect", lambda key, run: found[key])
    publish(results, "reef", "03_x", **{key: {"verdict": verdict} for key, verdict in said.items()})
    publish(results, "reef", "04_x", **{"nemo-hides": {"verdict": "does not hold here"}})
    publish(results, "reef", "05_x", **{"wanda-utility": {"verdict": "holds here"}})
    publish(results, "reef", "05_x", "quick", outliers={"verdict": "holds here"})
    publish(results, "reef-first", "03_x", outliers={"verdict": "holds here"})
    table = tables.multiplicity()
    assert table.index.name == "claim" and sorted(table.index) == sorted([*said, "nemo-hides", "wanda-utility"])
    assert list(table.columns) == ["verdict by itself", "verdict among all"]
    assert table.loc["wanda-hides"].tolist() == ["holds here", "holds here"]
    assert table.loc["wanda-chooses"].tolist() == ["holds here", "undecided"]  # 0.6 ± 0.29, ± 0.44 among three
    assert table.loc["nemo-hides"].tolist() == ["does not hold here"] * 2
    text = tables.by_accident(table)
    assert text.startswith("5 claims were judged, each by itself, and 3 hold. If none were true, at most 0.")
    assert text.endswith("for one claim by itself, 2 hold; no longer: wanda-chooses.")
    first = tables.multiplicity("reef-first")
    assert list(first.index) == ["outliers"] and tables.by_accident(first).endswith("itself, 1 hold.")


def test_accidents_are_counted_at_each_claim_s_own_level():
    keys = [key for key, about in claims.CLAIMS.items() if not about.within][:9]
    within = [key for key, about in claims.CLAIMS.items() if about.within][:2]
    for chosen, expected in ((keys[:4], "0.1"), (keys, "0.2"), (keys[:5], "0.1"), (keys[:3] + within, "0.2")):
        table = pd.DataFrame({name: "undecided" for name in (tables.ITSELF, tables.AMONG)}, index=chosen)
        assert f"at most {expected} of them" in tables.by_accident(table)


@pytest.mark.parametrize("world", ["reef", "reef-first"])
def test_the_shipped_claims_are_fewer_or_as_many_together(world):
    table = tables.multiplicity(world)
    held = [key for key in table.index if table.loc[key, tables.AMONG] == "holds here"]
    assert len(table) > 20 and len(held) > 0 and set(table.loc[held, tables.ITSELF]) == {"holds here"}


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
