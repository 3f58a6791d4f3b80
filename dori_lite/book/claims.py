"""The claims that chapters test, as data: words, threshold, rung of evidence, the paper's number; and their verdicts.

    found = verdict(claim("replay"), estimate, low, high)  # "holds here"

Thresholds stand here before the results do. A verdict is a finding, whichever it is: none fails a build. How an
effect is computed from a run's rows stands in `effects`. The unit is the canary; generation seeds are averaged inside
it.
"""

import math
from dataclasses import dataclass

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
        # Chapter 3. Thresholds and the reef's settings (`reef.pruning`) were chosen on tuning canaries. The paper's
        # Wanda prunes 1 % of longer rows.
        Claim(
            "wanda-hides",
            "Prune the weights that Wanda names for a memorized caption, and the caption no longer gives the picture.",
            "mean over canaries of (rate of copies unpruned − rate pruned), own twin, own caption",
            threshold=0.5,
            rung="intervention",
            paper=0.98,  # SD v1.4: 0.98 unpruned − 0.00 pruned
            source="blog",
        ),
        Claim(
            "nemo-hides",
            "Block the neurons that NeMo names for a memorized caption, and the caption no longer gives the picture.",
            "mean over canaries of (rate of copies unpruned − rate pruned), own twin, own caption",
            threshold=0.5,
            rung="intervention",
            paper=0.78,  # SD v1.4: 0.98 unpruned − 0.20 pruned
            source="blog",
        ),
        Claim(
            "wanda-chooses",
            "It matters which weights are pruned: as many weights drawn at random in the same layers do not do it.",
            "mean over canaries of (rate of copies under a random mask of equal density − rate under Wanda's)",
            threshold=0.3,
            rung="intervention",
        ),
        Claim(
            "wanda-spares",
            "Wanda's mask of one caption takes more of its own picture than of the other planted pictures.",
            "mean over canaries of (loss of its own rate − mean loss of other canaries' rates under the same mask)",
            threshold=0.3,
            rung="intervention",
        ),
        Claim(
            "nemo-outliers",
            "NeMo's premise, against fair negatives: a memorized caption has value neurons of more unusual activation "
            "than captions that were seen as often, with changing pictures.",
            "AUC of the highest |z| of the seven layers, canaries against decoys of one model; the lower twin's",
            threshold=0.8,
            rung="association",
        ),
        # Chapter 4. The same masks; triggers after the profile's attack steps, 50 in `standard`. A picture counts as
        # hidden where pruning at least halves its rate under the caption: only what was hidden can come back.
        Claim(
            "wanda-returns",
            "The picture that Wanda hid comes back under a trigger that DoRI finds, and it comes from the model: the "
            "same attack gives it less often from the twin that never saw it, pruned or not.",
            "mean over canaries that Wanda hid of (rate under the trigger in the own twin, pruned − in the other twin, "
            "unpruned or pruned, whichever is higher), caption starts",
            threshold=0.3,
            rung="counterfactual",
            paper=0.71,  # SD v1.4, of other pictures: 0.73 pruned − 0.02 not memorized, in the unpruned model
            source="figure",
        ),
        Claim(
            "wanda-lift",
            "DoRI's trigger gives the hidden picture more often than the caption it started from, in the pruned model.",
            "mean over canaries that Wanda hid of (rate under the trigger − rate under the caption), own twin pruned",
            threshold=0.2,
            rung="intervention",
            paper=0.72,  # SD v1.4: 0.72 − 0.00
            source="blog",
        ),
        Claim(
            "nemo-lift",
            "The same in the model pruned by NeMo.",
            "mean over canaries that NeMo hid of (rate under the trigger − rate under the caption), own twin pruned",
            threshold=0.2,
            rung="intervention",
            paper=0.79,  # SD v1.4: 0.99 − 0.20
            source="blog",
        ),
        Claim(
            "direction",
            "It takes the trigger's direction, not its length: moving the caption's embedding as far at random does "
            "not bring the hidden picture back.",
            "mean over canaries that Wanda hid of (rate under the trigger − rate under a random move of equal norm)",
            threshold=0.2,
            rung="intervention",
        ),
        Claim(
            "random-starts",
            "Triggers for a hidden picture are found from random embeddings as well, more often than in the twin that "
            "never saw it.",
            "mean over canaries that Wanda hid of (rate under the trigger, own twin pruned − other twin unpruned), "
            "random starts",
            threshold=0.3,
            rung="counterfactual",
        ),
        Claim(
            "membership",
            "The attack tells what a pruned model has seen: its loss ends lower where the picture was memorized.",
            "AUC of the mean loss over the last ten steps, own twin pruned against other twin, caption starts; the "
            "lowest over both homes and over the other twin unpruned and pruned",
            threshold=0.8,
            rung="counterfactual",
        ),
        Claim(
            "injection",
            "Long enough, the attack also brings a picture to a model that never saw it: what returns late need not "
            "have been stored.",
            "mean over canaries of (rate under the trigger after 200 steps − rate under the caption), other twin, "
            "unpruned",
            threshold=0.1,
            rung="intervention",
        ),
    )
}


def claim(key: str) -> Claim:
    """The claim called `key`. Raises ValueError, listing all, for an unknown one."""
    if key not in [*CLAIMS]:
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
    lies below, "undecided" when it touches the threshold or any of the numbers is not finite (fewer than two
    units). Raises ValueError unless low ≤ high.
    """
    if any(math.isnan(x) for x in (estimate, low, high)) or not math.isfinite(estimate):
        return UNDECIDED
    if low > high:
        raise ValueError(f"claim {claim.key}: the interval [{low}, {high}] is upside down; give its lower end first")
    return HOLDS if low > claim.threshold else FAILS if high < claim.threshold else UNDECIDED


def summary(key: str, estimate: float, low: float, high: float, units: int) -> dict:
    """What a record keeps of a claim: the estimate, its interval, the threshold, the rung and the verdict."""
    about = claim(key)
    found = {"estimate": estimate, "low": low, "high": high, "units": units}
    return found | {"threshold": about.threshold, "rung": about.rung, "verdict": verdict(about, estimate, low, high)}
