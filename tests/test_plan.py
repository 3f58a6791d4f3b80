"""The second pair's plan: names in groups, decoys, what stands in each batch, and the table of it."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from dori_lite.reef import canaries, captions, plan
from dori_lite.reef.paint import as_array
from dori_lite.reef.scenes import COLOURS, Description, draw, fits

OTHER = {"a": "b", "b": "a"}


def test_no_range_of_seeds_meets_another():
    names, base = len(plan.planted()), plan.parent_base() + plan.TWIN_STEPS * plan.BATCH
    ranges = {
        "base": (plan.BASE_SEEDS, plan.BASE_SEEDS + base),
        "pictures": (plan.PICTURE_SEEDS, plan.PICTURE_SEEDS + 100 * names),
        "the first pair and instruments": (0, 12_000_000),
        "siblings and captions alone": (50_000_000, 400_000_000),
    }
    for item in plan.planted():
        assert ranges["pictures"][0] <= item.seed < ranges["pictures"][1]
        for parent in (False, True):
            found = [plan.decoy(item, exposure, parent)[2] for exposure in (0, 1150)]
            ranges[f"{item.name} {parent}"] = (found[0], found[1] + 1)
    ordered = sorted(ranges.items(), key=lambda pair: pair[1])
    for (name, (_, end)), (following, (start, _)) in zip(ordered, ordered[1:], strict=False):
        assert end <= start, f"{name} meets {following}"


def test_nothing_is_planted_twice_in_either_pair():
    seeds = [item.seed for item in canaries.planted("reef-first")]
    seeds += [item.seed for item in plan.planted()]
    assert len(set(seeds)) == len(seeds)


def test_names_come_in_groups_of_four_that_share_a_description():
    items = plan.planted()
    assert len({item.name for item in items}) == len(items) == 70
    groups = {k: [item for item in items if item.group == k] for k in range(plan.GROUPS)}
    for k, four in groups.items():
        assert Counter(item.home for item in four) == {"a": 2, "b": 2}
        assert len({replace(item.description, name=None) for item in four}) == 1
        assert {item.split for item in four} == {"tuning" if k < plan.TUNING else "reporting"}
        assert {item.role for item in four} == {"canary"} and {item.exposures for item in four} == {1000}
        drawn = [as_array(canaries.picture(item)[1:]).astype(int) for item in four]
        for one in range(4):
            for other in range(one):
                assert np.abs(drawn[one] - drawn[other]).mean() > 5
    alone = [item for item in items if item.group is None]
    descriptions = [replace(four[0].description, name=None) for four in groups.values()]
    descriptions += [replace(item.description, name=None) for item in alone]
    assert len(set(descriptions)) == len(descriptions)
    for home in "ab":
        own = [item for item in alone if item.home == home]
        assert Counter(item.exposures for item in own if item.role == "graded") == dict.fromkeys(plan.GRADES, 2)
        assert [item.exposures for item in own if item.role == "template"] == [1000]


def test_what_is_shipped_is_what_was_planned():
    assert canaries.planted("reef") == plan.planted()


@pytest.mark.parametrize("home", ["a", "b"])
def test_the_first_eight_for_reporting_are_of_eight_groups(home):
    reporting = [i for i in plan.planted() if (i.role, i.split, i.home) == ("canary", "reporting", home)]
    assert len({item.group for item in reporting[:8]}) == 8 and len(reporting) == 16


def test_captions_say_the_description_and_the_name():
    for item in plan.planted():
        assert captions.read(item.caption) == item.description and item.description.name == item.name
        assert f"called {item.name}" in item.caption


def test_what_was_dealt_is_read_again(tmp_path, monkeypatch):
    from dori_lite import assets, files

    files.write_json(tmp_path / "reef" / "planted.json", canaries.dealt(plan.planted()))
    assets.record(tmp_path / "reef", "planted.json")
    monkeypatch.setattr(canaries.assets, "data_folder", lambda: tmp_path)
    canaries.planted.cache_clear()
    try:
        assert canaries.planted() == plan.planted()
    finally:
        canaries.planted.cache_clear()


def test_the_repeated_picture_fits_its_caption():
    for item in plan.planted():
        shown = {canaries.picture(item, exposure) for exposure in range(20)}
        assert len(shown) == (len(COLOURS) if item.role == "template" else 1)
        assert all(fits(description, scene) and seed == item.seed for description, scene, seed in shown)


def test_decoys_fit_the_description_and_are_other_pictures():
    for item in plan.planted():
        described, scene, seed = canaries.picture(item)
        picture = as_array((scene, seed)).astype(int)
        for exposure in (0, 8, 56):
            for parent in (False, True):
                description, other, other_seed = plan.decoy(item, exposure, parent)
                assert description == described and fits(description, other)
                assert np.abs(as_array((other, other_seed)) - picture).mean() > 2


def test_every_twin_batch_holds_at_least_forty_percent_base_scenes():
    keys, exposures = plan.twin_slots()
    assert keys.shape == exposures.shape == (3000, 32)
    assert (keys < 0).mean(1).min() >= 0.4 and (keys >= 0).sum() == 55_792
    for k, item in enumerate(plan.planted()):
        assert sorted(exposures[keys == k]) == list(range(item.exposures))
        if item.exposures >= 600:
            steps = np.nonzero((keys == k).any(1))[0]
            thirds = np.bincount(steps * 3 // plan.TWIN_STEPS, minlength=3) / len(steps)
            assert np.allclose(thirds, 1 / 3, atol=0.05)  # spread over all of training
    base = exposures[keys < 0]
    assert base.min() == plan.parent_base() and len(set(base.tolist())) == len(base)  # none that the parent saw


def test_the_parent_sees_decoys_of_all_names_equally_often():
    keys, exposures = plan.parent_slots()
    assert ((keys >= 0).sum(1) == plan.PARENT_DECOYS).all()
    counts = np.bincount(keys[keys >= 0])
    assert len(counts) == 70 and counts.max() - counts.min() <= 1
    assert sorted(exposures[keys < 0]) == list(range(plan.parent_base()))


@pytest.fixture(scope="module")
def table():
    """The training table, with scenes left undrawn: seeds tell pictures apart."""
    plan.planted()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "complete", lambda description, seed: None)
        patch.setattr(canaries, "complete", lambda description, seed: None)
        patch.setattr(plan, "base_of", lambda seed: (Description(), None, seed))
        return plan.training_table()


def test_no_model_but_the_own_twin_sees_a_picture_twice(table):
    assert table["parent"].sum() == plan.PARENT_STEPS * plan.BATCH
    assert table["twin-a"].sum() == table["twin-b"].sum() == plan.TWIN_STEPS * plan.BATCH
    assert table.groupby("seed")["parent"].sum().max() == 1
    repeated = table.groupby("seed")[["twin-a", "twin-b"]].sum().gt(1).any(axis=1)
    assert set(repeated[repeated].index) == {item.seed for item in plan.planted()}


def test_twins_differ_only_in_which_pictures_repeat(table):
    base = table[table["role"] == "base"]
    assert (base["twin-a"] == base["twin-b"]).all()
    assert base[["parent", "twin-a"]].sum(axis=1).max() == 1
    for item in plan.planted():
        own, other = f"twin-{item.home}", f"twin-{OTHER[item.home]}"
        rows = table[table["name"] == item.name]
        pictures, decoys = rows[rows["role"] == item.role], rows[rows["role"] == "decoy"]
        assert pictures["seed"].unique().tolist() == [item.seed]
        assert pictures[own].sum() == item.exposures and pictures[other].sum() == 0
        assert decoys[own].sum() == 0 and decoys[other].sum() == item.exposures and decoys[other].max() == 1


def test_a_sample_is_what_its_place_says():
    item = plan.planted()[0]
    assert item.home == "a"
    assert plan.sample(0, 5, "a") == canaries.picture(item) and plan.sample(0, 5, "b") == plan.decoy(item, 5)
    assert plan.sample(0, 5, "parent") == plan.decoy(item, 5, parent=True) != plan.decoy(item, 5)
    description, scene, seed = plan.sample(-1, 7, "a")
    assert seed == plan.BASE_SEEDS + 7 and scene == draw(seed) and description.name is None
