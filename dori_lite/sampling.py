"""From captions or embeddings to pictures: DDIM with classifier-free guidance."""

from numbers import Integral

import torch
from tqdm.auto import tqdm

from .models import check_latents, ddim_scheduler, decode, embed, latent_shape

GUIDANCE, STEPS = 5.0, 25  # the reef's, chosen on tuning canaries; for Stable Diffusion pass guidance=7.0, steps=50


@torch.no_grad()
def generate(
    pipe,
    prompts=None,
    *,
    embeddings: torch.Tensor | None = None,
    seeds=0,
    guidance: float = GUIDANCE,
    steps: int = STEPS,
    latents: torch.Tensor | None = None,
    output: str = "images",
    batch: int = 32,
) -> torch.Tensor:
    """Sample one picture for each pair of prompt (or embedding) and seed.

    `prompts` (str or list) or `embeddings` [B, L, D] or [L, D], and `seeds` (int or list), are paired;
    one of either goes with all of the other. A sample is a function of its own seed, whatever the
    batch. `latents` [B, C, h, w] replaces the seeds' x_T. `guidance` ≤ 1 switches guidance off, as in
    diffusers. Returns [B, 3, H, W] in [0, 1], or x_0 [B, C, h, w] with `output="latents"`. At most
    `batch` pictures are sampled at once.

    The same numbers as `StableDiffusionPipeline.__call__` with one generator per seed (tested).

    Raises ValueError for an empty caption, unequal lengths or a wrong shape.
    """
    y = conditions(pipe, prompts, embeddings)
    if latents is not None:
        check_latents(pipe, latents)
        x_T = latents.to(y)
    else:
        seeds = [seeds] if isinstance(seeds, Integral) else list(seeds)
        if not seeds:
            raise ValueError("there are no seeds; give at least one")
        x_T = initial_noise(pipe, [int(seed) for seed in seeds], y.dtype).to(y.device)
    n = max(len(y), len(x_T))
    if {len(y), len(x_T)} - {1, n}:
        raise ValueError(f"{len(y)} prompts and {len(x_T)} seeds do not pair up; give as many, or one of either")
    if output not in ("images", "latents"):
        raise ValueError(f"output {output!r} is unknown; choose 'images' or 'latents'")
    y, x_T = y.expand(n, -1, -1), x_T.expand(n, -1, -1, -1)
    silent = embed(pipe, "").to(y) if guidance > 1 else None
    done = []
    with tqdm(total=-(-n // batch) * steps, desc="sampling", delay=5, leave=False) as bar:
        for part_y, part_x in zip(y.split(batch), x_T.split(batch), strict=True):
            x = ddim(pipe, part_x, part_y, silent, guidance, steps, bar)
            done.append(x if output == "latents" else decode(pipe, x))
    return torch.cat(done)


def ddim(pipe, x, y, silent, guidance, steps, bar, on_step=None, first=None):
    """The DDIM loop (η = 0) from x_T `x` [B, C, h, w] under embeddings `y` [B, L, D]; returns x_0.

    With guidance, `on_step(x_t, t, without, given)` sees every step's latents and its predictions without
    and given the caption, before the step is taken. `first` ends the loop after that many steps.
    """
    scheduler = ddim_scheduler(pipe.scheduler.config)
    scheduler.set_timesteps(steps, device=x.device)
    x = x * scheduler.init_noise_sigma
    both = y if silent is None else torch.cat([silent.expand_as(y), y])
    for t in scheduler.timesteps[:first]:
        if silent is None:
            noise = pipe.unet(x, t, both, return_dict=False)[0]
        else:
            without, given = pipe.unet(torch.cat([x, x]), t, both, return_dict=False)[0].chunk(2)
            if on_step is not None:
                on_step(x, t, without, given)
            noise = without + guidance * (given - without)
        x = scheduler.step(noise, t, x, return_dict=False)[0]
        bar.update()
    return x


def conditions(pipe, prompts, embeddings) -> torch.Tensor:
    """The embeddings [B, L, D] that a caller asked for by prompt or directly."""
    if (prompts is None) == (embeddings is None):
        raise ValueError("give either prompts or embeddings")
    if embeddings is None:
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not prompts:
            raise ValueError("there are no prompts; give at least one")
        for k, prompt in enumerate(prompts):
            if not isinstance(prompt, str) or not prompt.strip():
                raise ValueError(f"caption {k} is empty; to sample without one, use embeddings=embed(pipe, '')")
        return embed(pipe, prompts)
    y = embeddings if embeddings.ndim == 3 else embeddings[None]
    expected = pipe.tokenizer.model_max_length, pipe.unet.config.cross_attention_dim
    if y.ndim != 3 or tuple(y.shape[1:]) != expected:
        raise ValueError(
            f"embeddings have shape {list(embeddings.shape)}; this model takes [B, {expected[0]}, {expected[1]}]"
        )
    return y.to(pipe.unet.device, pipe.unet.dtype)


def initial_noise(pipe, seeds: list[int], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """x_T of each seed, [B, C, h, w], drawn on the CPU so that a seed means the same on every device."""
    shape = (1, *latent_shape(pipe))
    return torch.cat([torch.randn(shape, generator=torch.Generator().manual_seed(s), dtype=dtype) for s in seeds])
