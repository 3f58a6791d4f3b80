"""Effects of the chapter on which weights localisers name: functions such as those of `effects`.

    units = EFFECTS["within-minus-strangers"](run)  # one row a canary: agreement of its triggers' masks beyond others'

*Agreement* is the excess of the intersection over union above chance (`overlap.agreement`), as a share of the noise
ceiling: of what one caption's, or one trigger's, masks reach that were found in different noises.
"""

from functools import partial

from .contrasts import beyond, by_target, column, contrast, extreme, in_each, in_turn, only, values

CAPTION, TRIGGER, UNSEEN = "one caption", "one trigger", "one trigger, never seen"  # the noise ceilings
TRIGGERS, NEVER = "triggers of one picture", "triggers of one picture, never seen"
STRANGERS, CAPTIONS = "triggers of two pictures", "captions of two pictures"
TWINS = "one caption, both twins"
STRANGE, NOTHING = "another picture's", "none"  # masks that are no mask of the picture
WANDA, NEURONS = "Wanda", "neurons by loss"
SAW, SAME = "saw it", "never saw it, same mask"


def agreement(run, pair: str, ceiling: str):
    """The excess of one kind of pair, by target, as a share of the mean excess at the noise ceiling; Wanda's masks."""
    rows = only(run.rows("agree"), WANDA, "method")
    return column(rows, pair, "excess", "pair") / column(rows, ceiling, "excess", "pair").mean()


def agreed_more(run, one: tuple, other: tuple):
    """Units of how much more one kind of pair agrees than the other, each a (pair, ceiling)."""
    return by_target(run.rows("agree"), agreement(run, *one) - agreement(run, *other))


def crossed(run, which: str, method: str = WANDA):
    """Units of the score under what brings a picture, with a mask found for `which`: its "own", "others" or another's.

    The mean over the picture's caption and triggers; with "others", over all masks of the picture but its own.
    """
    rows = run.rows(f"cross {method}")
    if which not in ("own", "others"):
        return extreme("mean", *in_turn(only(rows, which, "mask")))
    same = rows["mask"].astype(str) == rows["by"].astype(str)
    of_picture = ~rows["mask"].isin([STRANGE, NOTHING])
    return extreme("mean", *in_turn(rows[same if which == "own" else of_picture & ~same]))


def cost(run):
    """Units of the alignment on held-out captions under the chosen union of masks, less that of the unpruned model."""
    rows = run.rows("cost")
    rows = rows[rows["masks"] == run.rows("fresh")["masks"].iloc[0]]
    units, cut, whole = in_each(rows, "alignment", "union", "its own", NOTHING)
    return values(units, cut - whole)


EFFECTS = {
    "within-minus-between": partial(agreed_more, one=(TRIGGERS, TRIGGER), other=(CAPTIONS, CAPTION)),
    "within-minus-strangers": partial(agreed_more, one=(TRIGGERS, TRIGGER), other=(STRANGERS, TRIGGER)),
    "more-where-seen": partial(agreed_more, one=(TRIGGERS, TRIGGER), other=(NEVER, UNSEEN)),
    "mask-is-the-models": partial(agreed_more, one=(CAPTIONS, CAPTION), other=(TWINS, CAPTION)),
    "same-function": lambda run: beyond(crossed(run, "own"), crossed(run, "others")),
    "other-function": lambda run: beyond(crossed(run, "others"), crossed(run, "own")),
    "neurons-other-function": lambda run: beyond(crossed(run, "others", NEURONS), crossed(run, "own", NEURONS)),
    "not-any-picture": lambda run: beyond(crossed(run, STRANGE), crossed(run, "others")),
    "cut-until-gone": lambda run: contrast(run.rows("fresh"), SAME, SAW),
    "cut-by-choice": lambda run: contrast(run.rows("fresh"), "saw it, another's", SAW),
    "cut-cost": cost,
}
