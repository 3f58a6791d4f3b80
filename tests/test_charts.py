"""Charts show what their rows hold, and every name in a style of its own."""

import io
import warnings
from itertools import combinations, product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import cbook
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.text import Text

from dori_lite.figures import charts, doses, graded, pictures, style
from dori_lite.stats import FEWEST, mean_interval, roc


def series(axis):
    return {line.get_label(): line.get_data() for line in axis.lines if not line.get_label().startswith("_")}


# ---- styles -------------------------------------------------------------------------------------------


def test_conditions_differ_in_colour_marker_and_line():
    for (a, one), (b, other) in combinations(style.PALETTE.items(), 2):
        assert all(x != y for x, y in zip(one, other, strict=True)), f"{a} and {b} share a colour, marker or line"


def test_names_that_are_not_in_the_palette_differ_too():
    found = style.styles("abcd")
    assert list(found) == [*"abcd"]
    assert all(len({look[k] for look in found.values()}) == 4 for k in range(3))
    with pytest.raises(ValueError, match=r"5 names .* \(a, b, c, d, e\), and 4 to spare"):
        style.styles("abcde")


def test_a_name_keeps_its_style_and_no_other_name_gets_its_colour():
    found = style.styles(["x", "own twin", "pruned by NeMo", "y"])
    assert found["own twin"] == style.PALETTE["remembers"]
    assert found["pruned by NeMo"] == style.PALETTE["pruned by NeMo"]
    assert len({colour for colour, _, _ in found.values()}) == 4
    assert style.styles(["other twin", "parent"]) == {
        "other twin": style.PALETTE["never saw it"],
        "parent": style.PALETTE["parent"],
    }


def test_a_chart_has_no_box_and_a_left_line_where_wanted():
    for left in (True, False):
        with style.chart(4, 2, 2, left=left) as (_, axes):
            assert len(axes) == 2
        for axis in axes:
            seen = {side for side, spine in axis.spines.items() if spine.get_visible()}
            assert seen == ({"bottom", "left"} if left else {"bottom"})


# ---- models and conditions ----------------------------------------------------------------------------


def test_replay_rates_shows_the_rates_of_the_table():
    rows = pd.DataFrame(
        [("marlow", "own twin", 0.9), ("marlow", "other twin", 0.0), ("pomona", "own twin", 0.7)],
        columns=["target", "model", "share"],
    )
    axis = charts.replay_rates(rows, "share").axes[0]
    shown = {collection.get_label(): collection.get_offsets()[:, 0].tolist() for collection in axis.collections}
    assert shown == {"own twin": [0.9, 0.7], "other twin": [0.0]}
    assert len({tuple(c.get_paths()[0].vertices.ravel()[:4]) for c in axis.collections}) == 2  # markers differ
    assert [line.get_xdata()[0] for line in axis.lines] == pytest.approx([0.8, 0.0])  # means
    assert [t.get_text() for t in axis.get_yticklabels()] == ["marlow", "pomona"] and axis.yaxis_inverted()


@pytest.mark.parametrize("draw", [charts.replay_rates, charts.scatter_detectors])
def test_a_model_that_has_no_place_is_refused(draw):
    rows = pd.DataFrame({"target": ["x"], "model": ["cousin"], "descriptor": [[0.5]], "adaptive l2": [[1.0]]})
    with pytest.raises(ValueError, match="no line is known for cousin; there are: own twin, other twin, parent"):
        draw(rows, "descriptor")


def test_exposure_curve_runs_through_the_means_of_either_twin():
    rows = pd.DataFrame(
        [
            (1, "own twin", 0.1),
            (1, "own twin", 0.3),
            (64, "own twin", 0.9),
            (1, "other twin", 0.0),
            (64, "other twin", 0.2),
            (64, "parent", 0.5),
        ],
        columns=["exposures", "model", "score"],
    )
    axis = charts.exposure_curve(rows, "score", 0.6).axes[0]
    lines = {label: [list(x) for x in data] for label, data in series(axis).items()}
    assert lines == {"own twin": [[1, 64], [pytest.approx(0.2), 0.9]], "other twin": [[1, 64], [0.0, 0.2]]}
    assert axis.get_xscale() == "log" and [t.get_text() for t in axis.get_xticklabels()] == ["1", "64"]
    assert any(list(line.get_ydata()) == [0.6, 0.6] for line in axis.lines)
    [said] = axis.texts
    assert said.get_position() == (1, 0.6) and said.get_text() == "copy from here on"
    later = charts.exposure_curve(rows.assign(exposures=rows["exposures"] * 128), "score", 0.6).axes[0]
    assert later.texts[0].get_position() == (128, 0.6)  # where the axis begins
    assert len({(line.get_marker(), line.get_linestyle()) for line in axis.lines[:2]}) == 2


SIX = [1.0, 0.5, 0.75, 0.25, 1.0, 0.1]


def test_conditions_show_every_canary_and_the_mean():
    rows = pd.DataFrame({"condition": ["a"] * 6 + ["b", "b"], "rate": [*SIX, 0.0, 0.2]})
    axis = charts.by_condition(rows, "rate").axes[0]
    assert [t.get_text() for t in axis.get_yticklabels()] == ["a", "b"]
    dots = [x for c in axis.collections for x in c.get_offsets()[:, 0].tolist()]
    assert sorted(dots) == pytest.approx(sorted([*SIX, 0.6, 0.0, 0.2, 0.1]))
    low, high = axis.lines[0].get_xdata()
    assert (low, high) == mean_interval(SIX, bounds=(0, 1))[1:]
    assert pd.isna(axis.lines[1].get_xdata()).all()  # two canaries have a mean and no interval
    assert axis.get_xlabel() == "rate" and axis.get_xlim() == (-0.04, 1.04)
    other = charts.by_condition(rows.rename(columns={"condition": "mask"}), "rate", "mask", "share", (0, 2)).axes[0]
    assert other.get_xlabel() == "share" and other.get_xlim() == (0, 2)


def test_few_units_have_no_interval_and_rows_of_a_group_are_one_unit():
    def interval(count, value="rate", **columns):
        return style.interval(pd.DataFrame({value: SIX[:count], **columns}), value)

    assert interval(6) == mean_interval(SIX, bounds=(0, 1))
    assert interval(6, "score") == mean_interval(SIX)  # no share
    for few in range(1, style.FEWEST):
        mean, low, high = interval(few)
        assert mean == pytest.approx(sum(SIX[:few]) / few) and pd.isna([low, high]).all()
    twice = pd.DataFrame({"rate": SIX + [1 - x for x in SIX], "group": [0, 1, 2, 3, 4, 5] * 2})
    assert style.interval(twice, "rate") == mean_interval(twice["rate"], clusters=twice["group"], bounds=(0, 1))
    assert style.interval(twice, "rate") != mean_interval(twice["rate"], bounds=(0, 1))
    for group in ([0, 1, 2, 3, 4, 4], [7.0] * 6):
        assert pd.isna([*interval(6, group=group)[1:]]).all()  # six rows of fewer groups
    assert interval(6, group=[0, 1, 2, 3, 4, None]) == interval(6)  # where some have none, targets are units


def dose_rows():
    rows = [("twin-a", m, rho, r) for m, r in (("Wanda", 0.2), ("random", 0.9)) for rho in (0.01, 0.1)]
    rows += [("twin-b", m, rho, r / 2) for _, m, rho, r in rows]
    return pd.DataFrame(rows, columns=["model", "mask", "rho", "descriptor rate"])


def test_dose_response_has_a_panel_for_each_model_and_a_line_for_each_mask():
    figure = charts.dose_response(dose_rows())
    assert [axis.get_title() for axis in figure.axes] == ["twin-a", "twin-b"]
    for axis, scale in zip(figure.axes, (1, 0.5), strict=True):
        heights = [container.lines[0].get_ydata().tolist() for container in axis.containers]
        assert heights == [[0.2 * scale] * 2, [0.9 * scale] * 2]
        assert [t.get_text() for t in axis.get_xticklabels()] == ["1", "10"]
    lines = [container.lines[0] for container in figure.axes[0].containers]
    assert lines[0].get_marker() != lines[1].get_marker() and lines[0].get_color() != lines[1].get_color()
    assert [text.get_text() for text in figure.legends[0].texts] == ["Wanda", "random"]


def test_a_dose_that_one_mask_lacks_leaves_a_gap_in_place():
    rows = dose_rows()
    rows = rows[(rows["mask"] == "Wanda") | (rows["rho"] == 0.1)]
    (_, container) = charts.dose_response(rows).axes[0].containers
    assert container.lines[0].get_xdata().round().tolist() == [1]


def test_dose_response_compares_two_masks():
    with pytest.raises(ValueError, match=r"1 masks \(Wanda\); this compares two"):
        charts.dose_response(dose_rows().query("mask == 'Wanda'"))


def test_bars_are_lengths_and_none_without_an_interval():
    nan = float("nan")
    mean, low, high = (pd.Series(x).to_numpy() for x in ([0.5, 0.5], [0.2, nan], [0.6, nan]))
    assert charts.bars(mean, low, high).ravel().tolist() == pytest.approx([0.3, nan, 0.1, nan], nan_ok=True)
    low, high = (pd.Series([x, x]).to_numpy() for x in (0.5 + 1e-12, 0.5 - 1e-12))  # rounding is no negative length
    assert charts.bars(mean, low, high).ravel().tolist() == [0] * 4


def points(units: int, columns: str, *names):
    """So many units with the scores of `SIX` at each combination of names: a table with these columns and a value."""
    found = [(*some, x) for some in product(*names) for x in SIX[:units]]
    return pd.DataFrame(found, columns=[*columns.split(), "descriptor rate"])


def thresholds(units: int):
    found = [
        (f"t{k}", n, [s * x, s * x / 2]) for k, x in enumerate(SIX[:units]) for n, s in (("pruned", 1), ("parent", 0.3))
    ]
    rows = pd.DataFrame(found, columns=["target", "condition", "descriptor"])
    return graded.over_thresholds(rows, 0.5, "pruned", "parent")


WITH_INTERVALS = {  # figures of so many units a point
    "rate_curves": lambda n: charts.rate_curves(points(n, "condition start steps", ["remembers"], ["x"], [0, 10])),
    "by_condition": lambda n: charts.by_condition(points(n, "condition", "ab"), "descriptor rate"),
    "dose_response": lambda n: charts.dose_response(
        points(n, "model mask rho", ["x"], ["Wanda", "random"], [0.1, 0.2])
    ),
    "neurons": lambda n: doses.neurons(points(n, "model ranking n", ["x"], ["loss"], [48, 192]), "descriptor rate"),
    "over_thresholds": thresholds,
}


def extents(figure) -> int:
    """How many bands, bars and their caps a reader sees."""
    axis = figure.axes[0]
    bands = [path.vertices for c in axis.collections if isinstance(c, PolyCollection) for path in c.get_paths()]
    bars = [s for container in axis.containers for s in container.lines[2][0].get_segments()]
    caps = [cap.get_ydata() for container in axis.containers for cap in container.lines[1]]
    lines = [line.get_xdata() for line in axis.lines if line.get_linewidth() == 2 and line.get_color() == "black"]
    found = [np.asarray(part, float).ravel() for part in (*bands, *bars, *caps, *lines)]
    return sum(bool(len(part)) and np.isfinite(part).any() for part in found)


@pytest.mark.parametrize("name", WITH_INTERVALS)
def test_no_figure_shows_an_interval_of_fewer_than_six_units(name):
    assert style.FEWEST == FEWEST == 6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for units in (1, 2, 5):
            figure = WITH_INTERVALS[name](units)
            assert not extents(figure)
            assert not [text for text in figure.findobj(Text) if "95" in text.get_text()]
            means = [line for line in figure.axes[0].lines if line.get_marker() not in (None, "None", "")]
            dots = [c for c in figure.axes[0].collections if isinstance(c, PathCollection)]
            assert means or dots or name == "over_thresholds"  # what was measured is drawn
        figure.savefig(io.BytesIO(), dpi=40)
        assert extents(WITH_INTERVALS[name](6))


def curve_rows():
    rows = [(k, "remembers", "prompt", 0, rate) for k, rate in enumerate(SIX)]
    rows += [(k, "remembers", "prompt", 10, 1.0) for k in range(6)]
    rows += [(k, "held-out", "random", 10, 0.25 + 0.5 * (k % 2)) for k in range(6)]
    return pd.DataFrame(rows, columns=["target", "condition", "start", "steps", "descriptor rate"])


def test_rate_curves_run_through_the_means():
    figure = charts.rate_curves(curve_rows(), threshold=0.6)
    caption, random = figure.axes
    assert [caption.get_title(), random.get_title()] == ["from the caption", "from random numbers"]
    x, y = series(caption)["remembers"]
    assert list(x) == [0, 10] and list(y) == pytest.approx([0.6, 1.0])
    assert list(series(random)["held-out"][1]) == [0.5] and "remembers" not in series(random)
    assert [t.get_text() for t in caption.get_xticklabels()] == ["0", "10"]
    assert any(list(line.get_ydata()) == [0.6, 0.6] for line in caption.lines)
    named = [text.get_text() for text in figure.legends[0].texts]
    assert named == ["remembers", "held-out"]  # also what only the second panel shows
    assert caption.get_ylabel() == "share of pictures that are copies"
    band = caption.collections[0].get_paths()[0].get_extents()
    assert (band.ymin, band.ymax) == pytest.approx((mean_interval(SIX, bounds=(0, 1))[1], 1))


def test_rate_curves_show_any_column_as_panels():
    rows = curve_rows().rename(columns={"descriptor rate": "score"}).assign(home=["a"] * 12 + ["prompt"] * 6)
    figure = charts.rate_curves(rows, "score", "home", label="mean score")
    assert [axis.get_title() for axis in figure.axes] == ["pictures of twin A", "prompt"]
    assert figure.axes[0].get_ylabel() == "mean score"


def test_rate_curves_count_what_one_says():
    rows = curve_rows().rename(columns={"steps": "k"})
    figure = charts.rate_curves(rows, over="k")
    assert list(series(figure.axes[0])["remembers"][0]) == [0, 10]
    assert figure.axes[0].get_xlabel() == "directions in which the embedding may move"
    assert charts.rate_curves(curve_rows()).axes[0].get_xlabel() == "attack steps"
    assert charts.rate_curves(rows.rename(columns={"k": "α"}), over="α").axes[0].get_xlabel() == "α"


def test_a_condition_without_a_line_is_refused():
    rows = curve_rows().replace("held-out", "1 free")
    with pytest.raises(ValueError, match="no line is known for 1 free; there are: remembers, pruned by NeMo"):
        charts.rate_curves(rows)


# ---- how much of a model, and which part ---------------------------------------------------------------


def neuron_rows():
    """Six targets in twin A under three rankings, two in twin B under one; doses neither in order nor all there."""
    found = [("twin-b", "loss", n, k, 0.2 + 0.4 * k) for n in (1088, 48) for k in range(2)]
    found += [("twin-a", "random", n, k, 1 - x / 2) for n in (192, 48) for k, x in enumerate(SIX)]
    found += [("twin-a", "loss", n, k, x * scale) for n, scale in ((1088, 0.25), (48, 1), (192, 0.5))
              for k, x in enumerate(SIX)]  # fmt: skip
    found += [("twin-a", "|z|", 192, k, 0.5 + x / 4) for k, x in enumerate(SIX)]
    return pd.DataFrame(found, columns=["model", "ranking", "n", "target", "descriptor mean"])


def test_neurons_are_drawn_at_the_means_of_each_dose():
    figure = doses.neurons(neuron_rows())
    assert [axis.get_title() for axis in figure.axes] == ["twin-a", "twin-b"]
    drawn = [{c.get_label(): [x.tolist() for x in c.lines[0].get_data()] for c in a.containers} for a in figure.axes]
    assert list(drawn[0]) == ["|z|", "loss", "random"] and list(drawn[1]) == ["loss"]
    assert {name: [round(x) for x in places] for name, (places, _) in drawn[0].items()} == {
        "|z|": [1], "loss": [0, 1, 2], "random": [0, 1],  # evenly apart, whatever the numbers
    }  # fmt: skip
    assert len({places[-1] % 1 for places, _ in drawn[0].values()}) == 3  # side by side, not one on the other
    mean = sum(SIX) / 6  # 0.6
    assert drawn[0]["|z|"][1] == pytest.approx([0.5 + mean / 4])
    assert drawn[0]["loss"][1] == pytest.approx([mean, mean / 2, mean / 4])
    assert drawn[0]["random"][1] == pytest.approx([1 - mean / 2] * 2)
    assert drawn[1]["loss"] == [[0, 2], pytest.approx([0.4, 0.4])]  # at 48 and at all
    first, *_ = figure.axes[0].containers[1].lines[2][0].get_segments()
    assert first[:, 1].tolist() == pytest.approx(mean_interval(SIX)[1:])
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["48", "192", "1088"]
    assert figure.axes[0].get_ylabel() == "mean descriptor score"
    assert [text.get_text() for text in figure.legends[0].texts] == ["|z|", "loss", "random"]
    lines = [container.lines[0] for container in figure.axes[0].containers]
    looks = [(colour, marker) for colour, marker, _ in doses.RANKINGS.values()]
    assert [(line.get_color(), line.get_marker()) for line in lines] == looks
    assert all(len({*some}) == 3 for some in zip(*doses.RANKINGS.values(), strict=True))  # told apart three times


def test_neurons_show_shares_of_all_and_any_column():
    rows = neuron_rows().rename(columns={"descriptor mean": "other"})
    axis = doses.neurons(rows, "other", "nearness", total=1088).axes[0]
    assert [t.get_text() for t in axis.get_xticklabels()] == ["48\n4 %", "192\n18 %", "1088\n100 %"]
    assert axis.get_ylabel() == "nearness"


def test_neurons_that_cannot_be_drawn_are_one_line(one_line):
    rows = neuron_rows()
    match = r"^no line is known for slope; there are: \|z\|, loss, random$"
    one_line(ValueError, match, doses.neurons, rows.replace("random", "slope"))
    match = "^total=1087 is not a count that fits; give a whole number from 1088 on$"
    one_line(ValueError, match, doses.neurons, rows, total=1087)
    one_line(ValueError, "^rows have no column 'n'", doses.neurons, rows.drop(columns="n"))


def test_a_map_has_the_rows_order_and_their_means():
    parts = [("up", "late", 0.25), ("all", "late", 0.5), ("up", "early", 0.75), ("all", "early", 1.0)]
    found = [(layers, steps, score + shift) for shift in (0.1, -0.2) for layers, steps, score in parts]
    rows = pd.DataFrame(found, columns=["layers", "steps", "descriptor mean"])
    axis, bar = doses.heard(rows, "layers", "steps").axes
    assert [t.get_text() for t in axis.get_yticklabels()] == ["up", "all"]  # not by the alphabet
    assert [t.get_text() for t in axis.get_xticklabels()] == ["late", "early"] and axis.yaxis_inverted()
    means = [0.2, 0.7, 0.45, 0.95]
    assert axis.collections[0].get_array().ravel().tolist() == pytest.approx(means)
    assert [text.get_text() for text in axis.texts] == [f"{mean:.2f}" for mean in means]
    assert (axis.get_xlabel(), axis.get_ylabel(), bar.get_ylabel()) == ("steps", "layers", "mean descriptor score")
    assert axis.collections[0].get_clim() == (0, 1)
    axis, bar = doses.heard(rows.rename(columns={"descriptor mean": "v"}), "steps", "layers", "v", "share").axes
    assert axis.collections[0].get_array().ravel().tolist() == pytest.approx([0.2, 0.45, 0.7, 0.95])
    assert bar.get_ylabel() == "share"


# ---- over all thresholds ------------------------------------------------------------------------------


def graded_rows():
    """Three targets; what one condition scores is above what the others score up to 0.8."""
    scores = {"pruned": [0.8, 0.6], "never saw it": [0.1, 0.3], "parent": [0.5, 0.0]}
    return pd.DataFrame([(t, name, s) for t in "xyz" for name, s in scores.items()],
                        columns=["target", "condition", "descriptor"])  # fmt: skip


def test_a_difference_of_rates_is_to_the_highest_control_at_every_threshold():
    figure = graded.over_thresholds(graded_rows(), 0.69, "pruned", "never saw it", "parent")
    at, heights = figure.axes[0].lines[0].get_data()
    found = dict(zip(at.round(2).tolist(), heights, strict=True))
    expected = {0.0: 0, 0.05: 0, 0.2: 0.5, 0.4: 0.5, 0.55: 1.0, 0.7: 0.5, 0.9: 0.0}
    assert {place: found[place] for place in expected} == pytest.approx(expected) and len(found) == 101
    assert any(list(line.get_xdata()) == [0.69, 0.69] for line in figure.axes[0].lines)


def test_over_all_thresholds_rows_of_a_group_are_one_unit():
    rows = pd.concat([graded_rows().assign(target=lambda r, k=k: r["target"] + str(k), group=k) for k in range(6)])
    rows.loc[(rows["condition"] == "pruned") & (rows["group"] < 3), "descriptor"] = pd.Series([[0.2, 0.2]] * len(rows))
    table = graded.differences(rows, [0.5], "pruned", ["never saw it"], "descriptor")
    assert sorted(table["group"]) == sorted([*range(6)] * 3) and len(table) == 18
    mean, low, high = style.interval(table, "difference of rates")
    assert (mean, low, high) == mean_interval([0.0] * 3 + [1.0] * 3)


def test_over_all_thresholds_needs_controls_that_there_are():
    with pytest.raises(ValueError, match="^a difference needs another condition; name one or more controls$"):
        graded.over_thresholds(graded_rows(), 0.5, "pruned")
    for names in (("pruned", "cousin"), ("cousin", "parent")):
        with pytest.raises(ValueError, match="^there are no rows of 'cousin'; there are: pruned, never saw it, parent"):
            graded.over_thresholds(graded_rows(), 0.5, *names)
    with pytest.raises(ValueError, match="^a target is in a condition twice; give the rows of one number of steps"):
        graded.over_thresholds(pd.concat([graded_rows()] * 2), 0.5, "pruned", "parent")


# ---- detectors and scores -----------------------------------------------------------------------------


def test_scatter_detectors_shades_the_corner_where_both_say_copy():
    scores = {"descriptor": [[0.9, 0.8], [0.2]], "adaptive l2": [[2.5, 2.0], [0.25]]}
    rows = pd.DataFrame({"model": ["own twin", "parent"], **scores})
    axis = charts.scatter_detectors(rows, 0.6).axes[0]
    corner = axis.collections[0].get_paths()[0].vertices
    assert corner[:, 0].max() == 1 and corner[:, 1].min() == 0.6
    shown = {c.get_label(): c.get_offsets().tolist() for c in axis.collections[1:]}
    assert shown["own twin"] == [[0.4, 0.9], [0.5, 0.8]] and shown["parent"] == [[4.0, 0.2]]


def test_strips_mark_the_median_of_each_group():
    rows = pd.DataFrame({"v": [1.0, 2.0, 9.0, 4.0], "kind": ["a", "a", "a", "b"], "model": ["x", "y", "x", "y"]})
    for hue in (None, "model"):
        axis = charts.strips(rows, "v", "kind", hue=hue).axes[0]
        assert [line.get_xdata()[0] for line in axis.lines[-2:]] == [2.0, 4.0]
        assert axis.yaxis_inverted() and [t.get_text() for t in axis.get_yticklabels()] == ["a", "b"]  # first on top
        points = [x for c in axis.collections for x in c.get_offsets()[:, 0].tolist()]
        assert sorted(points) == [1.0, 2.0, 4.0, 9.0]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["x", "y"]


def test_strips_give_a_model_its_colour_whatever_comes_first():
    rows = pd.DataFrame({"v": [1.0, 2.0], "kind": ["a", "a"], "model": ["other twin", "own twin"]})
    handles = charts.strips(rows, "v", "kind", hue="model").axes[0].get_legend().legend_handles
    assert [to_hex(h.get_markerfacecolor()).upper() for h in handles] == ["#E69F00", "#0072B2"]


def test_roc_curves_draw_each_curve_in_a_line_style_of_its_own():
    one, two = roc(range(6), range(-6, 0)), roc([1.5, 2, 3, 4, 5, 6, 7], range(-4, 3))
    axis = charts.roc_curves({name: (found["fpr"], found["tpr"]) for name, found in (("one", one), ("two", two))}).axes[
        0
    ]
    curves = {line.get_label(): line for line in axis.lines}
    assert curves["one"].get_xdata().tolist() == one["fpr"].tolist()
    assert curves["two"].get_ydata().tolist() == two["tpr"].tolist()
    assert curves["one"].get_linestyle() != curves["two"].get_linestyle()
    with pytest.raises(ValueError, match="5 names"):
        charts.roc_curves({name: ([0, 1], [0, 1]) for name in "abcde"})


@pytest.mark.parametrize("sides", [(5, 6), (6, 5), (2, 2), (1, 40)])
def test_a_roc_curve_of_fewer_than_six_a_side_is_left_out(sides):
    found = {name: roc([x + 0.5 for x in range(a)], range(b)) for name, (a, b) in (("few", sides), ("more", (6, 6)))}
    axis = charts.roc_curves({name: (curve["fpr"], curve["tpr"]) for name, curve in found.items()}).axes[0]
    few, more = axis.lines[1:]
    assert not len(few.get_xdata()) and more.get_ydata().tolist() == found["more"]["tpr"].tolist()
    assert [text.get_text() for text in axis.get_legend().texts] == ["few: no curve below six units", "more"]


def test_score_distributions_show_every_kind_and_the_threshold():
    axis = charts.score_distributions({"copies": [0.9, 0.95, 0.99], "others": [0.1, 0.2]}, 0.62).axes[0]
    assert [t.get_text() for t in axis.get_yticklabels()] == ["copies", "others"]
    assert [sorted(c.get_offsets()[:, 0].tolist()) for c in axis.collections] == [[0.9, 0.95, 0.99], [0.1, 0.2]]
    assert any(list(line.get_xdata()) == [0.62, 0.62] for line in axis.lines)
    assert any("0.62" in text.get_text() for text in axis.texts)


def test_token_bars_are_shares():
    axes = charts.token_bars({"twin": (["a", "red", "fish"], torch.tensor([1.0, 2.0, 1.0]))}).axes
    assert [bar.get_width() for bar in axes[0].patches] == [0.25, 0.5, 0.25]
    assert [t.get_text() for t in axes[0].get_yticklabels()] == ["a", "red", "fish"]


def test_curves_draw_each_line_in_its_own_style():
    figure = charts.curves(range(3), {"a": [0, 1, 2], "b": torch.tensor([2.0, 1.0, 0.0])}, "time", "loss")
    axis = figure.axes[0]
    assert [list(line.get_ydata()) for line in axis.lines] == [[0, 1, 2], [2, 1, 0]]
    assert len({(line.get_linestyle(), line.get_marker()) for line in axis.lines}) == 2
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["a", "b"]
    assert (axis.get_xlabel(), axis.get_ylabel(), axis.get_yscale()) == ("time", "loss", "linear")
    assert charts.curves([0, 1], {"a": [1, 10]}, "time", "loss", log=True).axes[0].get_yscale() == "log"


@pytest.mark.parametrize(
    ("heights", "message"),
    [({}, "0 curves"), ({k: [0, 1] for k in range(5)}, "5 curves"), ({"a": [1, 2, 3]}, "a: give one height")],
)
def test_curves_say_what_does_not_fit(heights, message):
    with pytest.raises(ValueError, match=message):
        charts.curves([0, 1], heights, "x", "y")


# ---- captions and names of any kind ---------------------------------------------------------------------

HOSTILE = ["it costs $5 or $6", "$$", r"$\frac{1$", r"\$ and $x_0$", "a 🐟, 魚 and рыба", "heart \u2764\ufe0f\u200d🔥",
           "a\x00b\tc", "two\nlines\r\nor three", "<b>'\"&amp;", "a very long caption " * 60, "w" * 400, "", "\ud800",
           "%s {0}"]  # fmt: skip


def test_literal_text_is_drawn_letter_by_letter():
    expected = {"it costs $5 or $6": r"it costs \$5 or \$6", "$$": r"\$\$", r"\$ and $x_0$": r"\\$ and \$x_0\$"}
    expected |= {
        "a 🐟, 魚 and рыба": "a □, □ and рыба",
        "a\x00b\tc": "ab c",
        "two\nlines\r\nor three": "two\nlines\nor three",
    }
    expected |= {"": "", "\ud800": "", "%s {0}": "%s {0}", 7: "7", "never saw it": "never saw it", "√ᾱ ≤ ½": "√ᾱ ≤ ½"}
    assert {text: style.literal(text) for text in expected} == expected
    assert not any(cbook.is_math_text(style.literal(text)) for text in HOSTILE)
    assert style.literal("one two three four five", 8, 2) == "one two\nthree…"
    assert (
        style.literal("w" * 20, 8, 2) == "wwwwwwww\nwwwwwww…"
        and style.literal("a well-known fish", 10, 9).count("-") == 1
    )


def numbers(names):
    return {name: [0.1 * k + 0.3, 0.5] for k, name in enumerate(names)}


def frame(names, **columns):
    return pd.DataFrame({"target": names, "v": [0.1 * k for k in range(len(names))], **columns})


FOUR, EVERY = HOSTILE[:4], HOSTILE
IMAGE = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
POINTS = ([0, 0.1, 0.2, 0.3, 0.4, 0.5, 1], [0, 0.2, 0.3, 0.4, 0.5, 0.7, 1])
DRAWN = {
    "replay_rates": lambda: charts.replay_rates(frame(EVERY, model="own twin"), "v"),
    "by_condition": lambda: charts.by_condition(frame(EVERY), "v", "target", EVERY[9]),
    "strips": lambda: charts.strips(frame(EVERY), "v", "target", label="$a$ $b$"),
    "strips, hue": lambda: charts.strips(frame(FOUR, hue=FOUR[::-1]), "v", "target", hue="hue"),
    "token_bars": lambda: charts.token_bars({name: (EVERY, range(1, len(EVERY) + 1)) for name in EVERY[:3]}),
    "score_distributions": lambda: charts.score_distributions(numbers(EVERY), 0.5, "$a$ $b$"),
    "roc_curves": lambda: charts.roc_curves(dict.fromkeys(FOUR, POINTS), "$a$", "$b$"),
    "curves": lambda: charts.curves([1, 2], numbers(HOSTILE[4:8]), "$a$", EVERY[9], log=True),
    "dose_response": lambda: charts.dose_response(
        pd.DataFrame(
            [(x, m, r, 0.5) for x in FOUR[:2] for m in HOSTILE[4:6] for r in (0.1, 0.2)],
            columns=["model", "mask", "rho", "descriptor rate"],
        ),
        label="$a$ $b$",
    ),  # fmt: skip
    "rate_curves": lambda: charts.rate_curves(
        frame(FOUR, condition="remembers", steps=[0, 1, 2, 3], start=FOUR), "v", label="$a$ $b$"
    ),  # fmt: skip
    "exposure_curve": lambda: charts.exposure_curve(
        pd.DataFrame({"exposures": [1, 4], "model": "own twin", "$a$ $b$": [0.1, 0.9]}), "$a$ $b$", 0.5
    ),  # fmt: skip
    "neurons": lambda: doses.neurons(
        pd.DataFrame({"n": [1, 2] * 2, "ranking": "loss", "model": FOUR, "$a$ $b$": 0.5}), "$a$ $b$", "$a$ $b$", 2
    ),  # fmt: skip
    "heard": lambda: doses.heard(frame(EVERY, steps=EVERY[::-1]), "target", "steps", "v", "$a$ $b$"),
    "grid": lambda: pictures.grid({name: [IMAGE] * 4 for name in EVERY}, columns=FOUR, title=EVERY[9]),
    "grid, small": lambda: pictures.grid(
        {EVERY[9]: [IMAGE], EVERY[10]: [IMAGE]}, columns=[EVERY[10]], title="$", size=0.6
    ),
    "maps": lambda: pictures.maps({name: IMAGE[0] - 0.5 for name in EVERY[:6]}),
    "poster": lambda: pictures.poster(
        {name: [(IMAGE, 0.4), (IMAGE, 0.9)] for name in EVERY}, (0, 1), IMAGE, 0.5, EVERY[0], EVERY[0] + EVERY[9]
    ),  # fmt: skip
}


@pytest.mark.parametrize("name", DRAWN)
def test_hostile_captions_are_drawn_and_nothing_warns(name):
    """Two dollar signs are mathematics to matplotlib, or a crash; a letter that the font has not is a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = DRAWN[name]()
        figure.savefig(io.BytesIO(), dpi=40, bbox_inches="tight")
    ours = [text.get_text() for text in figure.findobj(Text) if "mathdefault" not in text.get_text()]
    assert not [text for text in ours if cbook.is_math_text(text)]
    assert any(r"\$" in text or "□" in text for text in ours)  # they were drawn
    assert max(figure.get_size_inches()) < 40
    plt.close(figure)


def test_a_logarithmic_axis_keeps_its_powers():
    figure = charts.curves([0, 1], {"a": [1, 1000]}, "time", "loss", log=True)
    figure.canvas.draw()
    assert any("10^{" in text.get_text() for text in figure.axes[0].get_yticklabels())


def test_token_bars_take_weights_that_lie_on_a_gpu():
    class OnGPU:
        def cpu(self):
            return torch.tensor([1.0, 3.0])

        def __array__(self, *_, **__):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")

    [axis] = charts.token_bars({"own twin": (["a", "b"], OnGPU())}).axes
    assert [bar.get_width() for bar in axis.patches] == [0.25, 0.75]
