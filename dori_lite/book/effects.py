"""How each claim's effect is computed from a run's rows: one function an effect, none of them needs a model.

    estimate, low, high, units = effect("wanda-returns", run)

A function takes a `Run` (a published one too) and returns the values of its units, which `effect` averages, or the
interval itself: (estimate, low, high, units). Its words and threshold are in `claims`. The intervals are those of
`stats`; runs published before those were chosen carry percentile bootstraps, and `recompute` sets both side by side.
"""

from functools import partial
from pathlib import Path

from .. import assets, files
from ..runs import open_existing
from ..stats import auc_interval, mean_interval, paired, ratios, spearman_interval
from .claims import summary

RATE, LAST = "descriptor rate", 10  # LAST: attack steps over which the final loss is a mean
# What is known of a unit's value: most are differences of two rates. See `stats.mean_interval`.
RATES = {"bounds": (-1, 1), "reach": 1}
KNOWN = {"variety": {"geometric": True}, "wanda-spares": {"bounds": (-2, 2), "reach": 1}}


def effect(key: str, run) -> tuple[float, float, float, int]:
    """The effect of claim `key` in a run: estimate, its 95 % interval, and the number of units.

    Raises ValueError for an unknown claim, and when the run lacks the rows that the effect is made of.
    """
    if key not in [*EFFECTS]:
        raise ValueError(f"no effect is known for {key!r}; there are: {', '.join(EFFECTS)}")
    try:
        found = EFFECTS[key](run)
    except KeyError as error:
        raise ValueError(f"{run.folder} lacks {error} that {key} is made of; execute its chapter to the end") from error
    if isinstance(found, tuple):
        return found
    return *mean_interval(found, **KNOWN.get(key, RATES)), len(found)


def recompute(world: str = "reef") -> dict:
    """What a world's published rows say today: {chapter/profile: {claim: units, threshold, `published`, `recomputed`}}.

    The last two are {estimate, low, high, verdict}: as it was stored, and with today's intervals. Thresholds are the
    claims'. Raises FileNotFoundError where nothing is published.
    """
    found, folder = {}, recomputed_file(world).parent
    for path in sorted(folder.glob("*/*/record.json")):
        run, claims = open_existing(path.parent), {}
        for key, stored in run.read_record()["verdicts"].items():
            today = files.plain(summary(key, *effect(key, run)))
            claims[key] = {name: today[name] for name in ("units", "threshold")}
            for name, verdict in (("published", stored), ("recomputed", today)):
                claims[key][name] = {part: verdict[part] for part in ("estimate", "low", "high", "verdict")}
        found[path.parent.relative_to(folder).as_posix()] = claims
    if not found:
        raise FileNotFoundError(f"nothing is published in {folder}; publish a run of {world} first")
    return found


def write_recomputed(world: str = "reef") -> Path:
    """Write `recompute` to data/results/<world>/recomputed.json, which tables read; returns it. Records stay."""
    path = recomputed_file(world)
    files.write_json(path, recompute(world))
    results = assets.data_folder() / "results"
    assets.record(results, path.relative_to(results).as_posix())
    return path


def recomputed_file(world: str) -> Path:
    return assets.data_folder() / "results" / files.check_name("world", world) / "recomputed.json"


def wide(rows, value: str, columns: str, index="target"):
    """One row a unit, one column a condition, in the order of the rows."""
    return rows.pivot(index=index, columns=columns, values=value).loc[list(dict.fromkeys(rows[index]))]


# ---- chapter 1 ---------------------------------------------------------------------------------------


def replay(run):
    rates = wide(by_name(run.rows("picture")), RATE, "model")
    return paired(rates["own twin"], rates["other twin"])


def variety(run):
    spreads = wide(by_name(run.rows("picture")), "diversity", "model")
    return ratios(spreads["own twin"], spreads["other twin"])


# ---- chapter 2 ---------------------------------------------------------------------------------------


def exposures(run):
    rows = by_name(run.rows("picture"))
    rows = rows[rows["role"] == "graded"]
    scores = wide(rows, "descriptor mean", "model")
    counts = rows.drop_duplicates("target").set_index("target")["exposures"].loc[scores.index]
    return *spearman_interval(counts, scores["own twin"] - scores["other twin"]), len(scores)


def detected(run, kind: str, score: str):
    """The lower model's AUC of memorized captions against decoys."""
    rows, areas = run.rows(kind), {}
    for model, part in rows.groupby("model", sort=False):
        memories, decoys = (part.loc[part["group"] == group, score] for group in ("memorized", "decoy"))
        areas[model] = *auc_interval(memories, decoys), len(memories) + len(decoys)
    return min(areas.values(), key=lambda found: found[:3])


# ---- chapter 3 ---------------------------------------------------------------------------------------


def between(run, value: str, one: str, other: str):
    """One condition's `value` minus another's, for each canary."""
    found = wide(by_name(run.rows("condition")), value, "condition")
    return paired(found[one], found[other])


def spared(run):
    return between(run, RATE, "unpruned", "Wanda") - between(run, "others rate", "unpruned", "Wanda")


# ---- chapter 4 ---------------------------------------------------------------------------------------


def rates_after(run, steps: int, start: str = "prompt"):
    """Rates of the canaries after so many attack steps: one row a canary, one column a condition."""
    rows = run.rows("attack")
    rows = rows[(rows["steps"] == steps) & (rows["start"] == start) & (rows["role"] == "canary")]
    return wide(rows, RATE, "condition")


def hidden(run, method: str = "Wanda") -> list[str]:
    """The canaries whose rate under the caption pruning at least halved: only what was hidden can come back."""
    before = rates_after(run, 0)
    unpruned, pruned = before["remembers"], before[f"pruned by {method}"]
    return list(before.index[(unpruned > 0) & (pruned <= unpruned / 2)])


def returns(run):
    after = rates_after(run, few(run))
    control = after[["never saw it", "never saw it, pruned"]].max(axis=1)
    return (after["pruned by Wanda"] - control)[hidden(run)].to_numpy()


def lift(run, method: str):
    before, after = rates_after(run, 0), rates_after(run, few(run))
    return (after[f"pruned by {method}"] - before[f"pruned by {method}"])[hidden(run, method)].to_numpy()


def direction(run):
    pushes = run.rows("push")
    pushes = pushes[(pushes["method"] == "Wanda") & (pushes["size"] == "large")].set_index("target")[RATE]
    return (rates_after(run, few(run))["pruned by Wanda"] - pushes)[hidden(run)].to_numpy()


def random_starts(run):
    after = rates_after(run, few(run), "random")
    return (after["pruned by Wanda"] - after["never saw it"])[hidden(run)].to_numpy()


def injection(run):
    """After 200 steps, the claim's number, or as many as a smaller profile has."""
    late = min(200, run.profile["control_steps"])
    return (rates_after(run, late)["never saw it"] - rates_after(run, 0)["never saw it"]).to_numpy()


def final_losses(run, condition: str, home: str) -> list[float]:
    """The mean loss over the last ten of the profile's attack steps, from the caption: one number a target."""
    rows = run.rows("attack")
    rows = rows[(rows["condition"] == condition) & (rows["home"] == home) & (rows["start"] == "prompt")]
    losses = rows[rows["steps"] == few(run)]["losses"]
    return [sum(found[-LAST:]) / len(found[-LAST:]) for found in losses]


def membership_areas(run) -> dict:
    """{(controls, home): (AUC, low, high)} of the final loss, pruned own twins against each kind of control."""
    areas = {}
    for home in "ab":
        positive = [-loss for loss in final_losses(run, "pruned by Wanda", home)]
        for controls in ("never saw it", "never saw it, pruned", "held-out", "held-out, pruned"):
            negative = [-loss for loss in final_losses(run, controls, home)]
            areas[controls, home] = auc_interval(positive, negative)
    return areas


def membership(run):
    against = [found for (controls, _), found in membership_areas(run).items() if controls.startswith("never")]
    return *min(against, key=lambda found: found[0]), len(rates_after(run, 0))


def few(run) -> int:
    return run.profile["attack_steps"]


def by_name(rows):
    return rows.sort_values("target", kind="stable")


EFFECTS = {
    "replay": replay,
    "variety": variety,
    "exposures": exposures,
    "magnitude": partial(detected, kind="detection", score="magnitude"),
    "similarity": partial(detected, kind="detection", score="similarity"),
    "wanda-hides": partial(between, value=RATE, one="unpruned", other="Wanda"),
    "nemo-hides": partial(between, value=RATE, one="unpruned", other="NeMo"),
    "wanda-chooses": partial(between, value=RATE, one="random like Wanda", other="Wanda"),
    "wanda-spares": spared,
    "nemo-outliers": partial(detected, kind="outliers", score="z"),
    "wanda-returns": returns,
    "wanda-lift": partial(lift, method="Wanda"),
    "nemo-lift": partial(lift, method="NeMo"),
    "direction": direction,
    "random-starts": random_starts,
    "membership": membership,
    "injection": injection,
}
