"""Verification on planted figures: every bar can fail, groups are whole, and the card says what was found."""

import copy
import json
import sys
from types import SimpleNamespace

import pytest
import torch

from dori_lite import assets, cli, copies, files
from dori_lite.evaluation import Target
from dori_lite.reef import attributes, card, hearing, verify

DETECTORS = {"descriptor": 0.8, "adaptive l2": 1.0, "ssim": 0.75}
KINDS = ("parent", "own_a", "other_a", "held_out_a", "own_b", "other_b", "held_out_b")


def counts(rate, n=100):
    return {"count": round(rate * n), "n": n, "rate": rate, "upper95": min(1.0, rate + 0.03)}


def group(rate):
    return {"n": 100, **{name: counts(rate) for name in DETECTORS}, "median_ssim": 0.5}


def report():
    """One that passes every bar, just."""
    return {
        "sampling": {"steps": 25, "guidance": 5.0},
        "autoencoder": {"scenes": 512, "ssim": 0.9, "rms": 0.03},
        "instruments": {
            "threshold": 0.8,
            "rates": {"negatives": {"any": counts(1.0)}},  # scores the threshold was chosen on are no bar
            "test": {
                "positives": {"blur": counts(0.2)},
                "negatives": {"same attributes": counts(0.001), "generated": counts(0.0)},
                "canary_reconstructions": counts(0.99),
                "nearest_of_training_set": counts(0.5),
            },
        },
        "replay": {
            "training_pictures_compared": 24_000,
            "thresholds": DETECTORS,
            **{kind: group(0.9 if kind.startswith("own") else 0.01) for kind in KINDS},
            "canary_reconstructions": group(0.1),
            "disagreement": {"any": 0.125, "counts": {"any": 1}, "pictures": 8},
        },
        "heard": {
            "twin-a": {
                "empty caption": counts(0.01, 200),
                "without positions": {"none": counts(1.0), "padding": counts(0.75)},
                "names": {"siblings confused": counts(0.05), "without a name": counts(1.0)},  # the last is no bar
            },
            "twin-b": {"empty caption": counts(0.0, 200), "without positions": {}, "names": {}},  # without groups
        },
    }


BARS = ["autoencoder SSIM", "false positives, same attributes", "false positives, generated"]
BARS += ["empty caption, twin-a", "empty caption, twin-b", "siblings confused, twin-a"]
BARS += ["canary reconstructions found", *(f"{kind}, {name}" for kind in KINDS for name in DETECTORS)]


def test_a_report_at_its_bars_passes_them_all():
    found = verify.judge_bars(report())
    assert set(found) == set(BARS) and all(passed is True for *_, passed in found.values())
    assert found["own_a, ssim"] == (0.9, 0.9, True) and found["held_out_b, descriptor"] == (0.01, 0.01, True)
    assert found["false positives, generated"] == (0.0, 0.001, True)


def spoiled(bar):
    """The report in which this one figure is short."""
    found = copy.deepcopy(report())
    kind, _, name = bar.partition(", ")
    test = found["instruments"]["test"]
    if bar == "autoencoder SSIM":
        found["autoencoder"]["ssim"] = 0.899
    elif kind == "false positives":
        test["negatives"][name] = counts(0.0011)
    elif kind == "empty caption":
        found["heard"][name][kind] = counts(0.015, 200)
    elif kind == "siblings confused":
        found["heard"][name]["names"][kind] = counts(0.06)
    elif bar.startswith("canary"):
        test["canary_reconstructions"] = counts(0.985)
    else:
        found["replay"][kind][name] = counts(0.899 if kind.startswith("own") else 0.011)
    return found


@pytest.mark.parametrize("bar", BARS)
def test_every_bar_can_fail_and_alone(bar):
    assert [name for name, (*_, passed) in verify.judge_bars(spoiled(bar)).items() if not passed] == [bar]


# ---- replay ----------------------------------------------------------------------------------------------


def target(name, **labels):
    random = torch.Generator().manual_seed(sum(map(ord, name)))
    return Target(name, f"a fish called {name}", torch.rand(3, 16, 16, generator=random), labels)


CANARIES = [target("marlow", home="a"), target("pomona", home="b"), target("tibbet", home="b")]
STRANGERS = [target("test-0"), target("test-1")]


def test_groups_are_whole():
    def names(model):
        return {kind: [t.name for t in some] for kind, some in verify.groups_of(model, CANARIES, STRANGERS).items()}

    strangers = ["test-0", "test-1"]
    assert names("parent") == {"parent": ["marlow", "pomona", "tibbet"]}
    assert names("twin-a") == {"own_a": ["marlow"], "other_a": ["pomona", "tibbet"], "held_out_a": strangers}
    assert names("twin-b") == {"own_b": ["pomona", "tibbet"], "other_b": ["marlow"], "held_out_b": strangers}


@pytest.mark.parametrize("pair", ["reef", "reef-first"])
def test_replay_finds_what_is_planted(monkeypatch, pair):
    """Twin A replays its canary, twin B one of its two; every other picture is somebody else's.

    They are judged as the chapters judge them: at the shipped thresholds, and by SSIM.
    """
    asked, compared = {}, []

    def ask(pipe, targets, *, seeds, **sampling):
        assert sampling == verify.world.SAMPLING == {"guidance": 5.0, "steps": 25, "batch": 32}
        asked.setdefault(pipe, []).append(([t.name for t in targets], list(seeds)))
        replayed = {"A": {"marlow"}, "B": {"pomona"}}.get(pipe, set())
        pictures = [t.image if t.name in replayed else 1 - t.image for t in targets]
        return torch.stack(pictures)[:, None].expand(-1, len(seeds), -1, -1, -1)

    near = copies.Detector("descriptor", lambda images, goals: 1 - copies.l2(images, goals), 0.99)

    def rivals(goals, count, seed, world):
        assert len(goals) == 5 and world == pair
        compared.append((torch.rand(count, 3, 16, 16) * 255).byte())
        return compared[-1]

    monkeypatch.setattr(verify.evaluation, "ask", ask)
    monkeypatch.setattr(verify.world, "planted", lambda count=None, world=None: CANARIES if world == pair else [])
    monkeypatch.setattr(verify.world, "held_out", lambda split, count: STRANGERS)
    monkeypatch.setattr(verify.world, "rivals", rivals)
    monkeypatch.setattr(verify.world.descriptor, "detector", lambda: near)
    monkeypatch.setattr(verify, "reconstructed", lambda pipe, images: images)
    found = verify.replay({"parent": "P", "twin-a": "A", "twin-b": "B"}, True, pair)
    shipped = files.read_json(assets.data_folder() / "reef" / "thresholds.json")["thresholds"]
    assert found["thresholds"] == shipped | {"ssim": copies.SSIM_COPY} and set(shipped) | {"ssim"} == set(DETECTORS)
    assert [found["training_pictures_compared"]] == [len(some) for some in compared]
    sizes = {"parent": 6, "own_a": 2, "other_a": 8, "held_out_a": 8, "own_b": 4, "other_b": 4, "held_out_b": 8}
    rates = {**dict.fromkeys(sizes, 0), "own_a": 1, "own_b": 0.5}
    for kind, n in sizes.items():
        assert found[kind]["n"] == n
        for name in DETECTORS:
            assert found[kind][name]["rate"] == rates[kind], (kind, name)
            assert found[kind][name]["count"] == rates[kind] * n
            assert found[kind][name]["rate"] <= found[kind][name]["upper95"] <= 1
    assert {found["canary_reconstructions"][name]["rate"] for name in DETECTORS} == {1}
    assert found["canary_reconstructions"]["median_ssim"] == 1
    assert found["disagreement"]["any"] == 0 and found["disagreement"]["pictures"] == sum(sizes.values())
    assert asked["P"] == [(["marlow", "pomona", "tibbet"], [0, 1])]
    # Controls take twice the seeds, none twice.
    assert [seeds for _, seeds in asked["A"]] == [[0, 1], [0, 1, 100, 101], [0, 1, 100, 101]]


def test_instruments_leave_the_scores_out(tmp_path, monkeypatch):
    monkeypatch.setenv("DORI_DATA", str(tmp_path))
    (tmp_path / "reef").mkdir()
    (tmp_path / "reef" / "calibration.json").write_text('{"threshold": 0.8, "scores": {"a": [1]}}')
    assets.record(tmp_path / "reef", "calibration.json")
    assert verify.instruments() == {"threshold": 0.8}


# ---- the device ------------------------------------------------------------------------------------------


class Elsewhere(torch.Tensor):
    """Pictures on another device: all that can be done with them is to bring them to the CPU."""

    @classmethod
    def __torch_function__(cls, function, types, arguments=(), options=None):
        assert function is torch.Tensor.cpu, f"{function} was called with pictures on another device"
        with torch._C.DisableTorchFunctionSubclass():
            return function(*arguments).as_subclass(torch.Tensor)


def test_pictures_of_a_model_on_another_device_are_judged_on_the_cpu(pipe, monkeypatch):
    def drawn(pipe, prompts, *rest, seeds, **sampling):
        return torch.rand(len(seeds), 3, 64, 64).as_subclass(Elsewhere)

    own = [Target(name, f"a red fish called {name}", torch.rand(3, 64, 64), {"group": 1, "home": "a"}) for name in "xy"]
    siblings = [SimpleNamespace(name=t.name, caption=t.caption, group=1, home="a") for t in own]
    judge, near = attributes.Judge(), copies.by_ssim()
    for module in (verify, hearing):
        monkeypatch.setattr(module, "generate", drawn)
    monkeypatch.setattr(hearing, "silenced", lambda pipe, prompts, *rest, **options: drawn(pipe, prompts, **options))
    monkeypatch.setattr(hearing, "everything", lambda role, home, pair: own)
    monkeypatch.setattr(hearing.canaries, "planted", lambda pair: siblings)
    monkeypatch.setattr(verify, "reconstructed", lambda pipe, images: images.as_subclass(Elsewhere))
    assert verify.autoencoder(pipe, 2)["ssim"] == 1
    assert verify.judge_accuracy(judge, pipe, 2)["reconstructed"]
    assert verify.captions_followed(pipe, judge, 8)["captions"] == 8
    assert verify.variety(pipe, 1)["captions"] == 1
    assert hearing.empty_caption(pipe, own, near, 4)["n"] == 4
    assert hearing.without_positions(pipe, own, near, 1)["none"]["n"] == 2
    assert hearing.names(pipe, "a", own, "reef", near, 1)["without a name"]["n"] == 2
    assert hearing.silent_map(pipe, own, near, 1, quick=True)["all"] == {"all": 0, "0–2": 0}
    monkeypatch.setattr(verify.world, "planted", lambda **options: own)
    monkeypatch.setattr(verify.world, "held_out", lambda split, count: own)
    monkeypatch.setattr(verify.world, "detectors", lambda *rest, **options: [])
    monkeypatch.setattr(verify.evaluation, "ask", lambda pipe, some, seeds, **s: torch.rand(2, len(seeds), 3, 64, 64))
    monkeypatch.setattr(verify, "groups_of", lambda *rest: {"parent": own})
    assert verify.replay({"parent": pipe}, quick=True)["canary_reconstructions"]["ssim"]["rate"] == 1


@pytest.mark.parametrize(
    ("options", "asked", "used", "named"),
    [
        ({}, "cpu", "cpu", "cpu"),
        ({"device": None}, None, "cuda:0", "GPU 0"),
        ({"device": "cuda:1"}, "cuda:1", "cuda:1", "GPU 1"),
    ],
)
def test_the_models_are_loaded_where_they_are_asked_to_be(tmp_path, monkeypatch, options, asked, used, named):
    loaded, found = [], report()

    def load(name, device):
        loaded.append((name, device))
        return SimpleNamespace(unet=SimpleNamespace(device=torch.device(used)))

    monkeypatch.setattr(verify, "load", load)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    for name in ("autoencoder", "instruments", "replay"):
        monkeypatch.setattr(verify, name, lambda *rest, name=name: found[name])
    for name in ("judge_accuracy", "captions_followed", "variety"):
        monkeypatch.setattr(verify, name, lambda *rest: {})
    monkeypatch.setattr(hearing, "heard", lambda pipes, pair, quick: found["heard"])
    assert verify.main(True, tmp_path / "v.json", "reef-first", **options) is True
    assert loaded == [(f"reef-first/{name}", asked) for name in ("parent", "twin-a", "twin-b")]
    written = files.read_json(tmp_path / "v.json")
    assert (
        written["device"] == named and written["passed"] and written["models"].keys() == {"parent", "twin-a", "twin-b"}
    )


@pytest.mark.parametrize("words", [[], ["--device", "cuda", "--pair", "reef-first"]])
def test_the_command_hands_on_the_device(monkeypatch, words):
    calls = []
    monkeypatch.setattr(verify, "main", lambda **options: calls.append(options) or True)
    monkeypatch.setattr(sys, "argv", ["dori-lite", "verify-models", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    device, pair = words[1::2] or ("cpu", "reef")
    assert not end.value.code and calls == [{"quick": False, "pair": pair, "device": device}]


# ---- the card --------------------------------------------------------------------------------------------


def test_the_card_says_what_was_found(tmp_path, one_line):
    found = spoiled("own_b, ssim")
    found["passed"] = verify.judge_bars(found)
    path = tmp_path / "verify.json"
    one_line(FileNotFoundError, "is missing; run `make verify-models` first", card.write_card, path, tmp_path)
    path.write_text(json.dumps(found))
    models = {"autoencoder": {"steps": 4500, "seconds": 90, "machine": "x86"}}
    (tmp_path / "manifest.json").write_text(json.dumps({"files": {}, "models": models}))
    text = card.write_card(path, tmp_path).read_text(encoding="utf-8")
    lines = text.splitlines()
    assert "| autoencoder | 4500 | 1.5 | x86 |" in lines
    assert (
        "| asked for | pictures | descriptor | at most | adaptive l2 | at most | ssim | at most | median SSIM |"
        in lines
    )
    assert "| own a | 100 | 0.9 | 0.93 | 0.9 | 0.93 | 0.9 | 0.93 | 0.5 |" in lines
    assert sum(line.startswith(tuple(f"| {k.replace('_', ' ')} |" for k in KINDS)) for line in lines) == len(KINDS)
    assert "| canary reconstructions | 100 |" in text and "| disagreement |" not in text
    assert "| own_b, ssim | 0.899 | 0.9 | short |" in lines and "| own_a, ssim | 0.9 | 0.9 | passed |" in lines
    flat = " ".join(text.split())
    assert "(descriptor 0.8, adaptive l2 1.0, ssim 0.75; adaptive ℓ2 against 24000 training pictures" in flat
    assert "disagree on 12.5% of all these pictures" in flat and "{" not in text
    assert "| without padding | twin-a | 100 | 0.75 | 0.78 |" in lines
    assert "| nothing (the empty caption), any planted picture | twin-b | 200 | 0.0 | 0.03 |" in lines
    assert "| empty caption, twin-a | 0.01 | 0.01 | passed |" in lines and "without none" not in text


def test_either_pair_has_a_card_of_its_own():
    found = report()
    found["passed"] = verify.judge_bars(found)
    first, second, other = (card.text_of(found, {}, pair) for pair in ("reef-first", "reef", "atoll"))
    assert '"data/reef-first/twin-a"' in first and '"data/reef/twin-a"' in second
    assert "groups of four" in second and "groups of four" not in first
    assert "`text-encoder`, `parent`, `twin-a`" in second and "`twin-b` (the last" in second
    assert "dori-lite train" not in first  # there is no command that trains the first pair
    assert other == second and "{" not in first + second


def test_the_first_pairs_card_is_written_beside_its_weights_and_tells_its_history(tmp_path, one_line):
    folder, first = tmp_path / "reef-first", "dori-lite verify-models --pair reef-first"
    folder.mkdir()
    models = {name: {"steps": 3, "seconds": 60, "machine": "x86"} for name in ("parent", "twin-a", "twin-b")}
    files.write_json(folder / "manifest.json", {"files": {}, "models": models})
    path = folder / "verify.json"
    one_line(FileNotFoundError, f"is missing; run `{first}` first", card.write_card, path, folder)
    found = report() | {"models": models, "device": "GPU 0"}
    assert "guidance 5.0, on a CPU)" in card.text_of(found | {"passed": {}, "device": "cpu"}, models, "reef-first")
    del found["heard"]["twin-a"]["names"]["siblings confused"]
    found["passed"] = verify.judge_bars(found)
    files.write_json(path, found)
    text = card.write_card(path, folder).read_text(encoding="utf-8")
    flat, lines = " ".join(text.split()), text.splitlines()
    assert '"data/reef-first/twin-a"' in text and "This is the first pair." in text and "{" not in text
    assert f"Printed by `{first}` (DDIM, 25 steps, guidance 5.0, on GPU 0)" in text
    assert "instruments (judge, copy descriptor, thresholds) are the same for both pairs and lie in `data/reef`" in flat
    assert "bars for the empty caption and for siblings were set for the second pair, after this one was made" in flat
    assert "| own a | 100 | 0.9 | 0.93 | 0.9 | 0.93 | 0.9 | 0.93 | 0.5 |" in lines
    assert "| empty caption, twin-a | 0.01 | 0.01 | passed |" in lines and "siblings confused" not in text
    assert assets.manifest(folder)["files"] == {"README.md": files.sha256(folder / "README.md")}
    files.write_json(path, found | {"models": {"twin-a": {}}})
    one_line(ValueError, f"of other models .*; run `{first}` again", card.write_card, path, folder)


def test_a_report_of_other_models_makes_no_card(tmp_path, one_line):
    """It names the models that were measured; instruments beside them may be others, or none."""
    models = {name: {"steps": 3, "seconds": 60, "machine": "x86"} for name in ("descriptor", "twin-a", "twin-b")}
    found = report() | {"models": {name: models[name] for name in ("twin-a", "twin-b")}}
    found["passed"], folder = verify.judge_bars(found), tmp_path / "reef"
    folder.mkdir()
    for path, content in ((folder / "manifest.json", {"files": {}, "models": models}), (tmp_path / "v.json", found)):
        path.write_text(json.dumps(content))
    assert "| descriptor | 3 | 1.0 | x86 |" in card.write_card(tmp_path / "v.json", folder).read_text(encoding="utf-8")
    before = (folder / "README.md").read_bytes()
    for strange in ({"twin-a": models["twin-a"] | {"steps": 4}}, {"twin-c": models["twin-a"]}):
        (tmp_path / "v.json").write_text(json.dumps(found | {"models": found["models"] | strange}))
        one_line(ValueError, "v.json is of other models than those in", card.write_card, tmp_path / "v.json", folder)
    assert (folder / "README.md").read_bytes() == before
