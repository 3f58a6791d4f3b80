"""Tables that chapters show of a run's rows: counts with their limits, detectors side by side, what a loss gives away.

    tables.counts(rows[rows["steps"] == 50], threshold=0.69)

Each takes tidy rows (or a `Run`) and returns a pandas table; none needs a model.
"""

import math

import numpy as np

from ..files import read_json
from ..ranges import check_mapping, check_number, check_rows
from ..stats import upper_limit
from . import effects


def counts(rows, threshold: float, by: str = "condition", detector: str = "descriptor"):
    """Copies among all pictures of a condition, with the exact one-sided 95 % limit: as if pictures were independent.

    `rows` have the columns `by` and `detector`, a list of scores each.
    """
    import pandas as pd

    check_rows(rows, by, detector), check_number("threshold", threshold)
    table = {}
    for name, part in rows.groupby(by, sort=False):
        scores = np.concatenate([np.asarray(scores, float) for scores in part[detector]])
        count, n = int((scores >= threshold).sum()), len(scores)
        table[name] = {"copies": count, "pictures": n, "at most (95 %)": round(upper_limit(count, n), 3)}
    return pd.DataFrame(table).T.astype({"copies": int, "pictures": int})


def agreement(rows, detectors, by: str = "condition"):
    """Rates of copies by each detector, and how many pictures they differ on, condition by condition."""
    import pandas as pd

    from ..copies import check_detectors  # here, since it brings torch

    check_rows(rows, by, *(detector.name for detector in check_detectors(detectors)))
    table = {}
    for name, part in rows.groupby(by, sort=False):
        said = {d.name: np.concatenate([np.asarray(s) >= d.threshold for s in part[d.name]]) for d in detectors}
        votes = np.stack(list(said.values()))
        differ = int((votes.any(0) & ~votes.all(0)).sum())
        table[name] = {key: round(float(copy.mean()), 2) for key, copy in said.items()}
        table[name] |= {"they differ on": f"{differ} of {votes.shape[1]}"}
    return pd.DataFrame.from_dict(table, orient="index")


def before_and_after(rows, cells: dict, few: int, value: str = "descriptor rate"):
    """Means of `value` at step 0 and after `few` attack steps, as arrows: {row: {column: condition}} → table."""
    import pandas as pd

    check_rows(rows, "condition", "steps", value), check_mapping("cells", cells)
    if few not in [*rows["steps"].unique()] or isinstance(few, bool):
        raise ValueError(f"there are no rows after {few!r} steps; choose one of {sorted(rows['steps'].unique())}")
    means = rows.groupby(["condition", "steps"])[value].mean()
    arrow = {name: f"{means[name, 0]:.2f} → {means[name, few]:.2f}" for name in rows["condition"].unique()}
    return pd.DataFrame({row: {column: arrow[c] for column, c in names.items()} for row, names in cells.items()}).T


def membership(run):
    """The final loss as a membership test: its AUC against each kind of control in either home, and the gap in loss."""
    import pandas as pd

    def mean_loss(condition, home):
        return float(np.mean(effects.final_losses(run, condition, home)))

    table = {}
    for (controls, home), (area, low, high) in effects.membership_areas(run).items():
        gap = mean_loss(controls, home) - mean_loss("pruned by Wanda", home)
        table[controls, f"home {home}"] = {"AUC": f"{area:.2f} [{low:.2f}, {high:.2f}]", "loss gap": round(gap, 4)}
    return pd.DataFrame.from_dict(table, orient="index")


def first_hits(rows, rate: float = 0.5, value: str = "descriptor rate"):
    """How many targets of a condition first reach `rate` after how many steps; "never" within the steps of the rows."""
    check_rows(rows, "condition", "target", "steps", value), check_number("rate", rate)
    first = rows[rows[value] >= rate].groupby(["condition", "target"], sort=False)["steps"].min()
    every = rows.drop_duplicates(["condition", "target"]).set_index(["condition", "target"]).index
    hits = first.astype(float).reindex(every, fill_value=math.inf).groupby("condition", sort=False).value_counts()
    table = hits.unstack(fill_value=0).sort_index(axis=1)
    return table.rename(columns=lambda steps: "never" if math.isinf(steps) else int(steps))


def recomputed(world: str = "reef"):
    """Published verdicts beside those of the same rows with today's intervals (`effects.write_recomputed`).

    One row a claim; one unit has no interval. Raises FileNotFoundError where none are.
    """
    import pandas as pd

    if (stored := read_json(effects.recomputed_file(world))) is None:
        raise FileNotFoundError(
            f"no {effects.recomputed_file(world)}; write it with effects.write_recomputed({world!r})"
        )
    rows = []
    for run, claims in stored.items():
        for key, found in claims.items():
            row = {"run": run, "claim": key, "effect": found["recomputed"]["estimate"]}
            row |= {"threshold": found["threshold"], "units": found["units"]}
            for name, column in (("published", "as published"), ("recomputed", "recomputed")):
                low, high = found[name]["low"], found[name]["high"]
                row[f"{column}: interval"] = "none" if low is None or high is None else f"[{low:.2f}, {high:.2f}]"
                row[f"{column}: verdict"] = found[name]["verdict"]
            rows.append(row)
    return pd.DataFrame(rows).set_index(["run", "claim"]).astype({"effect": float}).round({"effect": 2})


def reported_and_ours(rows, few: int, many: int):
    """The paper's numbers beside ours (`reported.beside`), from the rows of chapter 4's attacks."""
    from .reported import beside

    means = rows[rows["start"] == "prompt"].groupby(["condition", "steps"])["descriptor rate"].mean()
    names = {"unpruned": "remembers", "NeMo": "pruned by NeMo", "Wanda": "pruned by Wanda"}
    ours = {f"caption, {short}": means[name, 0] for short, name in names.items()}
    ours |= {f"trigger, {short}": means[name, few] for short, name in names.items()}
    for name, short in {"held-out": "not memorized", "never saw it": "never saw the picture"}.items():
        ours |= {f"trigger, {short}": means[name, few], f"trigger, {short}, {many} steps": means[name, many]}
    return beside(ours)
