"""How far two sets of weights agree: intersection over union by layer, beside what chance gives.

    found = agreement(wanda.localise(pipe, "a caption", 0.2), wanda.localise(pipe, "another", 0.2))
    found["excess"]  # 0 for sets drawn at random, of whatever size

Finding DoRI measures the mean intersection over union (IoU) of the weights that a localiser names for different
embeddings, and counts two empty sets as 1 (as two notes describe it). Chance and excess are ours.
"""

import math

from .checks import check_number
from .masks import WeightMask, check_mask


def iou(one: WeightMask, other: WeightMask) -> dict[str, float]:
    """|A ∩ B| ÷ |A ∪ B| in each layer, of masks of any two models of one shape; NaN where both are empty.

    Raises ValueError for what is no mask, and for masks of other shapes.
    """
    one, other = WeightMask(check_mask(one).layers), WeightMask(check_mask(other).layers)
    both, either = (one & other).layers, (one | other).layers
    return {name: both[name].sum().item() / n if (n := either[name].sum().item()) else math.nan for name in either}


def by_chance(one: WeightMask, other: WeightMask) -> dict[str, float]:
    """The IoU in each layer of two sets of these sizes drawn at random, p q ÷ (p + q − p q) for shares p and q.

    That is p ÷ (2 − p) for two of one size; it is exact for large layers. NaN where both are empty. Raises ValueError
    as `iou` does.
    """
    layers = (WeightMask(check_mask(one).layers) | WeightMask(check_mask(other).layers)).layers
    found, (p, q) = {}, (mask.densities() for mask in (one, other))
    for name in layers:
        a, b = p.get(name, 0.0), q.get(name, 0.0)
        found[name] = a * b / (a + b - a * b) if a or b else math.nan
    return found


def agreement(one: WeightMask, other: WeightMask, empty: float | None = None) -> dict[str, float]:
    """Means over layers: `iou`, `chance`, `excess` (their difference), and `empty`, the share of layers that are.

    A layer in which both sets are empty is left out, or counts as the IoU `empty`, by chance as well (the paper's: 1).
    NaN where none is left. Raises ValueError for an `empty` outside [0, 1], and as `iou` does.
    """
    empty = None if empty is None else check_number("empty", empty, 0, 1)
    seen, chance = iou(one, other), by_chance(one, other)
    kept = [name for name, value in seen.items() if empty is not None or not math.isnan(value)]
    means = []
    for each in (seen, chance):
        values = [empty if math.isnan(each[name]) else each[name] for name in kept]
        means.append(sum(values) / len(values) if values else math.nan)
    share = sum(map(math.isnan, seen.values())) / len(seen) if seen else math.nan
    return {"iou": means[0], "chance": means[1], "excess": means[0] - means[1], "empty": share}
