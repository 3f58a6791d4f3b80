"""Finding memorized captions without the picture: from the model's noise predictions alone.

Wen et al. 2024 (how much the caption changes the prediction) and Hintersdorf et al. 2024 (NeMo: how
alike the first predictions from different noises are), and how well a score separates two groups.
"""

from functools import partial

import numpy as np
import torch
from sklearn.metrics import roc_auc_score, roc_curve
from torch.linalg import vector_norm
from torchmetrics.functional import image as metrics
from tqdm.auto import tqdm

from .models import ddim_scheduler, embed
from .sampling import GUIDANCE, STEPS, conditions, ddim, initial_noise

FOUR = range(4)  # generations per caption in Wen et al.
MULTISCALE = 44  # torchmetrics' smallest height for NeMo's three scales: H // 4 must exceed 10
PAIRS = 512  # of small latents compared at once


@torch.no_grad()
def magnitude(
    pipe,
    prompts=None,
    *,
    embeddings: torch.Tensor | None = None,
    seeds=FOUR,
    guidance: float = GUIDANCE,
    steps: int = STEPS,
    first: int | None = None,
    batch: int = 32,
) -> torch.Tensor:
    """How far the caption moves the predicted noise: mean over seeds of ‖ε(x_t, c) − ε(x_t, ∅)‖₂, [B, S].

    Wen et al. 2024: in Stable Diffusion memorized captions score high from the first step on. The norm is over C, h and
    w of one sample, at each of the S = `steps` steps of the guided DDIM trajectory; `first` stops after
    that many (S = `first`). Every one of the B `prompts` (or `embeddings` [B, L, D]) goes with every
    one of `seeds`, a list. `guidance` ≤ 1 follows the unguided trajectory. The paper: guidance 7.5, 50
    steps. Norms grow with the latents' size: compare within one model only.

    Raises ValueError for an empty caption, no seeds or an impossible `first`.
    """
    first = check_first(first, steps)
    y, x_T = conditions(pipe, prompts, embeddings), noises(pipe, seeds)
    silent = embed(pipe, "").to(y)
    pairs = every_pair(y, x_T)
    norms, rows = [], []

    def on_step(x, t, without, given):
        norms.append(difference(without, given))

    with tqdm(total=-(-len(pairs) // batch) * first, desc="magnitude", delay=5, leave=False) as bar:
        for caption, seed in (part.T for part in pairs.split(batch)):
            ddim(pipe, x_T[seed], y[caption], silent, max(guidance, 1.0), steps, bar, on_step=on_step, first=first)
            rows.append(torch.stack(norms, 1))
            norms.clear()
    return torch.cat(rows).reshape(len(y), len(x_T), first).mean(1)


@torch.no_grad()
def token_attribution(
    pipe,
    prompt: str,
    *,
    seeds=FOUR,
    first: int = 1,
    guidance: float = GUIDANCE,
    steps: int = STEPS,
    padding: bool = False,
    batch: int = 4,
) -> tuple[list[str], torch.Tensor]:
    """Which tokens of `prompt` make the magnitude: n tokens and their weights [n].

    Wen et al. 2024: the gradient of ‖ε(x_t, c) − ε(x_t, ∅)‖₂ with respect to the conditional
    embedding [L, D], x_t held fixed; its ℓ2 norm per position, mean over seeds and the `first` steps.
    Tokens are the tokenizer's pieces, without start-of-text. End-of-text and padding carry gradient
    too; `padding=True` returns those positions as well (n = L − 1).

    Raises ValueError for an empty caption, several captions, no seeds or an impossible `first`.
    """
    if not isinstance(prompt, str):
        raise ValueError("attribution reads one caption at a time; give a string")
    first = check_first(first, steps)
    y, x_T = conditions(pipe, prompt, None), noises(pipe, seeds)
    silent = embed(pipe, "").to(y)
    weights = []

    def on_step(x, t, without, given):
        each = y.repeat(len(x), 1, 1).requires_grad_()
        with torch.enable_grad():
            # A sample's norm depends on its own row only, so one backward pass serves all samples.
            total = difference(without, pipe.unet(x, t, each, return_dict=False)[0]).sum()
            weights.append(vector_norm(torch.autograd.grad(total, each)[0], dim=-1))

    with tqdm(total=-(-len(x_T) // batch) * first, desc="attribution", delay=5, leave=False) as bar:
        for x in x_T.split(batch):
            ddim(pipe, x, y.expand(len(x), -1, -1), silent, max(guidance, 1.0), steps, bar, on_step, first)
    options = {"padding": "max_length", "max_length": pipe.tokenizer.model_max_length} if padding else {}
    ids = pipe.tokenizer(prompt, **options).input_ids
    ids = ids[1:] if padding else ids[1:-1]
    tokens = [token.removesuffix("</w>") for token in pipe.tokenizer.convert_ids_to_tokens(ids)]
    return tokens, torch.cat(weights).mean(0)[1 : len(tokens) + 1]


@torch.no_grad()
def noise_differences(
    pipe,
    prompts=None,
    seeds=FOUR,
    step: int = 1,
    *,
    embeddings: torch.Tensor | None = None,
    steps: int = STEPS,
    batch: int = 32,
) -> torch.Tensor:
    """NeMo's δ = ε(x_T, t, y) − x_T, without guidance, of every prompt with every seed: [B, S, C, h, w].

    `step` is the index of t in the DDIM timesteps; x_T is not stepped. Hintersdorf et al. 2024 write
    t = T (`step=0`); their code returns at index 1, which is the default here. They use 10 noises from
    one generator and 50 steps; here each of `seeds` has its own noise, as everywhere in this package.

    Raises ValueError for an empty caption, no seeds or a `step` out of range.
    """
    if not 0 <= step < steps:
        raise ValueError(f"there is no step {step}; choose 0 to {steps - 1}")
    y, x_T = conditions(pipe, prompts, embeddings), noises(pipe, seeds)
    scheduler = ddim_scheduler(pipe.scheduler.config)
    scheduler.set_timesteps(steps, device=y.device)
    t, done = scheduler.timesteps[step], []
    for caption, seed in (part.T for part in every_pair(y, x_T).split(batch)):
        done.append(pipe.unet(x_T[seed], t, y[caption], return_dict=False)[0] - x_T[seed])
    return torch.cat(done).reshape(len(y), *x_T.shape)


def between_seed_similarity(
    differences: torch.Tensor, statistic: str = "max", *, multiscale: bool = True
) -> torch.Tensor:
    """How alike the noise differences [B, S, C, h, w] of one caption's seeds are: [B], 1 if all are equal.

    NeMo's memorization score (`statistic="max"`, over all pairs of seeds; or "mean"): `similarity` of
    each pair. The paper's threshold, 0.428, belongs to Stable Diffusion, 10 seeds and "max".

    Raises ValueError for a wrong shape, fewer than two seeds or an unknown statistic.
    """
    if differences.ndim != 5 or differences.shape[1] < 2:
        raise ValueError(
            f"differences have shape {list(differences.shape)}; give [B, S, C, h, w] with two seeds or more"
        )
    if statistic not in ("max", "mean"):
        raise ValueError(f"statistic {statistic!r} is unknown; choose 'max' or 'mean'")
    one, other = torch.combinations(torch.arange(differences.shape[1])).T
    scores = similarity(differences[:, one].flatten(0, 1), differences[:, other].flatten(0, 1), multiscale)
    scores = scores.reshape(len(differences), -1)
    return scores.amax(1) if statistic == "max" else scores.mean(1)


def similarity(one: torch.Tensor, other: torch.Tensor, multiscale: bool = True) -> torch.Tensor:
    """Structural similarity of each pair of noise differences: [N, C, h, w] twice → [N].

    Both are first scaled to [0, 1], per sample and channel. Latents of 44 rows or more are compared at
    three scales, as NeMo's code does (weights 0.33, σ 1.5, window 11), or at one with `multiscale=False`, as its
    paper says; smaller ones, like the reef's, at one, with σ 1. NeMo's code takes the data range of a coarse scale
    over all pairs at once; here it is the pair's own, so that a score does not depend on the pairs beside it.

    Raises ValueError for a wrong shape or NaN.
    """
    if one.shape != other.shape or one.ndim != 4:
        raise ValueError(f"compare differences of one shape [N, C, h, w]; got {list(one.shape)}, {list(other.shape)}")
    if not (torch.isfinite(one).all() and torch.isfinite(other).all()):
        raise ValueError("differences hold NaN or infinite values")
    large = min(one.shape[-2:]) >= MULTISCALE
    if large and multiscale:
        compare, size = partial(metrics.multiscale_structural_similarity_index_measure, betas=(0.33, 0.33, 0.33)), 1
    else:
        sigma = 1.5 if large else 1.0
        compare, size = partial(metrics.structural_similarity_index_measure, sigma=sigma, data_range=1.0), PAIRS
    parts = zip(one.split(size), other.split(size), strict=True)
    return torch.cat([compare(scaled(a), scaled(b), reduction="none").reshape(-1) for a, b in parts])


def roc(positives, negatives) -> dict:
    """How well scores separate: `auc`, the curve `fpr` and `tpr`, `tpr at 1% fpr`, `tpr at 10% fpr`.

    Scores are 1-d; positives should be higher. "At 1 %" is the best threshold that lets at most 1 % of
    the negatives through: with fewer than 100 negatives, none of them.

    Raises ValueError for empty, non-finite or not 1-d scores.
    """
    positives, negatives = checked(positives, "positives"), checked(negatives, "negatives")
    labels = np.repeat([1, 0], [len(positives), len(negatives)])
    scores = np.concatenate([positives, negatives])
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    at = {f"tpr at {level}% fpr": float(tpr[fpr <= level / 100].max()) for level in (1, 10)}
    return {"auc": float(roc_auc_score(labels, scores)), "fpr": fpr, "tpr": tpr, **at}


def auc_interval(positives, negatives, seed: int, reps: int = 2000, level: float = 0.95) -> tuple[float, float, float]:
    """The area under the ROC curve and its bootstrap interval over captions: (auc, low, high).

    Positives and negatives are resampled separately, `reps` times; percentiles at `level`. Ties count
    half. Groups that separate perfectly give (1, 1, 1): read that with the group sizes beside it.

    Raises ValueError for empty, non-finite or not 1-d scores, or a `level` outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level {level} is not between 0 and 1")
    positives, negatives = checked(positives, "positives"), checked(negatives, "negatives")
    wins = (np.sign(positives[:, None] - negatives) + 1) / 2
    # A resample is how often each caption is drawn, so a resampled AUC is a bilinear form of the wins.
    random = np.random.default_rng(seed)
    drawn = [random.multinomial(n, np.full(n, 1 / n), size=reps) / n for n in wins.shape]
    low, high = np.quantile((drawn[0] @ wins * drawn[1]).sum(1), [(1 - level) / 2, (1 + level) / 2])
    return float(wins.mean()), float(low), float(high)


def difference(without, given):
    """‖given − without‖₂ of each sample, [B], in fp32 at least."""
    return vector_norm(given - without, dim=(1, 2, 3), dtype=torch.promote_types(given.dtype, torch.float32))


def scaled(x):
    """Each channel of each sample of [N, C, h, w] to [0, 1]; a constant channel to 0."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return (x - low) / (high - low).clamp(min=torch.finfo(x.dtype).tiny)


def noises(pipe, seeds):
    """x_T of each of `seeds`, a list, on the model's device: [S, C, h, w]."""
    # A lone number would be a seed to some readers and a count of seeds to others.
    if not hasattr(seeds, "__iter__"):
        raise ValueError(f"seeds must be a list; for the first {seeds} seeds give range({seeds})")
    seeds = [int(seed) for seed in seeds]
    if not seeds:
        raise ValueError("there are no seeds; give at least one")
    return initial_noise(pipe, seeds, pipe.unet.dtype).to(pipe.unet.device)


def every_pair(y, x_T):
    """Indices [B·S, 2] of every caption with every seed, seeds running fastest."""
    return torch.cartesian_prod(torch.arange(len(y)), torch.arange(len(x_T)))


def check_first(first, steps):
    first = steps if first is None else first
    if not 1 <= first <= steps:
        raise ValueError(f"first={first} is impossible with {steps} steps; choose 1 to {steps}")
    return first


def checked(scores, name):
    """`scores` as a float64 array [N], or ValueError."""
    scores = np.asarray(scores.detach().cpu() if isinstance(scores, torch.Tensor) else scores, dtype=np.float64)
    if scores.ndim != 1 or not scores.size:
        raise ValueError(f"{name} have shape {list(scores.shape)}; give one score a caption, and at least one")
    if not np.isfinite(scores).all():
        raise ValueError(f"{name} hold NaN or infinite values")
    return scores
