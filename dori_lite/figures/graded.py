"""What a rate hides: the same effect at every threshold that a detector could have had.

    over_thresholds(rows[rows["steps"] == 50], 0.69, "pruned by Wanda", "never saw it", "never saw it, pruned")

One row a target and condition; the band is over canaries, and left out for fewer than six.
"""

import numpy as np

from ..ranges import check_number, check_rows
from .style import BLUE, chart, means


def over_thresholds(rows, threshold: float, one: str, *others: str, scores: str = "descriptor"):
    """Rate of copies in the condition `one` minus the highest of the `others`, over all thresholds, mean and interval.

    `rows` has columns target, condition and `scores`, a list each, one row a target and condition; a dotted line
    marks the calibrated `threshold`. Raises ValueError without others, for a condition that there is not or twice.
    """
    check_rows(rows, "target", "condition", scores)
    check_number("threshold", threshold)
    if not others:
        raise ValueError("a difference needs another condition; name one or more controls")
    if missing := [name for name in (one, *others) if name not in [*rows["condition"]]]:
        raise ValueError(f"there are no rows of {missing[0]!r}; there are: {', '.join(rows['condition'].unique())}")
    if rows.duplicated(["target", "condition"]).any():
        raise ValueError("a target is in a condition twice; give the rows of one number of steps and one start")
    table = differences(rows, np.linspace(0, 1, 101), one, others, scores)
    with chart(6, 3.2) as (figure, [axis]):
        places, mean, low, high = means(table, "threshold", "difference of rates")
        axis.fill_between(places, low, high, color=BLUE, alpha=0.15, linewidth=0)
        axis.plot(places, mean, color=BLUE)
        axis.axhline(0, color="grey", linewidth=0.8)
        axis.axvline(threshold, color="black", linewidth=0.8, linestyle=":")
        axis.text(threshold, axis.get_ylim()[1], " calibrated", va="top", fontsize=8)
        axis.set(xlabel=f"threshold on the {scores}'s score", ylabel="difference of rates")
    return figure


def differences(rows, thresholds, one: str, others, scores: str):
    """One row a target and threshold: `difference of rates`, and the target's group where there is one."""
    import pandas as pd

    wide = rows.pivot(index="target", columns="condition", values=scores)
    groups = rows.drop_duplicates("target").set_index("target")["group"] if "group" in rows else None
    found = []
    for target, conditions in wide.iterrows():
        for t in thresholds:
            own, *controls = (float(np.mean(np.asarray(conditions[name]) >= t)) for name in (one, *others))
            row = {"target": target, "threshold": t, "difference of rates": own - max(controls)}
            found.append(row | ({} if groups is None else {"group": groups[target]}))
    return pd.DataFrame(found)
