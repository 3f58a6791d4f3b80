"""What a choice of weights or neurons hides, spares and costs: one row a condition, panels side by side.

    own = (run.rows("condition"), "descriptor mean", {"copy": 0.69})
    others = (run.rows("others"), "descriptor mean", {"copy": 0.69})
    side_by_side({"score of its own picture": own, "score of other planted pictures": others})

One dot a target, a marker and a bar for mean and 95 % interval, and the mean in figures: no reader needs the colour.
"""

import numpy as np

from ..ranges import check_mapping, check_number, check_rows
from . import style
from .style import PALETTE, chart, literal, name_rows

# Conditions that have a look of their own, as in the book's other figures; all others are controls, and look alike.
LOOKS = {"unpruned": "remembers", "Wanda": "pruned by Wanda", "neurons by loss": "neurons blocked"}
LOOKS |= {"NeMo": "pruned by NeMo", "NeMo, sixteen layers": "pruned by NeMo", "other twin": "never saw it"}
LOOKS |= {"never saw it": "never saw it", "other twin, same mask": "never saw it, same mask"}
ITSELF = ("remembers", "pruned by Wanda", "adversarial", "never saw it, same mask", "never saw it, forgot others")
LOOKS |= {name: name for name in (*ITSELF, "not memorized")}
CONTROL, MOST = "held-out", 4  # the look of a control; panels that a page has room for


def side_by_side(panels: dict, by: str = "condition"):
    """Panels {label: (rows, value, marks)}, up to four: `value` by condition, the first panel's order for all.

    `rows` have the columns target, `by` and `value`; a target's rows in one condition are one dot, their mean.
    `marks` {word: place} are upright lines, such as the threshold of a copy. A condition that a panel has no rows of
    reads "not asked". Raises ValueError for no panel, for more than four, and for rows that lack a column.
    """
    check_panels(panels, by)
    names = list(dict.fromkeys(next(iter(panels.values()))[0][by]))
    parts = {label: per_target(rows, by, value) for label, (rows, value, _) in panels.items()}
    least = min(0.0, *(part[panels[label][1]].min() for label, part in parts.items()))
    size = (2.7 * len(panels) + 1.6, 0.36 * len(names) + 1.2)
    with chart(*size, len(panels), left=False, sharey=True) as (figure, axes):
        for axis, (label, (_, value, marks)) in zip(axes, panels.items(), strict=True):
            random = np.random.default_rng(0)  # the same places in every panel
            for k, name in enumerate(names):
                draw_row(axis, k, parts[label][parts[label][by] == name], name, value, random)
            draw_marks(axis, marks)
            axis.set(xlabel=label, xlim=(least - 0.06, 1.04), ylim=(len(names) - 0.5, -0.5))
            axis.tick_params(axis="y", length=0)
        name_rows(axes[0], names)
    return figure


def check_panels(panels, by: str) -> None:
    """Raise ValueError unless these are panels {label: (rows, value, marks)} that can be drawn."""
    check_mapping("panels", panels)
    if len(panels) > MOST:
        raise ValueError(f"{len(panels)} panels; this draws one to {MOST}")
    for label, panel in panels.items():
        if not isinstance(panel, tuple) or len(panel) != 3 or not isinstance(panel[2], dict):
            raise ValueError(f"{label}: a panel is (rows, value, marks), marks a dict {{word: place}}, empty for none")
        rows, value, marks = panel
        check_rows(rows, "target", by, value)
        for word, place in marks.items():
            check_number(f"the mark {word!r}", place)


def per_target(rows, by: str, value: str):
    """Means over a target's rows in each condition, with its `group` where there is one: what makes one cluster."""
    keys = [by, "target"] + (["group"] if "group" in rows else [])
    return rows.groupby(keys, sort=False, dropna=False)[value].mean().reset_index()


def draw_marks(axis, marks: dict) -> None:
    """Upright lines {word: place}, each with its word above."""
    for word, place in marks.items():
        axis.axvline(place, color="black", linewidth=0.8, linestyle=":", zorder=1)
        axis.text(place, 1.0, literal(word), transform=axis.get_xaxis_transform(), ha="center", fontsize=8)


def draw_row(axis, k: int, part, name, value: str, random) -> None:
    """Row `k` of a panel: dots, mean, interval and the mean in figures; "not asked" without rows."""
    if k % 2:
        axis.axhspan(k - 0.5, k + 0.5, color="#f3f3f3", zorder=0)  # the eye goes along rows
    if part.empty:
        axis.text(0.03, k, "not asked", transform=axis.get_yaxis_transform(), va="center", fontsize=8, color="#666666")
        return
    colour, marker, _ = PALETTE[LOOKS.get(name, CONTROL)]
    heights = k + random.uniform(-0.2, 0.2, len(part))
    axis.scatter(part[value], heights, s=13, color=colour, alpha=0.45, linewidths=0, zorder=2)
    mean, low, high = style.interval(part, value)
    axis.plot([low, high], [k, k], color="black", linewidth=1.6, zorder=3)
    axis.scatter([mean], [k], marker=marker, s=52, color=colour, edgecolors="black", linewidths=0.9, zorder=4)
    written = f"{mean:.2f}".replace("-0.00", "0.00")
    axis.text(1.01, k, written, transform=axis.get_yaxis_transform(), va="center", fontsize=8)


def against(across: tuple, up: tuple, by: str = "condition", marks: dict | None = None):
    """One value against another, a marker a condition at its two means, with the 95 % interval of either and its name.

    `across` and `up` are (label, rows, value), rows with the columns target, `by` and `value`; conditions that are not
    in both are left out. `marks` {word: place} are upright lines. Raises ValueError as `side_by_side` does, and where
    no condition is in both.
    """
    panels = {label: (rows, value, marks or {}) for label, rows, value in (across, up)}
    check_panels(panels, by)
    parts = [per_target(rows, by, value) for rows, value, _ in panels.values()]
    names = [name for name in dict.fromkeys(parts[0][by]) if name in set(parts[1][by])]
    if not names:
        raise ValueError(f"no {by} is in the rows of both {' and '.join(panels)}; give rows that share some")
    places = {}
    with chart(6.4, 4.4) as (figure, [axis]):
        for name in names:
            colour, marker, _ = PALETTE[LOOKS.get(name, CONTROL)]
            each = zip(parts, panels.values(), strict=True)
            ends = [style.interval(part[part[by] == name], value) for part, (_, value, _) in each]
            (x, left, right), (y, low, high) = ends
            axis.plot([left, right], [y, y], color=colour, linewidth=1.2, zorder=2)
            axis.plot([x, x], [low, high], color=colour, linewidth=1.2, zorder=2)
            axis.scatter([x], [y], marker=marker, s=52, color=colour, edgecolors="black", linewidths=0.9, zorder=3)
            places[name] = x, y
        for name, (x, y) in places.items():  # a name goes to the left of a marker with another one close at the right
            left = any(x < other < x + 0.06 and abs(height - y) < 0.03 for other, height in places.values())
            where = {"xytext": (-7, -10) if left else (6, 5), "ha": "right" if left else "left"}
            axis.annotate(literal(name, 30, 1), (x, y), textcoords="offset points", fontsize=8, **where)
        draw_marks(axis, marks or {})
        axis.set(xlabel=across[0], ylabel=up[0], xlim=(min(0, axis.get_xlim()[0]), 1.2))  # room for the last name
    return figure
