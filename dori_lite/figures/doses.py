"""How much of a model must go until a picture goes, and which part of it the caption needs when.

    neurons(run.rows("neurons"), total=1088)  # the highest n by several rankings
    heard(run.rows("silenced"), "layers", "steps")  # a map of scores

One row a target and dose, or a target and place of the map. Each returns a matplotlib figure; intervals are
`style.interval`'s, at 95 %, and left out for fewer than six units.
"""

from ..ranges import check_count, check_rows
from . import style
from .charts import bars
from .style import chart, known_only, shared_legend

RANKINGS = {  # colour, marker, line: as the conditions that they belong to
    "|z|": style.PALETTE["pruned by NeMo"],
    "loss": style.PALETTE["pruned by Wanda"],
    "random": style.PALETTE["held-out"],
}


def neurons(rows, value: str = "descriptor mean", label: str = "mean descriptor score", total: int | None = None):
    """`value` after blocking the highest n neurons: a line a ranking, means and intervals over targets.

    `rows` has columns n, ranking (one of `RANKINGS`), model and `value`; models are panels. With `total`, the
    number of all neurons, the axis shows shares as well. Raises ValueError for another ranking.
    """
    check_rows(rows, "n", "ranking", "model", value)
    known_only(rows["ranking"], RANKINGS)
    total = None if total is None else check_count("total", total, int(rows["n"].max()))
    models, doses = sorted(rows["model"].unique()), sorted(rows["n"].unique())
    with chart(3.6 * len(models), 3.4, len(models), sharey=True) as (figure, axes):
        for axis, model in zip(axes, models, strict=True):
            for k, (ranking, (colour, marker, line)) in enumerate(RANKINGS.items()):
                part = rows[(rows["model"] == model) & (rows["ranking"] == ranking)]
                if part.empty:
                    continue
                places, mean, low, high = style.means(part, "n", value)
                at, error = [doses.index(n) + 0.06 * (k - 1) for n in places], bars(mean, low, high)
                axis.errorbar(at, mean, error, color=colour, marker=marker, linestyle=line, label=ranking, capsize=3)
            shown = doses if total is None else [f"{n}\n{100 * n / total:.0f} %" for n in doses]
            axis.set_xticks(range(len(doses)), shown)
            axis.set(title=model, xlabel="blocked value neurons", ylim=(-0.2, 1.04))
        axes[0].set_ylabel(label)
        shared_legend(figure, len(RANKINGS))
    return figure


def heard(rows, down: str, across: str, value: str = "descriptor mean", label: str = "mean descriptor score"):
    """A map of mean `value`, with its numbers: the values of the column `down` by those of `across`, in rows' order."""
    check_rows(rows, down, across, value)
    order = [list(dict.fromkeys(rows[column])) for column in (down, across)]
    table = rows.pivot_table(value, down, across, aggfunc="mean").loc[order[0], order[1]]
    with chart(1.1 * len(order[1]) + 2, 0.5 * len(order[0]) + 1.6, left=False) as (figure, [axis]):
        style.heat(axis, table, bar=label)
        axis.set(xlabel=across, ylabel=down)
    return figure
