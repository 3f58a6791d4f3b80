"""DoRI's attack: an embedding y_adv under which the model denoises towards a given picture, by gradient descent.

For a known image latent x_0 and a frozen U-Net, minimise E‖ε − ε_θ(√ᾱ_t x_0 + √(1−ᾱ_t) ε, t, y)‖² over y, with new
noise ε and timesteps t at each step (Finding DoRI, as public notes describe it; our own choices are marked).

    found = find_triggers(pipe, models.encode(pipe, image[None]), "a caption to start from")
    pictures = diffusion.generate(pipe, found.on(pipe), seeds=range(4))
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tqdm.auto import tqdm

from .diffusion import alphas_cumprod, denoising_loss, draw, generator
from .models import check_latents, check_same_model, conditions, embed, fingerprint

STEPS, LR, BATCH = 50, 0.1, 8  # the paper's, from the notes
SAMPLES = 8  # noisy latents in one pass through the U-Net: one target of Stable Diffusion on a small GPU
STARTS = ("prompt", "random", "normal")


@dataclass(frozen=True, eq=False)
class Triggers:
    """What an attack found for N targets. y_adv are the `embeddings` [N, L, D], fp32, from `start` [N, L, D].

    `losses` [N, steps] is the loss of each step, before it, in the step's own noise; `snapshots` holds the
    embeddings after chosen numbers of steps, {step: [N, L, D]}; `model` is the `fingerprint` of the model attacked.
    """

    embeddings: torch.Tensor
    start: torch.Tensor
    losses: torch.Tensor
    snapshots: dict[int, torch.Tensor]
    model: str | None = None

    def on(self, pipe, step: int | None = None, *, transfer: bool = False) -> torch.Tensor:
        """y_adv [N, L, D] for use in `pipe` (or as they were after `step` steps).

        Raises ValueError in another model than the one that was attacked, unless `transfer`; the same model pruned, or
        no longer pruned, is another one.
        """
        check_same_model(pipe, self.model, "these triggers were", transfer)
        return self.embeddings if step is None else self.snapshots[step]

    def tensors(self) -> dict[str, torch.Tensor]:
        """What `Run.keep` keeps of them; `stored` makes them of it again, without snapshots."""
        model = torch.tensor(list((self.model or "").encode()), dtype=torch.uint8)
        return {"embeddings": self.embeddings, "start": self.start, "losses": self.losses, "model": model}

    @property
    def displacement(self) -> torch.Tensor:
        """‖y_adv − y⁽⁰⁾‖₂ of each target, [N]."""
        return (self.embeddings - self.start).flatten(1).norm(dim=1)


def stored(tensors) -> Triggers:
    """The triggers whose `tensors` were kept: `stored(run.tensors("attack", target, condition, start))`."""
    model = bytes(tensors["model"].tolist()).decode() or None
    return Triggers(tensors["embeddings"], tensors["start"], tensors["losses"], {}, model)


@torch.enable_grad()
def find_triggers(
    pipe,
    latents: torch.Tensor,
    prompts=None,
    *,
    start: str | None = None,
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

    `prompts` are captions or embeddings [N, L, D], one for each target or one for all. `start` is where the search
    begins: "prompt" (there; the default where they are given), "random" (normal, with the prompts' embeddings' own
    mean and standard deviation, or the empty caption's; the default without prompts) or "normal" (N(0, I), the
    paper's). Each of `steps` Adam steps (rate `lr`, no weight decay) sees `batch` fresh pairs of ε ~ N(0, I) and
    t ~ U over all training timesteps. `snapshots` are the numbers of steps after which y is kept.

    For the critics: `positions` lets only these tokens move; `radius` keeps ‖y − y⁽⁰⁾‖₂ within a ball; `band`
    (low, high) draws t with low ≤ t < high; `resample=False` fixes ε and t for all steps.

    Draws belong to (`seed`, target's entry in `streams` [default: 0, 1, …], step): a target's result does not
    depend on the others beside it. `samples` bounds a U-Net batch, which holds one target at least. y and Adam's
    state are fp32 or wider; an fp16 U-Net runs under autocast, its loss scaled (the notes advise fp32; fp16 was not
    tried on a GPU here). Mean reduction, all tokens free and no constraint are our choices; the notes name none.

    Raises ValueError for latents or embeddings of a wrong shape or not finite, for impossible settings and for a
    model that does not predict ε; FloatingPointError when a loss is no longer finite.
    """
    snapshots = list(snapshots)
    check(pipe, latents, steps, lr, batch, snapshots, radius)
    n, dtype = len(latents), torch.promote_types(pipe.unet.dtype, torch.float32)
    streams = [str(k) for k in (range(n) if streams is None else streams)]
    if len(streams) != n:
        raise ValueError(f"{len(streams)} streams for {n} targets; give one for each")
    origin = starts(pipe, prompts, start or ("random" if prompts is None else "prompt"), seed, streams, dtype)
    low, high = check_band(band, pipe.scheduler.config.num_train_timesteps)
    free = free_positions(origin, positions)
    y = origin.clone().requires_grad_()
    optimizer = torch.optim.Adam([y], lr)
    alphas = alphas_cumprod(pipe).to(y)
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
                project(y, origin, radius)
            bar.update()
    losses = torch.stack(losses, 1)
    if not (torch.isfinite(losses).all() and torch.isfinite(y).all()):
        raise FloatingPointError("the attack's loss is not finite; use a lower lr, or a U-Net in fp32")
    y = y.detach()
    kept |= {step: y.clone() for step in snapshots if step == steps}
    return Triggers(y, origin, losses, kept, fingerprint(pipe))


def starts(pipe, prompts, start: str, seed: int, streams, dtype) -> torch.Tensor:
    """y⁽⁰⁾ of each target, [N, L, D], in `dtype`: given and drawn embeddings are not rounded to the U-Net's."""
    if start not in STARTS:
        raise ValueError(f"start is {', '.join(map(repr, STARTS))}; got {start!r}")
    if start == "prompt" and prompts is None:
        raise ValueError("start='prompt' needs prompts: one for each target, or one for all")
    n = len(streams)
    if isinstance(prompts, torch.Tensor):
        y = embed(pipe, prompts).detach().to(pipe.unet.device, dtype)
        if not torch.isfinite(y).all():
            raise ValueError("the starting embeddings hold NaN or infinite values")
    else:
        # The empty caption's embedding stands for the scale of all: the encoder's last layer norm fixes it.
        y = (embed(pipe, "") if prompts is None else conditions(pipe, prompts)).to(pipe.unet.device, dtype)
    if start != "prompt":
        drawn = torch.stack([torch.randn(y.shape[1:], generator=generator(seed, s, "start")) for s in streams]).to(y)
        return drawn if start == "normal" else y.mean() + y.std() * drawn
    if len(y) not in (1, n):
        what = "starting embeddings" if isinstance(prompts, torch.Tensor) else "prompts"
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
