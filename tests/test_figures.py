"""Figures and explorers need no model: pictures and tables in, a figure out."""

import re

import pandas as pd
import pytest
import torch
from PIL import Image

from dori_lite.lab import figures, profiles, widgets


def test_grid_draws_every_picture_and_label():
    rows = {"one": torch.rand(3, 3, 8, 8), "two": [Image.new("RGB", (8, 8))]}
    figure = figures.grid(rows, columns=["a", "b", "c"])
    drawn = [image for axis in figure.axes for image in axis.images]
    assert len(drawn) == 4
    texts = {text.get_text() for axis in figure.axes for text in axis.texts} | {a.get_title() for a in figure.axes}
    assert {"one", "two", "a", "b", "c"} <= texts
    assert (drawn[0].get_array() == figures.as_array(rows["one"][0])).all()


def test_grid_without_pictures_says_so():
    with pytest.raises(ValueError, match="at least one picture"):
        figures.grid({"none": []})


def test_replay_rates_shows_the_rates_of_the_table():
    table = pd.DataFrame(
        [("marlow", "own twin", 0.9), ("marlow", "other twin", 0.0), ("pomona", "own twin", 0.7)],
        columns=["canary", "model", "rate"],
    )
    axis = figures.replay_rates(table).axes[0]
    shown = {collection.get_label(): collection.get_offsets()[:, 0].tolist() for collection in axis.collections}
    assert shown["own twin"] == [0.9, 0.7]
    assert shown["other twin"] == [0.0]
    assert len({tuple(c.get_paths()[0].vertices.ravel()[:4]) for c in axis.collections}) == 2  # markers differ


def frames():
    return {(w, k): Image.new("RGB", (4, 4), (k, 0, 0)) for w in ("x", "y") for k in (1, 2)}


def test_explorer_changes_its_picture_with_its_controls(monkeypatch):
    monkeypatch.delenv(widgets.BUILDING, raising=False)
    picture, controls = widgets.explore(frames(), ("word", "noise")).children
    before = picture.value
    controls.children[1].value = 2
    assert picture.value != before
    assert picture.value == widgets.png(frames()["x", 2])


def test_explorer_on_the_site_needs_no_kernel_and_no_network(monkeypatch):
    monkeypatch.setenv(widgets.BUILDING, "1")
    page = widgets.explore(frames(), ("word", "noise")).data
    assert page.count("<select>") == 2
    assert len(re.findall(r'"\d \d": "', page)) == 4
    assert "http" not in page


def test_explorer_refuses_missing_frames():
    some = frames()
    del some["y", 2]
    with pytest.raises(ValueError, match="1 combinations"):
        widgets.explore(some, ("word", "noise"))
    with pytest.raises(ValueError, match="key of 1 parts"):
        widgets.explore(some, ("word",))


def test_verdict_table_marks_quick_as_direction_only():
    found = {"estimate": 1.0, "low": 0.9, "high": 1.0, "threshold": 0.5, "units": 3, "rung": "counterfactual"}
    verdicts = {"replay": {**found, "verdict": "holds here"}}
    quick = figures.verdict_table(verdicts, profiles.load("quick"))
    assert "direction only" in quick.loc["replay", "verdict"]
    assert quick.loc["replay", "published (standard)"] == "not yet run"
    standard = figures.verdict_table(verdicts, profiles.load("standard"), published=verdicts)
    assert standard.loc["replay", "verdict"] == "holds here"
    assert standard.loc["replay", "published (standard)"] == "holds here"
