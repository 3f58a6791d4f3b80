"""How a memory forms: what one twin draws for its canaries at nine moments of its training.

    follow(task, batch, folder, **options)  # trains, and writes folder/growth-0375.safetensors and the like

Only pictures are kept, not the models.
"""

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from .. import files
from ..diffusion import generate
from ..fit import CHECKPOINT, fit
from . import plan

WHOSE, SEEDS = "twin-a", 4
MOMENTS = (0, 188, 375, 750, 1125, 1500, 2000, 2500)  # steps; the ninth is the twin itself
SAMPLING = {"guidance": 5.0, "steps": 25, "batch": 32}  # `world.SAMPLING`, which is not known to training


def follow(task, batch, folder, stop_at=None, **options) -> None:
    """Train up to each of `MOMENTS` and draw what the averaged weights give there; each picture is drawn once."""
    items = [item for item in plan.planted() if item.role == "canary" and item.home == WHOSE[-1]]
    for step in MOMENTS:
        path = folder / f"growth-{step:04d}.safetensors"
        if path.exists() or (stop_at is not None and step > stop_at):
            continue
        if step:
            fit(task, batch, folder=folder, stop_at=step, **options)
            averaged(task, folder / CHECKPOINT)
        [pipe] = task.pipe
        pipe.to("cuda" if torch.cuda.is_available() else "cpu")
        captions = [item.caption for item in items for _ in range(SEEDS)]
        images = generate(pipe, captions, seeds=list(range(SEEDS)) * len(items), **SAMPLING)
        images = (images.cpu() * 255).round().byte().unflatten(0, (len(items), SEEDS))
        with files.whole(path) as partial:
            save_file({"images": images.contiguous()}, partial)


@torch.no_grad()
def averaged(task, checkpoint) -> None:
    """Give `task` the averaged weights of a checkpoint; training reads its own again from there."""
    with safe_open(checkpoint, "pt") as file:
        for k, weight in enumerate(p for p in task.parameters() if p.requires_grad):
            weight.copy_(file.get_tensor(f"ema.{k}"))
