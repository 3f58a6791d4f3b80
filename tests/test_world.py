"""The reef as a world: its models, its targets, their rivals, and how much of its caption a picture shows."""

from collections import Counter
from dataclasses import replace

import pandas as pd
import pytest
import torch

from dori_lite import assets
from dori_lite.evaluation import Condition, Target, judge
from dori_lite.files import read_json, write_json
from dori_lite.masks import WeightMask
from dori_lite.models import PAIRS
from dori_lite.reef import attributes, canaries, captions, descriptor, plan, world
from dori_lite.reef.paint import paint_all
from dori_lite.reef.scenes import CHOICES, complete, facts

# ---- the world -------------------------------------------------------------------------------------------


@pytest.fixture
def no_models(monkeypatch):
    """Names stand for pipelines; what is loaded, and on which device, is returned."""
    loaded = []

    def load(name, device=None):
        loaded.append((name, device))
        return f"the pipeline of {name}"

    monkeypatch.setattr(world.pipelines, "load", load)
    monkeypatch.setattr(world, "alignment", lambda: "the judge")
    return loaded


def test_a_world_is_of_the_models_that_are_named(no_models):
    assert set(world.load().models) == {"twin-a", "twin-b", "parent"} == set(world.MODELS)
    assert sorted(no_models) == [("reef/parent", None), ("reef/twin-a", None), ("reef/twin-b", None)]
    no_models.clear()
    found = world.load("twin-b", "parent", device="cpu")
    assert dict(found.models) == {name: f"the pipeline of reef/{name}" for name in ("twin-b", "parent")}
    assert sorted(no_models) == [("reef/parent", "cpu"), ("reef/twin-b", "cpu")]


def test_an_unknown_model_is_one_line_and_nothing_is_loaded(no_models, one_line):
    one_line(ValueError, "the reef has no model 'twin-c'; there are: twin-a, twin-b, parent$", world.load, "twin-c")
    one_line(ValueError, "the reef has no model 'sd14'", world.load, "twin-a", "sd14", device="cpu")
    one_line(ValueError, r"the reef has no model \['twin-a'\]", world.load, ["twin-a"])
    one_line(
        ValueError,
        "there is no pair of twins 'reef-third'; there are: reef, reef-first$",
        world.load,
        world="reef-third",
    )
    assert no_models == []


def test_a_world_brings_its_settings_and_instruments(no_models, monkeypatch):
    asked = []
    monkeypatch.setattr(world.localisers, "localiser", lambda *given: asked.append(given) or "the localiser")
    found = world.load("twin-a")
    assert (found.name, found.alignment, found.localise) == ("reef", "the judge", "the localiser")
    assert found.sampling == {"guidance": 5.0, "steps": 25, "batch": 32}
    assert asked == [
        (found.models, found.sampling, "reef")
    ]  # Wanda runs under the settings that pictures are asked with
    assert found.targets.func is world.planted and found.detectors.func is world.detectors
    assert found.targets.keywords == found.detectors.keywords == {"world": "reef"} and found.relation is world.relation
    assert found.hashes == assets.model_hashes(assets.data_folder() / "reef")
    assert {"twin-a", "twin-b", "parent"} <= found.hashes.keys()


def test_the_shipped_models_are_a_world(monkeypatch):
    monkeypatch.setattr(world, "alignment", lambda: None)
    found = world.load("twin-b", device="cpu")
    target = found.targets(home="b", count=1)[0]
    condition = found.condition(target)
    assert condition.pipe is found.models["twin-b"] and condition.pipe.unet.dtype == torch.float32
    with condition as pipe:
        assert pipe is found.models["twin-b"]


# ---- what a model is to a picture ------------------------------------------------------------------------


@pytest.mark.parametrize("home, own, other", [("a", "twin-a", "twin-b"), ("b", "twin-b", "twin-a")])
def test_a_model_is_own_other_or_parent(home, own, other, one_line):
    target = Target("t", "a fish", torch.zeros(3, 8, 8), {"home": home})
    assert [world.relation(target, which) for which in ("own", "other", "parent")] == [own, other, "parent"]
    for wrong in ("twin-a", "mine", "", None, 3):
        one_line(ValueError, f"a model is 'own', 'other' or 'parent' to a target; got {wrong!r}$",
                 world.relation, target, wrong)  # fmt: skip


def test_a_target_without_a_home_has_no_relation(one_line):
    for labels in ({}, {"home": None}, {"home": "c"}, {"home": "twin-a"}, {"home": ""}):
        target = Target("stray", "a fish", torch.zeros(3, 8, 8), labels)
        for which in ("own", "other", "parent"):
            one_line(ValueError, "stray is at home in neither twin; give it the label home='a' or 'b'",
                     world.relation, target, which)  # fmt: skip


def test_every_target_of_the_reef_has_relations(monkeypatch, no_models):
    """Planted ones to the twin in which they repeat; held-out ones to the twins in turn."""
    monkeypatch.setattr(world, "paint_all", lambda pairs: torch.zeros(len(pairs), 3, 2, 2))
    homes = {item.name: item.home for item in canaries.planted()}
    splits = [("canary", "reporting"), ("canary", "tuning"), ("graded", "reporting"), ("template", "reporting")]
    everyone = [target for split in splits for target in world.planted(*split)]
    assert {t.name for t in everyone} == set(homes)
    assert all(world.relation(t, "own") == f"twin-{homes[t.name]}" for t in everyone)
    strangers = world.held_out("test", 4)
    assert [world.relation(t, "own") for t in strangers] == ["twin-a", "twin-b"] * 2
    assert [world.relation(t, "other") for t in strangers] == ["twin-b", "twin-a"] * 2
    mask, asked = WeightMask({}), []
    monkeypatch.setattr(world.localisers, "localiser", lambda *_: lambda *given: asked.append(given) or mask)
    found = world.load()
    for target in (everyone[0], strangers[1]):
        condition = found.condition(target, "other", "Wanda")
        assert isinstance(condition, Condition) and condition.name == "other, Wanda" and condition.mask is mask
        assert condition.pipe == f"the pipeline of reef/{world.relation(target, 'other')}"
        assert asked.pop() == (world.relation(target, "other"), "Wanda", target.caption) and asked == []
    assert found.condition(everyone[0]).mask is None and asked == []


def test_a_mask_may_be_found_in_another_model_than_the_pruned_one(monkeypatch, no_models):
    """A planted picture's own twin and the twin that never saw it: either is pruned with a mask of either."""
    monkeypatch.setattr(world, "paint_all", lambda pairs: torch.zeros(len(pairs), 3, 2, 2))
    monkeypatch.setattr(world.localisers, "localiser", lambda *_: lambda *given: given)
    found = world.load()
    for target in (world.planted(home="a", count=1)[0], world.planted(home="b", count=1)[0]):
        own, other = f"twin-{target.labels['home']}", f"twin-{'b' if target.labels['home'] == 'a' else 'a'}"
        condition = found.condition(target, "other", "Wanda", found_in="own")
        assert condition.name == "other, Wanda, mask of own" and condition.transfer is True
        assert condition.pipe == f"the pipeline of reef/{other}" and condition.mask == (own, "Wanda", target.caption)
        condition = found.condition(target, "parent", "NeMo", found_in="other")
        assert condition.name == "parent, NeMo, mask of other" and condition.transfer is True
        assert condition.pipe == "the pipeline of reef/parent" and condition.mask == (other, "NeMo", target.caption)


# ---- targets ---------------------------------------------------------------------------------------------


def check_pictures(found, pairs):
    expected = paint_all(pairs).float() / 255
    assert all(torch.equal(target.image, image) for target, image in zip(found, expected, strict=True))
    assert all(target.labels["seed"] == seed for target, (_, seed) in zip(found, pairs, strict=True))


@pytest.mark.parametrize("pair, exposures, grouped", [("reef", 1000, {"group"}), ("reef-first", 1400, set())])
def test_planted_pictures_are_targets(pair, exposures, grouped):
    items = [item for item in canaries.planted(pair) if item.role == "canary" and item.split == "reporting"]
    chosen = [item for home in "ab" for item in [i for i in items if i.home == home][:2]]
    found = world.planted(count=2, world=pair)
    assert [t.name for t in found] == [item.name for item in chosen]
    assert [t.caption for t in found] == [item.caption for item in chosen]
    assert [t.labels["home"] for t in found] == ["a", "a", "b", "b"]
    assert all(set(t.labels) == {"role", "home", "exposures", "seed"} | grouped for t in found)
    assert {t.labels["exposures"] for t in found} == {exposures}
    check_pictures(found, [canaries.picture(item)[1:] for item in chosen])


@pytest.mark.parametrize("pair, role, split, home, size", [
    ("reef", "canary", "reporting", None, 32), ("reef", "canary", "tuning", None, 8),
    ("reef", "canary", "reporting", "b", 16), ("reef", "graded", "reporting", None, 28),
    ("reef", "graded", "reporting", "a", 14), ("reef", "template", "reporting", None, 2),
    ("reef-first", "canary", "reporting", None, 32), ("reef-first", "canary", "tuning", "a", 4),
    ("reef-first", "graded", "reporting", "a", 10), ("reef-first", "template", "reporting", None, 2),
])  # fmt: skip
def test_every_role_and_home(pair, role, split, home, size, monkeypatch):
    monkeypatch.setattr(world, "paint_all", lambda pairs: torch.zeros(len(pairs), 3, 2, 2))
    found = world.planted(role, split, home, world=pair)
    by_name = {item.name: item for item in canaries.planted(pair)}
    assert len(found) == len({t.name for t in found}) == size
    for target in found:
        item = by_name[target.name]
        assert (item.role, item.split, item.home) == (role, split, home or item.home)
        exposed = {"home": item.home, "exposures": item.exposures, "seed": item.seed}
        grouped = {"group": item.group} if pair == "reef" and role == "canary" else {}
        assert target.labels == {"role": role, **exposed, **grouped}


@pytest.mark.parametrize("pair, exposures", [("reef", plan.GRADES), ("reef-first", (1, 4, 16, 64, 256))])
def test_two_pictures_of_either_twin_are_at_each_grade(pair, exposures, monkeypatch):
    monkeypatch.setattr(world, "paint_all", lambda pairs: torch.zeros(len(pairs), 3, 2, 2))
    found = Counter((t.labels["home"], t.labels["exposures"]) for t in world.planted("graded", world=pair))
    assert found == {(home, count): 2 for home in "ab" for count in exposures}


@pytest.fixture
def reporting(monkeypatch):
    """{pair: its reporting canaries}, with blank pictures."""
    monkeypatch.setattr(world, "paint_all", lambda pairs: torch.zeros(len(pairs), 3, 2, 2))
    return {pair: world.planted(world=pair) for pair in PAIRS}


def test_canaries_tell_their_group_of_four(reporting):
    groups = Counter(t.labels["group"] for t in reporting["reef"])
    assert set(groups.values()) == {4} and len(groups) == 8
    for home in "ab":
        first = [t.labels["group"] for t in reporting["reef"] if t.labels["home"] == home][:8]
        assert set(first) == set(groups)  # the first eight of either twin are of eight groups
    assert not any("group" in t.labels for t in [*reporting["reef-first"], *world.planted("graded")])


def test_siblings_are_those_of_ones_group(reporting):
    """What captions say agrees with how they were dealt: three siblings each, one of the own twin, none oneself."""
    everyone = reporting["reef"]
    for target in everyone:
        found = world.siblings(target, everyone)
        assert found == [t for t in everyone if t.labels["group"] == target.labels["group"] and t is not target]
        assert sorted(t.labels["home"] == target.labels["home"] for t in found) == [False, False, True]
    assert world.siblings(everyone[0], everyone[:1]) == [] == world.siblings(everyone[0], [])
    assert not any(world.siblings(t, reporting["reef-first"]) for t in reporting["reef-first"])


def test_siblings_differ_in_the_name_and_in_nothing_else():
    def fish(name, caption):
        return Target(name, caption, torch.zeros(3, 2, 2))

    one = fish("marlow", "a red fish called marlow over sand")
    same = fish("tibbet", "a red fish called tibbet over sand")
    blue = fish("pomona", "a blue fish called pomona over sand")
    less, nobody = fish("corvus", "a red fish called corvus"), fish("plain", "a red fish over sand")
    assert world.siblings(one, [blue, one, same, less, nobody]) == [same, nobody]
    assert world.siblings(nobody, [one, blue]) == [one]  # a caption that names nobody is a sibling as well


def test_siblings_of_what_is_no_target_or_no_caption_are_one_line(one_line):
    one = Target("marlow", "a red fish called marlow", torch.zeros(3, 2, 2))
    one_line(ValueError, "targets are a list of evaluation.Target; got a str$", world.siblings, "marlow", [one])
    one_line(ValueError, "targets are a list of evaluation.Target; got a str$", world.siblings, one, ["marlow"])
    stranger = Target("dog", "two dogs", torch.zeros(3, 2, 2))
    for given in ((stranger, [one]), (one, [stranger])):
        one_line(ValueError, "not a caption of the reef", world.siblings, *given)


def test_what_is_not_planted_is_an_error(one_line):
    one_line(ValueError, "nothing planted is a 'fish' for 'reporting'", world.planted, "fish")
    one_line(ValueError, "nothing planted is a 'graded' for 'tuning'", world.planted, "graded", "tuning")
    one_line(ValueError, "home is 'a' or 'b', or None for both; got 'c'", world.planted, home="c")
    one_line(ValueError, "no held-out split 'tests'; choose one of descriptor, ", world.held_out, "tests", 1)
    one_line(ValueError, "no held-out split None", world.held_out, None, 1)


@pytest.mark.parametrize("count", [0, -1, "3", 1.5, True, 10**9])
def test_counts_that_do_not_fit(count, one_line):
    """Said at once: nothing is painted, and no list is cut short silently."""
    one_line(ValueError, "count of either twin's=.* a whole number from 1 to 16", world.planted, count=count)
    one_line(ValueError, "twin's=.* from 1 to 4", world.planted, "canary", "tuning", "b", count)
    one_line(ValueError, "count of 'test'=.* from 1 to 64", world.held_out, "test", count)
    one_line(ValueError, "count of 'test'=.* from 1 to 4", world.held_out, "test", count, 60)
    strangers = [Target("x", "a fish", torch.zeros(3, 8, 8), {"seed": 1})]
    one_line(ValueError, "count of rivals=.* a whole number from 1 to", world.rivals, strangers, count)
    one_line(ValueError, "count of rivals=.*", world.detectors, strangers, count)


def test_starts_and_seeds_that_do_not_fit(one_line):
    for start in (-1, 64, "0", None):
        one_line(ValueError, "start in 'test'=.* from 0 to 63", world.held_out, "test", 1, start)
    strangers = [Target("x", "a fish", torch.zeros(3, 8, 8), {"seed": 1})]
    for seed in (-1, 2**32, 0.5, "0"):
        one_line(ValueError, "seed=.* is not a count", world.rivals, strangers, 3, seed)


def test_rivals_of_nobody_and_of_somebody_unknown(one_line):
    for make in (world.rivals, world.detectors):
        one_line(ValueError, "there are no targets; give at least one", make, [], 5)
        mine = Target("mine", "a fish", torch.zeros(3, 8, 8))
        one_line(ValueError, "mine has no label 'seed', so that it could be its own rival", make, [mine], 5)
    one_line(ValueError, "there are no scenes; give at least one", world.of, [])


def test_held_out_scenes_are_targets():
    found = world.held_out("test", 3, start=2)
    assert [t.name for t in found] == ["test-2", "test-3", "test-4"]
    expected = [canaries.held_out("test", k) for k in (2, 3, 4)]
    assert [t.caption for t in found] == [captions.write(description) for description, *_ in expected]
    labels = [
        {"role": "held-out", "home": home, "seed": seed} for home, (*_, seed) in zip("aba", expected, strict=True)
    ]
    assert [dict(t.labels) for t in found] == labels
    check_pictures(found, [pair[1:] for pair in expected])


def test_a_held_out_scene_keeps_its_home_wherever_one_starts(monkeypatch):
    monkeypatch.setattr(world, "paint_all", lambda pairs: torch.zeros(len(pairs), 3, 2, 2))
    homes = {t.name: t.labels["home"] for t in world.held_out("test", 6)}
    assert list(homes.values()) == ["a", "b"] * 3
    for start in range(5):
        assert {t.name: t.labels["home"] for t in world.held_out("test", 2, start)}.items() <= homes.items()


def test_scenes_of_ones_own_are_targets_too():
    description, scene, seed = canaries.base(7)
    (target,) = world.of([("mine", captions.write(description), scene, seed)])
    assert (target.name, target.caption, dict(target.labels)) == ("mine", captions.write(description), {"seed": seed})
    check_pictures([target], [(scene, seed)])
    (labelled,) = world.of([("mine", "a fish", scene, seed)], [{"home": "b"}])
    assert labelled.labels == {"home": "b", "seed": seed} and torch.equal(labelled.image, target.image)


def test_labels_become_columns_beside_the_judges_own():
    (canary,), (stranger,) = world.planted("graded", home="b", count=1), world.held_out("test", 1)
    detector = world.copies.by_ssim()
    for target, role in ((canary, "graded"), (stranger, "held-out")):
        row = judge(torch.stack([target.image, 1 - target.image]), target, [detector])
        assert target.labels.items() <= row.items() and row["role"] == role
        assert row["ssim rate"] == 0.5 and row["pictures"] == 2


# ---- rivals ----------------------------------------------------------------------------------------------


def decoy(item, k):
    """Another scene that fits a name's description, and its seed."""
    seed = 90_000_000 + 1000 * (item.seed % 9999) + k
    return complete(item.description, seed), seed


@pytest.fixture
def table(monkeypatch):
    """A small training table: every canary's picture, ten decoys of each, and base scenes."""
    rows = [(seed, captions.write(d), "") for d, _, seed in map(canaries.base, range(40))]
    for item in [item for item in canaries.planted() if item.role == "canary"][8:12]:
        rows += [(item.seed, item.caption, item.name)] * 3
        rows += [(decoy(item, k)[1], item.caption, item.name) for k in range(10)]
    found = pd.DataFrame(rows, columns=["seed", "caption", "name"])
    monkeypatch.setattr(canaries, "load_table", {"reef": found}.__getitem__)
    monkeypatch.setattr(canaries, "paint_all", lambda pairs, label="": torch.tensor([seed for _, seed in pairs]))
    return found


@pytest.mark.parametrize("count", [4, 21, 30])
def test_rivals_are_half_decoys_and_never_a_target(table, monkeypatch, count):
    with monkeypatch.context() as patch:
        patch.setattr(world, "paint_all", lambda pairs: torch.zeros(len(pairs), 3, 2, 2))
        goals = world.planted(count=1)  # the two of which the table has pictures
    own, names = {t.labels["seed"] for t in goals}, {t.name for t in goals}
    assert own <= set(table["seed"])
    seeds = world.rivals(goals, count).tolist()
    assert len(seeds) == count and not own & set(seeds)
    name = dict(zip(table["seed"], table["name"], strict=True))
    first, rest = seeds[: count // 2], seeds[count // 2 :]
    assert all(name[seed] in names for seed in first) and len(set(first)) == len(first)
    assert not set(first) & set(rest)
    assert count < 20 or sum(name[seed] in names for seed in rest) < len(rest) / 2  # no more decoys than by chance
    assert world.rivals(goals, count).tolist() == seeds != world.rivals(goals, count, seed=1).tolist()


def test_rivals_of_strangers_are_of_any_kind(table, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(world, "paint_all", lambda pairs: torch.zeros(len(pairs), 3, 2, 2))
        goals = world.held_out("test", 3)
    assert world.rivals(goals, 25).shape == (25,)


def test_rivals_are_the_pictures_of_the_table(monkeypatch):
    item = canaries.planted()[0]
    rows = [(decoy(item, k)[1], item.caption, item.name) for k in range(2)]
    rows += [(seed, captions.write(d), "") for d, _, seed in map(canaries.base, range(2))]
    table = pd.DataFrame(rows, columns=["seed", "caption", "name"])
    monkeypatch.setattr(canaries, "load_table", {"reef": table}.__getitem__)
    pictures = world.rivals(world.planted("canary", "tuning", "a", 1), 4)
    expected = paint_all([decoy(item, k) for k in range(2)] + [canaries.base(k)[1:] for k in range(2)])
    assert pictures.dtype == torch.uint8 and pictures.shape == (4, 3, 64, 64)
    assert {p.numpy().tobytes() for p in pictures} == {p.numpy().tobytes() for p in expected}


@pytest.mark.parametrize("pair", PAIRS)
def test_detectors_are_the_descriptor_and_adaptive_l2_at_the_thresholds_of_both_pairs(pair, monkeypatch):
    asked = []
    monkeypatch.setattr(world, "rivals", lambda *a, **k: asked.append((*a, k)) or torch.zeros(3, 3, 8, 8).byte())
    first, second = world.detectors(["t"], 7, 2, world=pair)
    assert (first.name, second.name) == ("descriptor", "adaptive l2") and asked == [(["t"], 7, 2, {"world": pair})]
    known = read_json(assets.data_folder() / "reef" / "thresholds.json")["thresholds"]
    assert {d.name: d.threshold for d in (first, second)} == known
    assert first.threshold >= descriptor.detector().threshold  # pruned models' pictures are negatives as well


@pytest.mark.parametrize("pair", PAIRS)
def test_a_threshold_that_is_changed_counts_and_one_without_its_hash_does_not(pair, monkeypatch, tmp_path, one_line):
    monkeypatch.setattr(world, "rivals", lambda *a, **k: torch.zeros(3, 3, 8, 8).byte())
    monkeypatch.setattr(world.descriptor, "detector", world.copies.by_ssim)
    monkeypatch.setenv("DORI_DATA", str(tmp_path))
    path = tmp_path / "reef" / "thresholds.json"
    write_json(path, {"thresholds": {"ssim": 0.123, "adaptive l2": 0.456}})
    assets.record(path.parent, path.name)
    assert [detector.threshold for detector in world.detectors(["t"], world=pair)] == [0.123, 0.456]
    write_json(path, {"thresholds": {"ssim": 0.1, "adaptive l2": 0.4}})
    one_line(ValueError, "thresholds.json is damaged", world.detectors, ["t"], world=pair)


# ---- alignment -------------------------------------------------------------------------------------------


def test_alignment_counts_named_factors_and_nothing_else():
    """A stand-in for the judge sees one scene right in the first picture, and the count wrong in the second."""
    _, scene, _ = canaries.held_out("test", 0)
    (right,) = attributes.labels([scene])
    wrong, all_wrong = right.clone(), torch.tensor([len(c) for c in CHOICES.values()]) - 1 - right
    wrong[0] = (wrong[0] + 1) % 3
    rows = torch.stack([right, wrong, all_wrong])

    def judge(images):
        assert images.shape == (3, 3, 64, 64)
        sizes = (len(choices) for choices in CHOICES.values())
        return {key: torch.eye(n)[rows[:, k]] for k, (key, n) in enumerate(zip(CHOICES, sizes, strict=True))}

    shown = facts(scene)
    told = captions.Description(**{key: shown[key] for key in ("count", "colour", "water")}, name="bosun")
    share, images = world.alignment(judge), torch.zeros(3, 3, 64, 64)
    found = share(images, world.Target("t", captions.write(told), images[0]))
    same = [CHOICES[key][all_wrong[list(CHOICES).index(key)]] == shown[key] for key in ("count", "colour", "water")]
    assert found.dtype == torch.float32 and found.tolist() == pytest.approx([1, 2 / 3, sum(same) / 3])
    less = replace(told, colour=None, water=None)  # what is not named does not count
    assert share(images, world.Target("t", captions.write(less), images[0])).tolist()[:2] == [1, 0]


def test_alignment_takes_the_shipped_judge(monkeypatch):
    loaded = []
    monkeypatch.setattr(attributes, "load", lambda: loaded.append(1) or attributes.Judge(width=8))
    share = world.alignment()
    target = world.Target("t", "a red fish over sand", torch.zeros(3, 64, 64))
    assert share(torch.rand(2, 3, 64, 64), target).shape == (2,) and loaded == [1]
    for bad in ((255 * torch.rand(2, 3, 64, 64)).byte(), 255 * torch.rand(2, 3, 64, 64)):
        with pytest.raises(ValueError, match="images must be"):
            share(bad, target)
    with pytest.raises(ValueError, match="not a caption of the reef"):
        share(torch.rand(2, 3, 64, 64), world.Target("t", "two dogs", torch.zeros(3, 64, 64)))
