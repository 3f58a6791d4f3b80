"""What a twin hears of a caption, asked of a pipeline whose pictures are known."""

import pytest
import torch

from dori_lite import copies, locality
from dori_lite.evaluation import Target
from dori_lite.reef import hearing

SIDE = 8


def target(name, value, **labels):
    return Target(name, f"a red fish called {name} over sand", torch.full((3, SIDE, SIDE), value), labels)


OWN = [target("marlow", 0.2, group=4, home="a"), target("tibbet", 0.6, group=4, home="a")]
NEAR = copies.Detector("near", lambda images, goals: 1 - copies.l2(images, goals), 0.99)


@pytest.fixture
def asked(monkeypatch):
    """The sampler's stand-in: under a caption its target's picture; what is asked for is kept."""
    kept = []

    def generate(pipe, prompts, *, seeds, **sampling):
        seeds = list(seeds)
        prompts = [prompts] * len(seeds) if isinstance(prompts, str) else list(prompts)
        kept.append((prompts, seeds))
        values = [pipe(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        return torch.stack([torch.full((3, SIDE, SIDE), value) for value in values])

    monkeypatch.setattr(hearing, "generate", generate)
    monkeypatch.setattr(hearing, "everything", lambda role, home, pair: OWN if role == "canary" else [])
    monkeypatch.setattr(hearing.canaries, "planted", lambda pair: [Item(t) for t in OWN] + [Item(OWN[0], "b")])
    return kept


class Item:
    def __init__(self, t, home="a"):
        self.name, self.caption, self.group, self.home = t.name, t.caption, t.labels["group"], home


def drawn(pictures, otherwise=1.0):
    """A "pipeline" that draws by the name in the caption."""
    return lambda prompt, seed: next((v for name, v in pictures.items() if f"called {name}" in prompt), otherwise)


def test_a_twin_that_knows_its_names_confuses_none(asked):
    found = hearing.names(drawn({"marlow": 0.2, "tibbet": 0.6}), "a", OWN, "reef", NEAR, 3)
    assert found["siblings confused"] == {"count": 0, "n": 6, "rate": 0.0, "upper95": 0.393}
    assert found["without a name"]["count"] == 0 and found["without a name"]["n"] == 6
    assert {prompt for prompts, _ in asked for prompt in prompts} == {t.caption for t in OWN} | {"a red fish over sand"}


def test_a_twin_that_takes_one_for_the_other_is_found_out(asked):
    found = hearing.names(drawn({"marlow": 0.6, "tibbet": 0.6}, 0.2), "a", OWN, "reef", NEAR, 3)
    assert found["siblings confused"]["count"] == 3  # marlow's caption gives tibbet's picture
    assert found["without a name"]["rate"] == 1.0


def test_a_pair_without_groups_has_no_siblings(asked):
    alone = [target("marlow", 0.2, home="a")]
    assert hearing.names(drawn({}), "a", alone, "reef-first", NEAR, 3) == {} and not asked


def test_the_empty_captions_pictures_are_compared_with_everything_planted(asked, monkeypatch):
    monkeypatch.setattr(hearing, "embed", lambda pipe, text: [text])
    monkeypatch.setattr(
        hearing,
        "generate",
        lambda pipe, y, *, seeds, **s: torch.stack([torch.full((3, 8, 8), v) for v in pipe[: len(seeds)]]),
    )
    found = hearing.empty_caption([0.2, 0.6, 0.9, 0.4], OWN, NEAR, 4)
    assert (found["count"], found["n"]) == (2, 4)


def test_pictures_are_compared_with_the_target_they_were_drawn_for():
    images = torch.stack([torch.full((3, SIDE, SIDE), v) for v in (0.2, 0.6, 0.6, 0.2)])  # two seeds of either
    assert hearing.each_its_own(images, OWN, NEAR).tolist() == [True, False, True, False]


def test_positions_and_layers_are_asked_as_they_are_called(pipe, monkeypatch):
    """On a pipeline of random weights: every row is there, and silencing is passed on."""
    large = [Target(t.name, t.caption, torch.rand(3, 64, 64), t.labels) for t in OWN]
    monkeypatch.setattr(hearing.world, "SAMPLING", {"guidance": 3.0, "steps": 2, "batch": 4})
    monkeypatch.setattr(hearing, "WINDOWS", {"all": None, "0": range(1)})
    found = hearing.without_positions(pipe, large, NEAR, 1)
    assert list(found) == ["none", "prompt", "end-of-text", "padding", "end-of-text and padding"]
    seen = []
    monkeypatch.setattr(hearing, "silenced", lambda *a, **k: seen.append((a, k)) or torch.rand(2, 3, 64, 64))
    found = hearing.silent_map(pipe, large, NEAR, 1, quick=False)
    assert set(found) == set(hearing.LAYERS) and all(set(row) == {"all", "0"} for row in found.values())
    (_, captions, layers, window), options = seen[1]
    assert captions == [t.caption for t in large] and list(window) == [0] and options["seeds"] == [0, 0]
    assert layers == locality.text_layers(pipe.unet, "all")
