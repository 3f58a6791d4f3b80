"""Statistics of verdicts: bootstraps over units, and units of two tables matched to each other."""

import math

import numpy as np


def bootstrap(values, seed: int, reps: int = 2000, level: float = 0.95, geometric: bool = False):
    """Mean over units and its percentile interval: (mean, low, high), by resampling units.

    `values` [units], one number a canary; `geometric` averages their logarithms, for ratios. With fewer
    than two units, or a NaN among them, the interval is NaN: undecided. Units that all agree give an
    interval of no width, so read it with their number beside it (and `intervals.upper_limit` for zero counts).
    """
    values = np.asarray(values, float)
    if values.ndim != 1:
        raise ValueError(f"one number a unit is needed, not an array of shape {values.shape}; average over seeds first")
    if geometric and (values < 0).any():
        raise ValueError("a geometric mean needs ratios, and some are negative; call it without geometric=True")
    n, tail = len(values), (1 - level) / 2
    with np.errstate(divide="ignore", invalid="ignore"):  # a ratio may be zero or infinite
        values = np.log(values) if geometric else values
        mean = values.mean() if n else math.nan
        means = np.full(1, math.nan)
        if n >= 2 and not np.isnan(values).any():
            means = values[np.random.default_rng(seed).integers(n, size=(reps, n))].mean(1)
        # Ends that occurred, so that nothing is interpolated between infinities.
        found = mean, np.quantile(means, tail, method="lower"), np.quantile(means, 1 - tail, method="higher")
        return tuple(float(x) for x in (np.exp(found) if geometric else found))


def bootstrap_spearman(x, y, seed: int, reps: int = 2000, level: float = 0.95):
    """Spearman's ρ of two columns and its percentile interval by resampling units: (ρ, low, high).

    Fewer than three units, or a constant column, give NaN: undecided.
    """
    from scipy.stats import rankdata

    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"both columns need one number a unit; their shapes are {x.shape} and {y.shape}")

    def rho(a, b):  # rows of resampled units
        a, b = rankdata(a, axis=-1), rankdata(b, axis=-1)
        a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            return (a * b).sum(-1) / np.sqrt((a**2).sum(-1) * (b**2).sum(-1))

    if len(x) < 3 or not np.isfinite([x, y]).all():
        return math.nan, math.nan, math.nan
    chosen = np.random.default_rng(seed).integers(len(x), size=(reps, len(x)))
    spread, tail = rho(x[chosen], y[chosen]), (1 - level) / 2
    spread = spread[np.isfinite(spread)]  # a resample of one unit alone has no ranks to compare
    estimate = float(rho(x, y))
    if not len(spread) or math.isnan(estimate):
        return math.nan, math.nan, math.nan
    return estimate, float(np.quantile(spread, tail)), float(np.quantile(spread, 1 - tail))


def paired(own, other) -> np.ndarray:
    """`own` − `other` for each unit: [units].

    Mappings and pandas Series are matched by their keys; anything else by position. Raises ValueError
    when they do not hold the same units.
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
    own, other = np.asarray(own, float), np.asarray(other, float)
    if own.shape != other.shape or own.ndim != 1:
        raise ValueError(f"both sides need one number a unit; their shapes are {own.shape} and {other.shape}")
    return own, other
