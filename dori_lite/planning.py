"""How many units a question needs, and whether a difference is small enough to call it none.

    planning.planned_units(sd=0.3, gap=0.2)  # units that show, four times in five, a mean 0.2 above its threshold
    found = planning.equivalence(stats.paired(own, other), delta=0.1, bounds=(-1, 1), reach=1)

The intervals are those of `stats`.
"""

import math

import numpy as np

from .ranges import check_count, check_number, check_positive
from .stats import by_cluster, checked_level, mean_interval, numbers, quantile, upper_limit

MOST = 10_000  # units that are tried


def equivalence(values, delta: float, *, clusters=None, bounds=None, reach=None, sd=None, level: float = 0.90) -> dict:
    """Is the mean near zero? "equivalent" if its 90 % interval lies inside ±`delta`, "different" if all outside.

    That is two one-sided tests at 5 %. Returns estimate, low, high, units (clusters), delta, verdict ("undecided"
    else) and power: the chance of "equivalent" for so many units if the mean is zero and they spread by the planned
    `sd` [default: as these do]; NaN where there is no interval. `values` [units] and the other options are those of
    `stats.mean_interval`. Raises ValueError unless delta > 0, and as it does.
    """
    delta = check_positive("delta", delta)
    estimate, low, high = mean_interval(values, clusters=clusters, bounds=bounds, reach=reach, level=level)
    inside, outside = -delta < low and high < delta, low > delta or high < -delta
    values = by_cluster(numbers(values, "values"), clusters)
    found = {"estimate": estimate, "low": low, "high": high, "units": len(values), "delta": delta}
    found |= {"verdict": "equivalent" if inside else "different" if outside else "undecided", "power": math.nan}
    if not math.isnan(low):
        sd = values.std(ddof=1) if sd is None else sd
        reach = bounds[1] - bounds[0] if reach is None and bounds is not None else reach or 0.0
        found["power"] = power(len(values), sd, delta, inside=True, reach=reach, level=level)
    return found


def power(units: int, sd: float, gap: float, *, inside: bool = False, reach: float = 0.0, level: float = 0.95) -> float:
    """The chance that `units` will decide: that all of their interval lies above a threshold `gap` below the mean.

    With `inside`, that it lies within ±`gap` when the mean is zero (`equivalence` has level=0.90). `sd` is the spread
    of units, taken to be normal; `reach` is that of `stats.mean_interval` [default: no bounds]. Raises ValueError for
    fewer than two units, a negative spread or reach, or a gap that is not positive.
    """
    from scipy.stats import chi2, norm

    units, gap = check_count("units", units, 2), check_positive("gap", gap)
    sd, reach = check_number("sd", sd, 0), check_number("reach", reach, 0)
    missed = upper_limit(0, units, level) * reach
    if sd == 0:
        return float(gap > missed)
    error, even = sd / math.sqrt(units), (np.arange(1000) + 0.5) / 1000
    spreads = np.sqrt(chi2.ppf(even, units - 1) / (units - 1))  # what samples show, in units of `sd`
    chance = norm.cdf(gap / error - np.maximum(quantile(level, units - 1) * spreads, missed / error))
    return float(np.mean(np.maximum(2 * chance - 1, 0) if inside else chance))


def planned_units(sd: float, gap: float, wanted: float = 0.8, **options) -> int:
    """The fewest units whose `power` is `wanted`; `options` are its. Raises ValueError where 10,000 are too few."""
    wanted, least, most = checked_level(wanted, "wanted"), 1, MOST
    if power(most, sd, gap, **options) < wanted:
        raise ValueError(f"{most} units are too few for a gap of {gap:g} at a spread of {sd:g}; plan for a wider gap")
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (least, middle) if power(middle, sd, gap, **options) >= wanted else (middle, most)
    return most
