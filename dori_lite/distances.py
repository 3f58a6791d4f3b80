"""How far a picture is from another, and from all others: RMS, SSIM, nearest neighbours, Carlini's adaptive ℓ2.

    ratio = adaptive_l2(images, targets, other_training_pictures)  # below 1: nearer than any other picture

Pictures are floats [B, 3, H, W] in [0, 1]; all raise ValueError for others. What counts as a copy is `copies`' matter.
"""

from collections.abc import Iterable

import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from .checks import check_count, check_pictures, check_positive

NEIGHBOURS, ALPHA = 50, 0.5  # Carlini et al. 2023, as a public re-implementation sets them for CIFAR-10


def l2(images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Root mean squared difference of each pair: [B, 3, H, W] twice, values in [0, 1] → [B]."""
    check_pair(images, targets)
    return (images - targets).square().mean((1, 2, 3)).sqrt()


def ssim(images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Structural similarity of each pair (Gaussian window, σ 1.5): [B, 3, H, W] twice → [B]."""
    check_pair(images, targets)
    if min(images.shape[-2:]) < 6:
        raise ValueError(f"SSIM's window needs pictures of 6×6 or more, not {[*images.shape]}; enlarge them")
    return structural_similarity_index_measure(images, targets, data_range=1.0, reduction="none").reshape(-1)


def nearest(images: torch.Tensor, others, n: int = NEIGHBOURS) -> tuple[torch.Tensor, torch.Tensor]:
    """The `n` pictures of `others` nearest to each image in ℓ2: RMS distances and indices, [B, n] each.

    `others` is a tensor [M, 3, H, W] or an iterable of such tensors (uint8 counts as 0–255, floats in [0, 1]), so
    that a large training set need not be in memory as floats at once. Raises ValueError for others, or none.
    """
    check_pictures(images)
    check_count("n", n)
    flat, size = images.flatten(1), images[0].numel()
    distances, indices, offset = None, None, 0
    for part in parts_of(others, images.shape[1:]):
        part = part.float() / 255 if part.dtype == torch.uint8 else part
        new = torch.cdist(flat, part.flatten(1).to(flat), compute_mode="use_mm_for_euclid_dist") / size**0.5
        here = torch.arange(offset, offset + len(part), device=flat.device).expand(len(images), -1)
        distances = new if distances is None else torch.cat([distances, new], 1)
        indices = here if indices is None else torch.cat([indices, here], 1)
        distances, order = distances.topk(min(n, distances.shape[1]), largest=False)
        indices, offset = indices.gather(1, order), offset + len(part)
    if distances is None:
        raise ValueError("there are no other pictures; give at least one")
    return distances, indices


def adaptive_l2(images, targets, others, n: int = NEIGHBOURS, alpha: float = ALPHA) -> torch.Tensor:
    """Carlini's adaptive ℓ2: distance to the target over α × the mean distance to the `n` nearest others.

    Below 1 the image is a copy: far nearer to its target than to any other training picture. `others`
    are training pictures without the targets, as `nearest` takes them. [B, 3, H, W] → [B]. Raises ValueError
    for `alpha` not above 0, and as `nearest` does.
    """
    check_adaptive(n, alpha)
    distances, _ = nearest(images, others, n)
    return l2(images, targets) / (alpha * distances.mean(1))


def check_pair(images, targets) -> None:
    """Raise ValueError unless both are pictures [B, 3, H, W] in [0, 1] of one shape."""
    check_pictures(images, "images")
    check_pictures(targets, "targets")
    if images.shape != targets.shape:
        raise ValueError(f"compare pictures of one shape [B, 3, H, W]; got {[*images.shape]}, {[*targets.shape]}")


def checked(images, targets) -> tuple[torch.Tensor, torch.Tensor]:
    """The pictures of `check_pair` as float32 on one device."""
    check_pair(images, targets)
    return images.float(), targets.to(images.device).float()


def parts_of(others, size=None):
    """Training pictures part by part, none empty, each looked at: bytes or floats in [0, 1], [M, 3, H, W] of `size`."""
    for part in others if isinstance(others, Iterable) and not isinstance(others, torch.Tensor) else [others]:
        if isinstance(part, torch.Tensor) and part.ndim and not len(part):
            continue
        as_bytes = isinstance(part, torch.Tensor) and part.dtype == torch.uint8
        check_pictures(part[:1] / 255 if as_bytes else part, "other pictures")
        size = part.shape[1:] if size is None else size
        if part.shape[1:] != size:
            raise ValueError(f"the other pictures are {[*part.shape[1:]]}, these {[*size]}; match them")
        yield part


def check_adaptive(n, alpha) -> None:
    check_count("n", n)
    check_positive("alpha", alpha)
