"""Each claim's effect, from rows: planted ones whose answer is known, and the published ones."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from dori_lite import assets
from dori_lite.book import chapter, claims, effects
from dori_lite.book.publish import PUBLISHED_BYTES
from dori_lite.files import plain, read_json
from dori_lite.runs import Run, open_existing
from dori_lite.stats import mean_interval

RECORDS = sorted((assets.data_folder() / "results").glob("*/*/*/record.json"))


class Planted:
    """A run with rows that were never computed."""

    folder, seed, profile = Path("planted"), 0, {"attack_steps": 20, "control_steps": 250}

    def __init__(self, **kinds):
        self.kinds = {kind: pd.DataFrame(rows) for kind, rows in kinds.items()}

    def rows(self, kind):
        return self.kinds.get(kind, pd.DataFrame())


# ---- what is published --------------------------------------------------------------------------------


def test_every_claim_has_an_effect_and_every_effect_a_claim():
    assert effects.EFFECTS.keys() == claims.CLAIMS.keys()
    assert len(RECORDS) >= 4


def percentiles(values, level=0.95):
    """Ends that occurred, as the first pair's records have them."""
    tail = (1 - level) / 2
    return np.quantile(values, tail, method="lower"), np.quantile(values, 1 - tail, method="higher")


def bootstrapped_mean(values, bounds=None, reach=None, geometric=False):
    values = np.log(values) if geometric else np.asarray(values)
    means = values[np.random.default_rng(0).integers(len(values), size=(2000, len(values)))].mean(1)
    found = [values.mean(), *(percentiles(means) if len(values) > 1 else [math.nan] * 2)]
    return np.exp(found) if geometric else found


def bootstrapped_rho(x, y):
    x, y = np.asarray(x, float), np.asarray(y, float)
    chosen = np.random.default_rng(0).integers(len(x), size=(2000, len(x)))
    return spearmanr(x, y).statistic, *np.quantile([spearmanr(x[k], y[k]).statistic for k in chosen], [0.025, 0.975])


def bootstrapped_area(positives, negatives):
    wins = (np.sign(np.asarray(positives)[:, None] - np.asarray(negatives)) + 1) / 2
    random = np.random.default_rng(0)
    one, other = (random.multinomial(n, np.full(n, 1 / n), size=2000) / n for n in wins.shape)
    return wins.mean(), *np.quantile((one @ wins * other).sum(1), [0.025, 0.975])


@pytest.mark.parametrize("path", RECORDS, ids=["/".join(path.parts[-4:-1]) for path in RECORDS])
def test_published_verdicts_follow_from_published_rows(path, monkeypatch):
    """Those of the first pair, with the percentile bootstraps they were published with: they stay as they were."""
    run = open_existing(path.parent)
    stored = run.read_record()["verdicts"]
    monkeypatch.setattr(effects, "mean_interval", bootstrapped_mean)
    monkeypatch.setattr(effects, "spearman_interval", bootstrapped_rho)
    monkeypatch.setattr(effects, "auc_interval", bootstrapped_area)
    found = plain(chapter.verdicts(run, *stored))
    assert stored and found.keys() == stored.keys()
    for key, verdict in stored.items():
        assert alike(found[key], verdict), key


def alike(one: dict, other: dict) -> bool:
    """The same words, and numbers but for rounding."""
    numbers = {key: value for key, value in other.items() if isinstance(value, float)}
    return one == other | {key: one.get(key) for key in numbers} and all(
        one[key] == pytest.approx(value, rel=1e-9) for key, value in numbers.items()
    )


def test_published_verdicts_stand_beside_recomputed_ones():
    stored, found = read_json(effects.recomputed_file("reef")), effects.recompute("reef")
    assert stored.keys() == found.keys() == {"/".join(path.parts[-3:-1]) for path in RECORDS if "reef" in path.parts}
    for run, verdicts in found.items():
        published = read_json(effects.recomputed_file("reef").parent / run / "record.json")["verdicts"]
        assert verdicts.keys() == stored[run].keys() == published.keys()
        for key, both in verdicts.items():
            about = claims.claim(key)
            assert both["threshold"] == about.threshold == published[key]["threshold"]
            assert stored[run][key]["published"] == {part: published[key][part] for part in both["published"]}
            assert alike(both["recomputed"], stored[run][key]["recomputed"]), (run, key)
            numbers = [math.nan if x is None else x for x in list(both["recomputed"].values())[:3]]
            assert both["recomputed"]["verdict"] == claims.verdict(about, *numbers)
    changed = {key for verdicts in stored.values() for key, both in verdicts.items() if differ(both)}
    assert changed == {"magnitude", "membership", "injection"}  # each to undecided


def differ(both) -> bool:
    return both["published"]["verdict"] != both["recomputed"]["verdict"] == claims.UNDECIDED


def test_recomputing_writes_one_file_and_leaves_records(tmp_path, monkeypatch, one_line):
    monkeypatch.setattr(assets, "data_folder", lambda: tmp_path)
    one_line(FileNotFoundError, "nothing is published", effects.recompute, "lagoon")
    folder = tmp_path / "results" / "lagoon" / "01_x" / "standard"
    run, stored = Run(folder, "01_x", "lagoon", {"name": "standard"}, 0), {"verdict": "holds here"}
    for _ in run.todo("picture", target=["t1", "t2", "t3"]):
        run.keep([{"model": model, "descriptor rate": rate} for model, rate in (("own twin", 1), ("other twin", 0))])
    stored |= {"estimate": 1.0, "low": 1.0, "high": 1.0, "units": 3, "threshold": 0.5, "rung": "counterfactual"}
    run.record(verdicts={"replay": stored})
    before = (folder / "record.json").read_bytes()
    written = effects.write_recomputed("lagoon")
    assert written == tmp_path / "results" / "lagoon" / "recomputed.json"
    found = read_json(written)["01_x/standard"]["replay"]
    assert found["published"] == {"estimate": 1.0, "low": 1.0, "high": 1.0, "verdict": "holds here"}
    low = found["recomputed"].pop("low")
    assert found["recomputed"] == {"estimate": 1.0, "high": 1.0, "verdict": "undecided"} and low == pytest.approx(
        0.05 ** (1 / 3)
    )
    assert (found["units"], found["threshold"]) == (3, 0.5) and (folder / "record.json").read_bytes() == before


@pytest.mark.parametrize("path", RECORDS, ids=["/".join(path.parts[-4:-1]) for path in RECORDS])
def test_published_runs_are_of_the_shipped_weights_and_small(path):
    run = open_existing(path.parent)
    models, shipped = run.read_record()["models"], assets.model_hashes(assets.data_folder() / run.world)
    assert models and {name: shipped.get(name) for name in models} == models
    assert (run.world, run.chapter, run.profile["name"]) == path.parts[-4:-1]
    size = sum(file.stat().st_size for file in path.parent.rglob("*") if file.is_file())
    assert size <= PUBLISHED_BYTES and run.images()


# ---- planted rows ---------------------------------------------------------------------------------------


def pictures(own, other, diversity=(0.1, 0.6)):
    return [
        {"target": f"t{9 - k}", "model": model, "role": "canary", "descriptor rate": rate, "diversity": spread}
        for k, rates in enumerate(zip(own, other, strict=True))
        for model, rate, spread in zip(("own twin", "other twin"), rates, diversity, strict=True)
    ]


def test_replay_is_the_mean_difference_of_the_twins_and_variety_their_ratio():
    run = Planted(picture=pictures([1, 0.5, 1], [0, 0.25, 0.5]))
    estimate, low, high, units = effects.effect("replay", run)
    assert (estimate, units) == (pytest.approx((1 + 0.25 + 0.5) / 3), 3) and low <= estimate <= high
    assert (estimate, low, high) == mean_interval([0.5, 0.25, 1], bounds=(-1, 1), reach=1)  # by name: t7, t8, t9
    assert effects.effect("variety", run)[0] == pytest.approx(6)
    different = Planted(picture=pictures([1, 1], [0, 0]))
    different.kinds["picture"]["diversity"] = [0.1, 0.4, 0.2, 0.2]
    assert effects.effect("variety", different)[:3] == mean_interval([4, 1], geometric=True)


def test_exposures_rank_the_graded_pictures_alone():
    rows = [
        {"target": f"g{n}{k}", "model": model, "role": role, "exposures": n, "descriptor mean": score}
        for role, n, gap in (("graded", 1, 0.1), ("graded", 4, 0.2), ("graded", 16, 0.3), ("canary", 1400, 0.0))
        for k in range(2)
        for model, score in (("own twin", gap), ("other twin", 0.0))
    ]
    estimate, _, _, units = effects.effect("exposures", Planted(picture=rows))
    assert (estimate, units) == (pytest.approx(1), 6)


DETECTION = [("magnitude", "detection", "magnitude"), ("similarity", "detection", "similarity")]


@pytest.mark.parametrize(("key", "kind", "score"), [*DETECTION, ("nemo-outliers", "outliers", "z")])
def test_detection_is_judged_in_the_worse_model_and_against_decoys_alone(key, kind, score):
    values = {"good": ([3, 4], [1, 2], [9, 9]), "bad": ([1, 4], [2, 3], [0, 0])}
    rows = [
        {"model": model, "group": group, score: value}
        for model, groups in values.items()
        for group, some in zip(("memorized", "decoy", "ordinary"), groups, strict=True)
        for value in some
    ]
    estimate, _, _, units = effects.effect(key, Planted(**{kind: rows}))
    assert (estimate, units) == (0.5, 4)


def test_hiding_choosing_and_sparing_compare_conditions_of_one_canary():
    table = {  # own rate, rate of others
        "unpruned": ([1, 0.5], [1, 0.75]),
        "NeMo": ([0.75, 0.5], [1, 1]),
        "Wanda": ([0, 0], [0.5, 0.5]),
        "random like Wanda": ([1, 0.25], [0, 0]),
    }
    rows = [
        {"target": t, "condition": name, "descriptor rate": own[k], "others rate": others[k]}
        for k, t in enumerate("ba")
        for name, (own, others) in table.items()
    ]
    run = Planted(condition=rows)
    expected = {"nemo-hides": 0.125, "wanda-hides": 0.75, "wanda-chooses": 0.625, "wanda-spares": 0.75 - 0.375}
    assert {key: effects.effect(key, run)[0] for key in expected} == pytest.approx(expected)
    assert effects.effect("wanda-hides", run)[:3] == mean_interval([0.5, 1], bounds=(-1, 1), reach=1)
    spared = [0.25, 0.5]  # a difference of differences: as far as two from zero
    assert effects.effect("wanda-spares", run)[:3] == mean_interval(spared, bounds=(-2, 2), reach=1)


STEPS = (0, 20, 200, 250)


def attacks(rates, start="prompt", home="a", role="canary", loss=0.1):
    """Rows of attacks: {condition: {target: rates after STEPS}}."""
    return [
        {"target": t, "condition": name, "start": start, "role": role, "home": home, "steps": n, "losses": [9] * 10
         + [loss] * 10, "descriptor rate": rate}
        for name, targets in rates.items()
        for t, found in targets.items()
        for n, rate in zip(STEPS, found, strict=True)
    ]  # fmt: skip


@pytest.fixture
def attacked():
    """Wanda hides x and y of three canaries, z was not drawn at all; NeMo hides y alone."""
    rates = {
        "remembers": {"x": (1, 1, 1, 1), "y": (0.5, 1, 1, 1), "z": (0, 1, 1, 1)},
        "pruned by Wanda": {"x": (0.5, 1, 1, 1), "y": (0, 0.5, 1, 1), "z": (0, 1, 1, 1)},
        "pruned by NeMo": {"x": (1, 1, 1, 1), "y": (0.25, 0.5, 1, 1), "z": (0, 1, 1, 1)},
        "never saw it": {"x": (0, 0.25, 0.5, 1), "y": (0, 0, 0.25, 1), "z": (0.25, 0, 1, 1)},
        "never saw it, pruned": {"x": (0, 0, 0, 0), "y": (0, 0.25, 0, 0), "z": (0, 0, 0, 0)},
    }
    rows = attacks(rates) + attacks({"held-out": {"s": (1, 1, 1, 1)}}, role="held-out")
    randomly = {"pruned by Wanda": {"x": (0, 1, 1, 1), "y": (0, 0.5, 1, 1), "z": (0, 0, 0, 0)}}
    randomly["never saw it"] = {"x": (0, 0, 1, 1), "y": (0, 0.25, 1, 1), "z": (0, 0, 0, 0)}
    pushes = [
        {"target": t, "method": method, "size": size, "descriptor rate": rate}
        for t in "xyz"
        for method, size, rate in (("Wanda", "large", 0.25), ("Wanda", "small", 1), ("NeMo", "large", 1))
    ]
    return Planted(attack=rows + attacks(randomly, "random"), push=pushes)


def test_only_what_was_hidden_can_come_back(attacked):
    assert effects.hidden(attacked) == ["x", "y"] and effects.hidden(attacked, "NeMo") == ["y"]


def test_returns_count_against_the_harder_control(attacked):
    expected = {
        "wanda-returns": (1 - 0.25 + 0.5 - 0.25) / 2,
        "wanda-lift": (0.5 + 0.5) / 2,
        "nemo-lift": 0.25,
        "direction": (0.75 + 0.25) / 2,
        "random-starts": (1 + 0.25) / 2,
        "injection": (0.5 + 0.25 + 0.75) / 3,  # after 200 steps, not 250
    }
    for key, estimate in expected.items():
        assert effects.effect(key, attacked)[0] == pytest.approx(estimate), key
    units = {key: effects.effect(key, attacked)[3] for key in expected}
    assert units == {**dict.fromkeys(expected, 2), "nemo-lift": 1, "injection": 3}
    assert math.isnan(effects.effect("nemo-lift", attacked)[1])  # one unit has no interval


def test_membership_takes_the_lowest_area_over_homes_and_controls():
    losses = {"a": (0.1, 0.2, 0.3), "b": (0.2, 0.1, 0.3)}  # pruned own twin, never saw it, never saw it pruned
    rows = []
    for home, found in losses.items():
        names = ("pruned by Wanda", "never saw it", "never saw it, pruned")
        for name, loss in zip(names, found, strict=True):
            rows += attacks({name: {f"{home}1": (0,) * 4, f"{home}2": (0,) * 4}}, home=home, loss=loss)
        for name in ("held-out", "held-out, pruned"):
            rows += attacks({name: {f"s{home}": (0,) * 4}}, home=home, role="held-out", loss=0.0)
    run = Planted(attack=rows)
    estimate, _, _, units = effects.effect("membership", run)
    assert (estimate, units) == (0, 4)
    areas = {key: area for key, (area, _, _) in effects.membership_areas(run).items()}
    assert areas["never saw it", "a"] == 1 and areas["never saw it", "b"] == 0 and areas["held-out", "a"] == 0
    assert effects.final_losses(run, "pruned by Wanda", "a") == pytest.approx([0.1, 0.1])  # the last ten steps


def test_missing_rows_and_unknown_claims_are_clear_lines(one_line):
    one_line(ValueError, "no effect is known for 'x'; there are: replay", effects.effect, "x", Planted())
    one_line(ValueError, "planted lacks .* that replay is made of", effects.effect, "replay", Planted())
