"""What a U-Net's layers make of embeddings: how far apart it holds them, and by how few numbers.

    seen = recorded(pipe, triggers, x_t, 500, ["mid_block"])  # one noisy latent for all
    spread.mean_distance(seen["mid_block"])  # the paper's activation discrepancy D_l
    rows = discrepancies(pipe, {"triggers": (triggers, triggers.roll(1, 0))}, x_t, 500, ["mid_block"])

Finding DoRI measures D_l in the layers that a defence touches (as notes describe it). A linear layer repeats the
distance of its inputs; so distances here are compared with those of embeddings that lie as far apart.
"""

from collections.abc import Mapping

import numpy as np
import torch

from .checks import check_count, check_finite
from .diffusion import BATCH
from .hooks import trace
from .models import check_latents, conditions
from .ranges import check_mapping
from .spread import strangers

EPSILON = "ε"


@torch.no_grad()
def recorded(pipe, prompts, x_t: torch.Tensor, t: int, names, batch: int = BATCH) -> dict[str, torch.Tensor]:
    """What layers return for N prompts, all given the noisy latent `x_t` [1, C, h, w] at timestep `t`.

    {layer: [N, tokens, features]} for each of `names`, {block: [N, channels, pixels]} where it returns pictures (their
    first, where it returns several), and the predicted noise ε_θ(x_t, t, y) under "ε". `prompts` are captions or
    embeddings [N, L, D]. Raises ValueError for several latents, for a timestep that the model has not, and as
    `models.conditions` and `hooks.trace` do.
    """
    y = conditions(pipe, prompts)
    check_latents(pipe, x_t)
    if len(x_t) != 1:
        raise ValueError(f"{len(x_t)} latents; give one, x_t[:1], which all prompts share")
    t, batch = check_count("t", t, 0, pipe.scheduler.config.num_train_timesteps - 1), check_count("batch", batch)
    guessed = []
    with trace(pipe.unet, names) as seen:
        for part in y.split(batch):
            x = x_t.to(part).expand(len(part), -1, -1, -1)
            guessed.append(pipe.unet(x, t, part, return_dict=False)[0])
    found = {name: torch.cat([as_tensor(name, output) for output in outputs]) for name, outputs in seen.items()}
    return {name: a.flatten(2) if a.ndim == 4 else a for name, a in {**found, EPSILON: torch.cat(guessed)}.items()}


def as_tensor(name: str, output) -> torch.Tensor:
    """What a layer returned, or the first of several. Raises ValueError for what is not one row a prompt."""
    output = output[0] if isinstance(output, tuple) else output
    if not isinstance(output, torch.Tensor) or output.ndim not in (3, 4):
        got = [*getattr(output, "shape", ())]
        raise ValueError(f"{name} returns {got}; choose a layer with one row a prompt, such as 'mid_block'")
    return output


def discrepancies(
    pipe, pairs: Mapping, x_t: torch.Tensor, t: int, names, seed: int = 0, batch: int = BATCH
) -> list[dict]:
    """How far apart layers hold pairs of embeddings: one row for each layer and set of pairs.

    `pairs` {set: (ends, others)}, both [P, L, D]; ε stands beside `names`. Columns: `layer`, `set`; `log d`, the mean
    over pairs of ln ‖y_a − y_b‖₂; `log D`, of ln ‖A_l(y_a) − A_l(y_b)‖₂; `excess`, of ln (that ÷ the same for y_a and a
    stranger as long as y_b and as far away, `spread.strangers`); and `R2`, over all pairs of all sets: how much of ln D
    a straight line on ln d explains (NaN for fewer than three). Raises ValueError for sets of unlike shapes, for a pair
    that does not differ, and as `recorded` does.
    """
    if wrong := [name for name, both in check_mapping("pairs", pairs).items() if not pair(both)]:
        raise ValueError(f"{wrong[0]} must be (ends, others), two tensors [P, L, D] of one shape")
    a, b = (torch.cat([conditions(pipe, both[k]) for both in pairs.values()]) for k in (0, 1))
    wide = (a - b).double().flatten(1).norm(dim=1).log().cpu()
    each, place = torch.cat([a, b, strangers(a, b, seed)]).unique(dim=0, return_inverse=True)  # many stand in two pairs
    seen, place = recorded(pipe, each, x_t, t, names, batch=batch), place.cpu().view(3, -1)
    members = dict(zip(pairs, torch.arange(len(a)).split([len(ends) for ends, _ in pairs.values()]), strict=True))
    rows = []
    for layer, found in seen.items():
        check_finite(found, f"{layer}: row")
        ends, others, away = (found.flatten(1).cpu()[k] for k in place)
        apart, strange = ((ends - these).double().norm(dim=1).log() for these in (others, away))
        straight = float(np.corrcoef(wide, apart)[0, 1] ** 2) if len(wide) > 2 else np.nan
        for name, own in members.items():
            row = {"layer": layer, "set": name, "log d": wide[own].mean().item(), "log D": apart[own].mean().item()}
            rows.append(row | {"excess": (apart - strange)[own].mean().item(), "R2": straight})
    return rows


def pair(both) -> bool:
    """Whether these are two tensors [P, L, D] of one shape."""
    return (
        isinstance(both, tuple | list)
        and len(both) == 2
        and all(isinstance(y, torch.Tensor) for y in both)
        and (both[0].ndim == 3 and both[0].shape == both[1].shape and len(both[0]) > 0)
    )


def participation(a: torch.Tensor) -> torch.Tensor:
    """Which share of its numbers carries each of `a` [N, …]: (Σ a²)² ÷ (n Σ a⁴), [N], from 1/n (one) to 1 (all alike).

    The participation ratio; spiky activations have a low one. Raises ValueError for one that is zero or not finite.
    """
    if not isinstance(a, torch.Tensor) or a.ndim < 2 or not a.numel():
        raise ValueError(f"activations are [N, …]; got {[*getattr(a, 'shape', ())] or type(a).__name__}")
    check_finite(a, "activations: row")
    squares = a.detach().double().flatten(1).square()
    if not squares.sum(1).all():
        raise ValueError("an activation is zero everywhere: nothing carries it")
    return squares.sum(1).square() / (squares.shape[1] * squares.square().sum(1))
