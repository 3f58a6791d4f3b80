"""The reef's targets, their rivals, and how much of its caption a picture shows."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from dori_lite.reef import captions, judges, plant, targets
from dori_lite.reef.paint import paint_all
from dori_lite.reef.scenes import CHOICES, facts


def check_pictures(found, pairs):
    expected = paint_all(pairs).float() / 255
    assert all(torch.equal(target.image, image) for target, image in zip(found, expected, strict=True))
    assert all(target.labels["seed"] == seed for target, (_, seed) in zip(found, pairs, strict=True))


def test_planted_pictures_are_targets():
    items = [item for item in plant.planted() if item.role == "canary" and item.split == "reporting"]
    chosen = [item for home in "ab" for item in [i for i in items if i.home == home][:2]]
    found = targets.planted(count=2)
    assert [t.name for t in found] == [item.name for item in chosen]
    assert [t.caption for t in found] == [item.caption for item in chosen]
    assert [t.labels["home"] for t in found] == ["a", "a", "b", "b"]
    assert all(set(t.labels) == {"home", "exposures", "seed"} for t in found)
    assert {t.labels["exposures"] for t in found} == {plant.EXPOSURES}
    check_pictures(found, [plant.picture(item)[1:] for item in chosen])


@pytest.mark.parametrize("role, split, home, size", [
    ("canary", "reporting", None, 32), ("canary", "tuning", None, 8), ("canary", "reporting", "b", 16),
    ("graded", "reporting", "a", 10), ("template", "reporting", None, 2),
])  # fmt: skip
def test_every_role_and_home(role, split, home, size, monkeypatch):
    monkeypatch.setattr(targets, "paint_all", lambda pairs: torch.zeros(len(pairs), 3, 2, 2))
    found = targets.planted(role, split, home)
    by_name = {item.name: item for item in plant.planted()}
    assert len(found) == len({t.name for t in found}) == size
    for target in found:
        item = by_name[target.name]
        assert (item.role, item.split, item.home) == (role, split, home or item.home)
        assert target.labels == {"home": item.home, "exposures": item.exposures, "seed": item.seed}


def test_what_is_not_planted_is_an_error(one_line):
    one_line(ValueError, "nothing planted is a 'fish' for 'reporting'", targets.planted, "fish")
    one_line(ValueError, "nothing planted is a 'graded' for 'tuning'", targets.planted, "graded", "tuning")
    one_line(ValueError, "home is 'a' or 'b', or None for both; got 'c'", targets.planted, home="c")
    one_line(ValueError, "no held-out split 'tests'; choose one of descriptor, ", targets.held_out, "tests", 1)


def test_held_out_scenes_are_targets():
    found = targets.held_out("test", 3, start=2)
    assert [t.name for t in found] == ["test-2", "test-3", "test-4"]
    expected = [plant.held_out("test", k) for k in (2, 3, 4)]
    assert [t.caption for t in found] == [captions.write(description) for description, *_ in expected]
    assert [dict(t.labels) for t in found] == [{"seed": seed} for *_, seed in expected]
    check_pictures(found, [pair[1:] for pair in expected])


# ---- rivals ----------------------------------------------------------------------------------------------


@pytest.fixture
def table(monkeypatch):
    """A small training table: every canary's picture, ten decoys of each, and base scenes."""
    rows = [(seed, captions.write(d), "") for d, _, seed in map(plant.base, range(40))]
    for item in [item for item in plant.planted() if item.role == "canary"][8:12]:
        rows += [(item.seed, item.caption, item.name)] * 3
        rows += [(plant.decoy(item, k)[2], item.caption, item.name) for k in range(10)]
    found = pd.DataFrame(rows, columns=["seed", "caption", "name"])
    monkeypatch.setattr(plant, "load_table", lambda: found)
    monkeypatch.setattr(plant, "paint_all", lambda pairs, label="": torch.tensor([seed for _, seed in pairs]))
    return found


@pytest.mark.parametrize("count", [4, 21, 30])
def test_rivals_are_half_decoys_and_never_a_target(table, monkeypatch, count):
    with monkeypatch.context() as patch:
        patch.setattr(targets, "paint_all", lambda pairs: torch.zeros(len(pairs), 3, 2, 2))
        goals = targets.planted(count=1)  # the two of which the table has pictures
    own, names = {t.labels["seed"] for t in goals}, {t.name for t in goals}
    assert own <= set(table["seed"])
    seeds = targets.rivals(goals, count).tolist()
    assert len(seeds) == count and not own & set(seeds)
    name = dict(zip(table["seed"], table["name"], strict=True))
    first, rest = seeds[: count // 2], seeds[count // 2 :]
    assert all(name[seed] in names for seed in first) and len(set(first)) == len(first)
    assert not set(first) & set(rest)
    assert count < 20 or sum(name[seed] in names for seed in rest) < len(rest) / 2  # no more decoys than by chance
    assert targets.rivals(goals, count).tolist() == seeds != targets.rivals(goals, count, seed=1).tolist()


def test_rivals_of_strangers_are_of_any_kind(table, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(targets, "paint_all", lambda pairs: torch.zeros(len(pairs), 3, 2, 2))
        goals = targets.held_out("test", 3)
    assert targets.rivals(goals, 25).shape == (25,)


def test_rivals_are_the_pictures_of_the_table(monkeypatch):
    item = plant.planted()[0]
    rows = [(plant.decoy(item, k)[2], item.caption, item.name) for k in range(2)]
    rows += [(seed, captions.write(d), "") for d, _, seed in map(plant.base, range(2))]
    table = pd.DataFrame(rows, columns=["seed", "caption", "name"])
    monkeypatch.setattr(plant, "load_table", lambda: table)
    pictures = targets.rivals(targets.planted("canary", "tuning", "a", 1), 4)
    expected = paint_all([plant.decoy(item, k)[1:] for k in range(2)] + [plant.base(k)[1:] for k in range(2)])
    assert pictures.dtype == torch.uint8 and pictures.shape == (4, 3, 64, 64)
    assert {p.numpy().tobytes() for p in pictures} == {p.numpy().tobytes() for p in expected}


def test_detectors_are_the_descriptor_and_adaptive_l2(monkeypatch):
    monkeypatch.setattr(targets.descriptor, "detector", lambda: "the descriptor")
    asked = []
    monkeypatch.setattr(targets, "rivals", lambda *a: asked.append(a) or torch.zeros(3, 3, 8, 8, dtype=torch.uint8))
    first, second = targets.detectors(["t"], 7, 2)
    assert first == "the descriptor" and second.name == "adaptive l2" and asked == [(["t"], 7, 2)]


# ---- alignment -------------------------------------------------------------------------------------------


def test_alignment_counts_named_factors_and_nothing_else():
    """A stand-in for the judge sees one scene right in the first picture, and the count wrong in the second."""
    _, scene, _ = plant.held_out("test", 0)
    (right,) = judges.labels([scene])
    wrong, all_wrong = right.clone(), torch.tensor([len(c) for c in CHOICES.values()]) - 1 - right
    wrong[0] = (wrong[0] + 1) % 3
    rows = torch.stack([right, wrong, all_wrong])

    def judge(images):
        assert images.shape == (3, 3, 64, 64)
        sizes = (len(choices) for choices in CHOICES.values())
        return {key: torch.eye(n)[rows[:, k]] for k, (key, n) in enumerate(zip(CHOICES, sizes, strict=True))}

    shown = facts(scene)
    told = captions.Description(**{key: shown[key] for key in ("count", "colour", "water")}, name="bosun")
    share, images = targets.alignment(judge), torch.zeros(3, 3, 64, 64)
    found = share(images, targets.Target("t", captions.write(told), images[0]))
    same = [CHOICES[key][all_wrong[list(CHOICES).index(key)]] == shown[key] for key in ("count", "colour", "water")]
    assert found.dtype == torch.float32 and found.tolist() == pytest.approx([1, 2 / 3, sum(same) / 3])
    less = replace(told, colour=None, water=None)  # what is not named does not count
    assert share(images, targets.Target("t", captions.write(less), images[0])).tolist()[:2] == [1, 0]


def test_alignment_takes_the_shipped_judge(monkeypatch):
    loaded = []
    monkeypatch.setattr(judges, "load", lambda: loaded.append(1) or judges.Judge(width=8))
    share = targets.alignment()
    target = targets.Target("t", "a red fish over sand", torch.zeros(3, 64, 64))
    assert share(torch.rand(2, 3, 64, 64), target).shape == (2,) and loaded == [1]
    with pytest.raises(ValueError, match="not a caption of the reef"):
        share(torch.rand(2, 3, 64, 64), targets.Target("t", "two dogs", torch.zeros(3, 64, 64)))
