"""Tables that chapters show of a run's rows: counts with their limits, detectors side by side, what a loss gives away.

    tables.counts(rows[rows["steps"] == 50], threshold=0.69)

Each takes tidy rows (or a `Run`) and returns a pandas table; none needs a model.
"""

import math
from functools import cache

import numpy as np

from .. import assets, files
from ..ranges import check_mapping, check_number, check_rows
from ..stats import FEWEST, auc_interval, upper_limit
from .chapter import FIRST, NOT_YET, check_world, first_said, in_brackets
from .claims import CLAIMS, HOLDS
from .effects import effect
from .publish import all_published, standard
from .verdicts import level_of, together

ITSELF, AMONG = "verdict by itself", "verdict among all"  # columns of `multiplicity`


def counts(rows, threshold: float, by: str = "condition", detector: str = "descriptor"):
    """Copies among all pictures of a condition, with the exact one-sided 95 % limit: as if pictures were independent.

    `rows` have the columns `by` and `detector`, a list of scores each, one row a target and condition; fewer than six
    rows have no limit.
    """
    import pandas as pd

    check_rows(rows, by, detector), check_number("threshold", threshold)
    table = {}
    for name, part in rows.groupby(by, sort=False):
        scores = np.concatenate([np.asarray(scores, float) for scores in part[detector]])
        count, n = int((scores >= threshold).sum()), len(scores)
        limit = {"at most (95 %)": round(upper_limit(count, n), 3)} if len(part) >= FEWEST else {}
        table[name] = {"copies": count, "pictures": n} | limit
    return pd.DataFrame(table.values(), index=[*table])


def areas(sides: dict, *names: str):
    """Areas under ROC curves with their intervals over captions, as if each were on its own: one row a label.

    `sides` is {label: (scores of memories, scores of others)}, a label a tuple with one part for each of `names`. Fewer
    than six captions on a side have no interval.
    """
    import pandas as pd

    check_mapping("sides", sides)
    rows = []
    for memories, others in sides.values():
        area, low, high = auc_interval(memories, others)
        ends = {"low": low, "high": high} if min(len(memories), len(others)) >= FEWEST else {}
        rows.append({"auc": area} | ends)
    labels = pd.MultiIndex.from_tuples(sides, names=names) if names else [*sides]
    return pd.DataFrame(rows, index=labels)


def agreement(rows, detectors, by: str = "condition"):
    """Rates of copies by each detector, and how many pictures they differ on, condition by condition."""
    import pandas as pd

    from ..copies import check_detectors  # here, since it brings torch

    check_rows(rows, by, *(detector.name for detector in check_detectors(detectors)))
    table = {}
    for name, part in rows.groupby(by, sort=False):
        said = {d.name: np.concatenate([np.asarray(s) >= d.threshold for s in part[d.name]]) for d in detectors}
        votes = np.stack(list(said.values()))
        differ = int((votes.any(0) & ~votes.all(0)).sum())
        table[name] = {key: round(float(copy.mean()), 2) for key, copy in said.items()}
        table[name] |= {"they differ on": f"{differ} of {votes.shape[1]}"}
    return pd.DataFrame.from_dict(table, orient="index")


def before_and_after(rows, cells: dict, few: int, value: str = "descriptor rate"):
    """Means of `value` at step 0 and after `few` attack steps, as arrows: {row: {column: condition}} → table."""
    import pandas as pd

    check_rows(rows, "condition", "steps", value), check_mapping("cells", cells)
    if few not in [*rows["steps"].unique()] or isinstance(few, bool):
        raise ValueError(f"there are no rows after {few!r} steps; choose one of {sorted(rows['steps'].unique())}")
    means = rows.groupby(["condition", "steps"])[value].mean()
    arrow = {name: f"{means[name, 0]:.2f} → {means[name, few]:.2f}" for name in rows["condition"].unique()}
    return pd.DataFrame({row: {column: arrow[c] for column, c in names.items()} for row, names in cells.items()}).T


def first_hits(rows, rate: float = 0.5, value: str = "descriptor rate"):
    """How many targets of a condition first reach `rate` after how many steps; "never" within the steps of the rows."""
    check_rows(rows, "condition", "target", "steps", value), check_number("rate", rate)
    first = rows[rows[value] >= rate].groupby(["condition", "target"], sort=False)["steps"].min()
    every = rows.drop_duplicates(["condition", "target"]).set_index(["condition", "target"]).index
    hits = first.astype(float).reindex(every, fill_value=math.inf).groupby("condition", sort=False).value_counts()
    table = hits.unstack(fill_value=0).sort_index(axis=1)
    return table.rename(columns=lambda steps: "never" if math.isinf(steps) else int(steps))


def all_claims():
    """Every claim with what the published `standard` runs of both pairs say of it: one row a claim."""
    import pandas as pd

    rows, known = [], {}
    for world in ("reef", FIRST):
        for run in standard(world):
            known[world] = known.get(world, {}) | run.read_record()["verdicts"]
    for key, about in CLAIMS.items():
        row = {"claim": key, "threshold": f"±{about.threshold}" if about.within else f"{about.threshold}"}
        found = known.get("reef", {}).get(key)
        row["effect [interval]"] = in_brackets(found, key) if found else NOT_YET
        row["verdict"] = found["verdict"] if found else NOT_YET
        row["in rates"] = found["rates"]["verdict"] if found and "rates" in found else ""
        row["evidence"] = f"{about.rung}, {'later' if about.later else 'committed'}"
        row["first pair"] = first_said(key, found, known.get(FIRST, {})) if found else NOT_YET
        rows.append(row)
    return pd.DataFrame(rows).set_index("claim")


def multiplicity(world: str = "reef"):
    """The published claims of a pair, each by itself and after Holm's correction over all of them: one row a claim."""
    import pandas as pd

    check_world(world)
    said, units = {}, {}
    for run in standard(world):
        run.rows = cache(run.rows)  # many claims ask for the same
        for key, found in run.read_record()["verdicts"].items():
            said[key], units[key] = found["verdict"], effect(key, run)
    return pd.DataFrame({ITSELF: said, AMONG: together(units)}).rename_axis("claim")


def by_accident(table) -> str:
    """What a table of `multiplicity` says, in words: how many hold, and how many would if none were true."""
    check_rows(table, ITSELF, AMONG)
    tails = sum((1 - level_of(CLAIMS[key])) / 2 for key in table.index)
    holds = (table[[ITSELF, AMONG]] == HOLDS).T.to_numpy()
    lost = ", ".join(table.index[holds[0] & ~holds[1]])
    return (
        f"{len(table)} claims were judged, each by itself, and {holds[0].sum()} hold. If none were true, at most "
        f"{tails:.1f} of them would hold by accident, on average: 2.5 % of all, 5 % of those whose effect is to lie "
        f"within ±threshold. Judged together (Holm), so that even one such accident among all is as unlikely as it is "
        f"for one claim by itself, {holds[1].sum()} hold" + (f"; no longer: {lost}." if lost else ".")
    )


def where_nemo_could_act():
    """What `tools/nemo_act.py` found on tuning canaries: each step that could have let NeMo hide pictures, go or no-go.

    Raises FileNotFoundError where it was not run.
    """
    import pandas as pd

    found, rows = nemo_act(), []
    for which, part in found["a"].items():
        rows.append({"step": f"a: |z| of memories against decoys, {which}", "area": part["area"], "go": part["go"]})
    names = {"b": "b: sixteen layers searched", "c": f"c: the criterion at step {found['c']['step']}, sixteen layers"}
    names |= {"d": "d: twins whose up blocks are deaf, seven layers"}
    for step in [*names.keys() & found.keys()]:
        kept = {key: found[step][key] for key in ("before", "after", "rate", "met", "neurons", "go")}
        rows.append({"step": names[step], **kept, "all seven blocked": found[step].get("all seven blocked")})
    table = pd.DataFrame(rows).sort_values("step").set_index("step").round(2)
    return table.assign(go=["go" if go else "no go" for go in table["go"]]).astype(object).fillna("")


def nemo_act() -> dict:
    return files.read_json(assets.verified(assets.data_folder() / "results", "nemo_act.json"))


def neurons_on_tuning():
    """Scores and rates of the tuning canaries after blocking the highest n neurons by the loss: one row a number n.

    Raises FileNotFoundError where `tools/nemo_act.py loss` was not run.
    """
    import pandas as pd

    found = {tuple(key.split(", ")): part for key, part in nemo_act()["loss"].items()}
    table = pd.DataFrame(found).T.rename(columns={"after": "score"}).unstack(0).round(2)
    return table.sort_index(key=lambda n: n.astype(int)).rename_axis("neurons blocked")


def minutes():
    """How long the published runs took, from their records: one row a chapter and pair, one column a profile."""
    import pandas as pd

    rows = []
    for world in ("reef", FIRST):
        for run in all_published(world):
            record = run.read_record()
            on = record["machine"] + (f", {count} processes" if (count := record.get("processes", 1)) > 1 else "")
            rows.append({"chapter": run.chapter, "pair": world, "profile": run.profile["name"]} | {
                "minutes": record.get("minutes"), "machine": on})  # fmt: skip
    table = pd.DataFrame(rows, columns=["chapter", "pair", "profile", "machine", "minutes"])
    return table.pivot(index=["chapter", "pair", "machine"], columns="profile", values="minutes")


def reported_and_ours(rows, few: int, many: int):
    """The paper's numbers beside ours (`reported.beside`), from the rows of chapter 4's attacks."""
    from .reported import beside

    means = rows[rows["start"] == "prompt"].groupby(["condition", "steps"])["descriptor rate"].mean()
    names = {"unpruned": "remembers", "NeMo": "pruned by NeMo", "Wanda": "pruned by Wanda"}
    ours = {f"caption, {short}": means[name, 0] for short, name in names.items()}
    ours |= {f"trigger, {short}": means[name, few] for short, name in names.items()}
    ours["trigger, not memorized"] = means["held-out", few]
    for steps, name in {few: "", many: f", {many} steps"}.items():
        ours[f"trigger, never saw the picture{name}"] = means["never saw it", steps]
    return beside(ours)
