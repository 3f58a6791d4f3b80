"""Value neurons ranked for one caption, and the highest of them: by the loss, by any other score, or at random.

    scores = loss_rises(pipe, models.encode(pipe, image[None]), "a memorized caption")
    mask = masks.of_neurons(pipe.unet, highest(scores, 192))

A neuron is what `nemo` calls one: an output feature of a cross-attention value layer. NeMo ranks neurons by how unusual
their activation is (`nemo.z_scores`) and never looks at the picture. The ranking by the loss is ours: integrated
gradients (Sundararajan et al. 2017), as Dai et al. 2022 used them for neurons of language models.
"""

from collections.abc import Mapping

import torch

from .checks import check_count, check_seed
from .diffusion import alphas_cumprod, denoising_loss, draw
from .hooks import edited
from .models import check_latents, conditions
from .nemo import layers, one_caption

BATCH = 8  # noises in one pass
POINTS = (0.9, 0.7, 0.5, 0.3, 0.1)  # gates on the way from open to shut: midpoints of five equal parts


def loss_rises(
    pipe, x_0, prompt, *, which: str = "sixteen", batches: int = 4, seed: int = 0, stream: str = ""
) -> dict[str, torch.Tensor]:
    """Each neuron's share in the rise of a picture's denoising loss when all of them are blocked: {layer: [out]}.

    x_0 [1, C, h, w] is the picture's latent, `prompt` its caption or an embedding [1, L, D]. A neuron's output is
    scaled by a gate g; all gates go from 1 to 0 together, and the share is the integral of −∂L/∂g on the way, so that
    the shares sum to the rise (up to the midpoint rule). L is the mean over `batches` times eight keyed noises and
    timesteps. At g = 1 alone the slope says little: what one neuron does, others do
    as well.

    `which` layers: "seven" or "sixteen". Raises ValueError for several pictures or captions, and for bad input.
    """
    batches, seed = check_count("batches", batches), check_seed(seed)
    y, alphas = one_caption(conditions(pipe, prompt)), alphas_cumprod(pipe)
    check_latents(pipe, x_0)
    if len(x_0) != 1:
        raise ValueError(f"the neurons of one picture are ranked at a time; got {len(x_0)} latents")
    x_0, alphas, searched = x_0.to(y), alphas.to(y), layers(pipe.unet, which)
    rises = {name: torch.zeros(layer.out_features).to(y) for name, layer in searched.items()}
    for point in POINTS:
        gates = {name: torch.full_like(rise, point).requires_grad_() for name, rise in rises.items()}
        with edited(pipe.unet, {name: (lambda v, gate=gate: v * gate) for name, gate in gates.items()}):
            for step in range(batches):
                noise, t = draw([stream], seed, step, BATCH, x_0, 0, len(alphas))
                with torch.enable_grad():
                    [loss] = denoising_loss(pipe.unet, x_0, y, noise, t, alphas)
                    slopes = torch.autograd.grad(loss, [*gates.values()])
                for rise, slope in zip(rises.values(), slopes, strict=True):
                    rise -= slope / (batches * len(POINTS))
    return rises


def highest(scores: Mapping[str, torch.Tensor], count: int) -> dict[str, list[int]]:
    """The `count` neurons of the highest `scores` {layer: [out]}, over all layers together: {layer: ascending indices}.

    Of equal ones the earlier comes first. Raises ValueError for no scores, NaN, or more neurons than there are.
    """
    if not isinstance(scores, Mapping) or not scores or not all(isinstance(s, torch.Tensor) for s in scores.values()):
        raise ValueError("scores are a dict {layer: tensor [out]}; nemo.z_scores and neurons.loss_rises make such")
    flat = torch.cat([s.detach().flatten().double().cpu() for s in scores.values()])
    if flat.isnan().any():
        raise ValueError("some scores are NaN; rank what is a number")
    best = set(flat.argsort(descending=True, stable=True)[: check_count("count", count, 0, len(flat))].tolist())
    found, first = {}, 0
    for name, s in scores.items():
        found[name] = [k for k in range(s.numel()) if first + k in best]
        first += s.numel()
    return found
