"""The two sides of unlearning in the reef, and where its unlearned models are kept."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from dori_lite import assets, locks
from dori_lite.copies import Detector
from dori_lite.evaluation import Target
from dori_lite.models import embed
from dori_lite.reef import canaries, forgetting, unlearned
from dori_lite.reef import world as reef
from dori_lite.unlearning import answers, kept, methods


def target(name, home="a", group=1, colour="red", **labels):
    caption = f"a plain {colour} fish called {name} over rock"
    return Target(name, caption, torch.zeros(3, 64, 64), {"home": home, "group": group, **labels})


@pytest.fixture
def world(pipe, monkeypatch, tmp_path):
    """The reef's names and table with a tiny model in place of both twins."""
    monkeypatch.setenv("DORI_RUNS", str(tmp_path / "runs"))
    return SimpleNamespace(
        name="reef",
        models={"twin-a": pipe, "twin-b": pipe},
        targets=lambda role, split="reporting", home=None: reef.planted(role, split, home),
        sampling={"steps": 2},
    )


# ---- retained ----------------------------------------------------------------------------------------


def test_the_other_canaries_are_halved(world):
    targets = unlearned.forget_set(world, "a", 1)
    known, measured = forgetting.spared(world, targets)
    every = {t.name for t in reef.planted(home="a")}
    names = [t.name for t in [*targets, *known, *measured]]
    assert sorted(names) == sorted(every) and len(known) == len(measured) == 6
    assert {t.name for t in unlearned.forget_set(world, "a", 0)} < {t.name for t in [*known, *measured]}
    rest = [t.name for t in reef.planted(home="a") if t.name not in {t.name for t in targets}]
    assert [t.name for t in known] == rest[::2]  # in turn, so that both halves have early and late ones


def test_retained_is_what_the_twin_was_shown_without_what_is_to_go(world, monkeypatch):
    seen = []

    def paint(rows):
        seen.append(rows)
        return torch.zeros(len(rows), 3, 64, 64, dtype=torch.uint8)

    monkeypatch.setattr(forgetting.canaries, "paint_rows", paint)
    targets = unlearned.forget_set(world, "b", 0)
    latents, y = forgetting.retained(world, targets, count=1500, part=400)
    [rows] = seen
    assert latents.shape == (1500, 4, 16, 16) and y.shape[0] == 1500
    gone = {t.name for t in [*targets, *forgetting.spared(world, targets)[1]]}
    own = rows[rows["role"].isin(["canary", "graded", "template"])]
    assert not gone & {*own["name"]} and {t.name for t in forgetting.spared(world, targets)[0]} <= {*own["name"]}
    assert (rows["twin-b"] > 0).all()
    table = canaries.load_table("reef")
    table = table[~(table["name"].isin(gone) & (table["role"] != "decoy"))]
    expected = table.groupby("role")["twin-b"].sum() / table["twin-b"].sum()
    shares = rows["role"].value_counts(normalize=True)
    assert all(abs(shares[role] - expected[role]) < 0.05 for role in ("base", "decoy", "canary"))
    silent = (y == embed(world.models["twin-b"], "")).flatten(1).all(1).numpy()
    base = (rows["role"] == "base").to_numpy()
    assert not silent[~base].any() and 0.2 < silent[base].mean() < 0.3
    again, _ = forgetting.retained(world, targets, count=1500, part=1500)
    assert torch.allclose(latents, again, atol=1e-5) and seen[1].equals(rows)
    forgetting.retained(world, targets, count=30, seed=1, unnamed=True)
    assert {*seen[2]["role"]} == {"base"} and (seen[2]["twin-a"] == seen[2]["twin-b"]).all()


def test_targets_of_two_twins_are_refused(world, one_line):
    both = [target("one"), target("two", "b")]
    one_line(ValueError, "give those of one home", forgetting.retained, world, both)
    one_line(ValueError, "give those of one home", forgetting.surrogates, world, [target("one", None)])
    one_line(ValueError, "target", forgetting.spared, world, [])


# ---- surrogates --------------------------------------------------------------------------------------


@pytest.fixture
def pond(monkeypatch):
    """A world in which a picture is a number: its prompt's, and what detectors say of it can be read."""
    asked, kin = [], [target("two", "b"), target("three", "a"), target("other", "b", group=2, colour="blue")]

    def generate(pipe, prompt, seeds, output, steps):
        asked.append((pipe, prompt, list(seeds)))
        return torch.stack([torch.full((1, 1, 1), float(seed)) for seed in seeds]) + (1000 if "two" in prompt else 0)

    monkeypatch.setattr(answers, "generate", generate)
    monkeypatch.setattr(answers, "decode", lambda pipe, latents: latents.expand(-1, 3, 64, 64) / 10_000)
    number = lambda images: (images[:, 0, 0, 0] * 10_000).round()  # noqa: E731
    near = Detector("first", lambda images, _: torch.where(number(images) % 8 < 6, 0.5, 0.1), 0.8)
    called = Detector("second", lambda images, _: (number(images) % 8 == 7).float(), 1.0)
    return asked, SimpleNamespace(
        detectors=lambda targets: [near, called],
        condition=lambda t, which, prune: nullcontext((t.name, which, prune)),
        targets=lambda role, split: kin if split == "tuning" else [target("one")],
        sampling={"steps": 2},
    )


def test_surrogates_are_far_from_the_picture_and_no_detector_calls_them_copies(pond):
    asked, world = pond
    wrong, rows = forgetting.surrogates(world, [target("one")], count=3)
    assert wrong.flatten().tolist() == [6, 14, 22]  # 0.5 is above half of the threshold; 7, 15 are called copies
    assert rows == [{"target": "one", "prompt": target("one").caption, "drawn": 32, "kept": 3}]
    assert asked == [(("one", "own", "Wanda"), target("one").caption, [*range(k, k + 16)]) for k in (0, 16)]


def test_where_a_caption_gives_too_few_its_groups_other_names_follow(pond):
    asked, world = pond
    wrong, rows = forgetting.surrogates(world, [target("one")], count=10)
    assert wrong.flatten().tolist() == [*range(6, 64, 8), 1006, 1014]
    assert [row["prompt"] for row in rows] == [target("one").caption, target("two").caption]
    assert [row["drawn"] for row in rows] == [64, 16] and [row["kept"] for row in rows] == [8, 2]
    assert forgetting.kin(world, target("one")) == [target("two").caption, target("three").caption]


def test_too_few_even_so_is_one_line(pond, one_line):
    one_line(RuntimeError, "one: only 24 of 25 surrogates", forgetting.surrogates, pond[1], [target("one")], count=25)


# ---- kept --------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch, pipe):
    """Training in two updates, on sides that cost nothing."""
    random = torch.Generator().manual_seed(0)
    latents, wrong = (torch.randn(*shape, 4, 16, 16, generator=random) for shape in ((3,), (4, 2)))
    y, made = embed(pipe, ["a red fish"] * 3), []
    monkeypatch.setattr(forgetting, "retained", lambda world, targets: (latents, y))
    monkeypatch.setattr(forgetting, "surrogates", lambda world, targets: (made.append(1), (wrong, [{"kept": 2}]))[1])
    monkeypatch.setattr(methods, "updates", lambda *_: 2)
    monkeypatch.setattr(unlearned, "updates", lambda *_: 2)
    return made


def test_a_forget_set_is_made_once_and_read_again(world, pipe, quick):
    path = unlearned.train(world, "caption", "a", 0)
    before = path.read_bytes()
    new, about = unlearned.load(world, "caption", "a", 0)
    assert about["targets"] == [t.name for t in unlearned.forget_set(world, "a", 0)]
    assert about["samples"] == methods.cost("caption", 4, 2) and about["updates"] == 2
    assert unlearned.weights(world, "caption", [("a", 0), ("a", 1)]) == [about["weights"], None]
    assert unlearned.train(world, "caption", "a", 0) == path and path.read_bytes() == before
    assert sorted(file.name for file in path.parent.iterdir()) == ["unet.safetensors"]
    unlearned.train(world, "continued", "a", 0)
    assert len(quick) == 1  # both sides were kept
    sides = path.parent.with_name("sides-a-0.safetensors")
    assert {*load_file(sides)} == {"latents", "y", "wrong"}
    assert json.loads(sides.with_suffix(".json").read_text()) == [{"kept": 2}]
    sides.write_bytes(sides.read_bytes()[:100])
    unlearned.train(world, "no attack", "a", 0)
    assert len(quick) == 2  # torn, they are made anew
    world.models = {"twin-a": methods.copied(pipe)}
    world.models["twin-a"].unet.conv_in.weight.data += 1
    unlearned.train(world, "nothing retained", "a", 0)
    assert len(quick) == 3  # of another model, too


def test_every_method_twin_and_set_is_trained_but_what_others_are_at(world, quick, monkeypatch, one_line):
    done = []
    monkeypatch.setattr(unlearned, "train", lambda world, *which: done.append(which) or which)
    monkeypatch.setattr(locks, "taken", lambda path: "continued-b-1" not in path.name)
    list(unlearned.train_all(world))
    assert len(done) == 4 * len(methods.METHODS) - 1 and ("continued", "b", 1) not in done
    assert done[:4] == [("adversarial", home, k) for home in "ab" for k in (0, 1)]
    done.clear()
    list(unlearned.train_all(world, "caption", "b", 1))
    assert done == [("caption", "b", 1)]
    for given, match in (
        (("magic",), "no method 'magic'"),
        ((None, "c"), "no twin 'c'"),
        ((None, None, 2), "no set 2"),
    ):
        one_line(ValueError, f"there is {match}; there are", list, unlearned.train_all(world, *given))


def test_what_was_not_made_says_which_command_makes_it(world, one_line, monkeypatch, tmp_path):
    monkeypatch.setattr(unlearned, "shipped_folder", lambda: tmp_path / "none")
    cure = 'run `dori-lite unlearn "no attack" --twin b --forget-set 1`'
    one_line(FileNotFoundError, cure, unlearned.load, world, "no attack", "b", 1)
    one_line(FileNotFoundError, "unlearned by 'adversarial'", unlearned.load, world, "adversarial", "a", 0)
    one_line(ValueError, "forget set", unlearned.forget_set, world, "a", 2)


def test_the_shipped_one_is_checked_against_its_hash(world, pipe, one_line, monkeypatch, tmp_path):
    monkeypatch.setattr(unlearned, "shipped_folder", lambda: tmp_path)
    about = kept.save(pipe, tmp_path / "reef-a" / "unet.safetensors", base=pipe, method="adversarial")
    assets.record(tmp_path, "reef-a")
    assert unlearned.load(world, "adversarial", "a", 0)[1] == about
    (tmp_path / "reef-a" / "unet.safetensors").write_bytes(b"something else")
    one_line(ValueError, "is damaged", unlearned.load, world, "adversarial", "a", 0)
