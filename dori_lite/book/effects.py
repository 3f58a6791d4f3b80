"""How each claim's effect is computed from a run's rows: one function a claim, none of them needs a model.

    units = effect("wanda-returns", run)  # one row a canary
    found = verdicts.judged(claims.claim("wanda-returns"), units)

A function takes a `Run`, a published one too, and returns a table of units (see `contrasts`). Words, controls and
thresholds are in `claims.toml`.
"""

from functools import partial

import numpy as np

from . import everywhere, inside, removed, weights
from .contrasts import beyond, clusters_of, contrast, extreme, first_reach, in_each, in_turn, only, units_of, values

REACHED, LONGEST, NEVER = 0.5, 200, 400  # *work*: the score to reach, within so many steps; what stands for never
MOVES, ASKED = ("another's", "permuted", "reversed"), ("unpruned", "pruned")  # of *direction*, of *one-trigger*
HALF, LAST = 0.45, 10  # *free-numbers*: half of the score; *membership*: attack steps that the final loss is a mean of


def effect(key: str, run):
    """The units of claim `key` in a run, a pandas table.

    Raises ValueError for an unknown claim, and when the run lacks the rows that the effect is made of.
    """
    if key not in [*EFFECTS]:
        raise ValueError(f"no effect is known for {key!r}; there are: {', '.join(EFFECTS)}")
    try:
        return EFFECTS[key](run)
    except KeyError as error:
        raise ValueError(f"{run.folder} lacks {error} that {key} is made of; execute its chapter to the end") from error


def ratio_of(run, kind: str, kept: str, one: str, other: str):
    """`kept` of the model `one` ÷ that of the `other`."""
    units, one, other = in_each(run.rows(kind), kept, "model", one, other)
    return values(units, one / other)


# ---- chapter 1 ---------------------------------------------------------------------------------------


def name_decides(run):
    rows = run.rows("name")
    own = units_of(only(run.rows("picture"), "own twin", "model"))
    others = [units_of(only(rows, "no name", "caption"))]
    if (rows["caption"] == "siblings").any():  # the first pair has none
        others.append(extreme("mean", *in_turn(only(rows, "siblings", "caption"))))
    return beyond(own, *others)


# ---- chapter 2 ---------------------------------------------------------------------------------------


def graded(run):
    rows = run.rows("picture")
    return rows[rows["role"] == "graded"]


def on_exposures(units, run):
    exposures = graded(run).drop_duplicates("target").set_index("target")["exposures"]
    return units.rename(columns={"score": "value"}).assign(x=np.log2(exposures.loc[units.index].to_numpy(float)))


def exposures(run):
    return on_exposures(contrast(graded(run), "own twin", "other twin", column="model"), run)


def exposures_flat(run):
    return on_exposures(units_of(only(graded(run), "other twin", "model")), run)


def half_memory(run) -> float:
    """Exposures at which own − other twin reaches half of the canaries' mean score; NaN if no grade does.

    Between grades on a logarithmic scale, on the means of grades, from the first that reaches it.
    """
    rows = run.rows("picture")
    half = contrast(rows[rows["role"] == "canary"], "own twin", "other twin", column="model")["score"].mean() / 2
    means = exposures(run).groupby("x")["value"].mean()
    return float(2 ** first_reach(means.index.to_numpy(), means.to_numpy(), half))


def detected(run):
    rows = run.rows("detection")
    units = values(clusters_of(rows).loc[rows["target"]], rows["magnitude"])
    return units.assign(positive=(rows["model"] == "own twin").to_numpy(), model=rows["twin"].to_numpy())


# ---- chapter 3 ---------------------------------------------------------------------------------------


def outliers(run):
    units, own, other = in_each(run.rows("outliers"), "z", "twin", "own twin", "other twin")
    return values(units, own - other)


def between(run, one: str, *others: str):
    return contrast(run.rows("condition"), one, *others)


def spared(run):
    rows = run.rows("others")
    lost = {name: extreme("mean", *in_turn(only(rows, name))) for name in ("unpruned", "Wanda")}
    return beyond(between(run, "unpruned", "Wanda"), beyond(lost["unpruned"], lost["Wanda"]))


def utility(run):
    kept = "held-out alignment"
    units, unpruned, pruned = in_each(run.rows("condition"), kept, "condition", "unpruned", "Wanda")
    return values(units, unpruned - pruned)


# ---- chapter 4 ---------------------------------------------------------------------------------------


def attacked(run, steps: int, start: str = "prompt"):
    """The rows of canaries after so many attack steps."""
    rows = run.rows("attack")
    return rows[(rows["steps"] == steps) & (rows["start"] == start) & (rows["role"] == "canary")]


def few(run) -> int:
    return run.profile["attack_steps"]


CONTROLS = ("never saw it", "never saw it, pruned", "never saw it, same mask")


def returns(run):
    return contrast(attacked(run, few(run)), "pruned by Wanda", *CONTROLS)


def neurons_return(run):
    return contrast(attacked(run, few(run)), "neurons blocked", CONTROLS[0], "never saw it, same neurons")


def lift(run, condition: str, steps: int | None = None):
    """What the attack adds to the caption's own score."""
    steps = few(run) if steps is None else steps
    after, before = (units_of(only(attacked(run, k), condition)) for k in (steps, 0))
    return beyond(after, before)


def direction(run):
    moves = [units_of(only(run.rows("push"), move, "move")) for move in MOVES]
    return beyond(units_of(only(attacked(run, few(run)), "pruned by Wanda")), *moves)


def random_starts(run):
    return contrast(attacked(run, few(run), "random"), "pruned by Wanda", CONTROLS[0], CONTROLS[2])


def evaluations(run, condition: str):
    """Attack steps after which the score first reaches `REACHED`, by target; `NEVER` where it does not."""
    rows = run.rows("attack")
    rows = rows[(rows["start"] == "prompt") & (rows["condition"] == condition) & rows["steps"].between(1, LONGEST)]
    reached = rows[rows["descriptor mean"] >= REACHED].groupby("target")["steps"].min()
    return reached.reindex(rows["target"].unique(), fill_value=NEVER)


def work(run):
    """Each attack step asks as many evaluations in all conditions, so that steps stand for them."""
    units = clusters_of(attacked(run, 0))
    found = [evaluations(run, name).loc[units.index] for name in ("never saw it", "pruned by Wanda")]
    return values(units, found[0] / found[1])


def injection(run):
    """After 200 steps, the claim's number, or as many as a smaller profile has."""
    return lift(run, "never saw it", min(LONGEST, run.profile["control_steps"]))


def transfers(run):
    """Triggers found in the pruned own twin, asked of the unpruned one, beyond what either control gives."""
    rows = run.rows("transfer")
    pairs = (("pruned by Wanda", "remembers"), ("pruned by Wanda", CONTROLS[0]), (CONTROLS[0], "remembers"))
    found, *others = (units_of(only(only(rows, f, "found_in"), goal, "asked_of")) for f, goal in pairs)
    return beyond(found, *others)


# ---- chapter 5 ---------------------------------------------------------------------------------------


def dimensions(run, condition: str):
    """The dimensions at which the attack reaches `HALF`, by target; four times all where it does not."""
    rows = only(run.rows("subspace"), condition)
    whole = rows["k"].max()
    found = {}
    for target, part in rows.sort_values("k").groupby("target", sort=False):
        k = 2 ** first_reach(np.log2(part["k"].to_numpy(float)), part["descriptor mean"].to_numpy(), HALF)
        found[target] = 4 * whole if np.isnan(k) else k
    return found


def free_numbers(run):
    units = clusters_of(run.rows("subspace"))
    never, saw = (dimensions(run, name) for name in ("never saw it", "pruned by Wanda"))
    return values(units, [never[t] / saw[t] for t in units.index])


def final_losses(run, condition: str):
    """The mean loss over the last ten attack steps, all directions free, by target."""
    rows = run.rows("subspace")
    rows = only(rows[rows["k"] == rows["k"].max()], condition)
    return {t: float(np.mean(losses[-LAST:])) for t, losses in zip(rows["target"], rows["losses"], strict=True)}


def membership(run):
    units = clusters_of(run.rows("subspace"))
    saw, *others = (final_losses(run, name) for name in ("pruned by Wanda", CONTROLS[0], CONTROLS[2]))
    return values(units, [min(other[t] for other in others) / saw[t] for t in units.index])


def one_trigger(run):
    rows = run.rows("joint")
    own, other = (
        [units_of(only(only(rows, name, "model"), asked, "asked")) for asked in ASKED] for name in ("own", "other")
    )
    return beyond(extreme("min", *own), *other)


EFFECTS = {
    "replay": lambda run: contrast(run.rows("picture"), "own twin", "other twin", column="model"),
    "variety": partial(ratio_of, kind="picture", kept="diversity", one="other twin", other="own twin"),
    "name-decides": name_decides,
    "exposures": exposures,
    "exposures-flat": exposures_flat,
    "magnitude": partial(ratio_of, kind="detection", kept="magnitude", one="own twin", other="other twin"),
    "similarity": partial(ratio_of, kind="detection", kept="similarity", one="own twin", other="other twin"),
    "magnitude-detects": detected,
    "outliers": outliers,
    "wanda-hides": lambda run: between(run, "unpruned", "Wanda"),
    "wanda-chooses": lambda run: between(run, "random like Wanda", "Wanda"),
    "wanda-caption": lambda run: between(run, "another caption's mask", "Wanda"),
    "wanda-spares": spared,
    "wanda-utility": utility,
    "wanda-trace": lambda run: between(run, "Wanda", "other twin, same mask"),
    "nemo-hides": lambda run: between(run, "unpruned", "NeMo"),
    "neurons-hide": lambda run: between(run, "unpruned", "neurons by loss"),
    "neurons-choose": lambda run: between(run, "as many at random", "neurons by loss"),
    "neurons-return": neurons_return,
    "wanda-returns": returns,
    "wanda-lift": partial(lift, condition="pruned by Wanda"),
    "direction": direction,
    "random-starts": random_starts,
    "work": work,
    "injection": injection,
    "transfers": transfers,
    "free-numbers": free_numbers,
    "who-carries": lambda run: contrast(run.rows("window"), "5–24", "0–4", column="window"),
    "membership": membership,
    "one-trigger": one_trigger,
    **everywhere.EFFECTS,
    **inside.EFFECTS,
    **weights.EFFECTS,
    **removed.EFFECTS,
}
