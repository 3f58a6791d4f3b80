"""Is this picture a copy of that one? One interface, `Detector`, and several that differ.

    detector = by_adaptive_l2(other_training_pictures)
    copied = detector(images, targets)  # bool [B]

SSIM, ℓ2 in Carlini's adaptive form, the cosine of any descriptor, and SSCD, which the papers use. Each is
wrong somewhere: `opinions` asks several, `disagreement` counts where they differ and `disputed` says where. A
detector that sees nothing at all calls nothing a copy: `self_test` tells.
"""

import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch
from torch.nn.functional import cosine_similarity, interpolate

from . import assets
from .checks import check_count, check_number, check_pictures
from .distances import ALPHA, NEIGHBOURS, adaptive_l2, check_adaptive, check_pair, checked, parts_of, ssim
from .distances import l2 as l2  # so that whoever compares pictures finds all of it here
from .distances import nearest as nearest

SSIM_COPY = 0.75  # fixed before any model was judged; what it separates is printed by verify-models
SSCD_COPY, SSCD_SIZE = 0.7, (320, 320)  # NeMo's code, with the model sscd_disc_mixup
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PART = 1024  # training pictures held as floats at a time
TOLD_APART = 1e-5  # two pictures whose cosine is nearer to 1 than that are one to a detector


@dataclass(frozen=True)
class Detector:
    """A rule for copies: `score(images, targets)`, pictures [B, 3, H, W] in [0, 1] twice → [B], the higher the
    more alike; and `threshold`, the lowest score of a copy. Called with the same pictures: bool [B], False where
    the score is not a number. Raises ValueError for a threshold that is not a finite number, for other pictures
    and for a score of another shape.
    """

    name: str
    score: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    threshold: float

    def __post_init__(self):
        if not isinstance(self.name, str) or not self.name or not callable(self.score):
            raise ValueError(f"a detector needs a name and a function score(images, targets); got {self.name!r}")
        check_number(f"{self.name}: threshold", self.threshold)

    @torch.no_grad()
    def scores(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """`score`, without gradients and with its shape checked: [B]."""
        check_pair(images, targets)
        scores = check_given(self.score(images, targets), (len(images),), f"{self.name}'s score", finite=False)
        return scores if scores.is_floating_point() else scores.float()

    def __call__(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return self.scores(images, targets) >= self.threshold


def by_ssim(threshold: float = SSIM_COPY) -> Detector:
    """Copies by structural similarity."""
    return Detector("ssim", lambda images, targets: ssim(*checked(images, targets)), threshold)


def by_adaptive_l2(others, n: int = NEIGHBOURS, alpha: float = ALPHA) -> Detector:
    """Copies by Carlini's adaptive ℓ2: score 1 / `adaptive_l2`, threshold 1 (and equal to it counts, unlike there).

    `others` are training pictures without the targets: [M, 3, H, W], uint8 or floats in [0, 1], or several such.
    Raises ValueError if there are none or others, for `n` below 1 and `alpha` not above 0.
    """
    parts = [part for some in parts_of(others) for part in some.split(PART)]  # an iterator serves only once
    if not parts:
        raise ValueError("adaptive l2 compares with other training pictures: give at least one")
    check_adaptive(n, alpha)

    def score(images, targets):
        images, targets = checked(images, targets)
        # 0 / 0: at the target and at every neighbour, so no nearer to the one than to the others
        return (1 / adaptive_l2(images, targets, parts, n, alpha)).nan_to_num(nan=0, posinf=torch.inf)

    return Detector("adaptive l2", score, 1.0)


def by_descriptor(name: str, features: Callable, threshold: float, batch: int = 256) -> Detector:
    """Copies by the cosine of descriptors: `features` maps pictures [B, 3, H, W] in [0, 1] to [B, D].

    It is called without gradients on at most `batch` pictures at a time and need not normalise. The score is in
    [-1, 1], and 0 where a descriptor is all zeros. Before its first score it is tried on two pictures of that size.
    Raises ValueError for descriptors that are not finite numbers [B, D], or that do not tell those two apart.
    """
    check_count(f"{name}: batch", batch)
    if not callable(features):
        raise ValueError(f"{name}: features are a {type(features).__name__}; give a function of pictures")
    tried = []

    def describe(images):
        return check_given(features(images), (len(images), None), f"{name}'s features").float()

    def compare(images, targets):
        pairs = zip(images.split(batch), targets.split(batch), strict=True)
        return torch.cat([cosine_similarity(describe(some), describe(goals), eps=1e-12) for some, goals in pairs])

    @torch.no_grad()
    def score(images, targets):
        images, targets = checked(images, targets)
        if not tried:
            one, other = two_pictures(images).split(1)
            same, apart = compare(one, one).item(), compare(one, other).item()
            if same < 0.999 or same - apart < TOLD_APART:
                raise ValueError(
                    f"{name}'s features see nothing: the cosine of a picture with itself is {same:.6g}, with another "
                    f"one {apart:.6g}; give a trained network in eval mode, one that tells pictures apart"
                )
            tried.append(True)
        return compare(images, targets)

    return Detector(name, score, threshold)


def sscd(trust: bool = False, file=None) -> Detector:
    """Copies by SSCD (Pizzi et al. 2022), as NeMo applies it: the cosine of 512 features of `sscd_disc_mixup`.

    It is TorchScript, and loading that runs code from the network: nothing is loaded before it was trusted, here
    or by `dori-lite fetch sscd --trust`, after which its recorded hash is held to (`assets.fetch`). `file` is a
    TorchScript file of your own, which must be trusted at every call. Trained on photographs: the reef's drawings
    are out of its domain. Raises RuntimeError without trust, ValueError for a file that does not load or whose
    features fail the `self_test`.
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

    detector = by_descriptor("sscd", features, SSCD_COPY, batch=32)  # pictures are large here
    self_test(detector, two_pictures(torch.zeros(1, 3, 64, 64)))
    return detector


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


def self_test(detector: Detector, images: torch.Tensor) -> None:
    """Raise ValueError unless `detector` sees: each of `images` [B, 3, H, W] in [0, 1] must be a copy of itself, and
    must score lower against a dark or a light one. A detector that sees nothing says that a model forgot everything.
    """
    itself = detector.scores(images, images)
    dark, light = (detector.scores(images, one.expand_as(images)) for one in two_pictures(images))
    for k, (same, *lower) in enumerate(zip(itself.tolist(), dark.tolist(), light.tolist(), strict=True)):
        if not same >= detector.threshold:
            raise ValueError(
                f"{detector.name} takes picture {k} for no copy of itself: it scores {same:.6g}, and a copy "
                f"{detector.threshold:g} or more; use another threshold or another detector"
            )
        if not same > min(lower):
            raise ValueError(
                f"{detector.name} scores picture {k} against itself ({same:.6g}) no higher than against others "
                f"({min(lower):.6g}); use a detector that looks at both"
            )


def two_pictures(like: torch.Tensor) -> torch.Tensor:
    """A dark and a light picture, coarse, of the size and on the device of `like` [B, 3, H, W]: [2, 3, H, W]."""
    check_pictures(like)
    coarse = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) / 2
    coarse[1] += 0.5
    return interpolate(coarse, like.shape[-2:], mode="bilinear").to(like.device)


def opinions(detectors, images, targets) -> dict[str, torch.Tensor]:
    """What each detector says of the pairs [B, 3, H, W]: name → bool [B], on the CPU.

    Raises ValueError for no detectors, or two of one name.
    """
    return {detector.name: detector(images, targets).cpu() for detector in check_detectors(detectors)}


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
    table = opinions if isinstance(opinions, Mapping) else {f"a {type(opinions).__name__}": None}
    kinds = {key: f"{str(getattr(row, 'dtype', ''))[6:]} {[*getattr(row, 'shape', ())]}" for key, row in table.items()}
    table = list(table.values())
    if len({*kinds.values()}) != 1 or not re.fullmatch(r"bool \[[1-9]\d*\]", next(iter(kinds.values()))):
        got = ", ".join(f"{key} {kind}" for key, kind in kinds.items()) or "none"
        raise ValueError(f"give every detector's opinion of the same pictures, each bool [B] with B > 0; got {got}")
    table = torch.stack(table)
    return (table.any(0) & ~table.all(0)).nonzero().flatten()


def is_copy(ratio: torch.Tensor, similarity: torch.Tensor) -> torch.Tensor:
    """Both detectors agree: adaptive ℓ2 below 1 and SSIM of at least `SSIM_COPY`. What is NaN is no copy."""
    return (ratio < 1) & (similarity >= SSIM_COPY)


# ---- what functions from outside hand back ------------------------------------------------------------------


def check_detectors(detectors) -> list:
    """The detectors as a list. Raises ValueError for none, for two of one name and for a single one without a list."""
    found = list(detectors) if isinstance(detectors, Iterable) else []
    names = [getattr(detector, "name", f"a {type(detector).__name__}") for detector in found]
    if not names or len(set(names)) < len(names) or not all(isinstance(one, Detector) for one in found):
        got = ", ".join(names) or ("none" if isinstance(detectors, Iterable) else f"a {type(detectors).__name__}")
        raise ValueError(f"give a list of one or more detectors of different names; got {got}")
    return found


def check_given(found, shape: tuple, who: str, finite: bool = True) -> torch.Tensor:
    """`found` if it is a tensor of real numbers of this `shape` (None: any length from 1 on), finite if so asked.

    Raises ValueError in the name of `who`; of an object it names the tensors that would do, as transformers' outputs
    hold them.
    """

    def fits(value):
        sizes = zip(value.shape, shape, strict=False)
        return value.ndim == len(shape) and all(n == (n or -1) if m is None else n == m for n, m in sizes)

    wanted = f"[{', '.join('D' if n is None else str(n) for n in shape)}]"
    if not isinstance(found, torch.Tensor):
        held = found if isinstance(found, Mapping) else getattr(found, "__dict__", {})
        good = [f".{key}" for key, value in held.items() if isinstance(value, torch.Tensor) and fits(value)]
        such = f", such as its {' or '.join(good)}" if good else ""
        raise ValueError(f"{who} must be a tensor {wanted}, not a {type(found).__name__}; return a tensor{such}")
    if not fits(found) or found.is_complex():
        raise ValueError(f"{who} must be {wanted}; got {str(found.dtype)[6:]} {[*found.shape]}")
    if finite and not found.isfinite().all():
        raise ValueError(f"{who} must be finite; there are NaN or infinite values: look at weights and precision")
    return found
