"""How often the intervals of `dori_lite.stats` hold the truth, over designs like the book's; 0.95 is what they say."""

from statistics import NormalDist

import numpy as np

from dori_lite import stats
from dori_lite.book.verdicts import lowest

BAR, REPS = 0.93, 2000
RANDOM = np.random.default_rng(0)


def rates(mean: float, spread: float, seeds: int):
    """Canaries whose chances are beta-distributed (a small `spread` puts them at the ends), each asked with `seeds`."""
    return lambda n: RANDOM.binomial(seeds, RANDOM.beta(mean * spread, (1 - mean) * spread, n)) / seeds, mean


def mixed(share: float, rare, common):
    """A `share` of units from `rare`, the others from `common`."""
    return (
        lambda n: np.where(RANDOM.random(n) < share, rare[0](n), common[0](n)),
        share * rare[1] + (1 - share) * common[1],
    )


def same(value: float):
    return lambda n: np.full(n, float(value)), value


def alike(chance: float, seeds: int):
    """Canaries with one chance."""
    return lambda n: RANDOM.binomial(seeds, chance, n) / seeds, chance


def together(design, size: int):
    """`size` canaries to a cluster, which share half of what they are: (values, labels)."""

    def draw(n):
        own, shared = design[0](n * size), np.repeat(design[0](n), size)
        return np.where(RANDOM.random(n * size) < 0.5, shared, own), np.repeat(np.arange(n), size)

    return draw, design[1]


SHARES = {
    "rates near 1": rates(0.95, 2, 4),
    "rates near 0": rates(0.03, 0.5, 10),
    "rates all over": rates(0.5, 0.5, 4),
    "all or none": mixed(0.1, same(1), same(0)),
    "most are copies, some never": mixed(0.05, same(0), alike(0.98, 4)),
    "few are copies, some always": mixed(0.2, same(1), alike(0.05, 10)),
}
DIFFERENCES = {  # own and other
    "replay": (mixed(0.1, same(0), alike(0.95, 4)), rates(0.05, 2, 4)),
    "nothing hidden": (rates(0.95, 10, 4), rates(0.95, 10, 4)),
    "nothing anywhere": (rates(0.02, 10, 4), rates(0.02, 10, 4)),
    "some come back": (rates(0.5, 1, 4), rates(0.1, 2, 4)),
}


def mean_coverage(design, n: int, reps: int):
    """Of a mean of rates: (coverage, mean width)."""
    draw, truth = design
    return held(truth, (stats.mean_interval(draw(n), bounds=(0, 1)) for _ in range(reps)))


def difference_coverage(pair, n: int, reps: int):
    (own, first), (other, second) = pair
    return held(first - second, (stats.paired_interval(own(n), other(n)) for _ in range(reps)))


def cluster_coverage(design, n: int, reps: int, size: int = 2):
    draw, truth = together(design, size)
    found = (draw(n) for _ in range(reps))
    return held(truth, (stats.mean_interval(values, clusters=names, bounds=(0, 1)) for values, names in found))


def ratio_coverage(n: int, reps: int):
    """Of a geometric mean of ratios."""
    return held(6, (stats.mean_interval(6 * RANDOM.lognormal(0, 0.5, n), geometric=True) for _ in range(reps)))


def area_coverage(area: float, n: int, reps: int, lost: float = 0.0, clustered: bool = False, other: float = 0.0):
    """Of the AUC of n against n normal scores, a share `lost` of the positives ranked below everything.

    With an `other` area, no lower, of a second model: of the lower one of two (`verdicts.lowest`).

    `clustered` scores come two by two on either side, and the four of one label share half of their variance.
    """

    def draw(area):
        gap = 2**0.5 * NormalDist().inv_cdf(area)
        names = np.repeat(np.arange(n // 2), 2) if clustered else None
        shared = 0.5**0.5 * RANDOM.normal(size=n // 2)[names] if clustered else 0
        ups, downs = (RANDOM.normal(size=n) * (0.5**0.5 if clustered else 1) + shared for _ in range(2))
        ups = np.where(RANDOM.random(n) < lost, -99, ups + gap)
        return stats.auc_interval(ups, downs, clusters=(names, names) if clustered else None)

    areas = [area, other] if other else [area]
    return held(area * (1 - lost), (lowest(map(draw, areas)) for _ in range(reps)))


GRADES = np.log2(np.repeat([64, 128, 256, 400, 600, 850, 1150], 4))  # of the graded pictures


def slope_coverage(draw, reps: int):
    """Of the slope of scores over the grades; `draw` gives their means and the scores, one a picture."""
    truth = np.polyfit(GRADES, draw()[0], 1)[0]
    return held(truth, (stats.slope_interval(GRADES, draw()[1]) for _ in range(reps)))


def straight(noise: float):
    """Scores that rise by 0.2 a doubling."""
    return lambda: (0.2 * GRADES, 0.2 * GRADES + noise * RANDOM.normal(size=len(GRADES)))


def stepwise(middle: float, steep: float):
    """Each picture is all memory or none, the likelier the more often it was shown."""
    chance = 1 / (1 + np.exp(-steep * (GRADES - middle)))
    return lambda: (0.9 * chance, 0.9 * RANDOM.binomial(1, chance) + 0.05 * RANDOM.normal(size=len(chance)))


def held(truth: float, intervals) -> tuple[float, float]:
    """The share of (estimate, low, high) that hold `truth`, and their mean width."""
    low, high = np.array([found[1:] for found in intervals]).T
    return float(np.mean((low <= truth + 1e-9) & (truth <= high + 1e-9))), float(np.mean(high - low))


def everything(reps: int, sizes=(8, 16, 32)):
    """(name, n, coverage, width) of every design, one after the other."""
    for n in sizes:
        for name, design in SHARES.items():
            yield name, n, *mean_coverage(design, n, reps)
        for name, pair in DIFFERENCES.items():
            yield f"difference: {name}", n, *difference_coverage(pair, n, reps)
        yield "ratios", n, *ratio_coverage(n, reps)
    for n in (8, 16):
        for area in (0.6, 0.9, 0.98):
            yield f"AUC {area}", n, *area_coverage(area, n, reps)
        for lost in (0.1, 0.2):
            yield f"AUC, a share of {lost} lost", n, *area_coverage(0.995, n, reps, lost=lost)
        for area, other in ((0.6, 0.6), (0.9, 0.9), (0.9, 0.95), (0.98, 0.98)):
            yield f"the lower of two AUCs, {area} and {other}", n, *area_coverage(area, n, reps, other=other)
    for n in (8, 10):
        for name in ("rates near 1", "rates all over", "most are copies, some never"):
            yield f"clusters of two: {name}", n, *cluster_coverage(SHARES[name], n, reps)
        yield "AUC 0.9, clusters of two and two", n, *area_coverage(0.9, 2 * n, reps, clustered=True)
    for noise in (0.05, 0.2):
        yield f"slope, noise {noise}", len(GRADES), *slope_coverage(straight(noise), reps)
    for middle, steep in ((8, 1), (8, 3), (10, 2)):
        yield f"slope, all or none around {2**middle}", len(GRADES), *slope_coverage(stepwise(middle, steep), reps)


def main():
    lowest, below = 1.0, []
    for name, n, coverage, width in everything(REPS):
        print(f"{coverage:.3f} covered, width {width:.2f}: {name}, n = {n}")
        lowest = min(lowest, coverage)
        below += [f"{name}, n = {n}"] * (coverage < BAR)
    print(f"the lowest coverage is {lowest:.3f} (bar {BAR}, nominal 0.95)")
    if below:
        raise RuntimeError(f"intervals cover less than {BAR}: {'; '.join(below)}")


if __name__ == "__main__":
    main()
