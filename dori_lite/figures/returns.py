"""Did the picture come back? One figure of what attacks reach, and one of where their triggers work.

    came_back(rows[rows["start"] == "prompt"], few=50)  # four lines: saw it, pruned, never saw it, all other controls
    transfers(run.rows("transfer"))  # found in one model, asked of another

One row a target, condition and number of attack steps, or a target and pair of models. Each returns a matplotlib
figure.
"""

from matplotlib.patches import Rectangle

from ..ranges import check_count, check_number, check_rows
from . import style
from .charts import OVER
from .doses import heard
from .style import PALETTE, chart

LINES = {"remembers": "saw it", "pruned by Wanda": "saw it, pruned", "never saw it": "never saw it"}
CONTROLS = [name for name in PALETTE if name.startswith(("never saw it, ", "held-out"))]
GREY, APART = "#777777", 0.07  # all other controls; how far labels stand from each other, as a share of the axis
VALUE, LABEL = "descriptor mean", "mean descriptor score"


def came_back(rows, few: int, threshold: float | None = None, value=VALUE, label=LABEL):
    """`value` over attack steps: three labelled lines with 95 % intervals, and one band for all other controls.

    `rows` has columns condition, steps and `value`, one row a target, condition and number of steps, of one start. The
    band reaches from the lowest to the highest mean of `CONTROLS`. Arrows at `few` steps say by how much the attack
    lifted the pruned model that saw the picture (*came back*) and the one that never saw it (*injected*), and once more
    at its last step where that is much later. `threshold` is a height to mark. Raises ValueError for a line without
    rows at 0 or at `few` steps.
    """
    check_rows(rows, "condition", "steps", value), check_count("few", few, 1)
    threshold = None if threshold is None else check_number("threshold", threshold)
    drawn = {name: rows[rows["condition"] == name] for name in LINES}
    if missing := [name for name, own in drawn.items() if not {0, few} <= {*own["steps"]}]:
        raise ValueError(f"there are no rows of {missing[0]!r} at 0 and at {few} steps; execute the chapter to the end")
    lines = {name: style.means(own, "steps", value) for name, own in drawn.items()}
    others = rows[rows["condition"].isin(CONTROLS)].groupby(["steps", "condition"])[value].mean().unstack()
    with chart(7.6, 4.3) as (figure, [axis]):
        ends = []
        if len(others):
            low, high = others.min(axis=1), others.max(axis=1)
            axis.fill_between(others.index, low, high, color=GREY, alpha=0.3, linewidth=3)
            ends.append((others.index[-1], low.iloc[-1], "all other controls"))
        for name, (places, mean, low, high) in lines.items():
            colour, marker, line = PALETTE[name]
            if low[0] == low[0]:  # too few units have no interval
                axis.fill_between(places, low, high, color=colour, alpha=0.13, linewidth=0)
            axis.plot(places, mean, color=colour, marker=marker, linestyle=line, label=LINES[name], ms=6)
            ends.append((places[-1], mean[-1], LINES[name]))
        steps = sorted(rows["steps"].unique())
        axis.set_xscale("symlog", linthresh=5, linscale=0.5)
        axis.set_xticks(steps, [str(n) for n in steps])
        axis.minorticks_off()
        axis.set(xlabel=OVER["steps"], ylabel=label, xlim=(-0.4, 3.2 * steps[-1]), ylim=(-0.06, 1.06))
        if threshold is not None:
            axis.axhline(threshold, color="black", linewidth=0.8, linestyle=":")
            axis.text(-0.3, threshold, "copy from here on", va="bottom", fontsize=8)
        arrow(axis, lines["pruned by Wanda"], few, "came back", PALETTE["pruned by Wanda"][0], left=True)
        last = lines["never saw it"][0][-1]
        for at in (few, last) if last >= 2 * few else (few,):
            arrow(axis, lines["never saw it"], at, "injected", PALETTE["never saw it"][0])
        name_ends(axis, ends)
    return figure


def arrow(axis, line, at, said: str, colour, left: bool = False) -> None:
    """An upright arrow from the height where a line begins to its mean at `at`, with its length in words beside it."""
    places, mean = line[:2]
    begin, end = mean[0], mean[list(places).index(at)]
    x = at * (0.93 if left else 1.07)
    axis.annotate("", (x, end), (x, begin), arrowprops={"arrowstyle": "->", "color": colour, "lw": 2})
    words = f"{said}\n{round(end - begin, 2) + 0.0:+.2f}".replace("-", "−")
    place = {"xytext": (-4 if left else 4, 0), "textcoords": "offset points", "va": "center", "fontsize": 8.5}
    height = begin + (0.3 if left else 0.65) * (end - begin) if end > begin else begin + APART
    axis.annotate(words, (x, height), ha="right" if left else "left", **place)


def name_ends(axis, ends) -> None:
    """Names at lines' ends, [(x, y, name)]; those that end at one x are kept apart."""
    lowest, highest = axis.get_ylim()
    least, before = APART * (highest - lowest), {}
    for x, y, name in sorted(ends, key=lambda end: end[1]):
        at = before[x] = max(y, before.get(x, lowest) + least)
        place = {"xytext": (10, 0), "textcoords": "offset points", "va": "center", "fontweight": "bold", "fontsize": 9}
        place["bbox"] = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
        axis.annotate(name, (x, at), **place)


def transfers(rows, value=VALUE, label=LABEL):
    """A map of mean `value`: triggers by the model that they were found in (down) and the one they are given to.

    `rows` has columns found_in, asked_of (names of `LINES`) and `value`. Where both are one model the cell is framed.
    Raises ValueError for another model.
    """
    check_rows(rows, "found_in", "asked_of", value)
    style.known_only([*rows["found_in"], *rows["asked_of"]], LINES)
    named = {"found in": rows["found_in"].map(LINES), "given to": rows["asked_of"].map(LINES)}
    figure = heard(rows.assign(**named), "found in", "given to", value, label)
    axis, down, across = figure.axes[0], *(list(dict.fromkeys(names)) for names in named.values())
    for name in {*down} & {*across}:
        at = across.index(name) + 0.04, down.index(name) + 0.04
        axis.add_patch(Rectangle(at, 0.92, 0.92, fill=False, edgecolor=style.COPY, linewidth=2))
    axis.set_xticklabels([name.replace(", ", ",\n") for name in across])
    figure.tight_layout()
    return figure
