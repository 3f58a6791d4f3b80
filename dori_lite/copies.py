"""Is this picture a copy of that one? ℓ2 in Carlini's adaptive form, and SSIM.

(Descriptors that need training, SSCD among them, join here in a later part of the book.)
"""

import torch
from torchmetrics.functional.image import structural_similarity_index_measure

NEIGHBOURS, ALPHA = 50, 0.5  # Carlini et al. 2023, as a public re-implementation sets them for CIFAR-10
SSIM_COPY = 0.75  # fixed before any model was judged; what it separates is printed by verify-models


def l2(images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Root mean squared difference of each pair: [B, 3, H, W] twice, values in [0, 1] → [B]."""
    check_pair(images, targets)
    return (images - targets).square().mean((1, 2, 3)).sqrt()


def ssim(images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Structural similarity of each pair (Gaussian window, σ 1.5): [B, 3, H, W] twice → [B]."""
    check_pair(images, targets)
    return structural_similarity_index_measure(images, targets, data_range=1.0, reduction="none").reshape(-1)


def nearest(images: torch.Tensor, others, n: int = NEIGHBOURS) -> tuple[torch.Tensor, torch.Tensor]:
    """The `n` pictures of `others` nearest to each image in ℓ2: RMS distances and indices, [B, n] each.

    `others` is a tensor [M, 3, H, W] or an iterable of such tensors (uint8 counts as 0–255), so that
    a large training set need not be in memory as floats at once.
    """
    flat, size = images.flatten(1), images[0].numel()
    distances, indices, offset = None, None, 0
    for part in [others] if isinstance(others, torch.Tensor) else others:
        part = part.float() / 255 if part.dtype == torch.uint8 else part
        new = torch.cdist(flat, part.flatten(1).to(flat), compute_mode="use_mm_for_euclid_dist") / size**0.5
        here = torch.arange(offset, offset + len(part), device=flat.device).expand(len(images), -1)
        distances = new if distances is None else torch.cat([distances, new], 1)
        indices = here if indices is None else torch.cat([indices, here], 1)
        distances, order = distances.topk(min(n, distances.shape[1]), largest=False)
        indices, offset = indices.gather(1, order), offset + len(part)
    return distances, indices


def adaptive_l2(images, targets, others, n: int = NEIGHBOURS, alpha: float = ALPHA) -> torch.Tensor:
    """Carlini's adaptive ℓ2: distance to the target over α × the mean distance to the `n` nearest others.

    Below 1 the image is a copy: far nearer to its target than to any other training picture. `others`
    are training pictures without the targets, as `nearest` takes them. [B, 3, H, W] → [B].
    """
    distances, _ = nearest(images, others, n)
    return l2(images, targets) / (alpha * distances.mean(1))


def is_copy(ratio: torch.Tensor, similarity: torch.Tensor) -> torch.Tensor:
    """Both detectors agree: adaptive ℓ2 below 1 and SSIM of at least `SSIM_COPY`."""
    return (ratio < 1) & (similarity >= SSIM_COPY)


def check_pair(images, targets) -> None:
    if images.shape != targets.shape or images.ndim != 4:
        raise ValueError(f"compare pictures of one shape [B, 3, H, W]; got {list(images.shape)}, {list(targets.shape)}")
