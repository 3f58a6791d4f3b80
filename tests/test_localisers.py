"""How the localisers are set in the reef: on captions nobody memorized, on tuning canaries alone. Masks are kept."""

import copy
import re
from types import SimpleNamespace

import pytest
import torch

from dori_lite import nemo, stamps, wanda
from dori_lite.detection import noise_differences, similarity
from dori_lite.masks import WeightMask
from dori_lite.models import PAIRS, embed, encode, fingerprint, value_layers
from dori_lite.reef import canaries, captions, localisers, world
from dori_lite.reef.scenes import Description

CAPTION, SAMPLING = "a red fish called marlow over sand", {"guidance": 5.0, "steps": 10, "batch": 32}


def test_unmemorized_captions_are_in_no_training_table():
    found = localisers.unmemorized(200)
    assert len(found) == 200 and found == localisers.unmemorized(200)
    named = [text for text in found if captions.read(text).name]
    assert len(named) == 100
    assert {captions.read(text).name for text in named} <= set(canaries.UNTRAINED_WORDS)
    last = canaries.BASE_SEEDS + 600_000 + localisers.STATISTICS + localisers.COMPARED
    assert last < canaries.HELD_OUT_SEEDS  # where the named ones begin
    own = {*range(canaries.BASE_SEEDS + 600_000, last)} | {
        canaries.held_out("descriptor", k)[2] for k in range(localisers.STATISTICS // 2)
    }
    for pair in PAIRS:
        assert not set(found) & {item.caption for item in canaries.planted(pair)}
        assert not own & set(canaries.load_table(pair)["seed"].tolist())  # scenes of their own
    assert len(localisers.unmemorized(3)) == 3
    first = [captions.write(canaries.base(600_000 + k)[0]) for k in range(2)]
    assert localisers.unmemorized(4)[:2] == first


@pytest.fixture(autouse=True)
def nothing_found_yet(monkeypatch):
    monkeypatch.setattr(localisers, "FOUND", {})


def zeros(names, model=None):
    """Statistics of these layers, one neuron each."""
    return nemo.Statistics({k: torch.zeros(1) for k in names}, {k: torch.ones(1) for k in names}, model)


@pytest.fixture
def instruments(pipe, monkeypatch):
    """Stand-ins for what sets NeMo; what each was asked is returned, {name: [(pipe, args, options)]}."""
    seen = {"statistics": [], "thresholds": []}
    values = {"statistics": zeros(nemo.layers(pipe.unet, "sixteen"), "model"), "thresholds": ("tau", "tau_blocked")}
    for name, value in values.items():

        def stand_in(pipe, *args, name=name, value=value, **options):
            seen[name].append((pipe, args, options))
            return value

        monkeypatch.setattr(localisers.nemo, name, stand_in)
    return seen


def test_nemo_is_set_on_tuning_canaries(pipe, instruments):
    found = localisers.nemo_settings(pipe, "b", "sixteen", "paper")
    known = found.pop("statistics")
    assert found == {"tau": "tau", "tau_blocked": "tau_blocked", "variant": "paper", "steps": 25}
    assert known.mean.keys() == known.std.keys() == nemo.layers(pipe.unet, "sixteen").keys() and known.model == "model"
    assert all(len(calls) == 1 and calls[0][0] is pipe for calls in instruments.values())
    seen = {name: call for name, (call,) in instruments.items()}
    tuning = [t.caption for t in world.planted("canary", "tuning", home="b")]
    reporting = {t.caption for t in world.planted("canary", "reporting")}
    compared, memorized = seen["thresholds"][1]
    assert memorized == tuning and len(tuning) == 4
    assert compared == localisers.unmemorized(localisers.COMPARED)
    asked = {text for _, args, _ in seen.values() for texts in args for text in texts}
    assert not asked & reporting
    assert seen["statistics"][2] == {"which": "sixteen"} and len(seen["statistics"][1][0]) == localisers.STATISTICS
    assert seen["thresholds"][2] == {"variant": "paper", "steps": localisers.STEPS}


def test_nemo_is_set_once_for_a_model_a_home_a_variant_and_a_world(pipe, instruments):
    for _ in range(2):
        for which in ("seven", "sixteen"):
            found = localisers.nemo_settings(pipe, "a", which)
            assert found["variant"] == "code" and found["steps"] == 25
            names = nemo.layers(pipe.unet, which).keys()
            assert found["statistics"].mean.keys() == found["statistics"].std.keys() == names
            found["tau"] = found["statistics"] = None  # what is done to the answer does not reach the next one
    assert [len(calls) for calls in instruments.values()] == [1, 1]
    assert localisers.nemo_settings(pipe, "a")["statistics"].mean.keys() == value_layers(pipe.unet).keys()
    localisers.nemo_settings(pipe, "b")
    localisers.nemo_settings(pipe, "a", variant="paper")
    assert [len(calls) for calls in instruments.values()] == [3, 3]
    other = copy.deepcopy(pipe)
    localisers.nemo_settings(other, "a")  # the same weights
    assert [len(calls) for calls in instruments.values()] == [3, 3]
    with torch.no_grad():
        other.unet.conv_in.weight[0, 0] = 0
    localisers.nemo_settings(other, "a")
    assert [len(calls) for calls in instruments.values()] == [4, 4]
    for _ in range(2):
        localisers.nemo_settings(other, "a", world="reef-first")  # other tuning canaries
    assert [len(calls) for calls in instruments.values()] == [5, 5]


def test_settings_are_what_nemo_takes(pipe, monkeypatch):
    """From end to end on a model of random weights: thresholds under the sampler's steps, statistics of both kinds."""
    monkeypatch.setattr(localisers, "STATISTICS", 8)
    monkeypatch.setattr(localisers, "COMPARED", 2)
    items = [item for item in canaries.planted() if (item.split, item.home) == ("tuning", "a")][:2]
    monkeypatch.setattr(canaries, "planted", {"reef": items}.__getitem__)
    known = localisers.nemo_settings(pipe, "a")
    compared, tuning = localisers.unmemorized(2), [item.caption for item in items]
    assert (known["tau"], known["tau_blocked"]) == nemo.thresholds(pipe, compared, tuning, steps=25)
    assert known["statistics"].mean.keys() == value_layers(pipe.unet).keys() and known["variant"] == "code"
    assert isinstance(nemo.localise(pipe, CAPTION, seeds=range(2), **known), nemo.Localised)


def test_nemo_is_set_for_twins_alone(one_line):
    for home in ("parent", "twin-a", "t", "", None):
        one_line(ValueError, f"tuning canaries of a twin, 'a' or 'b'; {home!r} has none",
                 localisers.nemo_settings, "pipe", home)  # fmt: skip


def test_the_dose_is_of_the_grid():
    assert localisers.RHO in localisers.GRID and list(localisers.GRID) == sorted(localisers.GRID)


# ---- masks that are kept ---------------------------------------------------------------------------------


@pytest.fixture
def searches(pipe, tmp_path, monkeypatch):
    """Two twins of random weights; stand-ins count what is searched, and give masks that tell their number."""
    monkeypatch.setenv("DORI_RUNS", str(tmp_path))
    models = {"twin-a": copy.deepcopy(pipe), "twin-b": copy.deepcopy(pipe)}
    with torch.no_grad():
        models["twin-b"].unet.conv_in.weight += 0.1
    count = SimpleNamespace(
        models=models, folder=tmp_path / "reef" / "masks", wanda=[], nemo=[], loss=[], base=[], settings=[]
    )

    def numbered(pipe, calls, **about):
        where = torch.zeros(4, 4, dtype=torch.bool)
        where.view(-1)[: len(calls)] = True
        return WeightMask({"layer": where}, fingerprint(pipe), about)

    def by_wanda(pipe, caption, rho, *, base, **options):
        count.wanda.append((pipe, caption, rho, base, options))
        return numbered(pipe, count.wanda, rho=rho)

    def by_nemo(pipe, caption, **known):
        count.nemo.append((pipe, caption, known))
        return SimpleNamespace(mask=lambda unet: numbered(pipe, count.nemo, memorized=True))

    def norms(pipe, caption, **options):
        count.base.append((pipe, caption, options))
        return f"norms {len(count.base)}"

    def settings(pipe, home, which, world):
        assert world == "reef"
        count.settings.append((pipe, home, which))
        return {"statistics": zeros(nemo.layers(pipe.unet, which), "model"), "tau": 0.4}

    def by_loss(pipe, caption, world, target=None, **options):
        count.loss.append((pipe, caption, world, *([target, options] if target else [])))
        return numbered(pipe, count.loss)

    monkeypatch.setattr(localisers, "by_loss", by_loss)
    monkeypatch.setattr(localisers.wanda, "localise", by_wanda)
    monkeypatch.setattr(localisers.wanda, "activation_norms", norms)
    monkeypatch.setattr(localisers.nemo, "localise", by_nemo)
    monkeypatch.setattr(localisers, "nemo_settings", settings)
    return count


def calls_of(searches, method):
    """What the stand-in of a method was asked."""
    return {"Wanda": searches.wanda, "neurons by loss": searches.loss}.get(method, searches.nemo)


def test_wanda_is_asked_with_the_reefs_dose_and_sampling(searches):
    find = localisers.localiser(searches.models, SAMPLING)
    pipe = searches.models["twin-a"]
    mask = find("twin-a", "Wanda", CAPTION)
    assert searches.wanda == [(pipe, CAPTION, 0.2, "norms 1", SAMPLING)] and searches.base == [(pipe, "", SAMPLING)]
    assert mask.model == fingerprint(pipe) and mask.about == {"rho": 0.2} and mask.count == 1
    find("twin-a", "Wanda", "another caption")
    assert len(searches.wanda) == 2 and len(searches.base) == 1  # the empty caption's norms are taken once


@pytest.mark.parametrize("method, which, size", [("NeMo", "seven", 7), ("NeMo, sixteen layers", "sixteen", 16)])
def test_nemo_is_asked_with_its_layers(searches, method, which, size):
    find = localisers.localiser(searches.models, SAMPLING)
    for caption in (CAPTION, "another caption"):
        find("twin-b", method, caption)
    assert searches.settings == [(searches.models["twin-b"], "b", which)] * 2  # which itself looks once
    for pipe, _, known in searches.nemo:
        assert pipe is searches.models["twin-b"] and known["tau"] == 0.4
        assert len(known["statistics"].mean) == len(known["statistics"].std) == size
        assert known["statistics"].model == "model"
    assert [caption for _, caption, _ in searches.nemo] == [CAPTION, "another caption"]


def test_neurons_by_loss_are_asked_of_the_world(searches):
    for number, name in enumerate(("reef", "reef-first"), 1):
        find = localisers.localiser(searches.models, SAMPLING, name)
        mask = find("twin-b", "neurons by loss", CAPTION)
        assert searches.loss[-1] == (searches.models["twin-b"], CAPTION, name) and mask.count == number
        assert find("twin-b", "neurons by loss", CAPTION) == mask and len(searches.loss) == number
        kept = list((searches.folder.parents[1] / name / "masks").iterdir())
        assert [path.name.split("+")[0] for path in kept] == ["neurons_by_loss"]


@pytest.mark.parametrize("method", localisers.METHODS)
def test_a_mask_is_found_once_and_read_by_another_localiser(searches, method):
    calls, set_anew = calls_of(searches, method), method != "neurons by loss"  # which needs no settings
    first = localisers.localiser(searches.models, SAMPLING)
    mask = first("twin-a", method, CAPTION)
    (path,) = searches.folder.iterdir()
    assert path.suffix == ".safetensors" and WeightMask.load(path) == mask
    again = first("twin-a", method, CAPTION)
    read = localisers.localiser(searches.models, SAMPLING)("twin-a", method, CAPTION)
    assert len(calls) == 1 and len(searches.base) + len(searches.settings) == set_anew  # nothing was set to read it
    for other in (again, read):
        assert other == mask and other.count == 1 and other.model == mask.model and other.about == mask.about
    assert list(searches.folder.iterdir()) == [path]
    path.unlink()  # thrown away, it is found again
    assert localisers.localiser(searches.models, SAMPLING)("twin-a", method, CAPTION).count == 2 == len(calls)


def test_nemo_needs_a_twin(pipe, tmp_path, monkeypatch, one_line):
    monkeypatch.setenv("DORI_RUNS", str(tmp_path))
    find = localisers.localiser({"parent": pipe}, SAMPLING)
    one_line(ValueError, "tuning canaries of a twin, 'a' or 'b'; 'parent' has none", find, "parent", "NeMo", "x")
    assert list(tmp_path.iterdir()) == []


def test_no_two_masks_share_a_place(searches):
    find = localisers.localiser(searches.models, SAMPLING)
    kinds = [(model, method, caption) for model in searches.models for method in localisers.METHODS
             for caption in (CAPTION, CAPTION.replace("marlow", "pomona"))]  # fmt: skip
    found = {kind: find(*kind) for kind in kinds}
    asked = [len(calls) for calls in (searches.wanda, searches.nemo, searches.loss)]
    assert asked == [4, 8, 4] and len(list(searches.folder.iterdir())) == len(kinds) == 16
    for kind, mask in found.items():
        assert find(*kind) == mask and mask.model == fingerprint(searches.models[kind[0]])
    assert [len(calls) for calls in (searches.wanda, searches.nemo, searches.loss)] == asked


def test_embeddings_targets_and_options_have_places_of_their_own(searches):
    """An embedding's place is its numbers', not the object's."""
    find, target = localisers.localiser(searches.models, SAMPLING), world.planted("canary")[0]
    y = embed(searches.models["twin-a"], CAPTION)
    asked = [(CAPTION,), (y,), (y + 1e-3,), (y, target)]
    found = [find("twin-a", "neurons by loss", *each, **options) for each in asked for options in ({}, {"seed": 1})]
    assert [mask.count for mask in found] == [*range(1, 9)] and len(list(searches.folder.iterdir())) == 8
    assert searches.loss[-1][1] is y and searches.loss[-1][3:] == (target, {"seed": 1})
    assert find("twin-a", "neurons by loss", y.clone(), target, seed=1).count == 8 == len(searches.loss)


def test_options_go_to_their_method(searches):
    find = localisers.localiser(searches.models, SAMPLING)
    for seed in (0, 1, 1):  # Wanda's comparison with the empty caption is in the same noise
        find("twin-a", "Wanda", f"{CAPTION} {len(searches.wanda)}", seed=seed)
    assert [options["seed"] for *_, options in searches.base] == [0, 1]
    asked = [(base, options["seed"]) for *_, base, options in searches.wanda]
    assert asked == [("norms 1", 0), ("norms 2", 1), ("norms 2", 1)]
    find("twin-a", "NeMo", CAPTION, seeds=range(10, 20), order="ascending")
    known = searches.nemo[-1][2]
    assert known["seeds"] == range(10, 20) and known["order"] == "ascending" and known["tau"] == 0.4


@pytest.mark.parametrize("method", localisers.METHODS)
def test_other_weights_are_searched_anew(searches, method):
    """Also by the localiser that knows the mask already, with norms and settings of the weights as they are."""
    calls = calls_of(searches, method)
    find, pipe = localisers.localiser(searches.models, SAMPLING), searches.models["twin-a"]
    mask, weight = find("twin-a", method, CAPTION), next(iter(value_layers(pipe.unet).values())).weight
    kept = weight[0, 0].item()
    with torch.no_grad():
        weight[0, 0] = 0
    for one in (find, localisers.localiser(searches.models, SAMPLING)):
        changed = one("twin-a", method, CAPTION)
        assert len(calls) == 2 and changed.model == fingerprint(pipe) != mask.model and changed.count == 2
    assert len(searches.base) + len(searches.settings) == (0 if method == "neurons by loss" else 2)
    with torch.no_grad():
        weight[0, 0] = kept
    assert find("twin-a", method, CAPTION) == mask and len(calls) == 2  # it is the old model again


def test_other_code_or_settings_are_searched_anew(searches, monkeypatch):
    localisers.localiser(searches.models, SAMPLING)("twin-a", "Wanda", CAPTION)
    monkeypatch.setattr(stamps, "code_of_rows", lambda: "edited since")
    for _ in range(2):
        localisers.localiser(searches.models, SAMPLING)("twin-a", "Wanda", CAPTION)
        assert len(searches.wanda) == 2
    other = SAMPLING | {"steps": 50}
    for _ in range(2):
        localisers.localiser(searches.models, other)("twin-a", "Wanda", CAPTION)
        assert len(searches.wanda) == 3 and searches.wanda[-1][-1] == other


def test_an_unknown_method_is_one_line(searches, one_line):
    find = localisers.localiser(searches.models, SAMPLING)
    for wrong in ("wanda", "NeMo, seven layers", "", None):
        match = f"no method {wrong!r}; there are: Wanda, NeMo, NeMo, sixteen layers, neurons by loss$"
        one_line(ValueError, match, find, "twin-a", wrong, CAPTION)
    assert not searches.folder.exists()


def test_an_unknown_model_and_counts_are_one_line(searches, one_line):
    find = localisers.localiser(searches.models, SAMPLING)
    for wrong in ("parent", "", None):
        one_line(
            ValueError, f"no model {wrong!r} was loaded; there are: twin-a, twin-b$", find, wrong, "Wanda", CAPTION
        )
    for count in (0, -1, "3", 2.0):
        one_line(ValueError, "count=.* is not a count", localisers.unmemorized, count)


def test_an_interrupted_search_leaves_no_mask(searches, monkeypatch):
    find = localisers.localiser(searches.models, SAMPLING)
    with monkeypatch.context() as patch:
        patch.setattr("dori_lite.masks.save_file", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            find("twin-a", "Wanda", CAPTION)
    assert list(searches.folder.iterdir()) == []
    assert find("twin-a", "Wanda", CAPTION).count == 2 == len(searches.wanda)


def test_a_real_search_comes_back_from_disk_as_it_was(pipe, tmp_path, monkeypatch):
    """Without stand-ins: Wanda's mask is the one that `wanda.localise` finds, in memory and from its file."""
    monkeypatch.setenv("DORI_RUNS", str(tmp_path))
    caption = captions.write(Description(colour="red", bed="sand"))
    expected = wanda.localise(pipe, caption, localisers.RHO, **SAMPLING)
    assert 0 < expected.density < 1
    for _ in range(2):
        mask = localisers.localiser({"twin-a": pipe}, SAMPLING)("twin-a", "Wanda", caption)
        assert mask == expected and mask.model == expected.model == fingerprint(pipe)
        assert mask.layers.keys() == expected.layers.keys() and mask.about == expected.about == {"rho": 0.2}


# ---- neurons by the loss of the planted picture -----------------------------------------------------------


@pytest.fixture
def ranked(monkeypatch):
    """A stand-in for the ranking, with scores drawn once; what it was asked is returned."""
    asked, random = [], torch.Generator().manual_seed(0)

    def loss_rises(pipe, x_0, prompt, **options):
        asked.append((pipe, x_0, prompt, options))
        layers = nemo.layers(pipe.unet, "sixteen")
        return {name: torch.rand(layer.out_features, generator=random) for name, layer in layers.items()}

    monkeypatch.setattr(localisers.neurons, "loss_rises", loss_rises)
    return asked


def test_the_neurons_are_ranked_by_the_planted_picture(pipe, ranked):
    """Of either twin, and of a grade: its latent, its caption, its own draws; all else as `loss_rises` has it."""
    for pair in PAIRS:
        roles = [("canary", "reporting", "a"), ("canary", "tuning", "b"), ("graded", "reporting", "b")]
        for role, split, home in roles:
            target = world.planted(role, split, home, world=pair)[-1]
            localisers.by_loss(pipe, target.caption, pair)
            (model, x_0, prompt, options), _ = ranked[-1], ranked.clear()
            assert model is pipe and prompt == target.caption and options == {"stream": target.name, "seed": 0}
            assert torch.equal(x_0, encode(pipe, target.image[None]))


def test_neurons_are_ranked_under_an_embedding_by_the_picture_that_it_brings(pipe, ranked, one_line):
    target, y = world.planted("canary")[1], embed(pipe, CAPTION)
    localisers.by_loss(pipe, y, target=target, seed=3)
    [(model, x_0, prompt, options)] = ranked
    assert model is pipe and prompt is y and options == {"stream": target.name, "seed": 3}
    assert torch.equal(x_0, encode(pipe, target.image[None]))
    match = "ranked by the loss of a planted picture; 'an embedding' was planted with none"
    one_line(ValueError, match, localisers.by_loss, pipe, y)
    one_line(ValueError, "targets are a list of evaluation.Target; got a str", localisers.by_loss, pipe, y, target="x")
    assert len(ranked) == 1


def test_the_mask_is_whole_rows_of_the_highest(pipe, ranked):
    caption = world.planted("canary")[0].caption
    mask = localisers.by_loss(pipe, caption)
    assert mask.model == fingerprint(pipe) and mask.layers.keys() == nemo.layers(pipe.unet, "sixteen").keys()
    rows = torch.cat([where.all(1) for where in mask.layers.values()])
    assert rows.sum() == localisers.NEURONS == 192 < len(rows) == 256
    assert torch.equal(rows, torch.cat([where.any(1) for where in mask.layers.values()]))
    random = torch.Generator().manual_seed(0)
    scores = torch.cat([torch.rand(16, generator=random) for _ in range(16)])
    assert torch.equal(rows, scores >= scores.sort(descending=True).values[191])
    assert localisers.by_loss(pipe, caption, count=5).count == 5 * 16


def test_a_caption_that_came_with_no_one_picture_is_one_line(pipe, ranked, one_line):
    templates = [item.caption for pair in PAIRS for item in canaries.planted(pair) if item.role == "template"]
    held = captions.write(canaries.held_out("test", 0)[0])
    for caption in (*templates, held, CAPTION, "", None):
        match = re.escape(f"ranked by the loss of a planted picture; {caption!r:.60} was planted with none")
        for pair in PAIRS:
            one_line(ValueError, match, localisers.by_loss, pipe, caption, pair)
    of_another_pair = world.planted("canary", world="reef-first")[0].caption
    one_line(ValueError, "was planted with none", localisers.by_loss, pipe, of_another_pair, "reef")
    assert templates and not ranked


def test_the_evidence_is_the_similarities_that_the_threshold_is_about(pipe, monkeypatch):
    asked = []

    def settings(pipe, home, world):
        asked.append((home, world))
        return {"tau": 0.1, "tau_blocked": 0.2}

    monkeypatch.setattr(localisers, "nemo_settings", settings)
    targets = [SimpleNamespace(name="x", caption=CAPTION), SimpleNamespace(name="y", caption="a blue fish")]
    rows = localisers.evidence(pipe, "a", targets, others=2)
    localisers.evidence(pipe, "b", targets[:0], others=1, world="another")
    assert asked == [("a", "reef"), ("b", "another")]  # whose tuning canaries set the thresholds
    assert [row["target"] for row in rows] == ["x", "y"] and (rows[0]["τ"], rows[0]["τ blocked"]) == (0.1, 0.2)

    def delta(prompts):
        return noise_differences(pipe, prompts, range(10), steps=localisers.STEPS)

    own, near = delta(CAPTION)[0], delta(localisers.unmemorized(2))
    highest = [similarity(own, other).max().item() for other in (*near, delta(embed(pipe, ""))[0])]
    assert rows[0]["unrelated"] == pytest.approx(sum(highest[:2]) / 2, abs=1e-5)
    assert rows[0]["empty"] == pytest.approx(highest[2], abs=1e-5)
    blocked = copy.deepcopy(pipe)
    for layer in value_layers(blocked.unet).values():
        layer.weight.zero_()
    alone = noise_differences(blocked, CAPTION, range(10), steps=localisers.STEPS)[0]
    assert rows[0]["all seven blocked"] == pytest.approx(similarity(own, alone).max().item(), abs=1e-5)


def test_the_settings_of_both_twins_take_few_samples(pipe, monkeypatch):
    """At most 1,400 U-Net samples, for seven and for sixteen layers (5,280 when each asked for itself)."""
    spent = []

    def differences(pipe, prompts, seeds, *_, **__):
        spent.append(len(prompts) * len(seeds))
        return torch.rand(len(prompts), len(seeds), 4, 16, 16)

    monkeypatch.setattr(nemo, "noise_differences", differences)
    monkeypatch.setattr(localisers, "STATISTICS", 2)
    monkeypatch.setattr(localisers, "FOUND", {})
    for which in ("seven", "sixteen", "seven"):
        for home in "ab":
            localisers.nemo_settings(pipe, home, which)
    assert sum(spent) == 1360 <= 1400
