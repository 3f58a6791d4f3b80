"""Judges of attributes, with a stand-in whose sight is planted in the pixels."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from dori_lite import assets
from dori_lite.reef import attributes
from dori_lite.reef.scenes import CHOICES, Description, draw, facts

SCENES = [draw(seed) for seed in range(300)]  # more than one part of `labels_seen`


def test_labels_are_the_places_of_the_facts():
    rows = attributes.labels(SCENES)
    assert rows.shape == (300, 10) and rows.dtype == torch.int64
    for row, scene in zip(rows.tolist(), SCENES, strict=True):
        assert {key: CHOICES[key][k] for key, k in zip(CHOICES, row, strict=True)} == facts(scene)
    for k, choices in enumerate(CHOICES.values()):
        assert set(rows[:, k].tolist()) == set(range(len(choices)))


def plant_in_pixels(rows):
    """Pictures whose first pixels tell the labels."""
    images = torch.zeros(len(rows), 3, 64, 64)
    images[:, 0, 0, : rows.shape[1]] = rows / 10
    return images


def sees_what_is_planted(images):
    """A stand-in for `Judge`: logits by factor, the highest where the pixels say, none of them certain."""
    told = (images[:, 0, 0] * 10).round().long()
    return {
        key: torch.nn.functional.one_hot(told[:, k], len(choices)) * 0.5 - 3.0
        for k, (key, choices) in enumerate(CHOICES.items())
    }


def test_labels_seen_are_the_highest_logits():
    rows = attributes.labels(SCENES)
    images = plant_in_pixels(rows)
    assert torch.equal(attributes.labels_seen(sees_what_is_planted, images), rows)
    assert attributes.seen(sees_what_is_planted, images) == [facts(scene) for scene in SCENES]
    assert torch.equal(attributes.labels_seen(sees_what_is_planted, images[:1]), rows[:1])


def test_pictures_of_another_kind_are_not_judged(one_line):
    images = torch.rand(2, 3, 64, 64)
    judge = attributes.Judge(width=8)
    looks = [
        lambda some: attributes.seen(judge, some),
        lambda some: attributes.labels_seen(judge, some),
        judge.features,
    ]
    for bad, match in (
        ((images * 255).byte(), "images must be floats in .*, not uint8; divide bytes by 255"),
        (images * 255, r"images must be in \[0, 1\]"),
        (images / 0, "images are not all finite"),
        (images[0], r"images have shape \[3, 64, 64\]"),
        (images[..., :32], "pictures of the reef are 64×64, not 64×32; resize them"),
    ):
        for look in looks:
            one_line(ValueError, match, look, bad)


def test_agreement_counts_what_is_named_and_nothing_else():
    sights = [facts(scene) for scene in SCENES[:3]]
    right = Description(**{key: sights[0][key] for key in ("count", "colour", "bed")}, name="marlow")
    half = Description(count=sights[1]["count"], colour=next(c for c in CHOICES["colour"] if c != sights[1]["colour"]))
    silent = Description()
    counts = attributes.agreement(sights, [right, half, silent])
    assert counts.pop("count") == (2, 2) and counts.pop("colour") == (1, 2) and counts.pop("bed") == (1, 1)
    assert set(counts.values()) == {(0, 0)} and len(counts) == 7
    for bubbles in (True, False):  # False is named too
        sight = sights[0] | {"bubbles": bubbles}
        for told in (True, False):
            assert attributes.agreement([sight], [Description(bubbles=told)])["bubbles"] == (int(bubbles == told), 1)
    with pytest.raises(ValueError):
        attributes.agreement(sights, [right, half])


def test_agreement_of_planted_errors():
    """A judge that is wrong about one factor in a known share of pictures."""
    rows = attributes.labels(SCENES)
    truth = [Description(**facts(scene)) for scene in SCENES]
    wrong = rows.clone()
    k = list(CHOICES).index("water")
    wrong[:60, k] = (wrong[:60, k] + 1) % 4
    counts = attributes.agreement(attributes.seen(sees_what_is_planted, plant_in_pixels(wrong)), truth)
    assert counts == {key: (240 if key == "water" else 300, 300) for key in CHOICES}
    assert all(count == (300, 300) for count in attributes.agreement([facts(s) for s in SCENES], truth).values())
    named = [replace(truth[0], name="marlow")]
    assert attributes.agreement([facts(SCENES[0])], named) == dict.fromkeys(CHOICES, (1, 1))


def test_the_training_task():
    torch.manual_seed(0)
    judge, images = attributes.Judge(width=8), torch.rand(5, 3, 64, 64)
    rows = attributes.labels(SCENES[:5])
    found, logits = attributes.Classify(judge)(images, rows), judge(images)
    assert {key: tuple(x.shape) for key, x in logits.items()} == {key: (5, len(c)) for key, c in CHOICES.items()}
    expected = sum(cross_entropy(logits[key], rows[:, k]) for k, key in enumerate(CHOICES))
    assert torch.allclose(found["loss"], expected) and found["loss"].requires_grad
    accuracy = (attributes.labels_seen(judge, images) == rows).float().mean()
    assert torch.allclose(found["accuracy"], accuracy) and not found["accuracy"].requires_grad


def test_saved_and_loaded(tmp_path, monkeypatch, one_line):
    torch.manual_seed(0)
    judge, images = attributes.Judge(width=8), torch.rand(4, 3, 64, 64)
    monkeypatch.setenv("DORI_DATA", str(tmp_path))
    folder = tmp_path / "reef" / "judge"
    attributes.save(judge, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "judge.safetensors"]
    assets.record(tmp_path / "reef", "judge", {})
    for loaded in (attributes.load(folder), attributes.load()):
        assert loaded.width == 8 and not loaded.training and not any(p.requires_grad for p in loaded.parameters())
        before, after = judge.state_dict(), loaded.state_dict()
        assert list(before) == list(after)
        assert all(torch.equal(after[key], before[key].half().float()) for key in before)
        for key, logits in judge(images).items():
            assert torch.allclose(loaded(images)[key], logits, atol=5e-3)
    (folder / "config.json").write_text('{"width": 9}\n')
    one_line(ValueError, "config.json is damaged .*; restore it", attributes.load)


def test_features_for_kid_are_the_body_s_normalised_row_by_row():
    torch.manual_seed(0)
    judge, images = attributes.Judge(width=8), torch.rand(5, 3, 64, 64)
    features = judge.features(images)
    assert features.shape == (5, 256)
    raw = judge.body(images * 2 - 1)
    naive = [(row - row.mean()) / (row.var(unbiased=False) + 1e-5).sqrt() for row in raw]
    assert torch.allclose(features, torch.stack(naive), atol=1e-4)
    assert torch.equal(judge(images)["count"], judge.heads["count"](raw))  # the heads read them as they come
