"""What chapters begin and end with: the run they go on with, and the table of verdicts."""

import json

import pandas as pd
import pytest

from dori_lite import assets
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
        "no world called 'sea'; there are: reef, reef-second, toy",
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


def test_concluding_writes_the_record_and_shows_the_published_verdict(toy, monkeypatch):
    world, settings, run = begin()
    rates = [("x", "own twin", 1.0), ("x", "other twin", 0.0), ("y", "own twin", 0.75), ("y", "other twin", 0.0)]
    for t, model, rate in rates:
        for _ in run.todo("picture", target=[t], model=[model]):
            run.keep({"descriptor rate": rate})
    fresh = open_existing(run.folder)
    table = chapter.conclude(fresh, world, settings, "replay", numbers={"n": 2})
    record = fresh.read_record()
    assert record["models"] == {"m": "1"} and record["numbers"] == {"n": 2} and record["world"] == "toy"
    assert record["verdicts"]["replay"]["estimate"] == 0.875 and record["verdicts"]["replay"]["units"] == 2
    low, high = (record["verdicts"]["replay"][end] for end in ("low", "high"))
    assert low < 0.875 < high and table.loc["replay", "effect [95 % interval]"] == f"0.88 [{low:.2f}, {high:.2f}]"
    assert "direction only" in table.loc["replay", "verdict"]
    assert table.loc["replay", "published (standard)"] == "not yet run"


def test_verdict_table_marks_quick_as_direction_only():
    found = {"estimate": 1.0, "low": 0.9, "high": 1.0, "threshold": 0.5, "units": 3, "rung": "counterfactual"}
    verdicts = {"replay": {**found, "verdict": "holds here"}}
    quick = chapter.verdict_table(verdicts, profiles.load("quick"), {})
    assert "direction only" in quick.loc["replay", "verdict"]
    assert quick.loc["replay", "published (standard)"] == "not yet run"
    standard = chapter.verdict_table(verdicts, profiles.load("standard"), verdicts)
    assert standard.loc["replay", "verdict"] == "holds here"
    assert standard.loc["replay", "published (standard)"] == "holds here"


def test_verdicts_of_too_few_units_say_so():
    nan = float("nan")
    found = {"estimate": 0.5, "low": nan, "high": nan, "threshold": 0.5, "units": 1, "rung": "intervention"}
    verdicts = {"wanda-lift": found | {"verdict": "undecided"}}
    verdicts["nemo-lift"] = verdicts["wanda-lift"] | {"units": 0, "estimate": nan}
    table = chapter.verdict_table(verdicts, profiles.load("standard"), {})
    assert table["effect [95 % interval]"].tolist() == ["0.50 [one unit]", "no units"]
    assert isinstance(table, pd.DataFrame)
