"""Rates and spreads over generated pictures."""

import torch

from .copies import ssim


def diversity(images: torch.Tensor) -> float:
    """Mean pairwise root mean squared difference of pictures [B, 3, H, W] of one caption; 0 if all are equal.

    Raises ValueError for fewer than two pictures.
    """
    check_several(images)
    return (torch.pdist(images.flatten(1).float()) / images[0].numel() ** 0.5).mean().item()


def between_seed_ssim(images: torch.Tensor) -> float:
    """Mean pairwise SSIM of pictures [B, 3, H, W] of one caption; 1 if all are equal.

    Raises ValueError for fewer than two pictures.
    """
    check_several(images)
    first, second = torch.combinations(torch.arange(len(images))).T
    return ssim(images[first], images[second]).mean().item()


def check_several(images) -> None:
    if len(images) < 2:
        raise ValueError("diversity compares pictures: give at least two")
