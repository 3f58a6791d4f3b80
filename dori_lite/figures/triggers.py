"""Where triggers lie: maps of starts and end points, and what is drawn on the way between two of them.

    maps(run.rows("map"))
    ways(run.rows("between"))

Pictures and kinds of ways are told apart by marks and lines, not by colour alone.
"""

from ..ranges import check_rows
from .style import PALETTE, chart, known_only, means, shared_legend

MARKS = "osv^DPX*<>ph"  # one a picture, so that no reader needs the colour
COLOURS = [colour for colour, _, _ in PALETTE.values()]
WAYS = {"two triggers": PALETTE["remembers"], "trigger and start": PALETTE["held-out"]}
WAYS["trigger and its shuffled copy"] = PALETTE["parent"]
SAID = {"pruned by Wanda": "saw it, pruned by Wanda"}


def maps(rows, by: str = "condition"):
    """One map a condition: a trigger is a filled mark, its start a small grey one, and a line joins the two.

    `rows` have the columns `by`, target, draw, place ("start" or "trigger"), x and y. Pictures are told apart by their
    marks. Raises ValueError for more pictures than there are marks, for another place, and for rows without a column.
    """
    check_rows(rows, by, "target", "draw", "place", "x", "y")
    known_only(rows["place"], ("start", "trigger"))
    names = list(dict.fromkeys(rows["target"]))
    if len(names) > len(MARKS):
        raise ValueError(f"{len(names)} pictures; a map tells {len(MARKS)} apart: choose some")
    panels = list(dict.fromkeys(rows[by]))
    with chart(4.2 * len(panels), 4.2, len(panels)) as (figure, axes):
        for axis, panel in zip(axes, panels, strict=True):
            part = rows[rows[by] == panel]
            for name, mark, colour in zip(names, MARKS, [*COLOURS, "black"], strict=False):
                own = part[part["target"] == name].sort_values("draw")
                start, end = (own[own["place"] == place] for place in ("start", "trigger"))
                axis.plot([start["x"], end["x"]], [start["y"], end["y"]], color="0.7", linewidth=0.7, zorder=1)
                axis.scatter(start["x"], start["y"], s=9, color="0.55", marker=mark, zorder=2)
                axis.scatter(end["x"], end["y"], s=34, color=colour, marker=mark, label=name, zorder=3)
            axis.set(title=SAID.get(panel, panel), xticks=[], yticks=[])
            axis.set_aspect("equal", "datalim")
        shared_legend(figure, 4)
    return figure


def ways(rows, value: str = "descriptor mean", label: str = "mean descriptor score", threshold: float | None = None):
    """`value` on the way from one end to the other: mean and interval over targets, one line a kind of way.

    `rows` have the columns target, ends (one of `WAYS`), share (0 to 1) and `value`; `threshold` is a height to mark.
    Raises ValueError for another kind of way, and for rows that lack a column.
    """
    check_rows(rows, "target", "ends", "share", value)
    known_only(rows["ends"], WAYS)
    with chart(5.4, 3.6) as (figure, [axis]):
        for name, (colour, marker, line) in WAYS.items():
            part = rows[rows["ends"] == name]
            if part.empty:
                continue
            places, mean, low, high = means(part, "share", value)
            axis.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
            axis.plot(places, mean, color=colour, marker=marker, linestyle=line, label=name)
        if threshold is not None:
            axis.axhline(threshold, color="black", linewidth=0.8, linestyle=":")
        axis.set(xlabel="share of the way", ylabel=label)
        axis.set_xticks(sorted(rows["share"].unique()))
        shared_legend(figure, 2)
    return figure
