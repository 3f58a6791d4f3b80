"""Maps of triggers and the ways between them: what is drawn is what the rows hold."""

import pandas as pd
import pytest

from dori_lite.figures import triggers


def lying(targets=3, draws=2, conditions=("pruned by Wanda", "never saw it")):
    rows = []
    for c, condition in enumerate(conditions):
        for t in range(targets):
            for k in range(draws):
                for p, place in enumerate(("start", "trigger")):
                    row = {"condition": condition, "target": f"t{t}", "draw": k, "place": place}
                    rows.append(row | {"x": 10 * t + k + p / 10, "y": 5 * c + p})
    return pd.DataFrame(rows)


def on_the_way(targets=6):
    heights = {"two triggers": [0.9, 0.5, 0.2, 0.5, 0.8], "trigger and start": [0.9, 0.3, 0.1, 0.0, 0.0]}
    return pd.DataFrame(
        {"target": f"t{t}", "ends": ends, "share": k / 4, "score": height + 0.02 * (t - (targets - 1) / 2)}
        for ends, each in heights.items()
        for k, height in enumerate(each)
        for t in range(targets)
    )


def test_each_trigger_is_drawn_once_and_joined_to_its_start():
    figure = triggers.maps(lying())
    assert [axis.get_title() for axis in figure.axes] == ["saw it, pruned by Wanda", "never saw it"]
    for c, axis in enumerate(figure.axes):
        starts, ends = axis.collections[::2], axis.collections[1::2]
        for t, (start, end) in enumerate(zip(starts, ends, strict=True)):
            assert end.get_offsets().tolist() == [[10 * t + k + 0.1, 5 * c + 1] for k in range(2)]
            assert start.get_offsets().tolist() == [[10 * t + k, 5 * c] for k in range(2)]
        joined = [(line.get_xdata()[0], line.get_xdata()[1]) for line in axis.lines]
        assert joined == [(10 * t + k, pytest.approx(10 * t + k + 0.1)) for t in range(3) for k in range(2)]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["t0", "t1", "t2"]


def test_pictures_are_told_apart_without_colour(one_line):
    [axis, _] = triggers.maps(lying(12)).axes
    shapes = {tuple(map(tuple, found.get_paths()[0].vertices.round(3))) for found in axis.collections[1::2]}
    assert len(shapes) == 12
    one_line(ValueError, "13 pictures; a map tells 12 apart", triggers.maps, lying(13))


def test_ways_go_through_the_means():
    [axis] = triggers.ways(on_the_way(), "score", threshold=0.69).axes
    found = {line.get_label(): line.get_ydata().tolist() for line in axis.lines if line.get_label()[0] != "_"}
    assert found["two triggers"] == pytest.approx([0.9, 0.5, 0.2, 0.5, 0.8])
    assert found["trigger and start"] == pytest.approx([0.9, 0.3, 0.1, 0.0, 0.0])
    assert len(axis.collections) == 2 and [tick for tick in axis.get_xticks()] == [0, 0.25, 0.5, 0.75, 1]
    assert axis.lines[-1].get_ydata() == [0.69, 0.69]


def test_what_does_not_fit_is_one_line(one_line):
    one_line(ValueError, "no line is known for nowhere", triggers.maps, lying().assign(place="nowhere"))
    one_line(ValueError, "no line is known for x", triggers.ways, on_the_way().assign(ends="x"), "score")
    one_line(ValueError, "column", triggers.ways, on_the_way().drop(columns="share"), "score")
