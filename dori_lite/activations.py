"""What a U-Net's layers make of embeddings: how far apart it holds them, and by how few numbers.

    seen = recorded(pipe, triggers, x_t, 500, ["mid_block"])  # one noisy latent for all
    spread.mean_distance(seen["mid_block"])  # the paper's activation discrepancy D_l
    rows = discrepancies(pipe, {"triggers": triggers, "captions": captions}, x_t, 500, ["mid_block"])

Finding DoRI measures D_l in the layers that a defence touches (as notes describe it). A linear layer repeats the
distance of its inputs; so distances here are compared with those of embeddings that lie as far apart.
"""

from collections.abc import Mapping

import numpy as np
import torch

from .checks import check_count, check_finite, check_pipe
from .diffusion import BATCH
from .hooks import trace
from .models import check_latents, conditions
from .ranges import check_mapping
from .spread import distances, pairs_of, strangers

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


def discrepancies(pipe, sets: Mapping, x_t: torch.Tensor, t: int, names, seed: int = 0) -> list[dict]:
    """How far apart layers hold the embeddings of each set: one row for each layer and set.

    `sets` {name: embeddings [N, L, D]}, at least two each. Columns: `layer`, `set`; `log D`, the mean over pairs of
    ln ‖A_l(y_a) − A_l(y_b)‖₂; `excess`, the mean of ln (the distance of an embedding and the next ÷ the distance of it
    and a stranger as far away, `spread.strangers`); and, over all pairs of all sets, `R2`, how much of the logarithm of
    the distance a straight line on that of the embeddings explains. ε stands beside `names`. Raises ValueError for a
    set of fewer than two, or that holds one twice, and as `recorded` does.
    """
    check_pipe(pipe)
    sets = {name: conditions(pipe, y) for name, y in check_mapping("sets", sets).items()}
    if few := [name for name, y in sets.items() if len(y) < 2]:
        raise ValueError(f"a single one of {few[0]} has no pairs; give two or more")
    if twice := [name for name, y in sets.items() if len(y.unique(dim=0)) < len(y)]:
        raise ValueError(f"one of {twice[0]} is there twice; give each embedding once")
    y, n, ends = torch.cat([*sets.values()]), 0, []
    for part in sets.values():
        ends.append(torch.arange(n, n := n + len(part)))
    each, following = torch.cat(ends), torch.cat([own.roll(-1) for own in ends])
    away = strangers(y, y[following], seed)
    seen = recorded(pipe, torch.cat([y, away]), x_t, t, names)
    kept, rows = torch.triu_indices(n, n, 1).unbind(), []
    wide = distances(y)[kept].log()
    apart_at_all = wide.isfinite()  # what stands in two sets lies 0 from itself
    for layer, a in seen.items():
        check_finite(a, f"{layer}: row")
        apart = distances(a[:n], a).log()  # [n, n members and n strangers]
        excess = apart[each, following] - apart[each, each + n]
        both = apart_at_all & apart[kept].isfinite()
        known = both.sum() > 2  # two points lie on a line
        straight = float(np.corrcoef(wide[both], apart[kept][both])[0, 1] ** 2) if known else np.nan
        for name, own in zip(sets, ends, strict=True):
            row = {"layer": layer, "set": name, "log D": pairs_of(apart[own][:, own]).mean().item()}
            rows.append(row | {"excess": excess[own].mean().item(), "R2": straight})
    return rows


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
