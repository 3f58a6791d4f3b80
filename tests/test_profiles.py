"""Profiles: the table, its errors, and that a small one costs no import of torch."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from dori_lite.lab import profiles
from dori_lite.lab.profiles import PROFILES, load
from dori_lite.reef import plant

ROOT = Path(__file__).parent.parent


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(profiles, "cuda_available", lambda: True)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(profiles, "cuda_available", lambda: False)


def test_the_table(gpu):
    assert list(PROFILES) == ["quick", "standard", "full", "sd14"]
    counts = {name: (load(name).canaries, load(name).generation_seeds) for name in PROFILES}
    assert counts == {"quick": (3, 2), "standard": (8, 4), "full": (16, 10), "sd14": (16, 10)}
    standard = load("standard")
    assert (standard.attack_steps, standard.control_steps) == (50, 200)
    assert (standard.triggers, standard.trigger_pictures, standard.forgotten) == (16, 4, 4)
    assert load("full").triggers == 100 and load("quick").attack_steps <= 50
    assert [load(name).direction_only for name in PROFILES] == [True, False, False, False]
    assert {name: load(name).needs for name in PROFILES} == {
        "quick": (),
        "standard": (),
        "full": ("cuda",),
        "sd14": ("cuda", "hub"),
    }


def test_the_reef_has_enough_canaries_for_every_profile():
    reported = [p for p in plant.planted() if (p.role, p.split, p.home) == ("canary", "reporting", "a")]
    assert all(profile.canaries <= len(reported) for name, profile in PROFILES.items() if name != "sd14")
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
    one_line("no profile called 'fast'; there are: quick, standard, full, sd14", ValueError, "fast")
    known = "canaries, attacked, generation_seeds, steps, attack_steps, control_steps, triggers, "
    known += "trigger_pictures, forgotten"
    one_line(f"profiles have no canary; what can be set: {known}", ValueError, "quick", canary=2)
    for fixed in ("needs", "name", "device"):
        one_line(f"profiles have no {fixed}", ValueError, "quick", **{fixed: "x"})
    for wrong in (0, -1, 2.0, "2", None, True):
        one_line("canaries=.* is not a count", ValueError, "quick", canaries=wrong)


def test_without_a_gpu(no_gpu):
    assert load("quick").device == "cpu" and load("standard").device == "cpu"
    for name in ("full", "sd14"):
        one_line(r"Runtime > Change runtime type > T4 GPU; elsewhere use profile=.quick", RuntimeError, name)
    one_line("no profile", ValueError, "fast")  # a wrong word comes before a missing machine
    one_line("profiles have no", ValueError, "full", canary=2)


def test_with_a_gpu(gpu, monkeypatch):
    assert load("quick").device == "cuda" and load("sd14").name == "sd14"
    for value in ("1", "true", "YES"):
        monkeypatch.setenv("HF_HUB_OFFLINE", value)
        one_line("HF_HUB_OFFLINE forbids it: unset", RuntimeError, "sd14")
        assert load("full").name == "full"
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert load("sd14").name == "sd14"


def test_small_profiles_do_not_import_torch():
    code = "from dori_lite.lab import profiles; profiles.load('quick'); profiles.load('standard'); import sys; "
    code += "print(sorted({'torch', 'numpy', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
