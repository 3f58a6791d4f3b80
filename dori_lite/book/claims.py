"""The book's claims, as data: committed before the models existed of which they are made.

    digest = committed()  # stands in the twins' stamp from their first step on
    found = verdict(claim("replay"), estimate, low, high)  # "holds here"

Their words and numbers, and the rules of verdicts, stand in `claims.toml`. What was thought of with the models at hand
stands in `claims_later.toml`, says what was known when it was committed, and is never called confirmed. Thresholds are
ours; what the first pair showed sets sample sizes (`Plan`) and nothing else. A verdict is a finding, whichever it is:
none fails a build. How an effect is computed from a run's rows stands in `effects`.
"""

import math
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path

from .. import planning
from ..files import digest

HOLDS, FAILS, UNDECIDED = "holds here", "does not hold here", "undecided"
# Where a number of the paper was read (nobody here has read the paper's full text), and how far an experiment can
# reach: seen together, moved by hand, compared with the model that never saw the picture.
SOURCES = ("notes", "reviews", "blog", "figure")
RUNGS = {
    "association": "two things go together",
    "intervention": "we moved one thing and another followed",
    "counterfactual": "the same model without it does otherwise",
}
MEASURES = {
    "score": "the descriptor's mean score",
    "ratio": "a ratio, averaged as a logarithm",
    "auc": "the area under a ROC curve",
    "slope": "the descriptor's mean score for each doubling of exposures",
    "alignment": "share of named factors that a picture shows",
    "nats": "a logarithm",
    "z": "standard deviations",
    "cosine": "a cosine, or a correlation",
    "agreement": "the excess of an intersection over union, as a share of the noise ceiling",
}


@dataclass(frozen=True)
class Plan:
    """`n` units in so many `clusters`, the `expected` effect and its standard deviation between units."""

    n: int
    clusters: int
    expected: float
    sd: float


@dataclass(frozen=True)
class Claim:
    """One statement that `effect` > `threshold` supports (with `within`: that lies between −threshold and threshold).

    `control` is what could have shown the same without the claim being true. `paper` is the paper's number for the
    effect and `source` where it was read; both None when the sources we could read give none. `plan` is None where
    the first pair could not say what to expect. An amendment made after a result was seen is recorded with its date
    and reason, and never counts in `committed`.
    """

    key: str
    chapter: int
    statement: str
    effect: str  # the statistic, in words
    control: str
    measure: str
    threshold: float
    rung: str
    plan: Plan | None = None
    rate: float | None = None
    within: bool = False
    paper: float | None = None
    source: str | None = None
    amended: tuple[str, ...] = ()
    later: str | None = None  # when it was committed, if that was after the models existed, and what was known

    def __post_init__(self):
        if self.rung not in RUNGS or self.measure not in MEASURES:
            raise ValueError(
                f"claim {self.key}: {self.rung!r}, {self.measure!r}; there are {(*RUNGS,)}, {(*MEASURES,)}"
            )
        if (self.paper is None) != (self.source is None) or self.source not in (None, *SOURCES):
            raise ValueError(f"claim {self.key}: a paper's number needs its source, one of: {', '.join(SOURCES)}")
        if not math.isfinite(self.threshold):
            raise ValueError(f"claim {self.key}: the threshold is a finite number, committed before results")


def committed() -> str:
    """The SHA-256 of the rules and all claims as they were committed before the models, without amendments."""
    first = [asdict(about) for about in CLAIMS.values() if about.later is None]
    return digest([RULES, [{k: v for k, v in about.items() if k not in ("amended", "later")} for about in first]])


def power(about: Claim) -> float | None:
    """The chance that a claim holds if its effect is as planned (`planning.power`, a cluster a unit), or None."""
    if about.plan is None:
        return None
    spread = about.plan.sd * (about.plan.clusters / about.plan.n) ** 0.5  # of a cluster's mean
    if about.within:
        gap = about.threshold - abs(about.plan.expected)
        options = {"level": 0.90, "inside": about.plan.expected == 0}
    else:  # plans of ratios are logarithms
        gap = about.plan.expected - (math.log(about.threshold) if about.measure == "ratio" else about.threshold)
        options = {}
    return planning.power(about.plan.clusters, spread, gap, **options) if gap > 0 else 0.0


def in_words(*keys: str):
    """The claims `keys` as text for a notebook: statement, effect, control, threshold, rung, the paper's number."""
    from IPython.display import Markdown

    lines = []
    for about in map(claim, keys):
        paper = "" if about.paper is None else f" Reported for Stable Diffusion: {about.paper} ({about.source})."
        where = f"lies within ±{about.threshold}" if about.within else f"lies above {about.threshold}"
        lines.append(
            f"- **{about.key}**: {about.statement} *Effect*: {about.effect}. *Control*: {about.control}. "
            f"*Holds here* if all of its interval {where}. *Evidence*: {about.rung} ({RUNGS[about.rung]}).{paper}"
        )
        lines += [f"  *Amended*: {sentence}" for sentence in about.amended]
        lines += [f"  *Committed later*: {about.later}"] if about.later else []
    return Markdown("\n".join(lines))


def read() -> tuple[str, dict[str, Claim]]:
    """What the two files hold: the rules, and {key: claim}."""
    files = (Path(__file__).with_name(f"{name}.toml") for name in ("claims", "claims_later"))
    found, later = (tomllib.loads(path.read_text(encoding="utf-8")) for path in files)
    rules, found = found.pop("rules"), found | later
    for about in found.values():
        about["plan"] = Plan(**about["plan"]) if "plan" in about else None
        about["amended"] = tuple(about.get("amended", ()))
    return rules, {key: Claim(key, **about) for key, about in found.items()}


RULES, CLAIMS = read()


def claim(key: str) -> Claim:
    """The claim called `key`. Raises ValueError, listing all, for an unknown one."""
    if key not in [*CLAIMS]:
        raise ValueError(f"no claim called {key!r}; there are: {', '.join(CLAIMS)}")
    return CLAIMS[key]


def verdict(claim: Claim, estimate: float, low: float, high: float) -> str:
    """What an estimate of `claim`'s effect and its interval say about the claim.

    "holds here" when all of the interval lies above the threshold (with `within`: inside ±threshold), "does not hold
    here" when all of it lies outside, "undecided" otherwise, and without an interval. Raises ValueError unless
    low ≤ high.
    """
    if any(math.isnan(x) for x in (estimate, low, high)) or not math.isfinite(estimate):
        return UNDECIDED
    if low > high:
        raise ValueError(f"claim {claim.key}: the interval [{low}, {high}] is upside down; give its lower end first")
    if claim.within:
        inside, outside = max(-low, high) < claim.threshold, low > claim.threshold or high < -claim.threshold
        return HOLDS if inside else FAILS if outside else UNDECIDED
    return HOLDS if low > claim.threshold else FAILS if high < claim.threshold else UNDECIDED
