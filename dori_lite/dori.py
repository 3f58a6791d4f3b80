"""DoRI's attack: an embedding y_adv under which the model denoises towards a given picture, by gradient descent.

For a known image latent x_0 and a frozen U-Net, minimise E‖ε − ε_θ(√ᾱ_t x_0 + √(1−ᾱ_t) ε, t, y)‖² over y, with new
noise ε and timesteps t at each step (Finding DoRI, as public notes describe it; our own choices are marked).
"""

import hashlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from tqdm.auto import tqdm

from .models import check_latents, ddim_scheduler, embed
from .sampling import conditions

STEPS, LR, BATCH = 50, 0.1, 8  # the paper's, from the notes
SAMPLES = 96  # noisy latents in one pass through the U-Net


@dataclass(frozen=True, eq=False)
class Triggers:
    """What an attack found for N targets. y_adv are the `embeddings` [N, L, D], fp32, from `start` [N, L, D].

    `losses` [N, steps] is the loss of each step, before it, in the step's own noise; `snapshots` holds the
    embeddings after chosen numbers of steps, {step: [N, L, D]}.
    """

    embeddings: torch.Tensor
    start: torch.Tensor
    losses: torch.Tensor
    snapshots: dict[int, torch.Tensor]

    @property
    def displacement(self) -> torch.Tensor:
        """‖y_adv − y⁽⁰⁾‖₂ of each target, [N]."""
        return (self.embeddings - self.start).flatten(1).norm(dim=1)


@torch.enable_grad()
def find_triggers(
    pipe,
    latents: torch.Tensor,
    init="prompt",
    *,
    prompts=None,
    steps: int = STEPS,
    lr: float = LR,
    batch: int = BATCH,
    seed: int = 0,
    streams: Sequence | None = None,
    snapshots: Sequence[int] = (),
    positions: Sequence[int] | None = None,
    radius: float | None = None,
    band: tuple[int, int] | None = None,
    resample: bool = True,
    samples: int = SAMPLES,
) -> Triggers:
    """Search an embedding for each of `latents` x_0 [N, C, h, w] (`models.encode`); nothing of `pipe` changes.

    `init` is where the search starts: "prompt" (the embeddings of `prompts`, N or one), "random" (normal, with the
    prompt embeddings' own mean and standard deviation), "normal" (N(0, I), the paper's), or embeddings [N, L, D].
    Each of `steps` Adam steps (rate `lr`, no weight decay) sees `batch` fresh pairs of ε ~ N(0, I) and
    t ~ U over all training timesteps. `snapshots` are the numbers of steps after which y is kept.

    For the critics: `positions` lets only these tokens move; `radius` keeps ‖y − y⁽⁰⁾‖₂ within a ball; `band`
    (low, high) draws t with low ≤ t < high; `resample=False` fixes ε and t for all steps.

    Draws belong to (`seed`, target's entry in `streams` [default: 0, 1, …], step): a target's result does not
    depend on the others beside it. `samples` bounds a U-Net batch, which holds one target at least. y and Adam's
    state are fp32 or wider; an fp16 U-Net runs under autocast, its loss scaled (the notes advise fp32; fp16 was not
    tried on a GPU here; give `samples=8` where memory is short). Mean reduction, all tokens free and no
    constraint are our choices; the notes name none.

    Raises ValueError for latents or embeddings of a wrong shape or not finite and for impossible settings,
    FloatingPointError when a loss is no longer finite.
    """
    snapshots = list(snapshots)
    check(pipe, latents, steps, lr, batch, snapshots, radius)
    n, dtype = len(latents), torch.promote_types(pipe.unet.dtype, torch.float32)
    streams = [str(k) for k in (range(n) if streams is None else streams)]
    if len(streams) != n:
        raise ValueError(f"{len(streams)} streams for {n} targets; give one for each")
    start = starts(pipe, init, prompts, seed, streams, dtype)
    low, high = check_band(band, pipe.scheduler.config.num_train_timesteps)
    free = free_positions(start, positions)
    y = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([y], lr)
    alphas = ddim_scheduler(pipe.scheduler.config).alphas_cumprod.to(y)
    x_0, losses, kept = latents.to(y), [], {}
    per_pass = max(1, samples // batch)
    scale = 2.0**14 if pipe.unet.dtype == torch.float16 else 1.0  # mean-reduced gradients vanish in half precision

    with tqdm(total=steps, desc="attack", delay=5, leave=False) as bar:
        for step in range(steps):
            if step in snapshots:
                kept[step] = y.detach().clone()
            noise, t = draw(streams, seed, step if resample else 0, batch, x_0, low, high)
            y.grad, now = torch.zeros_like(y), []
            for part in torch.arange(n).split(per_pass):
                loss = denoising_loss(pipe.unet, x_0[part], y[part], noise[part], t[part], alphas)
                y.grad += torch.autograd.grad(loss.sum() * scale, y)[0] / scale
                now.append(loss.detach())
            losses.append(torch.cat(now))
            if free is not None:
                y.grad *= free
            optimizer.step()
            if radius is not None:
                project(y, start, radius)
            bar.update()
    losses = torch.stack(losses, 1)
    if not (torch.isfinite(losses).all() and torch.isfinite(y).all()):
        raise FloatingPointError("the attack's loss is not finite; use a lower lr, or a U-Net in fp32")
    y = y.detach()
    return Triggers(y, start, losses, kept | {step: y.clone() for step in snapshots if step == steps})


def denoising_loss(unet, x_0, y, noise, t, alphas) -> torch.Tensor:
    """‖ε − ε_θ(x_t, t, y)‖², mean over a target's noises and the latent's entries: [N].

    x_0 [N, C, h, w], y [N, L, D], noise [N, B, C, h, w], t [N, B], `alphas` the scheduler's ᾱ [T].
    """
    kept = alphas[t][..., None, None, None]
    x_t = kept.sqrt() * x_0[:, None] + (1 - kept).sqrt() * noise
    given = y[:, None].expand(-1, t.shape[1], -1, -1)
    half = unet.dtype in (torch.float16, torch.bfloat16)
    with torch.autocast(y.device.type, unet.dtype) if half else nullcontext():
        found = unet(x_t.flatten(0, 1), t.flatten(), given.flatten(0, 1), return_dict=False)[0]
    return (found.to(noise.dtype) - noise.flatten(0, 1)).square().unflatten(0, t.shape).mean((1, 2, 3, 4))


def draw(streams, seed, step, batch, x_0, low, high):
    """One step's noise [N, B, C, h, w] and timesteps [N, B]; each target draws from a stream of its own."""
    noise, times = [], []
    for stream in streams:
        random = generator(seed, stream, step)
        # float32 whatever the model's precision, so that all precisions see the same draws
        noise.append(torch.randn((batch, *x_0.shape[1:]), generator=random))
        times.append(torch.randint(low, high, (batch,), generator=random))
    return torch.stack(noise).to(x_0), torch.stack(times).to(x_0.device)


def generator(seed: int, stream: str, step) -> torch.Generator:
    """A generator on the CPU that belongs to (seed, stream, step)."""
    digest = hashlib.sha256(f"{seed}/{stream}/{step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def starts(pipe, init, prompts, seed: int, streams, dtype) -> torch.Tensor:
    """y⁽⁰⁾ of each target, [N, L, D], in `dtype`: given and drawn embeddings are not rounded to the U-Net's."""
    n = len(streams)
    if isinstance(init, torch.Tensor):
        conditions(pipe, None, init)  # its shape
        y = init.detach().to(pipe.unet.device, dtype)
        y = y if y.ndim == 3 else y[None]
        if not torch.isfinite(y).all():
            raise ValueError("the starting embeddings hold NaN or infinite values")
    elif init == "prompt":
        if prompts is None:
            raise ValueError("init='prompt' needs prompts: one for each target, or one for all")
        y = conditions(pipe, prompts, None).to(dtype)
    elif init in ("random", "normal"):
        # The empty caption's embedding stands for the scale of all: the encoder's last layer norm fixes it.
        known = embed(pipe, "").to(dtype) if prompts is None else conditions(pipe, prompts, None).to(dtype)
        shape = known.shape[1:]
        y = torch.stack([torch.randn(shape, generator=generator(seed, s, "start")) for s in streams]).to(known)
        y = y if init == "normal" else known.mean() + known.std() * y
    else:
        raise ValueError(f"init is 'prompt', 'random', 'normal' or embeddings [N, L, D]; got {init!r}")
    if len(y) not in (1, n):
        what = "prompts" if isinstance(init, str) else "starting embeddings"
        raise ValueError(f"{len(y)} {what} for {n} targets; give one for each, or one for all")
    return y.expand(n, -1, -1)


def free_positions(y: torch.Tensor, positions) -> torch.Tensor | None:
    """1 for tokens that may move and 0 for others, [L, 1]; None if all may."""
    if positions is None:
        return None
    length, positions = y.shape[1], list(positions)
    if not positions or any(not isinstance(p, int) or not 0 <= p < length for p in positions):
        raise ValueError(f"positions are tokens from 0 to {length - 1}, at least one; got {positions}")
    free = torch.zeros(length, 1, dtype=y.dtype, device=y.device)
    free[positions] = 1
    return free


@torch.no_grad()
def project(y, start, radius: float) -> None:
    """Bring y back into the ball ‖y − start‖₂ ≤ radius, each target by itself."""
    move = y - start
    norm = move.flatten(1).norm(dim=1).clamp(min=torch.finfo(y.dtype).tiny)
    y.copy_(start + move * (radius / norm).clamp(max=1)[:, None, None])


def check(pipe, latents, steps, lr, batch, snapshots, radius) -> None:
    check_latents(pipe, latents)
    if not len(latents):
        raise ValueError("there are no targets; give the latents of at least one picture")
    for name, value in (("steps", steps), ("batch", batch)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}={value!r} is not a count; give a whole number from 1 on")
    if not lr > 0 or (radius is not None and not radius > 0):  # NaN is not above 0 either
        raise ValueError(f"lr and radius must be above 0; got lr={lr}, radius={radius}")
    if wrong := [s for s in snapshots if not 0 <= s <= steps]:
        raise ValueError(f"there is no snapshot after {wrong[0]} of {steps} steps; choose 0 to {steps}")


def check_band(band, total: int) -> tuple[int, int]:
    ends = (0, total) if band is None else tuple(band)
    if len(ends) != 2 or not all(isinstance(end, int) for end in ends) or not 0 <= ends[0] < ends[1] <= total:
        raise ValueError(f"band is whole numbers (low, high) with 0 ≤ low < high ≤ {total}; got {band}")
    return ends
