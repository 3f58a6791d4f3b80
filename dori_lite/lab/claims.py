"""The claims that chapters test, each with its threshold, and the statistics of their verdicts.

Thresholds stand here before the results do. A verdict is a finding, whichever it is: none fails a build.
The unit is the canary; generation seeds are averaged inside it before anything here is called.
"""

import math
from dataclasses import dataclass

import numpy as np

HOLDS, FAILS, UNDECIDED = "holds here", "does not hold here", "undecided"
# Where a number of the paper was read (nobody here has read the paper's full text), and how far an
# experiment can reach: seen together, moved by hand, compared with the model that never saw the picture,
# or the last in a second pair of models trained from scratch.
SOURCES = ("notes", "reviews", "blog", "figure")
RUNGS = ("association", "intervention", "counterfactual", "replicated pair")


@dataclass(frozen=True)
class Claim:
    """One statement that `effect` > `threshold` supports.

    `paper` is the paper's number for the effect and `source` where it was read; both None when the
    sources we could read give none.
    """

    key: str
    statement: str
    effect: str  # the statistic, in words
    threshold: float
    rung: str
    paper: float | None = None
    source: str | None = None

    def __post_init__(self):
        if self.rung not in RUNGS:
            raise ValueError(f"claim {self.key}: no rung {self.rung!r}; there are: {', '.join(RUNGS)}")
        if (self.paper is None) != (self.source is None) or self.source not in (None, *SOURCES):
            raise ValueError(f"claim {self.key}: a paper's number needs its source, one of: {', '.join(SOURCES)}")
        if not math.isfinite(self.threshold):
            raise ValueError(f"claim {self.key}: the threshold is a finite number, committed before results")


CLAIMS = {
    claim.key: claim
    for claim in (
        # Chapter 1. Both compare the twins on the same caption: equally often seen by both, repeated with one
        # picture in one of them. What differs between the models is that repetition, so either reaches
        # the counterfactual rung; the paper, with one model, compares different captions (association).
        Claim(
            "replay",
            "A model that saw one picture again and again with a caption draws that picture when it is given the "
            "caption; the model that saw the caption as often, each time with another picture, does not.",
            "mean over canaries of (rate of copies from the own twin − rate from the other twin), same caption",
            threshold=0.5,  # at least every second picture is a copy that only the repetition explains
            rung="counterfactual",
            paper=0.98,  # SD v1.4: 0.98 for memorized prompts − 0.00 for prompts that are not memorized
            source="blog",
        ),
        Claim(
            "variety",
            "Where a caption is memorized, different noise hardly changes the picture: the pictures of the twin that "
            "never saw it repeat vary at least twice as much among each other.",
            "geometric mean over canaries of (diversity between seeds, other twin ÷ own twin), same caption",
            threshold=2.0,  # a factor, so averaged as logarithms: a canary without any variety cannot decide it alone
            rung="counterfactual",
        ),
        # Chapter 2. Exposures were dealt by us, so more of them is an intervention, and the other twin heard each
        # caption as often. Detection is judged against decoys: same style of caption, as often seen.
        Claim(
            "exposures",
            "The more often a picture repeats with its caption, the nearer to it is what the caption gives.",
            "Spearman's ρ over graded pictures between exposures and (descriptor score, own twin − other twin)",
            threshold=0.5,
            rung="counterfactual",
        ),
        Claim(
            "magnitude",
            "Memorized captions betray themselves without the picture: text moves the predicted noise further, at the "
            "very first step, than it does for captions seen as often with changing pictures.",
            "AUC of Wen et al.'s magnitude at the first step, canaries against decoys of one model; the lower twin's",
            threshold=0.8,
            rung="association",  # between captions of one model, as a detector in the field must work
            paper=0.960,  # SD v1.4, against captions that were not matched for style or exposure
            source="notes",
        ),
        Claim(
            "similarity",
            "Memorized captions betray themselves without the picture: from different noise, the first predicted noise "
            "differences resemble each other more than for captions seen as often with changing pictures.",
            "AUC of NeMo's between-seed similarity, canaries against decoys of one model; the lower twin's",
            threshold=0.8,
            rung="association",
        ),
    )
}


def claim(key: str) -> Claim:
    """The claim called `key`. Raises ValueError, listing all, for an unknown one."""
    if key not in CLAIMS:
        raise ValueError(f"no claim called {key!r}; there are: {', '.join(CLAIMS)}")
    return CLAIMS[key]


RUNGS_IN_WORDS = {
    "association": "two things go together",
    "intervention": "we moved one thing and another followed",
    "counterfactual": "the same model without it does otherwise",
    "replicated pair": "and so it is in a second pair of models, trained from scratch",
}


def in_words(*keys: str):
    """The claims `keys` as text for a notebook: statement, effect, threshold, rung, the paper's number."""
    from IPython.display import Markdown

    lines = []
    for about in map(claim, keys):
        paper = "" if about.paper is None else f" Reported for Stable Diffusion: {about.paper} ({about.source})."
        lines.append(
            f"- **{about.key}**: {about.statement} *Effect*: {about.effect}. *Holds here* if all of its interval lies "
            f"above {about.threshold}. *Evidence*: {about.rung} ({RUNGS_IN_WORDS[about.rung]}).{paper}"
        )
    return Markdown("\n".join(lines))


def verdict(claim: Claim, estimate: float, low: float, high: float) -> str:
    """What an estimate of `claim`'s effect and its interval say about the claim.

    "holds here" when all of the interval lies above the threshold, "does not hold here" when all of it
    lies below, "undecided" when it touches the threshold or any of the numbers is NaN (fewer than two
    units). Raises ValueError unless low ≤ high.
    """
    if any(math.isnan(x) for x in (estimate, low, high)):
        return UNDECIDED
    if low > high:
        raise ValueError(f"claim {claim.key}: the interval [{low}, {high}] is upside down; give its lower end first")
    return HOLDS if low > claim.threshold else FAILS if high < claim.threshold else UNDECIDED


def summary(key: str, estimate: float, low: float, high: float, units: int) -> dict:
    """What a record keeps of a claim: the estimate, its interval, the threshold, the rung and the verdict."""
    about = claim(key)
    found = {"estimate": estimate, "low": low, "high": high, "units": units}
    return found | {"threshold": about.threshold, "rung": about.rung, "verdict": verdict(about, estimate, low, high)}


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
