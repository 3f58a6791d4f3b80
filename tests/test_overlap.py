"""Agreement of sets of weights: cases whose answers are known, and sets drawn at random."""

import math

import pytest
import torch

from dori_lite import masks, overlap
from dori_lite.masks import WeightMask


def mask(model=None, **rows):
    return WeightMask({name: torch.tensor([row], dtype=torch.bool) for name, row in rows.items()}, model)


HALF, OTHER, NONE = [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]


def test_identical_sets_agree_wholly_and_disjoint_ones_not_at_all():
    one = mask(a=HALF, b=[1, 0, 0, 0])
    assert overlap.iou(one, one) == {"a": 1, "b": 1}
    assert overlap.iou(one, mask(a=OTHER, b=[0, 1, 1, 1])) == {"a": 0, "b": 0}
    assert overlap.iou(one, mask(a=[0, 1, 1, 0], b=[1, 1, 0, 0])) == {"a": pytest.approx(1 / 3), "b": 1 / 2}
    found = overlap.agreement(one, one)
    assert found["iou"] == 1 and found["excess"] == pytest.approx(1 - found["chance"]) and found["empty"] == 0


def test_two_empty_sets_agree_as_it_is_agreed():
    one, other = mask(a=HALF, b=NONE), mask(a=OTHER, b=NONE)
    assert math.isnan(overlap.iou(one, other)["b"]) and math.isnan(overlap.by_chance(one, other)["b"])
    assert overlap.agreement(one, other)["iou"] == 0
    counted = overlap.agreement(one, other, empty=1)
    assert counted["iou"] == 0.5 and counted["empty"] == 0.5  # the paper's convention makes agreement of nothing
    assert counted["excess"] == pytest.approx(overlap.agreement(one, other)["excess"] / 2)
    nothing = overlap.agreement(mask(a=NONE), mask(a=NONE))
    assert math.isnan(nothing["iou"]) and nothing["empty"] == 1
    assert overlap.agreement(mask(a=NONE), mask(a=HALF))["iou"] == 0


@pytest.mark.parametrize("p, q", [(0.1, 0.1), (0.5, 0.5), (0.05, 0.6)])
def test_random_sets_agree_as_chance_says(p, q):
    random = torch.Generator().manual_seed(0)
    draw = torch.rand(2, 40, 400, 500, generator=random)
    found = [
        overlap.agreement(WeightMask({"a": one < p}), WeightMask({"a": other < q}))
        for one, other in zip(*draw, strict=True)
    ]
    means = {name: sum(each[name] for each in found) / len(found) for name in found[0]}
    assert means["chance"] == pytest.approx(p * q / (p + q - p * q), rel=0.01)
    assert abs(means["excess"]) < 0.001
    assert p != q or means["chance"] == pytest.approx(p / (2 - p), rel=0.01)


def test_masks_of_two_models_are_compared_and_of_two_shapes_are_not(pipe, one_line):
    one = mask("x", a=HALF)
    assert overlap.iou(one, mask("y", a=HALF)) == {"a": 1}
    assert overlap.iou(one, mask(b=HALF)) == {"a": 0, "b": 0}  # a layer that one lacks is empty there
    one_line(ValueError, "of different models", overlap.iou, one, mask(a=[1, 0]))
    one_line(ValueError, "empty=2 does not fit", overlap.agreement, one, one, 2)
    drawn = masks.random_like(WeightMask({"a": torch.rand(60, 60) < 0.2}), 1)
    assert overlap.agreement(drawn, drawn)["iou"] == 1
