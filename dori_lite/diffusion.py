"""The diffusion itself, top to bottom: the forward process, the loss, keyed noise, and the sampler (DDIM, guided).

    pictures = generate(pipe, "a red fish over rock", seeds=range(4))
    for step in trajectory(pipe, x_T, y, guidance=7.5, steps=50):  # to look at every step
        print(step.t, (step.given - step.without).norm())

Defaults are diffusers' own, for Stable Diffusion; a world brings its settings (`generate(..., **world.sampling)`).
Everything here takes a model that predicts ε, and refuses others (`checks.check_pipe`).
"""

import hashlib
from collections.abc import Iterator
from contextlib import nullcontext
from numbers import Integral
from typing import NamedTuple

import torch
from diffusers import DDIMScheduler
from tqdm.auto import tqdm

from .checks import check_count, check_number, check_pipe, check_seeds
from .models import check_latents, conditions, ddim_scheduler, decode, embed, latent_shape

GUIDANCE, STEPS, BATCH = 7.5, 50, 8


# ---- forward: noise goes in, and the loss of guessing it ----------------------------------------------


def noised(x_0, noise, t, alphas) -> torch.Tensor:
    """x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε. `x_0` and `noise` broadcast to [..., C, h, w], `t` [...] are indices of ᾱ [T]."""
    kept = alphas[t][..., None, None, None]
    return kept.sqrt() * x_0 + (1 - kept).sqrt() * noise


def alphas_cumprod(pipe) -> torch.Tensor:
    """ᾱ of the scheduler, [T]. Raises ValueError for a model that does not predict ε."""
    check_pipe(pipe)
    return ddim_scheduler(pipe.scheduler.config).alphas_cumprod


def denoising_loss(unet, x_0, y, noise, t, alphas) -> torch.Tensor:
    """‖ε − ε_θ(x_t, t, y)‖², mean over each picture's noises and the latent's entries: [N].

    x_0 [N, C, h, w], y [N, L, D], noise [N, B, C, h, w], t [N, B], `alphas` as from `alphas_cumprod`. A U-Net in half
    precision runs under autocast.
    """
    x_t = noised(x_0[:, None], noise, t, alphas)
    given = y[:, None].expand(-1, t.shape[1], -1, -1)
    half = unet.dtype in (torch.float16, torch.bfloat16)
    with torch.autocast(y.device.type, unet.dtype) if half else nullcontext():
        found = unet(x_t.flatten(0, 1), t.flatten(), given.flatten(0, 1), return_dict=False)[0]
    return (found.to(noise.dtype) - noise.flatten(0, 1)).square().unflatten(0, t.shape).mean((1, 2, 3, 4))


# ---- keyed noise ------------------------------------------------------------------------------------


def generator(seed: int, stream: str, step) -> torch.Generator:
    """A generator on the CPU that belongs to (seed, stream, step), whatever was drawn before."""
    digest = hashlib.sha256(f"{seed}/{stream}/{step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def draw(streams, seed, step, batch, x_0, low, high):
    """One step's noise [N, batch, C, h, w] and timesteps [N, batch], low ≤ t < high; each of the N streams has its own.

    `x_0` [N, C, h, w] gives shape, precision and device.
    """
    noise, times = [], []
    for stream in streams:
        random = generator(seed, stream, step)
        # float32 whatever the model's precision, so that all precisions see the same draws
        noise.append(torch.randn((batch, *x_0.shape[1:]), generator=random))
        times.append(torch.randint(low, high, (batch,), generator=random))
    return torch.stack(noise).to(x_0), torch.stack(times).to(x_0.device)


def initial_noise(pipe, seeds: list[int], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """x_T of each seed, [B, C, h, w], drawn on the CPU so that a seed means the same on every device."""
    shape, seeds = (1, *latent_shape(pipe)), check_seeds(seeds)
    return torch.cat([torch.randn(shape, generator=torch.Generator().manual_seed(s), dtype=dtype) for s in seeds])


# ---- backward: the sampler ----------------------------------------------------------------------------


class Step(NamedTuple):
    """One step of the sampler: at timestep `t`, from `x` [B, C, h, w] to `after`, under predictions of the noise.

    `given` is ε_θ(x, t, y), `without` ε_θ(x, t, ∅) for the empty caption (None where there is no guidance).
    """

    t: torch.Tensor
    x: torch.Tensor
    without: torch.Tensor | None
    given: torch.Tensor
    after: torch.Tensor


@torch.no_grad()
def trajectory(
    pipe, x, y, *, guidance=GUIDANCE, steps: int = STEPS, begin: int = 0, empty=None, unets=None, scheduler=None
) -> Iterator[Step]:
    """DDIM (η = 0) from x_T `x` [B, C, h, w] under embeddings `y` [B, L, D]: yields each of `steps` `Step`s.

    The last one's `after` is x_0. The first `begin` steps are left out: then `x` is a latent of the next one's
    timestep, such as a picture's with noise. `guidance` ≤ 1 means none: then the U-Net is asked once a step, unless
    `empty` is given, the empty caption's embeddings [1, L, D], which are computed here otherwise. `unets` are the
    U-Nets that predict, one for each step, where it is not always the pipeline's own. `scheduler` takes the place of
    DDIM's, with its timesteps set: of another sampler, which may ask twice at one timestep.
    Raises ValueError for a model that does not predict ε, for impossible numbers, and for `x` and `y` that are of
    another model, not finite or not as many.
    """
    check_latents(pipe, x)
    if not isinstance(y, torch.Tensor) or not 1 <= len(x) == len(y := embed(pipe, y)):
        got = f"{len(y)} embeddings" if isinstance(y, torch.Tensor) else f"a {type(y).__name__}"
        raise ValueError(f"{got} for {len(x)} latents; give as many embeddings [B, L, D], of one latent at least")
    scheduler = timed_scheduler(pipe, steps, x.device) if scheduler is None else scheduler
    guidance = check_number("guidance", guidance)
    times = scheduler.timesteps[check_count("begin", begin, 0, steps - 1) :]
    if empty is None and guidance > 1:
        empty = embed(pipe, "").to(y)
    x = x * scheduler.init_noise_sigma
    both = y if empty is None else torch.cat([empty.expand_as(y), y])
    unets = [pipe.unet] * len(times) if unets is None else unets
    for t, unet in zip(times, unets, strict=True):
        without = None
        if empty is None:
            noise = given = unet(x, t, both, return_dict=False)[0]
        else:
            without, given = unet(torch.cat([x, x]), t, both, return_dict=False)[0].chunk(2)
            noise = without + max(guidance, 1.0) * (given - without)
        after = scheduler.step(noise, t, x, return_dict=False)[0]
        yield Step(t, x, without, given, after)
        x = after


@torch.no_grad()
def generate(
    pipe,
    prompts,
    *,
    seeds=0,
    guidance: float = GUIDANCE,
    steps: int = STEPS,
    latents: torch.Tensor | None = None,
    begin: int = 0,
    output: str = "images",
    batch: int = BATCH,
) -> torch.Tensor:
    """Sample one picture for each pair of prompt and seed: [B, 3, H, W] in [0, 1].

    `prompts` (a caption, several, or embeddings [B, L, D] or [L, D]) and `seeds` (int or list) are paired; one of
    either goes with all of the other. A sample is a function of its own seed, whatever the batch.
    `latents` [B, C, h, w] replaces the seeds' x_T; it may be given later than that, at the timestep that comes after
    `begin` of the steps (as image-to-image pipelines do). `guidance` ≤ 1 switches guidance off, as in diffusers. With
    `output="latents"` it returns x_0 [B, C, h, w]. At most `batch` pictures are sampled at once.

    The same numbers as `StableDiffusionPipeline.__call__` with one generator per seed (tested).

    Raises ValueError for an empty caption, unequal lengths, a wrong shape, impossible numbers or a model that does not
    predict ε.
    """
    steps, guidance, batch = check_sampling(pipe, steps, guidance, batch)
    y = conditions(pipe, prompts)
    begin = check_count("begin", begin, 0, steps - 1)
    if begin and latents is None:
        raise ValueError(f"after {begin} steps there is no seed's noise any more; give latents of that timestep")
    if latents is not None:
        check_latents(pipe, latents)
        x_T = latents.to(y)
    else:
        x_T = initial_noise(pipe, [seeds] if isinstance(seeds, Integral) else seeds, y.dtype).to(y.device)
    n = max(len(y), len(x_T))
    if {len(y), len(x_T)} - {1, n}:
        raise ValueError(f"{len(y)} prompts and {len(x_T)} seeds do not pair up; give as many, or one of either")
    if output not in ("images", "latents"):
        raise ValueError(f"output {output!r} is unknown; choose 'images' or 'latents'")
    y, x_T = y.expand(n, -1, -1), x_T.expand(n, -1, -1, -1)
    empty, done = embed(pipe, "").to(y) if guidance > 1 else None, []
    with tqdm(total=-(-n // batch) * (steps - begin), desc="sampling", delay=5, leave=False) as bar:
        for part_y, part_x in zip(y.split(batch), x_T.split(batch), strict=True):
            x_0 = part_x
            options = {"guidance": guidance, "steps": steps, "begin": begin, "empty": empty}
            for step in trajectory(pipe, part_x, part_y, **options):
                x_0 = step.after
                bar.update()
            done.append(x_0 if output == "latents" else decode(pipe, x_0))
    return torch.cat(done)


def check_sampling(pipe, steps, guidance=GUIDANCE, batch=BATCH) -> tuple[int, float, int]:
    """The settings. Raises ValueError where nothing can be sampled with them, or for what `check_pipe` refuses."""
    check_pipe(pipe)
    steps = check_count("steps", steps, 1, pipe.scheduler.config.num_train_timesteps)
    return steps, check_number("guidance", guidance), check_count("batch", batch)


def timed_scheduler(pipe, steps: int, device) -> DDIMScheduler:
    """A fresh DDIM scheduler with the pipeline's noise schedule and `steps` timesteps. Raises as `check_sampling`."""
    steps, *_ = check_sampling(pipe, steps)
    scheduler = ddim_scheduler(pipe.scheduler.config)
    scheduler.set_timesteps(steps, device=device)
    return scheduler
