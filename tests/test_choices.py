"""The figure of what a choice hides, spares and costs shows its rows, and says where nobody asked."""

import warnings

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from dori_lite.figures import choices, style
from dori_lite.stats import mean_interval


def rows(scores: dict, value: str = "score", **columns):
    """{condition: one score a target} as rows."""
    found = [
        {"condition": c, "target": f"t{k}", value: v} for c, values in scores.items() for k, v in enumerate(values)
    ]
    return pd.DataFrame(found).assign(**columns)


EIGHT = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
OWN = rows({"unpruned": [0.9] * 8, "Wanda": EIGHT, "random like Wanda": [0.85] * 8})
LESS = [0.5, 0.5, 0.6, 0.6, 0.6, 0.6, 0.7, 0.7]
OTHERS = rows({"Wanda": LESS, "unpruned": [0.95] * 8})


def drawn(**marks):
    return choices.side_by_side({"own": (OWN, "score", marks), "others": (OTHERS, "score", {})}).axes


def dots(axis) -> dict:
    """What stands in each row of a panel, {row: places}: small dots; the larger ones are means."""
    found = {}
    for collection in axis.collections:
        if collection.get_sizes()[0] < 20:
            offsets = collection.get_offsets()
            found[round(offsets[:, 1].mean())] = sorted(offsets[:, 0].round(6).tolist())
    return found


def shown_means(axis) -> dict:
    found = [c.get_offsets()[0] for c in axis.collections if c.get_sizes()[0] > 20]
    return {round(float(y)): round(float(x), 6) for x, y in found}


def test_each_panel_has_the_rows_of_the_first_in_its_order():
    own, others = drawn()
    assert [t.get_text() for t in own.get_yticklabels()] == ["unpruned", "Wanda", "random like Wanda"]
    assert own.get_ylim() == others.get_ylim() == (2.5, -0.5)  # the first on top
    assert dots(own) == {0: [0.9] * 8, 1: EIGHT, 2: [0.85] * 8}
    assert dots(others) == {0: [0.95] * 8, 1: LESS}  # by name, not in its own order
    assert shown_means(own) == pytest.approx({0: 0.9, 1: 0.45, 2: 0.85})
    assert (own.get_xlabel(), others.get_xlabel()) == ("own", "others")
    plt.close("all")


def test_every_mean_stands_in_figures_and_a_row_without_rows_says_so():
    own, others = drawn()
    assert [text.get_text() for text in own.texts] == ["0.90", "0.45", "0.85"]
    assert [text.get_text() for text in others.texts] == ["0.95", "0.60", "not asked"]
    assert others.texts[-1].get_position()[1] == 2
    [axis] = choices.side_by_side({"own": (rows({"a": [-0.001] * 8}), "score", {})}).axes
    assert axis.texts[0].get_text() == "0.00"  # no minus zero


def bar(axis, k):
    return next(line.get_xdata() for line in axis.lines if list(line.get_ydata()) == [k, k])


def test_intervals_are_over_targets_or_over_their_groups_and_never_over_fewer_than_six():
    own, _ = drawn()
    mean, low, high = mean_interval(EIGHT)
    assert mean == pytest.approx(0.45) and bar(own, 1) == pytest.approx([low, high])
    grouped = OWN.assign(group=[k // 2 for k in range(8)] * 3)  # four groups of two
    [axis] = choices.side_by_side({"own": (grouped, "score", {})}).axes
    assert pd.isna(bar(axis, 1)).all()
    few = OWN[OWN["target"] < "t5"]
    [axis] = choices.side_by_side({"own": (few, "score", {})}).axes
    assert pd.isna(bar(axis, 1)).all() and style.FEWEST == 6


def test_several_rows_of_a_target_are_one_dot():
    twice = pd.concat([OTHERS, OTHERS.assign(score=OTHERS["score"] - 0.2)])
    for given in (twice, twice.assign(group=None)):  # the first pair has no groups
        [axis] = choices.side_by_side({"others": (given, "score", {})}).axes
        assert dots(axis) == {0: pytest.approx([x - 0.1 for x in LESS]), 1: [0.85] * 8}
        assert not pd.isna(bar(axis, 0)).any()


def test_marks_are_named_lines_and_scores_below_zero_are_seen():
    own, others = drawn(copy=0.69)
    assert [0.69, 0.69] in [list(line.get_xdata()) for line in own.lines] and own.texts[-1].get_text() == "copy"
    assert [0.69, 0.69] not in [list(line.get_xdata()) for line in others.lines]
    low = rows({"a": [-0.5, 0.1]})
    for axis in choices.side_by_side({"low": (low, "score", {}), "own": (OWN, "score", {})}).axes:
        assert axis.get_xlim() == pytest.approx((-0.56, 1.04))


def test_conditions_look_as_in_the_other_figures_and_controls_alike():
    names = ["unpruned", "Wanda", "NeMo", "neurons by loss", "never saw it", "as many at random", "a stranger"]
    [axis] = choices.side_by_side({"own": (rows({name: [0.5] * 6 for name in names}), "score", {})}).axes
    looks = [to_hex(c.get_facecolor()[0]).upper() for c in axis.collections if c.get_sizes()[0] > 20]
    known = [
        "remembers",
        "pruned by Wanda",
        "pruned by NeMo",
        "neurons blocked",
        "never saw it",
        "held-out",
        "held-out",
    ]
    assert looks == [style.PALETTE[name][0].upper() for name in known]
    assert {*choices.LOOKS.values(), choices.CONTROL} <= style.PALETTE.keys()


def test_hostile_names_are_drawn_letter_by_letter():
    hostile = rows({"it costs $5 or $6": [0.1], r"$\frac{1$": [0.2], "a 🐟\nor two": [0.3]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = choices.side_by_side({"$a$ $b$": (hostile, "score", {"$x$ $y$": 0.5})})
        figure.canvas.draw()
    assert figure.axes[0].get_xlabel() == r"\$a\$ \$b\$" and r"\$x\$ \$y\$" in [
        t.get_text() for t in figure.axes[0].texts
    ]


@pytest.mark.parametrize(
    ("panels", "message"),
    [
        ({}, "panels"),
        ({k: (OWN, "score", {}) for k in "abcde"}, "^5 panels; this draws one to 4$"),
        ({"own": (OWN, "score")}, r"^own: a panel is \(rows, value, marks\)"),
        ({"own": (OWN, "score", 0.69)}, r"^own: a panel is \(rows, value, marks\)"),
        ({"own": (OWN, "rate", {})}, "rate"),
        ({"own": (OWN.drop(columns="target"), "score", {})}, "target"),
        ({"own": (OWN[:0], "score", {})}, "rows"),
        ({"own": (OWN, "score", {"copy": float("nan")})}, "the mark 'copy'"),
    ],
)
def test_what_cannot_be_drawn_is_named(panels, message):
    with pytest.raises(ValueError, match=message):
        choices.side_by_side(panels)


def test_one_value_stands_against_another_where_both_were_asked():
    extra = pd.concat([OTHERS, rows({"nobody asked": [0.1] * 8})])
    [axis] = choices.against(("own", OWN, "score"), ("others", extra, "score"), marks={"copy": 0.7}).axes
    places = [c.get_offsets()[0].round(6).tolist() for c in axis.collections]
    assert places == [[0.9, 0.95], [0.45, 0.6]]  # unpruned and Wanda: "random like Wanda" has no `others`
    assert [text.get_text() for text in axis.texts] == ["unpruned", "Wanda", "copy"]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("own", "others")
    _, low, high = mean_interval(LESS)
    bars = [line.get_xydata() for line in axis.lines]
    assert any(bar[:, 1] == pytest.approx([low, high]) and bar[:, 0] == pytest.approx([0.45] * 2) for bar in bars)
    plt.close("all")


@pytest.mark.parametrize(
    "across, up, problem",
    [
        (("own", OWN, "score"), ("others", rows({"x": EIGHT}), "score"), "no condition is in the rows of both own and"),
        (("own", OWN, "score"), ("others", OTHERS.drop(columns="target"), "score"), "target"),
        (("own", OWN, "height"), ("others", OTHERS, "score"), "height"),
    ],
)
def test_what_cannot_stand_against_each_other_is_one_line(across, up, problem, one_line):
    one_line(ValueError, problem, choices.against, across, up)
