"""Rows as tables of units, one row a canary, and what one condition is beyond others.

    units = contrast(run.rows("picture"), "own twin", "other twin", column="model")
    units["score"].mean()

A table of units has `score`, `nearness` (adaptive ℓ2's mean logarithm), a rate for each detector, and `cluster`, the
names that share its description; or, where an effect is not in scores, a `value` and its `cluster`.
"""

import numpy as np

DETECTORS = ("descriptor", "adaptive l2")
FAR = 10.0  # |logarithm| at which a nearness is cut: identical pictures have none


def units_of(rows):
    """Rows of one condition as a table of units, in the order of the rows. Raises ValueError for a canary twice."""
    import pandas as pd

    if rows["target"].duplicated().any():
        raise ValueError(f"{rows['target'][rows['target'].duplicated()].iloc[0]} is there twice; give one condition")
    with np.errstate(divide="ignore"):
        near = [np.log(np.asarray(scores, float)).clip(-FAR, FAR).mean() for scores in rows["adaptive l2"]]
    found = {"score": rows["descriptor mean"].to_numpy(float), "nearness": near}
    found |= {f"{name} rate": rows[f"{name} rate"].to_numpy(float) for name in DETECTORS}
    found["cluster"] = clusters_of(rows)["cluster"].to_numpy()
    return pd.DataFrame(found, index=pd.Index(rows["target"], name="target"))


def contrast(rows, one: str, *others: str, column: str = "condition"):
    """Condition `one` minus the highest of the `others`, canary by canary: a table of units.

    Raises ValueError for a condition that there is not, or other canaries in it.
    """
    tables = [units_of(only(rows, name, column)) for name in (one, *others)]
    return beyond(*tables)


def only(rows, name, column: str = "condition"):
    """The rows of one condition. Raises ValueError if there are none."""
    part = rows[rows[column] == name] if column in rows else rows[:0]
    if part.empty:
        there = ", ".join(map(str, rows[column].unique())) if column in rows else "none"
        raise ValueError(f"there are no rows with {column} {name!r}; there are: {there}")
    return part


def beyond(one, *others):
    """Units `one` minus the highest of the `others`, value by value. Raises ValueError for other canaries."""
    found, highest = one.copy(), extreme("max", *others)
    if set(highest.index) != set(found.index):
        raise ValueError("conditions are of different canaries; keep those that are in all of them")
    values = [name for name in found if name != "cluster"]
    found[values] = found[values].to_numpy() - highest.loc[found.index, values].to_numpy()
    return found


def extreme(which: str, *tables):
    """The highest ("max"), lowest ("min") or "mean" of several tables of units, value by value."""
    found, values = tables[0].copy(), [name for name in tables[0] if name != "cluster"]
    if any(set(table.index) != set(found.index) for table in tables):
        raise ValueError("conditions are of different canaries; keep those that are in all of them")
    together = [table.loc[found.index, values].to_numpy() for table in tables]
    found[values] = {"max": np.max, "min": np.min, "mean": np.mean}[which](together, axis=0)
    return found


def values(units, value):
    """A table of units with one `value` each, in the order of `units`, whose clusters it keeps."""
    return units[["cluster"]].assign(value=np.asarray(value, float))


def by_target(rows, effect):
    """The units of `rows` with what the series `effect`, by target, is of each."""
    units = clusters_of(rows)
    return values(units, effect.loc[units.index])


def column(rows, name: str, kept: str, by: str = "condition"):
    """What `kept` is in the rows of one condition, by target."""
    return only(rows, name, by).set_index("target")[kept]


def in_each(rows, kept: str, by: str, *names: str):
    """Units without values, and what `kept` is in each condition of the column `by`, in their order."""
    units = clusters_of(rows)
    return units, *(column(rows, name, kept, by).loc[units.index] for name in names)


def clusters_of(rows):
    """One row a target, in order, with its cluster: the names that share its description, or itself."""
    found = rows.drop_duplicates("target").set_index("target")
    group = found["group"] if "group" in found else [None] * len(found)
    names = [name if k is None or k != k else f"group {int(k)}" for name, k in zip(found.index, group, strict=True)]
    return found[[]].assign(cluster=names)


def in_turn(rows):
    """Several rows a target as tables of one each: first rows of all targets, then second ones, and so on."""
    return [units_of(part) for _, part in rows.groupby(rows.groupby("target", sort=False).cumcount(), sort=True)]


def first_reach(x, y, level: float) -> float:
    """The first x at which the line through (x, y) reaches the level; its first x if it begins there, else NaN."""
    reached = np.flatnonzero(np.asarray(y) >= level)
    if not len(reached):
        return float("nan")
    k = reached[0]
    return float(x[k]) if k == 0 else float(np.interp(level, [y[k - 1], y[k]], [x[k - 1], x[k]]))
