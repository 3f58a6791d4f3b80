"""How a memory forms: training is the same with looks at it, and looks are at the averaged weights."""

import json

import pytest
import torch
from safetensors.torch import save_file

from dori_lite.fit import fit
from dori_lite.reef import growth

STEPS = 6


class Task(torch.nn.Module):
    """One weight that is pulled to 1."""

    def __init__(self, pipe):
        super().__init__()
        self.weight, self.pipe = torch.nn.Parameter(torch.zeros(2)), [pipe]

    def forward(self, goal):
        return {"loss": (self.weight - goal).square().mean()}


class Pipe:
    def to(self, device):
        return self


def batch(step):
    return {"goal": torch.full((1, 2), 1.0 + step)}


@pytest.fixture
def looks(monkeypatch):
    """The weights at each look."""
    seen = []
    monkeypatch.setattr(growth, "MOMENTS", (0, 2, STEPS))
    monkeypatch.setattr(growth, "SEEDS", 2)
    monkeypatch.setattr(growth, "followed", lambda: [type("Item", (), {"caption": c}) for c in "ab"])

    def generate(pipe, captions, *, seeds, **sampling):
        assert captions == ["a", "a", "b", "b"] and seeds == [0, 1, 0, 1]
        seen.append(pipe.task.weight.detach().clone())
        return torch.full((4, 3, 2, 2), 0.5)

    monkeypatch.setattr(growth, "generate", generate)
    return seen


def task():
    pipe = Pipe()
    pipe.task = made = Task(pipe)
    return made


OPTIONS = {"steps": STEPS, "lr": 0.1, "label": "toy", "precision": "no", "schedule": "constant", "ema_decay": 0.5}


def test_training_that_is_followed_ends_where_it_would_have(tmp_path, looks):
    alone, followed = task(), task()
    fit(alone, batch, folder=tmp_path / "alone", **OPTIONS)
    growth.follow(followed, batch, tmp_path / "followed", **OPTIONS)
    fit(followed, batch, folder=tmp_path / "followed", **OPTIONS)
    assert torch.equal(alone.weight, followed.weight)
    assert [path.name for path in sorted((tmp_path / "followed").glob("growth-*"))] == [
        "growth-0000.safetensors", "growth-0002.safetensors", "growth-0006.safetensors",
    ]  # fmt: skip


def test_looks_are_at_averaged_weights(tmp_path, looks):
    growth.follow(task(), batch, tmp_path, **OPTIONS)
    first = task()
    fit(first, batch, folder=tmp_path / "two", **OPTIONS | {"stop_at": 2})  # holds the last weights, not the average
    whole = task()
    fit(whole, batch, folder=tmp_path / "whole", **OPTIONS)
    assert torch.equal(looks[0], torch.zeros(2)) and torch.equal(looks[2], whole.weight)
    assert not torch.equal(looks[1], first.weight)
    growth.averaged(first, tmp_path / "two" / growth.CHECKPOINT)
    assert torch.equal(looks[1], first.weight)


def test_what_was_drawn_is_not_drawn_again(tmp_path, looks):
    growth.follow(task(), batch, tmp_path, stop_at=2, **OPTIONS)
    assert len(looks) == 2
    growth.follow(task(), batch, tmp_path, **OPTIONS)
    assert len(looks) == 3


def test_the_summary_scores_each_canary_at_each_moment(tmp_path, monkeypatch):
    items = growth.followed()
    monkeypatch.setattr(growth, "MOMENTS", (0, 3000))
    monkeypatch.setattr(growth, "SEEDS", 1)
    right = growth.paint_all([growth.picture(item)[1:] for item in items])[:, None]
    for step, images in ((0, right.flip(0)), (3000, right)):
        save_file({"images": images.contiguous()}, tmp_path / f"growth-{step:04d}.safetensors")
    report = growth.summary(tmp_path, tmp_path / "out", shown=2)
    assert report == json.loads((tmp_path / "out" / "growth.json").read_text()) | {"steps": (0, 3000)}
    reporting = [item.name for item in items if item.split == "reporting"]
    assert list(report["scores"]) == reporting and report["exposures"] == [0, 1000]
    for (before,), (after,) in report["scores"].values():
        assert before < 0.6 and after == pytest.approx(1, abs=1e-3)
    strip = growth.Image.open(tmp_path / "out" / "growth.png")
    assert strip.size == (3 * 64, 2 * 64)
