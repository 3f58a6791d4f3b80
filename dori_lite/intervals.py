"""Exact limits for counts, without torch."""


def upper_limit(count: int, n: int, level: float = 0.95) -> float:
    """The largest rate that `count` of `n` leaves possible: the exact one-sided limit of Clopper and Pearson.

    Raises ValueError unless 0 ≤ count ≤ n. Without any trial the limit is 1.
    """
    from scipy.stats import beta

    if not 0 <= count <= n:
        raise ValueError(f"{count} of {n} is not a count of successes; give successes first, trials second")
    return 1.0 if count == n else float(beta.ppf(level, count + 1, n - count))
