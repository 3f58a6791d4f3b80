"""Wanda turned on memorization (Chavhan et al. 2024; concept-prune's code): weights that a caption uses most.

A weight's score is its size times the norm of what flows through it, S_ij = |W_ij| · ‖X_j‖₂. Pruned is what ranks
high in its row for the memorized caption and higher than for the empty one, at any of the first sampling steps. Under
DDIM the masks equal the reference code's bit for bit (7 of 7 settings); the reference samples with PNDM, whose masks
overlap with these by 0.93–0.97 (IoU).

    mask = localise(pipe, "a memorized caption", rho=0.01)
"""

from collections.abc import Mapping
from itertools import islice

import torch
from diffusers import PNDMScheduler
from torch.nn.functional import normalize
from tqdm.auto import tqdm

from .checks import check_count, check_number, check_seed
from .diffusion import BATCH, GUIDANCE, STEPS, check_sampling, initial_noise, trajectory
from .hooks import listed, trace
from .masks import WeightMask
from .models import conditions, embed, fingerprint, mlp_layers, value_layers

CALLS = 10  # the code's τ: U-Net calls, from the first on, whose masks are united
RHO = 0.01


def layers(unet, which: str = "sixteen") -> dict[str, torch.nn.Linear]:
    """The layers Wanda prunes: "sixteen" `ff.net.2` (the code), or the "seven" of the paper's figures.

    The seven stand in the transformers of NeMo's value layers: down blocks and mid block. That the paper prunes
    these is our reading of its figures. Raises ValueError for another word.
    """
    found = mlp_layers(unet)
    if which == "sixteen":
        return found
    if which != "seven":
        raise ValueError(f"layers are 'sixteen' or 'seven'; got {which!r}")
    return {name: found[name] for name in (n.replace("attn2.to_v", "ff.net.2") for n in value_layers(unet))}


@torch.no_grad()
def activation_norms(
    pipe,
    prompts,
    *,
    names=None,
    calls: int = CALLS,
    seed: int = 0,
    guidance: float = GUIDANCE,
    steps: int = STEPS,
    batch: int = BATCH,
    sampler: str = "ddim",
) -> dict[str, torch.Tensor]:
    """‖X_j‖₂ of every input feature j of the layers `names` [default: all sixteen]: {name: [calls, 4d]}.

    X are the layer's inputs while `prompts` (captions or embeddings [B, L, D]) are sampled from the noise of one
    `seed`, each row scaled to length 1, rows of all places, of all prompts and of both halves of classifier-free
    guidance together, apart for each of the first `calls` U-Net calls. As in the code, which samples with PNDM (50
    steps, the second timestep asked twice): `sampler="pndm"`.

    Raises ValueError for an empty caption, an impossible number of calls or another sampler.
    """
    steps, guidance, batch = check_sampling(pipe, steps, guidance, batch)
    calls, seed = check_count("calls", calls, 1, steps), check_seed(seed)
    if sampler not in ("ddim", "pndm"):
        raise ValueError(f"sampler is 'ddim' or 'pndm', the reference's; got {sampler!r}")
    names = list(layers(pipe.unet)) if names is None else listed(names)
    y = embed(pipe, "").to(pipe.unet.dtype) if isinstance(prompts, str) and not prompts else conditions(pipe, prompts)
    empty, x_T = embed(pipe, "").to(y), initial_noise(pipe, [seed], y.dtype).to(y.device)
    squares = {name: 0.0 for name in names}
    with tqdm(total=-(-len(y) // batch) * calls, desc="activation norms", delay=5, leave=False) as bar:
        for part in y.split(batch):
            x = x_T.expand(len(part), -1, -1, -1)
            scheduler = pndm(pipe, steps, x.device) if sampler == "pndm" else None
            sampled = trajectory(pipe, x, part, guidance=guidance, steps=steps, empty=empty, scheduler=scheduler)
            with trace(pipe.unet, names, inputs=True) as seen:
                for _ in islice(sampled, calls):
                    for inputs in seen.values():  # at once: a call's inputs are large for Stable Diffusion
                        reduce(inputs)
                    bar.update()
            squares = {name: squares[name] + torch.stack(seen[name]) for name in names}
    return {name: total.sqrt() for name, total in squares.items()}


def pndm(pipe, steps: int, device) -> PNDMScheduler:
    """Stable Diffusion's own scheduler, as diffusers sets it: multi-step, without Runge–Kutta steps."""
    scheduler = PNDMScheduler.from_config(pipe.scheduler.config, skip_prk_steps=True)
    scheduler.set_timesteps(steps, device=device)
    return scheduler


def reduce(inputs: list) -> None:
    """Replace the last call's inputs X [B, tokens, 4d] by the squared norms of X's columns, rows of length 1: [4d]."""
    X = inputs.pop()
    rows = normalize(X.flatten(0, -2).to(wide(X)), dim=1)  # a row of zeros stays zero
    inputs.append(rows.square().sum(0))


def wide(x: torch.Tensor) -> torch.dtype:
    """fp32 at least: halves would tie, and ties reorder ranks."""
    return torch.promote_types(x.dtype, torch.float32)


def score(weight: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
    """S_ij = |W_ij| · n_j for a weight [d, m] and norms [..., m]: [..., d, m]."""
    return weight.abs().to(norms.dtype) * norms[..., None, :]


def top(scores: torch.Tensor, rho: float) -> torch.Tensor:
    """The ⌊ρ·m⌋ highest of each row of scores [..., d, m], as booleans of that shape.

    With rows so short that this is none of them, none is chosen.
    """
    count = int(rho * scores.shape[-1])
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    return chosen.scatter_(-1, scores.topk(count).indices, True)


def union(weight: torch.Tensor, target: torch.Tensor, base: torch.Tensor, rho: float) -> torch.Tensor:
    """What one layer loses: weight [d, m], norms for target and base prompts [calls, m] → bool [d, m].

    At each call: in the row's top ρ for the target *and* scored higher than for the base. Calls are united.
    """
    found = torch.zeros_like(weight, dtype=torch.bool)
    for n_target, n_base in zip(target, base, strict=True):
        # |W_ij| is on both sides of the second test, which therefore compares columns alone
        found |= top(score(weight, n_target), rho) & (n_target > n_base)
    return found


def localise(
    pipe,
    prompts,
    rho: float | tuple[float, ...] = RHO,
    *,
    base: Mapping[str, torch.Tensor] | None = None,
    which: str = "sixteen",
    **options,
) -> WeightMask | dict[float, WeightMask]:
    """The mask of the weights that hold what `prompts` (one, or several jointly) are memorized with.

    `prompts` are captions or embeddings [B, L, D]. For several ρ at once, {ρ: mask}. `base` are the
    `activation_norms` of the empty caption under the same options, to compare with [default: computed here]; for B
    prompts they count √B-fold, as if it had been sampled as often. `options` are those of `activation_norms`. The
    union over calls can prune up to `calls` times ρ: see `WeightMask.densities`.

    Raises ValueError for an empty caption, or ρ outside (0, 1].
    """
    several = rho if isinstance(rho, tuple) else (rho,)
    for share in several:
        if check_number("ρ", share, 0, 1) == 0:
            raise ValueError("ρ=0 prunes nothing; give the share of each row to prune, above 0 and at most 1")
    if not several:
        raise ValueError("there is no ρ; give one number, or a tuple of them")
    model, found = fingerprint(pipe), layers(pipe.unet, which)
    y = conditions(pipe, prompts)
    target = activation_norms(pipe, y, names=found, **options)
    if base is None:
        base = activation_norms(pipe, "", names=found, **options)
    if not isinstance(base, Mapping):
        raise ValueError(f"base is a {type(base).__name__}; give the activation_norms of the empty caption")
    for name, norms in target.items():
        if name not in base or base[name].shape != norms.shape:
            raise ValueError(f"base has no norms {[*norms.shape]} of {name}; compute it with the same options")
    masks = {}
    for share in several:
        chosen = {k: union(v.weight, target[k], base[k] * len(y) ** 0.5, share) for k, v in found.items()}
        masks[share] = WeightMask(chosen, model, {"rho": share})
    return masks if isinstance(rho, tuple) else masks[rho]
