"""Spreads over pictures of one caption, against loops over pairs."""

from itertools import combinations

import pytest
import torch

from dori_lite.copies import ssim
from dori_lite.metrics import between_seed_ssim, diversity


@pytest.fixture
def images():
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_diversity_is_the_mean_over_pairs(images):
    pairs = [(a - b).square().mean().sqrt().item() for a, b in combinations(images, 2)]
    assert len(pairs) == 6
    assert diversity(images) == pytest.approx(sum(pairs) / 6, abs=1e-6)
    assert diversity(images[:2]) == pytest.approx(pairs[0], abs=1e-6)
    assert isinstance(diversity(images), float)


def test_between_seed_ssim_is_the_mean_over_pairs(images):
    pairs = [ssim(a[None], b[None]).item() for a, b in combinations(images, 2)]
    assert between_seed_ssim(images) == pytest.approx(sum(pairs) / 6, abs=1e-6)
    assert between_seed_ssim(images[:2]) == pytest.approx(pairs[0], abs=1e-6)
    assert isinstance(between_seed_ssim(images), float)


def test_equal_pictures_do_not_vary(images):
    same = images[:1].repeat(3, 1, 1, 1)
    assert diversity(same) == 0
    assert between_seed_ssim(same) == pytest.approx(1, abs=1e-6)
    assert diversity(images) > 0.1 and between_seed_ssim(images) < 0.5


def test_one_picture_has_no_spread(images, one_line):
    for function in (diversity, between_seed_ssim):
        for few in (images[:1], images[:0]):
            one_line(ValueError, "give at least two", function, few)
