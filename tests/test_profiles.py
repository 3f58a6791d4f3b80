"""Profiles: the table, its errors, and that a small one costs no import of torch."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dori_lite.book import profiles
from dori_lite.book.profiles import PROFILES, load
from dori_lite.models import PAIRS
from dori_lite.ranges import HIGHEST_SEED, check_seeds
from dori_lite.reef import canaries

ROOT = Path(__file__).parent.parent


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(profiles, "cuda_available", lambda: True)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(profiles, "cuda_available", lambda: False)


def test_the_tests_own_counts_are_smaller_and_of_quick_alone(monkeypatch):
    before = {name: load(name) for name in ("quick", "standard")}
    monkeypatch.setenv("DORI_TINY", "1")
    after = {name: load(name) for name in ("quick", "standard")}
    assert before["standard"] == after["standard"] and before["quick"] != after["quick"]
    assert after["quick"].name == "quick" and load("quick", canaries=3).canaries == 3
    counts = [dataclasses.astuple(profile)[2:] for profile in (after["quick"], before["quick"])]
    assert all(a <= b for a, b in zip(*counts, strict=True))


def test_the_table(gpu):
    assert list(PROFILES) == ["quick", "standard", "full"]
    counts = {name: (load(name).canaries, load(name).generation_seeds) for name in PROFILES}
    assert counts == {"quick": (3, 2), "standard": (8, 4), "full": (16, 10)}
    standard = load("standard")
    assert (standard.attack_steps, standard.control_steps) == (50, 200)
    assert (standard.triggers, standard.forgotten) == (6, 4)
    assert load("full").triggers == 24 and load("quick").attack_steps <= 50
    assert [load(name).direction_only for name in PROFILES] == [True, False, False]
    assert {name: load(name).needs for name in PROFILES} == {
        "quick": (),
        "standard": (),
        "full": ("cuda",),
    }


def test_the_reef_has_enough_canaries_for_every_profile():
    reported = [p for p in canaries.planted() if (p.role, p.split, p.home) == ("canary", "reporting", "a")]
    assert all(profile.canaries <= len(reported) for profile in PROFILES.values())
    assert all(profile.attacked <= profile.canaries for profile in PROFILES.values())


def test_overrides(no_gpu):
    profile = load("quick", canaries=2, attack_steps=10)
    assert profile == dataclasses.replace(PROFILES["quick"], canaries=2, attack_steps=10)
    assert PROFILES["quick"].canaries == 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        profile.canaries = 4


def one_line(match, kind, *args, **kwargs):
    with pytest.raises(kind, match=match) as error:
        load(*args, **kwargs)
    assert "\n" not in str(error.value)


def test_unknown_names_and_keys_list_the_known_ones(no_gpu):
    one_line("no profile called 'fast'; there are: quick, standard, full$", ValueError, "fast")
    known = "canaries, attacked, generation_seeds, steps, attack_steps, control_steps, triggers, "
    known += "forgotten"
    one_line(f"profiles have no canary; what can be set: {known}", ValueError, "quick", canary=2)
    for fixed in ("needs", "name", "device"):
        one_line(f"profiles have no {fixed}", ValueError, "quick", **{fixed: "x"})
    for wrong in (0, -1, 2.0, "2", None, True):
        one_line("canaries=.* is not a count", ValueError, "quick", canaries=wrong)


def test_without_a_gpu(no_gpu):
    assert load("quick").device == "cpu" and load("standard").device == "cpu"
    one_line(r"Runtime > Change runtime type > T4 GPU; elsewhere use profile=.quick", RuntimeError, "full")
    one_line("no profile", ValueError, "fast")  # a wrong word comes before a missing machine
    one_line("profiles have no", ValueError, "full", canary=2)


def test_with_a_gpu(gpu, monkeypatch):
    assert load("quick").device == "cuda"
    for value in ("0", "1", "true", "YES"):  # no profile downloads anything
        monkeypatch.setenv("HF_HUB_OFFLINE", value)
        assert load("full").name == "full"


def test_a_profile_says_how_much_and_never_which_model(gpu):
    one_line("no profile called 'sd14'", ValueError, "sd14")
    for profile in PROFILES.values():
        assert set(profile.needs) <= {"cuda"}
        counts = {k: v for k, v in dataclasses.asdict(profile).items() if k not in ("name", "needs")}
        assert all(type(count) is int and count > 0 for count in counts.values()), counts


NAMES = [*(item.name for pair in PAIRS for item in canaries.planted(pair)), "test-0", "a b", "ä", ""]


def test_noises_are_a_targets_own(gpu):
    """No two names share one, nor two seeds of one name: a noise decides about one picture and no other."""
    profile, names = load("standard"), sorted(set(NAMES))
    found = {(seed, name): profile.noises(seed, name, 64) for seed in range(3) for name in names}
    everything = [noise for noises in found.values() for noise in noises]
    assert len(names) > 70 and len(set(everything)) == len(everything) == 64 * 3 * len(names)


def test_noises_are_the_same_on_every_call_and_for_every_profile(gpu):
    for name in ("marlow", "test-0"):
        assert load("quick").noises(7, name) == load("quick").noises(7, name)
        longest = load("full").noises(7, name, 100)
        for profile in map(load, PROFILES):  # more pictures, the first ones the same
            assert profile.noises(7, name) == longest[: profile.generation_seeds]
    assert load("quick").noises(0, "marlow", 3) == [80926797305830, 80926797305831, 80926797305832]  # on any machine


def test_as_many_noises_as_a_caption_gets_pictures_or_as_one_says(gpu):
    for name in PROFILES:
        assert len(load(name).noises(0, "marlow")) == load(name).generation_seeds >= 2
    assert len(load("quick", generation_seeds=5).noises(0, "marlow")) == 5
    assert len(load("quick", generation_seeds=1).noises(0, "marlow")) == 1
    for count in (1, 2, 33):
        assert len(load("quick").noises(0, "marlow", count)) == count


def test_noises_are_seeds(gpu):
    """Whole numbers that the sampler takes, so far apart that none is another's neighbour by accident."""
    for seed in (0, 1, HIGHEST_SEED):
        found = [load("full").noises(seed, name, 200) for name in NAMES]
        assert all(check_seeds(noises) == list(range(noises[0], noises[0] + 200)) for noises in found)
        assert max(noises[-1] for noises in found) < 2**49
    torch.Generator().manual_seed(max(noises[-1] for noises in found))


@pytest.mark.parametrize(("given", "match"), [
    *(((seed, "marlow"), "seed=.* is not a count") for seed in (-1, HIGHEST_SEED + 1, 1.0, "0", None, True)),
    *(((0, "marlow", count), "count=.* is not a count") for count in (0, -1, 2.0, "2", True)),
    *(((0, name), "noises belong to a target's name; give text, not a ") for name in (3, None, ["marlow"], b"marlow")),
])  # fmt: skip
def test_what_gives_no_noises_is_one_line(gpu, given, match):
    with pytest.raises(ValueError, match=match) as error:
        load("quick").noises(*given)
    assert "\n" not in str(error.value)


def test_an_attack_is_looked_at_after_the_ladder_and_at_its_end(no_gpu):
    profile = load("quick")
    assert profile.after(50) == [0, 1, 10, 25, 50]
    assert profile.after(40) == [0, 1, 10, 25, 40]
    assert profile.after(1000) == [0, 1, 10, 25, 50, 100, 200, 500, 1000]
    for steps in range(1, 60):
        found = profile.after(steps)
        assert found == sorted(set(found)) and found[0] == 0 and found[-1] == steps


def test_small_profiles_do_not_import_torch():
    code = "from dori_lite.book import profiles; profiles.load('quick'); profiles.load('standard'); import sys; "
    code += "print(sorted({'torch', 'numpy', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
