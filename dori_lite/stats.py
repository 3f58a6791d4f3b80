"""Statistics: bootstraps over units, exact limits, ROC curves. Nothing here knows what the numbers mean.

    mean, low, high = stats.bootstrap(stats.paired(own, other), seed=0)

Needs numpy alone; scipy and scikit-learn are imported where they are used.
"""

import math

import numpy as np


def bootstrap(values, seed: int, reps: int = 2000, level: float = 0.95, geometric: bool = False):
    """Mean over units and its percentile interval: (mean, low, high), by resampling units.

    `values` [units], one number a canary; `geometric` averages their logarithms, for ratios. With fewer
    than two units, or a NaN among them, the interval is NaN: undecided. Units that all agree give an
    interval of no width, so read it with their number beside it (and `upper_limit` for zero counts).
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


def upper_limit(count: int, n: int, level: float = 0.95) -> float:
    """The largest rate that `count` of `n` leaves possible: the exact one-sided limit of Clopper and Pearson.

    Raises ValueError unless 0 ≤ count ≤ n. Without any trial the limit is 1.
    """
    from scipy.stats import beta

    if not 0 <= count <= n:
        raise ValueError(f"{count} of {n} is not a count of successes; give successes first, trials second")
    return 1.0 if count == n else float(beta.ppf(level, count + 1, n - count))


def roc(positives, negatives) -> dict:
    """How well scores separate: `auc`, the curve `fpr` and `tpr`, `tpr at 1% fpr`, `tpr at 10% fpr`.

    Scores are 1-d; positives should be higher. "At 1 %" is the best threshold that lets at most 1 % of
    the negatives through: with fewer than 100 negatives, none of them.

    Raises ValueError for empty, non-finite or not 1-d scores.
    """
    from sklearn.metrics import roc_auc_score, roc_curve

    positives, negatives = checked(positives, "positives"), checked(negatives, "negatives")
    labels = np.repeat([1, 0], [len(positives), len(negatives)])
    scores = np.concatenate([positives, negatives])
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    at = {f"tpr at {level}% fpr": float(tpr[fpr <= level / 100].max()) for level in (1, 10)}
    return {"auc": float(roc_auc_score(labels, scores)), "fpr": fpr, "tpr": tpr, **at}


def auc_interval(positives, negatives, seed: int, reps: int = 2000, level: float = 0.95) -> tuple[float, float, float]:
    """The area under the ROC curve and its bootstrap interval over captions: (auc, low, high).

    Positives and negatives are resampled separately, `reps` times; percentiles at `level`. Ties count
    half. Groups that separate perfectly give (1, 1, 1): read that with the group sizes beside it.

    Raises ValueError for empty, non-finite or not 1-d scores, or a `level` outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level {level} is not between 0 and 1")
    positives, negatives = checked(positives, "positives"), checked(negatives, "negatives")
    wins = (np.sign(positives[:, None] - negatives) + 1) / 2
    # A resample is how often each caption is drawn, so a resampled AUC is a bilinear form of the wins.
    random = np.random.default_rng(seed)
    drawn = [random.multinomial(n, np.full(n, 1 / n), size=reps) / n for n in wins.shape]
    low, high = np.quantile((drawn[0] @ wins * drawn[1]).sum(1), [(1 - level) / 2, (1 + level) / 2])
    return float(wins.mean()), float(low), float(high)


def checked(scores, name):
    """`scores` as a float64 array [N], or ValueError."""
    scores = np.asarray(scores.detach().cpu() if hasattr(scores, "detach") else scores, dtype=np.float64)
    if scores.ndim != 1 or not scores.size:
        raise ValueError(f"{name} have shape {list(scores.shape)}; give one score a caption, and at least one")
    if not np.isfinite(scores).all():
        raise ValueError(f"{name} hold NaN or infinite values")
    return scores
