"""What an effect, unit by unit, says of a committed claim: by the rules that stand in `claims.toml`.

    found = judged(claims.claim("replay"), effects.effect("replay", run))
    found["verdict"], found["rates"]["verdict"]

The score decides, by its interval; adaptive ℓ2 must share the effect's sign, and both detectors judge rates.
"""

import math

import numpy as np

from ..stats import auc_interval, mean_interval, slope_interval
from .claims import FAILS, HOLDS, UNDECIDED, Claim, claim, verdict
from .contrasts import DETECTORS

DEPENDS = "detector-dependent"


def judged(about: Claim, units, among: int = 1) -> dict:
    """The effect's mean over units, its interval, and what they say of the claim: by score first, by rates beside it.

    As one of `among` claims that are judged together, it is held to Bonferroni's level (`level_of`).

    For claims that are not in scores, `units` needs `value` (for a ratio, the ratio itself) and `cluster` alone; for a
    slope `x` as well; for an AUC whether the unit is `positive`, and its `model`: the lowest model's counts.
    """
    estimate, low, high = interval(about, units, level_of(about, among))
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
        found["rates"] = rates_judged(about, units, 1 - 0.05 / among)
    return found


def level_of(about: Claim, among: int = 1) -> float:
    """The level of a claim's interval: 0.95, or 0.90 if its effect is to lie within ±threshold.

    Of `among` claims, each may err that many times more rarely (Bonferroni): then the chance that any verdict at all
    is wrong is at most 0.05, whatever the claims share.
    """
    return 1 - (0.10 if about.within else 0.05) / among


def interval(about: Claim, units, level: float | None = None) -> tuple[float, float, float]:
    """Estimate and interval of a claim's effect, at its own level or at another."""
    level = level_of(about) if level is None else level
    if about.measure == "slope":
        return slope_interval(units["x"], units["value"], level=level)
    if about.measure == "auc":
        areas = []
        for _, part in units.groupby("model", sort=False):
            sides = [part[part["positive"] == side] for side in (True, False)]
            options = {"clusters": [side["cluster"].tolist() for side in sides], "level": level}
            areas.append(auc_interval(*(side["value"] for side in sides), **options))
        return lowest(areas)
    options = {"clusters": units["cluster"].tolist(), "level": level, "geometric": about.measure == "ratio"}
    return mean_interval(units["score" if about.measure == "score" else "value"], **options)


def lowest(intervals) -> tuple[float, float, float]:
    """The lowest of several (estimate, low, high), end by end: an interval of the lowest truth.

    The interval of whichever estimate is lowest is none: which one that is, chance decides. Of two at 95 %, call the
    lower truth the first's. The lower end here lies above it only if the first's does, so no more often than for one:
    2.5 %. (That is the end by which a claim holds.) The upper end lies below it only if one of the two upper ends lies
    below its own truth, as the second's is no lower: at most 5 %, and about so much only if both truths are alike. But
    then both lower ends must be too high at once, so that the whole still covers 95 % (`benchmarks/coverage.py`).
    """
    return tuple(float(end) for end in np.min(list(intervals), axis=0))


def together(units: dict) -> dict[str, str]:
    """What claims say that are judged together, after Holm's correction: {key: table of units} → {key: verdict}.

    All are held to Bonferroni's level of as many as there are; those that hold are set aside, and the others held to
    the level of as many as are left, until no more do. So that any of them holds which is not true is as unlikely as
    it is for one claim by itself, whatever they share. Those that do not hold are found in the same way.
    """
    said = dict.fromkeys(units, UNDECIDED)
    for wanted in (HOLDS, FAILS):
        left = list(units)
        while left:
            found = {key: judged(claim(key), units[key], len(left))["verdict"] for key in left}
            if not (decided := [key for key in left if found[key] == wanted]):
                break
            said |= dict.fromkeys(decided, wanted)
            left = [key for key in left if key not in decided]
        said |= {key: DEPENDS for key in left if found[key] == DEPENDS}
    return said


def rates_judged(about: Claim, units, level: float = 0.95) -> dict:
    """The same effect in rates of copies, by each detector, and what both say together."""
    found = {}
    for name in DETECTORS:
        options = {"clusters": units["cluster"].tolist(), "bounds": (-1.0, 1.0), "reach": 1.0, "level": level}
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
