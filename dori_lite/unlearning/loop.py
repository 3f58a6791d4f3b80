"""The one loop of unlearning: retained pictures on one side, wrong answers for those that are to go on the other.

    state = {"y": embed(pipe, captions)[:, None]}  # [targets, n, L, D]: what wrong answers come with
    for step, losses in forgetting(pipe, retained, wrong, state, steps=100, lr=1e-4, folder="runs/unlearned"):
        if step % 25 == 24:
            state["y"].copy_(attacked(pipe))  # against the model as it is now

The loss is the paper's (*Finding DoRI*, as public notes have it): ‖ε − ε_θ(z_t, t, y_cap)‖² over retained pairs plus
‖ε − ε_θ(x̃_t, t, y)‖² over surrogates x̃, with equal weights. All weights of the U-Net are trained; y is constant.
"""

from collections.abc import Iterator

import torch

from ..checks import check_count, check_list, check_pipe, check_seed
from ..diffusion import alphas_cumprod, denoising_loss, draw, generator
from ..fit import training
from ..models import check_latents, embed

BATCH = (24, 8)  # retained samples and wrong answers of an update; either side's mean counts alike in the loss
BETAS = (0.9, 0.95)  # a short memory for squared gradients: they jump whenever the triggers are new


class Forget(torch.nn.Module):
    """The loss of a batch: the mean of retained samples plus that of wrong answers; one may be missing."""

    def __init__(self, pipe):
        super().__init__()
        self.unet = pipe.unet
        self.register_buffer("alphas", alphas_cumprod(pipe), persistent=False)

    def forward(self, latents, embeddings, noise, timesteps, wrong):
        each = denoising_loss(self.unet, latents, embeddings, noise[:, None], timesteps[:, None], self.alphas)
        sides = {"retained": each[~wrong], "wrong": each[wrong]}
        means = {name: some.mean() for name, some in sides.items() if len(some)}
        return {"loss": sum(means.values()), **{name: mean.detach() for name, mean in means.items()}}


def forgetting(
    pipe, retained, wrong, state: dict, *, steps: int, lr: float, folder, batch=BATCH, seed: int = 0, **options
) -> Iterator[tuple[int, dict]]:
    """Train the U-Net of `pipe`, in fp32, for `steps`; after each, yield its number (from 0) and its losses.

    `retained` are pairs to keep, latents [R, C, h, w] and embeddings [R, L, D], `wrong` the surrogates' latents
    [targets, n, C, h, w], and `state["y"]` the embeddings [targets, m, L, D] that they come with: the loop's body may
    change these. Either side may be None. A step takes `batch` samples, of this and of that side; targets take turns,
    all else belongs to (`seed`, step). The rate is constant; the other `options`, the checkpoints in `folder` and the
    way on after an interruption are those of `fit.training`; processes that share a run train each for itself. Raises
    ValueError for neither side, for latents and embeddings that do not fit the model or each other, and as `training`
    does.
    """
    seed, batch = check_seed(seed), [check_count("batch", n) for n in check_list("batch", batch, "two counts")]
    if len(batch) != 2:
        raise ValueError(f"batch={batch} is not two counts; give how many are retained, and how many answered wrongly")
    check_sides(pipe, retained, wrong, state)
    total = pipe.scheduler.config.num_train_timesteps
    draws = batches(retained, wrong, state, batch, seed, total)
    options = {"betas": BETAS, "weight_decay": 0.01, "label": "unlearning", **options}
    options |= {"schedule": "constant", "ema_decay": None, "precision": "no", "state": state, "alone": True}
    before = [parameter.requires_grad for parameter in pipe.unet.parameters()]
    pipe.unet.requires_grad_(True)
    try:
        yield from training(Forget(pipe), draws, steps=steps, lr=lr, folder=folder, **options)
    finally:
        for parameter, trained in zip(pipe.unet.parameters(), before, strict=True):
            parameter.requires_grad_(trained)


def check_sides(pipe, retained, wrong, state) -> None:
    """Raise ValueError unless both sides fit the model, which is in fp32 or wider, and each other."""
    check_pipe(pipe)
    if pipe.unet.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"the U-Net is {str(pipe.unet.dtype)[6:]}; train it in fp32: pipe.to(dtype=torch.float32)")
    if retained is None and wrong is None:
        raise ValueError("there is nothing to retain and nothing to answer wrongly; give one side at least")
    if retained is not None:
        latents, y = retained
        check_latents(pipe, latents)
        if len(embed(pipe, y)) != len(latents):
            raise ValueError(f"{len(y)} embeddings for {len(latents)} retained pictures; give one for each")
    if wrong is not None:
        if getattr(wrong, "ndim", 0) != 5 or not wrong.numel():
            got = [*getattr(wrong, "shape", ())]
            raise ValueError(f"surrogates have shape {got}; give latents [targets, n, C, h, w]")
        check_latents(pipe, wrong.flatten(0, 1))
        y = state.get("y")
        if getattr(y, "ndim", 0) != 4 or len(y) != len(wrong) or not y.shape[1]:
            got = [*getattr(y, "shape", ())]
            raise ValueError(f'state["y"] has shape {got}; give embeddings [{len(wrong)}, m, L, D], of each target')
        embed(pipe, y.flatten(0, 1))


def batches(retained, wrong, state: dict, batch, seed: int, total: int = 1000):
    """The function batch(step) that `fit.training` takes; `state["y"]` is read when it is called."""

    def draws(step: int) -> dict:
        random, sides, (right, n) = generator(seed, "unlearning", step), [], batch
        if retained is not None:
            k = torch.randint(len(retained[0]), (right,), generator=random)
            sides.append((retained[0][k], retained[1][k], torch.zeros(right, dtype=torch.bool)))
        if wrong is not None:
            target = (torch.arange(n) + step * n) % len(wrong)
            k, m = (torch.randint(most, (n,), generator=random) for most in (wrong.shape[1], state["y"].shape[1]))
            sides.append((wrong[target, k], state["y"][target, m], torch.ones(n, dtype=torch.bool)))
        x_0, y, which = (torch.cat([part.cpu() for part in parts]) for parts in zip(*sides, strict=True))
        noise, t = draw(["unlearning"], seed, step, len(x_0), x_0, 0, total)
        return {"latents": x_0, "embeddings": y, "noise": noise[0], "timesteps": t[0], "wrong": which}

    return draws
