"""Statistics over units: means, differences, ranks and areas with their intervals, exact limits, ROC curves.

    mean, low, high = stats.paired_interval(own_rates, other_rates)

`benchmarks/coverage.py` simulates how often each interval holds the truth: ≥ 0.93 of nominal 0.95 for 8 to 32 canaries
with rates anywhere, at the ends too. Needs numpy alone; scipy and scikit-learn are imported where they are used.
"""

import math
from functools import cache
from numbers import Real

import numpy as np

from .ranges import check_positive

# Units from which on readers see an interval, a ROC curve, a KID or a membership test. Those of fewer say more about
# the formula than about the world: two units' interval is 12.7 standard errors long on either side, six units' 2.6.
# The functions here take any number. Figures leave it out in `style.interval` and `charts.roc_curves`, tables in
# `chapter.in_brackets`, `tables.areas` and `tables.counts`; a cell that computes one itself asks for `FEWEST`.
FEWEST, TOO_FEW = 6, "no {} below six units"  # the words that stand in its place


def mean_interval(values, *, clusters=None, bounds=None, reach=None, level: float = 0.95, geometric: bool = False):
    """Mean over units and its interval: (mean, low, high), by Student's t with what bounded values add to it.

    `values` [units], one number a canary. `clusters` [units] labels units that belong together: each cluster is then
    one unit, with the mean of its own. `geometric` averages logarithms, for ratios.

    With `bounds` (least, most), the interval has Wilson's form (the variance shrinks towards the ends), stays within
    them, and is at least as wide as what n units can all miss: a share 1 − (1 − level)^(1/n) of units that lie `reach`
    away [default: at the far bound]; for differences of rates, reach=1. It under-covers where rarer ones lie farther
    off. Units all at one bound or the other, within reach, get the exact limits of Clopper and Pearson.

    NaN ends, undecided: fewer than two units, a NaN or infinity among them, or, without bounds, units that all agree.
    Raises ValueError for what is not one number a unit, for values outside the bounds and for other wrong options.
    """
    values, level, width = numbers(values, "values"), checked_level(level), math.inf
    if geometric and (bounds is not None or (values < 0).any()):
        raise ValueError("a geometric mean needs ratios without bounds, none negative; call it without geometric=True")
    if bounds is not None:
        least, most = checked_bounds(values, bounds)
        width = most - least
        reach = width if reach is None else check_positive("reach", reach)
    elif reach is not None:
        raise ValueError("reach is a distance between bounds; give bounds=(least, most) as well")
    with np.errstate(divide="ignore", invalid="ignore"):  # a ratio may be zero or infinite
        values = by_cluster(np.log(values) if geometric else values, clusters)
        n, mean = len(values), float(values.mean()) if len(values) else math.nan
    scale = np.exp if geometric else np.asarray
    if n < 2 or not np.isfinite(values).all() or (bounds is None and np.ptp(values) == 0):
        return float(scale(mean)), math.nan, math.nan
    if bounds is None:
        half = quantile(level, n - 1) * values.std(ddof=1) / math.sqrt(n)
        return tuple(float(scale(x)) for x in (mean, mean - half, mean + half))
    if reach >= width and np.isin(values, [least, most]).all():
        count, each = int((values == most).sum()), (1 + level) / 2
        return mean, most - width * upper_limit(n - count, n, each), least + width * upper_limit(count, n, each)
    share = min(max((mean - least) / width, 0.0), 1.0)
    room = share * (1 - share)  # of which the variance is a part
    k = quantile(level, n - 1) ** 2 * values.var(ddof=1) / (n * width**2 * room) if room > 0 else 0.0
    centre, half = (share + k / 2) / (1 + k), math.sqrt(k * room + k * k / 4) / (1 + k)
    missed = upper_limit(0, n, level)
    low = min(least + width * (centre - half), mean - missed * min(reach, mean - least))
    high = max(least + width * (centre + half), mean + missed * min(reach, most - mean))
    return mean, float(max(low, least)), float(min(high, most))


def paired_interval(own, other, *, clusters=None, bounds=(0.0, 1.0), level: float = 0.95):
    """Mean over units of `own` − `other` and its interval (`mean_interval`): (mean, low, high).

    Both are matched as in `paired`, `clusters` [units] in the order of `own`. `bounds` are each side's, None for none;
    a unit unlike those seen is taken to be at most one side's width away.
    """
    options = {}
    if bounds is not None:
        least, most = checked_bounds(np.concatenate(matched(own, other)), bounds)
        options = {"bounds": (least - most, most - least), "reach": most - least}
    return mean_interval(paired(own, other), clusters=clusters, level=level, **options)


def slope_interval(x, y, *, level: float = 0.95):
    """The slope of y on x by least squares and its interval: (slope, low, high), by Student's t with n − 2 degrees.

    Fewer than three units, a NaN, a constant x or points all on one line give NaN ends: undecided.
    """
    from scipy.stats import linregress

    x, y, level = numbers(x, "x"), numbers(y, "y"), checked_level(level)
    if x.shape != y.shape:
        raise ValueError(f"both columns need one number a unit; their shapes are {x.shape} and {y.shape}")
    if len(x) < 2 or not np.isfinite([x, y]).all() or np.ptp(x) == 0:
        return math.nan, math.nan, math.nan
    found = linregress(x, y)
    slope, error = float(found.slope), float(found.stderr)
    if len(x) < 3 or np.ptp(y - slope * x) <= 1e-9 * np.ptp(y):  # all on one line, but for rounding
        return slope, math.nan, math.nan
    half = quantile(level, len(x) - 2) * error
    return slope, slope - half, slope + half


def auc_interval(positives, negatives, *, clusters=None, level: float = 0.95) -> tuple[float, float, float]:
    """The area under the ROC curve and its interval over captions: (auc, low, high). Ties count half.

    DeLong's variance on the logit scale, and at least what the k captions of the smaller group can all miss: a share
    1 − (1 − level)^(1/k) that is ranked the wrong way. So groups that separate perfectly give the exact lower bound
    (1 − level)^(1/k): k independent pairs, all won. `clusters` is (labels of the positives, labels of the negatives):
    scores that share a label vary together, and k counts labels. One caption or cluster on a side leaves NaN ends.
    Coverage is 0.93 where a tenth of 32 rank below all others.
    Raises ValueError for empty, non-finite or not 1-d scores, other clusters, or a `level` outside (0, 1).
    """
    level, sides = checked_level(level), (checked(positives, "positives"), checked(negatives, "negatives"))
    sizes = [len(side) for side in sides]
    if clusters is None:
        labels = np.split(np.arange(sum(sizes)), [sizes[0]])
    elif isinstance(clusters, tuple | list) and len(clusters) == 2:
        labels = [checked_labels(own, n) for own, n in zip(clusters, sizes, strict=True)]
    else:
        raise ValueError("clusters must be two lists: the labels of the positives and those of the negatives")
    wins = (np.sign(sides[0][:, None] - sides[1]) + 1) / 2
    auc, counts = float(wins.mean()), [len(np.unique(own)) for own in labels]
    if min(counts) < 2:
        return auc, math.nan, math.nan
    # What each caption moves the area by, summed over those that vary together.
    parts = [wins.mean(1) - auc, wins.mean(0) - auc]
    parts = [p * math.sqrt(k / (k - 1)) / n for p, k, n in zip(parts, counts, sizes, strict=True)]
    joint, place = np.unique(np.concatenate(labels), return_inverse=True)
    error = math.sqrt((np.bincount(place, np.concatenate(parts)) ** 2).sum())
    low, high = auc, auc
    if 0 < auc < 1:
        logit, half = math.log(auc / (1 - auc)), quantile(level, len(joint) - 1) * error / (auc * (1 - auc))
        low, high = ((1 + math.tanh((logit + side * half) / 2)) / 2 for side in (-1, 1))
    missed = upper_limit(0, min(counts), level)
    return auc, min(low, auc - missed * auc), max(high, auc + missed * (1 - auc))


@cache
def quantile(level: float, freedom: int) -> float:
    """Student's t that a share `level` of values stays within, on both sides."""
    from scipy.stats import t

    return float(t.ppf((1 + level) / 2, freedom))


def paired(own, other) -> np.ndarray:
    """`own` − `other` for each unit: [units].

    Mappings and pandas Series are matched by their keys, others by position. Raises ValueError where they differ.
    """
    return np.subtract(*matched(own, other))


def ratios(own, other) -> np.ndarray:
    """`other` ÷ `own` for each unit, matched as in `paired`: [units]. 0 ÷ 0 is NaN, x ÷ 0 is infinite."""
    own, other = matched(own, other)
    with np.errstate(divide="ignore", invalid="ignore"):
        return other / own


def matched(own, other) -> tuple[np.ndarray, np.ndarray]:
    if hasattr(own, "keys") != hasattr(other, "keys"):
        raise ValueError("one side is matched by key and the other by position; give both in the same form")
    if hasattr(own, "keys"):
        if set(own.keys()) != set(other.keys()) or len(own) != len(set(own.keys())) or len(other) != len(own):
            missing = sorted(map(str, set(own.keys()) ^ set(other.keys())))
            raise ValueError(f"both sides need each unit once; only on one side: {', '.join(missing) or 'none'}")
        own, other = [own[key] for key in own.keys()], [other[key] for key in own.keys()]  # noqa: SIM118
    own, other = numbers(own, "own"), numbers(other, "other")
    if own.shape != other.shape:
        raise ValueError(f"both sides need one number a unit; their shapes are {own.shape} and {other.shape}")
    return own, other


def upper_limit(count: int, n: int, level: float = 0.95) -> float:
    """The largest rate that `count` of `n` leaves possible: the exact one-sided limit of Clopper and Pearson.

    Raises ValueError unless both are whole and 0 ≤ count ≤ n. Without any trial the limit is 1.
    """
    from scipy.stats import beta

    level = checked_level(level)
    real = all(isinstance(number, Real) and not isinstance(number, bool) for number in (count, n))
    if not real or not 0 <= count <= n or count % 1 or n % 1:
        raise ValueError(f"{count!r} of {n!r} is not a count of successes; give successes first, trials second")
    return 1.0 if count == n else float(beta.ppf(level, count + 1, n - count))


def roc(positives, negatives) -> dict:
    """How well scores separate: `auc`, the curve `fpr` and `tpr`, `tpr at 1% fpr`, `tpr at 10% fpr`.

    Scores are 1-d; positives should be higher. "At 1 %" is the best threshold that lets at most 1 % of
    the negatives through: with fewer than 100 negatives, none of them. Raises ValueError for empty, non-finite
    or not 1-d scores.
    """
    from sklearn.metrics import roc_auc_score, roc_curve

    positives, negatives = checked(positives, "positives"), checked(negatives, "negatives")
    labels = np.repeat([1, 0], [len(positives), len(negatives)])
    scores = np.concatenate([positives, negatives])
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    at = {f"tpr at {level}% fpr": float(tpr[fpr <= level / 100].max()) for level in (1, 10)}
    return {"auc": float(roc_auc_score(labels, scores)), "fpr": fpr, "tpr": tpr, **at}


def checked(scores, name) -> np.ndarray:
    """`scores` as a float64 array [N], or ValueError."""
    given = as_array(scores, name)
    if given.ndim != 1 or not len(given):
        raise ValueError(f"{name} have shape {[*given.shape]}; give one score a caption, and at least one")
    if not np.isfinite(scores := numbers(given, name)).all():
        raise ValueError(f"{name} hold NaN or infinite values")
    return scores


def as_array(values, name: str) -> np.ndarray:
    try:
        return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    except ValueError:
        raise ValueError(f"{name} are of unequal lengths; give one number a unit") from None


def numbers(values, name: str) -> np.ndarray:
    """`values` as float64 [units], or ValueError; NaN and infinities pass."""
    values = as_array(values, name)
    if values.dtype.kind not in "iuf":
        raise ValueError(f"{name} are of type {values.dtype}; give one number a unit")
    if values.ndim != 1:
        raise ValueError(f"one number a unit is needed, not {name} of shape {values.shape}; average over seeds first")
    return values.astype(float)


def by_cluster(values, clusters) -> np.ndarray:
    """The mean of each cluster, or `values` as they are without."""
    if clusters is None:
        return values
    _, place = np.unique(checked_labels(clusters, len(values)), return_inverse=True)
    return np.bincount(place, values) / np.bincount(place)


def checked_labels(labels, n: int) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.dtype.kind == "O" and all(isinstance(label, str) for label in labels.flat):
        labels = labels.astype(str)
    if labels.shape != (n,) or labels.dtype.kind not in "iuUS":
        raise ValueError(f"clusters are {labels.dtype} of shape {labels.shape}; give a name or number to all {n} units")
    return labels


def checked_level(level, name: str = "level") -> float:
    if not isinstance(level, int | float | np.number) or not 0 < level < 1:
        raise ValueError(f"{name} {level!r} is not between 0 and 1")
    return float(level)


def checked_bounds(values, bounds) -> tuple[float, float]:
    if np.shape(bounds) != (2,) or not -math.inf < bounds[0] < bounds[1] < math.inf:
        raise ValueError(f"bounds={bounds!r} are not two finite numbers, the least first")
    if (out := values[(values < bounds[0] - 1e-9) | (values > bounds[1] + 1e-9)]).size:
        raise ValueError(f"a value of {out[0]:g} lies outside the bounds {bounds}; give what a unit's values can be")
    return float(bounds[0]), float(bounds[1])
