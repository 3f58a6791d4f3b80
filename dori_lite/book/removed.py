"""Effects of the chapter on unlearning: functions such as those of `effects`.

    units = EFFECTS["at-the-floor"](run)  # one row a canary: how much nearer attacks come than where it was never seen

A model that forgot a canary bears the name of its method, beside "pruned by Wanda" and "never saw it".
"""

from functools import partial

import numpy as np

from .contrasts import beyond, by_target, extreme, in_each, in_turn, only, units_of, values

ADVERSARIAL, CAPTION, MOVES, CONTINUED = "adversarial", "caption", "random moves", "continued"
PRUNED, NEVER = "pruned by Wanda", "never saw it"
OTHERS = "never saw it, forgot others"  # the other twin, after the same loop on another set
LOOK = 24  # exposures between two looks: what begins at the level was not learned in fewer, it was there
ANOTHER = "adversarial, another picture"  # under the same caption, learned by the model that forgot
OF_FEWER = OTHERS, ANOTHER  # controls that are asked of one canary of each group: effects are of these then


def attacked(run, name: str, *starts: str):
    """Units of the mean score over numbers of attack steps and over `starts` ("prompt", "random")."""
    rows = only(run.rows("attack"), name)
    return extreme("mean", *(extreme("mean", *in_turn(only(rows, start, "start"))) for start in starts))


def nearer(run, one: str, other: str, *starts: str):
    """Units of how much nearer attacks come to the picture in one model than in the other."""
    starts = starts or ("prompt", "random")
    units, control = attacked(run, one, *starts), attacked(run, other, *starts)
    return beyond(units[units.index.isin(control.index)] if other in OF_FEWER else units, control)


def longer(run):
    """Units of the highest score over rates and numbers of steps of a long attack, never seen less unlearned."""
    rows = run.rows("longer")
    return beyond(*(extreme("max", *in_turn(only(rows, name))) for name in (NEVER, ADVERSARIAL)))


def spared(run):
    """Units of the score of memories that were not to be forgotten, mean over sets: adversarial less continued."""
    rows = run.rows("others")
    return beyond(*(over_sets(only(rows, name)) for name in (ADVERSARIAL, CONTINUED)))


def over_sets(rows):
    """One unit a target, the mean of its values where it was asked after several sets were forgotten."""
    import pandas as pd

    units = pd.concat([units_of(part) for _, part in rows.groupby("set", sort=False)])
    means = units.drop(columns="cluster").groupby(level=0, sort=False).mean()
    return means.assign(cluster=units["cluster"].groupby(level=0, sort=False).first())


def aligned(run, kept: str, one: str, other: str):
    """Units of how much more of its captions one model shows than the other."""
    units, first, second = in_each(run.rows("utility"), kept, "condition", one, other)
    return values(units, first - second)


def saved(run, one: str, other: str):
    """Units of ln exposures until the picture is learned, one model less the other; `LOOK` of them at least.

    Where the score was not reached all exposures that there were count, which is too few.
    """
    rows = run.rows("again")
    rows = rows[rows["target"].isin(only(rows, one)["target"])] if one in OF_FEWER else rows
    rows = rows.assign(counted=np.log(rows["needed"].fillna(rows["most"]).clip(lower=LOOK)))
    units, first, second = in_each(rows, "counted", "condition", one, other)
    return values(units, first - second)


def loss_gap(run):
    """Units of ln loss on the picture, mean over noise levels: unlearned less never seen."""
    rows = run.rows("loss")
    logs = rows.assign(log=np.log(rows["loss"])).groupby(["target", "condition"], sort=False)["log"].mean().unstack()
    return by_target(rows, logs[ADVERSARIAL] - logs[NEVER])


EFFECTS = {
    "at-the-floor": partial(nearer, one=ADVERSARIAL, other=NEVER),
    "floor-of-the-loop": partial(nearer, one=ADVERSARIAL, other=OTHERS),
    "better-than-pruned": partial(nearer, one=PRUNED, other=ADVERSARIAL),
    "attack-needed": lambda run: nearer(run, CAPTION, ADVERSARIAL, "prompt"),
    "direction-needed": lambda run: nearer(run, MOVES, ADVERSARIAL, "prompt"),
    "not-just-fading": lambda run: nearer(run, CONTINUED, ADVERSARIAL, "prompt"),
    "not-by-damage": partial(aligned, kept="held-out alignment", one=ADVERSARIAL, other=CONTINUED),
    "caption-still-heard": partial(aligned, kept="alignment", one=ADVERSARIAL, other=NEVER),
    "spares": spared,
    "longer": longer,
    "savings": partial(saved, one=ADVERSARIAL, other=NEVER),
    "savings-pruned": partial(saved, one=NEVER, other=PRUNED),
    "savings-own": partial(saved, one=ANOTHER, other=ADVERSARIAL),
    "savings-of-the-loop": partial(saved, one=OTHERS, other=ADVERSARIAL),
    "loss-gap": loss_gap,
}
