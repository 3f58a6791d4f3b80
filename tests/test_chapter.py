"""What chapters begin and end with: the run they go on with, and the table of verdicts."""

import json
import shutil

import pandas as pd
import pytest

from dori_lite import assets, locks
from dori_lite.book import chapter, profiles
from dori_lite.evaluation import World
from dori_lite.runs import open_existing


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A world that costs nothing, its runs in a folder of their own."""
    import types

    def load(*names, device=None, world):
        assert world == "toy"
        made = World("toy", dict.fromkeys(names), None, None, None, None, {"m": toy.hash})
        return made

    toy = types.SimpleNamespace(hash="1")
    monkeypatch.setenv("DORI_RUNS", str(tmp_path / "runs"))
    monkeypatch.setitem(chapter.WORLDS, "toy", "toy")
    monkeypatch.setattr(chapter, "import_module", lambda name: types.SimpleNamespace(load=load))
    return toy


def begin(**options):
    return chapter.begin("99_toy", "quick", 0, "m", world="toy", **options)


def keep(run, **row):
    for _ in run.todo("picture", target=["x"]):
        run.keep(row)


def test_a_chapter_goes_on_with_its_rows(toy):
    world, settings, run = begin()
    keep(run, rate=1)
    assert world.models.keys() == {"m"} and settings.name == "quick" and run.world == "toy"
    assert len(begin()[2].rows("picture")) == 1


@pytest.mark.parametrize("change", ["weights", "cells", "anew"])
def test_other_weights_other_cells_or_force_start_afresh(toy, change, monkeypatch, capsys):
    keep(begin()[2], rate=1)
    if change == "weights":
        toy.hash = "2"
    elif change == "cells":
        monkeypatch.setattr(chapter, "experiment_cells", lambda name: "another")
    else:
        monkeypatch.setenv(chapter.ANEW, "1")
    assert begin()[2].rows("picture").empty
    assert capsys.readouterr().out.count("starting afresh") == 1


def test_unknown_worlds_and_profiles_are_named(toy, one_line):
    one_line(
        ValueError,
        "no world called 'sea'; there are: reef, reef-first, sd14, sd2, toy",
        chapter.begin,
        "c",
        "quick",
        0,
        world="sea",
    )
    one_line(ValueError, "no profile called 'sd14'", chapter.begin, "c", "sd14", 0, world="toy")


def test_only_experiment_cells_count_and_not_their_comments(tmp_path, monkeypatch):
    def code(source, *tags):
        return {"cell_type": "code", "source": source, "metadata": {"tags": list(tags)}}

    def digest(*cells):
        folder = tmp_path / "book" / "chapters"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "c.ipynb").write_text(json.dumps({"cells": list(cells)}))
        return chapter.experiment_cells("c")

    monkeypatch.setattr(assets, "PACKAGE", tmp_path / "dori_lite")
    assert chapter.experiment_cells("c") is None
    words = {"cell_type": "markdown", "source": "x", "metadata": {}}
    first = digest(words, code("plan = {1: 2}", "experiment"), code("draw(1)", "figure"))
    assert first == digest(code("plan = {1: 2}  # a word", "experiment"), code("draw(2)", "figure"), words)
    assert first != digest(code("plan = {1: 3}", "experiment"), code("draw(1)", "figure"))
    assert digest(code("a = 1")) != digest(code("a = 2"))  # no tags: every cell counts


SCORES = {"x": (1.0, 0.0), "y": (0.75, 0.125), "z": (0.875, 0.25)}  # own, other twin


def fill(run, scores=SCORES):
    """Rows of claim "replay", no two canaries of one description."""
    for t, both in scores.items():
        for model, score in zip(("own twin", "other twin"), both, strict=True):
            for _ in run.todo("picture", target=[t], model=[model]):
                row = {"descriptor mean": score, "descriptor rate": score, "diversity": 1.0 if score < 0.5 else 0.25}
                run.keep(row | {"adaptive l2": [1 + score, 1 + score], "adaptive l2 rate": 0.0})
    return run


@pytest.fixture
def no_results(tmp_path, monkeypatch):
    """A data folder where nothing is published."""
    monkeypatch.setattr(assets, "data_folder", lambda: tmp_path / "data")
    return tmp_path / "data" / "results"


def publish(folder, world, chapter_name="99_toy", profile="standard", **verdicts):
    """What a published run's record says."""
    place = folder / world / chapter_name / profile
    place.mkdir(parents=True)
    record = {"chapter": chapter_name, "world": world, "profile": {"name": profile}, "seed": 0, "verdicts": verdicts}
    (place / "record.json").write_text(json.dumps(record))


def said(estimate, verdict="holds here", **more):
    return {"estimate": estimate, "low": 0.0, "high": 1.0, "units": 16, "clusters": 8, "threshold": 0.5} | {
        "rung": "counterfactual", "verdict": verdict, **more}  # fmt: skip


def test_concluding_writes_the_record_and_returns_its_verdicts_as_a_table(toy, no_results):
    world, settings, run = begin()
    table = chapter.conclude(fill(run), world, settings, "replay", "variety", numbers={"n": 2})
    record = open_existing(run.folder).read_record()
    assert record["models"] == {"m": "1"} and record["numbers"] == {"n": 2} and record["world"] == "toy"
    assert [*record["verdicts"]] == ["replay", "variety"] == [*table.index]
    replay = record["verdicts"]["replay"]
    assert replay["estimate"] == 0.75 and replay["units"] == replay["clusters"] == 3
    assert replay["rates"]["descriptor"]["estimate"] == 0.75 and replay["rates"]["adaptive l2"]["estimate"] == 0
    row = table.loc["replay"]
    assert row["effect [interval]"] == "0.75 (n = 3, no interval below six units)" and replay["low"] < 0.75
    assert (row["threshold"], row["units"], row["evidence"]) == (0.5, "3", "counterfactual")
    assert row["verdict"] == f"{replay['verdict']} (direction only)"  # the profile is quick
    assert row["in rates"] == replay["rates"]["verdict"] == "undecided" and table.loc["variety", "in rates"] == ""
    assert row["published (standard)"] == row["first pair"] == "not yet run"
    assert table.loc["variety", "effect [interval]"] == "4.00 (n = 3, no interval below six units)"
    assert record["verdicts"]["variety"]["low"] is None


def test_the_published_verdict_and_the_first_pair_s_stand_beside(toy, no_results):
    publish(no_results, "toy", replay=said(0.3, "does not hold here"))
    publish(no_results, chapter.FIRST, replay=said(0.4), variety=said(2.5))
    publish(no_results, "toy", profile="quick", replay=said(0.1, "undecided"))
    publish(no_results, "toy", "98_else", replay=said(0.1, "undecided"))
    world, settings, run = begin()
    table = chapter.conclude(fill(run), world, settings, "replay", "variety")
    assert table["published (standard)"].tolist() == ["does not hold here", "not yet run"]
    assert table["first pair"].tolist() == ["0.40, same side", "2.50, same side"]  # as 0.3, and this run's 4
    assert chapter.published_verdicts("99_toy", "toy") == {"replay": said(0.3, "does not hold here")}
    assert chapter.published_verdicts("99_toy", "reef") == {} == chapter.published_verdicts("97", "toy")


def test_the_first_pair_has_no_column_of_its_own_beside_itself(toy, no_results, monkeypatch):
    publish(no_results, chapter.FIRST, replay=said(0.4, "does not hold here"))
    world, settings, run = begin()
    run.world = chapter.FIRST
    table = chapter.conclude(fill(run), world, settings, "replay")
    assert table.loc["replay", "published (standard)"] == "does not hold here" and "first pair" not in table


def test_the_site_shows_the_published_run_and_writes_nothing(toy, no_results, monkeypatch):
    """Without DORI_SHOW, or without a published run, a chapter goes on with its own."""
    monkeypatch.setenv(chapter.SHOW, "published")
    world, settings, run = begin()
    own = chapter.conclude(fill(run), world, settings, "replay")
    assert settings.name == "quick" and run.stamp is not None and run.read_record()["verdicts"]["replay"]
    publish(no_results, "toy", replay=said(0.75))
    shutil.copytree(run.folder / "rows", (place := no_results / "toy" / "99_toy" / "standard") / "rows")
    before, held = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}, {*locks.HELD}

    world, settings, shown = begin()
    assert shown.folder == place and settings == profiles.load("standard") and world.models.keys() == {"m"}
    axes = {"target": {"x": "asked otherwise", "new": 1}, "model": ["own twin"]}
    assert [*shown.todo("picture", **axes)] == [*shown.todo("nothing yet", target=["x"])] == []
    assert len(shown.rows("picture")) == 2 * len(SCORES)
    table = chapter.conclude(shown, world, settings, "replay")
    assert table.loc["replay", "effect [interval]"] == own.loc["replay", "effect [interval]"]
    assert own.loc["replay", "verdict"] == f"{table.loc['replay', 'verdict']} (direction only)"  # of its own profile
    after = {path: path.read_bytes() for path in no_results.parent.rglob("*") if path.is_file()}
    assert after == before and {*locks.HELD} == held and not list(no_results.rglob("*lock*"))

    for shows in ("", "0"):
        monkeypatch.setenv(chapter.SHOW, shows)
        assert begin()[2].folder == run.folder and begin()[1].name == "quick"


def table_of(profile="standard", published=None, first=None, **verdicts):
    return chapter.verdict_table(verdicts, profiles.load(profile), published or {}, first)


def test_only_quick_is_direction_only():
    quick = table_of("quick", replay=said(0.8))
    assert quick.loc["replay", "verdict"] == "holds here (direction only)"
    assert table_of(replay=said(0.8)).loc["replay", "verdict"] == "holds here"
    assert table_of("quick", {"replay": said(0.8)}, replay=said(0.8)).loc["replay", "published (standard)"] == (
        "holds here"
    )


def test_the_columns_say_what_a_reader_needs():
    columns = ["effect [interval]", "threshold", "units", "evidence", "verdict", "in rates", "published (standard)"]
    table = table_of(replay=said(0.8, rates={"verdict": "detector-dependent"}), variety=said(2.5, clusters=16))
    assert list(table.columns) == columns and table.index.name == "claim" and isinstance(table, pd.DataFrame)
    assert list(table_of(first={}, replay=said(0.8)).columns) == [*columns, "first pair"]
    assert table["in rates"].tolist() == ["detector-dependent", ""]
    assert table["units"].tolist() == ["16 in 8", "16"]
    assert table.loc["replay", "effect [interval]"] == "0.80 [0.00, 1.00]"


@pytest.mark.parametrize("nothing", [None, float("nan")])
def test_effects_of_too_few_units_say_so(nothing):
    none = {"low": nothing, "high": nothing, "verdict": "undecided"}
    table = table_of(**{
        "wanda-lift": said(0.5, **none | {"units": 1, "clusters": 1}),
        "replay": said(0.5, **none | {"units": 6, "clusters": 1}),
        "variety": said(0.5, **none | {"units": 6, "clusters": 2}),
        "work": said(nothing, **none | {"units": 0, "clusters": 0}),
        "magnitude": said(nothing, **none),
    })  # fmt: skip
    few = "0.50 (n = 1, no interval below six units)"
    expected = [few, "0.50 [one unit]", "0.50 [no interval]", "no units", "nan [no interval]"]
    assert table["effect [interval]"].tolist() == expected
    assert table["units"].tolist() == ["1", "6 in 1", "6 in 2", "0", "16 in 8"]


@pytest.mark.parametrize("key, fewest, more", [("replay", 6, ""), ("magnitude-detects", 12, " a side")])
def test_an_interval_is_shown_from_six_units_on(key, fewest, more):
    """Of an area, from six on either side."""
    for units, shown in ((fewest, "0.80 [0.00, 1.00]"), (fewest - 1, None), (2, None)):
        shown = shown or f"0.80 (n = {units}, no interval below six units{more})"
        found = said(0.8, units=units, clusters=units)
        assert table_of("quick", **{key: found}).loc[key, "effect [interval]"] == shown
        assert table_of("quick", **{key: found}).loc[key, "verdict"] == "holds here (direction only)"
    assert chapter.in_brackets(said(0.8, units=6)) == "0.80 [0.00, 1.00]"  # of whatever claim


def test_what_the_first_pair_said_is_compared_by_the_side_of_the_threshold():
    def first(key, here, there):
        return chapter.first_said(key, said(here), {key: said(there)})

    assert first("replay", 0.8, 0.6) == "0.60, same side" and first("replay", 0.8, 0.4) == "0.40, other side"
    assert first("variety", 1.5, 0.5) == "0.50, same side"  # both below 2
    assert first("wanda-utility", 0.05, -0.25) == "-0.25, other side"  # within ±0.1, and outside
    assert chapter.first_said("replay", said(0.8), {}) == "not yet run"
    assert chapter.first_said("replay", said(0.8), {"variety": said(0.6)}) == "not yet run"
    assert first("replay", None, 0.6) == first("replay", 0.6, None) == "not yet run"  # null: what was no number


def test_the_worlds_are_the_two_pairs_and_stable_diffusion(one_line, tmp_path):
    assert [*chapter.WORLDS] == ["reef", chapter.FIRST, "sd14", "sd2"] and chapter.FIRST == "reef-first"
    for right in ("reef", "sd14", str(tmp_path), tmp_path):
        assert chapter.check_world(right) is None
    for wrong in ("reef-second", "", None, 3, {}, tmp_path / "none"):
        one_line(ValueError, "no world called .*; there are: reef, reef-first, sd14, sd2", chapter.check_world, wrong)
