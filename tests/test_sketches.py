"""The drawings of chapter 0 show the numbers they are given."""

import pytest
import torch

from dori_lite.lab import sketches


def test_curves_draw_each_line_in_its_own_style():
    figure = sketches.curves(range(3), {"a": [0, 1, 2], "b": torch.tensor([2.0, 1.0, 0.0])}, "time", "loss")
    axis = figure.axes[0]
    assert [list(line.get_ydata()) for line in axis.lines] == [[0, 1, 2], [2, 1, 0]]
    assert len({(line.get_linestyle(), line.get_marker()) for line in axis.lines}) == 2
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["a", "b"]
    assert (axis.get_xlabel(), axis.get_ylabel(), axis.get_yscale()) == ("time", "loss", "linear")
    assert sketches.curves([0, 1], {"a": [1, 10]}, "time", "loss", log=True).axes[0].get_yscale() == "log"


@pytest.mark.parametrize(
    ("heights", "message"),
    [({}, "0 curves"), ({k: [0, 1] for k in range(5)}, "5 curves"), ({"a": [1, 2, 3]}, "a: give one height")],
)
def test_curves_say_what_does_not_fit(heights, message):
    with pytest.raises(ValueError, match=message):
        sketches.curves([0, 1], heights, "x", "y")


def test_maps_share_one_scale_around_zero():
    values = {"small": torch.tensor([[0.0, 0.5], [-0.25, 0.1]]), "large": torch.full((2, 2), -2.0)}
    figure = sketches.maps(values)
    drawn = {axis.get_title(): axis.images[0] for axis in figure.axes if axis.images}
    assert set(drawn) == {"small", "large"}
    assert all(image.get_clim() == (-2.0, 2.0) for image in drawn.values())
    assert (drawn["small"].get_array() == values["small"].numpy()).all()


def test_maps_without_maps_say_so():
    with pytest.raises(ValueError, match="at least one map"):
        sketches.maps({})
