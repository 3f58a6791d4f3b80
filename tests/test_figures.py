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
        columns=["target", "model", "share"],
    )
    axis = figures.replay_rates(table, "share").axes[0]
    shown = {collection.get_label(): collection.get_offsets()[:, 0].tolist() for collection in axis.collections}
    assert shown["own twin"] == [0.9, 0.7]
    assert shown["other twin"] == [0.0]
    assert len({tuple(c.get_paths()[0].vertices.ravel()[:4]) for c in axis.collections}) == 2  # markers differ


def test_scatter_detectors_shades_the_corner_where_both_say_copy():
    table = pd.DataFrame({"cosine": [0.9, 0.2], "ratio": [0.4, 3.0], "model": ["own twin", "parent"]})
    axis = figures.scatter_detectors(table, 0.6).axes[0]
    corner = axis.collections[0].get_paths()[0].vertices
    assert corner[:, 0].max() == 1 and corner[:, 1].min() == 0.6
    shown = {c.get_label(): c.get_offsets().tolist() for c in axis.collections[1:]}
    assert shown["own twin"] == [[0.4, 0.9]] and shown["parent"] == [[3.0, 0.2]]


def test_exposure_curve_runs_through_the_means_of_either_twin():
    table = pd.DataFrame(
        [
            (1, "own twin", 0.1),
            (1, "own twin", 0.3),
            (64, "own twin", 0.9),
            (1, "other twin", 0.0),
            (64, "other twin", 0.2),
        ],
        columns=["exposures", "model", "score"],
    )
    axis = figures.exposure_curve(table, "score", 0.6).axes[0]
    lines = {line.get_label(): [list(x) for x in line.get_data()] for line in axis.lines}
    assert lines["own twin"] == [[1, 64], [pytest.approx(0.2), 0.9]]
    assert lines["other twin"] == [[1, 64], [0.0, 0.2]]
    assert axis.get_xscale() == "log" and [t.get_text() for t in axis.get_xticklabels()] == ["1", "64"]


def test_strips_mark_the_median_of_each_group():
    table = pd.DataFrame({"v": [1.0, 2.0, 9.0, 4.0], "kind": ["a", "a", "a", "b"], "model": ["x", "y", "x", "y"]})
    for hue in (None, "model"):
        axis = figures.strips(table, "v", "kind", hue=hue).axes[0]
        assert [line.get_xdata()[0] for line in axis.lines[-2:]] == [2.0, 4.0]
        points = [x for c in axis.collections for x in c.get_offsets()[:, 0].tolist()]
        assert sorted(points) == [1.0, 2.0, 4.0, 9.0]


def test_roc_curves_draw_each_curve_in_a_line_style_of_its_own():
    axis = figures.roc_curves({"one": ([0, 0, 1], [0, 1, 1]), "two": ([0, 1], [0, 1])}).axes[0]
    curves = {line.get_label(): line for line in axis.lines}
    assert curves["one"].get_ydata().tolist() == [0, 1, 1]
    assert curves["one"].get_linestyle() != curves["two"].get_linestyle()


def test_score_distributions_show_every_kind_and_the_threshold():
    axis = figures.score_distributions({"copies": [0.9, 0.95, 0.99], "others": [0.1, 0.2]}, 0.62).axes[0]
    assert [t.get_text() for t in axis.get_yticklabels()] == ["copies", "others"]
    assert any(list(line.get_xdata()) == [0.62, 0.62] for line in axis.lines)
    assert any("0.62" in text.get_text() for text in axis.texts)


def test_token_bars_are_shares():
    axes = figures.token_bars({"twin": (["a", "red", "fish"], torch.tensor([1.0, 2.0, 1.0]))}).axes
    assert [bar.get_width() for bar in axes[0].patches] == [0.25, 0.5, 0.25]
    assert [t.get_text() for t in axes[0].get_yticklabels()] == ["a", "red", "fish"]


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


def test_verdicts_of_too_few_units_say_so():
    nan = float("nan")
    found = {"estimate": 0.5, "low": nan, "high": nan, "threshold": 0.5, "units": 1, "rung": "intervention"}
    verdicts = {"wanda-lift": found | {"verdict": "undecided"}}
    verdicts["nemo-lift"] = verdicts["wanda-lift"] | {"units": 0, "estimate": nan}
    table = figures.verdict_table(verdicts, profiles.load("standard"))
    assert table["effect [95 % interval]"].tolist() == ["0.50 [one unit]", "no units"]
