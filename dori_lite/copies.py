"""Is this picture a copy of that one? One interface, `Detector`, and several that differ.

    detector = by_adaptive_l2(other_training_pictures)
    copied = detector(images, targets)  # bool [B]

SSIM, ℓ2 in Carlini's adaptive form, the cosine of any descriptor, and SSCD, which the papers use. Each is
wrong somewhere: `opinions` asks several, `disagreement` counts where they differ and `disputed` says where.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch
from torch.nn.functional import cosine_similarity, interpolate
from torchmetrics.functional.image import structural_similarity_index_measure

from . import assets

NEIGHBOURS, ALPHA = 50, 0.5  # Carlini et al. 2023, as a public re-implementation sets them for CIFAR-10
SSIM_COPY = 0.75  # fixed before any model was judged; what it separates is printed by verify-models
SSCD_COPY, SSCD_SIZE = 0.7, (320, 320)  # NeMo's code, with the model sscd_disc_mixup
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PART = 1024  # training pictures held as floats at a time


@dataclass(frozen=True)
class Detector:
    """A rule for copies: `score(images, targets)`, pictures [B, 3, H, W] in [0, 1] twice → [B], the higher the
    more alike; and `threshold`, the lowest score of a copy. Called with the same pictures: bool [B], False where
    the score is not a number. Raises ValueError for a score of another shape.
    """

    name: str
    score: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    threshold: float

    @torch.no_grad()
    def scores(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """`score`, without gradients and with its shape checked: [B]."""
        scores = self.score(images, targets)
        if scores.shape != images.shape[:1]:
            raise ValueError(f"{self.name} must score {len(images)} pictures as [{len(images)}]; got {[*scores.shape]}")
        return scores

    def __call__(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return self.scores(images, targets) >= self.threshold


def by_ssim(threshold: float = SSIM_COPY) -> Detector:
    """Copies by structural similarity."""
    return Detector("ssim", lambda images, targets: ssim(*checked(images, targets)), threshold)


def by_adaptive_l2(others, n: int = NEIGHBOURS, alpha: float = ALPHA) -> Detector:
    """Copies by Carlini's adaptive ℓ2: score 1 / `adaptive_l2`, threshold 1 (and equal to it counts, unlike there).

    `others` are training pictures without the targets: [M, 3, H, W], uint8 or floats in [0, 1], or several such.
    Raises ValueError if there are none.
    """
    parts = list(others.split(PART) if isinstance(others, torch.Tensor) else others)  # an iterator serves only once
    if not sum(map(len, parts)):
        raise ValueError("adaptive l2 compares with other training pictures: give at least one")

    def score(images, targets):
        images, targets = checked(images, targets)
        if parts[0].shape[1:] != images.shape[1:]:
            raise ValueError(f"the other pictures are {[*parts[0].shape[1:]]}, these {[*images.shape[1:]]}; match them")
        # 0 / 0: at the target and at every neighbour, so no nearer to the one than to the others
        return (1 / adaptive_l2(images, targets, parts, n, alpha)).nan_to_num(nan=0, posinf=torch.inf)

    return Detector("adaptive l2", score, 1.0)


def by_descriptor(name: str, features: Callable, threshold: float, batch: int = 256) -> Detector:
    """Copies by the cosine of descriptors: `features` maps pictures [B, 3, H, W] in [0, 1] to [B, D].

    It is called without gradients on at most `batch` pictures at a time and need not normalise. The score is in
    [-1, 1], and 0 where a descriptor is all zeros. Raises ValueError for descriptors of another shape.
    """

    def describe(images):
        found = features(images)
        if found.ndim != 2 or len(found) != len(images):
            raise ValueError(f"descriptors of {len(images)} pictures must be [{len(images)}, D]; got {[*found.shape]}")
        return found.float()

    @torch.no_grad()
    def score(images, targets):
        pairs = zip(*(pictures.split(batch) for pictures in checked(images, targets)), strict=True)
        return torch.cat([cosine_similarity(describe(some), describe(goals), eps=1e-12) for some, goals in pairs])

    return Detector(name, score, threshold)


def sscd(trust: bool = False, file=None) -> Detector:
    """Copies by SSCD (Pizzi et al. 2022), as NeMo applies it: the cosine of 512 features of `sscd_disc_mixup`.

    It is TorchScript, and loading that runs code from the network: nothing is loaded before it was trusted, here
    or by `dori-lite fetch sscd --trust`, after which its recorded hash is held to (`assets.fetch`). `file` is a
    TorchScript file of your own, which must be trusted at every call. Trained on photographs: the reef's drawings
    are out of its domain. Raises RuntimeError without trust, ValueError for a file that does not load.
    """
    if file is None:
        file = assets.fetch(*assets.DOWNLOADS["sscd"], trust)
    elif not trust:
        raise RuntimeError(f"{file} is TorchScript, which is code; if you trust it, say sscd(trust=True, file=...)")
    model = load_script(Path(file))

    def features(images):
        mean, std = (images.new_tensor(values).reshape(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        images = interpolate(images, SSCD_SIZE, mode="bilinear", align_corners=False, antialias=True)
        return model.to(images.device)((images - mean) / std)

    return by_descriptor("sscd", features, SSCD_COPY, batch=32)  # pictures are large here


def load_script(file: Path) -> torch.jit.ScriptModule:
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not there; give the path of a TorchScript file")
    with warnings.catch_warnings():
        # TorchScript is what the authors publish, however deprecated
        warnings.filterwarnings("ignore", r".*torch\.jit", DeprecationWarning)
        try:
            return torch.jit.load(file, map_location="cpu").eval()
        except RuntimeError as error:
            raise ValueError(f"{file} is not a TorchScript file that can be loaded; remove or replace it") from error


def opinions(detectors, images, targets) -> dict[str, torch.Tensor]:
    """What each detector says of the pairs [B, 3, H, W]: name → bool [B], on the CPU.

    Raises ValueError for no detectors, or two of one name.
    """
    detectors = list(detectors)
    names = [detector.name for detector in detectors]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"ask one or more detectors of different names; got {', '.join(names) or 'none'}")
    return {detector.name: detector(images, targets).cpu() for detector in detectors}


def disagreement(opinions: dict[str, torch.Tensor]) -> dict:
    """How often detectors differ: "any" → share of pictures on which not all agree, "a / b" → share on which these
    two differ, "counts" → the same as numbers of pictures, "pictures" → out of how many. Shares are in [0, 1].
    """
    disputes = len(disputed(opinions))
    counts = {f"{a} / {b}": (opinions[a] ^ opinions[b]).sum().item() for a, b in combinations(opinions, 2)}
    counts, total = {"any": disputes, **counts}, len(next(iter(opinions.values())))
    return {**{key: count / total for key, count in counts.items()}, "counts": counts, "pictures": total}


def disputed(opinions: dict[str, torch.Tensor]) -> torch.Tensor:
    """The pictures on which not all detectors agree: their indices [K], ascending.

    Raises ValueError unless the opinions are bool [B], one or more, of one length that is not 0.
    """
    table = list(opinions.values())
    sizes = [len(row) if row.ndim == 1 and row.dtype == torch.bool else 0 for row in table]
    if not sizes or 0 in sizes or len(set(sizes)) > 1:
        got = ", ".join(f"{key} {str(row.dtype)[6:]} {[*row.shape]}" for key, row in opinions.items()) or "none"
        raise ValueError(f"give every detector's opinion of the same pictures, each bool [B] with B > 0; got {got}")
    table = torch.stack(table)
    return (table.any(0) & ~table.all(0)).nonzero().flatten()


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


def checked(images, targets) -> tuple[torch.Tensor, torch.Tensor]:
    """The pictures as float32 on one device. Raises ValueError unless both are [B, 3, H, W], finite, in [0, 1]."""
    check_pair(images, targets)
    if images.shape[1] != 3 or not images.numel():
        raise ValueError(f"compare one or more pictures [B, 3, H, W]; got {list(images.shape)}")
    for pictures, what in ((images, "images"), (targets, "targets")):
        if not pictures.is_floating_point():
            raise ValueError(f"{what} must be floats in [0, 1], not {str(pictures.dtype)[6:]}; divide bytes by 255")
        if not pictures.isfinite().all():
            raise ValueError(f"{what} are not all finite; leave out pictures with NaN or infinite values")
        if pictures.min() < 0 or pictures.max() > 1:
            low, high = pictures.min().item(), pictures.max().item()
            raise ValueError(f"{what} must be in [0, 1], not [{low:.3g}, {high:.3g}]; rescale or clamp them")
    return images.float(), targets.to(images.device).float()
