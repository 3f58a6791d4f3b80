"""Figures of what happens inside the model: what is drawn is what the tables hold."""

import pandas as pd
import pytest

from dori_lite.figures import inside

MAP = pd.DataFrame({"0–2": [0.1, 0.5], "3–7": [0.0, 0.8]}, index=["down", "up"])
DEPTH = pd.DataFrame(
    {"target": f"t{t}", "condition": name, "layer": layer, "log D": height + 0.1 * (t - 2.5)}
    for name, heights in {"remembers": [0.0, -1.0], "never saw it": [0.1, 0.3]}.items()
    for layer, height in zip(["mid_block", "ε"], heights, strict=True)
    for t in range(6)
)


def test_every_cell_says_its_number():
    figure = inside.routes({"under the caption": MAP, "under its triggers": MAP / 2})
    written = [[text.get_text() for text in axis.texts] for axis in figure.axes]
    assert written == [["0.10", "0.00", "0.50", "0.80"], ["0.05", "0.00", "0.25", "0.40"]]
    assert [axis.get_title() for axis in figure.axes] == ["under the caption", "under its triggers"]
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["down", "up"]
    assert len({tuple(axis.collections[0].get_clim()) for axis in figure.axes}) == 1  # one scale


def test_a_line_goes_through_the_means_in_the_order_of_layers():
    [axis] = inside.through_depth(DEPTH, "log D", {"mid_block": "mid", "ε": "prediction"}).axes
    lines = {line.get_label(): line.get_ydata().tolist() for line in axis.lines if line.get_label()[0] != "_"}
    assert lines == {"remembers": pytest.approx([0.0, -1.0]), "never saw it": pytest.approx([0.1, 0.3])}
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["mid", "prediction"] and len(axis.collections) == 2
    turned = inside.through_depth(DEPTH, "log D", {"ε": "prediction", "mid_block": "mid"}).axes[0]
    assert turned.lines[0].get_ydata().tolist() == pytest.approx([-1.0, 0.0])
    named = DEPTH.rename(columns={"layer": "t"}).replace({"mid_block": 100, "ε": 300})
    [axis] = inside.through_depth(named, "log D", {100: "100", 300: "300"}, over="t").axes
    assert axis.lines[0].get_ydata().tolist() == pytest.approx([0.0, -1.0]) and axis.get_xlabel() == "t"


def test_what_does_not_fit_is_one_line(one_line):
    one_line(ValueError, "4 maps; this draws one to 3", inside.routes, {k: MAP for k in "abcd"})
    one_line(ValueError, "other groups or windows", inside.routes, {"a": MAP, "b": MAP[::-1]})
    one_line(ValueError, "panels is empty", inside.routes, {})
    one_line(ValueError, "no rows of down", inside.through_depth, DEPTH, "log D", {"down": "x"})
    one_line(ValueError, "column", inside.through_depth, DEPTH.drop(columns="layer"), "log D", {"ε": "x"})
