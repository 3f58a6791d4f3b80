"""What goes in is looked at first: numbers, seeds, pictures, pipelines. One line says what is wrong and what to do.

    check_pictures(images, "images")  # floats [B, 3, H, W] in [0, 1], finite, at least one
    check_pipe(pipe)  # a StableDiffusionPipeline as it was loaded, whose U-Net predicts ε

Nothing here changes anything. All raise ValueError.
"""

import math
from numbers import Integral, Real

import torch

HIGHEST_SEED = 2**64 - 1  # torch's generators take no more


def check_count(name: str, value, least: int = 1, most: int | None = None) -> int:
    """`value` if it is a whole number from `least` to `most`."""
    fits = isinstance(value, Integral) and not isinstance(value, bool)
    if not fits or value < least or (most is not None and value > most):
        to = "on" if most is None else f"to {most}"
        raise ValueError(f"{name}={value!r} is not a count that fits; give a whole number from {least} {to}")
    return int(value)


def check_number(name: str, value, low: float = -math.inf, high: float = math.inf) -> float:
    """`value` if it is a finite number, low ≤ value ≤ high."""
    fits = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not fits or not low <= value <= high:
        ends = [f"at least {low:g}"] * (low > -math.inf) + [f"at most {high:g}"] * (high < math.inf)
        raise ValueError(f"{name}={value!r} does not fit; give a finite number{', '.join([''] + ends)}")
    return float(value)


def check_seed(seed, name: str = "seed") -> int:
    """`seed` if it is a whole number that torch and numpy both take."""
    return check_count(name, seed, 0, HIGHEST_SEED)


def check_pictures(pictures, what: str = "images", least: int = 1) -> None:
    """Raise ValueError unless `pictures` are `least` or more floats [B, 3, H, W], finite, in [0, 1]."""
    if not isinstance(pictures, torch.Tensor):
        raise ValueError(f"{what} are a {type(pictures).__name__}; give a tensor [B, 3, H, W] with values in [0, 1]")
    if pictures.ndim != 4 or pictures.shape[1] != 3 or not pictures[:1, :1].numel() == pictures.shape[-2:].numel() > 0:
        raise ValueError(f"{what} have shape {[*pictures.shape]}; give one or more pictures [B, 3, H, W]")
    if len(pictures) < least:
        raise ValueError(f"there are {len(pictures)} {what}; give at least {least}")
    if not pictures.is_floating_point():
        raise ValueError(f"{what} must be floats in [0, 1], not {str(pictures.dtype)[6:]}; divide bytes by 255")
    if not (finite := pictures.flatten(1).isfinite().all(1)).all():
        which = (~finite).nonzero()[0].item()
        raise ValueError(f"{what} are not all finite: number {which} holds NaN or infinite values; leave it out")
    if pictures.min() < 0 or pictures.max() > 1:
        low, high = pictures.min().item(), pictures.max().item()
        raise ValueError(f"{what} must be in [0, 1], not [{low:.3g}, {high:.3g}]; rescale or clamp them")
