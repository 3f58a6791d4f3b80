"""What "Break the pruned model" compares with: the answers written out plainly, seeded inputs, and a toy U-Net.

    weight, norms, base = layer(seed=1, calls=3)
    right = plain_mask(weight, norms, base, share=0.2, among="row")
    loss, gradient = plain_loss(OnePicture(), *case(seed=2, samples=5), weight="one")

The toy knows a single picture, so that a check of an attack takes no time; what is graded are the twins.
"""

from functools import cache
from types import SimpleNamespace

import torch

from ..reef.networks import new_scheduler

BUDGET = 200  # noisy latents that an attack may show to a U-Net: 25 steps of 8


@cache
def schedule() -> torch.Tensor:
    """The same, not to be changed."""
    return new_scheduler().alphas_cumprod


def alphas() -> torch.Tensor:
    """ᾱ of the reef's models, [1000]."""
    return schedule().clone()


# ---- answers written out ------------------------------------------------------------------------------


def plain_mask(weight, norms, base, share: float, among: str) -> torch.Tensor:
    """Wanda's choice: bool [out, in] of a weight [out, in], norms and base [calls, in]; calls are united."""
    found = torch.zeros(weight.shape, dtype=torch.bool)
    for n, n_empty in zip(norms, base, strict=True):
        scores = weight.abs() * n
        groups = scores if among == "row" else scores.flatten()[None]
        places = groups.sort(dim=1, descending=True).indices[:, : int(share * groups.shape[1])]
        top = torch.zeros(groups.shape, dtype=torch.bool).scatter(1, places, True).reshape(scores.shape)
        found |= top & (n > n_empty)
    return found


def plain_loss(unet, x_0, y, noise, t, alphas, weight: str):
    """DoRI's loss, a mean over samples one by one, and its gradient [1, L, D]."""
    y, losses = y.detach().clone().requires_grad_(), []
    for one, time in zip(noise, t, strict=True):
        kept = alphas[time]
        guess = unet((kept**0.5 * x_0 + (1 - kept) ** 0.5 * one[None]), time[None], y).sample
        counts = {"one": 1.0, "alpha": kept, "one minus alpha": 1 - kept}[weight]
        losses.append(counts * ((guess - one[None]) ** 2).mean())
    loss = sum(losses) / len(losses)
    return loss.detach(), torch.autograd.grad(loss, y)[0]


def plain_found(own, twin, lead: float, over_noises: str) -> bool:
    """Is own's gain, at any number of steps, `lead` beyond the twin's? Curves [steps, noises]."""
    middle = {"mean": lambda c: c.mean(1), "median": lambda c: c.quantile(0.5, dim=1)}[over_noises]
    gains = [middle(curve) - middle(curve)[0] for curve in (own, twin)]
    return bool((gains[0] - gains[1] >= lead).any())


# ---- what they are given --------------------------------------------------------------------------------


def layer(seed: int, calls: int = 1, size=(6, 39)):
    """A layer's weight and norms as `wanda_mask` gets them. No two scores are alike, some norms are."""
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(size, generator=random)
    norms = torch.rand(calls, size[1], generator=random) + 0.5
    base = torch.rand(calls, size[1], generator=random) + 0.5
    base[:, ::4] = norms[:, ::4]  # what the caption does not excite at all
    return weight, norms, base


class OnePicture(torch.nn.Module):
    """A toy U-Net, called as diffusers' is, that draws one picture: some numbers of the embedding, and their signs.

    `seen` are the noisy latents that it was shown, with their timesteps.
    """

    def __init__(self, seed: int = 0):
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self.register_buffer("places", torch.randperm(28 * 128, generator=random)[: 4 * 16 * 16])
        self.register_buffer("signs", torch.randn(4 * 16 * 16, generator=random).sign())
        self.config = SimpleNamespace(in_channels=4, sample_size=16, cross_attention_dim=128)
        self.dtype, self.device, self.seen = torch.float32, torch.device("cpu"), []

    def forward(self, sample, timestep, encoder_hidden_states, return_dict: bool = True, **_):
        t = torch.as_tensor(timestep).expand(len(sample))
        if len(encoder_hidden_states) != len(sample):
            raise ValueError(f"{len(sample)} latents and {len(encoder_hidden_states)} embeddings; give as many: expand")
        self.seen += zip(sample.detach().clone(), t.tolist(), strict=True)
        kept = schedule()[t][:, None, None, None]
        drawn = (encoder_hidden_states.flatten(1)[:, self.places] * self.signs).view_as(sample)
        guess = (1 - kept).sqrt() * (sample - kept.sqrt() * drawn)
        return SimpleNamespace(sample=guess) if return_dict else (guess,)


def case(seed: int, samples: int):
    """x_0 [1, 4, 16, 16], y [1, 28, 128], noise and t of some samples, and ᾱ: what `dori_loss` gets."""
    random = torch.Generator().manual_seed(seed)
    x_0, y = torch.randn(1, 4, 16, 16, generator=random), torch.randn(1, 28, 128, generator=random)
    noise = torch.randn(samples, 4, 16, 16, generator=random)
    return x_0, y, noise, torch.randint(50, 950, (samples,), generator=random), alphas()


def near(a, b, tolerance: float = 1e-3) -> bool:
    """Do two tensors of one shape differ by less than a share of the second?"""
    a, b = torch.as_tensor(a).detach().double(), torch.as_tensor(b).detach().double()
    return a.shape == b.shape and bool((a - b).norm() <= tolerance * b.norm())


def curves(seed: int, count: int, lead: float, over_noises: str):
    """Pairs of curves [count, steps, noises] for `found`, half of them found; none within 0.02 of the lead."""
    random, kept = torch.Generator().manual_seed(seed), {True: [], False: []}
    while min(map(len, kept.values())) < -(-count // 2):
        ends = torch.rand(4, generator=random) * torch.tensor([0.6, 0.8, 0.4, 0.8])
        pace = torch.rand(2, generator=random) * 3 + 0.3
        at = torch.linspace(0, 1, 6)[:, None]
        pair = []
        for k in range(2):
            curve = ends[2 * k] + (ends[2 * k + 1] - ends[2 * k]) * at ** pace[k]
            wild = (torch.rand(6, 5, generator=random) < 0.12) * torch.randn(6, 5, generator=random) * 0.6
            pair.append(curve + 0.05 * torch.randn(6, 5, generator=random) + wild)
        answers = {plain_found(*pair, lead + off, over_noises) for off in (-0.02, 0.02)}
        if len(answers) == 1:
            kept[answers.pop()].append(torch.stack(pair))
    pairs = [pair for two in zip(kept[True], kept[False], strict=False) for pair in two][:count]
    return torch.stack(pairs)[torch.randperm(count, generator=random)].unbind(1)
