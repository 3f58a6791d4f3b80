"""Both detectors' thresholds by one rule: which pictures are compared, and where the rule cuts."""

from contextlib import contextmanager

import pytest
import torch

from dori_lite import assets, copies
from dori_lite.evaluation import Target
from dori_lite.files import read_json
from dori_lite.reef import thresholds

TARGETS = [Target("marlow", "a fish", torch.full((3, 8, 8), 0.2), {"home": "a"})]
TARGETS += [Target("tibbet", "a rock", torch.full((3, 8, 8), 0.7), {"home": "b"})]


def test_the_rule_is_the_lowest_threshold_that_no_kind_of_negative_passes_too_often(one_line):
    low, high = torch.linspace(0, 0.5, 2000), torch.cat([torch.zeros(1999), torch.tensor([2.0])])
    assert thresholds.lowest({"low": low}) == 0.5  # at most 2 of 2000 are above
    assert thresholds.lowest({"high": high}) == 0.01  # one of 2000 is 0.05 %
    assert thresholds.lowest({"low": low, "twice": low * 2.4}) == 1.2
    one_line(ValueError, "no threshold up to 5.0 tells", thresholds.lowest, {"all": torch.full((10,), 9.0)})
    for bad in ({}, {"none": torch.zeros(0)}, {"nan": torch.tensor([float("nan")])}):
        one_line(ValueError, "one or more finite scores", thresholds.lowest, bad)


@pytest.fixture
def drawn(monkeypatch):
    """Stand-ins: which mask was found where, and under which mask what was asked."""
    found, asked, now = [], [], []

    def localise(pipe, caption, rho, **options):
        assert rho == thresholds.localisers.RHO and options == thresholds.world.SAMPLING
        found.append((pipe, caption))
        return f"mask of {caption} in {pipe}"

    @contextmanager
    def pruned(pipe, mask, *, transfer):
        assert transfer
        now.append(mask)
        yield pipe
        now.pop()

    def generate(pipe, caption, *, seeds, **options):
        asked.append((pipe, caption, now[-1], list(seeds)))
        return torch.zeros(len(list(seeds)), 3, 8, 8)

    monkeypatch.setattr(thresholds.wanda, "localise", localise)
    monkeypatch.setattr(thresholds, "pruned", pruned)
    monkeypatch.setattr(thresholds, "generate", generate)
    return asked


def test_pruned_pictures_are_of_the_twin_that_never_saw_the_target(drawn):
    pairs = thresholds.pruned_pairs({"twin-a": "A", "twin-b": "B"}, TARGETS, 3)
    assert drawn == [
        ("B", "a fish", "mask of a fish in B", [0, 1, 2]),
        ("B", "a fish", "mask of a fish in A", [0, 1, 2]),
        ("A", "a rock", "mask of a rock in A", [0, 1, 2]),
        ("A", "a rock", "mask of a rock in B", [0, 1, 2]),
    ]
    for images, goals in pairs.values():
        assert images.shape == goals.shape == (6, 3, 8, 8)
        assert goals[:, 0, 0, 0].tolist() == pytest.approx([0.2] * 3 + [0.7] * 3)


def test_every_kind_is_scored_by_the_detector():
    near = copies.Detector("near", lambda images, goals: 1 - copies.l2(images, goals), 0.0)
    images = torch.rand(4, 3, 8, 8)
    found = thresholds.scored(
        near, {"positives": {"same": (images, images)}, "negatives": {"other": (images, 1 - images)}}
    )
    assert found["positives"]["same"].tolist() == [1.0] * 4 and (found["negatives"]["other"] < 1).all()
    same = copies.Detector("same", lambda images, goals: torch.full((4,), float("inf")), 0.0)
    assert thresholds.scored(same, {"p": {"k": (images, images)}})["p"]["k"].tolist() == [1e4] * 4


def test_the_shipped_thresholds_follow_from_the_shipped_scores():
    found = read_json(assets.verified(assets.data_folder() / "reef", "thresholds.json"))
    assert set(found["thresholds"]) == {"descriptor", "adaptive l2"}
    for name, sides in found["scores"].items():
        scores = {side: {k: torch.tensor(v) for k, v in kinds.items()} for side, kinds in sides.items()}
        assert thresholds.lowest(scores["negatives"]) == found["thresholds"][name]
        assert thresholds.rates(scores, found["thresholds"][name]) == found["rates"][name]
        assert {len(v) for k, v in scores["negatives"].items() if "pruned" in k or "mask" in k} == {512}
