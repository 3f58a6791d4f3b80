"""Effects of the chapter on triggers all over embedding space: functions such as those of `effects`.

    units = scatter(run)  # one row a canary: the logarithm of how far its triggers lie apart, saw it ÷ never saw it

The conditions are those of its table of models; *saw it* is the pruned twin unless said otherwise.
"""

from functools import partial

import numpy as np

from .contrasts import beyond, clusters_of, contrast, extreme, in_each, only, units_of, values

REMEMBERS, SAW, NEVER, MIDDLE = "remembers", "pruned by Wanda", "never saw it", 0.5
OTHERS = ("another's", "its kin's", "never saw it")  # of *transplant*


def scatter(run):
    rows = run.rows("spread")
    units, saw, never = in_each(
        rows.assign(led=np.log(rows["apart"] / rows["independent"])), "led", "condition", SAW, NEVER
    )
    return values(units, saw - never)


def own_start(run):
    units, saw, never = in_each(run.rows("spread"), "beside", "condition", SAW, NEVER)
    return values(units, saw - never)


def common_direction(run):
    rows = only(run.rows("spread"), REMEMBERS)
    return values(clusters_of(rows), rows["same"] - rows["different"])


def on_the_way(run, ends: str = "two triggers"):
    """Units half way between two triggers, and the mean of both ends."""
    rows = only(run.rows("between"), ends, "ends")
    first, middle, last = (units_of(only(rows, share, "share")) for share in (0.0, MIDDLE, 1.0))
    return middle, extreme("mean", first, last)


def one_basin(run):
    return beyond(*on_the_way(run))


def basins_apart(run):
    return beyond(*on_the_way(run)[::-1])


def of_positions(run, place: str):
    """What the search adds to the caption's own score, where the picture was seen beyond where it was not."""
    after = contrast(only(run.rows("position"), place, "place"), SAW, NEVER)
    return beyond(after, contrast(run.rows("caption"), SAW, NEVER))


EFFECTS = {
    "scatter-is-the-start": scatter,
    "own-start-nearest": own_start,
    "common-direction": common_direction,
    "transplant": lambda run: contrast(run.rows("transplant"), "its own", *OTHERS, column="direction"),
    "one-basin": one_basin,
    "basins-apart": basins_apart,
    "positions-prompt": partial(of_positions, place="prompt"),
    "positions-end": partial(of_positions, place="end-of-text"),
    "positions-padding": partial(of_positions, place="padding"),
}
