"""DoRI's attack: an embedding y_adv under which the model denoises towards a given picture, by gradient descent.

For a known image latent x_0 and a frozen U-Net, minimise E‖ε − ε_θ(√ᾱ_t x_0 + √(1−ᾱ_t) ε, t, y)‖² over y, with new
noise ε and timesteps t at each step (Finding DoRI, as public notes describe it; our own choices are marked).

    found = find_triggers(pipe, models.encode(pipe, image[None]), "a caption to start from")
    pictures = diffusion.generate(pipe, found.on(pipe), seeds=range(4))
"""

import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from tqdm.auto import tqdm

from .checks import check_count, check_finite, check_list, check_positive, check_seed
from .diffusion import alphas_cumprod, denoising_loss, draw, generator
from .masks import WeightMask, pruned
from .models import check_latents, check_same_model, conditions, embed, fingerprint

STEPS, LR, BATCH = 50, 0.1, 8  # the paper's, from the notes
SAMPLES = 8  # noisy latents in one pass through the U-Net: one target of Stable Diffusion on a small GPU
STARTS = ("prompt", "random", "normal")
STILL = 1e-6  # of an embedding's length: in fp32 a smaller move is rounding


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
        no longer pruned, is another one. So it does for steps that no snapshot was kept after.
        """
        check_same_model(pipe, self.model, "these triggers were", transfer)
        step = None if step is None else check_count("step", step, 0)
        if step is not None and step not in self.snapshots:
            known = ", ".join(map(str, sorted(self.snapshots))) or "none"
            raise ValueError(f"no snapshot was kept after step={step!r}; there are: {known}")
        return self.embeddings if step is None else self.snapshots[step]

    def tensors(self) -> dict[str, torch.Tensor]:
        """What `Run.keep` keeps of them; `stored` makes them of it again."""
        model = torch.tensor(list((self.model or "").encode()), dtype=torch.uint8)
        found = {"embeddings": self.embeddings, "start": self.start, "losses": self.losses, "model": model}
        return found | {f"after {step}": y for step, y in self.snapshots.items()}

    @property
    def displacement(self) -> torch.Tensor:
        """‖y_adv − y⁽⁰⁾‖₂ of each target, [N]."""
        return (self.embeddings - self.start).flatten(1).norm(dim=1)


def stored(tensors) -> Triggers:
    """The triggers whose `tensors` were kept: `stored(run.tensors("attack", target, condition, start))`.

    Raises ValueError for tensors that are not a trigger's.
    """
    if not isinstance(tensors, Mapping):
        raise ValueError(f"a {type(tensors).__name__} is no trigger; give what Triggers.tensors made")
    if missing := {"embeddings", "start", "losses", "model"} - {*tensors}:
        raise ValueError(f"these tensors are no triggers: {min(missing)} is missing; give what Triggers.tensors made")
    model = bytes(tensors["model"].tolist()).decode() or None
    snapshots = {int(name[6:]): y for name, y in tensors.items() if name.startswith("after ")}
    return Triggers(tensors["embeddings"], tensors["start"], tensors["losses"], snapshots, model)


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
    subspace: int | None = None,
    also: WeightMask | None = None,
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

    For the critics: `positions` lets only these tokens move; `subspace` lets y move in so many directions of [L, D],
    or of these tokens, alone: orthonormal and random, those of `seed`, the same for all targets; Adam sees their
    coordinates. `radius` keeps ‖y − y⁽⁰⁾‖₂ within a ball; `band` (low, high) draws t with low ≤ t < high;
    `resample=False` fixes ε and t for all steps. With the mask `also`, one y is sought for two models, this one and
    this one pruned: the loss is the mean of both.

    Draws belong to (`seed`, target's entry in `streams` [default: 0, 1, …], step): a target's result does not
    depend on the others beside it. `samples` bounds a U-Net batch, which holds one target at least. y and Adam's
    state are fp32 or wider; an fp16 U-Net runs under autocast, its loss scaled (the notes advise fp32; fp16 was not
    tried on a GPU here). Mean reduction, all tokens free and no constraint are our choices; the notes name none.

    Warns if an embedding does not move: by less than a millionth of its length.

    Raises ValueError for latents or embeddings of a wrong shape or not finite, for impossible settings and for a
    model that does not predict ε; FloatingPointError at the first step whose loss or embedding is not finite.
    """
    check_latents(pipe, latents)
    if not len(latents):
        raise ValueError("there are no targets; give the latents of at least one picture")
    steps, batch, samples = check_count("steps", steps), check_count("batch", batch), check_count("samples", samples)
    lr, radius = check_positive("lr", lr), None if radius is None else check_positive("radius", radius)
    snapshots = [check_count("a snapshot", after, 0, steps) for after in check_list("snapshots", snapshots, "counts")]
    seed, streams = check_seed(seed), None if streams is None else check_list("streams", streams, "names")
    n, dtype = len(latents), torch.promote_types(pipe.unet.dtype, torch.float32)
    streams = [str(k) for k in (range(n) if streams is None else streams)]
    if len(streams) != n:
        raise ValueError(f"{len(streams)} streams for {n} targets; give one for each")
    start = ("random" if prompts is None else "prompt") if start is None else start
    origin = starts(pipe, prompts, start, seed, streams, dtype)
    low, high = check_band(band, pipe.scheduler.config.num_train_timesteps)
    basis = directions(origin, subspace, free := free_positions(origin, positions), seed)
    begin = origin if basis is None else origin.new_zeros(n, len(basis))
    z = begin.clone().requires_grad_()  # what moves: y itself, or its coordinates in the subspace
    optimizer = torch.optim.Adam([z], lr)
    alphas = alphas_cumprod(pipe).to(origin)
    x_0, losses, kept = latents.to(origin), [], {}
    per_pass, models = max(1, samples // batch), [None] if also is None else [None, also]
    scale = 2.0**14 if pipe.unet.dtype == torch.float16 else 1.0  # mean-reduced gradients vanish in half precision

    with tqdm(total=steps, desc="attack", delay=5, leave=False) as bar:
        for step in range(steps):
            y = place(z, origin, basis).requires_grad_()
            if step in snapshots:
                kept[step] = y.detach().clone()
            noise, t = draw(streams, seed, step if resample else 0, batch, x_0, low, high)
            slope, now = torch.zeros_like(y), torch.zeros(n).to(y)
            for mask in models:
                with nullcontext() if mask is None else pruned(pipe, mask):
                    for part in torch.arange(n).split(per_pass):
                        loss = denoising_loss(pipe.unet, x_0[part], y[part], noise[part], t[part], alphas) / len(models)
                        slope += torch.autograd.grad(loss.sum() * scale, y)[0] / scale
                        now[part] += loss.detach()
            losses.append(now)
            if free is not None:
                slope *= free
            z.grad = slope if basis is None else slope.flatten(1) @ basis.T
            optimizer.step()
            if radius is not None:
                project(z, begin, radius)
            check_step(step, streams, losses[-1], z)
            bar.update()
    y = place(z, origin, basis)
    kept |= {step: y.clone() for step in snapshots if step == steps}
    found = Triggers(y, origin, torch.stack(losses, 1), kept, fingerprint(pipe))
    moved = found.displacement / origin.flatten(1).norm(dim=1).clamp(min=torch.finfo(y.dtype).tiny)
    if (least := moved.min()) < STILL:
        what = f"the attack moved the embedding of target {streams[moved.argmin()]} by {least:.0e} of its length"
        warnings.warn(f"{what}, which is nothing: raise lr or radius, or let other positions move", stacklevel=3)
    return found


def check_step(step: int, streams, losses, y) -> None:
    """Raise FloatingPointError, naming step and target, unless this step's loss and what it made of y are finite."""
    with torch.no_grad():
        bad = ~(losses.isfinite() & y.flatten(1).isfinite().all(1))
    if bad.any():
        target = streams[bad.nonzero()[0].item()]
        raise FloatingPointError(
            f"the attack's loss is not finite in step {step}, for target {target}; use a lower lr, or a U-Net in fp32"
        )


def starts(pipe, prompts, start: str, seed: int, streams, dtype) -> torch.Tensor:
    """y⁽⁰⁾ of each target, [N, L, D], in `dtype`: given and drawn embeddings are not rounded to the U-Net's."""
    if start not in STARTS:
        raise ValueError(f"start is {', '.join(map(repr, STARTS))}; got {start!r}")
    if start == "prompt" and prompts is None:
        raise ValueError("start='prompt' needs prompts: one for each target, or one for all")
    n = len(streams)
    if isinstance(prompts, torch.Tensor):
        y = embed(pipe, prompts).detach().to(pipe.unet.device, dtype)
        check_finite(y, "starting embedding")
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
    length = y.shape[1]
    positions = [
        check_count("a position", place, 0, length - 1) for place in check_list("positions", positions, "tokens")
    ]
    if not positions:
        raise ValueError(f"there are no positions; give at least one from 0 to {length - 1}, or None for all")
    free = torch.zeros(length, 1, dtype=y.dtype, device=y.device)
    free[positions] = 1
    return free


def directions(y: torch.Tensor, k, free, seed: int) -> torch.Tensor | None:
    """k orthonormal directions of [L, D], or of its `free` positions [L, 1], that belong to `seed`; None for all."""
    if k is None:
        return None
    where = torch.ones_like(y[0], dtype=torch.bool) if free is None else free.bool().expand_as(y[0])
    k = check_count("subspace", k, 1, size := int(where.sum()))
    drawn = torch.randn(size, k, generator=generator(seed, "subspace", k), dtype=torch.float64)
    basis = y.new_zeros(k, y[0].numel())
    basis[:, where.flatten()] = torch.linalg.qr(drawn).Q.T.to(y)
    return basis


@torch.no_grad()
def place(z: torch.Tensor, origin: torch.Tensor, basis) -> torch.Tensor:
    """The embeddings [N, L, D] at z: z itself, or the origin moved by z's coordinates [N, k]."""
    return z.detach().clone() if basis is None else origin + (z @ basis).view_as(origin)


@torch.no_grad()
def project(z, begin, radius: float) -> None:
    """Bring z back into the ball ‖z − begin‖₂ ≤ radius, each target by itself."""
    move = z - begin
    norm = move.flatten(1).norm(dim=1).clamp(min=torch.finfo(z.dtype).tiny)
    z.copy_(begin + move * (radius / norm).clamp(max=1).reshape(-1, *[1] * (z.ndim - 1)))


def check_band(band, total: int) -> tuple[int, int]:
    if band is None:
        return 0, total
    if not hasattr(band, "__len__") or len(band) != 2:
        raise ValueError(f"band={band!r} must be two whole numbers (low, high), the first and one past the last t")
    low = check_count("band's low end", band[0], 0, total - 1)
    return low, check_count("band's high end", band[1], low + 1, total)
