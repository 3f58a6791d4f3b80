"""Each claim's effect, from rows: planted ones whose answer is known by hand, and the published ones."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dori_lite import assets
from dori_lite.book import chapter, claims, effects, verdicts
from dori_lite.book import inside as inside_effects
from dori_lite.book.publish import PUBLISHED_BYTES
from dori_lite.files import plain
from dori_lite.runs import open_existing, open_run

RECORDS = sorted((assets.data_folder() / "results").glob("*/*/*/record.json"))
PLACES = ["/".join(path.parts[-4:-1]) for path in RECORDS]


class Planted:
    """A run with rows that were never computed."""

    folder, seed = Path("planted"), 0

    def __init__(self, **kinds):
        self.kinds = {kind: pd.DataFrame(rows) for kind, rows in kinds.items()}
        self.profile = {"attack_steps": 50, "control_steps": 200}

    def rows(self, kind):
        return self.kinds.get(kind, pd.DataFrame())


TARGETS = "abcd"
GROUPS = {"a": 3, "b": 3, "c": 5, "d": 5}


def seen(target, score, groups=True, **more):
    """One row. Nearness and rates follow the score: twice, a half and a quarter of it."""
    row = {"target": target, "role": "canary", "descriptor mean": score, "descriptor rate": score / 2}
    row |= {"adaptive l2": [math.exp(2 * score)] * 2, "adaptive l2 rate": score / 4}
    return row | ({"group": GROUPS[target]} if groups and target in GROUPS else {}) | more


def scored(scores, column="condition", groups=True, **more):
    """Rows of several conditions, {name: one score a target}, each condition in another order of targets."""
    return [
        seen(target, score, groups, **{column: name}, **more)
        for k, (name, some) in enumerate(scores.items())
        for target, score in sorted(zip(TARGETS, some, strict=True), reverse=k % 2)
    ]


def found(key, run):
    """An effect's scores by target, after a look at what goes with them."""
    units = effects.effect(key, run)
    assert units["nearness"].tolist() == pytest.approx((2 * units["score"]).tolist())
    assert units["descriptor rate"].tolist() == pytest.approx((units["score"] / 2).tolist())
    assert units["adaptive l2 rate"].tolist() == pytest.approx((units["score"] / 4).tolist())
    return by_target(units, "score")


def by_target(units, kept="value"):
    assert {*units.index} == {*TARGETS} and len(units) == 4
    assert {t: cluster for t, cluster in units["cluster"].items()} == {t: f"group {k}" for t, k in GROUPS.items()}
    return [units[kept][t] for t in TARGETS]


def estimate(key, run):
    """What the verdict says of a planted run: the number that a chapter prints."""
    return verdicts.judged(claims.claim(key), effects.effect(key, run))["estimate"]


# ---- what is published --------------------------------------------------------------------------------


def test_every_claim_has_an_effect_and_every_effect_a_claim():
    assert effects.EFFECTS.keys() == claims.CLAIMS.keys() and len(effects.EFFECTS) == 71


def differing(run) -> list[str]:
    """The claims of which a run's record says something else than its rows do."""
    stored = run.read_record()["verdicts"]
    again = plain(chapter.verdicts(run, *stored))
    return [key for key in stored if not alike(again[key], stored[key])]


def alike(one, other) -> bool:
    """The same words, and numbers but for rounding."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    numbers = [x for x in (one, other) if isinstance(x, int | float) and not isinstance(x, bool)]
    return one == pytest.approx(other, rel=1e-9, abs=1e-12) if len(numbers) == 2 else one == other


@pytest.mark.parametrize("path", RECORDS, ids=PLACES)
def test_published_verdicts_follow_from_published_rows(path):
    run = open_existing(path.parent)
    assert not differing(run)
    assert bool(run.read_record()["verdicts"]) == (run.chapter[:2] != "00")


@pytest.mark.parametrize("path", RECORDS, ids=PLACES)
def test_published_runs_are_of_the_shipped_weights_and_small(path):
    run = open_existing(path.parent)
    models, shipped = run.read_record()["models"], assets.model_hashes(assets.data_folder() / run.world)
    assert models and {name: shipped.get(name) for name in models} == models
    assert (run.world, run.chapter, run.profile["name"]) == path.parts[-4:-1]
    assert sum(file.stat().st_size for file in path.parent.rglob("*") if file.is_file()) <= PUBLISHED_BYTES


@pytest.mark.parametrize("change", [None, "a row", "an estimate", "a verdict", "a rate", "a null", "a claim more"])
def test_a_published_verdict_that_is_not_its_rows_is_noticed(tmp_path, change):
    run = open_run("01_x", "standard", 0, base=tmp_path)
    for row in scored({"own twin": [0.9, 0.8, 0.7, 0.6], "other twin": [0.1, 0.2, 0.1, 0.0]}, "model"):
        for _ in run.todo("picture", target=[row["target"]], model=[row["model"]]):
            run.keep(row | {"diversity": 0.25})
    stored = plain(chapter.verdicts(run, "replay", "variety"))
    assert stored["variety"]["low"] is None  # ratios that all agree
    if change == "a row":
        path = run.folder / "rows" / "picture-0.jsonl"
        first, *rest = map(json.loads, path.read_text().splitlines())
        first["rows"][0]["descriptor mean"] += 1e-6
        path.write_text("".join(json.dumps(line) + "\n" for line in (first, *rest)))
    elif change == "an estimate":
        stored["replay"]["estimate"] += 1e-6
    elif change == "a verdict":
        stored["replay"]["verdict"] = "undecided" if stored["replay"]["verdict"] != "undecided" else "holds here"
    elif change == "a rate":
        stored["replay"]["rates"]["adaptive l2"]["high"] += 1e-6
    elif change == "a null":
        stored["variety"]["low"] = 1.0
    elif change == "a claim more":
        stored["replay"]["more"] = 1
    run.record(verdicts=stored)
    wrong = [] if change is None else ["variety"] if change == "a null" else ["replay"]
    assert differing(open_existing(run.folder)) == wrong


# ---- chapter 1 ----------------------------------------------------------------------------------------

OWN, OTHER = [0.9, 0.8, 0.7, 1.0], [0.1, 0.3, 0.25, 0.05]
SIBLINGS = [[0.2, 0.4, 0.6], [0.0, 0.0, 0.3], [0.1, 0.2, 0.3], [0.5, 0.5, 0.8]]  # means 0.4, 0.1, 0.2, 0.6
NAMELESS = [0.3, 0.2, 0.25, 0.05]


def chapter_1(groups=True):
    rows = scored({"own twin": OWN, "other twin": OTHER, "parent": [0.5, 0.05, 0.6, 0.4]}, "model", groups)
    spread = {"own twin": [0.1, 0.2, 0.4, 0.1], "other twin": [0.4, 0.4, 0.4, 0.8], "parent": [0.9, 0.8, 0.7, 0.6]}
    for row in rows:
        row["diversity"] = spread[row["model"]][TARGETS.index(row["target"])]
    names = scored({"no name": NAMELESS}, "caption", groups)
    if groups:
        names += [seen(t, x, caption="siblings") for t, some in zip(TARGETS, SIBLINGS, strict=True) for x in some]
    return Planted(picture=rows, name=names)


def test_replay_is_own_minus_other_twin():
    assert found("replay", chapter_1()) == pytest.approx([0.8, 0.5, 0.45, 0.95])
    assert estimate("replay", chapter_1()) == pytest.approx(0.675)


def test_variety_is_the_other_twin_s_diversity_in_the_own_twin_s():
    assert by_target(effects.effect("variety", chapter_1())) == pytest.approx([4, 2, 1, 8])
    assert estimate("variety", chapter_1()) == pytest.approx(2**1.5)  # a geometric mean


def test_the_name_decides_beyond_the_siblings_mean_and_the_description_alone():
    expected = [0.9 - 0.4, 0.8 - 0.2, 0.7 - 0.25, 1.0 - 0.6]
    assert found("name-decides", chapter_1()) == pytest.approx(expected)
    assert estimate("name-decides", chapter_1()) == pytest.approx(np.mean(expected))


def test_without_siblings_the_description_alone_is_what_the_name_adds_to():
    units = effects.effect("name-decides", chapter_1(groups=False))
    assert units["score"][[*TARGETS]].tolist() == pytest.approx([0.6, 0.6, 0.45, 0.95])
    assert units["cluster"].tolist() == units.index.tolist()  # each its own


def test_siblings_that_not_all_canaries_have_are_refused(one_line):
    run = chapter_1()
    run.kinds["name"] = run.kinds["name"].iloc[:-1]
    one_line(ValueError, "different canaries", effects.effect, "name-decides", run)


# ---- chapter 2 ----------------------------------------------------------------------------------------

EXPOSURES = {"e": 64, "f": 64, "g": 128, "h": 128, "i": 256, "j": 256}
SAW, SAW_NOT = [0.15, 0.25, 0.5, 0.6, 0.7, 0.95], [0.1, 0.0, 0.1, 0.2, 0.1, 0.25]  # gaps 0.05 … 0.7


def chapter_2():
    rows = scored({"own twin": [0.9, 0.8, 0.9, 0.8], "other twin": [0.0, 0.1, 0.0, 0.1]}, "model", exposures=1000)
    for model, scores in (("other twin", SAW_NOT[::-1]), ("own twin", SAW)):
        order = [*EXPOSURES][::-1] if model == "other twin" else EXPOSURES
        more = {"model": model, "role": "graded"}
        rows += [seen(t, x, **more, exposures=EXPOSURES[t]) for t, x in zip(order, scores, strict=True)]
    signs = [
        {"target": t, "model": model, "twin": twin, "group": GROUPS[t], "magnitude": m, "similarity": s}
        for t, model, twin, m, s in (
            ("a", "own twin", "twin-a", 8.0, 0.75),
            ("d", "other twin", "twin-a", 1.0, 0.5),
            ("c", "other twin", "twin-a", 5.0, 0.25),
            ("b", "own twin", "twin-a", 6.0, 0.5),
            ("b", "other twin", "twin-b", 6.0, 0.125),
            ("a", "other twin", "twin-b", 2.0, 0.25),
            ("d", "own twin", "twin-b", 4.0, 1.0),
            ("c", "own twin", "twin-b", 10.0, 0.25),
        )
    ]
    return Planted(picture=rows, detection=signs, outliers=outliers())


def outliers():
    z = {"own twin": [5.0, 4.0, 7.0, 6.0], "other twin": [4.5, 4.5, 3.0, 7.0]}
    return [
        {"target": t, "twin": name, "model": "twin-a" if (name == "own twin") == (t in "ab") else "twin-b", "z": x}
        | {"group": GROUPS[t]}
        for name, some in z.items()
        for t, x in sorted(zip(TARGETS, some, strict=True), reverse=name == "own twin")
    ]


def test_exposures_are_own_minus_other_twin_on_their_logarithm_graded_alone():
    units = effects.effect("exposures", chapter_2())
    assert units.index.tolist() == [*EXPOSURES] and units["cluster"].tolist() == [*EXPOSURES]
    assert units["value"].tolist() == pytest.approx([0.05, 0.25, 0.4, 0.4, 0.6, 0.7])
    assert units["x"].tolist() == [6, 6, 7, 7, 8, 8]
    assert estimate("exposures", chapter_2()) == pytest.approx((0.65 - 0.15) / 2)  # ends' means, two doublings apart


def test_exposures_flat_is_the_other_twin_s_score_alone():
    units = effects.effect("exposures-flat", chapter_2()).loc[[*EXPOSURES]]
    assert units["value"].tolist() == pytest.approx(SAW_NOT) and units["x"].tolist() == [6, 6, 7, 7, 8, 8]
    assert estimate("exposures-flat", chapter_2()) == pytest.approx((0.175 - 0.05) / 2)


def test_half_a_memory_lies_between_grades_on_a_logarithmic_scale():
    run = chapter_2()  # canaries: 0.8, half of it 0.4, which the grade of 128 has on average
    assert effects.half_memory(run) == pytest.approx(128)
    own = (run.kinds["picture"]["model"] == "own twin") & (run.kinds["picture"]["role"] == "canary")
    run.kinds["picture"].loc[own, "descriptor mean"] -= 0.25  # half of 0.55 lies at half the way from 0.15 to 0.4
    assert effects.half_memory(run) == pytest.approx(64 * 2**0.5)
    run.kinds["picture"].loc[own, "descriptor mean"] -= 0.5
    assert effects.half_memory(run) == 64  # the first grade has it
    run.kinds["picture"].loc[own, "descriptor mean"] += 2
    assert math.isnan(effects.half_memory(run))


def test_magnitude_and_similarity_are_own_in_other_twin():
    run = chapter_2()
    assert by_target(effects.effect("magnitude", run)) == [4.0, 1.0, 2.0, 4.0]
    assert estimate("magnitude", run) == pytest.approx(2**1.25)
    assert by_target(effects.effect("similarity", run)) == [3.0, 4.0, 1.0, 2.0]
    assert estimate("similarity", run) == pytest.approx(24**0.25)


def test_magnitude_detects_what_one_twin_saw_against_its_decoys():
    units = effects.effect("magnitude-detects", chapter_2())
    sides = units.groupby(["model", "positive"])["value"].agg(list).map(sorted).to_dict()
    assert sides == {
        ("twin-a", True): [6.0, 8.0],  # canaries that this twin saw with one picture
        ("twin-a", False): [1.0, 5.0],  # those that it saw with changing ones
        ("twin-b", True): [4.0, 10.0],
        ("twin-b", False): [2.0, 6.0],
    }
    assert units["cluster"].to_dict() == {t: f"group {k}" for t, k in GROUPS.items()}
    assert estimate("magnitude-detects", chapter_2()) == 0.75  # twin-b's: 4 lies below 6; in twin-a it is 1


def test_outliers_are_own_minus_other_twin():
    run = Planted(outliers=outliers())
    assert by_target(effects.effect("outliers", run)) == [0.5, -0.5, 4.0, -1.0]
    assert estimate("outliers", run) == pytest.approx(0.75)


# ---- chapter 3 ----------------------------------------------------------------------------------------

CONDITIONS = {
    "unpruned": [0.9, 0.8, 0.95, 0.85],
    "Wanda": [0.1, 0.3, 0.15, 0.2],
    "random like Wanda": [0.7, 0.75, 0.6, 0.8],
    "another caption's mask": [0.5, 0.65, 0.35, 0.6],
    "NeMo": [0.85, 0.7, 0.8, 0.6],
    "random like NeMo": [0.88, 0.77, 0.91, 0.83],
    "NeMo, sixteen layers": [0.05, 0.15, 0.25, 0.45],
    "all seven layers": [0.02, 0.04, 0.06, 0.01],
    "neurons by loss": [0.08, 0.11, 0.13, 0.24],
    "as many at random": [0.66, 0.74, 0.57, 0.79],
    "other twin": [0.12, 0.21, 0.33, 0.07],
    "other twin, same mask": [0.02, 0.15, 0.09, 0.16],
}
OTHERS = {  # three other canaries of each
    "unpruned": [[0.9, 0.6, 0.9], [0.5, 0.7, 0.9], [0.8, 0.8, 0.8], [0.6, 0.9, 0.6]],
    "Wanda": [[0.6, 0.6, 0.6], [0.5, 0.7, 0.6], [0.5, 0.5, 0.5], [0.6, 0.9, 0.6]],  # lost: 0.2, 0.1, 0.3, 0
    "random like Wanda": [[0.4] * 3, [0.3] * 3, [0.2] * 3, [0.1] * 3],
    "another caption's mask": [[0.3] * 3, [0.2] * 3, [0.1] * 3, [0.0] * 3],
    "NeMo": [[0.2] * 3, [0.1] * 3, [0.0] * 3, [0.5] * 3],
}


def chapter_3():
    rows = scored(CONDITIONS)
    for k, row in enumerate(rows):
        row |= {"held-out alignment": (37 * k % 48) / 100, "held-out chance": 0.3, "alignment": k / 7}
    others = [
        seen(t, x, condition=name, other=f"o{k}")
        for n, (name, each) in enumerate(OTHERS.items())
        for t, some in sorted(zip(TARGETS, each, strict=True), reverse=n % 2)
        for k, x in enumerate(some)
    ]
    return Planted(condition=rows, others=others, outliers=outliers())


def minus(one, other):
    return [x - y for x, y in zip(CONDITIONS[one], CONDITIONS[other], strict=True)]


@pytest.mark.parametrize("key, one, other, mean", [
    ("wanda-hides", "unpruned", "Wanda", 0.6875),
    ("wanda-chooses", "random like Wanda", "Wanda", 0.525),
    ("wanda-caption", "another caption's mask", "Wanda", 0.3375),
    ("wanda-trace", "Wanda", "other twin, same mask", 0.0825),
    ("nemo-hides", "unpruned", "NeMo", 0.1375),
    ("neurons-hide", "unpruned", "neurons by loss", 0.735),
    ("neurons-choose", "as many at random", "neurons by loss", 0.55),
])  # fmt: skip
def test_pruning_is_one_condition_minus_another(key, one, other, mean):
    assert found(key, chapter_3()) == pytest.approx(minus(one, other))
    assert estimate(key, chapter_3()) == pytest.approx(mean)


def test_wanda_spares_is_the_own_loss_minus_the_mean_loss_of_others():
    expected = [0.8 - 0.2, 0.5 - 0.1, 0.8 - 0.3, 0.65 - 0.0]
    assert found("wanda-spares", chapter_3()) == pytest.approx(expected)
    assert estimate("wanda-spares", chapter_3()) == pytest.approx(np.mean(expected))


def test_utility_is_what_alignment_of_held_out_captions_loses():
    run = chapter_3()
    table = run.kinds["condition"].set_index(["condition", "target"])["held-out alignment"]
    expected = [table["unpruned", t] - table["Wanda", t] for t in TARGETS]
    assert len({*np.round(table, 6)}) == len(table) == 48  # another column or condition would show
    assert by_target(effects.effect("wanda-utility", run)) == pytest.approx(expected)
    assert estimate("wanda-utility", run) == pytest.approx(np.mean(expected))


# ---- chapter 4 ----------------------------------------------------------------------------------------

STEPS = (0, 1, 10, 25, 50, 100, 200)
PRUNED = {"a": [0.2, 0.3, 0.4, 0.6, 0.9], "b": [0.1, 0.55, 0.4, 0.7, 0.8], "c": [0.3, 0.3, 0.3, 0.4, 0.7]}
PRUNED |= {"d": [0.15, 0.2, 0.5, 0.3, 0.85]}
ATTACKS = {  # after 0, 1, 10, 25, 50, and where it goes on 100 and 200 steps
    "pruned by Wanda": {t: [*some, 0.97, 0.99] for t, some in PRUNED.items()},
    "never saw it": {
        "a": [0.1, 0.1, 0.1, 0.2, 0.3, 0.4, 0.6],
        "b": [0.05, 0.1, 0.1, 0.1, 0.15, 0.3, 0.45],  # never
        "c": [0.2, 0.1, 0.2, 0.3, 0.5, 0.6, 0.7],
        "d": [0.0, 0.1, 0.1, 0.1, 0.2, 0.55, 0.6],
    },
    "never saw it, pruned": {"a": [0.01, 0.1, 0.2, 0.3, 0.4], "b": [0.02, 0, 0, 0, 0.1], "c": [0, 0, 0, 0, 0.1]},
    "never saw it, same mask": {"a": [0.03, 0.1, 0.2, 0.3, 0.2], "b": [0.04, 0, 0, 0, 0.35], "c": [0, 0, 0, 0, 0.2]},
    "remembers": {t: [0.91, 0.92, 0.93, 0.94, 0.95] for t in TARGETS},
    "pruned by NeMo": {t: [0.81, 0.82, 0.83, 0.84, 0.86] for t in TARGETS},
    "neurons blocked": {
        "a": [0.2, 0.3, 0.4, 0.5, 0.75],
        "b": [0.1, 0.2, 0.3, 0.5, 0.6],
        "c": [0.1, 0.2, 0.2, 0.6, 0.8],
        "d": [0.3, 0.4, 0.4, 0.5, 0.7],
    },
    "never saw it, same neurons": {
        "a": [0.1, 0.2, 0.2, 0.3, 0.25],
        "b": [0.1, 0.2, 0.2, 0.3, 0.35],
        "c": [0.0, 0.1, 0.2, 0.3, 0.45],
        "d": [0.0, 0.1, 0.2, 0.3, 0.45],
    },
}
ATTACKS["never saw it, pruned"]["d"], ATTACKS["never saw it, same mask"]["d"] = [0, 0, 0, 0, 0.1], [0, 0, 0, 0, 0.15]
RANDOM = {  # after 50 steps
    "pruned by Wanda": [0.8, 0.7, 0.6, 0.9],
    "never saw it": [0.2, 0.3, 0.1, 0.4],
    "never saw it, same mask": [0.1, 0.5, 0.25, 0.3],
}
MOVES = {"another's": [0.3, 0.1, 0.2, 0.1], "permuted": [0.1, 0.5, 0.1, 0.2], "reversed": [0.0, 0.2, 0.6, 0.05]}

TRAVELS = {  # found in, asked of
    ("pruned by Wanda", "remembers"): [0.9, 0.6, 0.7, 0.8],
    ("pruned by Wanda", "never saw it"): [0.2, 0.1, 0.5, 0.3],
    ("never saw it", "remembers"): [0.4, 0.3, 0.1, 0.2],
    ("never saw it", "never saw it"): [0.95, 0.95, 0.95, 0.95],  # where it was found: no control
    ("remembers", "remembers"): [0.99, 0.99, 0.99, 0.99],
    ("remembers", "never saw it"): [0.93, 0.93, 0.93, 0.93],
    ("pruned by Wanda", "pruned by Wanda"): [0.97, 0.97, 0.97, 0.97],
    ("never saw it", "pruned by Wanda"): [0.92, 0.92, 0.92, 0.92],
}


def chapter_4(**profile):
    rows = [
        seen(t, x, condition=name, start="prompt", steps=n)
        for k, (name, each) in enumerate(ATTACKS.items())
        for t, some in sorted(each.items(), reverse=k % 2)
        for n, x in zip(STEPS, some, strict=False)
    ]
    for name, scores in RANDOM.items():
        for t, x in zip(TARGETS, scores, strict=True):
            rows += [seen(t, y, condition=name, start="random", steps=n) for n, y in ((0, 0.01), (10, 0.95), (50, x))]
    for name in ("held-out", "held-out, pruned"):
        rows += [seen("s", n / 100, condition=name, start="prompt", steps=n, role="held-out") for n in STEPS[:5]]
    transfer = []
    for (source, goal), scores in TRAVELS.items():
        transfer = scored({source: scores}, "found_in", asked_of=goal) + transfer
    run = Planted(attack=rows, push=scored(MOVES, "move"), transfer=transfer)
    run.profile |= profile
    return run


def test_what_returns_counts_beyond_the_nearest_of_three_controls():
    expected = [0.9 - 0.4, 0.8 - 0.35, 0.7 - 0.5, 0.85 - 0.2]  # pruned, same mask, unpruned, unpruned
    assert found("wanda-returns", chapter_4()) == pytest.approx(expected)
    assert estimate("wanda-returns", chapter_4()) == pytest.approx(np.mean(expected))


def test_what_returns_to_blocked_neurons_counts_beyond_the_nearer_of_two_controls():
    """The twin that never saw it, whole and with the same neurons blocked; not what Wanda pruned in either."""
    expected = [0.75 - 0.3, 0.6 - 0.35, 0.8 - 0.5, 0.7 - 0.45]  # unpruned, blocked, unpruned, blocked
    assert found("neurons-return", chapter_4()) == pytest.approx(expected)
    assert estimate("neurons-return", chapter_4()) == pytest.approx(0.3125)


def test_the_lift_is_what_fifty_steps_add_to_the_caption_in_the_pruned_own_twin():
    assert found("wanda-lift", chapter_4()) == pytest.approx([0.7, 0.7, 0.4, 0.7])
    assert estimate("wanda-lift", chapter_4()) == pytest.approx(0.625)


def test_the_direction_counts_beyond_the_best_of_three_moves():
    expected = [0.9 - 0.3, 0.8 - 0.5, 0.7 - 0.6, 0.85 - 0.2]
    assert found("direction", chapter_4()) == pytest.approx(expected)
    assert estimate("direction", chapter_4()) == pytest.approx(np.mean(expected))


def test_transfers_count_beyond_the_other_twin_s_answer_and_the_other_twin_s_trigger():
    expected = [0.9 - 0.4, 0.6 - 0.3, 0.7 - 0.5, 0.8 - 0.3]  # trigger, trigger, answer, answer
    assert found("transfers", chapter_4()) == pytest.approx(expected)
    assert estimate("transfers", chapter_4()) == pytest.approx(0.375)


def test_random_starts_count_beyond_the_nearer_of_two_controls():
    expected = [0.8 - 0.2, 0.7 - 0.5, 0.6 - 0.25, 0.9 - 0.4]
    assert found("random-starts", chapter_4()) == pytest.approx(expected)
    assert estimate("random-starts", chapter_4()) == pytest.approx(np.mean(expected))


def test_work_is_the_other_twin_s_steps_in_the_own_pruned_twin_s_and_never_counts_as_400():
    expected = [200 / 25, 400 / 1, 50 / 50, 100 / 10]  # b dips after one step, d after ten: the first time counts
    assert by_target(effects.effect("work", chapter_4())) == pytest.approx(expected)
    assert estimate("work", chapter_4()) == pytest.approx((8 * 400 * 1 * 10) ** 0.25)


def test_work_begins_with_the_first_step():
    run = chapter_4()
    rows = run.kinds["attack"]
    at = (rows["steps"] == 0) & (rows["target"] == "a") & (rows["condition"] == "pruned by Wanda")
    run.kinds["attack"].loc[at, "descriptor mean"] = 0.9  # the caption alone is no step
    assert by_target(effects.effect("work", run))[0] == pytest.approx(200 / 25)
    run.kinds["attack"].loc[rows["steps"] == 25, "descriptor mean"] = 0.5  # reached is reached
    assert by_target(effects.effect("work", run))[2] == pytest.approx(25 / 25)


def test_injection_is_what_200_steps_add_in_the_other_twin_unpruned():
    assert found("injection", chapter_4()) == pytest.approx([0.5, 0.4, 0.5, 0.6])
    assert estimate("injection", chapter_4()) == pytest.approx(0.5)


def test_a_smaller_profile_s_last_steps_stand_for_200_and_a_larger_one_s_do_not():
    assert found("injection", chapter_4(control_steps=100)) == pytest.approx([0.3, 0.25, 0.4, 0.55])
    assert found("injection", chapter_4(control_steps=1000)) == pytest.approx([0.5, 0.4, 0.5, 0.6])
    fewer = [0.6 - 0.3, 0.7 - 0.1, 0.4 - 0.3, 0.3 - 0.1]
    assert found("wanda-returns", chapter_4(attack_steps=25)) == pytest.approx(fewer)
    assert found("neurons-return", chapter_4(attack_steps=25)) == pytest.approx([0.2, 0.2, 0.3, 0.2])
    assert found("wanda-lift", chapter_4(attack_steps=25)) == pytest.approx([0.4, 0.6, 0.1, 0.15])


# ---- chapter 5 ----------------------------------------------------------------------------------------

ALL = 4096
LOSSES = {  # the last ten of 50; a trap before them
    "pruned by Wanda": [0.1, 0.2, 0.4, 0.25],
    "never saw it": [0.3, 0.3, 0.2, 0.5],
    "never saw it, same mask": [0.2, 0.4, 0.3, 0.6],
}
REACH = {  # scores at k = 16, 64, 256, 1024, all
    "pruned by Wanda": {
        "a": [0.05, 0.25, 0.65, 0.7, 0.9],  # halfway from 64 to 256: 128
        "b": [0.5, 0.2, 0.3, 0.6, 0.9],  # 16 at once
        "c": [0.1, 0.2, 0.3, 0.45, 0.9],  # 1024 itself
        "d": [0.1, 0.1, 0.1, 0.1, 0.2],  # never: 4 × 4096
    },
    "never saw it": {
        "a": [0.0, 0.1, 0.2, 0.4, 0.5],  # halfway from 1024 to all: 2048
        "b": [0.1, 0.1, 0.1, 0.2, 0.3],  # never
        "c": [0.0, 0.3, 0.6, 0.1, 0.9],  # halfway from 64 to 256: 128, the first time
        "d": [0.0, 0.0, 0.4, 0.5, 0.9],  # halfway from 256 to 1024: 512
    },
    "never saw it, same mask": {t: [0.9] for t in TARGETS},
}


def chapter_5():
    rows = []
    for k, (name, each) in enumerate(REACH.items()):
        ks = (16, 64, 256, 1024, ALL) if len(each["a"]) == 5 else (ALL,)
        for t, some in sorted(each.items(), reverse=k % 2):
            for n, x in zip(ks, some, strict=True):
                loss = LOSSES[name][TARGETS.index(t)]
                last, swing = [loss] * 10, 0.5 if name == "never saw it" else 1.5
                last[0], last[9] = loss * swing, loss * (2 - swing)  # the mean of the ten is the loss
                last = last if n == ALL else [9.0] * 10
                losses = [7.0] * 39 + [5.0] + last
                rows.insert(0, seen(t, x, condition=name, k=n, steps=50, losses=losses))
    windows = {"no step": [0.05, 0.1, 0.0, 0.1], "0–24": OWN, "0–4": [0.2, 0.3, 0.5, 0.1]}
    windows |= {"5–24": [0.8, 0.7, 0.45, 0.95], "5–9": [0.11, 0.22, 0.33, 0.44], "20–24": [0.12, 0.21, 0.3, 0.4]}
    joint = []
    for model, asked, scores in (
        ("own", "unpruned", [0.9, 0.7, 0.8, 0.95]),
        ("own", "pruned", [0.6, 0.8, 0.75, 0.9]),
        ("other", "pruned", [0.2, 0.5, 0.1, 0.3]),
        ("other", "unpruned", [0.3, 0.1, 0.4, 0.2]),
    ):
        joint += [seen(t, x, model=model, asked=asked) for t, x in zip(TARGETS, scores, strict=True)]
    return Planted(subspace=rows, window=scored(windows, "window"), joint=joint)


def test_free_numbers_are_the_other_twin_s_dimensions_in_the_own_pruned_twin_s():
    expected = [2048 / 128, 4 * ALL / 16, 128 / 1024, 512 / (4 * ALL)]
    assert by_target(effects.effect("free-numbers", chapter_5())) == pytest.approx(expected)
    assert estimate("free-numbers", chapter_5()) == pytest.approx(np.prod(expected) ** 0.25)


def test_who_carries_is_the_own_twin_late_minus_early():
    assert found("who-carries", chapter_5()) == pytest.approx([0.6, 0.4, -0.05, 0.85])
    assert estimate("who-carries", chapter_5()) == pytest.approx(0.45)


def test_membership_is_the_lower_control_s_last_loss_in_the_own_pruned_twin_s():
    expected = [0.2 / 0.1, 0.3 / 0.2, 0.2 / 0.4, 0.5 / 0.25]
    assert by_target(effects.effect("membership", chapter_5())) == pytest.approx(expected)
    assert estimate("membership", chapter_5()) == pytest.approx(3**0.25)


def test_one_trigger_is_the_lower_of_own_scores_minus_the_higher_of_the_other_s():
    expected = [0.6 - 0.3, 0.7 - 0.5, 0.75 - 0.4, 0.9 - 0.3]
    assert found("one-trigger", chapter_5()) == pytest.approx(expected)
    assert estimate("one-trigger", chapter_5()) == pytest.approx(np.mean(expected))


# ---- chapter 6 ----------------------------------------------------------------------------------------

APART = {"pruned by Wanda": [180.0, 170.0, 190.0, 175.0], "never saw it": [200.0, 170.0, 95.0, 350.0]}
ALONE_APART = {"pruned by Wanda": [180.0, 200.0, 190.0, 175.0], "never saw it": [200.0, 200.0, 190.0, 175.0]}
BESIDE = {"pruned by Wanda": [1.0, 0.5, 1.0, 1.0], "never saw it": [1.0, 1.0, 0.5, 0.75], "remembers": [0.0] * 4}
SAME, STRANGE = [0.2, 0.15, 0.1, 0.3], [0.1, 0.1, 0.1, 0.05]
WAYS = {0.0: [0.9, 0.8, 0.8, 1.0], 0.5: [0.2, 0.8, 0.1, 0.3], 1.0: [0.7, 0.8, 0.6, 1.0], 0.25: [0.5] * 4}
ADDED = {"another's": [0.1, 0.2, 0.3, 0.0], "its own": [0.6, 0.2, 0.9, 0.1], "its kin's": [0.0, 0.3, 0.1, 0.0]}
ADDED |= {"never saw it": [0.0, 0.0, 0.5, 0.0], "one search's": [1.0] * 4}
CAPTIONED = {"pruned by Wanda": [0.4, 0.5, 0.0, 0.3], "never saw it": [0.1, 0.0, 0.1, 0.0]}
PLACES_FREE = {
    "prompt": ([0.8, 0.9, 0.7, 0.6], [0.1, 0.3, 0.2, 0.0]),
    "end-of-text": ([0.5, 0.4, 0.3, 0.6], [0.1, 0.1, 0.4, 0.0]),
    "padding": ([0.3, 0.3, 0.3, 0.3], [0.3, 0.2, 0.1, 0.0]),
}


def chapter_6():
    lying = scored({name: [0.5] * 4 for name in BESIDE})
    for row in lying:
        k, name = TARGETS.index(row["target"]), row["condition"]
        row |= {"apart": APART.get(name, [1.0] * 4)[k], "independent": ALONE_APART.get(name, [1.0] * 4)[k]}
        row |= {"beside": BESIDE[name][k]}
        row |= {"same": SAME[k], "different": STRANGE[k]} if name == "remembers" else {"same": 9, "different": 1}
    ways = scored(WAYS, "share", ends="two triggers")
    ways += scored({share: [0.0] * 4 for share in WAYS}, "share", ends="trigger and start")
    free = []
    for place, (saw, never) in PLACES_FREE.items():
        free += scored({"pruned by Wanda": saw, "never saw it": never, "remembers": [1.0] * 4}, place=place)
    added = scored(ADDED, "direction")
    return Planted(spread=lying, between=ways, position=free, transplant=added, caption=scored(CAPTIONED))


def test_scatter_is_what_brought_end_points_together_beyond_the_other_twin():
    expected = [0.0, 0.0, math.log(2), math.log(0.5)]
    assert by_target(effects.effect("scatter-is-the-start", chapter_6())) == pytest.approx(expected)


def test_own_starts_are_differences_of_nearness_and_directions_of_cosines():
    assert by_target(effects.effect("own-start-nearest", chapter_6())) == pytest.approx([0.0, -0.5, 0.5, 0.25])
    assert by_target(effects.effect("common-direction", chapter_6())) == pytest.approx([0.1, 0.05, 0.0, 0.25])


def test_a_transplant_counts_beyond_the_best_of_three_others():
    assert found("transplant", chapter_6()) == pytest.approx([0.5, -0.1, 0.4, 0.1])


def test_half_way_is_compared_with_the_mean_of_both_ends():
    fall = [0.6, 0.0, 0.6, 0.7]
    assert found("basins-apart", chapter_6()) == pytest.approx(fall)
    assert found("one-basin", chapter_6()) == pytest.approx([-value for value in fall])


@pytest.mark.parametrize("place", PLACES_FREE)
def test_positions_are_what_own_pruned_gains_minus_what_the_other_twin_gains(place):
    key = {"prompt": "positions-prompt", "end-of-text": "positions-end", "padding": "positions-padding"}[place]
    saw, never = map(np.array, PLACES_FREE[place])
    ahead = np.subtract(CAPTIONED["pruned by Wanda"], CAPTIONED["never saw it"])
    assert found(key, chapter_6()) == pytest.approx([*(saw - never - ahead)])


# ---- chapter 7 ----------------------------------------------------------------------------------------

BEHIND = {
    "triggers": ([5.0, 5.1, 4.0, 4.5], [4.0, 4.0, 3.0, 4.0]),
    "captions": ([4.0, 4.0, 4.0, 4.0], [3.0, 3.1, 3.0, 3.2]),
}
EXCESS = {"triggers": [0.0, 0.1, -0.2, 0.3], "captions": [0.4, 0.1, 0.0, 0.1]}
ELSEWHERE = [-0.1, 0.2, -0.4, 0.0]  # of captions, in the other twin
CHANGES = {  # ln D of ε − ln D of the mid block
    ("remembers", "triggers"): [-0.6, -0.5, 0.0, 0.2],
    ("remembers", "non-triggers"): [0.1, -0.5, 0.3, 0.1],
    ("never saw it", "triggers"): [0.0, 0.0, 0.1, 0.1],
    ("never saw it", "non-triggers"): [0.1, 0.2, 0.1, 0.0],
}
CELLS = [(layers, window) for layers in ("down", "up") for window in ("0–4", "5–9")]
RISING, FALLING, UNEVEN = [0.0, 0.1, 0.2, 0.3], [0.3, 0.2, 0.1, 0.0], [0.3, 0.0, 0.0, 0.3]  # shares lost, by cell
DROPS = {"a": [RISING, RISING, RISING], "b": [FALLING, FALLING, FALLING]}  # of the caption and of two triggers
DROPS |= {"c": [UNEVEN, UNEVEN, RISING], "d": [RISING, FALLING, FALLING]}
WHOLE = 0.8


def inside(target, condition, name, layer, **more):
    row = {"log D": 0.0, "log d": 0.0, "excess": 9.0} | more
    return seen(target, 0.0, condition=condition, set=name, layer=layer, latent="its own", **row)


def chapter_7(drops=DROPS, noises=((0.0, 0.0), (0.0, 0.0))):
    """`noises` are what the first and the second half of the noises add to the score of the cells, in turn."""
    rows = []
    for k, target in enumerate(TARGETS):
        for (condition, name), change in CHANGES.items():
            rows.append(inside(target, condition, name, "mid_block", **{"log D": 1.0}))
            rows.append(inside(target, condition, name, "ε", **{"log D": 1.0 + change[k]}))
        for name, excess in EXCESS.items():
            for j in (-1, 1):  # two layers, whose mean counts
                rows.append(inside(target, "remembers", name, f"up.{j}.ff.net.2", excess=excess[k] + j))
                there = ELSEWHERE[k] if name == "captions" else 7.0
                rows.append(inside(target, "never saw it", name, f"up.{j}.ff.net.2", excess=there + j))
                behind, before = (each[k] + j for each in BEHIND[name])
                rows.append(inside(target, "remembers", name, f"{j}.attn2.to_v", **{"log D": behind, "log d": before}))
    rows += [{**row, "latent": "another's", "log D": 50.0, "log d": 9.0, "excess": 20.0} for row in rows]
    routed = []
    for target, home in zip(TARGETS, "xxyy", strict=True):
        for by, drop in zip(("caption", 0, 1), drops[target], strict=True):
            scores = {("nothing", "never"): WHOLE} | {c: WHOLE * (1 - d) for c, d in zip(CELLS, drop, strict=True)}
            for n, ((layers, window), score) in enumerate(scores.items()):
                each = [score + part[n % 2] for part in noises for _ in range(2)]
                routed.append(seen(target, score, home=home, by=by, layers=layers, window=window, descriptor=each))
    return Planted(apart=rows, route=routed)


def test_a_linear_image_is_the_gap_that_embeddings_do_not_have():
    expected = [(5.0 - 4.0) - (4.0 - 3.0), (5.1 - 4.0) - (4.0 - 3.1), (4.0 - 4.0) - 0.0, (4.5 - 4.0) - (4.0 - 3.2)]
    assert by_target(effects.effect("linear-image", chapter_7())) == pytest.approx(expected)


def test_excess_is_that_of_triggers_minus_captions_in_mlp_layers_where_the_picture_was_seen():
    assert by_target(effects.effect("diverge-more", chapter_7())) == pytest.approx([-0.4, 0.0, -0.2, 0.2])


def test_captions_are_heard_by_the_twin_that_saw_their_pictures_minus_the_other():
    assert by_target(effects.effect("captions-heard", chapter_7())) == pytest.approx([0.5, -0.1, 0.4, 0.1])


def test_paths_meet_where_triggers_agree_more_on_the_way_than_non_triggers_do():
    assert by_target(effects.effect("paths-meet", chapter_7())) == pytest.approx([0.7, 0.0, 0.3, -0.1])
    only_here = [0.7 - 0.1, 0.0 - 0.2, 0.3 - 0.0, -0.1 - (-0.1)]
    assert by_target(effects.effect("paths-meet-only-here", chapter_7())) == pytest.approx(only_here)


def test_a_route_s_map_is_the_share_of_the_score_that_is_lost():
    table = inside_effects.route_maps(chapter_7().rows("route"))
    assert {*table.columns} == {*CELLS}
    assert table.loc[("c", "caption")][CELLS].tolist() == pytest.approx(UNEVEN)
    assert table.loc[("d", 0)][CELLS].tolist() == pytest.approx(FALLING)


def test_what_is_peculiar_to_a_map_is_what_the_twin_s_others_of_its_kind_have_not():
    rows = chapter_7().rows("route")
    family = inside_effects.homes_of(rows)
    assert family == {"a": ["a", "b"], "b": ["a", "b"], "c": ["c", "d"], "d": ["c", "d"]}
    found = inside_effects.peculiar(inside_effects.route_maps(rows), family)
    rising, falling, uneven = map(np.array, (RISING, FALLING, UNEVEN))
    assert found.loc[("a", "caption")][CELLS].tolist() == pytest.approx([*(rising - falling)])
    assert found.loc[("d", 1)][CELLS].tolist() == pytest.approx([*(falling - (uneven + rising) / 2)])
    assert found.loc[("d", "caption")][CELLS].tolist() == pytest.approx([*(rising - uneven)])


def test_same_routes_agree_with_own_triggers_beyond_those_of_the_same_twin_s_others():
    """Of a and b, whose maps are opposite ramps, each is like its own triggers and the contrary of the other's."""
    own, other, itself = inside_effects.routes(chapter_7())
    assert own["a"] == pytest.approx(1) and other["a"] == pytest.approx(-1)
    assert itself == pytest.approx(dict.fromkeys(TARGETS, 1))
    found = by_target(effects.effect("same-route", chapter_7()))
    assert found == pytest.approx([own[t] - other[t] for t in TARGETS]) and found[0] == pytest.approx(2)


def test_caption_and_triggers_are_compared_across_noises():
    """A pattern that one half of the noises draws into all maps of a picture makes no agreement."""
    flat = {t: [[0.0, 0.0, 0.0, 0.0]] * 3 for t in TARGETS}
    rows = chapter_7(flat, noises=((0.0, 0.1), (0.0, -0.1))).rows("route")
    quiet = rows["target"].isin(["b", "d"])
    rows["descriptor"] = [[WHOLE] * 4 if calm else each for calm, each in zip(quiet, rows["descriptor"], strict=True)]
    own, _, itself = inside_effects.routes(Planted(route=rows))
    assert own["a"] == pytest.approx(-1) and itself["a"] == pytest.approx(-1)


@pytest.mark.filterwarnings("error")
def test_of_a_single_noise_nothing_is_compared_across_noises():
    rows = chapter_7().rows("route")
    rows["descriptor"] = rows["descriptor"].map(lambda scores: scores[:1])
    assert np.isnan([list(series.values()) for series in inside_effects.routes(Planted(route=rows))]).all()
    assert np.isnan(by_target(effects.effect("same-route", Planted(route=rows)))).all()


# ---- chapter 8 ----------------------------------------------------------------------------------------

EXCESSES = {  # by pair: Wanda's, and the ceilings' means are 0.8, 0.5 and 0.4
    "triggers of one picture": [0.5, 0.4, 0.3, 0.2],
    "triggers of two pictures": [0.4, 0.4, 0.1, 0.3],
    "captions of two pictures": [0.4, 0.0, 0.2, 0.8],
    "one caption, both twins": [0.0, 0.4, 0.2, 0.4],
    "triggers of one picture, never seen": [0.2, 0.0, 0.4, 0.1],
    "one caption": [0.7, 0.9, 0.8, 0.8],
    "one trigger": [0.5, 0.3, 0.7, 0.5],
    "one trigger, never seen": [0.4, 0.4, 0.3, 0.5],
}
UNDER = {"caption": [0.1, 0.2, 0.3, 0.4], 0: [0.3, 0.2, 0.5, 0.6], 1: [0.2, 0.2, 0.4, 0.5]}  # each with its own mask
WITH_OTHERS = [0.1, 0.0, 0.3, -0.2]  # what the picture's other masks leave beyond that
WITH_STRANGE = [0.4, 0.1, 0.3, 0.3]
FRESH = {
    "saw it": [0.4, 0.3, 0.2, 0.1],
    "never saw it, same mask": [0.1, 0.3, 0.3, 0.0],
    "saw it, another's": [0.9, 0.3, 0.6, 0.2],
}


def chapter_8():
    rows = []
    for pair, some in EXCESSES.items():
        for target, value in zip(TARGETS, some, strict=True):
            rows += [seen(target, 0.0, pair=pair, method="Wanda", excess=value)]
            rows += [seen(target, 0.0, pair=pair, method="NeMo", excess=9 - 2 * value)]
    judged = []
    for by, own in UNDER.items():
        for k, target in enumerate(TARGETS):
            more = {name: WITH_OTHERS[k] for name in UNDER if name != by} | {
                by: 0.0,
                "another picture's": WITH_STRANGE[k],
            }
            scores = {str(name): own[k] + value for name, value in more.items()} | {"none": 0.99}
            judged += [seen(target, score, mask=name, by=by) for name, score in scores.items()]
    alike = [
        seen(target, 0.0, masks=n, union=union, alignment=value)
        for n, shift in ((1, 0.5), (4, 0.0))
        for union, some in {"none": [0.8, 0.7, 0.6, 0.5], "its own": [0.7, 0.7, 0.4, 0.6], "other": [0.0] * 4}.items()
        for target, value in zip(TARGETS, (each + shift * (union == "none") for each in some), strict=True)
    ]
    neurons = [row | seen(row["target"], 2 * row["descriptor mean"]) for row in judged]
    crossed = {"cross Wanda": judged, "cross neurons by loss": neurons}
    return Planted(agree=rows, cost=alike, fresh=scored(FRESH, masks=4), **crossed)


def test_agreement_within_is_beyond_others_each_as_a_share_of_its_ceiling():
    one, two, captions, twins, never, *_ = map(np.array, EXCESSES.values())
    for key, expected in {
        "within-minus-between": one / 0.5 - captions / 0.8,
        "within-minus-strangers": (one - two) / 0.5,
        "more-where-seen": one / 0.5 - never / 0.4,
        "mask-is-the-models": (captions - twins) / 0.8,
    }.items():
        assert by_target(effects.effect(key, chapter_8())) == pytest.approx([*expected])


def test_other_masks_of_a_picture_count_against_its_own_and_a_strange_one_against_them():
    assert found("other-function", chapter_8()) == pytest.approx(WITH_OTHERS)
    assert found("neurons-other-function", chapter_8()) == pytest.approx([2 * value for value in WITH_OTHERS])
    assert found("same-function", chapter_8()) == pytest.approx([-value for value in WITH_OTHERS])
    strange = np.subtract(WITH_STRANGE, WITH_OTHERS)
    assert found("not-any-picture", chapter_8()) == pytest.approx([*strange])


def test_what_the_chosen_union_leaves_and_costs():
    saw, same, another = map(np.array, FRESH.values())
    assert found("cut-until-gone", chapter_8()) == pytest.approx([*(same - saw)])
    assert found("cut-by-choice", chapter_8()) == pytest.approx([*(another - saw)])
    assert by_target(effects.effect("cut-cost", chapter_8())) == pytest.approx([-0.1, 0.0, -0.2, 0.1])


# ---- chapter 9 ----------------------------------------------------------------------------------------

BEFORE = {  # score at 0 and at 50 steps, from the caption; from elsewhere it is higher by a tenth
    "adversarial": ([0.1, 0.2, 0.0, 0.1], [0.3, 0.4, 0.2, 0.5]),
    "never saw it": ([0.0, 0.1, 0.1, 0.0], [0.2, 0.5, 0.1, 0.4]),
    "pruned by Wanda": ([0.5, 0.3, 0.1, 0.2], [0.9, 0.9, 0.8, 0.7]),
    "never saw it, forgot others": ([0.1, 0.0, 0.0, 0.0], [0.1, 0.2, 0.3, 0.1]),
    "caption": ([0.0, 0.0, 0.1, 0.0], [0.8, 0.6, 0.9, 0.7]),
    "random moves": ([0.1, 0.0, 0.1, 0.1], [0.5, 0.6, 0.4, 0.7]),
    "continued": ([0.9, 0.8, 0.9, 0.7], [0.9, 0.9, 0.8, 0.9]),
}
AT_200 = {
    "adversarial": ([0.4, 0.2, 0.6, 0.1], [0.3, 0.5, 0.2, 0.3]),
    "never saw it": ([0.1, 0.2, 0.3, 0.2], [0.2] * 4),
}
LEARNED = {
    "adversarial": [40, 80, 0, 100],
    "never saw it": [80, 160, 100, math.nan],
    "pruned by Wanda": [0, 10, 20, 50],
    "adversarial, another picture": [80, 100, 60, 400],
    "never saw it, forgot others": [90, 30, 300, 200],
}
SHOWN = {"adversarial": [0.5, 0.6, 0.4, 0.5], "continued": [0.6, 0.6, 0.7, 0.4], "never saw it": [0.7, 0.5, 0.6, 0.5]}
ON_PICTURE = {"adversarial": (0.2, 0.4), "never saw it": (0.1, 0.8)}
STAYED = {
    "adversarial": {"one": [0.5, 0.4, 0.6], "two": [0.7, 0.8, 0.9]},
    "continued": {"one": [0.9] * 3, "two": [1.0] * 3},
}


def chapter_9():
    attack, longer = [], []
    for method, scores in BEFORE.items():
        for steps, some in zip((0, 50), scores, strict=True):
            for start, more in ("prompt", 0.0), ("random", 0.1):
                if start == "prompt" or method in [*BEFORE][:4]:
                    shifted = {method: [score + more for score in some]}
                    attack += scored(shifted, "condition", steps=steps, start=start)
    for method, by_rate in AT_200.items():
        for rate, some in zip((0.03, 0.1), by_rate, strict=True):
            longer += scored({method: some}, "condition", rate=rate)
    again = [
        seen(target, 0.0, condition=method, exposures=1000, needed=value, most=720.0)
        for method, some in LEARNED.items()
        for target, value in zip(TARGETS, some, strict=True)
    ]
    utility = [
        seen(target, 0.0, condition=method, **{"alignment": value / 2, "held-out alignment": value})
        for method, some in SHOWN.items()
        for target, value in zip(TARGETS, some, strict=True)
    ]
    others = [  # a and c after either set was forgotten, b and d after one
        seen(target, score, condition=method, set=name)
        for method, sets in STAYED.items()
        for (name, some), targets in zip(sets.items(), ("abc", "cda"), strict=True)
        for target, score in zip(targets, some, strict=True)
    ]
    loss = [
        seen(target, 0.0, condition=method, t=t, loss=value * (k + 1))
        for method, values in ON_PICTURE.items()
        for t, value in zip((50, 150), values, strict=True)
        for k, target in enumerate(TARGETS)
    ]
    return Planted(attack=attack, longer=longer, again=again, utility=utility, others=others, loss=loss)


def mean_over_steps(method):
    return np.mean([*map(np.array, BEFORE[method])], axis=0)


def test_attacks_are_compared_over_all_steps_and_starts():
    ours = mean_over_steps("adversarial")
    assert found("at-the-floor", chapter_9()) == pytest.approx([*(ours - mean_over_steps("never saw it"))])
    expected = [*(ours - mean_over_steps("never saw it, forgot others"))]
    assert found("floor-of-the-loop", chapter_9()) == pytest.approx(expected)
    assert found("better-than-pruned", chapter_9()) == pytest.approx([*(mean_over_steps("pruned by Wanda") - ours)])
    for key, method in {
        "attack-needed": "caption",
        "direction-needed": "random moves",
        "not-just-fading": "continued",
    }.items():
        assert found(key, chapter_9()) == pytest.approx([*(mean_over_steps(method) - ours)])


def test_the_start_counts_where_only_captions_were_tried():
    run = chapter_9()
    run.kinds["attack"].loc[run.kinds["attack"]["start"] == "random", "descriptor mean"] = 9.0
    before = found("attack-needed", chapter_9())
    assert effects.effect("attack-needed", run)["score"].tolist() == pytest.approx(before)
    assert effects.effect("better-than-pruned", run)["score"].abs().max() < 1  # of both starts, in both models


def test_a_control_may_have_been_asked_of_fewer_canaries():
    """The effect is of these; a condition that was asked of none is an error."""
    some, others, none = chapter_9(), "never saw it, forgot others", chapter_9()
    for kind in ("attack", "again"):
        rows = some.kinds[kind]
        some.kinds[kind] = rows[(rows["condition"] != others) | (rows["target"] != "a")]
        none.kinds[kind] = rows[rows["condition"] != others]
    for key, kept in ("floor-of-the-loop", "score"), ("savings-of-the-loop", "value"):
        every, fewer = effects.effect(key, chapter_9()), effects.effect(key, some)
        assert [*fewer.index] == ["b", "c", "d"] and fewer[kept].tolist() == pytest.approx(every[kept].tolist()[1:])
        with pytest.raises(ValueError, match=f"there are no rows with condition '{others}'"):
            effects.effect(key, none)


def test_of_a_long_attack_the_best_rate_counts_in_either_model():
    assert found("longer", chapter_9()) == pytest.approx([0.2 - 0.4, 0.2 - 0.5, 0.3 - 0.6, 0.2 - 0.3])


def test_savings_are_logarithms_of_exposures_one_look_at_least():
    log, never = np.log, [80, 160, 100, 720]  # what was not reached took all there were
    for key, expected in {
        "savings": log([40, 80, 24, 100]) - log(never),
        "savings-pruned": log(never) - log([24, 24, 24, 50]),
        "savings-of-the-loop": log([90, 30, 300, 200]) - log([40, 80, 24, 100]),
        "savings-own": log([80, 100, 60, 400]) - log([40, 80, 24, 100]),
    }.items():
        assert by_target(effects.effect(key, chapter_9())) == pytest.approx([*expected])


def test_what_unlearning_costs_is_counted_against_training_on_and_the_twin():
    ours, on, twin = map(np.array, SHOWN.values())
    assert by_target(effects.effect("not-by-damage", chapter_9())) == pytest.approx([*(ours - on)])
    assert by_target(effects.effect("caption-still-heard", chapter_9())) == pytest.approx([*(ours - twin) / 2])
    units = effects.effect("spares", chapter_9())
    expected = {"a": (0.5 + 0.9) / 2 - 0.95, "b": 0.4 - 0.9, "c": (0.6 + 0.7) / 2 - 0.95, "d": 0.8 - 1.0}
    assert units["score"].to_dict() == pytest.approx(expected)
    assert units["cluster"].to_dict() == {"a": "group 3", "b": "group 3", "c": "group 5", "d": "group 5"}


def test_the_loss_is_averaged_in_logarithms():
    expected = (math.log(2) + math.log(0.5)) / 2
    assert by_target(effects.effect("loss-gap", chapter_9())) == pytest.approx([expected] * 4, abs=1e-12)


# ---- what all have in common -------------------------------------------------------------------------

RUNS = dict(
    enumerate((chapter_1, chapter_2, chapter_3, chapter_4, chapter_5, chapter_6, chapter_7, chapter_8, chapter_9), 1)
)


@pytest.mark.parametrize("key", claims.CLAIMS)
def test_every_effect_is_judged_from_its_chapter_s_rows(key):
    about = claims.claim(key)
    said = verdicts.judged(about, effects.effect(key, RUNS[about.chapter]()))
    assert math.isfinite(said["estimate"]) and said["verdict"]
    graded = about.measure == "slope"
    near = about.measure in ("score", "slope") and not about.within
    assert ("nearness" in said) == near and ("rates" in said) == (about.rate is not None)
    assert (said["units"], said["clusters"]) == ((6, 6) if graded else (4, 2))


@pytest.mark.parametrize("key", claims.CLAIMS)
def test_without_groups_each_canary_is_its_own_cluster(key):
    run = RUNS[claims.claim(key).chapter]()
    for kind, rows in run.kinds.items():
        if "caption" not in rows:
            run.kinds[kind] = rows.drop(columns="group") if kind != "others" else rows.assign(group=math.nan)
    if key == "name-decides":
        run = chapter_1(groups=False)
    units = effects.effect(key, run)
    assert units["cluster"].tolist() == units.index.tolist()


NEEDED = {  # kind of rows, column: conditions
    "replay": ("picture", "model", "own twin", "other twin"),
    "variety": ("picture", "model", "own twin", "other twin"),
    "name-decides": ("name", "caption", "no name"),
    "exposures": ("picture", "model", "own twin", "other twin"),
    "exposures-flat": ("picture", "model", "other twin"),
    "magnitude": ("detection", "model", "own twin", "other twin"),
    "similarity": ("detection", "model", "own twin", "other twin"),
    "magnitude-detects": ("detection", "model", "own twin", "other twin"),
    "outliers": ("outliers", "twin", "own twin", "other twin"),
    "wanda-hides": ("condition", "condition", "unpruned", "Wanda"),
    "wanda-chooses": ("condition", "condition", "random like Wanda", "Wanda"),
    "wanda-caption": ("condition", "condition", "another caption's mask", "Wanda"),
    "wanda-spares": ("others", "condition", "unpruned", "Wanda"),
    "wanda-utility": ("condition", "condition", "unpruned", "Wanda"),
    "wanda-trace": ("condition", "condition", "Wanda", "other twin, same mask"),
    "nemo-hides": ("condition", "condition", "unpruned", "NeMo"),
    "neurons-hide": ("condition", "condition", "unpruned", "neurons by loss"),
    "neurons-choose": ("condition", "condition", "as many at random", "neurons by loss"),
    "neurons-return": ("attack", "condition", "neurons blocked", "never saw it", "never saw it, same neurons"),
    "wanda-returns": ("attack", "condition", "pruned by Wanda", *effects.CONTROLS),
    "wanda-lift": ("attack", "condition", "pruned by Wanda"),
    "direction": ("attack", "condition", "pruned by Wanda"),
    "random-starts": ("attack", "condition", "pruned by Wanda", "never saw it", "never saw it, same mask"),
    "work": ("attack", "condition", "pruned by Wanda", "never saw it"),
    "injection": ("attack", "condition", "never saw it"),
    "transfers": ("transfer", "found_in", "pruned by Wanda", "never saw it"),
    "free-numbers": ("subspace", "condition", "pruned by Wanda", "never saw it"),
    "who-carries": ("window", "window", "5–24", "0–4"),
    "membership": ("subspace", "condition", "pruned by Wanda", "never saw it", "never saw it, same mask"),
    "one-trigger": ("joint", "model", "own", "other"),
    "scatter-is-the-start": ("spread", "condition", "pruned by Wanda", "never saw it"),
    "own-start-nearest": ("spread", "condition", "pruned by Wanda", "never saw it"),
    "common-direction": ("spread", "condition", "remembers"),
    "transplant": ("transplant", "direction", "its own", "another's", "its kin's", "never saw it"),
    "one-basin": ("between", "share", 0.0, 0.5, 1.0),
    "basins-apart": ("between", "share", 0.0, 0.5, 1.0),
    "positions-prompt": ("position", "condition", "pruned by Wanda", "never saw it"),
    "positions-end": ("position", "condition", "pruned by Wanda", "never saw it"),
    "positions-padding": ("position", "condition", "pruned by Wanda", "never saw it"),
    "linear-image": ("apart", "set", "triggers", "captions"),
    "captions-heard": ("apart", "condition", "remembers", "never saw it"),
    "diverge-more": ("apart", "set", "triggers", "captions"),
    "paths-meet": ("apart", "set", "triggers", "non-triggers"),
    "paths-meet-only-here": ("apart", "condition", "remembers", "never saw it"),
    "same-route": ("route", "layers", "nothing"),
    "within-minus-between": ("agree", "pair", "triggers of one picture", "captions of two pictures"),
    "within-minus-strangers": ("agree", "pair", "triggers of one picture", "triggers of two pictures"),
    "more-where-seen": ("agree", "pair", "triggers of one picture", "triggers of one picture, never seen"),
    "mask-is-the-models": ("agree", "pair", "captions of two pictures", "one caption, both twins"),
    "not-any-picture": ("cross Wanda", "mask", "another picture's"),
    "cut-until-gone": ("fresh", "condition", "saw it", "never saw it, same mask"),
    "cut-by-choice": ("fresh", "condition", "saw it", "saw it, another's"),
    "cut-cost": ("cost", "union", "its own", "none"),
    "at-the-floor": ("attack", "condition", "adversarial", "never saw it"),
    "floor-of-the-loop": ("attack", "condition", "adversarial", "never saw it, forgot others"),
    "savings-of-the-loop": ("again", "condition", "adversarial", "never saw it, forgot others"),
    "better-than-pruned": ("attack", "condition", "adversarial", "pruned by Wanda"),
    "attack-needed": ("attack", "condition", "adversarial", "caption"),
    "direction-needed": ("attack", "condition", "adversarial", "random moves"),
    "not-just-fading": ("attack", "condition", "adversarial", "continued"),
    "not-by-damage": ("utility", "condition", "adversarial", "continued"),
    "caption-still-heard": ("utility", "condition", "adversarial", "never saw it"),
    "spares": ("others", "condition", "adversarial", "continued"),
    "longer": ("longer", "condition", "adversarial", "never saw it"),
    "savings": ("again", "condition", "adversarial", "never saw it"),
    "savings-pruned": ("again", "condition", "pruned by Wanda", "never saw it"),
    "savings-own": ("again", "condition", "adversarial", "adversarial, another picture"),
    "loss-gap": ("loss", "condition", "adversarial", "never saw it"),
}
CASES = [(key, kind, column, name) for key, (kind, column, *names) in NEEDED.items() for name in names]
CASES += [("transfers", "transfer", "asked_of", name) for name in ("remembers", "never saw it")]


@pytest.mark.parametrize("key, kind, column, name", CASES)
def test_a_condition_that_an_effect_lacks_is_one_line(key, kind, column, name, one_line):
    run = RUNS[claims.claim(key).chapter]()
    rows = run.kinds[kind]
    run.kinds[kind] = rows[rows[column] != name]
    said = "lacks .* is made of; execute its chapter|there are no rows with|(positives|negatives) have shape"
    one_line(ValueError, said, estimate, key, run)


ALONE = (
    "exposures-flat",
    "magnitude-detects",
    "wanda-lift",
    "injection",
    "common-direction",
)  # compare nothing canary by canary


OF_FEWER = "never saw it, forgot others", "adversarial, another picture"  # asked of some canaries on purpose


@pytest.mark.parametrize(
    "key, kind, column, name", [case for case in CASES if case[0] not in ALONE and case[-1] not in OF_FEWER]
)
def test_a_canary_that_one_condition_lacks_gives_no_number(key, kind, column, name):
    run = RUNS[claims.claim(key).chapter]()
    rows = run.kinds[kind]
    run.kinds[kind] = rows[(rows[column] != name) | (rows["target"] != ("e" if key == "exposures" else "d"))]
    try:
        assert math.isnan(estimate(key, run))
    except ValueError as error:
        assert "made of" in str(error) or "different canaries" in str(error)
        assert "\n" not in str(error)


@pytest.mark.parametrize("key", claims.CLAIMS)
def test_a_run_without_rows_is_one_line(key, one_line):
    one_line(ValueError, "planted lacks .* is made of|there are no rows with", effects.effect, key, Planted())


def test_unknown_claims_are_named(one_line):
    one_line(ValueError, "no effect is known for 'x'; there are: replay", effects.effect, "x", Planted())
    one_line(ValueError, "no effect is known for None", effects.effect, None, Planted())
