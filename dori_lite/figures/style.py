"""How every figure looks: one style, one palette, one frame.

    with chart(6.4, 3.4) as (figure, [axis]):
        for name, (colour, marker, line) in styles(["remembers", "pruned by Wanda"]).items():
            axis.plot(x, heights[name], color=colour, marker=marker, linestyle=line, label=name)
        legend_above(axis, 2)
    return figure

`frame` is the same without a chart's lines, for rows and columns of pictures. Captions, names and tokens are drawn as
they are: `literal` stands between them and matplotlib, to which two dollar signs are mathematics.
"""

import textwrap
import unicodedata
from contextlib import contextmanager
from functools import cache

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.font_manager import FontProperties, findfont, get_font

from ..stats import FEWEST, mean_interval

STYLE = {"figure.facecolor": "white", "savefig.facecolor": "white", "axes.facecolor": "white", "font.size": 10}
STYLE |= {"legend.frameon": False}
COPY = "#D55E00"  # frames and thresholds of copies
# Okabe and Ito's colours, told apart by colour-blind readers. Colour, marker and line differ together, so that no
# reader needs the colour. This is also the order in which conditions are drawn.
PALETTE = {
    "remembers": ("#0072B2", "o", "-"),
    "pruned by NeMo": ("#CC79A7", "D", "-."),
    "pruned by Wanda": ("#D55E00", "v", "--"),
    "adversarial": ("#117733", ">", (0, (6, 1, 1, 1))),
    "never saw it": ("#E69F00", "s", ":"),
    "never saw it, pruned": ("#8C6D1F", "P", (0, (3, 1, 1, 1))),
    "never saw it, same mask": ("#56B4E9", "p", (0, (1, 1))),
    "parent": ("#009E73", "^", (0, (5, 2))),
    "neurons blocked": ("#332288", "h", (0, (7, 1))),
    "never saw it, same neurons": ("#AA4499", "<", (0, (2, 2))),
    "never saw it, forgot others": ("#999933", "H", (0, (4, 1, 1, 1, 1, 1))),
    "held-out": ("#555555", "X", (0, (1, 3))),
    "held-out, pruned": ("#999999", "*", (0, (2, 4))),
    "pruned by Wanda, 10 %": ("#A65628", "d", (0, (4, 2))),
    "not memorized": ("#4D4D52", "8", (0, (1, 4))),
    "not memorized, pruned": ("#A3A3AB", "x", (0, (2, 6))),
}
# What an unpruned model is to a picture, and the condition whose style it therefore has.
RELATIONS = {"own twin": "remembers", "other twin": "never saw it", "parent": "parent"}
# Colours, markers and lines of names that are in neither, in this order. Where charts leave markers out, lines must do.
OTHERS = {"remembers": "-", "never saw it": "--", "parent": ":", "pruned by Wanda": "-."}
BLUE = PALETTE["remembers"][0]  # where nothing is told apart


def literal(text, width: int = 60, lines: int = 6) -> str:
    """Any text as matplotlib draws it letter by letter: no mathematics, at most `lines` lines of `width` letters.

    A line break stays one. What the font has not is a □; what nobody sees (joiners, control characters) is left out.
    """
    known = characters(tuple(plt.rcParams["font.family"]))
    seen = []
    for line in str(text).split("\n"):
        letters = [" " if c.isspace() else c for c in line.strip()]
        drawn = [c if ord(c) in known else "" if unicodedata.category(c)[0] in "CM" else "□" for c in letters]
        seen += textwrap.wrap("".join(drawn), width, break_on_hyphens=False) or [""]
    if len(seen) > lines:
        seen = [*seen[: lines - 1], seen[lines - 1][: width - 1] + "…"]
    return "\n".join(seen).replace("$", r"\$")


@cache
def characters(families: tuple[str, ...]) -> set[int]:
    """The characters that the fonts of these families have."""
    fonts = [get_font(findfont(FontProperties(family=[family]))) for family in families]
    return {character for font in fonts for character in font.get_charmap()}


def styles(names) -> dict:
    """Each name's style: {name: (colour, marker, line)}.

    A name of `PALETTE` or `RELATIONS` has its own; up to four others get those of `OTHERS` whose colour no known name
    has. Raises ValueError for more.
    """
    names = list(dict.fromkeys(names))
    known = {name: PALETTE[RELATIONS.get(name, name)] for name in names if name in PALETTE or name in RELATIONS}
    taken = {colour for colour, _, _ in known.values()}
    free = [(*PALETTE[name][:2], line) for name, line in OTHERS.items() if PALETTE[name][0] not in taken]
    others = [name for name in names if name not in known]
    if len(others) > len(free):
        listed = ", ".join(map(str, others))
        raise ValueError(f"{len(others)} names that have no style of their own ({listed}), and {len(free)} to spare")
    return known | dict(zip(others, free, strict=False))


def means(rows, by: str, value: str):
    """Mean of `value` and its 95 % interval at each place of the column `by`: (places, mean, low, high)."""
    found = {place: interval(part, value) for place, part in rows.groupby(by)}
    return np.array([*found]), *np.array([*found.values()]).T


def interval(rows, value: str):
    """Mean of the column `value` and its 95 % interval, that of shares if its name ends in "rate": (mean, low, high).

    Rows that share a number in the column `group` are one cluster; fewer than `stats.FEWEST` of these get no interval.
    """
    grouped = "group" in rows and rows["group"].notna().all()
    clusters = rows["group"].astype(int).tolist() if grouped else None
    bounds = (0, 1) if value.endswith("rate") else None
    mean, low, high = mean_interval(rows[value].to_numpy(float), clusters=clusters, bounds=bounds)
    return (mean, low, high) if len(set(clusters or range(len(rows)))) >= FEWEST else (mean, np.nan, np.nan)


def known_only(names, known) -> None:
    """Raise ValueError when a name is not among the known ones."""
    if strange := sorted(set(names) - set(known)):
        raise ValueError(f"no line is known for {', '.join(strange)}; there are: {', '.join(known)}")


@contextmanager
def frame(rows: int, columns: int, size: tuple[float, float], **options):
    """A figure of `size` (inches) and its axes [rows, columns] in the book's style; `options` are `plt.subplots`'s.

    It is closed at the end, so that a notebook shows it once, where the cell returns it.
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, **options)
        try:
            yield figure, axes
        finally:
            plt.close(figure)


@contextmanager
def chart(width: float, height: float, panels: int = 1, left: bool = True, **options):
    """A figure of charts side by side and its axes [panels]; `left=False` draws no upright line at the left.

    At the end its titles, labels and legends are made `literal`.
    """
    with frame(1, panels, (width, height), **options) as (figure, [axes]):
        yield figure, axes
        legends = [*figure.legends, *filter(None, (axis.get_legend() for axis in axes))]
        for text in [text for found in legends for text in found.get_texts()]:
            text.set_text(literal(text.get_text(), 44, 2))
        for text in [text for axis in axes for text in (axis.title, axis.xaxis.label, axis.yaxis.label)]:
            text.set_text(literal(text.get_text(), 52, 3))
        sns.despine(figure, left=not left)
        figure.tight_layout()


def name_rows(axis, names, width: int = 44) -> None:
    """Name a chart's rows, the first on top, in two lines of `width` letters at most."""
    axis.set_yticks(range(len(names)), [literal(name, width, 2) for name in names])
    if not axis.yaxis_inverted():  # seaborn has turned its own
        axis.invert_yaxis()


def legend_above(axis, columns: int = 3) -> None:
    """A legend above a single chart."""
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=columns)


def shared_legend(figure, columns: int = 3) -> None:
    """One legend above all panels; what several show is named once."""
    found = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(found.values(), found, loc="lower center", bbox_to_anchor=(0.5, 0.97), ncols=columns)


def heat(axis, table, high: float = 1.0, colours: str = "Greys", bar: str | None = None) -> None:
    """Draw a table on `axis` as a map from 0 to `high`, a number in every cell, and a colour bar called `bar`."""
    options = {"annot": True, "fmt": ".2f", "cmap": colours, "vmin": 0, "vmax": high, "linewidths": 1}
    options["yticklabels"], options["xticklabels"] = ([literal(x, 44, 2) for x in names] for names in table.axes)
    options |= {"cbar": bar is not None, "cbar_kws": {} if bar is None else {"label": literal(bar, 52, 3)}}
    sns.heatmap(table.round(2) + 0.0, ax=axis, **options)  # no −0.00
    axis.tick_params(axis="y", rotation=0)
