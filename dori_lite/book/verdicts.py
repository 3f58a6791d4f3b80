"""What an effect, unit by unit, says of a committed claim: by the rules that stand in `claims.toml`.

    units = contrast(run.rows("picture"), "own twin", "other twin", column="model")
    found = judged(committed.claim("replay"), units)
    found["verdict"], found["rates"]["verdict"]

A table of units has one row a canary: `score`, `nearness` (adaptive ℓ2's mean logarithm), a rate for each detector, and
`cluster`, the names that share its description.
"""

import math

import numpy as np

from ..stats import mean_interval
from .committed import FAILS, HOLDS, UNDECIDED, Claim, verdict

DEPENDS = "detector-dependent"
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
    groups = rows["group"] if "group" in rows else rows["target"]
    found["cluster"] = [t if pd.isna(group) else group for t, group in zip(rows["target"], groups, strict=True)]
    return pd.DataFrame(found, index=pd.Index(rows["target"], name="target"))


def contrast(rows, one: str, *others: str, column: str = "condition"):
    """Condition `one` minus the highest of the `others`, canary by canary: a table of units.

    Raises ValueError for a condition that there is not, or other canaries in it.
    """
    tables = {}
    for name in (one, *others):
        part = rows[rows[column] == name]
        if part.empty:
            raise ValueError(f"there are no rows with {column} {name!r}; there are: {', '.join(rows[column].unique())}")
        tables[name] = units_of(part)
        if set(tables[name].index) != set(tables[one].index):
            raise ValueError(f"{name!r} and {one!r} are of different canaries; keep those that are in both")
    values = [name for name in tables[one] if name != "cluster"]
    found = tables[one].copy()
    highest = np.max([tables[name].loc[found.index, values].to_numpy() for name in others], axis=0)
    found[values] = found[values].to_numpy() - highest
    return found


def judged(about: Claim, units) -> dict:
    """The effect's mean over units, its interval, and what they say of the claim: by score first, by rates beside it.

    For claims that are not in scores, `units` needs `value` (for a ratio, the ratio itself) and `cluster` alone.
    """
    scores = about.measure == "score"
    values, level = units["score" if scores else "value"], 0.90 if about.within else 0.95
    options = {"clusters": units["cluster"].tolist(), "level": level, "geometric": about.measure == "ratio"}
    estimate, low, high = mean_interval(values, **options)
    found = {"estimate": estimate, "low": low, "high": high, "units": len(units)}
    found |= {"clusters": units["cluster"].nunique(), "threshold": about.threshold, "rung": about.rung}
    found["verdict"] = verdict(about, estimate, low, high)
    if scores:
        found["nearness"] = float(units["nearness"].mean())
        if found["verdict"] != UNDECIDED and math.copysign(1, estimate) != math.copysign(1, found["nearness"]):
            found["verdict"] = DEPENDS
    if about.rate is not None:
        found["rates"] = rates_judged(about, units)
    return found


def rates_judged(about: Claim, units) -> dict:
    """The same effect in rates of copies, by each detector, and what both say together."""
    found = {}
    for name in DETECTORS:
        options = {"clusters": units["cluster"].tolist(), "bounds": (-1.0, 1.0), "reach": 1.0}
        estimate, low, high = mean_interval(units[f"{name} rate"], **options)
        said = (
            UNDECIDED if math.isnan(low) else HOLDS if low > about.rate else FAILS if high < about.rate else UNDECIDED
        )
        found[name] = {"estimate": estimate, "low": low, "high": high, "verdict": said}
    said = {found[name]["verdict"] for name in DETECTORS}
    together = said.pop() if len(said) == 1 else UNDECIDED if UNDECIDED in said else DEPENDS
    return found | {"threshold": about.rate, "verdict": together}


def same_sign(about: Claim, estimate: float, first: float) -> bool:
    """Whether the first pair's estimate lies on the same side of the threshold as this one's (inside or outside ±)."""
    if about.within:
        return (abs(estimate) < about.threshold) == (abs(first) < about.threshold)
    return (estimate > about.threshold) == (first > about.threshold)
