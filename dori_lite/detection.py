"""Finding memorized captions without the picture: from the model's noise predictions alone.

Wen et al. 2024 (how much the caption changes the prediction) and Hintersdorf et al. 2024 (NeMo: how
alike the first predictions from different noises are). `stats.roc` says how well such scores separate two groups.

    scores = magnitude(pipe, captions, seeds=range(4), first=1)[:, 0]
"""

from functools import partial
from itertools import islice

import torch
from torch.linalg import vector_norm
from torchmetrics.functional import image as metrics
from tqdm.auto import tqdm

from .checks import check_count, check_finite, check_seeds
from .diffusion import BATCH, GUIDANCE, STEPS, check_sampling, initial_noise, timed_scheduler, trajectory
from .models import conditions, embed

FOUR = range(4)  # generations per caption in Wen et al.
MULTISCALE = 44  # torchmetrics' smallest height for NeMo's three scales: H // 4 must exceed 10
PAIRS = 512  # of small latents compared at once
WORD_END = "</w>"
# Byte-level BPE writes each byte as one letter: itself where that prints, else one from 256 on, in order.
PRINTED = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTES = {chr(b): b for b in PRINTED}
BYTES |= {chr(256 + k): b for k, b in enumerate(b for b in range(256) if b not in PRINTED)}


@torch.no_grad()
def magnitude(
    pipe,
    prompts,
    *,
    seeds=FOUR,
    guidance: float = GUIDANCE,
    steps: int = STEPS,
    first: int | None = None,
    batch: int = BATCH,
) -> torch.Tensor:
    """How far the caption moves the predicted noise: mean over seeds of ‖ε(x_t, c) − ε(x_t, ∅)‖₂, [B, S].

    Wen et al. 2024: in Stable Diffusion memorized captions score high from the first step on. The norm is over C, h and
    w of one sample, at each of the S = `steps` steps of the guided DDIM trajectory; `first` stops after
    that many (S = `first`). Every one of the B `prompts` (captions or embeddings [B, L, D]) goes with every
    one of `seeds`, a list. `guidance` ≤ 1 follows the unguided trajectory. Norms grow with the latents' size: compare
    within one model only.

    Raises ValueError for an empty caption, no seeds or an impossible `first`.
    """
    steps, guidance, batch = check_sampling(pipe, steps, guidance, batch)
    first = check_count("first", steps if first is None else first, 1, steps)
    y, x_T = conditions(pipe, prompts), noises(pipe, seeds)
    empty, pairs, rows = embed(pipe, "").to(y), every_pair(y, x_T), []
    with tqdm(total=-(-len(pairs) // batch) * first, desc="magnitude", delay=5, leave=False) as bar:
        for caption, seed in (part.T for part in pairs.split(batch)):
            norms = []
            sampled = trajectory(pipe, x_T[seed], y[caption], guidance=guidance, steps=steps, empty=empty)
            for step in islice(sampled, first):
                norms.append(difference(step.without, step.given))
                bar.update()
            rows.append(torch.stack(norms, 1))
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
    Tokens are the tokenizer's pieces as text (`readable`), without start-of-text. End-of-text and padding carry
    gradient too; `padding=True` returns those positions as well (n = L − 1).

    Raises ValueError for an empty caption, several captions, no seeds or an impossible `first`.
    """
    if not isinstance(prompt, str):
        raise ValueError("attribution reads one caption at a time; give a string")
    steps, guidance, batch = check_sampling(pipe, steps, guidance, batch)
    first = check_count("first", first, 1, steps)
    y, x_T = conditions(pipe, prompt), noises(pipe, seeds)
    empty, weights = embed(pipe, "").to(y), []
    with tqdm(total=-(-len(x_T) // batch) * first, desc="attribution", delay=5, leave=False) as bar:
        for x in x_T.split(batch):
            given = y.expand(len(x), -1, -1)
            for step in islice(trajectory(pipe, x, given, guidance=guidance, steps=steps, empty=empty), first):
                each = y.repeat(len(x), 1, 1).requires_grad_()
                with torch.enable_grad():
                    # A sample's norm depends on its own row only, so one backward pass serves all samples.
                    total = difference(step.without, pipe.unet(step.x, step.t, each, return_dict=False)[0]).sum()
                    weights.append(vector_norm(torch.autograd.grad(total, each)[0], dim=-1))
                bar.update()
    options = {"padding": "max_length", "max_length": pipe.tokenizer.model_max_length} if padding else {}
    ids = pipe.tokenizer(prompt, **options).input_ids
    ids = ids[1:] if padding else ids[1:-1]
    tokens = readable(pipe.tokenizer, ids)
    return tokens, torch.cat(weights).mean(0)[1 : len(tokens) + 1]


@torch.no_grad()
def noise_differences(
    pipe,
    prompts,
    seeds=FOUR,
    step: int = 1,
    *,
    steps: int = STEPS,
    batch: int = 4 * BATCH,
) -> torch.Tensor:
    """NeMo's δ = ε(x_T, t, y) − x_T, without guidance, of every prompt with every seed: [B, S, C, h, w].

    `prompts` are captions or embeddings [B, L, D]. `step` is the index of t in the DDIM timesteps; x_T is not stepped.
    Hintersdorf et al. 2024 write t = T (`step=0`); their code returns at index 1, which is the default here. They use
    10 noises from one generator; here each of `seeds` has its own noise, as everywhere in this package.

    Raises ValueError for an empty caption, no seeds or a `step` out of range.
    """
    steps, _, batch = check_sampling(pipe, steps, batch=batch)
    step = check_count("step", step, 0, steps - 1)
    y, x_T = conditions(pipe, prompts), noises(pipe, seeds)
    t, done = timed_scheduler(pipe, steps, y.device).timesteps[step], []
    for caption, seed in (part.T for part in every_pair(y, x_T).split(batch)):
        done.append(pipe.unet(x_T[seed], t, y[caption], return_dict=False)[0] - x_T[seed])
    return torch.cat(done).reshape(len(y), *x_T.shape)


def between_seed_similarity(
    differences: torch.Tensor, statistic: str = "max", *, multiscale: bool | str = True
) -> torch.Tensor:
    """How alike the noise differences [B, S, C, h, w] of one caption's seeds are: [B], 1 if all are equal.

    NeMo's memorization score (`statistic="max"`, over all pairs of seeds; or "mean"): `similarity` of
    each pair. The paper's threshold, 0.428, belongs to Stable Diffusion, 10 seeds, "max" and `multiscale="batch"`.

    Raises ValueError for a wrong shape, fewer than two seeds or an unknown statistic.
    """
    check_tensor(differences)
    if differences.ndim != 5 or differences.shape[1] < 2 or not len(differences):
        raise ValueError(
            f"differences have shape {list(differences.shape)}; give [B, S, C, h, w] with two seeds or more"
        )
    if statistic not in ("max", "mean"):
        raise ValueError(f"statistic {statistic!r} is unknown; choose 'max' or 'mean'")
    one, other = torch.combinations(torch.arange(differences.shape[1])).T
    # with one range for all pairs, a caption's are all: the others beside it change nothing
    parts = differences.split(1 if multiscale == "batch" else len(differences))
    scores = [similarity(part[:, one].flatten(0, 1), part[:, other].flatten(0, 1), multiscale) for part in parts]
    scores = torch.cat(scores).reshape(len(differences), -1)
    return scores.amax(1) if statistic == "max" else scores.mean(1)


def similarity(one: torch.Tensor, other: torch.Tensor, multiscale: bool | str = True) -> torch.Tensor:
    """Structural similarity of each pair of noise differences: [N, C, h, w] twice → [N].

    Both are first scaled to [0, 1], per sample and channel. Latents of 44 rows or more are compared at
    three scales, as NeMo's code does (weights 0.33, σ 1.5, window 11), or at one with `multiscale=False`, as its
    paper says; smaller ones, like the reef's, at one, with σ 1. NeMo's code takes the data range of a coarse scale
    over all pairs at once (`multiscale="batch"`); here it is the pair's own, so that a score does not depend on the
    pairs beside it.

    Raises ValueError for a wrong shape, none, or NaN.
    """
    check_tensor(one), check_tensor(other)
    if one.shape != other.shape or one.ndim != 4 or not len(one):
        raise ValueError(f"compare differences of one shape [N, C, h, w]; got {list(one.shape)}, {list(other.shape)}")
    for differences in (one, other):
        check_finite(differences, "difference")
    large = min(one.shape[-2:]) >= MULTISCALE
    if large and multiscale:
        compare = partial(metrics.multiscale_structural_similarity_index_measure, betas=(0.33, 0.33, 0.33))
        size = len(one) if multiscale == "batch" else 1
    else:
        sigma = 1.5 if large else 1.0
        compare, size = partial(metrics.structural_similarity_index_measure, sigma=sigma, data_range=1.0), PAIRS
    parts = zip(one.split(size), other.split(size), strict=True)
    return torch.cat([compare(scaled(a), scaled(b), reduction="none").reshape(-1) for a, b in parts])


def check_tensor(differences) -> None:
    if not isinstance(differences, torch.Tensor):
        raise ValueError(f"differences are a {type(differences).__name__}; give a tensor, as noise_differences does")


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
    seeds = check_seeds(seeds)
    return initial_noise(pipe, seeds, pipe.unet.dtype).to(pipe.unet.device)


def every_pair(y, x_T):
    """Indices [B·S, 2] of every caption with every seed, seeds running fastest."""
    return torch.cartesian_prod(torch.arange(len(y)), torch.arange(len(x_T)))


def readable(tokenizer, ids) -> list[str]:
    """The pieces of byte-level BPE as text, one for each of `ids`; together they are the caption without spaces.

    Where a character is made of several pieces it stands in the first, and the others are empty.
    """
    tokens, found, pending = tokenizer.convert_ids_to_tokens(ids), [[] for _ in ids], bytearray()
    owner = 0
    for k, token in enumerate(tokens):
        letters = token.removesuffix(WORD_END)
        if token in tokenizer.all_special_tokens or not all(letter in BYTES for letter in letters):
            found[k].append(letters)  # an added token stands for itself
            continue
        for letter in letters:
            if not pending:
                owner = k
            pending.append(BYTES[letter])
            try:
                found[owner].append(pending.decode())
            except UnicodeDecodeError:
                continue  # more of this character is to come
            pending.clear()
    return ["".join(parts) for parts in found]
