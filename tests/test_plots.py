"""Figures of chapters 3 and 4 show what their tables hold; the reported numbers carry their source."""

import pandas as pd
import pytest
import torch

from dori_lite.lab import claims, plots, reported


def series(axis):
    return {line.get_label(): line.get_data() for line in axis.lines if not line.get_label().startswith("_")}


def test_conditions_show_every_canary_and_the_mean():
    table = pd.DataFrame({"condition": ["a", "a", "b", "b"], "rate": [1.0, 0.5, 0.0, 0.2]})
    axis = plots.by_condition(table, "rate").axes[0]
    assert [t.get_text() for t in axis.get_yticklabels()] == ["a", "b"]
    dots = [x for c in axis.collections for x in c.get_offsets()[:, 0].tolist()]
    assert sorted(dots) == pytest.approx(sorted([1.0, 0.5, 0.0, 0.2, 0.75, 0.1]))
    low, high = axis.lines[0].get_xdata()
    assert (low, high) == (0.5, 1.0)  # the bootstrap's ends


def test_dose_response_has_a_panel_for_each_twin_and_a_line_for_each_mask():
    rows = [("twin-a", m, rho, r) for m, r in (("Wanda", 0.2), ("random", 0.9)) for rho in (0.01, 0.1)]
    rows += [("twin-b", m, rho, r / 2) for _, m, rho, r in rows]
    figure = plots.dose_response(pd.DataFrame(rows, columns=["twin", "mask", "rho", "rate"]))
    assert [axis.get_title() for axis in figure.axes] == ["twin-a", "twin-b"]
    for axis, scale in zip(figure.axes, (1, 0.5), strict=True):
        heights = [container.lines[0].get_ydata().tolist() for container in axis.containers]
        assert heights == [[0.2 * scale] * 2, [0.9 * scale] * 2]
        assert [t.get_text() for t in axis.get_xticklabels()] == ["1", "10"]
    styles = [container.lines[0].get_linestyle() for container in figure.axes[0].containers]
    assert len(set(styles)) == 2


def test_bars_are_lengths_and_none_without_an_interval():
    nan = float("nan")
    mean, low, high = (pd.Series(x).to_numpy() for x in ([0.5, 0.5], [0.2, nan], [0.6, nan]))
    assert plots.bars(mean, low, high).ravel().tolist() == pytest.approx([0.3, 0, 0.1, 0])


def curve_table():
    rows = [("x", "remembers", "caption", 0, 1.0), ("y", "remembers", "caption", 0, 0.5)]
    rows += [("x", "remembers", "caption", 10, 1.0), ("y", "remembers", "caption", 10, 1.0)]
    rows += [("x", "held-out", "random", 10, 0.25), ("y", "held-out", "random", 10, 0.75)]
    return pd.DataFrame(rows, columns=["target", "condition", "start", "steps", "rate"])


def test_rate_curves_run_through_the_means():
    figure = plots.rate_curves(curve_table(), threshold=0.6)
    caption, random = figure.axes
    assert [caption.get_title(), random.get_title()] == ["caption", "random"]
    x, y = series(caption)["remembers"]
    assert list(x) == [0, 10] and list(y) == [0.75, 1.0]
    assert list(series(random)["held-out"][1]) == [0.5] and "remembers" not in series(random)
    assert [t.get_text() for t in caption.get_xticklabels()] == ["0", "10"]
    assert any(list(line.get_ydata()) == [0.6, 0.6] for line in caption.lines)


def test_every_condition_is_told_apart_without_colour():
    assert len({(marker, str(line)) for _, marker, line in plots.CONDITIONS.values()}) == len(plots.CONDITIONS)
    assert len({marker for _, marker, _ in plots.CONDITIONS.values()}) == len(plots.CONDITIONS)


def test_the_poster_frames_copies_and_only_copies():
    picture = torch.rand(3, 8, 8)
    rows = {"remembers": [(picture, 0.9), (picture, 0.69)], "pruned": [(picture, 0.1), (picture, 0.7)]}
    figure = plots.poster(rows, (0, 1), picture, 0.7, "Title", "caption")
    axes = [figure.axes[k : k + 3] for k in (0, 3)]
    framed = [[axis.spines["left"].get_visible() for axis in line[1:]] for line in axes]
    assert framed == [[True, False], [False, True]]
    texts = [[axis.get_xlabel() for axis in line[1:]] for line in axes]
    assert texts == [["✓ copy 0.90", "0.69"], ["0.10", "✓ copy 0.70"]]
    assert [axis.get_title() for axis in axes[0]] == ["the picture", "0 steps", "1 step"]
    assert not axes[1][0].images and axes[0][0].images
    with pytest.raises(ValueError, match="pruned: give one picture for each of the 2"):
        plots.poster({"pruned": [(picture, 0.1)]}, (0, 1), picture, 0.7)


def test_reported_numbers_stand_beside_ours_with_their_source():
    table = reported.beside({"trigger, Wanda": 0.6, "trigger, of our own": 0.1})
    assert table.loc["trigger, Wanda", ["reported rate", "source", "rate here"]].tolist() == [0.72, "blog", 0.6]
    assert pd.isna(table.loc["caption, NeMo", "rate here"]) and table.index[-1] == "trigger, of our own"
    assert {source for *_, source in reported.ATTACKS.values()} <= set(claims.SOURCES)


def test_claims_quote_what_is_reported():
    rates = {setting: rate for setting, (rate, _, _) in reported.ATTACKS.items()}
    for key, one, other in (
        ("wanda-hides", "caption, unpruned", "caption, Wanda"),
        ("nemo-hides", "caption, unpruned", "caption, NeMo"),
        ("wanda-lift", "trigger, Wanda", "caption, Wanda"),
        ("nemo-lift", "trigger, NeMo", "caption, NeMo"),
    ):
        assert (
            claims.claim(key).paper == pytest.approx(rates[one] - rates[other]) and claims.claim(key).source == "blog"
        )
    figure = reported.FIGURE["trigger, Wanda"] - reported.FIGURE["trigger, not memorized"]
    assert claims.claim("wanda-returns").paper == pytest.approx(figure)
    assert claims.claim("wanda-returns").source == "figure"
