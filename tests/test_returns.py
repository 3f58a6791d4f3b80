"""Did the picture come back: the figure's lines, band, arrows and labels, and the map of transfers."""

import math

import pandas as pd
import pytest

from dori_lite.figures import returns, style

STEPS = (0, 1, 50, 100, 200)
MEANS = {  # of each condition after each number of steps
    "remembers": [0.9, 0.9, 0.8],
    "pruned by Wanda": [0.4, 0.45, 0.65, 0.6, 0.55],
    "never saw it": [0.05, 0.05, 0.3, 0.5, 0.7],
    "never saw it, pruned": [0.02, 0.03, 0.2],
    "never saw it, same mask": [0.0, 0.01, 0.1],
    "held-out": [0.04, 0.02, 0.15],
    "pruned by NeMo": [0.97, 0.97, 0.97],
    "neurons blocked": [0.96, 0.96, 0.96],
}


def attacks(targets=6, means=MEANS, steps=STEPS):
    """Rows whose mean over targets is the planted one, in which no target has it."""
    rows = []
    for name, each in means.items():
        for n, mean in zip(steps, each, strict=False):
            aside = [0.02 * (k - (targets - 1) / 2) for k in range(targets)]
            rows += [{"target": f"t{k}", "condition": name, "steps": n, "score": mean + x} for k, x in enumerate(aside)]
    return pd.DataFrame(rows)


def drawn(rows, few=50, **options):
    return returns.came_back(rows, few, value="score", **options).axes[0]


def lines(axis):
    found = {line.get_label(): line.get_data() for line in axis.lines if not line.get_label().startswith("_")}
    return {name: dict(zip(*map(list, data), strict=True)) for name, data in found.items()}


def words(axis):
    """{words: where they point}"""
    return {text.get_text(): text.xy for text in axis.texts if hasattr(text, "xy") and text.get_text()}


def arrows(axis):
    """[(from, to)] of upright arrows, in order of their place."""
    found = [text for text in axis.texts if getattr(text, "arrow_patch", None) is not None]
    assert all(text.xy[0] == text.xyann[0] for text in found)
    return [(text.xyann[1], text.xy[1]) for text in sorted(found, key=lambda text: text.xy[0])]


def test_three_lines_go_through_the_means_and_nothing_else_is_a_line():
    found = lines(drawn(attacks()))
    assert list(found) == ["saw it", "saw it, pruned", "never saw it"]
    for name, mean in zip(found, ("remembers", "pruned by Wanda", "never saw it"), strict=True):
        assert found[name] == pytest.approx(dict(zip(STEPS, MEANS[mean], strict=False)))


def test_lines_keep_their_conditions_style():
    axis = drawn(attacks())
    for line, name in zip(axis.lines, returns.LINES, strict=True):
        assert (line.get_color(), line.get_marker()) == style.PALETTE[name][:2]


def test_the_band_reaches_from_the_lowest_to_the_highest_mean_of_the_other_controls():
    band = drawn(attacks()).collections[0].get_paths()[0].vertices
    for n, low, high in ((0, 0.0, 0.04), (1, 0.01, 0.03), (50, 0.1, 0.2)):
        heights = [y for x, y in band if x == n]
        assert (min(heights), max(heights)) == pytest.approx((low, high))
    alone = attacks(means={name: MEANS[name] for name in returns.LINES})
    assert "all other controls" not in words(drawn(alone)) and len(drawn(alone).collections) == 3


@pytest.mark.parametrize("targets, bands", [(5, 1), (6, 4)])
def test_fewer_than_six_targets_have_no_interval(targets, bands):
    assert len(drawn(attacks(targets)).collections) == bands  # the controls' band, and a line's each


def test_arrows_begin_at_the_caption_s_score_and_say_their_length():
    axis = drawn(attacks())
    expected = [(0.4, 0.65), (0.05, 0.3), (0.05, 0.7)]
    assert [x for pair in arrows(axis) for x in pair] == pytest.approx([x for pair in expected for x in pair])
    said = {text: place for text, place in words(axis).items() if "\n" in text}
    assert [*said] == ["came back\n+0.25", "injected\n+0.25", "injected\n+0.65"]
    at = [x for x, _ in said.values()]
    assert at[0] < 50 < at[1] < 200 < at[2]


def test_a_last_step_that_is_hardly_later_has_no_arrow_of_its_own_and_a_fall_is_a_minus():
    means = MEANS | {"pruned by Wanda": [0.4, 0.45, 0.25]}
    axis = drawn(attacks(means=means, steps=(0, 1, 25, 40)), 25)
    assert [text for text in words(axis) if "\n" in text] == ["came back\n−0.15", "injected\n+0.25"]


def test_labels_stand_at_lines_ends_and_apart():
    said = words(drawn(attacks()))
    ends = {"saw it": (50, 0.8), "saw it, pruned": (200, 0.55), "never saw it": (200, 0.7)}
    for name, (x, y) in (ends | {"all other controls": (50, 0.1)}).items():
        assert said[name] == pytest.approx((x, y)), name
    close = words(drawn(attacks(means=MEANS | {"never saw it": [0, 0, 0.3, 0.5, 0.56]})))
    pruned, never = close["saw it, pruned"][1], close["never saw it"][1]
    assert pruned == pytest.approx(0.55) and never - pruned == pytest.approx(returns.APART * 1.12)


def test_every_number_of_steps_is_on_the_axis_and_the_threshold_marked():
    axis = drawn(attacks(), threshold=0.69, label="score")
    assert [tick.get_text() for tick in axis.get_xticklabels()] == [*map(str, STEPS)]
    assert [*axis.lines[-1].get_ydata()] == [0.69, 0.69] and axis.get_ylabel() == "score"
    assert any(text.get_text() == "copy from here on" and text.get_position()[1] == 0.69 for text in axis.texts)
    assert len(drawn(attacks()).lines) == 3


def test_what_cannot_be_drawn_is_one_line(one_line):
    for name in returns.LINES:
        rest = attacks(means={key: means for key, means in MEANS.items() if key != name})
        one_line(ValueError, f"no rows of '{name}' at 0 and at 50 steps; execute", drawn, rest)
    one_line(ValueError, "no rows of 'remembers' at 0 and at 25 steps; execute", drawn, attacks(), 25)
    one_line(ValueError, "no rows of 'remembers' at 0 and", drawn, attacks()[attacks()["steps"] > 0])
    one_line(ValueError, "few", drawn, attacks(), 0)
    one_line(ValueError, "threshold", drawn, attacks(), threshold=math.nan)
    one_line(ValueError, "steps", drawn, attacks().drop(columns="steps"))


NAMES = list(returns.LINES)
ANSWERS = [[0.9, 0.35, 0.02], [0.5, 0.6, 0.01], [0.7, 0.2, 0.3]]


def transferred():
    """Two targets, whose mean is the planted one; a row is where a trigger was found."""
    return pd.DataFrame(
        {"target": target, "found_in": source, "asked_of": goal, "score": ANSWERS[i][j] + aside}
        for i, source in enumerate(NAMES)
        for j, goal in enumerate(NAMES)
        for target, aside in (("a", 0.1), ("b", -0.1))
    )


def test_transfers_are_a_map_with_its_numbers_in_the_rows_order():
    axis = returns.transfers(transferred(), "score").axes[0]
    assert [text.get_text() for text in axis.texts] == [f"{x:.2f}" for row in ANSWERS for x in row]
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["saw it", "saw it, pruned", "never saw it"]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["saw it", "saw it,\npruned", "never saw it"]
    assert (axis.get_ylabel(), axis.get_xlabel()) == ("found in", "given to")


def test_cells_of_one_model_are_framed():
    axis = returns.transfers(transferred().query("found_in != 'remembers'"), "score").axes[0]
    framed = sorted((int(patch.get_x()), int(patch.get_y())) for patch in axis.patches)
    assert framed == [(1, 0), (2, 1)]  # column, row: the first row is "saw it, pruned"


def test_transfers_of_other_models_are_refused(one_line):
    for column in ("found_in", "asked_of"):
        rows = transferred().assign(**{column: "cousin"})
        one_line(ValueError, "no line is known for cousin", returns.transfers, rows, "score")
    one_line(ValueError, "asked_of", returns.transfers, transferred().drop(columns="asked_of"), "score")
