"""Savings: is a picture learned again faster than one that was never there? No attack is needed to ask.

    def score(model):  # of what the caption draws
        return look(world, Condition("again", model), target, target.caption, **options)["descriptor mean"]

    found = exposures_until(pipe, target, retained, score)
    found["needed"]  # pictures of the target that went through training until the score reached 0.5

Ebbinghaus's measure of forgetting (1885): what cannot be recalled any more may still be learned again in less time.
"""

from collections.abc import Callable
from tempfile import TemporaryDirectory

from ..checks import check_are_targets, check_count
from ..models import embed, encode
from .loop import forgetting
from .methods import copied

LEVEL, EVERY, MOST = 0.5, 3, 120  # score to reach; updates between looks; updates at most
RATE, BATCH = 2e-4, 8  # of the training; exposures in an update, and retained pictures beside them


def exposures_until(
    pipe,
    target,
    retained,
    score: Callable,
    *,
    level: float = LEVEL,
    every: int = EVERY,
    most: int = MOST,
    seed: int = 0,
) -> dict:
    """Train a copy of `pipe` on the `target` beside `retained` pairs until `score(model)` reaches `level`.

    It is asked before, and after `every` updates up to `most`. Returns the `scores` with the number of `updates` before
    each, and the exposures `needed` at the crossing, between two looks on a straight line: 0 where the model begins at
    the level, NaN where it does not get there in `most`. Raises ValueError as `forgetting` does.
    """
    check_are_targets([target])
    every, most = check_count("every", every), check_count("most", most)
    new = copied(pipe)
    picture, y = encode(new, target.image[None])[None], embed(new, target.caption)[None]
    updates, scores = [0], [score(new)]
    with TemporaryDirectory() as folder:
        options = {"steps": most, "lr": RATE, "batch": (BATCH, BATCH), "seed": seed, "folder": folder, "label": "again"}
        for step, _ in forgetting(new, retained, picture, {"y": y}, **options) if scores[0] < level else ():
            if (step + 1) % every == 0:
                updates.append(step + 1)
                scores.append(score(new))
                if scores[-1] >= level:
                    break
    found = {"updates": updates, "scores": scores, "most": most * BATCH}
    return {**found, "needed": crossing(updates, scores, level) * BATCH}


def crossing(x, y, level: float) -> float:
    """Where the line through the points first reaches the level; its first x if it begins there, else NaN."""
    for k, (place, value) in enumerate(zip(x, y, strict=True)):
        if value >= level:
            if k == 0:
                return float(place)
            return x[k - 1] + (place - x[k - 1]) * (level - y[k - 1]) / (value - y[k - 1])
    return float("nan")
