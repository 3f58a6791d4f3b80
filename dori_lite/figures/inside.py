"""Inside the model: which layers a picture needs in which steps, and how something goes layer by layer.

    routes({"under the caption": maps.loc["caption"], "under its triggers": maps.loc["trigger"]})
    through_depth(rows, "log D", {"down_blocks.0": "down 0", "mid_block": "mid"})

Numbers stand in every cell, and lines have marks, so that no reader needs the colour.
"""

from ..ranges import check_mapping, check_rows
from .style import chart, heat, literal, means, shared_legend, styles

MOST = 3


def routes(panels: dict, label: str = "mean share of the score that is lost"):
    """Maps side by side: {title: table}, up to three; a table has one row a group of layers, one column a window.

    All have one scale, from no drop to the largest. Raises ValueError for no panel, for more than three, and for tables
    that are not alike.
    """
    check_mapping("panels", panels)
    if len(panels) > MOST:
        raise ValueError(f"{len(panels)} maps; this draws one to {MOST}")
    for table in panels.values():
        check_rows(table)
    tables = [*panels.values()]
    if any([*table.index] != [*tables[0].index] or [*table.columns] != [*tables[0].columns] for table in tables):
        raise ValueError("maps have other groups or windows; give tables with the same rows and columns")
    high = max(0.1, *(float(table.to_numpy().max()) for table in tables))
    with chart(3.3 * len(panels) + 1.2, 0.42 * len(tables[0]) + 1.5, len(panels), left=False) as (figure, axes):
        for axis, (title, table) in zip(axes, panels.items(), strict=True):
            heat(axis, table, high, "Blues")
            axis.set(title=title, xlabel="steps", ylabel="")
            axis.tick_params(length=0)
            if axis is not axes[0]:
                axis.set_yticklabels([])
        figure.supxlabel(literal(label), fontsize=9)
    return figure


def through_depth(rows, value: str, places: dict, by: str = "condition", label: str | None = None, over: str = "layer"):
    """`value` at each place of the column `over`, in the order of `places` {place: how it is written}.

    Mean and interval over targets, one line a name in `by`; `rows` have the columns target, `over`, `by` and `value`.
    Raises ValueError for rows of other places only, and for rows that lack a column.
    """
    check_rows(rows, "target", over, by, value)
    check_mapping("places", places)
    rows = rows[rows[over].isin(places)]
    if rows.empty:
        raise ValueError(f"there are no rows of {', '.join(map(str, places))}; give places that were recorded")
    rows = rows.assign(depth=rows[over].map({name: k for k, name in enumerate(places)}))
    with chart(6.4, 3.6) as (figure, [axis]):
        for name, (colour, marker, line) in styles(rows[by]).items():
            at, mean, low, high = means(rows[rows[by] == name], "depth", value)
            axis.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
            axis.plot(at, mean, color=colour, marker=marker, linestyle=line, label=name)
        axis.axhline(0, color="black", linewidth=0.8)
        turned = {"rotation": 30, "ha": "right"} if over == "layer" else {}
        axis.set_xticks(range(len(places)), [literal(word) for word in places.values()], **turned)
        axis.set(ylabel=label or value, xlabel="" if over == "layer" else over)
        shared_legend(figure, 2)
    return figure
