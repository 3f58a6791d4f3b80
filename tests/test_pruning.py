"""How the localisers are set in the reef: on captions nobody memorized, and on tuning canaries alone."""

from dori_lite.reef import captions, plant, pruning, targets


def test_unmemorized_captions_are_in_no_training_table():
    found = pruning.unmemorized(200)
    assert len(found) == 200 and found == pruning.unmemorized(200)
    named = [text for text in found if captions.read(text).name]
    assert len(named) == 100
    assert {captions.read(text).name for text in named} <= set(plant.UNTRAINED_WORDS)
    assert not set(found) & {item.caption for item in plant.planted()}
    largest = plant.load_table().query("role == 'base'")["seed"].max()
    assert largest < plant.BASE_SEEDS + 600_000 < plant.HELD_OUT_SEEDS  # ordinary ones come after the last trained
    assert len(pruning.unmemorized(3)) == 3
    first = [captions.write(plant.base(600_000 + k)[0]) for k in range(2)]
    assert pruning.unmemorized(4)[:2] == first


def test_nemo_is_set_on_tuning_canaries(monkeypatch):
    seen = {}
    for name in ("statistics", "between_seed_threshold", "same_seed_threshold"):
        monkeypatch.setattr(pruning.nemo, name, lambda pipe, *a, name=name, **k: seen.setdefault(name, (a, k)) and name)
    found = pruning.nemo_settings("pipe", "b", "sixteen", "paper")
    assert found == {
        "statistics": "statistics",
        "tau": "between_seed_threshold",
        "tau_blocked": "same_seed_threshold",
        "variant": "paper",
    }
    tuning = [t.caption for t in targets.planted("canary", "tuning", home="b")]
    reporting = {t.caption for t in targets.planted("canary", "reporting")}
    assert seen["same_seed_threshold"][0][0] == tuning
    asked = {text for args, _ in seen.values() for texts in args for text in texts}
    assert not asked & reporting
    assert seen["statistics"][1] == {"which": "sixteen"} and len(seen["statistics"][0][0]) == pruning.STATISTICS
    assert all(seen[name][1] == {"variant": "paper"} for name in ("between_seed_threshold", "same_seed_threshold"))


def test_the_dose_is_of_the_grid():
    assert pruning.RHO in pruning.GRID and list(pruning.GRID) == sorted(pruning.GRID)
