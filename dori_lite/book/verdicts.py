"""What an effect, unit by unit, says of a committed claim: by the rules that stand in `claims.toml`.

    found = judged(claims.claim("replay"), effects.effect("replay", run))
    found["verdict"], found["rates"]["verdict"]

The score decides, by its interval; adaptive ℓ2 must share the effect's sign, and both detectors judge rates.
"""

import math

from ..stats import auc_interval, mean_interval, slope_interval
from .claims import FAILS, HOLDS, UNDECIDED, Claim, verdict
from .contrasts import DETECTORS

DEPENDS = "detector-dependent"


def judged(about: Claim, units) -> dict:
    """The effect's mean over units, its interval, and what they say of the claim: by score first, by rates beside it.

    For claims that are not in scores, `units` needs `value` (for a ratio, the ratio itself) and `cluster` alone; for a
    slope `x` as well; for an AUC whether the unit is `positive`, and its `model`: the lowest model's counts.
    """
    estimate, low, high = interval(about, units)
    found = {"estimate": estimate, "low": low, "high": high, "units": units.index.nunique()}
    found |= {"clusters": units["cluster"].nunique(), "threshold": about.threshold, "rung": about.rung}
    found["verdict"] = verdict(about, estimate, low, high)
    if about.measure in ("score", "slope") and not about.within:
        slope = about.measure == "slope"
        near = slope_interval(units["x"], units["nearness"])[0] if slope else units["nearness"].mean()
        found["nearness"] = float(near)
        if found["verdict"] != UNDECIDED and math.copysign(1, estimate) != math.copysign(1, found["nearness"]):
            found["verdict"] = DEPENDS
    if about.rate is not None:
        found["rates"] = rates_judged(about, units)
    return found


def interval(about: Claim, units) -> tuple[float, float, float]:
    """Estimate and interval of a claim's effect."""
    level = 0.90 if about.within else 0.95
    if about.measure == "slope":
        return slope_interval(units["x"], units["value"], level=level)
    if about.measure == "auc":
        areas = []
        for _, part in units.groupby("model", sort=False):
            sides = [part[part["positive"] == side] for side in (True, False)]
            options = {"clusters": [side["cluster"].tolist() for side in sides], "level": level}
            areas.append(auc_interval(*(side["value"] for side in sides), **options))
        return min(areas)
    options = {"clusters": units["cluster"].tolist(), "level": level, "geometric": about.measure == "ratio"}
    return mean_interval(units["score" if about.measure == "score" else "value"], **options)


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
