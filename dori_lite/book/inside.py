"""Effects of the chapter on what happens inside the model: functions such as those of `effects`.

    units = paths_meet(run)  # one row a canary: how much more its triggers agree in ε than in the mid block

*Saw it* is here the unpruned twin that saw the picture; `apart` holds mean logarithms of distances in layers.
"""

import numpy as np

from .contrasts import by_target, clusters_of, only, values

REMEMBERS, NEVER = "remembers", "never saw it"
OWN = "its own"  # the picture whose noisy latent the U-Net is given
VALUE, MLP, MID, EPSILON = "attn2.to_v", "ff.net.2", "mid_block", "ε"


def in_layers(run, ending: str, kept: str, name: str, condition: str = REMEMBERS):
    """Mean of `kept` of one set over the layers whose names end so, by target."""
    rows = only(only(only(run.rows("apart"), condition), OWN, "latent"), name, "set")
    rows = rows[rows["layer"].str.endswith(ending)]
    if rows.empty:
        raise ValueError(f"there are no rows of a layer that ends with {ending!r}")
    return rows.groupby("target")[kept].mean()


def linear_image(run):
    """How much of the gap between triggers and captions in value layers is not that of their embeddings."""
    behind = [in_layers(run, VALUE, kept, name) for kept in ("log D", "log d") for name in ("triggers", "captions")]
    return by_target(run.rows("apart"), (behind[0] - behind[1]) - (behind[2] - behind[3]))


def diverge(run):
    triggers, captions = (in_layers(run, MLP, "excess", name) for name in ("triggers", "captions"))
    return by_target(run.rows("apart"), triggers - captions)


def captions_heard(run):
    own, other = (in_layers(run, MLP, "excess", "captions", condition) for condition in (REMEMBERS, NEVER))
    return by_target(run.rows("apart"), own - other)


def met(run, condition: str):
    """ln D of ε − ln D of the mid block, non-triggers − triggers, by target: above 0 the triggers' paths meet."""
    change = {}
    for name in ("triggers", "non-triggers"):
        change[name] = in_layers(run, EPSILON, "log D", name, condition) - in_layers(run, MID, "log D", name, condition)
    return change["non-triggers"] - change["triggers"]


def route_maps(rows, noises=slice(None)):
    """Which share of the score drops in each cell: one row for each (target, by), one column for each (layers, window).

    `noises` are those of each picture's that count; of the whole score all do.
    """
    scores = [float(np.mean(each[noises])) for each in rows["descriptor"]]
    keys = ["target", "by", "layers", "window"]
    table, whole = (
        rows.assign(score=found).set_index(keys)["score"].unstack([2, 3]) for found in (scores, rows["descriptor mean"])
    )
    return table.rsub(table.pop(("nothing", "never")), axis=0).div(whole[("nothing", "never")], axis=0)


def homes_of(rows):
    """{target: the targets at home where it is}; where one is alone, all."""
    homes = rows.drop_duplicates("target").set_index("target")["home"]
    family = {t: [*homes.index[homes == home]] for t, home in homes.items()}
    return {t: names if len(names) > 1 else [*homes.index] for t, names in family.items()}


def peculiar(maps, family):
    """What is a picture's own in its maps: each minus the mean of the other pictures' maps of its kind.

    Kinds are the caption's map and triggers' maps.
    """
    kind = np.where(maps.index.get_level_values("by") == "caption", "caption", "trigger")
    found, means = maps.copy(), maps.groupby([maps.index.get_level_values("target"), kind]).mean()
    for (target, by), which in zip(maps.index, kind, strict=True):
        others = [means.loc[(name, which)] for name in family[target] if name != target]
        found.loc[(target, by)] = maps.loc[(target, by)] - np.mean(others, axis=0)
    return found


def agreement(one, other) -> float:
    """Pearson's r between two maps; 0 where one is the same everywhere, which agrees with nothing."""
    one, other = np.asarray(one, float), np.asarray(other, float)
    return float(np.corrcoef(one, other)[0, 1]) if np.ptp(one) and np.ptp(other) else 0.0


def routes(run):
    """Mean agreement of what is peculiar to each caption's map with that of its triggers, and of others' triggers.

    Caption and triggers are compared across noises: one half of them against the other, both ways. A third series is
    each caption's map against itself, so that noise is told from disagreement. Three series by target; NaN
    where a picture has a single noise, which has no halves.
    """
    rows = run.rows("route")
    family, n = homes_of(rows), min(map(len, rows["descriptor"])) // 2
    if n == 0:
        return tuple(dict.fromkeys(family, np.nan) for _ in range(3))
    halves = [peculiar(route_maps(rows, part), family) for part in (slice(n), slice(n, 2 * n))]
    own, other, itself = {}, {}, {}
    for target, names in family.items():
        found = {name: [] for name in names}
        for one, two in (halves, halves[::-1]):
            caption, triggers = one.loc[(target, "caption")], two.drop("caption", level="by")
            for name in names:
                found[name] += [agreement(caption, each) for each in triggers.loc[name].to_numpy()]
        own[target] = np.mean(found.pop(target))
        other[target] = np.mean([r for some in found.values() for r in some])
        itself[target] = agreement(*(half.loc[(target, "caption")] for half in halves))
    return own, other, itself


def same_route(run):
    own, other, _ = routes(run)
    units = clusters_of(run.rows("route"))
    return values(units, [own[t] - other[t] for t in units.index])


EFFECTS = {
    "linear-image": linear_image,
    "diverge-more": diverge,
    "captions-heard": captions_heard,
    "paths-meet": lambda run: by_target(run.rows("apart"), met(run, REMEMBERS)),
    "paths-meet-only-here": lambda run: by_target(run.rows("apart"), met(run, REMEMBERS) - met(run, NEVER)),
    "same-route": same_route,
}
